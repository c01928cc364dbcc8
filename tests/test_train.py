"""Training: seeded, resumable, and honest about numbers that are not finite."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from harness import train
from harness.config import Placement, TrialConfig
from harness.floors import LinearFloors
from harness.latents import mean_abs_correlation
from harness.material import Material, gather
from harness.models import ARCHITECTURES, resolve
from harness.regularizers import keep_prefix
from harness.train import SCHEDULES, TrainState, initial_state, load_model, reconstruction_mse, train_group, train_member
from tests.support import TINY


def begin(config: TrialConfig, placement: Placement) -> tuple[TrialConfig, Material, TrainState]:
    """The configuration resolved, its images and its first state."""
    config = resolve(config)
    material = gather(config, placement)
    return config, material, initial_state(config, material.shape)


def assert_equal_states(first: TrainState, second: TrainState) -> None:
    """Bit for bit, in weights and in moments."""
    assert first.epoch == second.epoch
    for one, other in ((first.weights, second.weights), (first.moments, second.moments)):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("schedule", list(SCHEDULES))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_in_segments_equals_training_in_one_go(architecture: str, schedule: str, placement: Placement) -> None:
    """Weights, moments and curves are the same bits, also when the state was pickled in between."""
    config, material, start = begin(replace(TINY, architecture=architecture, schedule=schedule, epochs=3), placement)
    whole, whole_logs = train_member(config, start, 3, material.splits)
    first, first_logs = train_member(config, start, 2, material.splits)
    second, second_logs = train_member(config, pickle.loads(pickle.dumps(first)), 2, material.splits)  # noqa: S301  # our own bytes
    assert_equal_states(whole, second)
    curve = [(log.epoch, log.train_loss, log.val_mse, log.learning_rate) for log in first_logs + second_logs]
    assert curve == [(log.epoch, log.train_loss, log.val_mse, log.learning_rate) for log in whole_logs]
    assert [log.epoch for log in whole.logs] == [1, 2, 3]


def test_a_group_gives_what_its_members_give_alone(placement: Placement) -> None:
    """Neither the size of the group nor the order of its members changes a bit."""
    configs = [resolve(replace(TINY, latent_size=size, seed=seed)) for size, seed in ((2, 0), (3, 0), (3, 1))]
    material = gather(configs[0], placement)
    starts = [initial_state(config, material.shape) for config in configs]
    together, logs = train_group(configs, starts, 2, material.splits)
    for config, start, state, log in zip(configs, starts, together, logs, strict=True):
        alone, alone_log = train_member(config, start, 2, material.splits)
        assert_equal_states(alone, state)
        assert [each.val_mse for each in alone_log] == [each.val_mse for each in log]


def test_training_lowers_the_loss(placement: Placement) -> None:
    """Twenty epochs on digits bring the validation error well below the mean image's."""
    config, material, start = begin(replace(TINY, train_size=600, epochs=20, latent_size=10), placement)
    state, logs = train_member(config, start, 20, material.splits)
    mean_image = LinearFloors.fit(material.splits.train.images).mean_image_mse(material.splits.validation.images)
    assert logs[-1].val_mse < 0.5 * mean_image
    assert logs[-1].val_mse == reconstruction_mse(
        load_model(config, state, material.shape, "cpu"), material.splits.validation.images
    )


def test_the_linear_architecture_trained_long_enough_reaches_pca(placement: Placement) -> None:
    """Within 2 % of the PCA floor on digits' test images: the optimum of a linear autoencoder is PCA."""
    config = TrialConfig(architecture="linear", latent_size=5, epochs=400, learning_rate=5e-3, transfer_epochs=1)
    config, material, start = begin(config, placement)
    state, _ = train_member(config, start, config.epochs, material.splits)
    images = material.splits.test.images
    floor = material.floors.pca_mse(images, config.latent_size)
    assert reconstruction_mse(load_model(config, state, material.shape, "cpu"), images) == pytest.approx(floor, rel=0.02)


@pytest.mark.parametrize(("learning_rate", "architecture"), [(1e38, "base"), (1e37, "linear")])
def test_a_loss_that_is_not_finite_ends_the_member_with_epoch_and_last_value(
    learning_rate: float, architecture: str, placement: Placement
) -> None:
    """The state says which number, in which epoch, and the last finite one; no further epoch is trained."""
    config, material, start = begin(replace(TINY, architecture=architecture, learning_rate=learning_rate, epochs=4), placement)
    state, logs = train_member(config, start, 4, material.splits)
    assert f"in epoch {state.epoch + 1}" in state.failure
    assert ("the last finite one was" in state.failure) == bool(logs)
    assert state.epoch < 4
    assert all(math.isfinite(log.val_mse) for log in logs)
    assert train_member(config, state, 4, material.splits) == (state, [])


