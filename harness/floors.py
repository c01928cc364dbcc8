"""What a method with no learning reaches: the mean image, PCA, a random projection. Fitted on training images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LinearFloors:
    """The moments of the training images, from which every floor of every latent size follows.

    Attributes:
        mean: (P,), float64; P pixels.
        covariance: (P, P), float64.
        directions: (P, P), principal directions as columns, the one of largest variance first.
    """

    mean: Tensor
    covariance: Tensor
    directions: Tensor

    @classmethod
    def fit(cls, images: Tensor) -> Self:
        """Fits on training images, (N, C, H, W)."""
        pixels = images.flatten(1).double()
        mean = pixels.mean(dim=0)
        centred = pixels - mean
        covariance = centred.T @ centred / len(pixels)
        return cls(mean, covariance, torch.linalg.eigh(covariance).eigenvectors.flip(1))

    def mean_image_mse(self, images: Tensor) -> float:
        """Mean squared error per pixel of the mean training image."""
        return float(self._centred(images).square().mean())

    def pca_scores(self, images: Tensor, components: int) -> Tensor:
        """Principal component scores, (N, min(components, P)), float32."""
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
        crossed = self.covariance @ projection  # (P, d)
        decoder = torch.linalg.pinv(projection.T @ crossed, hermitian=True) @ crossed.T  # (d, P)
        centred = self._centred(images)
        return float((centred - centred @ projection @ decoder).square().mean())

    def _centred(self, images: Tensor) -> Tensor:
        return images.flatten(1).double() - self.mean
