"""The runs in MLflow: what is written, what is read back, and what happens to the store."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from dataclasses import replace

import pytest
from mlflow.tracking import MlflowClient

from harness import track
from harness.config import STAGE_METRICS, EpochLog, Trial, TrialResult
from harness.provenance import device_name
from harness.rules import UserError
from harness.track import MlflowTracker
from harness.tracker import NullTracker, Tracker
from tests.tracked import CONFIG, INFO, LOGS, RESULT, begin

pytestmark = pytest.mark.usefixtures("store_here")


@pytest.fixture(params=["mlflow", "null"])
def tracker(request: pytest.FixtureRequest) -> Tracker:
    """Each kind of tracker, on a store of its own."""
    return MlflowTracker(None) if request.param == "mlflow" else NullTracker()


def test_a_finished_trial_is_read_back_as_it_was(tracker: Tracker) -> None:
    """Configuration, finite numbers to the last bit, status and files survive the way through every tracker."""
    _, run_id = begin(tracker)
    tracker.log_epochs(run_id, LOGS)
    written = tracker.finish_trial(run_id, Trial(0, CONFIG), RESULT)
    again = tracker.open_sweep(INFO, fresh=False)
    assert again.records.keys() == {0}
    record = again.records[0]
    assert (record.run_id, record.trial.config, record.status) == (run_id, CONFIG, "finished")
    assert record.metrics["reconstruction_loss"] == 0.1 + 0.2 == written.metrics["reconstruction_loss"]
    assert tracker.read_file(run_id, "pictures/one.bin") == b"\x00\x01"


def test_a_failed_trial_is_kept_with_its_reason(tracker: Tracker) -> None:
    """It is a record like any other, and not run again."""
    _, run_id = begin(tracker, number=4)
    tracker.finish_trial(
        run_id, Trial(4, CONFIG), TrialResult(CONFIG, "failed", artifacts={"failure.txt": b"!"}, reason="nan in epoch 2")
    )
    record = tracker.open_sweep(INFO, fresh=False).records[4]
    assert (record.status, record.reason) == ("failed", "nan in epoch 2")


def test_a_fresh_sweep_has_no_records(tracker: Tracker) -> None:
    """It is another parent run; opened again without ``fresh``, the newest one is found."""
    sweep, run_id = begin(tracker)
    tracker.finish_trial(run_id, Trial(0, CONFIG), RESULT)
    fresh = tracker.open_sweep(INFO, fresh=True)
    assert fresh.run_id != sweep.run_id
    assert fresh.records == {}
    assert tracker.open_sweep(INFO, fresh=False).run_id == fresh.run_id


def test_a_sweep_has_its_tags_from_the_beginning(client: MlflowClient) -> None:
    """So that what is read of one that was cut off is known as well."""
    sweep = MlflowTracker(client.tracking_uri).open_sweep(replace(INFO, tags={"harness.about": "{}"}), fresh=False)
    assert client.get_run(sweep.run_id).data.tags["harness.about"] == "{}"


def test_another_identity_is_another_sweep(tracker: Tracker) -> None:
    """Sweeps of one study in one experiment do not see each other's trials."""
    _, run_id = begin(tracker)
    tracker.finish_trial(run_id, Trial(0, CONFIG), RESULT)
    assert tracker.open_sweep(replace(INFO, identity="another"), fresh=False).records == {}


def test_the_sweep_is_finished_when_it_says_so(tracker: Tracker) -> None:
    """A parent run that has ended is known to have ended, and its files can be read."""
    sweep = tracker.open_sweep(INFO, fresh=False)
    assert not tracker.open_sweep(INFO, fresh=False).was_finished
    tracker.write_outcome(sweep, {"reconstruction_loss": 0.1}, {"harness.best": "x"}, {"summary.json": b"{}"})
    assert not tracker.open_sweep(INFO, fresh=False).was_finished
    tracker.end_sweep(sweep, "FINISHED")
    assert tracker.open_sweep(INFO, fresh=False).was_finished
    assert tracker.read_file(sweep.run_id, "summary.json") == b"{}"


