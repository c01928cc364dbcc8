"""The coordinator: asks what to train, has it trained round after round, and goes on where it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from harness import datasets, models, pictures, provenance, tables
from harness.checkpoints import forget_checkpoints
from harness.config import Trial, TrialRecord
from harness.display import Display
from harness.executors import EXECUTORS
from harness.interrupts import stopping_on_signals
from harness.measures import METRICS
from harness.plan import SweepPlan
from harness.rounds import EVALUATION_SHARE, Means, Run, run_round, trial_name
from harness.rules import UserError
from harness.search import GridSearch, SamplerSearch
from harness.tracker import OpenSweep, Status, SweepInfo, Tracker
from harness.trial import set_up_worker
from harness.workers import Executor, Wanted


@dataclass(frozen=True)
class SweepOutcome:
    """A sweep that is over.

    Attributes:
        sweep: The parent run.
        summary: What it came to.
        was_finished: Whether there was nothing left to do.
        kept: Trials that had ended before.
    """

    sweep: OpenSweep
    summary: tables.Summary
    was_finished: bool
    kept: int


class Search(Protocol):
    """What to train next."""

    def next_round(self) -> list[Trial]:
        """All trials of the next round that has some to train; empty at the end."""

    def tell(self, record: TrialRecord) -> None:
        """Takes a result."""


def run_sweep(plan: SweepPlan, means: Means, tracker: Tracker, display: Display) -> SweepOutcome:
    """Runs a sweep to its end, or goes on with it.

    Raises:
        UserError: if another command runs it, or the tracking store, the cluster or a search space cannot be used.
        KeyboardInterrupt: on Ctrl-C or SIGTERM, after the runs under way were ended as interrupted.
    """
    with stopping_on_signals(display.note) as stop, tracker.claim(plan.identity), open_executor(plan, means) as executor:
        sweep = tracker.open_sweep(_info(plan), means.fresh, means.retry_failed)
        for note in sweep.notes:
            display.note(f"note: {note}")
        records = {number: record for number, record in sweep.records.items() if number < plan.total}
        kept, search = len(records), open_search(plan, records)
        trials = search.next_round()
        if trials or not sweep.was_finished:
            tracker.resume_sweep(sweep)
            with _left_in_order(run := Run(plan, means, tracker, display, sweep, stop)):
                if means.fresh and means.checkpoints:
                    forget_checkpoints(means.checkpoints)
                _run_rounds(run, executor, search, trials, records)
                records = tracker.settle(records)
                _finish(run, records)
        return SweepOutcome(sweep, _summarize(plan, records), was_finished=not trials, kept=kept)


def open_executor(plan: SweepPlan, means: Means) -> Executor:
    """What is to run the tasks; it starts no worker before there is a task, but finds its cluster."""
    base = plan.study.base
    data = datasets.load(base.dataset, plan.placement.data_root, base.image_size)
    set_up = partial(set_up_worker, data, provenance.program())
    return EXECUTORS[means.executor](Wanted(means.workers, plan.placement.device, means.cluster, means.resources, set_up))


def open_search(plan: SweepPlan, records: Mapping[int, TrialRecord]) -> Search:
    """The sweep's Optuna study, with the ended trials in it."""
    directions = [METRICS[name].direction for name in plan.study.objectives]
    if plan.search_space is None or plan.study.sampler == "grid":
        return GridSearch(plan.study, directions, plan.trials, records)
    return SamplerSearch(plan.study, directions, plan.search_space, plan.overrides, models.resolve, records)


@contextmanager
def _left_in_order(run: Run) -> Iterator[None]:
    """Whatever ends a sweep early, no run is left behind as running."""
    try:
        yield
    except BaseException:
        with suppress(UserError):  # a store that is gone: what ended the sweep is said, and a resumed one clears up
            run.tracker.stop_trials([*run.under_way, run.sweep.run_id], "interrupted")
        raise
    finally:
        run.display.stop()


def _run_rounds(run: Run, executor: Executor, search: Search, trials: list[Trial], records: dict[int, TrialRecord]) -> None:
    """Runs round after round, until there is nothing more to train."""
    units = run.plan.total * (1 + EVALUATION_SHARE)
    run.display.start(run.plan.title, units, len(records) * (1 + EVALUATION_SHARE), run.plan.total, list(records.values()))
    objective = run.plan.study.objectives[0]
    best = tables.best_trial(records.values(), objective)
    while trials:
        for record in run_round(run, executor, trials, records):
            records[record.trial.number] = record
            search.tell(record)
            best = tables.best_trial(filter(None, (best, record)), objective)
            run.display.trial_ended(trial_name(run.plan, record.trial), record, is_best=best is record)
        trials = search.next_round()


def _summarize(plan: SweepPlan, records: Mapping[int, TrialRecord]) -> tables.Summary:
    ordered = [records[number] for number in sorted(records)]
    return tables.summarize(ordered, tables.table_axes(tuple(plan.study.grid), ordered), plan.total)


def _finish(run: Run, records: Mapping[int, TrialRecord]) -> None:
    """Writes the best values, the counts, the tables and the pictures on the parent run."""
    plan, summary = run.plan, _summarize(run.plan, records)
    metrics = {name: record.metrics[name] for name, record in summary.best.items()}
    counts = {"trials/total": summary.total, "trials/finished": summary.finished, "trials/failed": len(summary.failed)}
    tags = {f"harness.best.{name}": record.run_id for name, record in summary.best.items()}
    note = (
        f"{plan.study.question}\n\nIts metrics are the best of its trials, each by itself; the tags harness.best.* name the runs."
    )
    files = tables.table_files(summary, records.values()) | pictures.picture_files(summary, run.tracker.read_file)
    status: Status = "FINISHED" if summary.finished else "FAILED"
    run.tracker.finish_sweep(run.sweep, status, metrics | counts, tags | {"mlflow.note.content": note}, files)
    if run.means.checkpoints:
        forget_checkpoints(run.means.checkpoints)


def _info(plan: SweepPlan) -> SweepInfo:
    return SweepInfo(
        study=plan.study.name,
        identity=plan.identity,
        title=plan.title,
        question=plan.study.question,
        dataset=plan.study.base.dataset,
        data_fingerprint=plan.placement.data_fingerprint,
        device=plan.placement.device,
        files={f"study/{plan.study.name}.py": plan.source.encode()},
    )
