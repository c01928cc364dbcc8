"""A sweep made ready for its questions, and what an answer is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.agreement import Agreement
from harness.config import EVALUATION_FIELDS
from harness.lines import Key, Line, complete_keys, identity_of, lines_of, together
from harness.statistics import CONFIDENCE, knee
from harness.tables import Summary

ALPHA = 1 - CONFIDENCE

CHOSEN_BY = "val/mse"

LEAST_SHARED = 0.5
"""Of the fullest line's trials: what all lines that are compared have in common. A line that lacks more is left out."""

MOST_LINES = 4
"""Lines that have a sentence of their own where there are more."""


@dataclass(frozen=True)
class Claim:
    """A sentence and what it rests on.

    Attributes:
        topic: Key of the question in ``FINDINGS``.
        text: The sentence, or a few.
        is_resolved: Whether the replicates settle it.
        run_ids: The runs whose numbers it is made from.
        numbers: Those of the sentence, not rounded.
    """

    topic: str
    text: str
    is_resolved: bool
    run_ids: tuple[str, ...]
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Evidence:
    """A sweep, made ready for its questions.

    Attributes:
        summary: In numbers.
        lines: Its autoencoders as lines; those that only the evaluation tells apart are one.
        evaluated: All of it as lines, those that only the evaluation tells apart each for itself.
        ranked: The lines, the lowest loss on the validation split first, where sizes are averaged as logarithms; then the
            ones left out.
        left_out: Lines with too few sizes and seeds in common with the others to be compared.
        agreements: Of the codes of the best line's seeds, by measure and latent size; empty where there are few seeds, or no
            files to read.
    """

    summary: Summary
    lines: tuple[Line, ...]
    evaluated: tuple[Line, ...]
    ranked: tuple[Line, ...]
    left_out: tuple[Line, ...] = ()
    agreements: Mapping[str, Mapping[int, Agreement]] = field(default_factory=dict)

    @property
    def best(self) -> Line:
        """The line with the lowest loss on the validation split."""
        return self.ranked[0]

    @property
    def leading(self) -> tuple[Line, ...]:
        """The best few lines."""
        return self.ranked[:MOST_LINES]

    @property
    def best_evaluated(self) -> Line:
        """The best line with its fewest labels."""
        own = identity_of(self.best.config, EVALUATION_FIELDS)
        able = [line for line in self.evaluated if identity_of(line.config, EVALUATION_FIELDS) == own]
        return min(able, key=lambda line: line.config.labels)


def gather_evidence(summary: Summary) -> Evidence | None:
    """Makes a sweep ready; nothing where no trial has finished."""
    lines = [line for line in lines_of(summary, EVALUATION_FIELDS) if line.block(CHOSEN_BY)]
    if not lines:
        return None
    evaluated = tuple(lines_of(summary))
    if any(record.trial.proposal for row in summary.rows for record in row.trials):
        return Evidence(summary, tuple(lines), evaluated, tuple(_by_loss(lines)))  # a search compares sizes, too
    compared = _comparable(lines)
    left_out = tuple(line for line in lines if line not in compared)
    return Evidence(summary, tuple(lines), evaluated, (*_by_loss(compared, shared=True), *left_out), left_out)


def _comparable(lines: Sequence[Line]) -> list[Line]:
    """The fullest line and those that have enough sizes and seeds in common with it and with one another."""
    keys = {line.label: line.able([CHOSEN_BY]) for line in lines}
    first, *others = sorted(lines, key=lambda line: -_area(keys[line.label]))
    chosen, shared = [first], keys[first.label]
    least = LEAST_SHARED * _area(shared)
    for line in others:
        if _area(keys[line.label] & shared) >= least:
            chosen.append(line)
            shared &= keys[line.label]
    return chosen


def _area(keys: Collection[Key]) -> int:
    seeds, sizes = complete_keys(keys)
    return len(seeds) * len(sizes)


def _by_loss(lines: Sequence[Line], shared: bool = False) -> list[Line]:
    """The lowest first; over the sizes and seeds that all have, or each over its own."""
    blocks = together([(line, [CHOSEN_BY]) for line in lines]) if shared else [line.block(CHOSEN_BY) for line in lines]
    means = {line.label: float(np.log(block.values).mean()) for line, block in zip(lines, blocks, strict=True) if block}
    return sorted(lines, key=lambda line: means[line.label])


def enough(evidence: Evidence) -> int:
    """The latent size at which the best line is looked at: where its loss bends, or the middle one."""
    block = evidence.best.block("reconstruction_loss")
    sizes = evidence.best.sizes
    found = knee(block.sizes, block.values) if block else None
    return found.first_past(sizes) if found else sizes[len(sizes) // 2]
