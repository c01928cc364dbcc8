"""A server as it looks from outside: its version, its login, and what is said where either will not do."""

from __future__ import annotations

import base64
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from harness.claims import private_name
from harness.rules import UserError
from harness.server import PASSWORD, USERNAME, take_login, too_old, why_away
from harness.store import check_store, store_uri
from harness.store_errors import LoginError, explained
from harness.study import main

SECRET = "s3cr:t/@"  # noqa: S105


@pytest.fixture(autouse=True)
def _no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    """No login, and no proxy before this machine."""
    for name in (USERNAME, PASSWORD):
        monkeypatch.setenv(name, "")  # so that what a test sets is put back
        monkeypatch.delenv(name)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@contextmanager
def stub(
    answers: Mapping[str, tuple[int, str]], headers: list[str | None] | None = None, context: ssl.SSLContext | None = None
) -> Iterator[str]:
    """A web server with a status and a text for each path, 404 for others; keeps the logins that it is sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answers."""
            status, text = answers.get(self.path, (404, ""))
            if headers is not None:
                headers.append(self.headers["Authorization"])
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *arguments: object) -> None:
            """Prints nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http{'s' if context else ''}://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize(
    ("uri", "left", "name", "password"),
    [
        ("http://ann:s3cr%3At%2F%40@host:5000/", "http://host:5000", "ann", SECRET),
        ("https://ann:s3cr:t/@@host/base", "https://host/base", "ann", SECRET),
        ("https://ann@host", "https://host", "ann", None),
        ("https://ann:@host", "https://host", "ann", ""),
        ("https://host:5000/", "https://host:5000", None, None),
        ("postgresql+psycopg://ann:pw@host/db", "postgresql+psycopg://ann:pw@host/db", None, None),
        ("sqlite:///a:b@c.db", "sqlite:///a:b@c.db", None, None),
    ],
)
def test_a_login_is_taken_out_of_an_address(uri: str, left: str, name: str | None, password: str | None) -> None:
    """It goes where MLflow reads it; only an address of a server has one to take."""
    assert take_login(uri) == left
    assert (os.environ.get(USERNAME), os.environ.get(PASSWORD)) == (name, password)


def test_a_store_is_the_same_with_every_login(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its address nor a name that is made of it has the password."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:{SECRET}@host:5000")
    assert store_uri(None) == store_uri("http://bob:other@host:5000/") == "http://host:5000"
    postgres = "postgresql+psycopg://ann:{}@host/db"
    assert private_name(postgres.format("one"), "i") == private_name(postgres.format("two"), "i")


@pytest.mark.parametrize(("status", "away"), [(200, ""), (401, ""), (403, ""), (500, "HTTP 500 Internal Server Error")])
def test_a_server_that_asks_for_a_login_is_there(status: int, away: str) -> None:
    """One that is broken is not."""
    with stub({"/health": (status, "")}) as uri:
        assert why_away(uri, 5) == away


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ((200, "3.16.9"), "3.16.9"),
        ((200, "2.22.0"), "2.22.0"),
        ((200, "3.17.0"), ""),
        ((200, "3.100.0.dev0"), ""),
        ((200, "4.0.0"), ""),
        ((200, "<html>1.2.3"), ""),
        ((401, "2.22.0"), ""),
        ((404, ""), ""),
    ],
)
def test_an_older_server_is_known_by_its_version(answer: tuple[int, str], found: str) -> None:
    """What is no version, or is not told, is left to MLflow."""
    with stub({"/version": answer}) as uri:
        assert too_old(uri, 5) == found


def test_the_version_is_asked_for_with_the_login(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is one."""
    headers: list[str | None] = []
    with stub({"/version": (200, "3.17.2")}, headers) as uri:
        too_old(uri, 5)
        monkeypatch.setenv(USERNAME, "ann")
        monkeypatch.setenv(PASSWORD, SECRET)
        too_old(uri, 5)
    assert headers == [None, "Basic " + base64.b64encode(f"ann:{SECRET}".encode()).decode()]


