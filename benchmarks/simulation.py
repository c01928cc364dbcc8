"""A sweep on a cluster that is not there: ``python -m benchmarks.simulation`` runs 10,000 trials on 100 nodes in seconds.

The coordinator's own loop (``harness.rounds``) groups, submits, writes, loses nodes and tries again; only the clock, the nodes
and the tracking store are made up. What each thing takes is measured elsewhere and given as ``Costs``. Time stands still while
the loop computes and moves on when it waits, and by what a write takes when it writes.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, fields, replace
from types import TracebackType
from typing import Any, Self
from unittest.mock import patch

from harness import models, rounds
from harness.config import EpochLog, Placement, StudyConfig, Trial, TrialConfig, TrialRecord, TrialResult
from harness.display import print_table
from harness.plan import SweepPlan
from harness.rounds import Means, Run, run_round
from harness.tracker import NullTracker, OpenSweep, SweepInfo
from harness.train import TrainState
from harness.trial import Segment, run_segment
from harness.workers import NodeLostError, WorkerDiedError

SHAPE = (1, 28, 28)
ARCHITECTURES = ("base", "deep", "heavy")
LATENT_SIZES = (2, 5, 10, 15, 20, 25, 30)


@dataclass(frozen=True)
class Costs:
    """What things take, in seconds. The defaults were measured on the machine of benchmarks/README.md.

    Attributes:
        epoch: Training of one trial for one epoch, its share of a stack.
        evaluation: Evaluation of one trial.
        hand_over: Of a task to a worker and of its result back, beside the work itself.
        start: Of a worker, before its first task: process, libraries, images.
        begin: Writes at a trial's begin.
        log: Writes of a trial's segment, its checkpoint included.
        finish: Writes of a trial's end, with its files.
        notice: Until a lost node's tasks are known to be lost.
        repair: Until a lost node is back.
        node_life: Between two losses of one node, on average.
        deaths: Share of tasks in which a worker dies.
    """

    epoch: float = 0.75
    evaluation: float = 40.0
    hand_over: float = 0.02
    start: float = 8.0
    begin: float = 0.03
    log: float = 0.02
    finish: float = 0.12
    notice: float = 5.0
    repair: float = 600.0
    node_life: float = 24 * 3600.0
    deaths: float = 0.001


@dataclass
class Clock:
    """Simulated seconds, and how many of them the coordinator was busy."""

    now: float = 0.0
    busy: float = 0.0

    def spend(self, seconds: float) -> None:
        """The coordinator does something for so long."""
        self.now += seconds
        self.busy += seconds


@dataclass(eq=False)
class Node:
    """A machine of the cluster: the cores that have nothing to do, and the tasks of the others."""

    cores: int
    is_up: bool = True
    free: int = 0
    started: int = 0
    tasks: set[Task] = field(default_factory=set)


@dataclass(eq=False)
class Task:
    """Work for a core, and the future of what it gives."""

    seconds: float
    result: Callable[[], Any]
    future: Future[Any] = field(default_factory=Future)
    begun: float = 0.0


class SimulatedCluster:
    """An executor whose nodes are made up; brings the clock forward when the coordinator waits."""

    has_local_workers = False

    def __init__(self, nodes: int, cores: int, costs: Costs, clock: Clock, seed: int = 0) -> None:
        self.costs, self.clock, self._random = costs, clock, random.Random(seed)
        self.nodes = [Node(cores, free=cores) for _ in range(nodes)]
        self.computed = self.lost = 0.0
        self.node_losses = self.worker_deaths = 0
        self._free = deque(self.nodes)
        self._waiting: deque[Task] = deque()
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._done: set[Future[Any]] = set()
        if costs.node_life:
            for node in self.nodes:
                self._at(self._lifetime(), self._lose, node)

    @property
    def workers(self) -> int:
        """Cores of the nodes that are up."""
        return sum(node.cores for node in self.nodes if node.is_up) or 1

    @property
    def slots(self) -> int:
        """As of ``RayExecutor``."""
        return self.workers + 1

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Queues what the function would do for as long as it would take."""
        work = _segment if function is run_segment else _evaluation
        task = Task(*work(self.costs, *arguments))
        task.future.set_running_or_notify_cancel()
        self._waiting.append(task)
        self._serve(self.clock.now)
        return task.future

    def wait(self, active: Iterable[Future[Any]], timeout: float, return_when: str) -> tuple[set[Future[Any]], set[Future[Any]]]:
        """What ``concurrent.futures.wait`` does; lets the nodes work until something is done."""
        while self._events and (self._events[0][0] <= self.clock.now or not self._done):
            time, _, happen = heapq.heappop(self._events)
            happen(time)
            if self._done:
                self.clock.now = max(self.clock.now, time)
        done, self._done = self._done, set()
        return done, set(active) - done

    def _at(self, time: float, happen: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._events, (time, next(self._order), lambda now: happen(*arguments, now)))

    def _lifetime(self) -> float:
        return self._random.expovariate(1 / self.costs.node_life)

    def _serve(self, now: float) -> None:
        while self._waiting and self._free:
            node = self._free[0]
            if not node.is_up or not node.free:
                self._free.popleft()
                continue
            self._begin(node, self._waiting.popleft(), now)

    def _begin(self, node: Node, task: Task, now: float) -> None:
        node.free -= 1
        is_new = node.started < node.cores
        node.started += is_new
        node.tasks.add(task)
        task.begun = now
        seconds = task.seconds + self.costs.hand_over + self.costs.start * is_new
        dies = self._random.random() < self.costs.deaths
        self._at(now + seconds * (self._random.random() if dies else 1), self._end, node, task, dies)

    def _end(self, node: Node, task: Task, dies: bool, now: float) -> None:
        if task not in node.tasks:  # the node was lost meanwhile
            return
        node.tasks.remove(task)
        if dies:
            self.worker_deaths += 1
            self.lost += now - task.begun
            node.started -= 1
            task.future.set_exception(WorkerDiedError("a worker process ended"))
        else:
            self.computed += task.seconds
            task.future.set_result(task.result())
        self._done.add(task.future)
        node.free += 1
        self._free.append(node)
        self._serve(now)

    def _lose(self, node: Node, now: float) -> None:
        self.node_losses += 1
        self.lost += sum(now - task.begun for task in node.tasks)
        for task in node.tasks:
            self._at(now + self.costs.notice, self._tell, task)
        node.is_up, node.free, node.started, node.tasks = False, 0, 0, set()
        self._at(now + self.costs.repair, self._repair, node)

    def _tell(self, task: Task, now: float) -> None:
        task.future.set_exception(NodeLostError("a node was lost"))
        self._done.add(task.future)

    def _repair(self, node: Node, now: float) -> None:
        node.is_up, node.free = True, node.cores
        self._free.append(node)
        self._at(now + self._lifetime(), self._lose, node)
        self._serve(now)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Has nothing to end."""


def _segment(
    costs: Costs, configs: Sequence[TrialConfig], states: Sequence[TrainState] | None, epochs: int, *rest: Any
) -> tuple[float, Callable[[], Any]]:
    done = states[0].epoch if states else 0
    last = min(done + epochs, configs[0].epochs)
    logs = [EpochLog(epoch, 1 / epoch, 1 / epoch, 1 / epoch, 1e-3, costs.epoch) for epoch in range(done + 1, last + 1)]
    seconds = sum(_weight(config) for config in configs) * (last - done) * costs.epoch
    return seconds, lambda: Segment([TrainState(last, {}) for _ in configs], [logs for _ in configs])


def _evaluation(costs: Costs, configs: Sequence[TrialConfig], *rest: Any) -> tuple[float, Callable[[], Any]]:
    seconds = sum(_weight(config) for config in configs) * costs.evaluation
    return seconds, lambda: [TrialResult(config, "finished", {"reconstruction_loss": 0.01}) for config in configs]


def _weight(config: TrialConfig) -> float:
    """How much an architecture takes, in units of the mean of the three."""
    return {"base": 0.6, "deep": 0.8, "heavy": 1.6}[config.architecture]


class TimedTracker(NullTracker):
    """Keeps results in memory and takes as long as a store."""

    def __init__(self, costs: Costs, clock: Clock) -> None:
        super().__init__()
        self.costs, self.clock = costs, clock

    def start_trial(self, sweep: OpenSweep, trial: Trial, name: str, tags: Mapping[str, str]) -> str:
        """Begins a trial's run."""
        self.clock.spend(self.costs.begin)
        return super().start_trial(sweep, trial, name, tags)

    def log_epochs(self, run_id: str, logs: Sequence[EpochLog]) -> None:
        """Takes the logs of a segment."""
        self.clock.spend(self.costs.log)

    def finish_trial(self, run_id: str, trial: Trial, result: TrialResult) -> TrialRecord:
        """Ends a trial's run."""
        self.clock.spend(self.costs.finish)
        return super().finish_trial(run_id, trial, result)


