"""The comparison with other ways to run a sweep: its ratios, its times to a loss, its command line."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from benchmarks import common, compare, contestants
from benchmarks.children import child
from benchmarks.compare_science import agreement, science_tables
from benchmarks.compare_tables import (
    Comparison,
    Table,
    all_times_to_loss,
    make_tables,
    operations_per_second,
    reached,
    read_comparison,
    seconds_to_reach,
    spread,
)
from benchmarks.contestants import OURS, PLAIN, Settings
from benchmarks.outings import Outing, OutingError, TrialRun, check_work
from harness import models, options, plan
from harness.config import EpochLog, TrialConfig
from harness.library import load_study
from harness.material import Material
from harness.rules import UserError
from tests.support import TINY, Command, left_of, processes_of

SMALLEST = ["--architectures", "linear", "--latent-sizes", "2,3", "--seeds", "1", "--epochs", "2", "--train-size", "64"]
SMALLEST += ["--set", "transfer_epochs=2", "--set", "draws=2", "--set", "labels=20"]


def make_trial(latent_size: int, losses: Sequence[float], seconds: float = 1.0, seed: int = 0, loss: float = 0.1) -> TrialRun:
    """A trial whose epochs all take equally long."""
    metrics = dict.fromkeys(("val/mse", "reconstruction_loss", "max_latent_correlation", "transfer_accuracy"), loss)
    return TrialRun("base", latent_size, seed, list(losses), [seconds] * len(losses), metrics, ["a.png"])


def make_comparison() -> Comparison:
    """Two rounds of the harness and the script, two trials each; the harness is 4 and 2 times faster."""
    mine = [make_trial(2, [0.3, 0.1, 0.1], 2.0), make_trial(3, [0.3, 0.2, 0.1], 2.0)]
    theirs = [make_trial(2, [0.4, 0.3, 0.1], 3.0), make_trial(3, [0.4, 0.3, 0.2], 3.0)]
    outings = [
        Outing(name, number, seconds, at_a_time, 1, trials)
        for number, factor in ((1, 4), (2, 2))
        for name, seconds, at_a_time, trials in ((OURS, 10.0, 2, mine), (PLAIN, 10.0 * factor, 1, theirs))
    ]
    return Comparison({}, {}, [60.0, 60.0], {"base/2": 60.0, "base/3": 60.0}, outings)


def cells(table: Table, row: int) -> list[str]:
    """A row without its first column."""
    return table.rows[row][1:]


def test_speeds_are_compared_within_a_round() -> None:
    """The ratio is the harness's trials per minute over the other's, round by round."""
    table = make_tables(make_comparison())[0]
    assert cells(table, 0) == ["2", "10.0 (10.0 to 10.0)", "12.0 (12.0 to 12.0)", "1.00 (1.00 to 1.00)"]
    assert cells(table, 1) == ["1", "30.0 (20.0 to 40.0)", "4.5 (3.0 to 6.0)", "3.00 (2.00 to 4.00)"]


def test_a_spread_of_one_value_is_the_value() -> None:
    """No interval is shown where there is none."""
    assert (spread([2.0], ".1f"), spread([], ".1f"), spread([1, 2, 9], ".0f")) == ("2.0", "-", "2 (1 to 9)")


def test_time_to_a_loss_ends_with_the_first_epoch_that_has_it() -> None:
    """A later rise makes no difference, and what is never reached takes for ever."""
    trial = make_trial(2, [0.4, 0.2, 0.3, 0.1], seconds=0.5)
    assert [seconds_to_reach(trial, target) for target in (0.5, 0.2, 0.15, 0.05)] == [0.5, 1.0, 2.0, math.inf]


def test_times_to_loss_are_shared_by_the_trials_at_a_time() -> None:
    """Two trials side by side halve the seconds of each; targets are the script's last losses."""
    times = all_times_to_loss(make_comparison())[0]
    assert times.seconds == {OURS: {("base", 2, 0): 2.0, ("base", 3, 0): 2.0}, PLAIN: {("base", 2, 0): 9.0, ("base", 3, 0): 9.0}}
    assert times.ratios(PLAIN) == [4.5, 4.5]
    assert times.ratios(PLAIN, ("base", 3)) == [4.5]


@pytest.mark.parametrize(("late", "ratio"), [(OURS, 0.0), (PLAIN, 1.0)])
def test_a_loss_that_is_never_reached_does_not_flatter_the_harness(late: str, ratio: float) -> None:
    """The harness's own trial then counts with infinity, another's with the training that it had."""
    comparison = make_comparison()
    early = [make_trial(2, [0.1], 1.0)]
    never = Outing("ray" if late == PLAIN else OURS, 1, 1.0, 1, 1, [make_trial(2, [0.9], 1.0)])
    outings = [never, Outing(PLAIN, 1, 1.0, 1, 1, early)] + ([Outing(OURS, 1, 1.0, 1, 1, early)] if late == PLAIN else [])
    found = replace(comparison, outings=outings)
    assert all_times_to_loss(found)[0].ratios("ray" if late == PLAIN else PLAIN) == [ratio]
    assert reached(found, never.contestant) == "0 of 1"
    assert reached(found, PLAIN) == "1 of 1"


