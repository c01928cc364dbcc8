"""Where the work runs: pure functions in, futures out. Knows no machine learning. To add one: an entry in ``EXECUTORS``."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from types import TracebackType
from typing import Any, Self, cast

from harness.groups import choose_workers
from harness.parcels import NotOpenedError, Parcel, pack, unpack
from harness.processes import do_task, environment, how_it_ended, interrupts_held, kill, send_again, start_method, start_worker
from harness.ray_executor import RayExecutor
from harness.workers import HUGE_PAGES, TUNABLES, Call, Executor, NoWorkerError, Spread, Wanted, WorkerDiedError

STARTS = 3
"""How often a worker process is started for a task at the most."""

START_PAUSE_SECONDS = 0.25
"""Before it is started a second time, and twice as long before the third: the process that workers are forks of may just be
dying, which takes it a moment on a busy machine, and until it is dead none is started in its place."""


class InlineExecutor:
    """Runs each function in this process, at once: the plain twin of the others."""

    workers = slots = 1
    has_local_workers = False

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


@dataclass(frozen=True, eq=False)
class _Task:
    """A call, packed: when it waits for a worker, there is nothing more to do for it than to hand it over."""

    call: Call
    parcel: Parcel


class ProcessExecutor:
    """Runs the functions in processes of their own, which stay for the whole sweep.

    Each worker is a pool of one process, so that a process that dies takes one task with it and it is known which.
    """

    has_local_workers = True

    def __init__(self, workers: int, set_up: Callable[[], None] | None = None) -> None:
        """Starts no process yet.

        Args:
            workers: How many there are to be.
            set_up: Is called once in each before its first task.
        """
        self._set_up = set_up
        self.workers, self.slots = workers, workers + 1  # one more than can run, so that no worker waits for the coordinator
        self._context: Any = get_context(start_method())
        self._lock = threading.RLock()  # results come on threads of the pools
        self._workers = [_Worker(number) for number in range(workers)]
        self._idle, self._waiting = deque(self._workers), deque[_Task]()
        self._is_over, self._shares = False, True

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Queues the function for the next free worker, which is started here where there is none yet."""
        call = Call(function, arguments, Future())
        task = self._packed(call)
        with self._lock:
            self._waiting.append(task)
            self._serve()
        return call.future

    def _packed(self, call: Call) -> _Task:
        return _Task(call, pack((call.function, call.arguments), self._shares))

    def _serve(self) -> None:
        """Gives waiting tasks to idle workers."""
        while self._waiting and self._idle and not self._is_over:
            task = self._waiting.popleft()
            is_again = task.call.future.running()  # a task that a worker could not open
            if is_again or task.call.future.set_running_or_notify_cancel():
                worker = self._idle.popleft()
                self._submit_to(worker, task).add_done_callback(partial(self._take_result, worker, task))

    def _submit_to(self, worker: _Worker, task: _Task) -> Future[Any]:
        """Hands a task to a worker; starts another process where the worker's has died without a task, or dies as it starts."""
        failed: Future[Any] = Future()
        cause = ""  # not the error: it would keep this frame, and with it the task, until garbage is searched for
        with interrupts_held(), environment(TUNABLES, HUGE_PAGES):
            for starts in range(STARTS):
                time.sleep(START_PAUSE_SECONDS * starts)
                try:
                    return _submit_to_pool(self._start(worker), task.parcel, self._shares)
                except (BrokenProcessPool, OSError, EOFError, MemoryError) as error:
                    for process in worker.processes:
                        kill(process)
                    worker.pool, cause = None, " ".join(f"{type(error).__name__}: {error}".split())
                finally:
                    worker.processes = list(((worker.pool and worker.pool._processes) or {}).values())
        failed.set_exception(
            NoWorkerError(
                f"no worker process can be started ({cause}): end other programs or use fewer --workers; the same command goes on"
            )
        )
        return failed

    def _start(self, worker: _Worker) -> ProcessPoolExecutor:
        if worker.pool is None:
            worker.pool = ProcessPoolExecutor(1, self._context, start_worker, (worker.number, self._set_up))
        return worker.pool

    def _take_result(self, worker: _Worker, task: _Task, done: Future[Any]) -> None:
        """Passes a result on, after the worker has its next task; replaces a worker that died.

        Where the system keeps a process's memory from others, what could not be opened is sent, and from then on everything.
        """
        if done.cancelled():  # the executor is over, and nobody waits for it
            return
        result, lines, error = _opened(done)
        if isinstance(error, NotOpenedError) and done.exception() is None:
            self._ask_again(worker, task)
            return
        if isinstance(error, BrokenProcessPool):
            error = WorkerDiedError(how_it_ended(worker.processes))
        with self._lock:
            if isinstance(error, WorkerDiedError):
                worker.pool = None
            elif isinstance(error, NotOpenedError):  # the worker's, of the task
                self._shares = False
                self._waiting.appendleft(self._packed(task.call))
            self._idle.append(worker)
            self._serve()
        for name, level, line in lines:
            logging.getLogger(name).log(level, line)
        if error is None:
            task.call.future.set_result(result)
        elif not isinstance(error, NotOpenedError):
            task.call.future.set_exception(error)

    def _ask_again(self, worker: _Worker, task: _Task) -> None:
        """Has a worker send the result whose memory could not be opened; if it is because the worker is dead, that shows now."""
        try:
            again = cast(ProcessPoolExecutor, worker.pool).submit(send_again)
        except RuntimeError as error:  # a broken pool's is one
            again = Future()
            again.set_exception(error.with_traceback(None))  # which would keep the task, as above
        again.add_done_callback(partial(self._take_sent, worker, task))

    def _take_sent(self, worker: _Worker, task: _Task, sent: Future[Any]) -> None:
        if not sent.cancelled() and sent.exception() is None:
            self._shares = False
        self._take_result(worker, task, sent)

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


