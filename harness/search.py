"""The Optuna study of a sweep, in memory: what to train next, rebuilt from what has ended. The only file that knows Optuna."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, distribution_to_json, json_to_distribution
from optuna.trial import FrozenTrial, TrialState

from harness.config import DATASET_FIELDS, StudyConfig, Trial, TrialConfig, TrialRecord, fingerprint
from harness.library import SearchSpace
from harness.rules import UserError, unknown

Resolve = Callable[[TrialConfig], TrialConfig]
"""Fills in the fields that a configuration leaves to its architecture."""

DIRECTIONS: dict[str, Literal["minimize", "maximize"]] = {"down": "minimize", "up": "maximize"}


class GridSearch:
    """Every point of the harness's own table, each of them a trial of an Optuna study as well."""

    def __init__(
        self, study: StudyConfig, directions: Sequence[str], trials: Sequence[Trial], ended: Mapping[int, TrialRecord]
    ) -> None:
        self._objectives, self._trials, self._ended = study.objectives, trials, ended
        self._axes: dict[str, BaseDistribution] = {
            name: CategoricalDistribution(list(dict.fromkeys(getattr(trial.config, name) for trial in trials)))
            for name in [*study.grid, "seed"]
        }
        self.study = new_study(directions)
        self._is_open = True

    def next_round(self) -> list[Trial]:
        """The whole table, the first time, if any of its trials has not ended; nothing otherwise."""
        if not self._is_open or all(trial.number in self._ended for trial in self._trials):
            return []
        self._is_open = False
        self.study.add_trials([self._entry(trial) for trial in self._trials])
        return list(self._trials)

    def tell(self, record: TrialRecord) -> None:
        """Tells Optuna how a trial has ended."""
        values = objective_values(record, self._objectives)
        self.study.tell(record.trial.number, values, state=TrialState.COMPLETE if values else TrialState.FAIL)

    def _entry(self, trial: Trial) -> FrozenTrial:
        """An ended trial as it was, any other as one under way. Optuna's numbers are the trials' own: all come in order."""
        params = {name: getattr(trial.config, name) for name in self._axes}
        if record := self._ended.get(trial.number):
            _check_same(record, trial.config)
        return frozen(record, params, self._axes, self._objectives)


class SamplerSearch:
    """What one of Optuna's samplers proposes, in rounds of a fixed size.

    The sampler is seeded anew for each round from (sweep seed, trials asked so far), and learns of a round's results in
    the order of their numbers when the round is over: so neither workers nor interruptions change what it proposes.
    """

    def __init__(
        self,
        study: StudyConfig,
        directions: Sequence[str],
        search_space: SearchSpace,
        overrides: Mapping[str, Any],
        resolve: Resolve,
        ended: Mapping[int, TrialRecord],
    ) -> None:
        self._config, self._space, self._overrides, self._resolve = study, search_space, dict(overrides), resolve
        self._sampler = SAMPLERS[study.sampler]
        self._results = dict(ended)
        self._round: dict[int, optuna.Trial] = {}
        self.study = new_study(directions, self._new_sampler(0))

    def next_round(self) -> list[Trial]:
        """All trials of the next round in which some have not ended; nothing when all rounds are over."""
        total = self._config.trials or 0
        while (first := self._close_round()) < total:
            numbers = range(first, min(first + self._config.round_size, total))
            if not self._sampler.keeps_state and all(number in self._results for number in numbers):
                for number in numbers:
                    self._restore(self._results[number])
                continue
            self.study.sampler = self._new_sampler(first)
            proposed = [self._propose(number) for number in numbers]
            if any(trial.number not in self._results for trial in proposed):
                return proposed
        return []

    def tell(self, record: TrialRecord) -> None:
        """Keeps a result until the round is over."""
        self._results[record.trial.number] = record

    def _close_round(self) -> int:
        """Tells Optuna the round's results in order; gives the number of trials asked so far."""
        for number in sorted(self._round):
            values = objective_values(self._results[number], self._config.objectives)
            self.study.tell(number, values, state=TrialState.COMPLETE if values else TrialState.FAIL)
        self._round = {}
        return len(self.study.get_trials(deepcopy=False))

    def _propose(self, number: int) -> Trial:
        asked = self.study.ask()
        shared = {name: getattr(self._config.base, name) for name in DATASET_FIELDS}  # a sweep has one dataset
        config = self._resolve(replace(self._ask_space(asked), **(self._overrides | shared)))
        self._round[number] = asked
        if number in self._results:
            _check_same(self._results[number], config)
        distributions = {name: distribution_to_json(each) for name, each in asked.distributions.items()}
        return Trial(number, config, json.dumps({"params": asked.params, "distributions": distributions}))

    def _ask_space(self, asked: optuna.Trial) -> TrialConfig:
        where = f"search_space of study {self._config.name}"
        try:
            with warnings.catch_warnings():
                # Optuna only warns of a value that no distribution holds, and cannot rebuild the trial afterwards
                warnings.filterwarnings("error", message="Fixed parameter")
                config = self._space(asked)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        except Exception as error:  # the user's code: whatever it raises is theirs to read
            raise UserError(f"{where} raises {type(error).__name__}: {error}") from error
        if not isinstance(config, TrialConfig):
            raise UserError(f"{where} gives {config!r}: allowed is a TrialConfig")
        return config

    def _restore(self, record: TrialRecord) -> None:
        self.study.add_trial(frozen(record, *proposed(record), self._config.objectives))

    def _new_sampler(self, asked: int) -> optuna.samplers.BaseSampler:
        seed = int(fingerprint([self._config.sweep_seed, asked]), 16) % 2**31
        sampler = self._sampler.make(seed)
        fixed = {name: value for name, value in self._overrides.items() if value is not None}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.PartialFixedSampler(fixed, sampler) if fixed else sampler


