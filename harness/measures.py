"""Every number of a trained autoencoder. To add one: a line in ``METRICS`` below."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness import interpolation, latents, models, transfer
from harness.config import TrialConfig
from harness.material import Material
from harness.numerics import peak_memory_mb
from harness.train import TrainState, apply_in_blocks, load_model
from harness.transfer import LabelledInputs, TransferOutcome, TransferTask
from harness.transfer_stack import classify_all

TRANSFER_MODES = ("frozen", "finetuned", "scratch")
HEAD_SEED_STRIDE = 1000
"""Between the heads' seeds of two trial seeds: more than there can be draws, so that no two replicates share a head."""


class Evaluation:
    """A trained autoencoder and what follows from it, each thing computed when it is first asked for."""

    def __init__(self, config: TrialConfig, state: TrainState, material: Material) -> None:
        self.config, self.state, self.material = config, state, material
        self.model = load_model(config, state, material.shape, material.device).eval()

    @property
    def images(self) -> Tensor:
        """The test images, (N, C, H, W)."""
        return self.material.splits.test.images

    @cached_property
    def codes(self) -> Tensor:
        """The latent codes of the test images, (N, d)."""
        return apply_in_blocks(self.model.encoder, self.images)

    @cached_property
    def training_codes(self) -> Tensor:
        """The latent codes of the training images."""
        return apply_in_blocks(self.model.encoder, self.material.splits.train.images)

    @cached_property
    def reconstructions(self) -> Tensor:
        """The decoded codes of the test images."""
        return self.decode(self.codes)

    def decode(self, codes: Tensor) -> Tensor:
        """Images of codes, (N, C, H, W)."""
        return apply_in_blocks(self.model.decoder, codes)

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
            coded = [LabelledInputs(apply_in_blocks(self.model.encoder, draw.inputs), draw.labels) for draw in draws]
            return TransferTask(nn.Identity(), coded, LabelledInputs(self.codes, test.labels), self.training_codes, *common)
        if mode == "finetuned":
            return TransferTask(self.model.encoder, draws, test, self.training_codes, *common)
        untrained = models.build(material.shape, config).to(material.device).encoder
        transfer.calibrate_batch_norm(untrained, material.splits.train.images)
        reference = apply_in_blocks(untrained, material.splits.train.images)
        return TransferTask(untrained, draws, test, reference, *common)


@torch.no_grad()
def measure_transfers(evaluations: Sequence[Evaluation], dtype: torch.dtype = torch.float32) -> None:
    """Gives evaluations that differ in seed and latent size at most their ``transfers``, all of a mode as one stack."""
    by_mode = {mode: classify_all([each.transfer_task(mode) for each in evaluations], dtype) for mode in TRANSFER_MODES}
    for index, evaluation in enumerate(evaluations):
        evaluation.transfers = {mode: outcomes[index] for mode, outcomes in by_mode.items()}


@dataclass(frozen=True)
class Metric:
    """A number of a trial.

    Attributes:
        direction: Which way is better; empty where neither is.
        unit: For tables and axes; empty for a pure number.
        measure: From the evaluation; NaN and infinity mean that it is not defined for this trial.
    """

    direction: Literal["down", "up", ""]
    unit: str
    measure: Callable[[Evaluation], float]

    def rank(self, value: float) -> float:
        """A number that is the smaller the better the value."""
        return -value if self.direction == "up" else value


def measure_all(evaluation: Evaluation) -> dict[str, float]:
    """Every metric that has a finite value."""
    with torch.no_grad():
        values = {name: float(metric.measure(evaluation)) for name, metric in METRICS.items()}
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _psnr_db(mse: float) -> float:
    """Peak signal-to-noise ratio of pixels in [0, 1]."""
    return -10 * math.log10(mse) if mse > 0 else math.inf


def _r2(mse: float, mean_image_mse: float) -> float:
    """Share of the variance about the mean training image that is explained; not defined where there is none."""
    return 1 - mse / mean_image_mse if mean_image_mse > 0 else math.nan


