"""Where MLflow's tracking store is, and whether it can be used: addresses and files, before MLflow is loaded."""

from __future__ import annotations

import os
import shutil
import sqlite3
import urllib.request
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import TypeVar

from harness.rules import UserError, without_password
from harness.server import OLDEST_VERSION, is_server, take_login, too_old, why_away
from harness.store_errors import StoreError

Client = TypeVar("Client")

SQLITE = "sqlite:///"
ARTIFACT_FOLDER = "mlruns"
HEALTH_TIMEOUT_SECONDS = 5
ASK_TIMEOUT_SECONDS = 2


def default_uri() -> str:
    """``MLFLOW_TRACKING_URI`` where it is set, else what a plain ``mlflow ui`` in this folder shows."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db"


def store_uri(named: str | None) -> str:
    """The address that was named, else the default, as it is used from then on: with no login in it."""
    return take_login(named or default_uri())


def database_path(uri: str) -> Path | None:
    """The file of a SQLite store; nothing for any other store."""
    if not uri.startswith(SQLITE):
        return None
    return Path(uri[len(SQLITE) :].partition("?")[0]).absolute()


def absolute(uri: str) -> str:
    """The address of a SQLite store with its whole path: MLflow remembers stores by address, not by file."""
    database = database_path(uri)
    _, mark, options = uri.partition("?")
    return f"{SQLITE}{database}{mark}{options}" if database else uri


def artifact_location(uri: str, experiment: str) -> str | None:
    """Where an experiment's files go: beside a SQLite file; nothing (the server decides) for any other store."""
    database = database_path(uri)
    return (database.parent / ARTIFACT_FOLDER / experiment).as_uri() if database else None


def check_store(uri: str) -> None:
    """Looks whether a store can be used, without changing it.

    Raises:
        UserError: if it cannot; says which store and why.
    """
    scheme = uri.partition(":")[0] if "://" in uri else ""
    if uri in ("sqlite://", f"{SQLITE}:memory:"):
        raise UserError(f"the tracking store {uri} is forgotten when the command ends: use --tracking-uri sqlite:///mlflow.db")
    if is_server(uri):
        _check_server(uri, HEALTH_TIMEOUT_SECONDS)
        _check_version(uri)
    elif (database := database_path(uri)) is not None:
        _check_database(uri, database)
    elif not scheme or scheme == "file":
        raise UserError(
            f"the tracking store {uri} is a folder, which MLflow no longer writes to: "
            "use --tracking-uri sqlite:///mlflow.db, or the http address of an MLflow server"
        )


def _check_server(uri: str, timeout: float) -> None:
    if cause := why_away(uri, timeout):
        step = "start it, or name another with --tracking-uri"
        raise StoreError(without_password(uri), f"no MLflow server answers there ({cause})", step)


def _check_version(uri: str) -> None:
    if version := too_old(uri, HEALTH_TIMEOUT_SECONDS):
        oldest = ".".join(map(str, OLDEST_VERSION))
        raise UserError(
            f"the tracking store {without_password(uri)} is a server of MLflow {version}: allowed is {oldest} or later; "
            "install that there and run 'mlflow db upgrade', or name another with --tracking-uri"
        )


def ask_store(uri: str) -> None:
    """Asks whether a store that was in use a moment ago takes writes, and waits no longer than a sweep can.

    A client of MLflow's would try a dead server for minutes, and a locked database for twenty seconds.

    Raises:
        StoreError: if it does not; of a store that is neither a server nor a SQLite file nothing is known.
    """
    if is_server(uri):
        _check_server(uri, ASK_TIMEOUT_SECONDS)
    elif database := database_path(uri):
        try:
            connection = sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True, timeout=ASK_TIMEOUT_SECONDS)
            try:
                connection.execute("BEGIN IMMEDIATE")
                connection.rollback()
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise StoreError(uri, str(error)) from error


def _check_database(uri: str, database: Path) -> None:
    cause = ""
    if not database.parent.is_dir():
        cause = f"there is no folder {database.parent}"
    elif database.is_dir():
        cause = "it is a folder, not a file"
    elif not os.access(database if database.exists() else database.parent, os.W_OK):
        cause = "it may not be written to"
    elif database.exists():
        cause = _what_is_wrong_with(database)
    if cause:
        raise UserError(f"the tracking store {uri} cannot be used: {cause}: mend it, or name another with --tracking-uri")


