"""What a trial costs beside its training, and what resuming costs, as a sweep grows: ``python -m benchmarks.scale``.

One sweep grows from size to size on an MLflow store of its own. Its trials train nothing: an executor gives made-up
logs and results at once. All else is the harness's own. Trials go one by one, so that the cost of each can be told.
At each size a new small sweep runs as well, to compare with at the same moment of a busy machine.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import wraps
from pathlib import Path
from statistics import fmean, median
from typing import Any
from unittest.mock import patch

import numpy as np

from harness import options
from harness.artifacts import STRIPS_FILE, training_csv
from harness.config import EpochLog, Placement, TrialConfig, TrialRecord, TrialResult
from harness.display import print_lines, print_table
from harness.evaluation import TRANSFER_MODES
from harness.executors import EXECUTORS, InlineExecutor
from harness.library import load_study
from harness.measures import METRICS
from harness.plan import make_plan
from harness.rounds import Means
from harness.samplers import SAMPLERS
from harness.search import GridSearch, SamplerSearch
from harness.sweep import run_sweep
from harness.track import MlflowTracker
from harness.train import TrainState
from harness.transfer import CURVES
from harness.trial import Segment, run_segment

SIZES = (100, 300, 1_000, 3_000, 10_000)
WINDOW = 300
"""What a trial costs at a size is the median over so many trials before it, or over those since the last size if fewer."""

SMALL = 100
"""Trials of the sweep that each size is compared with, or as many as the first size has if fewer."""

POINTS = 40 * 84
"""Of the grid; a larger sweep trains them from several seeds."""

STUDY_FILE = """\
from harness.config import StudyConfig, TrialConfig

STUDY = StudyConfig(question="What does a trial cost beside its training?", {how})


def search_space(trial):
    return TrialConfig(
        latent_size=trial.suggest_int("latent_size", 1, 40),
        learning_rate=trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True),
        activation=trial.suggest_categorical("activation", ["relu", "gelu"]),
    )
"""
GRID = 'grid={"learning_rate": [1e-4 * 1.08**step for step in range(84)], "latent_size": range(1, 41)}'

STEPS: dict[str, tuple[tuple[type, str], ...]] = {
    "start": ((MlflowTracker, "start_trial"),),
    "epochs": ((MlflowTracker, "log_epochs"),),
    "finish": ((MlflowTracker, "finish_trial"),),
    "tell": ((GridSearch, "tell"), (SamplerSearch, "tell")),
    "read": ((MlflowTracker, "open_sweep"),),
}
"""The methods that are timed. A sampler is told of a round when it is asked for the next one: that is in ``ask``."""

COLUMNS = ("ask", "start", "epochs", "finish", "tell", "whole")
SECONDS = ("close", "read", "rebuild", "resume", "command")


@dataclass(frozen=True)
class Cost:
    """What a sweep of some size costs.

    Attributes:
        trials: The size.
        milliseconds: A trial, by ``COLUMNS``: medians. The whole is all that is not training.
        mean_milliseconds: The whole, mean in place of median.
        small_milliseconds: The whole, median, of a new sweep of ``SMALL`` trials that ran right after: other work on the
            machine slows both.
        close: Seconds from the last trial's end to the sweep's: tables and pictures.
        read: Seconds to open the sweep and read back its runs.
        rebuild: Seconds to rebuild the Optuna study and to ask for what is next.
        resume: Seconds from opening the store to the start of the next trial; has the two before in it.
        command: Seconds in which a command says that nothing is left, the start of its process included.
    """

    trials: int
    milliseconds: dict[str, float]
    mean_milliseconds: float
    small_milliseconds: float
    close: float
    read: float
    rebuild: float
    resume: float
    command: float


@dataclass
class Stopwatch:
    """Times the steps of a sweep, trial by trial; is the sweep's display as well, to be told when a trial ends.

    Attributes:
        laps: Of each trial the seconds by step, and of the whole.
        seconds: To ``read``, to ``rebuild``, to the start of the first trial (``resume``), and to ``close``.
    """

    laps: list[dict[str, float]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    _began: float = field(default_factory=time.perf_counter)
    _since: float = 0.0
    _ask: float = 0.0
    _lap: dict[str, float] = field(default_factory=dict)

    def step(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """The method, timed."""

        @wraps(method)
        def timed(*arguments: Any, **named: Any) -> Any:
            begin = time.perf_counter()
            given = method(*arguments, **named)
            end = time.perf_counter()
            self._lap[name] = self._lap.get(name, 0.0) + end - begin
            if name == "start":
                self.seconds.setdefault("resume", end - self._began)
            return given

        return timed

    def round(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """The method that asks for a round, timed; its seconds are shared among the round's trials."""

        @wraps(method)
        def timed(search: Any) -> Any:
            begin = time.perf_counter()
            trials = method(search)
            self._since = time.perf_counter()
            self.seconds.setdefault("rebuild", self._since - begin)
            self.seconds.setdefault("read", self._lap.pop("read", 0.0))
            self._ask = (self._since - begin) / max(1, len(trials))
            return trials

        return timed

    def start(self, title: str, units: float, done: float, total: int, ended: Sequence[TrialRecord]) -> None:
        """Shows nothing."""

    def more(self, units: float, trials: int) -> None:
        """Shows nothing."""

    def advance(self, units: float) -> None:
        """Shows nothing."""

    def trial_ended(self, name: str, record: TrialRecord, is_best: bool) -> None:
        """Ends a lap."""
        now = time.perf_counter()
        self.laps.append({**self._lap, "ask": self._ask, "whole": self._ask + now - self._since})
        self._lap, self._since = {}, now

    def note(self, text: str) -> None:
        """Shows nothing."""

    def stop(self) -> None:
        """Shows nothing."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Times the harness's own methods for as long as it lasts."""
        with ExitStack() as stack:
            for name, methods in STEPS.items():
                for owner, method in methods:
                    stack.enter_context(patch.object(owner, method, self.step(name, getattr(owner, method))))
            for search in (GridSearch, SamplerSearch):
                stack.enter_context(patch.object(search, "next_round", self.round(search.next_round)))
            yield
        self.seconds["close"] = time.perf_counter() - self._since