def test_a_trial_says_who_evaluated_it(client: MlflowClient) -> None:
    """The worker, where one did; a failure that the command itself writes down is the command's own."""
    tracker = MlflowTracker(None)
    for number, result, host in (
        (0, replace(RESULT, host="node-7", device_name="a fast one"), "node-7"),
        (1, RESULT, tracker.context.get("harness.host", platform.node())),
    ):
        _, run_id = begin(tracker, number=number)
        tracker.finish_trial(run_id, Trial(number, CONFIG), result)
        tags = client.get_run(run_id).data.tags
        assert tags["harness.host"] == host
        assert tags["harness.device_name"] == (result.device_name or device_name("cpu"))


def test_a_sweep_is_heard_of_once_a_minute(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """On its parent run, however often it is asked to say so; only once it is running, and not where a file is locked."""
    tracker = MlflowTracker(None)
    sweep = tracker.open_sweep(INFO, fresh=False)
    beats: list[str] = []
    monkeypatch.setattr(tracker, "_log_batch", lambda run_id, points=(), tags=None: beats.append(run_id))
    tracker.resume_sweep(sweep)
    tracker.beat()
    assert beats == []
    monkeypatch.setattr(track, "database_path", lambda uri: None)
    for _ in range(3):
        tracker.beat()
    assert beats == [sweep.run_id]
    tracker._beat_at -= track.HEARTBEAT_SECONDS + 1
    tracker.beat()
    assert beats == [sweep.run_id] * 2


def test_runs_look_in_mlflow_as_the_design_says(client: MlflowClient) -> None:
    """Parent and child, params, tags, dataset input, curves by epoch, statuses, and no number that is not finite."""
    tracker = MlflowTracker(None)
    sweep, run_id = begin(tracker)
    tracker.log_epochs(run_id, LOGS)
    tracker.finish_trial(run_id, Trial(0, CONFIG), RESULT)
    run = client.get_run(run_id)
    assert run.data.tags["mlflow.parentRunId"] == sweep.run_id
    assert run.data.params == CONFIG.to_params()
    assert run.info.status == "FINISHED"
    expected = {
        "harness.kind": "trial",
        "harness.sweep": INFO.identity,
        "harness.trial": "0",
        "harness.attempt": "1",
        "harness.group": "0-0",
    }
    assert expected.items() <= run.data.tags.items()
    assert {"harness.host", "harness.device", "harness.versions", "mlflow.user"} <= run.data.tags.keys()
    assert json.loads(run.data.tags["harness.versions"])["optuna"].startswith("5.")
    assert "latent/total_correlation" not in run.data.metrics
    assert [(m.step, m.value) for m in client.get_metric_history(run_id, "val/mse")] == [(1, 0.3), (2, 0.15)]
    assert [(m.step, m.value) for m in client.get_metric_history(run_id, "transfer/frozen/test_loss")] == [(1, 2.0), (2, 1.5)]
    (entry,) = run.inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("digits", "f" * 36)
    parent = client.get_run(sweep.run_id)
    assert (parent.data.tags["harness.kind"], parent.info.run_name) == ("sweep", "tiny on digits")
    assert [file.path for file in client.list_artifacts(sweep.run_id, "study")] == ["study/tiny.py"]


def test_no_number_that_is_not_finite_is_written_anywhere(client: MlflowClient) -> None:
    """Neither of an epoch, nor at the end, nor in a curve, nor on the parent run: the points beside it are all there."""
    sweep, run_id = begin(tracker := MlflowTracker(None))
    tracker.log_epochs(run_id, [LOGS[0], EpochLog(2, math.nan, math.inf, -math.inf, 1e-3, 0.1)])
    curves = {"transfer/frozen/test_loss": (2.0, math.nan, 1.5, math.inf)}
    metrics = {"reconstruction_loss": math.nan, "test/r2": -math.inf, "latent/dead_units": 1.0}
    record = tracker.finish_trial(run_id, Trial(0, CONFIG), TrialResult(CONFIG, "failed", metrics, curves, reason="nan"))
    tracker.write_outcome(sweep, {"reconstruction_loss": math.inf, "trials/total": 1}, {}, {})
    assert record.metrics == {"latent/dead_units": 1.0}
    names = {"train/mse", "train/loss", "val/mse", "train/learning_rate", "transfer/frozen/test_loss", "latent/dead_units"}
    assert client.get_run(run_id).data.metrics.keys() == names
    assert [each.step for each in client.get_metric_history(run_id, "val/mse")] == [1]
    assert [each.step for each in client.get_metric_history(run_id, "train/learning_rate")] == [1, 2]
    assert [(m.step, m.value) for m in client.get_metric_history(run_id, "transfer/frozen/test_loss")] == [(1, 2.0), (3, 1.5)]
    assert client.get_run(sweep.run_id).data.metrics == {"trials/total": 1}


def test_changes_that_are_not_committed_are_kept(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The difference lies on the parent run, those of later commands beside it; every run has the digest of its own."""
    monkeypatch.setattr("harness.provenance.git_changes", lambda: "+1")
    sweep, first = begin(MlflowTracker(None))
    monkeypatch.setattr("harness.provenance.git_changes", lambda: "+2")
    _, second = begin(tracker := MlflowTracker(None), number=1)
    digests = [client.get_run(run_id).data.tags["harness.git_diff"] for run_id in (sweep.run_id, first, second)]
    assert digests == [hashlib.sha256(text).hexdigest() for text in (b"+1", b"+1", b"+2")]
    assert tracker.read_file(sweep.run_id, "study/uncommitted.diff") == b"+1\n"
    assert tracker.read_file(sweep.run_id, f"study/uncommitted-{digests[2][:12]}.diff") == b"+2\n"


def test_every_run_says_what_made_it(client: MlflowClient) -> None:
    """Host, device and its model, versions, seeds and the images' fingerprint, on the parent run and on a trial's."""
    sweep, run_id = begin(MlflowTracker(None))
    for each in (sweep.run_id, run_id):
        run = client.get_run(each)
        assert {
            "harness.host",
            "harness.device",
            "harness.device_name",
            "harness.versions",
            "mlflow.source.name",
        } <= run.data.tags.keys()
        assert run.data.tags["harness.device_name"] == device_name("cpu")
        (entry,) = run.inputs.dataset_inputs
        assert json.loads(entry.dataset.source)["sha256"] == INFO.data_fingerprint
    assert {"seed", "split_seed"} <= client.get_run(run_id).data.params.keys()


def test_a_trial_that_was_cut_off_runs_again_as_the_next_attempt(client: MlflowClient) -> None:
    """Its run is ended as KILLED with the reason and put in the trash, so that no trial stands twice and none runs for ever."""
    tracker = MlflowTracker(None)
    _, dead = begin(tracker, number=3)
    tracker.log_epochs(dead, LOGS[:1])
    sweep, run_id = begin(MlflowTracker(None), number=3)
    assert sweep.records == {}
    assert client.get_run(run_id).data.tags["harness.attempt"] == "2"
    buried = client.get_run(dead)
    assert (buried.info.status, buried.info.lifecycle_stage) == ("KILLED", "deleted")
    assert buried.data.tags["harness.reason"] == "interrupted"
    assert [run.info.run_id for run in client.search_runs(["1"], "tags.`harness.kind` = 'trial'")] == [run_id]


def test_more_curve_points_than_a_batch_takes_are_all_written(client: MlflowClient) -> None:
    """2,500 points and the last one is there."""
    _, run_id = begin(tracker := MlflowTracker(None))
    values = tuple(float(index) for index in range(2500))
    tracker.finish_trial(run_id, Trial(0, CONFIG), replace(RESULT, curves={"transfer/frozen/test_loss": values}))
    history = client.get_metric_history(run_id, "transfer/frozen/test_loss")
    assert sorted(point.value for point in history) == list(values)


def test_a_long_proposal_is_read_back_whole() -> None:
    """A proposal longer than MLflow's longest tag comes back to the letter."""
    tracker = MlflowTracker(None)
    sweep = tracker.open_sweep(INFO, fresh=False)
    trial = Trial(0, CONFIG, json.dumps({"params": {f"parameter_{index}": index for index in range(1500)}}))
    tracker.finish_trial(tracker.start_trial(sweep, trial, "t", {}), trial, RESULT)
    assert tracker.open_sweep(INFO, fresh=False).records[0].trial == trial


def test_a_sweep_that_another_command_runs_is_refused() -> None:
    """It is refused while the first has it, in one line, and can be had afterwards."""
    first, second = MlflowTracker(None), MlflowTracker(None)
    refused = pytest.raises(UserError, match=f"the sweep {INFO.identity} is being run by another command")
    with first.claim(INFO.identity), second.claim("another"), refused, second.claim(INFO.identity):
        pass
    with second.claim(INFO.identity):
        pass


def test_a_trial_that_a_search_gave_up_is_kept_with_its_stages(tracker: Tracker) -> None:
    """It has ended, and no command runs it again; one that was only cut off has not, though MLflow says KILLED of both."""
    metrics = {STAGE_METRICS[0]: 0.1 + 0.2}
    sweep, run_id = begin(tracker, 4)
    tracker.finish_trial(run_id, Trial(4, CONFIG), TrialResult(CONFIG, "pruned", metrics, reason="pruned after 1 of 2 epochs"))
    cut_off = tracker.start_trial(sweep, Trial(5, CONFIG), "trial 5", {})
    tracker.stop_trials([cut_off], "interrupted")
    for retry_failed in (False, True):
        records = tracker.open_sweep(INFO, retry_failed=retry_failed).records
        assert records.keys() == {4}
        assert (records[4].status, records[4].metrics, records[4].reason) == ("pruned", metrics, "pruned after 1 of 2 epochs")


def test_failed_trials_run_again_when_asked_for(tracker: Tracker) -> None:
    """With ``retry_failed`` a failed trial is no record, and a finished one still is."""
    sweep, run_id = begin(tracker, number=1)
    tracker.finish_trial(run_id, Trial(1, CONFIG), TrialResult(CONFIG, "failed", reason="no memory"))
    finished = tracker.start_trial(sweep, Trial(2, CONFIG), "t", {})
    tracker.finish_trial(finished, Trial(2, CONFIG), RESULT)
    assert tracker.open_sweep(INFO, retry_failed=True).records.keys() == {2}


def test_an_attempt_is_counted_whatever_happened_to_those_before(client: MlflowClient) -> None:
    """After a failure, after a kill, and where the command that was to run it again was cut off before it did."""
    _, first = begin(tracker := MlflowTracker(None), number=3)
    tracker.finish_trial(first, Trial(3, CONFIG), TrialResult(CONFIG, "failed", reason="no memory"))
    MlflowTracker(None).open_sweep(INFO, retry_failed=True)
    _, second = begin(MlflowTracker(None), number=3)
    MlflowTracker(None).open_sweep(INFO)
    _, third = begin(tracker := MlflowTracker(None), number=3)
    record = tracker.finish_trial(third, Trial(3, CONFIG), RESULT)
    assert [client.get_run(run_id).data.tags["harness.attempt"] for run_id in (first, second, third)] == ["1", "2", "3"]
    assert record.failed_before
    assert MlflowTracker(None).open_sweep(INFO).records[3].failed_before


def test_a_fresh_sweep_leaves_nothing_running_of_the_one_before(client: MlflowClient) -> None:
    """What a kill left of it is ended; nothing of it is deleted."""
    sweep, run_id = begin(MlflowTracker(None))
    fresh = MlflowTracker(None).open_sweep(INFO, fresh=True)
    assert {client.get_run(each).info.status for each in (sweep.run_id, run_id)} == {"KILLED"}
    assert client.get_run(run_id).info.lifecycle_stage == "active"
    assert client.get_run(fresh.run_id).info.status == "RUNNING"
