"""Starts the MLflow server with logins: writes its settings from the environment, where secrets are, and becomes the server.

No secret is an argument of a process, and the file with the address of the users' database is the server's own.
"""

from __future__ import annotations

import configparser
import os
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

HOST = os.environ.get("POSTGRES_HOST", "postgres:5432")
OWN_HOSTS = "mlflow:5000,localhost:5000,127.0.0.1:5000"
"""By these it is asked from beside it; a proxy passes on a name of its own, which ALLOWED_HOSTS has to hold."""


def address(database: str) -> str:
    """Of a database of PostgreSQL's, as SQLAlchemy takes it."""
    user, password = (quote(os.environ[name], safe="") for name in ("POSTGRES_USER", "POSTGRES_PASSWORD"))
    return f"postgresql+psycopg://{user}:{password}@{HOST}/{database}"


def main() -> None:
    """Writes the settings and becomes the server."""
    settings = configparser.ConfigParser(interpolation=None)
    settings["mlflow"] = {
        "default_permission": os.environ.get("DEFAULT_PERMISSION") or "EDIT",
        "database_uri": address("auth").replace("%", "%%"),  # MLflow reads it with interpolation
        "auth_cache_ttl_seconds": "60",  # else every request of a sweep pays for a password hash
    }
    path = Path(tempfile.mkdtemp()) / "basic_auth.ini"
    path.touch(mode=0o600)
    with path.open("w") as file:
        settings.write(file)
    os.environ |= {
        "MLFLOW_AUTH_CONFIG_PATH": str(path),
        "MLFLOW_BACKEND_STORE_URI": address("mlflow"),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    hosts = ",".join(filter(None, (OWN_HOSTS, os.environ.get("ALLOWED_HOSTS"))))
    words = ["--host", "0.0.0.0", "--port", "5000", "--allowed-hosts", hosts, "--artifacts-destination", "/artifacts"]  # noqa: S104
    words += ["--app-name", "basic-auth", "--workers", os.environ.get("SERVER_WORKERS") or "1"]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", *words])  # noqa: S606


if __name__ == "__main__":
    main()
