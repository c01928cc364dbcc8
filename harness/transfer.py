"""Are the latents of use with a handful of labels? An MLP on features, few labelled images, several shared draws."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional

HIDDEN_UNITS = 64
LEARNING_RATE = 2e-3
BATCH_SIZE = 16
CURVE_TEST_IMAGES = 1000
"""Test images on which the per-epoch curves are measured, each by one of the draws, as many by each; the accuracies after the
last epoch use all test images, in every draw."""

CALIBRATION_IMAGES = 4096

CURVES = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")


@dataclass(frozen=True, eq=False)
class LabelledInputs:
    """What the classifier sees: images or features.

    Attributes:
        inputs: (N, ...).
        labels: (N,), int64.
    """

    inputs: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class TransferOutcome:
    """What one way of classifying came to.

    Attributes:
        accuracies: Test accuracy after the last epoch for each draw, (draws,), float64.
        curves: (draws, epochs, 4), float64; the last axis as in ``CURVES``.
        validation: Accuracy of the same nets on validation inputs for each draw, (draws,), float64; ``None`` without such.
    """

    accuracies: Tensor
    curves: Tensor
    validation: Tensor | None = None

    @property
    def accuracy(self) -> float:
        """Mean over the draws."""
        return float(self.accuracies.mean())

    @property
    def validation_accuracy(self) -> float:
        """Mean over the draws, on validation inputs: for choosing; NaN without such."""
        return float("nan") if self.validation is None else float(self.validation.mean())

    @property
    def std(self) -> float:
        """Standard deviation over the draws; NaN for a single one."""
        return float(self.accuracies.std()) if len(self.accuracies) > 1 else float("nan")

    @property
    def best_epoch(self) -> int:
        """The epoch, from 1, of the lowest test loss, mean over the draws: what follows is overfitting."""
        return 1 + int(self.curves.mean(dim=0)[:, CURVES.index("test_loss")].argmin())

    def curve(self, name: str) -> tuple[float, ...]:
        """One of ``CURVES``, mean over the draws, a value an epoch."""
        return tuple(self.curves.mean(dim=0)[:, CURVES.index(name)].tolist())


@dataclass(frozen=True, eq=False)
class TransferTask:
    """One encoder and what to classify with it.

    Attributes:
        encoder: Inputs to codes, (B, d); it is trained along, and left as it is where it was given.
        draws: Labelled inputs, (L, ...), one entry for each draw.
        test: Test inputs.
        reference: Codes of unlabelled training inputs by this encoder, (N, d), from which the scale is taken.
        classes: Number of classes.
        epochs: Epochs for each draw.
        seed: Of the MLP's weights and of the order; the draw's number is added.
        validation: Inputs on which the accuracy after the last epoch is measured as well, where it is asked for.
    """

    encoder: nn.Module
    draws: Sequence[LabelledInputs]
    test: LabelledInputs
    reference: Tensor
    classes: int
    epochs: int
    seed: int
    validation: LabelledInputs | None = None

    def shown(self, draw: int) -> LabelledInputs:
        """The draw's own part of the test inputs of the curves.

        The mean over the draws then sees as many images, but for a remainder, as one draw would that saw them all, for a fraction
        of the time, which would else be most of the training's.
        """
        size = max(1, min(CURVE_TEST_IMAGES, len(self.test.labels)) // len(self.draws))
        start = draw * size % len(self.test.labels)
        part = slice(start, start + size)
        return LabelledInputs(self.test.inputs[part], self.test.labels[part])

    @cached_property
    def scale(self) -> Standardize:
        """That of the codes, the same in every draw."""
        return Standardize(self.reference)

    def layers(self, draw: int) -> nn.Sequential:
        """Encoder, scale and MLP as they are before the training on a draw; the first two are the task's own."""
        head = make_head(self.reference.shape[1], self.classes, self.seed + draw).to(self.reference.device)
        return nn.Sequential(self.encoder, self.scale, head)

    def net(self, draw: int) -> nn.Sequential:
        """A copy of these layers, to be trained."""
        return copy.deepcopy(self.layers(draw))


