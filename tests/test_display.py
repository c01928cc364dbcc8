"""What a person sees: lines without a terminal, a bar with one."""

from __future__ import annotations

import io
import re

from rich.console import Console

from harness import display
from harness.config import Trial, TrialConfig, TrialRecord
from harness.display import LiveDisplay, PlainDisplay

METRICS = {"reconstruction_loss": 0.01234, "max_latent_correlation": 0.5, "transfer_accuracy": 0.875}
FINISHED = TrialRecord("a", Trial(0, TrialConfig()), "finished", METRICS)
FAILED = TrialRecord("b", Trial(1, TrialConfig()), "failed", reason="train_loss is nan in epoch 3")


def test_plain_lines_say_what_ended_how_and_what_is_left() -> None:
    """A line a trial: how many of how many, failures, the three headline numbers, the best, and the time left."""
    out = io.StringIO()
    shown = PlainDisplay(Console(file=out, width=300, highlight=False, markup=False, soft_wrap=True))
    shown.start("s on digits", 8.0, 2.0, 4, [FAILED])
    shown.advance(2.0)
    shown.trial_ended("base d=10 seed=0", FINISHED, is_best=True)
    shown.advance(4.0)
    shown.trial_ended("base d=2 seed=0", FAILED, is_best=False)
    shown.stop()
    lines = out.getvalue().splitlines()
    assert lines[0] == "s on digits: 4 trials, 1 done before"
    numbers = "reconstruction_loss 0.0123, max_latent_correlation 0.5000, transfer_accuracy 0.8750"
    assert lines[1].startswith(f"[2/4, 1 failed] base d=10 seed=0: {numbers} (best so far), ")
    assert lines[1].endswith(" left")
    assert lines[2].startswith("[3/4, 2 failed] base d=2 seed=0: failed: train_loss is nan in epoch 3")


def test_the_bar_shows_trials_failures_and_the_best() -> None:
    """On a terminal: a bar with counts, a line for each failure, and the best so far below."""
    out = io.StringIO()
    shown = LiveDisplay(Console(file=out, force_terminal=True, width=150, highlight=False))
    shown.start("s on digits", 4.0, 0.0, 2, [])
    shown.advance(2.0)
    shown.trial_ended("base d=10 seed=0", FINISHED, is_best=True)
    shown.advance(2.0)
    shown.trial_ended("base d=2 seed=0", FAILED, is_best=False)
    shown.stop()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert "base d=2 seed=0: failed: train_loss is nan in epoch 3" in text
    assert "2/2 trials, 1 failed" in text
    assert "best so far: base d=10 seed=0: reconstruction_loss 0.0123" in text


def test_durations_are_read_by_people() -> None:
    """Seconds, minutes and hours, each where it is the right one."""
    assert [display._duration(seconds) for seconds in (0.4, 59, 61, 3600, 7322)] == [
        "0 s",
        "59 s",
        "1 min 1 s",
        "1 h 0 min",
        "2 h 2 min",
    ]
