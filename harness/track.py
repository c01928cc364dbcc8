"""Writes a sweep's runs and reads them back. The only file that knows MLflow.

A sweep is a parent run, a trial a child run. All writes are batched, with explicit run ids.
"""

from __future__ import annotations

import gc
import json
import logging
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar

from harness.config import EpochLog, Trial, TrialConfig, TrialRecord, TrialResult
from harness.provenance import git_state, versions
from harness.rules import UserError
from harness.store import (
    StoredRun,
    artifact_location,
    check_store,
    claim_sweep,
    default_uri,
    initialise,
    is_missing,
    read_children,
    without_password,
)
from harness.tracker import OpenSweep, Status, SweepInfo

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

EPOCH_METRICS = {
    "train/mse": "train_mse",
    "val/mse": "val_mse",
    "train/loss": "train_loss",
    "train/learning_rate": "learning_rate",
}
"""Metrics with a value an epoch, and the fields of an ``EpochLog`` that they are."""

METRICS_A_BATCH = 1000
RUNS_A_PAGE = 1000
LONGEST_TAG = 7000


Given = ParamSpec("Given")
Result = TypeVar("Result")
Method = Callable[Concatenate["MlflowTracker", Given], Result]


def _explained(method: Method[Given, Result]) -> Method[Given, Result]:
    """Turns whatever the store raises into one line that says which store and why."""

    @wraps(method)
    def call(tracker: MlflowTracker, /, *arguments: Given.args, **named: Given.kwargs) -> Result:
        try:
            return method(tracker, *arguments, **named)
        except UserError:
            raise
        except Exception as error:  # SQLAlchemy, requests and MLflow each have errors of their own
            raise _unusable(tracker.uri, error) from error

    return call


