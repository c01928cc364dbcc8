"""The plan: which trials in which order, and what makes no sense."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import harness
from harness import plan
from harness.config import StudyConfig
from harness.library import load_study
from harness.options import parse
from harness.plan import grid_trials, make_plan
from harness.rules import UserError
from tests.planning import GRID, SEARCH, configs_of, plan_of

pytestmark = pytest.mark.usefixtures("here")

REPOSITORY = Path(harness.__file__).resolve().parents[1]


def test_the_grid_has_every_combination_of_one_seed_before_the_next() -> None:
    """The first axis turns slowest within a seed, and trials are numbered from 0."""
    sweep = plan_of(GRID)
    found = [(trial.config.seed, trial.config.architecture, trial.config.latent_size) for trial in sweep.trials]
    assert found == [(seed, name, size) for seed in (0, 1) for name in ("base", "deep") for size in (2, 5)]
    assert [trial.number for trial in sweep.trials] == list(range(8))
    assert sweep.total == 8


def test_trials_of_one_network_follow_one_another_wherever_the_axis_of_labels_stands() -> None:
    """What only the evaluation uses turns fastest, so that a group can train the network once for all of them."""
    study = StudyConfig(question="?", grid={"labels": (10, 20), "latent_size": (2, 5), "draws": (1, 2)}, seeds=1)
    found = [(each.latent_size, each.labels, each.draws) for each in (trial.config for trial in grid_trials(study))]
    assert found == [(size, labels, draws) for size in (2, 5) for labels in (10, 20) for draws in (1, 2)]
    assert list(study.axes) == ["labels", "latent_size", "draws"]


def test_the_first_seed_is_that_of_the_study() -> None:
    """A sweep of other replicates is had with another first seed."""
    assert {config.seed for config in configs_of(plan_of(GRID, "--set", "seed=10"))} == {10, 11}


def test_no_field_of_a_trial_is_left_to_the_architecture() -> None:
    """What a run records says what was trained."""
    for config in configs_of(plan_of(GRID)):
        assert (config.width, config.batch_norm, config.depth) == (16, True, 3 if config.architecture == "base" else 4)


def test_more_seeds_add_trials_at_the_end_and_keep_the_identity() -> None:
    """A sweep of 2 seeds is the beginning of one of 4, and goes on as that."""
    few, many = plan_of(GRID), plan_of(GRID, "--seeds", "4")
    assert len(many.trials) == 16
    assert many.trials[:8] == few.trials
    assert many.identity == few.identity


def test_fewer_trials_cut_the_end_off_and_keep_the_identity() -> None:
    """The rest can be trained later."""
    whole, some = plan_of(GRID), plan_of(GRID, "--trials", "3")
    assert some.trials == whole.trials[:3]
    assert (some.total, some.identity) == (3, whole.identity)
    assert plan_of(GRID, "--trials", "100").trials == whole.trials


def test_combinations_that_come_to_the_same_are_trained_once() -> None:
    """Base with depth 4 is deep: a grid of both has no trial twice, and no number is left out."""
    study = StudyConfig(question="Which?", grid={"architecture": ("base", "deep"), "depth": (None, 3, 4)}, seeds=2)
    trials = grid_trials(study)
    assert len({replace(trial.config, architecture="base") for trial in trials}) == len(trials) == 4
    assert [trial.number for trial in trials] == list(range(4))


def test_a_network_that_has_two_names_is_trained_once_under_the_first() -> None:
    """A note says which; what is no double keeps the name that was asked for, and the grid of the default sweep is whole."""
    study = StudyConfig(question="?", grid={"architecture": ("base", "deep", "heavy"), "width": (16, 32)}, seeds=2)
    found = [(trial.config.architecture, trial.config.width) for trial in grid_trials(study)]
    assert found == 2 * [("base", 16), ("base", 32), ("deep", 16), ("deep", 32)]
    assert plan.note_of_doubles(study).startswith("2 of 6 configurations are left out")
    assert "(heavy is base there" in plan.note_of_doubles(study)
    own = StudyConfig(question="?", grid={"architecture": ("heavy", "base"), "width": (None, 8)}, seeds=1)
    found = [(trial.config.architecture, trial.config.width) for trial in grid_trials(own)]
    assert found == [("heavy", 32), ("heavy", 8), ("base", 16)]
    default = load_study("latent_sweep").study
    assert {trial.config.architecture for trial in grid_trials(default)} == {"base", "deep", "heavy"}
    assert len(grid_trials(default)) == 63
    assert plan.note_of_doubles(default) == ""


def test_variants_are_trained_at_every_point() -> None:
    """Each with what it says of its own, the first with the base's values; two that come to the same are one."""
    variants: list[dict[str, Any]] = [{}, {"batch_norm": False}, {"loss": "bce", "width": 8}, {"batch_norm": True}]
    study = StudyConfig(question="Which?", grid={"latent_size": (2, 5)}, variants=variants, seeds=2)
    found = [
        (each.seed, each.latent_size, each.batch_norm, each.loss, each.width) for each in (t.config for t in grid_trials(study))
    ]
    own = [(True, "mse", 16), (False, "mse", 16), (True, "bce", 8)]
    assert found == [(seed, size, *variant) for seed in (0, 1) for size in (2, 5) for variant in own]
    assert study.axes == ("latent_size", "batch_norm", "loss", "width")


