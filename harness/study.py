"""``python -m harness.study``: from a command line to a sweep and its summary.

What is slow to load is imported where it is first needed, so that ``--help`` and ``--list`` answer at once and so that
worker processes, which import this module again, start fast.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness import executors, options
from harness.library import StudyFile, list_studies, load_study
from harness.options import Request
from harness.rules import UserError

if TYPE_CHECKING:
    from harness.config import StudyConfig, Trial
    from harness.plan import SweepPlan
    from harness.sweep import SweepOutcome
    from harness.tracker import Tracker

FINISHED, SOME_FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
LONGEST_TABLE = 40
MOST_FAILURES = 10


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command; gives its exit code."""
    words = sys.argv[1:] if words is None else words
    try:
        request = options.parse(words)
        if request.list_studies:
            return _list()
        if request.replay:
            return _replay(request)
        file = load_study(request.study)
        return _dry_run(file, request) if request.dry_run else _run(file, request, words)
    except UserError as error:
        print(f"error: {_one_line(str(error))}", file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        print(f"interrupted; the same command resumes: {_command(words)}", file=sys.stderr)
        return INTERRUPTED


def _one_line(text: str) -> str:
    """Spaces for line breaks, and escapes for what a terminal would obey: the names in it may be anybody's."""
    words = " ".join(text.split())
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in words)


def _list() -> int:
    names = list_studies()
    width = max(map(len, names), default=0)
    for name in names:
        try:
            study = load_study(name).study
        except UserError as error:
            print(f"{name:<{width}}  cannot be read: {_one_line(str(error))}")
            continue
        size = f"{_grid_size(study)} trials" if study.sampler == "grid" else f"{study.trials} trials by {study.sampler}"
        print(f"{name:<{width}}  {study.question} ({size})")
    return FINISHED


def _grid_size(study: StudyConfig) -> int:
    return study.seeds * math.prod(map(len, study.grid.values()))


def _dry_run(file: StudyFile, request: Request) -> int:
    """Shows the trials of a grid, or a sampler's first round; reads no image and opens no store."""
    from harness import display, plan, tables

    study = plan.check(file, request)
    trials: Sequence[Trial] = plan.grid_trials(study)
    more = ""
    if study.sampler != "grid":
        trials = plan.first_round(study, file.search_space, request)
        more = f"; these are the first {len(trials)} of {study.trials}, the next ones depend on their results"
    if request.json:
        print(json.dumps([{"trial": trial.number, **trial.config.to_params()} for trial in trials], indent=2))
        return FINISHED
    rows = [[str(trial.number), tables.trial_name(trial, tuple(study.grid)), str(trial.config.epochs)] for trial in trials]
    display.print_table(
        f"{study.name} on {study.base.dataset}: {len(trials)} trials, none run{more}",
        ["trial", "configuration", "epochs"],
        rows,
        2,
    )
    return FINISHED


def _run(file: StudyFile, request: Request, words: Sequence[str]) -> int:
    if request.executor == "processes":
        executors.prepare(["harness.trial"])  # while this process loads the rest
    from harness import display
    from harness.claims import private_path
    from harness.outage import Patience
    from harness.plan import make_plan
    from harness.rounds import Means
    from harness.store import check_store, store_uri
    from harness.sweep import run_sweep
    from harness.track import MlflowTracker

    check_store(store_uri(request.tracking_uri))  # before images are downloaded
    plan = make_plan(file, request)
    shown = display.open_display()
    tracker = MlflowTracker(request.tracking_uri, Patience(request.outage_limit, shown.note))
    means = Means(
        executor=request.executor,
        workers=request.workers,
        cluster=request.ray_address,
        resources=request.resources,
        group_size=request.group_size,
        fresh=request.fresh,
        retry_failed=request.retry_failed,
        retries=request.retries,
        checkpoints=private_path(tracker.uri, ".checkpoints", plan.identity),
    )
    outcome = run_sweep(plan, means, tracker, shown)
    _show(plan, tracker, outcome, request, words)
    return SOME_FAILED if outcome.summary.failed else FINISHED


