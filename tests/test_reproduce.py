"""A recorded trial trained again: the same bits here, and what differs where it is not the same."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import provenance, reproduce
from harness.config import Placement, Trial, TrialConfig, TrialResult
from harness.groups import named_group, partition
from harness.models import resolve
from harness.reader import open_reader
from harness.retrain import find_recipe
from harness.rounds import Means
from harness.sweep import run_sweep
from harness.sweeps import find_sweep, find_trial
from harness.track import MlflowTracker
from harness.verify import verify
from tests.stored import COMMIT, Stored, one_line, run_stored
from tests.support import TINY, make_study_file
from tests.sweeping import QuietDisplay, searching_plan


@pytest.fixture(autouse=True)
def _store(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store with real sweeps is the one of the environment."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", stored.uri)
    monkeypatch.setattr(provenance, "git_state", lambda: (COMMIT, False))
    monkeypatch.setattr(provenance, "git_changes", lambda: "")


def run(words: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> tuple[str, str]:
    """Runs the command; gives stdout and stderr."""
    found = reproduce.main(words)
    captured = capsys.readouterr()
    assert found == code, captured.out + captured.err
    return captured.out, captured.err


def run_json(words: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    """Runs the command with ``--json``; gives what it wrote."""
    content: dict[str, Any] = json.loads(run([*words, "--json"], capsys, code)[0])
    return content


@pytest.mark.parametrize("number", [0, 7])
def test_a_trial_of_a_group_is_bit_equal(number: int, stored: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    """Its group is trained with it, of either architecture; every number, curve and weight is the same."""
    out, err = run([stored.run_ids(stored.grid)[number], "--verify"], capsys)
    assert "others of its group" in err
    assert "trained 2 of 2 epochs" in err
    assert "Bit-equal: all of" in out
    assert "Data, versions, commit, device and kernels are those of the record." in out


def test_json_has_then_and_now(stored: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    """Every metric twice, the group, and that nothing differs."""
    content = run_json([stored.run_ids(stored.grid)[4], "--verify"], capsys)
    assert (content["outcome"], content["trial"], content["not_equal"], content["differs"]) == ("bit-equal", 4, [], {})
    assert len(content["group"]) > 1
    assert content["weights"]["not_equal"] == 0
    loss = content["metrics"]["reconstruction_loss"]
    assert loss["recorded"] == loss["found"]


def test_a_search_and_the_plain_trainer_are_bit_equal_too(
    stored: Stored, tmp_path: Path, empty_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In rounds of two; and trained one after the other, in groups of one."""
    assert run_json([stored.run_ids(stored.tuned)[3], "--verify"], capsys)["outcome"] == "bit-equal"
    shutil.copy(empty_store, tmp_path / "plain.db")
    uri = f"sqlite:///{tmp_path}/plain.db"
    run_stored(make_study_file(tmp_path), uri, trainer="plain")
    run_id = find_sweep(open_reader(uri), "tiny").records[2].run_id
    content = run_json([run_id, "--verify", "--tracking-uri", uri], capsys)
    assert (content["outcome"], content["group"]) == ("bit-equal", [2])


