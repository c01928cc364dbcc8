"""What a sweep's latent codes say: whether they are redundant, and what points between two of them look like."""

from __future__ import annotations

import numpy as np

from harness import wording
from harness.evidence import ALPHA, Claim, Evidence, enough
from harness.lines import Block, Line, cut
from harness.statistics import compare_paired, mean_interval, replicates_to_tell, trend

CHANCE = ("max_latent_correlation", "-latent/max_abs_corr_null95")

SMALL_SIZE, LARGE_SIZE = 10, 20
"""Latent sizes whose interpolations are compared, or the nearest ones: those of the study that this project grew out of."""


def find_redundancy(evidence: Evidence) -> list[Claim]:
    """Whether the largest correlation of the best few lines rises with d beyond what chance gives."""
    size = enough(evidence)
    return [claim for line in evidence.leading if (claim := _redundancy(line, size))]


def _redundancy(line: Line, size: int) -> Claim | None:
    block = line.block(*CHANCE)
    if block is None:
        return None
    level = _correlation_at(line, block, min(block.sizes, key=lambda each: abs(each - size)))
    found = trend(np.tile(block.sizes, len(block.seeds)), block.values.ravel())
    if found is None:
        text = (
            f"Whether the largest correlation between two latents of {line.label} changes with d is not resolved: that takes "
            f"five trials of several latent sizes. {level}"
        )
        return Claim("redundancy", text, False, block.run_ids)
    shown = wording.estimate(found.rho, lambda value: f"{value:.2f}")
    is_resolved = len(block.seeds) > 1 and found.rho.excludes(0)
    if is_resolved:
        word = "rises" if found.rho.mean > 0 else "falls"
        trend_text = f"Beyond chance the largest correlation between two latents of {line.label} {word} with d: Spearman {shown}."
    else:
        trend_text = (
            f"Whether the largest correlation between two latents of {line.label} changes with d beyond chance "
            f"{wording.unsettled(len(block.seeds))}. Spearman's correlation is {shown}."
        )
    numbers = {"rho": found.rho.mean, "low": found.rho.low, "high": found.rho.high}
    return Claim("redundancy", f"{trend_text} {level}", is_resolved, block.run_ids, numbers)


def _correlation_at(line: Line, block: Block, size: int) -> str:
    names = ("max_latent_correlation", "latent/max_abs_corr_null95", "latent/effective_rank")
    largest, chance, rank = (line.block(name, like=block) for name in names)
    if largest is None or chance is None:
        return ""
    text = (
        f"At d = {size} the largest of {line.label} is {wording.estimate(mean_interval(largest.at(size)), wording.correlation)}, "
        f"where chance gives {wording.correlation(float(chance.at(size).mean()))}"
    )
    if rank is None or size not in rank.sizes:
        return f"{text}."
    return f"{text}; the codes fill {wording.tenths(float(rank.at(size).mean()))} of {size} dimensions (effective rank)."


def find_interpolation(evidence: Evidence) -> list[Claim]:
    """Whether midpoints look more like data at a large or at a small latent size."""
    block = evidence.best.block("interpolation/manifold_distance")
    if block is None or len(block.sizes) < 2:
        return []
    small, large = (min(block.sizes, key=lambda size: abs(size - wanted)) for wanted in (SMALL_SIZE, LARGE_SIZE))
    if small == large:
        small, large = block.sizes[0], block.sizes[-1]
    found = compare_paired(block.at(large), block.at(small))
    levels = (
        f"{wording.estimate(mean_interval(block.at(small)), wording.decimal)} at d = {small} and "
        f"{wording.estimate(mean_interval(block.at(large)), wording.decimal)} at d = {large}, where 1 is as near as data"
    )
    is_resolved = found.p_value < ALPHA
    if is_resolved:
        word = "further from" if found.difference.mean > 0 else "nearer to"
        text = (
            f"Midpoints between two images are {word} the data with more latents: their distance is {levels} "
            f"({wording.p_value(found.p_value)})."
        )
    else:
        needed = replicates_to_tell(block.at(large) - block.at(small))
        text = (
            f"Whether midpoints between two images come nearer to the data with more latents "
            f"{wording.unresolved(len(block.seeds), needed)}. Their distance is {levels}."
        )
    run_ids = cut(block, [small, large], block.seeds).run_ids
    return [Claim("interpolation", text, is_resolved, run_ids, {"difference": found.difference.mean, "p": found.p_value})]
