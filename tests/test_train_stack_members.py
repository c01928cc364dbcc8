"""What becomes of a member of a stack that is ahead, has ended or fails, and of a group whose layers know of no stack."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness import models, train_stack
from harness.config import EpochLog, Placement, TrialConfig
from harness.models import ARCHITECTURES, Architecture, Autoencoder
from harness.train import TrainState, shape_of, train_group, train_member
from harness.train_stack import train_group_as_stack
from tests.trained_groups import (
    AFTER_BATCH_NORM,
    assert_close,
    assert_equal_bits,
    begin,
    group_of,
    stack_only,
)


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