def test_trials_that_share_a_network_are_bit_equal_and_have_its_numbers(
    tmp_path: Path, empty_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two latent sizes with two numbers of labels each: the second of a network has the first's loss and another accuracy."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run_stored(make_study_file(tmp_path, grid={"labels": (10, 40), "latent_size": (2, 3)}, seeds=1), uri)
    records = find_sweep(open_reader(uri), "tiny").records
    configs = [record.trial.config for record in records]
    assert [(config.latent_size, config.labels) for config in configs] == [(2, 10), (2, 40), (3, 10), (3, 40)]
    one, other = (record.metrics for record in records[2:])
    assert one["reconstruction_loss"] == other["reconstruction_loss"]
    assert one["transfer/frozen_accuracy"] != other["transfer/frozen_accuracy"]
    content = run_json([records[3].run_id, "--verify", "--tracking-uri", uri], capsys)
    assert (content["outcome"], content["group"]) == ("bit-equal", [2, 3])


def test_a_sweep_that_was_given_more_seeds_later_is_still_bit_equal(
    tmp_path: Path, empty_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its trials would be divided in another way now: each is trained with those that it was trained with."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    uri, file = f"sqlite:///{tmp_path}/mlflow.db", make_study_file(tmp_path)
    run_stored(file, uri)
    run_stored(file, uri, seeds=3)
    runs = find_sweep(open_reader(uri), "tiny").runs
    groups = [run_json([run.run_id, "--verify", "--tracking-uri", uri], capsys) for run in (runs[1], runs[3], runs[4])]
    assert [(each["outcome"], each["group"]) for each in groups] == [
        ("bit-equal", [0, 1]),
        ("bit-equal", [2, 3]),
        ("bit-equal", [3, 4, 5]),
    ]


def test_a_failed_trial_fails_again_in_the_same_way(stored: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    """With the same reason in the same epoch."""
    content = run_json([stored.run_ids(stored.failing)[1], "--verify"], capsys)
    assert (content["outcome"], content["weights"]) == ("bit-equal", None)


def test_a_search_that_gives_trials_up_is_bit_equal_too(
    tmp_path: Path, empty_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A trial that was pruned, and one that went on in what was left of the stack."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run_sweep(searching_plan(tmp_path, pruner="median"), Means("inline"), MlflowTracker(uri), QuietDisplay())
    runs = find_sweep(open_reader(uri), "tiny").runs
    groups = [[run for run in runs if run.tags["harness.group"] == name] for name in {run.tags["harness.group"] for run in runs}]
    mixed = next(group for group in groups if {run.end for run in group} == {"finished", "pruned"})
    for end in ("finished", "pruned"):
        run_id = next(run.run_id for run in mixed if run.end == end)
        content = run_json([run_id, "--verify", "--tracking-uri", uri], capsys)
        assert (content["outcome"], content["not_equal"]) == ("bit-equal", [])
        assert content["group"] == [run.number for run in mixed]


def test_without_verify_the_numbers_are_shown(stored: Stored, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Then and now; the files are written where they are wanted, and the store is left as it was."""
    copy = stored.copied(tmp_path)
    run_id, before = copy.run_ids(copy.grid)[1], copy.dump()
    out, _ = run([run_id, "--output", "again", "--tracking-uri", copy.uri], capsys)
    loss = find_trial(open_reader(stored.uri), run_id).metrics["reconstruction_loss"]
    assert out.count(f"{loss:.9g}") == 2
    assert "--verify says whether it is the same" in out
    files = open_reader(stored.uri).files(run_id)
    for path in ("model/model.safetensors", "latents/correlation.csv", "curves/transfer.csv"):
        assert (Path("again") / path).read_bytes() == files.read(path)
    assert copy.dump() == before


def test_a_number_that_was_altered_is_found(stored: Stored, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A little is within the tolerance, much is not: exit code 1 and the number."""
    copy = stored.copied(tmp_path)
    run_id = copy.run_ids(copy.grid)[2]
    words = [run_id, "--verify", "--tracking-uri", copy.uri]
    change = "UPDATE latest_metrics SET value = value * ? WHERE run_uuid = ? AND key = 'reconstruction_loss'"
    copy.change(change, 1.001, run_id)
    out, _ = run(words, capsys)
    assert "Within the tolerance for cpu: 1 of" in out
    assert "furthest off: reconstruction_loss" in out
    copy.change(change, 1.5, run_id)
    out, _ = run(words, capsys, code=1)
    assert "Different: 1 of" in out
    assert "  reconstruction_loss: " in out


@pytest.mark.usefixtures("needs_kernels")
@pytest.mark.parametrize("trainer", ["plain", "stacked"])
def test_another_rounding_is_within_the_tolerance(
    trainer: str, stored: Stored, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same group trained one after the other, or by torch's layers, as if the record said so: hardly another number."""
    copy = stored.copied(tmp_path)
    run_id = copy.run_ids(copy.grid)[1]
    for value, name in ((trainer, "harness.trainer"), ("torch", "harness.kernels")):
        copy.change("UPDATE tags SET value = ? WHERE key = ? AND run_uuid = ?", value, name, run_id)
    out, _ = run([run_id, "--verify", "--tracking-uri", copy.uri], capsys)
    assert "Within the tolerance for cpu:" in out
    assert "although nothing that is recorded differs" in out
    content = run_json([run_id, "--verify", "--tracking-uri", copy.uri], capsys)
    assert content["outcome"] == "within tolerance"
    assert content["weights"]["not_equal"] > 0


def test_what_differs_in_the_making_is_named(stored: Stored, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Versions, commit, changes to it and the device's model; the numbers are the same all the same."""
    copy = stored.copied(tmp_path)
    run_id = copy.run_ids(copy.grid)[2]
    change = "UPDATE tags SET value = ? WHERE key = ? AND run_uuid = ?"
    copy.change(change, "b" * 40, "mlflow.source.git.commit", run_id)
    copy.change(change, "true", "harness.git_dirty", run_id)
    others = {"torch": "1.0", "gone": "2", "harness's results": "1"}
    copy.change(change, json.dumps(provenance.versions() | others), "harness.versions", run_id)
    copy.change(change, "another CPU", "harness.device_name", run_id)
    content = run_json([run_id, "--verify", "--tracking-uri", copy.uri], capsys)
    assert content["outcome"] == "bit-equal"
    assert content["differs"] == {
        "device's model": {"recorded": "another CPU", "found": provenance.device_name("cpu")},
        "commit": {"recorded": "b" * 40, "found": COMMIT},
        "changes to the commit": {"recorded": "some", "found": ""},
        "version of harness's results": {"recorded": "1", "found": str(provenance.RESULTS_VERSION)},
        "version of torch": {"recorded": "1.0", "found": provenance.versions()["torch"]},
        "version of gone": {"recorded": "2", "found": ""},
    }


@pytest.mark.parametrize("name", ["curves/transfer.csv", "model/model.safetensors"])
def test_a_damaged_record_is_found_before_the_training(
    name: str, stored: Stored, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line that names the file."""
    monkeypatch.setattr("harness.runs.RunFiles.read", lambda *_: b"epoch,x\n1,?")
    monkeypatch.setattr("harness.verify.COMPARED_FILES", (name,))
    monkeypatch.setattr("harness.retrain.retrain", lambda *_: pytest.fail("it trains"))
    _, err = run([stored.run_ids(stored.grid)[0], "--verify"], capsys, code=2)
    assert f"{name} of the run {stored.run_ids(stored.grid)[0]} is damaged" in err


def test_other_images_are_not_trained_on(stored: Stored, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1, and both checksums."""
    copy = stored.copied(tmp_path)
    copy.change("UPDATE tags SET value = ? WHERE key = 'harness.data_fingerprint' AND run_uuid = ?", "e" * 64, stored.grid_run)
    out, err = run([copy.run_ids(copy.grid)[2], "--verify", "--tracking-uri", copy.uri], capsys, code=1)
    assert "Not trained again: the images are not those of the record." in out
    assert f"data fingerprint: {'e' * 64} then, " in out
    assert "trained" not in err


def test_a_group_that_lost_a_member_is_named(stored: Stored, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its first run was deleted: the rest is trained, and the record says that it was more."""
    copy = stored.copied(tmp_path)
    group = run_json([copy.run_ids(copy.grid)[5], "--tracking-uri", copy.uri], capsys)["group"]
    copy.change("UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?", copy.run_ids(copy.grid)[group[0]])
    content = run_json([copy.run_ids(copy.grid)[group[-1]], "--verify", "--tracking-uri", copy.uri], capsys)
    assert content["group"] == group[1:]
    assert content["differs"]["group"]["found"] == f"only {len(group) - 1} of its members are in the store"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["RUN_ID"]),
        (["0123"], ["there is no run '0123'"]),
        (["PARENT"], ["is a whole sweep"]),
        (["TRIAL", "--device", "gpu"], ["unknown --device 'gpu'", "cpu"]),
        (["TRIAL", "--verfy"], ["did you mean '--verify'?"]),
        (["TRIAL", "--output", "/proc/nothing"], ["--output /proc/nothing cannot be written"]),
    ],
)
def test_wrong_words_are_refused_in_one_line(
    words: list[str], parts: list[str], stored: Stored, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2."""
    known = {"PARENT": stored.grid_run, "TRIAL": stored.run_ids(stored.grid)[0]}
    _, err = run([known.get(word, word) for word in words], capsys, code=2)
    assert [part for part in parts if part not in one_line(err.splitlines()[-1])] == []


@pytest.mark.parametrize(
    ("tag", "value", "part"), [("group", "x-y", "harness.group is 'x-y'"), ("precision", "int4", "unknown precision")]
)
def test_a_record_that_lacks_something_is_one_line(tag: str, value: str, part: str, stored: Stored, tmp_path: Path) -> None:
    """What it lacks."""
    copy = stored.copied(tmp_path)
    run_id = copy.run_ids(copy.grid)[0]
    copy.change("UPDATE tags SET value = ? WHERE key = ? AND run_uuid = ?", value, f"harness.{tag}", run_id)
    assert reproduce.main([run_id, "--tracking-uri", copy.uri]) == 2
    reader = open_reader(copy.uri)
    with pytest.raises(Exception, match=part):
        find_recipe(reader, find_trial(reader, run_id))


@pytest.mark.parametrize("group_size", [1, 2, 3, 7])
def test_a_group_is_found_by_its_name(group_size: int) -> None:
    """Among trials of other kinds, it has the members that the division had."""
    configs = [
        resolve(replace(TINY, architecture=name, latent_size=size, seed=seed))
        for seed in (0, 1)
        for name in ("base", "deep")
        for size in (2, 3, 5)
    ]
    trials = [Trial(number, config) for number, config in enumerate(configs)]
    for group in partition(trials, group_size):
        for trial in group:
            assert named_group(f"{group[0].number}-{group[-1].number}", trial, reversed(trials)) == group


def test_what_does_not_depend_on_time_is_compared(stored: Stored) -> None:
    """The curves of a real run are points; its seconds are none."""
    reader = open_reader(stored.uri)
    run = find_trial(reader, stored.run_ids(stored.grid)[0])
    files = {path: reader.files(run.run_id).read(path) for path in ("curves/training.csv", "curves/transfer.csv")}
    result = TrialResult(TrialConfig.from_params(run.params), "finished", run.metrics, artifacts=files)
    found = verify(run, files, result, Placement(""))
    points = [list(csv.DictReader(io.StringIO(content.decode()))) for content in files.values()]
    assert (
        len([each for each in found.numbers if " in epoch " in each.name])
        == sum(len(rows) * (len(rows[0]) - 1) for rows in points) - 2
    )
    assert found.outcome == "bit-equal"
