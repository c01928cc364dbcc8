"""Reads sweeps and their trials back from a store: straight from a SQLite file where it can, else through MLflow."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from harness.config import EndStatus, Trial, TrialConfig, TrialRecord
from harness.garbage import search_not_now
from harness.rules import UserError, without_password
from harness.runs import RunFiles, StoreFiles, open_client
from harness.store import HEALTH_TIMEOUT_SECONDS, database_path, store_uri
from harness.store_errors import explains, is_refusal

if TYPE_CHECKING:
    from harness.runs import MlflowClient, Run

RUNS_A_PAGE = 1000
MOST_EXPERIMENTS = 10_000
ACTIVE, ACTIVE_AND_TRASH = 1, 3
"""Which runs, in MLflow's numbers."""

FAILED_BEFORE_TAG = "harness.failed_before"
PRUNED_TAG = "harness.pruned"

ENDS: dict[EndStatus, str] = {"finished": "FINISHED", "failed": "FAILED", "pruned": "KILLED"}
"""How a trial ends, in MLflow's words; one that was cut off is KILLED as well, without the tag."""

CHILDREN = """
    SELECT runs.run_uuid, runs.experiment_id, runs.status, runs.start_time, runs.end_time, runs.lifecycle_stage = 'deleted',
        runs.artifact_uri
    FROM tags JOIN runs ON runs.run_uuid = tags.run_uuid
    WHERE tags.key = 'mlflow.parentRunId' AND tags.value = ?
    ORDER BY runs.start_time DESC, runs.run_uuid
"""
OF_CHILDREN = {
    "metrics": """
        SELECT own.run_uuid, own.key, own.value FROM tags JOIN latest_metrics AS own ON own.run_uuid = tags.run_uuid
        WHERE tags.key = 'mlflow.parentRunId' AND tags.value = ? AND NOT own.is_nan
    """,
    "params": """
        SELECT own.run_uuid, own.key, own.value FROM tags JOIN params AS own ON own.run_uuid = tags.run_uuid
        WHERE tags.key = 'mlflow.parentRunId' AND tags.value = ?
    """,
    "tags": """
        SELECT own.run_uuid, own.key, own.value FROM tags JOIN tags AS own ON own.run_uuid = tags.run_uuid
        WHERE tags.key = 'mlflow.parentRunId' AND tags.value = ?
    """,
}


@dataclass(frozen=True)
class StoredRun:
    """A run as a store holds it: a sweep's parent run, or a trial's.

    Attributes:
        run_id: MLflow's.
        experiment_id: Of its experiment.
        status: In MLflow's words, such as ``FINISHED``.
        began: Milliseconds since 1970.
        ended: The same; ``None`` where it has not.
        is_trashed: Whether it is in MLflow's trash.
        location: Of its files.
        metrics: The last value of each.
        params: As text.
        tags: MLflow's own among them.
    """

    run_id: str
    experiment_id: str
    status: str
    began: int
    ended: int | None = None
    is_trashed: bool = False
    location: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What MLflow shows it as."""
        return self.tags.get("mlflow.runName", "")

    @property
    def has_ended(self) -> bool:
        """Whether it came to a result; one that was cut off did not."""
        return self.end is not None

    @property
    def end(self) -> EndStatus | None:
        """How the trial of this run has ended; ``None`` where it was cut off."""
        if self.status == ENDS["pruned"] and PRUNED_TAG not in self.tags:
            return None
        return next((end for end, status in ENDS.items() if status == self.status), None)

    @property
    def record(self) -> TrialRecord:
        """The trial of this run, which has ended."""
        trial = Trial(self.number, TrialConfig.from_params(self.params), _joined("harness.proposal", self.tags))
        reason, failed_before = self.tags.get("harness.reason", ""), FAILED_BEFORE_TAG in self.tags
        return TrialRecord(self.run_id, trial, self.end or "failed", finite(self.metrics), reason, failed_before)

    @property
    def number(self) -> int:
        """That of the trial of this run."""
        return int(self.tags["harness.trial"])


class StoreReader:
    """Reads what sweeps have written; changes nothing."""

    def __init__(self, uri: str, client: MlflowClient, files: StoreFiles | None = None) -> None:
        """Takes the address of a store and a client that is connected to it, as ``open_reader`` does, and its files."""
        self.uri, self._client, self._files = uri, client, files or StoreFiles(uri, client)

    @explains
    def sweeps(self, study: str, identity: str = "") -> list[StoredRun]:
        """The parent runs of a study, newest first; only those of one identity where it is given."""
        experiment = self._client.get_experiment_by_name(study)
        return [*self._parents(str(experiment.experiment_id), identity)] if experiment else []

    @explains
    def experiments(self) -> dict[str, str]:
        """The ids of all experiments by name, those in the trash left out."""
        found = self._client.search_experiments(max_results=MOST_EXPERIMENTS)
        return {str(each.name): str(each.experiment_id) for each in found}

    @explains
    def run(self, run_id: str) -> StoredRun | None:
        """One run; nothing where there is none, or it is in the trash."""
        try:
            run = self._client.get_run(run_id)
        except Exception as error:  # MLflow's, of which only the code tells what it means
            if is_refusal(error):
                return None
            raise
        return _stored(run) if run.info.lifecycle_stage == "active" else None

    @explains
    def all_run_ids(self, experiments: Sequence[str]) -> list[str]:
        """The ids of every run of some experiments."""
        return [run.run_id for each in experiments for run in self._search(each, "")]

    @explains
    def newest_sweep(self, experiment_id: str, identity: str) -> StoredRun | None:
        """The newest parent run of an identity; nothing where there is none."""
        return next(self._parents(experiment_id, identity, page=1), None)

    @explains
    def children(self, parent: StoredRun, trash: bool = False) -> list[StoredRun]:
        """The runs of all trials of a sweep, whatever has become of them; with ``trash``, those in MLflow's trash as well."""
        runs = read_children(self.uri, parent.run_id)
        if runs is None:
            wanted = f"tags.`mlflow.parentRunId` = '{parent.run_id}'"
            runs = list(self._search(parent.experiment_id, wanted, view=ACTIVE_AND_TRASH if trash else ACTIVE))
        for run in runs:
            self._files.learn(run.run_id, run.location)
        # Others may be below it, by somebody's own hand.
        return [run for run in runs if "harness.trial" in run.tags and (trash or not run.is_trashed)]

    def trials(self, parent: StoredRun) -> list[StoredRun]:
        """The runs of the trials of a sweep that have ended, in the order of their numbers; ``record`` is the trial of each."""
        return sorted((run for run in self.children(parent) if run.has_ended), key=lambda run: run.number)

    @explains
    def read_file(self, run_id: str, path: str) -> bytes:
        """The content of a file of a run."""
        return self._files.of(run_id).read(path)

    @explains
    def files(self, run_id: str) -> RunFiles:
        """All files of a run."""
        return self._files.of(run_id)

    @explains
    def locate(self, run_id: str, path: str) -> str:
        """Where a file of a run is: its path, from this folder where it is below it, or the page of a server that shows it."""
        info = self._client.get_run(run_id).info
        if info.artifact_uri.startswith(("file:", "/")):
            file = Path(url2pathname(urlsplit(info.artifact_uri).path)) / path
            return str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)
        return f"{without_password(self.uri).rstrip('/')}/#/experiments/{info.experiment_id}/runs/{run_id}/artifacts/{path}"

    @explains
    def under_way(self, experiment_id: str, identity: str) -> list[StoredRun]:
        """The runs of a sweep that say that they are running, its parent run among them."""
        wanted = f"tags.`harness.sweep` = '{identity}' and attributes.status = 'RUNNING'"
        return list(self._search(experiment_id, wanted))

    def _parents(self, experiment_id: str, identity: str, page: int | None = None) -> Iterator[StoredRun]:
        wanted = "tags.`harness.kind` = 'sweep'" + (f" and tags.`harness.sweep` = '{identity}'" if identity else "")
        return self._search(experiment_id, wanted, ("attributes.start_time DESC",), page)

    def _search(
        self, experiment_id: str, wanted: str, order: Sequence[str] = (), page: int | None = None, view: int = ACTIVE
    ) -> Iterator[StoredRun]:
        token = None
        while True:
            with search_not_now():
                runs = self._client.search_runs(
                    [experiment_id], wanted, view, page or RUNS_A_PAGE, order_by=list(order), page_token=token
                )
            yield from map(_stored, runs)
            token = runs.token
            if not token:
                return