def _what_is_wrong_with(database: Path) -> str:
    try:
        connection = sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True, timeout=HEALTH_TIMEOUT_SECONDS)
        try:
            connection.execute("SELECT name FROM sqlite_master LIMIT 1").fetchall()
        finally:
            connection.close()
    except sqlite3.Error as error:
        return str(error)
    return ""


def local_folder(location: str) -> Path | None:
    """The folder of a file address; nothing for any other address."""
    if not location.startswith("file:"):
        return None
    return Path(urllib.request.url2pathname(location.removeprefix("file://")))


def is_missing(location: str) -> bool:
    """Whether a file address leads nowhere; other addresses are not looked at."""
    folder = local_folder(location)
    return folder is not None and not folder.is_dir()


def is_mlflow_store(uri: str) -> bool:
    """Whether a SQLite address is that of a store of MLflow's; of other addresses nothing is known."""
    database = database_path(uri)
    if database is None or not database.is_file():
        return False
    connection = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=HEALTH_TIMEOUT_SECONDS)
    try:
        return bool(connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'latest_metrics'").fetchall())
    except sqlite3.Error:
        return False
    finally:
        connection.close()


def lacks_sweep(uri: str, identity: str) -> bool:
    """Whether a SQLite store has nothing of a sweep, which is asked of the file itself; ``False`` where that cannot be told."""
    database = database_path(uri)
    if database is None or not database.exists():
        return database is not None
    try:
        connection = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=ASK_TIMEOUT_SECONDS)
        try:
            found = connection.execute("SELECT 1 FROM tags WHERE key = 'harness.sweep' AND value = ? LIMIT 1", (identity,))
            return not found.fetchall()
        finally:
            connection.close()
    except sqlite3.Error:
        return False


def initialise(uri: str, connect: Callable[[str], Client], template: Path | None = None) -> Client:
    """Connects to a store; makes a SQLite store first where there is none.

    Whoever connects first creates the tables: two at it at once break them, and so does a kill half-way. So it is done
    under a lock, in a file of another name, and a copy of that one is moved into place. Also turns on write-ahead
    logging, which lets ``mlflow ui`` read while a sweep writes.

    Args:
        uri: Of the store.
        connect: Makes MLflow open the store of an address.
        template: Where an empty store of MLflow's is kept from the first time on: it takes seconds to make its tables.

    Returns:
        What ``connect`` gives for the store.
    """
    from filelock import FileLock

    database = database_path(uri)
    if database is None:
        return connect(uri)
    with FileLock(database.with_name(f".{database.name}.lock")):
        if not database.exists():
            _create(database, connect, template)
        client = connect(absolute(uri))
        connection = sqlite3.connect(database, timeout=HEALTH_TIMEOUT_SECONDS)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            pass  # somebody reads just now: it is only slower without
        finally:
            connection.close()
    return client


def _create(database: Path, connect: Callable[[str], object], template: Path | None) -> None:
    draft, made, copy = (database.with_name(f".{database.name}-{word}") for word in ("draft", "draft-made", "copy"))
    for left_over in database.parent.glob(f".{database.name}-[dc]*"):
        left_over.unlink()
    if template is None or not _is_made_of(template, draft, connect):
        draft = made  # MLflow may have the other one open still
        connect(f"{SQLITE}{draft}")
        if template:
            _keep(draft, template)
    _copy(draft, copy)
    copy.replace(database)
    draft.unlink()


def _is_made_of(template: Path, draft: Path, connect: Callable[[str], object]) -> bool:
    """Tries to make a store of an empty one that was kept."""
    try:
        shutil.copyfile(template, draft)
        connect(f"{SQLITE}{draft}")
    except Exception:  # there is none, or MLflow does not take it
        draft.unlink(missing_ok=True)
        return False
    return True


def _keep(draft: Path, template: Path) -> None:
    """Keeps a new store without MLflow's first experiment, which says where the store is, for others; if it can be kept."""
    part = template.with_name(f"{template.name}.{os.getpid()}")
    with suppress(OSError, sqlite3.Error):
        template.parent.mkdir(parents=True, exist_ok=True)
        try:
            _copy(draft, part, "DELETE FROM experiments")
            part.replace(template)
        finally:
            part.unlink(missing_ok=True)


def _copy(database: Path, copy: Path, command: str = "") -> None:
    """Copies a database, and runs a command of SQL on the copy."""
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
        target.execute(command)
        target.commit()
