"""The first signal asks, the second does not."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from harness.interrupts import NOTE, stopping_on_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_sets_the_event_and_the_second_leaves(number: signal.Signals) -> None:
    """The user is told once; afterwards the signals do what they did before."""
    before = signal.getsignal(number)
    notes: list[str] = []
    with stopping_on_signals(notes.append) as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert notes == [NOTE]
    assert signal.getsignal(number) is before


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    """Python takes none there."""
    before = signal.getsignal(signal.SIGINT)
    seen: list[bool] = []

    def other() -> None:
        with stopping_on_signals(print) as stop:
            seen.append(stop.is_set() or signal.getsignal(signal.SIGINT) is not before)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [False]
