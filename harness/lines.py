"""A sweep as lines: trials that differ in latent size and seed only, with their numbers as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from harness.config import TrialRecord
from harness.tables import Row, Summary

Array = npt.NDArray[np.float64]


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
        rows: One a latent size, rising.
    """

    label: str
    rows: tuple[Row, ...]

    @cached_property
    def trials(self) -> dict[tuple[int, int], TrialRecord]:
        """The finished trials by latent size and seed."""
        trials = [record for row in self.rows for record in row.trials]
        return {(each.trial.config.latent_size, each.trial.config.seed): each for each in trials}

    @property
    def sizes(self) -> tuple[int, ...]:
        """Its latent sizes, rising."""
        return tuple(dict.fromkeys(size for size, _ in sorted(self.trials)))

    def block(self, *metrics: str, like: Block | None = None) -> Block | None:
        """The sum of some metrics' values, which is mostly one's, of the seeds and sizes that have them all.

        Args:
            metrics: Names; one after a minus sign is subtracted.
            like: Take no other sizes and seeds than this one has.

        Returns:
            Nothing where no seed has all of the sizes.
        """
        names = [name.removeprefix("-") for name in metrics]
        able = {key: each for key, each in self.trials.items() if all(name in each.metrics for name in names)}
        sizes = sorted({size for size, _ in able} & set(like.sizes if like else self.sizes))
        seeds = sorted({seed for _, seed in able} & set(like.seeds if like else (seed for _, seed in able)))
        seeds = [seed for seed in seeds if all((size, seed) in able for size in sizes)]
        if not sizes or not seeds:
            return None
        chosen = [[able[size, seed] for size in sizes] for seed in seeds]
        values = np.array([[_total(record, metrics) for record in records] for records in chosen])
        return Block(tuple(sizes), tuple(seeds), values, tuple(record.run_id for records in chosen for record in records))


def _total(record: TrialRecord, metrics: Sequence[str]) -> float:
    return sum(-record.metrics[name[1:]] if name.startswith("-") else record.metrics[name] for name in metrics)


def lines_of(summary: Summary) -> list[Line]:
    """All lines of a sweep, in the order of its trials."""
    by_label: dict[str, list[Row]] = {}
    for row in summary.rows:
        by_label.setdefault(line_label(row, summary.axes), []).append(row)
    return [Line(label, tuple(sorted(rows, key=size_of))) for label, rows in by_label.items()]


def line_label(row: Row, axes: Sequence[str]) -> str:
    """Architecture, and what else was varied."""
    more = [f"{name}={row.point[name]}" for name in axes if name not in ("architecture", "latent_size")]
    return ", ".join([row.trials[0].trial.config.architecture, *more])


def size_of(row: Row) -> int:
    """The latent size of a row's trials."""
    return row.trials[0].trial.config.latent_size


def common(blocks: Sequence[Block | None]) -> Block | None:
    """The sizes and seeds that all blocks have, as the first one's block; nothing where there are none or one is missing."""
    able = [block for block in blocks if block is not None]
    if not able or len(able) < len(blocks):
        return None
    sizes = [size for size in able[0].sizes if all(size in block.sizes for block in able)]
    seeds = [seed for seed in able[0].seeds if all(seed in block.seeds for block in able)]
    return cut(able[0], sizes, seeds) if sizes and seeds else None


def axes_of(block: Block) -> tuple[Sequence[int], Sequence[int]]:
    """Its sizes and its seeds."""
    return block.sizes, block.seeds


def cut(block: Block, sizes: Sequence[int], seeds: Sequence[int]) -> Block:
    """The part of a block that has these sizes and seeds."""
    columns, rows = [block.sizes.index(size) for size in sizes], [block.seeds.index(seed) for seed in seeds]
    width = len(block.sizes)
    run_ids = [block.run_ids[row * width + column] for row in rows for column in columns]
    return Block(tuple(sizes), tuple(seeds), block.values[np.ix_(rows, columns)], tuple(run_ids))
