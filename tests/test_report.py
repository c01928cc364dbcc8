"""The command that writes a sweep's report again, on real sweeps in a real store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from harness import report
from harness.reader import open_reader
from tests.stored import Stored


def run(words: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> tuple[str, str]:
    """Runs the command; gives stdout and stderr."""
    found = report.main(words)
    captured = capsys.readouterr()
    assert found == code, captured.err
    return captured.out, captured.err


def test_the_report_from_the_runs_alone_is_the_one_that_the_sweep_wrote(
    stored: Stored, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same sentences on the same runs, the same numbers, and every figure."""
    out, _ = run(["tiny", "--tracking-uri", stored.uri, "--output", str(tmp_path / "again")], capsys)
    assert out.strip() == str(tmp_path / "again" / "report.html")
    reader = open_reader(stored.uri)
    for name in ("findings.json", "trials.csv", "summary.json"):
        assert (tmp_path / "again" / name).read_bytes() == reader.read_file(stored.grid_run, name), name
    written = {path.relative_to(tmp_path / "again").as_posix() for path in (tmp_path / "again").rglob("*") if path.is_file()}
    kept = {path for path in reader.files(stored.grid_run).sizes() if not path.startswith("study/")}
    assert written == kept


def test_the_report_of_a_search_has_optunas_plots(stored: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    """In the folder of the default name, with the script that draws them, and what its winners came to from fresh seeds."""
    out, _ = run([stored.tuned, "--tracking-uri", stored.uri], capsys)
    assert out.strip() == f"report-{stored.tuned}/report.html"
    page = Path(out.strip()).read_text()
    assert '<section id="sensitivity">' in page
    assert page.count('class="plotly-graph-div"') > 1
    assert '<section id="winners">' in page


def test_a_sentence_whose_run_is_gone_is_withheld(stored: Stored, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After a run of the sweep was put in the trash, by whoever did it."""
    own = stored.copied(tmp_path)
    before = json.loads(open_reader(own.uri).read_file(own.grid_run, "findings.json"))
    MlflowClient(own.uri).delete_run(before[0]["run_ids"][0])
    out, _ = run([own.grid_run, "--tracking-uri", own.uri, "--output", str(tmp_path / "again")], capsys)
    page = Path(out.strip()).read_text()
    assert f"withheld: 1 of the {len(before[0]['run_ids'])} runs that it rests on" in page
    assert before[0]["text"] not in page


def test_a_sweep_that_left_no_findings_has_a_report_all_the_same(
    stored: Stored, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of an earlier version, or one that was cut off."""
    monkeypatch.setattr("harness.runs.RunFiles.sizes", lambda files: {})
    out, _ = run(["tiny", "--tracking-uri", stored.uri], capsys)
    assert "withheld" not in Path(out.strip()).read_text().partition('<section id="autoencoding">')[0].partition("<body>")[2]


@pytest.mark.parametrize("name", ["tiney", "0123456789abcdef"])
def test_a_sweep_that_is_not_there_is_refused_in_one_line(stored: Stored, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With the studies that there are; nothing is written."""
    _, err = run([name, "--tracking-uri", stored.uri], capsys, code=2)
    assert err.count("\n") == 1
    assert "tiny" in err
    assert not list(Path.cwd().glob("report-*"))


def test_a_folder_that_cannot_be_made_is_refused_in_one_line(
    stored: Stored, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is named, and what to do."""
    (tmp_path / "file").write_text("")
    _, err = run(["tiny", "--tracking-uri", stored.uri, "--output", str(tmp_path / "file" / "report")], capsys, code=2)
    assert "name another folder with --output" in err


def test_findings_that_are_damaged_are_one_line(
    stored: Stored, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of another version; nothing is written."""
    monkeypatch.setattr("harness.reader.StoreReader.read_file", lambda *where: b'[{"topic": "dimensions"}]')
    _, err = run(["tiny", "--tracking-uri", stored.uri, "--output", "again"], capsys, code=2)
    assert f"findings.json of the run {stored.grid_run} is damaged" in err
    assert not Path("again").exists()


def test_a_sweep_that_was_cut_off_has_a_report_that_says_so(
    stored: Stored, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is a report of the trials so far."""
    own = stored.copied(tmp_path)
    own.change("UPDATE runs SET status = 'KILLED' WHERE run_uuid = ?", own.grid_run)
    out, _ = run([own.grid_run, "--tracking-uri", own.uri, "--output", str(tmp_path / "again")], capsys)
    assert "Not finished yet" in Path(out.strip()).read_text()
