"""Few-label transfer: problems whose answer is known, NumPy, scikit-learn, and what must not change."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from harness import transfer
from harness.transfer import LabelledInputs, TransferOutcome, TransferTask, classify
from harness.transfer_stack import classify_all

EPOCHS = 20
Way = Callable[[TransferTask], TransferOutcome]

WAYS: dict[str, Way] = {
    "plain": classify,
    "stacked": lambda task: classify_all([task])[0],
}
"""The two ways of classifying that give the same: what is known of the answer holds of both."""


def _blobs(count: int, seed: int, gap: float, classes: int = 3) -> LabelledInputs:
    """Gaussian clouds of unit variance in four dimensions, their centres ``gap`` along one axis each."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    features = rng.normal(size=(count, 4)) + gap * np.eye(4)[labels]
    return LabelledInputs(torch.from_numpy(features.astype(np.float32)), torch.from_numpy(labels))


def _convolutional_encoder(seed: int = 0) -> nn.Sequential:
    """Images (B, 1, 6, 6) to codes (B, 3), with a batch norm."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))


def _labelled_images(count: int, seed: int) -> LabelledInputs:
    """Noise, brighter in class 1."""
    labels = torch.arange(count) % 2
    noise = torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    return LabelledInputs(noise / 2 + labels.view(-1, 1, 1, 1) / 2, labels)


@pytest.fixture(params=list(WAYS))
def way(request: pytest.FixtureRequest) -> Way:
    """One way of classifying."""
    return WAYS[request.param]


@pytest.mark.parametrize("labels", [12, 80])
def test_separable_classes_are_told_apart_without_an_error(labels: int, way: Way) -> None:
    """Three clouds twenty standard deviations apart: every test image right in every draw."""
    draws, test = [_blobs(labels, seed, gap=20) for seed in (1, 2)], _blobs(500, 3, gap=20)
    outcome = way(TransferTask(nn.Identity(), draws, test, _blobs(300, 4, gap=20).inputs, 3, 60, seed=0))
    assert outcome.accuracies.tolist() == [1.0, 1.0]
    assert outcome.curve("train_accuracy")[-1] == 1
    assert outcome.std == 0


def test_noise_is_classified_by_chance(way: Way) -> None:
    """Features that say nothing give 1 / 4 of 3000 test images, within four standard errors of the binomial."""
    classes, count = 4, 3000
    test, reference = _blobs(count, 1, gap=0, classes=classes), _blobs(200, 2, gap=0).inputs
    draws = [_blobs(80, seed, gap=0, classes=classes) for seed in (3, 4, 5)]
    outcome = way(TransferTask(nn.Identity(), draws, test, reference, classes, EPOCHS, seed=0))
    bound = 4 * math.sqrt(0.25 * 0.75 / count)
    assert outcome.accuracies.tolist() == pytest.approx([0.25] * 3, abs=bound)
    assert outcome.curve("train_accuracy")[-1] > 0.25 + bound  # it did learn what it was shown


def test_overlapping_clouds_are_told_apart_as_well_as_by_logistic_regression(way: Way) -> None:
    """Within five points of scikit-learn's classifier, which is of the right form for this problem."""
    draw, test = _blobs(120, 1, gap=3), _blobs(2000, 2, gap=3)
    reference = LogisticRegression().fit(draw.inputs.numpy(), draw.labels.numpy()).score(test.inputs.numpy(), test.labels.numpy())
    outcome = way(TransferTask(nn.Identity(), [draw], test, _blobs(500, 3, gap=3).inputs, 3, EPOCHS, seed=0))
    assert 0.8 < reference < 0.99
    assert outcome.accuracy == pytest.approx(reference, abs=0.05)


def test_features_without_content_give_one_answer(way: Way) -> None:
    """Equal features for all: the share of one class is right, and the loss is that of a constant guess at best."""
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    test = LabelledInputs(torch.full((100, 3), 0.7), labels)
    outcome = way(TransferTask(nn.Identity(), [test], test, torch.full((20, 3), 0.7), 3, EPOCHS, seed=0))
    shares = np.array([0.5, 0.3, 0.2])
    assert outcome.accuracy in shares
    assert outcome.curve("test_loss")[-1] >= -np.sum(shares * np.log(shares)) - 1e-6
    assert outcome.curve("test_loss") == outcome.curve("train_loss")


@pytest.mark.parametrize("labels", [3, 17])
def test_very_few_labels_are_enough_to_run(labels: int, way: Way) -> None:
    """One label a class, and a remainder of a single image."""
    outcome = way(
        TransferTask(nn.Identity(), [_blobs(labels, 1, gap=9)], _blobs(60, 2, gap=9), _blobs(60, 3, gap=9).inputs, 3, 2, 0)
    )
    assert torch.isfinite(outcome.curves).all()
    assert 0 <= outcome.accuracy <= 1


