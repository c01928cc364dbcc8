"""Python's search for cyclic garbage: seconds of a process that has loaded torch and MLflow, and next to nothing is found."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

FEWEST_NEW = 50_000
"""Objects that are made and not freed before garbage is searched for: so many are a few megabytes of a trial's garbage."""

USUAL = gc.get_threshold()
"""Python's own thresholds, or those of whoever loads this."""

TO_BE_FREED = "triton"
"""A library that writes a page to stderr if it is not freed at the end. Torch's compiler loads it, which torchvision loads."""


def search_seldom() -> None:
    """For a process that loads much: what it has loaded is searched a few times only."""
    gc.set_threshold(FEWEST_NEW, *USUAL[1:])


def search_not_at_end() -> None:
    """Has this process end, when it does, without one more search: nobody needs memory that is about to be the system's again.

    Whatever a cycle holds is not freed then: files and connections are to be closed by whoever opened them.
    """

    def leave_all() -> None:
        if TO_BE_FREED not in sys.modules:
            gc.freeze()

    atexit.register(leave_all)


def search_the_rest() -> None:
    """For a process that has loaded what it needs: that is left alone for good, what comes to it is searched as ever.

    Tensors count as one object each, whatever their size: those that a worker has lost in a cycle are not to pile up. Where
    the process is a fork, the search would write to memory that it shares with others.
    """
    gc.freeze()
    gc.set_threshold(*USUAL)


@contextmanager
def search_not_now() -> Iterator[None]:
    """No search while many objects are made: MLflow makes some two hundred of a run, and would spend most of the time on it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
