"""What a training step asks of the codes besides decoding them. To add a penalty: an entry in ``PENALTIES`` below.

Codes are (K * B, d), those of K members one after the other; one autoencoder alone is a stack of one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.config import TrialConfig

PREFIX_STREAM = 2**60
"""Keeps the random numbers of prefixes apart from those of the order of the images, whose seeds are all below it."""

VARIANCE_FLOOR = 1e-8
"""Added to the variance of a unit that is divided by it: a unit that never varies correlates with nothing."""


def prefix_lengths(config: TrialConfig, epoch: int, count: int) -> Tensor | None:
    """How many latent units each image of an epoch is decoded from, in the order in which the images come.

    Nested dropout (Rippel, Gelbart and Adams 2014), with lengths from 1 to d equally often as in Matryoshka learning
    (Kusupati et al. 2022). A function of seed and epoch.

    Returns:
        (count,); ``None`` where the configuration decodes from all units always.
    """
    if not config.prefix:
        return None
    generator = torch.Generator().manual_seed(PREFIX_STREAM + config.seed * 1_000_003 + epoch)
    return torch.randint(1, config.latent_size + 1, (count,), generator=generator)


def keep_prefix(codes: Tensor, lengths: Tensor | int) -> Tensor:
    """Codes with 0 in the place of every unit from the given length on; (N, d), lengths (N,) or one for all."""
    kept = torch.as_tensor(lengths, device=codes.device).reshape(-1, 1)
    return codes * (torch.arange(codes.shape[1], device=codes.device) < kept)


@dataclass(frozen=True, eq=False)
class Decorrelation:
    """The penalty of a stack's members, each with its own weight.

    Attributes:
        kind: One of ``PENALTIES``.
        weights: (K,).
        pairs: Ordered pairs of different units of each member, (K,); at least 1, so that it can be divided by.
    """

    kind: str
    weights: Tensor
    pairs: Tensor

    @classmethod
    def of(cls, configs: Sequence[TrialConfig], device: torch.device) -> Decorrelation | None:
        """That of members of one kind; ``None`` where no weight is above 0."""
        weights = torch.tensor([config.decorrelation for config in configs], device=device)
        pairs = [max(1, config.latent_size * (config.latent_size - 1)) for config in configs]
        return cls(configs[0].decorrelation_kind, weights, torch.tensor(pairs, device=device)) if weights.any() else None

    def __call__(self, codes: Tensor) -> Tensor:
        """What is added to each member's loss, (K,): its weight times the mean of its penalty over pairs of units."""
        members = codes.unflatten(0, (len(self.weights), -1))
        centred = members - members.mean(dim=1, keepdim=True)
        matrices = PENALTIES[self.kind](centred)
        others = 1 - torch.eye(codes.shape[1], device=codes.device)
        return self.weights * (matrices * others).square().sum(dim=(1, 2)) / self.pairs


def covariance(centred: Tensor) -> Tensor:
    """Covariance of the units over the batch, (K, d, d), of centred codes (K, B, d): DeCov (Cogswell et al. 2016).

    It falls when the codes shrink, which costs an autoencoder nothing: its decoder can make up for it.
    """
    return centred.transpose(1, 2) @ centred / centred.shape[1]


def correlation(centred: Tensor) -> Tensor:
    """Correlation of the units over the batch, (K, d, d): as in Barlow Twins (Zbontar et al. 2021), of one view with itself.

    It does not change when a unit is scaled.
    """
    return covariance(centred * (centred.square().mean(dim=1, keepdim=True) + VARIANCE_FLOOR).rsqrt())


PENALTIES: dict[str, Callable[[Tensor], Tensor]] = {"decov": covariance, "barlow": correlation}
