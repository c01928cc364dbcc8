"""The convolutions of K networks at once, in several ways that give the same numbers. To add one: an entry in ``ALGORITHMS``.

A stack's maps are (K * B, C, H, W), the members one after the other. A convolution leads from large maps to small ones; the
transposed convolution with the same weight is its adjoint and leads back, so that each way needs to know one geometry only.
Weights are (K, S, L, kernel, kernel), with S channels on the small side and L on the large one, as torch has them for both.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from harness.kernels import convolve_compiled, in_use
from harness.lowering import Geometry, Pair, Patches, Whole, convolve_as_product

SMALL_MAP, SMALL_MAP_OF_FEW = 16, 64
"""Positions up to which patches of all members at once beat a convolution for each member on a CPU; the latter where the
large map has ``FEW_CHANNELS`` at the most, as images have. Torch's own transposed convolution to so few is always slower."""

FEW_CHANNELS = 3

MANY_IMAGES = 256
"""Of each member, from which on a CPU copies of patches no longer stay in its cache: where no gradients are wanted, torch's own
convolution is then the faster one, and on the way back to large maps, as on the smallest, the matrix."""


def convolve(
    maps: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    transposed: bool,
    dtype: torch.dtype,
    rectified: bool = False,
) -> Tensor:
    """Convolves each member's maps with that member's weight, in the way that is fastest for the size and the device.

    Args:
        maps: (K * B, C, H, W), of the large size, or of the small one where ``transposed``.
        weight: (K, S, L, kernel, kernel).
        bias: (K, channels of the result).
        geometry: The sizes.
        transposed: Whether to lead from the small maps to the large ones.
        dtype: Of the products' operands; sums and results are float32.
        rectified: Whether a ReLU follows.

    Returns:
        Maps, (K * B, C', H', W'), float32.
    """
    images = 0 if torch.is_grad_enabled() else len(maps) // len(weight)
    name = choose(geometry, (weight.shape[1], weight.shape[2]), transposed, maps.device.type, images, dtype)
    if rectified and name == "compiled":
        return convolve_compiled(maps, weight, bias, geometry, transposed, rectified)
    result = ALGORITHMS[name](maps, weight, bias, geometry, transposed, dtype)
    return result.relu_() if rectified else result


def choose(
    geometry: Geometry, channels: Pair, transposed: bool, device: str, images: int = 0, dtype: torch.dtype = torch.float32
) -> str:
    """Names the algorithm that is fastest: the compiled one; else by count of operations on small maps, as measured on others.

    Args:
        geometry: The sizes.
        channels: Of the small maps and of the large ones.
        transposed: Whether to lead from the small maps to the large ones.
        device: Its type.
        images: Of each member, where no gradients are wanted; else 0.
        dtype: Of the products' operands.
    """
    if in_use(device, dtype):
        return "compiled"
    positions = geometry.large[0] * geometry.large[1]
    if positions <= geometry.kernel[0] * geometry.kernel[1]:
        return "matrix"  # no larger than the patches, and nothing to copy
    few = channels[1] <= FEW_CHANNELS
    if device != "cpu":
        return "patches"
    if positions > (SMALL_MAP_OF_FEW if few else SMALL_MAP):
        return "patches" if few and transposed else "native"
    if images < MANY_IMAGES:
        return "patches"
    return "matrix" if transposed else "patches" if few else "native"


def by_matrix(
    maps: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, transposed: bool, dtype: torch.dtype
) -> Tensor:
    """On small maps a convolution is best made the matrix that it is: one product, no patches, no wasted taps."""
    return convolve_as_product(maps, weight, bias, Whole(geometry, len(weight)), transposed, dtype)


def by_patches(
    maps: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, transposed: bool, dtype: torch.dtype
) -> Tensor:
    """Patches of all positions as rows, then one product (or the other way round)."""
    return convolve_as_product(maps, weight, bias, Patches(geometry, len(weight)), transposed, dtype)


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


def by_kernels(
    maps: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, transposed: bool, dtype: torch.dtype
) -> Tensor:
    """Compiled for this processor: no patches and no taps beside the map. It computes in float32, whatever is rounded before."""
    return convolve_compiled(maps.to(dtype).float(), weight.to(dtype).float(), bias, geometry, transposed)


Algorithm = Callable[[Tensor, Tensor, Tensor | None, Geometry, bool, torch.dtype], Tensor]

ALGORITHMS: dict[str, Algorithm] = {
    "matrix": by_matrix,
    "patches": by_patches,
    "native": by_members,
    "grouped": by_groups,
    "compiled": by_kernels,
}
