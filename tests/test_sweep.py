"""The coordinator: everything runs, nothing runs twice, and how it runs changes no number."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from harness import figures, tables
from harness.config import Placement, Trial, TrialConfig, TrialRecord
from harness.executors import EXECUTORS, InlineExecutor
from harness.library import StudyFile
from harness.models import resolve
from harness.options import Request
from harness.plan import SweepPlan, make_plan
from harness.rounds import Means
from harness.sweep import run_sweep
from harness.tracker import NullTracker
from harness.trial import evaluate_group, run_segment
from tests.support import EXECUTOR_NAMES, TINY, make_study_file
from tests.sweeping import INLINE, InterruptedTracker, QuietDisplay, numbers, run


@pytest.fixture
def whole_report() -> None:
    """The sweep's report is made as it is, pictures and all."""


@pytest.fixture(autouse=True)
def _as_reported(request: pytest.FixtureRequest) -> None:
    """Most tests need no more of the report than the tables."""
    if "whole_report" not in request.fixturenames:
        request.getfixturevalue("quickly_reported")


@pytest.mark.usefixtures("whole_report")
def test_a_grid_is_trained_whole_and_summed_up(plan: SweepPlan) -> None:
    """Every point from every seed; the parent run gets counts, best values, tables and pictures."""
    tracker, display = NullTracker(), QuietDisplay()
    outcome = run_sweep(plan, INLINE, tracker, display)
    assert [(row.point["latent_size"], len(row.trials)) for row in outcome.summary.rows] == [(2, 2), (3, 2)]
    assert display.done == pytest.approx(display.units)
    assert display.is_stopped
    assert len(set(display.names)) == 4
    parent = outcome.sweep.run_id
    assert tracker.statuses[parent] == "FINISHED"
    assert tracker.metrics[parent]["trials/finished"] == 4
    losses = [metrics["reconstruction_loss"] for metrics in numbers(outcome).values()]
    assert tracker.metrics[parent]["reconstruction_loss"] == min(losses)
    assert tracker.metrics[parent]["transfer_accuracy"] == max(m["transfer_accuracy"] for m in numbers(outcome).values())
    frame = pd.read_csv(io.BytesIO(tracker.read_file(parent, "trials.csv")))
    assert sorted(frame["reconstruction_loss"]) == pytest.approx(sorted(losses))
    files = {path for run_id, path in tracker.files if run_id == parent}
    assert files >= {"report.html", "findings.json", "summary.json", "figures/interpolation.png"}
    charts = {Path(path).stem for path in files if path.endswith(".svg")}
    assert charts == {
        *("reconstruction_loss", "max_latent_correlation", "latent_correlations"),
        *("transfer_accuracy", "transfer_curves", "manifold_distance"),
    }
    assert files >= {f"figures/{name}.{kind}" for name in charts for kind in ("png", "csv")}
    (publication,) = tracker.publications
    assert publication.run_id == min(outcome.summary.best.values(), key=lambda each: each.metrics["val/mse"]).run_id
    for path in (path for path in files if path.endswith(".png")):
        grey = Image.open(io.BytesIO(tracker.read_file(parent, path))).convert("L")
        assert len(grey.getcolors() or []) > 10


def test_the_same_sweep_again_runs_nothing(plan: SweepPlan) -> None:
    """A finished sweep is known to be finished, and its numbers are there."""
    tracker = NullTracker()
    first = run(plan, tracker=tracker)
    runs = len(tracker.statuses)
    second = run(plan, tracker=tracker)
    assert (first.was_finished, second.was_finished, len(tracker.statuses)) == (False, True, runs)
    assert numbers(first) == numbers(second)


@pytest.mark.parametrize("executor", EXECUTOR_NAMES)
def test_how_a_sweep_runs_changes_no_number(executor: str, plan: SweepPlan) -> None:
    """Executor, number of workers and size of the groups: the same bits."""
    means = Means(executor, workers=2, group_size=3 if executor == "inline" else 0)
    assert numbers(run(plan, means)) == numbers(run(plan))