class NoDisplay:
    """Counts what was said."""

    def __init__(self) -> None:
        self.notes = 0

    def start(self, *arguments: Any) -> None:
        """Shows nothing."""

    def more(self, units: float, trials: int) -> None:
        """Shows nothing."""

    def advance(self, units: float) -> None:
        """Shows nothing."""

    def trial_ended(self, *arguments: Any, **named: Any) -> None:
        """Shows nothing."""

    def note(self, text: str) -> None:
        """Counts."""
        self.notes += 1

    def stop(self) -> None:
        """Shows nothing."""


@dataclass(frozen=True)
class Outcome:
    """What a simulated sweep came to.

    Attributes:
        trials: That were asked for.
        finished: That finished.
        seconds: Simulated, from start to end.
        busy: Share of the cores' time in which they computed what was kept.
        coordinator: Share of the time in which the coordinator was busy.
        lost: Hours of cores' work that was lost.
        node_losses: Nodes that went away.
        worker_deaths: Workers that died.
    """

    trials: int
    finished: int
    seconds: float
    busy: float
    coordinator: float
    lost: float
    node_losses: int
    worker_deaths: int

    @property
    def per_minute(self) -> float:
        """Finished trials a minute."""
        return 60 * self.finished / self.seconds


def simulate(trials: int, nodes: int, cores: int, costs: Costs, group_size: int = 0, seed: int = 0) -> Outcome:
    """Runs a sweep of so many trials to its end."""
    clock, plan = Clock(), _plan(trials)
    cluster = SimulatedCluster(nodes, cores, costs, clock, seed)
    tracker = TimedTracker(costs, clock)
    sweep = tracker.open_sweep(SweepInfo("s", "s", "s", "", "mnist", "", "cpu"))
    run = Run(plan, Means("simulated", group_size=group_size), tracker, NoDisplay(), sweep)
    with patch.object(rounds, "wait", cluster.wait):
        records = list(run_round(run, cluster, list(plan.trials), {}))
    return Outcome(
        trials=trials,
        finished=sum(record.status == "finished" for record in records),
        seconds=clock.now,
        busy=cluster.computed / (clock.now * nodes * cores),
        coordinator=clock.busy / clock.now,
        lost=cluster.lost / 3600,
        node_losses=cluster.node_losses,
        worker_deaths=cluster.worker_deaths,
    )


