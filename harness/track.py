"""Writes a sweep's runs and reads them back.

A sweep is a parent run, a trial a child run. All writes are batched, with explicit run ids and times.
"""

from __future__ import annotations

import json
import math
import platform
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from harness import provenance
from harness.claims import HEARTBEAT_SECONDS, check_heartbeat, claim_sweep, heartbeat, journal_folders
from harness.config import EndStatus, EpochLog, Trial, TrialConfig, TrialRecord, TrialResult
from harness.journal import Header, Journal, Write
from harness.outage import JournaledRuns, Patience, Writer
from harness.runs import MlflowRuns, connect, explained, find_experiment, no_garbage_collection, source_tags
from harness.store import (
    StoredRun,
    absolute,
    ask_store,
    check_store,
    database_path,
    default_uri,
    initialise,
    read_children,
    without_password,
)
from harness.tracker import OpenSweep, Status, SweepInfo

if TYPE_CHECKING:
    from harness.runs import Run

EPOCH_METRICS = {
    "train/mse": "train_mse",
    "val/mse": "val_mse",
    "train/loss": "train_loss",
    "train/learning_rate": "learning_rate",
}
"""Metrics with a value an epoch, and the fields of an ``EpochLog`` that they are."""

RUNS_A_PAGE = 1000
LONGEST_TAG = 7000
BEAT_TAG = "harness.heartbeat"
DIFF_TAG = "harness.git_diff"
PRUNED_TAG = "harness.pruned"

ENDS: dict[EndStatus, str] = {"finished": "FINISHED", "failed": "FAILED", "pruned": "KILLED"}
"""How a trial ends, in MLflow's words."""


Given = ParamSpec("Given")
Result = TypeVar("Result")
Method = Callable[Concatenate["MlflowTracker", Given], Result]