def test_operations_are_counted_a_core() -> None:
    """Two threads that take as long as one do half as much each."""
    outing = make_comparison().outings[0]
    assert operations_per_second(outing, {"base/2": 60.0, "base/3": 60.0}) == 120 / 12
    assert operations_per_second(replace(outing, threads=2), {"base/2": 60.0, "base/3": 60.0}) == 120 / 24


def test_operations_of_a_linear_autoencoder_are_those_of_its_products() -> None:
    """Two products forward, twice as many backward except for the images' own gradient, and the validation forward."""
    settings = Settings(replace(TINY, epochs=3), ("linear",), (2,), 1, "")
    job = settings.job("")
    material = job.material(settings.base)
    product, validation = 2 * 64 * 2, len(material.splits.validation.images)
    assert compare.count_operations(settings, material) == {"linear/2": 3 * (64 * 5 * product + validation * 2 * product)}


def test_the_two_trainers_are_compared_seed_by_seed() -> None:
    """Means, the largest difference of a seed and the spread between the plain trainer's seeds."""
    stacked = Outing(OURS, 1, 1.0, 1, 1, [make_trial(2, [0.1], seed=seed, loss=loss) for seed, loss in enumerate((0.1, 0.3))])
    plain = Outing(OURS, 1, 1.0, 1, 1, [make_trial(2, [0.1], seed=seed, loss=loss) for seed, loss in enumerate((0.2, 0.4))])
    found = agreement(stacked, plain, ("base", 2), "val/mse")
    assert (found.stacked, found.plain, found.difference, found.largest) == pytest.approx((0.2, 0.3, 0.1, 0.1))
    assert found.between_seeds == pytest.approx(0.1 * math.sqrt(2))
    tables = science_tables(replace(make_comparison(), outings=[stacked], science=[plain]))
    assert len(tables) == 5
    assert cells(tables[0], 0) == ["0.1", "0.1", "0.14"]
    assert tables[1].rows == [["base", "2", "0.2000", "0.3000", "0.1", "0.1", "0.14"]]
    assert science_tables(make_comparison()) == []


def test_a_comparison_survives_json() -> None:
    """What is written is what is read."""
    comparison = make_comparison()
    assert read_comparison(json.loads(json.dumps(asdict(comparison)))) == comparison


def test_markdown_is_a_table() -> None:
    """Title, heads, alignment, rows, note."""
    table = Table("Speed", ["who", "times"], [["plain", "2"]], note="Of one round.")
    assert table.markdown() == "**Speed**\n\n| who | times |\n| :-- | --: |\n| plain | 2 |\n\nOf one round.\n"


def test_everyone_is_first_in_turn() -> None:
    """The order of a round moves on by one."""
    assert [compare.turn(["a", "b", "c"], number)[0] for number in range(1, 5)] == ["a", "b", "c", "a"]


def test_work_left_out_is_noticed() -> None:
    """A trial that lacks a number, a file or an epoch is an error that says what it lacks."""
    mine = Outing(OURS, 1, 1.0, 1, 1, [make_trial(2, [0.1, 0.2])])
    for changes, word in (({"metrics": {}}, "val/mse"), ({"files": []}, "a.png"), ({"val_mse": [0.1]}, "2 epochs")):
        lazy = replace(mine, contestant="ray", trials=[replace(mine.trials[0], **changes)])
        with pytest.raises(OutingError, match="ray has not done all of the work") as caught:
            check_work(lazy, mine)
        assert word in str(caught.value)
    check_work(mine, mine)