def test_an_older_server_is_refused_in_one_line() -> None:
    """It says which version, what is allowed and what to do."""
    with stub({"/health": (200, "OK"), "/version": (200, "2.22.0")}) as uri, pytest.raises(UserError) as caught:
        check_store(uri)
    assert f"{uri} is a server of MLflow 2.22.0: allowed is 3.17 or later" in str(caught.value)
    assert "mlflow db upgrade" in str(caught.value)


class _RefusalError(Exception):
    """An error of MLflow's, or of the library under it."""

    def __init__(self, code: str = "", status: int = 0, text: str = SECRET) -> None:
        super().__init__(f"API request failed: {text}")
        self.error_code, self.response = code, type("Response", (), {"status_code": status})()


@pytest.mark.parametrize(
    ("error", "name", "words"),
    [
        (_RefusalError("UNAUTHENTICATED"), "ann", "it does not take the login of 'ann'"),
        (_RefusalError(status=401), "ann", "it does not take the login of 'ann'"),
        (_RefusalError("UNAUTHENTICATED"), None, "it asks for a login"),
        (_RefusalError("PERMISSION_DENIED"), "ann", "'ann' has no permission there"),
        (_RefusalError(status=403), None, "it gives no permission without a login"),
    ],
)
def test_a_refused_login_says_which_variables_hold_it(
    error: Any, name: str | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing of what it was."""
    if name:
        monkeypatch.setenv(USERNAME, name)
        monkeypatch.setenv(PASSWORD, SECRET)
    told = explained("http://host", error)
    assert isinstance(told, LoginError)
    assert f"{words}: set {USERNAME} and {PASSWORD}" in str(told)
    assert SECRET not in str(told)


@pytest.mark.parametrize("code", ["PERMISSION_DENIED", ""])
def test_a_server_that_goes_by_another_name_is_no_matter_of_permission(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one behind a proxy that was not told its name: the login is not to blame, and the line says what is."""
    monkeypatch.setenv(USERNAME, "ann")
    told = explained("https://host", _RefusalError(code, 403, "Invalid Host header - possible DNS rebinding attack detected"))
    assert isinstance(told, LoginError)
    assert "does not answer to the name in this address (Invalid Host header): add that name" in str(told)
    assert "--allowed-hosts" in str(told)
    assert "permission" not in str(told)


def test_a_name_alone_leaves_the_password_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address says whose, the variable has the rest."""
    monkeypatch.setenv(PASSWORD, SECRET)
    assert take_login("http://ann@host") == "http://host"
    assert os.environ[PASSWORD] == SECRET


@pytest.mark.parametrize(
    "words",
    [["http://ann:s3cret@h"], ["latent_sweep", "http://ann:s3cret@h"], ["latent_sweep", "--device", "http://a/b:s3cret@h"]],
)
def test_an_address_in_the_wrong_place_is_shown_without_its_password(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """In the place of a study, of nothing, or of another option's value."""
    assert main([*words, "--dry-run"]) == 2
    err = capsys.readouterr().err
    assert ":***@h" in err
    assert "s3cret" not in err


def test_the_certificates_that_mlflow_believes_are_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By each of its variables, a server with a certificate of nobody's; without them it is not."""
    path = tmp_path / "server.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", str(tmp_path / "certificate.pem")]
    subprocess.run(words, check=True, capture_output=True)
    path.write_text(path.read_text() + (tmp_path / "certificate.pem").read_text())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path)
    for name in TRUST:
        monkeypatch.delenv(name, raising=False)
    with stub({"/health": (200, "OK"), "/version": (200, "2.22.0")}, context=context) as uri:
        assert "certificate verify failed" in why_away(uri, 5)
        for name, value in TRUST.items():
            with monkeypatch.context() as patch:
                patch.setenv(name, value or str(path))
                assert (why_away(uri, 5), too_old(uri, 5)) == ("", "2.22.0"), name
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(tmp_path / "none.pem"))
        assert "No such file" in why_away(uri, 5)


TRUST = {"MLFLOW_TRACKING_SERVER_CERT_PATH": "", "REQUESTS_CA_BUNDLE": "", "MLFLOW_TRACKING_INSECURE_TLS": "true"}
"""The variables, and what is set where it is not the path of the certificate."""
