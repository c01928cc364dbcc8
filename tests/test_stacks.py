"""A stack does what its members do alone: contracts over the architectures, the layers with a twin, and those without."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness import models
from harness.config import TrialConfig
from harness.models import ARCHITECTURES, resolve
from harness.optimizers import StackedAdam
from harness.stacks import TWINS, OneByOne, StackedConvolution, Twin, member_state, stack, stack_states

BATCH = 6
ROUNDING = 2e-5
"""What a number may be off, in units of the largest of its tensor: batch norms pass the rounding of float32 on."""

SIZES = (3, 5, 2)
SHAPES = [(1, 8, 8), (3, 7, 9)]


def autoencoders(architecture: str, shape: models.Shape, sizes: tuple[int, ...] = SIZES) -> list[nn.Module]:
    """Members of different seeds and latent sizes."""
    small = {"width": 4} if "width" in ARCHITECTURES[architecture].defaults else {}
    configs = [
        resolve(replace(TrialConfig(architecture=architecture, latent_size=size, seed=seed), **small))
        for seed, size in enumerate(sizes)
    ]
    return [models.build(shape, config) for config in configs]


def random_like(*shape: int) -> Tensor:
    """Numbers in [0, 1], the same for the same shape."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def assert_close(one: Tensor, other: Tensor, name: str = "", largest: float = 0.0, rounding: float = ROUNDING) -> None:
    """No value is further off than rounding, in units of the largest: of the tensor, or of what it is a part of."""
    assert one.shape == other.shape, name
    largest = largest or max(float(other.abs().max()), 1e-3)
    assert float((one.double() - other.double()).abs().max()) <= rounding * largest, name


def weighted(outputs: Tensor) -> Tensor:
    """A loss of one member's outputs whose gradient is another at every place."""
    return (outputs * torch.linspace(-1, 1, outputs.numel()).view(outputs.shape)).sum()


def assert_stack_is_its_members(members: list[nn.Module], inputs: Tensor, net: nn.Module | None = None) -> nn.Module:
    """Outputs, gradients and buffers in training mode, and the outputs in evaluation mode after it; gives the stack."""
    net = stack(members) if net is None else net
    members = copy.deepcopy(members)
    for each in (net, *members):
        each.train()
    parts = net(inputs).chunk(len(members))
    for part, member, own in zip(parts, members, inputs.chunk(len(members)), strict=True):
        outputs = member(own)
        assert_close(part.detach(), outputs.detach(), "outputs in training mode")
        if outputs.requires_grad:
            weighted(outputs).backward()
    if any(part.requires_grad for part in parts):
        torch.stack([weighted(part) for part in parts]).sum().backward()
    for index, member in enumerate(members):
        assert_members_part(net, index, member)
    for each in (net, *members):
        each.eval()
    with torch.no_grad():
        alone = [member(own) for member, own in zip(members, inputs.chunk(len(members)), strict=True)]
        assert_close(net(inputs), torch.cat(alone), "outputs in evaluation mode")
    return net


