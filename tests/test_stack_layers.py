"""Layers of all kinds in a stack: with a twin, without one, and with one of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.stacks import TWINS, OneByOne, StackedConvolution, Twin, stack
from tests.stacking import (
    BATCH,
    assert_stack_is_its_members,
    random_like,
)


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
    "changed in place": lambda: nn.Sequential(
        nn.Linear(6, 6),
        nn.LeakyReLU(0.1, inplace=True),
        nn.BatchNorm1d(6),
        nn.ELU(inplace=True),
        nn.Linear(6, 4),
        nn.ReLU(inplace=True),
    ),
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


@pytest.mark.usefixtures("each_way")
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_every_convolution_with_a_twin_is_its_members(kind: str) -> None:
    """By the fast twin, also where sides come out odd."""
    torch.manual_seed(0)
    members = [CONVOLUTIONS[kind]() for _ in range(3)]
    net = assert_stack_is_its_members(members, random_like(3 * BATCH, 4, 5, 8) - 0.5)
    assert isinstance(net, StackedConvolution)


@pytest.mark.usefixtures("each_way")
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_what_a_convolution_and_a_norm_give_may_be_changed_in_place(kind: str) -> None:
    """By an activation that saves memory, as many are written."""
    torch.manual_seed(0)
    members: list[nn.Module] = []
    for _ in range(3):
        layer = cast(nn.Conv2d, CONVOLUTIONS[kind]())
        norm = nn.BatchNorm2d(layer.out_channels)
        members.append(nn.Sequential(layer, nn.LeakyReLU(0.1, inplace=True), norm, nn.ELU(inplace=True)))
    assert_stack_is_its_members(members, random_like(3 * BATCH, 4, 5, 8) - 0.5)


@pytest.mark.usefixtures("each_way")
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
