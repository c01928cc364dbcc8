"""What a sweep says of one training for all latent sizes: its loss from the first k units against that of k units alone."""

from __future__ import annotations

import math

import numpy as np

from harness import wording
from harness.evidence import Claim, Evidence
from harness.lines import Line
from harness.statistics import Interval, mean_interval


def find_prefixes(evidence: Evidence) -> list[Claim]:
    """How many times the loss of separate trainings that of the nested one is, over all sizes and at the two ends."""
    nested, separate = nested_and_separate(evidence)
    if nested is None or separate is None:
        return []
    gaps = prefix_gaps(nested, separate)
    if not gaps:
        return []
    logs = np.log(np.array(list(gaps.values())))  # (sizes, seeds)
    over_all = _ratio(logs.mean(axis=0))
    shown = sorted(gaps)[:: max(1, len(gaps) - 1)]
    parts = [f"{wording.estimate(_ratio(np.log(gaps[size])), wording.decimal)} times at d = {size}" for size in shown]
    text = (
        f"One training with prefix masks gives the whole curve, at {wording.estimate(over_all, wording.decimal)} times the loss "
        f"of {len(gaps)} separate trainings: {wording.listed(parts)}."
    )
    run_ids = tuple(each.run_id for line in (nested, separate) for each in line.trials.values())
    numbers = {f"d = {size}": float(_ratio(np.log(values)).mean) for size, values in gaps.items()}
    return [Claim("prefixes", text, over_all.count > 1, run_ids, {"all": over_all.mean, **numbers})]


def nested_and_separate(evidence: Evidence) -> tuple[Line | None, Line | None]:
    """The line that was trained with prefixes, and the first one that was not."""
    by_kind: dict[bool, Line] = {}
    for line in evidence.lines:
        by_kind.setdefault(line.rows[0].trials[0].trial.config.prefix, line)
    return by_kind.get(True), by_kind.get(False)


def prefix_gaps(nested: Line, separate: Line) -> dict[int, list[float]]:
    """The loss from the first k units over that of an autoencoder of k units, by size, a value a seed."""
    size = nested.sizes[-1]
    gaps: dict[int, list[float]] = {}
    for (units, seed), record in sorted(separate.trials.items()):
        other = nested.trials.get((size, seed))
        loss = record.metrics.get("reconstruction_loss")
        prefix = other.metrics.get(f"prefix/mse_{units}") if other else None
        if loss and prefix:
            gaps.setdefault(units, []).append(prefix / loss)
    most = max(map(len, gaps.values()), default=0)
    return {units: values for units, values in gaps.items() if len(values) == most}


def _ratio(logs: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Interval:
    value = mean_interval(logs)
    return value.mapped(math.exp)
