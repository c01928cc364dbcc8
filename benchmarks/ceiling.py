"""What a tracking server takes: ``python -m benchmarks.ceiling`` writes to one from 1, 4 and 16 sweeps at a time.

PostgreSQL and an MLflow server with logins are started on this machine. Each sweep is a process of its own, a coordinator
whose trials train nothing: all that it does is to write. Beside the trials a minute stands the time of the processors that a
trial takes of the server, of PostgreSQL and of the coordinators, which tells whose limit it is.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import patch

from benchmarks.scale import MadeUpExecutor
from benchmarks.services import ADMIN, ServiceError, free_port, mlflow_server, postgres
from harness.display import print_lines, print_table
from harness.server import PASSWORD, USERNAME

STUDY = """\
from harness.config import StudyConfig

STUDY = StudyConfig(question="How fast can it be written?", grid={"latent_size": [2, 5, 10]}, seeds=1000)
"""


@dataclass(frozen=True)
class Ceiling:
    """What a server took.

    Attributes:
        sweeps: At a time.
        trials: Of all of them.
        seconds: From the first trial's begin to the last one's end.
        milliseconds: Processor time a trial, by who took it.
    """

    sweeps: int
    trials: int
    seconds: float
    milliseconds: dict[str, float]

    @property
    def per_minute(self) -> float:
        """Trials a minute."""
        return 60 * self.trials / self.seconds


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command; gives its exit code."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ceiling", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sweeps", type=int, nargs="+", default=[1, 4, 16], metavar="N", help="at a time")
    parser.add_argument("--trials", type=int, default=160, metavar="N", help="of all sweeps of a measurement together")
    parser.add_argument("--server-workers", type=int, default=1, metavar="N", help="processes of the server")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    parser.add_argument("--sweep", nargs=2, metavar=("FILE", "N"), help=argparse.SUPPRESS)  # what this command starts
    given = parser.parse_args(words)
    if given.sweep:
        return _sweep(given.sweep[0], int(given.sweep[1]))
    found = measure(given.sweeps, given.trials, given.server_workers)
    _print(found, given.server_workers)
    if given.json:
        given.json.write_text(json.dumps([asdict(each) for each in found], indent=2) + "\n")
    return 0


def measure(sweeps: Sequence[int], trials: int, server_workers: int) -> list[Ceiling]:
    """Starts the services and measures with each number of sweeps."""
    password = secrets.token_urlsafe(12)
    with tempfile.TemporaryDirectory(prefix="ceiling-") as text, ExitStack() as stack:
        folder = Path(text)
        folder.chmod(0o755)  # PostgreSQL's own user has to enter it
        database = stack.enter_context(postgres(folder / "postgres", password))
        auth = {"database": database.uri("auth"), "password": password}
        uri = stack.enter_context(mlflow_server(folder / "server", database.uri("mlflow"), free_port(), auth, server_workers))
        login = {"MLFLOW_TRACKING_URI": uri, USERNAME: ADMIN, PASSWORD: password}
        return [_measure(folder / str(count), count, trials, login) for count in sweeps]


def _measure(folder: Path, count: int, trials: int, login: dict[str, str]) -> Ceiling:
    """Has so many sweeps begin at once; gives what they came to together."""
    folder.mkdir()
    each = -(-trials // count)
    children = []
    for number in range(count):
        study = folder / f"sweeps_{count}_{number}.py"
        study.write_text(STUDY)
        environment = {**os.environ, **login, "XDG_STATE_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}
        words = [sys.executable, "-m", "benchmarks.ceiling", "--sweep", str(study), str(each)]
        children.append(subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    for child in children:
        _read_line(child)  # it is ready
    before = _processor_seconds()
    for child in children:
        _tell(child)
    times = [json.loads(_read_line(child)) for child in children]
    spent = {name: seconds - before.get(name, 0.0) for name, seconds in _processor_seconds().items()}
    for child in children:
        _tell(child)
        child.communicate()
    seconds = max(end for _, end in times) - min(begin for begin, _ in times)
    print_lines([f"{count} sweeps at a time: {60 * each * count / seconds:.0f} trials a minute"], to_stderr=True)
    return Ceiling(count, each * count, seconds, {name: 1000 * value / (each * count) for name, value in spent.items()})


def _read_line(child: subprocess.Popen[str]) -> str:
    line = child.stdout.readline() if child.stdout else ""
    if not line:
        raise ServiceError("a sweep ended before it was to")
    return line


def _tell(child: subprocess.Popen[str]) -> None:
    if child.stdin:
        child.stdin.write("go\n")
        child.stdin.flush()


PROCESSES = {
    "PostgreSQL": rb"^postgres: |/postgres ",  # before the server, which is told its address, and whose name its connections have
    "coordinators": rb"benchmarks\.ceiling --sweep",
    "server": rb"mlflow",
}
"""By what a command line tells which process it is; the first counts."""


def _processor_seconds() -> dict[str, float]:
    """Of all processes so far, by what they are; with that of children that have ended, as PostgreSQL's do with a connection."""
    ticks = os.sysconf("SC_CLK_TCK")
    found: dict[str, float] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        for name, mark in PROCESSES.items():
            if re.search(mark, command):
                found[name] = found.get(name, 0.0) + sum(map(int, fields[11:15])) / ticks
                break
    return found


def _sweep(study: str, trials: int) -> int:
    """In a process of its own: says that it is ready, waits to be told, writes a sweep, says from when to when."""
    from harness import options
    from harness.executors import EXECUTORS
    from harness.library import load_study
    from harness.plan import make_plan
    from harness.rounds import Means
    from harness.sweep import run_sweep
    from harness.track import MlflowTracker

    request = options.parse([study, "--trials", str(trials), "--device", "cpu"])
    plan = make_plan(load_study(request.study), request)
    tracker, times = MlflowTracker(None), _Times()
    _say("ready")
    sys.stdin.readline()
    with patch.dict(EXECUTORS, made_up=MadeUpExecutor):
        run_sweep(plan, Means("made_up", group_size=1), tracker, times)
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class _Times:
    """Says, when the last trial has ended, from when to when there were trials; shows nothing else."""

    def __init__(self) -> None:
        self.begun, self.left = 0.0, 0

    def start(self, title: str, units: float, done: float, total: int, ended: Sequence[object]) -> None:
        """The trials begin."""
        self.begun, self.left = time.time(), total

    def more(self, units: float, trials: int) -> None:
        """Waits for more."""
        self.left += trials

    def trial_ended(self, name: str, record: object, is_best: bool) -> None:
        """A trial has ended."""
        self.left -= 1
        if not self.left:
            _say(json.dumps([self.begun, time.time()]))
            sys.stdin.readline()  # until all have been measured
            os._exit(0)  # tables and pictures are no part of it

    def advance(self, units: float) -> None:
        """Shows nothing."""

    def note(self, text: str) -> None:
        """Says it."""
        print_lines([text], to_stderr=True)

    def stop(self) -> None:
        """Shows nothing."""


def _print(found: Sequence[Ceiling], server_workers: int) -> None:
    names = ("server", "PostgreSQL", "coordinators")
    rows = [
        [
            str(each.sweeps),
            f"{each.trials}",
            f"{each.per_minute:.0f}",
            *(f"{each.milliseconds.get(name, 0.0):.0f}" for name in names),
        ]
        for each in found
    ]
    title = f"an MLflow server of {server_workers} processes on {os.cpu_count()} cores: processor time in ms a trial"
    print_table(title, ["sweeps at a time", "trials", "trials/min", *names], rows, 0)


if __name__ == "__main__":
    sys.exit(main())
