"""Training of a group as one stack: the fast twin of ``train.train_group``, from the same states to the same states."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from harness.config import EpochLog, TrialConfig
from harness.models import Autoencoder
from harness.optimizers import StackedAdam
from harness.regularizers import Decorrelation, keep_prefix, prefix_lengths
from harness.splits import Splits
from harness.stacks import member_state, stack, stack_states
from harness.train import (
    LOSSES,
    SCHEDULES,
    TrainState,
    image_order,
    load_model,
    shape_of,
    to_arrays,
    to_tensors,
    train_group,
    what_is_not_finite,
)

LOG = logging.getLogger(__name__)

BLOCK, BLOCK_ON_GPU = 2**16, 2**21
"""Pixels of each member that are validated at a time: a CPU keeps those of a stack in its cache."""


def train_group_as_stack(
    configs: Sequence[TrialConfig], states: Sequence[TrainState], epochs: int, splits: Splits, dtype: torch.dtype = torch.float32
) -> tuple[list[TrainState], list[list[EpochLog]]]:
    """Trains all members of a group at once for some epochs more.

    Members that have failed or have had all their epochs are passed through. Where the stack cannot be trained, its members are
    trained one after the other, so that an error is its own member's.

    Args:
        configs: One resolved configuration a member; they differ as those of one group of ``groups.partition`` may.
        states: One state a member.
        epochs: How many more epochs.
        splits: The images, on the device to train on.
        dtype: Of the operands of products in training steps; all else is float32.

    Returns:
        The new states and each member's logs. The seconds of an epoch are the member's share of the time that all took.

    Raises:
        torch.OutOfMemoryError: if the device's memory is too small for a stack of several members; fewer may fit.
    """
    outcomes: dict[int, tuple[TrainState, list[EpochLog]]] = {}
    for members in _in_step(configs, states):
        chosen, own = [configs[member] for member in members], [states[member] for member in members]
        try:
            results = train_stack(chosen, own, min(epochs, chosen[0].epochs - own[0].epoch), splits, dtype)
        except Exception as error:  # whatever it is: alone, each member has its own result or its own error
            if isinstance(error, torch.OutOfMemoryError) and len(members) > 1:
                raise
            LOG.warning("a stack of %d trials cannot be trained (%s): one by one instead", len(members), error)
            results = list(zip(*train_group(chosen, own, epochs, splits), strict=True))
        outcomes |= dict(zip(members, results, strict=True))
    whole = [outcomes.get(member, (state, [])) for member, state in enumerate(states)]
    return [state for state, _ in whole], [logs for _, logs in whole]


def _in_step(configs: Sequence[TrialConfig], states: Sequence[TrainState]) -> list[list[int]]:
    """Members with epochs left, those that have had equally many together."""
    teams: dict[int, list[int]] = {}
    for member, (config, state) in enumerate(zip(configs, states, strict=True)):
        if not state.failure and state.epoch < config.epochs:
            teams.setdefault(state.epoch, []).append(member)
    return list(teams.values())


def train_stack(
    configs: Sequence[TrialConfig], states: Sequence[TrainState], epochs: int, splits: Splits, dtype: torch.dtype
) -> list[tuple[TrainState, list[EpochLog]]]:
    """Trains members that have had equally many epochs for as many more; no number leaves the device before the end."""
    started = time.perf_counter()
    images = splits.train.images
    members = [
        load_model(config, state, shape_of(images), str(images.device)) for config, state in zip(configs, states, strict=True)
    ]
    net: Autoencoder = stack(members, dtype)
    optimizer = StackedAdam(net, [config.learning_rate for config in configs])
    if states[0].moments:
        optimizer.load_state(stack_states([to_tensors(state.moments) for state in states]))
    numbers = []
    for epoch in range(states[0].epoch + 1, states[0].epoch + epochs + 1):
        losses = _train_epoch(net, optimizer, configs, images, epoch)
        numbers.append(torch.cat((losses, stacked_mse(net, splits.validation.images, len(configs)).unsqueeze(1)), dim=1))
    table = torch.stack(numbers).tolist()  # (epochs, K, 3): here the host waits for the device
    seconds = (time.perf_counter() - started) / epochs / len(configs)
    weights, moments = net.state_dict(), optimizer.state()
    results = []
    for member, (config, state, model) in enumerate(zip(configs, states, members, strict=True)):
        logs, failure = _read_logs(config, state, [row[member] for row in table], _steps(config, images), seconds)
        new = TrainState(
            epoch=state.epoch + len(logs),
            weights=to_arrays(member_state(weights, member, model.state_dict())),
            moments=to_arrays(_member_moments(moments, member, model)),
            logs=(*state.logs, *logs),
            failure=failure,
        )
        results.append((new, logs))
    return results


def _train_epoch(net: Autoencoder, optimizer: StackedAdam, configs: Sequence[TrialConfig], images: Tensor, epoch: int) -> Tensor:
    """Trains an epoch in place; gives each member's mean loss and squared error over its steps, (K, 2)."""
    config, steps = configs[0], _steps(configs[0], images)
    net.train()
    batches, lengths = _batches(configs, images, epoch), _lengths(configs, images, epoch)
    penalty = Decorrelation.of(configs, images.device)
    sums = torch.zeros(len(configs), 2, device=images.device)
    for step in range(steps):
        share = SCHEDULES[config.schedule]((epoch - 1) * steps + step, config.epochs * steps)
        optimizer.zero_grad()
        batch, kept = images.index_select(0, batches[step]), None if lengths is None else lengths[step]
        sums += _backward(net, batch, config.loss, len(configs), penalty, kept)
        optimizer.step(share)
    return sums / steps


