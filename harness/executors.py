"""Where the work runs: pure functions in, futures out. Knows no machine learning. To add one: an entry in ``EXECUTORS``."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import connection, get_all_start_methods, get_context, parent_process, resource_tracker
from types import TracebackType
from typing import Any, Self, cast

from harness.groups import choose_workers
from harness.ray_executor import RayExecutor
from harness.workers import HUGE_PAGES, TUNABLES, WORKER, Call, Executor, Wanted, WorkerDiedError

EXIT_SECONDS = 10
"""How long a worker that has broken off is waited for, to know how it ended."""

STARTS = 3
"""How often a worker process is started for a task at the most."""


class InlineExecutor:
    """Runs each function in this process, at once: the plain twin of the others."""

    workers = slots = 1

    def __init__(self, wanted: Wanted | None = None) -> None:
        """Takes what is wanted as the others do and needs none of it."""

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


@dataclass
class _Worker:
    """A place for a worker process, and the process that has it just now."""

    number: int
    pool: ProcessPoolExecutor | None = None
    processes: list[Any] = field(default_factory=list)


class ProcessExecutor:
    """Runs the functions in processes of their own, which stay for the whole sweep.

    Each worker is a pool of one process, so that a process that dies takes one task with it and it is known which.
    """

    def __init__(self, workers: int) -> None:
        self.workers, self.slots = workers, workers + 1  # one more than can run, so that no worker waits for the coordinator
        self._context: Any = get_context(_start_method())
        self._lock = threading.RLock()  # results come on threads of the pools
        self._workers = [_Worker(number) for number in range(workers)]
        self._idle, self._waiting = deque(self._workers), deque[Call]()
        self._is_over = False

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Queues the function for the next free worker, which is started here where there is none yet."""
        call = Call(function, arguments, Future())
        with self._lock:
            self._waiting.append(call)
            self._serve()
        return call.future

    def _serve(self) -> None:
        """Gives waiting tasks to idle workers."""
        while self._waiting and self._idle and not self._is_over:
            call = self._waiting.popleft()
            if call.future.set_running_or_notify_cancel():
                worker = self._idle.popleft()
                self._submit_to(worker, call).add_done_callback(partial(self._take_result, worker, call))

    def _submit_to(self, worker: _Worker, call: Call) -> Future[Any]:
        """Hands a task to a worker; starts another process where the worker's has died without a task, or dies as it starts."""
        failed: Future[Any] = Future()
        with _interrupts_held(), _environment(TUNABLES, HUGE_PAGES):
            for _ in range(STARTS):
                try:
                    return _submit_to_pool(self._start(worker), call)
                except (BrokenProcessPool, OSError, EOFError) as error:
                    worker.pool, last = None, error
                finally:
                    worker.processes = list(((worker.pool and worker.pool._processes) or {}).values())
        failed.set_exception(BrokenProcessPool(f"no worker process can be started: {last}"))
        return failed

    def _start(self, worker: _Worker) -> ProcessPoolExecutor:
        if worker.pool is None:
            worker.pool = ProcessPoolExecutor(1, self._context, _start_worker, (worker.number,))
        return worker.pool

    def _take_result(self, worker: _Worker, call: Call, done: Future[Any]) -> None:
        """Passes a result on, after the worker has its next task; replaces a worker that died."""
        if done.cancelled():  # the executor is over, and nobody waits for it
            return
        error = done.exception()
        if isinstance(error, BrokenProcessPool):
            error = WorkerDiedError(_how_it_ended(worker.processes))
        with self._lock:
            if isinstance(error, WorkerDiedError):
                worker.pool = None
            self._idle.append(worker)
            self._serve()
        if error is not None:
            call.future.set_exception(error)
        else:
            call.future.set_result(done.result())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Waits for the workers to end; after an error it kills them."""
        with self._lock:
            self._is_over = True
            pools = [worker.pool for worker in self._workers if worker.pool]
        if error is not None:
            for process in (process for worker in self._workers for process in worker.processes):
                process.kill()
        for pool in pools:
            pool.shutdown(wait=error is None, cancel_futures=True)


def _submit_to_pool(pool: ProcessPoolExecutor, call: Call) -> Future[Any]:
    """Submits a task, and leaves the writing end of the pipe for results to the worker alone.

    As long as another process has it open, who reads a result in the middle of which the worker was killed waits for ever.
    """
    future = pool.submit(call.function, *call.arguments)
    writer = cast(Any, pool)._result_queue._writer
    if not writer.closed:
        writer.close()
    return future


def _how_it_ended(processes: Sequence[Any]) -> str:
    """In words: by which signal, or with which exit code."""
    for process in processes:
        process.join(EXIT_SECONDS)
        code = process.exitcode
        process.kill()  # where it is the pipe that broke: nobody else ends a worker, which takes no SIGTERM
        if code is not None and code < 0:
            return f"a worker process was killed by {signal.Signals(-code).name}" + (
                " (out of memory?)" if -code == signal.SIGKILL else ""
            )
        if code is not None:
            return f"a worker process ended with exit code {code}"
    return "no worker process could be started"


def prepare(modules: Sequence[str]) -> None:
    """Has the modules loaded once for all workers that start later, while the caller goes on.

    A process is started that loads them and does nothing else; workers are its forks, which start at once and share its
    memory. Where the system has no such process each worker loads what it needs by itself.
    """
    if _start_method() != "forkserver":
        return
    from multiprocessing.forkserver import ensure_running, set_forkserver_preload

    set_forkserver_preload(list(modules))
    with _interrupts_held(), _environment(TUNABLES, HUGE_PAGES):
        ensure_running()


def _start_method() -> str:
    return "forkserver" if "forkserver" in get_all_start_methods() else "spawn"


@contextmanager
def _interrupts_held() -> Iterator[None]:
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


def _start_worker(number: int) -> None:
    """Numbers the worker, leaves Ctrl-C and SIGTERM to the coordinator, and makes sure that no worker outlives it.

    What was loaded before it started is left out of garbage collection, which would write to memory that workers share.
    """
    gc.freeze()
    os.environ[WORKER] = str(number)
    for number_of_signal in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number_of_signal, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_leave_with, args=(parent.sentinel,), daemon=True).start()


def _leave_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


EXECUTORS: dict[str, Callable[[Wanted], Executor]] = {
    "inline": InlineExecutor,  # in this process
    "processes": lambda wanted: ProcessExecutor(choose_workers(wanted.workers, wanted.device)),  # on this machine
    "ray": lambda wanted: RayExecutor(wanted, choose_workers(wanted.workers, wanted.device)),  # on the nodes of a cluster
}
