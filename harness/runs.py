"""Single writes on runs of an MLflow store. The only file that knows MLflow.

Every write may be done twice: MLflow keeps a metric's point of one time, step and value once, and a new run carries its key.
"""

from __future__ import annotations

import atexit
import logging
import os
import tempfile
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from harness.journal import Write
from harness.rules import UserError, without_password
from harness.store import artifact_location, check_store, initialise, is_missing, local_folder
from harness.store_errors import TrashedError, code_of, explained, explains, is_refusal
from harness.tracker import Publication

if TYPE_CHECKING:
    from mlflow.entities import Run as Run
    from mlflow.tracking import MlflowClient as MlflowClient

KEY_TAG = "harness.key"
"""The tag with a run's key: by it a run is found whose creation was answered by nobody."""

MOST_A_BATCH = 1000
"""Metrics, params and tags together."""


class MlflowRuns:
    """Writes to an MLflow store; a ``Writer``."""

    def __init__(self, uri: str, client: MlflowClient) -> None:
        """Takes the address of a store and a client that is connected to it."""
        self.uri, self.client, self.files = uri, client, StoreFiles(uri, client)

    @explains
    def write(self, write: Write, again: bool = False) -> str:
        """Does a write; gives the run's id.

        Raises:
            StoreError: if the store is away, or cannot be written for now.
            LoginError: if the store does not take the login, or gives it no permission.
            TrashedError: if the run is in MLflow's trash.
            UserError: if the store does not take it.
        """
        return self._find_or_create(write, again) if write.kind == "create" else self._change(write)

    def _find_or_create(self, write: Write, again: bool) -> str:
        content = write.content
        run = self._find(content["experiment_id"], write.run_id) if again else None
        if run is None:
            tags, experiment_id = {**content["tags"], KEY_TAG: write.run_id}, content["experiment_id"]
            run = self.client.create_run(experiment_id, start_time=content["time"], tags=tags, run_name=content["name"])
        self.files.learn(str(run.info.run_id), str(run.info.artifact_uri))
        return str(run.info.run_id)

    def _find(self, experiment_id: str, key: str) -> Run | None:
        found = self.client.search_runs(
            [experiment_id], f"tags.`{KEY_TAG}` = '{key}'", run_view_type=3, max_results=1
        )  # trash too
        return found[0] if found else None

    def _change(self, write: Write) -> str:
        try:
            if write.kind == "batch":
                self._log_batch(write.run_id, write.content)
            elif write.kind == "input":
                self.client.log_inputs(write.run_id, datasets=[_dataset_input(write.content)])
            elif write.kind == "files":
                self.files.of(write.run_id).write(write.files)
            else:
                self._set_status(write.run_id, write.content["status"], write.content["time"])
        except Exception as error:
            if is_refusal(error) and self.client.get_run(write.run_id).info.lifecycle_stage == "deleted":
                raise TrashedError(f"run {write.run_id} was put in MLflow's trash while its trial was under way") from error
            raise
        return write.run_id

    def _log_batch(self, run_id: str, content: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(*point) for point in content.get("metrics", ())]
        params = [Param(name, value) for name, value in content.get("params", {}).items()]
        tags = [RunTag(name, value) for name, value in content.get("tags", {}).items()]
        first = MOST_A_BATCH - len(params) - len(tags)
        self.client.log_batch(run_id, metrics[:first], params, tags)
        for start in range(first, len(metrics), MOST_A_BATCH):
            self.client.log_batch(run_id, metrics[start : start + MOST_A_BATCH])

    def _set_status(self, run_id: str, status: str, time: int) -> None:
        if status == "RUNNING":
            self.client.update_run(run_id, status=status)
        else:
            self.client.set_terminated(run_id, status, end_time=time)


def connect(uri: str) -> MlflowClient:
    """A client that reports no usage and says nothing on the terminal, and whose store has answered once.

    It does not try a dead server for long, nor one that hangs: twice ten seconds. Whoever writes asks again later.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):  # after the import, which sets levels of its own
        logging.getLogger(name).setLevel(logging.CRITICAL)  # an error is ours to tell
    _close_at_the_end()
    client = MlflowClient(tracking_uri=uri)
    client.search_experiments(max_results=1)
    return client


@cache
def _close_at_the_end() -> None:
    """Has the process close its connections to databases when it ends: SQLite puts all that it has into its one file then.

    Python would close them in its last search for garbage, which commands do without. All engines of SQLAlchemy are meant,
    whoever made them: MLflow's cannot be told from others.
    """
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    opened: WeakSet[Engine] = WeakSet()

    def close() -> None:
        for engine in opened:
            engine.dispose()

    event.listen(Engine, "engine_connect", lambda connection: opened.add(connection.engine))
    atexit.register(close)


def open_client(uri: str) -> MlflowClient:
    """Checks a store, makes it ready and connects to it.

    Raises:
        UserError: if it cannot be used; says which store and why.
    """
    check_store(uri)
    try:
        return initialise(uri, connect, _empty_store())
    except Exception as error:  # as above
        raise explained(uri, error) from None


def _empty_store() -> Path:
    """Where an empty store of this MLflow is kept."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("harness")) / "stores" / f"mlflow-{version('mlflow')}.db"


