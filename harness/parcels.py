"""Objects on their way between processes of this machine: their arrays in memory that both see, not through a pipe."""

from __future__ import annotations

import copy
import dataclasses
import mmap
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

LEAST_BYTES = 2**20
"""Of all arrays together, from which on they have memory of their own: with fewer a pipe is as fast."""

ALIGNMENT = 64
"""Bytes at a multiple of which every array begins: the longest vectors of processors."""


class NotOpenedError(Exception):
    """The memory of a parcel is not to be had: its process is gone, or the system keeps it from others."""


@dataclass(frozen=True)
class _Place:
    """Stands for an array: where in the memory it is, and of which kind."""

    start: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Parcel:
    """What is sent in place of an object. In the process that made it, its memory is freed when nobody has it any more.

    Attributes:
        content: The object, or what it looks like without its arrays.
        process: Which has the memory with these.
        memory: That process's descriptor of it; -1 where there is none.
        size: Of the memory in bytes.
    """

    content: Any
    process: int = 0
    memory: int = -1
    size: int = 0


def pack(content: object, shares: bool = True) -> Parcel:
    """Packs an object.

    Args:
        content: Its arrays are found in tuples, lists, dicts and dataclasses, one in the other; all else stays as it is.
        shares: Whether they may have memory of their own. They have none where the system has no such, or none left.
    """
    arrays: list[np.ndarray] = []
    starts = [0]

    def take(array: np.ndarray) -> _Place:
        arrays.append(array)
        starts.append(starts[-1] + -(-array.nbytes // ALIGNMENT) * ALIGNMENT)
        return _Place(starts[-2], array.shape, array.dtype)

    without = _changed(content, np.ndarray, take) if shares and hasattr(os, "memfd_create") else content
    if starts[-1] < LEAST_BYTES:
        return Parcel(content)
    try:
        parcel = Parcel(without, os.getpid(), os.memfd_create("harness"), starts[-1])
        weakref.finalize(parcel, os.close, parcel.memory)
        with open(parcel.memory, "wb", closefd=False) as file:
            for array, start in zip(arrays, starts, strict=False):
                file.seek(start)
                file.write(np.ascontiguousarray(array).data)
            file.truncate(parcel.size)
    except OSError:
        return Parcel(content)
    return parcel


def unpack(parcel: Parcel) -> Any:
    """The object of a parcel. Arrays may be written to: they are this process's own.

    Raises:
        NotOpenedError: if its memory is not to be had.
    """
    if parcel.memory < 0:
        return parcel.content
    try:
        with Path(f"/proc/{parcel.process}/fd/{parcel.memory}").open("rb") as file:
            memory = mmap.mmap(file.fileno(), parcel.size, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:  # the latter where it is shorter
        raise NotOpenedError(str(error)) from error
    return _changed(parcel.content, _Place, lambda place: np.ndarray(place.shape, place.dtype, memory, place.start))


def _changed(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """A value with all that is of a kind changed, wherever in it; what has none of it is the very same object."""
    if type(value) is kind:
        return change(value)
    if type(value) in (list, tuple):
        parts = [_changed(part, kind, change) for part in value]
        return type(value)(parts) if _differ(parts, value) else value
    if type(value) is dict:
        parts = [_changed(part, kind, change) for part in value.values()]
        return dict(zip(value, parts, strict=True)) if _differ(parts, value.values()) else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        before = [getattr(value, name) for name in names]
        parts = [_changed(part, kind, change) for part in before]
        if _differ(parts, before):
            value = copy.copy(value)
            for name, part in zip(names, parts, strict=True):
                object.__setattr__(value, name, part)
    return value


def _differ(parts: Any, before: Any) -> bool:
    return any(part is not other for part, other in zip(parts, before, strict=True))
