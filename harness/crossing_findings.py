"""What a sweep over numbers of labels says: where one way to use an encoder overtakes another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from harness import wording
from harness.complete import complete_part
from harness.crossings import Crossing, overtakes
from harness.evaluation import TRANSFER_MODES
from harness.evidence import Claim, Evidence
from harness.lines import lines_of, size_of
from harness.tables import Row

Curves = dict[int, dict[float, float]]
"""From a seed to a curve: from a number of labels to an accuracy."""

LEAST_POINTS = 3


def find_crossings(evidence: Evidence) -> list[Claim]:
    """From how many labels on finetuning beats frozen codes, and training from scratch both; by line and latent size."""
    groups = label_groups(evidence)
    names = dict.fromkeys(groups, "") if len(groups) < 2 else {name: f" of {name}" for name in groups}
    return [claim for name, rows in groups.items() for size in label_sizes(rows) if (claim := _at_size(rows, size, names[name]))]


def label_groups(evidence: Evidence) -> dict[str, tuple[Row, ...]]:
    """The rows of trials that differ in latent size and number of labels only, by what tells them from the others."""
    if "labels" not in evidence.summary.axes:
        return {}
    return {line.label: line.rows for line in lines_of(evidence.summary, ("labels",))}


def label_sizes(rows: Sequence[Row]) -> list[int]:
    """The latent sizes of some rows, rising."""
    return sorted({size_of(row) for row in rows})


def label_curves(rows: Sequence[Row], size: int, metric: str) -> tuple[Curves, tuple[str, ...]]:
    """A metric against the number of labels that there really were, seed by seed, and the runs that it is from."""
    records = [record for row in rows if size_of(row) == size for record in row.trials if metric in record.metrics]
    curves: Curves = {}
    for record in records:
        labels = record.metrics.get("transfer/labelled_images", float(record.trial.config.labels))
        curves.setdefault(record.trial.config.seed, {})[labels] = record.metrics[metric]
    return curves, tuple(record.run_id for record in records)


def _at_size(rows: Sequence[Row], size: int, of: str) -> Claim | None:
    by_mode = {mode: label_curves(rows, size, f"transfer/{mode}_accuracy") for mode in TRANSFER_MODES}
    curves = [found for found, _ in by_mode.values()]
    able = {seed: set.intersection(*(set(each.get(seed, ())) for each in curves)) for seed in curves[0]}
    seeds, counts = complete_part(able)
    if len(counts) < LEAST_POINTS:
        return None
    frozen, finetuned, scratch = ([{x: found[seed][x] for x in counts} for seed in seeds] for found in curves)
    both = [{x: max(one[x], other[x]) for x in one} for one, other in zip(frozen, finetuned, strict=True)]
    first, second = overtakes(finetuned, frozen), overtakes(scratch, both)
    draws = wording.same_draws(rows[0].trials[0].trial.config.draws)
    text = (
        f"At d = {size}, {draws}, training the encoder{of} along {_words(first, 'beats the frozen codes')}; "
        f"an encoder that was never trained before {_words(second, 'beats both')}."
    )
    is_sure = [_is_sure(first), _is_sure(second)]
    if not all(is_sure):
        which = "either" if not any(is_sure) else "the second" if is_sure[0] else "the first"
        text += f" From where on {which} does {wording.unsettled(len(seeds))}."
    run_ids = tuple(dict.fromkeys(run_id for _, runs in by_mode.values() for run_id in runs))
    numbers = {"finetuned": first.at, "scratch": second.at}
    finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
    return Claim("crossings", text, all(is_sure), run_ids, finite)


def _is_sure(crossing: Crossing) -> bool:
    """Whether the replicates say that there is a crossing, or that there is none within the counts that were tried."""
    first, last = (list(crossing.differences)[place] for place in (0, -1))
    if crossing.at == first:
        return crossing.high == first
    return math.isfinite(crossing.high) or crossing.differences[last].high < 0


def _words(crossing: Crossing, beats: str) -> str:
    points = list(crossing.differences)
    if math.isinf(crossing.at):
        last = crossing.differences[points[-1]]
        behind = f"{wording.points(last.mean)} behind" if last.mean < 0 else "level"
        return f"never {beats} with up to {points[-1]:.0f} labels (it is {behind} there)"
    if crossing.high == points[0]:
        return f"{beats} from the fewest labels on, {points[0]:.0f}"
    about = "at most" if crossing.at == points[0] else "about"
    if math.isnan(crossing.low):
        return f"{beats} from {about} {crossing.at:.0f} labels on"
    most = f"{crossing.high:.0f}" if math.isfinite(crossing.high) else f"more than {points[-1]:.0f}"
    return f"{beats} from {about} {crossing.at:.0f} labels on (95 % interval {crossing.low:.0f} to {most})"


def floors_of(rows: Sequence[Row], size: int, floors: Mapping[str, str]) -> dict[str, dict[float, float]]:
    """The floors against the number of labels, mean over seeds, by name."""
    found: dict[str, dict[float, float]] = {}
    for metric, name in floors.items():
        curves, _ = label_curves(rows, size, metric)
        points = sorted({x for curve in curves.values() for x in curve})
        values = {x: [curve[x] for curve in curves.values() if x in curve] for x in points}
        found[name] = {x: sum(each) / len(each) for x, each in values.items()}
    return found
