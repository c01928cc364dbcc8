"""Training of a group of autoencoders: from states to states, an ``EpochLog`` an epoch."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness import models
from harness.config import EpochLog, TrialConfig
from harness.regularizers import Decorrelation, keep_prefix, prefix_lengths
from harness.splits import Splits

WARM_UP_SHARE, START_DIVISOR, END_DIVISOR = 0.3, 25.0, 1e4
"""The shape of the one-cycle schedule, as in ``torch.optim.lr_scheduler.OneCycleLR``."""

SEGMENTS = 3
"""Into so many segments a training is cut: enough to see it going on, few enough that the cutting costs nothing."""

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, eq=False)
class TrainState:
    """All that is needed to go on training: picklable, on no device.

    Attributes:
        epoch: Epochs done.
        weights: The module's state by name.
        moments: Adam's state by ``<name>.<parameter index>``.
        logs: Of all epochs so far.
        failure: Why this member does not go on; its first line is the reason, a traceback may follow.
        is_pruned: Whether that is because a search gave it up, and nothing is wrong with it.
    """

    epoch: int
    weights: Arrays
    moments: Arrays = field(default_factory=dict)
    logs: tuple[EpochLog, ...] = ()
    failure: str = ""
    is_pruned: bool = False

    @property
    def seconds(self) -> float:
        """Time spent in training and validation so far."""
        return sum(log.seconds for log in self.logs)


def segment_epochs(config: TrialConfig) -> int:
    """Epochs of one of the ``SEGMENTS`` of a training; the last one may be shorter."""
    return -(-config.epochs // SEGMENTS)


def stage_losses(config: TrialConfig, logs: Sequence[EpochLog]) -> list[float]:
    """The validation loss at the end of each segment that is over, but for the last: by ``config.STAGE_METRICS``."""
    ends = range(segment_epochs(config), config.epochs, segment_epochs(config))
    return [logs[end - 1].val_mse for end in ends if end <= len(logs)]


def initial_state(config: TrialConfig, shape: models.Shape) -> TrainState:
    """The state before the first epoch, with the weights that follow from the configuration's seed."""
    return TrainState(epoch=0, weights=to_arrays(models.build(shape, config).state_dict()))


def load_model(config: TrialConfig, state: TrainState, shape: models.Shape, device: str) -> models.Autoencoder:
    """Builds the autoencoder that a state holds."""
    model = models.build(shape, config)
    model.load_state_dict(to_tensors(state.weights))
    return model.to(device)


def train_group(
    configs: Sequence[TrialConfig], states: Sequence[TrainState], epochs: int, splits: Splits
) -> tuple[list[TrainState], list[list[EpochLog]]]:
    """Trains every member of a group for some epochs more, one member after the other.

    Members that have failed or have had all their epochs are passed through; an error in one ends that one only.

    Args:
        configs: One resolved configuration a member.
        states: One state a member.
        epochs: How many more epochs; fewer where a configuration ends before.
        splits: The images, on the device to train on.

    Returns:
        The new states and each member's logs.
    """
    outcomes = [_train_or_fail(config, state, epochs, splits) for config, state in zip(configs, states, strict=True)]
    return [state for state, _ in outcomes], [logs for _, logs in outcomes]


def _train_or_fail(config: TrialConfig, state: TrainState, epochs: int, splits: Splits) -> tuple[TrainState, list[EpochLog]]:
    try:
        return train_member(config, state, epochs, splits)
    except Exception as error:  # whatever it is, it is this trial's result and not the sweep's end
        return replace(state, failure=describe_error(error)), []