@pytest.mark.parametrize("name", transfer.CURVES)
def test_every_curve_has_a_value_an_epoch(name: str, way: Way) -> None:
    """The mean over the draws, of the column that ``CURVES`` names."""
    draws = [_blobs(20, seed, gap=2) for seed in (1, 2)]
    outcome = way(TransferTask(nn.Identity(), draws, _blobs(50, 3, gap=2), _blobs(50, 4, gap=2).inputs, 3, 4, seed=0))
    assert outcome.curves.shape == (2, 4, len(transfer.CURVES))
    expected = outcome.curves.numpy()[:, :, transfer.CURVES.index(name)].mean(axis=0)
    assert outcome.curve(name) == pytest.approx(tuple(expected))
    assert all(0 <= value <= (1 if name.endswith("accuracy") else math.inf) for value in outcome.curve(name))


def test_the_accuracy_is_that_of_all_test_images_and_the_curves_of_the_first(way: Way) -> None:
    """Beyond the first 1000 test images every label is wrong: the curve ends at 1, the accuracy at 1000 / 1500."""
    test = _blobs(1500, 1, gap=20)
    wrong = torch.where(torch.arange(1500) < transfer.CURVE_TEST_IMAGES, test.labels, (test.labels + 1) % 3)
    outcome = way(
        TransferTask(
            nn.Identity(),
            [_blobs(60, 2, gap=20)],
            LabelledInputs(test.inputs, wrong),
            _blobs(200, 3, gap=20).inputs,
            3,
            40,
            seed=0,
        )
    )
    assert outcome.curve("test_accuracy")[-1] == 1
    assert outcome.accuracy == pytest.approx(1000 / 1500)


def test_with_one_draw_the_curve_of_few_test_images_ends_at_the_accuracy(way: Way) -> None:
    """All of them are on it."""
    outcome = way(TransferTask(nn.Identity(), [_blobs(30, 1, gap=2)], _blobs(90, 2, gap=2), _blobs(99, 3, gap=2).inputs, 3, 4, 0))
    assert outcome.curve("test_accuracy")[-1] == pytest.approx(outcome.accuracy)


def test_every_image_of_the_curves_is_seen_by_one_of_the_draws(way: Way) -> None:
    """Four draws and ten images each: those of the last have wrong labels, so that its curve ends at 0 and the others' at 1."""
    test = _blobs(41, 1, gap=20)
    wrong = torch.where(torch.arange(41) < 30, test.labels, (test.labels + 1) % 3)
    draws = [_blobs(60, seed, gap=20) for seed in (2, 3, 4, 5)]
    task = TransferTask(nn.Identity(), draws, LabelledInputs(test.inputs, wrong), _blobs(200, 6, gap=20).inputs, 3, 40, seed=0)
    outcome = way(task)
    assert outcome.curves[:, -1, transfer.CURVES.index("test_accuracy")].tolist() == [1, 1, 1, 0]
    assert outcome.accuracies.tolist() == pytest.approx([30 / 41] * 4)


def test_curves_of_more_draws_than_test_images_see_one_each(way: Way) -> None:
    """Two images for three draws: the third sees the first again."""
    test = _blobs(2, 1, gap=20)
    task = TransferTask(nn.Identity(), [_blobs(20, 2, gap=20)] * 3, test, _blobs(50, 3, gap=20).inputs, 3, 30, seed=0)
    assert [task.shown(draw).inputs.tolist() for draw in range(3)] == test.inputs[[0, 1, 0]].unsqueeze(1).tolist()
    assert torch.isfinite(way(task).curves).all()


def test_mean_and_spread_over_the_draws_by_hand() -> None:
    """0.5 and 0.7: mean 0.6, sample standard deviation sqrt(0.02)."""
    outcome = TransferOutcome(torch.tensor([0.5, 0.7], dtype=torch.float64), torch.zeros(2, 1, 4))
    assert outcome.accuracy == pytest.approx(0.6)
    assert outcome.std == pytest.approx(math.sqrt(0.02))


def test_a_single_draw_has_no_spread() -> None:
    """The standard deviation of one value is NaN, without a warning."""
    outcome = TransferOutcome(torch.tensor([0.5], dtype=torch.float64), torch.zeros(1, 1, 4))
    assert outcome.accuracy == 0.5
    assert math.isnan(outcome.std)


