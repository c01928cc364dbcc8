"""What a sweep's classifiers say: whether the codes are of use with a handful of labels, and how the encoder is best used."""

from __future__ import annotations

import math

from harness import wording
from harness.evaluation import TRANSFER_MODES
from harness.evidence import ALPHA, Claim, Evidence
from harness.lines import Array, Block, Line, together
from harness.statistics import (
    Paired,
    above_zero,
    compare_paired,
    correct,
    holm,
    mean_interval,
    non_inferior,
    replicates_to_tell,
)

MARGIN = 0.02
"""Of accuracy: what a smaller code may lose and still be called as good."""

LAST_HALF = 0.5
"""Of an epoch: a lowest loss in the last one, in the mean over sizes, is no turn."""


def find_labels(evidence: Evidence) -> list[Claim]:
    """The smallest code that is about as good as the best one for a classifier, then how the codes compare with raw pixels."""
    line = evidence.best_evaluated
    block = line.block("transfer_accuracy")
    if block is None:
        return []
    claims = [_smallest(line, block)] if len(block.sizes) > 1 else []
    return [*claims, *_against_pixels(line)]


def _smallest(line: Line, block: Block) -> Claim:
    best = block.sizes[int(block.values.mean(axis=0).argmax())]
    others = [size for size in block.sizes if size != best]
    config = line.config
    of = f"for a classifier with {config.labels} labels, {wording.same_draws(config.draws)}, on the frozen codes of {line.label}"
    top = f"{wording.estimate(mean_interval(block.at(best)), wording.accuracy)} at the best size, d = {best}"
    if best == block.sizes[0]:
        return _smallest_is_best(block, of, top)
    p_values = dict(zip(others, holm([non_inferior(block.at(size), block.at(best), MARGIN) for size in others]), strict=True))
    able = [size for size in others if size < best and p_values[size] < ALPHA]
    if able:
        size = able[0]
        reached = wording.estimate(mean_interval(block.at(size)), wording.accuracy)
        text = (
            f"d = {size} is enough {of}: its accuracy is {reached}, against {top}; that it is worse by "
            f"{wording.points(MARGIN)} or more is excluded{wording.tested(p_values[size])}."
        )
        return Claim("labels", text, True, block.run_ids, {"size": size, "best": best, "p": p_values[size]})
    near = [size for size in others if size < best and (block.at(size) - block.at(best)).mean() > -MARGIN]
    if not near:
        return _all_of_it(block, best, of, top)
    needed = replicates_to_tell(block.at(near[0]) - block.at(best) + MARGIN, 2 * ALPHA / len(others))
    text = (
        f"Whether d = {near[0]} is as good as d = {best} {of}, to within {wording.points(MARGIN)}, "
        f"{wording.unresolved(len(block.seeds), needed)}. The accuracy is "
        f"{wording.estimate(mean_interval(block.at(near[0])), wording.accuracy)} there and {top}."
    )
    return Claim("labels", text, False, block.run_ids, {"size": near[0], "best": best})


def _smallest_is_best(block: Block, of: str, top: str) -> Claim:
    """The smallest code is enough if no other is better by the margin. All have to be excluded, so that nothing is corrected."""
    best, *others = block.sizes
    p_values = {size: non_inferior(block.at(best), block.at(size), MARGIN) for size in others}
    worst = max(others, key=lambda size: (block.at(size) - block.at(best)).mean())
    p_value = math.nan if len(block.seeds) < 2 else max(p_values.values())
    is_resolved = p_value < ALPHA
    if is_resolved:
        text = (
            f"The smallest code, d = {best}, is enough {of}: {top}; that a larger one is better by {wording.points(MARGIN)} or "
            f"more is excluded{wording.tested(p_value)}."
        )
    else:
        needed = replicates_to_tell(block.at(best) - block.at(worst) + MARGIN, 2 * ALPHA)
        text = f"Whether the smallest code, d = {best}, is enough {of} {wording.unresolved(len(block.seeds), needed)}: {top}."
    return Claim("labels", text, is_resolved, block.run_ids, {"size": best, "best": best})


def _all_of_it(block: Block, best: int, of: str, top: str) -> Claim:
    """Every smaller code loses the margin or more in the mean: whether it surely does, each tested against the margin."""
    smaller = [size for size in block.sizes if size < best]
    is_resolved = all(p_value < ALPHA for p_value in holm([above_zero(_excess(block, best, size)) for size in smaller]))
    if is_resolved:
        text = f"d = {best} is needed {of}: its accuracy is {top}, and every smaller code loses {wording.points(MARGIN)} or more."
    else:
        needed = replicates_to_tell(_excess(block, best, smaller[-1]), 2 * ALPHA / len(smaller))
        text = (
            f"Whether d = {best} is needed {of} {wording.unresolved(len(block.seeds), needed)}: {top}, and smaller codes lose "
            f"{wording.points(MARGIN)} or more in the mean."
        )
    return Claim("labels", text, is_resolved, block.run_ids, {"size": best, "best": best})


def _excess(block: Block, best: int, size: int) -> Array:
    """By how much more than the margin a size is worse, a number a seed."""
    return block.at(best) - block.at(size) - MARGIN


