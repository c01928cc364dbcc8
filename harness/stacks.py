"""K networks of one kind as one network. To give a kind of layer a fast twin: an entry in ``TWINS`` below.

A stack has the structure and the names of its members, every parameter and buffer with a leading axis K. Its activations
are (K * B, ...), the members one after the other, so that the code of every module without weights, and of every module
that only calls others, runs on a stack as it stands; only layers with weights need to know of the members, and a layer
without a twin is called once for each. Members may differ in the sizes of their weights (latent sizes do): smaller ones are
filled up with zeros, which stay zero.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from harness.convolutions import convolve
from harness.groups import SMALL_IMAGE
from harness.kernels import in_use, normalize_compiled
from harness.lowering import Geometry, Pair, from_rows, product, to_rows


class Twin(nn.Module):
    """A layer of a stack: the weights of all members under the names that the layer has them by."""

    def __init__(self, layers: Sequence[nn.Module], dtype: torch.dtype) -> None:
        super().__init__()
        self.members, self.dtype = len(layers), dtype
        for name, _ in layers[0].named_parameters():
            self.register_parameter(name, _parameter([layer.get_parameter(name) for layer in layers]))
        for name, _ in layers[0].named_buffers():
            self.register_buffer(name, _stacked([layer.get_buffer(name) for layer in layers]))

    def operands(self) -> torch.dtype:
        """The type of products' operands: what was asked for in training, float32 in evaluation."""
        return self.dtype if self.training else torch.float32


class StackedLinear(Twin):
    """Of ``nn.Linear``."""

    @staticmethod
    def takes(layer: nn.Module) -> bool:
        """Any."""
        return True

    def forward(self, inputs: Tensor) -> Tensor:
        """(K * B, I) to (K * B, O)."""
        bias = cast(Tensor | None, self._parameters.get("bias"))
        return product(inputs, self.get_parameter("weight"), bias, self.operands())


