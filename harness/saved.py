"""The trained model of a trial as files: weights as safetensors, configuration as JSON, both read without pickle.

A model that MLflow has registered loads in three lines::

    from mlflow.artifacts import download_artifacts
    from harness.saved import load_autoencoder
    model = load_autoencoder(download_artifacts("models:/latent_sweep@best"))
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness import models
from harness.config import TrialConfig, rule_of
from harness.rules import UserError, user_path

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
SHAPE = "image_shape"
MOST = 4096
"""Channels, or pixels a side."""

LARGEST_CONFIG = 100_000
"""Bytes: a configuration has some hundreds."""


def model_files(model: nn.Module, config: TrialConfig, shape: models.Shape) -> dict[str, bytes]:
    """The files of a trained model, contents by name."""
    from safetensors.torch import save

    weights = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
    return {WEIGHTS_FILE: save(weights), CONFIG_FILE: config_json(config, {SHAPE: list(shape)})}


def config_json(config: TrialConfig, more: Mapping[str, Any] | None = None) -> bytes:
    """A configuration, and what else is to be kept with it, as JSON."""
    return json.dumps({**asdict(config), **(more or {})}, indent=2).encode()


def load_autoencoder(folder: str | Path) -> models.Autoencoder:
    """Loads the autoencoder of a trial from the folder with its ``model/`` files.

    Returns:
        The trained model in evaluation mode, on the CPU; ``encoder`` and ``decoder`` are its parts.

    Raises:
        UserError: if a file is missing or damaged, or the two do not belong together; nothing in them is executed.
    """
    place = user_path(str(folder))
    config, shape = _read_config(place / CONFIG_FILE)
    weights = _read_weights(place / WEIGHTS_FILE)
    try:
        with torch.device("meta"):  # no memory is taken for what a foreign file claims to be
            model = models.ARCHITECTURES[config.architecture].build(shape, config)
    except Exception as error:  # whatever the layers say of such sizes
        raise UserError(f"{place / CONFIG_FILE} describes no model: {type(error).__name__}: {error}") from error
    _check_weights(place, weights, model.state_dict())
    model.load_state_dict(weights, assign=True)
    return model.eval()


def differing_weights(first: bytes, second: bytes) -> tuple[int, int]:
    """How many tensors of two weights files are not the same to the last bit, and how many there are in all."""
    one, other = read_weights(first), read_weights(second) if second else {}
    names = one.keys() | other.keys()
    same = [name for name in one.keys() & other.keys() if _is_same(one[name], other[name])]
    return len(names) - len(same), len(names)


def read_weights(content: bytes) -> dict[str, Tensor]:
    """Reads the content of a weights file.

    Raises:
        ValueError: if it is none.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        weights: dict[str, Tensor] = load(content)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    return weights


def _is_same(first: Tensor, second: Tensor) -> bool:
    return first.dtype == second.dtype and torch.equal(first, second)


def _read_config(path: Path) -> tuple[TrialConfig, models.Shape]:
    content = _read_json(path)
    shape = content.pop(SHAPE, None)
    if not isinstance(shape, list) or len(shape) != 3 or any(type(each) is not int or not 0 < each <= MOST for each in shape):
        raise UserError(f"{path} has {SHAPE} {shape!r}: allowed are channels, height and width; a failed trial has no model")
    try:
        for name in content:
            rule_of(name)
        return models.resolve(TrialConfig(**content)), (shape[0], shape[1], shape[2])
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(LARGEST_CONFIG))
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is no configuration: it holds a {type(content).__name__}, not names with values")
    return content


def _read_weights(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    return weights


def _unreadable(path: Path, error: Exception) -> UserError:
    cause = getattr(error, "strerror", "") or error
    step = f"give the folder with {CONFIG_FILE} and {WEIGHTS_FILE}, a trial's model/"
    return UserError(f"{path} cannot be read: {' '.join(str(cause).split())}: {step}")


def _check_weights(place: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    wanted = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in expected.items()}
    given = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in found.items()}
    wrong = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
    if wrong:
        raise UserError(
            f"{place / WEIGHTS_FILE} and {CONFIG_FILE} are not of one model: {wrong[0]} is {given.get(wrong[0], 'missing')}, "
            f"expected {wanted.get(wrong[0], 'none')}; {len(wrong)} of {len(wanted)} differ"
        )
