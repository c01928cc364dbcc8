"""A trained autoencoder and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness import interpolation, models, transfer
from harness.config import TrialConfig
from harness.kernels import in_use
from harness.material import Material
from harness.regularizers import keep_prefix
from harness.rotations import Rotation, linear_probe_accuracy
from harness.stacks import lend_weights, stack
from harness.train import TrainState, apply_in_blocks, load_model
from harness.transfer import LabelledInputs, TransferOutcome, TransferTask
from harness.transfer_stack import classify_all

STACKED_MODES = (("frozen",), ("finetuned", "scratch"))
"""Ways of transfer, those of nets that are alike together."""

TRANSFER_MODES = tuple(mode for modes in STACKED_MODES for mode in modes)
HEAD_SEED_STRIDE = 1000
"""Between the heads' seeds of two trial seeds: more than there can be draws, so that no two replicates share a head."""


class Evaluation:
    """A trained autoencoder and what follows from it, each thing computed when it is first asked for.

    Args:
        config: The trial's.
        state: After the last epoch.
        material: What it is measured on.
        stacked: Whether codes and images may come from the network as a stack of one, where the kernels make that faster.
    """

    def __init__(self, config: TrialConfig, state: TrainState, material: Material, stacked: bool = False) -> None:
        self.config, self.state, self.material = config, state, material
        self.stacked = stacked and in_use(material.device, torch.float32)
        self.model = load_model(config, state, material.shape, material.device).eval()
        self._encoder, self._decoder = self._quick(self.model.encoder), self._quick(self.model.decoder)

    def _quick(self, net: nn.Module) -> nn.Module:
        """The same network in evaluation mode, with the weights that it has now."""
        quick: nn.Module = stack([net]).eval() if self.stacked else net
        return quick

    def _twin(self, net: nn.Module) -> nn.Module:
        """The same network, with its very weights and statistics."""
        if not self.stacked:
            return net
        twin: nn.Module = stack([net])
        lend_weights(twin, [net])
        return twin

    @property
    def images(self) -> Tensor:
        """The test images, (N, C, H, W)."""
        return self.material.splits.test.images

    @cached_property
    def codes(self) -> Tensor:
        """The latent codes of the test images, (N, d)."""
        return apply_in_blocks(self._encoder, self.images)

    @cached_property
    def validation_codes(self) -> Tensor:
        """The latent codes of the validation images."""
        return apply_in_blocks(self._encoder, self.material.splits.validation.images)

    @cached_property
    def training_codes(self) -> Tensor:
        """The latent codes of the training images."""
        return apply_in_blocks(self._encoder, self.material.splits.train.images)

    @cached_property
    def reconstructions(self) -> Tensor:
        """The decoded codes of the test images."""
        return self.decode(self.codes)

    def decode(self, codes: Tensor) -> Tensor:
        """Images of codes, (N, C, H, W)."""
        return apply_in_blocks(self._decoder, codes)

    @cached_property
    def reconstruction_mse(self) -> float:
        """Mean squared error per pixel on the test split."""
        return float(functional.mse_loss(self.reconstructions, self.images))

    @cached_property
    def manifold_distance(self) -> float:
        """That of the midpoints of the fixed pairs."""
        pairs = self.material.pairs
        midpoints = self.decode(interpolation.interpolate(self.codes, pairs, interpolation.MIDPOINTS).flatten(0, 1))
        return interpolation.manifold_distance(midpoints, self.material.splits.train.images, self.material.data_distance)

    @cached_property
    def path_images(self) -> dict[str, Tensor]:
        """By kind of path, images at the midpoints of many pairs: decoded, blended pixel by pixel; and the ends of the pairs."""
        pairs, points = self.material.path_pairs, interpolation.MIDPOINTS
        ends, centre = [index for pair in pairs for index in pair], self.training_codes.mean(dim=0)
        blended = interpolation.interpolate(self.images.flatten(1), pairs, points).flatten(0, 1)
        return {
            "linear": self.decode(interpolation.interpolate(self.codes, pairs, points).flatten(0, 1)),
            "spherical": self.decode(interpolation.interpolate_on_arcs(self.codes, pairs, points, centre).flatten(0, 1)),
            "blend": blended.unflatten(1, self.images.shape[1:]),
            "decoded": self.reconstructions[ends],
            "data": self.images[ends],
        }

    def path_distance(self, path: str) -> float:
        """How far the images of a path are from training images, in units of how far the ends of the pairs are."""
        images, training = self.path_images, self.material.splits.train.images
        data_distance = float(interpolation.nearest_mse(images["data"], training).mean())
        return interpolation.manifold_distance(images[path], training, data_distance)

    def path_confidence(self, path: str) -> float:
        """How sure the judge is of the images of a path."""
        return interpolation.confidence(self.path_images[path], self.material.judge)

    @cached_property
    def rotation(self) -> Rotation:
        """The principal axes of the training codes."""
        return Rotation.fit(self.training_codes)

    def code_transfer(self, change: Callable[[Tensor], Tensor]) -> TransferOutcome:
        """Few-label transfer of the codes as a function changes them."""
        task = self.transfer_task("frozen")
        draws = [LabelledInputs(change(draw.inputs), draw.labels) for draw in task.draws]
        test = LabelledInputs(change(task.test.inputs), task.test.labels)
        return classify_all([replace(task, draws=draws, test=test, reference=change(task.reference), validation=None)])[0]

    def probe_accuracy(self, change: Callable[[Tensor], Tensor]) -> float:
        """Test accuracy of the linear probe on the codes as a function changes them, mean over the draws."""
        task = self.transfer_task("frozen")
        test = change(task.test.inputs), task.test.labels
        found = [linear_probe_accuracy(change(draw.inputs), draw.labels, *test) for draw in task.draws]
        return sum(found) / len(found)

    def prefix_mse(self, units: int) -> float:
        """Mean squared error per pixel on the test split from the first units alone; NaN where there are not so many."""
        if units > self.config.latent_size:
            return math.nan
        return float(functional.mse_loss(self.decode(keep_prefix(self.codes, units)), self.images))

    @cached_property
    def transfers(self) -> dict[str, TransferOutcome]:
        """Few-label transfer by mode; ``measure_transfers`` gives many evaluations theirs at once."""
        return {mode: transfer.classify(self.transfer_task(mode)) for mode in TRANSFER_MODES}

    @property
    def curves(self) -> dict[str, tuple[float, ...]]:
        """Per-epoch transfer numbers by metric name, means over the draws."""
        return {
            f"transfer/{mode}/{name}": self.transfers[mode].curve(name) for mode in TRANSFER_MODES for name in transfer.CURVES
        }

    def transfer_task(self, mode: str) -> TransferTask:
        """What is classified in one of the ``TRANSFER_MODES``, and with what."""
        config, material = self.config, self.material
        draws, test = material.draws(config.labels, config.draws), material.test_inputs
        common = (material.classes, config.transfer_epochs, HEAD_SEED_STRIDE * config.seed)
        if mode == "frozen":
            coded = [LabelledInputs(apply_in_blocks(self._encoder, draw.inputs), draw.labels) for draw in draws]
            tested = LabelledInputs(self.codes, test.labels)
            validation = LabelledInputs(self.validation_codes, material.splits.validation.labels)
            return TransferTask(nn.Identity(), coded, tested, self.training_codes, *common, validation)
        if mode == "finetuned":
            return TransferTask(self.model.encoder, draws, test, self.training_codes, *common)
        untrained = models.build(material.shape, config).to(material.device).encoder
        transfer.calibrate_batch_norm(untrained, material.splits.train.images, self._twin)
        reference = apply_in_blocks(self._quick(untrained), material.splits.train.images)
        return TransferTask(untrained, draws, test, reference, *common)


@torch.no_grad()
def measure_transfers(evaluations: Sequence[Evaluation], dtype: torch.dtype = torch.float32) -> None:
    """Gives evaluations that differ in seed and latent size at most their ``transfers``, those of ``STACKED_MODES`` together."""
    outcomes_by_mode: dict[str, list[TransferOutcome]] = {}
    for modes in STACKED_MODES:
        outcomes = classify_all([each.transfer_task(mode) for each in evaluations for mode in modes], dtype)
        outcomes_by_mode |= {mode: outcomes[place :: len(modes)] for place, mode in enumerate(modes)}
    for index, evaluation in enumerate(evaluations):
        evaluation.transfers = {mode: outcomes[index] for mode, outcomes in outcomes_by_mode.items()}
