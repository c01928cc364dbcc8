"""The convolutions of K networks at once, in several ways that give the same numbers. To add one: an entry in ``ALGORITHMS``.

A stack's maps are (K * B, C, H, W), the members one after the other. A convolution leads from large maps to small ones; the
transposed convolution with the same weight is its adjoint and leads back, so that each way needs to know one geometry only.
Weights are (K, S, L, kernel, kernel), with S channels on the small side and L on the large one, as torch has them for both.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional

Pair = tuple[int, int]

SMALL_MAP, SMALL_MAP_OF_FEW = 16, 64
"""Positions up to which patches of all members at once beat a convolution for each member on a CPU; the latter where the
large map has ``FEW_CHANNELS`` at the most, as images have. Torch's own transposed convolution to so few is always slower."""

FEW_CHANNELS = 3

MANY_IMAGES = 256
"""Of each member, from which on a CPU copies of patches no longer stay in its cache: where no gradients are wanted, torch's own
convolution is then the faster one, and on the way back to large maps the matrix."""


class Geometry(NamedTuple):
    """Sizes of a convolution: heights before widths."""

    kernel: Pair
    stride: Pair
    padding: Pair
    large: Pair
    small: Pair

    @property
    def output_padding(self) -> Pair:
        """What the transposed convolution needs to come back to the large map's very size."""
        return tuple(  # type: ignore[return-value]
            large - ((small - 1) * stride - 2 * padding + kernel)
            for kernel, stride, padding, large, small in zip(*self, strict=True)
        )


def convolve(
    maps: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, transposed: bool, dtype: torch.dtype
) -> Tensor:
    """Convolves each member's maps with that member's weight, in the way that is fastest for the size and the device.

    Args:
        maps: (K * B, C, H, W), of the large size, or of the small one where ``transposed``.
        weight: (K, S, L, kernel, kernel).
        bias: (K, channels of the result).
        geometry: The sizes.
        transposed: Whether to lead from the small maps to the large ones.
        dtype: Of the products' operands; sums and results are float32.

    Returns:
        Maps, (K * B, C', H', W'), float32.
    """
    images = 0 if torch.is_grad_enabled() else len(maps) // len(weight)
    name = choose(geometry, weight.shape[2], transposed, maps.device.type, images)
    return ALGORITHMS[name](maps, weight, bias, geometry, transposed, dtype)


def choose(geometry: Geometry, large_channels: int, transposed: bool, device: str, images: int = 0) -> str:
    """Names the algorithm that is fastest: by count of operations on small maps, as measured on others.

    Args:
        geometry: The sizes.
        large_channels: Of the large maps.
        transposed: Whether to lead from the small maps to the large ones.
        device: Its type.
        images: Of each member, where no gradients are wanted; else 0.
    """
    positions = geometry.large[0] * geometry.large[1]
    if positions <= geometry.kernel[0] * geometry.kernel[1]:
        return "matrix"  # no larger than the patches, and nothing to copy
    few = large_channels <= FEW_CHANNELS
    if device != "cpu":
        return "patches"
    if positions > (SMALL_MAP_OF_FEW if few else SMALL_MAP):
        return "patches" if few and transposed else "native"
    if images < MANY_IMAGES:
        return "patches"
    return "matrix" if transposed else "patches" if few else "native"


def product(left: Tensor, right: Tensor, bias: Tensor | None, dtype: torch.dtype, turned: bool = False) -> Tensor:
    """Multiplies K pairs of matrices and adds a bias.

    Args:
        left: (K, N, I).
        right: (K, I, O), or (K, O, I) where ``turned``.
        bias: (K, O).
        dtype: Of the operands; sums, the result and the gradients are float32.
        turned: Whether to take the transpose of ``right``.

    Returns:
        (K, N, O), float32.
    """
    return cast(Tensor, _Product.apply(left, right, bias, dtype, turned))


class _Product(torch.autograd.Function):
    """Gradients come in the layouts of what they are gradients of: no copies afterwards."""

    @staticmethod
    def forward(context: Any, left: Tensor, right: Tensor, bias: Tensor | None, dtype: torch.dtype, turned: bool) -> Tensor:
        left, right = left.to(dtype), right.to(dtype)
        context.save_for_backward(left, right)
        context.turned = turned
        facing = right.transpose(1, 2) if turned else right
        if bias is None:
            return torch.bmm(left, facing).float()
        if dtype == torch.float32:
            return torch.baddbmm(bias.unsqueeze(1), left, facing)
        return torch.bmm(left, facing) + bias.unsqueeze(1)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        left, right = context.saved_tensors
        gradient = gradients[0].to(left.dtype)
        to_left = to_right = to_bias = None
        if context.needs_input_grad[0]:
            to_left = torch.bmm(gradient, right if context.turned else right.transpose(1, 2)).float()
        if context.needs_input_grad[1]:
            pair = (gradient, left) if context.turned else (left, gradient)
            to_right = torch.bmm(pair[0].transpose(1, 2), pair[1]).float()
        if context.needs_input_grad[2]:
            to_bias = gradients[0].sum(dim=1)
        return to_left, to_right, to_bias, None, None