def _plan(trials: int) -> SweepPlan:
    """The default study's grid on 28 x 28 images, from as many seeds as it takes."""
    base = TrialConfig(dataset="mnist")
    configs = (
        replace(base, seed=seed, architecture=name, latent_size=size)
        for seed in itertools.count()
        for name in ARCHITECTURES
        for size in LATENT_SIZES
    )
    chosen = tuple(Trial(number, models.resolve(config)) for number, config in enumerate(itertools.islice(configs, trials)))
    study = StudyConfig(question="How long does it take?", name="simulation", base=base, grid={"latent_size": LATENT_SIZES})
    return SweepPlan(study, None, {}, "", chosen, Placement("."), SHAPE, "simulation")


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command; gives its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulation", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=10_000, metavar="N")
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 10, 100, 1000], metavar="N")
    parser.add_argument("--cores", type=int, default=16, metavar="N", help="of a node")
    parser.add_argument("--group-size", type=int, default=0, metavar="N", help="trials that train together (default as chosen)")
    for each in fields(Costs):
        parser.add_argument(f"--{each.name.replace('_', '-')}", type=float, default=each.default, metavar="X")
    given = parser.parse_args(words)
    costs = Costs(**{each.name: getattr(given, each.name) for each in fields(Costs)})
    rows = []
    for nodes in given.nodes:
        for name, chosen in (("none", replace(costs, node_life=0.0, deaths=0.0)), ("some", costs)):
            outcome = simulate(given.trials, nodes, given.cores, chosen, given.group_size)
            rows.append([str(nodes), name, *_cells(outcome)])
    headings = [
        "nodes",
        "failures",
        "finished",
        "hours",
        "trials/min",
        "cores busy",
        "coordinator busy",
        "nodes lost",
        "workers died",
        "core hours lost",
    ]
    print_table(f"{given.trials:,} trials on nodes of {given.cores} cores", headings, rows, 2)
    return 0


def _cells(outcome: Outcome) -> list[str]:
    return [
        f"{outcome.finished:,}",
        f"{outcome.seconds / 3600:.2f}",
        f"{outcome.per_minute:.1f}",
        f"{outcome.busy:.0%}",
        f"{outcome.coordinator:.0%}",
        str(outcome.node_losses),
        str(outcome.worker_deaths),
        f"{outcome.lost:.1f}",
    ]


if __name__ == "__main__":
    sys.exit(main())
