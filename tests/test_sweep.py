"""The coordinator: everything runs, nothing runs twice, and how it runs changes no number."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from harness import figures, sweep, tables
from harness.config import STAGE_METRICS, Placement, Trial, TrialConfig, TrialRecord
from harness.executors import EXECUTORS, InlineExecutor
from harness.library import StudyFile
from harness.models import resolve
from harness.options import Request
from harness.plan import SweepPlan, make_plan
from harness.rounds import Means
from harness.sweep import SweepOutcome, run_sweep
from harness.tracker import NullTracker
from harness.trial import evaluate_group, run_segment
from tests.support import EXECUTOR_NAMES, TIMES, TINY, make_study_file, quick_report

INLINE = Means(executor="inline")


class QuietDisplay:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.units = self.done = 0.0
        self.notes: list[str] = []
        self.names: list[str] = []
        self.best: list[TrialRecord] = []
        self.is_stopped = False

    def start(self, title: str, units: float, done: float, total: int, ended: Sequence[TrialRecord]) -> None:
        """Keeps the amounts."""
        self.units, self.done = units, done

    def more(self, units: float, trials: int) -> None:
        """Adds to the amount."""
        self.units += units

    def advance(self, units: float) -> None:
        """Adds."""
        self.done += units

    def trial_ended(self, name: str, record: TrialRecord, is_best: bool) -> None:
        """Keeps the name, and the record where it is the best so far."""
        self.names.append(name)
        self.best += [record] * is_best

    def note(self, text: str) -> None:
        """Keeps the sentence."""
        self.notes.append(text)

    def stop(self) -> None:
        """Keeps that it is over."""
        self.is_stopped = True


@pytest.fixture
def whole_report() -> None:
    """The sweep's report is made as it is, pictures and all."""


