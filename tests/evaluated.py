"""One small trained autoencoder, evaluated, and its files read back."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import numpy.typing as npt

from harness import datasets, models
from harness.config import TrialConfig
from harness.evaluation import Evaluation
from harness.material import Material
from harness.train import TrainState, initial_state, train_member

UNRESOLVED = TrialConfig(epochs=1, transfer_epochs=2, draws=2, train_size=64, latent_size=3)
CONFIG = models.resolve(UNRESOLVED)

Floats = npt.NDArray[np.float64]


def fresh_material() -> Material:
    """Fresh, so that nothing is remembered from another evaluation."""
    return Material(datasets.load("digits", ""), CONFIG.split_seed, CONFIG.train_size, "cpu")


def trained(config: TrialConfig) -> TrainState:
    """All epochs of a configuration on the same images."""
    material = fresh_material()
    return train_member(config, initial_state(config, material.shape), config.epochs, material.splits)[0]


def evaluated() -> Evaluation:
    """One epoch of the base architecture on 64 digits."""
    return Evaluation(CONFIG, trained(CONFIG), fresh_material())


def arrays_of(content: bytes) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an npz file."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)


def rows_of(content: bytes) -> tuple[list[str], Floats]:
    """The heading and the numbers of a CSV."""
    heading, *rows = csv.reader(io.StringIO(content.decode()))
    return heading, np.array(rows, dtype=float)