class RunFiles:
    """The files of a run, without asking the store again where they are for each of them."""

    def __init__(self, uri: str, location: str) -> None:
        """Takes the address of the store, and that of the files as the run has it."""
        self.uri, self._location, self._folder = uri, location, local_folder(location)

    @explains
    def sizes(self) -> dict[str, int]:
        """The size of every file in bytes, by path."""
        if self._folder:
            files = (path for path in self._folder.rglob("*") if path.is_file())
            return {path.relative_to(self._folder).as_posix(): path.stat().st_size for path in sorted(files)}
        found: dict[str, int] = {}
        folders: list[str | None] = [None]
        while folders:
            for each in self._repository().list_artifacts(folders.pop()):
                if each.is_dir:
                    folders.append(each.path)
                else:
                    found[each.path] = int(each.file_size or 0)
        return dict(sorted(found.items()))

    @explains
    def read(self, path: str) -> bytes:
        """The content of a file."""
        if self._folder:
            return (self._folder / path).read_bytes()
        with tempfile.TemporaryDirectory() as folder:
            return Path(self._repository().download_artifacts(path, folder)).read_bytes()

    def write(self, files: Mapping[str, bytes]) -> None:
        """Adds files, each by its path."""
        if self._folder:
            _write_files(self._folder, files)
            return
        with tempfile.TemporaryDirectory() as folder:
            _write_files(Path(folder), files)
            self._repository().log_artifacts(folder)

    def _repository(self) -> Any:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        return get_artifact_repository(self._location, tracking_uri=self.uri)


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


class StoreFiles:
    """The files of all runs of a store.

    Where a run has its own never changes. MLflow, which reads all its numbers to say it, is asked once at the most.
    """

    def __init__(self, uri: str, client: MlflowClient) -> None:
        """Takes the address of a store and a client that is connected to it."""
        self._uri, self._client = uri, client
        self._locations: dict[str, str] = {}

    def learn(self, run_id: str, location: str) -> None:
        """Keeps where a run has its files."""
        self._locations[run_id] = location

    def of(self, run_id: str) -> RunFiles:
        """The files of a run."""
        if run_id not in self._locations:
            self.learn(run_id, str(self._client.get_run(run_id).info.artifact_uri))
        return RunFiles(self._uri, self._locations[run_id])


def find_experiment(client: MlflowClient, uri: str, name: str) -> tuple[str, tuple[str, ...]]:
    """Finds or creates the experiment; gives its id and what the user should know of it."""
    wanted = artifact_location(uri, name)
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return str(client.create_experiment(name, artifact_location=wanted)), ()
    if experiment.lifecycle_stage == "deleted":
        raise UserError(
            f"experiment {name!r} is in MLflow's trash in {without_password(uri)}: restore it with "
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


def write_view(client: MlflowClient, experiment_id: str, publication: Publication) -> None:
    """Keeps a saved view with its experiment."""
    client.set_experiment_tag(experiment_id, *publication.view)


def register_best(client: MlflowClient, experiment_id: str, publication: Publication) -> None:
    """Registers a run's model as the newest version of a name, under the alias ``best``; once."""
    name, run_id = publication.model, publication.run_id
    if not run_id:
        return
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if code_of(error) != "RESOURCE_ALREADY_EXISTS":
            raise
    versions = sorted(client.search_model_versions(f"name = '{name}'"), key=lambda version: int(version.version))
    if any(version.run_id == run_id for version in versions[:-1]):
        return
    if not versions or versions[-1].run_id != run_id:
        source = f"{client.get_run(run_id).info.artifact_uri}/model"
        versions.append(client.create_model_version(name, source=source, run_id=run_id, description=publication.description))
    client.set_registered_model_alias(name, "best", versions[-1].version)  # again, where a command was killed right before it


def source_tags() -> dict[str, str]:
    """Who and what makes the runs, in MLflow's own words."""
    from mlflow.tracking.context.registry import resolve_tags

    return {str(name): str(value) for name, value in resolve_tags().items()}


def _dataset_input(content: Mapping[str, str]) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(name=content["name"], digest=content["digest"], source_type="harness", source=content["source"])
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])
