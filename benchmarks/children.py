"""Processes that a benchmark or a test starts, and that do not outlive it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

END_SECONDS = 120


@contextmanager
def child(
    words: Sequence[str],
    log: Path,
    environment: Mapping[str, str] | None = None,
    end: signal.Signals = signal.SIGKILL,
) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a command in a group of its own and in the folder of its log, to which it writes; gives its process.

    Args:
        words: The command.
        log: What it says is added there.
        environment: All of its variables; the caller's where none are given.
        end: How it is ended where it has not ended by itself: ``SIGKILL`` ends all of its group, others its first process.
    """
    with (
        log.open("ab") as output,
        subprocess.Popen(
            words,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            cwd=log.parent,
        ) as process,
    ):
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, end) if end == signal.SIGKILL else process.send_signal(end)
                process.wait(END_SECONDS)


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Has SIGTERM do what Ctrl-C does, so that children are ended and folders removed."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