def proposed(record: TrialRecord) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """The parameters that a sampler has proposed for a trial, and their distributions."""
    proposal = json.loads(record.trial.proposal)
    return proposal["params"], {name: json_to_distribution(text) for name, text in proposal["distributions"].items()}


def new_study(directions: Sequence[str], sampler: optuna.samplers.BaseSampler | None = None) -> optuna.Study:
    """An empty study in memory."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(directions=[DIRECTIONS[way] for way in directions], sampler=sampler)


def objective_values(record: TrialRecord, objectives: Sequence[str]) -> list[float] | None:
    """The objectives of an ended trial; nothing where it failed or one is not defined."""
    values = [record.metrics.get(name) for name in objectives]
    if record.status != "finished" or any(value is None for value in values):
        return None
    return [float(value) for value in values if value is not None]


def check_sampler(study: StudyConfig) -> None:
    """Checks the sampler's name and that it can do what the study asks.

    Raises:
        UserError: if it is unknown, or is given several objectives and takes one.
    """
    if study.sampler == "grid":
        return
    if study.sampler not in SAMPLERS:
        raise unknown("sampler", study.sampler, ["grid", *SAMPLERS])
    if len(study.objectives) > 1 and not SAMPLERS[study.sampler].several_objectives:
        able = ", ".join(name for name, sampler in SAMPLERS.items() if sampler.several_objectives)
        raise UserError(
            f"sampler {study.sampler!r} takes one objective and the study has {len(study.objectives)}: use one of {able}"
        )


def _check_same(record: TrialRecord, config: TrialConfig) -> None:
    if record.trial.config != config:
        raise UserError(
            f"trial {record.trial.number} was recorded with another configuration than it would have now "
            "(another version of Optuna?): go on with the one that started it, or start again with --fresh"
        )


def frozen(
    record: TrialRecord | None, params: dict[str, Any], distributions: dict[str, BaseDistribution], objectives: Sequence[str]
) -> FrozenTrial:
    """A trial to add to an Optuna study: ended as its record says, or under way where there is none.

    Not by ``create_trial``, which compares every distribution with a copy of itself, value by value: of a long axis that
    costs more than all else.
    """
    values = objective_values(record, objectives) if record else None
    now = datetime.now()
    return FrozenTrial(
        number=-1,  # the study gives it one, and an id
        trial_id=-1,
        state=(TrialState.COMPLETE if values else TrialState.FAIL) if record else TrialState.RUNNING,
        value=None,
        values=values,
        datetime_start=now,
        datetime_complete=now if record else None,
        params=params,
        distributions=distributions,
        user_attrs={},
        system_attrs={},
        intermediate_values={},
    )


@dataclass(frozen=True)
class Sampler:
    """One of Optuna's samplers.

    Attributes:
        make: From a seed.
        keeps_state: Whether it keeps more in the study than the trials' parameters and values, so that a resumed sweep
            has to ask for the earlier rounds again instead of adding their trials.
        several_objectives: Whether it takes more than one.
    """

    make: Callable[[int], optuna.samplers.BaseSampler]
    keeps_state: bool = False
    several_objectives: bool = True


SAMPLERS: dict[str, Sampler] = {
    "random": Sampler(lambda seed: optuna.samplers.RandomSampler(seed=seed)),
    "tpe": Sampler(lambda seed: optuna.samplers.TPESampler(seed=seed)),
    "gp": Sampler(lambda seed: optuna.samplers.GPSampler(seed=seed)),
    "cmaes": Sampler(
        lambda seed: optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False),
        keeps_state=True,
        several_objectives=False,
    ),
    "nsga2": Sampler(lambda seed: optuna.samplers.NSGAIISampler(seed=seed), keeps_state=True),
}
