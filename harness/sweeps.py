"""Stored sweeps by what a user calls them: the study's name, the sweep's identity, or the id of its parent run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from harness.about import TAG, Layout
from harness.config import TrialRecord
from harness.confirmation import is_confirmation
from harness.reader import StoredRun, StoreReader
from harness.rules import UserError, nearest, shown, unknown, without_password
from harness.tables import table_axes, trial_row
from harness.where import select

if TYPE_CHECKING:
    from harness.optuna_study import Study

IDENTITY = re.compile(r"[0-9a-f]{16}")
SHOWN_NAMES = 12


@dataclass(frozen=True)
class StoredSweep:
    """A sweep with its trials.

    Attributes:
        study: Name of the study.
        parent: Its parent run.
        runs: Those of the trials that have ended, in the order of their numbers; maybe only those selected.
        others: Sweeps of the same study that the name could have meant, and does not: older ones.
    """

    study: str
    parent: StoredRun
    runs: tuple[StoredRun, ...]
    others: tuple[StoredRun, ...] = ()

    @cached_property
    def records(self) -> tuple[TrialRecord, ...]:
        """The trials."""
        return tuple(run.record for run in self.runs)

    @property
    def identity(self) -> str:
        """That of the sweep."""
        return self.parent.tags["harness.sweep"]

    @property
    def dataset(self) -> str:
        """On which it ran."""
        return self.parent.tags.get("harness.dataset", "")

    @property
    def title(self) -> str:
        """Study and dataset, for people."""
        return f"{self.study} on {self.dataset}"

    @property
    def objectives(self) -> tuple[str, ...]:
        """The metrics that it has optimised, or that its grid is ranked by."""
        return Layout.from_tag(self.parent.tags.get(TAG, "")).objectives

    @property
    def varied(self) -> tuple[str, ...]:
        """The fields of the configuration in which its trials differ, the seed among them; the latent size at the least."""
        axes = (*table_axes((), self.records), "seed")
        differing = [name for name in axes if len({getattr(record.trial.config, name) for record in self.records}) > 1]
        return tuple(differing) or ("latent_size",)

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """One a trial: the sweep, number, run, status, configuration and metrics, by name."""
        return [{"study": self.study, "sweep": self.identity, **trial_row(record)} for record in self.records]

    def optuna_study(self, metrics: Sequence[str] = ()) -> Study:
        """Its trials as an Optuna study in memory; without those that confirm others, which no sampler has proposed.

        Args:
            metrics: The values of the trials; what the sweep has optimised where there are none.

        Raises:
            UserError: if one of them is no metric with a better direction, with the nearest; or if no trial is left.
        """
        from harness.measures import METRICS
        from harness.optuna_study import Ended, ended_study

        objectives = metrics or self.objectives
        for name in objectives:
            if name not in METRICS or not METRICS[name].direction:
                raise unknown("objective", name, [each for each, metric in METRICS.items() if metric.direction])
        runs = [run for run in self.runs if not is_confirmation(run.record.trial.number)]
        if not runs:
            raise UserError("all of these trials confirm others, and the search has proposed none of them: select those too")
        trials = [Ended(run.record, _time(run.began), _time(run.ended or run.began)) for run in runs]
        return ended_study(trials, self.varied, objectives, [METRICS[name].direction for name in objectives])

    def where(self, expression: str) -> StoredSweep:
        """The sweep with only the trials for which an expression of SQL is true; with all of them where it is empty.

        Raises:
            UserError: if it is no such expression, or true for none.
        """
        return replace(self, runs=tuple(self.runs[place] for place in select(self.rows, expression))) if expression else self


def _time(milliseconds: int) -> datetime:
    """As Optuna has times: of this place, without saying so."""
    return datetime.fromtimestamp(milliseconds / 1000)


def find_sweep(reader: StoreReader, word: str) -> StoredSweep:
    """Finds a sweep and reads its trials; of several of a name the newest that has any.

    Raises:
        UserError: if there is none, with the nearest name, or none of its trials has ended.
    """
    found = _named(reader, word)
    for place, (study, parent) in enumerate(found):
        if runs := reader.trials(parent):
            others = tuple(
                other for _, other in found[place + 1 :] if other.tags["harness.sweep"] != parent.tags["harness.sweep"]
            )
            return StoredSweep(study, parent, tuple(runs), others)
    raise UserError(f"no trial of {shown(word)} has ended yet: wait for its sweep, or go on with it")


def all_sweeps(reader: StoreReader) -> list[tuple[str, StoredRun]]:
    """Every sweep of a store with its study, the newest first."""
    found = [(study, parent) for study in reader.experiments() for parent in reader.sweeps(study)]
    return sorted(found, key=lambda each: each[1].began, reverse=True)


def _named(reader: StoreReader, word: str) -> list[tuple[str, StoredRun]]:
    """All that a word may mean, the newest first."""
    studies = reader.experiments()
    if word in studies and (parents := reader.sweeps(word)):
        return [(word, parent) for parent in parents]
    if IDENTITY.fullmatch(word) and (found := [(study, run) for study in studies for run in reader.sweeps(study, word)]):
        return found
    run = reader.run(word)
    if run is None:
        raise _unknown(reader, word)
    return [(_study_of(run, studies), _checked(run, word))]


def _checked(run: StoredRun, word: str) -> StoredRun:
    kind = run.tags.get("harness.kind")
    if kind == "trial":
        sweep, trial = run.tags["harness.sweep"], f'"trial = {run.number}"'
        raise UserError(f"{shown(word)} is the run of one trial: name its sweep {sweep}, with --where {trial}")
    if kind != "sweep":
        raise UserError(f"{shown(word)} is a run that no sweep has made: --list shows the sweeps")
    return run


def _study_of(run: StoredRun, studies: dict[str, str]) -> str:
    return next(name for name, experiment in studies.items() if experiment == run.experiment_id)


def _unknown(reader: StoreReader, word: str) -> UserError:
    sweeps = all_sweeps(reader)
    names = list(dict.fromkeys(study for study, _ in sweeps))
    if not names:
        store = without_password(reader.uri)
        return UserError(f"there is no sweep in {store}: run a study, or name another store with --tracking-uri")
    others = [name for _, parent in sweeps for name in (parent.tags["harness.sweep"], parent.run_id)]
    hint = nearest(word, names + others)
    return UserError(f"unknown study, sweep or run {shown(word)}: studies are {_list(names)}{hint} (--list shows all sweeps)")


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more


def find_trial(reader: StoreReader, run_id: str) -> StoredRun:
    """Finds the run of a trial that has ended.

    Raises:
        UserError: if there is none of this id, with the nearest, or it is of another kind, or its trial has no result.
    """
    run = reader.run(run_id)
    if run is None:
        known = reader.all_run_ids(list(reader.experiments().values()))
        where = f"in {without_password(reader.uri)}"
        raise UserError(
            f"there is no run {shown(run_id)} {where}{_nearest_id(run_id, known)}: name one, or another --tracking-uri"
        )
    if run.tags.get("harness.kind") == "sweep":
        best = next((value for name, value in sorted(run.tags.items()) if name.startswith("harness.best.")), "")
        raise UserError(f"{run_id} is a whole sweep: name the run of one of its trials{f', such as {best}' if best else ''}")
    if "harness.trial" not in run.tags:
        raise UserError(f"{run_id} is a run that no sweep has made: name the run of a trial")
    if not run.has_ended:
        raise UserError(f"the trial of {run_id} has no result (its run is {run.status}): name one that has ended")
    return run


def _nearest_id(word: str, known: Sequence[str]) -> str:
    """Of ids the one that a word begins, for people copy them in part."""
    begun = [each for each in known if word and each.startswith(word)]
    return f"; did you mean {begun[0]!r}?" if len(begun) == 1 else nearest(word, known)