def test_a_missing_package_is_one_line_with_what_to_type(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, the packages, the extra that has them, and the command without them."""
    monkeypatch.setattr(contestants, "find_spec", lambda name: None)
    assert compare.main([]) == compare.WRONG_INPUT
    assert capsys.readouterr().err == (
        "error: lightning and ray cannot be run without lightning, ray, tensorboardX: "
        'pip install -e ".[benchmarks]", or leave out what needs them with --contestants ours,plain\n'
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--contestants", "ours,plane"], "unknown contestant 'plane'"),
        (["--contestants", "plain"], "'ours' has to be among them"),
        (["--contestants", "ours", "--rounds", "0"], "--rounds is 0"),
        (["--contestants", "ours", "--architectures", "bass"], "did you mean 'base'"),
        (["--contestants", "ours", "--set", "epochs=2,3"], "not one value"),
        (["--contestants", "ours", "--set", "latent_size=2"], "not one value"),
        (["--contestants", "ours", "--epochs", "2", "--set", "epochs=3"], "not one value"),
        (["--contestants", "ours", "--json", "nowhere/to/be.json"], "no such folder"),
        (["--read", "nowhere.json"], "is not what --json writes"),
        (["--speed"], "unrecognized arguments"),
    ],
)
def test_wrong_words_are_named(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, exit code 2, nothing is run."""
    assert compare.main(words) == compare.WRONG_INPUT
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_harness_and_the_scripts_are_given_the_same_configurations() -> None:
    """But for the rate and its schedule, in which each has its own."""
    fields = {"epochs": "4", "train_size": "128"}
    settings = contestants.read_settings("digits", None, "base,linear", "2,5", 2, fields)
    study = plan.check(load_study("latent_sweep"), options.parse(settings.words("sqlite:///x.db")))
    job = settings.job("sqlite:///x.db")
    own = {replace(trial.config, learning_rate=common.LEARNING_RATE) for trial in plan.grid_trials(study)}
    assert own == {job.config(point) for point in job.points}
    assert len(own) == settings.trials == 8


def test_a_setting_that_is_not_of_the_study_is_refused() -> None:
    """The same line as the harness gives."""
    with pytest.raises(UserError, match="epochs"):
        contestants.read_settings("digits", None, "", "", None, {"epochs": "none"})


@pytest.fixture
def material() -> Material:
    """The images of the tiny configuration."""
    return Settings(TINY, ("linear",), (2,), 1, "").job("").material(TINY)


def test_a_job_survives_its_file(tmp_path: Path) -> None:
    """What a script reads is what was written."""
    job = Settings(TINY, ("base",), (2, 3), 2, "data").job("sqlite:///x.db")
    job.write(tmp_path / "job.json")
    assert common.read_job(str(tmp_path / "job.json")) == job


def test_the_loaders_give_the_splits_of_the_harness(material: Material) -> None:
    """The same validation images, and the same training images in another order; full batches only."""
    train, validation = common.make_loaders(replace(TINY, batch_size=24), material)
    assert torch.equal(torch.cat(list(validation)), material.splits.validation.images)
    assert [len(batch) for batch in train] == [24, 24]
    pictures = {tuple(image.flatten().tolist()) for image in material.splits.train.images}
    assert {tuple(image.flatten().tolist()) for batch in train for image in batch} <= pictures


def test_the_tutorials_loop_trains(material: Material) -> None:
    """The loss falls, every epoch is logged, and the harness's measures can be taken of the state."""
    seen: list[EpochLog] = []
    config = models.resolve(TrialConfig(**{**asdict(TINY), "epochs": 3, "learning_rate": 1e-2}))
    state = common.train(config, material, seen.append)
    assert [log.epoch for log in seen] == [1, 2, 3]
    assert state.logs[-1].val_mse < state.logs[0].val_mse
    assert state.logs == tuple(seen)
    assert common.epoch_metrics(seen[0])["val/mse"] == seen[0].val_mse


def test_what_a_contestant_has_started_ends_with_an_error(tmp_path: Path) -> None:
    """All of its processes, at once."""
    groups: list[int] = []

    def fail() -> None:
        with child(["sh", "-c", "sleep 60 & sleep 60"], tmp_path / "log") as process:
            groups.append(process.pid)
            while len(processes_of(process.pid)) < 3:
                time.sleep(0.01)
            raise ValueError("an error")

    with pytest.raises(ValueError, match="an error"):
        fail()
    assert not left_of(groups[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", [OURS, "ray"])
def test_a_comparison_that_is_ended_leaves_nothing_behind(name: str, short_path: Path) -> None:
    """Neither processes of the contestant that was running, of which these have several, nor a folder; it says so in a line."""
    check_or_skip(name)
    environment = os.environ | {"TMPDIR": str(short_path), "PYTHONPATH": str(contestants.ROOT)}
    words = [sys.executable, "-m", "benchmarks.compare", "--contestants", f"{name},{OURS}", *SMALLEST, "--epochs", "5000"]
    with Command(words, env=environment, stderr=subprocess.PIPE) as comparison:
        while not list(short_path.glob("compare-*/mlflow.db")):
            assert comparison.poll() is None
            time.sleep(0.1)
        time.sleep(3)  # it is in the middle of its work
        comparison.terminate()
        assert comparison.communicate()[1].splitlines()[-1].startswith("stopped: ")
    assert comparison.returncode == compare.INTERRUPTED
    assert not list(short_path.glob("compare-*"))
    assert not still_there(short_path)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder with a short name, which Ray's sockets need."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def check_or_skip(name: str) -> None:
    """Skips a test of a contestant that lacks a package."""
    try:
        contestants.check_contestants([name, OURS])
    except UserError as error:
        pytest.skip(str(error))


def still_there(folder: Path) -> list[int]:
    """Living processes that were started with a folder for their files."""
    found: list[int] = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"TMPDIR={folder}\0".encode() in environment.read_bytes():
                found.append(int(environment.parent.name))
    return found


@pytest.mark.slow
def test_the_harness_and_the_script_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both do all of the work, the tables have a row each, and what was measured can be shown again."""
    file = tmp_path / "measured.json"
    words = ["--contestants", "ours,plain", "--rounds", "1", *SMALLEST, "--json", str(file), "--markdown"]
    assert compare.main(words) == compare.DONE
    out = capsys.readouterr().out
    assert "| this harness |" in out
    assert "| Optuna + MLflow |" in out
    assert "Same science" in out
    comparison = read_comparison(json.loads(file.read_text()))
    assert [len(outing.trials) for outing in comparison.outings] == [2, 2]
    assert compare.main(["--read", str(file), "--markdown"]) == compare.DONE
    assert capsys.readouterr().out == out
