"""Grids and samplers: every trial an Optuna trial, and a resumed sweep proposes what an uninterrupted one would have."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from harness.config import STAGE_METRICS, StudyConfig, Trial, TrialConfig, TrialRecord
from harness.library import load_study
from harness.models import parameters, resolve
from harness.plan import grid_trials
from harness.rules import UserError
from harness.samplers import SAMPLERS, check_sampler, stage_values
from harness.search import GridSearch, SamplerSearch
from tests.support import TINY

DIRECTIONS = {"val/mse": "down", "transfer_accuracy": "up"}


def search_space(trial: Any) -> TrialConfig:
    """Two numbers and a word, as a study file would have them."""
    return TrialConfig(
        latent_size=trial.suggest_int("latent_size", 1, 40),
        learning_rate=trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True),
        activation=trial.suggest_categorical("activation", ["relu", "gelu"]),
    )


def sampler_study(sampler: str, objectives: tuple[str, ...] = ("val/mse",), trials: int = 14, **fields: Any) -> StudyConfig:
    """A study that searches."""
    return StudyConfig(question="?", sampler=sampler, objectives=objectives, trials=trials, round_size=4, **fields)


def open_search(study: StudyConfig, ended: Mapping[int, TrialRecord], overrides: dict[str, Any] | None = None) -> SamplerSearch:
    """The search of such a study."""
    ways = [DIRECTIONS[name] for name in study.objectives]
    return SamplerSearch(study, ways, search_space, overrides or {}, resolve, ended)


def pretend(trial: Trial) -> TrialRecord:
    """A record with numbers that depend on the configuration; every ninth trial fails."""
    config = trial.config
    metrics = {"val/mse": abs(config.latent_size - 17) / 40 + config.learning_rate, "transfer_accuracy": 1 / config.latent_size}
    return TrialRecord(f"run-{trial.number}", trial, "failed" if trial.number % 9 == 8 else "finished", metrics)


def run(search: SamplerSearch | GridSearch, ended: dict[int, TrialRecord]) -> Iterator[TrialRecord]:
    """Runs a search to its end, the trials of a round in another order than asked."""
    while trials := search.next_round():
        for trial in reversed([trial for trial in trials if trial.number not in ended]):
            ended[trial.number] = pretend(trial)
            search.tell(ended[trial.number])
            yield ended[trial.number]


@pytest.mark.parametrize("sampler", list(SAMPLERS))
@pytest.mark.parametrize("cut", [1, 8, 11])
def test_a_resumed_search_proposes_what_an_uninterrupted_one_would_have(sampler: str, cut: int) -> None:
    """Cut off after any number of trials, within a round or between two, every sampler goes on the same way."""
    study = sampler_study(sampler)
    whole = {record.trial.number: record for record in run(open_search(study, {}), {})}
    some = dict(list(whole.items())[:cut])
    resumed = dict(some)
    list(run(open_search(study, dict(some)), resumed))
    assert {number: record.trial.config for number, record in resumed.items()} == {
        number: record.trial.config for number, record in whole.items()
    }
    assert len(resumed) == 14


@pytest.mark.parametrize("sampler", [name for name, sampler in SAMPLERS.items() if sampler.several_objectives])
def test_samplers_take_several_objectives_where_they_say_so(sampler: str) -> None:
    """Two objectives in opposite directions, and Optuna holds a value for each of every finished trial."""
    study = sampler_study(sampler, ("val/mse", "transfer_accuracy"), trials=10)
    search = open_search(study, {})
    check_sampler(study)
    list(run(search, {}))
    search.next_round()
    assert [way.name for way in search.study.directions] == ["MINIMIZE", "MAXIMIZE"]
    complete = [trial for trial in search.study.trials if trial.state == TrialState.COMPLETE]
    assert all(len(trial.values) == 2 for trial in complete)
    assert len(complete) == 9


def test_a_sampler_for_one_objective_refuses_several() -> None:
    """The error names the samplers that take several."""
    with pytest.raises(UserError, match=r"'cmaes' takes one objective and the study has 2: use one of random, tpe"):
        check_sampler(sampler_study("cmaes", ("val/mse", "transfer_accuracy")))


def test_an_unknown_sampler_is_named_with_the_nearest() -> None:
    """One line with the allowed ones."""
    with pytest.raises(UserError, match=r"unknown sampler 'tpee': allowed are .*did you mean 'tpe'"):
        check_sampler(sampler_study("tpee"))


def test_a_model_based_sampler_learns_of_results_and_of_failures() -> None:
    """After all rounds Optuna holds every value and every failure, in the order of the numbers; a failure has no value.

    To the sampler it is a trial that was stopped; in the study that is shown it has failed.
    """
    search, ended = open_search(sampler_study("tpe", trials=18), {}), dict[int, TrialRecord]()
    list(run(search, ended))
    for study, state in ((search._asked, TrialState.PRUNED), (search.study, TrialState.FAIL)):
        assert len(study.trials) == 18
        for trial in study.trials:
            record = ended[trial.number]
            assert trial.state == (state if record.status == "failed" else TrialState.COMPLETE)
            assert trial.values == (None if record.status == "failed" else [record.metrics["val/mse"]])


def test_what_stands_in_for_the_value_of_a_failed_trial_is_seen_by_the_sampler_only() -> None:
    """It is the mean of the others, in a trial that violates a constraint; the study that is shown has neither."""
    search, ended = open_search(sampler_study("gp", trials=12), {}), dict[int, TrialRecord]()
    list(run(search, ended))
    search._mark_failures(12)
    values = [record.metrics["val/mse"] for number, record in ended.items() if number != 8]
    told, shown = search._asked.trials[8], search.study.trials[8]
    assert (told.state, told.constraints) == (TrialState.COMPLETE, {"failed": 1.0})
    assert told.value == pytest.approx(sum(values) / len(values))
    assert (shown.state, shown.values, shown.constraints) == (TrialState.FAIL, None, {})
    assert search._asked.best_trial.constraints == {"failed": -1.0}


def failures_at_the_end(sampler: str, objectives: tuple[str, ...] = ("val/mse",)) -> int:
    """Of the last 12 of 28 trials, in a search where all that looks best cannot be trained."""
    study = sampler_study(sampler, objectives, trials=28)
    search, ended = open_search(study, {}), dict[int, TrialRecord]()
    while trials := search.next_round():
        for trial in trials:
            rate = trial.config.learning_rate
            metrics = {"val/mse": -math.log(rate), "transfer_accuracy": rate}
            ended[trial.number] = TrialRecord("run", trial, "failed" if rate > 3e-3 else "finished", metrics)
            search.tell(ended[trial.number])
    return sum(ended[number].status == "failed" for number in range(16, 28))


@pytest.mark.parametrize("objectives", [("val/mse",), pytest.param(("val/mse", "transfer_accuracy"), marks=pytest.mark.slow)])
@pytest.mark.parametrize("sampler", [name for name, sampler in SAMPLERS.items() if sampler.failures != "left out"])
def test_a_model_keeps_away_from_where_trials_fail(
    sampler: str, objectives: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It proposes far fewer that fail than it would if their failures were left out."""
    found = failures_at_the_end(sampler, objectives)
    monkeypatch.setitem(SAMPLERS, sampler, replace(SAMPLERS[sampler], failures="left out"))
    assert found < failures_at_the_end(sampler, objectives) / 2


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_a_search_in_which_all_fails_goes_on_to_its_end(sampler: str) -> None:
    """There is nothing to learn but that."""
    search, asked = open_search(sampler_study(sampler, trials=24), {}), 0
    while trials := search.next_round():
        for trial in trials:
            search.tell(TrialRecord("run", trial, "failed"))
        asked += len(trials)
    assert asked == 24


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_a_failed_trial_that_finishes_in_a_later_attempt_changes_no_other_proposal(sampler: str) -> None:
    """The others were proposed in the knowledge that it failed: the search goes on from that."""
    whole = {record.trial.number: record for record in run(open_search(sampler_study(sampler, trials=14), {}), {})}
    ended = {number: record for number, record in whole.items() if record.status == "finished"}
    assert len(ended) == 13
    search = open_search(sampler_study(sampler, trials=14), dict(ended))
    while trials := search.next_round():
        for trial in (trial for trial in trials if trial.number not in ended):
            ended[trial.number] = replace(pretend(trial), status="finished", failed_before=True)
            search.tell(ended[trial.number])
    assert {number: record.trial for number, record in ended.items()} == {n: record.trial for n, record in whole.items()}
    longer = open_search(sampler_study(sampler, trials=18), ended)
    assert [trial.number for trial in longer.next_round() if trial.number not in ended] == [*range(14, 16)]


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


