"""The studies that come with the harness: short, documented, and able to run in their smallest setting."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from harness.config import StudyConfig
from harness.library import load_study
from harness.measures import GROUPS, METRICS
from harness.options import SMOKE, apply, make_small, parse
from harness.study import main
from tests.support import ROOT, stored_trials

STUDIES = sorted(path.stem for path in (ROOT / "studies").glob("*.py"))
LONGEST = 60

NUMBERS = {
    "decorrelation": ["latent/max_abs_corr_rotated", "transfer/whitened_accuracy", "transfer/linear_probe_accuracy"],
    "interpolation": ["interpolation/linear_distance", "interpolation/blend_confidence", "interpolation/data_confidence"],
    "label_efficiency": ["transfer/labelled_images", "transfer/scratch_accuracy"],
    "prefix": ["prefix/mse_2"],
}
"""Of each trial of a study: what its answer is made from, where not every study has it."""


def test_there_are_the_studies_that_the_readme_names() -> None:
    """And it says of each of them what it asks."""
    readme = (ROOT / "README.md").read_text()
    assert len(STUDIES) >= 8
    assert [name for name in STUDIES if not re.search(rf"\| `{name}` \|", readme)] == []


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_a_page_that_explains_itself(name: str) -> None:
    """No more than sixty lines, a docstring of some sentences, and a question of one line."""
    text = (ROOT / "studies" / f"{name}.py").read_text()
    assert len(text.splitlines()) <= LONGEST
    assert (ast.get_docstring(ast.parse(text)) or "").count(".") >= 2
    assert load_study(name).study.question.endswith("?")


@pytest.mark.parametrize("name", STUDIES)
def test_the_smallest_setting_is_of_the_same_kind(name: str) -> None:
    """It varies the same fields between the same ends, measures the same and is another sweep; what is asked for wins."""
    study = load_study(name).study
    small = apply(parse([name, "--smoke"]), study)
    assert (small.axes, small.measures, small.sampler, small.objectives) == (
        study.axes,
        study.measures,
        study.sampler,
        study.objectives,
    )
    assert [(values[0], values[-1]) for values in small.grid.values()] == [(each[0], each[-1]) for each in study.grid.values()]
    assert {field: getattr(small.base, field) for field in SMOKE} == SMOKE
    assert small.base != study.base
    asked = apply(parse([name, "--smoke", "--epochs", "7", "--set", "latent_size=4"]), study)
    assert (asked.base.epochs, asked.base.latent_size, asked.grid.get("latent_size", (4,))) == (7, 4, (4,))


@pytest.mark.parametrize(
    "name", ["latent_sweep", *(pytest.param(name, marks=pytest.mark.slow) for name in STUDIES if name != "latent_sweep")]
)
def test_every_study_runs_in_its_smallest_setting(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the command line to the table, in seconds; every trial has the numbers that its answer is made from."""
    assert main([name, "--smoke", "--executor", "inline", "--device", "cpu", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["trials"]["finished"] == summary["trials"]["total"] >= 4
    trials = stored_trials(f"sqlite:///{tmp_path}/mlflow.db")
    wanted = [*NUMBERS.get(name, ()), "reconstruction_loss"]
    for _, _, _, points in trials.values():
        assert [metric for metric in wanted if metric not in points] == []
    assert len({json.dumps(params, sort_keys=True) for _, params, _, _ in trials.values()}) == len(trials)


@pytest.mark.slow
def test_the_search_is_confirmed_in_its_smallest_setting_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its best trials come again, from fresh seeds, in rows of their own."""
    assert main(["architecture_search", "--smoke", "--executor", "inline", "--device", "cpu", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["seeds"] for row in rows} == {1, 2}


def test_every_group_of_measures_has_a_study_or_a_pruner_that_asks_for_it() -> None:
    """And every metric that is in a group is in one that there is."""
    asked = {group for name in STUDIES for group in load_study(name).study.measures} | {"pruning"}
    assert asked == set(GROUPS)
    assert {metric.group for metric in METRICS.values()} == {"", *GROUPS}


def test_the_smallest_setting_of_the_smallest_study_is_itself() -> None:
    """A grid of one value has one end; a study of one seed has one seed."""
    study = StudyConfig(question="?", grid={"latent_size": (3,)}, seeds=1)
    small = make_small(study)
    assert (small.grid, small.seeds, small.trials) == ({"latent_size": (3,)}, 1, None)