class Standardize(nn.Module):
    """Subtracts each feature's mean and divides all by one common scale.

    One scale for all features, so that a rotation of the features changes nothing and features without variance stay
    small. Fitted on unlabelled training features; it never changes afterwards.
    """

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        scale = features.std(dim=0).square().mean().sqrt().clamp_min(1e-8)
        self.register_buffer("mean", features.mean(dim=0))
        self.register_buffer("scale", scale)

    def forward(self, features: Tensor) -> Tensor:
        """Keeps the shape (B, d)."""
        return (features - self.get_buffer("mean")) / self.get_buffer("scale")


def classify(task: TransferTask) -> TransferOutcome:
    """Trains the MLP, and the encoder under it, on each draw."""
    tested, curves, validated = zip(*(_classify_draw(task, index) for index in range(len(task.draws))), strict=True)
    validation = torch.tensor(validated, dtype=torch.float64) if task.validation else None
    return TransferOutcome(torch.tensor(tested, dtype=torch.float64), torch.stack(curves), validation)


def _classify_draw(task: TransferTask, index: int) -> tuple[float, Tensor, float]:
    """Test accuracy, curves and validation accuracy, which is NaN without such inputs."""
    net = task.net(index)
    accuracy, curves = _train(net, task, index)
    return accuracy, curves, _loss_and_accuracy(net, task.validation)[1] if task.validation else float("nan")


def train_classifier(task: TransferTask) -> nn.Sequential:
    """The classifier, and the encoder under it, trained on the first draw; in evaluation mode."""
    net = task.net(0)
    _train(net, task, 0)
    return net.eval()


@torch.no_grad()
def calibrate_batch_norm(encoder: nn.Module, images: Tensor, twin_of: Callable[[nn.Module], nn.Module] = lambda net: net) -> None:
    """Sets the running statistics of an untrained encoder's batch norms to those of real images, in place.

    Without it they are 0 and 1, which are not the statistics of any data, and the few steps of a small labelled set
    do not bring them near. At most ``CALIBRATION_IMAGES`` are used. Leaves the encoder in evaluation mode.

    Args:
        encoder: To be calibrated.
        images: (N, C, H, W).
        twin_of: Gives what is called in the encoder's place, and has its very weights and statistics.
    """
    norms = [module for module in encoder.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = 1.0  # the statistics of the one batch, not a moving average
    twin_of(encoder).train()(images[:CALIBRATION_IMAGES])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    encoder.eval()


@torch.enable_grad()
def _train(net: nn.Module, task: TransferTask, index: int) -> tuple[float, Tensor]:
    """Trains on a draw; gives the accuracy on all test images and the curves, (epochs, 4)."""
    draw, shown = task.draws[index], task.shown(index)
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE, fused=True)
    generator = torch.Generator().manual_seed(task.seed + index)
    curves = torch.empty(task.epochs, len(CURVES), dtype=torch.float64)
    for epoch in range(task.epochs):
        net.train()
        for batch in split_order(torch.randperm(len(draw.labels), generator=generator)):
            optimizer.zero_grad(set_to_none=True)
            batch = batch.to(draw.labels.device)
            functional.cross_entropy(net(draw.inputs[batch]), draw.labels[batch]).backward()
            optimizer.step()
        train_loss, train_accuracy = _loss_and_accuracy(net, draw)
        test_loss, test_accuracy = _loss_and_accuracy(net, shown)
        curves[epoch] = torch.tensor([train_loss, test_loss, train_accuracy, test_accuracy], dtype=torch.float64)
    return _loss_and_accuracy(net, task.test)[1], curves


def split_order(order: Tensor) -> list[Tensor]:
    """Cuts an order into batches; a single image left over joins the batch before, for batch norm needs two."""
    batches = list(order.split(BATCH_SIZE))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


@torch.no_grad()
def _loss_and_accuracy(net: nn.Module, part: LabelledInputs, block: int = 1024) -> tuple[float, float]:
    net.eval()
    logits = torch.cat([net(inputs) for inputs in part.inputs.split(block)])
    accuracy = (logits.argmax(dim=1) == part.labels).double().mean()
    return float(functional.cross_entropy(logits, part.labels)), float(accuracy)


def make_head(features: int, classes: int, seed: int) -> nn.Sequential:
    """The MLP with the weights that follow from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(features, HIDDEN_UNITS), nn.ReLU(), nn.Linear(HIDDEN_UNITS, classes))
