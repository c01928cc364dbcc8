"""What a sweep says of paths between codes: lines, arcs and blended pixels, and what becomes of them with more latents."""

from __future__ import annotations

from harness import wording
from harness.evidence import ALPHA, Claim, Evidence
from harness.lines import Block, Line, together
from harness.statistics import Paired, compare_paired, correct, mean_interval, replicates_to_tell

NEARER = ("nearer to the data at", "further from it at", "not told apart from them at")


def find_paths(evidence: Evidence) -> list[Claim]:
    """Where midpoints are clearest and nearest to data, then arcs against lines, then codes against pixels."""
    line = evidence.best
    sure, near = line.block("interpolation/linear_confidence"), line.block("interpolation/linear_distance")
    if sure is None or near is None or len(sure.sizes) < 2:
        return []
    return [_turn(line, sure, near), *_arcs(line), *_against_pixels(line)]


def _turn(line: Line, sure: Block, near: Block) -> Claim:
    """The size at which midpoints are clearest, and how much is lost at the largest."""
    clearest = sure.sizes[int(sure.values.mean(axis=0).argmax())]
    nearest = near.sizes[int(near.values.mean(axis=0).argmin())]
    last = sure.sizes[-1]
    lost, away = (_against_last(block) for block in (sure, near))
    probability, distance = mean_interval(sure.at(clearest)), mean_interval(near.at(nearest))
    text = (
        f"In the mean midpoints of {line.label} are clearest to the judge at d = {clearest}, where its largest probability is "
        f"{wording.estimate(probability, wording.accuracy)}, and nearest to training images at d = {nearest}, at "
        f"{wording.estimate(distance, wording.decimal)} times the distance of data."
    )
    if clearest != last:
        text += (
            f" At d = {last} the probability is {wording.accuracy(float(sure.at(last).mean()))}{wording.tested(lost[clearest])}"
        )
        if nearest != last:
            text += f" and the distance {wording.decimal(float(near.at(last).mean()))}{wording.judged(away[nearest])}"
        text += "."
    tests = list(lost.values()) if clearest == last else [lost[clearest]]
    is_resolved = all(each < ALPHA for each in tests)
    if not is_resolved:
        rest = [size for size in sure.sizes if size != clearest] if clearest == last else [last]
        nearby = max(rest, key=lambda size: sure.at(size).mean())
        needed = replicates_to_tell(sure.at(clearest) - sure.at(nearby), ALPHA / len(lost))
        turn = (
            f"more latents than {clearest} make it worse" if clearest != last else f"fewer latents than {clearest} make it worse"
        )
        text += f" Whether {turn} {wording.unresolved(len(sure.seeds), needed)}."
    return Claim("paths", text, is_resolved, sure.run_ids, {"clearest": clearest, "nearest": nearest, "p": min(tests, default=1)})


def _against_last(block: Block) -> dict[int, float]:
    """P values of each size against the largest, corrected for all: which of them is looked at was chosen by its mean."""
    last, others = block.sizes[-1], block.sizes[:-1]
    tests = correct([compare_paired(block.at(size), block.at(last)) for size in others])
    return {size: test.corrected for size, test in zip(others, tests, strict=True)}


def _arcs(line: Line) -> list[Claim]:
    keys = [(path, judge) for judge in ("distance", "confidence") for path in ("spherical", "linear")]
    blocks = together([(line, [f"interpolation/{path}_{judge}"]) for path, judge in keys])
    if not blocks:
        return []
    arc, straight, arc_sure, straight_sure = (block.values.mean(axis=1) for block in blocks)
    tests = correct([compare_paired(arc, straight), compare_paired(arc_sure, straight_sure)])
    words = ("distance from the data", "largest probability")
    parts = [f"the {what} changes by {_change(test)}" for what, test in zip(words, tests, strict=True)]
    text = f"On arcs about the centre of the codes instead of straight lines, over all latent sizes, {wording.listed(parts)}."
    p_value = tests[0].corrected
    if not p_value < ALPHA:
        text += f" Whether arcs are further from the data {wording.unsettled(len(blocks[0].seeds))}."
    return [Claim("paths", text, p_value < ALPHA, blocks[0].run_ids, {"p": p_value})]


def _change(test: Paired) -> str:
    ends = wording.interval(test.difference, lambda value: f"{value:+.3g}")
    return f"{test.difference.mean:+.3g}{ends}{wording.judged(test.corrected)}"


def _against_pixels(line: Line) -> list[Claim]:
    blocks = together([(line, [f"interpolation/{path}_distance"]) for path in ("linear", "blend", "decoded")])
    if not blocks:
        return []
    near, blend, decoded = blocks
    tests = correct([compare_paired(near.at(size), blend.at(size)) for size in near.sizes])
    words = [_nearer(test) for test in tests]
    sizes = {word: [size for size, each in zip(near.sizes, words, strict=True) if each == word] for word in NEARER}
    parts = [f"{word} {wording.sizes(each)}" for word, each in sizes.items() if each]
    first, last = (f"{wording.decimal(float(decoded.values[:, end].mean()))} (d = {near.sizes[end]})" for end in (0, -1))
    text = (
        f"Midpoints between codes are, beside pixels blended as much, {', '.join(parts)}: blended pixels are "
        f"{wording.decimal(float(blend.values.mean()))} times as far as data, and the decoded images of the pairs' own codes "
        f"{first} to {last} times."
    )
    is_resolved = not sizes[NEARER[-1]]
    if not is_resolved:
        text += f" What is not told apart {wording.unsettled(len(near.seeds))}."
    return [Claim("paths", text, is_resolved, near.run_ids, {"blend": float(blend.values.mean())})]


def _nearer(test: Paired) -> str:
    if not test.corrected < ALPHA:
        return NEARER[-1]
    return NEARER[0] if test.difference.mean < 0 else NEARER[1]