def test_equal_seeds_give_equal_results_and_leave_the_global_random_state(way: Way) -> None:
    """The seed decides the weights and the order; another one gives other curves."""
    draws, test, reference = [_blobs(30, 1, gap=2)], _blobs(200, 2, gap=2), _blobs(100, 3, gap=2).inputs
    torch.manual_seed(8)
    before = torch.get_rng_state()
    first = way(TransferTask(nn.Identity(), draws, test, reference, 3, 3, seed=5))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(9)
    assert torch.equal(first.curves, way(TransferTask(nn.Identity(), draws, test, reference, 3, 3, seed=5)).curves)
    assert not torch.equal(first.curves, way(TransferTask(nn.Identity(), draws, test, reference, 3, 3, seed=6)).curves)


def _on_labelled(outcome: TransferOutcome) -> Tensor:
    """The curves on the labelled inputs, which do not depend on how many draws share the test inputs."""
    return outcome.curves[:, :, [transfer.CURVES.index("train_loss"), transfer.CURVES.index("train_accuracy")]]


def test_the_number_of_the_draw_is_added_to_the_seed() -> None:
    """The second draw from seed 5 is trained as the only one from seed 6: draws do not touch one another."""
    one, two = _blobs(30, 1, gap=2), _blobs(30, 2, gap=2)
    test, reference = _blobs(200, 3, gap=2), _blobs(100, 4, gap=2).inputs
    both = classify(TransferTask(nn.Identity(), [one, two], test, reference, 3, 3, seed=5))
    alone = classify(TransferTask(nn.Identity(), [two], test, reference, 3, 3, seed=6))
    assert torch.equal(_on_labelled(both)[1], _on_labelled(alone)[0])
    assert both.accuracies[1] == alone.accuracies[0]


def test_the_scale_is_the_root_of_the_mean_variance() -> None:
    """Means and sample variances by NumPy; one scale for all the features."""
    features = _blobs(100, 1, gap=3).inputs * torch.tensor([1.0, 10.0, 0.1, 0.0])
    reference = features.double().numpy()
    expected = (reference - reference.mean(axis=0)) / np.sqrt(reference.var(axis=0, ddof=1).mean())
    np.testing.assert_allclose(transfer.Standardize(features)(features).numpy(), expected, atol=1e-5)


def test_rotated_features_have_the_same_scale() -> None:
    """The scale belongs to the total variance, which no rotation changes, so rotated features stay a rotation apart."""
    features = (_blobs(100, 1, gap=3).inputs * torch.tensor([1.0, 10.0, 0.1, 2.0])).double()
    rotation = torch.from_numpy(np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4))).Q)
    plain, rotated = transfer.Standardize(features), transfer.Standardize(features @ rotation)
    assert float(rotated.get_buffer("scale")) == pytest.approx(float(plain.get_buffer("scale")))
    np.testing.assert_allclose(rotated(features @ rotation).numpy(), (plain(features) @ rotation).numpy(), atol=1e-9)


def test_features_that_never_vary_become_zero() -> None:
    """No division by zero."""
    assert transfer.Standardize(torch.full((10, 3), 2.0))(torch.full((4, 3), 2.0)).tolist() == [[0.0] * 3] * 4


def test_the_scale_is_not_trained() -> None:
    """It has no parameters, and it is the same in training as in evaluation."""
    scale = transfer.Standardize(torch.rand(20, 3))
    features = torch.rand(5, 3)
    assert list(scale.parameters()) == []
    assert torch.equal(scale.train()(features), scale.eval()(features))


@pytest.mark.parametrize("training", [True, False])
def test_the_encoder_that_was_given_is_left_as_it_is(training: bool, way: Way) -> None:
    """Its weights, running statistics, mode and gradients are untouched although a copy is trained."""
    encoder = _convolutional_encoder().train(training)
    before = copy.deepcopy(encoder.state_dict())
    draws, test = [_labelled_images(20, 1), _labelled_images(20, 2)], _labelled_images(40, 3)
    way(TransferTask(encoder, draws, test, torch.rand(50, 3), 2, 2, seed=0))
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(module.training is training for module in encoder.modules())
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_every_draw_starts_from_the_same_encoder() -> None:
    """What the first draw did to its copy does not reach the second."""
    encoder, draws, test = _convolutional_encoder(), [_labelled_images(20, 1), _labelled_images(20, 2)], _labelled_images(40, 3)
    reference = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    both = classify(TransferTask(encoder, draws, test, reference, 2, 2, seed=0))
    alone = classify(TransferTask(encoder, draws[1:], test, reference, 2, 2, seed=1))
    assert torch.equal(_on_labelled(both)[1], _on_labelled(alone)[0])
    assert both.accuracies[1] == alone.accuracies[0]


