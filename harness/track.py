"""Writes a sweep's runs in MLflow.

A sweep is a parent run, a trial a child run. All writes are batched, with explicit run ids and times.
"""

from __future__ import annotations

import json
import math
import platform
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from harness import provenance
from harness.claims import HEARTBEAT_SECONDS, check_heartbeat, claim_sweep, heartbeat, journal_folders
from harness.config import EpochLog, Trial, TrialRecord, TrialResult
from harness.journal import Header, Journal, Write
from harness.outage import JournaledRuns, Patience, Writer
from harness.reader import ENDS, FAILED_BEFORE_TAG, PRUNED_TAG, StoredRun, StoreReader, finite
from harness.rules import without_password
from harness.runs import (
    MlflowRuns,
    find_experiment,
    open_client,
    register_best,
    source_tags,
    write_view,
)
from harness.store import absolute, ask_store, database_path, store_uri
from harness.store_errors import explained, explains, is_forbidden
from harness.tracker import OpenSweep, Publication, Status, SweepInfo

EPOCH_METRICS = {
    "train/mse": "train_mse",
    "val/mse": "val_mse",
    "train/loss": "train_loss",
    "train/learning_rate": "learning_rate",
}
"""Metrics with a value an epoch, and the fields of an ``EpochLog`` that they are."""

LONGEST_TAG = 7000
BEAT_TAG = "harness.heartbeat"
DIFF_TAG = "harness.git_diff"
HOST_TAG, DEVICE_NAME_TAG = "harness.host", "harness.device_name"
"""Of a sweep those of the command; of a trial those of the worker that evaluated it, and until then the command's."""