def assert_members_part(net: nn.Module, index: int, member: nn.Module) -> None:
    """The member's weights, gradients and buffers; all that they are filled up with is zero.

    Gradients are measured against the largest of all: that of a bias before a batch norm is nothing but rounding.
    """
    own = dict(member.named_parameters())
    gradients = {name: each.grad for name, each in net.named_parameters() if each.grad is not None}
    assert gradients.keys() == {name for name, each in own.items() if each.grad is not None}
    largest = max((float(each.grad.abs().max()) for each in own.values() if each.grad is not None), default=0.0)
    for name, each in member_state(gradients, index, own).items():
        wanted = own[name].grad
        assert wanted is not None
        assert_close(each, wanted, f"gradient of {name}", largest)
        assert torch.count_nonzero(gradients[name][index]) == torch.count_nonzero(each), f"filled-up gradient of {name}"
    for name, each in member_state(net.state_dict(), index, member.state_dict()).items():
        assert_close(each, member.state_dict()[name], name)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_stack_of_every_architecture_is_its_members(architecture: str, shape: models.Shape) -> None:
    """Reconstructions, gradients and batch norms' statistics, in either mode, with a latent size of its own each."""
    assert_stack_is_its_members(autoencoders(architecture, shape), random_like(len(SIZES) * BATCH, *shape))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_encoder_and_decoder_of_a_stack_can_be_called_by_themselves(architecture: str) -> None:
    """Codes are as long as the longest, and zero where a member has none."""
    members = [member.eval() for member in autoencoders(architecture, (1, 8, 8))]
    net = stack(members).eval()
    images = random_like(len(SIZES) * BATCH, 1, 8, 8)
    with torch.no_grad():
        codes = net.encoder(images)
        assert codes.shape == (len(images), max(SIZES))
        for part, member, size, own in zip(codes.chunk(3), members, SIZES, images.chunk(3), strict=True):
            assert_close(part[:, :size], member.encoder(own))
            assert torch.count_nonzero(part[:, size:]) == 0
        assert_close(net.decoder(codes), net(images))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_stack_has_the_names_of_its_members_and_their_weights(architecture: str) -> None:
    """In the same order, with one more axis; taking the members out again gives the bits that went in."""
    members = autoencoders(architecture, (1, 8, 8))
    net = stack(members)
    assert [*net.state_dict()] == [*members[0].state_dict()]
    assert [name for name, _ in net.named_parameters()] == [name for name, _ in members[0].named_parameters()]
    for index, member in enumerate(members):
        own = member.state_dict()
        part = member_state(net.state_dict(), index, own)
        assert all(torch.equal(part[name], own[name]) for name in own)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_making_a_stack_leaves_its_members_alone(architecture: str) -> None:
    """What the stack learns is its own, and the members can still be called."""
    members = autoencoders(architecture, (1, 8, 8))
    before = copy.deepcopy(members)
    net = stack(members)
    with torch.no_grad():
        for each in net.parameters():
            each.add_(1)
    net(random_like(len(SIZES) * BATCH, 1, 8, 8))
    for member, other in zip(members, before, strict=True):
        assert all(torch.equal(member.state_dict()[name], tensor) for name, tensor in other.state_dict().items())
        assert_close(member(random_like(BATCH, 1, 8, 8)).detach(), other(random_like(BATCH, 1, 8, 8)).detach())


class Sigmoided(nn.Module):
    """Codes between 0 and 1: what a shorter code is filled up with is 1 / 2 then, not 0."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, size), nn.BatchNorm1d(size), nn.Sigmoid())
        self.decoder = nn.Sequential(nn.Linear(size, 64), nn.Unflatten(1, (1, 8, 8)))

    def forward(self, images: Tensor) -> Tensor:
        """Keeps the shape."""
        return self.decoder(self.encoder(images))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "sigmoided"])
def test_what_weights_are_filled_up_with_stays_zero(architecture: str, dtype: torch.dtype) -> None:
    """Exactly, in weights and in moments, after steps at a high rate."""
    members = [Sigmoided(size) for size in SIZES] if architecture == "sigmoided" else autoencoders(architecture, (1, 8, 8))
    net = stack(members, dtype)
    optimizer = StackedAdam(net, [0.1] * len(SIZES))
    images = random_like(len(SIZES) * BATCH, 1, 8, 8)
    for _ in range(4):
        optimizer.zero_grad()
        functional.mse_loss(net(images), images, reduction="sum").backward()
        optimizer.step(1.0)
    kinds = [dict(net.named_parameters())]
    kinds += [dict(zip(kinds[0], each, strict=True)) for each in (optimizer.averages, optimizer.squares)]
    for tensors in kinds:
        for index, member in enumerate(members):
            for name, part in member_state(tensors, index, dict(member.named_parameters())).items():
                assert torch.count_nonzero(tensors[name][index]) == torch.count_nonzero(part), name


class Scaled(nn.Module):
    """A parameter and a buffer of its own, beside a layer that it calls."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(6))
        self.register_buffer("offset", torch.rand(6))
        self.inner = nn.Linear(6, 6)

    def forward(self, rows: Tensor) -> Tensor:
        """Keeps the shape."""
        return self.inner(rows * self.scale + self.offset)


