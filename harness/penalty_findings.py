"""What a sweep says of the decorrelation penalty: what it does to correlation, loss and transfer, and what a rotation does."""

from __future__ import annotations

from collections.abc import Sequence

from harness import wording
from harness.contrasts import Contrast, contrast, runs_of
from harness.evidence import ALPHA, Claim, Evidence
from harness.lines import Line, axes_of, common, cut
from harness.statistics import Interval, mean_interval

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


def find_penalties(evidence: Evidence) -> list[Claim]:
    """For each kind of penalty, the stronger first, what it does; then what PCA of the codes does for nothing."""
    plain = next((line for line in evidence.lines if line.rows[0].point.get("decorrelation") == 0.0), None)
    penalised = [line for line in evidence.lines if line.rows[0].point.get("decorrelation")]
    if plain is None or not penalised:
        return []
    kinds = dict.fromkeys(_kind(line) for line in penalised)
    found = [claim for kind in kinds if (claim := _penalty([line for line in penalised if _kind(line) == kind], plain))]
    return [*sorted(found, key=lambda claim: -claim.numbers["fall"]), *_rotation(plain)]


def _weight(line: Line) -> float:
    return line.rows[0].trials[0].trial.config.decorrelation


def _kind(line: Line) -> str:
    return line.rows[0].trials[0].trial.config.decorrelation_kind


def _penalty(lines: Sequence[Line], plain: Line) -> Claim | None:
    falls = [each for line in lines if (each := contrast(line, plain, "max_latent_correlation"))]
    if not any(each.change.mean < 0 for each in falls):
        return None
    most = min(each.change.mean for each in falls)
    strongest = min((each for each in falls if each.change.mean <= ENOUGH * most), key=lambda each: _weight(each.line))
    line = strongest.line
    cost = contrast(line, plain, "reconstruction_loss", as_ratio=True)
    gain = contrast(line, plain, "transfer_accuracy")
    if cost is None or gain is None:
        return None
    config = line.rows[0].trials[0].trial.config
    text = (
        f"With {config.decorrelation_kind} a weight of {config.decorrelation:g} does nearly all that any does: the largest "
        f"correlation, {wording.decimal(strongest.level)} without, falls by "
        f"{wording.estimate(_turned(strongest.change), wording.decimal)}. The loss is "
        f"{wording.estimate(cost.change, wording.decimal)} times what it is without ({wording.p_value(cost.test.p_value)}), and "
        f"the accuracy with {config.labels} labels {_gain(gain)}."
    )
    numbers = {"weight": config.decorrelation, "fall": -strongest.change.mean, "cost": cost.change.mean, "gain": gain.change.mean}
    is_resolved = strongest.test.p_value < ALPHA
    return Claim("penalty", text, is_resolved, runs_of([strongest, cost, gain]), numbers)


def _turned(value: Interval) -> Interval:
    return Interval(-value.mean, -value.high, -value.low, value.count)


def _gain(found: Contrast) -> str:
    ends = wording.interval(found.change, lambda each: f"{100 * each:+.1f}")
    told = wording.p_value(found.test.p_value) + ("" if found.test.p_value < ALPHA else ", which is not resolved")
    return f"changes by {100 * found.change.mean:+.1f} points{ends} ({told})"


def _rotation(plain: Line) -> list[Claim]:
    """What turning and whitening the codes of an ordinary training does."""
    blocks = [plain.block(name) for name in ROTATED]
    shared = common(blocks)
    if shared is None:
        return []
    cuts = [cut(block, *axes_of(shared)).values.mean(axis=1) for block in blocks if block]
    own, rotated, raw, turned, whitened, probe, probed = (mean_interval(values) for values in cuts)
    before, after = (wording.estimate(value, wording.decimal) for value in (own, rotated))
    reached = [wording.estimate(value, wording.accuracy) for value in (raw, turned, whitened)]
    text = (
        "A rotation does it for nothing: along the principal axes of the codes of an ordinary training the largest correlation "
        f"is {after} instead of {before}. The classifier reaches {reached[0]} on the codes as they are, {reached[1]} on rotated "
        f"and {reached[2]} on whitened ones; a linear probe reaches {wording.accuracy(probe.mean)} on the codes and "
        f"{wording.accuracy(probed.mean)} on whitened ones, for it cannot tell the difference."
    )
    numbers = {"before": own.mean, "after": rotated.mean, "raw": raw.mean, "whitened": whitened.mean, "probe": probe.mean}
    return [Claim("penalty", text, rotated.count > 1, shared.run_ids, numbers)]
