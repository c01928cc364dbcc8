"""A convolution of K networks as K products of matrices, with gradients by hand: a step makes hundreds of small calls.

What is on one side of a convolution is laid out as rows (K, M, J), on the other as rows (K, M, I), and the weights as matrices
(K, J, I) between them: one product leads down from large maps to small ones, its transpose back up, and the gradients are made
of the same products. ``Patches`` and ``Whole`` are two ways to lay them out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

Pair = tuple[int, int]


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


class Lowering(Protocol):
    """How the maps and the weights of K convolutions are laid out as matrices, and how they come back.

    Maps are (K * B, C, H, W), weights (K, S, L, kernel, kernel) with S channels on the small side and L on the large one.
    """

    def large_rows(self, maps: Tensor) -> Tensor:
        """Large maps as rows, (K, M, J)."""

    def large_maps(self, rows: Tensor) -> Tensor:
        """The adjoint of ``large_rows``; shares memory with nothing but the rows."""

    def small_rows(self, maps: Tensor) -> Tensor:
        """Small maps as rows, (K, M, I)."""

    def small_maps(self, rows: Tensor) -> Tensor:
        """The adjoint of ``small_rows``."""

    def matrices(self, weight: Tensor) -> Tensor:
        """Weights as matrices, (K, J, I)."""

    def weights(self, matrices: Tensor) -> Tensor:
        """The adjoint of ``matrices``."""

    def small_bias(self, bias: Tensor) -> Tensor:
        """What a bias (K, S) adds to every row of the small side, (K, I): what ``small_maps`` then has once in every position."""


def convolve_as_product(
    maps: Tensor, weight: Tensor, bias: Tensor | None, lowering: Lowering, transposed: bool, dtype: torch.dtype
) -> Tensor:
    """Convolves each member's maps with that member's weight; arguments and result as of ``convolutions.convolve``."""
    return cast(Tensor, _Convolve.apply(maps, weight, bias, lowering, transposed, dtype))


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, maps: Tensor, weight: Tensor, bias: Tensor | None, lowering: Lowering, transposed: bool, dtype: torch.dtype
    ) -> Tensor:
        right = lowering.matrices(weight.to(dtype))
        left = (lowering.small_rows if transposed else lowering.large_rows)(maps.to(dtype))
        context.save_for_backward(left, right)
        context.lowering, context.transposed, context.members = lowering, transposed, len(weight)
        if not transposed:
            result = lowering.small_maps(_multiply(left, right, None if bias is None else lowering.small_bias(bias)))
            return result.data  # no view, which a layer after it could not change in place
        result = lowering.large_maps(_multiply(left, right.transpose(1, 2), None))
        if bias is not None:
            result.unflatten(0, (len(bias), -1)).add_(bias[:, None, :, None, None])
        return result.data

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None, None]:
        (left, right), lowering, transposed = context.saved_tensors, context.lowering, context.transposed
        rows = (lowering.large_rows if transposed else lowering.small_rows)(gradients[0].to(left.dtype))
        to_maps = to_weight = to_bias = None
        if context.needs_input_grad[0] and transposed:
            to_maps = lowering.small_maps(_multiply(rows, right, None))
        elif context.needs_input_grad[0]:
            to_maps = lowering.large_maps(_multiply(rows, right.transpose(1, 2), None))
        if context.needs_input_grad[1]:
            large, small = (rows, left) if transposed else (left, rows)
            to_weight = lowering.weights(_multiply(large.transpose(1, 2), small, None))
        if context.needs_input_grad[2]:
            to_bias = gradients[0].permute(0, 2, 3, 1).reshape(context.members, -1, gradients[0].shape[1]).sum(dim=1)
        return to_maps, to_weight, to_bias, None, None, None


def product(left: Tensor, right: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Multiplies K matrices, one below the other, each with the transpose of its own, and adds a bias.

    Args:
        left: (K * N, I).
        right: (K, O, I).
        bias: (K, O).
        dtype: Of the operands; sums, the result and the gradients are float32.

    Returns:
        (K * N, O), float32.
    """
    return cast(Tensor, _Product.apply(left, right, bias, dtype))


