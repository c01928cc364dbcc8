"""What a sweep says of single choices: each line that differs from the first one in one choice, against it, seed by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from harness import wording
from harness.contrasts import Contrast, contrasts, runs_of
from harness.evidence import ALPHA, Claim, Evidence
from harness.lines import Line
from harness.statistics import Interval, replicates_to_tell

CHOICES = ("batch_norm", "output_activation", "loss", "activation", "kernel_size", "depth", "width", "schedule")
"""Fields of which a sweep may ask whether the usual value is a good one."""


def find_choices(evidence: Evidence) -> list[Claim]:
    """Which single changes of the first line change its loss, and which its accuracy with a handful of labels."""
    baseline, variants = single_changes(evidence)
    losses = contrasts(variants, baseline, "reconstruction_loss", as_ratio=True)
    gains = contrasts(variants, baseline, "transfer_accuracy")
    claims = [_loss_claim(baseline, losses)] if losses else []
    return [*claims, _accuracy_claim(baseline, gains)] if gains else claims


def single_changes(evidence: Evidence) -> tuple[Line, list[Line]]:
    """The first line of a sweep, and those that differ from it in one of the ``CHOICES`` and in nothing else."""
    baseline, *others = evidence.evaluated
    changed = {line.label: _changed(line, baseline) for line in others}
    return baseline, [line for line in others if len(changed[line.label]) == 1 and changed[line.label][0] in CHOICES]


def _changed(line: Line, baseline: Line) -> list[str]:
    pairs = zip(asdict(line.identity).items(), asdict(baseline.identity).values(), strict=True)
    return [name for (name, value), usual in pairs if value != usual]


def change_of(line: Line, baseline: Line) -> str:
    """What is different about a line: ``loss=bce``."""
    return ", ".join(f"{name}={getattr(line.config, name)}" for name in _changed(line, baseline))


def _loss_claim(baseline: Line, found: Sequence[Contrast]) -> Claim:
    parts = [
        f"with {change_of(each.line, baseline)} it is {wording.estimate(each.change, wording.decimal)} times as high"
        f"{wording.tested(each.test.corrected)}"
        for each in found
    ]
    text = f"The reconstruction loss of the first line, {_name(baseline)}, {_over(baseline)}: {wording.listed(parts)}."
    numbers = {change_of(each.line, baseline): each.change.mean for each in found}
    return _claim(text, found, numbers)


def _accuracy_claim(baseline: Line, found: Sequence[Contrast]) -> Claim:
    parts = [
        f"{_signed(each.change)} with {change_of(each.line, baseline)}{wording.tested(each.test.corrected)}" for each in found
    ]
    draws = wording.same_draws(baseline.config.draws)
    text = f"The accuracy with a handful of labels, frozen, {draws}, changes by {wording.listed(parts)}."
    return _claim(text, found, {change_of(each.line, baseline): each.change.mean for each in found})


def _claim(text: str, found: Sequence[Contrast], numbers: dict[str, float]) -> Claim:
    """A sentence, and what would settle the comparisons that are open."""
    open_ones = [each for each in found if not each.test.corrected < ALPHA]
    if open_ones:
        needed = [replicates_to_tell(each.differences, ALPHA / len(found)) for each in open_ones]
        most = None if None in needed else max(each for each in needed if each is not None)
        which = "None" if len(open_ones) == len(found) else f"{len(open_ones)} of the {len(found)}"
        verb = "is resolved" if which == "None" else f"{'is' if len(open_ones) == 1 else 'are'} not resolved"
        rest = wording.unresolved(open_ones[0].change.count, most).partition("; ")[2] or "take more seeds"
        text += f" {which} of these differences {verb}; {rest}." if which == "None" else f" {which} differences {verb}; {rest}."
    return Claim("choices", text, len(open_ones) < len(found), runs_of(found), numbers)


def _signed(value: Interval) -> str:
    ends = wording.interval(value, lambda each: f"{100 * each:+.1f}")
    return f"{100 * value.mean:+.1f} points{ends}"


def _name(line: Line) -> str:
    return line.config.architecture


def _over(line: Line) -> str:
    return f"over {wording.sizes(line.sizes)}" if len(line.sizes) > 1 else f"at {wording.sizes(line.sizes)}"
