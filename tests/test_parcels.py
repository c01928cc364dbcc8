"""Objects on their way between processes: whatever is packed comes out, by shared memory as by a pipe, and nothing is left."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import executors
from harness.executors import ProcessExecutor
from harness.parcels import LEAST_BYTES, NotOpenedError, Parcel, pack, unpack
from tests.support import ROOT
from tests.test_executors import wait_for

MANY = LEAST_BYTES // 4
"""So many float32 have memory of their own."""

SHARES = hasattr(os, "memfd_create")
needs_memory = pytest.mark.skipif(not SHARES, reason="this system has no memory of its own for parcels")


@dataclass(frozen=True)
class _Found:
    """As what a worker gives."""

    name: str
    arrays: dict[str, np.ndarray]
    more: tuple[Any, ...] = ()


ARRAYS = {
    "float32": np.linspace(0, 1, MANY, dtype=np.float32),
    "float64": np.linspace(0, 1, 7),
    "int8": np.arange(-3, 3, dtype=np.int8),
    "bool": np.array([True, False, True]),
    "of no axes": np.array(3.5),
    "empty": np.zeros((0, 4), np.float32),
    "columns first": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "every other": np.arange(20)[::2],
    "dates": np.array(["2026-01-01"], dtype="datetime64[D]"),
    "objects": np.array([None, "a"], dtype=object),
}


def opened() -> list[int]:
    """Every memory of a parcel that this process has open, by its inode, as often as it has."""
    found = []
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # that of the folder itself is closed by now
            found += [path.stat().st_ino] * ("memfd:harness" in str(path.readlink()))
    return found


@pytest.fixture
def opened_here() -> Callable[[], int]:
    """How many memories of parcels are open that were not before, whatever the tests before have left."""
    gc.collect()
    before = set(opened())
    return lambda: sum(inode not in before for inode in opened())


def _sent(parcel: Parcel) -> Parcel:
    """As it comes to another process."""
    return pickle.loads(pickle.dumps(parcel))  # noqa: S301 - made right here


@pytest.mark.parametrize("shares", [True, False])
def test_whatever_is_packed_comes_out(shares: bool) -> None:
    """Arrays of any kind, in whatever they are, and what is no array beside them."""
    content = [_Found("one", ARRAYS, ((1, "two"), [None])), {"x": (ARRAYS["float64"],)}, 3]
    parcel = pack(content, shares)
    first, second, third = unpack(_sent(parcel))
    assert (first.name, first.more, third) == ("one", ((1, "two"), [None]), 3)
    for name, array in [*ARRAYS.items(), ("again", ARRAYS["float64"])]:
        found = second["x"][0] if name == "again" else first.arrays[name]
        np.testing.assert_array_equal(found, array, strict=True)


def test_what_is_there_twice_is_packed_once_and_comes_out_as_one() -> None:
    """As it does through a pipe."""
    array = np.zeros(MANY, np.float32)
    parcel = pack([array, {"again": array}])
    assert parcel.size == pack([array]).size
    first, second = unpack(parcel)
    assert first is second["again"]


@needs_memory
def test_many_numbers_are_not_sent() -> None:
    """What is sent in their place is small; what is small is sent as it is."""
    content = _Found("many", {"a": np.zeros(MANY, np.float32)})
    assert len(pickle.dumps(pack(content))) < 1000
    few = _Found("few", {"a": np.zeros(MANY - 16, np.float32)})
    assert pack(few) == Parcel(few)
    assert pack(content, shares=False) == Parcel(content)


def test_each_side_has_arrays_of_its_own() -> None:
    """What is packed may change at once, and what came out may be written to."""
    packed = np.zeros(MANY, np.float32)
    parcel = pack([packed])
    packed[0] = 1
    (first,), (second,) = unpack(parcel), unpack(parcel)
    first[1] = 2
    assert first[:3].tolist() == [packed[0] if not SHARES else 0, 2, 0]
    assert not SHARES or second[:3].tolist() == [0, 0, 0]


@needs_memory
def test_memory_is_given_back_and_what_came_out_of_it_stays(opened_here: Callable[[], int]) -> None:
    """When the parcel is gone nothing of it is open; arrays are there as long as somebody has them."""
    parcel = pack([np.arange(MANY, dtype=np.float32)])
    assert opened_here() == 1
    (array,) = unpack(parcel)
    assert opened_here() == 2  # Python's map of it has a descriptor of its own
    del parcel
    assert (opened_here(), array[-1]) == (1, MANY - 1)
    del array
    assert opened_here() == 0


@needs_memory
def test_a_system_without_memory_left_sends_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there was no such memory; the descriptor that was there already is closed."""
    made: list[int] = []

    def full(name: str) -> int:
        made.append(os.open("/dev/full", os.O_RDWR))
        return made[-1]

    monkeypatch.setattr(os, "memfd_create", full)
    content = [np.zeros(MANY, np.float32)]
    assert pack(content) == Parcel(content)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(made[0])


