"""The layers of ``native``: convolutions and batch norms of K networks on a CPU, with their gradients."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from harness import compiler
from harness.lowering import Geometry, from_rows, to_rows

ROUNDING = 1e-5
"""What a result may be off, relative to the largest, to be taken for right."""

_state = {"wanted": True}


@contextmanager
def kernels_wanted(wanted: bool) -> Iterator[None]:
    """Whether the kernels are used, for a while."""
    before = _state["wanted"]
    _state["wanted"] = wanted
    try:
        yield
    finally:
        _state["wanted"] = before


def in_use(device: str, dtype: torch.dtype) -> bool:
    """Whether the kernels do the work of a stack: on a CPU and in float32, where they are wanted and can be had."""
    return device == "cpu" and dtype == torch.float32 and _state["wanted"] and not why_not()


@lru_cache(maxsize=1)
def why_not() -> str:
    """Why there are no kernels that give right results, in a line; empty where there are."""
    try:
        compiler.load()
    except compiler.NoKernelsError as error:
        return str(error)
    return "" if all(map(_is_right, GEOMETRIES)) and _normalizes() else "the compiled kernels give wrong results"


GEOMETRIES = {
    Geometry((3, 3), (2, 2), (1, 1), (5, 6), (3, 3)): (87, 37),
    Geometry((3, 3), (1, 1), (1, 1), (2, 2), (2, 2)): (22, 5),
    Geometry((3, 3), (2, 2), (1, 1), (4, 4), (2, 2)): (16, 1),
    Geometry((3, 3), (2, 2), (1, 1), (4, 5), (2, 3)): (21, 3),
    Geometry((3, 3), (2, 2), (1, 1), (12, 13), (6, 7)): (9, 6),
}
"""What the kernels are tried on before they are used, each of their ways: with channels of the small and the large side."""

IMAGES = 26
"""Of each: more than they take at once."""


@torch.enable_grad()
def _is_right(geometry: Geometry) -> bool:
    """Whether both ways of a convolution and the gradient of its weights are torch's."""
    random = torch.Generator().manual_seed(0)
    narrow, wide = GEOMETRIES[geometry]
    large = torch.randn(IMAGES, wide, *geometry.large, generator=random)
    small = torch.randn(IMAGES, narrow, *geometry.small, generator=random)
    weight = torch.randn(1, narrow, wide, *geometry.kernel, generator=random)
    leaf, more = weight[0].double().requires_grad_(), geometry.output_padding
    down = functional.conv2d(large.double(), leaf, None, geometry.stride, geometry.padding)
    up = functional.conv_transpose2d(small.double(), leaf, None, geometry.stride, geometry.padding, more)
    (gradient,) = torch.autograd.grad((down * small).sum(), leaf)  # of a number: for others torch loads its compiler's algebra
    return (
        _is_near(_convolve(large, weight, None, geometry, False), down)
        and _is_near(_convolve(large, weight, None, geometry, False, True), down.relu())
        and _is_near(_convolve(small, weight, None, geometry, True), up)
        and _is_near(_convolve(small, weight, None, geometry, True, True), up.relu())
        and _is_near(_weight_gradient(large, small, weight, geometry)[0], gradient)
    )


@torch.enable_grad()
def _normalizes() -> bool:
    """Whether a batch norm and its gradient are torch's."""
    rows = torch.randn(300, 23, generator=torch.Generator().manual_seed(0)).requires_grad_()
    doubled, weight, bias = rows.detach().double().requires_grad_(), torch.linspace(1, 2, 23), torch.linspace(-1, 1, 23)
    found = normalize_compiled(rows, weight[None], bias[None], 1e-5, True)[0]
    right = functional.batch_norm(doubled, None, None, weight.double(), bias.double(), True).relu()
    (gradient,) = torch.autograd.grad(found.square().sum(), rows)
    return _is_near(found, right) and _is_near(gradient, torch.autograd.grad(right.square().sum(), doubled)[0])


def _is_near(found: Tensor, right: Tensor) -> bool:
    return bool((found - right).abs().max() <= ROUNDING * right.abs().max())


def convolve_compiled(
    maps: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, transposed: bool, rectified: bool = False
) -> Tensor:
    """Convolves each member's maps with that member's weight; arguments and result as of ``convolutions.convolve``."""
    return cast(Tensor, _Convolve.apply(maps, weight, bias, geometry, transposed, rectified))


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, maps: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, transposed: bool, rectified: bool
    ) -> Tensor:
        maps = _channels_last(maps)
        result = _convolve(maps, weight, bias, geometry, transposed, rectified)
        context.save_for_backward(maps, weight, result if rectified else None)
        context.geometry, context.transposed = geometry, transposed
        return result

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None, None]:
        (maps, weight, result), geometry, transposed = context.saved_tensors, context.geometry, context.transposed
        gradient = _channels_last(gradients[0])
        if result is not None:
            gradient = torch.ops.aten.threshold_backward(gradient, result, 0)
        to_maps = to_weight = to_bias = None
        if context.needs_input_grad[0]:
            to_maps = _convolve(gradient, weight, None, geometry, not transposed)
        if context.needs_input_grad[1]:
            large, small = (gradient, maps) if transposed else (maps, gradient)
            to_weight = _weight_gradient(large, small, weight, geometry)
        if context.needs_input_grad[2]:
            to_bias = gradient.permute(0, 2, 3, 1).reshape(len(weight), -1, gradient.shape[1]).sum(dim=1)
        return to_maps, to_weight, to_bias, None, None, None