def _replay(request: Request) -> int:
    """Writes what a sweep has left in a journal into its store."""
    from harness.outage import Patience
    from harness.replay import replay
    from harness.rules import user_path

    def note(text: str) -> None:
        print(text, file=sys.stderr)

    journal = replay(user_path(request.replay), request.tracking_uri, Patience(note=note))
    print(
        f"{journal.length} writes of the sweep {journal.header.sweep} are in {journal.header.store} now, and the journal is "
        "removed; the command that was cut off goes on with the sweep"
    )
    return FINISHED


def _show(plan: SweepPlan, tracker: Tracker, outcome: SweepOutcome, request: Request, words: Sequence[str]) -> None:
    from harness import display, tables
    from harness.store import without_password

    lines = _closing_lines(plan, tracker, outcome, words)
    if not request.json:
        _print_summary(plan, outcome)
        display.print_lines(lines)
        return
    display.print_lines(lines, to_stderr=True)
    content = {
        "study": plan.study.name,
        "dataset": plan.study.base.dataset,
        "sweep": plan.identity,
        "tracking_uri": without_password(tracker.uri),
        "experiment_id": outcome.sweep.experiment_id,
        "run_id": outcome.sweep.run_id,
        **tables.as_json(outcome.summary),
    }
    print(json.dumps(content, indent=2))


def _print_summary(plan: SweepPlan, outcome: SweepOutcome) -> None:
    """Prints the headline metrics by configuration; of a long search the best ones."""
    from harness import display
    from harness.config import HEADLINES
    from harness.measures import METRICS

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
        [*(str(row.point[axis]) for axis in summary.axes), *(_cell(row.metrics.get(name)) for name in HEADLINES)] for row in shown
    ]
    left_out = f"; {len(rows) - len(shown)} more rows are in trials.csv" if len(rows) > len(shown) else ""
    display.print_table(f"{plan.title}: {what}{left_out}", [*summary.axes, *HEADLINES], cells, 1)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value.mean:.4f}" if value.count < 2 else f"{value.mean:.4f} ± {value.half_width:.4f}"


def _closing_lines(plan: SweepPlan, tracker: Tracker, outcome: SweepOutcome, words: Sequence[str]) -> list[str]:
    from harness.server import is_server
    from harness.store import without_password

    summary = outcome.summary
    state = "was finished already" if outcome.was_finished else "is finished"
    kept = f", {outcome.kept} of them kept from before" if outcome.kept and not outcome.was_finished else ""
    failed = f", {len(summary.failed)} failed" if summary.failed else ""
    lines = [f"The sweep {plan.identity} {state}: {summary.finished} of {summary.total} trials have results{failed}{kept}."]
    lines += [f"  failed: trial {record.trial.number}: {record.reason}" for record in summary.failed[:MOST_FAILURES]]
    if summary.failed:
        lines += ["  --retry-failed, added to the command, runs the failed trials again"]
    uri = without_password(tracker.uri)
    address = f"/#/experiments/{outcome.sweep.experiment_id}/runs/{outcome.sweep.run_id}?workflowType=machine_learning"
    if is_server(uri):
        lines += ["Next:", f"  {uri.rstrip('/')}{address}  (figures and tables)"]
    else:
        store = "" if uri == "sqlite:///mlflow.db" else f" --backend-store-uri {uri}"
        lines += ["Next:", f"  mlflow ui{store}", f"  then open http://127.0.0.1:5000{address}  (figures and tables)"]
    return [*lines, f"  {_command([*words, '--fresh'])}  (runs it all again)"]


def _command(words: Sequence[str]) -> str:
    import shlex

    from harness.store import without_password

    return f"python -m harness.study {shlex.join(map(without_password, words))}"


if __name__ == "__main__":
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    sys.exit(main())
