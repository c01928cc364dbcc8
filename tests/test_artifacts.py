"""All files of one small trained autoencoder: what they hold, and that they rebuild it."""

from __future__ import annotations

import io
import json
from dataclasses import fields, replace

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from harness import models
from harness.artifacts import failure_artifacts, trial_artifacts
from harness.config import TrialConfig
from harness.evaluation import TRANSFER_MODES, Evaluation
from harness.transfer import CURVES
from tests.evaluated import CONFIG, arrays_of, evaluated, fresh_material, rows_of

PICTURES = ("reconstructions.png", "interpolation/strips.png", "latents/correlation.png")


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """One epoch of the base architecture on 64 digits."""
    return evaluated()


@pytest.fixture(scope="module")
def files(evaluation: Evaluation) -> dict[str, bytes]:
    """Its artifacts."""
    return trial_artifacts(evaluation)


def test_the_pictures_are_all_that_is_png(files: dict[str, bytes]) -> None:
    """Reconstructions, strips and the correlation matrix."""
    assert sorted(name for name in files if name.endswith(".png")) == sorted(PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_opens_and_is_not_blank(name: str, files: dict[str, bytes]) -> None:
    """At least twenty shades, and neither side is trivially short."""
    with Image.open(io.BytesIO(files[name])) as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("L"))
    assert min(pixels.shape) > 80
    assert len(np.unique(pixels)) > 20


def test_every_file_is_the_same_when_it_is_made_again(evaluation: Evaluation, files: dict[str, bytes]) -> None:
    """Bytes of the same evaluation done anew, archives compared by what they hold."""
    other = trial_artifacts(Evaluation(CONFIG, evaluation.state, fresh_material()))
    assert other.keys() == files.keys()
    for name, content in files.items():
        if name.endswith(".npz"):
            assert all(np.array_equal(array, arrays_of(other[name])[key]) for key, array in arrays_of(content).items()), name
        else:
            assert other[name] == content, name


def test_the_strips_hold_decoded_codes_between_the_ends(evaluation: Evaluation, files: dict[str, bytes]) -> None:
    """Six pairs of different classes in nine steps; ends and middle are what the decoder gives, in 256 levels."""
    arrays = arrays_of(files["interpolation/strips.npz"])
    strips, pairs, classes = arrays["strips"], arrays["pairs"], arrays["classes"]
    assert (strips.shape, strips.dtype) == ((6, 9, 1, 8, 8), np.uint8)
    np.testing.assert_array_equal(classes, evaluation.material.splits.test.labels.numpy()[pairs])
    assert (classes[:, 0] != classes[:, 1]).all()
    codes = evaluation.codes[torch.from_numpy(pairs)]
    with torch.no_grad():
        for step, points in ((0, codes[:, 0]), (4, codes.mean(dim=1)), (8, codes[:, 1])):
            expected = 255 * evaluation.model.decoder(points).numpy()
            np.testing.assert_allclose(strips[:, step], expected, atol=0.51)


def test_the_codes_are_those_of_the_test_images(evaluation: Evaluation, files: dict[str, bytes]) -> None:
    """One row for each test image with its label, from the model's encoder in evaluation mode."""
    arrays = arrays_of(files["latents/test_codes.npz"])
    test = evaluation.material.splits.test
    with torch.no_grad():
        np.testing.assert_allclose(arrays["codes"], evaluation.model.encoder(test.images).numpy(), atol=1e-5)
    assert arrays["codes"].shape == (len(test.images), CONFIG.latent_size)
    np.testing.assert_array_equal(arrays["labels"], test.labels.numpy())


def test_the_correlation_table_is_that_of_the_codes(files: dict[str, bytes]) -> None:
    """NumPy's matrix of the codes in the other file, a line a unit."""
    heading, rows = rows_of(files["latents/correlation.csv"])
    codes = arrays_of(files["latents/test_codes.npz"])["codes"].astype(float)
    assert heading == ["unit", "0", "1", "2"]
    assert rows[:, 0].tolist() == [0, 1, 2]
    np.testing.assert_allclose(rows[:, 1:], np.corrcoef(codes, rowvar=False), atol=1e-9)


def test_the_weights_and_the_configuration_rebuild_the_model(evaluation: Evaluation, files: dict[str, bytes]) -> None:
    """A model built from the two files alone, without pickle, decodes every test image to the same bits."""
    content = json.loads(files["model/config.json"])
    shape = tuple(content.pop("image_shape"))
    config = TrialConfig(**content)
    assert config == CONFIG
    model = models.build(shape, replace(config, seed=config.seed + 1))  # other initial weights, which must not matter
    model.load_state_dict(safetensors.torch.load(files["model/model.safetensors"]))
    with torch.no_grad():
        assert torch.equal(model.eval()(evaluation.images), evaluation.reconstructions)


def test_the_training_curve_is_a_line_an_epoch(evaluation: Evaluation, files: dict[str, bytes]) -> None:
    """The names of the log's fields and its numbers in full."""
    heading, rows = rows_of(files["curves/training.csv"])
    (log,) = evaluation.state.logs
    assert heading == [each.name for each in fields(log)]
    assert rows.tolist() == [[getattr(log, name) for name in heading]]


def test_the_transfer_curves_are_means_over_the_draws(evaluation: Evaluation, files: dict[str, bytes]) -> None:
    """A column for each mode and curve, a line an epoch."""
    heading, rows = rows_of(files["curves/transfer.csv"])
    assert heading == ["epoch", *(f"transfer/{mode}/{name}" for mode in TRANSFER_MODES for name in CURVES)]
    assert rows[:, 0].tolist() == [1, 2]
    for mode in TRANSFER_MODES:
        for index, name in enumerate(CURVES):
            expected = evaluation.transfers[mode].curves.numpy()[:, :, index].mean(axis=0)
            np.testing.assert_allclose(rows[:, heading.index(f"transfer/{mode}/{name}")], expected)


def test_a_failed_trial_leaves_its_reason_its_configuration_and_what_ittrained(evaluation: Evaluation) -> None:
    """Three files: the failure as it was given, the configuration, and the epochs that were finite."""
    files = failure_artifacts(CONFIG, evaluation.state.logs, "ValueError: no\ntraceback")
    assert set(files) == {"failure.txt", "model/config.json", "curves/training.csv"}
    assert files["failure.txt"] == b"ValueError: no\ntraceback"
    assert TrialConfig(**json.loads(files["model/config.json"])) == CONFIG
    assert len(rows_of(files["curves/training.csv"])[1]) == 1


def test_a_trial_that_failed_at_once_has_an_empty_curve() -> None:
    """The heading alone, so that the file can be read like any other."""
    content = failure_artifacts(CONFIG, (), "reason")["curves/training.csv"].decode()
    assert content.startswith("epoch,train_loss,")
    assert content.count("\n") == 1
