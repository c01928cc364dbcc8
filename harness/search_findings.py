"""What a search says: which of its winners kept their place when they were trained again from fresh seeds."""

from __future__ import annotations

import numpy as np

from harness import wording
from harness.confirmation import Confirmed, confirmed
from harness.evidence import ALPHA, Claim, Evidence
from harness.statistics import Interval, compare_paired, mean_interval
from harness.tables import trial_name


def find_winners(evidence: Evidence) -> list[Claim]:
    """The lowest confirmed loss, then how lucky the winners were."""
    records = [record for row in evidence.summary.rows for record in row.trials]
    found = [each for each in confirmed(records) if len(each.replicates) > 1]
    return [_best(found), _luck(found)] if found else []


def _best(found: list[Confirmed]) -> Claim:
    ranked = sorted(found, key=lambda each: _mean(each, "val/mse"))
    best = ranked[0]
    name = trial_name(best.found.trial, ())
    losses = mean_interval([each.metrics["val/mse"] for each in best.replicates])
    accuracies = mean_interval([each.metrics["transfer_accuracy"] for each in best.replicates])
    correlations = mean_interval([each.metrics["max_latent_correlation"] for each in best.replicates])
    is_resolved = _is_told_apart(ranked)
    hedge = "" if is_resolved else f" Whether the next one is worse {wording.unsettled(losses.count)}."
    flattered = " It was named by these seeds, which flatters its interval." if len(found) > 1 else ""
    text = (
        f"Of {len(found)} trials that were trained again from {losses.count} fresh seeds, trial {best.found.trial.number} "
        f"({name}) has the lowest validation loss: {wording.estimate(losses, wording.decimal)}, with a largest correlation of "
        f"{wording.estimate(correlations, wording.correlation)} and an accuracy of "
        f"{wording.estimate(accuracies, wording.accuracy)}.{hedge}{flattered}"
    )
    numbers = {"trial": best.found.trial.number, "loss": losses.mean}
    return Claim("winners", text, is_resolved, _runs(found), numbers)


def _is_told_apart(ranked: list[Confirmed]) -> bool:
    """Whether the best and the next have losses that their replicates tell apart."""
    if len(ranked) < 2:
        return True
    first, second = ({each.trial.config.seed: each.metrics["val/mse"] for each in found.replicates} for found in ranked[:2])
    shared = sorted(first.keys() & second.keys())
    return bool(shared) and compare_paired([first[seed] for seed in shared], [second[seed] for seed in shared]).p_value < ALPHA


def _luck(found: list[Confirmed]) -> Claim:
    logs = [np.log(_mean(each, "val/mse") / each.found.metrics["val/mse"]) for each in found]
    change = mean_interval(logs)
    shown = [float(np.exp(value)) for value in (change.mean, change.low, change.high)]
    ends = f" (95 % interval {wording.decimal(shown[1])} to {wording.decimal(shown[2])})" if change.count > 1 else ""
    gains = [_mean(each, "transfer_accuracy") - each.found.metrics["transfer_accuracy"] for each in found]
    text = (
        f"Their validation loss is {wording.decimal(shown[0])} times what the search saw{ends}, and their accuracy "
        f"{100 * float(np.mean(gains)):+.1f} points from it: {_judgement(change)}."
    )
    return Claim("winners", text, change.excludes(0.0), _runs(found), {"times": shown[0]})


def _judgement(change: Interval) -> str:
    """Of the logarithm of a loss from fresh seeds over that of the search."""
    if not change.excludes(0.0):
        return "whether they were lucky is not resolved"
    return "a winner is partly a lucky one" if change.mean > 0 else "they were not lucky"


def _mean(found: Confirmed, metric: str) -> float:
    return float(np.mean([each.metrics[metric] for each in found.replicates]))


def _runs(found: list[Confirmed]) -> tuple[str, ...]:
    return tuple(record.run_id for each in found for record in (each.found, *each.replicates))
