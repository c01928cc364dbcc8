"""What all trials of a sweep share: images on the device, labelled draws, pairs, and the floors, each computed once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache

import torch
from torch import nn

from harness import datasets
from harness.config import Placement, TrialConfig
from harness.floors import LinearFloors, SharedFloors
from harness.interpolation import DISTANCE_PAIRS, PATH_PAIRS, nearest_mse
from harness.models import Shape
from harness.rules import UserError
from harness.splits import Splits, interpolation_pairs, label_draws, make_splits, shown_indices
from harness.transfer import LabelledInputs, TransferOutcome, TransferTask, train_classifier
from harness.transfer_stack import classify_all

SHOWN_IMAGES = 12
FLOOR_SEED = 0
JUDGE_EPOCHS = 30
"""For which the classifier that judges decoded images is trained, on all training images and their labels."""


class Material:
    """The shared images of one dataset, split seed and training size, on one device."""

    def __init__(self, data: datasets.ImageSet, split_seed: int, train_size: int | None, device: str) -> None:
        splits = make_splits(data, split_seed, train_size)
        self.data, self.split_seed, self.device = data, split_seed, device
        self.splits = Splits(*(part.to(device) for part in (splits.train, splits.validation, splits.test)))
        self.classes = int(data.pixels.labels.max()) + 1
        self._draws: dict[tuple[int, int], list[LabelledInputs]] = {}
        self._floor_transfers: dict[tuple[str, int, int, int, int], TransferOutcome] = {}

    @property
    def shape(self) -> Shape:
        """Channels, height and width of an image."""
        return self.data.shape

    @cached_property
    def test_inputs(self) -> LabelledInputs:
        """The test images as a classifier takes them."""
        return LabelledInputs(self.splits.test.images, self.splits.test.labels)

    @cached_property
    def floors(self) -> LinearFloors:
        """The linear floors, fitted on the training split."""
        return LinearFloors.fit(self.splits.train.images)

    @cached_property
    def test_floors(self) -> SharedFloors:
        """The same on the test images."""
        return SharedFloors(self.floors, self.splits.test.images)

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """The fixed pairs of test images between which codes are interpolated."""
        return interpolation_pairs(self.splits.test.labels, self.split_seed, DISTANCE_PAIRS)

    @cached_property
    def data_distance(self) -> float:
        """How far the images of the fixed pairs are from the training images: mean squared error to the nearest."""
        real = self.splits.test.images[[index for pair in self.pairs for index in pair]]
        return float(nearest_mse(real, self.splits.train.images).mean())

    @cached_property
    def path_pairs(self) -> list[tuple[int, int]]:
        """As ``pairs``, many more: those are the first of these."""
        return interpolation_pairs(self.splits.test.labels, self.split_seed, PATH_PAIRS)

    @cached_property
    def judge(self) -> nn.Module:
        """A classifier of images that knows no autoencoder, the same for every trial: it tells clear images from others."""
        train = LabelledInputs(self.splits.train.images.flatten(1), self.splits.train.labels)
        test = LabelledInputs(self.splits.test.images.flatten(1), self.splits.test.labels)
        task = TransferTask(nn.Flatten(), [train], test, train.inputs, self.classes, JUDGE_EPOCHS, FLOOR_SEED)
        return train_classifier(task)

    @cached_property
    def shown(self) -> list[int]:
        """The test images that pictures show."""
        return shown_indices(self.splits.test.labels, self.split_seed, SHOWN_IMAGES)

    def draws(self, labels: int, draws: int) -> list[LabelledInputs]:
        """The labelled images of every draw."""
        if (labels, draws) not in self._draws:
            parts = label_draws(self.data, self.split_seed, labels, draws)
            self._draws[labels, draws] = [
                LabelledInputs(part.images.to(self.device), part.labels.to(self.device)) for part in parts
            ]
        return self._draws[labels, draws]

    def raw_pixels_transfer(self, config: TrialConfig) -> TransferOutcome:
        """The classifier on raw pixels: the same for every trial with as many labels, draws and epochs."""
        return self._floor_transfer("raw_pixels", 0, config)

    def pca_transfer(self, config: TrialConfig) -> TransferOutcome:
        """The classifier on ``latent_size`` principal component scores."""
        return self._floor_transfer("pca", config.latent_size, config)

    def _floor_transfer(self, kind: str, components: int, config: TrialConfig) -> TransferOutcome:
        key = (kind, components, config.labels, config.draws, config.transfer_epochs)
        if key not in self._floor_transfers:
            inputs = self._floor_inputs(components, [*self.draws(config.labels, config.draws), self.test_inputs])
            reference = self._floor_features(self.splits.train.images, components)
            task = TransferTask(
                nn.Identity(), inputs[:-1], inputs[-1], reference, self.classes, config.transfer_epochs, FLOOR_SEED
            )
            self._floor_transfers[key] = classify_all([task])[0]
        return self._floor_transfers[key]

    def _floor_inputs(self, components: int, parts: Sequence[LabelledInputs]) -> list[LabelledInputs]:
        return [LabelledInputs(self._floor_features(part.inputs, components), part.labels) for part in parts]

    def _floor_features(self, images: torch.Tensor, components: int) -> torch.Tensor:
        return self.floors.pca_scores(images, components) if components else images.flatten(1)


def gather(config: TrialConfig, placement: Placement) -> Material:
    """The material of a configuration; the last two are remembered.

    Raises:
        UserError: if the data are not as they should be.
    """
    index = torch.cuda.current_device() if placement.device != "cpu" else 0  # a worker may be sent from one GPU to another
    return _gather(config.dataset, config.image_size, config.split_seed, config.train_size, placement, index)


@lru_cache(maxsize=2)
def _gather(
    dataset: str, image_size: int | None, split_seed: int, train_size: int | None, placement: Placement, device_index: int
) -> Material:
    data = datasets.given(placement.data_fingerprint) or datasets.load(dataset, placement.data_root, image_size)
    if placement.data_fingerprint not in ("", data.fingerprint):
        raise UserError(f"dataset {dataset!r} has changed since the sweep was planned: run the command again for a new sweep")
    return Material(data, split_seed, train_size, placement.device)
