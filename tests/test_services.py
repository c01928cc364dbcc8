"""The whole chain with real parts: Ray, an MLflow server with logins, PostgreSQL behind it, all on this machine's loopback."""

from __future__ import annotations

import json
import os
import re
import secrets
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from benchmarks.services import ADMIN, Postgres, free_port, mlflow_server, postgres, ray_cluster
from harness.server import PASSWORD, USERNAME
from tests.support import ROOT, stored_trials
from tests.test_command import SMALL

pytestmark = pytest.mark.cluster

USER = "ann"
OLDER_MLFLOW = os.environ.get("HARNESS_OLDER_MLFLOW", "")
"""A folder with an older MLflow, installed by ``.ci/cluster``."""


@dataclass
class Team:
    """A team's services: PostgreSQL and an MLflow server with a user, which can be stopped and started."""

    folder: Path
    database: Postgres
    admin_password: str
    password: str
    port: int = field(default_factory=free_port)
    running: ExitStack = field(default_factory=ExitStack)

    @property
    def uri(self) -> str:
        """Of the server."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def login(self) -> dict[str, str]:
        """The variables of the user."""
        return {USERNAME: USER, PASSWORD: self.password}

    def start(self) -> None:
        """Starts the server."""
        auth = {"database": self.database.uri("auth"), "password": self.admin_password}
        self.running.enter_context(mlflow_server(self.folder / "server", self.database.uri("mlflow"), self.port, auth))

    def stop(self) -> None:
        """Kills the server."""
        self.running.close()

    def add_user(self, uri: str = "") -> None:
        """Makes the user, as the server's administrator does; on another server with the same passwords where one is given."""
        login = b64encode(f"{ADMIN}:{self.admin_password}".encode()).decode()
        content = json.dumps({"username": USER, "password": self.password}).encode()
        headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
        with urllib.request.urlopen(
            urllib.request.Request(f"{uri or self.uri}/api/2.0/mlflow/users/create", content, headers), timeout=20
        ):
            pass


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """The services, from nothing; in a folder that PostgreSQL's own user may enter."""
    with tempfile.TemporaryDirectory(prefix="team-") as text:
        folder = Path(text)
        folder.chmod(0o755)
        with postgres(folder / "postgres", secrets.token_urlsafe(12)) as database:
            team = Team(folder, database, secrets.token_urlsafe(12), secrets.token_urlsafe(12))
            team.start()
            try:
                team.add_user()
                yield team
            finally:
                team.stop()


