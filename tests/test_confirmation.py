"""Winners from fresh seeds: which, under which numbers, and what is made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from harness.config import StudyConfig, Trial, TrialRecord
from harness.confirmation import ConfirmedSearch, best_trials, confirmed, is_confirmation
from tests.support import TINY

OBJECTIVES = ("val/mse", "transfer_accuracy")
NUMBERS = [(0.5, 0.9), (0.1, 0.2), (0.2, 0.8), (0.3, 0.3), (0.4, 0.85)]
"""Loss and accuracy of the trials of a search: 0, 1, 2 and 4 are on the front, 1 has the lowest loss."""


def study_of(confirm: int, objectives: Sequence[str] = OBJECTIVES, seeds: int = 2) -> StudyConfig:
    """A search that is confirmed."""
    return StudyConfig(
        question="?", sampler="tpe", trials=len(NUMBERS), objectives=tuple(objectives), confirm=confirm, confirm_seeds=seeds
    )


def record_of(trial: Trial, numbers: tuple[float, float], status: str = "finished") -> TrialRecord:
    """An ended trial."""
    return TrialRecord(f"run-{trial.number}", trial, status, dict(zip(OBJECTIVES, numbers, strict=True)))  # type: ignore[arg-type]


TRIALS = [
    Trial(number, replace(TINY, latent_size=number + 1), '{"params": {"latent_size": 1}}') for number in range(len(NUMBERS))
]


class OneRound:
    """A search of one round."""

    study, ended_early = None, "no more"

    def __init__(self, trials: list[Trial]) -> None:
        self.trials, self.told = list(trials), list[int]()

    def next_round(self) -> list[Trial]:
        """All of them, once."""
        trials, self.trials = self.trials, []
        return trials

    def tell(self, record: TrialRecord) -> None:
        """Keeps the number."""
        self.told.append(record.trial.number)

    def is_hopeless(self, number: int, stages: Sequence[float]) -> bool:
        """Always."""
        return True


def numbers_of(records: Sequence[TrialRecord]) -> list[int]:
    """The trials' numbers."""
    return [record.trial.number for record in records]


def test_the_best_and_the_front_are_chosen() -> None:
    """With several objectives the front whatever is asked for, and the best in the first one; with one objective the best."""
    records = [record_of(trial, numbers) for trial, numbers in zip(TRIALS, NUMBERS, strict=True)]
    assert numbers_of(best_trials(records, study_of(1), ["down", "up"])) == [0, 1, 2, 4]
    assert numbers_of(best_trials(records, study_of(3), ["down", "up"])) == [0, 1, 2, 3, 4]
    assert numbers_of(best_trials(records, study_of(2, ["val/mse"]), ["down"])) == [1, 2]
    assert numbers_of(best_trials(records, study_of(2, ["transfer_accuracy"]), ["up"])) == [0, 4]


def test_what_did_not_finish_is_not_chosen() -> None:
    """Neither a trial that failed or was pruned, nor one of which an objective is not defined."""
    records = [record_of(trial, numbers) for trial, numbers in zip(TRIALS, NUMBERS, strict=True)]
    records[1] = record_of(TRIALS[1], NUMBERS[1], "failed")
    records[2] = record_of(TRIALS[2], NUMBERS[2], "pruned")
    records[0] = replace(records[0], metrics={"val/mse": 0.01})
    assert numbers_of(best_trials(records, study_of(5), ["down", "up"])) == [3, 4]


def through(search: ConfirmedSearch) -> list[list[Trial]]:
    """Runs a search to its end; gives its rounds."""
    rounds = []
    while trials := search.next_round():
        rounds.append(trials)
        for trial in trials:
            search.tell(record_of(trial, NUMBERS[trial.number] if trial.number < len(NUMBERS) else (0.6, 0.5)))
    return rounds


def test_the_last_round_trains_the_chosen_from_seeds_of_their_own() -> None:
    """Every replicate has its trial's configuration with another seed, and a number that says of which trial it is."""
    inner = OneRound(TRIALS)
    first, last = through(ConfirmedSearch(inner, study_of(1), ["down", "up"], {}))
    assert first == TRIALS
    assert [trial.number for trial in last] == [
        1_000_000,
        1_001_000,
        1_002_000,
        1_004_000,
        1_000_001,
        1_001_001,
        1_002_001,
        1_004_001,
    ]
    for trial in last:
        origin = TRIALS[json.loads(trial.proposal)["confirms"]]
        assert trial.config.replicate_of == origin.config.replicate_of
        assert is_confirmation(trial.number)
    assert {trial.config.seed for trial in last} == {1, 2}
    assert inner.told == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("cut", [3, 5, 7, 13])
def test_a_resumed_search_confirms_the_same_trials(cut: int) -> None:
    """Cut off before, in or after the last round."""
    trials = [trial for each in through(ConfirmedSearch(OneRound(TRIALS), study_of(1), ["down", "up"], {})) for trial in each]
    ended = {trial.number: record_of(trial, NUMBERS[trial.number] if trial.number < 5 else (0.6, 0.5)) for trial in trials[:cut]}
    left = [] if cut >= len(TRIALS) else TRIALS
    rounds = through(ConfirmedSearch(OneRound(left), study_of(1), ["down", "up"], ended))
    again = [trial for each in rounds for trial in each]
    assert again == ([] if cut == 13 else trials if cut == 3 else trials[5:])


def test_a_confirmation_is_trained_to_its_end() -> None:
    """The search may give up its own trials, not those; and what it says of its end goes on."""
    search = ConfirmedSearch(OneRound(TRIALS), study_of(1), ["down", "up"], {})
    assert search.is_hopeless(3, [1.0])
    assert not search.is_hopeless(1_003_000, [1.0])
    assert search.ended_early == "no more"


def test_replicates_are_given_with_the_trial_that_they_confirm() -> None:
    """Those that finished, by trial; a trial without any is left out."""
    rounds = through(ConfirmedSearch(OneRound(TRIALS), study_of(1), ["down", "up"], {}))
    records = [record_of(trial, (0.6, 0.5)) for each in rounds for trial in each]
    records[-1] = replace(records[-1], status="failed")
    found = confirmed(records)
    assert [(each.found.trial.number, len(each.replicates)) for each in found] == [(0, 2), (1, 2), (2, 2), (4, 1)]
