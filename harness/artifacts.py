"""The files of a trial: pictures and the numbers behind them, latent codes, curves, the model. Bytes by path."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import Tensor

from harness import figures, interpolation, latents, saved
from harness.config import EpochLog, TrialConfig
from harness.evaluation import Evaluation

STRIPS_FILE = "interpolation/strips.npz"
MODEL_FOLDER = "model"


def trial_artifacts(evaluation: Evaluation) -> dict[str, bytes]:
    """All files of a trial that has finished."""
    return {
        **_reconstructions(evaluation),
        **_interpolation(evaluation),
        **_correlation(evaluation),
        **_codes(evaluation),
        **_model(evaluation),
        "curves/training.csv": training_csv(evaluation.state.logs),
        "curves/transfer.csv": _transfer_csv(evaluation.curves),
    }


def failure_artifacts(config: TrialConfig, logs: Sequence[EpochLog], failure: str) -> dict[str, bytes]:
    """All files of a trial that has failed."""
    return {
        "failure.txt": failure.encode(),
        f"{MODEL_FOLDER}/{saved.CONFIG_FILE}": saved.config_json(config),
        "curves/training.csv": training_csv(logs),
    }


def training_csv(logs: Iterable[EpochLog]) -> bytes:
    """A line an epoch."""
    return _csv([list(EpochLog.__dataclass_fields__), *(list(asdict(log).values()) for log in logs)])


def _reconstructions(evaluation: Evaluation) -> dict[str, bytes]:
    shown = evaluation.material.shown
    rows = [("original", _array(evaluation.images[shown])), ("decoded", _array(evaluation.reconstructions[shown]))]
    note = f"{_title(evaluation.config)}: test images, reconstruction loss {evaluation.reconstruction_mse:.4f}"
    return {"reconstructions.png": figures.image_rows(rows, note=note)}


def _interpolation(evaluation: Evaluation) -> dict[str, bytes]:
    pairs = evaluation.material.pairs[: interpolation.STRIP_PAIRS]
    strips = _array(interpolation.decoded_strips(evaluation.codes, pairs, evaluation.decode))
    labels = evaluation.material.splits.test.labels.tolist()
    rows = [(f"{labels[first]} to {labels[second]}", strip) for (first, second), strip in zip(pairs, strips, strict=True)]
    heading = [f"{1 - step / (len(strips[0]) - 1):.3g}" for step in range(len(strips[0]))]
    note = f"{_title(evaluation.config)}: decoded a E(x1) + (1 - a) E(x2), columns by a"
    levels = (np.clip(strips, 0, 1) * 255).round().astype(np.uint8)
    classes = np.array([[labels[index] for index in pair] for pair in pairs])
    return {
        "interpolation/strips.png": figures.image_rows(rows, heading, note),
        STRIPS_FILE: _npz(strips=levels, pairs=np.array(pairs), classes=classes),
    }


def _correlation(evaluation: Evaluation) -> dict[str, bytes]:
    matrix = _array(latents.correlation_matrix(evaluation.codes))
    note = f"{_title(evaluation.config)}: Pearson r of {len(evaluation.codes)} codes"
    rows = [["unit", *range(len(matrix))], *([unit, *row] for unit, row in enumerate(matrix.tolist()))]
    return {"latents/correlation.png": figures.correlation_picture(matrix, note), "latents/correlation.csv": _csv(rows)}


def _codes(evaluation: Evaluation) -> dict[str, bytes]:
    labels = evaluation.material.splits.test.labels
    return {"latents/test_codes.npz": _npz(codes=_array(evaluation.codes), labels=_array(labels))}


def _model(evaluation: Evaluation) -> dict[str, bytes]:
    files = saved.model_files(evaluation.model, evaluation.config, evaluation.material.shape)
    return {f"{MODEL_FOLDER}/{name}": content for name, content in files.items()}


def _transfer_csv(curves: Mapping[str, Sequence[float]]) -> bytes:
    return _csv(
        [["epoch", *curves], *([epoch, *values] for epoch, values in enumerate(zip(*curves.values(), strict=True), start=1))]
    )


def _title(config: TrialConfig) -> str:
    return f"{config.dataset}, {config.architecture}, d = {config.latent_size}, seed {config.seed}"


def _array(tensor: Tensor) -> Any:
    return tensor.detach().cpu().numpy()


def _npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _csv(rows: Iterable[Sequence[Any]]) -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode()
