"""Every way to convolve a stack, against torch's own convolution of each member in double precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from harness import convolutions
from harness.convolutions import ALGORITHMS, Algorithm, convolve
from harness.kernels import why_not
from harness.lowering import Geometry, Patches, Whole, cut_patches, lay_patches, product

MEMBERS, BATCH, SMALL_CHANNELS = 3, 2, 4
ROUNDING = {torch.float32: 3e-6, torch.bfloat16: 2e-2}
"""What a value may be off, in units of the largest of its kind: bfloat16 has 8 significant bits, float32 has 24."""


def geometry_of(large: tuple[int, int], kernel: int, stride: int, padding: int | None = None) -> Geometry:
    """A square kernel on a large map, as ``nn.Conv2d`` counts; half the kernel as padding where none is given."""
    padding = kernel // 2 if padding is None else padding
    small = tuple((side + 2 * padding - kernel) // stride + 1 for side in large)
    return Geometry((kernel, kernel), (stride, stride), (padding, padding), large, (small[0], small[1]))


GEOMETRIES = {
    "even, halved": geometry_of((8, 8), 3, 2),
    "odd, halved": geometry_of((7, 9), 3, 2),
    "odd and even, halved": geometry_of((6, 5), 3, 2),
    "kept": geometry_of((5, 6), 3, 1),
    "kernel of 5, kept": geometry_of((5, 7), 5, 1),
    "kernel of 5, halved": geometry_of((4, 9), 5, 2),
    "kernel of 1": geometry_of((6, 5), 1, 1),
    "kernel of 1 with gaps": geometry_of((6, 7), 1, 2),
    "kernel larger than the map": geometry_of((2, 3), 5, 1),
    "2 x 2, kept": geometry_of((2, 2), 3, 1),
    "2 x 2 to 1 x 1": geometry_of((2, 2), 3, 2),
    "1 x 1": geometry_of((1, 1), 3, 1),
    "1 x 1, kernel of 1": geometry_of((1, 1), 1, 1),
    "2 x 2, kernel of 5": geometry_of((2, 2), 5, 2),
    "long": geometry_of((2, 11), 3, 2),
    "not padded": geometry_of((6, 8), 3, 1, padding=0),
    "rows and columns that nothing reaches": geometry_of((8, 9), 2, 3, padding=0),
    "even kernel": geometry_of((6, 7), 4, 2, padding=1),
    "other columns than rows": Geometry((3, 5), (1, 2), (1, 2), (5, 8), (5, 4)),
}


class Results(NamedTuple):
    """The result and the gradients, by what they are gradients of."""

    values: Tensor
    maps: Tensor
    weight: Tensor
    bias: Tensor | None


class Operands(NamedTuple):
    """What is convolved, and the gradient that comes back."""

    maps: Tensor
    weight: Tensor
    bias: Tensor | None
    gradient: Tensor


def operands_of(geometry: Geometry, transposed: bool, large_channels: int = 3, has_bias: bool = True) -> Operands:
    """Normal numbers of the right shapes."""
    random = torch.Generator().manual_seed(sum(geometry.large))
    sides = ((SMALL_CHANNELS, *geometry.small), (large_channels, *geometry.large))
    given_side, other = sides if transposed else sides[::-1]
    maps = torch.randn(MEMBERS * BATCH, *given_side, generator=random)
    weight = torch.randn(MEMBERS, SMALL_CHANNELS, large_channels, *geometry.kernel, generator=random)
    bias = torch.randn(MEMBERS, other[0], generator=random) if has_bias else None
    return Operands(maps, weight, bias, torch.randn(MEMBERS * BATCH, *other, generator=random))


def by_torch(operands: Operands, geometry: Geometry, transposed: bool) -> Results:
    """Torch's convolution, member by member, in double precision."""
    doubled = [None if each is None else each.double() for each in operands]
    maps, weight, bias, gradient = doubled
    assert maps is not None
    assert weight is not None
    leaves = [each.requires_grad_() for each in (maps, weight, bias) if each is not None]
    results = []
    for member, part in enumerate(maps.chunk(MEMBERS)):
        own = None if bias is None else bias[member]
        if transposed:
            more = [
                large - ((small - 1) * stride - 2 * padding + kernel)
                for kernel, stride, padding, large, small in zip(*geometry, strict=True)
            ]
            results.append(functional.conv_transpose2d(part, weight[member], own, geometry.stride, geometry.padding, more))
        else:
            results.append(functional.conv2d(part, weight[member], own, geometry.stride, geometry.padding))
    values = torch.cat(results)
    gradients = torch.autograd.grad(values, leaves, gradient)
    return Results(values.detach(), gradients[0], gradients[1], gradients[2] if bias is not None else None)