def test_a_grid_may_have_variants_alone() -> None:
    """They are its points then."""
    study = StudyConfig(question="Which?", variants=[{"latent_size": 2}, {"latent_size": 30, "prefix": True}], seeds=1)
    assert [(trial.config.latent_size, trial.config.prefix) for trial in grid_trials(study)] == [(2, False), (30, True)]


def test_a_search_has_no_trials_before_it_runs() -> None:
    """Its sampler proposes them, as many as the study says or the command line."""
    assert (plan_of(SEARCH).trials, plan_of(SEARCH).total, plan_of(SEARCH, "--trials", "7").total) == ((), 3, 7)


def test_a_value_outside_the_search_space_is_refused() -> None:
    """A sampler could not go on from it: the error names the field and the value."""
    with pytest.raises(UserError, match=r"latent_size.* 10 .*out of range"):
        plan_of(SEARCH, "--set", "latent_size=10")


def test_a_study_file_in_another_encoding_is_planned() -> None:
    """Python reads the encoding that a source file declares; so does the plan."""
    Path("mine.py").write_bytes(("# -*- coding: latin-1 -*-\n# Größe\n" + GRID).encode("latin-1"))
    sweep = make_plan(load_study("mine.py"), parse(["mine.py", "--device", "cpu"]))
    assert "Größe" in sweep.source


@pytest.mark.parametrize(
    ("text", "words", "parts"),
    [
        (GRID, ["--set", "architecture=bsae,deep"], ["unknown architecture 'bsae'", "did you mean 'base'?"]),
        (SEARCH, ["--set", "architecture=bsae"], ["unknown architecture 'bsae'", "did you mean 'base'?"]),
        (GRID, ["--set", "architecture=base,linear", "--set", "depth=2"], ["'linear' has no depth"]),
        (GRID, ["--set", "loss=mse,bce", "--set", "output_activation=identity"], ["loss is 'bce'", "output_activation"]),
        (GRID, ["--executor", "proceses"], ["unknown executor 'proceses'", "did you mean 'processes'?"]),
        (GRID, ["--trainer", "plain", "--precision", "bfloat16"], ["'bfloat16'", "plain trainer has float32 only"]),
        (GRID, ["--trainer", "plain", "--kernels", "compiled"], ["'compiled'", "the plain trainer does without"]),
        (GRID, ["--dataset", "digit"], ["unknown dataset 'digit'", "did you mean 'digits'?"]),
        (GRID, ["--dataset", "npz"], ["npz:PATH"]),
        (GRID, ["--dataset", "digits:here"], ["'digits:here' is written digits"]),
        (GRID, ["--image-size", "16"], ["image_size", "folder:PATH"]),
        (GRID.replace("seeds=2", "objectives=('val/mce',)"), [], ["unknown objective 'val/mce'", "did you mean 'val/mse'?"]),
        (GRID.replace("seeds=2", "objectives=('floor/pca_mse',)"), [], ["'floor/pca_mse' has no better direction", "val/mse"]),
        (SEARCH.replace('"random"', '"randam"'), [], ["unknown sampler 'randam'", "did you mean 'random'?"]),
        (
            SEARCH.replace('"random"', '"cmaes", objectives=("val/mse", "transfer_accuracy")'),
            [],
            ["'cmaes' takes one objective", "nsga2"],
        ),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_before_anything_runs(text: str, words: list[str], parts: list[str]) -> None:
    """The error names the value, what is allowed and the nearest."""
    with pytest.raises(UserError) as caught:
        plan_of(text, *words)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_a_plan_takes_the_gpu_only_where_there_is_one() -> None:
    """Auto gives what torch finds, and cpu is always to be had."""
    assert plan.choose_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert plan.choose_device("cpu") == "cpu"


@pytest.mark.parametrize("word", ["", "--help", "--list"])
def test_help_and_list_and_a_workers_import_load_nothing_slow(here: Path, word: str) -> None:
    """Neither torch nor MLflow nor Optuna is loaded before it is needed."""
    code = (
        "import sys\nfrom harness.study import main\n"
        "try:\n    code = main(sys.argv[1:]) if sys.argv[1:] else 0\nexcept SystemExit as exit_:\n    code = exit_.code\n"
        "print(code, sorted({'torch', 'torchvision', 'mlflow', 'optuna', 'numpy'} & set(sys.modules)))"
    )
    words = [sys.executable, "-W", "error", "-c", code, *([word] if word else [])]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(words, cwd=here, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
    assert done.stderr == ""
    assert ("latent_sweep" in done.stdout) == bool(word)


@pytest.mark.parametrize("words", [["--seeds", str(10**15)], ["--seeds", "30000"]])
def test_a_grid_of_too_many_trials_is_refused_before_it_is_made(words: list[str]) -> None:
    """The line has their number and the limit."""
    with pytest.raises(UserError, match=r"the grid has \d+ trials: allowed are 100000"):
        plan_of(GRID, *words)
