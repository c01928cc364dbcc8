"""A sweep and a trial with made-up results, for what keeps them."""

from __future__ import annotations

import math
from typing import Any

from harness.config import EpochLog, Trial, TrialResult
from harness.models import resolve
from harness.tracker import SweepInfo, Tracker
from tests.support import TINY

CONFIG = resolve(TINY)


INFO = SweepInfo("tiny", "0123456789abcdef", "tiny on digits", "Why?", "digits", "f" * 64, "cpu", {"study/tiny.py": b"STUDY"})


LOGS = [EpochLog(epoch, 0.5 / epoch, 0.4 / epoch, 0.3 / epoch, 1e-3, 0.1) for epoch in (1, 2)]


RESULT = TrialResult(
    CONFIG,
    "finished",
    {"reconstruction_loss": 0.1 + 0.2, "val/mse": 0.15, "latent/dead_units": 0.0, "latent/total_correlation": math.inf},
    {"transfer/frozen/test_loss": (2.0, 1.5)},
    {"pictures/one.bin": b"\x00\x01", "top.csv": b"a,b\n"},
)


def begin(tracker: Tracker, number: int = 0, fresh: bool = False) -> tuple[Any, str]:
    """Opens the sweep and begins a trial."""
    sweep = tracker.open_sweep(INFO, fresh)
    return sweep, tracker.start_trial(sweep, Trial(number, CONFIG), f"trial {number}", {"harness.group": "0-0"})