class StackedConvolution(Twin):
    """Of ``nn.Conv2d`` and ``nn.ConvTranspose2d``."""

    def __init__(self, layers: Sequence[nn.Module], dtype: torch.dtype) -> None:
        super().__init__(layers, dtype)
        layer = cast(nn.Conv2d, layers[0])
        self.transposed = isinstance(layer, nn.ConvTranspose2d)
        self.kernel, self.stride = cast(Pair, layer.kernel_size), cast(Pair, layer.stride)
        self.padding, self.output_padding = cast(Pair, layer.padding), cast(Pair, layer.output_padding)
        weight = self.get_parameter("weight")
        weight.data = weight.data.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3)  # small side innermost
        self.norms: list[StackedBatchNorm] = []  # in a list: not a child, its weights keep their own names

    @staticmethod
    def takes(layer: nn.Module) -> bool:
        """Without groups and dilation, with a padding of zeros that is given as a number."""
        if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            return False
        is_plain = layer.groups == 1 and tuple(layer.dilation) == (1, 1) and layer.padding_mode == "zeros"
        return is_plain and not isinstance(layer.padding, str)

    def forward(self, maps: Tensor) -> Tensor:
        """(K * B, C, H, W) to (K * B, C', H', W')."""
        weight: Tensor = self.get_parameter("weight")
        bias = cast(Tensor | None, self._parameters.get("bias"))
        norms = [] if self.training else self.norms
        for norm in norms:
            weight, bias = self._normalized(weight, bias, norm)
        geometry, rectified = self._geometry((maps.shape[2], maps.shape[3])), any(norm.rectified for norm in norms)
        return convolve(maps, weight, bias, geometry, self.transposed, self.operands(), rectified)

    def _normalized(self, weight: Tensor, bias: Tensor | None, norm: StackedBatchNorm) -> tuple[Tensor, Tensor]:
        """Weight and bias of the convolution and the batch norm after it as the one affine map that they are in evaluation."""
        scale, shift = norm.affine()
        per_channel = scale[:, None, :] if self.transposed else scale[:, :, None]
        return weight * per_channel[..., None, None], shift if bias is None else torch.addcmul(shift, bias, scale)

    def _geometry(self, size: Pair) -> Geometry:
        along = zip(size, self.kernel, self.stride, self.padding, self.output_padding, strict=True)
        if self.transposed:
            height, width = ((given - 1) * step - 2 * pad + kernel + more for given, kernel, step, pad, more in along)
            return Geometry(self.kernel, self.stride, self.padding, (height, width), size)
        height, width = ((given + 2 * pad - kernel) // step + 1 for given, kernel, step, pad, _ in along)
        return Geometry(self.kernel, self.stride, self.padding, size, (height, width))


class StackedBatchNorm(Twin):
    """Of ``nn.BatchNorm1d`` and ``nn.BatchNorm2d``: statistics for each member and channel."""

    def __init__(self, layers: Sequence[nn.Module], dtype: torch.dtype) -> None:
        super().__init__(layers, dtype)
        layer = cast(nn.BatchNorm2d, layers[0])
        self.eps, self.momentum = layer.eps, cast(float, layer.momentum)
        self.rectified = self.folded = False

    @staticmethod
    def takes(layer: nn.Module) -> bool:
        """With weights and a moving average."""
        if not isinstance(layer, nn.modules.batchnorm._BatchNorm):
            return False
        return layer.affine and layer.track_running_stats and layer.momentum is not None

    def forward(self, maps: Tensor) -> Tensor:
        """Keeps the shape (K * B, C, ...)."""
        if self.folded and not self.training:
            return maps
        weight, bias = self.get_parameter("weight"), self.get_parameter("bias")
        if self.training:
            normalize = normalize_compiled if in_use(maps.device.type, maps.dtype) else _normalize
            normal, mean, variance = normalize(maps, weight, bias, self.eps, self.rectified)
            self._follow(mean, variance, maps.numel() // mean.numel())
            return normal
        scale, shift = (each.unsqueeze(1) for each in self.affine())
        normal = from_rows(torch.addcmul(shift, to_rows(maps, self.members), scale), maps.shape)
        return normal.relu_() if self.rectified else normal

    def affine(self) -> tuple[Tensor, Tensor]:
        """What it is in evaluation: the scale and the shift of every member's channels, (K, C)."""
        scale = self.get_parameter("weight") * (self.get_buffer("running_var") + self.eps).rsqrt()
        return scale, self.get_parameter("bias") - self.get_buffer("running_mean") * scale

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        self.get_buffer("running_mean").lerp_(mean, self.momentum)
        self.get_buffer("running_var").lerp_(variance * (count / (count - 1)), self.momentum)
        self.get_buffer("num_batches_tracked").add_(1)


def _normalize(maps: Tensor, weight: Tensor, bias: Tensor, eps: float, rectified: bool) -> tuple[Tensor, Tensor, Tensor]:
    """As ``kernels.normalize_compiled``, on any device."""
    return cast(tuple[Tensor, Tensor, Tensor], _Normalize.apply(maps, weight, bias, eps, rectified))


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, maps: Tensor, weight: Tensor, bias: Tensor, eps: float, rectified: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows = to_rows(maps, len(weight))
        mean = rows.mean(dim=1, keepdim=True)
        normal = rows - mean
        variance = normal.square().mean(dim=1, keepdim=True)
        inverse = (variance + eps).rsqrt()
        normal *= inverse
        result = torch.addcmul(bias.unsqueeze(1), normal, weight.unsqueeze(1))
        if rectified:
            result.relu_()
        output = from_rows(result, maps.shape)
        context.save_for_backward(normal, weight, inverse, output if rectified else None)  # autograd sees what changes it
        mean, variance = mean.squeeze(1), variance.squeeze(1)
        context.mark_non_differentiable(mean, variance)
        context.set_materialize_grads(False)
        return output, mean, variance

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor | None) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        normal, weight, inverse, output = context.saved_tensors
        if gradients[0] is None:
            return None, None, None, None, None
        gradient = to_rows(gradients[0], len(weight))
        if output is not None:
            gradient = torch.ops.aten.threshold_backward(gradient, to_rows(output, len(weight)), 0)
        to_bias = gradient.sum(dim=1, keepdim=True)
        to_weight = (gradient * normal).sum(dim=1, keepdim=True)
        scale = weight.unsqueeze(1) * inverse
        count = normal.shape[1]
        gradient_of_rows = (gradient * scale).sub_(scale * to_bias / count).addcmul_(normal, scale * to_weight / count, value=-1)
        return from_rows(gradient_of_rows, gradients[0].shape), to_weight.squeeze(1), to_bias.squeeze(1), None, None


class OneByOne(nn.Module):
    """Of any layer: calls it for each member, which is right for every kind of one size and fast for none."""

    def __init__(self, layers: Sequence[nn.Module], dtype: torch.dtype) -> None:
        super().__init__()
        self.members = len(layers)
        if len({tuple(tensor.shape for tensor in layer.state_dict().values()) for layer in layers}) > 1:
            raise ValueError(f"{type(layers[0]).__name__} has no twin, and its members differ in size: train them one by one")
        layer = copy.deepcopy(layers[0])
        self.__dict__["layer"] = layer  # not as a child: its weights are this module's own, under their own names
        for path, module in layer.named_modules():
            own = [other.get_submodule(path) for other in layers]
            for name, _ in module.named_parameters(recurse=False):
                module._parameters[name] = _parameter([getattr(each, name) for each in own])
            for name, _ in module.named_buffers(recurse=False):
                module._buffers[name] = _stacked([getattr(each, name) for each in own])
        self._modules, self._parameters, self._buffers = layer._modules, layer._parameters, layer._buffers

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs and outputs with the members along the first axis."""
        layer: nn.Module = self.__dict__["layer"]
        layer.train(self.training)
        weights = dict(layer.named_parameters()) | dict(layer.named_buffers())
        parts = inputs.chunk(self.members)
        outputs = [
            torch.func.functional_call(layer, {name: each[member] for name, each in weights.items()}, (part,))
            for member, part in enumerate(parts)
        ]
        return torch.cat(outputs)


class TwinClass(Protocol):
    """A fast twin of a kind of layer."""

    def __call__(self, layers: Sequence[nn.Module], dtype: torch.dtype) -> nn.Module:
        """The twin of K layers."""

    def takes(self, layer: nn.Module) -> bool:
        """Whether it can stand for this one."""


def stack(members: Sequence[nn.Module], dtype: torch.dtype = torch.float32, twins: Mapping[type, TwinClass] | None = None) -> Any:
    """Makes one network of K networks of the same structure.

    Args:
        members: On one device.
        dtype: Of the operands of products while it trains; everything else is float32.
        twins: Twins for layers that are not in ``TWINS``.

    Returns:
        A module with the members' structure and names; inputs and outputs (K * B, ...), the members one after the other.
    """
    net = _stack(members, dtype, TWINS | dict(twins or {}))
    _share(net, members[0])
    return net


def _stack(members: Sequence[nn.Module], dtype: torch.dtype, twins: Mapping[type, TwinClass]) -> nn.Module:
    first = members[0]
    twin = twins.get(type(first))
    if twin is not None and twin.takes(first):
        return twin(members, dtype)
    if first._parameters or first._buffers:  # also where all of them are None, as in a batch norm that learns nothing
        return OneByOne(members, dtype)
    shell = copy.copy(first)
    children = {
        name: None if child is None else _stack([member.get_submodule(name) for member in members], dtype, twins)
        for name, child in first._modules.items()
    }
    shell._modules = _fused(children) if type(first) is nn.Sequential else children
    return shell


def _share(net: nn.Module, member: nn.Module) -> None:
    """What a member has under several names, such as a weight that two layers share, is one thing in the stack as well."""
    named = [*member.named_parameters(remove_duplicate=False), *member.named_buffers(remove_duplicate=False)]
    first_names: dict[int, str] = {}
    for name, tensor in named:
        first = first_names.setdefault(id(tensor), name)
        if first != name:
            (owner, own), (other, others) = (_owner(net, path) for path in (name, first))
            for kind in ("_parameters", "_buffers"):
                if own in getattr(owner, kind):
                    getattr(owner, kind)[own] = getattr(other, kind)[others]


def _owner(net: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, own = name.rpartition(".")
    return net.get_submodule(path), own


def _fused(layers: dict[str, nn.Module | None]) -> dict[str, nn.Module | None]:
    """Leaves the ReLU after a batch norm to the batch norm, and the batch norm after a convolution, in evaluation, to that."""
    for before, name in pairwise(layers):
        first, second = layers[before], layers[name]
        if isinstance(first, StackedConvolution) and isinstance(second, StackedBatchNorm):
            first.norms, second.folded = [second], True
        if isinstance(first, StackedBatchNorm) and type(second) is nn.ReLU:
            first.rectified = True
            layers[name] = nn.Identity()
    return layers


def member_state(stacked: Mapping[str, Tensor], member: int, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One member's part of tensors by name, cut to the shapes that it has as a network of its own."""
    return {name: tensor[member][tuple(slice(size) for size in like[name].shape)] for name, tensor in stacked.items()}


def lend_weights(net: nn.Module, members: Sequence[nn.Module]) -> None:
    """Has each member's own network use the stack's weights and statistics: what trains the stack trains them all."""
    tensors = dict([*net.named_parameters(), *net.named_buffers()])
    for index, member in enumerate(members):
        own = dict([*member.named_parameters(), *member.named_buffers()])
        for name, lent in member_state({name: tensors[name] for name in own}, index, own).items():
            own[name].data = lent.data


def is_faster_apart(inputs: Tensor) -> bool:
    """Whether one member after the other is evaluated sooner on inputs (N, ...) than all at once.

    Torch's convolutions on a CPU are sooner done where what a layer makes of a few hundred large images stays in the cache for
    the next one, as one member's does. Codes (N, d) are small, and those of a stack are filled up to one size, which no member
    alone would take.
    """
    is_large = inputs.dim() > 2 and inputs[0].numel() > SMALL_IMAGE
    return is_large and inputs.device.type == "cpu" and not in_use("cpu", inputs.dtype)


def stack_states(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors of all members by name, (K, ...), smaller ones filled up with zeros: the inverse of ``member_state``."""
    return {name: _stacked([state[name] for state in states]) for name in states[0]}


def _parameter(tensors: Sequence[Tensor]) -> nn.Parameter:
    """Tensors as one parameter, frozen where they are; what smaller ones are filled up with is not trained."""
    parameter = nn.Parameter(_stacked(tensors), tensors[0].requires_grad)
    if parameter.requires_grad and len({tensor.shape for tensor in tensors}) > 1:
        filled = _stacked([torch.ones_like(tensor) for tensor in tensors])
        parameter.register_hook(lambda gradient: gradient * filled)
    return parameter


@torch.no_grad()
def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    largest = [max(sizes) for sizes in zip(*(tensor.shape for tensor in tensors), strict=True)]
    result = tensors[0].new_zeros(len(tensors), *largest)
    for place, tensor in zip(result, tensors, strict=True):
        place[tuple(slice(size) for size in tensor.shape)] = tensor
    return result


TWINS: dict[type, TwinClass] = {
    nn.Linear: StackedLinear,
    nn.Conv2d: StackedConvolution,
    nn.ConvTranspose2d: StackedConvolution,
    nn.BatchNorm1d: StackedBatchNorm,
    nn.BatchNorm2d: StackedBatchNorm,
}