def open_reader(uri: str | None) -> StoreReader:
    """Opens a store for reading.

    Args:
        uri: Of the store; ``MLFLOW_TRACKING_URI`` or ``mlflow.db`` in this folder where it is ``None``.

    Raises:
        UserError: if there is no such store, or it cannot be used; says which and why.
    """
    uri = store_uri(uri)
    if (database := database_path(uri)) and not database.exists():
        raise UserError(f"there is no tracking store {uri}: go to the folder that has it, or name it with --tracking-uri")
    return StoreReader(uri, open_client(uri))


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those that are numbers."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def read_children(uri: str, parent_id: str) -> list[StoredRun] | None:
    """Reads the runs below a parent run straight from a SQLite file, newest first.

    MLflow reads every number into an object of its own, which takes ten times as long: with thousands of runs that is
    most of what it costs to resume a sweep.

    Returns:
        The runs, those in the trash among them; ``None`` where MLflow has to be asked: the store is of another kind, or it has
        other tables than are known here.
    """
    database = database_path(uri)
    if database is None:
        return None
    try:
        connection = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=HEALTH_TIMEOUT_SECONDS)
        try:
            return _read_children(connection, parent_id)
        finally:
            connection.close()
    except sqlite3.Error:
        return None


def _read_children(connection: sqlite3.Connection, parent_id: str) -> list[StoredRun]:
    connection.execute("BEGIN")  # so that all that is read is of one moment
    rows = connection.execute(CHILDREN, (parent_id,))
    runs = {
        run_id: StoredRun(run_id, str(experiment), status, began, ended, bool(is_trashed), location)
        for run_id, experiment, status, began, ended, is_trashed, location in rows
    }
    for name, query in OF_CHILDREN.items():
        parts = {run_id: getattr(run, name) for run_id, run in runs.items()}
        for run_id, key, value in connection.execute(query, (parent_id,)):
            if run_id in parts:
                parts[run_id][key] = value
    return list(runs.values())


def _stored(run: Run) -> StoredRun:
    info, data = run.info, run.data
    return StoredRun(
        info.run_id,
        info.experiment_id,
        info.status,
        int(info.start_time),
        info.end_time or None,
        info.lifecycle_stage == "deleted",
        info.artifact_uri,
        data.metrics,
        data.params,
        data.tags,
    )


def _joined(name: str, tags: Mapping[str, str]) -> str:
    """A text that is kept as several tags."""
    parts: list[str] = []
    while (part := tags.get(f"{name}.{len(parts)}")) is not None:
        parts.append(part)
    return "".join(parts)
