"""A sweep as an Optuna study to look at: for Optuna's plots and importances, and for its dashboard."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import optuna
from optuna import Study as Study
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from harness.config import TrialRecord
from harness.rules import UserError, without_password
from harness.samplers import frozen, new_study, proposed
from harness.store import is_mlflow_store

LONGEST_CAUSE = 200


@dataclass(frozen=True)
class Ended:
    """A trial that has ended, for a study.

    Attributes:
        record: The trial.
        began: When its run did.
        ended: When its run did.
    """

    record: TrialRecord
    began: datetime
    ended: datetime


def ended_study(trials: Sequence[Ended], axes: Sequence[str], objectives: Sequence[str], directions: Sequence[str]) -> Study:
    """Makes a study in memory.

    Run, trial number and every metric of a trial are its user attributes.

    Args:
        trials: All of them.
        axes: The fields of the configuration that are its parameters, of trials that no sampler has proposed.
        objectives: The metrics that are its values.
        directions: Those of the metrics.
    """
    study = new_study(directions)
    ranges = {name: _range([getattr(each.record.trial.config, name) for each in trials]) for name in axes}
    study.add_trials([_entry(each, ranges, objectives) for each in trials])
    _name_values(study, objectives)
    return study


def _entry(each: Ended, ranges: Mapping[str, BaseDistribution], objectives: Sequence[str]) -> FrozenTrial:
    record = each.record
    params, distributions = {name: getattr(record.trial.config, name) for name in ranges}, dict(ranges)
    if record.trial.proposal:
        params, distributions = proposed(record)
    entry = frozen(record, params, distributions, objectives)
    about = {"run_id": record.run_id, "trial": record.trial.number, **record.metrics}
    entry.user_attrs = about | ({"reason": record.reason} if record.reason else {})
    entry.datetime_start, entry.datetime_complete = each.began, each.ended
    return entry


def _range(values: Sequence[Any]) -> BaseDistribution:
    """The numbers from the least to the largest, or the words that there are."""
    kinds = {type(value) for value in values}
    if kinds == {int}:
        return IntDistribution(min(values), max(values))
    if kinds == {float}:
        return FloatDistribution(min(values), max(values))
    return CategoricalDistribution(list(dict.fromkeys(values)))


def _name_values(study: Study, objectives: Sequence[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(objectives))


def store_study(study: Study, name: str, address: str) -> int:
    """Writes a study into a storage of Optuna's; one of this name that is there gets the trials that it lacks.

    Returns:
        How many were written.

    Raises:
        UserError: if the storage cannot be used, or has a study of this name with other objectives.
    """
    if is_mlflow_store(address):
        raise UserError(
            f"--optuna-storage {address} is a store of MLflow's: give Optuna one of its own, such as sqlite:///optuna.db"
        )
    try:
        stored = optuna.create_study(
            storage=address, study_name=name, directions=study.directions, sampler=study.sampler, load_if_exists=True
        )
        _check_objectives(stored, study, name, without_password(address))
        there = {trial.user_attrs.get("run_id") for trial in stored.get_trials(deepcopy=False)}
        missing = [trial for trial in study.get_trials(deepcopy=False) if trial.user_attrs["run_id"] not in there]
        stored.add_trials(missing)
    except UserError:
        raise
    except Exception as error:  # SQLAlchemy's, Optuna's, and what is raised for a driver that is not installed
        cause = " ".join(str(error).replace(address, without_password(address)).split())[:LONGEST_CAUSE]
        raise UserError(f"--optuna-storage {without_password(address)} cannot be used: {cause}") from error
    return len(missing)


def _check_objectives(stored: Study, study: Study, name: str, address: str) -> None:
    if stored.metric_names is None:
        _name_values(stored, study.metric_names or [])
    if (stored.metric_names, stored.directions) != (study.metric_names, study.directions):
        raise UserError(
            f"the study {name} in {address} has the objectives {', '.join(stored.metric_names or [])}: "
            "name the same with --metric, or another --optuna-storage"
        )
