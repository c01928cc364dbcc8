"""A store with real small sweeps in it, made once for all tests that read one."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from harness import provenance
from harness.config import TrialConfig
from harness.library import StudyFile
from harness.options import Request
from harness.plan import make_plan
from harness.rounds import Means
from harness.sweep import run_sweep
from harness.track import MlflowTracker
from tests.support import TINY, make_study_file
from tests.sweeping import QuietDisplay

COMMIT = "c0" * 20
"""From which all runs of the store say that they come."""

GRID = {"architecture": ("base", "linear"), "latent_size": (2, 3)}


@dataclass(frozen=True)
class Stored:
    """Where the store is, and its sweeps.

    Attributes:
        uri: Of the store.
        longer: Identity of the study ``tiny`` with an epoch more: linear, one latent size, two seeds; older than the next.
        grid: Of ``tiny``: two architectures, two latent sizes, three seeds.
        grid_run: Its parent run.
        tuned: Of a search by TPE, ``tuned``, for two objectives, the best of which is trained again from two fresh seeds.
        failing: Of ``failing``, one trial of which has failed.
    """

    uri: str
    longer: str
    grid: str
    grid_run: str
    tuned: str
    failing: str

    @property
    def database(self) -> Path:
        """The store's file."""
        return Path(self.uri.removeprefix("sqlite:///"))

    def copied(self, folder: Path) -> Stored:
        """The same runs in a store of its own, to change them; the files stay where they are."""
        shutil.copy(self.database, folder / "mlflow.db")
        return replace(self, uri=f"sqlite:///{folder}/mlflow.db")

    def change(self, statement: str, *values: object) -> None:
        """Changes rows behind MLflow's back."""
        with closing(sqlite3.connect(self.database)) as connection, connection:
            assert connection.execute(statement, values).rowcount > 0

    def dump(self) -> list[str]:
        """All that is in the store."""
        with closing(sqlite3.connect(self.database)) as connection:
            return list(connection.iterdump())

    def run_ids(self, sweep: str) -> dict[int, str]:
        """The runs of a sweep's trials, by number."""
        query = (
            "SELECT number.value, number.run_uuid FROM tags AS number JOIN tags AS sweep ON sweep.run_uuid = number.run_uuid"
            " WHERE number.key = 'harness.trial' AND sweep.key = 'harness.sweep' AND sweep.value = ?"
        )
        with closing(sqlite3.connect(self.database)) as connection:
            return {int(number): str(run_id) for number, run_id in connection.execute(query, (sweep,))}


def store_sweeps(folder: Path, empty_store: Path) -> Stored:
    """Runs the sweeps, or gives those that another process of the tests has run."""
    made = folder / "sweeps.json"
    if not made.exists():
        folder.mkdir(exist_ok=True)
        shutil.copy(empty_store, folder / "mlflow.db")
        made.write_text(json.dumps(asdict(_run_all(folder, f"sqlite:///{folder}/mlflow.db"))))
    return Stored(**json.loads(made.read_text()))


def _run_all(folder: Path, uri: str) -> Stored:
    with mock.patch.multiple(provenance, git_state=lambda: (COMMIT, False), git_changes=str):
        return _run_each(folder, uri)


def _run_each(folder: Path, uri: str) -> Stored:
    base = replace(TINY, epochs=3)
    longer, _ = run_stored(make_study_file(folder, grid={"latent_size": (2,)}, base=replace(base, architecture="linear")), uri)
    grid, grid_run = run_stored(make_study_file(folder, grid=GRID, base=TINY, seeds=3), uri)
    fields: dict[str, Any] = {"sampler": "tpe", "trials": 4, "round_size": 2, "objectives": ("val/mse", "transfer_accuracy")}
    search = make_study_file(folder, name="tuned", grid={}, confirm=1, confirm_seeds=2, **fields)
    tuned, _ = run_stored(replace(search, search_space=_search_space), uri)
    failing, _ = run_stored(make_study_file(folder, name="failing", grid={"learning_rate": (5e-3, 1e38)}, seeds=1), uri)
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return Stored(uri, longer, grid, grid_run, tuned, failing)


def run_stored(file: StudyFile, uri: str, means: Means = Means("inline"), **request: Any) -> tuple[str, str]:  # noqa: B008 - frozen
    """Runs a sweep into a store; gives its identity and its parent run."""
    plan = make_plan(file, Request(device="cpu", **request))
    outcome = run_sweep(plan, means, MlflowTracker(uri), QuietDisplay())
    return plan.identity, outcome.sweep.run_id


def _search_space(trial: Any) -> TrialConfig:
    size, rate = trial.suggest_int("latent_size", 2, 5), trial.suggest_float("learning_rate", 1e-3, 1e-2, log=True)
    return replace(TINY, architecture="linear", latent_size=size, learning_rate=rate)


def many_trials(stored: Stored, folder: Path, count: int) -> Stored:
    """A copy of the store in which the grid has so many trials: copies of its own with other seeds, and the same numbers."""
    copy = stored.copied(folder)
    ids = sorted(stored.run_ids(stored.grid).items())  # SQLite gives them in the order of their random ids
    with closing(sqlite3.connect(copy.database)) as connection, connection:
        for number in range(len(ids), count):
            _copy_run(connection, ids[number % len(ids)][1], f"{number:032x}", number, 3 + number // len(ids))
    return copy


def _copy_run(connection: sqlite3.Connection, source: str, run_id: str, number: int, seed: int) -> None:
    for table in ("runs", "params", "tags", "latest_metrics"):
        columns = [name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")]
        values = ", ".join("?" if name == "run_uuid" else name for name in columns)
        connection.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM {table} WHERE run_uuid = ?",  # noqa: S608 - MLflow's own names
            (run_id, source),
        )
    connection.execute("UPDATE params SET value = ? WHERE run_uuid = ? AND key = 'seed'", (str(seed), run_id))
    connection.execute("UPDATE tags SET value = ? WHERE run_uuid = ? AND key = 'harness.trial'", (str(number), run_id))


def one_line(text: str) -> str:
    """What a command said on stderr, which must be one line."""
    assert len(text.splitlines()) == 1, text
    assert text.startswith("error: ")
    assert "Traceback" not in text
    return text
