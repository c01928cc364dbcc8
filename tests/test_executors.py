"""Contract of every executor, from the dict."""

from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import forkserver
from pathlib import Path

import pytest

from harness import processes
from harness.executors import EXECUTORS, ProcessExecutor, call_when_free, spread_over
from harness.garbage import USUAL
from harness.workers import HUGE_PAGES, Wanted, WorkerDiedError
from tests.support import EXECUTOR_NAMES


@pytest.mark.parametrize("name", EXECUTOR_NAMES)
def test_every_executor_gives_results_and_errors_through_futures(name: str) -> None:
    """A result comes back equal; an error comes back as itself, and the executor works on."""
    with EXECUTORS[name](Wanted(2)) as executor:
        futures = [executor.submit(divmod, number, 3) for number in range(5)]
        assert [future.result(60) for future in futures] == [divmod(number, 3) for number in range(5)]
        with pytest.raises(ZeroDivisionError) as caught:
            executor.submit(divmod, 1, 0).result(60)
        assert type(caught.value) is ZeroDivisionError
        assert executor.submit(int, "7").result(60) == 7
        assert executor.slots >= executor.workers >= 1


@pytest.mark.parametrize("name", EXECUTOR_NAMES)
def test_what_is_spread_over_the_workers_comes_back_in_order(name: str) -> None:
    """As of ``map``: workers of this machine do it, and for others it is done here; an error is the function's own."""
    with EXECUTORS[name](Wanted(2)) as executor:
        spread = spread_over(executor)
        assert list(spread(abs, range(-3, 3))) == [3, 2, 1, 0, 1, 2]
        assert list(spread(abs, [])) == []
        assert (os.getpid() in list(spread(_process_of, range(4)))) is not executor.has_local_workers
        with pytest.raises(ZeroDivisionError):
            list(spread(_inverse, [1, 0]))


def _process_of(number: int) -> int:
    return os.getpid()


def _inverse(number: int) -> float:
    return 1 / number


def _end_worker(coordinator: int) -> str:
    if os.getpid() != coordinator:
        os.kill(os.getpid(), signal.SIGKILL)
    return "done here"


def test_what_no_worker_can_do_is_done_here() -> None:
    """A worker dies of every one of the tasks."""
    with ProcessExecutor(2) as executor:
        assert list(spread_over(executor)(_end_worker, [os.getpid()] * 3)) == ["done here"] * 3


def test_all_that_is_spread_over_the_workers_is_begun_before_a_result_is_asked_for(tmp_path: Path) -> None:
    """So that whoever asks later can do something else meanwhile."""
    with ProcessExecutor(2) as executor:
        results = spread_over(executor)(_touch, [tmp_path / name for name in "abc"])
        for name in "abc":
            wait_for((tmp_path / name).exists)
        assert list(results) == ["a", "b", "c"]


def wait_for(is_so: Callable[[], bool]) -> None:
    """For at most a minute."""
    until = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.01)


def _touch(path: Path) -> str:
    path.touch()
    return path.name


def test_workers_that_have_tasks_call_a_function_behind_them(tmp_path: Path) -> None:
    """No more of them than have tasks; that it fails, or kills its worker, is no error."""
    with ProcessExecutor(4) as executor:
        (tmp_path / "met").mkdir()
        tasks = [executor.submit(_meet, tmp_path / "met") for _ in range(2)]
        call_when_free(executor, partial(_touch, tmp_path / "called"), 2)
        call_when_free(executor, partial(_inverse, 0), 1)
        call_when_free(executor, partial(os._exit, 3), 1)
        assert [task.result(60) for task in tasks] == [None, None]
        wait_for((tmp_path / "called").exists)
        assert executor.submit(divmod, 7, 2).result(60) == (3, 1)


