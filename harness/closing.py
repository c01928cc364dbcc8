"""What a person reads on the terminal when a sweep is over."""

from __future__ import annotations

import json
import math
from typing import Any

from harness import display, tables
from harness.config import HEADLINES
from harness.findings import FINDINGS, verdict
from harness.measures import METRICS
from harness.plan import SweepPlan
from harness.rules import without_password
from harness.sweep import SweepOutcome

LONGEST_TABLE = 40
MOST_FAILURES = 10
MOST_COMPARED = 5
"""Runs on the page that compares the best ones."""


def show_outcome(plan: SweepPlan, outcome: SweepOutcome, again: str) -> None:
    """Prints the headline metrics, the verdict, and where to find the rest.

    Args:
        plan: The sweep.
        outcome: What has become of it.
        again: The command that runs it all again.
    """
    _print_table(plan, outcome)
    display.print_text(_verdict_lines(outcome))
    display.print_lines(closing_lines(plan, outcome, again))


def show_as_json(plan: SweepPlan, outcome: SweepOutcome, uri: str, again: str) -> None:
    """Prints the summary as JSON on stdout, and the closing lines on stderr."""
    display.print_lines(closing_lines(plan, outcome, again), to_stderr=True)
    content = {
        "study": plan.study.name,
        "dataset": plan.study.base.dataset,
        "sweep": plan.identity,
        "tracking_uri": without_password(uri),
        "experiment_id": outcome.sweep.experiment_id,
        "run_id": outcome.sweep.run_id,
        "report": outcome.report,
        **tables.as_json(outcome.summary),
    }
    print(json.dumps(content, indent=2))  # not by rich, which takes seconds for the megabytes of a thousand trials


def _print_table(plan: SweepPlan, outcome: SweepOutcome) -> None:
    """Prints the headline metrics by configuration; of a long search the best ones."""
    summary = outcome.summary
    rows = list(summary.rows)
    if plan.study.sampler != "grid":
        objective = plan.study.objectives[0]
        rank = METRICS[objective].rank
        rows.sort(key=lambda row: rank(row.metrics[objective].mean) if objective in row.metrics else math.inf)
    shown = rows[:LONGEST_TABLE]
    seeds = max((len(row.trials) for row in rows), default=0)
    what = f"mean and 95 % interval over {seeds} seeds" if seeds > 1 else "one seed each"
    cells = [
        [*(tables.short_text(row.point[axis]) for axis in summary.axes), *(_cell(row.metrics.get(name)) for name in HEADLINES)]
        for row in shown
    ]
    left_out = f"; {len(rows) - len(shown)} more rows are in trials.csv" if len(rows) > len(shown) else ""
    display.print_table(f"{plan.title}: {what}{left_out}", [*summary.axes, *HEADLINES], cells, 1)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value.mean:.4f}" if value.count < 2 else f"{value.mean:.4f} ± {value.half_width:.4f}"


def _verdict_lines(outcome: SweepOutcome) -> list[str]:
    return [line for claim in verdict(outcome.claims) for line in (FINDINGS[claim.topic].question, f"  {claim.text}", "")]


def closing_lines(plan: SweepPlan, outcome: SweepOutcome, again: str) -> list[str]:
    """What has become of the trials, and what to type and to open next."""
    summary, about = outcome.summary, outcome.about
    state = "was finished already" if outcome.was_finished else "is finished"
    kept = f", {outcome.kept} of them kept from before" if outcome.kept and not outcome.was_finished else ""
    failed = f", {len(summary.failed)} failed" if summary.failed else ""
    failed += f", {summary.pruned} pruned" if summary.pruned else ""
    lines = [f"The sweep {plan.identity} {state}: {summary.finished} of {summary.total} trials have results{failed}{kept}."]
    lines += [f"  failed: trial {record.trial.number}: {record.reason}" for record in summary.failed[:MOST_FAILURES]]
    if summary.failed:
        lines += ["  --retry-failed, added to the command, runs the failed trials again"]
    if outcome.report:
        lines += [f"The report: {outcome.report}"]
    if about.ui_command:
        lines += [f"In MLflow, while '{about.ui_command}' runs in this folder:"]
    else:
        lines += ["In MLflow:"]
    lines += [
        f"  {about.run_address(outcome.sweep.run_id)}  (the sweep)",
        f"  {about.view_address}  (its trials, with charts)",
    ]
    if len(best := _best_runs(plan, outcome)) > 1:
        lines += [f"  {about.compare_address(best)}  (the {len(best)} best side by side)"]
    return [*lines, "To run it all again:", f"  {again}"]


def _best_runs(plan: SweepPlan, outcome: SweepOutcome) -> list[str]:
    objective = plan.study.objectives[0]
    records = [each for row in outcome.summary.rows for each in row.trials if objective in each.metrics]
    ranked = sorted(records, key=lambda record: METRICS[objective].rank(record.metrics[objective]))
    return [record.run_id for record in ranked[:MOST_COMPARED]]