@contextmanager
def command(words: list[str], folder: Path, variables: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """The command, with its own state folder."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_TRACKING")}
    environment = {
        **plain,
        "PYTHONPATH": str(ROOT),
        "XDG_STATE_HOME": str(folder / "state"),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    with subprocess.Popen(
        [sys.executable, "-m", "harness.study", *words],
        cwd=folder,
        env={**environment, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process


def run(words: list[str], folder: Path, variables: Mapping[str, str], code: int = 0) -> tuple[str, str]:
    """Runs the command to its end; gives stdout and stderr."""
    with command(words, folder, variables) as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    return out, err


def test_a_sweep_through_all_of_it_has_the_inline_ones_numbers(
    team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every number, point and file, although a node is killed and the server restarted in mid-sweep; no password is anywhere."""
    inline = tmp_path / "inline"
    inline.mkdir()
    run([*SMALL, "--executor", "inline"], inline, {})
    expected = stored_trials(f"sqlite:///{inline}/mlflow.db")
    with ray_cluster(3) as cluster:
        words = [*SMALL, "--executor", "ray", "--ray-address", cluster.address, "--tracking-uri", team.uri, "--json"]
        with command(words, tmp_path, team.login) as process:
            _wait_for_trials(team, 2)
            team.stop()
            node = next(iter(cluster.worker_nodes))
            node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
            cluster.worker_nodes.discard(node)
            time.sleep(2)
            team.start()
            out, err = process.communicate(timeout=300)
        session = Path(cluster.head_node.get_session_dir_path())
        logs = [path.read_text(errors="replace") for path in session.rglob("*") if path.is_file()]
    assert process.returncode == 0, err
    assert re.search(r"no MLflow server answers there .*training goes on", err)
    assert "the tracking store is back" in err
    for name, value in team.login.items():
        monkeypatch.setenv(name, value)
    found = stored_trials(team.uri)
    assert found == expected
    assert len(found) == 8
    assert json.loads(out)["tracking_uri"] == team.uri
    kept = [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    dump = team.database.run("pg_dump", "mlflow")
    assert "harness.sweep" in dump
    for secret in (team.password, team.admin_password, team.database.password):
        assert not [each[:200] for each in (out, err, dump, *kept, *logs) if secret in each]


def _wait_for_trials(team: Team, count: int) -> None:
    """Until so many trials are finished, as the database itself says."""
    query = "SELECT count(*) FROM runs JOIN tags USING (run_uuid) WHERE status = 'FINISHED' AND key = 'harness.trial'"
    deadline = time.monotonic() + 120
    while int(team.database.run("psql", "-tAc", query, "mlflow") or 0) < count:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("variables", "address", "words"),
    [
        ({USERNAME: USER, PASSWORD: "wrong-word"}, "", f"it does not take the login of '{USER}': set {USERNAME} and {PASSWORD}"),
        ({}, f"{USER}:wrong-word@", f"it does not take the login of '{USER}'"),
        ({}, "", "it asks for a login: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
    ],
    ids=["wrong password", "wrong password in the address", "none"],
)
def test_a_wrong_login_gets_one_line(team: Team, tmp_path: Path, variables: dict[str, str], address: str, words: str) -> None:
    """With the variables that hold it, and without the password."""
    out, err = run([*SMALL, "--tracking-uri", team.uri.replace("://", f"://{address}")], tmp_path, variables, code=2)
    assert (out, err.count("\n")) == ("", 1)
    assert f"error: the tracking store {team.uri} cannot be used: {words}" in err
    assert "wrong-word" not in err


def test_a_login_in_the_address_is_as_good(team: Team, tmp_path: Path) -> None:
    """A sweep takes it, and shows it nowhere."""
    uri = team.uri.replace("://", f"://{USER}:{team.password}@")
    words = [*SMALL, "--set", "latent_size=2", "--seeds", "1", "--executor", "inline", "--tracking-uri", uri]
    out, err = run([word for index, word in enumerate(words) if not _is_replaced(words, index)], tmp_path, {})
    assert f"{team.uri}/#/experiments/" in out + err
    assert team.password not in out + err


def _is_replaced(words: list[str], index: int) -> bool:
    """Whether an option of the small sweep, or its value, is given anew later."""
    at = index if words[index].startswith("--") else index - 1
    pair = words[at : at + 2]
    return index < len(SMALL) and pair in (["--set", "latent_size=2,3"], ["--seeds", "2"])


def test_a_user_without_permission_is_told_so(team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An experiment of somebody else's is refused in one line, before anything is trained."""
    admin = {USERNAME: ADMIN, PASSWORD: team.admin_password}
    study = tmp_path / "others.py"
    study.write_text((ROOT / "studies" / "latent_sweep.py").read_text())
    for name, value in admin.items():
        monkeypatch.setenv(name, value)
    from mlflow.tracking import MlflowClient

    MlflowClient(team.uri).create_experiment("others")
    _, err = run([str(study), *SMALL[1:], "--tracking-uri", team.uri], tmp_path, team.login, code=2)
    assert err.count("\n") == 1
    assert f"'{USER}' has no permission there" in err


@pytest.mark.parametrize("permission", ["READ", "EDIT"])
def test_who_may_only_read_is_told_so_at_once_and_who_may_edit_goes_on(team: Team, tmp_path: Path, permission: str) -> None:
    """The administrator's experiment, and a second user with what the server gives everybody; a lack of it is no outage.

    Who may edit may not delete: of a sweep that was cut off the runs stay, as KILLED, and it goes on.
    """
    port, admin = free_port(), {USERNAME: ADMIN, PASSWORD: team.admin_password}
    auth = {"database": f"sqlite:///{tmp_path}/auth.db", "password": team.admin_password, "permission": permission}
    store = f"sqlite:///{tmp_path}/server.db"
    small = [word for index, word in enumerate(SMALL) if not _is_replaced(SMALL, index)]
    with mlflow_server(tmp_path / "server", store, port, auth) as uri:
        team.add_user(uri)
        words = [*small, "--executor", "inline", "--tracking-uri", uri]
        run([*words, "--set", "latent_size=2", "--seeds", "1"], tmp_path, admin)
        words += ["--set", "latent_size=3", "--seeds", "2"]
        if permission == "READ":
            began = time.monotonic()
            _, err = run(words, tmp_path, team.login, code=2)
            assert time.monotonic() - began < 60
            assert err.count("\n") == 1
            assert f"'{USER}' has no permission there" in err
            return
        with command(words, tmp_path, team.login) as process:
            _wait_until_it_runs(store, process)
            process.kill()
        _, err = run(words, tmp_path, team.login)
        assert "permission" not in err


def _wait_until_it_runs(store: str, process: subprocess.Popen[str]) -> None:
    """Until a trial of the second user's has begun."""
    query = "SELECT count(*) FROM runs JOIN tags USING (run_uuid) WHERE status = 'RUNNING' AND key = 'harness.trial'"
    while True:
        with closing(sqlite3.connect(store.removeprefix("sqlite:///"))) as connection:
            if connection.execute(query).fetchone()[0]:
                return
        assert process.poll() is None
        time.sleep(0.05)


def test_a_wrong_address_gets_one_line(tmp_path: Path) -> None:
    """Nobody listens, or a service that is none of MLflow's."""
    _, err = run([*SMALL, "--tracking-uri", f"http://127.0.0.1:{free_port()}"], tmp_path, {}, code=2)
    assert err.count("\n") == 1
    assert "no MLflow server answers there" in err


@pytest.mark.skipif(not OLDER_MLFLOW, reason="HARNESS_OLDER_MLFLOW names no folder with an older MLflow")
def test_a_server_of_an_older_mlflow_gets_one_line(tmp_path: Path) -> None:
    """A real one; its version, what is allowed and what to do."""
    with mlflow_server(tmp_path, f"sqlite:///{tmp_path}/old.db", free_port(), python_path=OLDER_MLFLOW) as uri:
        _, err = run([*SMALL, "--tracking-uri", uri], tmp_path, {}, code=2)
    assert err.count("\n") == 1
    assert re.search(rf"the tracking store {uri} is a server of MLflow 3\.1\d\.\d: allowed is 3\.17 or later", err)
