"""Searches whose trials are made up: how they are opened, and run to their end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.config import StudyConfig, Trial, TrialConfig, TrialRecord
from harness.models import resolve
from harness.search import GridSearch, SamplerSearch

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
