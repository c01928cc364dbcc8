"""The groups of a round on their way through the workers: segment after segment, evaluation, and what becomes of faults."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness import figures, models, statistics, tables
from harness.checkpoints import checkpoint_path, read_checkpoint, write_checkpoint
from harness.config import Trial, TrialConfig, TrialRecord, TrialResult
from harness.display import Display
from harness.executors import call_when_free
from harness.groups import choose_group_size, evaluation_parts, group_name, least_parts, partition
from harness.plan import SweepPlan
from harness.rules import UserError
from harness.tracker import OpenSweep, Tracker
from harness.train import TrainState, segment_epochs, stage_losses
from harness.trial import Segment, evaluate_group, failed_result, run_segment
from harness.workers import Executor, NodeLostError, WorkerDiedError

EVALUATION_SHARE = 1.0
"""The work of an evaluation, in trainings: for the bar only."""

MOST_LOSSES = 5
"""So many lost machines are no fault of a task's; more of them count as deaths of its workers."""

LOOK_SECONDS = 0.5
"""How often it is looked whether the sweep is to stop."""


@dataclass(frozen=True)
class Means:
    """How a sweep is run; none of it changes a number.

    Attributes:
        executor: Name of the executor.
        workers: 0 for one a core, or one for a GPU; on a cluster for as many as there is room for.
        cluster: Address of the cluster, where the executor has several.
        resources: What a task takes of a node of the cluster, by name.
        group_size: Trials that train together; 0 for as many as pays.
        fresh: Start a new sweep even where there is one to resume.
        retry_failed: Run failed trials again.
        retries: How often a worker may die of a trial before the trial has failed.
        checkpoints: Folder for what half-trained groups have come to; ``None`` keeps nothing.
        command: What was typed, for the report.
    """

    executor: str = "processes"
    workers: int = 0
    cluster: str = ""
    resources: Mapping[str, float] = field(default_factory=dict)
    group_size: int = 0
    fresh: bool = False
    retry_failed: bool = False
    retries: int = 2
    checkpoints: Path | None = None
    command: str = ""


@dataclass(frozen=True)
class Run:
    """What stays the same while a sweep runs, and the runs under way with the work that was shown of each.

    Attributes:
        stop: Is set when the sweep is to come to a good place and stop there.
        is_hopeless: Whether the search gives a trial up, by its number and its validation loss at the end of each stage.
    """

    plan: SweepPlan
    means: Means
    tracker: Tracker
    display: Display
    sweep: OpenSweep
    stop: threading.Event = field(default_factory=threading.Event)
    under_way: dict[str, float] = field(default_factory=dict)
    is_hopeless: Callable[[int, Sequence[float]], bool] = lambda number, stages: False


@dataclass
class Group:
    """Trials under way together.

    Attributes:
        name: First and last number.
        trials: All members. Those that had ended before train again with the rest, for the last bits of a member depend
            on its place in the stack, and nothing more is kept of them.
        run_ids: The runs, by number, of those that had not and still have not.
        states: After the last segment; ``None`` before the first.
        at_once: Members that fit into the device's memory together, where that has shown; else 0.
    """

    name: str
    trials: list[Trial]
    run_ids: dict[int, str] = field(default_factory=dict)
    states: list[TrainState] | None = None
    at_once: int = 0

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
        states: Of these trials; ``None`` before the first segment.
        is_evaluation: Whether it is one, and not a segment.
        deaths: How often a worker has died of it.
        losses: How often the machine that had it went away.
    """

    group: Group
    trials: list[Trial]
    states: list[TrainState] | None
    is_evaluation: bool
    deaths: int = 0
    losses: int = 0

    @property
    def configs(self) -> list[TrialConfig]:
        """The trials' configurations."""
        return [trial.config for trial in self.trials]


class Stopped(KeyboardInterrupt):
    """The sweep was asked to stop, and all that the workers had begun is finished and kept."""


def run_round(run: Run, executor: Executor, trials: list[Trial], records: Mapping[int, TrialRecord]) -> Iterator[TrialRecord]:
    """Keeps as many groups under way as the executor has slots for, and gives each trial's record as it ends.

    The largest go first: at the end there is then no worker without work beside one with a long task.

    Raises:
        Stopped: if the sweep is to stop.
    """
    waiting = deque(_groups(run.plan, run.means, trials, records))
    active: dict[Future[Any], Task] = {}
    are_warm = False
    while active or (waiting and not run.stop.is_set()):
        while waiting and len(active) < executor.slots and not run.stop.is_set():
            active |= _submit(run, executor, _next_tasks(run.plan, _begin(run, executor, waiting.popleft(), records)))
        if run.stop.is_set():
            active = {future: task for future, task in active.items() if not future.cancel()}
        are_last = active and not waiting and all(task.is_evaluation for task in active.values())
        if are_last and not (are_warm or run.stop.is_set()):
            call_when_free(executor, figures.warm_up, len(active))  # while this process keeps the last results
            are_warm = True
        done, _ = wait(active, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED)
        run.tracker.beat()
        if active and not (done or run.stop.is_set()):
            statistics.warm_up()  # for the sweep's end, when all workers would wait for it
        for future in done:
            task = active.pop(future)
            try:
                outcome = future.result()
            except WorkerDiedError as death:
                tasks, failed = _after_death(run, task, death)
                active |= _submit(run, executor, tasks)
                yield from _take_results(run, task, failed) if failed else ()
                continue
            if isinstance(outcome, Segment):
                _take_segment(run, task, outcome)
                active |= _submit(run, executor, _next_tasks(run.plan, task.group))
            else:
                yield from _take_results(run, task, outcome)
    if waiting or run.under_way:
        raise Stopped


