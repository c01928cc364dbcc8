"""What became of training a recorded trial again, in words and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.config import TrialResult
from harness.retrain import Recipe
from harness.verify import Compared, Field, Verdict

MOST_NUMBERS = 10
NOTHING_DIFFERS = "Data, versions, commit, device and kernels are those of the record."


@dataclass(frozen=True)
class Reproduction:
    """A trial trained again, or the reason why it was not.

    Attributes:
        recipe: What it was made from.
        device: On which it was trained now.
        fields: What is not the same here as in the record.
        result: What it came to; nothing where the images are others.
        verdict: Whether it is the same; nothing where that was not asked, or it was not trained.
    """

    recipe: Recipe
    device: str
    fields: Sequence[Field]
    result: TrialResult | None = None
    verdict: Verdict | None = None


def number_text(metrics: Mapping[str, float], name: str) -> str:
    """A metric with nine digits, which tell most float32 apart."""
    return f"{metrics[name]:.9g}" if name in metrics else "-"


def verdict_lines(found: Reproduction) -> list[str]:
    """Whether it is the same, and the numbers that are not."""
    if found.result is None:
        return ["Not trained again: the images are not those of the record."]
    verdict = found.verdict
    if verdict is None:
        return ["--verify says whether it is the same in all numbers and weights."]
    what = f"{len(verdict.numbers)} numbers of metrics and curves" + (
        f" and {verdict.weights[1]} tensors of the model" if verdict.weights else ""
    )
    if verdict.outcome == "bit-equal":
        return [f"Bit-equal: all of {what}."]
    unequal = len(verdict.differing) + (verdict.weights[0] if verdict.weights else 0)
    start = f"{unequal} of {what} are not bit-equal"
    if verdict.outcome == "within tolerance":
        judged = [each for each in verdict.differing if math.isfinite(each.allowed)]
        furthest = max(judged, key=lambda each: each.share, default=None)
        off = [f"  furthest off: {_line(furthest)}"] if furthest else []
        unexplained = (
            [] if found.fields else ["  although nothing that is recorded differs: was a worker killed, and its group halved?"]
        )
        return [f"Within the tolerance for {found.device}: {start}.", *off, *unexplained]
    return [f"Different: {start}, and {len(verdict.far)} are beyond the tolerance for {found.device}:", *_far_lines(verdict)]


def _far_lines(verdict: Verdict) -> list[str]:
    then, now = (reason or "it did not fail" for reason in verdict.reasons)
    lines = [f"  the trial's failure: {then} then, {now} now"] if any(verdict.reasons) else []
    lines += [f"  {_line(each)}" for each in verdict.far[:MOST_NUMBERS]]
    return [*lines, *([f"  and {len(verdict.far) - MOST_NUMBERS} more"] if len(verdict.far) > MOST_NUMBERS else [])]


def _line(each: Compared) -> str:
    return f"{each.name}: {each.recorded:.9g} then, {each.found:.9g} now, allowed {each.allowed:.2g} apart"


def field_lines(found: Reproduction) -> list[str]:
    """What is not the same here as in the record."""
    if not found.fields:
        return [NOTHING_DIFFERS]
    return [
        "What differs:",
        *(f"  {each.name}: {each.recorded or 'none'} then, {each.found or 'none'} now" for each in found.fields),
    ]


def as_json(found: Reproduction) -> dict[str, Any]:
    """All of it as JSON-like content."""
    verdict, result = found.verdict, found.result
    run = found.recipe.run
    content: dict[str, Any] = {
        "run_id": run.run_id,
        "sweep": found.recipe.sweep.tags["harness.sweep"],
        "trial": found.recipe.trial.number,
        "group": [member.number for member in found.recipe.members],
        "device": found.device,
        "outcome": verdict.outcome if verdict else "trained" if result else "images differ",
        "differs": {each.name: {"recorded": each.recorded, "found": each.found} for each in found.fields},
    }
    if result:
        names = dict.fromkeys([*run.metrics, *result.metrics])
        content["metrics"] = {
            name: {"recorded": run.metrics.get(name), "found": result.metrics.get(name)}
            for name in names
            if name in result.metrics
        }
    if verdict:
        content["numbers"] = len(verdict.numbers)
        content["not_equal"] = [each.name for each in verdict.differing]
        content["beyond_tolerance"] = [each.name for each in verdict.far]
        content["weights"] = dict(zip(("not_equal", "tensors"), verdict.weights, strict=True)) if verdict.weights else None
    return content
