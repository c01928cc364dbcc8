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

from tests.support import ROOT, Command, stored_trials
from tests.test_command import SMALL, read_until

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
    built = [service["image"] for service in services.values() if "build" in service]
    assert len(set(built)) == len(built) == 2, "builds at a time that write the same image fail"
    for name, service in services.items():
        assert "build" in service or service["image"] in built or re.search(r":\d+\.\d+", service["image"]), name
        assert service["healthcheck"]["test"], name
        assert service["restart"] == "unless-stopped"
    assert [(name, each["ports"]) for name, each in services.items() if "ports" in each] == [("mlflow", ["127.0.0.1:5000:5000"])]
    assert "FROM python:3.11.14-slim-bookworm" in (DEPLOY / "Dockerfile").read_text()


def test_what_the_servers_start_reads_can_be_set_from_outside() -> None:
    """Every variable of it is passed on by the compose file, and those with a choice are in the example."""
    services, example = compose()["services"], (DEPLOY / "env.example").read_text()
    read = set(re.findall(r'os\.environ(?:\.get\(|\[)"(\w+)"', (DEPLOY / "serve.py").read_text())) - {"POSTGRES_HOST"}
    passed = services["mlflow"]["environment"]
    assert read <= passed.keys()
    for name, value in passed.items():
        if (found := re.match(r"\$\{(\w+):-", value)) and name != "MLFLOW_AUTH_ADMIN_USERNAME":
            assert f"\n{found[1]}=" in example, name


def test_ray_has_an_object_store_that_fits_into_its_shared_memory() -> None:
    """Left to itself Ray takes a share of all memory, and a file on disk where that is more than there is."""
    services = compose()["services"]
    for name in ("ray-head", "ray-worker"):
        size = next(int(found[1]) for word in services[name]["command"] if (found := re.search(r"RAY_OBJECT_STORE:-(\d+)", word)))
        shared = re.fullmatch(r"\$\{RAY_SHM:-(\d+)gb\}", services[name]["shm_size"])
        assert shared
        assert 0.85 * int(shared[1]) * 1024**3 < size < 0.95 * int(shared[1]) * 1024**3


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
    monkeypatch.setenv("ALLOWED_HOSTS", "mlflow.example.org")
    for name in ("DEFAULT_PERMISSION", "SERVER_WORKERS"):
        monkeypatch.setenv(name, "")  # as the compose file passes on what is not set
    for name in ("MLFLOW_AUTH_CONFIG_PATH", "MLFLOW_BACKEND_STORE_URI", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(os, "execv", lambda program, words: started.append(words))
    runpy.run_path(str(DEPLOY / "serve.py"), run_name="__main__")
    assert "basic-auth" in started[0]
    assert started[0][started[0].index("--allowed-hosts") + 1] == "mlflow:5000,localhost:5000,127.0.0.1:5000,mlflow.example.org"
    assert not [word for word in started[0] if "p%" in word]
    from sqlalchemy.engine import make_url

    assert make_url(os.environ["MLFLOW_BACKEND_STORE_URI"]).password == password
    path = Path(os.environ["MLFLOW_AUTH_CONFIG_PATH"])
    settings = configparser.ConfigParser()
    settings.read(path)
    assert make_url(settings["mlflow"]["database_uri"]).password == password
    assert settings["mlflow"]["default_permission"] == "EDIT"
    assert path.stat().st_mode & 0o777 == 0o600


SRUN = """\
#!/bin/sh
# Runs on this machine what Slurm would run on another.
echo "$@" >>"$RECORD.srun"
while [ "${1#--}" != "$1" ]; do shift; done
exec "$@"
"""
SCONTROL = """\
#!/bin/sh
if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >>"$RECORD"; fi
"""


RAY = """\
#!/bin/sh
if [ "$1" = start ]; then echo "$RAY_TMPDIR" >"$RECORD.tmpdir"; exec sleep 60; fi
[ -e "$RECORD.tmpdir" ]
"""
PYTHON = """\
#!/bin/sh
# A sweep that ends as $SWEEP says: at the first signal, at the second, or by itself.
[ "$1" != -c ] || exit 0
trap ': >"$RECORD.told"; signals="$signals."; [ "$signals" != "$SWEEP" ] || exit 130' TERM
: >"$RECORD.begun"
while [ -n "$SWEEP" ]; do sleep 0.1; done
exit 1
"""
SLEEP = """\
#!/bin/sh
# The script's patience begins when the sweep has heard the first signal: two that come at once would be one.
[ "$1" != 0.5 ] || until [ -e "$RECORD.told" ]; do /bin/sleep 0.05; done
exec /bin/sleep "$@"
"""


def slurm(folder: Path, job: int, **programs: str) -> dict[str, str]:
    """The environment of a job whose programs are scripts of a folder."""
    (folder / "bin").mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, **programs}.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RECORD": str(folder / "record"),
        "SLURM_JOB_ID": str(job),
        "SLURM_JOB_NODELIST": "two",
        "SLURM_CPUS_PER_TASK": "3",
    }


