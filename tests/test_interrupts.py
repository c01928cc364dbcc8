"""The first signal asks, the second does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from harness.interrupts import NOTE, stopping_on_signals
from tests.support import ROOT

WRITING = """
import sys, threading
from harness.interrupts import stopping_on_signals

told = threading.Event()

def note(text):
    print(text, file=sys.stderr)
    told.set()

with stopping_on_signals(note) as stop:
    sys.stderr.write("x" * 10**6 + "\\n")
    told.wait(20)
"""


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
    deadline = time.monotonic() + 10
    while not notes and time.monotonic() < deadline:
        time.sleep(0.01)
    assert notes == [NOTE]
    assert signal.getsignal(number) is before


def test_a_signal_in_the_middle_of_a_line_breaks_nothing() -> None:
    """What is written to is entered by one at a time: the line is finished first, and the note comes after it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
    command = [sys.executable, "-c", WRITING]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        begun = os.read(process.stderr.fileno(), 1).decode()  # and as the pipe is soon full, it waits in the middle of its line
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err[-2000:]
    assert begun + err == f"{'x' * 10**6}\n{NOTE}\n"


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