@pytest.fixture(autouse=True)
def _quick_report(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the report, whose pictures take seconds, most tests need no more than the tables."""
    if "whole_report" not in request.fixturenames:
        monkeypatch.setattr(sweep, "report_files", quick_report)


def run(plan: SweepPlan, means: Means = INLINE, tracker: NullTracker | None = None) -> SweepOutcome:
    """Runs a sweep in memory."""
    return run_sweep(plan, means, tracker or NullTracker(), QuietDisplay())


def numbers(outcome: SweepOutcome) -> dict[TrialConfig, dict[str, float]]:
    """Every number of every trial that does not depend on when it ran."""
    records = [record for row in outcome.summary.rows for record in row.trials]
    return {
        record.trial.config: {name: value for name, value in record.metrics.items() if name not in TIMES} for record in records
    }


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


class _InterruptedTracker(NullTracker):
    """Raises like Ctrl-C, or like a crash, when so many trials have ended."""

    def __init__(self, after: int, error: type[BaseException]) -> None:
        super().__init__()
        self.left, self.error = after, error

    def log_epochs(self, run_id: str, logs: Any) -> None:
        """Fails when its time has come."""
        super().log_epochs(run_id, logs)
        if 0 <= self.left <= sum(status == "finished" for status in self.statuses.values()):
            self.left = -1
            raise self.error


@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_interrupted_sweep_ends_its_runs_and_goes_on_with_the_same_numbers(plan: SweepPlan, after: int) -> None:
    """No run is left running, ended trials are kept, and the whole equals an undisturbed sweep bit for bit."""
    tracker = _InterruptedTracker(after, KeyboardInterrupt)
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
    """Cannot end the sweep, once."""

    is_broken = True

    def finish_sweep(self, *arguments: Any) -> None:
        """Raises the first time."""
        if self.is_broken:
            self.is_broken = False
            raise KeyboardInterrupt
        super().finish_sweep(*arguments)


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


def _search_space(trial: Any) -> TrialConfig:
    return replace(
        TINY, latent_size=trial.suggest_int("latent_size", 1, 9), architecture=trial.suggest_categorical("a", ["linear"])
    )


def test_a_search_runs_in_rounds_and_resumes(tmp_path: Path) -> None:
    """A sampler's study trains what it proposes; cut off within a round it goes on with the same proposals and numbers."""
    changes = {"grid": {}, "sampler": "tpe", "trials": 6, "round_size": 4, "objectives": ("reconstruction_loss",)}
    file = replace(make_study_file(tmp_path, **changes), search_space=_search_space)
    plan = make_plan(file, Request(device="cpu"))
    whole = run(plan)
    tracker = _InterruptedTracker(2, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        run(plan, tracker=tracker)
    resumed = run(plan, tracker=tracker)
    assert resumed.kept == 2
    assert resumed.summary.finished == 6
    assert numbers(resumed) == numbers(whole)


def searching_plan(tmp_path: Path, **changes: Any) -> SweepPlan:
    """A search of twelve trials that differ in learning rate, from hopeless to good."""

    def space(trial: Any) -> TrialConfig:
        rate = trial.suggest_float("learning_rate", 1e-7, 1e-1, log=True)
        return replace(TINY, architecture="linear", epochs=6, learning_rate=rate)

    fields: dict[str, Any] = {"grid": {}, "sampler": "random", "trials": 12, "round_size": 6, **changes}
    return make_plan(replace(make_study_file(tmp_path, **fields), search_space=space), Request(device="cpu"))


@pytest.mark.parametrize("trainer", ["stacked", "plain"])
def test_a_pruner_ends_hopeless_trials_early(tmp_path: Path, trainer: str) -> None:
    """After a third or two of their epochs; the others have the numbers that they have without one."""
    pruned_plan = searching_plan(tmp_path, pruner="median")
    pruned_plan = replace(pruned_plan, placement=replace(pruned_plan.placement, trainer=trainer))
    tracker = NullTracker()
    outcome = run(pruned_plan, tracker=tracker)
    records = {number: each for number, each in tracker.sweeps[pruned_plan.identity].records.items() if each.status == "pruned"}
    assert outcome.summary.pruned == len(records) > 0
    assert outcome.summary.finished == 12 - len(records)
    assert min(records) >= 6
    for record in records.values():
        epochs = [log.epoch for log in tracker.epochs[record.run_id]]
        assert epochs == list(range(1, len(epochs) + 1))
        assert len(epochs) in (2, 4)
        assert f"pruned after {len(epochs)} of 6 epochs" in record.reason
        assert (record.run_id, "curves/training.csv") in tracker.files
        assert tracker.epochs[record.run_id][1].val_mse == record.metrics[STAGE_METRICS[0]]
    if trainer == "plain":  # in a stack the last bits depend on how many others there are
        whole = numbers(run(replace(searching_plan(tmp_path), placement=pruned_plan.placement)))
        for config, metrics in numbers(outcome).items():
            assert {name: value for name, value in metrics.items() if name not in STAGE_METRICS} == whole[config]


@pytest.mark.parametrize("cut", [1, 8])
def test_a_search_with_a_pruner_and_a_confirmation_resumes_with_the_same_numbers(tmp_path: Path, cut: int) -> None:
    """Cut off after any number of trials it proposes, gives up and confirms what an uninterrupted one does."""
    changes = {"sampler": "tpe", "pruner": "median", "confirm": 2, "confirm_seeds": 2}
    plan = searching_plan(tmp_path, **changes)
    undisturbed, tracker = NullTracker(), _InterruptedTracker(cut, KeyboardInterrupt)
    whole = run(plan, tracker=undisturbed)
    with pytest.raises(KeyboardInterrupt):
        run(plan, tracker=tracker)
    resumed = run(plan, tracker=tracker)
    assert numbers(resumed) == numbers(whole)
    assert resumed.summary.total == whole.summary.total == 12 + 4
    ends = [
        {number: each.status for number, each in kept.sweeps[plan.identity].records.items()} for kept in (tracker, undisturbed)
    ]
    assert ends[0] == ends[1]
    assert run(plan, tracker=tracker).was_finished


def test_the_best_trials_of_a_search_come_again_from_fresh_seeds(tmp_path: Path) -> None:
    """In rows of their own, with intervals; a longer search keeps those that it confirms again, and the bar shows them."""
    tracker, display = NullTracker(), QuietDisplay()
    plan = searching_plan(tmp_path, confirm=2, confirm_seeds=3)
    outcome = run_sweep(plan, INLINE, tracker, display)
    assert display.done == pytest.approx(display.units)
    singles, again = ([row for row in outcome.summary.rows if len(row.trials) == count] for count in (1, 3))
    assert (len(singles), len(again)) == (12, 2)
    best = sorted(row.metrics["val/mse"].mean for row in singles)[:2]
    confirmed = [next(s for s in singles if s.point["learning_rate"] == row.point["learning_rate"]) for row in again]
    assert sorted(row.metrics["val/mse"].mean for row in confirmed) == best
    assert all(record.trial.config.seed > 0 for row in again for record in row.trials)
    longer = replace(plan, study=replace(plan.study, trials=14))
    assert run(longer, tracker=tracker).kept == 12 + 6


def test_a_search_whose_space_is_exhausted_says_so(tmp_path: Path) -> None:
    """It ends with what there was; the same command does nothing more, and says it again."""
    file = make_study_file(tmp_path, grid={}, sampler="random", trials=9, round_size=4)

    def space(trial: Any) -> TrialConfig:
        return replace(TINY, architecture="linear", latent_size=trial.suggest_int("latent_size", 1, 3))

    plan, tracker, display = make_plan(replace(file, search_space=space), Request(device="cpu")), NullTracker(), QuietDisplay()
    outcome = run_sweep(plan, INLINE, tracker, display)
    assert sorted(config.latent_size for config in numbers(outcome)) == [1, 2, 3]
    again = QuietDisplay()
    assert run_sweep(plan, INLINE, tracker, again).was_finished
    for notes in (display.notes, again.notes):
        assert [note for note in notes if "ended SHORT, with 3 of 9 trials" in note] == notes[-1:]


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