def _meet(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    wait_for(lambda: len(list(folder.iterdir())) == 2)


def test_processes_are_other_processes_and_stay() -> None:
    """Work runs outside this process, and the same worker serves again."""
    with ProcessExecutor(1) as executor:
        workers = {executor.submit(os.getpid).result(60) for _ in range(3)}
    assert len(workers) == 1
    assert os.getpid() not in workers


_SET_UP: list[int] = []


def _set_up() -> None:
    _SET_UP.append(os.getpid())


def _how_often_set_up() -> tuple[int, list[int]]:
    return os.getpid(), _SET_UP


def test_every_worker_is_set_up_once_before_its_first_task() -> None:
    """Also one that is started in the place of another."""
    with EXECUTORS["processes"](Wanted(1, set_up_local=_set_up)) as executor:
        first = [executor.submit(_how_often_set_up).result(60) for _ in range(2)]
        with pytest.raises(WorkerDiedError):
            executor.submit(_end_worker, os.getpid()).result(60)
        second = executor.submit(_how_often_set_up).result(60)
    for process, set_up in (*first, second):
        assert set_up == [process]
    assert first[0] == first[1] != second
    assert _SET_UP == []


@pytest.fixture
def no_server() -> Iterator[None]:
    """Processes that start in the test, and after it, have no server from before: its environment would be theirs."""
    forkserver._forkserver._stop()
    yield
    forkserver._forkserver._stop()


@pytest.mark.parametrize("own", [None, "glibc.malloc.check=0", ""])
@pytest.mark.usefixtures("no_server")
def test_workers_have_their_memory_in_huge_pages_where_the_user_says_nothing_else(
    own: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value of the user's is kept, also an empty one; the coordinator's own environment is left as it was."""
    if own is None:
        monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    else:
        monkeypatch.setenv("GLIBC_TUNABLES", own)
    before = dict(os.environ)
    with ProcessExecutor(1) as executor:
        seen = executor.submit(os.getenv, "GLIBC_TUNABLES").result(60)
        assert dict(os.environ) == before
    assert seen == (HUGE_PAGES if own is None else own)
    assert dict(os.environ) == before


def _is_loaded(module: str) -> bool:
    return module in sys.modules


@pytest.mark.usefixtures("no_server")
def test_what_is_prepared_is_loaded_once_for_all_workers() -> None:
    """Workers have the modules without loading them, and the process that asked has not loaded them at all."""
    before = dict(os.environ)
    processes.prepare(["tabnanny", "a_module_that_is_not_there"])
    assert dict(os.environ) == before
    with ProcessExecutor(2) as executor:
        loaded = [executor.submit(_is_loaded, "tabnanny").result(60) for _ in range(2)]
    assert loaded == [True, True]
    assert "tabnanny" not in sys.modules


@pytest.mark.usefixtures("no_server")
def test_workers_search_for_garbage_among_what_is_their_own() -> None:
    """Though the process that they are forks of seldom searches: of theirs, tensors of any size may be garbage."""
    processes.prepare([])
    with ProcessExecutor(1) as executor:
        assert executor.submit(_is_loaded, "harness.forks").result(60)
        assert executor.submit(gc.get_freeze_count).result(60) > 0
        assert executor.submit(gc.get_threshold).result(60) == USUAL


A_TRIAL = """
import importlib, sys
from harness.study import WORKERS_LOAD
for name in WORKERS_LOAD:
    importlib.import_module(name)
before = set(sys.modules)
from harness import models, trial
from harness.config import Placement, TrialConfig
config = models.resolve(TrialConfig(architecture="linear", epochs=1, transfer_epochs=1, draws=1, train_size=64))
segment = trial.run_segment([config], None, 1, Placement("."))
trial.evaluate_group([config], segment.states, Placement("."))
print(*sorted(set(sys.modules) - before - {"harness.trial"}))
"""


def test_what_workers_load_while_the_command_starts_is_what_a_trial_needs() -> None:
    """The names are right, and of the libraries none but small ones are left for a worker's first task."""
    ran = subprocess.run([sys.executable, "-c", A_TRIAL], capture_output=True, text=True, check=True)
    large = ("harness.", "matplotlib", "sklearn", "scipy", "pandas")
    assert [name for name in ran.stdout.split() if name.startswith(large)] == []


def _warn(words: str) -> int:
    logging.getLogger("harness.some").warning("%s of %d", words, 2)
    return 3


@pytest.mark.parametrize("name", ["inline", "processes"])
def test_what_a_task_logs_is_logged_here(name: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    """Once, with its own name; no worker writes on the terminal beside the coordinator."""
    with EXECUTORS[name](Wanted(1)) as executor:
        assert executor.submit(_warn, "words").result(60) == 3
    assert caplog.record_tuples == [("harness.some", logging.WARNING, "words of 2")]
    assert capfd.readouterr() == ("", "")


def _wait_for(flag: Path) -> None:
    while not flag.exists():
        time.sleep(0.01)


def test_a_task_that_waits_can_be_cancelled(tmp_path: Path) -> None:
    """One that a worker has begun cannot."""
    with ProcessExecutor(1) as executor:
        begun, waiting = executor.submit(_wait_for, tmp_path / "flag"), executor.submit(divmod, 7, 3)
        assert not begun.cancel()
        assert waiting.cancel()
        (tmp_path / "flag").touch()
        assert executor.submit(divmod, 8, 3).result(60) == (2, 2)
