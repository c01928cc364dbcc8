"""Every number of a trained autoencoder. To add one: a line in ``METRICS`` below."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

from harness import latents
from harness.config import STAGE_METRICS
from harness.evaluation import Evaluation
from harness.numerics import peak_memory_mb
from harness.train import stage_losses


@dataclass(frozen=True)
class Metric:
    """A number of a trial.

    Attributes:
        direction: Which way is better; empty where neither is.
        unit: For tables and axes; empty for a pure number.
        measure: From the evaluation; NaN and infinity mean that it is not defined for this trial.
        group: One of ``GROUPS``, for what is measured only where a study asks for it; empty for what every study has.
    """

    direction: Literal["down", "up", ""]
    unit: str
    measure: Callable[[Evaluation], float]
    group: str = ""

    def rank(self, value: float) -> float:
        """A number that is the smaller the better the value."""
        return -value if self.direction == "up" else value


def measure_all(evaluation: Evaluation, groups: Sequence[str] = ()) -> dict[str, float]:
    """Every metric that has a finite value, those of a group where it is asked for."""
    wanted = {name: metric for name, metric in METRICS.items() if metric.group in ("", *groups)}
    with torch.no_grad():
        values = {name: float(metric.measure(evaluation)) for name, metric in wanted.items()}
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


def _stage_loss(evaluation: Evaluation, stage: int) -> float:
    losses = stage_losses(evaluation.config, evaluation.state.logs)
    return losses[stage] if stage < len(losses) else math.nan


PER_PIXEL, TIMES_DATA, PROBABILITY = "squared error per pixel", "times that of data", "largest probability"

GROUPS = {
    "pruning": "the validation loss at the end of each stage of the training; every study with a pruner has it",
    "labels": "how many labelled images there were",
    "paths": "midpoints of many pairs on lines, on arcs and blended pixel by pixel: are they near the data, and clear images?",
    "prefix": "the loss from the first units of the code alone",
    "rotation": "correlation and transfer after PCA and after whitening of the codes, and a linear probe",
}
"""Measures that a study asks for by name (``measures=("paths",)``): they take time, and most studies have no use for them."""

PREFIX_SIZES = (1, 2, 3, 5, 10, 15, 20, 25, 30)
"""Units of which the loss is measured: the latent sizes of the sweeps, and what is below them."""

METRICS: dict[str, Metric] = {
    "reconstruction_loss": Metric("down", PER_PIXEL, lambda e: e.reconstruction_mse),
    "max_latent_correlation": Metric("down", "largest abs(r)", lambda e: latents.max_abs_correlation(e.codes)),
    "transfer_accuracy": Metric("up", "share of test images", lambda e: e.transfers["frozen"].accuracy),
    "train/mse": Metric("down", PER_PIXEL, lambda e: e.state.logs[-1].train_mse),
    "val/mse": Metric("down", PER_PIXEL, lambda e: e.state.logs[-1].val_mse),
    "val/max_latent_correlation": Metric("down", "largest abs(r)", lambda e: latents.max_abs_correlation(e.validation_codes)),
    "val/transfer_accuracy": Metric("up", "share of validation images", lambda e: e.transfers["frozen"].validation_accuracy),
    "test/psnr_db": Metric("up", "dB", lambda e: _psnr_db(e.reconstruction_mse)),
    "test/r2": Metric("up", "", lambda e: _r2(e.reconstruction_mse, e.material.test_floors.mean_image_mse())),
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
    "interpolation/manifold_distance": Metric("down", TIMES_DATA, lambda e: e.manifold_distance),
    "floor/pca_mse": Metric("", PER_PIXEL, lambda e: e.material.test_floors.pca_mse(e.config.latent_size)),
    "floor/mean_image_mse": Metric("", PER_PIXEL, lambda e: e.material.test_floors.mean_image_mse()),
    "floor/random_projection_mse": Metric(
        "", PER_PIXEL, lambda e: e.material.test_floors.random_projection_mse(e.config.latent_size)
    ),
    "cost/train_seconds": Metric("down", "s", lambda e: e.state.seconds),
    "cost/peak_memory_mb": Metric("down", "MB", lambda e: peak_memory_mb(e.material.device)),
    "cost/parameters": Metric("down", "parameters", _parameters),
    "cost/samples_per_second": Metric("up", "images / s", _samples_per_second),
    **{name: Metric("down", PER_PIXEL, partial(_stage_loss, stage=stage), "pruning") for stage, name in enumerate(STAGE_METRICS)},
    "transfer/labelled_images": Metric(
        "", "images", lambda e: len(e.material.draws(e.config.labels, e.config.draws)[0].labels), "labels"
    ),
    "interpolation/linear_distance": Metric("down", TIMES_DATA, lambda e: e.path_distance("linear"), "paths"),
    "interpolation/spherical_distance": Metric("down", TIMES_DATA, lambda e: e.path_distance("spherical"), "paths"),
    "interpolation/blend_distance": Metric("", TIMES_DATA, lambda e: e.path_distance("blend"), "paths"),
    "interpolation/decoded_distance": Metric("down", TIMES_DATA, lambda e: e.path_distance("decoded"), "paths"),
    "interpolation/linear_confidence": Metric("up", PROBABILITY, lambda e: e.path_confidence("linear"), "paths"),
    "interpolation/spherical_confidence": Metric("up", PROBABILITY, lambda e: e.path_confidence("spherical"), "paths"),
    "interpolation/blend_confidence": Metric("", PROBABILITY, lambda e: e.path_confidence("blend"), "paths"),
    "interpolation/decoded_confidence": Metric("up", PROBABILITY, lambda e: e.path_confidence("decoded"), "paths"),
    "interpolation/data_confidence": Metric("", PROBABILITY, lambda e: e.path_confidence("data"), "paths"),
    **{
        f"prefix/mse_{units}": Metric("down", PER_PIXEL, partial(Evaluation.prefix_mse, units=units), "prefix")
        for units in PREFIX_SIZES
    },
    "latent/max_abs_corr_rotated": Metric(
        "down", "abs(r)", lambda e: latents.max_abs_correlation(e.rotation.rotated(e.codes)), "rotation"
    ),
    "transfer/rotated_accuracy": Metric("up", "share", lambda e: e.code_transfer(e.rotation.rotated).accuracy, "rotation"),
    "transfer/whitened_accuracy": Metric("up", "share", lambda e: e.code_transfer(e.rotation.whitened).accuracy, "rotation"),
    "transfer/linear_probe_accuracy": Metric("up", "share", lambda e: e.probe_accuracy(lambda codes: codes), "rotation"),
    "transfer/linear_probe_whitened_accuracy": Metric("up", "share", lambda e: e.probe_accuracy(e.rotation.whitened), "rotation"),
}
