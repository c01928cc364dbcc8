"""``python -m harness.study``: from a command line to a sweep and its summary.

What is slow to load is imported where it is first needed, so that ``--help`` and ``--list`` answer at once and so that
worker processes, which import this module again, start fast.
"""

from __future__ import annotations

import json
import math
import shlex
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness import costs, options, processes
from harness.commands import DONE, NOT_ALL, run_as_program, run_command
from harness.library import StudyFile, list_studies, load_study
from harness.options import Request
from harness.rules import UserError, one_line, without_password

if TYPE_CHECKING:
    from harness.config import StudyConfig, Trial

WORKERS_LOAD = ("harness.trial", "matplotlib.cm")
"""Loaded once for all workers while the command starts: what their tasks need for training and pictures."""


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command; gives its exit code."""
    words = sys.argv[1:] if words is None else words
    return run_command(lambda: _main(words), lambda: f"interrupted; the same command resumes: {_command(words)}")


def _main(words: Sequence[str]) -> int:
    request = options.parse(words)
    if request.list_studies:
        return _list()
    if request.replay:
        return _replay(request)
    file = load_study(request.study)
    return _dry_run(file, request) if request.dry_run else _run(file, request, words)


def _list() -> int:
    names = list_studies()
    width = max(map(len, names), default=0)
    for name in names:
        try:
            study = load_study(name).study
        except UserError as error:
            print(f"{name:<{width}}  cannot be read: {one_line(str(error))}")
            continue
        size = f"{_grid_size(study)} trials" if study.sampler == "grid" else f"{study.trials} trials by {study.sampler}"
        print(f"{name:<{width}}  {study.question} ({size}, {costs.estimate(study)})")
    return DONE


def _grid_size(study: StudyConfig) -> int:
    return study.seeds * math.prod(map(len, study.grid.values())) * max(1, len(study.variants))


def _dry_run(file: StudyFile, request: Request) -> int:
    """Shows the trials of a grid, or a sampler's first round; reads no image and opens no store."""
    from harness import display, plan, tables

    study = plan.check(file, request)
    trials: Sequence[Trial] = plan.grid_trials(study)
    more = f"; {note}" if (note := plan.note_of_doubles(study)) else ""
    if study.sampler != "grid":
        trials = plan.first_round(study, file.search_space, request)
        more = f"; these are the first {len(trials)} of {study.trials}, the next ones depend on their results"
        if study.max_parameters:
            more += f", and none with more than {study.max_parameters} parameters, which depend on the images, is trained"
    if request.json:
        print(json.dumps([{"trial": trial.number, **trial.config.to_params()} for trial in trials], indent=2))
        return DONE
    rows = [[str(trial.number), tables.trial_name(trial, study.axes), str(trial.config.epochs)] for trial in trials]
    display.print_table(
        f"{study.name} on {study.base.dataset}: {len(trials)} trials, none run{more}",
        ["trial", "configuration", "epochs"],
        rows,
        2,
    )
    return DONE


def _run(file: StudyFile, request: Request, words: Sequence[str]) -> int:
    if request.executor == "processes":
        processes.prepare(WORKERS_LOAD)  # while this process loads the rest
    from harness import display
    from harness.ahead import begin_ahead
    from harness.claims import claim_sweep, private_path
    from harness.closing import show_as_json, show_outcome
    from harness.interrupts import stopping_on_signals
    from harness.outage import Patience
    from harness.plan import make_plan
    from harness.rounds import Means
    from harness.store import check_store, store_uri
    from harness.sweep import open_executor, run_sweep
    from harness.track import MlflowTracker

    uri = store_uri(request.tracking_uri)
    check_store(uri)  # before images are downloaded
    plan = make_plan(file, request)
    means = Means(
        executor=request.executor,
        workers=request.workers,
        cluster=request.ray_address,
        resources=request.resources,
        group_size=request.group_size,
        fresh=request.fresh,
        retry_failed=request.retry_failed,
        retries=request.retries,
        checkpoints=private_path(uri, ".checkpoints", plan.identity),
        command=_command(words),
    )
    shown = display.open_display()
    started = time.monotonic()
    with claim_sweep(uri, plan.identity):
        pass  # another command that has it is told of now, before workers start; the sweep takes it when its store is open
    with stopping_on_signals(shown.note) as stop, open_executor(plan, means) as executor:
        workers = begin_ahead(executor, plan, means, uri, stop)
        tracker = MlflowTracker(uri, Patience(request.outage_limit, shown.note, stop))
        outcome = run_sweep(plan, means, tracker, shown, stop, workers)
    if not outcome.kept and not request.smoke and outcome.summary.finished == outcome.summary.total:
        costs.remember(plan.study, time.monotonic() - started)
    again = _command([*words, "--fresh"])
    if request.json:
        show_as_json(plan, outcome, tracker.uri, again)
    else:
        show_outcome(plan, outcome, again)
    return NOT_ALL if outcome.summary.failed else DONE


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
    return DONE


def _command(words: Sequence[str]) -> str:
    return f"python -m harness.study {shlex.join(map(without_password, words))}"


if __name__ == "__main__":
    run_as_program(main)