def by_matrix(
    maps: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, transposed: bool, dtype: torch.dtype
) -> Tensor:
    """On small maps a convolution is best made the matrix that it is: one product, no patches, no wasted taps."""
    members, small_channels, large_channels = weight.shape[:3]
    matrix = _as_matrix(weight, geometry)
    large, small = geometry.large[0] * geometry.large[1], geometry.small[0] * geometry.small[1]
    if transposed:
        rows = maps.permute(0, 2, 3, 1).reshape(members, -1, small * small_channels)
        wide_bias = None if bias is None else bias.repeat_interleave(large, dim=1)
        return product(rows, matrix, wide_bias, dtype, turned=True).view(-1, large_channels, *geometry.large)
    rows = maps.reshape(members, -1, large_channels * large)
    wide_bias = None if bias is None else bias.repeat(1, small)
    return product(rows, matrix, wide_bias, dtype).view(-1, *geometry.small, small_channels).permute(0, 3, 1, 2)


def _as_matrix(weight: Tensor, geometry: Geometry) -> Tensor:
    """The matrix of every member's convolution, (K, L * large positions, small positions * S)."""
    members, small_channels, large_channels, *kernel = weight.shape
    taps = weight.permute(0, 2, 3, 4, 1).reshape(members, large_channels, kernel[0] * kernel[1], small_channels)
    table, has_gaps = _taps(geometry, weight.device)
    if has_gaps:
        taps = functional.pad(taps, (0, 0, 0, 1))
    return taps.index_select(2, table).view(members, large_channels * geometry.large[0] * geometry.large[1], -1)


@lru_cache(maxsize=64)
def _taps(geometry: Geometry, device: torch.device) -> tuple[Tensor, bool]:
    """The tap that joins each position of the large map with each of the small one; one more than the last for none.

    Also says whether there are such gaps.
    """
    rows, columns = (_taps_along(axis, geometry) for axis in (0, 1))
    rows, columns = rows[:, None, :, None], columns[None, :, None, :]
    none = geometry.kernel[0] * geometry.kernel[1]
    taps = torch.where((rows >= 0) & (columns >= 0), rows * geometry.kernel[1] + columns, none)
    return taps.flatten().to(device), bool((taps == none).any())


def _taps_along(axis: int, geometry: Geometry) -> Tensor:
    """Along one axis: (large, small), -1 for none."""
    kernel, stride, padding, large, small = (sizes[axis] for sizes in geometry)
    taps = torch.arange(large)[:, None] - stride * torch.arange(small)[None, :] + padding
    return taps.where((taps >= 0) & (taps < kernel), -1)


def by_patches(
    maps: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, transposed: bool, dtype: torch.dtype
) -> Tensor:
    """Patches of all positions as rows, then one product (or the other way round)."""
    members, small_channels, large_channels = weight.shape[:3]
    taps = weight.permute(0, 3, 4, 2, 1).reshape(members, -1, small_channels)  # (K, kernel * kernel * L, S)
    rows = maps.to(dtype).permute(0, 2, 3, 1)
    if transposed:
        rows = rows.reshape(members, -1, small_channels)
        patches = product(rows, taps, None, dtype, turned=True).view(-1, *geometry.small, *geometry.kernel, large_channels)
        result = cast(Tensor, _Overlay.apply(patches, geometry))
        if bias is not None:
            result = (result.view(members, -1, large_channels) + bias.unsqueeze(1)).view(result.shape)
        return result.permute(0, 3, 1, 2)
    patches = cast(Tensor, _Patches.apply(rows, geometry)).view(members, -1, taps.shape[1])
    return product(patches, taps, bias, dtype).view(-1, *geometry.small, small_channels).permute(0, 3, 1, 2)