def _backward(
    net: Autoencoder, batch: Tensor, loss_name: str, members: int, penalty: Decorrelation | None, lengths: Tensor | None
) -> Tensor:
    """Adds the gradients of every member's own loss; gives loss and squared error, (K, 2)."""
    codes = net.encoder(batch)
    reconstructions = net.decoder(codes if lengths is None else keep_prefix(codes, lengths))
    errors = LOSSES[loss_name](reconstructions, batch, reduction="none").view(members, -1).mean(dim=1)
    losses = errors if penalty is None else errors + penalty(codes)
    losses.sum().backward()  # a member's weights are in its own loss only
    if loss_name == "mse":
        return torch.stack((losses.detach(), errors.detach()), dim=1)
    squared = LOSSES["mse"](reconstructions.detach(), batch, reduction="none").view(members, -1).mean(dim=1)
    return torch.stack((losses.detach(), squared), dim=1)


def _batches(configs: Sequence[TrialConfig], images: Tensor, epoch: int) -> Tensor:
    """Which images each step takes, (steps, K * B): every member in its own order."""
    steps = _steps(configs[0], images)
    size = min(configs[0].batch_size, len(images))
    orders = torch.stack([image_order(config.seed, epoch, len(images))[: steps * size] for config in configs])
    return orders.view(len(configs), steps, size).transpose(0, 1).reshape(steps, -1).to(images.device)


def _lengths(configs: Sequence[TrialConfig], images: Tensor, epoch: int) -> Tensor | None:
    """From how many units each image of ``_batches`` is decoded, (steps, K * B); ``None`` where from all, as always."""
    steps = _steps(configs[0], images)
    size = min(configs[0].batch_size, len(images))
    own = [prefix_lengths(config, epoch, len(images)) for config in configs]
    kept = [lengths[: steps * size].view(steps, size) for lengths in own if lengths is not None]
    return torch.cat(kept, dim=1).to(images.device) if kept else None


def _steps(config: TrialConfig, images: Tensor) -> int:
    return len(images) // min(config.batch_size, len(images))


@torch.no_grad()
def stacked_mse(net: nn.Module, images: Tensor, members: int) -> Tensor:
    """Each member's mean squared error per pixel in evaluation mode, (K,)."""
    net.eval()
    total = torch.zeros(members, dtype=torch.float64, device=images.device)
    at_once = BLOCK if images.device.type == "cpu" else BLOCK_ON_GPU
    for part in images.split(max(1, at_once // images[0].numel())):
        repeated = part.expand(members, *part.shape)
        squares = (net(repeated.flatten(0, 1)).view(repeated.shape) - repeated).square()
        total += squares.flatten(1).sum(dim=1, dtype=torch.float64)
    return (total / images.numel()).float()


def _read_logs(
    config: TrialConfig, state: TrainState, rows: Sequence[Sequence[float]], steps: int, seconds: float
) -> tuple[list[EpochLog], str]:
    """The logs of a member up to the first that is not finite, and what is not finite about that one."""
    logs: list[EpochLog] = []
    for epoch, (train_loss, train_mse, val_mse) in enumerate(rows, start=state.epoch + 1):
        rate = SCHEDULES[config.schedule](epoch * steps - 1, config.epochs * steps) * config.learning_rate
        log = EpochLog(epoch, train_loss, train_mse, val_mse, rate, seconds)
        failure = what_is_not_finite(log, (*state.logs, *logs))
        if failure:
            return logs, failure
        logs.append(log)
    return logs, ""


def _member_moments(moments: dict[str, Tensor], member: int, model: nn.Module) -> dict[str, Tensor]:
    """A member's part of the moments, in the shapes of its own parameters."""
    like: dict[str, Tensor] = {}
    for index, parameter in enumerate(model.parameters()):
        like |= {f"step.{index}": torch.empty(()), f"exp_avg.{index}": parameter, f"exp_avg_sq.{index}": parameter}
    return member_state(moments, member, like)
