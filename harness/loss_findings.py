"""What a sweep's losses say: how many dimensions, which architecture, and whether no learning at all is as good."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness import wording
from harness.evidence import ALPHA, Claim, Evidence
from harness.lines import Block, Line, together
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

AS_MANY = ", with as many parameters"
"""What is said once of all lines where it is so of each."""

MOST_COMPARED = 4
"""Lines that a sentence compares with the best one."""

FLOORS = {"floor/pca_mse": "PCA", "floor/random_projection_mse": "a random projection", "floor/mean_image_mse": "the mean image"}

PCA_WORDS = {"better": -1, "worse": 1, "not told apart": 0}


def find_dimensions(evidence: Evidence) -> list[Claim]:
    """Where the loss of the best few lines bends; the best line first."""
    return [claim for line in evidence.leading if (claim := _bend(line))]


def _bend(line: Line) -> Claim | None:
    block = line.block("reconstruction_loss")
    if block is None or len(block.sizes) < 2:
        return None
    found = knee(block.sizes, block.values)
    return _no_bend(line, block) if found is None else _bend_at(line, block, found)


def _no_bend(line: Line, block: Block) -> Claim:
    first, last = (mean_interval(block.at(size)) for size in (block.sizes[0], block.sizes[-1]))
    why = "it shows no bend" if len(block.sizes) >= KNEE_POINTS else f"that takes {KNEE_POINTS} latent sizes"
    text = (
        f"The loss of {line.label} goes from {wording.estimate(first, wording.decimal)} at d = {block.sizes[0]} to "
        f"{wording.estimate(last, wording.decimal)} at d = {block.sizes[-1]}; where it bends is not resolved: {why}."
    )
    return Claim("dimensions", text, False, block.run_ids, {"first": first.mean, "last": last.mean})


def _bend_at(line: Line, block: Block, found: Knee) -> Claim:
    sizes = block.sizes
    size = found.first_past(sizes)
    place = sizes.index(size)
    low, high = sizes[max(0, place - 1)], sizes[min(len(sizes) - 1, place + 1)]
    is_resolved = low < found.at.low and found.at.high < high
    where = wording.estimate(found.at, wording.tenths)
    text = f"d = {size} is enough for {line.label}: its loss curve bends at d = {where}."
    if not is_resolved:
        needed = replicates_for_width(found.at, min(found.at.mean - low, high - found.at.mean))
        text = f"Where the loss curve of {line.label} bends, at d = {where}, {wording.unresolved(len(block.seeds), needed)}."
    text += (
        f" Up to there each further dimension takes {wording.decimal(-found.before)} off the reconstruction loss, beyond it "
        f"{_beyond(found.after)}."
    )
    numbers = {"size": size, "knee": found.at.mean, "low": found.at.low, "high": found.at.high}
    if size != sizes[-1]:
        rest = mean_interval(-np.expm1(np.log(block.at(sizes[-1])) - np.log(block.at(size))))
        text += f" From d = {size} to d = {sizes[-1]} it {_rest(rest)}."
        numbers["left"] = rest.mean
    return Claim("dimensions", text, is_resolved, block.run_ids, numbers)


def _beyond(slope: float) -> str:
    return wording.decimal(-slope) if slope <= 0 else f"adds {wording.decimal(slope)} to it"


def _rest(fall: Interval) -> str:
    """How the loss goes on beyond the size that is enough."""
    if fall.excludes(0):
        word, value = ("falls by another", fall) if fall.mean > 0 else ("rises by", fall.mapped(lambda share: -share))
        return f"{word} {wording.estimate(value, wording.percent)}"
    change = fall.mapped(lambda share: -share)
    return f"changes by {wording.estimate(change, lambda share: f'{100 * share:+.1f} %')}, which is not resolved"


@dataclass(frozen=True)
class Rival:
    """A line compared with the best one, seed by seed, the logarithms of the loss averaged over the sizes that both have.

    Attributes:
        line: The other one.
        ratio: Loss of the best over that of the other, geometric mean over sizes.
        test: Of the logarithms; the best minus the other.
        differences: Of the logarithms, one a seed.
        sizes: That both have.
        run_ids: Of both.
    """

    line: Line
    ratio: Interval
    test: Paired
    differences: tuple[float, ...]
    sizes: tuple[int, ...]
    run_ids: tuple[str, ...]

    @property
    def is_beaten(self) -> bool:
        """Whether the best line's loss is surely lower."""
        return self.test.corrected < ALPHA and self.ratio.mean < 1


def rivals(evidence: Evidence, metric: str = "reconstruction_loss") -> list[Rival]:
    """All other lines that can be compared, the nearest first; corrected for all of them."""
    others = [line for line in evidence.lines if line not in (evidence.best, *evidence.left_out)]
    found = [rival for line in others if (rival := _rival(evidence.best, line, metric))]
    tests = correct([rival.test for rival in found])
    corrected = [replace(each, test=test) for each, test in zip(found, tests, strict=True)]
    return sorted(corrected, key=lambda rival: -rival.ratio.mean)


def _rival(best: Line, other: Line, metric: str) -> Rival | None:
    blocks = together([(best, [metric]), (other, [metric])])
    if not blocks:
        return None
    own, others = blocks
    first, second = (np.log(block.values).mean(axis=1) for block in blocks)
    test = compare_paired(first, second)
    differences = tuple(map(float, first - second))
    return Rival(other, test.difference.mapped(math.exp), test, differences, own.sizes, own.run_ids + others.run_ids)


