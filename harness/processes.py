"""Worker processes of this machine: how they start, do whatever they are given, and ended."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection, get_all_start_methods, parent_process, resource_tracker
from typing import Any

from harness.garbage import search_the_rest
from harness.parcels import Parcel, pack, unpack
from harness.workers import HUGE_PAGES, TUNABLES, WORKER

EXIT_SECONDS = 10
"""How long a worker that has broken off is waited for, to know how it ended."""

ORPHANED = 255
"""What Python gives as the exit code of a process when the one that it is a fork of is gone, which alone would know it."""


def prepare(modules: Sequence[str]) -> None:
    """Has the modules loaded once for all workers that start later, while the caller goes on.

    A process is started that loads them and does nothing else; workers are its forks, which start at once and share its
    memory. Where the system has no such process each worker loads what it needs by itself.
    """
    if start_method() != "forkserver":
        return
    from multiprocessing.forkserver import ensure_running, set_forkserver_preload

    set_forkserver_preload(["harness.forks", *modules])
    with interrupts_held(), environment(TUNABLES, HUGE_PAGES):
        ensure_running()


def start_method() -> str:
    """How workers are started here."""
    return "forkserver" if "forkserver" in get_all_start_methods() else "spawn"


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Keeps Ctrl-C and SIGTERM from a process that starts now and leaves them to the coordinator, which gets them afterwards.

    A terminal and a batch queue send them to all processes at once.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # which lets both signals through again when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """Sets a variable, where it has no value yet, for the processes that start now."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


def start_worker(number: int, set_up: Callable[[], None] | None) -> None:
    """Numbers the worker, leaves Ctrl-C and SIGTERM to the coordinator, and makes sure that no worker outlives it.

    Args:
        number: From 0.
        set_up: What is to be done before its first task, if anything is.
    """
    search_the_rest()
    os.environ[WORKER] = str(number)
    for number_of_signal in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number_of_signal, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_leave_with, args=(parent.sentinel,), daemon=True).start()
    if set_up:
        set_up()


def _leave_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


class _Kept(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[tuple[str, int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a line."""
        self.lines.append((record.name, record.levelno, record.getMessage()))


_sent: list[Parcel] = []
"""In a worker: its last result, which is there until the next task: by then the coordinator has opened it."""


def do_task(task: Parcel, shares: bool) -> Parcel:
    """In a worker: calls a packed function with its arguments.

    Args:
        task: The two.
        shares: Whether the result may have memory that the coordinator opens.

    Returns:
        The packed result, and what was logged meanwhile: name, level and text. It would spoil the progress display here.
    """
    _sent.clear()
    function, arguments = unpack(task)
    kept, root = _Kept(), logging.getLogger()
    root.addHandler(kept)
    try:
        result = function(*arguments)
    finally:
        root.removeHandler(kept)
    _sent.append(pack((result, kept.lines), shares))
    return _sent[0]


def send_again() -> Parcel:
    """In a worker: its last result, with all that is in it, where the coordinator could not open its memory."""
    return Parcel(unpack(_sent[0]))


def how_it_ended(processes: Sequence[Any]) -> str:
    """In words: by which signal, or with which exit code. Whatever is left of the processes is killed."""
    for process in processes:
        process.join(EXIT_SECONDS)
        code = process.exitcode
        kill(process)  # where it is the pipe that broke: nobody else ends a worker, which takes no SIGTERM
        if code == ORPHANED:
            return "the process that workers are forks of was killed"
        if code is not None and code < 0:
            return f"a worker process was killed by {_name_of(-code)}{' (out of memory?)' if -code == signal.SIGKILL else ''}"
        if code is not None:
            return f"a worker process ended with exit code {code}"
    return "a worker process broke off in the middle of its task"


def kill(process: Any) -> None:
    """Ends a worker. Where the process that it is a fork of is gone, it is taken for ended, and may live on for nobody."""
    process.kill()
    if process.exitcode == ORPHANED:
        with suppress(OSError):
            os.kill(process.pid, signal.SIGKILL)


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have none
        return f"signal {number}"
