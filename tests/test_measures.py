"""All numbers of one small trained autoencoder: contracts over the dicts, and references from outside."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import mean_squared_error
from sklearn.neighbors import NearestNeighbors
from torch import nn

from harness import models, trial
from harness.artifacts import trial_artifacts
from harness.config import HEADLINES, STAGE_METRICS, Placement, TrialConfig
from harness.evaluation import TRANSFER_MODES, Evaluation
from harness.kernels import kernels_wanted
from harness.library import list_studies, load_study
from harness.measures import GROUPS, METRICS, PREFIX_SIZES, measure_all
from harness.splits import label_draws
from harness.train import initial_state
from harness.transfer import LabelledInputs, TransferTask, calibrate_batch_norm, classify
from tests.evaluated import CONFIG, UNRESOLVED, Floats, arrays_of, evaluated, fresh_material, rows_of, trained


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """One epoch of the base architecture on 64 digits."""
    return evaluated()


@pytest.fixture(scope="module")
def metrics(evaluation: Evaluation) -> dict[str, float]:
    """Its finite metrics, those of every group among them."""
    return measure_all(evaluation, list(GROUPS))


@pytest.fixture(scope="module")
def again(evaluation: Evaluation) -> dict[str, float]:
    """The metrics of the same state, evaluated anew."""
    return measure_all(Evaluation(CONFIG, evaluation.state, fresh_material()), list(GROUPS))


def _pixels(images: torch.Tensor) -> Floats:
    return images.flatten(1).double().numpy()


DEFINED = [name for name in METRICS if name not in (*STAGE_METRICS, *(f"prefix/mse_{size}" for size in PREFIX_SIZES if size > 3))]
"""Of a trial with three latent units that is trained in one go."""


@pytest.mark.parametrize("name", DEFINED)
def test_every_metric_says_what_it_is(name: str, metrics: dict[str, float]) -> None:
    """A direction that is known and a unit of text; in this trial, where all are defined, a finite number."""
    metric = METRICS[name]
    assert metric.direction in ("down", "up", "")
    assert isinstance(metric.unit, str)
    assert type(metrics[name]) is float
    assert math.isfinite(metrics[name])


@pytest.mark.parametrize("name", [name for name in DEFINED if not name.startswith("cost/")])
def test_every_metric_is_the_same_when_it_is_measured_again(
    name: str, metrics: dict[str, float], again: dict[str, float]
) -> None:
    """Evaluation is a function of configuration, state and images; only a cost may be timed and differ."""
    assert again[name] == metrics[name]


def test_what_is_in_a_group_is_measured_only_where_it_is_asked_for(
    evaluation: Evaluation, metrics: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of a group is even computed without it, and the other numbers are the same with it."""

    def refuse(*arguments: object) -> float:
        raise AssertionError("not asked for")

    grouped = {name: replace(metric, measure=refuse) for name, metric in METRICS.items() if metric.group}
    monkeypatch.setattr("harness.measures.METRICS", METRICS | grouped)
    plain = measure_all(evaluation)
    assert set(plain) == {name for name, metric in METRICS.items() if not metric.group}
    assert [name for name in plain if plain[name] != metrics[name]] in ([], ["cost/peak_memory_mb"])
    with pytest.raises(AssertionError, match="not asked for"):
        measure_all(evaluation, ["paths"])


def test_the_stages_of_a_training_are_its_validation_losses_after_each_third() -> None:
    """After two and four of six epochs; a stage that was not reached, or is the end, is not defined."""
    config = replace(CONFIG, epochs=6, transfer_epochs=1, draws=1)
    state = trained(config)
    found = measure_all(Evaluation(config, state, fresh_material()), ["pruning"])
    assert [found[name] for name in STAGE_METRICS] == [state.logs[1].val_mse, state.logs[3].val_mse]
    assert not set(STAGE_METRICS) & set(measure_all(Evaluation(CONFIG, trained(CONFIG), fresh_material()), ["pruning"]))


