"""Few-label transfer of many encoders at once, all draws of all of them as one stack: the fast twin of ``transfer``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.optimizers import StackedAdam
from harness.stacks import Twin, is_faster_apart, lend_weights, stack, stack_states
from harness.train import apply_in_blocks
from harness.transfer import (
    LEARNING_RATE,
    LabelledInputs,
    Standardize,
    TransferOutcome,
    TransferTask,
    split_order,
)

NETS_AT_ONCE, NETS_AT_ONCE_ON_GPU = 40, 1024
"""Nets in a stack at the most."""

WEIGHTS_AT_ONCE = 2**22
"""Weights in a stack on a CPU: larger stacks of large nets are slower (``benchmarks/README.md``)."""

BLOCK, BLOCK_ON_GPU, BLOCK_ALONE = 10**6, 2**18, 2**18
"""Numbers in the inputs that are evaluated at a time: of a whole stack on a CPU, so few that what its layers make of them is kept
for the next ones; of each net on a GPU, and where each is evaluated alone."""


class StackedStandardize(Twin):
    """Of ``Standardize``."""

    @staticmethod
    def takes(layer: nn.Module) -> bool:
        """Any."""
        return True

    def forward(self, features: Tensor) -> Tensor:
        """Keeps the shape (K * B, d)."""
        rows = features.unflatten(0, (self.members, -1))
        mean, scale = self.get_buffer("mean").unsqueeze(1), self.get_buffer("scale").view(-1, 1, 1)
        return torch.flatten((rows - mean) / scale, 0, 1)


@dataclass(frozen=True, eq=False)
class _Job:
    """One net: a task and the number of one of its draws."""

    task: TransferTask
    draw: int

    @property
    def labelled(self) -> LabelledInputs:
        """What it is trained on."""
        return self.task.draws[self.draw]

    @property
    def measured(self) -> LabelledInputs:
        """What its curves are measured on: what it is trained on, and its part of the test inputs after that."""
        parts = self.labelled, self.task.shown(self.draw)
        return LabelledInputs(torch.cat([part.inputs for part in parts]), torch.cat([part.labels for part in parts]))


class _Nets(NamedTuple):
    """Nets as a stack, and each by itself with the same weights where they are evaluated so."""

    stack: nn.Module
    alone: Sequence[nn.Module]


def classify_all(tasks: Sequence[TransferTask], dtype: torch.dtype = torch.float32) -> list[TransferOutcome]:
    """Gives what ``transfer.classify`` gives for each task, up to rounding.

    Args:
        tasks: With encoders of one structure and as many epochs, classes, draws and labelled inputs each, all of them with
            validation inputs or none; their codes, and inputs that are codes, may differ in size.
        dtype: Of the operands of products in training steps.
    """
    jobs = [_Job(task, draw) for task in tasks for draw in range(len(task.draws))]
    count = -(-len(jobs) // _nets_at_once(tasks))
    cuts = [len(jobs) * part // count for part in range(count + 1)]
    parts = [_train_nets(jobs[start:end], dtype) for start, end in pairwise(cuts)]
    draws = [len(task.draws) for task in tasks]
    accuracies, curves, validation = (torch.cat(numbers).split(draws) for numbers in zip(*parts, strict=True))
    return [
        TransferOutcome(accuracies[place], curves[place], validation[place] if task.validation else None)
        for place, task in enumerate(tasks)
    ]


def _nets_at_once(tasks: Sequence[TransferTask]) -> int:
    if tasks[0].reference.device.type != "cpu":
        return NETS_AT_ONCE_ON_GPU
    weights = max(sum(weight.numel() for weight in task.layers(0).parameters()) for task in tasks)
    return max(1, min(NETS_AT_ONCE, WEIGHTS_AT_ONCE // weights))


@torch.enable_grad()
def _train_nets(jobs: Sequence[_Job], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Gives the accuracies on all test inputs, (nets,), the curves, (nets, epochs, 4), and the accuracies on validation inputs.

    All float64; the last are NaN where a task has none.
    """
    count = len(jobs)
    nets = _make_nets(jobs, dtype, apart=is_faster_apart(jobs[0].labelled.inputs))
    net = nets.stack
    optimizer = StackedAdam(net, [LEARNING_RATE] * count)
    labelled, both = len(jobs[0].labelled.labels), _together([job.measured for job in jobs])
    curves = []
    for batches in _epochs(jobs, both):
        net.train()
        for batch in batches:
            optimizer.zero_grad()
            inputs = both.inputs.flatten(0, 1).index_select(0, batch)
            losses = functional.cross_entropy(net(inputs), both.labels.flatten().index_select(0, batch), reduction="none")
            (losses.sum() / (len(batch) / count)).backward()  # the sum of every net's mean: its weights are in its own
            optimizer.step(1.0)
        curves.append(_measure(nets, both, labelled))
    accuracies = _accuracies(nets, _together([job.task.test for job in jobs]))
    return accuracies.cpu(), torch.stack(curves, dim=1).cpu(), _validation_accuracies(nets, jobs)


