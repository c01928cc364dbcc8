"""The coordinator: asks what to train, groups it, submits segments, writes what comes back, and goes on where it was."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from harness import models, pictures, report
from harness.config import Trial, TrialConfig, TrialRecord, TrialResult
from harness.display import Display
from harness.executors import EXECUTORS, Executor
from harness.groups import choose_group_size, choose_workers, evaluation_parts, least_parts, partition
from harness.measures import METRICS
from harness.plan import SweepPlan
from harness.rules import UserError
from harness.search import GridSearch, SamplerSearch
from harness.tracker import OpenSweep, Status, SweepInfo, Tracker
from harness.train import TrainState
from harness.trial import Segment, evaluate_group, run_segment

SEGMENTS = 3
"""Into so many segments a training is cut: enough to see it going on, few enough that the cutting costs nothing."""

EVALUATION_SHARE = 1.0
"""The work of an evaluation, in trainings: for the bar only."""


@dataclass(frozen=True)
class Means:
    """How a sweep is run; none of it changes a number.

    Attributes:
        executor: Name of the executor.
        workers: 0 for one a core, or one for a GPU.
        group_size: Trials that train together; 0 for as many as pays.
        fresh: Start a new sweep even where there is one to resume.
        retry_failed: Run failed trials again.
    """

    executor: str = "processes"
    workers: int = 0
    group_size: int = 0
    fresh: bool = False
    retry_failed: bool = False


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
    summary: report.Summary
    was_finished: bool
    kept: int


class WorkerLostError(Exception):
    """A worker process died: what had ended is kept, and the same command goes on."""


class Search(Protocol):
    """What to train next."""

    def next_round(self) -> list[Trial]:
        """All trials of the next round that has some to train; empty at the end."""

    def tell(self, record: TrialRecord) -> None:
        """Takes a result."""


@dataclass
class Group:
    """Trials under way together.

    Attributes:
        name: First and last number.
        trials: All members. Those that had ended before train again with the rest, for the last bits of a member depend
            on its place in the stack, and nothing more is kept of them.
        run_ids: The runs, by number, of those that had not.
        states: After the last segment; ``None`` before the first.
    """

    name: str
    trials: list[Trial]
    run_ids: dict[int, str] = field(default_factory=dict)
    states: list[TrainState] | None = None

    @property
    def is_trained(self) -> bool:
        """Whether no member has epochs left."""
        epochs = self.trials[0].config.epochs
        return self.states is not None and all(state.failure or state.epoch >= epochs for state in self.states)


@dataclass(frozen=True)
class Task:
    """What a worker does at a time.

    Attributes:
        group: To which it belongs.
        trials: All of the group for a segment, some of them for an evaluation.
    """

    group: Group
    trials: list[Trial]

    @property
    def configs(self) -> list[TrialConfig]:
        """The trials' configurations."""
        return [trial.config for trial in self.trials]


def run_sweep(plan: SweepPlan, means: Means, tracker: Tracker, display: Display) -> SweepOutcome:
    """Runs a sweep to its end, or goes on with it.

    Raises:
        UserError: if another command runs it, or the tracking store or a search space cannot be used.
        WorkerLostError: if a worker process died.
        KeyboardInterrupt: on Ctrl-C, after the runs under way were ended as interrupted.
    """
    with tracker.claim(plan.identity):
        sweep = tracker.open_sweep(_info(plan), means.fresh, means.retry_failed)
        for note in sweep.notes:
            display.note(f"note: {note}")
        records = {number: record for number, record in sweep.records.items() if number < plan.total}
        kept, search = len(records), open_search(plan, records)
        trials = search.next_round()
        if trials or not sweep.was_finished:
            tracker.resume_sweep(sweep)
            with _left_in_order(run := _Run(plan, means, tracker, display, sweep)):
                _run_rounds(run, search, trials, records)
                records = tracker.settle(records)
                _finish(run, records)
        return SweepOutcome(sweep, _summarize(plan, records), was_finished=not trials, kept=kept)


def open_search(plan: SweepPlan, records: Mapping[int, TrialRecord]) -> Search:
    """The sweep's Optuna study, with the ended trials in it."""
    directions = [METRICS[name].direction for name in plan.study.objectives]
    if plan.search_space is None or plan.study.sampler == "grid":
        return GridSearch(plan.study, directions, plan.trials, records)
    return SamplerSearch(plan.study, directions, plan.search_space, plan.overrides, models.resolve, records)


@dataclass(frozen=True)
class _Run:
    """What stays the same while a sweep runs, and the runs under way with the work that was shown of each."""

    plan: SweepPlan
    means: Means
    tracker: Tracker
    display: Display
    sweep: OpenSweep
    under_way: dict[str, float] = field(default_factory=dict)


@contextmanager
def _left_in_order(run: _Run) -> Iterator[None]:
    """Whatever ends a sweep early, no run is left behind as running."""
    try:
        yield
    except BaseException as error:
        with suppress(UserError):  # a store that is gone: what ended the sweep is said, and a resumed one clears up
            run.tracker.stop_trials([*run.under_way, run.sweep.run_id], "interrupted")
        if isinstance(error, BrokenProcessPool):
            raise WorkerLostError("a worker process died (killed, or out of memory)") from error
        raise
    finally:
        run.display.stop()


def _run_rounds(run: _Run, search: Search, trials: list[Trial], records: dict[int, TrialRecord]) -> None:
    """Runs round after round, until there is nothing more to train."""
    units = run.plan.total * (1 + EVALUATION_SHARE)
    run.display.start(run.plan.title, units, len(records) * (1 + EVALUATION_SHARE), run.plan.total, list(records.values()))
    objective = run.plan.study.objectives[0]
    best = report.best_trial(records.values(), objective)
    workers = choose_workers(run.means.workers, run.plan.placement.device)
    with EXECUTORS[run.means.executor](workers) as executor:
        while trials:
            for record in _run_round(run, executor, trials, records):
                records[record.trial.number] = record
                search.tell(record)
                best = report.best_trial(filter(None, (best, record)), objective)
                run.display.trial_ended(_name(run.plan, record.trial), record, is_best=best is record)
            trials = search.next_round()


