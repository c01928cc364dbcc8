"""The benchmark of the bookkeeping, at sizes that take a second or two."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from benchmarks import scale
from harness.executors import EXECUTORS
from harness.measures import METRICS
from harness.search import GridSearch


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["grid", "random"])
def test_a_sweep_grows_and_every_step_has_its_price(
    sampler: str, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two sizes, each with one trial more to resume for: the tables, the file, and the runs, which are like all others."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    commands: list[str] = []
    if sampler != "grid":
        monkeypatch.setattr("harness.pictures.charts", lambda summary, read_file: {})  # the slowest part, once is enough
    monkeypatch.setattr(scale, "seconds_of_command", lambda words: commands.append(words[2]) or 7.5)
    words = ["--sizes", "10", "5", "--sampler", sampler, "--folder", str(tmp_path), "--json", str(tmp_path / "costs.json")]
    assert scale.main(words) == 0
    content = json.loads((tmp_path / "costs.json").read_text())
    assert content["sampler"] == sampler
    assert [cost["trials"] for cost in content["costs"]] == [5, 10]
    assert commands == ["6", "11"]
    for cost in content["costs"]:
        parts = [cost["milliseconds"][name] for name in scale.COLUMNS[:-1]]
        assert min(parts) > 0
        assert sum(parts) < 1.5 * cost["milliseconds"]["whole"]
        assert 0 < cost["read"] < cost["resume"]
        assert min(cost["close"], cost["rebuild"], cost["small_milliseconds"]) > 0
    trials, sweeps = capsys.readouterr().out.split(f"{sampler}: seconds to close")
    assert [line.split()[0] for line in trials.splitlines() if line.strip()[:1].isdigit()] == ["5", "10"]
    first = content["costs"][0]
    ratio = first["milliseconds"]["whole"] / first["small_milliseconds"]
    assert [line.split()[-1] for line in trials.splitlines() if line.split()[:1] == ["5"]] == [f"{ratio:.2f}"]
    assert [line.split()[-1] for line in sweeps.splitlines() if line.strip()[:1].isdigit()] == ["7.5", "7.5"]
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs(["1"], "tags.`harness.kind` = 'trial'")
    assert len(runs) == 11
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert runs[0].data.metrics.keys() >= METRICS.keys()
    assert len(client.get_metric_history(runs[0].info.run_id, "val/mse")) == 30


def test_the_harness_is_as_it_was_after_the_measurement() -> None:
    """Neither the timed methods nor the made-up executor stay behind."""
    method = GridSearch.tell
    with scale.Stopwatch().running():
        assert GridSearch.tell is not method
    assert GridSearch.tell is method
    assert "made_up" not in EXECUTORS


def test_a_sampler_is_charged_for_its_rounds_by_the_trial() -> None:
    """A round's seconds are shared among its trials, each of which has them in its whole."""
    stopwatch = scale.Stopwatch()
    ask = stopwatch.round(lambda search: [1, 2, 3, 4])
    ask(None)
    stopwatch.trial_ended("a", None, False)  # type: ignore[arg-type]
    stopwatch.trial_ended("b", None, False)  # type: ignore[arg-type]
    first, second = stopwatch.laps
    assert first["ask"] == second["ask"] == pytest.approx(stopwatch.seconds["rebuild"] / 4)
    assert first["whole"] > first["ask"]


def test_the_command_is_timed_from_outside() -> None:
    """From the start of its process to its end; one that fails is an error."""
    assert scale.seconds_of_command(["--list"]) > 0