def _convolve(maps: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, up: bool, rectified: bool = False) -> Tensor:
    _check(maps, weight, geometry, is_small=up)
    maps, weight = _channels_last(maps), _small_side_last(weight)
    channels, size = (weight.shape[1], geometry.large) if up else (weight.shape[4], geometry.small)
    if bias is not None and tuple(bias.shape) != (len(weight), channels):
        raise ValueError(f"a bias {tuple(bias.shape)} does not fit {len(weight)} networks of {channels} channels")
    bias = None if bias is None else bias.contiguous()
    result = torch.empty(len(maps), channels, *size, memory_format=torch.channels_last)
    sizes = _sizes(len(weight), len(maps) // len(weight), weight.shape[4], weight.shape[1], geometry)
    floor = ctypes.c_float(0 if rectified else -math.inf)
    _has_memory(compiler.load().harness_convolve(_at(result), _at(maps), _at(weight), _at(bias), floor, sizes, int(up)))
    return result


def _weight_gradient(large: Tensor, small: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    _check(large, weight, geometry, is_small=False)
    _check(small, weight, geometry, is_small=True)
    members, small_channels, large_channels, *kernel = weight.shape
    large, small = _channels_last(large), _channels_last(small)
    result = torch.empty(members, large_channels, *kernel, small_channels)
    sizes = _sizes(members, len(large) // members, small_channels, large_channels, geometry)
    _has_memory(compiler.load().harness_weight_gradient(_at(result), _at(large), _at(small), sizes))
    return result.permute(0, 4, 1, 2, 3)


def normalize_compiled(maps: Tensor, weight: Tensor, bias: Tensor, eps: float, rectified: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm in training mode of maps (K * B, C, ...) with weights (K, C), and ReLU after it where ``rectified``.

    Returns:
        The result, of the same shape, and mean and biased variance, (K, C), which have no gradient.
    """
    return cast(tuple[Tensor, Tensor, Tensor], _Normalize.apply(maps, weight, bias, eps, rectified))


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, maps: Tensor, weight: Tensor, bias: Tensor, eps: float, rectified: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        _check_kind(maps, weight, bias)
        if weight.shape != bias.shape or weight.shape[1:] != maps.shape[1:2] or len(maps) % len(weight):
            raise ValueError(f"a batch norm with weights {tuple(weight.shape)} does not fit maps {tuple(maps.shape)}")
        rows, weight, bias = to_rows(maps, len(weight)).contiguous(), weight.contiguous(), bias.contiguous()
        result, mean, variance = torch.empty_like(rows), torch.empty_like(weight), torch.empty_like(weight)
        pointers = (_at(each) for each in (result, mean, variance, rows, weight, bias))
        compiler.load().harness_normalize(*pointers, ctypes.c_float(eps), *_counts(rows), int(rectified))
        output = from_rows(result, maps.shape)
        context.save_for_backward(rows, weight, bias, mean, variance, output if rectified else None)
        context.mark_non_differentiable(mean, variance)
        context.set_materialize_grads(False)
        context.eps, context.rectified = eps, rectified
        return output, mean, variance

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor | None) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        rows, weight, bias, mean, variance, _ = context.saved_tensors  # the last for the error where it is changed, as elsewhere
        if gradients[0] is None:
            return None, None, None, None, None
        gradient = to_rows(gradients[0], len(weight)).contiguous()
        gradient_of_rows, to_weight, to_bias = torch.empty_like(rows), torch.empty_like(weight), torch.empty_like(weight)
        pointers = (_at(each) for each in (gradient_of_rows, to_weight, to_bias, gradient, rows, weight, bias, mean, variance))
        eps, rectified = ctypes.c_float(context.eps), int(context.rectified)
        compiler.load().harness_normalize_gradients(*pointers, eps, *_counts(rows), rectified)
        return from_rows(gradient_of_rows, gradients[0].shape), to_weight, to_bias, None, None


def _has_memory(code: int) -> None:
    if code:
        raise MemoryError("no memory for what the kernels lay out")


def _check(maps: Tensor, weight: Tensor, geometry: Geometry, is_small: bool) -> None:
    """The kernels go by the sizes that they are told, whatever there is."""
    members, small, large, *kernel = weight.shape
    expected = (small, *geometry.small) if is_small else (large, *geometry.large)
    if tuple(maps.shape[1:]) != expected or len(maps) % members or tuple(kernel) != geometry.kernel:
        raise ValueError(f"weights {tuple(weight.shape)} do not fit maps {tuple(maps.shape)}: their sides are {geometry}")
    _check_kind(maps, weight)


def _check_kind(*tensors: Tensor) -> None:
    for each in tensors:
        if each.device.type != "cpu" or each.dtype != torch.float32:
            raise ValueError(f"the kernels are for float32 on a CPU, not for {each.dtype} on {each.device}")


def _channels_last(maps: Tensor) -> Tensor:
    return maps.contiguous(memory_format=torch.channels_last)


def _small_side_last(weight: Tensor) -> Tensor:
    """(K, S, L, height, width) as (K, L, height, width, S)."""
    return weight.permute(0, 2, 3, 4, 1).contiguous()


def _at(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _counts(rows: Tensor) -> Iterator[ctypes.c_int64]:
    return map(ctypes.c_int64, rows.shape)


@lru_cache(maxsize=1024)
def _sizes(members: int, images: int, small_channels: int, large_channels: int, geometry: Geometry) -> Any:
    """In the order of the kernels' own ``Sizes``."""
    values = (members, images, small_channels, large_channels, *(side for pair in geometry for side in pair))
    return (ctypes.c_int64 * len(values))(*values)