@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_interrupted_sweep_ends_its_runs_and_goes_on_with_the_same_numbers(plan: SweepPlan, after: int) -> None:
    """No run is left running, ended trials are kept, and the whole equals an undisturbed sweep bit for bit."""
    tracker = InterruptedTracker(after, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        run(plan, Means("inline", group_size=2 if after == 0 else 1), tracker)
    assert "RUNNING" not in tracker.statuses.values()
    outcome = run(plan, tracker=tracker)
    assert outcome.kept == after
    assert numbers(outcome) == numbers(run(plan))
    assert list(tracker.statuses.values()).count("finished") == 4


def test_failed_trials_are_data(tmp_path: Path) -> None:
    """A trial whose loss is not finite fails with its reason, the others finish, and it is not trained again."""
    file = make_study_file(tmp_path, grid={"learning_rate": (5e-3, 1e38), "latent_size": (2, 3)}, seeds=1)
    plan, tracker = make_plan(file, Request(device="cpu")), NullTracker()
    outcome = run(plan, tracker=tracker)
    assert (outcome.summary.finished, len(outcome.summary.failed)) == (2, 2)
    assert all("in epoch" in record.reason for record in outcome.summary.failed)
    again = run(plan, tracker=tracker)
    assert again.was_finished
    assert len(again.summary.failed) == 2


def test_a_trial_is_the_best_so_far_where_none_before_it_is_better(study_file: StudyFile) -> None:
    """By the first objective; of trials kept from an earlier command as well."""
    tracker, first, second = NullTracker(), QuietDisplay(), QuietDisplay()
    run_sweep(make_plan(study_file, Request(device="cpu")), INLINE, tracker, first)
    outcome = run_sweep(make_plan(study_file, Request(device="cpu", seeds=5)), INLINE, tracker, second)
    records = sorted((record for row in outcome.summary.rows for record in row.trials), key=lambda each: int(each.run_id[4:]))
    losses = [record.metrics["val/mse"] for record in records]
    expected = [record.run_id for index, record in enumerate(records) if losses[index] < min(losses[:index], default=1.0)]
    assert [record.run_id for record in first.best + second.best] == expected


class _PictureError(NullTracker):
    """Cannot write what the sweep came to, once."""

    is_broken = True

    def write_outcome(self, *arguments: Any) -> None:
        """Raises the first time."""
        if self.is_broken:
            self.is_broken = False
            raise KeyboardInterrupt
        super().write_outcome(*arguments)


def test_an_interruption_at_the_very_end_leaves_nothing_running(plan: SweepPlan) -> None:
    """The parent run is ended too, and the next command only writes what was missing."""
    tracker = _PictureError()
    with pytest.raises(KeyboardInterrupt):
        run(plan, tracker=tracker)
    assert "RUNNING" not in tracker.statuses.values()
    outcome = run(plan, tracker=tracker)
    assert outcome.kept == 4
    assert tracker.statuses[outcome.sweep.run_id] == "FINISHED"


def test_failed_trials_run_again_when_asked_for(tmp_path: Path) -> None:
    """With ``retry_failed`` they are trained again; what finished is kept."""
    file = make_study_file(tmp_path, grid={"learning_rate": (5e-3, 1e38)}, seeds=1)
    plan, tracker = make_plan(file, Request(device="cpu")), NullTracker()
    run(plan, tracker=tracker)
    before = len(tracker.statuses)
    again = run(plan, replace(INLINE, retry_failed=True), tracker)
    assert (again.kept, len(again.summary.failed), len(tracker.statuses)) == (1, 1, before + 1)
    assert again.summary.failed[0].failed_before


def test_a_sweep_in_which_all_fails_is_failed(tmp_path: Path) -> None:
    """Its parent run says FAILED, and the tables are written nevertheless."""
    file = make_study_file(tmp_path, base=replace(TINY, learning_rate=1e38), seeds=1)
    tracker = NullTracker()
    outcome = run(make_plan(file, Request(device="cpu")), tracker=tracker)
    assert tracker.statuses[outcome.sweep.run_id] == "FAILED"
    assert tracker.read_file(outcome.sweep.run_id, "trials.csv")


def test_more_seeds_keep_the_trials_there_are(study_file: StudyFile) -> None:
    """With three seeds after two, only the third is trained; with one again, only its trials are summed up."""
    tracker = NullTracker()
    run(make_plan(study_file, Request(device="cpu")), tracker=tracker)
    more = run(make_plan(study_file, Request(device="cpu", seeds=3)), tracker=tracker)
    assert (more.kept, more.summary.finished) == (4, 6)
    fewer = run(make_plan(study_file, Request(device="cpu", seeds=1)), tracker=tracker)
    assert (fewer.was_finished, fewer.summary.finished, fewer.summary.total) == (True, 2, 2)


def test_no_more_groups_are_under_way_than_the_executor_has_slots(plan: SweepPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one slot a trial is over before the next begins."""
    order: list[TrialConfig] = []

    class Spy(InlineExecutor):
        def submit(self, function: Any, *arguments: Any) -> Any:
            order.append(arguments[0][0])
            return super().submit(function, *arguments)

    monkeypatch.setitem(EXECUTORS, "inline", Spy)
    run(plan)
    assert [key for index, key in enumerate(order) if index == 0 or order[index - 1] != key] == list(dict.fromkeys(order))


def test_workers_warm_up_for_the_charts_once_behind_the_last_tasks(plan: SweepPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nothing is left to be trained or to be measured that no worker has."""
    order: list[Any] = []

    class Spy(InlineExecutor):
        workers, has_local_workers = 2, True

        def submit(self, function: Any, *arguments: Any) -> Any:
            order.append(function)
            return super().submit(function, *arguments)

    monkeypatch.setitem(EXECUTORS, "inline", Spy)
    run(plan)
    last = max(place for place, function in enumerate(order) if function in (run_segment, evaluate_group))
    assert order[last + 1 :].count(figures.warm_up) == order.count(figures.warm_up) in (1, 2)


def test_the_best_trial_follows_each_metrics_own_direction(placement: Placement) -> None:
    """Least loss, least correlation, most accuracy; failed trials do not count."""

    def record(number: int, status: Any, loss: float, accuracy: float) -> TrialRecord:
        metrics = {"reconstruction_loss": loss, "transfer_accuracy": accuracy}
        return TrialRecord(f"run-{number}", Trial(number, resolve(replace(TINY, seed=number))), status, metrics)

    records = [record(0, "finished", 0.3, 0.5), record(1, "failed", 0.1, 0.99), record(2, "finished", 0.2, 0.4)]
    summary = tables.summarize(records, ("latent_size",), 3)
    assert summary.best["reconstruction_loss"].run_id == "run-2"
    assert summary.best["transfer_accuracy"].run_id == "run-0"
    assert "max_latent_correlation" not in summary.best


def test_intervals_are_those_of_scipy(plan: SweepPlan) -> None:
    """The mean and the 95 % interval of a row, recomputed from the trials' table."""
    from scipy import stats

    tracker = NullTracker()
    outcome = run(plan, tracker=tracker)
    frame = pd.read_csv(io.BytesIO(tracker.read_file(outcome.sweep.run_id, "trials.csv")))
    for row in outcome.summary.rows:
        values = frame[frame["latent_size"] == row.point["latent_size"]]["reconstruction_loss"]
        low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
        found = row.metrics["reconstruction_loss"]
        assert (found.mean, found.low, found.high) == pytest.approx((values.mean(), low, high))
