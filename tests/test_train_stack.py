"""A group trained as one stack: the numbers of the plain trainer, from and to the same states, whatever becomes of a member."""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness import models, train_stack
from harness.config import EpochLog, Placement, TrialConfig
from harness.material import gather
from harness.models import ARCHITECTURES, Architecture, Autoencoder, resolve
from harness.splits import Splits
from harness.train import LOSSES, SCHEDULES, TrainState, initial_state, shape_of, train_group, train_member
from harness.train_stack import stacked_mse, train_group_as_stack
from tests.support import TINY

ROUNDING = 1e-5
"""Relative; of training losses, and of validation losses where there is no batch norm."""

AFTER_BATCH_NORM = 5e-3
"""Relative; of validation losses behind batch norms. The gradient of a bias before a batch norm is nothing but rounding, and
Adam makes a whole step of it; training does not see it, the running mean follows it late."""

AFTER_CORRELATIONS = 2e-3
"""Relative; of losses with a penalty on correlations. Codes of a new network differ in their last digits only, and a correlation
divides by how far they differ."""

COARSE, COARSE_AFTER_BATCH_NORM = 1e-3, 5e-2
"""Relative; of training losses with products in bfloat16, without batch norms and with them."""

MEMBERS = ((3, 0, 5e-3), (2, 1, 5e-3), (3, 1, 1e-3))
"""Latent size, seed and learning rate."""

Trained = tuple[list[TrainState], list[list[EpochLog]]]