def find_architecture(evidence: Evidence) -> list[Claim]:
    """How much lower the loss of the best line is than that of the others."""
    found, left_out = rivals(evidence), _left_out(evidence)
    if not found:
        text = f"Which of the lines is best is not resolved: only {evidence.best.label} can be looked at.{left_out}"
        return [Claim("architecture", text, False, _runs_of(evidence.best))] if left_out else []
    shown = found[:MOST_COMPARED]
    costs = [_cost(evidence.best, rival.line) for rival in found]
    has_one_cost = len(costs) > 1 and set(costs) == {AS_MANY}
    parts = "; ".join(_against(rival) + ("" if has_one_cost else cost) for rival, cost in zip(shown, costs, strict=False))
    text = (
        f"By the validation loss {evidence.best.label} is best. On the test split, {_where(evidence.best, found)}, its loss is "
        f"{parts}{_more(found[MOST_COMPARED:])}.{' All of these have as many parameters.' if has_one_cost else ''}"
    )
    is_resolved = all(rival.is_beaten for rival in found)
    if not is_resolved:
        text += _what_would_tell(found)
    run_ids = tuple(dict.fromkeys(run_id for rival in found for run_id in rival.run_ids))
    numbers = {f"ratio to {rival.line.label}": rival.ratio.mean for rival in shown}
    return [Claim("architecture", text + left_out, is_resolved, run_ids, numbers)]


def _left_out(evidence: Evidence) -> str:
    if not evidence.left_out:
        return ""
    names = [line.label for line in evidence.left_out]
    more = [f"{len(names) - MOST_COMPARED} more"] if len(names) > MOST_COMPARED else []
    return (
        f" Left out {'is' if len(names) == 1 else 'are'} {wording.listed([*names[:MOST_COMPARED], *more])}, with too few latent "
        "sizes and seeds in common with the others."
    )


def _runs_of(line: Line) -> tuple[str, ...]:
    return tuple(record.run_id for record in line.trials.values())


def _where(best: Line, found: Sequence[Rival]) -> str:
    """The latent sizes of the comparisons."""
    sizes = {rival.sizes for rival in found}
    if len(sizes) > 1:
        return "over the latent sizes that both have"
    (both,) = sizes
    return (
        "over all latent sizes"
        if both == best.sizes and len(both) > 1
        else f"{'over' if both[1:] else 'at'} {wording.sizes(both)}"
    )


def _more(others: Sequence[Rival]) -> str:
    if not others:
        return ""
    number = sum(not rival.is_beaten for rival in others)
    open_ones = f", {number} of them not resolved" if number else ""
    return f"; that of {len(others)} more is further off{open_ones}"


def _against(rival: Rival) -> str:
    word, sign = ("lower", 1) if rival.ratio.mean <= 1 else ("higher", -1)
    shown = wording.estimate(rival.ratio.mapped(lambda ratio: sign * (1 - ratio)), wording.percent)
    return f"{shown} {word} than that of {rival.line.label}{wording.tested(rival.test.corrected)}"


def _cost(best: Line, other: Line) -> str:
    own, others = best.block("cost/parameters"), other.block("cost/parameters")
    if own is None or others is None:
        return ""
    return f", with {wording.times(float(own.values.mean() / others.values.mean()))} parameters"


def _what_would_tell(found: Sequence[Rival]) -> str:
    open_ones = [rival for rival in found if not rival.is_beaten]
    more = [f"{len(open_ones) - MOST_COMPARED} more"] if len(open_ones) > MOST_COMPARED else []
    names = wording.listed([*(rival.line.label for rival in open_ones[:MOST_COMPARED]), *more])
    needed = [replicates_to_tell(rival.differences, ALPHA / len(found)) for rival in open_ones]
    most = None if None in needed else max(each for each in needed if each is not None)
    return f" The difference from {names} {wording.unresolved(min(rival.ratio.count for rival in open_ones), most)}."


def find_floors(evidence: Evidence) -> list[Claim]:
    """At which sizes the best line beats PCA, and the order of what needs no learning."""
    blocks = together([(evidence.best, [name]) for name in ("reconstruction_loss", "floor/pca_mse")])
    if not blocks:
        return []
    block, floor = blocks
    signs = {size: _sign(mean_interval(np.log(block.at(size)) - np.log(floor.at(size)))) for size in block.sizes}
    groups = {word: [size for size in block.sizes if signs[size] == sign] for word, sign in PCA_WORDS.items()}
    parts = [f"{word} at {wording.sizes(found)}" for word, found in groups.items() if found]
    is_resolved = len(block.seeds) > 1 and _turns_once_at_most([signs[size] for size in block.sizes])
    what = "What is not told apart" if groups["not told apart"] else "This"
    hedge = "" if is_resolved else f" {what} {wording.unsettled(len(block.seeds))}."
    text = f"Against PCA with as many components {evidence.best.label} is {'; '.join(parts)}.{hedge}"
    numbers: dict[str, float] = {f"d = {size}": sign for size, sign in signs.items()}
    return [Claim("floors", f"{text} {_ranking(evidence.best, block)}", is_resolved, block.run_ids, numbers)]


def _turns_once_at_most(signs: Sequence[int]) -> bool:
    """Whether all differences are told apart, but for one between better and worse ones, where the curves cross."""
    open_places = [place for place, sign in enumerate(signs) if sign == 0]
    if len(open_places) != 1:
        return not open_places
    (place,) = open_places
    return 0 < place < len(signs) - 1 and signs[place - 1] * signs[place + 1] < 0


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