class MlflowTracker:
    """Writes to an MLflow tracking store; a ``Tracker``."""

    def __init__(self, uri: str | None) -> None:
        """Checks the store and makes it ready.

        Args:
            uri: Of the store; ``MLFLOW_TRACKING_URI`` or ``mlflow.db`` in this folder where it is ``None``.

        Raises:
            UserError: if it cannot be used; says which store and why.
        """
        self.uri = uri or default_uri()
        check_store(self.uri)
        try:
            self._client = initialise(self.uri, _quiet_client)
        except Exception as error:  # SQLAlchemy, requests and MLflow each have errors of their own
            raise _unusable(self.uri, error) from None
        self._context: dict[str, str] = {}
        self._info: SweepInfo | None = None

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
        with ``retry_failed``, those of failed trials.
        """
        experiment_id, notes = self._experiment(info.study)
        self._context, self._info = _context_tags(), info
        parent = None if fresh else self._newest_sweep(experiment_id, info.identity)
        if parent is None:
            return OpenSweep(self._new_parent(experiment_id, info), experiment_id, notes=notes)
        return self._reopen(parent, notes, retry_failed)

    @_explained
    def resume_sweep(self, sweep: OpenSweep) -> None:
        """Says that the sweep is running again."""
        self._client.update_run(sweep.run_id, status="RUNNING")

    @_explained
    def start_trial(self, sweep: OpenSweep, trial: Trial, name: str, tags: Mapping[str, str]) -> str:
        """Begins a trial's run; gives its id."""
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
        run_id = str(self._client.create_run(sweep.experiment_id, tags=all_tags, run_name=name).info.run_id)
        self._client.log_batch(run_id, params=_params(trial.config.to_params()))
        self._client.log_inputs(run_id, datasets=[_dataset_input(info)])
        return run_id

    @_explained
    def log_epochs(self, run_id: str, logs: Sequence[EpochLog]) -> None:
        """Adds the logs of some epochs, in one write."""
        self._log_metrics(
            run_id, [(name, getattr(log, field), log.epoch) for log in logs for name, field in EPOCH_METRICS.items()]
        )

    @_explained
    def finish_trial(self, run_id: str, trial: Trial, result: TrialResult) -> TrialRecord:
        """Writes a trial's numbers and files and ends its run; the end comes last, so that no half is taken for a whole."""
        finals = [(name, value, result.config.epochs) for name, value in result.metrics.items() if name not in EPOCH_METRICS]
        curves = [(name, value, epoch) for name, values in result.curves.items() for epoch, value in enumerate(values, start=1)]
        self._log_metrics(run_id, finals + curves)
        self._log_files(run_id, result.artifacts)
        if result.reason:
            self._client.set_tag(run_id, "harness.reason", result.reason[:LONGEST_TAG])
        self._client.set_terminated(run_id, "FINISHED" if result.status == "finished" else "FAILED")
        return TrialRecord(run_id, trial, result.status, _finite(result.metrics), result.reason)

    @_explained
    def stop_trials(self, run_ids: Iterable[str], reason: str) -> None:
        """Ends runs as KILLED, with the reason as a tag."""
        for run_id in run_ids:
            self._client.set_tag(run_id, "harness.reason", reason)
            self._client.set_terminated(run_id, "KILLED")

    @_explained
    def finish_sweep(
        self, sweep: OpenSweep, status: Status, metrics: Mapping[str, float], tags: Mapping[str, str], files: Mapping[str, bytes]
    ) -> None:
        """Writes what the sweep came to on its parent run and ends it."""
        for name, value in tags.items():
            self._client.set_tag(sweep.run_id, name, value)
        self._log_metrics(sweep.run_id, [(name, value, 0) for name, value in metrics.items()])
        self._log_files(sweep.run_id, files)
        self._client.set_terminated(sweep.run_id, status)

    @_explained
    def read_file(self, run_id: str, path: str) -> bytes:
        """Reads back a file of a run."""
        with tempfile.TemporaryDirectory() as folder:
            return Path(self._client.download_artifacts(run_id, path, folder)).read_bytes()

    def _swept(self) -> SweepInfo:
        if self._info is None:
            raise RuntimeError("open_sweep comes before start_trial")
        return self._info

    def _experiment(self, name: str) -> tuple[str, tuple[str, ...]]:
        """Finds or creates the experiment; gives its id and what the user should know of it."""
        wanted = artifact_location(self.uri, name)
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            return str(self._client.create_experiment(name, artifact_location=wanted)), ()
        if experiment.lifecycle_stage == "deleted":
            raise UserError(
                f"experiment {name!r} is in MLflow's trash in {without_password(self.uri)}: restore it with "
                f"'mlflow experiments restore -x {experiment.experiment_id}', or use another store with --tracking-uri"
            )
        found = experiment.artifact_location
        if wanted and found.startswith("mlflow-artifacts:"):
            raise UserError(
                f"experiment {name!r} keeps its files at {found}, which only an MLflow server can write: "
                f"rename it in MLflow, or use another store with --tracking-uri"
            )
        note = f"experiment {name!r} keeps its files at {found}, not beside the store at {wanted}"
        moved = bool(wanted) and found.rstrip("/") != wanted
        if moved and is_missing(found):
            raise UserError(f"{note}, and there is no such folder: move it back, or use another store with --tracking-uri")
        return str(experiment.experiment_id), (note,) if moved else ()

    def _newest_sweep(self, experiment_id: str, identity: str) -> Run | None:
        wanted = f"tags.`harness.kind` = 'sweep' and tags.`harness.sweep` = '{identity}'"
        runs = self._client.search_runs([experiment_id], wanted, order_by=["attributes.start_time DESC"], max_results=1)
        return runs[0] if runs else None

    def _new_parent(self, experiment_id: str, info: SweepInfo) -> str:
        tags = {
            **self._context,
            "harness.kind": "sweep",
            "harness.sweep": info.identity,
            "harness.dataset": info.dataset,
            "harness.data_fingerprint": info.data_fingerprint,
            "harness.device": info.device,
            "mlflow.note.content": info.question,
        }
        run_id = str(self._client.create_run(experiment_id, tags=tags, run_name=info.title).info.run_id)
        self._client.log_inputs(run_id, datasets=[_dataset_input(info)])
        self._log_files(run_id, info.files)
        return run_id

    def _reopen(self, parent: Run, notes: tuple[str, ...], retry_failed: bool) -> OpenSweep:
        kept = ("FINISHED",) if retry_failed else ("FINISHED", "FAILED")
        records: dict[int, TrialRecord] = {}
        cut_off: list[StoredRun] = []
        run_id, experiment_id = str(parent.info.run_id), str(parent.info.experiment_id)
        for run in self._children(experiment_id, run_id):
            if run.status in kept:
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
            with _no_garbage_collection():
                page = self._client.search_runs([experiment_id], wanted, max_results=RUNS_A_PAGE, page_token=token)
            yield from map(_stored, page)
            token = page.token
            if not token:
                return

    def _log_metrics(self, run_id: str, points: Sequence[tuple[str, float, int]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, float(value), now, step) for name, value, step in points if math.isfinite(value)]
        for start in range(0, len(metrics), METRICS_A_BATCH):
            self._client.log_batch(run_id, metrics=metrics[start : start + METRICS_A_BATCH])

    def _log_files(self, run_id: str, files: Mapping[str, bytes]) -> None:
        if not files:
            return
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            self._client.log_artifacts(run_id, folder)