def group_of(architecture: str, members: Sequence[tuple[int, int, float]] = MEMBERS, **fields: object) -> list[TrialConfig]:
    """Resolved configurations with two steps an epoch, of a quarter of the architecture's own width."""
    own = ARCHITECTURES[architecture].defaults
    small = {"width": own["width"] // 4} if "width" in own else {"output_activation": "sigmoid"}
    base = replace(TINY, architecture=architecture, **{"batch_size": 32, **small, **fields})  # type: ignore[arg-type]
    return [resolve(replace(base, latent_size=size, seed=seed, learning_rate=rate)) for size, seed, rate in members]


def begin(configs: Sequence[TrialConfig], placement: Placement) -> tuple[list[TrainState], Splits]:
    """First states, and the images."""
    material = gather(configs[0], placement)
    return [initial_state(config, material.shape) for config in configs], material.splits


@pytest.fixture
def _no_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack that raises is an error, and its members are not trained one by one instead."""

    def refuse(*arguments: object) -> Trained:
        raise AssertionError("the stack could not be trained") from None

    monkeypatch.setattr(train_stack, "train_group", refuse)


stack_only = pytest.mark.usefixtures("_no_way_out")


def assert_close(stacked: Trained, plain: Trained, val_rounding: float = ROUNDING, rounding: float = ROUNDING) -> None:
    """Epochs, failures and learning rates are equal, losses are within rounding."""
    assert [state.epoch for state in stacked[0]] == [state.epoch for state in plain[0]]
    assert [state.failure for state in stacked[0]] == [state.failure for state in plain[0]]
    for state, other, logs, other_logs in zip(stacked[0], plain[0], stacked[1], plain[1], strict=True):
        assert [log.epoch for log in state.logs] == [log.epoch for log in other.logs]
        assert len(logs) == len(other_logs)
        for log, other_log in zip(logs, other_logs, strict=True):
            assert log.epoch == other_log.epoch
            assert log.learning_rate == pytest.approx(other_log.learning_rate, rel=1e-12)
            assert log.train_loss == pytest.approx(other_log.train_loss, rel=rounding)
            assert log.train_mse == pytest.approx(other_log.train_mse, rel=rounding)
            assert log.val_mse == pytest.approx(other_log.val_mse, rel=val_rounding)


def assert_equal_bits(one: TrainState, other: TrainState) -> None:
    """Weights, moments and all logs but for their time."""
    assert (one.epoch, one.failure) == (other.epoch, other.failure)
    assert [replace(log, seconds=0) for log in one.logs] == [replace(log, seconds=0) for log in other.logs]
    for first, second in ((one.weights, other.weights), (one.moments, other.moments)):
        assert first.keys() == second.keys()
        assert all(np.array_equal(first[name], second[name]) for name in first)


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
    ("fields", "rounding"),
    [
        ({"prefix": True}, ROUNDING),
        ({"decorrelation_kind": "decov"}, ROUNDING),
        ({"decorrelation_kind": "barlow", "prefix": True, "loss": "bce"}, AFTER_CORRELATIONS),
    ],
    ids=str,
)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_prefixes_and_penalties_are_those_of_the_members(
    architecture: str, fields: dict[str, object], rounding: float, placement: Placement
) -> None:
    """The same curves and weights; each member has its own weight of the penalty, one has none."""
    plain_norm = {"batch_norm": False} if "batch_norm" in ARCHITECTURES[architecture].defaults else {}
    configs = group_of(architecture, **plain_norm, **fields)
    if "decorrelation_kind" in fields:
        configs = [
            replace(config, decorrelation=weight, decorrelation_kind=fields["decorrelation_kind"])  # type: ignore[arg-type]
            for config, weight in zip(configs, (0.5, 0.0, 0.01), strict=True)
        ]
    states, splits = begin(configs, placement)
    plain, stacked = (trained(configs, states, 2, splits) for trained in (train_group, train_group_as_stack))
    assert_close(stacked, plain, rounding, rounding)
    for state, other in zip(stacked[0], plain[0], strict=True):
        for name, array in state.weights.items():
            np.testing.assert_allclose(array, other.weights[name], atol=20 * rounding, err_msg=name)


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
def test_members_in_different_epochs_train_side_by_side(placement: Placement) -> None:
    """Each goes on where it was, with its own learning rates, and none beyond its last epoch."""
    configs = group_of("base", epochs=3)
    states, splits = begin(configs, placement)
    ahead, _ = train_group([configs[1]], [states[1]], 2, splits)
    stacked = train_group_as_stack(configs, [states[0], ahead[0], states[2]], 2, splits)
    plain = train_group(configs, [states[0], ahead[0], states[2]], 2, splits)
    assert [state.epoch for state in stacked[0]] == [2, 3, 2]
    assert_close(stacked, plain, AFTER_BATCH_NORM)


@stack_only
def test_members_that_have_ended_are_passed_through(placement: Placement, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that failed and one that has had its epochs stay as they are, and are no part of the stack that trains on."""
    configs = group_of("linear", ((3, 0, 5e-3), (3, 1, 5e-3), (2, 2, 5e-3), (3, 3, 5e-3)))
    states, splits = begin(configs, placement)
    failed = replace(states[0], failure="no")
    finished = train_group([configs[2]], [states[2]], 2, splits)[0][0]
    sizes, inner = [], train_stack.train_stack

    def watched(configs: Sequence[TrialConfig], *rest: object) -> list[tuple[TrainState, list[EpochLog]]]:
        sizes.append(len(configs))
        return inner(configs, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(train_stack, "train_stack", watched)
    after, logs = train_group_as_stack(configs, [failed, states[1], finished, states[3]], 2, splits)
    assert sizes == [2]
    assert after[0] is failed
    assert after[2] is finished
    assert [len(own) for own in logs] == [0, 2, 0, 2]
    again, logs = train_group_as_stack(configs, after, 2, splits)
    assert all(one is other for one, other in zip(again, after, strict=True))
    assert logs == [[], [], [], []]
    assert sizes == [2]


@stack_only
@pytest.mark.parametrize(("rate", "architecture"), [(1e38, "base"), (1e37, "linear")])
def test_a_loss_that_is_not_finite_ends_its_member_alone(rate: float, architecture: str, placement: Placement) -> None:
    """With the plain trainer's reason and logs; the others get the bits that they get beside a member that is well."""
    configs = group_of(architecture, ((3, 0, rate), (2, 1, 5e-3), (3, 2, 1e-3)), epochs=3, output_activation="identity")
    well = [replace(configs[0], learning_rate=1e-4), *configs[1:]]
    states, splits = begin(configs, placement)
    stacked, logs = train_group_as_stack(configs, states, 3, splits)
    plain, plain_logs = train_member(configs[0], states[0], 3, splits)
    assert stacked[0].failure == plain.failure
    assert "in epoch" in plain.failure
    assert (stacked[0].epoch, len(logs[0])) == (plain.epoch, len(plain_logs))
    for one, other in zip(stacked[1:], train_group_as_stack(well, states, 3, splits)[0][1:], strict=True):
        assert_equal_bits(one, other)
        assert all(np.isfinite(array).all() for array in one.weights.values())


@stack_only
def test_a_member_that_turns_bad_later_keeps_what_was_finite(placement: Placement) -> None:
    """A weight that becomes NaN between two segments: the same words as in the plain trainer, with the last finite value."""
    configs = group_of("base", epochs=3)
    states, splits = begin(configs, placement)
    states, _ = train_group_as_stack(configs, states, 1, splits)
    name = next(iter(states[1].weights))
    spoilt = replace(states[1], weights={**states[1].weights, name: np.full_like(states[1].weights[name], np.nan)})
    after, logs = train_group_as_stack(configs, [states[0], spoilt, states[2]], 2, splits)
    assert after[1].failure == train_member(configs[1], spoilt, 2, splits)[0].failure
    assert "the last finite one was" in after[1].failure
    assert (after[1].logs, logs[1]) == (spoilt.logs, [])
    assert [state.epoch for state in after] == [3, 1, 3]
    assert train_group_as_stack(configs, after, 1, splits)[0][1] is after[1]


def test_a_stack_that_cannot_be_trained_is_trained_one_by_one(placement: Placement, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit what the plain trainer gives; such as where the memory is too small for all at once."""

    def too_large(*arguments: object) -> None:
        raise MemoryError("no room")

    configs = group_of("base")
    states, splits = begin(configs, placement)
    monkeypatch.setattr(train_stack, "stack", too_large)
    for one, other in zip(
        train_group_as_stack(configs, states, 2, splits)[0], train_group(configs, states, 2, splits)[0], strict=True
    ):
        assert_equal_bits(one, other)


def test_an_error_in_one_member_is_its_own(placement: Placement) -> None:
    """Weights that do not fit end that member with the reason and the traceback; the others train on."""
    configs = group_of("base")
    states, splits = begin(configs, placement)
    after, logs = train_group_as_stack(configs, [states[0], replace(states[1], weights={}), states[2]], 2, splits)
    assert after[1].failure.startswith("RuntimeError: Error(s) in loading state_dict")
    assert "Traceback" in after[1].failure
    assert [(state.failure, state.epoch, len(own)) for state, own in zip(after, logs, strict=True) if state is not after[1]] == [
        ("", 2, 2)
    ] * 2


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


class Offset(nn.Module):
    """A parameter of its own, and no twin."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, maps: Tensor) -> Tensor:
        """Keeps the shape."""
        return maps + self.offset.tanh()


def build_made_up(shape: models.Shape, config: TrialConfig) -> Autoencoder:
    """Layers without a twin among others; one activation that is there twice."""
    activation = nn.SiLU()
    encoder = nn.Sequential(
        nn.Conv2d(shape[0], 6, 3, 2, 1),
        nn.GroupNorm(2, 6),
        Offset(6),
        activation,
        nn.Flatten(),
        nn.LazyLinear(12),
        nn.LayerNorm(12),
        activation,
        nn.Linear(12, config.latent_size),
        nn.Sigmoid(),
    )
    decoder = nn.Sequential(
        nn.Linear(config.latent_size, 12),
        nn.LayerNorm(12),
        nn.PReLU(),
        nn.Linear(12, math.prod(shape)),
        nn.Unflatten(1, shape),
        Offset(shape[0]),
        nn.Sigmoid(),
    )
    encoder(torch.zeros(1, *shape))
    return Autoencoder(encoder, decoder)


@stack_only
def test_an_architecture_of_ones_own_trains_as_a_stack(placement: Placement, monkeypatch: pytest.MonkeyPatch) -> None:
    """With layers that no twin knows, and nothing but an entry in ``ARCHITECTURES``."""
    monkeypatch.setitem(ARCHITECTURES, "made_up", Architecture(build_made_up, {"output_activation": "sigmoid"}))
    configs = group_of("made_up", epochs=3)
    states, splits = begin(configs, placement)
    assert shape_of(splits.train.images) == (1, 8, 8)
    assert_close(train_group_as_stack(configs, states, 3, splits), train_group(configs, states, 3, splits))


def build_normed_code(shape: models.Shape, config: TrialConfig) -> Autoencoder:
    """A layer norm over the code, which is of another size in every member."""
    linear = models.build_linear(shape, config)
    return Autoencoder(nn.Sequential(linear.encoder, nn.LayerNorm(config.latent_size)), linear.decoder)


def test_an_architecture_that_is_no_stack_is_trained_one_by_one(placement: Placement, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that would mix a code with what it is filled up with: bit for bit the plain trainer's numbers."""
    monkeypatch.setitem(ARCHITECTURES, "normed_code", Architecture(build_normed_code, {"output_activation": "sigmoid"}))
    configs = group_of("normed_code")
    states, splits = begin(configs, placement)
    for one, other in zip(
        train_group_as_stack(configs, states, 2, splits)[0], train_group(configs, states, 2, splits)[0], strict=True
    ):
        assert_equal_bits(one, other)
