"""From what Optuna was asked for to a configuration: the study's base, fields that are set, records that no longer fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from harness.config import StudyConfig, Trial, TrialConfig, TrialRecord
from harness.models import resolve
from harness.plan import grid_trials
from harness.rules import UserError
from harness.search import GridSearch, SamplerSearch
from tests.searching import open_search, pretend, run, sampler_study
from tests.support import TINY


def test_more_trials_continue_a_shorter_search() -> None:
    """The first trials of a longer search are those of a shorter one, also where its last round was cut short."""
    short: dict[int, TrialRecord] = {}
    list(run(open_search(sampler_study("random", trials=6), {}), short))
    longer = dict(short)
    list(run(open_search(sampler_study("random", trials=12), dict(short)), longer))
    whole: dict[int, TrialRecord] = {}
    list(run(open_search(sampler_study("random", trials=12), {}), whole))
    assert {n: r.trial.config for n, r in longer.items()} == {n: r.trial.config for n, r in whole.items()}


def test_a_search_stays_on_the_datasets_of_its_study() -> None:
    """What a search space says of the images is the study's, whose dataset the sweep is named by."""
    study = sampler_study("random", trials=2, base=TrialConfig(dataset="npz:mine.npz", split_seed=3))
    configs = [trial.config for trial in open_search(study, {}).next_round()]
    assert {(config.dataset, config.split_seed) for config in configs} == {("npz:mine.npz", 3)}


def test_an_axis_may_have_the_architectures_own_value() -> None:
    """A grid over an architecture's own depth and another one is a grid over two numbers."""
    study = StudyConfig(question="?", base=TINY, grid={"depth": (None, 2)}, seeds=1)
    search = GridSearch(study, ["down"], grid_trials(study), {})
    assert len(search.next_round()) == 2
    assert [trial.params["depth"] for trial in search.study.trials] == [3, 2]


def test_a_field_that_is_set_stays_as_it_is_and_optuna_knows() -> None:
    """An override of a searched field holds in the configuration and in Optuna's own parameters."""
    search = open_search(sampler_study("tpe", trials=8), {}, {"latent_size": 12, "batch_size": 32})
    ended: dict[int, TrialRecord] = {}
    list(run(search, ended))
    assert {(record.trial.config.latent_size, record.trial.config.batch_size) for record in ended.values()} == {(12, 32)}
    assert {trial.params["latent_size"] for trial in search.study.trials} == {12}


def mixed_space(trial: Any) -> TrialConfig:
    """Networks with and without convolutions, and a default that Optuna was asked for."""
    architecture = trial.suggest_categorical("architecture", ["base", "linear"])
    return TrialConfig(architecture=architecture, latent_size=trial.suggest_int("latent_size", 10, 30), batch_size=32)


def mixed_configs(base: TrialConfig, overrides: dict[str, Any]) -> list[TrialConfig]:
    """What is trained of such a space."""
    study = sampler_study("random", trials=12, base=replace(base, **overrides))
    ended: dict[int, TrialRecord] = {}
    list(run(SamplerSearch(study, ["down"], mixed_space, overrides, resolve, {}), ended))
    configs = [record.trial.config for record in ended.values()]
    assert {config.architecture for config in configs} == ({"linear"} if "architecture" in overrides else {"base", "linear"})
    return configs


def test_the_base_of_a_study_counts_in_a_search_where_the_space_leaves_a_default() -> None:
    """Not over what the space sets, nor over what Optuna was asked for, nor for an architecture that lacks the field."""
    base = TrialConfig(epochs=3, labels=20, depth=2, batch_size=16, latent_size=5, seed=4)
    for config in mixed_configs(base, {}):
        assert (config.epochs, config.labels, config.batch_size, config.seed) == (3, 20, 32, 4)
        assert config.depth == (2 if config.architecture == "base" else None)
        assert config.latent_size >= 10


def test_a_field_that_is_set_is_for_the_architectures_that_have_it() -> None:
    """The others are proposed without it; where the architecture is set too, and lacks the field, that is an error."""
    for config in mixed_configs(TrialConfig(), {"depth": 2, "batch_norm": True, "epochs": 7}):
        assert (config.depth, config.batch_norm) == ((2, True) if config.architecture == "base" else (None, None))
        assert config.epochs == 7
    with pytest.raises(UserError, match="architecture 'linear' has no depth"):
        mixed_configs(TrialConfig(), {"depth": 2, "architecture": "linear"})


def test_the_base_may_name_the_architecture() -> None:
    """Of a space that says nothing of it."""
    study = sampler_study("random", trials=2, base=TrialConfig(architecture="linear"))
    search = SamplerSearch(study, ["down"], lambda trial: TrialConfig(latent_size=trial.suggest_int("d", 2, 9)), {}, resolve, {})
    assert {trial.config.architecture for trial in search.next_round()} == {"linear"}


def test_a_search_space_that_raises_is_one_line() -> None:
    """The error names the study and what was raised."""
    study = sampler_study("random", trials=2, name="mine")
    search = SamplerSearch(study, ["down"], lambda trial: 1 / 0, {}, resolve, {})  # type: ignore[arg-type,return-value]
    with pytest.raises(UserError, match="search_space of study mine raises ZeroDivisionError: division by zero"):
        search.next_round()


def test_a_record_that_no_longer_fits_the_proposals_is_refused() -> None:
    """Rather than mixing two searches the error says to go on with the old version or start afresh."""
    study = sampler_study("random", trials=4)
    foreign = pretend(Trial(2, resolve(TINY)))
    with pytest.raises(UserError, match=r"trial 2 was recorded with another configuration.*--fresh"):
        open_search(study, {2: foreign}).next_round()
