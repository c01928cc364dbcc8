"""What a new sweep's workers begin with before its store is open: the same calls, and only where nothing is kept of it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import ahead, study, sweep
from harness.ahead import AheadExecutor, begin_ahead
from harness.claims import claim_sweep, journal_folders
from harness.executors import InlineExecutor
from harness.options import Request
from harness.plan import SweepPlan, make_plan
from harness.rounds import Means, first_calls
from harness.sweep import open_executor, run_sweep
from harness.tracker import NullTracker
from harness.trial import run_segment
from tests.support import TINY, make_study_file, quick_report
from tests.sweeping import QuietDisplay, numbers

EPOCHS = 6


class Counting(InlineExecutor):
    """Takes itself for workers of this machine and remembers what it ran."""

    has_local_workers = True
    slots = 3

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[Callable[..., Any]] = []

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Runs it."""
        self.ran.append(function)
        return super().submit(function, *arguments)


@pytest.fixture
def plan(tmp_path: Path) -> SweepPlan:
    """Four trials."""
    return make_plan(make_study_file(tmp_path, base=replace(TINY, architecture="linear", epochs=EPOCHS)), Request(device="cpu"))


@pytest.fixture
def means(tmp_path: Path) -> Means:
    """Groups of one trial, and a folder for checkpoints."""
    return Means("inline", group_size=1, checkpoints=tmp_path / "checkpoints")


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """Of a store that is not there yet."""
    return f"sqlite:///{tmp_path}/mlflow.db"


def test_a_call_that_was_begun_gives_its_future_once_and_every_other_call_is_made() -> None:
    """Equal arguments are enough; the second time it is a new call."""
    inner = Counting()
    ahead = AheadExecutor(inner, [(divmod, 7, 2), (divmod, 8, 2)])
    assert inner.ran == [divmod, divmod]
    assert ahead.submit(divmod, 8, 2).result() == (4, 0)
    assert inner.ran == [divmod, divmod]
    assert ahead.submit(divmod, 8, 2).result() == (4, 0)
    assert ahead.submit(max, 7, 2).result() == 7
    assert inner.ran == [divmod, divmod, divmod, max]
    assert (ahead.workers, ahead.slots, ahead.has_local_workers) == (1, 3, True)


def test_no_more_is_begun_than_there_is_room_for() -> None:
    """What waits for a worker could as well wait for the store."""
    inner = Counting()
    AheadExecutor(inner, [(divmod, number, 2) for number in range(9)])
    assert len(inner.ran) == 3


def test_a_sweep_asks_for_all_that_was_begun_and_nothing_is_trained_twice(
    plan: SweepPlan, means: Means, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The numbers are those of a sweep that began with nothing, and there are as many calls."""
    monkeypatch.setattr(sweep, "report_files", quick_report)
    outcomes, calls = [], []
    for is_ahead in (False, True):
        executor = Counting()
        workers = begin_ahead(executor, plan, means, uri, threading.Event()) if is_ahead else executor
        begun = len(executor.ran)
        outcomes.append(run_sweep(plan, means, NullTracker(), QuietDisplay(), threading.Event(), workers))
        calls.append(sorted(function.__name__ for function in executor.ran))
        assert begun == (3 if is_ahead else 0)
    assert calls[0] == calls[1]
    assert calls[0].count(run_segment.__name__) == 3 * 4  # segments of the trials
    assert numbers(outcomes[0]) == numbers(outcomes[1])


def test_the_first_calls_are_those_of_the_largest_groups_first(plan: SweepPlan, means: Means) -> None:
    """One for each group, from no state, as a round has them."""
    calls = list(first_calls(plan, replace(means, group_size=2), plan.trials))
    assert [(call[0], len(call[1]), call[2]) for call in calls] == [(run_segment, 2, None)] * 2


@pytest.mark.parametrize(
    "case", ["new", "fresh", "checkpoints", "journal", "known", "known and fresh", "server", "far", "stopping"]
)
def test_it_is_begun_only_where_nothing_is_kept_and_the_workers_are_of_this_machine(
    case: str, plan: SweepPlan, means: Means, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A half-trained group goes on from where it was, so that its first call is another; --fresh forgets all that."""
    executor, stop = Counting(), threading.Event()
    if case in ("checkpoints", "fresh") and means.checkpoints:
        means.checkpoints.mkdir(parents=True)
    if case == "journal":
        journal_folders(uri, plan.identity)[0].mkdir(parents=True)
    if case.startswith("known"):
        monkeypatch.setattr(ahead, "lacks_sweep", lambda uri, identity: False)
    if case == "far":
        executor.has_local_workers = False
    if case == "stopping":
        stop.set()
    means = replace(means, fresh=case.endswith("fresh"))
    workers = begin_ahead(executor, plan, means, "http://127.0.0.1:1" if case == "server" else uri, stop)
    is_begun = case in ("new", "fresh", "known and fresh")
    assert isinstance(workers, AheadExecutor) == is_begun
    assert bool(executor.ran) == is_begun


def test_a_search_is_not_begun(plan: SweepPlan, means: Means, uri: str) -> None:
    """What it proposes first is its own business."""
    executor = Counting()
    search = replace(plan, study=replace(plan.study, sampler="random", trials=4, grid={}))
    assert begin_ahead(executor, search, means, uri, threading.Event()) is executor
    assert executor.ran == []


def test_a_worker_that_dies_of_what_was_begun_costs_nothing(
    plan: SweepPlan, means: Means, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is known when the sweep asks for the task, which is then tried again; what is never asked for does no harm."""
    monkeypatch.setattr(sweep, "report_files", quick_report)
    undisturbed = run_sweep(plan, means, NullTracker(), QuietDisplay())
    means, display = replace(means, executor="processes", workers=1), QuietDisplay()
    with open_executor(plan, means) as executor:
        process = executor.submit(os.getpid).result(60)
        os.kill(process, signal.SIGSTOP)  # until it has been given what it is to die of
        workers = AheadExecutor(executor, first_calls(plan, means, plan.trials))
        os.kill(process, signal.SIGKILL)
        workers._begun.append(((run_segment, "never asked for"), executor.submit(time.sleep, 0)))
        outcome = run_sweep(plan, means, NullTracker(), display, threading.Event(), workers)
    assert numbers(outcome) == numbers(undisturbed)
    assert [note for note in display.notes if "again from the last segment" in note]


def test_a_sweep_that_another_command_runs_is_refused_before_a_worker_starts(
    plan: SweepPlan, tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also with --fresh, which would begin at once."""

    def started(*arguments: object) -> None:
        raise AssertionError("workers were started")

    file = make_study_file(tmp_path, base=replace(TINY, architecture="linear", epochs=EPOCHS))
    monkeypatch.setattr(study, "load_study", lambda name: file)
    monkeypatch.setattr(sweep, "open_executor", started)
    with claim_sweep(uri, plan.identity):
        assert study.main(["tiny", "--fresh", "--device", "cpu", "--tracking-uri", uri]) == 2
    assert "is being run by another command" in capsys.readouterr().err
