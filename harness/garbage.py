"""Python's search for cyclic garbage: seconds of a process that has loaded torch and MLflow, and next to nothing is found."""

from __future__ import annotations

import atexit
import gc
import sys

FEWEST_NEW = 50_000
"""So many more objects than were freed before it is searched for."""

AS_EVER = gc.get_threshold()

COMPLAINS = "triton"
"""A library that writes a page to stderr if it is not freed at the end. Torch's compiler loads it, which torchvision loads."""


def search_seldom() -> None:
    """For a process that loads much: what it has loaded is searched a few times only."""
    gc.set_threshold(FEWEST_NEW, *AS_EVER[1:])


def end_without_search() -> None:
    """Has this process end without one more search: nobody needs memory that is about to be the system's again.

    Whatever a cycle holds is not freed then: files and connections are to be closed by whoever opened them.
    """
    atexit.register(lambda: None if COMPLAINS in sys.modules else gc.freeze())


def search_the_rest() -> None:
    """For a process that has loaded what it needs: that is left alone for good, what comes to it is searched as ever.

    Tensors count as one object each, whatever their size: those that a worker has lost in a cycle are not to pile up. Where
    the process is a fork, the search would write to memory that it shares with others.
    """
    gc.freeze()
    gc.set_threshold(*AS_EVER)
