"""The name of a sweep: what changes it, and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import datasets, plan
from harness.library import load_study
from harness.options import parse
from harness.plan import choose_kernels, make_plan
from harness.rules import UserError
from tests.planning import GRID, SEARCH, configs_of, plan_of, write_npz

pytestmark = pytest.mark.usefixtures("here")


def test_the_default_sweep_has_the_name_that_it_had_before_there_were_variants_and_measures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """But for the version of the results: what came later changes no name where it is left out."""
    words = ["latent_sweep", "--device", "cpu", "--kernels", "torch"]
    now = make_plan(load_study("latent_sweep"), parse(words)).identity
    monkeypatch.setattr(plan, "RESULTS_VERSION", 4)
    assert make_plan(load_study("latent_sweep"), parse(words)).identity == "84917c423acb94d3" != now


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("seeds=2", 'seeds=2, measures=("paths",)'),
        ("seeds=2", 'seeds=2, variants=({}, {"loss": "bce"})'),
    ],
)
def test_what_a_grid_measures_and_its_variants_change_its_name(old: str, new: str) -> None:
    """Trials of another sweep lack those numbers, or are numbered otherwise."""
    assert old in GRID
    assert plan_of(GRID.replace(old, new)).identity != plan_of(GRID).identity


@pytest.mark.parametrize("limit", ["max_parameters=9000", 'pruner="median"'])
def test_what_limits_a_search_changes_its_name(limit: str) -> None:
    """It proposes other trials; how many of its best are confirmed does not."""
    assert "trials=3" in SEARCH
    assert plan_of(SEARCH.replace("trials=3", f"trials=3, {limit}")).identity != plan_of(SEARCH).identity
    assert plan_of(SEARCH.replace("trials=3", "trials=3, confirm=2")).identity == plan_of(SEARCH).identity


def test_the_same_study_again_has_the_same_identity(here: Path) -> None:
    """So the same command resumes."""
    assert plan_of(GRID).identity == plan_of(GRID).identity
    assert plan_of(SEARCH).identity == plan_of(SEARCH).identity


@pytest.mark.parametrize(
    "words",
    [
        ["--epochs", "4"],
        ["--batch-size", "32"],
        ["--train-size", "65"],
        ["--set", "split_seed=1"],
        ["--set", "seed=1"],
        ["--set", "architecture=base,heavy"],
        ["--set", "architecture=base"],
        ["--set", "latent_size=2,5,10"],
        ["--set", "width=4,8"],
        ["--set", "learning_rate=0.001"],
        ["--trainer", "plain"],
        ["--precision", "bfloat16"],
    ],
    ids=" ".join,
)
def test_what_changes_a_trial_changes_the_identity(words: list[str]) -> None:
    """Results of two different sweeps are never taken for one."""
    assert plan_of(GRID, *words).identity != plan_of(GRID).identity


@pytest.mark.parametrize(
    "words", [["--workers", "3"], ["--executor", "inline"], ["--group-size", "2"], ["--fresh"]], ids=" ".join
)
def test_how_a_sweep_is_run_does_not_change_the_identity(words: list[str]) -> None:
    """A sweep can go on with more workers."""
    assert plan_of(GRID, *words).identity == plan_of(GRID).identity


def test_automatic_precision_is_what_it_is_turned_into() -> None:
    """Asking for float32 by name is the same sweep, for either trainer; the plan says what is computed, and how."""
    for words in ((), ("--trainer", "plain")):
        automatic, by_name = plan_of(GRID, *words), plan_of(GRID, *words, "--precision", "float32")
        assert automatic.identity == by_name.identity
        assert automatic.placement.precision == "float32"
        assert automatic.placement.trainer == (words or ("", "stacked"))[1]


@pytest.mark.usefixtures("needs_kernels")
def test_automatic_kernels_are_what_they_are_turned_into(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Compiled where they can be had; else torch, with a line that says why, and the plain trainer and a GPU have none."""
    assert plan_of(GRID).placement.kernels == "compiled"
    assert (
        plan_of(GRID).identity == plan_of(GRID, "--kernels", "compiled").identity != plan_of(GRID, "--kernels", "torch").identity
    )
    assert plan_of(GRID, "--trainer", "plain").placement.kernels == "torch"
    assert choose_kernels("auto", "cuda", "stacked") == "torch"
    assert caplog.text == ""

    monkeypatch.setattr(plan, "why_not", lambda: "there is no C++ compiler")
    automatic = plan_of(GRID)
    assert automatic.placement.kernels == "torch"
    assert automatic.identity == plan_of(GRID, "--kernels", "torch").identity
    assert "no compiled kernels (there is no C++ compiler)" in caplog.text
    with pytest.raises(UserError, match=r"'compiled', and they cannot be had \(there is no C\+\+ compiler\)"):
        plan_of(GRID, "--kernels", "compiled")


