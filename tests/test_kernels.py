"""The compiled kernels: when they are used, and that they give what torch gives."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from harness import compiler, kernels
from harness.kernels import convolve_compiled, in_use, kernels_wanted, normalize_compiled
from harness.lowering import Geometry
from harness.numerics import computing_on
from harness.rules import UserError
from harness.stacks import stack
from tests.stacking import assert_close

pytestmark = [
    pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler"),
    pytest.mark.usefixtures("needs_kernels"),
]


def test_they_are_for_float32_on_a_cpu_and_while_they_are_wanted() -> None:
    """Also after an error inside."""
    assert in_use("cpu", torch.float32)
    assert not in_use("cuda", torch.float32)
    assert not in_use("cpu", torch.bfloat16)
    assert not in_use("cpu", torch.float64)
    with pytest.raises(ValueError, match="inside"), kernels_wanted(False):
        raise ValueError("inside" if not in_use("cpu", torch.float32) else "in use")
    with computing_on("cpu", "torch"):
        assert not in_use("cpu", torch.float32)
    with computing_on("cpu"):
        assert in_use("cpu", torch.float32)


def test_a_worker_without_them_computes_nothing_by_other_means(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers of a sweep are all made in one way; the line says what to do."""
    monkeypatch.setattr("harness.numerics.why_not", lambda: "there is no C++ compiler")
    with pytest.raises(UserError, match=r"there is no C\+\+ compiler.*--kernels torch"), computing_on("cpu", "compiled"):
        pass
    with computing_on("cpu", "torch"):
        assert not in_use("cpu", torch.float32)


@settings(max_examples=60)
@given(
    st.sampled_from([(13, 3, 2), (9, 3, 2), (2, 3, 1), (5, 4, 2), (4, 1, 1), (3, 5, 3)]),
    st.tuples(st.integers(1, 140), st.one_of(st.integers(1, 5), st.integers(1, 140))),
    st.sampled_from([1, 5, 19, 25, 49, 241]),
    st.booleans(),
    st.booleans(),
)
def test_a_convolution_of_any_channels_and_images_is_torch_s(
    sides: tuple[int, int, int], channels: tuple[int, int], images: int, transposed: bool, rectified: bool
) -> None:
    """In all blocks that channels and images are cut into, with and without a ReLU after it."""
    assert_is_torch_s(square(*sides), channels, images, transposed, rectified)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("channels", [(5, 1), (5, 7)])
def test_a_kernel_may_miss_the_map(channels: tuple[int, int], transposed: bool) -> None:
    """Where there is more padding than the kernel is wide, and room for one step."""
    assert_is_torch_s(Geometry((3, 3), (1, 9), (1, 4), (3, 1), (3, 1)), channels, 3, transposed)


def assert_is_torch_s(
    geometry: Geometry, channels: tuple[int, int], images: int, transposed: bool, rectified: bool = False
) -> None:
    """Values and gradients, in double precision by torch."""
    maps, weight, bias = operands(geometry, channels, images, transposed)
    result = convolve_compiled(maps, weight, bias, geometry, transposed, rectified)
    found = [result, *torch.autograd.grad(result.square().sum(), (maps, weight))]
    doubled = [each.detach().double().requires_grad_() for each in (maps, weight, bias)]
    more = {"output_padding": geometry.output_padding} if transposed else {}
    convolve = functional.conv_transpose2d if transposed else functional.conv2d
    parts = zip(doubled[0].chunk(2), doubled[1], doubled[2], strict=True)
    expected = torch.cat([convolve(*part, stride=geometry.stride, padding=geometry.padding, **more) for part in parts])
    expected = expected.relu() if rectified else expected
    gradients = torch.autograd.grad(expected.square().sum(), doubled[:2])
    for one, other in zip(found, (expected, *gradients), strict=True):
        assert_close(one.detach(), other.detach())


@pytest.mark.parametrize("geometry", kernels.GEOMETRIES)
@pytest.mark.parametrize("transposed", [False, True])
def test_what_is_not_a_number_stays_so(geometry: Geometry, transposed: bool) -> None:
    """A ReLU does not hide it: by it a trial is known to have failed."""
    maps, weight, bias = operands(geometry, kernels.GEOMETRIES[geometry], 3, transposed)
    maps.data[:] = torch.nan
    for rectified in (False, True):
        assert convolve_compiled(maps, weight, bias, geometry, transposed, rectified).isnan().all()


@pytest.mark.parametrize("sides", [(9, 3, 2), (2, 3, 1)], ids=str)
@pytest.mark.parametrize("transposed", [False, True])
def test_no_images_give_none(sides: tuple[int, int, int], transposed: bool) -> None:
    """And a gradient of zero."""
    geometry = square(*sides)
    maps, weight, bias = operands(geometry, (5, 1), 0, transposed)
    result = convolve_compiled(maps, weight, bias, geometry, transposed)
    assert result.shape == ((0, 1, *geometry.large) if transposed else (0, 5, *geometry.small))
    (gradient,) = torch.autograd.grad(result.sum(), weight)
    assert torch.count_nonzero(gradient) == 0