def test_a_loss_that_turns_bad_later_names_the_last_finite_value(placement: Placement) -> None:
    """A weight that becomes NaN between two segments ends the member in the epoch after."""
    config, material, start = begin(replace(TINY, epochs=4), placement)
    state, logs = train_member(config, start, 2, material.splits)
    name = next(iter(state.weights))
    spoilt = replace(state, weights={**state.weights, name: np.full_like(state.weights[name], np.nan)})
    ended, more = train_member(config, spoilt, 2, material.splits)
    assert more == []
    assert ended.failure == f"train_loss is nan in epoch 3; the last finite one was {logs[-1].train_loss:.6g} in epoch 2"


def test_an_error_in_one_member_leaves_the_others_alone(placement: Placement) -> None:
    """A member whose weights do not fit fails with the reason and the traceback; its neighbour trains on."""
    config, material, start = begin(TINY, placement)
    wrong = replace(start, weights={})
    states, logs = train_group([config, config], [wrong, start], 1, material.splits)
    assert states[0].failure.startswith("RuntimeError: Error(s) in loading state_dict")
    assert "Traceback" in states[0].failure
    assert (states[1].failure, states[1].epoch, len(logs[1])) == ("", 1, 1)


def test_the_one_cycle_schedule_is_that_of_torch() -> None:
    """Step by step the same learning rates as OneCycleLR."""
    total = 57
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=total, cycle_momentum=False)
    for step in range(total):
        assert train.one_cycle(step, total) * 2e-3 == pytest.approx(reference.get_last_lr()[0], rel=1e-9, abs=1e-15)
        optimizer.step()
        if step < total - 1:
            reference.step()


def test_the_cosine_schedule_is_that_of_torch() -> None:
    """Step by step the same learning rates as CosineAnnealingLR."""
    total = 31
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-3)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total)
    for step in range(total):
        assert train.cosine(step, total) * 3e-3 == pytest.approx(reference.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        reference.step()


@pytest.mark.parametrize("schedule", list(SCHEDULES))
@pytest.mark.parametrize("total", [1, 2, 3, 4, 10])
def test_every_schedule_gives_a_rate_for_the_shortest_trainings(schedule: str, total: int) -> None:
    """All rates are positive and at most 1, however few the steps."""
    rates = [SCHEDULES[schedule](step, total) for step in range(total)]
    assert all(0 < rate <= 1 for rate in rates)


def test_bce_trains_on_bce_and_reports_squared_error_as_well(placement: Placement) -> None:
    """With bce the loss and the squared error are two numbers; with mse they are one."""
    config, material, start = begin(replace(TINY, loss="bce"), placement)
    _, logs = train_member(config, start, 1, material.splits)
    assert logs[0].train_loss > logs[0].train_mse
    config, material, start = begin(TINY, placement)
    _, logs = train_member(config, start, 1, material.splits)
    assert logs[0].train_loss == logs[0].train_mse


def test_the_penalty_is_in_the_training_loss_and_lowers_correlation(placement: Placement) -> None:
    """The loss is squared error and penalty, the squared error is told as ever, and the codes end up less correlated."""
    plain = replace(TINY, train_size=300, epochs=15, latent_size=8)
    found = {}
    for weight in (0.0, 0.3):
        config, material, start = begin(replace(plain, decorrelation=weight, decorrelation_kind="barlow"), placement)
        state, logs = train_member(config, start, config.epochs, material.splits)
        assert (logs[-1].train_loss > logs[-1].train_mse) == (weight > 0)
        codes = load_model(config, state, material.shape, "cpu").eval().encoder(material.splits.test.images).detach()
        found[weight] = mean_abs_correlation(codes)
    assert found[0.3] < 0.6 * found[0.0]


def test_training_with_prefixes_puts_the_most_first(placement: Placement) -> None:
    """The first units alone decode better than the first units of a training without prefixes, and each further one helps."""
    plain = replace(TINY, architecture="linear", train_size=600, epochs=40, latent_size=6)
    losses = {}
    for prefix in (True, False):
        config, material, start = begin(replace(plain, prefix=prefix), placement)
        state, _ = train_member(config, start, config.epochs, material.splits)
        model, images = load_model(config, state, material.shape, "cpu").eval(), material.splits.test.images
        with torch.no_grad():
            codes = model.encoder(images)
            decoded = [model.decoder(keep_prefix(codes, units)) for units in range(1, 7)]
        losses[prefix] = [float((each - images).square().mean()) for each in decoded]
    assert losses[True] == sorted(losses[True], reverse=True)
    assert all(nested < usual for nested, usual in zip(losses[True][:4], losses[False][:4], strict=True))


def test_a_batch_larger_than_the_training_split_is_the_whole_split(placement: Placement) -> None:
    """There is one step an epoch then, and it is made."""
    config, material, start = begin(replace(TINY, batch_size=1000, epochs=1), placement)
    state, logs = train_member(config, start, 1, material.splits)
    assert len(logs) == 1
    assert any(not np.array_equal(state.weights[name], start.weights[name]) for name in start.weights)
