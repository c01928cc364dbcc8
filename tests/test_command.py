"""The command as a user types it, in processes of its own, with real signals."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from harness.reader import open_reader
from harness.study import main
from tests.support import ROOT, Command, left_of, locked, stored_trials

SMALL = ["latent_sweep", "--set", "latent_size=2,3", "--set", "architecture=base,linear", "--seeds", "2", "--epochs", "2"]
SMALL += ["--train-size", "64", "--set", "transfer_epochs=2", "--set", "draws=2", "--device", "cpu"]

REFUSED = "is being run by another command"


def start(words: list[str], folder: Path) -> Command:
    """Starts the command."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "harness.study", *words]
    return Command(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run(words: list[str], folder: Path, code: int = 0) -> tuple[str, str]:
    """Runs the command to its end; gives stdout and stderr."""
    with start(words, folder) as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    return out, err


def trials(folder: Path) -> list[Any]:
    """The runs of all trials in the store."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("latent_sweep")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], "tags.`harness.kind` = 'trial'"))


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Reads what the command says up to the line with a text; gives all of it."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError(f"{text!r} is not in {''.join(lines)!r}")


@contextmanager
def server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A real MLflow server on a folder, killed at the end; gives its process."""
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    store = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "files")]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "-w", "1", *store]
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            _wait_for(f"http://127.0.0.1:{port}/health")
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, ...]]:
    """What the small sweep leaves in a store that is always there."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run(SMALL, folder)
    return stored_trials(f"sqlite:///{folder}/mlflow.db")


def test_json_is_alone_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With ``--json`` stdout holds one JSON document; progress and next steps are on stderr; again, it resumes."""
    words = [
        "latent_sweep",
        "--set",
        "latent_size=2,3",
        "--set",
        "architecture=linear",
        *SMALL[5:],
        "--executor",
        "inline",
        "--json",
    ]
    assert main(words) == 0
    captured = capsys.readouterr()
    content = json.loads(captured.out)
    assert content["trials"] == {"total": 4, "finished": 4, "failed": 0, "pruned": 0}
    assert [row["latent_size"] for row in content["rows"]] == [2, 3]
    assert content["rows"][0]["metrics"]["reconstruction_loss"]["count"] == 2
    assert "[4/4] linear d=3 seed=1" in captured.err
    assert main(words) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["rows"] == content["rows"]
    assert "was finished already: 4 of 4 trials have results" in captured.err


def test_a_failed_trial_gives_exit_code_1_and_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """The others finish; the closing lines name the trial and why."""
    words = ["latent_sweep", "--set", "architecture=linear", "--set", "latent_size=2", "--set", "learning_rate=0.001,1e38"]
    words += ["--seeds", "1", "--epochs", "2", "--train-size", "64", "--set", "transfer_epochs=2", "--executor", "inline"]
    assert main(words) == 1
    out = capsys.readouterr().out
    assert "1 of 2 trials have results, 1 failed" in out
    assert re.search(r"failed: trial 1: (train_loss|train_mse|val_mse) is (inf|nan) in epoch \d", out)


