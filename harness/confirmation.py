"""Was the winner luck? What a search found best is trained again from fresh seeds.

A search chooses the best of many noisy numbers, which flatters them. So the chosen configurations get replicates that nobody
chose, and those are what is reported of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from harness.config import MOST_CONFIRM_SEEDS, StudyConfig, Trial, TrialRecord
from harness.pareto import front

FIRST_NUMBER = 1_000_000
"""Of confirmations: the replicate r of trial n is number 1,000,000 + 1,000 n + r, whatever else is confirmed and how many more
trials the search may get later."""

PLACES = MOST_CONFIRM_SEEDS + 1


class Search(Protocol):
    """What to train next."""

    @property
    def study(self) -> Any:
        """Optuna's, with all trials of the search."""

    @property
    def ended_early(self) -> str:
        """Why there were fewer trials than the study says; empty where there were not."""

    def next_round(self) -> list[Trial]:
        """All trials of the next round that has some to train; empty at the end."""

    def tell(self, record: TrialRecord) -> None:
        """Takes a result."""

    def is_hopeless(self, number: int, stages: Sequence[float]) -> bool:
        """Whether to give a trial up, by its validation loss at the end of each stage so far."""


@dataclass(frozen=True)
class Confirmed:
    """A trial of a search and its replicates.

    Attributes:
        found: As the search found it; its numbers are those of a winner.
        replicates: From fresh seeds, those that finished.
    """

    found: TrialRecord
    replicates: tuple[TrialRecord, ...]


class ConfirmedSearch:
    """A search, and one more round when it is over: its best trials and its Pareto front from fresh seeds."""

    def __init__(self, search: Search, study: StudyConfig, directions: Sequence[str], records: Mapping[int, TrialRecord]) -> None:
        self._search, self._study, self._directions, self._records = search, study, directions, dict(records)
        self._is_open = True

    @property
    def study(self) -> Any:
        """The search's."""
        return self._search.study

    @property
    def ended_early(self) -> str:
        """What the search says."""
        return self._search.ended_early

    def next_round(self) -> list[Trial]:
        """The search's next round; after its last one the confirmations, the first time, if any of them has not ended."""
        if not self._is_open:
            return []
        if trials := self._search.next_round():
            return trials
        self._is_open = False
        chosen = best_trials(self._records.values(), self._study, self._directions)
        trials = [_replicate(record.trial, place) for place in range(self._study.confirm_seeds) for record in chosen]
        return trials if any(trial.number not in self._records for trial in trials) else []

    def tell(self, record: TrialRecord) -> None:
        """Tells the search of its own trials."""
        self._records[record.trial.number] = record
        if not is_confirmation(record.trial.number):
            self._search.tell(record)

    def is_hopeless(self, number: int, stages: Sequence[float]) -> bool:
        """What the search says of its own trials; a confirmation is trained to its end."""
        return not is_confirmation(number) and self._search.is_hopeless(number, stages)


def best_trials(records: Iterable[TrialRecord], study: StudyConfig, directions: Sequence[str]) -> list[TrialRecord]:
    """The ``study.confirm`` best in the first objective, and all that are on the Pareto front of the objectives.

    Args:
        records: Of the search; those that did not finish, or have an objective that is not defined, are left out.
        study: With the objectives.
        directions: ``"down"`` or ``"up"`` for each of them.
    """
    able = [
        record
        for record in sorted(records, key=lambda record: record.trial.number)
        if record.status == "finished"
        and not is_confirmation(record.trial.number)
        and all(name in record.metrics for name in study.objectives)
    ]
    signs = [-1 if direction == "up" else 1 for direction in directions]
    points = [[sign * record.metrics[name] for sign, name in zip(signs, study.objectives, strict=True)] for record in able]
    best = sorted(range(len(able)), key=lambda place: points[place][0])[: study.confirm]
    chosen = {*best, *(front(points) if len(study.objectives) > 1 else ())}
    return [able[place] for place in sorted(chosen)]


def _replicate(trial: Trial, place: int) -> Trial:
    config = replace(trial.config, seed=trial.config.seed + 1 + place)
    proposal = {"confirms": trial.number, "params": json.loads(trial.proposal)["params"]}
    return Trial(FIRST_NUMBER + PLACES * trial.number + place, config, json.dumps(proposal))


def is_confirmation(number: int) -> bool:
    """Whether a trial of this number is the replicate of another one."""
    return number >= FIRST_NUMBER


def confirmed(records: Iterable[TrialRecord]) -> list[Confirmed]:
    """All trials that have replicates, in the order of their numbers."""
    by_number = {record.trial.number: record for record in records}
    replicates: dict[int, list[TrialRecord]] = {}
    for number, record in sorted(by_number.items()):
        if is_confirmation(number) and record.status == "finished":
            replicates.setdefault((number - FIRST_NUMBER) // PLACES, []).append(record)
    return [Confirmed(by_number[number], tuple(each)) for number, each in replicates.items() if number in by_number]


def without_chosen(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """All but a search's trials that have replicates: they were chosen for their numbers, which is luck in part."""
    every = list(records)
    chosen = {each.found.trial.number for each in confirmed(every)}
    return [record for record in every if record.trial.number not in chosen]