def _explained(method: Method[Given, Result]) -> Method[Given, Result]:
    """Turns whatever the store raises into one line that says which store and why."""

    @wraps(method)
    def call(tracker: MlflowTracker, /, *arguments: Given.args, **named: Given.kwargs) -> Result:
        try:
            return method(tracker, *arguments, **named)
        except Exception as error:  # SQLAlchemy, requests and MLflow each have errors of their own
            raise explained(tracker.uri, error) from error

    return call


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
        self.uri = uri or default_uri()
        check_store(self.uri)
        try:
            self._client = initialise(self.uri, connect)
        except Exception as error:  # SQLAlchemy, requests and MLflow each have errors of their own
            raise explained(self.uri, error) from None
        self._address = absolute(self.uri)
        self._runs: Writer = MlflowRuns(self.uri, self._client)
        self._journaled: JournaledRuns | None = None
        if patience:
            shown = without_password(self.uri)
            self._runs = self._journaled = JournaledRuns(self._runs, shown, lambda: ask_store(self._address), patience)
        self._context: dict[str, str] = {}
        self._info: SweepInfo | None = None
        self._parent_id = ""
        self._beat_at = -math.inf

    def claim(self, identity: str) -> AbstractContextManager[object]:
        """Keeps other commands of this machine off a sweep.

        Raises:
            UserError: if another command has it.
        """
        return claim_sweep(self.uri, identity)

    @_explained
    def open_sweep(self, info: SweepInfo, fresh: bool = False, retry_failed: bool = False) -> OpenSweep:
        """Opens the newest sweep of this identity, or a new one.

        Runs of trials that were cut off are ended as KILLED and put in MLflow's trash: their trials run again. So are,
        with ``retry_failed``, those of failed trials. What an earlier command has left in a journal is written first.
        """
        experiment_id, notes = find_experiment(self._client, self.uri, info.study)
        parent = None if fresh else self._newest_sweep(experiment_id, info.identity)
        if self._journaled:
            header = Header(without_password(self._address), info.identity, experiment_id)
            if self._journaled.open(header, journal_folders(self._address, info.identity)) and not fresh:
                parent = self._newest_sweep(experiment_id, info.identity)
        changes = provenance.git_changes()
        self._context, self._info = _context_tags(info.device, changes), info
        if parent is None:
            return OpenSweep(self._new_parent(experiment_id, info, changes), experiment_id, notes=notes)
        if changes and parent.data.tags.get(DIFF_TAG) != self._context[DIFF_TAG]:
            name = f"study/uncommitted-{self._context[DIFF_TAG][:12]}.diff"
            self._log_files(parent.info.run_id, {name: provenance.shortened(changes)})
        return self._reopen(parent, notes, retry_failed)

    @_explained
    def resume_sweep(self, sweep: OpenSweep) -> None:
        """Says that the sweep is running again."""
        self._parent_id = sweep.run_id
        self._set_status(sweep.run_id, "RUNNING")
        self._beat()

    @_explained
    def start_trial(self, sweep: OpenSweep, trial: Trial, name: str, tags: Mapping[str, str]) -> str:
        """Begins a trial's run; gives its id, or the key that stands for it until the store is back."""
        info = self._swept()
        all_tags = {
            **self._context,
            "mlflow.parentRunId": sweep.run_id,
            "harness.kind": "trial",
            "harness.sweep": info.identity,
            "harness.trial": str(trial.number),
            "harness.attempt": str(sweep.attempts.get(trial.number, 0) + 1),
            "harness.device": info.device,
            **_chunked("harness.proposal", trial.proposal),
            **tags,
        }
        run_id = self._create(sweep.experiment_id, name, all_tags)
        self._runs.write(Write("batch", run_id, {"params": trial.config.to_params()}))
        self._runs.write(Write("input", run_id, _dataset(info)))
        return run_id

    @_explained
    def log_epochs(self, run_id: str, logs: Sequence[EpochLog]) -> None:
        """Adds the logs of some epochs, in one write."""
        points = [(name, getattr(log, field), log.epoch) for log in logs for name, field in EPOCH_METRICS.items()]
        self._log_batch(run_id, points)
        self._beat()

    @_explained
    def finish_trial(self, run_id: str, trial: Trial, result: TrialResult) -> TrialRecord:
        """Writes a trial's numbers and files and ends its run; the end comes last, so that no half is taken for a whole."""
        finals = [(name, value, result.config.epochs) for name, value in result.metrics.items() if name not in EPOCH_METRICS]
        curves = [(name, value, epoch) for name, values in result.curves.items() for epoch, value in enumerate(values, start=1)]
        tags = {"harness.reason": result.reason[:LONGEST_TAG]} if result.reason else {}
        self._log_batch(run_id, finals + curves, tags | ({PRUNED_TAG: "true"} if result.status == "pruned" else {}))
        self._log_files(run_id, result.artifacts)
        self._set_status(run_id, ENDS[result.status])
        self._beat()
        return TrialRecord(run_id, trial, result.status, _finite(result.metrics), result.reason)

    @_explained
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

    @_explained
    def stop_trials(self, run_ids: Iterable[str], reason: str) -> None:
        """Ends runs as KILLED, with the reason as a tag."""
        for run_id in run_ids:
            self._log_batch(run_id, tags={"harness.reason": reason})
            self._set_status(run_id, "KILLED")

    @_explained
    def finish_sweep(
        self, sweep: OpenSweep, status: Status, metrics: Mapping[str, float], tags: Mapping[str, str], files: Mapping[str, bytes]
    ) -> None:
        """Writes what the sweep came to on its parent run and ends it."""
        self._log_batch(sweep.run_id, [(name, value, 0) for name, value in metrics.items()], tags)
        self._log_files(sweep.run_id, files)
        self._set_status(sweep.run_id, status)
        self.settle({})

    @_explained
    def read_file(self, run_id: str, path: str) -> bytes:
        """Reads back a file of a run."""

        @_explained
        def read(tracker: MlflowTracker) -> bytes:
            with tempfile.TemporaryDirectory() as folder:
                return Path(tracker._client.download_artifacts(run_id, path, folder)).read_bytes()

        return self._journaled.read(lambda: read(self)) if self._journaled else read(self)

    @_explained
    def write_journal(self, journal: Journal, patience: Patience) -> None:
        """Writes what a journal holds and ends, as KILLED, the runs of its sweep that were cut off."""
        header = journal.header
        JournaledRuns(self._runs, header.store, lambda: ask_store(self._address), patience).replay(journal)
        wanted = f"tags.`harness.sweep` = '{header.sweep}' and attributes.status = 'RUNNING'"
        while runs := self._client.search_runs([header.experiment_id], wanted, max_results=RUNS_A_PAGE):
            self.stop_trials([run.info.run_id for run in runs], "interrupted")

    def _swept(self) -> SweepInfo:
        if self._info is None:
            raise RuntimeError("open_sweep comes before start_trial")
        return self._info

    def _newest_sweep(self, experiment_id: str, identity: str) -> Run | None:
        wanted = f"tags.`harness.kind` = 'sweep' and tags.`harness.sweep` = '{identity}'"
        runs = self._client.search_runs([experiment_id], wanted, order_by=["attributes.start_time DESC"], max_results=1)
        if runs and runs[0].info.status == "RUNNING":
            check_heartbeat(identity, runs[0].data.tags.get(BEAT_TAG, ""))
        return runs[0] if runs else None

    def _new_parent(self, experiment_id: str, info: SweepInfo, changes: str) -> str:
        tags = {
            **self._context,
            "harness.kind": "sweep",
            "harness.sweep": info.identity,
            "harness.dataset": info.dataset,
            "harness.data_fingerprint": info.data_fingerprint,
            "harness.device": info.device,
            "mlflow.note.content": info.question,
        }
        run_id = self._create(experiment_id, info.title, tags)
        self._runs.write(Write("input", run_id, _dataset(info)))
        diff = {"study/uncommitted.diff": provenance.shortened(changes)} if changes else {}
        self._log_files(run_id, {**info.files, **diff})
        self.settle({})  # trials name their parent by the id that the store gave it
        return self._journaled.stored_id(run_id) if self._journaled else run_id

    def _reopen(self, parent: Run, notes: tuple[str, ...], retry_failed: bool) -> OpenSweep:
        kept = ("finished", "pruned") if retry_failed else ("finished", "pruned", "failed")
        records: dict[int, TrialRecord] = {}
        cut_off: list[StoredRun] = []
        run_id, experiment_id = str(parent.info.run_id), str(parent.info.experiment_id)
        for run in self._children(experiment_id, run_id):
            if _ended(run) in kept:
                record = _record(run)
                records[record.trial.number] = record
            else:
                cut_off.append(run)
        attempts = self._clear_away(cut_off)  # when all are read: pages shift when a run is deleted
        return OpenSweep(run_id, experiment_id, records, attempts, parent.info.status == "FINISHED", notes)

    def _clear_away(self, runs: Iterable[StoredRun]) -> dict[int, int]:
        """Ends runs and puts them in the trash; gives how often each of their trials was begun, by number."""
        attempts: dict[int, int] = {}
        for run in runs:
            number = int(run.tags["harness.trial"])
            attempts[number] = max(attempts.get(number, 0), int(run.tags.get("harness.attempt", "1")))
            if run.status not in ("KILLED", "FAILED"):
                self.stop_trials([run.run_id], "interrupted")
            self._client.delete_run(run.run_id)
        return attempts

    def _children(self, experiment_id: str, parent_id: str) -> Iterable[StoredRun]:
        runs = read_children(self.uri, parent_id)
        return self._asked_children(experiment_id, parent_id) if runs is None else runs

    def _asked_children(self, experiment_id: str, parent_id: str) -> Iterator[StoredRun]:
        """What ``read_children`` gives, from any store."""
        wanted, token = f"tags.`mlflow.parentRunId` = '{parent_id}'", None
        while True:
            with no_garbage_collection():
                page = self._client.search_runs([experiment_id], wanted, max_results=RUNS_A_PAGE, page_token=token)
            yield from map(_stored, page)
            token = page.token
            if not token:
                return

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

    def _beat(self) -> None:
        """Says on the parent run, from time to time, that this machine runs the sweep; a SQLite file has a lock for that."""
        if self._parent_id and database_path(self.uri) is None and time.monotonic() - self._beat_at > HEARTBEAT_SECONDS:
            self._beat_at = time.monotonic()
            self._log_batch(self._parent_id, tags={BEAT_TAG: heartbeat()})


