"""What the autoencoders reach on real MNIST; long, and only where the images are."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from harness.config import Placement, TrialConfig
from harness.executors import EXECUTORS
from harness.models import resolve
from harness.trial import evaluate_group, run_segment
from harness.workers import Wanted

DATA = os.environ.get("HARNESS_DATA", "")


@pytest.mark.slow
@pytest.mark.skipif(not (Path(DATA) / "MNIST" / "raw").is_dir(), reason="HARNESS_DATA names no folder with the real MNIST")
def test_on_mnist_the_loss_falls_with_the_latent_size_and_stays_below_pca() -> None:
    """3,300 images, 30 epochs: at every latent size below the PCA floor of that size, and lower the larger the size."""
    placement, base = Placement(DATA), TrialConfig(dataset="mnist", epochs=30, draws=1, transfer_epochs=1)
    groups = [[resolve(replace(base, latent_size=size))] for size in (2, 10, 30)]
    with EXECUTORS["processes"](Wanted(2)) as executor:
        trained = [executor.submit(run_segment, group, None, 30, placement) for group in groups]
        results = [
            evaluate_group(group, future.result().states, placement)[0] for group, future in zip(groups, trained, strict=True)
        ]
    losses = [result.metrics["reconstruction_loss"] for result in results]
    assert losses == sorted(losses, reverse=True)
    assert all(result.metrics["reconstruction_loss"] < result.metrics["floor/pca_mse"] for result in results)
    assert [result.metrics["floor/pca_mse"] for result in results[:2]] == pytest.approx([0.0557, 0.0341], rel=0.01)
