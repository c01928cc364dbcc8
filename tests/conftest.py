"""What all tests share: a clean environment, a folder of their own, and a plan of the smallest sweep."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from harness.config import Placement
from harness.library import StudyFile
from harness.options import Request
from harness.plan import SweepPlan, make_plan
from tests.support import make_study_file

if TYPE_CHECKING:
    from tests.stored import Stored

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
torch.set_num_threads(1)  # as in the harness itself: two threads wait for each other longer than they work


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Runs every test in a folder of its own, with no tracking store named."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with its tables made and nothing in it: making one takes MLflow two seconds, copying it none."""
    from harness.track import MlflowTracker

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowTracker(f"sqlite:///{path}")
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Stored:
    """A store with real small sweeps: only to be read; all processes of the tests share it."""
    from filelock import FileLock

    from tests.stored import store_sweeps

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with FileLock(shared / "stored.lock"):
        return store_sweeps(shared / "stored", empty_store)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Makes file systems of a given size, such as ``256k``."""
    mounted: list[Path] = []

    def make(size: str) -> Path:
        folder = tmp_path / f"disk-{len(mounted)}"
        folder.mkdir()
        ran = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True)
        if ran.returncode:
            pytest.skip(f"no file system can be mounted here: {ran.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def placement(tmp_path: Path) -> Placement:
    """This machine's CPU and a data root with nothing in it."""
    return Placement(str(tmp_path / "data"))


@pytest.fixture
def study_file(tmp_path: Path) -> StudyFile:
    """A grid of two latent sizes and two seeds."""
    return make_study_file(tmp_path)


@pytest.fixture
def plan(study_file: StudyFile) -> SweepPlan:
    """The plan of the smallest grid, on a CPU."""
    return make_plan(study_file, Request(device="cpu"))