def algorithm(name: str) -> Algorithm:
    """One of the ``ALGORITHMS``; a test that asks for one that cannot be had is skipped."""
    if name == "compiled" and why_not():
        pytest.skip(why_not())
    return ALGORITHMS[name]


def by_algorithm(
    name: str, operands: Operands, geometry: Geometry, transposed: bool, dtype: torch.dtype = torch.float32
) -> Results:
    """The same by one of the ``ALGORITHMS``."""
    maps, weight, bias = (None if each is None else each.clone().requires_grad_() for each in operands[:3])
    assert maps is not None
    assert weight is not None
    values = algorithm(name)(maps, weight, bias, geometry, transposed, dtype)
    values.backward(operands.gradient)
    assert maps.grad is not None
    assert weight.grad is not None
    return Results(values.detach(), maps.grad, weight.grad, None if bias is None else bias.grad)


def distance(one: Tensor, other: Tensor) -> float:
    """The largest difference, in units of the largest value."""
    assert one.shape == other.shape
    return float((one.double() - other.double()).abs().max() / other.abs().max().clamp_min(1e-3))


def assert_close(results: Results, expected: Results, dtype: torch.dtype) -> None:
    """Values and all gradients are float32 and no further off than ``dtype`` rounds."""
    for name, one, other in zip(Results._fields, results, expected, strict=True):
        if one is None or other is None:
            assert one is other, name
        else:
            assert one.dtype == torch.float32, name
            assert distance(one, other) < ROUNDING[dtype], name


@pytest.mark.parametrize("dtype", list(ROUNDING), ids=str)
@pytest.mark.parametrize("transposed", [False, True], ids=["plain", "transposed"])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=list(GEOMETRIES))
@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_gives_what_torch_gives_each_member(
    name: str, geometry: Geometry, transposed: bool, dtype: torch.dtype
) -> None:
    """Values and the gradients of maps, weights and biases, for every size and in either direction."""
    operands = operands_of(geometry, transposed)
    expected = by_torch(operands, geometry, transposed)
    assert_close(by_algorithm(name, operands, geometry, transposed, dtype), expected, dtype)


