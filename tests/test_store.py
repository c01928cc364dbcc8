"""The tracking store: what cannot be used is said before anything is written, and no password is ever shown."""

from __future__ import annotations

import os
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from harness import store
from harness.rules import UserError, without_password
from harness.store import artifact_location, check_store, database_path, default_uri, initialise, lacks_sweep
from harness.study import main
from tests.stored import Stored


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the current one, no store named by the environment and no proxy before this machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    return tmp_path


def error_of(uri: str) -> str:
    """What the user is told of a store that cannot be used."""
    with pytest.raises(UserError) as caught:
        check_store(uri)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_database(path: Path, journal: str = "DELETE") -> None:
    """Writes a database of some tables."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode={journal}")
        for number in range(30):
            connection.execute(f"CREATE TABLE runs{number} (name TEXT)")
        connection.commit()


@contextmanager
def server_that_answers(status: int) -> Iterator[str]:
    """A web server that answers everything with one status; gives its address without the scheme."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answers with the status and nothing else."""
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Prints nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_the_store_is_a_file_here_unless_the_environment_names_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the one that a plain mlflow ui shows."""
    assert default_uri() == "sqlite:///mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere")
    assert default_uri() == "http://somewhere"


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sqlite:///a/b.db", "a/b.db"),
        ("sqlite:////a/b.db", "/a/b.db"),
        ("sqlite:///b.db?timeout=5", "b.db"),
        ("http://h/b.db", None),
        ("postgresql://h/b", None),
    ],
)
def test_a_sqlite_address_leads_to_a_file(here: Path, uri: str, path: str | None) -> None:
    """Three slashes lead from here, four from the root; other stores have no file."""
    assert database_path(uri) == (None if path is None else here / path)


def test_artifacts_are_kept_beside_a_sqlite_file(here: Path) -> None:
    """A server decides for itself."""
    assert artifact_location("sqlite:///sub/a.db", "mine") == (here / "sub" / "mlruns" / "mine").as_uri()
    assert artifact_location("http://somewhere", "mine") is None


@pytest.mark.parametrize("state", ["new", "empty", "used", "in write-ahead mode"])
def test_a_store_that_can_be_used_is_left_as_it_is(here: Path, state: str) -> None:
    """The check creates, changes and leaves nothing."""
    if state == "empty":
        (here / "a.db").touch()
    elif state != "new":
        write_database(here / "a.db", "WAL" if state == "in write-ahead mode" else "DELETE")
    before = contents(here)
    check_store("sqlite:///a.db")
    assert contents(here) == before


def test_whether_a_store_lacks_a_sweep_is_read_from_its_file(here: Path, stored: Stored) -> None:
    """One that is not there has none; of a file that is no store, or an empty one, and of a server nothing is known."""
    assert lacks_sweep("sqlite:///a.db", "0123456789abcdef")
    assert list(here.iterdir()) == []
    assert lacks_sweep(stored.uri, "0123456789abcdef")
    assert not lacks_sweep(stored.uri, stored.grid)
    (here / "empty.db").touch()
    (here / "text.db").write_text("no database")
    for uri in ("sqlite:///empty.db", "sqlite:///text.db", "http://127.0.0.1:1"):
        assert not lacks_sweep(uri, "0123456789abcdef")


def test_a_store_in_a_folder_that_is_missing_is_refused(here: Path) -> None:
    """The error names the store and the folder, which is not created."""
    message = error_of("sqlite:///gone/a.db")
    assert "sqlite:///gone/a.db" in message
    assert f"there is no folder {here / 'gone'}" in message
    assert "--tracking-uri" in message
    assert list(here.iterdir()) == []


def test_a_store_that_is_a_folder_is_refused(here: Path) -> None:
    """A database is a file."""
    (here / "a.db").mkdir()
    message = error_of("sqlite:///a.db")
    assert "sqlite:///a.db" in message
    assert "it is a folder" in message


@pytest.mark.parametrize("fault", ["text", "head cut", "half", "header altered"])
def test_a_file_that_is_no_whole_database_is_refused_and_not_touched(here: Path, fault: str) -> None:
    """A text, a database that was cut short and one with an altered header are named and keep every byte."""
    write_database(here / "a.db")
    whole = (here / "a.db").read_bytes()
    broken = {
        "text": b"Remember the milk. " * 50,
        "head cut": whole[:60],
        "half": whole[: len(whole) // 2],
        "header altered": b"X" + whole[1:],
    }
    (here / "a.db").write_bytes(broken[fault])
    message = error_of("sqlite:///a.db")
    assert "sqlite:///a.db cannot be used" in message
    assert "not a database" in message or "malformed" in message
    assert contents(here) == {"a.db": broken[fault]}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="this user may write everywhere")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_store_that_may_not_be_written_to_is_refused(here: Path, what: str) -> None:
    """The error says so before the first trial."""
    (here / "sub").mkdir()
    if what == "file":
        write_database(here / "sub" / "a.db")
    locked = here / "sub" / "a.db" if what == "file" else here / "sub"
    locked.chmod(0o500)
    try:
        assert "may not be written to" in error_of("sqlite:///sub/a.db")
    finally:
        locked.chmod(0o700)


def test_a_store_that_another_program_holds_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a wait the error says that it is locked."""
    monkeypatch.setattr(store, "HEALTH_TIMEOUT_SECONDS", 0.05)
    write_database(here / "a.db")
    with closing(sqlite3.connect(here / "a.db", isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        assert "locked" in error_of("sqlite:///a.db")
    check_store("sqlite:///a.db")


@pytest.mark.parametrize("uri", ["mlruns", "./mlruns", "/absent/mlruns", "file:mlruns", "file:///absent/mlruns"])
def test_a_plain_folder_is_refused_with_what_to_write_instead(here: Path, uri: str) -> None:
    """MLflow writes to files of a folder no more."""
    message = error_of(uri)
    assert f"{uri} is a folder" in message
    assert "--tracking-uri sqlite:///mlflow.db" in message
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://127.0.0.1:9/", "http://127.0.0.1:9/base"])
def test_a_server_that_is_not_there_is_refused(address: str) -> None:
    """The error has the address, the cause and what to do."""
    message = error_of(address)
    assert f"{address} cannot be used" in message
    assert "refused" in message
    assert "start it" in message
    assert "--tracking-uri" in message


@pytest.mark.parametrize("status", [404, 500, 503])
def test_a_server_that_is_no_mlflow_or_is_ill_is_refused(status: int) -> None:
    """The error has the status that it gave."""
    with server_that_answers(status) as address:
        assert f"HTTP {status}" in error_of(f"http://{address}")


@pytest.mark.parametrize("status", [200, 401, 403])
@pytest.mark.parametrize("login", ["", "user:secret@"])
def test_a_server_that_answers_can_be_used(status: int, login: str) -> None:
    """One that asks for a password is alive, and one may be given in the address."""
    with server_that_answers(status) as address:
        check_store(f"http://{login}{address}")


def test_a_server_that_speaks_another_language_is_refused() -> None:
    """What listens there need not be a web server."""

    def answer() -> None:
        """Sends one line that is no HTTP."""
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"220 mail.example ready\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        assert "no MLflow server answers there" in error_of(f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread.join()


@pytest.mark.parametrize("uri", ["http://", "http://127.0.0.1:port", "http://a b", "http://no-such-host.invalid"])
def test_an_address_that_leads_nowhere_is_refused(uri: str) -> None:
    """A missing host, a port that is no number, a blank and an unknown host are the user's to mend."""
    assert f"{uri} cannot be used" in error_of(uri)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://user:secret@host:5000/base", "http://user:***@host:5000/base"),
        ("https://:secret@host", "https://:***@host"),
        ("postgresql+psycopg://user:secret@host/db", "postgresql+psycopg://user:***@host/db"),
        ("http://user:secret:secret@host", "http://user:***@host"),
        ("http://user:a/secret@host", "http://user:***@host"),
        ("http://user:a@secret@host", "http://user:***@host"),
        ("postgresql://host/db?user=me&password=secret", "postgresql://host/db?user=me&password=***"),
        ("http://team/user:secret@host", "http://team/user:***@host"),
        ("postgresql://host/db?user=me&passwd=secret", "postgresql://host/db?user=me&passwd=***"),
        ("postgresql://host/db?sslpassword=secret&PASSWORD=secret", "postgresql://host/db?sslpassword=***&PASSWORD=***"),
        ("http://host:5000/base", "http://host:5000/base"),
        ("sqlite:///a:b@c.db", "sqlite:///a:b@c.db"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
    ],
)
def test_an_address_is_shown_without_its_password(uri: str, shown: str) -> None:
    """Everything else of it stays."""
    assert without_password(uri) == shown


@pytest.mark.parametrize(
    "uri", ["http://user:secret@127.0.0.1:9", "http://user:secret@127.0.0.1", "http://user:a@secret@127.0.0.1:9/b"]
)
def test_an_error_about_a_server_does_not_show_its_password(uri: str) -> None:
    """Neither the address nor the cause has it."""
    message = error_of(uri)
    assert "secret" not in message
    assert "user" in message


def test_a_store_of_an_unknown_kind_is_refused_without_its_password() -> None:
    """MLflow's own answer, which has the address, is not shown as it is."""
    from harness.track import MlflowTracker

    with pytest.raises(UserError) as caught:
        MlflowTracker("carrier+pigeon://user:secret@host/db")
    assert "secret" not in str(caught.value)
    assert "carrier+pigeon" in str(caught.value)


def test_the_command_that_resumes_is_shown_without_a_password(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After an interruption the terminal has the command, with the address as it may be shown."""
    (here / "mine.py").write_text("raise KeyboardInterrupt\n")
    assert main(["mine.py", "--tracking-uri", "http://user:secret@host"]) == 130
    shown = capsys.readouterr().err
    assert "resumes" in shown
    assert "secret" not in shown


def test_a_new_database_is_made_once_by_two_at_a_time(here: Path) -> None:
    """The second waits for the first; both get the store itself, in write-ahead mode, with nothing but its lock beside it."""
    inside: list[str] = []
    most: list[int] = []
    made: list[Path] = []
    given: list[str] = []

    def connect(uri: str) -> str:
        """Makes the tables where there are none, as MLflow does; counts who is at it."""
        inside.append(uri)
        most.append(len(inside))
        threading.Event().wait(0.05)
        path = database_path(uri)
        if path is not None and not path.exists():
            write_database(path)
            made.append(path)
        inside.remove(uri)
        return uri

    threads = [threading.Thread(target=lambda: given.append(initialise("sqlite:///a.db", connect))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (set(most), len(made)) == ({1}, 1)
    assert given == [f"sqlite:///{here / 'a.db'}"] * 2
    with closing(sqlite3.connect(here / "a.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert len(connection.execute("SELECT name FROM sqlite_master").fetchall()) == 30
    assert set(contents(here)) <= {"a.db", ".a.db.lock"}


def test_a_database_left_half_made_by_a_kill_is_made_anew(here: Path) -> None:
    """What a killed program left of it under another name is in nobody's way."""

    def die(uri: str) -> str:
        """Makes some of the tables and ends."""
        write_database(database_path(uri) or here)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        initialise("sqlite:///a.db", die)
    assert not (here / "a.db").exists()
    initialise("sqlite:///a.db", lambda uri: sqlite3.connect(database_path(uri) or here).close())
    check_store("sqlite:///a.db")
    assert set(contents(here)) <= {"a.db", ".a.db.lock"}