def _parameters(evaluation: Evaluation) -> int:
    return sum(parameter.numel() for parameter in evaluation.model.parameters())


def _samples_per_second(evaluation: Evaluation) -> float:
    images = len(evaluation.material.splits.train.images)
    batch = min(evaluation.config.batch_size, images)
    return evaluation.state.epoch * (images // batch) * batch / evaluation.state.seconds


PER_PIXEL = "squared error per pixel"

METRICS: dict[str, Metric] = {
    "reconstruction_loss": Metric("down", PER_PIXEL, lambda e: e.reconstruction_mse),
    "max_latent_correlation": Metric("down", "largest abs(r)", lambda e: latents.max_abs_correlation(e.codes)),
    "transfer_accuracy": Metric("up", "share of test images", lambda e: e.transfers["frozen"].accuracy),
    "train/mse": Metric("down", PER_PIXEL, lambda e: e.state.logs[-1].train_mse),
    "val/mse": Metric("down", PER_PIXEL, lambda e: e.state.logs[-1].val_mse),
    "test/psnr_db": Metric("up", "dB", lambda e: _psnr_db(e.reconstruction_mse)),
    "test/r2": Metric("up", "", lambda e: _r2(e.reconstruction_mse, e.material.floors.mean_image_mse(e.images))),
    "latent/max_abs_corr_null95": Metric("", "abs(r)", lambda e: latents.max_abs_correlation_null95(e.codes)),
    "latent/mean_abs_corr": Metric("down", "abs(r)", lambda e: latents.mean_abs_correlation(e.codes)),
    "latent/total_correlation": Metric("down", "nats", lambda e: latents.total_correlation(e.codes)),
    "latent/effective_rank": Metric("", "dimensions", lambda e: latents.effective_rank(e.codes)),
    "latent/dead_units": Metric("down", "units", lambda e: latents.dead_units(e.codes)),
    "transfer/frozen_accuracy": Metric("up", "share", lambda e: e.transfers["frozen"].accuracy),
    "transfer/frozen_accuracy_std": Metric("", "share", lambda e: e.transfers["frozen"].std),
    "transfer/finetuned_accuracy": Metric("up", "share", lambda e: e.transfers["finetuned"].accuracy),
    "transfer/finetuned_accuracy_std": Metric("", "share", lambda e: e.transfers["finetuned"].std),
    "transfer/scratch_accuracy": Metric("up", "share", lambda e: e.transfers["scratch"].accuracy),
    "transfer/scratch_accuracy_std": Metric("", "share", lambda e: e.transfers["scratch"].std),
    "transfer/frozen_best_epoch": Metric("", "epoch", lambda e: e.transfers["frozen"].best_epoch),
    "transfer/finetuned_best_epoch": Metric("", "epoch", lambda e: e.transfers["finetuned"].best_epoch),
    "transfer/scratch_best_epoch": Metric("", "epoch", lambda e: e.transfers["scratch"].best_epoch),
    "transfer/raw_pixels_accuracy": Metric("", "share", lambda e: e.material.raw_pixels_transfer(e.config).accuracy),
    "transfer/pca_accuracy": Metric("", "share", lambda e: e.material.pca_transfer(e.config).accuracy),
    "interpolation/manifold_distance": Metric("down", "times that of data", lambda e: e.manifold_distance),
    "floor/pca_mse": Metric("", PER_PIXEL, lambda e: e.material.floors.pca_mse(e.images, e.config.latent_size)),
    "floor/mean_image_mse": Metric("", PER_PIXEL, lambda e: e.material.floors.mean_image_mse(e.images)),
    "floor/random_projection_mse": Metric(
        "", PER_PIXEL, lambda e: e.material.floors.random_projection_mse(e.images, e.config.latent_size)
    ),
    "cost/train_seconds": Metric("down", "s", lambda e: e.state.seconds),
    "cost/peak_memory_mb": Metric("down", "MB", lambda e: peak_memory_mb(e.material.device)),
    "cost/parameters": Metric("down", "parameters", _parameters),
    "cost/samples_per_second": Metric("up", "images / s", _samples_per_second),
}
