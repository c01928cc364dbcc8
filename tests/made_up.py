"""A sweep whose truth is known: losses along broken lines, correlations that rise, accuracies with a plateau."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Sequence
from typing import Any
from zlib import crc32

import numpy as np
from PIL import Image

from harness.config import Trial, TrialConfig, TrialRecord
from harness.evaluation import TRANSFER_MODES
from harness.measures import METRICS
from harness.models import resolve
from harness.tables import Summary, summarize, table_axes
from harness.transfer import CURVES

SIZES = (2, 5, 10, 15, 20, 25, 30)
KNEE, BEFORE, AFTER = 8.0, -0.005, -0.0003
"""Where every loss bends, and by how much it changes with each unit of d."""

FACTORS = {"base": 1.0, "deep": 0.98, "heavy": 0.8}
"""Of an architecture's losses."""

EPOCHS = 4


def made_up_sweep(
    architectures: Sequence[str] = ("base", "deep", "heavy"),
    sizes: Sequence[int] = SIZES,
    seeds: int = 3,
    noise: float = 0.02,
    **fields: Any,
) -> list[TrialRecord]:
    """The records of a grid, seed by seed."""
    points = itertools.product(range(seeds), architectures, sizes)
    configs = [resolve(TrialConfig(architecture=name, latent_size=size, seed=seed, **fields)) for seed, name, size in points]
    return [_record(number, config, noise) for number, config in enumerate(configs)]


def _broken_line(size: int) -> float:
    return 0.06 + BEFORE * min(size, KNEE) + AFTER * max(0.0, size - KNEE)


def _record(number: int, config: TrialConfig, noise: float) -> TrialRecord:
    size, generator = (
        config.latent_size,
        np.random.default_rng([config.seed, config.latent_size, crc32(config.architecture.encode())]),
    )
    loss = FACTORS.get(config.architecture, 1.0) * _broken_line(size)
    accuracy = 0.86 - 0.25 * math.exp(-size / 3)
    metrics = {name: 0.5 for name, metric in METRICS.items() if not metric.group}
    metrics |= {
        "reconstruction_loss": loss * math.exp(noise * generator.normal()),
        "val/mse": loss,
        "floor/pca_mse": 0.05 * math.exp(-0.1 * size),
        "floor/random_projection_mse": 0.06,
        "floor/mean_image_mse": 0.07,
        "max_latent_correlation": 0.2 + 0.02 * size + noise * generator.normal(),
        "latent/max_abs_corr_null95": 0.1 + 0.001 * size,
        "latent/effective_rank": 0.9 * size,
        "transfer_accuracy": accuracy + noise * generator.normal() / 4,
        "transfer/raw_pixels_accuracy": 0.9,
        "interpolation/manifold_distance": 1 + size / 50 + noise * generator.normal() / 4,
        "cost/parameters": 1000.0 if config.architecture == "base" else 3000.0,
    }
    metrics |= {"transfer/frozen_accuracy": metrics["transfer_accuracy"], "transfer/frozen_best_epoch": 4.0}
    metrics |= {
        "transfer/finetuned_accuracy": accuracy - 0.03 + noise * generator.normal() / 4,
        "transfer/finetuned_best_epoch": 2.0,
    }
    metrics |= {"transfer/scratch_accuracy": 0.6 + noise * generator.normal() / 4, "transfer/scratch_best_epoch": 3.0}
    return TrialRecord(f"{number:032x}", Trial(number, config), "finished", metrics)


def summary_of(records: Sequence[TrialRecord], *varied: str) -> Summary:
    """Their summary."""
    return summarize(records, table_axes(varied or ("architecture", "latent_size"), list(records)), len(records))


def file_reader(records: Sequence[TrialRecord]) -> Any:
    """Gives the files of a trial's run that a report reads, made up as well."""
    sizes = {record.run_id: record.trial.config.latent_size for record in records}

    def read_file(run_id: str, path: str) -> bytes:
        return FILES[path](sizes[run_id])

    return read_file


def _curves(size: int) -> bytes:
    names = [f"transfer/{mode}/{name}" for mode in TRANSFER_MODES for name in CURVES]
    return _csv([["epoch", *names], *([epoch, *[1 / epoch + 1 / size] * len(names)] for epoch in range(1, EPOCHS + 1))])


def _matrix(size: int) -> bytes:
    matrix = np.eye(size) * 0.5 + 0.5
    return _csv([["unit", *range(size)], *([unit, *row] for unit, row in enumerate(matrix.tolist()))])


def _strips(size: int) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, strips=np.full((2, 3, 1, 8, 8), size, dtype=np.uint8), classes=np.array([[1, 2], [3, 4]]))
    return buffer.getvalue()


def _codes(size: int) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, codes=np.random.default_rng(size).normal(size=(50, size)), labels=np.arange(50) % 10)
    return buffer.getvalue()


def _picture(size: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (60, 20), (size, size, size)).save(buffer, format="png")
    return buffer.getvalue()


def _csv(rows: Sequence[Sequence[Any]]) -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode()


FILES = {
    "curves/transfer.csv": _curves,
    "latents/correlation.csv": _matrix,
    "interpolation/strips.npz": _strips,
    "latents/test_codes.npz": _codes,
    "reconstructions.png": _picture,
}