class _Product(torch.autograd.Function):
    """Gradients come in the layouts of what they are gradients of: no copies afterwards."""

    @staticmethod
    def forward(context: Any, left: Tensor, right: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        left, right = left.to(dtype).reshape(len(right), -1, left.shape[1]), right.to(dtype)
        context.save_for_backward(left, right)
        return _multiply(left, right.transpose(1, 2), bias).flatten(0, 1).data  # no view, as above

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        left, right = context.saved_tensors
        rows = gradients[0].reshape(len(right), -1, right.shape[1])
        gradient = rows.to(left.dtype)
        to_left = to_right = to_bias = None
        if context.needs_input_grad[0]:
            to_left = _multiply(gradient, right, None).flatten(0, 1)
        if context.needs_input_grad[1]:
            to_right = _multiply(gradient.transpose(1, 2), left, None)
        if context.needs_input_grad[2]:
            to_bias = rows.sum(dim=1)
        return to_left, to_right, to_bias, None


def _multiply(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    """(K, N, I) times (K, I, O) plus (K, O), float32 whatever the operands are."""
    if bias is None:
        return torch.bmm(left, right).float()
    if left.dtype == torch.float32:
        return torch.baddbmm(bias.unsqueeze(1), left, right)
    return torch.bmm(left, right) + bias.unsqueeze(1)


@dataclass(frozen=True)
class Whole:
    """The convolution as the one matrix that it is, of all positions: no patches and, on small maps, no wasted taps.

    A row is an image: J is L * large positions, I is small positions * S.
    """

    geometry: Geometry
    members: int

    def large_rows(self, maps: Tensor) -> Tensor:
        """(K, B, L * large)."""
        return maps.reshape(self.members, -1, maps.shape[1:].numel())

    def large_maps(self, rows: Tensor) -> Tensor:
        """(K * B, L, H, W)."""
        return rows.view(rows.shape[0] * rows.shape[1], -1, *self.geometry.large)

    def small_rows(self, maps: Tensor) -> Tensor:
        """(K, B, small * S)."""
        return maps.permute(0, 2, 3, 1).reshape(self.members, -1, maps.shape[1:].numel())

    def small_maps(self, rows: Tensor) -> Tensor:
        """(K * B, S, h, w)."""
        return rows.view(rows.shape[0] * rows.shape[1], *self.geometry.small, -1).permute(0, 3, 1, 2)

    def matrices(self, weight: Tensor) -> Tensor:
        """(K, L * large, small * S): each entry is the tap that joins the two positions."""
        members, small_channels, large_channels, height, width = weight.shape
        taps = weight.permute(0, 2, 3, 4, 1).reshape(members, large_channels, height * width, small_channels)
        table, has_gaps = _taps(self.geometry, weight.device)
        if has_gaps:
            taps = functional.pad(taps, (0, 0, 0, 1))
        positions = self.geometry.large[0] * self.geometry.large[1]
        return taps.index_select(2, table).view(members, large_channels * positions, -1)

    def weights(self, matrices: Tensor) -> Tensor:
        """(K, S, L, kernel, kernel): the sum over all entries that a tap has."""
        (height, width), positions = self.geometry.kernel, self.geometry.large[0] * self.geometry.large[1]
        table, has_gaps = _taps(self.geometry, matrices.device)
        entries = matrices.view(len(matrices), matrices.shape[1] // positions, len(table), -1)
        taps = entries.new_zeros(*entries.shape[:2], height * width + has_gaps, entries.shape[3])
        taps.index_add_(2, table, entries)
        return torch.unflatten(taps[:, :, : height * width], 2, (height, width)).permute(0, 4, 1, 2, 3)

    def small_bias(self, bias: Tensor) -> Tensor:
        """(K, small * S)."""
        return bias.repeat(1, self.geometry.small[0] * self.geometry.small[1])


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


@dataclass(frozen=True)
class Patches:
    """Every patch of the large maps under the kernel (im2col: Chellapilla, Puri and Simard 2006).

    A row is a small position of an image: J is kernel * kernel * L, I is S.
    """

    geometry: Geometry
    members: int

    def large_rows(self, maps: Tensor) -> Tensor:
        """(K, B * small, kernel * kernel * L)."""
        patches = cut_patches(maps.permute(0, 2, 3, 1), self.geometry)
        return patches.view(self.members, -1, patches.shape[3] * patches.shape[4] * patches.shape[5])

    def large_maps(self, rows: Tensor) -> Tensor:
        """(K * B, L, H, W)."""
        (height, width), (rows_down, columns) = self.geometry.kernel, self.geometry.small
        patches = rows.view(-1, rows_down, columns, height, width, rows.shape[2] // (height * width))
        return lay_patches(patches, self.geometry).permute(0, 3, 1, 2)

    def small_rows(self, maps: Tensor) -> Tensor:
        """(K, B * small, S)."""
        return maps.permute(0, 2, 3, 1).reshape(self.members, -1, maps.shape[1])

    def small_maps(self, rows: Tensor) -> Tensor:
        """(K * B, S, h, w)."""
        return rows.view(-1, *self.geometry.small, rows.shape[2]).permute(0, 3, 1, 2)

    def matrices(self, weight: Tensor) -> Tensor:
        """(K, kernel * kernel * L, S)."""
        return weight.permute(0, 3, 4, 2, 1).reshape(len(weight), -1, weight.shape[1])

    def weights(self, matrices: Tensor) -> Tensor:
        """(K, S, L, kernel, kernel)."""
        return matrices.view(len(matrices), *self.geometry.kernel, -1, matrices.shape[2]).permute(0, 4, 3, 1, 2)

    def small_bias(self, bias: Tensor) -> Tensor:
        """As it is."""
        return bias


def cut_patches(maps: Tensor, geometry: Geometry) -> Tensor:
    """Of maps (N, H, W, C) every patch under the kernel, (N, h, w, kernel, kernel, C)."""
    (below, right), (up, left) = _overhang(geometry), geometry.padding
    padded = functional.pad(maps, (0, 0, left, right, up, below))
    image, row, column, channel = padded.stride()
    strides = (image, row * geometry.stride[0], column * geometry.stride[1], row, column, channel)
    return padded.as_strided((len(maps), *geometry.small, *geometry.kernel, maps.shape[3]), strides).contiguous()


def lay_patches(patches: Tensor, geometry: Geometry) -> Tensor:
    """Adds every patch to the place that it would have been taken from, (N, H, W, C): the adjoint of ``cut_patches``.

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
            padded[:, i : i + small_height, : part.shape[2], j : j + small_width, : part.shape[4]].add_(part)
    whole = padded.view(count, cells[0] * down, cells[1] * across, channels)
    return whole[:, up : up + height, left : left + width].contiguous()


def _overhang(geometry: Geometry) -> Pair:
    """Padding that the patches need below and at the right."""
    return tuple(  # type: ignore[return-value]
        max(0, (small - 1) * stride + kernel - padding - large)
        for kernel, stride, padding, large, small in zip(*geometry, strict=True)
    )


def to_rows(maps: Tensor, members: int) -> Tensor:
    """Maps (K * B, C, ...) as rows (K, N, C), a row for each position of an image."""
    return maps.movedim(1, -1).reshape(members, -1, maps.shape[1])


def from_rows(rows: Tensor, shape: torch.Size) -> Tensor:
    """Back to maps of a shape (K * B, C, ...); no view, which a layer after it could not change in place."""
    return rows.view(shape[0], *shape[2:], shape[1]).movedim(-1, 1).data
