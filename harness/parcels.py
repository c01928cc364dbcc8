"""Objects on their way between processes of this machine: their arrays in memory that both see, not through a pipe."""

from __future__ import annotations

import copy
import dataclasses
import mmap
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

LEAST_BYTES = 2**20
"""Of all arrays together, from which on they have memory of their own: with fewer a pipe is as fast."""

ALIGNMENT = 64
"""Bytes at a multiple of which every array begins: the longest vectors of processors."""

NUMBERS = "biufc"
"""NumPy's kinds of types whose arrays hold all that they mean."""


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
        inode: By which the memory is known to be the right one.
        size: Of the memory in bytes.
    """

    content: Any
    process: int = 0
    memory: int = -1
    inode: int = 0
    size: int = 0


def pack(content: object, shares: bool = True) -> Parcel:
    """Packs an object.

    Args:
        content: Its arrays of numbers are found in tuples, lists, dicts and dataclasses, one in the other; an array that is there
            more than once is packed once. All else stays as it is.
        shares: Whether they may have memory of their own. They have none where the system has no such, or none left.
    """
    if not (shares and hasattr(os, "memfd_create")):
        return Parcel(content)
    import numpy as np  # here: a command line that is wrong loads nothing

    taken: dict[int, tuple[np.ndarray, _Place]] = {}
    size = 0

    def take(array: np.ndarray) -> Any:
        nonlocal size
        if array.dtype.kind not in NUMBERS:
            return array
        if id(array) not in taken:
            taken[id(array)] = array, _Place(size, array.shape, array.dtype)
            size += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        return taken[id(array)][1]

    without = _changed(content, np.ndarray, take)
    if size < LEAST_BYTES:
        return Parcel(content)
    try:
        memory = os.memfd_create("harness")
        parcel = Parcel(without, os.getpid(), memory, os.fstat(memory).st_ino, size)
        weakref.finalize(parcel, os.close, memory)
        with open(memory, "wb", closefd=False) as file:
            for array, place in taken.values():
                file.seek(place.start)
                file.write(np.ascontiguousarray(array).data)
            file.truncate(size)
    except OSError:
        return Parcel(content)
    return parcel


def unpack(parcel: Parcel) -> Any:
    """The object of a parcel. Its arrays lie in rows and may be written to, and each keeps all that was packed with it in memory.

    Raises:
        NotOpenedError: if its memory is not to be had.
    """
    if parcel.memory < 0:
        return parcel.content
    import numpy as np

    is_own = parcel.process == os.getpid()
    try:
        with open(parcel.memory if is_own else f"/proc/{parcel.process}/fd/{parcel.memory}", "rb", closefd=not is_own) as file:
            found = os.fstat(file.fileno())
            if (found.st_ino, found.st_size) != (parcel.inode, parcel.size):
                raise NotOpenedError("something else is in its place")
            memory = mmap.mmap(file.fileno(), parcel.size, access=mmap.ACCESS_COPY)
    except OSError as error:
        raise NotOpenedError(str(error)) from error
    at = cache(lambda place: np.ndarray(place.shape, place.dtype, memory, place.start))
    return _changed(parcel.content, _Place, at)


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
