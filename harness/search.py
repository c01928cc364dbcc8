"""The Optuna study of a sweep, in memory: what to train next, rebuilt from what has ended."""

from __future__ import annotations

import json
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, distribution_to_json
from optuna.trial import FrozenTrial, TrialState

from harness.config import DATASET_FIELDS, StudyConfig, Trial, TrialConfig, TrialRecord, fingerprint
from harness.library import SearchSpace
from harness.models import applicable, same_network
from harness.rules import UserError
from harness.samplers import (
    CONSTRAINT,
    FAILED_STATES,
    SAMPLERS,
    Sampler,
    frozen,
    has_failed,
    new_study,
    objective_values,
    proposed,
    stage_values,
    state_of,
)

Resolve = Callable[[TrialConfig], TrialConfig]
"""Fills in the fields that a configuration leaves to its architecture."""

CountParameters = Callable[[TrialConfig], int]

MOST_ASKS = 100
"""For one trial: when so many proposals in a row have been trained already, or are too large, there is hardly a new one left."""

ASKS_OF_SAMPLER = 10
"""For one trial: when so many proposals in a row are refused, the rest are drawn at random. A model learns nothing of a refusal
and would propose the same few places to the end, however many others there are."""


class GridSearch:
    """Every point of the harness's own table, each of them a trial of an Optuna study as well."""

    ended_early = ""

    def __init__(
        self, study: StudyConfig, directions: Sequence[str], trials: Sequence[Trial], ended: Mapping[int, TrialRecord]
    ) -> None:
        self._objectives, self._trials, self._ended = study.objectives, trials, ended
        self._axes: dict[str, BaseDistribution] = {
            name: CategoricalDistribution(list(dict.fromkeys(getattr(trial.config, name) for trial in trials)))
            for name in [*study.axes, "seed"]
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
        self.study.tell(record.trial.number, values, state=state_of(record, self._objectives))

    def is_hopeless(self, number: int, stages: Sequence[float]) -> bool:
        """Never: every point of a grid was asked for."""
        return False

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

    No network comes twice, under whatever name, and none that is too large: Optuna is told that such a proposal has failed,
    which samplers leave out of account, and is asked again; after ``ASKS_OF_SAMPLER`` refusals chance proposes, seeded from
    (sweep seed, number of the trial). Of a trial that has failed a sampler learns in its own way (``Sampler``).
    """

    def __init__(
        self,
        study: StudyConfig,
        directions: Sequence[str],
        search_space: SearchSpace,
        overrides: Mapping[str, Any],
        resolve: Resolve,
        ended: Mapping[int, TrialRecord],
        count_parameters: CountParameters | None = None,
    ) -> None:
        """Takes what has ended of the search.

        Args:
            study: What to search.
            directions: Of its objectives.
            search_space: From an Optuna trial to a configuration.
            overrides: Fields that are set over what the search space and the study's base give.
            resolve: Fills in what a configuration leaves to its architecture.
            ended: The trials that have ended, by number.
            count_parameters: Of a resolved configuration; ``None`` where the images are not known yet: nothing is too large.
        """
        self._config, self._space, self._overrides, self._resolve = study, search_space, dict(overrides), resolve
        self._sampler, self._count_parameters = SAMPLERS[study.sampler], count_parameters
        self._results = dict(ended)
        self._round: dict[int, optuna.Trial] = {}
        self._directions = directions
        self._told: dict[int, int] = {}
        self._known: set[TrialConfig] = set()
        self._closed = 0
        self.ended_early = ""
        self._asked = new_study(directions, self._new_sampler(self._sampler, 0), study.pruner)

    @property
    def study(self) -> optuna.Study:
        """All trials of rounds that are over, as they ended; the sampler's own study has what it is told of failed ones."""
        study, records = new_study(self._directions), [self._results[number] for number in range(self._closed)]
        study.add_trials([frozen(record, *proposed(record), self._config.objectives) for record in records])
        return study

    def next_round(self) -> list[Trial]:
        """All trials of the next round in which some have not ended; nothing when all rounds are over."""
        total = self._config.trials or 0
        while (first := self._close_round()) < total and not self.ended_early:
            numbers = range(first, min(first + self._config.round_size, total))
            if not self._sampler.keeps_state and all(number in self._results for number in numbers):
                for number in numbers:
                    self._restore(self._results[number])
                continue
            if self._sampler.failures == "infeasible":
                self._mark_failures(first)
            self._asked.sampler = self._new_sampler(self._sampler, first)
            trials = self._propose_round(numbers)
            if any(trial.number not in self._results for trial in trials):
                return trials
        return []

    def tell(self, record: TrialRecord) -> None:
        """Keeps a result until the round is over."""
        self._results[record.trial.number] = record

    def is_hopeless(self, number: int, stages: Sequence[float]) -> bool:
        """Whether the pruner ends a trial of this round; a function of rounds that are over and of the trial itself.

        Args:
            number: Of the trial.
            stages: Its validation loss at the end of each stage so far.
        """
        self._report(number, stages)
        return self._round[number].should_prune()

    def _report(self, number: int, stages: Sequence[float]) -> None:
        for stage in range(self._told.get(number, 0), len(stages)):
            self._round[number].report(stages[stage], stage + 1)
        self._told[number] = max(self._told.get(number, 0), len(stages))

    def _close_round(self) -> int:
        """Tells Optuna the round's results in order; gives the number of trials asked so far."""
        for number in sorted(self._round):
            record = self._results[number]
            self._report(number, stage_values(record.metrics))
            values, state = objective_values(record, self._config.objectives), state_of(record, self._config.objectives)
            if has_failed(record, self._config.objectives):
                values, state = None, FAILED_STATES[self._sampler.failures]
                self._mark(self._round[number])
            self._asked.tell(self._round[number], values, state=state)
        self._closed += len(self._round)
        self._round, self._told = {}, {}
        return self._closed

    def _propose_round(self, numbers: range) -> list[Trial]:
        """As many trials as there are numbers; fewer where the space has no more."""
        trials: list[Trial] = []
        for number in numbers:
            trial = self._propose(number)
            if trial is None:
                self.ended_early = (
                    f"the search has ended SHORT, with {number} of {self._config.trials} trials: {MOST_ASKS} proposals in a row, "
                    f"most of them at random, had been trained already or were above max_parameters "
                    f"({self._config.max_parameters or 'none'}): widen the search space, or ask for fewer --trials"
                )
                break
            trials.append(trial)
        return trials

    def _propose(self, number: int) -> Trial | None:
        sampler = self._asked.sampler
        try:
            return self._propose_new(number)
        finally:
            self._asked.sampler = sampler

    def _propose_new(self, number: int) -> Trial | None:
        for ask in range(MOST_ASKS):
            if ask == ASKS_OF_SAMPLER:
                self._asked.sampler = self._new_sampler(SAMPLERS["random"], "refused", number)
            asked = self._asked.ask()
            config = self._configuration(asked)
            if same_network(config) not in self._known and not self._is_too_large(config):
                return self._accept(number, asked, config)
            self._asked.tell(asked, state=TrialState.FAIL)
        return None

    def _configuration(self, asked: optuna.Trial) -> TrialConfig:
        """What the search space gives, the study's base where that leaves a default, and what is set over both.

        A field that Optuna was asked for is not left, whatever its value. Fields that the proposed architecture lacks are
        for proposals of others, unless the architecture is set as well.
        """
        given, base = self._ask_space(asked), self._config.base
        left = [
            each.name for each in fields(given) if getattr(given, each.name) == each.default and each.name not in asked.params
        ]
        of_base = {name: getattr(base, name) for name in left}
        architecture = of_base.get("architecture", given.architecture)
        over = self._overrides if "architecture" in self._overrides else applicable(self._overrides, architecture)
        shared = {name: getattr(base, name) for name in DATASET_FIELDS}  # a sweep has one dataset
        return self._resolve(replace(given, **applicable(of_base, over.get("architecture", architecture)) | over | shared))

    def _is_too_large(self, config: TrialConfig) -> bool:
        limit = self._config.max_parameters
        return limit is not None and self._count_parameters is not None and self._count_parameters(config) > limit

    def _accept(self, number: int, asked: optuna.Trial, config: TrialConfig) -> Trial:
        self._round[number] = asked
        self._known.add(same_network(config))
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

    def _mark_failures(self, count: int) -> None:
        """Builds the sampler's study anew, where any of the first trials has failed: with a value and a constraint for all.

        Such a sampler has a model of the constraint beside that of the objectives, for which it needs a value of every
        trial: that of a failed one stands for nothing, and is the mean of the others.
        """
        records = [self._results[number] for number in range(count)]
        finished = [values for record in records if (values := self._told_values(record))]
        if not finished or not any(has_failed(record, self._config.objectives) for record in records):
            return
        stand_in = [statistics.fmean(each) for each in zip(*finished, strict=True)]
        self._asked = new_study(self._directions, pruner=self._config.pruner)
        for record in records:
            entry = self._entry(record)
            if has_failed(record, self._config.objectives):
                entry.state, entry.values, entry.intermediate_values = TrialState.COMPLETE, stand_in, {}
            else:
                entry.set_constraint(CONSTRAINT, -1.0)
            self._asked.add_trial(entry)

    def _told_values(self, record: TrialRecord) -> list[float] | None:
        return None if record.failed_before else objective_values(record, self._config.objectives)

    def _entry(self, record: TrialRecord) -> FrozenTrial:
        """A trial as the sampler is told of it."""
        entry = frozen(record, *proposed(record), self._config.objectives)
        if has_failed(record, self._config.objectives):
            entry.values, entry.state = None, FAILED_STATES[self._sampler.failures]
            self._mark(entry)
        return entry

    def _mark(self, trial: optuna.Trial | FrozenTrial) -> None:
        if self._sampler.failures != "left out":
            trial.set_constraint(CONSTRAINT, 1.0)

    def _restore(self, record: TrialRecord) -> None:
        self._asked.add_trial(self._entry(record))
        self._known.add(same_network(record.trial.config))
        self._closed += 1

    def _new_sampler(self, kind: Sampler, *at: int | str) -> optuna.samplers.BaseSampler:
        sampler = kind.make(int(fingerprint([self._config.sweep_seed, *at]), 16) % 2**31)
        fixed = {name: value for name, value in self._overrides.items() if value is not None}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.PartialFixedSampler(fixed, sampler) if fixed else sampler


def _check_same(record: TrialRecord, config: TrialConfig) -> None:
    if record.trial.config != config:
        raise UserError(
            f"trial {record.trial.number} was recorded with another configuration than it would have now "
            "(another version of Optuna?): go on with the one that started it, or start again with --fresh"
        )
