"""Runs a contestant as a process of its own on an empty store, and reads back what it did."""

from __future__ import annotations

import csv
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.children import child
from benchmarks.contestants import CONTESTANTS, OURS, Settings, environment
from harness.groups import choose_workers

LINES_SHOWN = 15


@dataclass(frozen=True)
class TrialRun:
    """What a contestant's store holds of one trial.

    Attributes:
        architecture: Its name.
        latent_size: Dimensions of the code.
        seed: Of the trial.
        val_mse: After each epoch.
        seconds: Of each epoch, validation included. Where trials train as one stack: the trial's share.
        metrics: The last value of every metric.
        files: Paths of its artifacts.
        group: Name of the stack that it trained in; empty for one that trained alone.
    """

    architecture: str
    latent_size: int
    seed: int
    val_mse: list[float]
    seconds: list[float]
    metrics: dict[str, float] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    group: str = ""

    @property
    def point(self) -> tuple[str, int]:
        """What replicates have in common."""
        return self.architecture, self.latent_size

    @property
    def key(self) -> tuple[str, int, int]:
        """What it has in common with the same trial of another contestant."""
        return self.architecture, self.latent_size, self.seed


@dataclass(frozen=True)
class Outing:
    """One contestant's run of the whole sweep.

    Attributes:
        contestant: Its name.
        round: From 1.
        seconds: Wall time of the whole process.
        side_by_side: Trials that ran at a time.
        threads: Of each of them.
        trials: All of them.
    """

    contestant: str
    round: int
    seconds: float
    side_by_side: int
    threads: int
    trials: list[TrialRun]

    @property
    def trials_per_minute(self) -> float:
        """With everything counted: start of the process, store, training, evaluation."""
        return 60 * len(self.trials) / self.seconds


class OutingError(Exception):
    """A contestant did not do the work."""


def run_outing(name: str, round_number: int, settings: Settings, threads: int, trainer: str = "") -> Outing:
    """Runs one contestant from an empty folder to the end of its sweep.

    Args:
        name: Of the contestant.
        round_number: From 1.
        settings: The work.
        threads: That torch takes by default.
        trainer: Of the harness, where it is not to be its default.

    Raises:
        OutingError: if the process failed or if the store lacks trials.
    """
    with tempfile.TemporaryDirectory(prefix="compare-", ignore_cleanup_errors=True) as text:
        folder = Path(text)
        uri = f"sqlite:///{folder}/mlflow.db"
        command = _command(name, settings, folder, uri) + (["--trainer", trainer] if trainer else [])
        seconds = _time(name, command, folder)
        trials = read_trials(uri)
    if len(trials) != settings.trials:
        raise OutingError(f"{name} has {len(trials)} finished trials in its store, of {settings.trials}")
    at_a_time, own_threads = (_most_at_a_time(trials), 1) if CONTESTANTS[name].side_by_side else (1, threads)
    return Outing(name, round_number, seconds, at_a_time, own_threads, trials)


def _most_at_a_time(trials: Sequence[TrialRun]) -> int:
    """One for each core, as long as there are as many; those of a stack share one."""
    return min(choose_workers(0, "cpu"), len({trial.group or trial.key for trial in trials}))


def _command(name: str, settings: Settings, folder: Path, tracking_uri: str) -> list[str]:
    if name == OURS:
        return [sys.executable, "-m", "harness.study", *settings.words(tracking_uri)]
    settings.job(tracking_uri).write(folder / "job.json")
    return [sys.executable, "-m", f"benchmarks.{name}_script", "job.json"]


def _time(name: str, command: list[str], folder: Path) -> float:
    """Runs a command; gives its seconds."""
    log, started = folder / "output.txt", time.perf_counter()
    with child(command, log, environment()) as process:
        code = process.wait()
        seconds = time.perf_counter() - started
    if code:
        last = log.read_text(errors="replace").splitlines()[-LINES_SHOWN:]
        raise OutingError("\n".join([f"{name} ended with exit code {code}; its last lines:", *last]))
    return seconds


def read_trials(tracking_uri: str) -> list[TrialRun]:
    """Every finished trial of a store, in order of the grid."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri)
    experiments = [each.experiment_id for each in client.search_experiments()]
    runs = client.search_runs(experiments, "attributes.status = 'FINISHED'", max_results=50_000)
    trials = [_read_trial(client, run) for run in runs if "mlflow.parentRunId" in run.data.tags]
    return sorted(trials, key=lambda trial: trial.key)


def _read_trial(client: Any, run: Any) -> TrialRun:
    """Reads one; seconds come from its table of epochs, for metrics may be logged many epochs at a time."""
    folder = Path(client.download_artifacts(run.info.run_id, ""))
    history = sorted(client.get_metric_history(run.info.run_id, "val/mse"), key=lambda point: point.step)
    with (folder / "curves" / "training.csv").open(newline="") as file:
        seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    return TrialRun(
        architecture=run.data.params["architecture"],
        latent_size=int(run.data.params["latent_size"]),
        seed=int(run.data.params["seed"]),
        val_mse=[point.value for point in history],
        seconds=seconds,
        metrics=dict(run.data.metrics),
        files=sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()),
        group=run.data.tags.get("harness.group", ""),
    )


def check_work(outing: Outing, ours: Outing) -> None:
    """Checks that every trial has all numbers, epochs and files that the harness has of it.

    Raises:
        OutingError: if one has not.
    """
    own = {trial.key: trial for trial in ours.trials}
    for trial in outing.trials:
        mine = own[trial.key]
        lacks = sorted((mine.metrics.keys() - trial.metrics.keys()) | (set(mine.files) - set(trial.files)))
        if lacks or len(trial.val_mse) != len(mine.val_mse):
            what = ", ".join(lacks) or f"{len(mine.val_mse)} epochs of val/mse, it has {len(trial.val_mse)}"
            raise OutingError(f"{outing.contestant} has not done all of the work: {trial.key} lacks {what}")


def forget_files(outing: Outing) -> Outing:
    """The outing without its lists of files, which have been checked."""
    return replace(outing, trials=[replace(trial, files=[]) for trial in outing.trials])