def test_a_dry_run_shows_the_trials_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every configuration is listed; no store, no folder comes of it."""
    assert main(["latent_sweep", "--dry-run", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert len(content) == 63
    assert {each["architecture"] for each in content} == {"base", "deep", "heavy"}
    assert main(["latent_sweep", "--dry-run", "--set", "latent_size=2"]) == 0
    assert "heavy d=2 seed=2" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_study_of_ones_own_runs_from_anywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that searches with TPE for two objectives, by path, and its table shows the best."""
    (tmp_path / "mine.py").write_text(
        "from harness.config import StudyConfig, TrialConfig\n"
        "STUDY = StudyConfig(question='Mine?', sampler='tpe', trials=3, round_size=2,\n"
        "    objectives=('val/mse', 'transfer_accuracy'))\n"
        "def search_space(trial):\n"
        "    return TrialConfig(architecture='linear', latent_size=trial.suggest_int('latent_size', 2, 9), epochs=1,\n"
        "        transfer_epochs=1, draws=2, train_size=64)\n"
    )
    words = [str(tmp_path / "mine.py"), "--executor", "inline"]
    assert main([*words, "--dry-run"]) == 0
    assert "the first 2 of 3" in capsys.readouterr().out
    assert main(words) == 0
    assert "3 of 3 trials have results" in capsys.readouterr().out
    assert main(words) == 0
    assert "was finished already" in capsys.readouterr().out
    assert main([*words, "--trials", "5"]) == 0
    assert "5 of 5 trials have results, 3 of them kept from before" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_with_exit_code_130_and_the_command_that_resumes(number: signal.Signals, tmp_path: Path) -> None:
    """So does SIGTERM, also to all processes at once: no worker dies, no run is left running, what has ended is kept."""
    words = [*SMALL, "--group-size", "1"]  # at the first trial's end there are several not begun with
    with start(words, tmp_path) as process:
        read_until(process, "[1/8]")
        os.killpg(process.pid, number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopping: what the workers have begun is finished" in err
    assert "a worker process" not in err
    assert "interrupted; the same command resumes: python -m harness.study latent_sweep" in err
    assert "Traceback" not in err
    assert "RUNNING" not in {each.info.status for each in trials(tmp_path)}
    out, _ = run(words, tmp_path)
    assert "8 of 8 trials have results" in out


@pytest.mark.slow
def test_the_second_ctrl_c_leaves_at_once(tmp_path: Path) -> None:
    """In the middle of a segment of minutes: no process and no run is left under way."""
    words = ["latent_sweep", "--set", "latent_size=2", "--set", "architecture=heavy", "--seeds", "2", "--epochs", "3000"]
    words += ["--device", "cpu"]
    with start(words, tmp_path) as process:
        read_until(process, "2 trials")
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        read_until(process, "stopping: what the workers have begun is finished")
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, err = process.communicate(timeout=60)
        assert time.monotonic() - began < 30
    assert process.returncode == 130
    assert "interrupted; the same command resumes" in err
    assert "Traceback" not in err
    assert left_of(process.pid) == []
    assert {each.info.status for each in trials(tmp_path)} == {"KILLED"}


@pytest.mark.slow
def test_sweeps_of_one_store_run_side_by_side_and_one_sweep_once(tmp_path: Path, undisturbed: dict[str, tuple[Any, ...]]) -> None:
    """Three begin at once where there is no store yet; of two with one sweep one trains it, whichever is first."""
    with (
        start(SMALL, tmp_path) as one,
        start(SMALL, tmp_path) as other,
        start([*SMALL, "--set", "learning_rate=0.002"], tmp_path) as second,
    ):
        said = {each: each.communicate(timeout=300) for each in (one, other, second)}
    assert second.returncode == 0, said[second]
    assert 0 in (one.returncode, other.returncode), said
    for each in (one, other):
        out, err = said[each]
        has_run, was_refused = "[8/8]" in err and each.returncode == 0, REFUSED in err and each.returncode == 2
        assert has_run or was_refused or "was finished already" in out, (each.returncode, out, err)
    assert sum("[8/8]" in said[each][1] for each in (one, other)) == 1
    assert list(tmp_path.glob("mlflow.db-*")) == []  # all is in the one file
    reader = open_reader(f"sqlite:///{tmp_path}/mlflow.db")
    assert [len(reader.trials(sweep)) for sweep in reader.sweeps("latent_sweep")] == [8, 8]
    plain = next(sweep for sweep in reader.sweeps("latent_sweep") if reader.trials(sweep)[0].params["learning_rate"] != "0.002")
    for trial in reader.trials(plain):
        _, params, _, points = undisturbed[str(trial.number)]
        assert trial.params == params
        assert {name: trial.metrics[name] for name in points} == {name: values[-1][1] for name, values in points.items()}


@pytest.mark.slow
def test_a_sweep_under_way_is_refused_with_the_process_that_has_it(tmp_path: Path) -> None:
    """Which is held up in the middle of it until the other has been refused, and then comes to its end."""
    with start(SMALL, tmp_path) as process:
        read_until(process, "8 trials")
        process.send_signal(signal.SIGSTOP)
        _, refused = run(SMALL, tmp_path, code=2)
        process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=300)
    assert re.search(rf"{REFUSED}: process {process.pid} on \S+, since", refused)
    assert (process.returncode, "[8/8]" in err) == (0, True), err


