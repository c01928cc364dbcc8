"""Checkpoints: the very bits, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.checkpoints import checkpoint_path, forget_checkpoints, read_checkpoint, write_checkpoint
from harness.config import Placement, TrialConfig
from harness.models import resolve
from harness.train import TrainState
from harness.trial import run_segment
from tests.support import TINY

CONFIGS = [replace(resolve(replace(TINY, architecture="linear")), seed=seed, latent_size=2 + seed) for seed in range(3)]


@pytest.fixture
def states(placement: Placement) -> list[TrainState]:
    """After one epoch; one member has failed, one has a failure in words that no encoding likes."""
    trained = run_segment(CONFIGS, None, 1, placement).states
    failed = replace(trained[1], failure="ValueError: \u2260 \nTraceback")
    return [replace(trained[0], failure="no hope", is_pruned=True), failed, TrainState(epoch=0, weights={})]


def assert_equal_bits(one: TrainState, other: TrainState) -> None:
    """Every array, its type included, and every other field."""
    for kind in ("weights", "moments"):
        arrays, others = getattr(one, kind), getattr(other, kind)
        assert list(arrays) == list(others)
        for name, array in arrays.items():
            assert (array.dtype, array.shape, array.tobytes()) == (others[name].dtype, others[name].shape, others[name].tobytes())
    assert (one.epoch, one.logs) == (other.epoch, other.logs)
    assert (one.failure, one.is_pruned) == (other.failure, other.is_pruned)


def test_states_come_back_as_they_were(states: list[TrainState], tmp_path: Path) -> None:
    """Weights, moments, logs and failures; and the file is alone in its folder."""
    path = tmp_path / "folder" / "group.npz"
    write_checkpoint(path, states)
    read = read_checkpoint(path, 3)
    assert read is not None
    for one, other in zip(states, read, strict=True):
        assert_equal_bits(one, other)
    assert list(path.parent.iterdir()) == [path]


def test_where_there_is_none_there_is_none(tmp_path: Path) -> None:
    """It is no error that a group has not been trained."""
    assert read_checkpoint(tmp_path / "none.npz", 3) is None


def test_a_damaged_checkpoint_is_recognised_wherever_it_is_cut(states: list[TrainState], tmp_path: Path) -> None:
    """Cut off at any place, or with bytes changed, it is an error that names the file; never other states."""
    path = tmp_path / "group.npz"
    write_checkpoint(path, states)
    whole = path.read_bytes()
    for size in (0, 1, 30, len(whole) // 3, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"group\.npz is damaged"):
            read_checkpoint(path, 3)
    random, directory = np.random.default_rng(0), whole.index(b"PK\x01\x02")
    places = [*random.integers(0, len(whole), 40), *range(directory, directory + 46), *range(len(whole) - 22, len(whole))]
    for place in places:  # anywhere, and in all of the archive's own words
        changed = bytearray(whole)
        changed[place] ^= 0xFF
        path.write_bytes(changed)
        try:
            read = read_checkpoint(path, 3)
        except ValueError:
            continue
        assert read is not None  # a byte of the zip file that means nothing
        for one, other in zip(states, read, strict=True):
            assert_equal_bits(one, other)


def test_a_pickle_in_a_checkpoint_is_not_opened(tmp_path: Path) -> None:
    """An array of objects would have to be unpickled, which can execute anything."""
    path = tmp_path / "group.npz"
    with path.open("wb") as file:
        np.savez(file, header=np.array([{"epoch": 1}], dtype=object))
    with pytest.raises(ValueError, match="is damaged"):
        read_checkpoint(path, 1)


def test_another_number_of_members_is_another_group(states: list[TrainState], tmp_path: Path) -> None:
    """It is refused."""
    path = tmp_path / "group.npz"
    write_checkpoint(path, states)
    with pytest.raises(ValueError, match="has 3 members, not 2"):
        read_checkpoint(path, 2)


def test_a_group_has_a_file_of_its_own(tmp_path: Path) -> None:
    """Other members, another order, another trainer or precision: another file."""
    first: list[TrialConfig] = CONFIGS
    ways = [(first, "stacked", "float32"), (first[:2], "stacked", "float32"), (first[::-1], "stacked", "float32")]
    ways += [(first, "plain", "float32"), (first, "stacked", "bfloat16")]
    assert len({checkpoint_path(tmp_path, *way) for way in ways}) == len(ways)


def test_a_full_disk_leaves_the_checkpoint_before(states: list[TrainState], small_disk: Callable[[str], Path]) -> None:
    """The error is the system's, and no draft is left in the way."""
    path = small_disk("256k") / "group.npz"
    write_checkpoint(path, states)
    large = [replace(states[0], weights={"weight": np.zeros(10**6)})]
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(path, large)
    assert list(path.parent.iterdir()) == [path]
    read = read_checkpoint(path, 3)
    assert read is not None
    assert_equal_bits(read[0], states[0])


def test_a_sweep_that_is_over_has_no_checkpoints(states: list[TrainState], tmp_path: Path) -> None:
    """The folder is gone; where there is none, nothing happens."""
    write_checkpoint(tmp_path / "sweep" / "group.npz", states)
    for _ in range(2):
        forget_checkpoints(tmp_path / "sweep")
        assert not (tmp_path / "sweep").exists()
