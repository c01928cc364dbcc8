"""What a sweep asks of a tracking store, and ``NullTracker``, which keeps everything in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from harness.config import EpochLog, Trial, TrialRecord, TrialResult

Status = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class SweepInfo:
    """What the tracking store is told of a sweep.

    Attributes:
        study: Name of the study, which is that of the experiment.
        identity: Of the sweep.
        title: Name of the parent run.
        question: What the study answers.
        dataset: Name of the dataset.
        data_fingerprint: SHA-256 of the dataset.
        device: On which the trials compute.
        files: Contents by path, kept on the parent run.
        tags: More of the parent run's.
    """

    study: str
    identity: str
    title: str
    question: str
    dataset: str
    data_fingerprint: str
    device: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class OpenSweep:
    """A sweep's parent run and what it holds so far.

    Attributes:
        run_id: Of the parent.
        experiment_id: Of the experiment.
        records: The trials that have ended, by number.
        attempts: How often each trial that has not ended was begun, by number.
        failed_before: The trials among those that had failed.
        was_finished: Whether the parent run says that the sweep is over.
        notes: Sentences that the user should read.
    """

    run_id: str
    experiment_id: str
    records: dict[int, TrialRecord] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)
    failed_before: frozenset[int] = frozenset()
    was_finished: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Publication:
    """What makes a sweep easy to find and its best model easy to load.

    Attributes:
        view: Name and value of the experiment's tag with the saved view.
        model: Name of the registered model.
        run_id: Of the best trial, whose model it is; empty where there is none.
        description: Of the model's version.
    """

    view: tuple[str, str]
    model: str
    run_id: str
    description: str


class Tracker(Protocol):
    """Where a sweep's results go.

    Attributes:
        uri: Of the store.
        context: Tags that say who and what makes the runs.
    """

    uri: str
    context: dict[str, str]

    def claim(self, identity: str) -> AbstractContextManager[object]:
        """Keeps other commands off a sweep."""

    def open_sweep(self, info: SweepInfo, fresh: bool = False, retry_failed: bool = False) -> OpenSweep:
        """Opens the newest sweep of this identity, or a new one; failed trials are to run again with ``retry_failed``."""

    def resume_sweep(self, sweep: OpenSweep) -> None:
        """Says that the sweep is running again."""

    def beat(self) -> None:
        """Says that the sweep is still running; costs next to nothing, however often it is called."""

    def start_trial(self, sweep: OpenSweep, trial: Trial, name: str, tags: Mapping[str, str]) -> str:
        """Begins a trial's run; gives its id."""

    def log_epochs(self, run_id: str, logs: Sequence[EpochLog]) -> None:
        """Adds the logs of some epochs."""

    def finish_trial(self, run_id: str, trial: Trial, result: TrialResult) -> TrialRecord:
        """Writes a trial's numbers and files and ends its run."""

    def settle(self, records: Mapping[int, TrialRecord]) -> dict[int, TrialRecord]:
        """Returns when everything is written; gives the records with the ids that their runs have then."""

    def stop_trials(self, run_ids: Iterable[str], reason: str) -> None:
        """Ends runs whose trials did not come to an end."""

    def write_outcome(
        self, sweep: OpenSweep, metrics: Mapping[str, float], tags: Mapping[str, str], files: Mapping[str, bytes]
    ) -> None:
        """Writes what the sweep came to."""

    def publish(self, sweep: OpenSweep, publication: Publication) -> tuple[str, ...]:
        """Writes the saved view and registers the best model; gives sentences on what could not be done."""

    def end_sweep(self, sweep: OpenSweep, status: Status) -> None:
        """Ends its run, as the last of all: a sweep that has ended is not looked at again."""

    def read_file(self, run_id: str, path: str) -> bytes:
        """Reads back a file of a run."""

    def locate(self, run_id: str, path: str) -> str:
        """Where a file of a run is, for people: a path, or an address of a page; empty where it cannot be said."""