def test_every_point_of_a_grid_is_a_trial_of_the_optuna_study() -> None:
    """Numbers, parameters, values and failures agree between the table and Optuna, for a part that had ended before too."""
    study = StudyConfig(question="?", base=TINY, grid={"architecture": ("base", "linear"), "latent_size": (2, 5, 7)}, seeds=3)
    trials = grid_trials(study)
    ended = {number: pretend(trials[number]) for number in (0, 3, 8, 17)}
    search = GridSearch(study, ["down"], trials, ended)
    todo = [trial for trial in search.next_round() if trial.number not in ended]
    assert len(todo) == 14
    for trial in reversed(todo):
        search.tell(pretend(trial))
    assert search.next_round() == []
    assert len(search.study.trials) == 18
    for trial, known in zip(trials, search.study.trials, strict=True):
        config, record = trial.config, pretend(trial)
        assert known.params == {"architecture": config.architecture, "latent_size": config.latent_size, "seed": config.seed}
        assert known.state == (TrialState.FAIL if record.status == "failed" else TrialState.COMPLETE)
        assert known.values == (None if record.status == "failed" else [record.metrics["val/mse"]])
    assert isinstance(optuna.importance.get_param_importances(search.study), dict)


def test_a_point_of_a_grid_that_is_under_way_is_a_running_trial_of_the_study() -> None:
    """Optuna knows of it from the beginning, with its axes; one that had ended before keeps its state and its values."""
    study = StudyConfig(question="?", base=TINY, grid={"latent_size": (2, 5, 7)}, seeds=3)
    trials = grid_trials(study)
    search = GridSearch(study, ["down"], trials, {number: pretend(trials[number]) for number in (1, 8)})
    search.next_round()
    known = search.study.trials
    assert [trial.number for trial in known] == list(range(9))
    assert [trial.state.name for trial in known] == ["RUNNING", "COMPLETE", *["RUNNING"] * 6, "FAIL"]
    assert known[0].distributions["latent_size"] == optuna.distributions.CategoricalDistribution((2, 5, 7))
    assert all((trial.datetime_complete is not None) == trial.state.is_finished() for trial in known)
    search.tell(pretend(trials[0]))
    assert search.study.best_trial.number == min((0, 1), key=lambda number: pretend(trials[number]).metrics["val/mse"])


def test_a_grid_can_be_copied_to_another_storage() -> None:
    """Whatever storage a study is copied to for looking at it takes every trial as it is."""
    study = StudyConfig(question="?", base=TINY, grid={"latent_size": (2, 5)}, seeds=2)
    search = GridSearch(study, ["down"], grid_trials(study), {})
    for trial in search.next_round():
        search.tell(pretend(trial))
    copy = optuna.create_study(study_name="copy", storage="sqlite:///optuna.db")
    copy.add_trials(search.study.trials)
    assert [(trial.params, trial.values) for trial in copy.trials] == [
        (trial.params, trial.values) for trial in search.study.trials
    ]


def test_a_grid_that_has_ended_gives_no_round() -> None:
    """There is nothing left to train."""
    study = StudyConfig(question="?", base=TINY, grid={"latent_size": (2, 5)}, seeds=1)
    trials = grid_trials(study)
    assert GridSearch(study, ["down"], trials, {trial.number: pretend(trial) for trial in trials}).next_round() == []
