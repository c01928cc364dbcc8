"""Sweeps run in memory, for the tests of several files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.config import TrialConfig, TrialRecord
from harness.options import Request
from harness.plan import SweepPlan, make_plan
from harness.rounds import Means
from harness.sweep import SweepOutcome, run_sweep
from harness.tracker import NullTracker
from tests.support import TIMES, TINY, make_study_file

INLINE = Means(executor="inline")


class QuietDisplay:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.units = self.done = 0.0
        self.notes: list[str] = []
        self.names: list[str] = []
        self.best: list[TrialRecord] = []
        self.is_stopped = False

    def start(self, title: str, units: float, done: float, total: int, ended: Sequence[TrialRecord]) -> None:
        """Keeps the amounts."""
        self.units, self.done = units, done

    def more(self, units: float, trials: int) -> None:
        """Adds to the amount."""
        self.units += units

    def advance(self, units: float) -> None:
        """Adds."""
        self.done += units

    def trial_ended(self, name: str, record: TrialRecord, is_best: bool) -> None:
        """Keeps the name, and the record where it is the best so far."""
        self.names.append(name)
        self.best += [record] * is_best

    def note(self, text: str) -> None:
        """Keeps the sentence."""
        self.notes.append(text)

    def stop(self) -> None:
        """Keeps that it is over."""
        self.is_stopped = True


def run(plan: SweepPlan, means: Means = INLINE, tracker: NullTracker | None = None) -> SweepOutcome:
    """Runs a sweep in memory."""
    return run_sweep(plan, means, tracker or NullTracker(), QuietDisplay())


def numbers(outcome: SweepOutcome) -> dict[TrialConfig, dict[str, float]]:
    """Every number of every trial that does not depend on when it ran."""
    records = [record for row in outcome.summary.rows for record in row.trials]
    return {
        record.trial.config: {name: value for name, value in record.metrics.items() if name not in TIMES} for record in records
    }


class InterruptedTracker(NullTracker):
    """Raises like Ctrl-C, or like a crash, when so many trials have ended."""

    def __init__(self, after: int, error: type[BaseException]) -> None:
        super().__init__()
        self.left, self.error = after, error

    def log_epochs(self, run_id: str, logs: Any) -> None:
        """Fails when its time has come."""
        super().log_epochs(run_id, logs)
        if 0 <= self.left <= sum(status == "finished" for status in self.statuses.values()):
            self.left = -1
            raise self.error


def searching_plan(tmp_path: Path, **changes: Any) -> SweepPlan:
    """A search of twelve trials that differ in learning rate, from hopeless to good."""

    def space(trial: Any) -> TrialConfig:
        rate = trial.suggest_float("learning_rate", 1e-7, 1e-1, log=True)
        return replace(TINY, architecture="linear", epochs=6, learning_rate=rate)

    fields: dict[str, Any] = {"grid": {}, "sampler": "random", "trials": 12, "round_size": 6, **changes}
    return make_plan(replace(make_study_file(tmp_path, **fields), search_space=space), Request(device="cpu"))