def test_a_prefix_is_what_is_decoded_from_the_first_units(evaluation: Evaluation, metrics: dict[str, float]) -> None:
    """By hand for two of three; of all units it is the reconstruction loss; of more than there are it is not defined."""
    codes = evaluation.codes.clone()
    codes[:, 2] = 0
    with torch.no_grad():
        expected = mean_squared_error(_pixels(evaluation.images), _pixels(evaluation.model.decoder(codes)))
    assert metrics["prefix/mse_2"] == pytest.approx(expected, rel=1e-5)
    assert metrics["prefix/mse_3"] == pytest.approx(metrics["reconstruction_loss"], rel=1e-6)
    assert "prefix/mse_5" not in metrics


def test_paths_are_measured_between_many_pairs_by_one_judge(evaluation: Evaluation, metrics: dict[str, float]) -> None:
    """Blended pixels against scikit-learn's nearest neighbours; the judge knows real digits better than midpoints."""
    material = evaluation.material
    pairs = np.array(material.path_pairs)
    assert len(pairs) == len(evaluation.images) // 2
    assert material.path_pairs[: len(material.pairs)] == material.pairs
    pixels, training = _pixels(evaluation.images), _pixels(material.splits.train.images)
    neighbours = NearestNeighbors(n_neighbors=1).fit(training)
    blends = np.concatenate([a * pixels[pairs[:, 0]] + (1 - a) * pixels[pairs[:, 1]] for a in (0.25, 0.5, 0.75)])
    distance, of_data = (np.mean(neighbours.kneighbors(each)[0] ** 2) for each in (blends, pixels[pairs.ravel()]))
    assert metrics["interpolation/blend_distance"] == pytest.approx(distance / of_data, rel=1e-4)
    assert metrics["interpolation/data_confidence"] > metrics["interpolation/blend_confidence"] > 0.1
    with torch.no_grad():
        decided = material.judge(material.splits.train.images).argmax(dim=1)
    assert float((decided == material.splits.train.labels).double().mean()) > 0.95


def test_a_rotation_changes_correlation_and_no_linear_probe(evaluation: Evaluation, metrics: dict[str, float]) -> None:
    """Correlation along scikit-learn's axes of the training codes; the probe is as good on whitened codes as on the codes."""
    with torch.no_grad():
        training, test = (
            evaluation.model.encoder(part.images).double().numpy()
            for part in (evaluation.material.splits.train, evaluation.material.splits.test)
        )
    turned = np.corrcoef(PCA().fit(training).transform(test), rowvar=False)
    assert metrics["latent/max_abs_corr_rotated"] == pytest.approx(np.abs(turned[np.triu_indices(3, k=1)]).max(), rel=1e-3)
    assert metrics["transfer/linear_probe_accuracy"] == pytest.approx(
        metrics["transfer/linear_probe_whitened_accuracy"], abs=0.01
    )
    assert metrics["transfer/labelled_images"] == CONFIG.labels


@pytest.mark.parametrize("name", HEADLINES)
def test_the_headlines_are_metrics_with_a_direction(name: str, metrics: dict[str, float]) -> None:
    """They are there, they are finite, and one end is better."""
    assert METRICS[name].direction
    assert math.isfinite(metrics[name])


@pytest.mark.parametrize("name", DEFINED)
def test_shares_lie_between_zero_and_one(name: str, metrics: dict[str, float]) -> None:
    """Accuracies and absolute correlations are shares; nothing else but PSNR, R2 and entropies may be below zero."""
    if METRICS[name].unit in ("share", "abs(r)"):
        assert 0 <= metrics[name] <= 1
    elif name not in ("test/psnr_db", "test/r2"):
        assert metrics[name] >= 0


def test_the_reconstruction_loss_is_the_squared_error_of_the_decoded_test_images(
    evaluation: Evaluation, metrics: dict[str, float]
) -> None:
    """scikit-learn's error between the test images and the whole model's output in evaluation mode."""
    with torch.no_grad():
        decoded = evaluation.model(evaluation.images)
    expected = mean_squared_error(_pixels(evaluation.images), _pixels(decoded))
    assert metrics["reconstruction_loss"] == pytest.approx(expected, rel=1e-5)
    assert metrics["test/psnr_db"] == pytest.approx(10 * np.log10(1 / expected), rel=1e-5)


