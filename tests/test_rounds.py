"""Groups on their way through the workers: what dies, stops or is damaged costs a segment at the most, and no number."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import rounds, train_stack
from harness.config import TrialConfig
from harness.executors import NoWorkerError
from harness.options import Request
from harness.plan import SweepPlan, make_plan
from harness.processes import prepare
from harness.rounds import Means, Stopped
from harness.rules import UserError
from harness.sweep import SweepOutcome, run_sweep
from harness.tracker import NullTracker
from harness.trial import evaluate_group, run_segment
from tests.support import TINY, make_study_file
from tests.sweeping import QuietDisplay, numbers

Numbers = dict[TrialConfig, dict[str, float]]
pytestmark = pytest.mark.usefixtures("quickly_reported")

EPOCHS = 3
WORK: dict[str, Callable[..., Any]] = {"training": run_segment, "evaluation": evaluate_group}
NAMES = {"training": "run_segment", "evaluation": "evaluate_group"}


@pytest.fixture(scope="module", autouse=True)
def _prepared() -> Iterator[None]:
    """A worker that is replaced starts at once."""
    forkserver._forkserver._stop()
    prepare(["tests.test_rounds"])
    yield
    forkserver._forkserver._stop()


def make(folder: Path) -> SweepPlan:
    """Four trials in one group of three segments."""
    file = make_study_file(folder, base=replace(TINY, architecture="linear", epochs=EPOCHS))
    return make_plan(file, Request(device="cpu"))


@pytest.fixture
def plan(tmp_path: Path) -> SweepPlan:
    """The same for every test."""
    return make(tmp_path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Numbers:
    """The numbers of a sweep to which nothing happens."""
    return numbers(run(make(tmp_path_factory.mktemp("undisturbed")), Means("inline", group_size=4)))


@pytest.fixture
def means(tmp_path: Path) -> Means:
    """One worker, one group, and a folder for checkpoints."""
    return Means("processes", workers=1, group_size=4, checkpoints=tmp_path / "checkpoints")


def run(
    plan: SweepPlan,
    means: Means,
    tracker: NullTracker | None = None,
    display: QuietDisplay | None = None,
    stop: threading.Event | None = None,
) -> SweepOutcome:
    """Runs a sweep in memory."""
    return run_sweep(plan, means, tracker or NullTracker(), display or QuietDisplay(), stop)


def run_until(after: float, plan: SweepPlan, means: Means, tracker: NullTracker | None = None) -> None:
    """Runs a sweep that is stopped when so much work is done."""
    display = _StopDisplay(after)
    with pytest.raises(Stopped):
        run(plan, means, tracker, display, display.event)


def die_once(flag: str, work: Callable[..., Any], configs: Sequence[TrialConfig], *arguments: Any) -> Any:
    """Kills the worker the first time, works afterwards."""
    try:
        os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return work(configs, *arguments)
    os.kill(os.getpid(), signal.SIGKILL)
    return None


def die_of(seed: int, latent_size: int, work: Callable[..., Any], configs: Sequence[TrialConfig], *arguments: Any) -> Any:
    """Kills the worker whenever a certain trial is among those that it is given."""
    if any((config.seed, config.latent_size) == (seed, latent_size) for config in configs):
        os.kill(os.getpid(), signal.SIGSEGV)
    return work(configs, *arguments)


@pytest.mark.parametrize("when", list(WORK))
def test_a_worker_that_is_killed_costs_its_task_and_no_number(
    when: str, plan: SweepPlan, means: Means, undisturbed: Numbers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again as it was: the numbers are those of an undisturbed sweep, bit for bit, and no run is twice there."""
    tracker, display = NullTracker(), QuietDisplay()
    monkeypatch.setattr(rounds, NAMES[when], partial(die_once, str(tmp_path / "flag"), WORK[when]))
    assert numbers(run(plan, means, tracker, display)) == undisturbed
    assert any(f"SIGKILL (out of memory?) in the {when} of trials 0 to 3: again" in note for note in display.notes)
    assert display.done == pytest.approx(display.units)
    assert len(tracker.statuses) == 5
    assert [log.epoch for log in tracker.epochs["run-1"]] == list(range(1, EPOCHS + 1))