def _opened(done: Future[Any]) -> tuple[Any, list[tuple[str, int, str]], BaseException | None]:
    """What a task came to: its result, what it logged, and no error; or none of the two and the error."""
    if (error := done.exception()) is not None:
        return None, [], error
    try:
        return *unpack(done.result()), None
    except NotOpenedError as closed:
        why = str(closed)
    except Exception as unreadable:
        return None, [], unreadable
    # Another one: that which was raised keeps this frame, and with it the task, until garbage is searched for.
    return None, [], NotOpenedError(why)


def _submit_to_pool(pool: ProcessPoolExecutor, task: Parcel, shares: bool) -> Future[Any]:
    """Submits a task, and leaves the writing end of the pipe for results to the worker alone.

    As long as another process has it open, who reads a result in the middle of which the worker was killed waits for ever.
    """
    future = pool.submit(do_task, task, shares)
    writer = cast(Any, pool)._result_queue._writer
    if not writer.closed:
        writer.close()
    return future


def spread_over(executor: Executor) -> Spread:
    """As ``map``, by all workers at once where they are of this machine; what none of them can do is done here.

    Workers begin at once, and a result is waited for when it is asked for.
    """

    def apply(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        if not executor.has_local_workers:
            return map(function, items)
        given = [(item, executor.submit(function, item)) for item in items]
        return (_result_or(function, item, future) for item, future in given)

    return apply


def call_when_free(executor: Executor, function: Callable[[], None], tasks: int) -> None:
    """Has workers of this machine call a function behind what they have been given; nobody waits for it, and it may fail.

    As many of them as have tasks, of which there are so many; one that is free early may take the call of one that is not.
    """
    if executor.has_local_workers:
        for _ in range(min(executor.workers, tasks)):
            executor.submit(function)


def _result_or(function: Callable[[Any], Any], item: Any, future: Future[Any]) -> Any:
    try:
        return future.result()
    except (WorkerDiedError, NoWorkerError):
        return function(item)


EXECUTORS: dict[str, Callable[[Wanted], Executor]] = {
    "inline": InlineExecutor,  # in this process
    # on this machine
    "processes": lambda wanted: ProcessExecutor(choose_workers(wanted.workers, wanted.device), wanted.set_up_local),
    "ray": lambda wanted: RayExecutor(wanted, choose_workers(wanted.workers, wanted.device)),  # on the nodes of a cluster
}
