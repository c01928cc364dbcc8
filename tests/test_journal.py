"""The journal: what is in it is whole, whatever happened to the disk or to who wrote it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.journal import LINES, Header, Journal, JournalError, Write
from tests.support import fill, small_disk

HEADER = Header("sqlite:///mlflow.db", "0123456789abcdef", "1")
WRITES = [
    Write("create", "key", {"experiment_id": "1", "name": "ü", "tags": {"a": "b\nc"}, "time": 5}),
    Write("batch", "key", {"metrics": [["m", 0.1 + 0.2, 7, 1]], "tags": {}}),
    Write("files", "key", files={"a/b.bin": b"\x00\n\xff", "top.csv": b""}),
    Write("status", "key", {"status": "FINISHED", "time": 9}),
]


def journal_of(folder: Path) -> Journal:
    """A journal with all writes in it."""
    journal = Journal.begin(folder, HEADER)
    for write in WRITES:
        journal.append(write)
    return journal


def opened(folder: Path) -> Journal:
    """The journal that is there."""
    journal = Journal.open(folder)
    assert journal is not None
    return journal


def append_without_end(journal: Journal) -> None:
    """Adds small writes for as long as it can."""
    while True:
        journal.append(Write("batch", "key", {"tags": {str(journal.length): "x" * 100}}))


def test_a_journal_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Numbers to the last bit, files to the last byte, in their order, by another process too."""
    for journal in (journal_of(tmp_path / "j"), opened(tmp_path / "j")):
        assert list(journal.writes()) == WRITES
        assert list(journal.writes(skip=2)) == WRITES[2:]
        assert (journal.header, journal.length) == (HEADER, 4)
        assert journal.size >= sum(path.stat().st_size for path in (tmp_path / "j").rglob("*") if path.is_file())
    journal.remove()
    assert Journal.open(tmp_path / "j") is None
    assert list(tmp_path.iterdir()) == []


def test_a_torn_last_line_is_dropped_and_written_over(tmp_path: Path) -> None:
    """Wherever the last line was cut, the writes before it are there, and the next one stands in its place."""
    journal_of(tmp_path / "whole")
    content = (tmp_path / "whole" / LINES).read_bytes()
    start = content.rindex(b"\n", 0, -1) + 1
    for end in range(start, len(content)):
        shutil.rmtree(tmp_path / "torn", ignore_errors=True)
        shutil.copytree(tmp_path / "whole", tmp_path / "torn")
        (tmp_path / "torn" / LINES).write_bytes(content[:end])
        journal = opened(tmp_path / "torn")
        assert list(journal.writes()) == WRITES[:3]
        journal.append(WRITES[3])
        assert list(opened(tmp_path / "torn").writes()) == WRITES


def test_files_whose_line_is_missing_are_none(tmp_path: Path) -> None:
    """A kill between the two leaves files that the next write replaces."""
    journal = Journal.begin(tmp_path / "j", HEADER)
    journal.append(WRITES[0])
    journal._keep({"a": b"1", "b": b"2"})
    journal = opened(tmp_path / "j")
    assert list(journal.writes()) == WRITES[:1]
    journal.append(WRITES[2])
    assert list(opened(tmp_path / "j").writes()) == [WRITES[0], WRITES[2]]


@pytest.mark.parametrize("fault", ["line", "digit", "file changed", "file missing", "other version"])
def test_a_journal_that_is_broken_elsewhere_is_refused(tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names it, and nothing of it is taken for whole."""
    journal_of(tmp_path / "j")
    lines = (tmp_path / "j" / LINES).read_bytes().splitlines(keepends=True)
    if fault == "line":
        (tmp_path / "j" / LINES).write_bytes(b"".join([*lines[:2], lines[2][:9] + b"\n", *lines[3:]]))
    elif fault == "digit":
        assert b"0.30000000000000004" in lines[2]
        (tmp_path / "j" / LINES).write_bytes(b"".join(lines).replace(b"0.30000000000000004", b"0.30000000000000005"))
    elif fault == "other version":
        monkeypatch.setattr("harness.journal.FORMAT", 2)
    elif fault == "file changed":
        (tmp_path / "j" / "files" / "2" / "0").write_bytes(b"\x00\n")
    else:
        (tmp_path / "j" / "files" / "2" / "1").unlink()
    with pytest.raises(JournalError, match=rf"the journal {tmp_path}/j is damaged"):
        list(opened(tmp_path / "j").writes())


def test_a_full_disk_leaves_the_writes_that_were_there(tmp_path: Path) -> None:
    """What does not fit is refused and leaves nothing; with space again the journal goes on."""
    with small_disk(tmp_path / "disk", "1m") as disk:
        journal = Journal.begin(disk / "j", HEADER)
        large = Write("files", "key", files={str(number): b"x" * 100_000 for number in range(4)})
        journal.append(large)
        journal.append(large)
        with pytest.raises(JournalError, match="No space left on device"):
            journal.append(large)
        filler = fill(disk)
        with pytest.raises(JournalError, match="No space left on device"):
            append_without_end(journal)
        kept = list(journal.writes())
        assert kept[:2] == [large, large]
        assert list(opened(disk / "j").writes()) == kept
        with pytest.raises(JournalError, match="cannot be written: No space left on device"):
            Journal.begin(disk / "another", HEADER)
        assert not (disk / "another").exists()
        filler.unlink()
        journal.append(WRITES[0])
        assert list(opened(disk / "j").writes()) == [*kept, WRITES[0]]