@pytest.mark.parametrize("when", list(WORK))
@pytest.mark.parametrize("retries", [1, 2])
def test_the_trial_of_which_workers_die_fails_and_the_others_finish(
    retries: int, when: str, plan: SweepPlan, means: Means, undisturbed: Numbers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its group is halved until it is alone; the reason names the signal, and the numbers of the others are as they should be."""
    tracker, display = NullTracker(), QuietDisplay()
    monkeypatch.setattr(rounds, NAMES[when], partial(die_of, 1, 3, WORK[when]))
    outcome = run(plan, replace(means, retries=retries), tracker, display)
    (failed,) = outcome.summary.failed
    assert (failed.trial.config.seed, failed.trial.config.latent_size) == (1, 3)
    assert failed.reason == "a worker process was killed by SIGSEGV" + (", 2 times in a row" if retries == 2 else "")
    found = numbers(outcome)
    assert len(found) == 3
    for config, values in found.items():
        assert values == pytest.approx(undisturbed[config], rel=1e-3, abs=5e-3)
    assert list(tracker.statuses.values()).count("finished") == 3
    assert display.done == pytest.approx(display.units)
    assert {path for run_id, path in tracker.files if run_id == failed.run_id} >= {"failure.txt", "model/config.json"}
    if when == "evaluation":
        assert len(tracker.epochs[failed.run_id]) == EPOCHS


def die_of_labels(work: Callable[..., Any], configs: Sequence[TrialConfig], *arguments: Any) -> Any:
    """Kills the worker whenever a trial with 20 labels and two latent units is among those that it is given."""
    if any((config.labels, config.latent_size) == (20, 2) for config in configs):
        os.kill(os.getpid(), signal.SIGKILL)
    return work(configs, *arguments)


def make_shared(folder: Path) -> SweepPlan:
    """Six trials of two networks, three numbers of labels each, in one group."""
    base = replace(TINY, architecture="linear", epochs=EPOCHS)
    file = make_study_file(folder, base=base, grid={"latent_size": (2, 3), "labels": (10, 20, 40)}, seeds=1)
    return make_plan(file, Request(device="cpu"))


@pytest.fixture(scope="module")
def shared_undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Numbers:
    """The numbers of trials that share networks and to which nothing happens."""
    return numbers(run(make_shared(tmp_path_factory.mktemp("shared")), Means("inline", group_size=4)))


@pytest.mark.parametrize("when", list(WORK))
def test_trials_that_share_a_network_lose_nothing_with_a_worker(
    when: str, tmp_path: Path, means: Means, shared_undisturbed: Numbers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tried again together, they are what they are undisturbed, bit for bit, and each has the whole curve."""
    tracker, display = NullTracker(), QuietDisplay()
    monkeypatch.setattr(rounds, NAMES[when], partial(die_once, str(tmp_path / "flag"), WORK[when]))
    assert numbers(run(make_shared(tmp_path), means, tracker, display)) == shared_undisturbed
    assert any(f"in the {when} of trial" in note and "again" in note for note in display.notes)
    curves = [[log.epoch for log in logs] for logs in tracker.epochs.values()]
    assert curves == [list(range(1, EPOCHS + 1))] * 6


@pytest.mark.parametrize("when", list(WORK))
def test_of_trials_that_share_a_network_the_one_at_fault_fails_alone(
    when: str, tmp_path: Path, means: Means, shared_undisturbed: Numbers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Halving parts it from those with its network, and their numbers are as they should be."""
    monkeypatch.setattr(rounds, NAMES[when], partial(die_of_labels, WORK[when]))
    outcome = run(make_shared(tmp_path), replace(means, retries=1))
    (failed,) = outcome.summary.failed
    assert (failed.trial.config.labels, failed.trial.config.latent_size) == (20, 2)
    found = numbers(outcome)
    assert len(found) == 5
    for config, values in found.items():
        assert values == pytest.approx(shared_undisturbed[config], rel=1e-3, abs=5e-3)


def test_trials_that_share_a_network_go_on_from_their_checkpoint(
    tmp_path: Path, means: Means, shared_undisturbed: Numbers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a stop in the middle of their training: no epoch is trained twice, and the numbers are as if there had been none."""
    plan, means, tracker = make_shared(tmp_path), replace(means, executor="inline"), NullTracker()
    run_until(0.1, plan, means, tracker)
    begun: list[int] = []

    def counted(configs: Sequence[TrialConfig], states: Any, *arguments: Any) -> Any:
        begun.append(min(state.epoch for state in states) if states else 0)
        return run_segment(configs, states, *arguments)

    monkeypatch.setattr(rounds, "run_segment", counted)
    assert numbers(run(plan, means, tracker)) == shared_undisturbed
    assert begun == list(range(1, EPOCHS))


def test_where_no_worker_can_be_started_no_trial_is_to_blame(
    plan: SweepPlan, means: Means, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep ends with the system's reason; nothing has failed, and with processes to be had the same command finishes."""

    def refuse(*arguments: Any) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    tracker = NullTracker()
    with monkeypatch.context() as patched:
        patched.setattr(ProcessPoolExecutor, "submit", refuse)
        with pytest.raises(NoWorkerError, match="Resource temporarily unavailable"):
            run(plan, means, tracker)
    assert not {"failed", "RUNNING"} & set(tracker.statuses.values())
    assert run(plan, means, tracker).summary.finished == 4


def test_a_stack_too_large_for_the_memory_is_told_once(plan: SweepPlan, means: Means, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the size that fits, which later segments begin with."""
    sizes, plain = list[int](), train_stack.train_stack

    def with_little_memory(configs: Sequence[TrialConfig], *arguments: Any) -> Any:
        sizes.append(len(configs))
        if len(configs) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(configs, *arguments)

    monkeypatch.setattr(train_stack, "train_stack", with_little_memory)
    display = QuietDisplay()
    assert run(plan, replace(means, executor="inline"), display=display).summary.finished == 4
    assert display.notes == ["note: the memory of the device is too small for trials 0 to 3 at once: one by one from now on"]
    assert sizes == [4, 2, *[1] * 4 * EPOCHS]


class _StopDisplay(QuietDisplay):
    """Asks the sweep to stop when so much work is done."""

    def __init__(self, after: float) -> None:
        super().__init__()
        self.after, self.event = after, threading.Event()

    def advance(self, units: float) -> None:
        """Adds, and asks."""
        super().advance(units)
        if self.done >= self.after:
            self.event.set()


@pytest.mark.parametrize("executor", ["inline", "processes"])
@pytest.mark.parametrize("after", [0.1, 2, 3.9])
def test_a_sweep_that_was_stopped_goes_on_from_its_last_segment(
    after: float, executor: str, plan: SweepPlan, means: Means, undisturbed: Numbers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was begun is kept, no epoch is trained twice, and the numbers and logs are those of an undisturbed sweep."""
    means, tracker = replace(means, executor=executor), NullTracker()
    run_until(after, plan, means, tracker)
    assert "RUNNING" not in tracker.statuses.values()
    trained: list[int] = []
    plain = rounds.run_segment

    def counted(configs: Sequence[TrialConfig], states: Any, epochs: int, *arguments: Any) -> Any:
        trained.append(states[0].epoch if states else 0)
        return plain(configs, states, epochs, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(rounds, "run_segment", counted)
        outcome = run(plan, replace(means, executor="inline"), tracker)
    assert 0 not in trained
    assert numbers(outcome) == undisturbed
    finished = [run_id for run_id, status in tracker.statuses.items() if status == "finished"]
    assert len(finished) == 4
    assert all([log.epoch for log in tracker.epochs[run_id]] == list(range(1, EPOCHS + 1)) for run_id in finished)
    assert means.checkpoints is not None
    assert not means.checkpoints.exists()


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda content: b"", lambda content: b"x" * 99])
def test_a_damaged_checkpoint_is_said_and_not_used(
    damage: Callable[[bytes], bytes], plan: SweepPlan, means: Means, undisturbed: Numbers
) -> None:
    """Its group starts again; the numbers are the same."""
    tracker, display = NullTracker(), QuietDisplay()
    run_until(0.1, plan, replace(means, executor="inline"), tracker)
    assert means.checkpoints is not None
    (path,) = means.checkpoints.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    outcome = run(plan, replace(means, executor="inline"), tracker, display)
    assert any("is damaged" in note and "trials 0 to 3 start again" in note for note in display.notes)
    assert numbers(outcome) == undisturbed


def test_a_fresh_sweep_takes_no_checkpoint(plan: SweepPlan, means: Means) -> None:
    """It starts from epoch 0, whatever lies there."""
    means = replace(means, executor="inline")
    run_until(0.1, plan, means)
    assert means.checkpoints is not None
    (path,) = means.checkpoints.iterdir()
    path.write_bytes(b"would be noted")
    display = QuietDisplay()
    run(plan, replace(means, fresh=True), display=display)
    assert display.notes == []


def test_a_full_disk_stops_the_sweep_in_one_line(
    plan: SweepPlan, means: Means, undisturbed: Numbers, small_disk: Callable[[str], Path]
) -> None:
    """The line names the folder; no run is left running, and with room the same command finishes."""
    tracker = NullTracker()
    with pytest.raises(UserError, match=r"No space left.*make room in"):
        run(plan, replace(means, executor="inline", checkpoints=small_disk("8k") / "checkpoints"), tracker)
    assert "RUNNING" not in tracker.statuses.values()
    assert numbers(run(plan, means, tracker)) == undisturbed


def run_when(flag: Path, configs: Sequence[TrialConfig], *arguments: Any) -> Any:
    """Trains as soon as there is a file."""
    end = time.monotonic() + 60
    while not flag.exists() and time.monotonic() < end:
        time.sleep(0.01)
    return run_segment(configs, *arguments)


def test_a_sweep_is_heard_of_while_a_long_segment_runs(plan: SweepPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Again and again: another machine must not take it for gone, and begin it as well."""

    class Heard(NullTracker):
        """Keeps in what order it was called."""

        def __init__(self) -> None:
            super().__init__()
            self.calls: list[str] = []

        def beat(self) -> None:
            """Is called."""
            self.calls.append("beat")
            if self.calls.count("beat") == 4:
                flag.touch()

        def log_epochs(self, *arguments: Any) -> None:
            """The same."""
            super().log_epochs(*arguments)
            self.calls.append("epochs")

    flag = tmp_path / "flag"
    monkeypatch.setattr(rounds, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(rounds, "run_segment", partial(run_when, flag))
    tracker = Heard()
    run(plan, Means("processes", workers=1, group_size=4), tracker)
    assert tracker.calls[: tracker.calls.index("epochs")].count("beat") > 3