class MlflowTracker:
    """Writes to an MLflow tracking store; a ``Tracker``."""

    def __init__(self, uri: str | None, patience: Patience | None = None) -> None:
        """Checks the store and makes it ready.

        Args:
            uri: Of the store; ``MLFLOW_TRACKING_URI`` or ``mlflow.db`` in this folder where it is ``None``.
            patience: How long to keep writes in a journal while the store is away; not at all where it is ``None``.

        Raises:
            UserError: if it cannot be used; says which store and why.
        """
        self.uri = store_uri(uri)
        self._client = open_client(self.uri)
        self._address = absolute(self.uri)
        runs = MlflowRuns(self.uri, self._client)
        self._runs: Writer = runs
        self._reader = StoreReader(self.uri, self._client, runs.files)
        self._journaled: JournaledRuns | None = None
        if patience:
            shown = without_password(self.uri)
            self._runs = self._journaled = JournaledRuns(self._runs, shown, lambda: ask_store(self._address), patience)
        self.context: dict[str, str] = {}
        self._info: SweepInfo | None = None
        self._parent_id = ""
        self._failed_before: frozenset[int] = frozenset()
        self._beat_at = -math.inf

    def claim(self, identity: str) -> AbstractContextManager[object]:
        """Keeps other commands of this machine off a sweep.

        Raises:
            UserError: if another command has it.
        """
        return claim_sweep(self.uri, identity)

    @explains
    def open_sweep(self, info: SweepInfo, fresh: bool = False, retry_failed: bool = False) -> OpenSweep:
        """Opens the newest sweep of this identity, or a new one.

        Runs of trials that were cut off are ended as KILLED and put in MLflow's trash: their trials run again. So are,
        with ``retry_failed``, those of failed trials. What an earlier command has left in a journal is written first.
        """
        experiment_id, notes = find_experiment(self._client, self.uri, info.study)
        parent = self._newest_sweep(experiment_id, info.identity)
        if self._journaled:
            header = Header(without_password(self._address), info.identity, experiment_id)
            if self._journaled.open(header, journal_folders(self._address, info.identity)):
                parent = self._newest_sweep(experiment_id, info.identity)
        if fresh:
            self._end_under_way(experiment_id, info.identity)
            parent = None
        changes = provenance.git_changes()
        self.context, self._info = _context_tags(info.device, changes), info
        if parent is None:
            return OpenSweep(self._new_parent(experiment_id, info, changes), experiment_id, notes=notes)
        if changes and parent.tags.get(DIFF_TAG) != self.context[DIFF_TAG]:
            name = f"study/uncommitted-{self.context[DIFF_TAG][:12]}.diff"
            self._log_files(parent.run_id, {name: provenance.shortened(changes)})
        return self._reopen(parent, notes, retry_failed)

    @explains
    def resume_sweep(self, sweep: OpenSweep) -> None:
        """Says that the sweep is running again."""
        self._parent_id = sweep.run_id
        self._set_status(sweep.run_id, "RUNNING")
        self.beat()

    @explains
    def beat(self) -> None:
        """Says on the parent run, once a minute, that this machine runs the sweep; a SQLite file has a lock for that."""
        if self._parent_id and database_path(self.uri) is None and time.monotonic() - self._beat_at > HEARTBEAT_SECONDS:
            self._beat_at = time.monotonic()
            self._log_batch(self._parent_id, tags={BEAT_TAG: heartbeat()})

    @explains
    def start_trial(self, sweep: OpenSweep, trial: Trial, name: str, tags: Mapping[str, str]) -> str:
        """Begins a trial's run; gives its id, or the key that stands for it until the store is back."""
        info = self._swept()
        all_tags = {
            **self.context,
            "mlflow.parentRunId": sweep.run_id,
            "harness.kind": "trial",
            "harness.sweep": info.identity,
            "harness.trial": str(trial.number),
            "harness.attempt": str(sweep.attempts.get(trial.number, 0) + 1),
            "harness.device": info.device,
            **({FAILED_BEFORE_TAG: "true"} if trial.number in sweep.failed_before else {}),
            **_chunked("harness.proposal", trial.proposal),
            **tags,
        }
        run_id = self._create(sweep.experiment_id, name, all_tags)
        self._runs.write(Write("batch", run_id, {"params": trial.config.to_params()}))
        self._runs.write(Write("input", run_id, _dataset(info)))
        return run_id

    @explains
    def log_epochs(self, run_id: str, logs: Sequence[EpochLog]) -> None:
        """Adds the logs of some epochs, in one write."""
        points = [(name, getattr(log, field), log.epoch) for log in logs for name, field in EPOCH_METRICS.items()]
        self._log_batch(run_id, points)

    @explains
    def finish_trial(self, run_id: str, trial: Trial, result: TrialResult) -> TrialRecord:
        """Writes a trial's numbers and files and ends its run; the end comes last, so that no half is taken for a whole."""
        finals = [(name, value, result.config.epochs) for name, value in result.metrics.items() if name not in EPOCH_METRICS]
        curves = [(name, value, epoch) for name, values in result.curves.items() for epoch, value in enumerate(values, start=1)]
        tags = {"harness.reason": result.reason[:LONGEST_TAG]} if result.reason else {}
        tags |= {PRUNED_TAG: "true"} if result.status == "pruned" else {}
        if result.host:
            tags |= {HOST_TAG: result.host, DEVICE_NAME_TAG: result.device_name}
        with self._journaled.as_one() if self._journaled else nullcontext():
            self._log_batch(run_id, finals + curves, tags)
            self._log_files(run_id, result.artifacts)
            self._set_status(run_id, ENDS[result.status])
        failed_before = trial.number in self._failed_before
        return TrialRecord(run_id, trial, result.status, finite(result.metrics), result.reason, failed_before)

    @explains
    def settle(self, records: Mapping[int, TrialRecord]) -> dict[int, TrialRecord]:
        """Returns when everything is in the store; gives the records with the ids that the store gave their runs.

        Raises:
            StoreError: if the store stays away for too long.
        """
        if self._journaled is None:
            return dict(records)
        self._journaled.settle()
        stored_id = self._journaled.stored_id
        return {number: replace(record, run_id=stored_id(record.run_id)) for number, record in records.items()}

    @explains
    def stop_trials(self, run_ids: Iterable[str], reason: str) -> None:
        """Ends runs as KILLED, with the reason as a tag."""
        for run_id in run_ids:
            self._log_batch(run_id, tags={"harness.reason": reason})
            self._set_status(run_id, "KILLED")

    @explains
    def write_outcome(
        self, sweep: OpenSweep, metrics: Mapping[str, float], tags: Mapping[str, str], files: Mapping[str, bytes]
    ) -> None:
        """Writes what the sweep came to on its parent run."""
        self._log_batch(sweep.run_id, [(name, value, 0) for name, value in metrics.items()], tags)
        self._log_files(sweep.run_id, files)
        self.settle({})

    def publish(self, sweep: OpenSweep, publication: Publication) -> tuple[str, ...]:
        """Writes the saved view and registers the best model; gives sentences on what could not be done.

        Neither is part of the record: a store that lacks the one or the other is no reason to fail.
        """
        notes = []
        for what, write in (("the saved view", write_view), ("the best model", register_best)):
            try:
                write(self._client, sweep.experiment_id, publication)
            except Exception as error:  # whatever this store has against it
                notes.append(f"note: {what} is not in MLflow: {explained(self.uri, error)}")
        return tuple(notes)

    @explains
    def end_sweep(self, sweep: OpenSweep, status: Status) -> None:
        """Ends the parent run, as the last of all: a sweep that has ended is not looked at again."""
        self._set_status(sweep.run_id, status)
        self.settle({})

    @explains
    def read_file(self, run_id: str, path: str) -> bytes:
        """Reads back a file of a run."""
        reader = self._reader
        return self._journaled.read(lambda: reader.read_file(run_id, path)) if self._journaled else reader.read_file(run_id, path)

    @explains
    def locate(self, run_id: str, path: str) -> str:
        """Where a file of a run is, for people: its path, or the page of a server that shows it."""
        return self._reader.locate(run_id, path)

    @explains
    def write_journal(self, journal: Journal, patience: Patience) -> None:
        """Writes what a journal holds and ends, as KILLED, the runs of its sweep that were cut off."""
        header = journal.header
        JournaledRuns(self._runs, header.store, lambda: ask_store(self._address), patience).replay(journal)
        self._end_under_way(header.experiment_id, header.sweep)

    def _end_under_way(self, experiment_id: str, identity: str) -> None:
        """Ends what a command that is gone has left as running."""
        self.stop_trials([run.run_id for run in self._reader.under_way(experiment_id, identity)], "interrupted")

    def _swept(self) -> SweepInfo:
        if self._info is None:
            raise RuntimeError("open_sweep comes before start_trial")
        return self._info

    def _newest_sweep(self, experiment_id: str, identity: str) -> StoredRun | None:
        sweep = self._reader.newest_sweep(experiment_id, identity)
        if sweep and sweep.status == "RUNNING":
            check_heartbeat(identity, sweep.tags.get(BEAT_TAG, ""))
        return sweep

    def _new_parent(self, experiment_id: str, info: SweepInfo, changes: str) -> str:
        tags = {
            **self.context,
            "harness.kind": "sweep",
            "harness.sweep": info.identity,
            "harness.dataset": info.dataset,
            "harness.data_fingerprint": info.data_fingerprint,
            "harness.device": info.device,
            "harness.question": info.question,
            "mlflow.note.content": info.question,
            **info.tags,
        }
        run_id = self._create(experiment_id, info.title, tags)
        self._runs.write(Write("input", run_id, _dataset(info)))
        diff = {"study/uncommitted.diff": provenance.shortened(changes)} if changes else {}
        self._log_files(run_id, {**info.files, **diff})
        self.settle({})  # trials name their parent by the id that the store gave it
        return self._journaled.stored_id(run_id) if self._journaled else run_id

    def _reopen(self, parent: StoredRun, notes: tuple[str, ...], retry_failed: bool) -> OpenSweep:
        kept = ("finished", "pruned") if retry_failed else ("finished", "pruned", "failed")
        runs = self._reader.children(parent, trash=True)
        records = {run.number: run.record for run in runs if run.end in kept and not run.is_trashed}
        self._clear_away(run for run in runs if run.end not in kept and not run.is_trashed)
        attempts: dict[int, int] = {}
        begun = [run for run in runs if run.number not in records]
        for run in begun:
            attempts[run.number] = max(attempts.get(run.number, 0), int(run.tags.get("harness.attempt", "1")))
        self._failed_before = frozenset(run.number for run in begun if run.status == "FAILED" or FAILED_BEFORE_TAG in run.tags)
        was_finished = parent.status == "FINISHED"
        return OpenSweep(parent.run_id, parent.experiment_id, records, attempts, self._failed_before, was_finished, notes)

    def _clear_away(self, runs: Iterable[StoredRun]) -> None:
        """Ends runs and puts them in the trash, which keeps how often each trial was begun.

        Who may write in an experiment need not be allowed to delete in it: a run that was cut off then stays as KILLED.
        """
        for run in runs:
            if run.status not in ("KILLED", "FAILED"):
                self.stop_trials([run.run_id], "interrupted")
            try:
                self._client.delete_run(run.run_id)
            except Exception as error:  # MLflow's, of which only the code tells what it means
                if run.has_ended or not is_forbidden(error):  # with a failed run beside it a trial would have two ends
                    raise

    def _create(self, experiment_id: str, name: str, tags: Mapping[str, str]) -> str:
        content = {"experiment_id": experiment_id, "name": name, "tags": dict(tags), "time": _now()}
        return self._runs.write(Write("create", uuid.uuid4().hex, content))

    def _log_batch(
        self, run_id: str, points: Iterable[tuple[str, float, int]] = (), tags: Mapping[str, str] | None = None
    ) -> None:
        """Writes metrics, those that are finite, and tags."""
        now = _now()
        metrics = [(name, float(value), now, step) for name, value, step in points if math.isfinite(value)]
        if metrics or tags:
            self._runs.write(Write("batch", run_id, {"metrics": metrics, "tags": dict(tags or {})}))

    def _log_files(self, run_id: str, files: Mapping[str, bytes]) -> None:
        if files:
            self._runs.write(Write("files", run_id, files=files))

    def _set_status(self, run_id: str, status: str) -> None:
        self._runs.write(Write("status", run_id, {"status": status, "time": _now()}))


def _now() -> int:
    return int(time.time() * 1000)


def _dataset(info: SweepInfo) -> dict[str, str]:
    digest = info.data_fingerprint[:36]  # the longest that MLflow takes; the source has it whole
    source = json.dumps({"name": info.dataset, "sha256": info.data_fingerprint})
    return {"name": info.dataset, "digest": digest, "source": source}


def _context_tags(device: str, changes: str) -> dict[str, str]:
    """Who and what made the runs, in MLflow's own words where it has them."""
    commit, dirty = provenance.git_state()
    tags = {**source_tags(), HOST_TAG: platform.node(), DEVICE_NAME_TAG: provenance.device_name(device)}
    if commit:
        tags |= {"mlflow.source.git.commit": commit, "harness.git_dirty": "true" if dirty else "false"}
    if changes:
        tags[DIFF_TAG] = provenance.digest(changes)
    return tags | {"harness.versions": json.dumps(provenance.versions())}


def _chunked(name: str, text: str) -> dict[str, str]:
    """A long text as several tags: a tag has a longest length."""
    parts = [text[start : start + LONGEST_TAG] for start in range(0, len(text), LONGEST_TAG)]
    return {f"{name}.{index}": part for index, part in enumerate(parts)}