def _groups(plan: SweepPlan, means: Means, trials: Sequence[Trial], records: Mapping[int, TrialRecord]) -> list[Group]:
    """The groups of a round that have trials without results."""
    group_size = choose_group_size(means.group_size, plan.placement, math.prod(plan.shape))
    groups = partition(trials, group_size, least_parts(means.group_size, plan.placement))
    unfinished = [members for members in groups if any(trial.number not in records for trial in members)]
    unfinished.sort(key=lambda members: -_work(plan, members))
    return [Group(group_name(members), members) for members in unfinished]


def _work(plan: SweepPlan, members: Sequence[Trial]) -> int:
    """About how much a group has to do, in units of no meaning."""
    try:
        return len(members) * models.parameters(plan.shape, replace(members[0].config, seed=0, latent_size=1))
    except Exception:  # it cannot be built: that is its trials' result, when their turn comes
        return 0


def _begin(run: Run, executor: Executor, group: Group, records: Mapping[int, TrialRecord]) -> Group:
    """Starts the runs of a group and takes up what it had come to when it was cut off."""
    placement = run.plan.placement
    tags = {
        "harness.group": group.name,
        "harness.executor": run.means.executor,
        "harness.trainer": placement.trainer,
        "harness.precision": placement.precision,
        "harness.kernels": placement.kernels,
        "harness.workers": str(executor.workers),
    }
    for trial in group.trials:
        if trial.number not in records:
            run_id = run.tracker.start_trial(run.sweep, trial, trial_name(run.plan, trial), tags)
            group.run_ids[trial.number] = run_id
            run.under_way[run_id] = 0.0
    group.states = _read_states(run, group)
    for trial, state in zip(group.trials, group.states or (), strict=False):
        _log(run, group, trial, state.logs)
    return group


def _next_tasks(plan: SweepPlan, group: Group) -> list[Task]:
    """The next segment of a group, or the parts of its evaluation that have trials without results."""
    if group.states is None or not group.is_trained:
        return [Task(group, group.trials, group.states, is_evaluation=False)]
    states = {trial.number: _without_moments(state) for trial, state in zip(group.trials, group.states, strict=True)}
    group.states = None  # with the moments, two thirds of them, which nobody needs any more
    parts = evaluation_parts(group.trials, plan.placement, math.prod(plan.shape))
    return [
        Task(group, part, [states[trial.number] for trial in part], is_evaluation=True)
        for part in parts
        if any(trial.number in group.run_ids for trial in part)
    ]


def _without_moments(state: TrainState) -> TrainState:
    """With weights of its own: those of a worker's result have all of it in memory as long as they are there."""
    return replace(state, weights={name: array.copy() for name, array in state.weights.items()}, moments={})


def _submit(run: Run, executor: Executor, tasks: Sequence[Task]) -> dict[Future[Any], Task]:
    """Hands tasks to the workers, unless the sweep is to stop: what they start from is kept already."""
    if run.stop.is_set():
        return {}
    return {executor.submit(*_call(run.plan, task)): task for task in tasks}


def _call(plan: SweepPlan, task: Task) -> tuple[Any, ...]:
    """The function of a task and its arguments."""
    if task.is_evaluation:
        return evaluate_group, task.configs, task.states, plan.placement, plan.measures
    return run_segment, task.configs, task.states, segment_epochs(task.trials[0].config), plan.placement, task.group.at_once


def first_calls(plan: SweepPlan, means: Means, trials: Sequence[Trial]) -> Iterator[tuple[Any, ...]]:
    """The functions, each with its arguments, that a round of trials asks for first if none of them has been begun."""
    for group in _groups(plan, means, trials, {}):
        for task in _next_tasks(plan, group):
            yield _call(plan, task)


def _take_segment(run: Run, task: Task, segment: Segment) -> None:
    group = task.group
    if segment.at_once and segment.at_once != group.at_once:
        few = f"{segment.at_once} at a time" if segment.at_once > 1 else "one by one"
        run.display.note(f"note: the memory of the device is too small for {_these(group.trials)} at once: {few} from now on")
    group.states = [_judged(run, trial, state) for trial, state in zip(group.trials, segment.states, strict=True)]
    group.at_once = segment.at_once
    _write_states(run, group)
    for trial, logs in zip(group.trials, segment.logs, strict=True):
        _log(run, group, trial, logs)


