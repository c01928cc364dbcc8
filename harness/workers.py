"""What an executor is: who runs the functions, what is asked of him, and what may befall a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

from harness.rules import UserError

WORKER = "HARNESS_WORKER"
"""The variable that holds a worker's number, from 0: what runs in it may take the device of that number."""

HUGE_PAGES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=2000000000"
"""Has a worker's memory in huge pages and kept once it is had, where the C library is glibc. A stack goes through tens of
megabytes at every step; in pages of 4 kB, asked for anew each time, that costs up to a third of the step."""

TUNABLES = "GLIBC_TUNABLES"
"""The variable that ``HUGE_PAGES`` is for."""


Spread = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""As ``map``: it may have others do it."""


class WorkerDiedError(Exception):
    """A worker process ended while it had this task; says how it ended."""


class NoWorkerError(UserError):
    """No worker process can be started; says why. That is no task's fault."""


class NodeLostError(WorkerDiedError):
    """The machine of a worker went away while it had this task, of which the task is hardly the cause; says which."""


@dataclass(frozen=True)
class Wanted:
    """What a sweep asks of an executor.

    Attributes:
        workers: So many tasks at a time; 0 for as many as there is room for.
        device: On which the tasks compute: ``"cpu"`` or ``"cuda"``.
        address: Of the cluster, where there are several; empty for the executor's own.
        resources: What a task takes of a cluster's node, by name: ``CPU``, ``GPU``, ``memory``, or a name of the cluster's.
        set_up: Is called once in every worker that may be on another machine, before its first task.
        set_up_local: The same in every worker that is a process of this machine.
    """

    workers: int = 0
    device: str = "cpu"
    address: str = ""
    resources: Mapping[str, float] = field(default_factory=dict)
    set_up: Callable[[], None] | None = None
    set_up_local: Callable[[], None] | None = None


class Executor(Protocol):
    """What runs the segments of a sweep."""

    @property
    def workers(self) -> int:
        """How many tasks it can run at a time just now."""

    @property
    def slots(self) -> int:
        """How many groups it pays to have under way at a time."""

    @property
    def has_local_workers(self) -> bool:
        """Whether its workers are other processes of this machine, so that it pays to give them what takes a moment only."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Starts a picklable function and gives the future of its result.

        The future can be cancelled as long as no worker has begun with it. It raises ``WorkerDiedError`` where the worker
        died of it, or by another hand meanwhile; other tasks are not touched by that, and the worker is replaced. It raises
        ``NoWorkerError`` where the system starts no process.
        """

    def __enter__(self) -> Self:
        """Gives itself."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Ends the workers; at once where there was an error."""


@dataclass(frozen=True, eq=False)
class Call:
    """A task that waits for a worker."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    future: Future[Any]