@pytest.mark.parametrize(("sweep", "code"), [(".", 130), ("..", 130), ("", 1)])
def test_a_job_is_queued_again_only_where_it_was_stopped(tmp_path: Path, sweep: str, code: int) -> None:
    """A sweep that does not come to a good place soon is told a second time. All steps have the cores of the job's tasks."""
    job = 10**8 + os.getpid()
    environment = slurm(tmp_path, job, ray=RAY, python=PYTHON, sleep=SLEEP) | {"SWEEP": sweep, "HARNESS_STOP_SECONDS": "0.5"}
    with Command([str(DEPLOY / "sweep.sbatch"), "any"], env=environment, stderr=subprocess.PIPE) as script:
        while sweep and not (tmp_path / "record.begun").exists():
            assert script.poll() is None
            time.sleep(0.05)
        if sweep:
            script.send_signal(signal.SIGTERM)
        _, err = script.communicate(timeout=60)
    assert script.returncode == code, err
    record = tmp_path / "record"
    assert (record.read_text().split() if record.exists() else []) == (["requeue", str(job)] if sweep else [])
    steps = (tmp_path / "record.srun").read_text().splitlines()
    assert all({"--overlap", "--cpus-per-task=3"} <= set(step.split()) for step in steps)
    assert [step for step in steps if f"--ray-client-server-port={20000 + job % 6000 * 2 + 1}" in step]
    folder = Path((tmp_path / "record.tmpdir").read_text().strip())
    assert str(job) in folder.name
    assert not folder.exists()


def test_a_job_that_is_stopped_while_ray_starts_is_queued_again(tmp_path: Path) -> None:
    """Its sweep, which is begun after that, is told at once."""
    waiting = RAY.replace('[ -e "$RECORD.tmpdir" ]', '[ -e "$RECORD.go" ]')
    environment = slurm(tmp_path, 10**8 + os.getpid(), ray=waiting, python=PYTHON) | {"SWEEP": "."}
    with Command([str(DEPLOY / "sweep.sbatch"), "any"], env=environment, stderr=subprocess.PIPE) as script:
        while not (tmp_path / "record.tmpdir").exists():
            assert script.poll() is None
            time.sleep(0.05)
        script.send_signal(signal.SIGTERM)
        (tmp_path / "record.go").touch()
        _, err = script.communicate(timeout=60)
    assert script.returncode in (130, 128 + signal.SIGTERM), err  # the latter where it had no time to listen
    assert (tmp_path / "record").read_text().split()[0] == "requeue"


@pytest.mark.cluster
def test_the_slurm_script_runs_a_sweep(tmp_path: Path) -> None:
    """Before the time limit it is stopped in order and the job queued again; the same job goes on, to its end."""
    environment = slurm(tmp_path, os.getpid())
    words = [str(DEPLOY / "sweep.sbatch"), *SMALL, "--json"]
    with Command(words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as job:
        read_until(job, "8 trials")
        job.send_signal(signal.SIGTERM)
        _, err = job.communicate(timeout=120)
    assert job.returncode == 130, err
    assert (tmp_path / "record").read_text().split() == ["requeue", str(os.getpid())]
    ran = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["trials"] == {"total": 8, "finished": 8, "failed": 0, "pruned": 0}
    assert len(stored_trials(f"sqlite:///{tmp_path}/mlflow.db")) == 8