def _judged(run: Run, trial: Trial, state: TrainState) -> TrainState:
    """The state of a trial after a segment, marked as ended where the search gives it up."""
    epochs, stages = trial.config.epochs, stage_losses(trial.config, state.logs)
    if run.plan.study.pruner == "none" or state.failure or state.epoch >= epochs or not run.is_hopeless(trial.number, stages):
        return state
    reason = f"pruned after {state.epoch} of {epochs} epochs: val/mse {stages[-1]:.4g} is worse than the trials before it had"
    return replace(state, failure=reason, is_pruned=True)


def _log(run: Run, group: Group, trial: Trial, logs: Sequence[Any]) -> None:
    if logs and (run_id := group.run_ids.get(trial.number)):
        run.tracker.log_epochs(run_id, logs)
        run.under_way[run_id] += len(logs) / trial.config.epochs
        run.display.advance(len(logs) / trial.config.epochs)


def _take_results(run: Run, task: Task, results: Sequence[TrialResult]) -> Iterator[TrialRecord]:
    group = task.group
    for trial, result in zip(task.trials, results, strict=True):
        if run_id := group.run_ids.get(trial.number):
            record = run.tracker.finish_trial(run_id, trial, result)
            del group.run_ids[trial.number]
            run.display.advance(1 + EVALUATION_SHARE - run.under_way.pop(run_id))  # a failed trial has work left
            yield record
    if not group.run_ids and (path := _checkpoint(run, group)):
        path.unlink(missing_ok=True)


def _after_death(run: Run, task: Task, cause: WorkerDiedError) -> tuple[list[Task], list[TrialResult]]:
    """What becomes of a task whose worker died: what is to be done instead, and the results that there are already.

    It is tried again as it is; then in halves, each of which is halved when a worker dies of it, until the trial at fault is
    alone, and that one has failed. Its result is made here: whatever killed the workers may kill one that looks at it again.
    A machine that goes away is not held against the task, unless it happens again and again.
    """
    what = f"{cause} in the {'evaluation' if task.is_evaluation else 'training'} of {_these(task.trials)}"
    if isinstance(cause, NodeLostError) and task.losses < MOST_LOSSES:
        run.display.note(f"{what}: again from the last segment, elsewhere")
        return [replace(task, losses=task.losses + 1)], []
    deaths, retries = task.deaths + 1, max(1, run.means.retries)
    if deaths < retries:
        run.display.note(f"{what}: again from the last segment")
        return [replace(task, deaths=deaths)], []
    if len(task.trials) > 1:
        run.display.note(f"{what}: now in halves")
        return [replace(half, deaths=retries - 1) for half in _halves(task)], []
    run.display.note(f"{what}: it has failed")
    state = task.states[0] if task.states else TrainState(epoch=0, weights={})
    return [], [failed_result(task.configs[0], state, f"{cause}, {deaths} times in a row" if deaths > 1 else str(cause))]


def _halves(task: Task) -> list[Task]:
    """A segment's halves are groups of their own from now on; those of an evaluation stay parts of one."""
    middle = len(task.trials) // 2
    halves = []
    for part in (slice(None, middle), slice(middle, None)):
        trials, states = task.trials[part], task.states[part] if task.states else None
        group = task.group
        if not task.is_evaluation:
            own = {trial.number: group.run_ids[trial.number] for trial in trials if trial.number in group.run_ids}
            group = Group(group.name, trials, own, states, group.at_once)
        halves.append(Task(group, trials, states, task.is_evaluation))
    return halves


def _these(trials: Sequence[Trial]) -> str:
    first, last = trials[0].number, trials[-1].number
    return f"trial {first}" if first == last else f"trials {first} to {last}"


def _checkpoint(run: Run, group: Group) -> Path | None:
    if run.means.checkpoints is None:
        return None
    placement = run.plan.placement
    configs = [trial.config for trial in group.trials]
    return checkpoint_path(run.means.checkpoints, configs, placement.trainer, placement.precision)


def _read_states(run: Run, group: Group) -> list[TrainState] | None:
    path = _checkpoint(run, group)
    try:
        return read_checkpoint(path, len(group.trials)) if path else None
    except ValueError as error:
        run.display.note(f"note: the checkpoint {error}: {_these(group.trials)} start again")
        return None


def _write_states(run: Run, group: Group) -> None:
    path = _checkpoint(run, group)
    if path is None:
        return
    try:
        write_checkpoint(path, group.states or [])
    except OSError as error:
        raise UserError(
            f"the checkpoint of {_these(group.trials)} cannot be written: {error}: make room in {path.parent}, "
            "then the same command goes on"
        ) from error


def trial_name(plan: SweepPlan, trial: Trial) -> str:
    """What its run is called."""
    return tables.trial_name(trial, plan.study.axes)
