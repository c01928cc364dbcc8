"""The smallest of everything, for all tests."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.config import StudyConfig, TrialConfig, TrialRecord
from harness.executors import EXECUTORS
from harness.library import StudyFile

if TYPE_CHECKING:  # workers load this module: the less it loads, the sooner they start
    from harness.about import About
    from harness.pictures import ReadFile

ROOT = Path(__file__).resolve().parent.parent

EXECUTOR_NAMES = [pytest.param(name, marks=pytest.mark.cluster) if name == "ray" else name for name in EXECUTORS]
"""Of all executors; the one that is an extra is tried where extras are installed."""

TINY = TrialConfig(train_size=64, epochs=2, transfer_epochs=2, draws=2, labels=20, latent_size=3)
"""A configuration that trains in a tenth of a second."""


def make_study_file(folder: Path, **changes: object) -> StudyFile:
    """A grid of two latent sizes and two seeds, in a file that is there but is not executed."""
    fields: dict[str, object] = {
        "question": "Is the smallest study there is a study?",
        "base": replace(TINY, architecture="linear"),
        "grid": {"latent_size": (2, 3)},
        "seeds": 2,
        "name": "tiny",
    }
    path = folder / "tiny.py"
    path.write_text("STUDY = None\n")
    return StudyFile(StudyConfig(**{**fields, **changes}), None, path)  # type: ignore[arg-type]


def torch_settings() -> tuple[object, ...]:
    """What a worker sets of torch's global state."""
    import torch

    deterministic, filled = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    return torch.get_num_threads(), deterministic, filled, torch.backends.mkldnn.matmul.fp32_precision


def remembered(function: Callable[..., Any]) -> Callable[..., Any]:
    """A pure function that does the same work once only."""
    known: dict[bytes, Any] = {}

    def call(*arguments: Any) -> Any:
        key = pickle.dumps(arguments)
        if key not in known:
            known[key] = function(*arguments)
        return known[key]

    return call


def quick_report(about: About, records: Sequence[TrialRecord], read_file: ReadFile, *more: Any, **named: Any) -> dict[str, bytes]:
    """In place of a sweep's report, which takes seconds: its tables, and of the same runs a file is read of each."""
    from harness import tables
    from harness.reporting import FINDINGS_FILE

    summary = tables.summarize(records, tables.table_axes(about.layout.axes, records), about.layout.total or len(records))
    read = [read_file(record.run_id, "model/config.json") for record in records]
    return {**tables.table_files(summary, records), FINDINGS_FILE: b"[]", "figures/one.txt": b"".join(read)}


TIMES = ("cost/train_seconds", "cost/samples_per_second", "cost/peak_memory_mb")
"""Metrics that no two runs share."""


def stored_trials(uri: str) -> dict[str, tuple[Any, ...]]:
    """All that a store holds of every trial, by number: status, params, files and each metric's whole history.

    Fails where a trial has several runs, or anything of it is still running.
    """
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    experiments = [each.experiment_id for each in client.search_experiments()]
    runs = list(client.search_runs(experiments, "tags.`harness.kind` = 'trial'", max_results=1000))
    assert len({run.data.tags["harness.trial"] for run in runs}) == len(runs)
    assert not client.search_runs(experiments, "attributes.status = 'RUNNING'", run_view_type=3)
    found = {}
    for run in runs:
        names = [name for name in run.data.metrics if name not in TIMES]
        histories = {name: client.get_metric_history(run.info.run_id, name) for name in names}
        points = {name: sorted((each.step, each.value) for each in history) for name, history in histories.items()}
        files = sorted(file.path for file in client.list_artifacts(run.info.run_id))
        found[run.data.tags["harness.trial"]] = (run.info.status, run.data.params, files, points)
    return found


def processes_of(group: int) -> list[int]:
    """All living processes of a process group."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(status.parent.name))
    return found


class Command(subprocess.Popen[str]):
    """A command in a process group of its own, all of which is killed where a test fails: nobody waits for it for ever."""

    def __init__(self, words: Sequence[str], **fields: Any) -> None:
        super().__init__(words, text=True, start_new_session=True, **fields)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """Waits for its end."""
        if kind is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        super().__exit__(kind, error, trace)


def left_of(group: int, seconds: float = 10) -> list[int]:
    """The processes of a group that do not end by themselves; those that saw their parent end need a moment for it."""
    end = time.monotonic() + seconds
    while (found := processes_of(group)) and time.monotonic() < end:
        time.sleep(0.1)
    return found


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Another process has a write lock on a SQLite file."""
    code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('BEGIN EXCLUSIVE')"
    command = [sys.executable, "-c", f"{code}; print('locked', flush=True); sys.stdin.read()", str(database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        try:
            yield
        finally:
            process.communicate()


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A disk of its own in a folder; skips the test where this user may not mount one."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"this user may not mount a disk: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Fills the disk of a folder to its last byte; gives the file that does."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(b"0" * 4096):
                pass
        except OSError:
            pass
    return path
