"""A store that goes away in the middle of a sweep, and comes back or does not: nothing is lost and nothing stands twice."""

from __future__ import annotations

import math
import re
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from harness import outage, rounds, store, sweep
from harness.config import Trial, TrialRecord, TrialResult
from harness.journal import Journal, JournalError, Write
from harness.outage import Patience
from harness.plan import SweepPlan
from harness.reader import read_children
from harness.rules import UserError
from harness.runs import MlflowRuns
from harness.store_errors import LoginError, StoreError
from harness.study import main
from harness.sweep import Means, run_sweep
from harness.track import MlflowTracker
from harness.tracker import OpenSweep
from harness.trial import evaluate_group, run_segment
from tests.support import fill, locked, quick_report, remembered, small_disk, stored_trials
from tests.sweeping import QuietDisplay

INLINE = Means("inline", group_size=1)
TRAIN, EVALUATE = remembered(run_segment), remembered(evaluate_group)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Asks often and waits shortly; the user's own files are in the folder of the test. What is trained is trained once."""
    monkeypatch.setattr(rounds, "run_segment", TRAIN)
    monkeypatch.setattr(rounds, "evaluate_group", EVALUATE)
    monkeypatch.setattr(sweep, "report_files", quick_report)
    monkeypatch.setattr(outage, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(outage, "CALM_SECONDS", 0.0)
    monkeypatch.setattr(store, "ASK_TIMEOUT_SECONDS", 0.05)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> dict[str, tuple[Any, ...]]:
    """What the smallest sweep leaves in a store that is always there."""
    from harness.options import Request
    from harness.plan import make_plan
    from tests.support import make_study_file

    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copy(empty_store, folder / "mlflow.db")
    uri = f"sqlite:///{folder}/mlflow.db"
    run_sweep(make_plan(make_study_file(folder), Request(device="cpu")), INLINE, MlflowTracker(uri), QuietDisplay())
    return stored_trials(uri)


class FaultyTracker(MlflowTracker):
    """Has a fault begin just before one trial's end is written, and end just before another's."""

    def __init__(self, uri: str, patience: Patience, begin: Callable[[], Any], first: int = 1, last: int = 3) -> None:
        super().__init__(uri, patience)
        self.begin, self.first, self.last = begin, first, last
        self.fault: AbstractContextManager[Any] | None = None

    def finish_trial(self, run_id: str, trial: Trial, result: TrialResult) -> TrialRecord:
        """Writes a trial's end, with or without a store."""
        if trial.number == self.first:
            self.fault = self.begin()
            self.fault.__enter__()
        if trial.number == self.last:
            self.mend()
        return super().finish_trial(run_id, trial, result)

    def mend(self) -> None:
        """Ends the fault."""
        if self.fault:
            self.fault.__exit__(None, None, None)
        self.fault = None


class HopelessTracker(FaultyTracker):
    """Has a fault from the second trial's end on, and no patience left when all have ended."""

    def __init__(self, uri: str, database: Path) -> None:
        super().__init__(uri, patience([], 30), lambda: locked(database), last=99)

    def settle(self, records: Mapping[int, TrialRecord]) -> dict[int, TrialRecord]:
        """Waits no longer."""
        assert self._journaled is not None
        self._journaled._since = -math.inf
        return super().settle(records)


@pytest.fixture
def database(tmp_path: Path, empty_store: Path) -> Path:
    """An empty store."""
    return Path(shutil.copy(empty_store, tmp_path / "mlflow.db"))


def patience(notes: list[str], minutes: float = 1.0) -> Patience:
    """Keeps the notes."""
    return Patience(minutes, notes.append)


def journals(folder: Path) -> list[Path]:
    """The journals below a folder."""
    return [path.parent for path in folder.rglob("writes.jsonl")]


def check_ids(uri: str, sweep: OpenSweep) -> None:
    """The parent run names runs of the store only."""
    client = MlflowClient(uri)
    parent = client.get_run(sweep.run_id)
    best = [value for name, value in parent.data.tags.items() if name.startswith("harness.best.")]
    assert parent.info.status == "FINISHED"
    assert len(best) == 3
    assert all(client.get_run(run_id).info.status == "FINISHED" for run_id in best)


def test_a_locked_database_delays_nothing_and_loses_nothing(
    plan: SweepPlan, database: Path, undisturbed: dict[str, tuple[Any, ...]], tmp_path: Path
) -> None:
    """Trials that begin and end meanwhile are in the store afterwards, every point once, and the user is told twice."""
    uri, notes = f"sqlite:///{database}", list[str]()
    tracker = FaultyTracker(uri, patience(notes), lambda: locked(database))
    outcome = run_sweep(plan, INLINE, tracker, QuietDisplay())
    assert stored_trials(uri) == undisturbed
    check_ids(uri, outcome.sweep)
    assert [bool(re.search("database is locked.*kept in", notes[0])), "is back" in notes[1], len(notes)] == [True, True, 2]
    assert journals(tmp_path) == []


def test_a_sweep_waits_for_a_store_that_goes_away_as_it_begins(
    plan: SweepPlan, database: Path, undisturbed: dict[str, tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trials' parent is a run of the store, also where it could not be made at once."""
    uri, notes, fault = f"sqlite:///{database}", list[str](), ExitStack()
    timer = threading.Timer(0.5, fault.close)

    def note(text: str) -> None:
        """Of the first one half a second passes until the store is there again."""
        notes.append(text)
        if len(notes) == 1:
            timer.start()

    tracker = MlflowTracker(uri, Patience(1.0, note))
    create = tracker._create

    def create_while_locked(*arguments: Any) -> str:
        """Makes the parent run while the store is locked."""
        monkeypatch.setattr(tracker, "_create", create)
        fault.enter_context(locked(database))
        return create(*arguments)

    monkeypatch.setattr(tracker, "_create", create_while_locked)
    outcome = run_sweep(plan, INLINE, tracker, QuietDisplay())
    timer.join()
    assert stored_trials(uri) == undisturbed
    check_ids(uri, outcome.sweep)
    children = read_children(uri, outcome.sweep.run_id)
    assert children is not None
    assert (len(children), len(notes)) == (4, 2)


def test_writes_that_are_all_answered_by_nobody_are_in_the_store_once(
    plan: SweepPlan, database: Path, undisturbed: dict[str, tuple[Any, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write of a sweep is done, then said to have failed, and done again from the journal."""
    monkeypatch.setattr(outage, "RETRY_SECONDS", 0.0)
    uri = f"sqlite:///{database}"
    tracker = MlflowTracker(uri, patience([]))

    class Unanswered(MlflowRuns):
        """Does a write and says that it did not, every other time."""

        calls = 0

        def write(self, write: Write, again: bool = False) -> str:
            """Does it."""
            run_id = super().write(write, again)
            self.calls += 1
            if self.calls % 2:
                raise StoreError(uri, "no answer")
            return run_id

    assert tracker._journaled is not None
    monkeypatch.setattr(tracker._journaled, "_store", store_of_writes := Unanswered(uri, tracker._client))
    outcome = run_sweep(plan, INLINE, tracker, QuietDisplay())
    assert store_of_writes.calls > 4 * 2 * 7
    assert stored_trials(uri) == undisturbed
    check_ids(uri, outcome.sweep)
    assert journals(tmp_path) == []


def test_a_store_that_becomes_read_only_is_written_when_it_can_be(
    plan: SweepPlan, empty_store: Path, undisturbed: dict[str, tuple[Any, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the journal cannot lie beside the store either, it lies with the user's own files."""
    monkeypatch.setenv("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")  # an open file keeps a disk from becoming read-only

    def read_only() -> ExitStack:
        """Remounts the disk."""
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        stack = ExitStack()
        stack.callback(subprocess.run, ["mount", "-o", "remount,rw", str(disk)], check=True)
        return stack

    with small_disk(tmp_path / "disk", "64m") as disk:
        shutil.copy(empty_store, disk / "mlflow.db")
        uri, notes = f"sqlite:///{disk}/mlflow.db", list[str]()
        tracker = FaultyTracker(uri, patience(notes), read_only)
        monkeypatch.setattr(tracker, "claim", nullcontext)  # its lock is an open file too
        outcome = run_sweep(plan, INLINE, tracker, QuietDisplay())
        assert stored_trials(uri) == undisturbed
        check_ids(uri, outcome.sweep)
    assert f"kept in {tmp_path / 'state'}" in notes[0]
    assert "is back" in notes[1]


@pytest.mark.parametrize("way", ["replay", "the same command"])
def test_results_of_a_store_that_does_not_come_back_are_in_a_journal(
    plan: SweepPlan, database: Path, undisturbed: dict[str, tuple[Any, ...]], way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error has the command that writes them; so does the sweep when it goes on. No trial is trained twice."""
    uri = f"sqlite:///{database}"
    tracker = HopelessTracker(uri, database)
    with pytest.raises(
        StoreError, match=r"it was away for more than 30 minutes: results are kept in .*, which then goes on$"
    ) as caught:
        run_sweep(plan, INLINE, tracker, QuietDisplay())
    folder = re.findall(r"python -m harness\.study --replay (\S+) writes", str(caught.value))[0]
    assert journals(database.parent) == [Path(folder)]
    assert main(["--replay", folder]) == 2
    assert "database is locked" in capsys.readouterr().err
    assert journals(database.parent) == [Path(folder)]
    tracker.mend()
    if way == "replay":
        assert main(["--replay", folder]) == 0
        assert "the journal is removed" in capsys.readouterr().out
        assert stored_trials(uri).items() <= undisturbed.items()
        assert main(["--replay", folder]) == 2
        assert "there is no journal in" in capsys.readouterr().err
    outcome = run_sweep(plan, INLINE, MlflowTracker(uri, patience([])), QuietDisplay())
    assert outcome.kept >= 2
    assert stored_trials(uri) == undisturbed
    check_ids(uri, outcome.sweep)
    assert journals(database.parent) == []


def test_a_trial_that_ends_as_patience_does_is_kept_whole(
    plan: SweepPlan, database: Path, undisturbed: dict[str, tuple[Any, ...]]
) -> None:
    """Its training is done: half of its end would be worth nothing. The sweep ends with the next write after it."""
    uri = f"sqlite:///{database}"
    tracker = FaultyTracker(uri, patience([], 0), lambda: locked(database), last=99)
    with pytest.raises(StoreError, match="it was away for more than 0 minutes"):
        run_sweep(plan, INLINE, tracker, QuietDisplay())
    tracker.mend()
    assert run_sweep(plan, INLINE, MlflowTracker(uri, patience([])), QuietDisplay()).kept == 2
    assert stored_trials(uri) == undisturbed


def test_a_journal_that_grows_too_large_ends_the_sweep(
    plan: SweepPlan, database: Path, undisturbed: dict[str, tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that stays away must not fill the disk; what was kept is written by the same command."""
    uri = f"sqlite:///{database}"
    tracker = FaultyTracker(uri, patience([]), lambda: locked(database), last=99)
    monkeypatch.setattr(outage, "LARGEST_JOURNAL", 20_000)
    with pytest.raises(StoreError, match=r"it was away until its journal had .*--replay"):
        run_sweep(plan, INLINE, tracker, QuietDisplay())
    tracker.mend()
    assert run_sweep(plan, INLINE, MlflowTracker(uri, patience([])), QuietDisplay()).kept >= 1
    assert stored_trials(uri) == undisturbed


def test_ctrl_c_while_the_store_is_away_leaves_nothing_running(
    plan: SweepPlan, database: Path, undisturbed: dict[str, tuple[Any, ...]]
) -> None:
    """The ends of the runs under way are in the journal as well."""
    uri = f"sqlite:///{database}"

    class InterruptedTracker(FaultyTracker):
        """Is interrupted when the store is away."""

        def log_epochs(self, *arguments: Any) -> None:
            """Raises as Ctrl-C does."""
            super().log_epochs(*arguments)
            if self.fault:
                raise KeyboardInterrupt

    tracker = InterruptedTracker(uri, patience([]), lambda: locked(database), last=99)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(plan, INLINE, tracker, QuietDisplay())
    tracker.mend()
    (folder,) = journals(database.parent)
    assert main(["--replay", str(folder)]) == 0
    runs = MlflowClient(uri).search_runs(["1"])
    assert sorted(run.info.status for run in runs) == ["FINISHED", "FINISHED", "KILLED", "KILLED"]
    assert {run.data.tags["harness.reason"] for run in runs if run.info.status == "KILLED"} == {"interrupted"}
    assert run_sweep(plan, INLINE, MlflowTracker(uri, patience([])), QuietDisplay()).kept == 2
    assert stored_trials(uri) == undisturbed


def test_ctrl_c_ends_the_waiting_for_a_store(plan: SweepPlan, database: Path, undisturbed: dict[str, tuple[Any, ...]]) -> None:
    """When all is trained and only the store is waited for: the first one leaves, and the journal stays."""
    uri, stop = f"sqlite:///{database}", threading.Event()

    class ImpatientDisplay(QuietDisplay):
        """Asks to stop when all trials have ended."""

        def trial_ended(self, *arguments: Any, **named: Any) -> None:
            """Counts."""
            super().trial_ended(*arguments, **named)
            if len(self.names) == 4:
                threading.Timer(0.3, stop.set).start()

    tracker = FaultyTracker(uri, Patience(30, stop=stop), lambda: locked(database), last=99)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_sweep(plan, INLINE, tracker, ImpatientDisplay(), stop)
    assert time.monotonic() - began < 30
    tracker.mend()
    assert len(journals(database.parent)) == 1
    assert run_sweep(plan, INLINE, MlflowTracker(uri, patience([])), QuietDisplay()).kept == 4
    assert stored_trials(uri) == undisturbed


def test_a_journal_of_a_store_with_a_password_asks_for_the_address(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The journal does not have the password, so it cannot be replayed without being told."""
    Journal.begin(tmp_path / "j", outage.Header("http://me:***@127.0.0.1:9", "s", "1"))
    assert main(["--replay", "j"]) == 2
    assert "add its address with the password: --tracking-uri URI" in capsys.readouterr().err


def test_a_journal_may_be_replayed_twice(
    plan: SweepPlan, database: Path, tmp_path: Path, undisturbed: dict[str, tuple[Any, ...]]
) -> None:
    """As after a kill just before it is removed: no run and no point stands twice."""
    uri = f"sqlite:///{database}"
    tracker = HopelessTracker(uri, database)
    with pytest.raises(StoreError):
        run_sweep(plan, INLINE, tracker, QuietDisplay())
    tracker.mend()
    (folder,) = journals(database.parent)
    shutil.copytree(folder, tmp_path / "copy")
    assert main(["--replay", str(folder)]) == 0
    once = stored_trials(uri)
    assert main(["--replay", str(tmp_path / "copy")]) == 0
    assert stored_trials(uri) == once
    run_sweep(plan, INLINE, MlflowTracker(uri), QuietDisplay())
    assert stored_trials(uri) == undisturbed


@pytest.mark.parametrize("state", ["from the start", "when there is a journal"])
def test_a_full_disk_ends_the_sweep_and_breaks_nothing(
    plan: SweepPlan,
    empty_store: Path,
    undisturbed: dict[str, tuple[Any, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
) -> None:
    """One line names the folder; with space again the same command goes on, and what was half-written counts for nothing."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "disk" / "state"))

    class FullTracker(FaultyTracker):
        """Has the disk become full at a trial's end."""

        def finish_trial(self, run_id: str, trial: Trial, result: TrialResult) -> TrialRecord:
            """Fills it first."""
            if trial.number == 2:
                fill(disk)
            return super().finish_trial(run_id, trial, result)

    with small_disk(tmp_path / "disk", "16m") as disk:
        shutil.copy(empty_store, disk / "mlflow.db")
        uri = f"sqlite:///{disk}/mlflow.db"
        first = 1 if state == "when there is a journal" else 99
        tracker = FullTracker(uri, patience([]), lambda: locked(disk / "mlflow.db"), first=first, last=99)
        with pytest.raises(JournalError, match=rf"{disk}.*No space left on device.*free some space") as caught:
            run_sweep(plan, INLINE, tracker, QuietDisplay())
        assert "\n" not in str(caught.value)
        tracker.mend()
        (disk / "filler").unlink()
        with closing(sqlite3.connect(disk / "mlflow.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        outcome = run_sweep(plan, INLINE, MlflowTracker(uri, patience([])), QuietDisplay())
        assert outcome.kept == 2
        assert stored_trials(uri) == undisturbed
        assert journals(disk) == []


def test_a_write_that_was_answered_by_nobody_is_done_once(database: Path) -> None:
    """Every kind of write, done again, leaves the run as it was: it may have been done when the store went away."""
    tracker = MlflowTracker(f"sqlite:///{database}")
    client = tracker._client
    experiment = client.create_experiment("e", artifact_location=(database.parent / "mlruns").as_uri())
    runs = MlflowRuns(tracker.uri, client)
    create = Write("create", "key", {"experiment_id": experiment, "name": "n", "tags": {"a": "b"}, "time": 1000})
    run_id = runs.write(create)
    assert runs.write(create, again=True) == run_id
    assert len(client.search_runs([experiment])) == 1
    writes = [
        Write("batch", run_id, {"params": {"p": "1"}, "tags": {"t": "2"}}),
        Write("batch", run_id, {"metrics": [("m", 0.1, 2000, 1), ("m", 0.2, 2000, 2)]}),
        Write("input", run_id, {"name": "d", "digest": "f" * 36, "source": "{}"}),
        Write("files", run_id, files={"a/b.txt": b"c"}),
        Write("status", run_id, {"status": "FINISHED", "time": 3000}),
    ]
    for write in writes:
        runs.write(write)
        before = client.get_run(run_id).to_dictionary()
        assert runs.write(write, again=True) == run_id
        assert client.get_run(run_id).to_dictionary() == before
    assert [(each.timestamp, each.step, each.value) for each in client.get_metric_history(run_id, "m")] == [
        (2000, 1, 0.1),
        (2000, 2, 0.2),
    ]
    assert (client.get_run(run_id).info.start_time, client.get_run(run_id).info.end_time) == (1000, 3000)


def test_what_the_store_refuses_is_no_outage(database: Path) -> None:
    """A write that it will never take ends the sweep at once, as before: waiting would not help."""
    notes: list[str] = []
    tracker = MlflowTracker(f"sqlite:///{database}", patience(notes))
    with pytest.raises(UserError, match="not found") as caught:
        tracker._runs.write(Write("status", "0" * 32, {"status": "FINISHED", "time": 1}))
    assert not isinstance(caught.value, StoreError)
    assert notes == []


def test_a_login_that_is_refused_is_no_outage(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the sweep at once, and nothing is journaled; what a journal holds by then stays there, and the line says where."""
    notes: list[str] = []
    tracker = MlflowTracker(f"sqlite:///{database}", patience(notes))
    journaled, refusal = tracker._journaled, LoginError("http://host", "'ann' has no permission there", "set the variables")
    assert journaled is not None
    faults = [refusal, StoreError("http://host", "no answer"), refusal]

    def write(write: Write, again: bool = False) -> str:
        """Fails."""
        raise faults.pop(0)

    monkeypatch.setattr(journaled._store, "write", write)
    journaled.open(outage.Header("http://host", "s", "1"), [tmp_path / "j"])
    one = Write("batch", "run", {"metrics": [("m", 1.0, 1, 1)]})
    with pytest.raises(LoginError, match=r"'ann' has no permission there: set the variables$"):
        journaled.write(one)
    assert (notes, journals(tmp_path)) == ([], [])
    journaled.write(one)
    with pytest.raises(UserError, match=r"no permission there: .*results are kept in .*--replay") as caught:
        journaled.settle()
    assert not isinstance(caught.value, StoreError)
    assert journals(tmp_path) == [tmp_path / "j"]


def test_a_run_that_was_put_in_the_trash_meanwhile_holds_nothing_up(database: Path, tmp_path: Path) -> None:
    """What a journal has of it is dropped, the user is told, and the rest is written."""
    tracker = MlflowTracker(f"sqlite:///{database}")
    client = tracker._client
    experiment = client.create_experiment("e", artifact_location=(tmp_path / "mlruns").as_uri())
    gone, there = (client.create_run(experiment).info.run_id for _ in range(2))
    client.delete_run(gone)
    journal = Journal.begin(tmp_path / "j", outage.Header(tracker.uri, "s", experiment))
    for run_id in (gone, there):
        journal.append(Write("batch", run_id, {"metrics": [("m", 1.0, 1, 1)]}))
    notes: list[str] = []
    tracker.write_journal(journal, patience(notes))
    assert f"run {gone} was put in MLflow's trash" in notes[0]
    assert client.get_run(there).data.metrics == {"m": 1.0}
    assert client.get_run(there).info.status == "RUNNING"
