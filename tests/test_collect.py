"""Files of trials in a tree on disk: all of them, whole, and only what is missing the second time."""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from harness import collect as collecting
from harness import compare
from harness.reader import open_reader
from harness.rules import UserError
from harness.runs import RunFiles
from harness.sweeps import find_sweep
from tests.stored import Stored, one_line, run_stored
from tests.support import fill, make_study_file
from tests.test_command import free_port, server

WORDS = ["tiny", "--where", "architecture = 'linear' and latent_size = 2", "--download", "files"]


@pytest.fixture(autouse=True)
def _store(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store with real sweeps is the one of the environment."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", stored.uri)


def index(folder: Path = Path("files")) -> list[dict[str, str]]:
    """What the index lists."""
    return list(csv.DictReader((folder / "index.csv").read_text().splitlines()))


def test_every_file_of_the_selected_trials_is_there(stored: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    """With the bytes that the store has, by a name that says what it is; the sweep's own files too."""
    assert compare.main(WORDS) == 0
    out, err = capsys.readouterr()
    lines, client = index(), MlflowClient(stored.uri)
    assert f"{len(lines)} files" in out
    assert f"{len(lines)} of them fetched now" in out
    assert [line.partition(" ")[0] for line in err.splitlines()] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    runs = dict.fromkeys(line["run_id"] for line in lines)
    assert len(runs) == 4
    for run_id in runs:
        listed = {line["artifact"] for line in lines if line["run_id"] == run_id}
        assert listed == set(RunFiles(stored.uri, client.get_run(run_id).info.artifact_uri).sizes())
    for line in lines:
        content = (Path("files") / line["path"]).read_bytes()
        source = Path(client.download_artifacts(line["run_id"], line["artifact"])).read_bytes()
        assert content == source
        assert (int(line["bytes"]), line["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    files = {path.relative_to("files").as_posix() for path in Path("files").rglob("*") if path.is_file()}
    assert files == {line["path"] for line in lines} | {"index.csv", "trials.csv"}
    trials = pd.read_csv("files/trials.csv")
    assert trials["latent_size"].tolist() == [2, 2, 2]
    for folder, run_id in zip(trials["folder"], trials["run_id"], strict=True):
        assert folder.endswith(f"-{run_id[:8]}")
        assert "linear-d=2-seed=" in folder
        assert (Path("files") / folder / "model" / "model.safetensors").is_file()


def test_again_it_fetches_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    """A lost file, one that is not whole, and a sweep's own from before its end; the others are not touched."""
    compare.main(WORDS)
    before, trials = index(), [line for line in index() if line["trial"]]
    os.utime(Path("files") / before[0]["path"], (1, 1))
    lost, short, kept = (Path("files") / line["path"] for line in trials[:3])
    lost.unlink()
    short.write_bytes(short.read_bytes()[:-1])
    os.utime(kept, (1, 1))
    (kept.parent / f"{kept.name}.part").write_bytes(b"half")
    capsys.readouterr()
    assert compare.main(WORDS) == 0
    assert "3 of them fetched now" in capsys.readouterr().out
    assert index() == before
    assert kept.stat().st_mtime == 1


def test_a_download_that_is_cut_off_goes_on(stored: Stored, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever is there then is whole, and no index says otherwise."""
    reader, left = open_reader(stored.uri), [9]
    sweep = find_sweep(reader, stored.grid)
    write_whole = collecting.write_whole

    def breaking(path: Path, content: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        write_whole(path, content)

    monkeypatch.setattr(collecting, "write_whole", breaking)
    with pytest.raises(KeyboardInterrupt):
        collecting.collect(reader, [sweep], tmp_path / "files", lambda line: None)
    files = [path for path in (tmp_path / "files").rglob("*") if path.is_file()]
    assert len(files) == 9
    assert not (tmp_path / "files" / "index.csv").exists()
    monkeypatch.undo()
    found = collecting.collect(reader, [sweep], tmp_path / "files", lambda line: None)
    assert (found.files, len(index(tmp_path / "files"))) == (len(index(tmp_path / "files")), found.files)
    assert found.fetched == found.files - 9


def test_a_full_disk_is_one_line_and_with_room_it_goes_on(
    small_disk: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """No half of a file is left."""
    disk = small_disk("8m")
    filler = fill(disk)
    os.truncate(filler, filler.stat().st_size - 120_000)
    words = [*WORDS[:-1], str(disk / "files")]
    assert compare.main(words) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert "No space left on device: mend that, then the same command goes on" in one_line(last)
    assert list(disk.rglob("*.part")) == []
    filler.unlink()
    assert compare.main(words) == 0
    assert all((disk / "files" / line["path"]).stat().st_size == int(line["bytes"]) for line in index(disk / "files"))


@pytest.mark.parametrize("name", ["../../outside", "/etc/outside", "a\\..\\b", "a/../../../../outside", "a\nb"])
def test_a_name_that_leads_out_is_refused(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A store may be anybody's."""
    monkeypatch.setattr(RunFiles, "sizes", lambda self: {name: 3})
    monkeypatch.setattr(RunFiles, "read", lambda self, path: b"bad")
    assert compare.main(WORDS) == 2
    assert "whose name leads out of its folder" in one_line(capsys.readouterr().err)
    assert not any(path.is_file() for path in Path.cwd().parent.rglob("*outside*"))


def test_a_link_that_leads_out_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is written behind it."""
    compare.main(WORDS)
    line = next(line for line in index() if line["trial"] and line["artifact"].startswith("model/"))
    folder = (Path("files") / line["path"]).parent
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    capsys.readouterr()
    assert compare.main(WORDS) == 2
    assert "a link that leads out" in capsys.readouterr().err
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_file_that_the_store_has_lost_is_one_line(stored: Stored, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It says which store."""
    reader = open_reader(stored.uri)
    monkeypatch.setattr(RunFiles, "sizes", lambda self: {"gone.png": 3})
    with pytest.raises(UserError, match=r"sqlite:.*No such file"):
        collecting.collect(reader, [find_sweep(reader, "tuned")], tmp_path / "files", lambda line: None)


@pytest.mark.slow
def test_a_server_gives_the_same(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tables and files through a real MLflow server that keeps the files itself; again it fetches what is missing."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with server(tmp_path, port):
        run_stored(make_study_file(tmp_path, seeds=1), address)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert compare.main(["tiny", "--download", "from_server"]) == 0
        lines = index(Path("from_server"))
        kept = {
            path.relative_to(tmp_path / "files").as_posix(): path for path in (tmp_path / "files").rglob("*") if path.is_file()
        }
        contents = {f"{line['run_id']}/artifacts/{line['artifact']}": line["sha256"] for line in lines}
        of_runs = {
            name.partition("/")[2]: path for name, path in kept.items() if "/artifacts/" in name and "/models/" not in name
        }
        assert contents == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in of_runs.items()}
        lost = Path("from_server") / next(line["path"] for line in lines if line["trial"])
        lost.unlink()
        capsys.readouterr()
        assert compare.main(["tiny", "--download", "from_server"]) == 0
        assert "1 of them fetched now" in capsys.readouterr().out
        compare.main(["tiny", "--csv"])
        by_server = capsys.readouterr().out
    compare.main(["tiny", "--csv", "--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db"])
    assert capsys.readouterr().out == by_server
