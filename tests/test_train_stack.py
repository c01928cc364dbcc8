"""A group trained as one stack has the numbers of the plain trainer, from and to the same states."""

from __future__ import annotations

import pickle
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness import train_stack
from harness.config import Placement
from harness.models import ARCHITECTURES
from harness.train import LOSSES, SCHEDULES, train_group
from harness.train_stack import stacked_mse, train_group_as_stack
from tests.trained_groups import (
    AFTER_BATCH_NORM,
    AFTER_CORRELATIONS,
    COARSE,
    COARSE_AFTER_BATCH_NORM,
    ROUNDING,
    assert_close,
    assert_equal_bits,
    begin,
    group_of,
    stack_only,
)


@pytest.mark.usefixtures("each_way")
@stack_only
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_stack_trains_as_its_members_do_alone(architecture: str, loss: str, schedule: str, placement: Placement) -> None:
    """The same curves, for members of different seeds, latent sizes and learning rates."""
    configs = group_of(architecture, loss=loss, schedule=schedule)
    states, splits = begin(configs, placement)
    plain, stacked = (trained(configs, states, 2, splits) for trained in (train_group, train_group_as_stack))
    assert_close(stacked, plain, AFTER_BATCH_NORM if configs[0].batch_norm else ROUNDING)
    for config, state, other in zip(configs, stacked[0], plain[0], strict=True):
        assert {name: array.shape for name, array in state.weights.items()} == {
            name: array.shape for name, array in other.weights.items()
        }
        assert {name: (array.shape, array.dtype) for name, array in state.moments.items()} == {
            name: (array.shape, array.dtype) for name, array in other.moments.items()
        }
        assert state.logs[-1].epoch == config.epochs


@stack_only
@pytest.mark.parametrize(
    ("fields", "scale", "rounding"),
    [
        ({"prefix": True}, 1, ROUNDING),
        ({"decorrelation_kind": "decov"}, 1, ROUNDING),
        ({"decorrelation_kind": "barlow", "prefix": True, "loss": "bce"}, 2, AFTER_CORRELATIONS),
    ],
    ids=str,
)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_prefixes_and_penalties_are_those_of_the_members(
    architecture: str, fields: dict[str, object], scale: int, rounding: float, placement: Placement
) -> None:
    """The same curves and weights; each member has its own weight of the penalty, one has none.

    Correlations from larger weights: without batch norms new codes would differ in their last digits only, and a correlation
    divides by how far they differ.
    """
    plain_norm = {"batch_norm": False} if "batch_norm" in ARCHITECTURES[architecture].defaults else {}
    configs = group_of(architecture, **plain_norm, **fields)
    if "decorrelation_kind" in fields:
        configs = [
            replace(config, decorrelation=weight, decorrelation_kind=fields["decorrelation_kind"])  # type: ignore[arg-type]
            for config, weight in zip(configs, (0.5, 0.0, 0.01), strict=True)
        ]
    states, splits = begin(configs, placement)
    states = [replace(state, weights=_scaled(state.weights, scale)) for state in states]
    plain, stacked = (trained(configs, states, 2, splits) for trained in (train_group, train_group_as_stack))
    assert_close(stacked, plain, rounding, rounding)
    for state, other in zip(stacked[0], plain[0], strict=True):
        for name, array in state.weights.items():
            np.testing.assert_allclose(array, other.weights[name], atol=20 * rounding, err_msg=name)


def _scaled(weights: dict[str, np.ndarray], scale: int) -> dict[str, np.ndarray]:
    """All but the biases."""
    return {name: scale * array if array.ndim > 1 else array for name, array in weights.items()}


@stack_only
@pytest.mark.parametrize("architecture", ["base", "linear"])
def test_prefixes_go_on_where_they_were_after_a_segment(architecture: str, placement: Placement) -> None:
    """Bit for bit the training in one go, in both trainers."""
    configs = group_of(architecture, epochs=3, prefix=True, decorrelation=0.1)
    states, splits = begin(configs, placement)
    for trained in (train_group, train_group_as_stack):
        whole, _ = trained(configs, states, 3, splits)
        half, _ = trained(configs, states, 1, splits)
        for one, other in zip(whole, trained(configs, half, 2, splits)[0], strict=True):
            assert_equal_bits(one, other)


@stack_only
def test_a_member_without_a_penalty_is_what_it_was_before_there_were_any(placement: Placement) -> None:
    """Bit for bit, beside members that have one: nothing of theirs reaches it."""
    configs = group_of("base")
    states, splits = begin(configs, placement)
    before, _ = train_group_as_stack(configs, states, 2, splits)
    beside = [configs[0], replace(configs[1], decorrelation=0.3), replace(configs[2], decorrelation=0.3)]
    after, _ = train_group_as_stack(beside, states, 2, splits)
    assert_equal_bits(before[0], after[0])
    assert not np.array_equal(before[1].weights["encoder.0.0.weight"], after[1].weights["encoder.0.0.weight"])


@pytest.mark.usefixtures("each_way")
@stack_only
@pytest.mark.parametrize("fields", [{"activation": "relu"}, {"activation": "gelu", "kernel_size": 5}], ids=str)
@pytest.mark.parametrize("architecture", [name for name, each in ARCHITECTURES.items() if "batch_norm" in each.defaults])
def test_without_batch_norm_all_numbers_are_those_of_the_members(
    architecture: str, fields: dict[str, object], placement: Placement
) -> None:
    """Validation too, and the weights themselves."""
    configs = group_of(architecture, batch_norm=False, **fields)
    states, splits = begin(configs, placement)
    plain, stacked = (trained(configs, states, 2, splits) for trained in (train_group, train_group_as_stack))
    assert_close(stacked, plain)
    for state, other in zip(stacked[0], plain[0], strict=True):
        for name, array in state.weights.items():
            np.testing.assert_allclose(array, other.weights[name], atol=2e-4, err_msg=name)