class Nested(nn.Module):
    """Layers with and without a twin, in a list, with a gap."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Scaled(), nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6)), Scaled()])
        self.register_module("nothing", None)

    def forward(self, rows: Tensor) -> Tensor:
        """Keeps the shape."""
        for layer in self.layers:
            rows = rows + layer(rows)
        return rows


def tied() -> nn.Module:
    """Two layers with one weight."""
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    second.weight = first.weight
    return nn.Sequential(first, nn.Tanh(), second)


def repeated() -> nn.Module:
    """One layer, one norm and one activation, twice each."""
    layer, norm, activation = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU()
    return nn.Sequential(layer, norm, activation, layer, norm, activation)


def frozen() -> nn.Module:
    """A layer that is not trained before one that is."""
    return nn.Sequential(nn.Linear(6, 6).requires_grad_(False), nn.LayerNorm(6).requires_grad_(False), nn.Linear(6, 2))


class Picked(nn.Sequential):
    """Calls its layers in an order of its own."""

    def forward(self, rows: Tensor) -> Tensor:
        """Keeps the shape."""
        normal = self[0](rows)
        return normal + self[1](normal)


MADE_UP: dict[str, Callable[[], nn.Module]] = {
    "layer norm": lambda: nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.ReLU()),
    "group norm": lambda: nn.Sequential(nn.Linear(6, 6), nn.GroupNorm(2, 6)),
    "learned slope": lambda: nn.Sequential(nn.Linear(6, 6), nn.PReLU(), nn.Linear(6, 1)),
    "convolution in one dimension": lambda: nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Conv1d(2, 4, 2), nn.BatchNorm1d(4)),
    "normalized weight": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)),
    "own parameter": Scaled,
    "nested": Nested,
    "tied weights": tied,
    "the same layers twice": repeated,
    "frozen layers": frozen,
    "another order": lambda: Picked(nn.BatchNorm1d(6), nn.ReLU()),
    "norm that learns nothing": lambda: nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6, affine=False)),
    "norm that keeps nothing": lambda: nn.BatchNorm1d(6, affine=False, track_running_stats=False),
    "norm without a moving average": lambda: nn.BatchNorm1d(6, momentum=None),
    "no bias": lambda: nn.Linear(6, 3, bias=False),
    "no weights": lambda: nn.Sequential(nn.Tanh(), nn.Softmax(dim=1)),
}


@pytest.mark.parametrize("kind", MADE_UP)
def test_a_stack_of_whatever_layers_is_its_members(kind: str) -> None:
    """With twins or without: outputs, gradients, buffers and names."""
    torch.manual_seed(0)
    members = [MADE_UP[kind]() for _ in range(3)]
    net = assert_stack_is_its_members(members, random_like(3 * BATCH, 6) - 0.5)
    assert [*net.state_dict()] == [*members[0].state_dict()]
    assert [name for name, _ in net.named_parameters()] == [name for name, _ in members[0].named_parameters()]


CONVOLUTIONS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Conv2d(4, 2, 3, 2, 1),
    "no bias": lambda: nn.Conv2d(4, 2, 3, bias=False),
    "other columns than rows": lambda: nn.Conv2d(4, 2, (3, 1), (1, 2), (1, 0)),
    "kernel of 5, gaps": lambda: nn.Conv2d(4, 2, 5, 3, 2),
    "transposed": lambda: nn.ConvTranspose2d(4, 2, 3, 2, 1, output_padding=1),
    "transposed, kernel of 1": lambda: nn.ConvTranspose2d(4, 2, 1),
    "transposed, not padded": lambda: nn.ConvTranspose2d(4, 2, 4, 3, bias=False),
}
REFUSED: dict[str, Callable[[], nn.Module]] = {
    "groups": lambda: nn.Conv2d(4, 4, 3, groups=2),
    "dilation": lambda: nn.Conv2d(4, 2, 3, dilation=2),
    "transposed groups": lambda: nn.ConvTranspose2d(4, 4, 3, groups=2),
    "transposed dilation": lambda: nn.ConvTranspose2d(4, 2, 3, dilation=2),
    "reflected": lambda: nn.Conv2d(4, 2, 3, padding=1, padding_mode="reflect"),
    "circular": lambda: nn.Conv2d(4, 2, 3, padding=1, padding_mode="circular"),
    "padding by name": lambda: nn.Conv2d(4, 2, 3, padding="same"),
    "norm without a moving average": lambda: nn.BatchNorm2d(4, momentum=None),
    "norm that learns nothing": lambda: nn.BatchNorm2d(4, affine=False),
    "norm that keeps nothing": lambda: nn.BatchNorm2d(4, track_running_stats=False),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_every_convolution_with_a_twin_is_its_members(kind: str) -> None:
    """By the fast twin, also where sides come out odd."""
    torch.manual_seed(0)
    members = [CONVOLUTIONS[kind]() for _ in range(3)]
    net = assert_stack_is_its_members(members, random_like(3 * BATCH, 4, 5, 8) - 0.5)
    assert isinstance(net, StackedConvolution)


@pytest.mark.parametrize("rectified", [True, False])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_in_evaluation_a_convolution_takes_over_the_norm_after_it(kind: str, rectified: bool) -> None:
    """One affine map of statistics that are not 0 and 1: the members' outputs, and their gradients in training."""
    torch.manual_seed(0)
    members = []
    for _ in range(3):
        layer = cast(nn.Conv2d, CONVOLUTIONS[kind]())
        norm = nn.BatchNorm2d(layer.out_channels)
        for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            tensor.uniform_(0.5, 2.0)
        members.append(nn.Sequential(layer, norm, *([nn.ReLU()] if rectified else [])))
    net = assert_stack_is_its_members(members, random_like(3 * BATCH, 4, 5, 8) - 0.5)
    assert net[0].norms == [net[1]]


