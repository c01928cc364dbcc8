"""What a worker does: a segment of a group's training, and the evaluation of a trained group. Pure functions on records."""

from __future__ import annotations

import itertools
import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from harness import datasets, provenance
from harness.artifacts import failure_artifacts, trial_artifacts
from harness.config import STAGE_METRICS, EpochLog, Placement, TrialConfig, TrialResult
from harness.evaluation import Evaluation, measure_transfers
from harness.material import Material, gather
from harness.measures import measure_all
from harness.numerics import computing_on, require
from harness.rules import UserError
from harness.train import TrainState, describe_error, initial_state, stage_losses, train_group
from harness.train_stack import train_group_as_stack

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Segment:
    """What a segment gives: the states after it and each member's logs.

    Attributes:
        states: One a member.
        logs: Those of the segment's epochs, for each member.
        at_once: Members that fit into the device's memory together, where not all of them do; else 0.
    """

    states: list[TrainState]
    logs: list[list[EpochLog]]
    at_once: int = 0


def set_up_worker(data: datasets.ImageSet, program: Mapping[str, str], placement: Placement) -> None:
    """What a worker on another machine does before its first task: takes over the images, of which it has no files.

    Args:
        data: The sweep's dataset.
        program: The coordinator's ``provenance.program``.
        placement: Where it will compute.

    Raises:
        UserError: if the worker has another program, or not the kernels, for its numbers would be others.
    """
    require(placement.kernels)
    own = provenance.program(placement.kernels)
    for name in program:
        if own.get(name) != program[name]:
            raise UserError(
                f"the worker on {platform.node()} has {name} {own.get(name)}, and this command {program[name]}: "
                "install the same on both"
            )
    datasets.give(data)


def run_segment(
    configs: Sequence[TrialConfig], states: Sequence[TrainState] | None, epochs: int, placement: Placement, at_once: int = 0
) -> Segment:
    """Trains a group for some epochs more; members that differ in what only the evaluation uses share one training.

    Args:
        configs: The members, as ``groups.partition`` puts them together.
        states: One a member, from the segment before; ``None`` for the first segment.
        epochs: How many.
        placement: Where the images are and where to train.
        at_once: Members to train as one stack at the most, as the segment before has found; 0 for all.
    """
    with computing_on(placement.device, placement.kernels):
        material = gather(configs[0], placement)
        if states is None:
            states = [_begin(config, material) for config in configs]
        firsts = _first_of_its_kind(configs, states)
        chosen = sorted(set(firsts))
        own_configs, own_states = [configs[index] for index in chosen], [states[index] for index in chosen]
        if placement.trainer == "plain":
            segment = Segment(*train_group(own_configs, own_states, epochs, material.splits))
        else:
            segment = _train_in_memory(own_configs, own_states, epochs, material, placement, at_once or len(chosen))
        places = [chosen.index(first) for first in firsts]
        return Segment([segment.states[place] for place in places], [segment.logs[place] for place in places], segment.at_once)


def _first_of_its_kind(configs: Sequence[TrialConfig], states: Sequence[TrainState]) -> list[int]:
    """For each member the place of the first with the same training, of which one may have been given up before another."""
    found: dict[tuple[TrialConfig, int, str], int] = {}
    return [
        found.setdefault((config.training, state.epoch, state.failure), place)
        for place, (config, state) in enumerate(zip(configs, states, strict=True))
    ]