def _quiet_client(uri: str) -> MlflowClient:
    """A client that reports no usage and says nothing on the terminal, and whose store has answered once."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):  # after the import, which sets levels of its own
        logging.getLogger(name).setLevel(logging.ERROR)
    client = MlflowClient(tracking_uri=uri)
    client.search_experiments(max_results=1)
    return client


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """MLflow makes some two hundred objects of a run: to look through them all again and again is most of reading them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _unusable(uri: str, error: Exception) -> UserError:
    cause = " ".join(str(error).replace(uri, without_password(uri)).split())[:200] or type(error).__name__
    return UserError(
        f"the tracking store {without_password(uri)} cannot be used: {cause}: mend it, or name another with --tracking-uri"
    )


def _stored(run: Run) -> StoredRun:
    return StoredRun(str(run.info.run_id), str(run.info.status), run.data.metrics, run.data.params, run.data.tags)


def _record(run: StoredRun) -> TrialRecord:
    tags = run.tags
    trial = Trial(int(tags["harness.trial"]), TrialConfig.from_params(run.params), _joined("harness.proposal", tags))
    status: Literal["finished", "failed"] = "finished" if run.status == "FINISHED" else "failed"
    return TrialRecord(run.run_id, trial, status, _finite(run.metrics), tags.get("harness.reason", ""))


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _params(values: Mapping[str, str]) -> list[Any]:
    from mlflow.entities import Param

    return [Param(name, value) for name, value in values.items()]


def _dataset_input(info: SweepInfo) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    digest = info.data_fingerprint[:36]  # the longest that MLflow takes; the tag has it whole
    source = json.dumps({"name": info.dataset, "sha256": info.data_fingerprint})
    dataset = Dataset(name=info.dataset, digest=digest, source_type="harness", source=source)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def _context_tags() -> dict[str, str]:
    """Who and what made the runs, in MLflow's own words where it has them."""
    from mlflow.tracking.context.registry import resolve_tags

    commit, dirty = git_state()
    tags = {str(name): str(value) for name, value in resolve_tags().items()}
    if commit:
        tags |= {"mlflow.source.git.commit": commit, "harness.git_dirty": "true" if dirty else "false"}
    return tags | {"harness.host": platform.node(), "harness.versions": json.dumps(versions())}


def _chunked(name: str, text: str) -> dict[str, str]:
    """A long text as several tags: a tag has a longest length."""
    parts = [text[start : start + LONGEST_TAG] for start in range(0, len(text), LONGEST_TAG)]
    return {f"{name}.{index}": part for index, part in enumerate(parts)}


def _joined(name: str, tags: Mapping[str, str]) -> str:
    parts: list[str] = []
    while (part := tags.get(f"{name}.{len(parts)}")) is not None:
        parts.append(part)
    return "".join(parts)
