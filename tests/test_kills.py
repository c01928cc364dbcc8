"""Real kills at random instants, and a long sweep: nothing is lost, nothing is there twice, nothing grows."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support import ROOT, processes_of, stored_trials
from tests.test_command import SMALL, run, start

KILLS = {11: 13, 12: 12}
"""So many, by the seed of what is killed and when: two tests, for two cores."""

CHECKPOINTS = "mlruns/.checkpoints/*/*.npz"


def kill_some(coordinator: int, whom: str, choice: random.Random) -> None:
    """SIGKILL of the coordinator, of one of the other processes, or of all at once."""
    others = [process for process in processes_of(coordinator) if process != coordinator and _is_ours(process)]
    if whom == "all":
        os.killpg(coordinator, signal.SIGKILL)
    elif whom == "coordinator" or not others:
        os.kill(coordinator, signal.SIGKILL)
    else:
        with suppress(ProcessLookupError):  # it has just ended by itself
            os.kill(choice.choice(others), signal.SIGKILL)


def outcome_of(process: subprocess.Popen[str]) -> str:
    """Waits for a command and gives its stderr; one that hangs is ended, for otherwise the test would wait for ever."""
    try:
        return process.communicate(timeout=300)[1]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError(f"the command hangs: {process.communicate()[1]}") from None


def instant(process: subprocess.Popen[str], folder: Path, whole: float, choice: random.Random) -> float:
    """In how many seconds to kill: at any time of a command that takes as long as a whole one, or soon after a checkpoint.

    Half-trained groups are there for a second only. So every other time, where none was left by a command before, it is
    waited for the first.
    """
    if choice.random() < 0.5 or any(folder.glob(CHECKPOINTS)):
        return choice.uniform(0.15, 1.1) * whole
    end = time.monotonic() + 10 * whole
    while process.poll() is None and not any(folder.glob(CHECKPOINTS)) and time.monotonic() < end:
        time.sleep(0.01)
    return choice.uniform(0, 0.1) * whole


def _is_ours(process: int) -> bool:
    """Whether it is a worker, or the process that they are forks of; Python's own keeper of semaphores is not."""
    try:
        return b"multiprocessing.forkserver" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "enough"), KILLS.items())
def test_kills_at_random_instants_change_no_number(tmp_path: Path, seed: int, enough: int) -> None:
    """Of the coordinator, of a worker, of all: every sweep ends with all that an undisturbed one has, each trial once.

    Folder after folder, until there were enough kills: the same command is started until its sweep is finished. Some of
    the kills must have hit half-trained groups.
    """
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    began = time.monotonic()
    run(SMALL, undisturbed)
    whole = time.monotonic() - began  # on this machine, which may be busy: kills are to hit every part of it
    expected, choice = stored_trials(f"sqlite:///{undisturbed}/mlflow.db"), random.Random(seed)
    assert len(expected) == 8
    kills, folders, half_trained = 0, 0, 0
    while kills < enough:
        folder = tmp_path / str(folders)
        folder.mkdir()
        folders += 1
        is_finished = False
        while not is_finished:
            with start(SMALL, folder) as process:
                whom = choice.choice(["coordinator", "worker", "all"]) if kills < enough else ""
                try:
                    timeout = instant(process, folder, whole, choice) if whom else None
                    err = process.communicate(timeout=timeout)[1] if whom else outcome_of(process)
                except subprocess.TimeoutExpired:
                    if process.poll() is None:  # otherwise it is over, and it is for its workers' end that its pipes are open
                        kill_some(process.pid, whom, choice)
                        kills += 1
                    err = outcome_of(process)
                assert "Traceback" not in err, err
                half_trained += process.returncode != 0 and any(folder.glob(CHECKPOINTS))
                is_finished = process.returncode == 0
                assert process.returncode in (0, -signal.SIGKILL), (whom, err)
        assert stored_trials(f"sqlite:///{folder}/mlflow.db") == expected
        assert list((folder / "mlruns").glob(".checkpoints/*")) == []
    assert half_trained > 0


SOAK = """
import json, os, sys
from dataclasses import replace
from pathlib import Path
from harness.options import Request
from harness.plan import make_plan
from harness.rounds import Means
from harness.sweep import run_sweep
from harness.track import MlflowTracker
from harness.processes import prepare
from harness.study import WORKERS_LOAD
from tests.support import TINY, make_study_file, processes_of
from tests.sweeping import QuietDisplay


class Watching(QuietDisplay):
    seen = {}

    def trial_ended(self, name, record, is_best):
        super().trial_ended(name, record, is_best)
        if len(self.names) in (100, 1000):
            self.seen[len(self.names)] = [usage(process) for process in sorted(processes_of(os.getpid()))]


def usage(process):
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return int(lines["VmRSS"].split()[0]), len(os.listdir(f"/proc/{process}/fd"))


if __name__ == "__main__":
    prepare(WORKERS_LOAD)
    folder = Path(sys.argv[1])
    base = replace(TINY, architecture="linear", epochs=1, transfer_epochs=1, draws=1)
    plan = make_plan(make_study_file(folder, base=base, seeds=500), Request(device="cpu"))
    display = Watching()
    means = Means(checkpoints=folder / "checkpoints")
    outcome = run_sweep(plan, means, MlflowTracker(f"sqlite:///{folder}/mlflow.db"), display)
    print(json.dumps({"finished": outcome.summary.finished, "usage": display.seen}))
"""


@pytest.mark.slow
def test_a_thousand_trials_leave_memory_and_open_files_as_they_were(tmp_path: Path) -> None:
    """Of the whole process tree, at the end within a tenth of what they were after the first hundred."""
    script = tmp_path / "soak.py"
    script.write_text(SOAK)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
        start_new_session=True,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["finished"] == 1000
    early, late = found["usage"]["100"], found["usage"]["1000"]
    assert len(late) == len(early) > 2
    for name, index in (("memory", 0), ("open files", 1)):
        before, after = (sum(process[index] for process in processes) for processes in (early, late))
        assert after < 1.1 * before, f"{name}: {before} after 100 trials, {after} after 1,000"