def _make_nets(jobs: Sequence[_Job], dtype: torch.dtype, apart: bool) -> _Nets:
    """A stack has weights of its own; nets that are to be evaluated apart are copies, which then use those."""
    alone = [job.task.net(job.draw) if apart else job.task.layers(job.draw) for job in jobs]
    net = stack(alone, dtype, {Standardize: StackedStandardize})
    if not apart:
        return _Nets(net, ())
    lend_weights(net, alone)
    return _Nets(net, alone)


def _validation_accuracies(nets: _Nets, jobs: Sequence[_Job]) -> Tensor:
    parts = [job.task.validation for job in jobs if job.task.validation]
    if len(parts) < len(jobs):
        return torch.full((len(jobs),), torch.nan, dtype=torch.float64)
    return _accuracies(nets, _together(parts)).cpu()


def _measure(nets: _Nets, both: LabelledInputs, labelled: int) -> Tensor:
    """One epoch of every net's ``CURVES``, (nets, 4), from so many labelled inputs of each and the test inputs after them."""
    parts = [part for numbers in _losses_and_hits(nets, both) for part in numbers.tensor_split([labelled], dim=1)]
    return torch.stack([part.mean(dim=1) for part in parts], dim=1)


def _together(parts: Sequence[LabelledInputs]) -> LabelledInputs:
    """Inputs (nets, L, ...) and labels (nets, L); codes of different sizes are filled up with zeros."""
    if all(part is parts[0] for part in parts):
        first = parts[0]
        return LabelledInputs(first.inputs.expand(len(parts), *first.inputs.shape), first.labels.expand(len(parts), -1))
    inputs = stack_states([{"inputs": part.inputs} for part in parts])["inputs"]
    return LabelledInputs(inputs, torch.stack([part.labels for part in parts]))


def _epochs(jobs: Sequence[_Job], both: LabelledInputs) -> list[list[Tensor]]:
    """For each epoch its batches: which of all nets' inputs each takes, (nets * B,), every net in its own order."""
    size, (count, width) = len(jobs[0].labelled.labels), both.labels.shape
    generators = [torch.Generator().manual_seed(job.task.seed + job.draw) for job in jobs]
    starts = torch.arange(count).unsqueeze(1) * width
    epochs = []
    for _ in range(jobs[0].task.epochs):
        orders = torch.stack([torch.randperm(size, generator=generator) for generator in generators])
        batches = split_order(torch.arange(size))
        epochs.append([(orders[:, batch] + starts).flatten().to(both.labels.device) for batch in batches])
    return epochs


def _accuracies(nets: _Nets, part: LabelledInputs) -> Tensor:
    """Each net's in evaluation mode, (nets,), float64."""
    return _losses_and_hits(nets, part)[1].mean(dim=1)


def _losses_and_hits(nets: _Nets, part: LabelledInputs) -> tuple[Tensor, Tensor]:
    """Each net's cross-entropy of each input in evaluation mode, and 1 where its class is right, both (nets, L), float64."""
    logits = _logits(nets, part.inputs)
    losses = functional.cross_entropy(logits.flatten(0, 1), part.labels.flatten(), reduction="none").view_as(part.labels)
    return losses.double(), (logits.argmax(dim=2) == part.labels).double()


@torch.no_grad()
def _logits(nets: _Nets, inputs: Tensor) -> Tensor:
    """Of each net's inputs (nets, L, ...), in evaluation mode, (nets, L, classes)."""
    size = inputs[0, 0].numel()
    if nets.alone:
        block = max(1, BLOCK_ALONE // size)
        return torch.stack([apply_in_blocks(net.eval(), own, block) for net, own in zip(nets.alone, inputs, strict=True)])
    block = max(1, (BLOCK // len(inputs) if inputs.device.type == "cpu" else BLOCK_ON_GPU) // size)
    net, parts = nets.stack.eval(), inputs.tensor_split(-(-inputs.shape[1] // block), dim=1)
    return torch.cat([net(part.flatten(0, 1)).unflatten(0, (len(inputs), -1)) for part in parts], dim=1)