class NullTracker:
    """Keeps everything in memory: the plain twin of the tracker that writes to MLflow."""

    uri = ""

    def __init__(self) -> None:
        self.context: dict[str, str] = {}
        self.sweeps: dict[str, OpenSweep] = {}
        self.epochs: dict[str, list[EpochLog]] = {}
        self.files: dict[tuple[str, str], bytes] = {}
        self.statuses: dict[str, str] = {}
        self.metrics: dict[str, dict[str, float]] = {}
        self.publications: list[Publication] = []
        self._parents: dict[str, OpenSweep] = {}

    def claim(self, identity: str) -> AbstractContextManager[object]:
        """Has nobody to keep off."""
        return nullcontext()

    def open_sweep(self, info: SweepInfo, fresh: bool = False, retry_failed: bool = False) -> OpenSweep:
        """Opens the newest sweep of this identity, or a new one; failed trials are to run again with ``retry_failed``."""
        if fresh or info.identity not in self.sweeps:
            self.sweeps[info.identity] = OpenSweep(self._new_run(), experiment_id="0")
        sweep = self.sweeps[info.identity]
        kept = {number: each for number, each in sweep.records.items() if each.status != "failed" or not retry_failed}
        return replace(sweep, records=kept, was_finished=self.statuses[sweep.run_id] == "FINISHED")

    def resume_sweep(self, sweep: OpenSweep) -> None:
        """Says that the sweep is running again."""
        self.statuses[sweep.run_id] = "RUNNING"

    def beat(self) -> None:
        """Has nobody to tell."""

    def start_trial(self, sweep: OpenSweep, trial: Trial, name: str, tags: Mapping[str, str]) -> str:
        """Begins a trial's run; gives its id."""
        run_id = self._new_run()
        self._parents[run_id] = next(each for each in self.sweeps.values() if each.run_id == sweep.run_id)
        return run_id

    def log_epochs(self, run_id: str, logs: Sequence[EpochLog]) -> None:
        """Adds the logs of some epochs."""
        self.epochs.setdefault(run_id, []).extend(logs)

    def finish_trial(self, run_id: str, trial: Trial, result: TrialResult) -> TrialRecord:
        """Keeps a trial's numbers and files."""
        self.statuses[run_id] = result.status
        self._keep(run_id, result.artifacts)
        records = self._parents[run_id].records
        failed_before = trial.number in records  # or it would not have run again
        record = TrialRecord(run_id, trial, result.status, result.metrics, result.reason, failed_before)
        records[trial.number] = record
        return record

    def settle(self, records: Mapping[int, TrialRecord]) -> dict[int, TrialRecord]:
        """Has everything written at any time."""
        return dict(records)

    def stop_trials(self, run_ids: Iterable[str], reason: str) -> None:
        """Ends runs whose trials did not come to an end."""
        self.statuses.update(dict.fromkeys(run_ids, reason))

    def write_outcome(
        self, sweep: OpenSweep, metrics: Mapping[str, float], tags: Mapping[str, str], files: Mapping[str, bytes]
    ) -> None:
        """Keeps what the sweep came to."""
        self.metrics[sweep.run_id] = dict(metrics)
        self._keep(sweep.run_id, files)

    def publish(self, sweep: OpenSweep, publication: Publication) -> tuple[str, ...]:
        """Keeps it."""
        self.publications.append(publication)
        return ()

    def end_sweep(self, sweep: OpenSweep, status: Status) -> None:
        """Ends its run."""
        self.statuses[sweep.run_id] = status

    def read_file(self, run_id: str, path: str) -> bytes:
        """Reads back a file of a run."""
        return self.files[run_id, path]

    def locate(self, run_id: str, path: str) -> str:
        """Is nowhere to be looked at."""
        return ""

    def _new_run(self) -> str:
        run_id = f"run-{len(self.statuses)}"
        self.statuses[run_id] = "RUNNING"
        return run_id

    def _keep(self, run_id: str, files: Mapping[str, bytes]) -> None:
        self.files.update({(run_id, path): content for path, content in files.items()})