def test_the_variance_explained_is_against_the_mean_training_image(evaluation: Evaluation, metrics: dict[str, float]) -> None:
    """1 minus the squared error over that of predicting the mean of the 64 training images."""
    mean = _pixels(evaluation.material.splits.train.images).mean(axis=0)
    expected = 1 - metrics["reconstruction_loss"] / np.mean((_pixels(evaluation.images) - mean) ** 2)
    assert len(evaluation.material.splits.train.images) == 64
    assert metrics["test/r2"] == pytest.approx(expected, rel=1e-5)


def test_the_correlation_is_that_of_the_codes_of_the_test_images(evaluation: Evaluation, metrics: dict[str, float]) -> None:
    """NumPy's largest and mean absolute value off the diagonal, over codes from the model's own encoder."""
    with torch.no_grad():
        codes = evaluation.model.encoder(evaluation.images).double().numpy()
    matrix = np.corrcoef(codes, rowvar=False)
    pairs = np.abs(matrix[np.triu_indices(3, k=1)])
    assert metrics["max_latent_correlation"] == pytest.approx(pairs.max(), rel=1e-5)
    assert metrics["latent/mean_abs_corr"] == pytest.approx(pairs.mean(), rel=1e-5)
    assert metrics["latent/total_correlation"] == pytest.approx(-0.5 * np.linalg.slogdet(matrix).logabsdet, rel=1e-4)
    assert metrics["latent/dead_units"] == 0


def test_the_pca_floor_has_as_many_components_as_the_code(evaluation: Evaluation, metrics: dict[str, float]) -> None:
    """scikit-learn's PCA with 3 components, fitted on the trial's training images."""
    test = _pixels(evaluation.images)
    pca = PCA(CONFIG.latent_size, svd_solver="full").fit(_pixels(evaluation.material.splits.train.images))
    assert metrics["floor/pca_mse"] == pytest.approx(mean_squared_error(test, pca.inverse_transform(pca.transform(test))))
    assert metrics["floor/pca_mse"] < metrics["floor/random_projection_mse"] < metrics["floor/mean_image_mse"]


def test_the_manifold_distance_is_of_midpoints_against_their_ends(evaluation: Evaluation, metrics: dict[str, float]) -> None:
    """Decoded quarter, half and three-quarter points of the fixed pairs, nearest neighbours by scikit-learn."""
    pairs = np.array(evaluation.material.pairs)
    codes = evaluation.codes.double().numpy()
    mixed = np.concatenate([a * codes[pairs[:, 0]] + (1 - a) * codes[pairs[:, 1]] for a in (0.25, 0.5, 0.75)])
    with torch.no_grad():
        decoded = evaluation.model.decoder(torch.from_numpy(mixed).float())
    neighbours = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(_pixels(evaluation.material.splits.train.images))
    midpoints = np.mean(neighbours.kneighbors(_pixels(decoded))[0] ** 2)
    real = np.mean(neighbours.kneighbors(_pixels(evaluation.images[pairs.ravel()]))[0] ** 2)
    assert metrics["interpolation/manifold_distance"] == pytest.approx(midpoints / real, rel=1e-4)


def test_the_costs_are_those_of_the_state(evaluation: Evaluation, metrics: dict[str, float]) -> None:
    """The time of the one epoch, the 64 images that it saw, and every weight counted once."""
    seconds = evaluation.state.logs[0].seconds
    weights = [array for name, array in evaluation.state.weights.items() if name.endswith(("weight", "bias"))]
    assert metrics["cost/train_seconds"] == seconds
    assert metrics["cost/samples_per_second"] == pytest.approx(64 / seconds)
    assert metrics["cost/parameters"] == sum(array.size for array in weights)


def test_the_training_numbers_are_those_of_the_last_epoch(evaluation: Evaluation, metrics: dict[str, float]) -> None:
    """The validation error is that of the model that is evaluated."""
    images = evaluation.material.splits.validation.images
    with torch.no_grad():
        decoded = evaluation.model(images)
    assert metrics["val/mse"] == pytest.approx(mean_squared_error(_pixels(images), _pixels(decoded)), rel=1e-5)
    assert metrics["train/mse"] == evaluation.state.logs[-1].train_mse


