"""Workers that die: what becomes of their task, who takes their place, and that none of them lives on."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

from harness import executors
from harness.executors import ProcessExecutor
from harness.workers import WORKER, NoWorkerError, WorkerDiedError
from tests.support import ROOT


def _exit(process: int, code: int) -> None:
    os._exit(code)


def _end_self(end: Callable[[int, int], None], number: int) -> None:
    end(os.getpid(), number)


def _number_and_process() -> tuple[str, int]:
    return os.environ[WORKER], os.getpid()


def _is_alive(process: int) -> bool:
    """Whether a process runs; one that has ended and is not yet collected does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("end", "number", "words"),
    [
        (os.kill, signal.SIGKILL, "was killed by SIGKILL (out of memory?)"),
        (os.kill, signal.SIGSEGV, "was killed by SIGSEGV"),
        (os.kill, 40, "was killed by signal 40"),
        (_exit, 3, "ended with exit code 3"),
    ],
    ids=["killed", "segmentation fault", "signal without a name", "exit"],
)
def test_a_worker_that_dies_takes_one_task_with_it(end: Callable[[int, int], None], number: int, words: str) -> None:
    """The error says how it ended; tasks that wait and other workers go on, and the worker is replaced under its number."""
    with ProcessExecutor(2) as executor:
        workers = {executor.submit(_number_and_process).result(60) for _ in range(2)}
        first, process = min(workers)
        dying = executor.submit(_end_self, end, number)
        others = [executor.submit(divmod, each, 3) for each in range(6)]
        with pytest.raises(WorkerDiedError, match=re.escape(words)):
            dying.result(60)
        assert [other.result(60) for other in others] == [divmod(each, 3) for each in range(6)]
        after = {executor.submit(_number_and_process).result(60) for _ in range(8)}
    assert {each for each, _ in after} <= {"0", "1"}
    assert first == "0"
    assert process > 0


def test_a_worker_killed_in_the_middle_of_a_result_is_noticed() -> None:
    """A result of which only the beginning has come is no result, and nobody waits for the rest."""
    with ProcessExecutor(1) as executor:
        with pytest.raises(WorkerDiedError, match="SIGKILL"):
            executor.submit(_die_while_sending, 2**26).result(60)
        assert executor.submit(divmod, 8, 3).result(60) == (2, 2)


def _die_while_sending(size: int) -> bytes:
    """Kills the worker a moment after it has begun to send its result, of which the pipe holds a part only."""
    from multiprocessing.connection import Connection

    plain = Connection._send

    def send(connection: Connection, buffer: memoryview, *arguments: Any) -> None:
        plain(connection, memoryview(buffer)[: len(buffer) // 2], *arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    Connection._send = send  # type: ignore[method-assign]
    return bytes(size)


def test_a_worker_that_dies_without_a_task_is_replaced() -> None:
    """Nothing is lost, and nobody is told."""
    with ProcessExecutor(1) as executor:
        _, process = executor.submit(_number_and_process).result(60)
        os.kill(process, signal.SIGKILL)
        pool = executor._workers[0].pool
        deadline = time.monotonic() + 60
        while not pool._broken and time.monotonic() < deadline:  # type: ignore[union-attr]
            time.sleep(0.05)
        number, other = executor.submit(_number_and_process).result(60)
    assert (number, other != process) == ("0", True)


@pytest.mark.parametrize(("deaths", "comes"), [(1, True), (executors.STARTS, False)])
def test_a_worker_that_dies_as_it_starts_is_started_again(deaths: int, comes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few times; then the task has the system's own reason, and nobody waits for ever."""
    left = [OSError(errno.EAGAIN, "Resource temporarily unavailable")] * deaths
    plain = ProcessPoolExecutor.submit

    def submit(pool: ProcessPoolExecutor, *arguments: Any) -> Any:
        if left:
            raise left.pop()
        return plain(pool, *arguments)

    monkeypatch.setattr(ProcessPoolExecutor, "submit", submit)
    with ProcessExecutor(1) as executor:
        future = executor.submit(divmod, 7, 3)
        if comes:
            assert future.result(60) == (2, 1)
        else:
            with pytest.raises(NoWorkerError, match=r"can be started \(BlockingIOError: .*Resource temporarily unavailable\): "):
                future.result(60)
        assert executor.submit(divmod, 8, 3).result(60) == (2, 2)


def test_workers_whose_origin_is_killed_are_replaced_and_none_lives_on() -> None:
    """Python takes them for ended then, and would leave them alone: a real kill of the process that they are forks of."""
    with ProcessExecutor(1) as executor:
        _, process = executor.submit(_number_and_process).result(60)
        future = executor.submit(time.sleep, 60)
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)  # type: ignore[attr-defined]
        with pytest.raises(WorkerDiedError, match="the process that workers are forks of was killed"):
            future.result(60)
        deadline = time.monotonic() + 10
        while _is_alive(process) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _is_alive(process)
        assert executor.submit(divmod, 7, 3).result(60) == (2, 1)


def test_a_start_that_is_refused_for_a_moment_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As while the process that workers are forks of is being killed: it takes no more of them, and has no successor yet."""
    plain, end = ProcessPoolExecutor.submit, time.monotonic() + 0.5

    def submit(pool: ProcessPoolExecutor, *arguments: Any) -> Any:
        if time.monotonic() < end:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        return plain(pool, *arguments)

    monkeypatch.setattr(ProcessPoolExecutor, "submit", submit)
    with ProcessExecutor(1) as executor:
        assert executor.submit(divmod, 7, 3).result(60) == (2, 1)


def test_workers_do_not_outlive_a_killed_coordinator(tmp_path: Path) -> None:
    """After SIGKILL of the process that started them the workers leave within seconds."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time\n"
        "from harness.executors import ProcessExecutor\n"
        "if __name__ == '__main__':\n"
        "    executor = ProcessExecutor(1)\n"
        "    print(executor.submit(os.getpid).result(), flush=True)\n"
        "    time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 10
    while _is_alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_alive(worker)