def _now() -> int:
    return int(time.time() * 1000)


def _stored(run: Run) -> StoredRun:
    return StoredRun(str(run.info.run_id), str(run.info.status), run.data.metrics, run.data.params, run.data.tags)


def _record(run: StoredRun) -> TrialRecord:
    tags = run.tags
    trial = Trial(int(tags["harness.trial"]), TrialConfig.from_params(run.params), _joined("harness.proposal", tags))
    return TrialRecord(run.run_id, trial, _ended(run) or "failed", _finite(run.metrics), tags.get("harness.reason", ""))


def _ended(run: StoredRun) -> EndStatus | None:
    """How a trial has ended; ``None`` where it was cut off."""
    if run.status == "KILLED" and PRUNED_TAG not in run.tags:
        return None
    return next((end for end, status in ENDS.items() if status == run.status), None)


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _dataset(info: SweepInfo) -> dict[str, str]:
    digest = info.data_fingerprint[:36]  # the longest that MLflow takes; the source has it whole
    source = json.dumps({"name": info.dataset, "sha256": info.data_fingerprint})
    return {"name": info.dataset, "digest": digest, "source": source}


def _context_tags(device: str, changes: str) -> dict[str, str]:
    """Who and what made the runs, in MLflow's own words where it has them."""
    commit, dirty = provenance.git_state()
    tags = {**source_tags(), "harness.host": platform.node(), "harness.device_name": provenance.device_name(device)}
    if commit:
        tags |= {"mlflow.source.git.commit": commit, "harness.git_dirty": "true" if dirty else "false"}
    if changes:
        tags[DIFF_TAG] = provenance.digest(changes)
    return tags | {"harness.versions": json.dumps(provenance.versions())}


def _chunked(name: str, text: str) -> dict[str, str]:
    """A long text as several tags: a tag has a longest length."""
    parts = [text[start : start + LONGEST_TAG] for start in range(0, len(text), LONGEST_TAG)]
    return {f"{name}.{index}": part for index, part in enumerate(parts)}


def _joined(name: str, tags: Mapping[str, str]) -> str:
    parts: list[str] = []
    while (part := tags.get(f"{name}.{len(parts)}")) is not None:
        parts.append(part)
    return "".join(parts)
