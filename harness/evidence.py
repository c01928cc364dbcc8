"""A sweep made ready for its questions, and what an answer is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from harness.agreement import Agreement
from harness.lines import Line, axes_of, common, cut, lines_of
from harness.statistics import CONFIDENCE, knee
from harness.tables import Summary

ALPHA = 1 - CONFIDENCE


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
        lines: All of it, as lines.
        best: The line with the lowest loss on the validation split, where sizes are averaged as logarithms.
        agreements: Of its seeds' codes, by measure and latent size; empty where there are few seeds, or no files to read.
    """

    summary: Summary
    lines: tuple[Line, ...]
    best: Line
    agreements: Mapping[str, Mapping[int, Agreement]] = field(default_factory=dict)


def gather_evidence(summary: Summary) -> Evidence | None:
    """Makes a sweep ready; nothing where no trial has finished."""
    lines = lines_of(summary)
    blocks = {line.label: block for line in lines if (block := line.block("val/mse"))}
    if not blocks:
        return None
    shared = common(list(blocks.values()))
    means = {label: float(np.log(cut(block, *axes_of(shared or block)).values).mean()) for label, block in blocks.items()}
    best = min(means, key=means.__getitem__)
    return Evidence(summary, tuple(lines), next(line for line in lines if line.label == best))


def enough(evidence: Evidence) -> int:
    """The latent size at which the best line is looked at: where its loss bends, or the middle one."""
    block = evidence.best.block("reconstruction_loss")
    sizes = evidence.best.sizes
    found = knee(block.sizes, block.values) if block else None
    return min(sizes, key=lambda each: abs(each - found.at.mean)) if found else sizes[len(sizes) // 2]
