"""Few-label transfer of many encoders at once: the numbers of ``transfer.classify``, in any company."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from harness import stacks, transfer_stack
from harness.kernels import kernels_wanted
from harness.stacks import is_faster_apart
from harness.transfer import (
    CURVES,
    LabelledInputs,
    Standardize,
    TransferOutcome,
    TransferTask,
    calibrate_batch_norm,
    classify,
)
from harness.transfer_stack import StackedStandardize, classify_all

CLASSES, EPOCHS, TESTED = 3, 3, 90
ROUNDING = 1e-4
"""Relative, of losses; an accuracy may differ by one image."""

AFTER_BIAS = 0.05
"""The same where a bias stands before a batch norm: its gradient is nothing but rounding, of which Adam makes whole steps, and
the running mean follows late."""

LOSS_COLUMNS = [CURVES.index(name) for name in ("train_loss", "test_loss")]
ACCURACY_COLUMNS = [CURVES.index(name) for name in ("train_accuracy", "test_accuracy")]


def labelled(count: int, seed: int, *shape: int) -> LabelledInputs:
    """Noise, brighter the higher the class."""
    labels = torch.arange(count) % CLASSES
    noise = torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))
    return LabelledInputs(noise + 0.5 * labels.view(-1, *[1] * len(shape)), labels)


def frozen(size: int, seed: int, draws: int = 2, labels: int = 20) -> TransferTask:
    """Codes of some size, with a test set of their own."""
    parts = [labelled(labels, 10 * seed + draw, size) for draw in range(draws)]
    reference = labelled(50, 100 + seed, size).inputs
    tested, validated = labelled(TESTED, 200 + seed, size), labelled(TESTED, 300 + seed, size)
    return TransferTask(nn.Identity(), parts, tested, reference, CLASSES, EPOCHS, 1000 * seed, validated)


IMAGES = [labelled(20, seed, 1, 6, 6) for seed in (1, 2)]
TEST_IMAGES = labelled(TESTED, 3, 1, 6, 6)
UNLABELLED = labelled(60, 4, 1, 6, 6).inputs


def encoder_of(size: int, seed: int, bias: bool = False) -> nn.Sequential:
    """Images to codes of some size, with a batch norm that knows the images."""
    torch.manual_seed(seed)
    encoder = nn.Sequential(nn.Conv2d(1, 2, 3, 2, 1, bias=bias), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(18, size))
    calibrate_batch_norm(encoder, UNLABELLED)
    return encoder


def trained_along(size: int, seed: int, bias: bool = False) -> TransferTask:
    """An encoder on draws and a test set that it shares with others."""
    encoder = encoder_of(size, seed, bias)
    with torch.no_grad():
        reference = encoder(UNLABELLED)
    return TransferTask(encoder, IMAGES, TEST_IMAGES, reference, CLASSES, EPOCHS, 1000 * seed)


KINDS = {"frozen": frozen, "trained along": trained_along}


def assert_close(outcomes: Sequence[TransferOutcome], expected: Sequence[TransferOutcome], rounding: float = ROUNDING) -> None:
    """Losses within rounding, accuracies within one image, and all of the same types."""
    for one, other in zip(outcomes, expected, strict=True):
        assert (one.curves.shape, one.curves.dtype) == (other.curves.shape, other.curves.dtype)
        assert (one.accuracies.shape, one.accuracies.dtype) == (other.accuracies.shape, other.accuracies.dtype)
        np.testing.assert_allclose(one.curves[..., LOSS_COLUMNS], other.curves[..., LOSS_COLUMNS], rtol=rounding)
        np.testing.assert_allclose(one.curves[..., ACCURACY_COLUMNS], other.curves[..., ACCURACY_COLUMNS], atol=1 / 20 + 1e-9)
        np.testing.assert_allclose(one.accuracies, other.accuracies, atol=1 / TESTED + 1e-9)
        assert (one.validation is None) == (other.validation is None)
        if one.validation is not None and other.validation is not None:
            np.testing.assert_allclose(one.validation, other.validation, atol=1 / TESTED + 1e-9)


def test_validation_inputs_change_no_other_number_and_are_seen_by_the_same_nets() -> None:
    """Those of the test inputs have the test accuracies."""
    task = frozen(3, 0)
    for way in (classify, lambda task: classify_all([task])[0]):
        without, again = way(replace(task, validation=None)), way(replace(task, validation=task.test))
        assert torch.equal(without.accuracies, again.accuracies)
        assert torch.equal(without.curves, again.curves)
        assert again.validation is not None
        assert torch.equal(again.validation, again.accuracies)
        assert math.isnan(without.validation_accuracy)
        assert again.validation_accuracy == again.accuracy


@pytest.mark.usefixtures("each_way")
@pytest.mark.parametrize("kind", KINDS)
def test_all_at_once_give_what_each_gives_alone(kind: str) -> None:
    """Accuracies of every draw and curves of every epoch, for codes of different sizes."""
    tasks = [KINDS[kind](size, seed) for seed, size in enumerate((3, 5, 2))]
    expected = [classify(task) for task in tasks]
    assert_close(classify_all(tasks), expected)
    assert len({outcome.curves[0, 0, 0].item() for outcome in expected}) == 3  # they are not all one


def test_a_bias_before_a_batch_norm_makes_little_difference() -> None:
    """It is all that the two ways need not agree on."""
    tasks = [trained_along(size, seed, bias=True) for seed, size in enumerate((3, 5, 2))]
    for one, other in zip(classify_all(tasks), map(classify, tasks), strict=True):
        np.testing.assert_allclose(one.curves[..., LOSS_COLUMNS], other.curves[..., LOSS_COLUMNS], rtol=AFTER_BIAS)
        np.testing.assert_allclose(one.accuracies, other.accuracies, atol=0.1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at_once", [1, 2, 4, 100])
def test_more_nets_than_are_trained_at_once_are_trained_in_turn(at_once: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack may end in the middle of a task's draws."""
    monkeypatch.setattr(transfer_stack, "NETS_AT_ONCE", at_once)
    tasks = [KINDS[kind](size, seed) for seed, size in enumerate((3, 5, 2))]
    assert_close(classify_all(tasks), [classify(task) for task in tasks])