def _train_in_memory(
    configs: Sequence[TrialConfig],
    states: Sequence[TrainState],
    epochs: int,
    material: Material,
    placement: Placement,
    at_once: int,
) -> Segment:
    """Trains the group as stacks of at most so many members, and of half as many where those do not fit into the memory."""
    parts = [slice(start, start + at_once) for start in range(0, len(configs), at_once)]
    dtype = PRECISIONS[placement.precision]
    try:
        trained = [train_group_as_stack(configs[part], states[part], epochs, material.splits, dtype) for part in parts]
    except torch.OutOfMemoryError:
        fewer = -(-at_once // 2)
        if placement.device != "cpu":
            torch.cuda.empty_cache()
    else:
        flat = [list(itertools.chain.from_iterable(each)) for each in zip(*trained, strict=True)]
        return Segment(flat[0], flat[1], at_once if at_once < len(configs) else 0)
    return _train_in_memory(configs, states, epochs, material, placement, fewer)


def _begin(config: TrialConfig, material: Material) -> TrainState:
    try:
        return initial_state(config, material.shape)
    except Exception as error:  # such as too large a model: it is this trial's result and not the sweep's end
        return TrainState(epoch=0, weights={}, failure=describe_error(error))


def evaluate_group(
    configs: Sequence[TrialConfig], states: Sequence[TrainState], placement: Placement, measures: Sequence[str] = ()
) -> list[TrialResult]:
    """Measures every member of a trained group; one that failed in training, or fails here, is a failed result.

    Args:
        configs: The members, as ``groups.evaluation_parts`` puts them together.
        states: One a member, after its last epoch.
        placement: Where the images are and where to compute.
        measures: The ``measures.GROUPS`` to measure as well.
    """
    with computing_on(placement.device, placement.kernels):
        material = gather(configs[0], placement)
        begun = [_load(config, state, material, placement) for config, state in zip(configs, states, strict=True)]
        alive = [each for each in begun if isinstance(each, Evaluation)]
        if alive and placement.trainer != "plain":
            _transfer_together(alive, PRECISIONS[placement.precision])
        results = [each if isinstance(each, TrialResult) else _evaluate(each, measures) for each in begun]
    host, device_name = platform.node(), provenance.device_name(placement.device)
    return [replace(result, host=host, device_name=device_name) for result in results]


def _load(config: TrialConfig, state: TrainState, material: Material, placement: Placement) -> Evaluation | TrialResult:
    if state.failure:
        return pruned_result(config, state) if state.is_pruned else failed_result(config, state, state.failure)
    try:
        return Evaluation(config, state, material, stacked=placement.trainer != "plain")
    except Exception as error:  # whatever it is, it is this trial's result and not the sweep's end
        return failed_result(config, state, describe_error(error))


def _transfer_together(evaluations: Sequence[Evaluation], dtype: torch.dtype) -> None:
    """Leaves the transfers to each evaluation by itself where all at once cannot be done: an error is then its own."""
    try:
        measure_transfers(evaluations, dtype)
    except Exception as error:
        LOG.warning("transfer of %d trials cannot be measured as a stack (%s): one by one instead", len(evaluations), error)


def _evaluate(evaluation: Evaluation, measures: Sequence[str]) -> TrialResult:
    try:
        metrics = measure_all(evaluation, measures)
        return TrialResult(evaluation.config, "finished", metrics, evaluation.curves, trial_artifacts(evaluation))
    except Exception as error:  # whatever it is, it is this trial's result and not the sweep's end
        return failed_result(evaluation.config, evaluation.state, describe_error(error))


def failed_result(config: TrialConfig, state: TrainState, failure: str) -> TrialResult:
    """What is kept of a trial that failed: the reason, and the traceback, the configuration and the logs as files."""
    reason = failure.partition("\n")[0]
    return TrialResult(config, "failed", artifacts=failure_artifacts(config, state.logs, failure), reason=reason)


def pruned_result(config: TrialConfig, state: TrainState) -> TrialResult:
    """What is kept of a trial that the search gave up: its losses so far, its logs and its configuration."""
    metrics = dict(zip(STAGE_METRICS, stage_losses(config, state.logs), strict=False))
    files = {name: content for name, content in failure_artifacts(config, state.logs, "").items() if name != "failure.txt"}
    return TrialResult(config, "pruned", metrics, artifacts=files, reason=state.failure)


PRECISIONS: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
