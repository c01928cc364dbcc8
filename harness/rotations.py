"""What is left of correlations when codes are turned? PCA of latent codes, and a probe that no rotation can change.

Pearson correlation depends on the axes: PCA turns any codes into uncorrelated ones, and whitening gives them one scale. No
information goes with it, and whoever can learn a linear map does not notice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

FLAT_SHARE = 1e-10
"""A direction with a smaller share of the largest variance is rounding: whitening would blow it up, and leaves it out."""


@dataclass(frozen=True, eq=False)
class Rotation:
    """The principal axes of latent codes.

    Attributes:
        mean: (d,), float64.
        directions: (d, d), float64, the principal directions as columns, the largest variance first.
        variances: (d,), float64, along them.
    """

    mean: Tensor
    directions: Tensor
    variances: Tensor

    @classmethod
    def fit(cls, codes: Tensor) -> Self:
        """Fits on codes, (N, d)."""
        mean = codes.double().mean(dim=0)
        centred = codes.double() - mean
        variances, directions = torch.linalg.eigh(centred.T @ centred / len(codes))
        return cls(mean, directions.flip(1), variances.flip(0).clamp_min(0))

    def rotated(self, codes: Tensor) -> Tensor:
        """The codes along the principal axes, (N, d), float32."""
        return ((codes.double() - self.mean) @ self.directions).float()

    def whitened(self, codes: Tensor) -> Tensor:
        """The same with variance 1 along each axis, 0 along flat ones; (N, d), float32."""
        flat = self.variances <= FLAT_SHARE * self.variances.max()
        scales = torch.where(flat, torch.inf, self.variances).rsqrt()
        return ((codes.double() - self.mean) @ self.directions * scales).float()


def linear_probe_accuracy(codes: Tensor, labels: Tensor, test_codes: Tensor, test_labels: Tensor) -> float:
    """The accuracy of least squares on classes, with no penalty and nothing to tune.

    Any invertible affine map of the codes leaves it as it is, as long as there are more labelled codes than units.

    Args:
        codes: Labelled codes, (L, d).
        labels: (L,), int64.
        test_codes: (N, d).
        test_labels: (N,), int64.
    """
    classes = int(max(labels.max(), test_labels.max())) + 1
    targets = functional.one_hot(labels, classes).double()
    weights = torch.linalg.lstsq(_affine(codes).cpu(), targets.cpu(), driver="gelsd").solution.to(codes.device)
    return float(((_affine(test_codes) @ weights).argmax(dim=1) == test_labels).double().mean())


def _affine(codes: Tensor) -> Tensor:
    return torch.cat((codes.double(), torch.ones(len(codes), 1, dtype=torch.float64, device=codes.device)), dim=1)