class MadeUpExecutor(InlineExecutor):
    """Answers at once with what training might have given."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """A segment for a segment, results for an evaluation."""
        return super().submit(made_up_segment if function is run_segment else made_up_results, *arguments)


def made_up_segment(
    configs: Sequence[TrialConfig], states: Sequence[TrainState] | None, epochs: int, placement: Placement, at_once: int
) -> Segment:
    """Logs of as many epochs as were asked for, of losses that fall, and states with no weights."""
    done = states[0].epoch if states else 0
    numbers = range(done + 1, min(done + epochs, configs[0].epochs) + 1)
    logs = [EpochLog(epoch, 0.1 / epoch, 0.1 / epoch, 0.11 / epoch, 1e-3, 0.05) for epoch in numbers]
    return Segment([TrainState(numbers[-1], {}) for _ in configs], [logs for _ in configs])


def made_up_results(
    configs: Sequence[TrialConfig], states: Sequence[TrainState], placement: Placement, measures: Sequence[str]
) -> list[TrialResult]:
    """A result for each member, with every metric, every curve and every file, the files tiny."""
    return [_made_up_result(config) for config in configs]


def _made_up_result(config: TrialConfig) -> TrialResult:
    spread = math.sin(config.latent_size + 100 * config.seed + 1e4 * config.learning_rate) / 100
    metrics = {name: 0.5 + spread + place / 100 for place, name in enumerate(METRICS)}
    names = [f"transfer/{mode}/{curve}" for mode in TRANSFER_MODES for curve in CURVES]
    curve = tuple(1 / epoch for epoch in range(1, config.transfer_epochs + 1))
    return TrialResult(config, "finished", metrics, dict.fromkeys(names, curve), _made_up_files(names, curve))


def _made_up_files(names: Sequence[str], curve: Sequence[float]) -> dict[str, bytes]:
    rows = [["epoch", *names], *([str(epoch), *[str(value)] * len(names)] for epoch, value in enumerate(curve, start=1))]
    strips = io.BytesIO()
    np.savez_compressed(strips, strips=np.zeros((2, 5, 1, 8, 8), np.uint8), classes=np.array([[0, 1], [2, 3]]))
    others = ("reconstructions.png", "interpolation/strips.png", "latents/correlation.png")
    more = ("latents/test_codes.npz", "model/model.safetensors", "model/config.json")
    return {
        **dict.fromkeys((*others, *more), b"made up"),
        STRIPS_FILE: strips.getvalue(),
        "latents/correlation.csv": b"unit,0\n0,1.0\n",
        "curves/training.csv": training_csv([]),
        "curves/transfer.csv": "\n".join(map(",".join, rows)).encode(),
    }


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command; gives its exit code."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    wanted = _parser().parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        costs = list(measure(sorted(wanted.sizes), wanted.sampler, wanted.folder or Path(folder)))
    print_costs(wanted.sampler, costs)
    if wanted.json:
        content = {"sampler": wanted.sampler, "costs": [asdict(cost) for cost in costs]}
        wanted.json.write_text(json.dumps(content, indent=2) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="N", help="numbers of trials")
    parser.add_argument("--sampler", default="grid", choices=["grid", *SAMPLERS], help="what proposes the trials")
    parser.add_argument("--folder", type=Path, help="a folder to keep the store in; goes on with the sweep that is there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    return parser


def measure(sizes: Sequence[int], sampler: str, folder: Path) -> Iterator[Cost]:
    """Grows one sweep from size to size and gives what it costs at each.

    Args:
        sizes: Numbers of trials, ascending, at least two apart.
        sampler: ``grid`` or a name in ``SAMPLERS``.
        folder: Gets the study file and the store, and a folder with those of the small sweep beside it.
    """
    grown, beside = _study_file(folder, sampler), _study_file(folder / "beside", sampler)
    for size in sizes:
        stopwatch = _grow(_words(grown, sampler, size))
        reference = _grow(_words(beside, sampler, min(SMALL, *sizes)), fresh=True)
        one_more = _words(grown, sampler, size + 1)
        yield _cost(size, stopwatch, reference, _grow(one_more), seconds_of_command(one_more))
        print_lines([f"{sampler}: {size:,} trials are measured"], to_stderr=True)


def _study_file(folder: Path, sampler: str) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / "scale.py"
    file.write_text(STUDY_FILE.format(how=GRID if sampler == "grid" else f'sampler="{sampler}", trials=1'))
    return file


def _words(study: Path, sampler: str, trials: int) -> list[str]:
    """The command line of the sweep with so many trials."""
    store = f"sqlite:///{study.resolve().parent}/mlflow.db"
    seeds = ["--seeds", str(-(-trials // POINTS))] if sampler == "grid" else []
    return [str(study), "--trials", str(trials), *seeds, "--device", "cpu", "--tracking-uri", store, "--json"]


def _grow(words: Sequence[str], fresh: bool = False) -> Stopwatch:
    """Runs the sweep of a command line, in this process and without training."""
    request = options.parse(words)
    plan = make_plan(load_study(request.study), request)
    stopwatch = Stopwatch()
    with patch.dict(EXECUTORS, made_up=MadeUpExecutor), stopwatch.running():
        run_sweep(plan, Means("made_up", group_size=1, fresh=fresh), MlflowTracker(request.tracking_uri), stopwatch)
    return stopwatch


def seconds_of_command(words: Sequence[str]) -> float:
    """Seconds that the harness's own command takes, from the start of its process to the end."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-m", "harness.study", *words], check=True, capture_output=True)
    return time.perf_counter() - begin


