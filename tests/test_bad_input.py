"""Wrong input, as the user sees it: exit code 2, one line on stderr, and nothing written here."""

from __future__ import annotations

import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from harness import datasets, downloads
from harness.study import main

SMALL = """\
from harness.config import StudyConfig, TrialConfig

STUDY = StudyConfig(
    question="Which?",
    base=TrialConfig(epochs=1, train_size=16, draws=1, transfer_epochs=1),
    grid={"latent_size": (2,)},
    seeds=1,
)
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the current one, with an empty data root, no store named outside and no network."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    datasets.load.cache_clear()
    return folder


@pytest.fixture
def small(tmp_path: Path) -> str:
    """Path of a small study outside the current folder."""
    (tmp_path / "small.py").write_text(SMALL)
    return str(tmp_path / "small.py")


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder; folders have no content."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refusal(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Runs a command that must be refused; gives its one line."""
    before = contents(Path.cwd())
    code = main(words)
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.endswith("\n")
    assert len(err.splitlines()) == 1, err
    assert "Traceback" not in err
    assert contents(Path.cwd()) == before
    return err


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["no study named", "--list"]),
        (["latent_swep"], ["unknown study 'latent_swep'", "did you mean 'latent_sweep'?"]),
        (["gone.py"], ["gone.py"]),
        (["a\nb.py"], ["b.py"]),
        (["latent_sweep", "a\nb"], ["unrecognized arguments"]),
        (["latent_sweep", "--epoch", "3"], ["unknown option '--epoch'", "did you mean '--epochs'?"]),
        (["latent_sweep", "--epochs"], ["--epochs"]),
        (["../latent_sweep"], ["'../latent_sweep'", "ends in .py"]),
        (["latent_sweep", "--data-root", "a\0b"], ["'a\\x00b'", "no text"]),
        (["latent_sweep", "--dataset", "folder:\udcff"], ["'folder:\\udcff'", "no text"]),
        (["latent_sweep", "\x1b[2J"], ["unrecognized arguments", "\\x1b[2J"]),
    ],
)
def test_a_wrong_command_is_refused_in_one_line(words: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The line names the word and the nearest that there is."""
    line = refusal(words, capsys)
    assert all(part in line for part in parts), line


WRONG_VALUES = [
    (["--dataset", "minst"], ["unknown dataset 'minst'", "did you mean 'mnist'?"]),
    (["--dataset", "folder:gone"], ["folder:gone", "no such folder"]),
    (["--dataset", "folder:a\nb"], ["no such folder"]),
    (["--dataset", "folder:~nosuchuser/pictures"], ["~nosuchuser/pictures"]),
    (["--dataset", "npz:gone.npz"], ["npz:gone.npz", "no such file"]),
    (["--dataset", "npz"], ["npz:PATH"]),
    (["--set", "architecture=bsae"], ["unknown architecture 'bsae'", "did you mean 'base'?"]),
    (["--set", "architecture=base,linear", "--set", "depth=2"], ["'linear' has no depth"]),
    (["--set", "latent_sise=3"], ["unknown field 'latent_sise'", "did you mean 'latent_size'?"]),
    (["--set", "latent_size=0"], ["latent_size is 0", "from 1 to 1024"]),
    (["--set", "latent_size=2000"], ["latent_size is 2000", "from 1 to 1024"]),
    (["--set", "learning_rate=nan"], ["learning_rate is nan"]),
    (["--set", "seed=99999999999999999999"], ["seed is 99999999999999999999"]),
    (["--set", "kernel_size=4"], ["kernel_size is 4", "3, 5 and 7"]),
    (["--set", "loss=bce", "--set", "output_activation=identity"], ["loss is 'bce'", "output_activation"]),
    (["--epochs", "many"], ["epochs is 'many'", "whole number"]),
    (["--batch-size", "1"], ["batch_size is 1"]),
    (["--image-size", "7"], ["image_size is 7", "from 8 to 64"]),
    (["--image-size", "16"], ["image_size is for folder:PATH only"]),
    (["--seeds", "0"], ["--seeds is 0"]),
    (["--workers", "-1"], ["--workers"]),
    (["--executor", "proceses"], ["unknown executor 'proceses'", "did you mean 'processes'?"]),
    (["--device", "cuba"], ["unknown --device 'cuba'", "did you mean 'cuda'?"]),
    (["--tracking-uri", "mlruns"], ["mlruns is a folder", "sqlite:///mlflow.db"]),
    (["--outage-limit", "-1"], ["--outage-limit is -1", "at least 0"]),
    (["--outage-limit", "long"], ["--outage-limit is 'long'", "a number"]),
    (["--replay", "gone"], ["there is no journal in gone", "--replay"]),
    (["--tracking-uri", "sqlite:///gone/a.db"], ["sqlite:///gone/a.db", "no folder"]),
    (["--tracking-uri", "http://127.0.0.1:9"], ["http://127.0.0.1:9", "refused"]),
    (["--tracking-uri", "http://user:secret@127.0.0.1"], ["http://127.0.0.1", "refused"]),
]


@pytest.mark.parametrize(("words", "parts"), WRONG_VALUES, ids=[" ".join(words) for words, _ in WRONG_VALUES])
def test_a_wrong_value_is_refused_in_one_line(
    small: str, words: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The line names the value and what is allowed, and no password."""
    line = refusal([small, *words], capsys)
    assert all(part in line for part in parts), line
    assert "secret" not in line


@pytest.mark.parametrize("option", ["--dry-run", "--json", "--fresh"])
def test_what_else_is_asked_for_does_not_change_the_refusal(small: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is printed on stdout, JSON neither."""
    assert "'bsae'" in refusal([small, "--set", "architecture=bsae", option], capsys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none_is_refused(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The line says what to use instead."""
    assert "--device cpu" in refusal([small, "--device", "cuda"], capsys)


def test_mnist_that_is_missing_without_a_network_is_refused(
    small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line names the file, where it was looked for, and both ways out."""
    line = refusal([small, "--dataset", "mnist"], capsys)
    assert f"train-images-idx3-ubyte is missing, looked for in {tmp_path / 'data' / 'MNIST' / 'raw'}" in line
    assert "refused" in line
    assert "--data-root" in line
    assert "--dataset digits" in line


def test_a_network_that_does_not_answer_is_given_up(
    small: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A download waits for so long and no longer, and leaves the waiting time of others as it was."""
    monkeypatch.setattr(downloads, "DOWNLOAD_TIMEOUT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{silent.getsockname()[1]}/"])
        assert "timed out" in refusal([small, "--dataset", "mnist"], capsys)
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("def fail():\n    return 1 / 0\n\nfail()\n", ["ZeroDivisionError: division by zero", "mine.py, line 2: return 1 / 0"]),
        ("raise ValueError('first\\nsecond')\n", ["ValueError: first second", "line 1"]),
        ("import no_such_module\n", ["ModuleNotFoundError", "no_such_module", "line 1"]),
        ("one = = 1\n", ["SyntaxError", "line 1"]),
        ("import sys\nsys.exit(0)\n", ["SystemExit", "line 2"]),
        ("", ["declares no study", "STUDY = StudyConfig(...)"]),
        (SMALL.replace("epochs=1", "epochs=0"), ["mine.py", "epochs is 0"]),
        (SMALL.replace("epochs=1", "epoch=1"), ["TypeError", "'epoch'", "mine.py, line"]),
        (SMALL.replace("(2,)", "2"), ["mine.py", "latent_size"]),
        (SMALL.replace("seeds=1", "objectives=('val/mce',)"), ["unknown objective 'val/mce'", "did you mean 'val/mse'?"]),
        (SMALL.replace("seeds=1", "sampler='tpe'"), ["mine.py", "'tpe'"]),
    ],
)
@pytest.mark.parametrize("name", ["mine.py", "mine"])
def test_a_study_file_with_a_fault_is_refused(
    name: str, text: str, parts: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line has the fault and where in the file it is, by path or by name."""
    path = here / name if name.endswith(".py") else here / "studies" / "mine.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    line = refusal([name], capsys)
    assert all(part in line for part in parts), line


def test_a_refused_study_file_leaves_no_compiled_code(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is written also where Python caches what it imports, as it does unless told otherwise."""
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    (here / "mine.py").write_text("raise ValueError\n")
    refusal(["mine.py"], capsys)


def test_a_search_space_that_raises_is_refused_in_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """However many lines the exception has."""
    text = "from harness.config import StudyConfig\nSTUDY = StudyConfig(question='Which?', sampler='random', trials=2)\n"
    (here / "mine.py").write_text(text + "def search_space(trial):\n    raise ValueError('first\\nsecond')\n")
    line = refusal(["mine.py", "--dry-run"], capsys)
    assert "search_space" in line
    assert "ValueError: first" in line


@pytest.mark.parametrize("fault", ["a text", "a database cut short", "a folder"])
@pytest.mark.parametrize("named", [True, False], ids=["named", "found here"])
def test_a_broken_tracking_store_is_refused_and_not_touched(
    named: bool, fault: str, small: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line names the store; its file keeps every byte, and none appears beside it."""
    path = here / ("broken.db" if named else "mlflow.db")
    if fault == "a folder":
        path.mkdir()
    elif fault == "a text":
        path.write_bytes(b"Remember the milk. " * 50)
    else:
        with closing(sqlite3.connect(path)) as connection:
            for number in range(30):
                connection.execute(f"CREATE TABLE runs{number} (name TEXT)")
            connection.commit()
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    line = refusal([small, *(["--tracking-uri", f"sqlite:///{path.name}"] if named else [])], capsys)
    assert f"sqlite:///{path.name} cannot be used" in line


@pytest.mark.parametrize("fault", ["cut short", "not a number", "too large", "too few", "objects"])
def test_bad_images_are_refused_and_not_touched(fault: str, small: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The line names the file."""
    images = np.zeros((20 if fault == "too few" else 40, 70 if fault == "too large" else 8, 8), dtype=np.float32)
    images[1, 2, 3] = np.nan if fault == "not a number" else 1
    labels = np.arange(len(images)) % 2
    np.savez(here / "arrays.npz", images=images, labels=labels.astype(object) if fault == "objects" else labels)
    if fault == "cut short":
        (here / "arrays.npz").write_bytes((here / "arrays.npz").read_bytes()[:1000])
    assert "arrays.npz" in refusal([small, "--dataset", "npz:arrays.npz"], capsys)