def _against_pixels(line: Line) -> list[Claim]:
    blocks = together([(line, [name]) for name in ("transfer_accuracy", "transfer/raw_pixels_accuracy")])
    if not blocks:
        return []
    block, pixels = blocks
    place = int(block.values.mean(axis=0).argmax())
    size = block.sizes[place]
    tests = correct([compare_paired(block.at(each), pixels.at(each)) for each in block.sizes])  # the size was chosen by its mean
    found = tests[place]
    gain, is_resolved = found.difference, found.corrected < ALPHA
    ends = gain.mapped(abs)  # only shown where both ends are on one side of 0
    draws = wording.same_draws(line.config.draws)
    reached = f"{wording.accuracy(float(pixels.at(size).mean()))} on the raw pixels with the same labels"
    tested = wording.tested(found.corrected)
    if is_resolved and gain.mean > 0:
        text = (
            f"The codes of {line.label} are of use: at d = {size} the classifier reaches, {draws}, "
            f"{wording.estimate(ends, wording.points)} more than {reached}{tested}."
        )
    elif is_resolved:
        text = (
            f"The codes of {line.label} are of no use to the classifier: it reaches, {draws}, {reached}, and on the codes, at "
            f"d = {size}, {wording.estimate(ends, wording.points)} less{tested}."
        )
    else:
        needed = replicates_to_tell(block.at(size) - pixels.at(size), ALPHA / len(tests))
        text = (
            f"Whether the codes of {line.label} are better for the classifier than the pixels "
            f"{wording.unresolved(gain.count, needed)}: it reaches, {draws}, {reached}, and at d = {size} "
            f"{wording.points(gain.mean)} {'more' if gain.mean >= 0 else 'less'}{tested}."
        )
    return [Claim("labels", text, is_resolved, block.run_ids, {"gain": gain.mean, "p": found.corrected})]


def find_modes(evidence: Evidence) -> list[Claim]:
    """Whether the encoder should be trained along, and when each way turns to overfitting."""
    line = evidence.best_evaluated
    blocks = together([(line, [f"transfer/{mode}_accuracy"]) for mode in TRANSFER_MODES])
    if not blocks:
        return []
    means = {mode: block.values.mean(axis=1) for mode, block in zip(TRANSFER_MODES, blocks, strict=True)}
    best, *others = sorted(means, key=lambda mode: -means[mode].mean())
    pairs = [(best, mode) for mode in others] + [(others[0], others[1])]  # all pairs, as the best was chosen by its mean
    tests = correct([compare_paired(means[one], means[other]) for one, other in pairs])[: len(others)]
    parts = [_behind(mode, test) for mode, test in zip(others, tests, strict=True)]
    sizes = "over all latent sizes" if len(blocks[0].sizes) > 1 else f"at {wording.sizes(blocks[0].sizes)}"
    text = (
        f"Of the three ways to use the encoder of {line.label}, {best} is best {sizes}, {wording.same_draws(line.config.draws)}: "
        f"accuracy {wording.estimate(mean_interval(means[best]), wording.accuracy)}; {wording.listed(parts)}."
    )
    open_ones = [index for index, test in enumerate(tests) if not test.corrected < ALPHA]
    if open_ones:
        needed = [replicates_to_tell(means[best] - means[others[index]], ALPHA / len(pairs)) for index in open_ones]
        most = None if None in needed else max(each for each in needed if each is not None)
        names = wording.listed([others[index] for index in open_ones])
        text += f" The difference from {names} {wording.unresolved(len(blocks[0].seeds), most)}."
    numbers = {mode: float(values.mean()) for mode, values in means.items()}
    claim = Claim("modes", text, not open_ones, blocks[0].run_ids, numbers)
    return [claim, *_turns(line)]


def _behind(mode: str, test: Paired) -> str:
    ends = wording.interval(test.difference, lambda value: wording.tenths(100 * value))
    return f"{mode} reaches {wording.points(test.difference.mean)} less{ends}{wording.tested(test.corrected)}"


def _turns(line: Line) -> list[Claim]:
    """When the test loss of each way is lowest; a line may have ended before."""
    blocks = together([(line, [f"transfer/{mode}_best_epoch"]) for mode in TRANSFER_MODES])
    if not blocks:
        return []
    last = line.config.transfer_epochs
    means = {mode: mean_interval(block.values.mean(axis=1)) for mode, block in zip(TRANSFER_MODES, blocks, strict=True)}
    turned = [mode for mode, mean in means.items() if mean.mean < last - LAST_HALF]
    parts = [
        f"{mode} after epoch {wording.estimate(mean, wording.tenths)}" if mode in turned else f"{mode} not within {last} epochs"
        for mode, mean in means.items()
    ]
    text = f"The classifier's test loss turns up, mean over latent sizes: {'; '.join(parts)}."
    if turned:
        text += " What follows is overfitting."
    seeds = len(blocks[0].seeds)
    open_ones = [mode for mode in turned if not means[mode].high < last - LAST_HALF] if seeds > 1 else list(means)
    if open_ones:
        text += f" Whether it turns for {wording.listed(open_ones)} {wording.unsettled(seeds)}."
    return [Claim("modes", text, not open_ones, blocks[0].run_ids, {mode: mean.mean for mode, mean in means.items()})]
