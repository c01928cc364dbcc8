"""How long a study takes: a model of the work, and what this machine made of it before."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from harness import costs
from harness.config import StudyConfig, TrialConfig
from harness.costs import LEAST_SECONDS, estimate, model_seconds, paces_path, remember

STUDY = StudyConfig(question="?", name="mine", grid={"latent_size": (2, 5, 10), "architecture": ("base", "heavy")}, seeds=4)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder that nobody else has."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_more_work_takes_longer() -> None:
    """More seeds, values, epochs, images or labels; a search takes as long as its trials and those that confirm them."""
    least = model_seconds(STUDY)
    assert model_seconds(replace(STUDY, seeds=8)) == pytest.approx(2 * least)
    assert model_seconds(replace(STUDY, variants=({}, {"loss": "bce"}))) == pytest.approx(2 * least)
    for field, value in (("epochs", 60), ("labels", 500), ("draws", 9), ("dataset", "mnist"), ("transfer_epochs", 90)):
        assert model_seconds(replace(STUDY, base=replace(STUDY.base, **{field: value}))) > 1.05 * least, field
    assert model_seconds(replace(STUDY, base=replace(STUDY.base, train_size=100))) < least
    search = StudyConfig(question="?", sampler="tpe", trials=20)
    assert model_seconds(search) == pytest.approx(20 * model_seconds(replace(STUDY, grid={"latent_size": (2,)}, seeds=1)))
    assert model_seconds(replace(search, confirm=3)) == pytest.approx(35 / 20 * model_seconds(search))


def test_a_network_that_several_numbers_of_labels_share_counts_once() -> None:
    """Doubling the epochs adds one training's time, with one number of labels as with three."""
    added = []
    for labels in ((20,), (10, 20, 40)):
        study = replace(STUDY, grid={"labels": labels})
        added.append(model_seconds(replace(study, base=replace(study.base, epochs=60))) - model_seconds(study))
    assert added[1] == pytest.approx(added[0])


def test_labels_and_images_count_only_as_far_as_there_are_any() -> None:
    """A thousand times as many of either make no difference on digits."""
    some, more = (model_seconds(replace(STUDY, base=TrialConfig(train_size=size, labels=size))) for size in (1_294, 1_294_000))
    assert some == more


def test_a_grid_too_long_to_look_at_is_estimated_from_its_beginning() -> None:
    """A hundred times as many points that are alike take a hundred times as long, and the answer comes at once."""
    many = StudyConfig(question="?", grid={"latent_size": range(1, 1001), "batch_size": range(2, 102)})
    one = replace(many, grid={"latent_size": (1,)})
    assert model_seconds(many) == pytest.approx(100_000 * model_seconds(one))


def test_the_last_sweep_here_says_how_long_the_next_takes() -> None:
    """Before there was one it is the model's time; after, its own; another study goes by the mean of all."""
    expected = model_seconds(STUDY)
    assert estimate(STUDY).startswith("about ")
    assert estimate(STUDY).endswith(" on two cores")
    remember(STUDY, 600.0)
    assert estimate(STUDY) == "10 min here"
    assert estimate(replace(STUDY, seeds=8)) == "20 min here"
    other = replace(STUDY, name="other")
    assert estimate(other) == "about 10 min here"
    remember(other, 4 * 600.0)
    assert json.loads(paces_path().read_text()) == pytest.approx({"mine": 600 / expected, "other": 2400 / expected})
    assert estimate(replace(STUDY, name="third")) == "about 20 min here"


def test_a_short_sweep_says_nothing_of_the_machine() -> None:
    """Most of its time went into starting."""
    remember(STUDY, LEAST_SECONDS / 2)
    remember(replace(STUDY, seeds=1, base=replace(STUDY.base, epochs=1, train_size=64, labels=1)), 1000.0)
    assert not paces_path().exists()


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", '{"mine": "fast"}', '{"mine": null}', '{"mine": -1}', '{"mine": NaN}', "\x00"]
)
def test_a_file_that_is_not_as_it_should_be_is_as_good_as_none(content: str) -> None:
    """It is the harness's own and can be made again."""
    paces_path().parent.mkdir(parents=True)
    paces_path().write_text(content)
    assert estimate(STUDY).endswith(" on two cores")


def test_no_place_to_keep_it_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a cache folder that is a file."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    remember(STUDY, 600.0)
    assert estimate(STUDY).endswith(" on two cores")


@pytest.mark.parametrize(
    ("seconds", "words"), [(3, "1 s"), (14, "10 s"), (88, "90 s"), (150, "2 min"), (3600, "60 min"), (9000, "2.5 h")]
)
def test_times_are_told_roughly(seconds: float, words: str) -> None:
    """No more digits than there is knowledge."""
    assert costs._duration(seconds) == words
