"""Are the latents redundant? Pure measures on latent codes, (N, d)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

DEAD_SHARE = 1e-4
"""A unit is dead if its variance is below this share of the largest."""

NULL_PERMUTATIONS = 200

SINGULAR = 1e-13
"""A correlation matrix with an eigenvalue below so much a unit is singular: float32 codes resolve no less."""


def correlation_matrix(codes: Tensor) -> Tensor:
    """Pearson correlation between the latent units.

    Returns:
        (d, d), float64, ones on the diagonal; 0 between a unit that never varies and any other.
    """
    scores = _standard_scores(codes)
    return (scores.T @ scores).clamp(-1, 1).fill_diagonal_(1.0)


def max_abs_correlation(codes: Tensor) -> float:
    """The largest absolute correlation between two latent units; 0 where there is one unit only."""
    pairs = _pairs(correlation_matrix(codes))
    return float(pairs.abs().max()) if len(pairs) else 0.0


def mean_abs_correlation(codes: Tensor) -> float:
    """The mean absolute correlation over pairs of latent units; NaN where there is one unit only."""
    return float(_pairs(correlation_matrix(codes)).abs().mean())


def max_abs_correlation_null95(codes: Tensor, permutations: int = NULL_PERMUTATIONS, seed: int = 0) -> float:
    """What chance alone gives at this d and N: the 95th percentile of the maximum under independent permutation.

    Args:
        codes: (N, d).
        permutations: How often each unit is permuted on its own.
        seed: Of the first unit's permutations; the unit's index is added for the others.

    Returns:
        A correlation in [0, 1]; NaN where there is one unit only.
    """
    scores = _standard_scores(codes)
    if scores.shape[1] < 2:
        return float("nan")
    units = scores.T.contiguous()  # (d, N)
    orders = [_permutations(len(codes), permutations, seed + unit) for unit in range(len(units))]
    maxima = [_largest_when_permuted(units, [order[index] for order in orders]) for index in range(permutations)]
    return float(torch.quantile(torch.stack(maxima), 0.95))


def _largest_when_permuted(units: Tensor, orders: Sequence[Tensor]) -> Tensor:
    shuffled = units.gather(1, torch.stack(list(orders)).to(units.device).long())
    return _pairs(shuffled @ shuffled.T).abs().max()


@lru_cache(maxsize=128)
def _permutations(count: int, permutations: int, seed: int) -> Tensor:
    """Orders of so many codes, (permutations, count), the same for every trial: drawing them costs more than using them."""
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.int16 if count <= torch.iinfo(torch.int16).max else torch.int32
    return torch.stack([torch.randperm(count, generator=generator).to(dtype) for _ in range(permutations)])


def total_correlation(codes: Tensor) -> float:
    """Gaussian total correlation of the units that are not dead: -0.5 log det R, in nats (Watanabe 1960).

    Returns:
        0 for independent units; infinity where one unit is a linear function of others.
    """
    spectrum = torch.linalg.eigvalsh(correlation_matrix(codes[:, ~_dead(codes)]))
    if bool((spectrum < SINGULAR * len(spectrum)).any()):
        return float("inf")
    return -0.5 * float(spectrum.log().sum()) + 0.0  # no negative zero


def effective_rank(codes: Tensor) -> float:
    """Takes exp of the entropy of the normalised spectrum of the covariance (Roy and Vetterli 2007).

    Returns:
        From 1 (all variance in one direction) to d (the same variance in every direction); 0 where nothing varies.
    """
    spectrum = torch.linalg.eigvalsh(_covariance(codes)).clamp_min(0)
    if float(spectrum.sum()) == 0:
        return 0.0
    shares = spectrum / spectrum.sum()
    return float(torch.exp(torch.special.entr(shares).sum()))


def dead_units(codes: Tensor) -> int:
    """The number of units whose variance is below ``DEAD_SHARE`` of the largest; all where nothing varies."""
    return int(_dead(codes).sum())


def _dead(codes: Tensor) -> Tensor:
    variances = codes.double().var(dim=0)
    return (variances < DEAD_SHARE * variances.max()) | (variances == 0)


def _covariance(codes: Tensor) -> Tensor:
    centred = codes.double() - codes.double().mean(dim=0)
    return centred.T @ centred / (len(codes) - 1)


def _standard_scores(codes: Tensor) -> Tensor:
    """Centred columns of length 1, or 0 where a column is constant; (N, d), float64."""
    centred = codes.double() - codes.double().mean(dim=0)
    lengths = centred.norm(dim=0)
    return centred / torch.where(lengths > 1e-12 * codes.double().norm(dim=0).clamp_min(1e-300), lengths, torch.inf)


def _pairs(matrix: Tensor) -> Tensor:
    """The entries above the diagonal."""
    size = len(matrix)
    rows, columns = torch.triu_indices(size, size, offset=1)
    return matrix[rows, columns]
