"""Small groups to train, and how near to each other two trainings of one are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from harness.config import EpochLog, Placement, TrialConfig
from harness.material import gather
from harness.models import ARCHITECTURES, resolve
from harness.splits import Splits
from harness.train import TrainState, initial_state
from tests.support import TINY

ROUNDING = 1e-5
"""Relative; of training losses, and of validation losses where there is no batch norm."""

AFTER_BATCH_NORM = 5e-3
"""Relative; of validation losses behind batch norms. The gradient of a bias before a batch norm is nothing but rounding, and
Adam makes a whole step of it; training does not see it, the running mean follows it late."""

AFTER_CORRELATIONS = 2e-3
"""Relative; of losses with a penalty on correlations, which divide by how far codes differ."""

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
