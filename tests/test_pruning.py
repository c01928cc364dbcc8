"""Hopeless trials are given up after a third or two of their training, the same ones when a search resumes."""

from __future__ import annotations

import pytest

from harness.config import STAGE_METRICS, Trial, TrialRecord
from harness.samplers import SAMPLERS, stage_values
from harness.search import SamplerSearch
from tests.searching import open_search, sampler_study


def with_stages(trial: Trial) -> TrialRecord:
    """A record that has been through every stage, or was given up after the first where its code is larger than 30."""
    loss = abs(trial.config.latent_size - 17) / 40
    stages = {name: loss + extra for name, extra in zip(STAGE_METRICS, (0.2, 0.1), strict=True)}
    if trial.config.latent_size > 30:
        return TrialRecord(f"run-{trial.number}", trial, "pruned", {STAGE_METRICS[0]: stages[STAGE_METRICS[0]]})
    return TrialRecord(f"run-{trial.number}", trial, "finished", {"val/mse": loss, **stages})


def test_a_pruner_gives_up_what_is_worse_than_the_median_of_rounds_that_are_over() -> None:
    """Not before there are five of them; and the trials under way in the same round make no difference."""
    search = open_search(sampler_study("random", trials=12, pruner="median"), {})
    for _ in range(2):
        trials = search.next_round()
        assert not any(search.is_hopeless(trial.number, [0.3]) for trial in trials)
        for trial in trials:
            search.tell(TrialRecord("", trial, "finished", {"val/mse": 0.1, STAGE_METRICS[0]: 0.3, STAGE_METRICS[1]: 0.2}))
    first, second, third, _ = (trial.number for trial in search.next_round())
    assert search.is_hopeless(first, [0.31])
    assert not search.is_hopeless(second, [0.29])
    assert search.is_hopeless(second, [0.29, 0.21])
    assert not search.is_hopeless(third, [0.1, 0.19])


def test_a_pruner_waits_for_enough_trials_to_compare_with() -> None:
    """With four that are over the worst one goes on."""
    search = open_search(sampler_study("random", trials=12, pruner="median"), {})
    for trial in search.next_round():
        search.tell(TrialRecord("", trial, "finished", {"val/mse": 0.1, STAGE_METRICS[0]: 0.3, STAGE_METRICS[1]: 0.2}))
    assert not any(search.is_hopeless(trial.number, [9.0]) for trial in search.next_round())


@pytest.mark.parametrize("sampler", list(SAMPLERS))
@pytest.mark.parametrize("cut", [1, 5, 8, 10])
def test_a_search_with_a_pruner_resumes_with_the_same_proposals_and_judgements(sampler: str, cut: int) -> None:
    """Optuna holds the same trials, with the same states and stages, whether it was there all the time or was rebuilt."""
    study = sampler_study(sampler, trials=16, pruner="median")

    judged: dict[int, bool] = {}

    def through(ended: dict[int, TrialRecord]) -> SamplerSearch:
        search = open_search(study, dict(ended))
        while trials := search.next_round():
            for trial in trials:
                is_hopeless = search.is_hopeless(trial.number, stage_values(with_stages(trial).metrics)[:1])
                assert judged.setdefault(trial.number, is_hopeless) == is_hopeless
                if trial.number not in ended:
                    ended[trial.number] = with_stages(trial)
                    search.tell(ended[trial.number])
        return search

    whole: dict[int, TrialRecord] = {}
    first = through(whole)
    resumed = dict(list(whole.items())[:cut])
    second = through(resumed)
    assert resumed == whole
    assert {record.status for record in whole.values()} == {"finished", "pruned"}
    held = [
        [(trial.state, trial.values, trial.params, trial.intermediate_values) for trial in search.study.trials]
        for search in (first, second)
    ]
    assert held[0] == held[1]
    assert any(judged.values())
