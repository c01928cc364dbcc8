"""Where the work runs: pure functions in, futures out. Knows no machine learning. To add one: an entry in ``EXECUTORS``."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import connection, get_all_start_methods, get_context, parent_process
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized


class Executor(Protocol):
    """What runs the segments of a sweep."""

    slots: int
    """How many groups it pays to have under way at a time."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Starts a picklable function and gives the future of its result."""

    def __enter__(self) -> Self:
        """Gives itself."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Ends the workers; at once where there was an error."""


class InlineExecutor:
    """Runs each function in this process, at once: the plain twin of the others."""

    slots = 1

    def __init__(self, workers: int) -> None:
        """Takes the number of workers as the others do and needs none."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Runs the function; the future is done when it returns."""
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Has nothing to end."""


HUGE_PAGES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=2000000000"
"""Has a worker's memory in huge pages and kept once it is had, where the C library is glibc. A stack goes through tens of
megabytes at every step; in pages of 4 kB, asked for anew each time, that costs up to a third of the step."""


WORKER = "HARNESS_WORKER"
"""The variable that holds a worker's number, from 0: what runs in it may take the device of that number."""


class ProcessExecutor:
    """Runs the functions in processes of their own, which stay for the whole sweep."""

    def __init__(self, workers: int) -> None:
        self.slots = workers + 1  # one more than can run, so that no worker waits for the coordinator
        context: Any = get_context(_start_method())
        self._pool = ProcessPoolExecutor(workers, context, _start_worker, initargs=(context.Value("i", 0),))

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Queues the function for the next free worker, which is started here where there is none yet."""
        with _interrupts_held(), _environment("GLIBC_TUNABLES", HUGE_PAGES):
            return self._pool.submit(function, *arguments)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Waits for the workers to end; after an error it kills them."""
        if error is not None:
            for process in list((self._pool._processes or {}).values()):  # terminate_workers() came with Python 3.14
                process.kill()
        self._pool.shutdown(wait=error is None, cancel_futures=True)


def prepare(modules: Sequence[str]) -> None:
    """Has the modules loaded once for all workers that start later, while the caller goes on.

    A process is started that loads them and does nothing else; workers are its forks, which start at once and share its memory. Where
    the system has no such process each worker loads what it needs by itself.
    """
    if _start_method() != "forkserver":
        return
    from multiprocessing.forkserver import ensure_running, set_forkserver_preload

    set_forkserver_preload(list(modules))
    with _interrupts_held(), _environment("GLIBC_TUNABLES", HUGE_PAGES):
        ensure_running()


def _start_method() -> str:
    return "forkserver" if "forkserver" in get_all_start_methods() else "spawn"


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Keeps Ctrl-C from a process that starts now until it can leave it to the coordinator, which gets it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Sets a variable, where it has no value yet, for the processes that start now."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


def _start_worker(started: Synchronized[int]) -> None:
    """Numbers the worker, leaves Ctrl-C to the coordinator, and makes sure that no worker outlives it.

    What was loaded before it started is left out of garbage collection, which would write to memory that workers share.
    """
    gc.freeze()
    with started.get_lock():
        os.environ[WORKER] = str(started.value)
        started.value += 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_leave_with, args=(parent.sentinel,), daemon=True).start()


def _leave_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


EXECUTORS: dict[str, Callable[[int], Executor]] = {"inline": InlineExecutor, "processes": ProcessExecutor}
