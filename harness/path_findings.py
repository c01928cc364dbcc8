"""What a sweep says of paths between codes: lines, arcs and blended pixels, and what becomes of them with more latents."""

from __future__ import annotations

import numpy as np

from harness import wording
from harness.evidence import ALPHA, Claim, Evidence
from harness.lines import Block, Line
from harness.statistics import compare_paired, mean_interval, replicates_to_tell


def find_paths(evidence: Evidence) -> list[Claim]:
    """Where midpoints are clearest and nearest to data, then arcs against lines, then codes against pixels."""
    line = evidence.best
    sure, near = line.block("interpolation/linear_confidence"), line.block("interpolation/linear_distance")
    if sure is None or near is None or len(sure.sizes) < 2:
        return []
    return [_turn(line, sure, near), *_arcs(line), *_against_pixels(line, near)]


def _turn(line: Line, sure: Block, near: Block) -> Claim:
    """The size at which midpoints are clearest, and how much is lost at the largest."""
    clearest = sure.sizes[int(sure.values.mean(axis=0).argmax())]
    nearest = near.sizes[int(near.values.mean(axis=0).argmin())]
    last = sure.sizes[-1]
    lost = compare_paired(sure.at(clearest), sure.at(last))
    away = compare_paired(near.at(last), near.at(nearest))
    probability, distance = mean_interval(sure.at(clearest)), mean_interval(near.at(nearest))
    text = (
        f"Midpoints of {line.label} are clearest to the judge at d = {clearest}, where its largest probability is "
        f"{wording.estimate(probability, wording.accuracy)}, and nearest to training images at d = {nearest}, at "
        f"{wording.estimate(distance, wording.decimal)} times the distance of data."
    )
    if clearest != last:
        far = f"the distance {wording.decimal(float(near.at(last).mean()))} ({wording.p_value(away.p_value)})"
        text += (
            f" At d = {last} the probability is {wording.accuracy(float(sure.at(last).mean()))} "
            f"({wording.p_value(lost.p_value)}) and {far}."
        )
    is_resolved = clearest == last or lost.p_value < ALPHA
    if not is_resolved:
        needed = replicates_to_tell(sure.at(clearest) - sure.at(last))
        text += f" Whether more latents than {clearest} make it worse {wording.unresolved(len(sure.seeds), needed)}."
    numbers = {"clearest": clearest, "nearest": nearest, "p": lost.p_value}
    return Claim("paths", text, is_resolved and len(sure.seeds) > 1, sure.run_ids, numbers)


def _arcs(line: Line) -> list[Claim]:
    blocks = {
        (path, judge): line.block(f"interpolation/{path}_{judge}")
        for path in ("linear", "spherical")
        for judge in ("distance", "confidence")
    }
    if any(block is None for block in blocks.values()):
        return []
    means = {key: block.values.mean(axis=1) for key, block in blocks.items() if block}
    parts = []
    for judge, words in (("distance", "distance from the data"), ("confidence", "largest probability")):
        found = compare_paired(means["spherical", judge], means["linear", judge])
        ends = wording.interval(found.difference, lambda value: f"{value:+.3g}")
        parts.append(f"the {words} changes by {found.difference.mean:+.3g}{ends} ({wording.p_value(found.p_value)})")
    text = f"On arcs about the centre of the codes instead of straight lines, over all latent sizes, {wording.listed(parts)}."
    block = blocks["spherical", "distance"]
    p_value = compare_paired(means["spherical", "distance"], means["linear", "distance"]).p_value
    return [Claim("paths", text, p_value < ALPHA, block.run_ids if block else (), {"p": p_value})]


def _against_pixels(line: Line, near: Block) -> list[Claim]:
    blend, decoded = (line.block(f"interpolation/{path}_distance", like=near) for path in ("blend", "decoded"))
    if blend is None or decoded is None:
        return []
    means = np.array([block.values.mean(axis=0) for block in (near, blend, decoded)])
    better = [size for size, (own, pixels) in zip(near.sizes, means[:2].T, strict=True) if own < pixels]
    where = f"at {wording.sizes(better)}" if better else "at no latent size"
    first, last = (f"{wording.decimal(float(means[2, end]))} (d = {near.sizes[end]})" for end in (0, -1))
    text = (
        f"Midpoints between codes are nearer to the data than pixels blended as much {where}: blended pixels are "
        f"{wording.decimal(float(means[1].mean()))} times as far as data, and the decoded images of the pairs' own codes "
        f"{first} to {last} times."
    )
    tests = [compare_paired(near.at(size), blend.at(size)).p_value for size in near.sizes]
    return [Claim("paths", text, max(tests) < ALPHA, near.run_ids, {"blend": float(means[1].mean())})]
