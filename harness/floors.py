"""What a method with no learning reaches: the mean image, PCA, a random projection. Fitted on training images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

RANK_TOLERANCE = 1e-12
"""Directions with a smaller share of the largest variance are rounding."""


@dataclass(frozen=True, eq=False)
class LinearFloors:
    """The moments of the training images, from which every floor of every latent size follows.

    Attributes:
        mean: (P,), float64; P pixels.
        variances: (R,), along the principal directions, the largest first; R is the rank at the most.
        directions: (P, R), the principal directions as columns.
    """

    mean: Tensor
    variances: Tensor
    directions: Tensor

    @classmethod
    def fit(cls, images: Tensor) -> Self:
        """Fits on training images, (N, C, H, W), by the eigenvectors of the smaller of covariance and Gram matrix."""
        pixels = images.flatten(1).double()
        mean = pixels.mean(dim=0)
        centred = pixels - mean
        count, size = centred.shape
        if size <= count:
            variances, directions = torch.linalg.eigh(centred.T @ centred / count)
        else:
            variances, weights = torch.linalg.eigh(centred @ centred.T / count)
            positive = variances > RANK_TOLERANCE * variances.max()
            variances = variances[positive]
            directions = centred.T @ weights[:, positive] / (count * variances).sqrt()
        return cls(mean, variances.flip(0).clamp_min(0), directions.flip(1))

    def mean_image_mse(self, images: Tensor) -> float:
        """Mean squared error per pixel of the mean training image."""
        return float(self._centred(images).square().mean())

    def pca_scores(self, images: Tensor, components: int) -> Tensor:
        """Principal component scores, (N, min(components, R)), float32."""
        return (self._centred(images) @ self.directions[:, :components]).float()

    def pca_mse(self, images: Tensor, components: int) -> float:
        """Mean squared error per pixel of the projection on the first principal components."""
        centred, basis = self._centred(images), self.directions[:, :components]
        return float((centred - centred @ basis @ basis.T).square().mean())

    def random_projection_mse(self, images: Tensor, components: int, seed: int = 0) -> float:
        """Mean squared error per pixel of the best linear decoder of a random Gaussian projection.

        The decoder is the least-squares one on the training images: with projection Q and covariance S it is
        (Q' S Q)^+ Q' S.
        """
        generator = torch.Generator().manual_seed(seed)
        gaussian = torch.randn(len(self.mean), components, generator=generator, dtype=torch.float64)
        projection = torch.linalg.qr(gaussian.to(self.mean.device)).Q
        crossed = self.directions @ (self.variances.unsqueeze(1) * (self.directions.T @ projection))  # S Q, (P, d)
        decoder = torch.linalg.pinv(projection.T @ crossed, hermitian=True) @ crossed.T  # (d, P)
        centred = self._centred(images)
        return float((centred - centred @ projection @ decoder).square().mean())

    def _centred(self, images: Tensor) -> Tensor:
        return images.flatten(1).double() - self.mean
