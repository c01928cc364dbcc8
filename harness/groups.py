"""Which trials train together, and on how many workers: chosen from the device and the images, never from what has ended."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

from harness.config import EVALUATION_FIELDS, Placement, Trial, TrialConfig

SMALL_IMAGE = 16 * 16
"""Pixels up to which a training step is mostly overhead on a CPU."""

GROUP_OF_SMALL, GROUP_OF_LARGE = 7, 4
"""Trials in a stack on a CPU."""

PARTS_ON_CPU = 2
"""Groups at the least of trials that are alike: a CPU has several cores, and a small sweep should use more than one."""

EVALUATED_OF_SMALL, EVALUATED_OF_LARGE = 4, 1
"""Trials that are evaluated as one task on a CPU: as many as fill the stacks of few-label transfer, on large images one alone,
for there larger stacks gain nothing. All workers share the parts of a trained group, so that none is left waiting at the end."""

GROUP_ON_GPU, PIXELS_ON_GPU = 64, 32 * 32
"""Trials in a stack on a GPU, for images of so many pixels; fewer for larger ones, which fill it and its memory sooner."""


def partition(trials: Sequence[Trial], group_size: int, parts: int = 1) -> list[list[Trial]]:
    """Divides trials into groups that can train as one model, of nearly equal sizes.

    A function of the trials alone, not of the workers or of what has ended, so that neither can change a result: of a
    group that has ended in part the rest is trained, as members of that group. Members differ in seed, latent size,
    learning rate, weight of the decorrelation penalty, and what only the evaluation uses, at most; those that differ in the
    latter alone train one network, where they are one after the other, as a grid has them.

    Args:
        trials: All of a round.
        group_size: Networks in a group at the most.
        parts: Groups at the least into which trials that are alike are divided.
    """
    by_kind: dict[TrialConfig, list[Trial]] = {}
    for trial in trials:
        by_kind.setdefault(_kind(trial), []).append(trial)
    groups = [group for members in by_kind.values() for group in _divide(members, group_size, parts)]
    return sorted(groups, key=lambda members: members[0].number)


def group_name(members: Sequence[Trial]) -> str:
    """First and last number: it tells a group from all others that trials of its kind were ever divided into."""
    return f"{members[0].number}-{members[-1].number}"


def named_group(name: str, trial: Trial, trials: Iterable[Trial]) -> list[Trial]:
    """The members of the group of this name of which a trial was one, in their order.

    Not by dividing the trials again: a sweep that was given more seeds later divides them in another way by now.

    Args:
        name: As ``group_name`` gives it.
        trial: One of the members.
        trials: All of the sweep.
    """
    first, last = map(int, name.split("-"))
    alike = (each for each in trials if first <= each.number <= last and _kind(each) == _kind(trial))
    return sorted(alike, key=lambda each: each.number)


def _kind(trial: Trial) -> TrialConfig:
    """Equal for trials that can be members of one group."""
    return replace(trial.config.training, seed=0, latent_size=1, learning_rate=1.0, decorrelation=0.0)


def _network(trial: Trial) -> tuple[float, ...]:
    """Which of the networks of its kind a trial trains."""
    config = trial.config
    return config.seed, config.latent_size, config.learning_rate, config.decorrelation


def _divide(members: list[Trial], group_size: int, parts: int) -> list[list[Trial]]:
    """Cuts members in order into groups whose numbers of networks differ by one at most, if each network's stand side by side."""
    networks = len(set(map(_network, members)))
    parts = min(max(parts, -(-networks // group_size)), networks)
    ends = [networks * part // parts for part in range(parts + 1)]
    sizes = [end - start for start, end in pairwise(ends)]
    groups: list[list[Trial]] = [[]]
    seen: set[tuple[float, ...]] = set()
    for member in members:
        seen.add(_network(member))
        if len(seen) > sizes[min(len(groups), parts) - 1]:
            groups.append([])
            seen = {_network(member)}
        groups[-1].append(member)
    return groups


def least_parts(wanted: int, placement: Placement) -> int:
    """Into how many groups trials that are alike are divided at the least, where no size of groups is asked for."""
    return PARTS_ON_CPU if placement.device == "cpu" and not wanted else 1


def choose_workers(wanted: int, device: str) -> int:
    """As many as asked for; else one for each core that this process may use, or one for each GPU."""
    if wanted:
        return wanted
    if device != "cpu":
        import torch

        return max(1, torch.cuda.device_count())
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_group_size(wanted: int, placement: Placement, pixels: int) -> int:
    """As many as asked for; else as many as were measured to pay on the kind of device for images of so many pixels."""
    if wanted or placement.trainer == "plain":
        return wanted or 1
    if placement.device == "cpu":
        return GROUP_OF_SMALL if pixels <= SMALL_IMAGE else GROUP_OF_LARGE
    return max(1, min(GROUP_ON_GPU, GROUP_ON_GPU * PIXELS_ON_GPU // pixels))


def evaluation_parts(members: Sequence[Trial], placement: Placement, pixels: int) -> list[list[Trial]]:
    """Cuts a trained group into the parts that are evaluated as one task each: a function of the group alone.

    Members of a part are alike in what only the evaluation uses, so that they can be evaluated as a stack.
    """
    size = len(members)
    if placement.device == "cpu":
        size = EVALUATED_OF_SMALL if pixels <= SMALL_IMAGE else EVALUATED_OF_LARGE
    alike: dict[tuple[int, ...], list[Trial]] = {}
    for member in members:
        alike.setdefault(tuple(getattr(member.config, name) for name in EVALUATION_FIELDS), []).append(member)
    return [each[start : start + size] for each in alike.values() for start in range(0, len(each), size)]
