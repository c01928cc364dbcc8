"""The comparison of samplers: what it counts, and that it runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.search import BOXES, dominated_share, main
from harness.config import Trial, TrialConfig, TrialRecord
from harness.library import load_study
from harness.measures import METRICS

SMALL = ["--set", "architecture=linear", "--smoke", "--executor", "inline", "--device", "cpu", "--trials", "2"]


def record_of(**metrics: float) -> TrialRecord:
    """A trial with these numbers."""
    return TrialRecord(
        "run", Trial(0, TrialConfig()), "finished", {name.replace("__", "/"): each for name, each in metrics.items()}
    )


def test_the_share_is_of_the_box_of_the_studys_objectives() -> None:
    """Half way in each of three objectives is an eighth; what lacks an objective, or is beyond the reference, is nothing."""
    assert set(BOXES) == set(load_study("architecture_search").study.objectives) <= set(METRICS)
    middle = record_of(val__mse=0.035, val__max_latent_correlation=0.5, val__transfer_accuracy=0.55)
    assert dominated_share([middle]) == pytest.approx(1 / 8)
    worse = record_of(val__mse=0.08, val__max_latent_correlation=0.1, val__transfer_accuracy=0.9)
    assert dominated_share([worse, record_of(val__mse=0.01)]) == 0


@pytest.mark.slow
def test_it_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each sampler once a repeat, from another seed each time."""
    main(["--repeats", "2", "--json", str(tmp_path / "found.json"), "--", *SMALL])
    found = json.loads((tmp_path / "found.json").read_text())
    assert {name: len(values) for name, values in found.items()} == {"tpe": 2, "random": 2}
    assert all(0 <= value < 1 for values in found.values() for value in values)
    assert "repeat 1, random" in capsys.readouterr().out