@stack_only
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_in_segments_equals_training_in_one_go(architecture: str, placement: Placement) -> None:
    """Bit for bit, also when the states were pickled in between."""
    configs = group_of(architecture, epochs=3)
    states, splits = begin(configs, placement)
    whole, _ = train_group_as_stack(configs, states, 3, splits)
    first, _ = train_group_as_stack(configs, states, 1, splits)
    second, logs = train_group_as_stack(configs, pickle.loads(pickle.dumps(first)), 2, splits)  # noqa: S301  # our own bytes
    assert [[log.epoch for log in own] for own in logs] == [[2, 3]] * len(configs)
    for one, other in zip(whole, second, strict=True):
        assert_equal_bits(one, other)


@stack_only
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_state_goes_from_one_trainer_to_the_other_and_back(architecture: str, placement: Placement) -> None:
    """An epoch each of plain, stacked and plain training are three epochs of plain training."""
    configs = group_of(architecture, epochs=3)
    states, splits = begin(configs, placement)
    plain = train_group(configs, states, 3, splits)
    for trained in (train_group, train_group_as_stack, train_group):
        states, _ = trained(configs, states, 1, splits)
    mixed = (states, [list(state.logs) for state in states])
    assert_close(mixed, plain, AFTER_BATCH_NORM if configs[0].batch_norm else ROUNDING)


@stack_only
@pytest.mark.parametrize(
    ("architecture", "has_batch_norm"),
    [(name, has) for name, each in ARCHITECTURES.items() for has in (False, True) if not has or "batch_norm" in each.defaults],
)
def test_less_precise_products_stay_near_float32(architecture: str, has_batch_norm: bool, placement: Placement) -> None:
    """Other numbers, not far off; weights and moments are float32 as ever."""
    own = ARCHITECTURES[architecture].defaults
    configs = group_of(architecture, **({"batch_norm": has_batch_norm} if "batch_norm" in own else {}))
    states, splits = begin(configs, placement)
    precise, logs = train_group_as_stack(configs, states, 2, splits)
    coarse, coarse_logs = train_group_as_stack(configs, states, 2, splits, torch.bfloat16)
    bound = COARSE_AFTER_BATCH_NORM if has_batch_norm else COARSE
    losses, coarse_losses = ([log.train_loss for own in each for log in own] for each in (logs, coarse_logs))
    assert losses != coarse_losses
    assert coarse_losses == pytest.approx(losses, rel=bound)
    for one, other in zip(precise, coarse, strict=True):
        for arrays, others in ((one.weights, other.weights), (one.moments, other.moments)):
            assert {name: array.dtype for name, array in arrays.items()} == {name: array.dtype for name, array in others.items()}


@stack_only
def test_the_seconds_are_each_members_share(placement: Placement) -> None:
    """Equal among the members, and together no more than the whole training took."""
    configs = group_of("base", epochs=3)
    states, splits = begin(configs, placement)
    started = time.perf_counter()
    after, logs = train_group_as_stack(configs, states, 3, splits)
    took = time.perf_counter() - started
    seconds = {log.seconds for own in logs for log in own}
    assert len(seconds) == 1
    assert 0.2 * took < sum(state.seconds for state in after) <= took


@stack_only
@pytest.mark.parametrize("architecture", ["base", "linear"])
def test_the_order_of_the_members_does_not_matter(architecture: str, placement: Placement) -> None:
    """Nor who else is in the stack: the numbers are the same but for rounding."""
    configs = group_of(architecture)
    states, splits = begin(configs, placement)
    together = train_group_as_stack(configs, states, 2, splits)
    order = [2, 0, 1]
    turned = train_group_as_stack([configs[i] for i in order], [states[i] for i in order], 2, splits)
    expected = [together[0][i] for i in order], [together[1][i] for i in order]
    bound = AFTER_BATCH_NORM if configs[0].batch_norm else ROUNDING
    assert_close(turned, expected, bound)
    assert_close(train_group_as_stack(configs[1:2], states[1:2], 2, splits), (together[0][1:2], together[1][1:2]), bound)


@stack_only
def test_a_batch_larger_than_the_training_split_is_the_whole_split(placement: Placement) -> None:
    """One step an epoch, as in the plain trainer."""
    configs = group_of("linear", batch_size=1000)
    states, splits = begin(configs, placement)
    assert_close(train_group_as_stack(configs, states, 2, splits), train_group(configs, states, 2, splits))


def test_nothing_to_train_is_nothing_done(placement: Placement) -> None:
    """No epochs more, or no members."""
    configs = group_of("linear")
    states, splits = begin(configs, placement)
    ended = [replace(state, epoch=2) for state in states]
    assert train_group_as_stack(configs, ended, 5, splits) == (ended, [[], [], []])
    assert train_group_as_stack([], [], 5, splits) == ([], [])


@pytest.mark.parametrize("block", [1, 100, 700, 10**6])
def test_the_squared_error_is_that_of_numpy_whatever_the_block(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each member's mean over all pixels of all images; members that are ten and a hundred times as dark."""
    monkeypatch.setattr(train_stack, "BLOCK", block)
    images = torch.rand(11, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    shares = torch.tensor([1.0, 0.1, 0.01])

    class Darker(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images * shares.repeat_interleave(len(images) // 3).view(-1, 1, 1, 1)

    expected = [((share - 1) ** 2 * images.double().numpy() ** 2).mean() for share in shares.double().numpy()]
    np.testing.assert_allclose(stacked_mse(Darker(), images, 3).numpy(), expected, rtol=1e-5, atol=1e-12)
