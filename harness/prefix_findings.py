"""What a sweep says of one training for all latent sizes: its loss from the first k units against that of k units alone."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from harness import wording
from harness.complete import complete_part
from harness.config import EVALUATION_FIELDS
from harness.evidence import Claim, Evidence
from harness.lines import Line, identity_of
from harness.statistics import Interval, mean_interval, replicates_to_tell


def find_prefixes(evidence: Evidence) -> list[Claim]:
    """How many times the loss of separate trainings that of the nested one is, over all sizes and at the two ends."""
    pairs = nested_and_separate(evidence)
    return [claim for nested, separate in pairs if (claim := _prefixes(nested, separate, len(pairs) > 1))]


def _prefixes(nested: Line, separate: Line, is_named: bool) -> Claim | None:
    gaps = prefix_gaps(nested, separate)
    if not gaps:
        return None
    logs = np.log(np.array(list(gaps.values())))  # (sizes, seeds)
    over_all = _ratio(logs.mean(axis=0))
    shown = sorted(gaps)[:: max(1, len(gaps) - 1)]
    parts = [f"{wording.estimate(_ratio(np.log(gaps[size])), wording.decimal)} times at d = {size}" for size in shown]
    of = f" of {nested.label}" if is_named else ""
    text = (
        f"One training{of} with prefix masks gives the whole curve, at {wording.estimate(over_all, wording.decimal)} times the "
        f"loss of {len(gaps)} separate trainings: {wording.listed(parts)}."
    )
    is_resolved = over_all.excludes(1)
    if not is_resolved:
        text += f" Whether the loss is another one {wording.unresolved(over_all.count, replicates_to_tell(logs.mean(axis=0)))}."
    run_ids = tuple(each.run_id for line in (nested, separate) for each in line.trials.values())
    numbers = {f"d = {size}": float(_ratio(np.log(values)).mean) for size, values in gaps.items()}
    return Claim("prefixes", text, is_resolved, run_ids, {"all": over_all.mean, **numbers})


def nested_and_separate(evidence: Evidence) -> list[tuple[Line, Line]]:
    """Each line that was trained with prefixes, and the one that was not and is equal to it in all else."""
    plain = {identity_of(line.config, EVALUATION_FIELDS): line for line in evidence.lines if not line.config.prefix}
    pairs = [
        (line, plain.get(replace(identity_of(line.config, EVALUATION_FIELDS), prefix=False)))
        for line in evidence.lines
        if line.config.prefix
    ]
    return [(nested, separate) for nested, separate in pairs if separate]


def prefix_gaps(nested: Line, separate: Line) -> dict[int, list[float]]:
    """The loss from the first k units over that of an autoencoder of k units, by size, a value a seed."""
    size = nested.sizes[-1]
    found: dict[int, dict[int, float]] = {}
    for (units, seed), record in sorted(separate.trials.items()):
        other = nested.trials.get((size, seed))
        loss = record.metrics.get("reconstruction_loss")
        prefix = other.metrics.get(f"prefix/mse_{units}") if other else None
        if loss and prefix:
            found.setdefault(seed, {})[units] = prefix / loss
    seeds, sizes = complete_part(found)
    return {units: [found[seed][units] for seed in seeds] for units in sorted(sizes)}


def _ratio(logs: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Interval:
    value = mean_interval(logs)
    return value.mapped(math.exp)
