"""Which trials train together: fixed by the trials and the device, whatever has ended."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from harness.config import Placement, Trial
from harness.groups import choose_group_size, choose_workers, evaluation_parts, least_parts, partition
from harness.models import ARCHITECTURES, resolve
from harness.options import TRAINERS
from tests.support import TINY

SMALL, LARGE, HUGE = 8 * 8, 28 * 28, 3 * 64 * 64
"""Pixels of an image."""


def alike(count: int) -> list[Trial]:
    """Trials that differ in their seed only."""
    return [Trial(number, resolve(replace(TINY, seed=number))) for number in range(count)]


@pytest.mark.parametrize("group_size", [1, 2, 5, 100])
def test_groups_are_a_fixed_partition_of_what_can_train_together(group_size: int) -> None:
    """Every trial is in one group, no group mixes architectures, and ended trials play no part."""
    configs = [
        resolve(replace(TINY, architecture=a, latent_size=d, seed=s)) for s in (0, 1) for a in ARCHITECTURES for d in (2, 5, 7)
    ]
    trials = [Trial(number, config) for number, config in enumerate(configs)]
    groups = partition(trials, group_size)
    assert sorted(trial.number for members in groups for trial in members) == list(range(len(trials)))
    assert all(len({trial.config.architecture for trial in members}) == 1 and len(members) <= group_size for members in groups)
    assert groups == partition(trials, group_size)
    numbers = [members[0].number for members in groups]
    assert numbers == sorted(numbers)


def test_members_of_a_group_share_batch_size_and_epochs() -> None:
    """A stack steps together: those that cannot are apart."""
    configs = [
        replace(TINY, batch_size=16),
        replace(TINY, epochs=3),
        TINY,
        replace(TINY, learning_rate=0.1),
        replace(TINY, latent_size=9),
        replace(TINY, decorrelation=0.5),
        replace(TINY, decorrelation=0.5, decorrelation_kind="barlow"),
        replace(TINY, prefix=True),
    ]
    groups = partition([Trial(number, resolve(config)) for number, config in enumerate(configs)], 9)
    assert [[trial.number for trial in members] for members in groups] == [[0], [1], [2, 3, 4, 5], [6], [7]]


def labelled(seeds: int, *, inner: tuple[int, ...] = (2,)) -> list[Trial]:
    """For each seed 10, 20 and 40 labels at each latent size, as a grid has them."""
    configs = [
        resolve(replace(TINY, seed=seed, labels=labels, latent_size=size))
        for seed in range(seeds)
        for labels in (10, 20, 40)
        for size in inner
    ]
    return [Trial(number, config) for number, config in enumerate(configs)]


@pytest.mark.parametrize(
    ("trials", "group_size", "parts", "expected"),
    [
        (labelled(3), 7, 1, [range(9)]),
        (labelled(3), 2, 1, [range(3), range(3, 9)]),
        (labelled(3), 1, 1, [range(3), range(3, 6), range(6, 9)]),
        (labelled(2), 7, 2, [range(3), range(3, 6)]),
        (labelled(1), 7, 2, [range(3)]),
        (labelled(2, inner=(2, 3)), 2, 1, [range(6), range(6, 12)]),
    ],
)
def test_trials_of_one_network_are_in_one_group(trials: list[Trial], group_size: int, parts: int, expected: list[range]) -> None:
    """However many labels there are to evaluate it with: they are no members of their own to the size of groups."""
    groups = partition(trials, group_size, parts)
    assert [[trial.number for trial in members] for members in groups] == [list(numbers) for numbers in expected]


def test_a_network_whose_trials_lie_apart_is_trained_in_each_group_that_has_one() -> None:
    """Groups are runs of numbers, by which they are found again: latent sizes within labels, one network to a group."""
    groups = partition(labelled(1, inner=(2, 3)), 1)
    assert [[trial.number for trial in members] for members in groups] == [[number] for number in range(6)]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_parts_of_an_evaluation_have_labelled_images_of_one_kind(device: str) -> None:
    """Those with as many labels together, so that their classifiers are a stack."""
    parts = evaluation_parts(labelled(3), Placement(".", device), SMALL)
    assert [[trial.number for trial in part] for part in parts] == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]


def test_workers_are_as_many_as_asked_for_or_as_there_are_cores() -> None:
    """An explicit number wins; automatic is at least one."""
    assert choose_workers(5, "cpu") == 5
    assert 1 <= choose_workers(0, "cpu") <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("count", "group_size", "parts", "sizes"),
    [
        (18, 7, 1, [6, 6, 6]),
        (18, 7, 2, [6, 6, 6]),
        (6, 7, 1, [6]),
        (6, 7, 2, [3, 3]),
        (7, 7, 2, [3, 4]),
        (1, 7, 2, [1]),
        (5, 100, 1, [5]),
        (3, 1, 2, [1, 1, 1]),
    ],
)
def test_groups_are_of_nearly_equal_sizes(count: int, group_size: int, parts: int, sizes: list[int]) -> None:
    """Few enough members in each, enough groups, and no group is a small rest."""
    groups = partition(alike(count), group_size, parts)
    assert [len(members) for members in groups] == sizes
    assert [trial.number for members in groups for trial in members] == list(range(count))


def test_no_trials_make_no_groups() -> None:
    """An empty round is over at once."""
    assert partition([], 4, 2) == []


def test_a_group_size_that_is_asked_for_is_taken() -> None:
    """On every device, by both trainers, for all images; and it is not divided further."""
    for device in ("cpu", "cuda"):
        for trainer in TRAINERS:
            placement = Placement(".", device, trainer=trainer)
            assert [choose_group_size(9, placement, pixels) for pixels in (SMALL, LARGE, HUGE)] == [9, 9, 9]
            assert least_parts(9, placement) == 1


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_plain_trainer_takes_one_trial_after_the_other(device: str) -> None:
    """It gains nothing from groups, and the results of single trials come sooner."""
    assert choose_group_size(0, Placement(".", device, trainer="plain"), SMALL) == 1


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_larger_images_make_smaller_stacks(device: str) -> None:
    """A stack has more than one member, and fewer the larger the images, down to one."""
    sizes = [choose_group_size(0, Placement(".", device), pixels) for pixels in (SMALL, LARGE, HUGE, 10**9)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 1
    assert sizes[-1] >= 1


def test_a_small_sweep_uses_more_than_one_core() -> None:
    """On a CPU what could be one stack is at least two; a GPU has it as one."""
    assert len(partition(alike(4), 7, least_parts(0, Placement(".", "cpu")))) == 2
    assert len(partition(alike(4), 7, least_parts(0, Placement(".", "cuda")))) == 1


@pytest.mark.parametrize("pixels", [SMALL, LARGE, HUGE])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_group_is_evaluated_in_parts_that_hold_every_member_once(device: str, pixels: int) -> None:
    """In their order; a GPU has them all at once, and on a CPU large images are evaluated in more parts than small ones."""
    members = alike(7)
    parts = evaluation_parts(members, Placement(".", device), pixels)
    assert [trial.number for part in parts for trial in part] == list(range(7))
    assert len(parts) == (1 if device == "cuda" else 2 if pixels == SMALL else 7)
