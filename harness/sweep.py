"""The coordinator: asks what to train, has it trained round after round, and goes on where it was."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial

from harness import datasets, models, provenance, tables
from harness.about import TAG, About, Layout, facts_of
from harness.checkpoints import forget_checkpoints
from harness.config import Trial, TrialRecord
from harness.confirmation import ConfirmedSearch, Search, is_confirmation
from harness.display import Display
from harness.evidence import Claim
from harness.executors import EXECUTORS, spread_over
from harness.findings import find_in
from harness.measures import METRICS
from harness.plan import SweepPlan
from harness.reporting import FINDINGS_FILE, PAGE_FILE, describe, read_findings, report_files
from harness.rounds import EVALUATION_SHARE, Means, Run, run_round, trial_name
from harness.rules import UserError, without_password
from harness.search import GridSearch, SamplerSearch
from harness.sensitivity import search_plots
from harness.tracker import OpenSweep, Publication, Status, SweepInfo, Tracker
from harness.trial import set_up_worker
from harness.views import view_tag
from harness.workers import Executor, Spread, Wanted


@dataclass(frozen=True)
class SweepOutcome:
    """A sweep that is over.

    Attributes:
        sweep: The parent run.
        about: The same, for people.
        summary: What it came to.
        claims: What it says.
        report: Path or address of the report; empty where it is kept in memory only.
        was_finished: Whether there was nothing left to do.
        kept: Trials that had ended before.
    """

    sweep: OpenSweep
    about: About
    summary: tables.Summary
    claims: Sequence[Claim]
    report: str
    was_finished: bool
    kept: int


def run_sweep(
    plan: SweepPlan,
    means: Means,
    tracker: Tracker,
    display: Display,
    stop: threading.Event | None = None,
    executor: Executor | None = None,
) -> SweepOutcome:
    """Runs a sweep to its end, or goes on with it.

    Args:
        plan: What to run.
        means: How.
        tracker: Where the results go.
        display: Who is told.
        stop: Is set when the sweep is to come to a good place and stop there.
        executor: Who runs the tasks, and is ended by the caller; one of the means' own where there is none.

    Raises:
        UserError: if another command runs it, or the tracking store, the cluster or a search space cannot be used.
        KeyboardInterrupt: if it was to stop, or on Ctrl-C, after the runs under way were ended as interrupted.
    """
    opened = open_executor(plan, means) if executor is None else nullcontext(executor)
    with tracker.claim(plan.identity), opened as executor:
        sweep = tracker.open_sweep(_info(plan, means), means.fresh, means.retry_failed)
        for note in sweep.notes:
            display.note(f"note: {note}")
        records = {number: record for number, record in sweep.records.items() if number < plan.total or is_confirmation(number)}
        kept, search = len(records), open_search(plan, records)
        trials = search.next_round()
        run = Run(plan, means, tracker, display, sweep, stop or threading.Event(), is_hopeless=search.is_hopeless)
        if trials or not sweep.was_finished:
            tracker.resume_sweep(sweep)
            with _left_in_order(run):
                if means.fresh and means.checkpoints:
                    forget_checkpoints(means.checkpoints)
                _run_rounds(run, executor, search, trials, records)
                records = tracker.settle(records)
                claims = _finish(run, search, records, spread_over(executor) if trials else map)
        else:
            claims = find_in(_summarize(plan, records), tracker.read_file)
        for note in filter(None, (plan.note, search.ended_early)):
            display.note(f"note: {note}")
        summary, report = _summarize(plan, records), tracker.locate(sweep.run_id, PAGE_FILE)
        return SweepOutcome(sweep, _about(run), summary, claims, report, was_finished=not trials, kept=kept)


@contextmanager
def open_executor(plan: SweepPlan, means: Means) -> Iterator[Executor]:
    """What is to run the tasks; it starts no worker before there is a task, but finds its cluster."""
    base = plan.study.base
    data = datasets.load(base.dataset, plan.placement.data_root, base.image_size)
    set_up = partial(set_up_worker, data, provenance.program(plan.placement.kernels), plan.placement)
    with datasets.lent(data) as borrow:
        wanted = Wanted(means.workers, plan.placement.device, means.cluster, means.resources, set_up, borrow)
        with EXECUTORS[means.executor](wanted) as executor:
            yield executor


def open_search(plan: SweepPlan, records: Mapping[int, TrialRecord]) -> Search:
    """The sweep's Optuna study, with the ended trials in it."""
    directions = [METRICS[name].direction for name in plan.study.objectives]
    if plan.search_space is None or plan.study.sampler == "grid":
        return GridSearch(plan.study, directions, plan.trials, records)
    asked = {number: record for number, record in records.items() if not is_confirmation(number)}
    count = partial(models.parameters, plan.shape)
    search = SamplerSearch(plan.study, directions, plan.search_space, plan.overrides, models.resolve, asked, count)
    return ConfirmedSearch(search, plan.study, directions, records) if plan.study.confirm else search


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
    total, each = run.plan.total + sum(map(is_confirmation, records)), 1 + EVALUATION_SHARE
    run.display.start(run.plan.title, total * each, len(records) * each, total, list(records.values()))
    objective = run.plan.study.objectives[0]
    best = tables.best_trial(records.values(), objective)
    while trials:
        if more := sum(is_confirmation(trial.number) and trial.number not in records for trial in trials):
            run.display.note(f"{more} trials more: the best ones again, from fresh seeds")
            run.display.more(more * each, more)
        for record in run_round(run, executor, trials, records):
            records[record.trial.number] = record
            search.tell(record)
            best = tables.best_trial(filter(None, (best, record)), objective)
            run.display.trial_ended(trial_name(run.plan, record.trial), record, is_best=best is record)
        trials = search.next_round()


