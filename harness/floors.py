"""What a method with no learning reaches: the mean image, PCA, a random projection. Fitted on training images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

RANK_TOLERANCE = 1e-12
"""Directions with a smaller share of the largest variance are rounding."""

MOST_PIXELS = 1024
"""Of an image, for the matrix of ``SharedFloors``, which takes time that grows with their square."""


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
        projection, decoder = self.random_projection(components, seed)
        centred = self._centred(images)
        return float((centred - centred @ projection @ decoder).square().mean())

    def random_projection(self, components: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """The projection, (P, d), and its decoder, (d, P)."""
        generator = torch.Generator().manual_seed(seed)
        gaussian = torch.randn(len(self.mean), components, generator=generator, dtype=torch.float64)
        projection = torch.linalg.qr(gaussian.to(self.mean.device)).Q
        crossed = self.directions @ (self.variances.unsqueeze(1) * (self.directions.T @ projection))  # S Q, (P, d)
        return projection, torch.linalg.pinv(projection.T @ crossed, hermitian=True) @ crossed.T

    def second_moment(self, images: Tensor) -> Tensor:
        """Of the pixels about the mean training image, (P, P)."""
        centred = self._centred(images)
        return centred.T @ centred / len(centred)

    def _centred(self, images: Tensor) -> Tensor:
        return images.flatten(1).double() - self.mean


class SharedFloors:
    """The floors on the same images, many times: from one matrix of their pixels, where that is small.

    With the second moment M of centred images x and a linear map A, the mean of |x - A x|^2 is tr M - 2 tr A M + tr A M A'.

    Args:
        floors: Fitted on the training images.
        images: (N, C, H, W), those that the floors are measured on.
    """

    def __init__(self, floors: LinearFloors, images: Tensor) -> None:
        self._floors, self._images = floors, images
        self._pixels = images[0].numel()
        self._by_moments = self._pixels <= min(len(images), MOST_PIXELS)

    @cached_property
    def _moment(self) -> Tensor:
        return self._floors.second_moment(self._images)

    def mean_image_mse(self) -> float:
        """As of ``LinearFloors``."""
        return float(self._moment.trace()) / self._pixels if self._by_moments else self._floors.mean_image_mse(self._images)

    def pca_mse(self, components: int) -> float:
        """As of ``LinearFloors``."""
        if not self._by_moments:
            return self._floors.pca_mse(self._images, components)
        basis = self._floors.directions[:, :components]
        return self._error(((self._moment @ basis) * basis).sum())

    def random_projection_mse(self, components: int) -> float:
        """As of ``LinearFloors``."""
        if not self._by_moments:
            return self._floors.random_projection_mse(self._images, components)
        projection, decoder = self._floors.random_projection(components)
        seen = self._moment @ projection  # (P, d)
        kept = 2 * (seen * decoder.T).sum() - ((projection.T @ seen) * (decoder @ decoder.T)).sum()
        return self._error(kept)

    def _error(self, kept: Tensor) -> float:
        return max(float(self._moment.trace() - kept), 0.0) / self._pixels