def test_an_image_is_classified_the_same_whatever_is_tested_beside_it() -> None:
    """The loss on 40 test images is the mean of those on either half: batch norm does not see the test images."""
    encoder, draws, test = _convolutional_encoder(), [_labelled_images(20, 1)], _labelled_images(40, 3)
    reference = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    parts = [LabelledInputs(test.inputs[part], test.labels[part]) for part in (slice(40), slice(20), slice(20, 40))]
    outcomes = [classify(TransferTask(encoder, draws, part, reference, 2, 3, seed=0)) for part in parts]
    whole, first, second = (np.array(outcome.curve("test_loss")) for outcome in outcomes)
    np.testing.assert_allclose(whole, (first + second) / 2, rtol=1e-5)
    assert outcomes[0].curve("train_loss") == outcomes[1].curve("train_loss")


def test_training_the_encoder_finds_what_the_frozen_one_hides(way: Way) -> None:
    """An encoder that passes only noise on gives chance when frozen; trained too, it opens itself to the class."""
    encoder = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        encoder.weight.copy_(torch.tensor([[0.0, 1.0]]))

    def data(count: int, seed: int) -> LabelledInputs:
        labels = torch.arange(count) % 2
        noise = torch.randn(count, generator=torch.Generator().manual_seed(seed))
        return LabelledInputs(torch.stack((20.0 * labels - 10, noise), dim=1), labels)

    def code(part: LabelledInputs) -> LabelledInputs:
        return LabelledInputs(encoder(part.inputs).detach(), part.labels)

    draw, test, reference = data(80, 1), data(1000, 2), code(data(200, 3)).inputs
    frozen = way(TransferTask(nn.Identity(), [code(draw)], code(test), reference, 2, 30, seed=0))
    finetuned = way(TransferTask(encoder, [draw], test, reference, 2, 30, seed=0))
    assert frozen.accuracy == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / 1000))
    assert finetuned.accuracy > 0.95


def _convolved(images: Tensor, layer: nn.Conv2d) -> np.ndarray:
    """The output of a 3 x 3 convolution without padding, by NumPy in double precision, (N, C, H - 2, W - 2)."""
    windows = np.lib.stride_tricks.sliding_window_view(images.double().numpy(), (3, 3), axis=(2, 3))
    weight, bias = layer.weight.detach().double().numpy(), layer.bias
    assert bias is not None
    return np.einsum("nchwij,ocij->nohw", windows, weight) + bias.detach().double().numpy()[None, :, None, None]


def test_calibration_sets_the_statistics_of_the_images() -> None:
    """Mean and unbiased variance of each channel of the convolution's output, by NumPy; what was there is forgotten."""
    encoder, images = _convolutional_encoder(), torch.rand(50, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    norm, maps = encoder[1], _convolved(images, encoder[0])
    norm.running_mean.fill_(99)
    norm.num_batches_tracked.fill_(7)
    transfer.calibrate_batch_norm(encoder, images)
    np.testing.assert_allclose(norm.running_mean.numpy(), maps.mean(axis=(0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(norm.running_var.numpy(), maps.var(axis=(0, 2, 3), ddof=1), rtol=1e-5)


def test_calibration_takes_no_more_images_than_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a limit of 20 the statistics are those of the first 20 images."""
    monkeypatch.setattr(transfer, "CALIBRATION_IMAGES", 20)
    encoder, images = _convolutional_encoder(), torch.rand(41, 1, 6, 6, generator=torch.Generator().manual_seed(2))
    maps = _convolved(images, encoder[0])[:20]
    transfer.calibrate_batch_norm(encoder, images)
    np.testing.assert_allclose(encoder[1].running_mean.numpy(), maps.mean(axis=(0, 2, 3)), rtol=1e-5)


def test_every_labelled_image_is_in_one_batch_and_none_is_alone() -> None:
    """Also where the number of labels leaves a remainder of one."""
    for count in (1, 2, 16, 17, 33, 80, 81):
        batches = transfer.split_order(torch.arange(count))
        assert torch.equal(torch.cat(batches), torch.arange(count))
        assert count == 1 or min(map(len, batches)) > 1


def test_calibration_changes_nothing_but_the_statistics() -> None:
    """Weights and momentum stay, no gradient is left, and the encoder is in evaluation mode."""
    encoder = _convolutional_encoder().train()
    before = {name: parameter.detach().clone() for name, parameter in encoder.named_parameters()}
    transfer.calibrate_batch_norm(encoder, torch.rand(30, 1, 6, 6))
    assert all(torch.equal(parameter, before[name]) for name, parameter in encoder.named_parameters())
    assert encoder[1].momentum == 0.1
    assert not any(module.training for module in encoder.modules())
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_an_encoder_without_batch_norm_is_left_alone() -> None:
    """There is nothing to calibrate."""
    encoder = nn.Linear(3, 2)
    before = encoder.weight.detach().clone()
    transfer.calibrate_batch_norm(encoder, torch.rand(10, 3))
    assert torch.equal(encoder.weight, before)
