"""What a worker does: a segment of a group's training, and the evaluation of a trained group. Pure functions on records."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from harness.artifacts import failure_artifacts, trial_artifacts
from harness.config import EpochLog, Placement, TrialConfig, TrialResult
from harness.material import Material, gather
from harness.measures import Evaluation, measure_all, measure_transfers
from harness.numerics import computing_on
from harness.train import TrainState, describe_error, initial_state, train_group
from harness.train_stack import train_group_as_stack

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Segment:
    """What a segment gives: the states after it and each member's logs.

    Attributes:
        states: One a member.
        logs: Those of the segment's epochs, for each member.
    """

    states: list[TrainState]
    logs: list[list[EpochLog]]


def run_segment(
    configs: Sequence[TrialConfig], states: Sequence[TrainState] | None, epochs: int, placement: Placement
) -> Segment:
    """Trains a group for some epochs more.

    Args:
        configs: The members, of one architecture, dataset, batch size and number of epochs.
        states: One a member, from the segment before; ``None`` for the first segment.
        epochs: How many.
        placement: Where the images are and where to train.
    """
    with computing_on(placement.device):
        material = gather(configs[0], placement)
        if states is None:
            states = [_begin(config, material) for config in configs]
        if placement.trainer == "plain":
            return Segment(*train_group(configs, states, epochs, material.splits))
        return Segment(*train_group_as_stack(configs, states, epochs, material.splits, PRECISIONS[placement.precision]))


def _begin(config: TrialConfig, material: Material) -> TrainState:
    try:
        return initial_state(config, material.shape)
    except Exception as error:  # such as too large a model: it is this trial's result and not the sweep's end
        return TrainState(epoch=0, weights={}, failure=describe_error(error))


def evaluate_group(configs: Sequence[TrialConfig], states: Sequence[TrainState], placement: Placement) -> list[TrialResult]:
    """Measures every member of a trained group; one that failed in training, or fails here, is a failed result."""
    with computing_on(placement.device):
        material = gather(configs[0], placement)
        begun = [_load(config, state, material) for config, state in zip(configs, states, strict=True)]
        if placement.trainer != "plain":
            _transfer_together([each for each in begun if isinstance(each, Evaluation)], PRECISIONS[placement.precision])
        return [each if isinstance(each, TrialResult) else _evaluate(each) for each in begun]


def _load(config: TrialConfig, state: TrainState, material: Material) -> Evaluation | TrialResult:
    if state.failure:
        return _failed(config, state, state.failure)
    try:
        return Evaluation(config, state, material)
    except Exception as error:  # whatever it is, it is this trial's result and not the sweep's end
        return _failed(config, state, describe_error(error))


def _transfer_together(evaluations: Sequence[Evaluation], dtype: torch.dtype) -> None:
    """Leaves the transfers to each evaluation by itself where all at once cannot be done: an error is then its own."""
    try:
        measure_transfers(evaluations, dtype)
    except Exception as error:
        LOG.warning("transfer of %d trials cannot be measured as a stack (%s): one by one instead", len(evaluations), error)


def _evaluate(evaluation: Evaluation) -> TrialResult:
    try:
        metrics = measure_all(evaluation)
        return TrialResult(evaluation.config, "finished", metrics, evaluation.curves, trial_artifacts(evaluation))
    except Exception as error:  # whatever it is, it is this trial's result and not the sweep's end
        return _failed(evaluation.config, evaluation.state, describe_error(error))


def _failed(config: TrialConfig, state: TrainState, failure: str) -> TrialResult:
    reason = failure.partition("\n")[0]
    return TrialResult(config, "failed", artifacts=failure_artifacts(config, state.logs, failure), reason=reason)


PRECISIONS: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