def test_changed_images_change_the_identity(here: Path) -> None:
    """One pixel in a file of the same name is another dataset."""
    found = []
    for pixel in (1, 2, 1):
        write_npz(here / "images.npz", pixel)
        datasets.load.cache_clear()
        found.append(plan_of(GRID, "--dataset", "npz:images.npz"))
    assert found[0].identity != found[1].identity
    assert found[0].identity == found[2].identity
    assert found[0].placement != found[1].placement


def test_another_device_changes_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of a GPU and of a CPU differ in the last digits, so they are not mixed; which GPU it is does not matter."""
    on_cpu = plan_of(GRID).identity
    monkeypatch.setattr(plan, "choose_device", lambda wanted: "cuda")
    on_gpu = plan_of(GRID).identity
    monkeypatch.setattr(plan, "choose_device", lambda wanted: "cuda:1")
    assert on_cpu != on_gpu == plan_of(GRID).identity


def test_another_order_of_the_axes_changes_the_identity() -> None:
    """The numbers of the trials follow the order of the axes, and a resumed sweep goes by the numbers."""
    one = plan_of(GRID, "--set", "width=4,8", "--set", "depth=1,2")
    other = plan_of(GRID, "--set", "depth=1,2", "--set", "width=4,8")
    assert (configs_of(one) == configs_of(other)) == (one.identity == other.identity)


@pytest.mark.parametrize("text", [GRID, SEARCH], ids=["grid", "search"])
def test_comments_and_layout_of_a_study_file_do_not_change_the_identity(text: str) -> None:
    """A sweep goes on after its file was tidied up."""
    tidied = '"""What this is about."""\n\n# A comment.\n' + text.replace("\n\n", "\n\n\n# Another one.\n") + "# The end.\n"
    tidied = tidied.replace("(trial):\n", '(trial):\n    """Gives a configuration."""\n')
    assert plan_of(tidied).identity == plan_of(text).identity


def test_another_search_space_changes_the_identity() -> None:
    """The code of a study file decides what a sampler proposes."""
    assert plan_of(SEARCH.replace("1, 9", "1, 8")).identity != plan_of(SEARCH).identity


@pytest.mark.parametrize(
    "words",
    [["--set", "latent_size=3"], ["--set", "latent_size=10"], ["--epochs", "4"]],
    ids=["axis", "an axis' default", "field"],
)
def test_a_field_set_over_a_search_space_changes_the_identity(words: list[str]) -> None:
    """What the command line sets is trained, even where it is the default."""
    wider = SEARCH.replace("1, 9", "1, 19")
    assert plan_of(wider, *words).identity != plan_of(wider).identity


@pytest.mark.parametrize("change", [("trials=3", "trials=5"), ('"Which?"', '"Which one?"')], ids=["trials", "question"])
def test_more_trials_or_another_question_in_a_search_keep_the_identity(change: tuple[str, str]) -> None:
    """The first trials are the same, so the search goes on."""
    assert plan_of(SEARCH.replace(*change)).identity == plan_of(SEARCH).identity
