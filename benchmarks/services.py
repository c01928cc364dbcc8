"""The real services of a team, small and on this machine's loopback alone: PostgreSQL, an MLflow server, a Ray cluster.

For measurements and for the tests marked ``cluster``. Each is a context manager that stops what it started.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.children import child

START_SECONDS = 120
ADMIN = "admin"
AUTH_FILE = "basic_auth.ini"

os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # before Ray is loaded: has it take the loopback's address


class ServiceError(Exception):
    """A service does not start; has the end of what it said."""


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@dataclass(frozen=True)
class Postgres:
    """A running PostgreSQL server.

    Attributes:
        folder: With its data.
        port: On 127.0.0.1.
        password: Of the user ``postgres``.
    """

    folder: Path
    port: int
    password: str

    def uri(self, database: str) -> str:
        """The address of a database as MLflow takes it."""
        return f"postgresql+psycopg://postgres:{self.password}@127.0.0.1:{self.port}/{database}"

    def run(self, *words: str) -> str:
        """Runs one of PostgreSQL's client programs; gives what it prints."""
        environment = {
            **os.environ,
            "PGPASSWORD": self.password,
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGUSER": "postgres",
        }
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout


@contextmanager
def postgres(folder: Path, password: str) -> Iterator[Postgres]:
    """A new PostgreSQL server in a new folder, with the databases ``mlflow`` and ``auth``; asks for a password."""
    programs = _postgres_programs()
    folder.mkdir(parents=True)
    (folder / "password").write_text(password)
    _own(folder)
    data, server = folder / "data", Postgres(folder, free_port(), password)
    options = ["--auth=scram-sha-256", f"--pwfile={folder / 'password'}", "--username=postgres", "--no-sync", "--encoding=UTF8"]
    _check_call(_as_user([str(programs / "initdb"), f"--pgdata={data}", *options]))
    (folder / "password").unlink()
    words = [str(programs / "postgres"), "-D", str(data), "-p", str(server.port), "-c", "listen_addresses=127.0.0.1"]
    with child(_as_user([*words, "-k", str(folder)]), folder / "server.log", end=signal.SIGINT) as process:
        _wait(lambda: server.run("psql", "-c", "SELECT 1"), process, folder / "server.log")
        for name in ("mlflow", "auth"):
            server.run("createdb", name)
        yield server


def _postgres_programs() -> Path:
    """The folder of the server's programs, which Debian keeps off the search path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    if not found and not on_path:
        raise ServiceError("PostgreSQL is not installed: apt-get install postgresql")
    return (found[-1] if found else Path(on_path or "")).parent


def _as_user(words: list[str]) -> list[str]:
    """PostgreSQL refuses to run as root."""
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *words] if os.getuid() == 0 else words


def _own(folder: Path) -> None:
    if os.getuid() == 0:
        _check_call(["chown", "-R", "postgres:postgres", str(folder)])


@contextmanager
def mlflow_server(
    folder: Path, store: str, port: int, auth: Mapping[str, str] | None = None, workers: int = 1, python_path: str = ""
) -> Iterator[str]:
    """An MLflow server with proxied artifacts in a folder, killed at the end; gives its address.

    Args:
        folder: For its files and what it says.
        store: Address of its backend store, which no argument of a process has.
        port: On 127.0.0.1.
        auth: With basic authentication: the ``database`` of the users, the ``password`` of the first, ``ADMIN``, and the
            ``permission`` that the others have on what is not theirs; none where it is left out.
        workers: Processes that answer.
        python_path: Where Python looks for modules first, for another version of MLflow.
    """
    folder.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "-w", str(workers)]
    words += ["--artifacts-destination", str(folder / "files"), *(["--app-name", "basic-auth"] if auth else [])]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_TRACKING")},
        "MLFLOW_BACKEND_STORE_URI": store,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **({"PYTHONPATH": python_path} if python_path else {}),
        **(_auth_variables(folder, auth) if auth else {}),
    }
    with child(words, folder / "server.log", environment) as process:
        _wait(lambda: _answers(f"http://127.0.0.1:{port}/health"), process, folder / "server.log")
        yield f"http://127.0.0.1:{port}"


def _auth_variables(folder: Path, auth: Mapping[str, str]) -> dict[str, str]:
    settings = {
        "default_permission": auth.get("permission", "NO_PERMISSIONS"),
        "database_uri": auth["database"].replace("%", "%%"),
        "auth_cache_ttl_seconds": "60",
    }
    path = folder / AUTH_FILE
    path.write_text("\n".join(["[mlflow]", *(f"{name} = {value}" for name, value in settings.items())]) + "\n")
    path.chmod(0o600)
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(path),
        "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN,
        "MLFLOW_AUTH_ADMIN_PASSWORD": auth["password"],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": auth["password"][::-1],
    }


@contextmanager
def ray_cluster(nodes: int, cpus: int = 1, client_port: int = 0) -> Iterator[Any]:
    """A Ray cluster of a head without cores and so many other nodes, all on this machine; gives Ray's ``Cluster``."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    client = {"ray_client_server_port": client_port, "runtime_env_agent_port": free_port()} if client_port else {}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **client})
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=cpus)
        yield cluster
    finally:
        cluster.shutdown()


def _answers(address: str) -> None:
    with urllib.request.urlopen(address, timeout=5):  # noqa: S310 - an address of this machine
        pass


def _wait(look: Callable[[], object], process: subprocess.Popen[bytes], log: Path) -> None:
    """Waits until a look at a service raises nothing."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            look()
        except (OSError, subprocess.CalledProcessError):
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServiceError(log.read_text(errors="replace")[-2000:]) from None
            time.sleep(0.1)
        else:
            return


def _check_call(words: list[str]) -> None:
    ran = subprocess.run(words, capture_output=True, text=True)
    if ran.returncode:
        raise ServiceError(f"{words[0]}: {ran.stderr.strip()}")