def _run_round(run: _Run, executor: Executor, trials: list[Trial], records: Mapping[int, TrialRecord]) -> Iterator[TrialRecord]:
    """Keeps as many groups under way as the executor has slots for, and gives each trial's record as it ends.

    The largest go first: at the end there is then no worker without work beside one with a long task.
    """
    placement = run.plan.placement
    group_size = choose_group_size(run.means.group_size, placement, math.prod(run.plan.shape))
    groups = partition(trials, group_size, least_parts(run.means.group_size, placement))
    unfinished = [members for members in groups if any(trial.number not in records for trial in members)]
    unfinished.sort(key=lambda members: -_work(run.plan, members))
    waiting = deque(Group(f"{members[0].number}-{members[-1].number}", members) for members in unfinished)
    active: dict[Future[Any], Task] = {}
    while waiting or active:
        while waiting and len(active) < executor.slots:
            active |= _submit(run, executor, _begin(run, waiting.popleft(), records))
        done, _ = wait(active, return_when=FIRST_COMPLETED)
        for future in done:
            task = active.pop(future)
            if isinstance(outcome := future.result(), Segment):
                _take_segment(run, task.group, outcome)
                active |= _submit(run, executor, task.group)
            else:
                yield from _take_results(run, task, outcome)


def _work(plan: SweepPlan, members: Sequence[Trial]) -> int:
    """About how much a group has to do, in units of no meaning."""
    try:
        return len(members) * models.parameters(plan.shape, replace(members[0].config, seed=0, latent_size=1))
    except Exception:  # it cannot be built: that is its trials' result, when their turn comes
        return 0


def _begin(run: _Run, group: Group, records: Mapping[int, TrialRecord]) -> Group:
    placement = run.plan.placement
    tags = {
        "harness.group": group.name,
        "harness.executor": run.means.executor,
        "harness.trainer": placement.trainer,
        "harness.precision": placement.precision,
        "harness.workers": str(choose_workers(run.means.workers, placement.device)),
    }
    for trial in group.trials:
        if trial.number not in records:
            run_id = run.tracker.start_trial(run.sweep, trial, _name(run.plan, trial), tags)
            group.run_ids[trial.number] = run_id
            run.under_way[run_id] = 0.0
    return group


def _submit(run: _Run, executor: Executor, group: Group) -> dict[Future[Any], Task]:
    """The next segment of a group, or the parts of its evaluation that have trials without results."""
    placement, states = run.plan.placement, group.states
    if states is None or not group.is_trained:
        epochs = -(-group.trials[0].config.epochs // SEGMENTS)
        task = Task(group, group.trials)
        return {executor.submit(run_segment, task.configs, states, epochs, placement): task}
    group.states = None
    trained = {trial.number: replace(state, moments={}) for trial, state in zip(group.trials, states, strict=True)}
    parts = evaluation_parts(group.trials, placement, math.prod(run.plan.shape))  # without moments, two thirds of a state
    tasks = [Task(group, part) for part in parts if any(trial.number in group.run_ids for trial in part)]
    return {
        executor.submit(evaluate_group, task.configs, [trained[trial.number] for trial in task.trials], placement): task
        for task in tasks
    }


def _take_segment(run: _Run, group: Group, segment: Segment) -> None:
    group.states = segment.states
    for trial, logs in zip(group.trials, segment.logs, strict=True):
        if run_id := group.run_ids.get(trial.number):
            run.tracker.log_epochs(run_id, logs)
            run.under_way[run_id] += len(logs) / trial.config.epochs
            run.display.advance(len(logs) / trial.config.epochs)


def _take_results(run: _Run, task: Task, results: Sequence[TrialResult]) -> Iterator[TrialRecord]:
    for trial, result in zip(task.trials, results, strict=True):
        if run_id := task.group.run_ids.get(trial.number):
            record = run.tracker.finish_trial(run_id, trial, result)
            run.display.advance(1 + EVALUATION_SHARE - run.under_way.pop(run_id))  # a failed trial has work left
            yield record


def _summarize(plan: SweepPlan, records: Mapping[int, TrialRecord]) -> report.Summary:
    ordered = [records[number] for number in sorted(records)]
    return report.summarize(ordered, report.table_axes(tuple(plan.study.grid), ordered), plan.total)


def _finish(run: _Run, records: Mapping[int, TrialRecord]) -> None:
    """Writes the best values, the counts, the tables and the pictures on the parent run."""
    plan, summary = run.plan, _summarize(run.plan, records)
    metrics = {name: record.metrics[name] for name, record in summary.best.items()}
    counts = {"trials/total": summary.total, "trials/finished": summary.finished, "trials/failed": len(summary.failed)}
    tags = {f"harness.best.{name}": record.run_id for name, record in summary.best.items()}
    note = (
        f"{plan.study.question}\n\nIts metrics are the best of its trials, each by itself; the tags harness.best.* name the runs."
    )
    files = report.table_files(summary, records.values()) | pictures.picture_files(summary, run.tracker.read_file)
    status: Status = "FINISHED" if summary.finished else "FAILED"
    run.tracker.finish_sweep(run.sweep, status, metrics | counts, tags | {"mlflow.note.content": note}, files)


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


def _name(plan: SweepPlan, trial: Trial) -> str:
    return report.trial_name(trial, tuple(plan.study.grid))