def test_the_headline_accuracy_is_that_of_the_frozen_encoder(evaluation: Evaluation, metrics: dict[str, float]) -> None:
    """Mean and sample standard deviation over the two draws, by NumPy; the three ways of training are three results."""
    for mode in TRANSFER_MODES:
        accuracies = evaluation.transfers[mode].accuracies.numpy()
        assert len(accuracies) == CONFIG.draws
        assert metrics[f"transfer/{mode}_accuracy"] == pytest.approx(accuracies.mean())
        assert metrics[f"transfer/{mode}_accuracy_std"] == pytest.approx(accuracies.std(ddof=1))
    assert metrics["transfer_accuracy"] == metrics["transfer/frozen_accuracy"]
    assert len({evaluation.transfers[mode].curves[0, 0, 0].item() for mode in TRANSFER_MODES}) == 3


def test_what_a_search_chooses_by_is_measured_on_the_validation_images(evaluation: Evaluation, metrics: dict[str, float]) -> None:
    """Correlation by NumPy; accuracy of the classifiers of the same draws, which were trained as if there were no such images."""
    validation = evaluation.material.splits.validation
    with torch.no_grad():
        codes = evaluation.model.encoder(validation.images)
    largest = np.abs(np.corrcoef(codes.numpy(), rowvar=False))[np.triu_indices(CONFIG.latent_size, 1)].max()
    assert metrics["val/max_latent_correlation"] == pytest.approx(largest, rel=1e-5)
    assert metrics["val/max_latent_correlation"] != metrics["max_latent_correlation"]
    task = evaluation.transfer_task("frozen")
    expected = classify(replace(task, test=LabelledInputs(codes, validation.labels), validation=None))
    assert metrics["val/transfer_accuracy"] == pytest.approx(expected.accuracy)
    assert evaluation.transfers["finetuned"].validation is None


def test_every_objective_of_a_study_is_measured_on_the_validation_split() -> None:
    """The test split is for reporting."""
    for name in list_studies():
        assert all(objective.startswith("val/") for objective in load_study(name).study.objectives), name


def test_the_raw_pixel_floor_is_the_same_classifier_on_the_same_draws(evaluation: Evaluation, metrics: dict[str, float]) -> None:
    """Pixels of the labelled draws instead of codes; it is one number for trials of every latent size and seed."""
    material = evaluation.material
    draws = [LabelledInputs(part.images.flatten(1), part.labels) for part in label_draws(material.data, 0, CONFIG.labels, 2)]
    test = LabelledInputs(evaluation.images.flatten(1), material.splits.test.labels)
    reference = material.splits.train.images.flatten(1)
    expected = classify(TransferTask(nn.Identity(), draws, test, reference, 10, CONFIG.transfer_epochs, seed=0))
    assert metrics["transfer/raw_pixels_accuracy"] == pytest.approx(expected.accuracies.numpy().mean())
    other = fresh_material().raw_pixels_transfer(replace(CONFIG, latent_size=9, seed=4, learning_rate=1e-4))
    assert other.accuracy == metrics["transfer/raw_pixels_accuracy"]


def test_the_pca_floor_of_transfer_knows_the_latent_size() -> None:
    """Of 1, 3 and 20 scores the most tell the digits apart best, and one is little better than the chance of 0.1."""
    material = fresh_material()
    one, three, many = (
        material.pca_transfer(replace(CONFIG, latent_size=size, transfer_epochs=20)).accuracy for size in (1, 3, 20)
    )
    assert 0.1 < one < three < many
    assert one < 0.4
    assert many > 0.7


def test_the_encoder_from_scratch_is_untrained_and_calibrated(evaluation: Evaluation) -> None:
    """It starts from the seed's own initial weights with batch norms set to the training images, and so gives these curves."""
    material = evaluation.material
    untrained = models.build(material.shape, CONFIG).encoder
    initial = initial_state(CONFIG, material.shape).weights
    assert all(np.array_equal(value.numpy(), initial[f"encoder.{name}"]) for name, value in untrained.state_dict().items())
    calibrate_batch_norm(untrained, material.splits.train.images)
    with torch.no_grad():
        reference = untrained(material.splits.train.images)
    draws = material.draws(CONFIG.labels, CONFIG.draws)
    expected = classify(TransferTask(untrained, draws, material.test_inputs, reference, 10, CONFIG.transfer_epochs, seed=0))
    np.testing.assert_allclose(evaluation.transfers["scratch"].curves.numpy(), expected.curves.numpy(), rtol=1e-6)