@pytest.mark.slow
def test_a_server_that_is_stopped_and_started_again_gets_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, tuple[Any, ...]]
) -> None:
    """Training goes on without it; afterwards every run and every point is there once, and the user was told of both."""
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    first = ExitStack()
    first.enter_context(server(tmp_path, port))
    with first, start([*SMALL, "--json", "--tracking-uri", address], tmp_path) as process:
        read_until(process, "8 trials")
        first.close()
        before = read_until(process, "[7/8")
        with server(tmp_path, port):
            out, err = process.communicate(timeout=200)
            assert process.returncode == 0, err
            assert stored_trials(address) == undisturbed
            client = MlflowClient(address)
            (parent,) = client.search_runs(["1"], "tags.`harness.kind` = 'sweep'")
            best = [value for name, value in parent.data.tags.items() if name.startswith("harness.best.")]
            assert {client.get_run(run_id).info.status for run_id in (parent.info.run_id, *best)} == {"FINISHED"}
            beat = json.loads(parent.data.tags["harness.heartbeat"])
            assert beat["pid"] == process.pid
            client.update_run(parent.info.run_id, status="RUNNING")
            client.set_tag(parent.info.run_id, "harness.heartbeat", json.dumps({**beat, "host": "elsewhere", "at": time.time()}))
            _, refused = run([*SMALL, "--tracking-uri", address], tmp_path, code=2)
            assert f"process {process.pid} on elsewhere, last heard of" in refused
    assert re.search(rf"note: the tracking store {address} cannot be used: no MLflow server answers there .*kept in", before)
    assert "the tracking store is back" in err
    assert json.loads(out)["trials"] == {"total": 8, "finished": 8, "failed": 0, "pruned": 0}
    assert list(tmp_path.rglob("writes.jsonl")) == []


@pytest.mark.slow
def test_a_sweep_killed_while_its_store_is_away_goes_on_from_its_journal(
    tmp_path: Path, undisturbed: dict[str, tuple[Any, ...]]
) -> None:
    """SIGKILL of all its processes, then the same command: what had ended meanwhile is not trained again."""
    with start(SMALL, tmp_path) as process:
        read_until(process, "8 trials")
        with locked(tmp_path / "mlflow.db"):
            assert "database is locked" in read_until(process, "[6/8")
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    _, err = run(SMALL, tmp_path)
    assert re.search(r"\d+ writes of an earlier command were in a journal", err)
    kept = re.findall(r"8 trials, (\d) done before", err)
    assert kept >= ["5"]
    assert stored_trials(f"sqlite:///{tmp_path}/mlflow.db") == undisturbed


@pytest.mark.slow
def test_plain_mlflow_ui_shows_the_runs_also_when_it_was_started_first(tmp_path: Path) -> None:
    """A server that a user started in the empty folder serves the sweep's runs and files afterwards."""
    port = free_port()
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "ui", "--port", str(port), "-w", "1"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as server:
        try:
            _wait_for(f"http://127.0.0.1:{port}/health")
            run(SMALL, tmp_path)
            client = MlflowClient(f"http://127.0.0.1:{port}")
            experiment = client.get_experiment_by_name("latent_sweep")
            assert experiment is not None
            runs = client.search_runs([experiment.experiment_id], "tags.`harness.kind` = 'trial'")
            assert len(runs) == 8
            address = f"http://127.0.0.1:{port}/get-artifact?path=reconstructions.png&run_uuid={runs[0].info.run_id}"
            with urllib.request.urlopen(address, timeout=20) as answer:
                assert answer.read(4) == b"\x89PNG"
        finally:
            os.killpg(server.pid, signal.SIGKILL)


def _wait_for(address: str) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"{address} does not answer")
