"""What a sweep over numbers of labels says: where one way to use an encoder overtakes another."""

from __future__ import annotations

import math
from collections.abc import Mapping

from harness import wording
from harness.crossings import Crossing, overtakes
from harness.evaluation import TRANSFER_MODES
from harness.evidence import Claim, Evidence
from harness.lines import Block, Line

Curves = dict[int, dict[float, float]]
"""From a seed to a curve: from a number of labels to an accuracy."""

LEAST_POINTS = 3


def find_crossings(evidence: Evidence) -> list[Claim]:
    """From how many labels on finetuning beats frozen codes, and training from scratch both; by latent size."""
    if "labels" not in evidence.summary.axes:
        return []
    sizes = dict.fromkeys(size for line in evidence.lines for size in line.sizes)
    return [claim for size in sizes for claim in _at_size(evidence, size)]


def label_curves(lines: tuple[Line, ...], size: int, metric: str) -> tuple[Curves, tuple[str, ...]]:
    """A metric against the number of labels that there really were, seed by seed, and the runs that it is from."""
    curves: Curves = {}
    run_ids: list[str] = []
    for line in lines:
        block = line.block(metric)
        if block is None or size not in block.sizes:
            continue
        labels = _labels(line, block, size)
        run_ids += block.run_ids
        for seed, value in zip(block.seeds, block.at(size), strict=True):
            curves.setdefault(seed, {})[labels] = float(value)
    return curves, tuple(run_ids)


def _labels(line: Line, block: Block, size: int) -> float:
    asked = line.rows[0].trials[0].trial.config.labels
    counted = line.block("transfer/labelled_images", like=block)
    return float(counted.at(size)[0]) if counted and size in counted.sizes else float(asked)


def _at_size(evidence: Evidence, size: int) -> list[Claim]:
    by_mode = {mode: label_curves(evidence.lines, size, f"transfer/{mode}_accuracy") for mode in TRANSFER_MODES}
    curves = {mode: found for mode, (found, _) in by_mode.items()}
    seeds = sorted(set.intersection(*(set(each) for each in curves.values())))
    if not seeds or min(len(curves[mode][seed]) for mode in TRANSFER_MODES for seed in seeds) < LEAST_POINTS:
        return []
    frozen, finetuned, scratch = ([curves[mode][seed] for seed in seeds] for mode in TRANSFER_MODES)
    both = [{x: max(one[x], other[x]) for x in one} for one, other in zip(frozen, finetuned, strict=True)]
    first, second = overtakes(finetuned, frozen), overtakes(scratch, both)
    text = (
        f"At d = {size} training the encoder along {_words(first, 'beats the frozen codes')}; "
        f"an encoder that was never trained before {_words(second, 'beats both')}."
    )
    run_ids = tuple(dict.fromkeys(run_id for _, runs in by_mode.values() for run_id in runs))
    numbers = {"finetuned": first.at, "scratch": second.at}
    finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
    return [Claim("crossings", text, _is_sure(first) and _is_sure(second), run_ids, finite)]


def _is_sure(crossing: Crossing) -> bool:
    """Whether the replicates say that there is a crossing, or that there is none within the counts that were tried."""
    last = list(crossing.differences.values())[-1]
    return math.isfinite(crossing.high) or last.high < 0


def _words(crossing: Crossing, beats: str) -> str:
    points = list(crossing.differences)
    if math.isinf(crossing.at):
        last = crossing.differences[points[-1]]
        behind = f"{wording.points(last.mean)} behind" if last.mean < 0 else "level"
        return f"never {beats} with up to {points[-1]:.0f} labels (it is {behind} there)"
    if crossing.at == points[0]:
        return f"{beats} from the fewest labels on, {points[0]:.0f}"
    if math.isnan(crossing.low):
        return f"{beats} from about {crossing.at:.0f} labels on"
    most = f"{crossing.high:.0f}" if math.isfinite(crossing.high) else f"more than {points[-1]:.0f}"
    return f"{beats} from about {crossing.at:.0f} labels on (95 % interval {crossing.low:.0f} to {most})"


def floors_of(lines: tuple[Line, ...], size: int, floors: Mapping[str, str]) -> dict[str, dict[float, float]]:
    """The floors against the number of labels, mean over seeds, by name."""
    found: dict[str, dict[float, float]] = {}
    for metric, name in floors.items():
        curves, _ = label_curves(lines, size, metric)
        points = sorted({x for curve in curves.values() for x in curve})
        values = {x: [curve[x] for curve in curves.values() if x in curve] for x in points}
        found[name] = {x: sum(each) / len(each) for x, each in values.items()}
    return found