@pytest.mark.parametrize(("nets", "sizes"), [(1, [1] * 9), (2, [1, 2, 2, 2, 2]), (4, [3, 3, 3]), (8, [4, 5]), (100, [9])])
def test_stacks_have_as_many_nets_as_their_weights_allow(nets: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """And about as many each; a net that is too large is a stack by itself."""
    tasks = [frozen(3, seed, draws=3) for seed in range(3)]
    weights = 3 * 64 + 64 + 64 * tasks[0].classes + tasks[0].classes
    monkeypatch.setattr(transfer_stack, "WEIGHTS_AT_ONCE", nets * weights + weights // 2 if nets > 1 else 1)
    found, train = [], transfer_stack._train_nets
    monkeypatch.setattr(transfer_stack, "_train_nets", lambda jobs, dtype: found.append(len(jobs)) or train(jobs, dtype))
    classify_all(tasks)
    assert sorted(found) == sizes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [1, 50, 1000, 10**6])
def test_the_size_of_the_blocks_does_not_matter(block: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One test image at a time or all of them."""
    monkeypatch.setattr(transfer_stack, "BLOCK", block)
    task = KINDS[kind](3, 0)
    assert_close(classify_all([task]), [classify(task)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [1, 50, 10**6])
def test_large_images_are_evaluated_net_by_net_to_the_same_numbers(
    block: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every image counts as large here, and codes, which differ in size, do not; one at a time or all of them."""
    monkeypatch.setattr(stacks, "SMALL_IMAGE", 0)
    monkeypatch.setattr(transfer_stack, "BLOCK_ALONE", block)
    tasks = [KINDS[kind](size, seed) for seed, size in enumerate((3, 5, 2))]
    with kernels_wanted(False):
        assert_close(classify_all(tasks), [classify(task) for task in tasks])


@pytest.mark.usefixtures("needs_kernels")
def test_only_torch_has_large_images_evaluated_net_by_net() -> None:
    """The kernels take some images of a net at a time; small images and codes go through the stack either way."""
    large, small, codes = torch.empty(2, 1, 28, 28), torch.empty(2, 1, 8, 8), torch.empty(2, 1000)
    with kernels_wanted(False):
        assert [is_faster_apart(each) for each in (large, small, codes)] == [True, False, False]
    assert not any(is_faster_apart(each) for each in (large, small, codes))


def test_one_draw_is_enough() -> None:
    """The smallest stack: one task with one draw."""
    task = frozen(3, 1, draws=1)
    (outcome,) = classify_all([task])
    assert_close([outcome], [classify(task)])
    assert outcome.curves.shape == (1, EPOCHS, len(CURVES))


@pytest.mark.parametrize("labels", [3, 17, 33])
def test_a_remainder_of_one_image_joins_the_batch_before(labels: int) -> None:
    """As in the plain way, so that the steps are the same."""
    tasks = [frozen(3, seed, labels=labels) for seed in (1, 2)]
    assert_close(classify_all(tasks), [classify(task) for task in tasks])


def test_neither_order_nor_company_matters() -> None:
    """A task's numbers are its own."""
    tasks = [frozen(size, seed) for seed, size in enumerate((3, 5, 2, 4))]
    together = classify_all(tasks)
    turned = classify_all(tasks[::-1])
    assert_close(turned[::-1], together)
    assert_close(classify_all(tasks[1:2]), together[1:2])


def test_a_task_that_is_not_finite_leaves_the_others_their_bits() -> None:
    """Codes that are NaN are classified by chance, or not at all; nobody else notices."""
    tasks = [frozen(3, seed) for seed in (1, 2, 3)]
    spoilt = frozen(3, 2)
    spoilt.reference.fill_(float("nan"))
    one, other = classify_all(tasks), classify_all([tasks[0], spoilt, tasks[2]])
    for member in (0, 2):
        assert torch.equal(one[member].curves, other[member].curves)
        assert torch.equal(one[member].accuracies, other[member].accuracies)
    assert other[1].curves[..., LOSS_COLUMNS].isnan().all()


def test_encoders_that_are_trained_along_are_left_as_they_are() -> None:
    """Weights, statistics and mode; and the global random state."""
    tasks = [trained_along(size, seed) for seed, size in enumerate((3, 5))]
    before = [{name: tensor.clone() for name, tensor in task.encoder.state_dict().items()} for task in tasks]
    torch.manual_seed(4)
    random = torch.get_rng_state()
    classify_all(tasks)
    assert torch.equal(torch.get_rng_state(), random)
    for task, state in zip(tasks, before, strict=True):
        assert all(torch.equal(task.encoder.state_dict()[name], tensor) for name, tensor in state.items())
        assert not any(module.training for module in task.encoder.modules())
        assert all(parameter.grad is None for parameter in task.encoder.parameters())


def test_gradients_are_made_where_they_are_switched_off_around() -> None:
    """Metrics are measured without gradients; training needs them all the same."""
    task = trained_along(3, 0)
    with torch.no_grad():
        (outcome,) = classify_all([task])
    assert_close([outcome], [classify(task)])


@pytest.mark.parametrize("kind", KINDS)
def test_less_precise_products_stay_near_float32(kind: str) -> None:
    """Losses within two per cent, after few steps."""
    tasks = [KINDS[kind](3, seed) for seed in (0, 1)]
    precise, coarse = classify_all(tasks), classify_all(tasks, torch.bfloat16)
    for one, other in zip(precise, coarse, strict=True):
        assert not torch.equal(one.curves, other.curves)
        np.testing.assert_allclose(one.curves[..., LOSS_COLUMNS], other.curves[..., LOSS_COLUMNS], rtol=0.02)


def test_the_scale_of_a_stack_is_that_of_its_members() -> None:
    """Each member's own means and scale; what shorter codes are filled up with stays zero."""
    random = torch.Generator().manual_seed(0)
    references = [torch.randn(30, size, generator=random) * (size + 1) + size for size in (3, 1, 2)]
    scales = [Standardize(reference) for reference in references]
    net = StackedStandardize(scales, torch.float32)
    features = torch.zeros(3, 4, 3)
    for place, size in zip(features, (3, 1, 2), strict=True):
        place[:, :size] = torch.randn(4, size, generator=random)
    results = net(features.flatten(0, 1)).unflatten(0, (3, 4))
    for result, scale, part, size in zip(results, scales, features, (3, 1, 2), strict=True):
        np.testing.assert_allclose(result[:, :size], scale(part[:, :size]), rtol=1e-6, atol=1e-6)
        assert torch.count_nonzero(result[:, size:]) == 0