@pytest.mark.parametrize("kind", REFUSED)
def test_a_twin_refuses_what_it_cannot_do(kind: str) -> None:
    """The layer is called for each member instead, and the numbers are right."""
    torch.manual_seed(0)
    members = [REFUSED[kind]() for _ in range(3)]
    assert not TWINS[type(members[0])].takes(members[0])
    assert isinstance(assert_stack_is_its_members(members, random_like(3 * BATCH, 4, 6, 7) - 0.5), OneByOne)


@pytest.mark.parametrize("kind", TWINS)
def test_no_twin_takes_another_kind_of_layer(kind: type[nn.Module]) -> None:
    """A linear twin takes whatever it is asked for, the others look."""
    assert kind is nn.Linear or not TWINS[kind].takes(nn.ReLU())


@pytest.mark.parametrize("kind", ["layer norm", "own parameter"])
def test_a_layer_without_a_twin_refuses_members_of_different_sizes(kind: str) -> None:
    """What it would do with what they are filled up with is not known."""
    build = {"layer norm": nn.LayerNorm, "own parameter": lambda size: nn.PReLU(size)}[kind]
    with pytest.raises(ValueError, match="differ in size"):
        stack([nn.Sequential(nn.Linear(3, size), build(size)) for size in (4, 5)])


def test_a_twin_of_a_layer_of_ones_own_can_be_given() -> None:
    """For one call, without an entry in ``TWINS``."""

    class StackedScaled(Twin):
        @staticmethod
        def takes(layer: nn.Module) -> bool:
            return True

        def forward(self, rows: Tensor) -> Tensor:
            parts = rows.unflatten(0, (self.members, -1))
            parts = parts * self.get_parameter("scale").unsqueeze(1) + self.get_buffer("offset").unsqueeze(1)
            parts = parts @ self.get_parameter("weight").transpose(1, 2) + self.get_parameter("bias").unsqueeze(1)
            return parts.flatten(0, 1)

    class FlatScaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.weight = nn.Parameter(torch.rand(6)), nn.Parameter(torch.rand(4, 6))
            self.bias = nn.Parameter(torch.rand(4))
            self.register_buffer("offset", torch.rand(6))

        def forward(self, rows: Tensor) -> Tensor:
            return functional.linear(rows * self.scale + self.offset, self.weight, self.bias)

    torch.manual_seed(0)
    members: list[nn.Module] = [nn.Sequential(FlatScaled(), nn.ReLU()) for _ in range(3)]
    net = stack(members, twins={FlatScaled: StackedScaled})
    assert isinstance(net[0], StackedScaled)
    assert FlatScaled not in TWINS
    assert_stack_is_its_members(members, random_like(3 * BATCH, 6), net)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_less_precise_products_are_for_training_only(architecture: str) -> None:
    """In evaluation mode the bits are those of float32; in training they are others, within bfloat16's rounding."""
    members = autoencoders(architecture, (1, 8, 8))
    images = random_like(len(SIZES) * BATCH, 1, 8, 8)
    precise, coarse = stack(members), stack(members, torch.bfloat16)
    with torch.no_grad():
        one, other = precise.train()(images), coarse.train()(images)
        assert not torch.equal(one, other)
        assert other.dtype == torch.float32
        assert_close(other, one, rounding=0.1)
        coarse.load_state_dict(precise.state_dict())
        assert torch.equal(precise.eval()(images), coarse.eval()(images))


def test_the_members_states_and_the_stacks_state_are_two_forms_of_one() -> None:
    """Into one and out again are the same bits, whatever the sizes; what is filled up is zero."""
    random = torch.Generator().manual_seed(0)
    states = [{"a": torch.randn(2, size, generator=random), "b": torch.tensor(float(size))} for size in (3, 1, 2)]
    together = stack_states(states)
    assert {name: tuple(tensor.shape) for name, tensor in together.items()} == {"a": (3, 2, 3), "b": (3,)}
    assert together["a"][1, :, 1:].tolist() == [[0.0, 0.0], [0.0, 0.0]]
    for member, state in enumerate(states):
        again = member_state(together, member, state)
        assert again.keys() == state.keys()
        assert all(torch.equal(again[name], state[name]) for name in state)


def test_a_stack_of_one_is_its_member() -> None:
    """The smallest stack there is."""
    assert_stack_is_its_members(autoencoders("base", (1, 8, 8), (3,)), random_like(BATCH, 1, 8, 8))
