"""What a sweep's losses say: how many dimensions, which architecture, and whether no learning at all is as good."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness import wording
from harness.evidence import ALPHA, Claim, Evidence
from harness.lines import Block, Line, axes_of, common, cut
from harness.statistics import (
    KNEE_POINTS,
    Interval,
    Knee,
    Paired,
    compare_paired,
    correct,
    knee,
    mean_interval,
    replicates_for_width,
    replicates_to_tell,
)

MOST_COMPARED = 4
"""Lines that a sentence compares with the best one."""

FLOORS = {"floor/pca_mse": "PCA", "floor/random_projection_mse": "a random projection", "floor/mean_image_mse": "the mean image"}

PCA_WORDS = {"better": -1, "worse": 1, "not told apart": 0}


def find_dimensions(evidence: Evidence) -> list[Claim]:
    """Where the loss of each line bends; the best line first."""
    lines = [evidence.best, *(line for line in evidence.lines if line is not evidence.best)]
    return [claim for line in lines if (claim := _bend(line))]


def _bend(line: Line) -> Claim | None:
    block = line.block("reconstruction_loss")
    if block is None or len(block.sizes) < 2:
        return None
    found = knee(block.sizes, block.values)
    return _no_bend(line, block) if found is None else _bend_at(line, block, found)


def _no_bend(line: Line, block: Block) -> Claim:
    first, last = (mean_interval(block.at(size)) for size in (block.sizes[0], block.sizes[-1]))
    why = "it shows no bend" if len(block.sizes) >= KNEE_POINTS else f"to see where it bends takes {KNEE_POINTS} latent sizes"
    text = (
        f"The loss of {line.label} goes from {wording.estimate(first, wording.decimal)} at d = {block.sizes[0]} to "
        f"{wording.estimate(last, wording.decimal)} at d = {block.sizes[-1]}; {why}."
    )
    return Claim("dimensions", text, False, block.run_ids, {"first": first.mean, "last": last.mean})


def _bend_at(line: Line, block: Block, found: Knee) -> Claim:
    sizes = block.sizes
    size = min(sizes, key=lambda each: abs(each - found.at.mean))
    place = sizes.index(size)
    low, high = sizes[max(0, place - 1)], sizes[min(len(sizes) - 1, place + 1)]
    is_resolved = low < found.at.low and found.at.high < high
    where = wording.estimate(found.at, wording.tenths)
    text = f"d = {size} is enough for {line.label}: its loss curve bends at d = {where}."
    if not is_resolved:
        needed = replicates_for_width(found.at.mapped(math.log), math.log(min(found.at.mean / low, high / found.at.mean)))
        text = f"Where the loss curve of {line.label} bends, at d = {where}, {wording.unresolved(len(block.seeds), needed)}."
    text += (
        f" Up to there each doubling of d takes {wording.percent(-math.expm1(found.before))} off the reconstruction loss, "
        f"beyond it {wording.percent(-math.expm1(found.after))}."
    )
    numbers = {"size": size, "knee": found.at.mean, "low": found.at.low, "high": found.at.high}
    if size != sizes[-1]:
        rest = mean_interval(-np.expm1(np.log(block.at(sizes[-1])) - np.log(block.at(size))))
        text += f" From d = {size} to d = {sizes[-1]} it falls by another {wording.estimate(rest, wording.percent)}."
        numbers["left"] = rest.mean
    return Claim("dimensions", text, is_resolved, block.run_ids, numbers)


@dataclass(frozen=True)
class Rival:
    """A line compared with the best one, seed by seed, the logarithms of the loss averaged over the sizes that both have.

    Attributes:
        line: The other one.
        ratio: Loss of the best over that of the other, geometric mean over sizes.
        test: Of the logarithms; the best minus the other.
        differences: Of the logarithms, one a seed.
        run_ids: Of both.
    """

    line: Line
    ratio: Interval
    test: Paired
    differences: tuple[float, ...]
    run_ids: tuple[str, ...]


def rivals(evidence: Evidence, metric: str = "reconstruction_loss") -> list[Rival]:
    """All other lines, the nearest first; corrected for all of them."""
    found = [rival for line in evidence.lines if line is not evidence.best and (rival := _rival(evidence.best, line, metric))]
    tests = correct([rival.test for rival in found])
    corrected = [
        Rival(each.line, each.ratio, test, each.differences, each.run_ids) for each, test in zip(found, tests, strict=True)
    ]
    return sorted(corrected, key=lambda rival: -rival.ratio.mean)


def _rival(best: Line, other: Line, metric: str) -> Rival | None:
    own, others = best.block(metric), other.block(metric)
    shared = common([own, others])
    if own is None or others is None or shared is None:
        return None
    own, others = cut(own, *axes_of(shared)), cut(others, *axes_of(shared))
    first, second = (np.log(block.values).mean(axis=1) for block in (own, others))
    test = compare_paired(first, second)
    return Rival(other, test.difference.mapped(math.exp), test, tuple(first - second), own.run_ids + others.run_ids)


def find_architecture(evidence: Evidence) -> list[Claim]:
    """How much lower the loss of the best line is than that of the others."""
    found = rivals(evidence)
    if not found:
        return []
    shown = found[:MOST_COMPARED]
    more = f", and {len(found) - len(shown)} more are further off" if len(found) > len(shown) else ""
    parts = "; ".join(_against(evidence.best, rival) for rival in shown)
    sizes = "over all latent sizes" if len(evidence.best.sizes) > 1 else wording.sizes(evidence.best.sizes)
    text = f"By the validation loss {evidence.best.label} is best. On the test split, {sizes}, its loss is {parts}{more}."
    is_resolved = all(rival.test.corrected < ALPHA and rival.ratio.mean < 1 for rival in shown)
    if not is_resolved:
        text += _what_would_tell(shown)
    run_ids = tuple(dict.fromkeys(run_id for rival in found for run_id in rival.run_ids))
    numbers = {f"ratio to {rival.line.label}": rival.ratio.mean for rival in shown}
    return [Claim("architecture", text, is_resolved, run_ids, numbers)]


def _against(best: Line, rival: Rival) -> str:
    word, sign = ("lower", 1) if rival.ratio.mean <= 1 else ("higher", -1)
    shown = wording.estimate(rival.ratio.mapped(lambda ratio: sign * (1 - ratio)), wording.percent)
    tested = "" if math.isnan(rival.test.corrected) else f" ({wording.p_value(rival.test.corrected)})"
    return f"{shown} {word} than that of {rival.line.label}{tested}{_cost(best, rival.line)}"


def _cost(best: Line, other: Line) -> str:
    own, others = best.block("cost/parameters"), other.block("cost/parameters")
    if own is None or others is None:
        return ""
    return f", with {wording.times(float(own.values.mean() / others.values.mean()))} parameters"


def _what_would_tell(shown: Sequence[Rival]) -> str:
    open_ones = [rival for rival in shown if not (rival.test.corrected < ALPHA and rival.ratio.mean < 1)]
    names = wording.listed([rival.line.label for rival in open_ones])
    needed = [replicates_to_tell(rival.differences, ALPHA / len(shown)) for rival in open_ones]
    most = None if None in needed else max(each for each in needed if each is not None)
    return f" The difference from {names} {wording.unresolved(open_ones[0].ratio.count, most)}."


def find_floors(evidence: Evidence) -> list[Claim]:
    """At which sizes the best line beats PCA, and the order of what needs no learning."""
    block, floor = (evidence.best.block(name) for name in ("reconstruction_loss", "floor/pca_mse"))
    shared = common([block, floor])
    if block is None or floor is None or shared is None:
        return []
    block, floor = cut(block, *axes_of(shared)), cut(floor, *axes_of(shared))
    signs = {size: _sign(mean_interval(np.log(block.at(size)) - np.log(floor.at(size)))) for size in block.sizes}
    groups = {word: [size for size in block.sizes if signs[size] == sign] for word, sign in PCA_WORDS.items()}
    parts = [f"{word} at {wording.sizes(found)}" for word, found in groups.items() if found]
    text = f"Against PCA with as many components {evidence.best.label} is {'; '.join(parts)}. {_ranking(evidence.best, block)}"
    is_resolved = len(block.seeds) > 1 and len(groups["not told apart"]) <= 1  # one between the better and the worse ones
    return [Claim("floors", text, is_resolved, block.run_ids, {f"d = {size}": sign for size, sign in signs.items()})]


def _sign(difference: Interval) -> int:
    """Of a difference that is beyond doubt; of a single replicate's as it is."""
    if difference.count > 1 and not difference.excludes(0):
        return 0
    return -1 if difference.mean < 0 else 1


def _ranking(line: Line, block: Block) -> str:
    size = block.sizes[len(block.sizes) // 2]
    levels = {line.label: float(block.at(size).mean())}
    for name, label in FLOORS.items():
        floor = line.block(name, like=block)
        if floor is not None and size in floor.sizes:
            levels[label] = float(floor.at(size).mean())
    ranked = [f"{label} {wording.decimal(levels[label])}" for label in sorted(levels, key=levels.__getitem__)]
    return f"In order, at d = {size}: {wording.listed(ranked)}."