def describe_error(error: Exception) -> str:
    """One line that says what went wrong, then the traceback."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{reason}\n{''.join(traceback.format_exception(error))}"


def train_member(config: TrialConfig, state: TrainState, epochs: int, splits: Splits) -> tuple[TrainState, list[EpochLog]]:
    """Trains one autoencoder for some epochs more.

    Returns:
        The new state and the logs of the epochs whose numbers were finite. Where one was not, the state says so in
        ``failure`` and nothing more is trained.
    """
    last_epoch = min(state.epoch + epochs, config.epochs)
    if state.failure or state.epoch >= last_epoch:
        return state, []
    images = splits.train.images
    model = load_model(config, state, shape_of(images), str(images.device))
    optimizer = _load_optimizer(model, state, config)
    logs: list[EpochLog] = []
    failure = ""
    for log in train_epochs(model, optimizer, config, splits, range(state.epoch + 1, last_epoch + 1)):
        failure = what_is_not_finite(log, (*state.logs, *logs))
        if failure:
            break
        logs.append(log)
    return TrainState(
        epoch=state.epoch + len(logs),
        weights=to_arrays(model.state_dict()),
        moments=_dump_moments(optimizer),
        logs=(*state.logs, *logs),
        failure=failure,
    ), logs


def train_epochs(
    model: models.Autoencoder, optimizer: torch.optim.Optimizer, config: TrialConfig, splits: Splits, epochs: range
) -> Iterator[EpochLog]:
    """Trains in place and yields a log after each epoch.

    The order of the images is a function of (seed, epoch) and the learning rate one of the step, so that training can
    stop after any epoch and go on elsewhere. The last batch of an epoch is left out where it is not a full one.
    """
    images = splits.train.images
    batch_size = min(config.batch_size, len(images))
    steps = len(images) // batch_size
    penalty = Decorrelation.of([config], images.device)
    for epoch in epochs:
        started = time.perf_counter()
        model.train()
        sums = torch.zeros(2, device=images.device)  # of the loss and of the squared error
        order = image_order(config.seed, epoch, len(images)).to(images.device)
        lengths = prefix_lengths(config, epoch, len(images))
        for index in range(steps):
            rate = SCHEDULES[config.schedule]((epoch - 1) * steps + index, config.epochs * steps) * config.learning_rate
            _set_learning_rate(optimizer, rate)
            part = slice(index * batch_size, (index + 1) * batch_size)
            kept = None if lengths is None else lengths[part].to(images.device)
            sums += _step(model, optimizer, images[order[part]], config.loss, penalty, kept)
        train_loss, train_mse = (sums / steps).tolist()
        val_mse = reconstruction_mse(model, splits.validation.images)
        yield EpochLog(epoch, train_loss, train_mse, val_mse, rate, time.perf_counter() - started)


def _step(
    model: models.Autoencoder,
    optimizer: torch.optim.Optimizer,
    batch: Tensor,
    loss_name: str,
    penalty: Decorrelation | None,
    lengths: Tensor | None,
) -> Tensor:
    """Makes one step; gives loss and squared error, (2,)."""
    optimizer.zero_grad(set_to_none=True)
    codes = model.encoder(batch)
    reconstructions = model.decoder(codes if lengths is None else keep_prefix(codes, lengths))
    error = LOSSES[loss_name](reconstructions, batch, reduction="mean")
    loss = error if penalty is None else error + penalty(codes).squeeze(0)
    loss.backward()
    optimizer.step()
    squared = error if loss_name == "mse" else functional.mse_loss(reconstructions, batch)
    return torch.stack((loss.detach(), squared.detach()))


@torch.no_grad()
def apply_in_blocks(module: Callable[[Tensor], Tensor], inputs: Tensor, block: int = 1024) -> Tensor:
    """Applies a module without gradients, some inputs at a time, which bounds the memory.

    Returns:
        The outputs of all inputs, (N, ...).
    """
    return torch.cat([module(part) for part in inputs.split(block)])


def reconstruction_mse(model: nn.Module, images: Tensor) -> float:
    """Mean squared error per pixel in evaluation mode."""
    model.eval()
    return float(functional.mse_loss(apply_in_blocks(model, images), images))


def one_cycle(step: int, total: int) -> float:
    """The learning rate of a step as a share of the largest (Smith and Topin 2018); cosine up, cosine down."""
    top = WARM_UP_SHARE * total - 1
    if step <= top:
        return _cosine(1 / START_DIVISOR, 1.0, step / top)
    return _cosine(1.0, 1 / START_DIVISOR / END_DIVISOR, (step - top) / max(total - 1 - top, 1e-9))


def cosine(step: int, total: int) -> float:
    """The learning rate of a step as a share of the largest, falling from 1 to 0 (Loshchilov and Hutter 2017)."""
    return _cosine(1.0, 0.0, step / total)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def image_order(seed: int, epoch: int, count: int) -> Tensor:
    """The order in which a member sees the training images in an epoch, (count,)."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


def _set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def shape_of(images: Tensor) -> models.Shape:
    """Channels, height and width of images, (N, C, H, W)."""
    channels, height, width = images.shape[1:]
    return channels, height, width


def to_arrays(tensors: Mapping[str, Tensor]) -> Arrays:
    """Copies that need no torch and no device."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in tensors.items()}


def to_tensors(arrays: Arrays) -> dict[str, Tensor]:
    """The inverse of ``to_arrays``: copies on the CPU."""
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def _load_optimizer(model: nn.Module, state: TrainState, config: TrialConfig) -> torch.optim.Adam:
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    saved = optimizer.state_dict()
    saved["state"] = {}
    for key, tensor in to_tensors(state.moments).items():
        name, _, index = key.rpartition(".")
        saved["state"].setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict(saved)
    return optimizer


def _dump_moments(optimizer: torch.optim.Optimizer) -> Arrays:
    members = optimizer.state_dict()["state"].items()
    return to_arrays({f"{name}.{index}": tensor for index, member in members for name, tensor in member.items()})


def what_is_not_finite(log: EpochLog, earlier: Sequence[EpochLog]) -> str:
    """Which number of an epoch is not finite, and what it was before; empty where all are."""
    wrong = [name for name in ("train_loss", "train_mse", "val_mse") if not math.isfinite(getattr(log, name))]
    if not wrong:
        return ""
    before = "there was no epoch before"
    if earlier:
        before = f"the last finite one was {getattr(earlier[-1], wrong[0]):.6g} in epoch {earlier[-1].epoch}"
    return f"{wrong[0]} is {getattr(log, wrong[0])} in epoch {log.epoch}; {before}"


SCHEDULES: dict[str, Callable[[int, int], float]] = {"one_cycle": one_cycle, "cosine": cosine}
LOSSES: dict[str, Callable[..., Tensor]] = {"mse": functional.mse_loss, "bce": functional.binary_cross_entropy}
