"""Optuna's samplers and pruners by name, and what an Optuna study is told of a trial.

To add a sampler: an entry in ``SAMPLERS`` below; a pruner: one in ``PRUNERS``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState

from harness.config import STAGE_METRICS, StudyConfig, TrialRecord
from harness.rules import UserError, unknown

DIRECTIONS: dict[str, Literal["minimize", "maximize"]] = {"down": "minimize", "up": "maximize"}

CONSTRAINT = "failed"
"""What a failed trial violates: samplers rank such trials behind all others."""

FAILED_STATES = {"left out": TrialState.FAIL, "stopped": TrialState.PRUNED, "infeasible": TrialState.FAIL}
"""How a sampler is told of a trial that has failed, by the way in which it learns."""

TOLD = {"finished": TrialState.COMPLETE, "failed": TrialState.FAIL, "pruned": TrialState.PRUNED}


def new_study(
    directions: Sequence[str], sampler: optuna.samplers.BaseSampler | None = None, pruner: str = "none"
) -> optuna.Study:
    """An empty Optuna study, in memory."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(directions=[DIRECTIONS[way] for way in directions], sampler=sampler, pruner=PRUNERS[pruner]())


def objective_values(record: TrialRecord, objectives: Sequence[str]) -> list[float] | None:
    """The objectives of an ended trial; nothing where it did not finish or one is not defined."""
    values = [record.metrics.get(name) for name in objectives]
    if record.status != "finished" or any(value is None for value in values):
        return None
    return [float(value) for value in values if value is not None]


def state_of(record: TrialRecord, objectives: Sequence[str]) -> TrialState:
    """How Optuna calls the end of a trial; one that has finished without all of its objectives has failed."""
    if record.status == "finished" and objective_values(record, objectives) is None:
        return TrialState.FAIL
    return TOLD[record.status]


def has_failed(record: TrialRecord, objectives: Sequence[str]) -> bool:
    """Whether a sampler is told that a trial has failed: as it did at first, for on that its next proposals were built."""
    return record.failed_before or state_of(record, objectives) == TrialState.FAIL


def stage_values(metrics: Mapping[str, float]) -> list[float]:
    """What a pruner knows of a trial that has ended: the validation loss of each stage that it came to the end of."""
    return [metrics[name] for name in STAGE_METRICS if name in metrics]


def proposed(record: TrialRecord) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """The parameters that a sampler has proposed for a trial, and their distributions."""
    proposal = json.loads(record.trial.proposal)
    return proposal["params"], {name: json_to_distribution(text) for name, text in proposal["distributions"].items()}


def frozen(
    record: TrialRecord | None, params: dict[str, Any], distributions: dict[str, BaseDistribution], objectives: Sequence[str]
) -> FrozenTrial:
    """A trial to add to an Optuna study: ended as its record says, or under way where there is none.

    Not by ``create_trial``, which compares every distribution with a copy of itself, value by value: of a long axis that
    costs more than all else.
    """
    now = datetime.now()
    stages = stage_values(record.metrics) if record else []
    values = objective_values(record, objectives) if record else None
    if record and record.status == "pruned":
        values = stages[-1:]  # as Optuna has it of a trial that it is told of
    return FrozenTrial(
        number=-1,  # the study gives it one, and an id
        trial_id=-1,
        state=state_of(record, objectives) if record else TrialState.RUNNING,
        value=None,
        values=values,
        datetime_start=now,
        datetime_complete=now if record else None,
        params=params,
        distributions=distributions,
        user_attrs={},
        system_attrs={},
        intermediate_values=dict(enumerate(stages, start=1)),
    )


def check_sampler(study: StudyConfig) -> None:
    """Checks the sampler's and the pruner's names and that the sampler can do what the study asks.

    Raises:
        UserError: if one is unknown, or the sampler is given several objectives and takes one.
    """
    if study.sampler == "grid":
        return
    if study.sampler not in SAMPLERS:
        raise unknown("sampler", study.sampler, ["grid", *SAMPLERS])
    if study.pruner not in PRUNERS:
        raise unknown("pruner", study.pruner, PRUNERS)
    if len(study.objectives) > 1 and not SAMPLERS[study.sampler].several_objectives:
        able = ", ".join(name for name, sampler in SAMPLERS.items() if sampler.several_objectives)
        raise UserError(
            f"sampler {study.sampler!r} takes one objective and the study has {len(study.objectives)}: use one of {able}"
        )


@dataclass(frozen=True)
class Sampler:
    """One of Optuna's samplers.

    Attributes:
        make: From a seed.
        keeps_state: Whether it keeps more in the study than the trials' parameters and values, so that a resumed sweep
            has to ask for the earlier rounds again instead of adding their trials.
        several_objectives: Whether it takes more than one.
        failures: How it learns of a trial that has failed. None looks at those that Optuna calls failed, and a model would
            propose the same place again and again. ``"stopped"``: the trial was stopped, has no value, and is among the
            worst. ``"infeasible"``: it violates a constraint. ``"left out"`` is enough where the next trials descend from
            those that came to something, or from none.
    """

    make: Callable[[int], optuna.samplers.BaseSampler]
    keeps_state: bool = False
    several_objectives: bool = True
    failures: Literal["left out", "stopped", "infeasible"] = "left out"


PRUNERS: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
    "none": optuna.pruners.NopPruner,
    "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=5),
}
"""By name; all of them go by trials that are over alone, not by those under way, whose pace is no property of theirs."""

SAMPLERS: dict[str, Sampler] = {
    "random": Sampler(lambda seed: optuna.samplers.RandomSampler(seed=seed)),
    "tpe": Sampler(lambda seed: optuna.samplers.TPESampler(seed=seed), failures="stopped"),
    "gp": Sampler(lambda seed: optuna.samplers.GPSampler(seed=seed), failures="infeasible"),
    "cmaes": Sampler(
        lambda seed: optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False),
        keeps_state=True,
        several_objectives=False,
    ),
    "nsga2": Sampler(lambda seed: optuna.samplers.NSGAIISampler(seed=seed), keeps_state=True),
}
