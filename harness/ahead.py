"""A new sweep's first tasks are begun while its store is opened, which takes seconds: MLflow has to be loaded for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from itertools import islice
from types import TracebackType
from typing import Any, Self

from harness.claims import journal_folders
from harness.plan import SweepPlan
from harness.rounds import Means, first_calls
from harness.store import lacks_sweep
from harness.workers import Executor


class AheadExecutor:
    """An executor that has begun with what it is going to be asked for; whatever else it is asked for it does as well."""

    def __init__(self, inner: Executor, calls: Iterable[tuple[Any, ...]]) -> None:
        """Begins as many of the calls, each a function and its arguments, as the executor has slots for."""
        self._inner = inner
        self._begun = [(call, inner.submit(*call)) for call in islice(calls, inner.slots)]

    @property
    def workers(self) -> int:
        """How many tasks it can run at a time just now."""
        return self._inner.workers

    @property
    def slots(self) -> int:
        """How many groups it pays to have under way at a time."""
        return self._inner.slots

    @property
    def has_local_workers(self) -> bool:
        """Whether its workers are other processes of this machine."""
        return self._inner.has_local_workers

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """The future of the call where it has been begun, which is so once; else it is begun here."""
        for place, (call, future) in enumerate(self._begun):
            if call == (function, *arguments):
                del self._begun[place]
                return future
        return self._inner.submit(function, *arguments)

    def __enter__(self) -> Self:
        """Gives itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Ends the workers."""
        self._inner.__exit__(kind, error, trace)


def begin_ahead(executor: Executor, plan: SweepPlan, means: Means, uri: str, stop: threading.Event) -> Executor:
    """Has the workers begin where it is known without MLflow what they will do first: with a grid of which nothing is kept.

    Args:
        executor: Whose workers they are; only those of this machine have their first task before MLflow is loaded.
        plan: The sweep.
        means: How it is run.
        uri: Of the store, which need not be there yet.
        stop: Is set when the sweep is to stop: then nothing is begun.

    Returns:
        What to give the tasks to from then on.
    """
    is_possible = executor.has_local_workers and plan.study.sampler == "grid" and not stop.is_set()
    if not is_possible or not (means.fresh or _is_new(plan, means, uri)):
        return executor
    return AheadExecutor(executor, first_calls(plan, means, plan.trials))


def _is_new(plan: SweepPlan, means: Means, uri: str) -> bool:
    kept = [*journal_folders(uri, plan.identity), *([means.checkpoints] if means.checkpoints else [])]
    return lacks_sweep(uri, plan.identity) and not any(folder.exists() for folder in kept)
