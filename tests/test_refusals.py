"""No network is proposed twice, and none that is too large; a search comes to its end all the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from harness.config import StudyConfig, TrialConfig, TrialRecord
from harness.library import load_study
from harness.models import parameters, resolve
from harness.samplers import SAMPLERS
from harness.search import SamplerSearch
from tests.searching import run, sampler_study, search_space


def few_choices(trial: Any) -> TrialConfig:
    """Twelve configurations in all, two of them the same one: base is three convolutions deep."""
    return TrialConfig(
        latent_size=trial.suggest_categorical("latent_size", [2, 5, 10]),
        depth=trial.suggest_categorical("depth", [None, 3, 2, 4]),
    )


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_no_configuration_is_proposed_twice(sampler: str) -> None:
    """However few there are; when there are no more the search ends, and says so."""
    study = sampler_study(sampler, trials=30)
    search = SamplerSearch(study, ["down"], few_choices, {}, resolve, {})
    ended: dict[int, TrialRecord] = {}
    list(run(search, ended))
    configs = [record.trial.config for record in ended.values()]
    assert len(set(configs)) == len(configs) == 9
    assert sorted(ended) == list(range(9))
    assert "ended SHORT, with 9 of 30 trials" in search.ended_early
    assert "above max_parameters (none)" in search.ended_early


def test_no_network_is_proposed_twice_under_two_names() -> None:
    """``heavy`` is ``base`` with a width of 32."""

    def space(trial: Any) -> TrialConfig:
        names, widths = ["base", "heavy"], [16, 32]
        return TrialConfig(
            architecture=trial.suggest_categorical("architecture", names), width=trial.suggest_categorical("width", widths)
        )

    ended: dict[int, TrialRecord] = {}
    list(run(SamplerSearch(sampler_study("random", trials=9), ["down"], space, {}, resolve, {}), ended))
    assert sorted(record.trial.config.width or 0 for record in ended.values()) == [16, 32]


@pytest.mark.parametrize("sampler", list(SAMPLERS))
@pytest.mark.parametrize("cut", range(1, 6))
def test_a_search_with_refused_proposals_resumes_with_the_same_ones(sampler: str, cut: int) -> None:
    """Proposals that were trained already, or too large, are no part of what is stored, and change nothing afterwards."""
    study = sampler_study(sampler, trials=30, max_parameters=100)

    def open_few(ended: Mapping[int, TrialRecord]) -> SamplerSearch:
        return SamplerSearch(study, ["down"], few_choices, {}, resolve, ended, lambda config: 100 + (config.latent_size == 2))

    whole: dict[int, TrialRecord] = {}
    list(run(open_few({}), whole))
    assert {record.trial.config.latent_size for record in whole.values()} == {5, 10}
    resumed = dict(sorted(whole.items())[:cut])
    list(run(open_few(dict(resumed)), resumed))
    assert {number: record.trial for number, record in resumed.items()} == {n: record.trial for n, record in whole.items()}


def open_shipped(study: StudyConfig, ended: Mapping[int, TrialRecord]) -> SamplerSearch:
    """The search of ``studies/architecture_search.py`` on 8 x 8 images."""
    ways, space = ["down", "down", "up"], load_study("architecture_search").search_space
    assert space is not None
    return SamplerSearch(study, ways, space, {}, resolve, ended, partial(parameters, (1, 8, 8)))


def run_where_larger_is_better(search: SamplerSearch, ended: dict[int, TrialRecord], study: StudyConfig) -> None:
    """To the end, with numbers that draw a model to what is too large."""
    while trials := search.next_round():
        for trial in (trial for trial in trials if trial.number not in ended):
            size, code = parameters((1, 8, 8), trial.config), trial.config.latent_size
            values = (1 / size, code / 30, size / 3e5 + code / 100)
            metrics = dict(zip(study.objectives, values, strict=True))
            ended[trial.number] = TrialRecord(f"run-{trial.number}", trial, "finished", metrics)
            search.tell(ended[trial.number])


@pytest.mark.parametrize("seed", [2, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (0, 1))])
def test_the_shipped_search_comes_to_its_end_where_larger_is_better(seed: int) -> None:
    """All its trials, no two the same and none too large; one that resumes proposes the same, those drawn at random too."""
    study = replace(load_study("architecture_search").study, sweep_seed=seed)
    whole: dict[int, TrialRecord] = {}
    search = open_shipped(study, {})
    run_where_larger_is_better(search, whole, study)
    assert len({record.trial.config for record in whole.values()}) == study.trials == 48
    assert search.ended_early == ""
    assert max(parameters((1, 8, 8), record.trial.config) for record in whole.values()) <= (study.max_parameters or 0)
    resumed = {number: whole[number] for number in range(44)}
    run_where_larger_is_better(open_shipped(study, dict(resumed)), resumed, study)
    assert resumed == whole


def test_what_is_too_large_is_not_trained() -> None:
    """Every trial is within the limit, and there are as many as without one; where sizes are not known none is refused."""
    study = sampler_study("tpe", trials=12, max_parameters=20)
    sizes: list[list[int]] = []
    for count in (None, lambda config: config.latent_size):
        ended: dict[int, TrialRecord] = {}
        list(run(SamplerSearch(study, ["down"], search_space, {}, resolve, {}, count), ended))
        sizes.append([record.trial.config.latent_size for record in ended.values()])
    assert len(sizes[0]) == len(sizes[1]) == 12
    assert max(sizes[1]) <= 20 < max(sizes[0])
