"""What a sweep says of the decorrelation penalty: what it does to correlation, loss and transfer, and what a rotation does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness import wording
from harness.config import TrialConfig
from harness.contrasts import Contrast, contrasts, runs_of
from harness.evidence import ALPHA, Claim, Evidence
from harness.lines import Line, together
from harness.statistics import Interval, compare_paired, mean_interval, replicates_to_tell

ROTATED = (
    "max_latent_correlation",
    "latent/max_abs_corr_rotated",
    "transfer_accuracy",
    "transfer/rotated_accuracy",
    "transfer/whitened_accuracy",
    "transfer/linear_probe_accuracy",
    "transfer/linear_probe_whitened_accuracy",
)


ENOUGH = 0.9
"""Of the most that any weight takes off the correlation: the smallest weight that does so much is the one to look at."""

SAME = 0.001
"""Of accuracy: what rounding may make of an image or two."""


def find_penalties(evidence: Evidence) -> list[Claim]:
    """For each kind of penalty, the stronger first, what it does; then what PCA of the codes does for nothing."""
    families = _families(evidence)
    names = [f" of {plain.label}" if len(families) > 1 else "" for plain, _ in families]
    found = [claim for (plain, penalised), of in zip(families, names, strict=True) for claim in _by_kind(plain, penalised, of)]
    rotations = [claim for (plain, _), of in zip(families, names, strict=True) for claim in _rotation(plain, of)]
    return [*sorted(found, key=lambda claim: -claim.numbers["fall"]), *rotations]


def _families(evidence: Evidence) -> list[tuple[Line, list[Line]]]:
    """Each line without a penalty, and those with one that are equal to it in all else."""
    usual, families = TrialConfig(), {line.identity: (line, list[Line]()) for line in evidence.evaluated if not _weight(line)}
    for line in evidence.evaluated:
        plain = replace(line.identity, decorrelation=0.0, decorrelation_kind=usual.decorrelation_kind)
        if _weight(line) and plain in families:
            families[plain][1].append(line)
    return [(plain, penalised) for plain, penalised in families.values() if penalised]


def _weight(line: Line) -> float:
    return line.config.decorrelation


def _by_kind(plain: Line, penalised: Sequence[Line], of: str) -> list[Claim]:
    """A claim a kind. All weights of all kinds are one family of tests, as the one to look at is chosen by its numbers."""
    falls, costs, gains = (
        {each.line.label: each for each in contrasts(penalised, plain, metric, as_ratio=metric == "reconstruction_loss")}
        for metric in ("max_latent_correlation", "reconstruction_loss", "transfer_accuracy")
    )
    able = [line for line in penalised if all(line.label in found for found in (falls, costs, gains))]
    claims = []
    for kind in dict.fromkeys(line.config.decorrelation_kind for line in able):
        own = [falls[line.label] for line in able if line.config.decorrelation_kind == kind]
        most = min(each.change.mean for each in own)
        enough = [each for each in own if each.change.mean <= ENOUGH * most] or own
        fall = min(enough, key=lambda each: _weight(each.line))
        claims.append(_penalty(fall, costs[fall.line.label], gains[fall.line.label], of))
    return claims


def _penalty(fall: Contrast, cost: Contrast, gain: Contrast, of: str) -> Claim:
    config = fall.line.config
    is_resolved = fall.test.corrected < ALPHA and fall.change.mean < 0
    ends = wording.estimate(_turned(fall.change), wording.decimal)
    tested = wording.tested(fall.test.corrected)
    if is_resolved:
        text = (
            f"With {config.decorrelation_kind} a weight of {config.decorrelation:g} does nearly all that any does: the largest "
            f"correlation{of}, {wording.decimal(fall.level)} without, falls by {ends}{tested}."
        )
    else:
        needed = replicates_to_tell(fall.differences, ALPHA)
        text = (
            f"Whether {config.decorrelation_kind} lowers the largest correlation{of}, {wording.decimal(fall.level)} without, "
            f"{wording.unresolved(fall.change.count, needed)}: with a weight of {config.decorrelation:g} it is lower by "
            f"{ends}{tested}."
        )
    text += (
        f" The loss is {wording.estimate(cost.change, wording.decimal)} times what it is without"
        f"{wording.judged(cost.test.corrected)}, and the accuracy with {config.labels} labels, "
        f"{wording.same_draws(config.draws)}, {_gain(gain)}."
    )
    numbers = {"weight": config.decorrelation, "fall": -fall.change.mean, "cost": cost.change.mean, "gain": gain.change.mean}
    return Claim("penalty", text, is_resolved, runs_of([fall, cost, gain]), numbers)


def _turned(value: Interval) -> Interval:
    return Interval(-value.mean, -value.high, -value.low, value.count)


def _gain(found: Contrast) -> str:
    ends = wording.interval(found.change, lambda each: f"{100 * each:+.1f}")
    return f"changes by {100 * found.change.mean:+.1f} points{ends}{wording.judged(found.test.corrected)}"


def _rotation(plain: Line, of: str) -> list[Claim]:
    """What turning and whitening the codes of an ordinary training does."""
    blocks = together([(plain, [name]) for name in ROTATED])
    if not blocks:
        return []
    cuts = [block.values.mean(axis=1) for block in blocks]
    own, rotated, raw, turned, whitened, probe, probed = (mean_interval(values) for values in cuts)
    change = compare_paired(cuts[1], cuts[0])
    is_resolved = change.p_value < ALPHA
    before, after = (wording.estimate(value, wording.decimal) for value in (own, rotated))
    reached = [wording.estimate(value, wording.accuracy) for value in (raw, turned, whitened)]
    if is_resolved:
        head = "A rotation does it for nothing" if change.difference.mean < 0 else "A rotation does not do it"
        tested, end = wording.tested(change.p_value), ""
    else:
        head, tested = "What a rotation does for nothing is not resolved", wording.tested(change.p_value)
        end = f" Whether it lowers the correlation {wording.unresolved(own.count, replicates_to_tell(cuts[1] - cuts[0]))}."
    why = ", for it cannot tell the difference" if abs(probe.mean - probed.mean) < SAME else ""
    text = (
        f"{head}: along the principal axes of the codes{of} of an ordinary training the largest correlation is {after} instead "
        f"of {before}{tested}.{end} The classifier reaches {reached[0]} on the codes as they are, {reached[1]} on rotated and "
        f"{reached[2]} on whitened ones, {wording.same_draws(plain.config.draws)}; a linear probe reaches "
        f"{wording.accuracy(probe.mean)} on the codes and {wording.accuracy(probed.mean)} on whitened ones{why}."
    )
    numbers = {"before": own.mean, "after": rotated.mean, "raw": raw.mean, "whitened": whitened.mean, "probe": probe.mean}
    return [Claim("penalty", text, is_resolved, blocks[0].run_ids, numbers)]
