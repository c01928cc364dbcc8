"""The convolution on maps of 2 x 2 with fewer products than it has taps: 9 in place of 16 for each pair of channels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Minimal:
    """Minimal filtering (Winograd 1980; in two dimensions Lavin and Gray 2016) of 2 x 2 by 3 x 3, as many positions kept.

    Along one axis the inputs a, b and the taps p, q, r of a kernel, what meets the padding left out, give qa + rb and pa + qb.
    These are q(a + b) + (r - q)b and q(a + b) + (p - q)a: three products, not four, and nine in two dimensions. A lowering as
    those of ``harness.lowering``, with the nine as so many more members: rows (9 * K, B, L) or S, matrices (9 * K, L, S).
    """

    members: int

    def large_rows(self, maps: Tensor) -> Tensor:
        """(9 * K, B, L): along each axis a + b, a and b."""
        return _expand(self._positions(maps), (0, 1))

    def large_maps(self, rows: Tensor) -> Tensor:
        """(K * B, L, 2, 2)."""
        return self._contract(rows, (1, 2))

    def small_rows(self, maps: Tensor) -> Tensor:
        """(9 * K, B, S): as of large maps with a and b exchanged, for the product with a belongs to the second result."""
        return _expand(self._positions(maps), (1, 0))

    def small_maps(self, rows: Tensor) -> Tensor:
        """(K * B, S, 2, 2)."""
        return self._contract(rows, (2, 1))

    def matrices(self, weight: Tensor) -> Tensor:
        """(9 * K, L, S): along each axis q, p - q and r - q."""
        taps = weight.permute(3, 4, 0, 2, 1)
        result = taps.new_empty(taps.shape)
        for row, each in zip(result, (taps[1], taps[0] - taps[1], taps[2] - taps[1]), strict=True):
            row[0] = each[1]
            torch.sub(each[0], each[1], out=row[1])
            torch.sub(each[2], each[1], out=row[2])
        return result.flatten(0, 2)

    def weights(self, matrices: Tensor) -> Tensor:
        """(K, S, L, 3, 3)."""
        factors = matrices.view(3, 3, self.members, *matrices.shape[1:])
        result = factors.new_empty(self.members, factors.shape[3], 3, 3, factors.shape[4])
        middle = (factors[0] - factors[1]).sub_(factors[2])
        for row, each in zip(result.unbind(2), (factors[1], middle, factors[2]), strict=True):
            row[:, :, 0], row[:, :, 2] = each[1], each[2]
            torch.sub(each[0], each[1], out=row[:, :, 1]).sub_(each[2])
        return torch.permute(result, (0, 4, 1, 2, 3))

    def small_bias(self, bias: Tensor) -> Tensor:
        """(9 * K, S): once, in the product that all four results have."""
        return torch.cat((bias, bias.new_zeros(8 * len(bias), bias.shape[1])))

    def _positions(self, maps: Tensor) -> Tensor:
        """(2, 2, K, B, C)."""
        return torch.unflatten(maps, 0, (self.members, -1)).permute(3, 4, 0, 1, 2)

    def _contract(self, rows: Tensor, order: tuple[int, int]) -> Tensor:
        """The sums, along each axis, of the first product and of that which each position has for itself."""
        products = rows.view(3, 3, self.members, -1, rows.shape[2])
        maps = rows.new_empty(self.members, products.shape[3], 2, 2, rows.shape[2])
        for own, row in zip(order, maps.unbind(2), strict=True):
            both = products[0] + products[own]
            for also, position in zip(order, row.unbind(2), strict=True):
                torch.add(both[0], both[also], out=position)
        return maps.flatten(0, 1).permute(0, 3, 1, 2)


def _expand(positions: Tensor, order: tuple[int, int]) -> Tensor:
    """Of (2, 2, K, B, C), along each axis their sum and each for itself, as rows (9 * K, B, C)."""
    first, second = order
    result = positions.new_empty(3, 3, *positions.shape[2:])
    for row, each in zip(result, (positions[0] + positions[1], positions[first], positions[second]), strict=True):
        torch.add(each[0], each[1], out=row[0])
        row[1], row[2] = each[first], each[second]
    return result.flatten(0, 2)
