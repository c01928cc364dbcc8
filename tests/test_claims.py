"""Two commands at a time: one of them has the sweep, and the other is told who."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness import claims
from harness.claims import check_heartbeat, claim_sweep, heartbeat
from harness.rules import UserError
from tests.support import ROOT

CODE = """
import sys
from harness.claims import claim_sweep
with claim_sweep(sys.argv[1], "one"):
    print("claimed", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_command(uri: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has the sweep ``one``."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CODE, uri]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "claimed\n"
        yield process
        process.communicate()


@pytest.fixture(params=["sqlite:///mlflow.db", "http://127.0.0.1:9"])
def uri(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A store of each kind, with the user's own files in the folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return str(request.param)


def test_the_second_command_is_told_who_has_the_sweep(uri: str) -> None:
    """Process and machine; another sweep of the same store may be had, and this one when the first is over."""
    with another_command(uri) as process:
        with (
            pytest.raises(UserError, match=rf"the sweep one is .* process {process.pid} on {platform.node()}, since 20"),
            claim_sweep(uri, "one"),
        ):
            pass
        with claim_sweep(uri, "two"):
            pass
    with claim_sweep(uri, "one"):
        pass


def test_the_lock_of_a_killed_command_is_taken_over(uri: str, tmp_path: Path) -> None:
    """After SIGKILL its file is still there and stands for nothing; nothing but locks is left afterwards."""
    with another_command(uri) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        (owner,) = tmp_path.rglob("*.owner")
        assert json.loads(owner.read_text())["pid"] == process.pid
        with claim_sweep(uri, "one"):
            assert json.loads(owner.read_text())["pid"] == os.getpid()
    assert list(tmp_path.rglob("*.owner*")) == []


def test_a_lock_says_nothing_of_a_command_that_is_gone(tmp_path: Path) -> None:
    """Between taking a lock over and writing its owner there is a moment: a dead process is not named then."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
    owner = {"pid": process.pid, "host": platform.node(), "since": "2026"}
    for content, words in (
        (json.dumps(owner), "another command"),
        (json.dumps({**owner, "host": "elsewhere"}), f"another command: process {process.pid} on elsewhere, since 2026"),
        ("{", "another command"),
        ("[]", "another command"),
    ):
        (tmp_path / "owner").write_text(content)
        assert claims._read_owner(tmp_path / "owner") == words
    assert claims._read_owner(tmp_path / "missing") == "another command"


def test_a_sweep_that_another_machine_runs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it was heard of lately; not afterwards, and not for lack of a sign."""
    beat = heartbeat()
    check_heartbeat("one", beat)
    check_heartbeat("one", "")
    monkeypatch.setattr(platform, "node", lambda: "elsewhere")
    with pytest.raises(UserError, match=rf"the sweep one is .* process {os.getpid()} on .*, last heard of \d+ s ago"):
        check_heartbeat("one", beat)
    content = json.loads(beat)
    check_heartbeat("one", json.dumps({**content, "at": content["at"] - claims.HEARTBEAT_LASTS_SECONDS - 1}))


def test_a_sweep_that_another_user_of_this_machine_runs_is_refused() -> None:
    """Whose lock is elsewhere: as long as the process is there, and no longer."""
    with subprocess.Popen(["sleep", "60"]) as process:
        beat = json.dumps({**json.loads(heartbeat()), "pid": process.pid})
        with pytest.raises(UserError, match=rf"the sweep one is .* process {process.pid} on {platform.node()}, last heard of"):
            check_heartbeat("one", beat)
        process.kill()
    check_heartbeat("one", beat)


def test_a_disk_that_takes_no_lock_is_said_to_be_one(tmp_path: Path) -> None:
    """In one line, with the lock's name."""
    (tmp_path / "mlruns").write_text("a file, not a folder")
    with (
        pytest.raises(UserError, match=r"mlruns/.locks/mlflow.db.one cannot be locked: "),
        claim_sweep("sqlite:///mlflow.db", "one"),
    ):
        pass


def test_a_job_that_was_queued_again_takes_its_own_sweep_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """On whatever host: it runs once at a time. Another job, and another command of the same start of it, are refused."""
    for name in (claims.JOB, claims.RESTART):
        monkeypatch.delenv(name, raising=False)
    without_job = heartbeat()
    monkeypatch.setenv(claims.JOB, "17")
    beat = heartbeat()
    monkeypatch.setattr(platform, "node", lambda: "elsewhere")
    for job, restart, other in (("17", "0", beat), ("18", "1", beat), ("17", "1", without_job)):
        monkeypatch.setenv(claims.JOB, job)
        monkeypatch.setenv(claims.RESTART, restart)
        with pytest.raises(UserError, match="the sweep one is being run by another command"):
            check_heartbeat("one", other)
    monkeypatch.setenv(claims.JOB, "17")
    monkeypatch.setenv(claims.RESTART, "1")
    check_heartbeat("one", beat)
