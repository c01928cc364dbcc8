"""Which images train, choose and test, which carry labels and which are shown: functions of (dataset, split seed) alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness.datasets import ImageSet

Indices = npt.NDArray[np.int64]

TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1
MOST_TEST, MOST_VALIDATION = 10_000, 1_000


@dataclass(frozen=True, eq=False)
class Part:
    """Some images of a dataset.

    Attributes:
        images: (N, C, H, W), float32 in [0, 1].
        labels: (N,), int64.
    """

    images: Tensor
    labels: Tensor

    def to(self, device: str) -> Part:
        """The same images on a device."""
        return Part(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class Splits:
    """The three parts that share no image: one to fit, one to choose, one to report."""

    train: Part
    validation: Part
    test: Part


@dataclass(frozen=True, eq=False)
class SplitIndices:
    """Indices into a dataset; ``pool`` is everything outside validation and test, in the order in which it is used."""

    pool: Indices
    validation: Indices
    test: Indices


def hashed_order(count: int, purpose: str, seed: int) -> Indices:
    """Shuffles 0..count-1 by a hash, so that the order is the same on every machine and in every version.

    The hash is SplitMix64 (Steele, Lea and Flood 2014) of the index, offset by SHA-256 of purpose and seed.
    """
    offset = int.from_bytes(hashlib.sha256(f"{purpose}/{seed}".encode()).digest()[:8], "little")
    golden = np.uint64(0x9E3779B97F4A7C15)
    mixed = (np.arange(count, dtype=np.uint64) + np.uint64(1)) * golden + np.uint64(offset)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.argsort(mixed ^ (mixed >> np.uint64(31)), kind="stable")


def split_indices(data: ImageSet, split_seed: int) -> SplitIndices:
    """Divides a dataset: its own test split where it has one, else a fifth; a tenth of the rest for validation."""
    count, own_test = len(data.pixels.labels), data.pixels.test_from
    if own_test is None:
        order = hashed_order(count, "test", split_seed)
        test, rest = np.split(order, [round(TEST_SHARE * count)])
    else:
        test = own_test + hashed_order(count - own_test, "test", split_seed)
        rest = np.arange(own_test)
    rest = rest[hashed_order(len(rest), "validation", split_seed)]
    validation_size = min(MOST_VALIDATION, round(VALIDATION_SHARE * len(rest)))
    return SplitIndices(pool=rest[validation_size:], validation=rest[:validation_size], test=test[:MOST_TEST])


def make_splits(data: ImageSet, split_seed: int, train_size: int | None) -> Splits:
    """Cuts the three parts out of a dataset; a smaller ``train_size`` gives a subset of a larger one's images."""
    indices = split_indices(data, split_seed)
    return Splits(
        train=_part(data, indices.pool[:train_size]),
        validation=_part(data, indices.validation),
        test=_part(data, indices.test),
    )


def label_draws(data: ImageSet, split_seed: int, labels: int, draws: int) -> list[Part]:
    """Chooses the labelled images, stratified by class, the same for every trial.

    They come from the whole training pool whatever the ``train_size``; a draw of fewer labels is a subset of the same
    draw of more.

    Returns:
        ``draws`` parts of ``labels`` images each (fewer where a class runs out; one a class at least).
    """
    pool = split_indices(data, split_seed).pool
    classes = data.pixels.labels[pool]
    return [_part(data, pool[_stratified(classes, labels, draw, split_seed)]) for draw in range(draws)]


def _stratified(classes: Indices, labels: int, draw: int, split_seed: int) -> Indices:
    """Goes round the classes, taking the next image of each, until there are enough."""
    order = hashed_order(len(classes), f"labels {draw}", split_seed)
    present = np.unique(classes)
    turn = hashed_order(len(present), f"classes {draw}", split_seed)
    columns = [order[classes[order] == each] for each in present[turn]]
    rounds = max(1, -(-labels // len(present)))
    taken = [column[index] for index in range(rounds) for column in columns if index < len(column)]
    return np.array(taken[: max(labels, len(present))], dtype=np.int64)


def shown_indices(labels: Tensor, split_seed: int, count: int) -> list[int]:
    """Chooses the test images that pictures show: classes in turn.

    Returns:
        ``count`` different indices into ``labels``, or all where there are fewer.
    """
    classes = labels.cpu().numpy()
    order = hashed_order(len(classes), "shown", split_seed)
    columns = [order[classes[order] == each] for each in np.unique(classes)]
    longest = max(map(len, columns))
    turns = [int(column[index]) for index in range(longest) for column in columns if index < len(column)]
    return turns[:count]


def interpolation_pairs(labels: Tensor, split_seed: int, count: int) -> list[tuple[int, int]]:
    """Chooses pairs of test images, of different classes as long as there are any.

    Returns:
        ``count`` pairs of indices into ``labels``, no image in two of them; fewer where the images run out.
    """
    classes = labels.cpu().numpy()
    waiting = [int(index) for index in hashed_order(len(classes), "pairs", split_seed)]
    pairs: list[tuple[int, int]] = []
    while len(pairs) < count and len(waiting) > 1:
        first = waiting.pop(0)
        partner = next((index for index in waiting if classes[index] != classes[first]), waiting[0])
        waiting.remove(partner)
        pairs.append((first, partner))
    return pairs


def _part(data: ImageSet, indices: Indices) -> Part:
    images: npt.NDArray[Any] = data.pixels.images[indices]
    scaled = images.astype(np.float32) / 255 if images.dtype == np.uint8 else images
    return Part(torch.from_numpy(np.ascontiguousarray(scaled)), torch.from_numpy(data.pixels.labels[indices]))
