"""What a sweep's classifiers say: whether the codes are of use with a handful of labels, and how the encoder is best used."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness import wording
from harness.evaluation import TRANSFER_MODES
from harness.evidence import ALPHA, Claim, Evidence
from harness.lines import Block, Line, axes_of, common, cut
from harness.statistics import (
    Paired,
    compare_paired,
    correct,
    holm,
    mean_interval,
    non_inferior,
    replicates_to_tell,
)

MARGIN = 0.02
"""Of accuracy: what a smaller code may lose and still be called as good."""


def find_labels(evidence: Evidence) -> list[Claim]:
    """The smallest code that is about as good as the best one for a classifier, then how the codes compare with raw pixels."""
    block = evidence.best.block("transfer_accuracy")
    if block is None:
        return []
    claims = [_smallest(evidence.best, block)] if len(block.sizes) > 1 else []
    return [*claims, *_against_pixels(evidence.best, block)]


def _smallest(line: Line, block: Block) -> Claim:
    best = block.sizes[int(block.values.mean(axis=0).argmax())]
    others = [size for size in block.sizes if size != best]
    p_values = dict(zip(others, _holm([non_inferior(block.at(size), block.at(best), MARGIN) for size in others]), strict=True))
    able = [size for size in others if size < best and p_values[size] < ALPHA]
    labels = line.rows[0].trials[0].trial.config.labels
    of = f"for a classifier with {labels} labels on the frozen codes of {line.label}"
    top = f"{wording.estimate(mean_interval(block.at(best)), wording.accuracy)} at the best size, d = {best}"
    if able:
        size = able[0]
        reached = wording.estimate(mean_interval(block.at(size)), wording.accuracy)
        text = (
            f"d = {size} is enough {of}: its accuracy is {reached}, against {top}; that it is worse by "
            f"{wording.points(MARGIN)} or more is excluded ({wording.p_value(p_values[size])})."
        )
        return Claim("labels", text, True, block.run_ids, {"size": size, "best": best, "p": p_values[size]})
    if best == block.sizes[0]:
        text = f"The smallest code, d = {best}, is the best {of}: {top}."
        return Claim("labels", text, len(block.seeds) > 1, block.run_ids, {"size": best, "best": best})
    near = [size for size in others if size < best and (block.at(size) - block.at(best)).mean() > -MARGIN]
    if not near:
        is_resolved = _all_lose(block, best)
        lost = f"every smaller code loses {wording.points(MARGIN)} or more"
        text = f"d = {best} is needed {of}: its accuracy is {top}, and {lost}."
        if not is_resolved:
            nearest = max(size for size in others if size < best)
            needed = replicates_to_tell(block.at(nearest) - block.at(best), ALPHA / len(others))
            text = f"Whether d = {best} is needed {of} {wording.unresolved(len(block.seeds), needed)}: {top}, and {lost}."
        return Claim("labels", text, is_resolved, block.run_ids, {"size": best, "best": best})
    needed = replicates_to_tell(block.at(near[0]) - block.at(best) + MARGIN, 2 * ALPHA / len(others))
    text = (
        f"Whether d = {near[0]} is as good as d = {best} {of}, to within {wording.points(MARGIN)}, "
        f"{wording.unresolved(len(block.seeds), needed)}. The accuracy is "
        f"{wording.estimate(mean_interval(block.at(near[0])), wording.accuracy)} there and {top}."
    )
    return Claim("labels", text, False, block.run_ids, {"size": near[0], "best": best})


def _holm(p_values: Sequence[float]) -> list[float]:
    return list(p_values) if any(math.isnan(value) for value in p_values) else holm(p_values)


def _all_lose(block: Block, best: int) -> bool:
    smaller = [compare_paired(block.at(size), block.at(best)) for size in block.sizes if size < best]
    return all(each.corrected < ALPHA for each in correct(smaller))


def _against_pixels(line: Line, block: Block) -> list[Claim]:
    pixels = line.block("transfer/raw_pixels_accuracy", like=block)
    if pixels is None or axes_of(pixels) != axes_of(block):
        return []
    size = block.sizes[int(block.values.mean(axis=0).argmax())]
    found = compare_paired(block.at(size), pixels.at(size))
    gain = found.difference
    word = "more" if gain.mean >= 0 else "less"
    ends = gain.mapped(abs)  # only shown where both ends are on one side of 0
    reached = f"{wording.accuracy(float(pixels.at(size).mean()))} on the raw pixels with the same labels"
    if found.p_value < ALPHA:
        text = (
            f"The codes of {line.label} are of use: at d = {size} the classifier reaches "
            f"{wording.estimate(ends, wording.points)} more than {reached}."
            if gain.mean > 0
            else f"The codes of {line.label} are of no use to the classifier: it reaches {reached}, and on the codes, "
            f"at d = {size}, {wording.estimate(ends, wording.points)} less."
        )
    else:
        needed = replicates_to_tell(block.at(size) - pixels.at(size))
        text = (
            f"Whether the codes of {line.label} are better for the classifier than the pixels "
            f"{wording.unresolved(gain.count, needed)}: it reaches {reached}, and at d = {size} {wording.points(gain.mean)} "
            f"{word}."
        )
    return [Claim("labels", text, found.p_value < ALPHA, block.run_ids, {"gain": gain.mean, "p": found.p_value})]


def find_modes(evidence: Evidence) -> list[Claim]:
    """Whether the encoder should be trained along, and when each way turns to overfitting."""
    blocks = {mode: evidence.best.block(f"transfer/{mode}_accuracy") for mode in TRANSFER_MODES}
    shared = common(list(blocks.values()))
    if shared is None:
        return []
    means = {mode: cut(block, *axes_of(shared)).values.mean(axis=1) for mode, block in blocks.items() if block}
    best, *others = sorted(means, key=lambda mode: -means[mode].mean())
    tests = correct([compare_paired(means[best], means[mode]) for mode in others])
    parts = [_behind(mode, test) for mode, test in zip(others, tests, strict=True)]
    text = (
        f"Of the three ways to use the encoder of {evidence.best.label}, {best} is best over all latent sizes: accuracy "
        f"{wording.estimate(mean_interval(means[best]), wording.accuracy)}; {wording.listed(parts)}."
    )
    open_ones = [index for index, test in enumerate(tests) if not test.corrected < ALPHA]
    if open_ones:
        needed = [replicates_to_tell(means[best] - means[others[index]], ALPHA / len(others)) for index in open_ones]
        most = None if None in needed else max(each for each in needed if each is not None)
        names = wording.listed([others[index] for index in open_ones])
        text += f" The difference from {names} {wording.unresolved(len(shared.seeds), most)}."
    numbers = {mode: float(values.mean()) for mode, values in means.items()}
    claim = Claim("modes", text, not open_ones, shared.run_ids, numbers)
    return [claim, *_turns(evidence.best)]


def _behind(mode: str, test: Paired) -> str:
    tested = "" if math.isnan(test.corrected) else f" ({wording.p_value(test.corrected)})"
    ends = wording.interval(test.difference, lambda value: f"{100 * value:.1f}")
    return f"{mode} reaches {wording.points(test.difference.mean)} less{ends}{tested}"


def _turns(line: Line) -> list[Claim]:
    """When the test loss of each way is lowest; a line may have ended before."""
    blocks = {mode: block for mode in TRANSFER_MODES if (block := line.block(f"transfer/{mode}_best_epoch"))}
    if len(blocks) < len(TRANSFER_MODES):
        return []
    last = line.rows[0].trials[0].trial.config.transfer_epochs
    means = {mode: mean_interval(block.values.mean(axis=1)) for mode, block in blocks.items()}
    parts = [
        f"{mode} after epoch {wording.estimate(mean, wording.tenths)}"
        if mean.mean < last - 0.5
        else f"{mode} not within {last} epochs"
        for mode, mean in means.items()
    ]
    text = f"The classifier's test loss turns up, mean over latent sizes: {'; '.join(parts)}. What follows is overfitting."
    block = blocks[TRANSFER_MODES[0]]
    return [Claim("modes", text, len(block.seeds) > 1, block.run_ids, {mode: mean.mean for mode, mean in means.items()})]