def _cost(size: int, grown: Stopwatch, reference: Stopwatch, resumed: Stopwatch, command: float) -> Cost:
    laps = grown.laps[-WINDOW:]
    return Cost(
        trials=size,
        milliseconds={name: 1000 * median(lap.get(name, 0.0) for lap in laps) for name in COLUMNS},
        mean_milliseconds=1000 * fmean(lap["whole"] for lap in laps),
        small_milliseconds=1000 * median(lap["whole"] for lap in reference.laps),
        command=command,
        close=grown.seconds["close"],
        **{name: resumed.seconds[name] for name in ("read", "rebuild", "resume")},
    )


def print_costs(sampler: str, costs: Sequence[Cost]) -> None:
    """Prints what a trial costs, beside one of a small sweep at the same time, and what closing and resuming cost."""
    trials = [[f"{cost.trials:,}", *(f"{number:.2f}" for number in _numbers(cost))] for cost in costs]
    print_table(f"{sampler}: milliseconds a trial", ["trials", *COLUMNS, "small", "ratio"], trials, left=0)
    sweeps = [[f"{cost.trials:,}", *(f"{getattr(cost, name):.1f}" for name in SECONDS)] for cost in costs]
    print_table(f"{sampler}: seconds to close the sweep and to resume it", ["trials", *SECONDS], sweeps, left=0)


def _numbers(cost: Cost) -> list[float]:
    """What a trial costs, what one of a small sweep does, and how many times that it is."""
    whole = cost.milliseconds["whole"]
    return [*(cost.milliseconds[name] for name in COLUMNS), cost.small_milliseconds, whole / cost.small_milliseconds]


if __name__ == "__main__":
    sys.exit(main())