@pytest.mark.parametrize("architecture", models.ARCHITECTURES)
def test_codes_and_images_of_a_stack_of_one_are_those_of_the_network(architecture: str, needs_kernels: None) -> None:
    """Up to rounding, for every architecture; without the kernels it is the network itself."""
    config = models.resolve(replace(UNRESOLVED, architecture=architecture))
    state = trained(config)
    plain, stacked = (Evaluation(config, state, fresh_material(), stacked) for stacked in (False, True))
    assert (plain.stacked, stacked.stacked) == (False, True)
    for name in ("codes", "training_codes", "validation_codes", "reconstructions"):
        expected = getattr(plain, name).numpy()
        np.testing.assert_allclose(getattr(stacked, name).numpy(), expected, atol=1e-5 * abs(expected).max(), err_msg=name)
    one, other = (each.transfer_task("scratch") for each in (plain, stacked))
    np.testing.assert_allclose(other.reference.numpy(), one.reference.numpy(), atol=1e-5 * abs(one.reference).max())
    for (name, tensor), found in zip(one.encoder.state_dict().items(), other.encoder.state_dict().values(), strict=True):
        np.testing.assert_allclose(found.numpy(), tensor.numpy(), rtol=1e-5, atol=1e-5 * abs(tensor).max(), err_msg=name)
    with kernels_wanted(False):
        assert not Evaluation(config, state, fresh_material(), stacked=True).stacked


def test_the_plain_trainer_evaluates_plainly(needs_kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stacked one as a stack of one."""
    begun: list[bool] = []
    monkeypatch.setattr(trial, "measure_all", lambda evaluation, measures: begun.append(evaluation.stacked) or {})
    for trainer in ("plain", "stacked"):
        trial.evaluate_group([CONFIG], [trained(CONFIG)], Placement("", "cpu", trainer=trainer))
    assert begun == [False, True]


def test_measuring_leaves_the_model_as_it_wastrained(evaluation: Evaluation, metrics: dict[str, float]) -> None:
    """Fine-tuning and calibration work on copies."""
    assert metrics
    assert not any(module.training for module in evaluation.model.modules())
    for name, value in evaluation.model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), evaluation.state.weights[name], err_msg=name)


def test_one_latent_unit_and_one_draw_leave_out_what_they_do_not_define() -> None:
    """No pairs, no correlation; one draw, no standard deviation; every other metric and all the files are there."""
    config = replace(CONFIG, latent_size=1, draws=1, labels=1)
    evaluation = Evaluation(config, trained(config), fresh_material())
    undefined = {"latent/mean_abs_corr", "latent/max_abs_corr_null95"}
    undefined |= {f"transfer/{mode}_accuracy_std" for mode in TRANSFER_MODES}
    assert {name for name, metric in METRICS.items() if not metric.group} - set(measure_all(evaluation)) == undefined
    files = trial_artifacts(evaluation)
    assert rows_of(files["latents/correlation.csv"])[1].tolist() == [[0, 1]]
    assert arrays_of(files["latents/test_codes.npz"])["codes"].shape[1] == 1


def test_more_latent_units_than_pixels_are_measured_all_the_same() -> None:
    """70 units for 64 pixels: both linear floors lose nothing, and every headline is there."""
    config = models.resolve(
        TrialConfig(architecture="linear", latent_size=70, epochs=1, transfer_epochs=1, draws=1, train_size=64)
    )
    values = measure_all(Evaluation(config, trained(config), fresh_material()))
    assert set(HEADLINES) <= set(values)
    assert values["floor/pca_mse"] == pytest.approx(0, abs=1e-12)
    assert 1 <= values["latent/effective_rank"] <= 70
