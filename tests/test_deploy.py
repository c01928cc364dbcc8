"""What a team would run: the compose file, the server's start, and the Slurm script with a Slurm that is this machine."""

from __future__ import annotations

import configparser
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import ROOT, stored_trials
from tests.test_command import SMALL

DEPLOY = ROOT / "deploy"
SECRETS = re.findall(r"\$\{(\w+):\?", (DEPLOY / "compose.yaml").read_text())


def compose() -> dict[str, Any]:
    """The compose file, as YAML has it."""
    content: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return content


def test_every_service_is_pinned_watched_and_restarted() -> None:
    """Images have a version or are built here; nothing but the tracking server has a port, and that on this machine only."""
    services = compose()["services"]
    assert set(services) == {"postgres", "mlflow", "ray-head", "ray-worker"}
    for name, service in services.items():
        assert "build" in service or re.search(r":\d+\.\d+", service["image"]), name
        assert service["healthcheck"]["test"], name
        assert service["restart"] == "unless-stopped"
    assert [(name, each["ports"]) for name, each in services.items() if "ports" in each] == [("mlflow", ["127.0.0.1:5000:5000"])]
    assert "FROM python:3.11.14-slim-bookworm" in (DEPLOY / "Dockerfile").read_text()


def test_every_secret_comes_from_the_environment() -> None:
    """It has no default; the example names each and holds none; a worker of Ray's has no password of the tracking server."""
    example = dict(line.split("=") for line in (DEPLOY / "env.example").read_text().splitlines() if not line.startswith("#"))
    assert {name: example[name] for name in SECRETS} == dict.fromkeys(SECRETS, "")
    services = compose()["services"]
    for name, service in services.items():
        for key, value in service["environment"].items():
            if re.search("PASSWORD|TOKEN|SECRET", key):
                assert ":?" in value, (name, key)
    assert not [key for key in services["ray-worker"]["environment"] if "MLFLOW" in key]
    assert "deploy/.env" in (ROOT / ".gitignore").read_text().splitlines()


@pytest.mark.cluster
def test_the_compose_file_is_one() -> None:
    """A real compose reads it, with every secret set; without one it refuses."""
    words = ["docker", "compose"] if _is_plugin() else ["docker-compose"]
    if not shutil.which(words[0]):
        pytest.skip("neither docker compose nor docker-compose is here")
    command = [*words, "-f", str(DEPLOY / "compose.yaml"), "config"]
    environment = {**os.environ, **dict.fromkeys(SECRETS, "a-secret-of-20-letters")}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert int(yaml.safe_load(ran.stdout)["services"]["ray-worker"]["deploy"]["replicas"]) == 2
    lacking = {name: value for name, value in environment.items() if name != "RAY_AUTH_TOKEN"}
    assert subprocess.run(command, env=lacking, capture_output=True, cwd="/").returncode != 0


def _is_plugin() -> bool:
    try:
        return subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0
    except OSError:
        return False


def test_the_server_starts_with_its_secrets_in_no_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in its environment and in a file of its own, whatever characters they have."""
    password = "p%40s:s/w@rd"  # noqa: S105
    started: list[list[str]] = []
    monkeypatch.setenv("POSTGRES_USER", "mlflow")
    monkeypatch.setenv("POSTGRES_PASSWORD", password)
    for name in ("MLFLOW_AUTH_CONFIG_PATH", "MLFLOW_BACKEND_STORE_URI", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(os, "execv", lambda program, words: started.append(words))
    runpy.run_path(str(DEPLOY / "serve.py"), run_name="__main__")
    assert "basic-auth" in started[0]
    assert not [word for word in started[0] if "p%" in word]
    from sqlalchemy.engine import make_url

    assert make_url(os.environ["MLFLOW_BACKEND_STORE_URI"]).password == password
    path = Path(os.environ["MLFLOW_AUTH_CONFIG_PATH"])
    settings = configparser.ConfigParser()
    settings.read(path)
    assert make_url(settings["mlflow"]["database_uri"]).password == password
    assert path.stat().st_mode & 0o777 == 0o600


SRUN = """\
#!/bin/sh
# Runs on this machine what Slurm would run on another.
while [ "${1#--}" != "$1" ]; do shift; done
exec "$@"
"""
SCONTROL = """\
#!/bin/sh
if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >>"$RECORD"; fi
"""


@pytest.mark.cluster
def test_the_slurm_script_runs_a_sweep(tmp_path: Path) -> None:
    """Before the time limit it is stopped in order and the job queued again; the same job goes on, to its end."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RECORD": str(tmp_path / "record"),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "two",
        "SLURM_CPUS_PER_TASK": "1",
    }
    words = [str(DEPLOY / "sweep.sbatch"), *SMALL, "--json"]
    with subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as job:
        while not (tmp_path / "mlflow.db").exists():
            assert job.poll() is None, job.communicate()
            time.sleep(0.2)
        time.sleep(3)
        job.send_signal(signal.SIGTERM)
        _, err = job.communicate(timeout=120)
    assert job.returncode == 130, err
    assert (tmp_path / "record").read_text().split() == ["requeue", str(os.getpid())]
    ran = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["trials"] == {"total": 8, "finished": 8, "failed": 0, "pruned": 0}
    assert len(stored_trials(f"sqlite:///{tmp_path}/mlflow.db")) == 8
