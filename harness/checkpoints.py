"""What a group has come to, on disk after each segment: a sweep that is cut off goes on from there. Read without pickle."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from harness.config import EpochLog, TrialConfig, fingerprint
from harness.disk import write_whole
from harness.train import Arrays, TrainState

HEADER = "header"
KINDS = ("weights", "moments")


def checkpoint_path(folder: Path, configs: Sequence[TrialConfig], trainer: str, precision: str) -> Path:
    """The file of a group: named by all that its states depend on, so that another group never takes it for its own."""
    return folder / f"{fingerprint([[config.to_params() for config in configs], trainer, precision])}.npz"


def write_checkpoint(path: Path, states: Sequence[TrainState]) -> None:
    """Writes the states of a group; what was there before is there until the new file is whole and on the disk.

    Raises:
        OSError: if it cannot be written, such as on a full disk; nothing is left of the attempt.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: np.savez(file, allow_pickle=False, **_arrays(states)))


def _arrays(states: Sequence[TrainState]) -> Arrays:
    """Every array by ``<member>/<kind>/<name>``; all else, and which arrays there are, as JSON."""
    header = [
        {
            "epoch": state.epoch,
            "failure": state.failure,
            "is_pruned": state.is_pruned,
            "logs": [asdict(log) for log in state.logs],
            **{kind: list(getattr(state, kind)) for kind in KINDS},
        }
        for state in states
    ]
    arrays = {
        f"{member}/{kind}/{name}": array
        for member, state in enumerate(states)
        for kind in KINDS
        for name, array in getattr(state, kind).items()
    }
    return {HEADER: np.frombuffer(json.dumps(header).encode(), dtype=np.uint8), **arrays}


def read_checkpoint(path: Path, members: int) -> list[TrainState] | None:
    """Reads the states of a group.

    Returns:
        One a member, with the very bits that were written; ``None`` where there is no file.

    Raises:
        ValueError: if the file is damaged, or not of so many members.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            header = json.loads(file[HEADER].tobytes())
            states = [_state(member, each, file) for member, each in enumerate(header)]
    except Exception as error:  # what reads a broken archive may raise anything
        raise ValueError(f"{path} is damaged: {' '.join(str(error).split()) or type(error).__name__}") from error
    if len(states) != members:
        raise ValueError(f"{path} has {len(states)} members, not {members}")
    return states


def _state(member: int, header: Mapping[str, Any], arrays: Mapping[str, Any]) -> TrainState:
    """One member's state: all arrays that its header names, or an error."""
    own: dict[str, Arrays] = {kind: {name: arrays[f"{member}/{kind}/{name}"] for name in header[kind]} for kind in KINDS}
    logs = tuple(EpochLog(**log) for log in header["logs"])
    return TrainState(header["epoch"], **own, logs=logs, failure=header["failure"], is_pruned=header["is_pruned"])


def forget_checkpoints(folder: Path) -> None:
    """Removes all checkpoints of a sweep."""
    shutil.rmtree(folder, ignore_errors=True)
