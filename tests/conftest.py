"""What all tests share: a clean environment, a folder of their own, and a plan of the smallest sweep."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from filelock import FileLock
from hypothesis import settings

from harness import datasets, downloads, sweep, train_stack
from harness.config import Placement
from harness.garbage import search_seldom
from harness.kernels import kernels_wanted, why_not
from harness.library import StudyFile
from harness.options import Request
from harness.plan import SweepPlan, make_plan
from tests import support
from tests.dataset_files import point_downloads_at
from tests.support import make_study_file, quick_report

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from tests.stored import Stored

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
search_seldom()
settings.register_profile("same", derandomize="OTHER_EXAMPLES" not in os.environ, deadline=None, database=None)
settings.load_profile("same")  # the same examples every time, or others where the variable is set
torch.set_num_threads(1)  # as in the harness itself: two threads wait for each other longer than they work


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest at equal distances: no process of those that share the tests has all of them, and none of them comes last."""
    longest = [item for item in items if item.path.name == "test_kills.py"]
    ordered = [item for item in items if item.path.name != "test_kills.py"]
    for place, item in enumerate(longest):
        ordered.insert(place * len(items) // len(longest), item)
    items[:] = ordered


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Runs every test in a folder of its own, with no tracking store named, and with the same chance wherever it runs."""
    torch.manual_seed(0)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def needs_kernels() -> None:
    """Is skipped where there is no C++ compiler."""
    if why_not():
        pytest.skip(why_not())


@pytest.fixture(params=["compiled", "torch"])
def each_way(request: pytest.FixtureRequest) -> Iterator[None]:
    """With the compiled kernels and without them."""
    if request.param == "compiled":
        request.getfixturevalue("needs_kernels")
    with kernels_wanted(request.param == "compiled"):
        yield


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with its tables made and nothing in it, for all processes: making one takes MLflow seconds, copying it none."""
    from harness.track import MlflowTracker

    base = tmp_path_factory.getbasetemp()
    path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "empty.db"
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            MlflowTracker(f"sqlite:///{path.with_suffix('.draft')}")
            with closing(sqlite3.connect(path.with_suffix(".draft"))) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            path.with_suffix(".draft").rename(path)
    return path


@pytest.fixture
def store_here(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store with its tables made, in the folder of the test, and a checkout without changes."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setattr("harness.provenance.git_changes", lambda: "")


@pytest.fixture
def client(tmp_path: Path) -> MlflowClient:
    """A plain MLflow client of the store in this folder."""
    from mlflow.tracking import MlflowClient

    return MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")


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
    """Makes disks of a given size, such as ``256k``."""
    with ExitStack() as stack:
        yield lambda size: stack.enter_context(support.small_disk(tmp_path / f"disk-{size}", size))


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


@pytest.fixture
def quickly_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a sweep's report, whose pictures take seconds, no more than the tables is made."""
    monkeypatch.setattr(sweep, "report_files", quick_report)


@pytest.fixture
def nothing_remembered() -> Iterator[None]:
    """No dataset is remembered from one test to the next."""
    datasets.load.cache_clear()
    yield
    datasets.load.cache_clear()


@pytest.fixture
def here(tmp_path: Path, nothing_remembered: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the current one, and no dataset remembered."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    return tmp_path


@pytest.fixture
def unpublished(monkeypatch: pytest.MonkeyPatch) -> None:
    """No checksum is published, so that a set that a test makes can be loaded."""
    monkeypatch.setattr(downloads, "PUBLISHED_MD5", {})


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every download is refused by a port on which nothing listens."""
    point_downloads_at("http://127.0.0.1:9/", monkeypatch)


@pytest.fixture
def _no_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack that raises is an error, and its members are not trained one by one instead."""

    def refuse(*arguments: object) -> None:
        raise AssertionError("the stack could not be trained") from None

    monkeypatch.setattr(train_stack, "train_group", refuse)