@pytest.mark.parametrize("size", ["odd, halved", "2 x 2, kept"])
@pytest.mark.parametrize("transposed", [False, True], ids=["plain", "transposed"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_does_without_a_bias_and_with_a_single_channel(name: str, transposed: bool, size: str) -> None:
    """The same numbers, and no gradient where there is nothing to train."""
    geometry = GEOMETRIES[size]
    operands = operands_of(geometry, transposed, large_channels=1, has_bias=False)
    assert_close(by_algorithm(name, operands, geometry, transposed), by_torch(operands, geometry, transposed), torch.float32)


@pytest.mark.parametrize("size", ["even, halved", "2 x 2, kept"])
@pytest.mark.parametrize("transposed", [False, True], ids=["plain", "transposed"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_images_need_no_gradient(name: str, transposed: bool, size: str) -> None:
    """The weights of a first layer get the gradients that they get where its inputs are trained as well."""
    geometry = GEOMETRIES[size]
    operands = operands_of(geometry, transposed)
    weight = operands.weight.clone().requires_grad_()
    algorithm(name)(operands.maps, weight, operands.bias, geometry, transposed, torch.float32).backward(operands.gradient)
    assert weight.grad is not None
    assert not operands.maps.requires_grad
    assert distance(weight.grad, by_torch(operands, geometry, transposed).weight) < ROUNDING[torch.float32]


@pytest.mark.parametrize("size", ["odd and even, halved", "2 x 2, kept"])
@pytest.mark.parametrize("transposed", [False, True], ids=["plain", "transposed"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_layout_in_memory_does_not_matter(name: str, transposed: bool, size: str) -> None:
    """Maps, weights and gradients with their channels innermost give what others give."""
    geometry = GEOMETRIES[size]
    operands = operands_of(geometry, transposed)
    inner = operands._replace(
        maps=operands.maps.to(memory_format=torch.channels_last),
        weight=operands.weight.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3),
        gradient=operands.gradient.to(memory_format=torch.channels_last),
    )
    results = by_algorithm(name, inner, geometry, transposed)
    assert_close(results, by_torch(operands, geometry, transposed), torch.float32)


@pytest.mark.parametrize("size", ["even, halved", "2 x 2, kept"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_no_member_sees_another(name: str, size: str) -> None:
    """Numbers that are not finite stay in the member that has them."""
    geometry = GEOMETRIES[size]
    operands = operands_of(geometry, transposed=False)
    spoilt = operands._replace(weight=operands.weight.index_fill(0, torch.tensor([1]), float("nan")))
    clean, dirty = (by_algorithm(name, each, geometry, transposed=False) for each in (operands, spoilt))
    for member in (0, 2):
        part = slice(member * BATCH, (member + 1) * BATCH)
        assert torch.equal(dirty.values[part], clean.values[part])
        assert torch.equal(dirty.maps[part], clean.maps[part])
        assert torch.equal(dirty.weight[member], clean.weight[member])
    assert dirty.values[BATCH : 2 * BATCH].isnan().all()


@pytest.mark.usefixtures("each_way")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("transposed", [False, True], ids=["plain", "transposed"])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=list(GEOMETRIES))
def test_one_of_the_algorithms_is_chosen_for_every_size(geometry: Geometry, transposed: bool, device: str) -> None:
    """For few channels and for many, with gradients, and without for few images and for many."""
    for images in (0, 8, 5000):
        chosen = {convolutions.choose(geometry, (64, channels), transposed, device, images) for channels in (1, 3, 4, 64)}
        assert chosen <= ALGORITHMS.keys()


@pytest.mark.usefixtures("each_way")
@pytest.mark.parametrize("transposed", [False, True], ids=["plain", "transposed"])
@pytest.mark.parametrize("side", [2, 4, 8, 14])
@pytest.mark.parametrize("channels", [1, 5])
def test_whatever_is_chosen_gives_what_torch_gives(channels: int, side: int, transposed: bool) -> None:
    """On both sides of every limit of the choice, and with a ReLU after it."""
    geometry = geometry_of((side, side), 3, 2)
    operands = operands_of(geometry, transposed, large_channels=channels)
    expected = by_torch(operands, geometry, transposed).values
    assert distance(convolve(*operands[:3], geometry, transposed, torch.float32), expected) < ROUNDING[torch.float32]
    rectified = convolve(*operands[:3], geometry, transposed, torch.float32, rectified=True)
    assert distance(rectified, expected.relu()) < ROUNDING[torch.float32]


@pytest.mark.usefixtures("each_way")
@pytest.mark.parametrize("transposed", [False, True], ids=["plain", "transposed"])
@pytest.mark.parametrize("side", [4, 8])
@pytest.mark.parametrize("channels", [1, 5])
def test_many_images_without_gradients_give_what_few_give(
    channels: int, side: int, transposed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another algorithm is chosen for them, whose numbers are the same."""
    geometry = geometry_of((side, side), 3, 2)
    operands = operands_of(geometry, transposed, large_channels=channels)
    expected = convolve(*operands[:3], geometry, transposed, torch.float32)
    monkeypatch.setattr(convolutions, "MANY_IMAGES", 1)
    with torch.no_grad():
        values = convolve(*operands[:3], geometry, transposed, torch.float32)
    assert distance(values, expected) < ROUNDING[torch.float32]


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Any sizes that a convolution takes."""
    axes = []
    for _ in range(2):
        kernel, stride, padding = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(0, 5))
        large = draw(st.integers(max(1, kernel - 2 * padding), 9))
        axes.append((kernel, stride, padding, large, (large + 2 * padding - kernel) // stride + 1))
    return Geometry(*zip(*axes, strict=True))


@settings(max_examples=60)
@given(geometries())
def test_cutting_and_laying_patches_are_adjoint(geometry: Geometry) -> None:
    """<P x, y> = <x, P* y> for all x and y."""
    random = torch.Generator().manual_seed(0)
    maps = torch.randn(2, *geometry.large, 3, generator=random, dtype=torch.float64)
    patches = cut_patches(maps, geometry)
    others = torch.randn(patches.shape, generator=random, dtype=torch.float64)
    one, other = (patches * others).sum(), (maps * lay_patches(others, geometry)).sum()
    assert float(one) == pytest.approx(float(other), rel=1e-10, abs=1e-10)


@settings(max_examples=60)
@given(geometries(), st.booleans(), st.sampled_from(list(ALGORITHMS)))
def test_any_size_is_convolved_as_torch_does(geometry: Geometry, transposed: bool, name: str) -> None:
    """Also with strides longer than the kernel and paddings wider than it."""
    operands = operands_of(geometry, transposed)
    assert_close(by_algorithm(name, operands, geometry, transposed), by_torch(operands, geometry, transposed), torch.float32)


@settings(max_examples=60)
@given(geometries(), st.sampled_from([Patches, Whole]))
def test_what_comes_back_from_matrices_is_the_adjoint_of_what_went_in(
    geometry: Geometry, kind: type[Patches] | type[Whole]
) -> None:
    """<A x, y> = <x, A* y> for the maps of both sides and for the weights: what the gradients by hand rest on."""
    operands, lowering = operands_of(geometry, transposed=False), kind(geometry, MEMBERS)
    small = torch.randn(MEMBERS * BATCH, SMALL_CHANNELS, *geometry.small, generator=torch.Generator().manual_seed(0))
    pairs = (
        (operands.maps, lowering.large_rows, lowering.large_maps),
        (small, lowering.small_rows, lowering.small_maps),
        (operands.weight, lowering.matrices, lowering.weights),
    )
    for given_tensor, there, back in pairs:
        assert_adjoint(given_tensor.double(), there, back)


def assert_adjoint(given_tensor: Tensor, there: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]) -> None:
    """<A x, y> = <x, A* y>."""
    laid_out = there(given_tensor)
    others = torch.randn(laid_out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    one, other = (laid_out * others).sum(), (given_tensor * back(others)).sum()
    assert float(one) == pytest.approx(float(other), rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("dtype", list(ROUNDING), ids=str)
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_product_is_that_of_each_member_s_matrix(has_bias: bool, dtype: torch.dtype) -> None:
    """Result and gradients, in double precision by torch, member by member."""
    random = torch.Generator().manual_seed(0)
    left, right = torch.randn(3, 5, 4, generator=random), torch.randn(3, 6, 4, generator=random)
    bias = torch.randn(3, 6, generator=random) if has_bias else None
    gradient = torch.randn(3, 5, 6, generator=random)
    leaves = [each.clone().requires_grad_() for each in (left.flatten(0, 1), right, bias) if each is not None]
    result = product(leaves[0], leaves[1], leaves[2] if has_bias else None, dtype)
    result.backward(gradient.flatten(0, 1))
    expected = [left[k].double() @ right[k].double().T + (bias[k] if bias is not None else 0) for k in range(3)]
    to_left = (gradient.double() @ right.double()).flatten(0, 1)
    to_right = gradient.double().transpose(1, 2) @ left.double()
    assert distance(result.detach(), torch.cat(expected)) < ROUNDING[dtype]
    for leaf, each in zip(leaves, (to_left, to_right, gradient.double().sum(dim=1)), strict=False):
        assert leaf.grad is not None
        assert leaf.grad.dtype == torch.float32
        assert distance(leaf.grad, each) < ROUNDING[dtype]