def _summarize(plan: SweepPlan, records: Mapping[int, TrialRecord]) -> tables.Summary:
    ordered = [records[number] for number in sorted(records)]
    return tables.summarize(ordered, tables.table_axes(plan.study.axes, ordered), plan.total)


def _finish(run: Run, search: Search, records: Mapping[int, TrialRecord], spread: Spread) -> list[Claim]:
    """Writes the best values, the counts and the report on the parent run, and what makes the sweep easy to find.

    Args:
        run: The sweep.
        search: What has proposed its trials.
        records: Those that have ended.
        spread: Draws the charts.

    Returns:
        What the report says.
    """
    plan, summary = run.plan, _summarize(run.plan, records)
    about = _about(run)
    plots = search_plots(search.study, plan.study.objectives) if plan.study.sampler != "grid" else ""
    files = report_files(about, list(records.values()), run.tracker.read_file, plots, spread=spread)
    metrics = {name: record.metrics[name] for name, record in summary.best.items()}
    counts = {"trials/total": summary.total, "trials/finished": summary.finished, "trials/failed": len(summary.failed)}
    tags = {f"harness.best.{name}": record.run_id for name, record in summary.best.items()}
    claims = read_findings(files[FINDINGS_FILE])
    note = describe(plan.study.question, claims, about.page_address)
    tags |= {"mlflow.note.content": note, TAG: about.layout.to_tag()}
    status: Status = "FINISHED" if summary.finished else "FAILED"
    run.tracker.write_outcome(run.sweep, metrics | counts, tags, files)
    for sentence in run.tracker.publish(run.sweep, _publication(run, summary)):
        run.display.note(sentence)
    if run.means.checkpoints:
        forget_checkpoints(run.means.checkpoints)
    run.tracker.end_sweep(run.sweep, status)
    return claims


def _about(run: Run) -> About:
    plan, sweep = run.plan, run.sweep
    layout = _layout(plan, run.means)
    facts = facts_of(run.tracker.context | {"harness.dataset": plan.study.base.dataset, **_fingerprint(plan)})
    uri = without_password(run.tracker.uri)
    return About(plan.title, plan.study.question, plan.identity, sweep.run_id, sweep.experiment_id, uri, layout, facts)


def _layout(plan: SweepPlan, means: Means) -> Layout:
    return Layout(plan.study.axes, plan.study.objectives, plan.study.sampler, plan.total, means.command)


def _fingerprint(plan: SweepPlan) -> dict[str, str]:
    return {"harness.data_fingerprint": plan.placement.data_fingerprint, "harness.device": plan.placement.device}


def _publication(run: Run, summary: tables.Summary) -> Publication:
    """The saved view, and the trial whose model is the best one: by the first objective, which is the validation loss mostly."""
    plan, objective = run.plan, run.plan.study.objectives[0]
    records = [record for row in summary.rows for record in row.trials]
    best = tables.best_trial(records, objective)
    view = view_tag(plan.identity, plan.title, sorted(summary.axes, key=lambda axis: axis != "latent_size"), "val/mse")
    name = re.sub(r"[^\w.-]+", "-", f"{plan.study.name}-{plan.study.base.dataset}")
    description = f"Best {objective} of the sweep {plan.identity}" + (f": {trial_name(plan, best.trial)}" if best else "")
    return Publication(view, name, best.run_id if best else "", description)


def _info(plan: SweepPlan, means: Means) -> SweepInfo:
    return SweepInfo(
        study=plan.study.name,
        identity=plan.identity,
        title=plan.title,
        question=plan.study.question,
        dataset=plan.study.base.dataset,
        data_fingerprint=plan.placement.data_fingerprint,
        device=plan.placement.device,
        files={f"study/{plan.study.name}.py": plan.source.encode()},
        tags={TAG: _layout(plan, means).to_tag()},
    )