def square(side: int, kernel: int, stride: int) -> Geometry:
    """Of a square map with half the kernel as padding."""
    small = (side + 2 * (kernel // 2) - kernel) // stride + 1
    return Geometry((kernel,) * 2, (stride,) * 2, (kernel // 2,) * 2, (side,) * 2, (small,) * 2)


def operands(geometry: Geometry, channels: tuple[int, int], images: int, transposed: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Maps and weights of two networks, to be differentiated by, and biases."""
    narrow, wide = channels
    random = torch.Generator().manual_seed(images)
    sides = (narrow, *geometry.small) if transposed else (wide, *geometry.large)
    maps = torch.randn(2 * images, *sides, generator=random).requires_grad_()
    weight = torch.randn(2, narrow, wide, *geometry.kernel, generator=random).requires_grad_()
    return maps, weight, torch.randn(2, wide if transposed else narrow, generator=random)


MISFITS: dict[str, Callable[[], object]] = {
    "channels of a convolution": lambda: halved(torch.ones(4, 3, 5, 5)),
    "sides": lambda: halved(torch.ones(4, 4, 6, 5)),
    "images that are left over": lambda: halved(torch.ones(5, 4, 5, 5)),
    "double precision": lambda: halved(torch.ones(4, 4, 5, 5, dtype=torch.float64)),
    "bias": lambda: halved(torch.ones(4, 4, 5, 5), torch.ones(2, 7)),
    "channels of a norm": lambda: normalize_compiled(torch.ones(4, 16, 3, 3), torch.ones(2, 8), torch.ones(2, 8), 1e-5, True),
    "rows that are left over": lambda: normalize_compiled(torch.ones(5, 8), torch.ones(2, 8), torch.ones(2, 8), 1e-5, True),
}


def halved(maps: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution of two networks from 4 x 5 x 5 to 8 x 3 x 3."""
    return convolve_compiled(maps, torch.ones(2, 8, 4, 3, 3), bias, Geometry((3, 3), (2, 2), (1, 1), (5, 5), (3, 3)), False)


@pytest.mark.parametrize("misfit", MISFITS)
def test_what_does_not_fit_is_refused(misfit: str) -> None:
    """An architecture with a mistake is an error of its trial's, not one of the memory."""
    with pytest.raises(ValueError, match=r"not fit|for float32"):
        MISFITS[misfit]()


class AddsToItself(nn.Module):
    """Changes what a rectified norm gave, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU())

    def forward(self, maps: Tensor) -> Tensor:
        """Keeps the shape."""
        result: Tensor = self.block(maps)
        result += maps
        return result


@pytest.mark.usefixtures("each_way")
def test_a_change_in_place_that_would_spoil_a_gradient_is_an_error() -> None:
    """As torch has it: the gradient of a ReLU needs what came out of it."""
    net = stack([AddsToItself().train() for _ in range(2)])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        net(torch.randn(4, 2, 4, 4)).sum().backward()


def by_torch(maps: Tensor, weight: Tensor, bias: Tensor, rectified: bool, gradient: Tensor) -> list[Tensor]:
    """Torch's batch norm of each member in double precision: result, mean, variance and the gradients of the three."""
    members = len(weight)
    leaves = [each.double().requires_grad_() for each in (maps, weight, bias)]
    parts, means, variances = [], [], []
    for part, own_weight, own_bias in zip(leaves[0].chunk(members), leaves[1], leaves[2], strict=True):
        normal = nn.functional.batch_norm(part, None, None, own_weight, own_bias, training=True)
        parts.append(normal.relu() if rectified else normal)
        rows = part.movedim(1, -1).flatten(0, -2)
        means.append(rows.mean(dim=0))
        variances.append(rows.var(dim=0, correction=0))
    result = torch.cat(parts)
    return [
        each.detach()
        for each in (result, torch.stack(means), torch.stack(variances), *torch.autograd.grad(result, leaves, gradient.double()))
    ]


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("shape", [(3, 1, 5, 4), (2, 16, 7, 7), (40, 5, 9, 9), (6, 33), (300, 2, 1, 1)], ids=str)
def test_a_batch_norm_is_torch_s(shape: tuple[int, ...], rectified: bool) -> None:
    """Of maps and of rows, of more rows than are summed at once, whatever the channels; far from zero as well."""
    random = torch.Generator().manual_seed(len(shape))
    maps = torch.randn(3 * shape[0], *shape[1:], generator=random) * 2 + 30
    weight, bias = (torch.randn(3, shape[1], generator=random) for _ in range(2))
    gradient = torch.randn(maps.shape, generator=random)
    leaves = [each.clone().requires_grad_() for each in (maps, weight, bias)]
    result, mean, variance = normalize_compiled(*leaves, torch.finfo(torch.float32).eps, rectified)
    found = [result, mean, variance, *torch.autograd.grad(result, leaves, gradient)]
    expected = by_torch(maps, weight, bias, rectified, gradient)
    for name, one, other in zip(("result", "mean", "variance", "maps", "weight", "bias"), found, expected, strict=True):
        assert_close(one.detach(), other, name, rounding=1e-4 if name == "maps" else 2e-5)


@pytest.mark.parametrize("rectified", [False, True])
def test_what_is_not_finite_stays_so(rectified: bool) -> None:
    """A ReLU does not hide it, so that a trial that diverges is seen."""
    maps = torch.randn(6, 4, 3, 3)
    maps[0, 0] = torch.nan
    result, _, _ = normalize_compiled(maps, torch.ones(2, 4), torch.zeros(2, 4), 1e-5, rectified)
    assert result[:3, 0].isnan().all()
    assert not result[3:].isnan().any()
    assert not result[:, 1:].isnan().any()


def test_the_sizes_are_in_the_order_of_the_kernels_own() -> None:
    """A field more on either side would shift all after it."""
    names = "members images small_channels large_channels kernel_height kernel_width stride_height stride_width"
    names += " padding_height padding_width large_height large_width small_height small_width"
    declared = (compiler.FOLDER / "maps.hpp").read_text().partition("struct Sizes {")[2].partition("Index taps()")[0]
    found = [word.strip(" ,;") for word in declared.replace("Index", "").split() if word.strip(" ,;")]
    assert found == names.split()
    geometry = Geometry((1, 2), (3, 4), (5, 6), (7, 8), (9, 10))
    assert [*kernels._sizes(-4, -3, -2, -1, geometry)] == [-4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
