"""A sweep as lines: trials that differ in latent size and seed only, with their numbers as arrays."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.complete import complete_part
from harness.config import TrialConfig, TrialRecord
from harness.confirmation import is_confirmation, without_chosen
from harness.tables import Row, Summary, short_text

Array = npt.NDArray[np.float64]

Key = tuple[int, int]
"""Latent size and seed."""


@dataclass(frozen=True)
class Block:
    """One metric of a line, complete.

    Attributes:
        sizes: Latent sizes, (m,), rising.
        seeds: Those that every size has, (n,).
        values: (n, m).
        run_ids: Of the trials.
    """

    sizes: tuple[int, ...]
    seeds: tuple[int, ...]
    values: Array
    run_ids: tuple[str, ...]

    def at(self, size: int) -> Array:
        """The values of one latent size, (n,)."""
        column: Array = self.values[:, self.sizes.index(size)]
        return column


@dataclass(frozen=True)
class Line:
    """Trials that differ in latent size and seed only.

    Attributes:
        label: What tells it from the others of its sweep.
        rows: By rising latent size.
    """

    label: str
    rows: tuple[Row, ...]

    @cached_property
    def trials(self) -> dict[Key, TrialRecord]:
        """The finished trials by latent size and seed; of trials that only the evaluation tells apart the first one."""
        trials: dict[Key, TrialRecord] = {}
        for record in (record for row in self.rows for record in row.trials):
            trials.setdefault((record.trial.config.latent_size, record.trial.config.seed), record)
        return trials

    @property
    def sizes(self) -> tuple[int, ...]:
        """Its latent sizes, rising."""
        return tuple(dict.fromkeys(size for size, _ in sorted(self.trials)))

    @property
    def config(self) -> TrialConfig:
        """Of its first trial."""
        return self.rows[0].trials[0].trial.config

    @cached_property
    def identity(self) -> TrialConfig:
        """What all of its trials have in common: equal for lines that only the label tells apart."""
        return identity_of(self.config)

    def able(self, metrics: Sequence[str]) -> frozenset[Key]:
        """The trials that have all of some metrics; a minus sign before a name is left out of account."""
        names = [name.removeprefix("-") for name in metrics]
        return frozenset(key for key, each in self.trials.items() if all(name in each.metrics for name in names))

    def block(self, *metrics: str, like: Block | None = None) -> Block | None:
        """The sum of some metrics' values, which is mostly one's, where as few trials as can be are left out.

        Args:
            metrics: Names; one after a minus sign is subtracted.
            like: Take no other sizes and seeds than this one has.

        Returns:
            Nothing where no sizes and seeds are complete.
        """
        found = together([(self, metrics)], like)
        return found[0] if found else None


def together(parts: Sequence[tuple[Line, Sequence[str]]], like: Block | None = None) -> list[Block]:
    """Blocks over the same sizes and seeds: those that all lines have, where as few trials as can be are left out.

    Args:
        parts: Lines and the metrics to add up, as in ``Line.block``.
        like: Take no other sizes and seeds than this one has.

    Returns:
        One a part; empty where they have nothing in common.
    """
    keys = frozenset.intersection(*(line.able(metrics) for line, metrics in parts))
    if like:
        keys = frozenset((size, seed) for size, seed in keys if size in like.sizes and seed in like.seeds)
    seeds, sizes = complete_keys(keys)
    return [_block(line, metrics, sizes, seeds) for line, metrics in parts] if seeds else []


def complete_keys(keys: Iterable[Key]) -> tuple[list[int], list[int]]:
    """Of some trials the seeds and the sizes of which none is missing, both rising."""
    by_seed: dict[int, set[int]] = {}
    for size, seed in keys:
        by_seed.setdefault(seed, set()).add(size)
    seeds, sizes = complete_part(by_seed)
    return seeds, sorted(sizes)


def _block(line: Line, metrics: Sequence[str], sizes: Sequence[int], seeds: Sequence[int]) -> Block:
    chosen = [[line.trials[size, seed] for size in sizes] for seed in seeds]
    values = np.array([[_total(record, metrics) for record in records] for records in chosen])
    return Block(tuple(sizes), tuple(seeds), values, tuple(record.run_id for records in chosen for record in records))


def _total(record: TrialRecord, metrics: Sequence[str]) -> float:
    return sum(-record.metrics[name[1:]] if name.startswith("-") else record.metrics[name] for name in metrics)


def lines_of(summary: Summary, pooled: Collection[str] = ()) -> list[Line]:
    """All lines of a sweep, in the order of its trials.

    Single proposals of a search are no lines; where there is nothing else, the best one stands for the sweep.

    Args:
        summary: Of the sweep.
        pooled: Fields in which the trials of a line may differ, too.
    """
    rows = rows_by_line(_replicated(summary.rows), summary.axes, pooled)
    return [Line(label, tuple(each)) for label, each in rows.items()]


def _replicated(rows: Sequence[Row]) -> list[Row]:
    """Those of a grid, and the confirmations of a search; of a search without them the best by the validation loss."""
    found = [row for row in rows if not all(map(is_single, row.trials))]
    able = [row for row in rows if "val/mse" in row.metrics]
    return found or sorted(able, key=lambda row: row.metrics["val/mse"].mean)[:1]


def is_single(record: TrialRecord) -> bool:
    """Whether a search proposed this trial, which has no replicates but its confirmations."""
    return bool(record.trial.proposal) and not is_confirmation(record.trial.number)


def rows_by_line(rows: Sequence[Row], axes: Sequence[str], pooled: Collection[str] = ()) -> dict[str, list[Row]]:
    """Rows that differ in latent size and the pooled fields only, rising, by what tells them from the others.

    That is the architecture and what else was varied, or the one choice that tells each from the first where each changes one;
    where that is not enough, the fields in which they differ. A search's
    trial that was trained again from fresh seeds is in none: it was chosen, and is no replicate of those.
    """
    kept = {each.trial.number for each in without_chosen(record for row in rows for record in row.trials)}
    by_identity: dict[TrialConfig, list[Row]] = {}
    for row in rows:
        if any(record.trial.number in kept for record in row.trials):
            by_identity.setdefault(identity_of(row.trials[0].trial.config, pooled), []).append(row)
    names = [name for name in axes if name not in ("architecture", "latent_size", *pooled)]
    labels = _labels([*by_identity], names, has_first=any(record.trial.number == 0 for row in rows for record in row.trials))
    return {labels[identity]: sorted(each, key=size_of) for identity, each in by_identity.items()}


def identity_of(config: TrialConfig, pooled: Collection[str] = ()) -> TrialConfig:
    """A configuration with its latent size, its seed and the pooled fields set to fixed values."""
    usual = TrialConfig()
    return replace(config, latent_size=1, seed=0, **{name: getattr(usual, name) for name in pooled})


def _labels(configs: Sequence[TrialConfig], names: Sequence[str], has_first: bool) -> dict[TrialConfig, str]:
    """Names in few words; those that share one have all fields in which they differ, to the last digit.

    Args:
        configs: Of the lines.
        names: Fields that were varied.
        has_first: Whether the first line is the sweep's first, which names may leave out what they share with.
    """
    sharing: dict[str, list[TrialConfig]] = {}
    telling = _telling(configs, names) if has_first else [list(names)] * len(configs)
    for config, own in zip(configs, telling, strict=True):
        sharing.setdefault(_label(config, own, short_text), []).append(config)
    return {
        config: label if len(alike) == 1 else _label(config, dict.fromkeys([*names, *_differing(alike)]), str)
        for label, alike in sharing.items()
        for config in alike
    }


def _telling(configs: Sequence[TrialConfig], names: Sequence[str]) -> list[list[str]]:
    """Of each configuration the fields that tell it from the others: where each changes one choice of the first, that one."""
    changed = [[name for name in names if getattr(config, name) != getattr(configs[0], name)] for config in configs]
    is_one_at_a_time = len(set(chain(*changed))) > 1 and all(len(own) <= 1 for own in changed)
    return changed if is_one_at_a_time else [list(names)] * len(configs)


def _label(config: TrialConfig, names: Iterable[str], write: Callable[[Any], str]) -> str:
    return ", ".join([config.architecture, *(f"{name}={write(getattr(config, name))}" for name in names)])


def _differing(configs: Sequence[TrialConfig]) -> list[str]:
    names = [each.name for each in fields(TrialConfig)]
    return [name for name in names if len({getattr(config, name) for config in configs}) > 1]


def size_of(row: Row) -> int:
    """The latent size of a row's trials."""
    return row.trials[0].trial.config.latent_size


def cut(block: Block, sizes: Sequence[int], seeds: Sequence[int]) -> Block:
    """The part of a block that has these sizes and seeds."""
    columns, rows = [block.sizes.index(size) for size in sizes], [block.seeds.index(seed) for seed in seeds]
    width = len(block.sizes)
    run_ids = [block.run_ids[row * width + column] for row in rows for column in columns]
    return Block(tuple(sizes), tuple(seeds), block.values[np.ix_(rows, columns)], tuple(run_ids))
