"""Which command has a sweep, and where the harness keeps what is its own of one: locks, journals and checkpoints."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from harness.rules import UserError, without_password
from harness.store import ARTIFACT_FOLDER, database_path

HEARTBEAT_SECONDS = 60
"""So often a sweep says in a store of several machines that it is running."""

HEARTBEAT_LASTS_SECONDS = 600
"""So long others take it for running after that: the store may be away, and a task of ``inline`` may take minutes."""

JOB, RESTART = "SLURM_JOB_ID", "SLURM_RESTART_COUNT"
"""Where Slurm says which job this is, and how often it was queued again."""


def private_folder(uri: str, kind: str) -> Path:
    """Where the harness keeps something of its own for a store: beside a SQLite file, else with the user's own files."""
    import platformdirs

    database = database_path(uri)
    return (database.parent / ARTIFACT_FOLDER if database else Path(platformdirs.user_cache_dir("harness"))) / kind


def private_name(uri: str, identity: str) -> str:
    """A name for what is kept of a sweep: sweeps of the same identity in two stores have two."""
    database = database_path(uri)
    return f"{database.name if database else sha256(without_password(uri).encode()).hexdigest()[:16]}.{identity}"


def private_path(uri: str, kind: str, identity: str) -> Path:
    """Where the harness keeps something of its own of a sweep."""
    return private_folder(uri, kind) / private_name(uri, identity)


def journal_folders(uri: str, identity: str) -> list[Path]:
    """Where the journal of a sweep may be: beside a SQLite file, or with the user's own files, which may be on another disk."""
    import platformdirs

    place = str(database_path(uri) or without_password(uri))
    of_user = Path(platformdirs.user_state_dir("harness")) / "journals" / sha256(place.encode()).hexdigest()[:16] / identity
    return [private_path(uri, ".journal", identity), of_user] if database_path(uri) else [of_user]


@contextmanager
def claim_sweep(uri: str, identity: str) -> Iterator[None]:
    """Keeps other commands off a sweep, until it is over or this process is gone: the system frees the lock of a dead one.

    Beside the lock lies who has it. Where it is on a disk that several machines share it keeps off all of them.

    Raises:
        UserError: if another command has it; says which process on which machine.
    """
    from filelock import FileLock, Timeout

    lock = private_path(uri, ".locks", identity)
    owner = lock.with_name(f"{lock.name}.owner")
    held = FileLock(lock)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"the sweep {identity} is being run by {_read_owner(owner)}: wait for it, or change something for another sweep"
        ) from None
    except OSError as error:
        raise UserError(f"{lock} cannot be locked: {error.strerror or error}: mend it, or use another store") from None
    try:
        with suppress(OSError):  # a full disk: the lock holds without it
            _write_owner(owner)
        yield
    finally:
        with suppress(OSError):
            owner.unlink(missing_ok=True)
        held.release()


def _write_owner(path: Path) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    content = {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    draft.write_text(json.dumps(content))
    draft.replace(path)


def _read_owner(path: Path) -> str:
    """Who has a lock, in words; what a killed command has left says nothing, its successor is about to write its own."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        owner = json.loads(path.read_text())
        if owner["host"] != platform.node() or _is_running(int(owner["pid"])):
            return f"another command: process {owner['pid']} on {owner['host']}, since {owner['since']}"
    return "another command"


def _is_running(pid: int) -> bool:
    if os.name != "posix":
        return True  # there a signal of 0 ends a process
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # there is one, of another user
    return True


def heartbeat() -> str:
    """Who runs a sweep and when it was last heard of, for a store that other machines use too."""
    return json.dumps({"pid": os.getpid(), "host": platform.node(), "at": round(time.time()), **_job()})


def _job() -> dict[str, str]:
    """The job of a batch queue that this is, and how often it was queued again; empty where it is none."""
    job = os.environ.get(JOB, "")
    return {"job": job, "restart": os.environ.get(RESTART, "0")} if job else {}


def _is_earlier_start(owner: Mapping[str, Any]) -> bool:
    """Whether a sign of life is of this very job, before it was queued again: a job runs once at a time, on any host."""
    own = _job()
    return bool(own) and owner.get("job") == own["job"] and owner.get("restart") != own["restart"]


def check_heartbeat(identity: str, beat: str) -> None:
    """Keeps this command off a sweep that another machine runs, or another user of this one, whose locks are not seen here.

    Raises:
        UserError: if it was heard of lately; says which process on which machine.
    """
    with suppress(ValueError, KeyError, TypeError):
        owner = json.loads(beat)
        age, pid = time.time() - owner["at"], int(owner["pid"])
        is_gone = owner["host"] == platform.node() and (pid == os.getpid() or not _is_running(pid))
        if not is_gone and not _is_earlier_start(owner) and age < HEARTBEAT_LASTS_SECONDS:
            raise UserError(
                f"the sweep {identity} is being run by another command: process {owner['pid']} on {owner['host']}, last heard of "
                f"{max(age, 0):.0f} s ago: wait for it (if it is gone, {HEARTBEAT_LASTS_SECONDS / 60:g} minutes), "
                "or change something for another sweep"
            )
