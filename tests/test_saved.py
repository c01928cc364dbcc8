"""A trial's model from its files: the very weights, without pickle, and one line for files that are no model."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow.tracking import MlflowClient
from safetensors.torch import save

from harness.config import TrialConfig
from harness.models import ARCHITECTURES, build, resolve
from harness.rules import UserError
from harness.saved import CONFIG_FILE, WEIGHTS_FILE, differing_weights, load_autoencoder, model_files
from tests.stored import Stored
from tests.support import TINY

SHAPE = (1, 9, 8)


def write_model(folder: Path, config: TrialConfig) -> torch.nn.Module:
    """Writes a model with batch norms that have seen something; gives it."""
    model = build(SHAPE, config)
    model(torch.rand(16, *SHAPE))
    for name, content in model_files(model, config, SHAPE).items():
        (folder / name).write_bytes(content)
    return model.eval()


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_a_model_comes_back_as_it_was(architecture: str, tmp_path: Path) -> None:
    """Codes and reconstructions are the same bits, in evaluation mode; it can be trained on."""
    config = resolve(replace(TINY, architecture=architecture, seed=5))
    model, images = write_model(tmp_path, config), torch.rand(4, *SHAPE)
    loaded = load_autoencoder(tmp_path)
    assert not loaded.training
    assert torch.equal(loaded(images), model(images))
    assert loaded.encoder(images).shape == (4, config.latent_size)
    loaded(images).sum().backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())


def test_a_registered_model_loads_in_three_lines(stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the registry of the store that a sweep wrote to; it has as many parameters as the trial recorded."""
    copy = stored.copied(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", copy.uri)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    run_id = copy.run_ids(copy.grid)[0]
    client = MlflowClient(copy.uri)
    client.create_registered_model("of_a_test")
    version = client.create_model_version("of_a_test", f"{client.get_run(run_id).info.artifact_uri}/model", run_id)
    client.set_registered_model_alias("of_a_test", "best", version.version)
    model = load_autoencoder(mlflow.artifacts.download_artifacts("models:/of_a_test@best"))
    assert sum(each.numel() for each in model.parameters()) == client.get_run(run_id).data.metrics["cost/parameters"]


def test_weights_that_differ_are_counted(tmp_path: Path) -> None:
    """By name, kind and value."""
    weights = {"a": torch.zeros(2), "b": torch.ones(3), "c": torch.ones(1)}
    other = {"a": torch.zeros(2), "b": torch.ones(3, dtype=torch.float64), "d": torch.ones(1)}
    assert differing_weights(save(weights), save(weights)) == (0, 3)
    assert differing_weights(save(weights), save(other)) == (3, 4)
    assert differing_weights(save(weights), save(weights | {"a": torch.tensor([0.0, 1e-45])})) == (1, 3)
    assert differing_weights(save(weights), b"") == (3, 3)


def changed_config(folder: Path, **changes: object) -> None:
    """Changes values in the configuration's file."""
    path = folder / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"latent_size": 4}, ["are not of one model", "decoder.0.weight"]),
        ({"architecture": "linear"}, ["has no depth"]),
        ({"architecture": "bass"}, ["unknown architecture 'bass'", "did you mean 'base'?"]),
        ({"latent_sizes": 4}, ["unknown field 'latent_sizes'", "did you mean 'latent_size'?"]),
        ({"width": "wide"}, ["width is 'wide'"]),
        ({"image_shape": None}, ["image_shape None", "a failed trial has no model"]),
        ({"image_shape": [1, 8, 10**9]}, ["image_shape"]),
        ({"image_shape": [1, 4096, 4096], "width": 256, "depth": 6}, ["are not of one model"]),
    ],
)
def test_a_configuration_of_another_model_is_one_line(changes: dict[str, object], parts: list[str], tmp_path: Path) -> None:
    """Also one that would take hundreds of gigabytes: nothing is made before it is known to fit the weights."""
    write_model(tmp_path, resolve(TINY))
    changed_config(tmp_path, **changes)
    with pytest.raises(UserError) as error:
        load_autoencoder(tmp_path)
    assert [part for part in parts if part not in str(error.value)] == []
    assert "\n" not in str(error.value)


class Evil:
    """Executes something when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("executed"),))


@pytest.mark.parametrize("name", [WEIGHTS_FILE, CONFIG_FILE])
@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"\xff" * 99, pickle.dumps(Evil()), b'{"a": ' * 5000])
def test_a_damaged_or_missing_file_is_one_line(name: str, content: bytes | None, tmp_path: Path) -> None:
    """Nothing in it is executed."""
    write_model(tmp_path, resolve(TINY))
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        load_autoencoder(str(tmp_path))
    assert not Path("executed").exists()