@needs_memory
def test_a_parcel_of_a_process_that_is_gone_is_not_opened() -> None:
    """It says so."""
    code = "import numpy as np; from harness.parcels import pack; one = pack([np.zeros(2**20)]); print(one.process, one.memory)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    process, memory = map(int, ran.stdout.split())
    assert memory >= 0
    with pytest.raises(NotOpenedError, match="No such file"):
        unpack(Parcel([], process, memory, 1, 2**23))


@needs_memory
@pytest.mark.parametrize("field", ["size", "inode"])
def test_something_else_in_the_place_of_the_memory_is_not_taken_for_it(field: str) -> None:
    """Another process may have the number of one that is gone by now."""
    own = pack([np.zeros(MANY, np.float32)])
    with pytest.raises(NotOpenedError, match="something else"):
        unpack(replace(own, **{field: getattr(own, field) + 1}))


def _doubled(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array + array for name, array in arrays.items()}


@pytest.fixture
def executor() -> Iterator[ProcessExecutor]:
    """With one worker."""
    with ProcessExecutor(1) as executor:
        yield executor


@needs_memory
def test_workers_get_and_give_arrays_of_any_size(executor: ProcessExecutor, opened_here: Callable[[], int]) -> None:
    """And nothing stays open of it, neither here nor there, however many there were."""
    given = {"large": ARRAYS["float32"], "small": ARRAYS["float64"]}
    counts = []
    for _ in range(4):
        found = executor.submit(_doubled, given).result(60)
        for name, array in given.items():
            np.testing.assert_array_equal(found[name], array + array, strict=True)
        del found
        counts.append((len(executor.submit(opened).result(60)), opened_here()))
    assert counts == [(0, 0)] * 4


@needs_memory
@pytest.mark.parametrize("side", ["task", "result"])
def test_where_memory_is_kept_from_others_arrays_are_sent(
    side: str, executor: ProcessExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each task is done once; from the first that could not be opened on nothing is tried any more."""
    tried: list[bool] = []
    given = {"a": ARRAYS["float32"]}

    def closed(content: object, shares: bool = True) -> Parcel:
        parcel = pack(content, shares)
        tried.append(parcel.memory >= 0)
        return replace(parcel, memory=2**20) if tried[-1] else parcel

    def lost(parcel: Parcel) -> Any:
        tried.append(parcel.memory >= 0)
        return unpack(replace(parcel, memory=2**20) if tried[-1] else parcel)

    monkeypatch.setattr(executors, *(("pack", closed) if side == "task" else ("unpack", lost)))
    numbers = []
    for _ in range(2):
        number, found = executor.submit(_numbered, given).result(60)
        np.testing.assert_array_equal(found["a"], 2 * ARRAYS["float32"], strict=True)
        numbers.append(number)
    assert numbers == [1, 2]
    assert tried == [True, False, False]


_DONE: list[int] = []


def _numbered(arrays: dict[str, np.ndarray]) -> tuple[int, dict[str, np.ndarray]]:
    _DONE.append(1)
    return len(_DONE), _doubled(arrays)


@needs_memory
def test_a_worker_that_dies_before_its_result_is_opened_has_died_of_its_task(
    executor: ProcessExecutor, opened_here: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And that is no reason not to share memory any more."""
    plain, killed = executors.unpack, []

    def unpack_late(parcel: Parcel) -> Any:
        if parcel.memory >= 0 and not killed:
            killed.append(parcel.process)
            os.kill(parcel.process, signal.SIGKILL)
            wait_for(lambda: not Path(f"/proc/{parcel.process}/fd/{parcel.memory}").exists())
        return plain(parcel)

    monkeypatch.setattr(executors, "unpack", unpack_late)
    given = {"a": ARRAYS["float32"]}
    with pytest.raises(executors.WorkerDiedError, match="SIGKILL"):
        executor.submit(_doubled, given).result(60)
    assert executor.submit(_doubled, given).result(60)["a"][-1] == 2
    assert (len(killed), executor._shares) == (1, True)
    wait_for(lambda: opened_here() == 0)


def _killed_with(arrays: list[np.ndarray]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@needs_memory
def test_a_worker_that_dies_with_arrays_leaves_nothing_open(executor: ProcessExecutor, opened_here: Callable[[], int]) -> None:
    """Neither what it was given, nor what it gave."""
    for _ in range(2):
        with pytest.raises(executors.WorkerDiedError):
            executor.submit(_killed_with, [ARRAYS["float32"]]).result(60)
        assert executor.submit(_doubled, {"a": ARRAYS["float32"]}).result(60)["a"][-1] == 2
    wait_for(lambda: opened_here() == 0)  # threads of the pools of dead workers have it for a moment
