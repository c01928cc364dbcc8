"""Ctrl-C and SIGTERM: the first one lets what is under way come to a good place, the second leaves at once."""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

NOTE = "stopping: what the workers have begun is finished and kept; Ctrl-C again leaves at once (the same command resumes)"


@contextmanager
def stopping_on_signals(note: Callable[[str], None]) -> Iterator[threading.Event]:
    """Turns the first SIGINT or SIGTERM into an event; the second raises ``KeyboardInterrupt``.

    What a signal did before is put back afterwards. Outside the main thread, where Python takes no signals, the event
    is never set.

    Args:
        note: Is told, once, that the process is stopping.

    Yields:
        The event.
    """
    stop = threading.Event()

    def take(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        # On a thread of its own: this one may be in the middle of writing, and whatever it writes to cannot be entered twice.
        _thread.start_new_thread(note, (NOTE,))

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, take) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
