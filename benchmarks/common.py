"""What the scripts that the harness is compared with share: the job, the data, a tutorial's training loop, the evaluation."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from harness import models
from harness.artifacts import trial_artifacts
from harness.config import EpochLog, Placement, TrialConfig
from harness.evaluation import Evaluation
from harness.material import Material, gather
from harness.measures import measure_all
from harness.splits import split_indices
from harness.track import EPOCH_METRICS
from harness.train import TrainState, to_arrays

EXPERIMENT = "compare"
LEARNING_RATE = 1e-3
"""Adam's own default, which tutorials leave as it is."""

VALIDATION_BATCH = 1000


@dataclass(frozen=True)
class Job:
    """What a contestant has to do: every architecture with every latent size from every seed.

    Attributes:
        base: The fields that do not vary, as text.
        architectures: By name.
        latent_sizes: Dimensions of the code.
        seeds: From 0.
        tracking_uri: MLflow's store.
        data_root: Folder of the downloaded datasets.
    """

    base: dict[str, str]
    architectures: list[str]
    latent_sizes: list[int]
    seeds: list[int]
    tracking_uri: str
    data_root: str

    @property
    def space(self) -> dict[str, list[Any]]:
        """The values of each field that varies."""
        return {"architecture": self.architectures, "latent_size": self.latent_sizes, "seed": self.seeds}

    @property
    def points(self) -> list[dict[str, Any]]:
        """All of the grid."""
        return [dict(zip(self.space, values, strict=True)) for values in product(*self.space.values())]

    def config(self, point: Mapping[str, Any]) -> TrialConfig:
        """The configuration of a point of the grid."""
        base = TrialConfig.from_params(self.base)
        return models.resolve(replace(base, learning_rate=LEARNING_RATE, **point))

    def material(self, config: TrialConfig) -> Material:
        """Images, draws and floors, read once in a process."""
        return gather(config, Placement(self.data_root))

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self)))


def read_job(path: str) -> Job:
    """Reads what ``Job.write`` wrote."""
    return Job(**json.loads(Path(path).read_text()))


def logged_params(config: TrialConfig) -> dict[str, str]:
    """The configuration as it is logged."""
    return {**config.to_params(), "schedule": "constant"}


def run_name(config: TrialConfig) -> str:
    """What the trial is called."""
    return f"{config.architecture} d={config.latent_size} seed={config.seed}"


class Images(Dataset[Tensor]):
    """Images as a dataset has them, each put through a transform when it is asked for."""

    def __init__(self, pixels: npt.NDArray[Any], transform: Callable[[npt.NDArray[Any]], Tensor]) -> None:
        """Takes (N, H, W, C), which is what the transforms of torchvision expect."""
        self.pixels, self.transform = pixels, transform

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(self.pixels[index])


def make_loaders(config: TrialConfig, material: Material) -> tuple[DataLoader[Tensor], DataLoader[Tensor]]:
    """Loaders of the training and of the validation split; the same images as everywhere in the harness."""
    indices = split_indices(material.data, config.split_seed)
    pixels = np.ascontiguousarray(material.data.pixels.images.transpose(0, 2, 3, 1))
    train = Images(pixels[indices.pool[: config.train_size]], transforms.ToTensor())
    validation = Images(pixels[indices.validation], transforms.ToTensor())
    batch_size = min(config.batch_size, len(train))
    return DataLoader(train, batch_size, shuffle=True, drop_last=True), DataLoader(validation, VALIDATION_BATCH)


def train(config: TrialConfig, material: Material, log_epoch: Callable[[EpochLog], object]) -> TrainState:
    """Trains one autoencoder as tutorials do, with a rate that stays as it is."""
    train_loader, validation_loader = make_loaders(config, material)
    model = models.build(material.shape, config)
    torch.manual_seed(config.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    logs: list[EpochLog] = []
    for epoch in range(1, config.epochs + 1):
        started = time.perf_counter()
        train_mse = _train_epoch(model, optimizer, train_loader)
        val_mse = _validate(model, validation_loader)
        logs.append(EpochLog(epoch, train_mse, train_mse, val_mse, config.learning_rate, time.perf_counter() - started))
        log_epoch(logs[-1])
    return trained_state(model, logs)


def _train_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader[Tensor]) -> float:
    model.train()
    total = 0.0
    for batch in loader:
        optimizer.zero_grad()
        loss = functional.mse_loss(model(batch), batch)
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / len(loader)


@torch.no_grad()
def _validate(model: nn.Module, loader: DataLoader[Tensor]) -> float:
    model.eval()
    total = sum(functional.mse_loss(model(batch), batch).item() * len(batch) for batch in loader)
    return total / len(cast(Images, loader.dataset))


def trained_state(model: nn.Module, logs: list[EpochLog]) -> TrainState:
    """What the harness's measures are taken from."""
    return TrainState(epoch=len(logs), weights=to_arrays(model.state_dict()), logs=tuple(logs))


def epoch_metrics(log: EpochLog) -> dict[str, float]:
    """An epoch's numbers by the names that the harness logs them under."""
    return {name: getattr(log, field) for name, field in EPOCH_METRICS.items()}


def log_evaluation(
    evaluation: Evaluation, log_metrics: Callable[[dict[str, float], int], object], log_folder: Callable[[str], object]
) -> None:
    """Measures all that the harness measures, one classifier after the other, and logs it with all files.

    Args:
        evaluation: The trained autoencoder.
        log_metrics: Takes numbers by name, and the step.
        log_folder: Takes a folder whose files are the run's artifacts.
    """
    config = evaluation.config
    finals = {name: value for name, value in measure_all(evaluation).items() if name not in EPOCH_METRICS}
    log_metrics(finals, config.epochs)
    for index in range(config.transfer_epochs):
        log_metrics({name: values[index] for name, values in evaluation.curves.items()}, index + 1)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in trial_artifacts(evaluation).items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        log_folder(folder)