def _patches(maps: Tensor, geometry: Geometry) -> Tensor:
    """Of maps (N, H, W, C) every patch under the kernel, (N, h, w, kernel, kernel, C)."""
    (below, right), (up, left) = _overhang(geometry), geometry.padding
    padded = functional.pad(maps, (0, 0, left, right, up, below))
    image, row, column, channel = padded.stride()
    strides = (image, row * geometry.stride[0], column * geometry.stride[1], row, column, channel)
    return padded.as_strided((len(maps), *geometry.small, *geometry.kernel, maps.shape[3]), strides).contiguous()


def _overlay(patches: Tensor, geometry: Geometry) -> Tensor:
    """Adds every patch to the place that it would have been taken from, (N, H, W, C): the adjoint of ``_patches``.

    As many taps as a stride is long lie side by side without touching, so that they are added in one go.
    """
    (height, width), (up, left), (small_height, small_width) = geometry.large, geometry.padding, geometry.small
    down, across = geometry.stride
    blocks = [-(-kernel // stride) for kernel, stride in zip(geometry.kernel, geometry.stride, strict=True)]
    cells = [small + more - 1 for small, more in zip(geometry.small, blocks, strict=True)]
    cells = [
        max(cell, -(-(pad + large) // stride))
        for cell, pad, large, stride in zip(cells, geometry.padding, geometry.large, geometry.stride, strict=True)
    ]
    count, channels = len(patches), patches.shape[5]
    padded = patches.new_zeros(count, cells[0], down, cells[1], across, channels)
    for i in range(blocks[0]):
        for j in range(blocks[1]):
            part = patches[:, :, :, i * down : (i + 1) * down, j * across : (j + 1) * across].transpose(2, 3)
            padded[:, i : i + small_height, : part.shape[2], j : j + small_width, : part.shape[4]] += part
    whole = padded.view(count, cells[0] * down, cells[1] * across, channels)
    return whole[:, up : up + height, left : left + width].contiguous()


def _overhang(geometry: Geometry) -> Pair:
    """Padding that the patches need below and at the right."""
    return tuple(  # type: ignore[return-value]
        max(0, (small - 1) * stride + kernel - padding - large)
        for kernel, stride, padding, large, small in zip(*geometry, strict=True)
    )


class _Patches(torch.autograd.Function):
    """``_patches`` with its adjoint as the gradient."""

    @staticmethod
    def forward(context: Any, maps: Tensor, geometry: Geometry) -> Tensor:
        context.geometry = geometry
        return _patches(maps, geometry)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, None]:
        return (_overlay(gradients[0], context.geometry) if context.needs_input_grad[0] else None), None


class _Overlay(torch.autograd.Function):
    """``_overlay`` with its adjoint as the gradient."""

    @staticmethod
    def forward(context: Any, patches: Tensor, geometry: Geometry) -> Tensor:
        context.geometry = geometry
        return _overlay(patches, geometry)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _patches(gradients[0], context.geometry), None


def by_members(
    maps: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, transposed: bool, dtype: torch.dtype
) -> Tensor:
    """Torch's own convolution, member after member: best on a CPU where one convolution is work enough."""
    maps = maps.to(dtype).contiguous(memory_format=torch.channels_last)
    biases = [None] * len(weight) if bias is None else bias.to(dtype).unbind()
    parts = zip(maps.chunk(len(weight)), weight.to(dtype).unbind(), biases, strict=True)
    results = [_convolve_natively(part, kernel, own_bias, geometry, transposed, 1) for part, kernel, own_bias in parts]
    return (torch.cat(results) if len(results) > 1 else results[0]).float()


def by_groups(
    maps: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, transposed: bool, dtype: torch.dtype
) -> Tensor:
    """One grouped convolution, a group for each member."""
    members = len(weight)
    side_by_side = maps.to(dtype).unflatten(0, (members, -1)).transpose(0, 1).flatten(1, 2)
    flat_bias = None if bias is None else bias.to(dtype).flatten()
    result = _convolve_natively(side_by_side, weight.to(dtype).flatten(0, 1), flat_bias, geometry, transposed, members)
    return torch.flatten(result.unflatten(1, (members, -1)).transpose(0, 1), 0, 1).float()


def _convolve_natively(
    maps: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, transposed: bool, groups: int
) -> Tensor:
    if transposed:
        return functional.conv_transpose2d(maps, weight, bias, geometry.stride, geometry.padding, geometry.output_padding, groups)
    return functional.conv2d(maps, weight, bias, geometry.stride, geometry.padding, groups=groups)


Algorithm = Callable[[Tensor, Tensor, Tensor | None, Geometry, bool, torch.dtype], Tensor]

ALGORITHMS: dict[str, Algorithm] = {"matrix": by_matrix, "patches": by_patches, "native": by_members, "grouped": by_groups}
