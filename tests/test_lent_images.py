"""Images that a command lends to its workers: mapped, not read again, and gone with the command."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from harness import datasets

needs_linux = pytest.mark.skipif(not datasets.OPEN_FILES.is_dir(), reason="the files are found where Linux shows what is open")


@needs_linux
def test_what_is_lent_is_had_without_its_files_and_only_for_so_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same images, labels and split, found by their fingerprint and mapped, not copied; no file has a name."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    data = datasets.load("digits", "")
    monkeypatch.setattr(datasets, "_GIVEN", {})
    with datasets.lent(data) as borrow:
        assert len(pickle.dumps(borrow)) < 1000
        borrow()
        borrowed = datasets.given(data.fingerprint)
        assert borrowed is not None
        assert (borrowed.name, borrowed.shape, borrowed.pixels.test_from) == (data.name, data.shape, data.pixels.test_from)
        assert isinstance(borrowed.pixels.images, np.memmap)
        np.testing.assert_array_equal(borrowed.pixels.images, data.pixels.images)
        np.testing.assert_array_equal(borrowed.pixels.labels, data.pixels.labels)
        assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(datasets, "_GIVEN", {})
    borrow()
    assert datasets.given(data.fingerprint) is None


@needs_linux
def test_another_process_maps_what_is_lent_and_a_killed_one_leaves_no_file(tmp_path: Path) -> None:
    """The lender dies by SIGKILL, which no process can clean up after."""
    lender = "import pickle, sys\nfrom harness import datasets\n" + (
        "with datasets.lent(datasets.load('digits', '')) as borrow:\n"
        "    open(sys.argv[1], 'wb').write(pickle.dumps(borrow))\n"
        "    print('lent', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    note = tmp_path / "note"
    (tmp_path / "files").mkdir()
    environment = os.environ | {"TMPDIR": str(tmp_path / "files")}
    with subprocess.Popen(
        [sys.executable, "-c", lender, note], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "lent\n"
        borrower = (
            "import pickle, sys; from harness import datasets as d; pickle.load(open(sys.argv[1], 'rb'))(); print(*d._GIVEN)"
        )
        command = [sys.executable, "-c", borrower, note]
        borrowed = subprocess.run(command, capture_output=True, text=True, check=True)
        process.kill()
    assert borrowed.stdout.strip() == datasets.load("digits", "").fingerprint
    assert list((tmp_path / "files").iterdir()) == []
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == ""


@needs_linux
@pytest.mark.parametrize("case", ["too large", "no room", "no folder", "cut short"])
def test_what_cannot_be_lent_is_read_by_each_for_itself(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No error: a worker then has the images where it would have had them."""
    data = datasets.load("digits", "")
    monkeypatch.setattr(datasets, "_GIVEN", {})
    if case == "too large":
        monkeypatch.setattr(datasets, "LARGEST_LENT", data.pixels.images.nbytes - 1)
    if case == "no room":
        monkeypatch.setattr(datasets, "TemporaryFile", partial(open, "/dev/full", "r+b"))
    if case == "no folder":
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    if case == "cut short":
        monkeypatch.setattr(np, "save", _half)
    with datasets.lent(data) as borrow:
        borrow()
    assert datasets.given(data.fingerprint) is None


def _half(file: BinaryIO, content: Any) -> None:
    whole = io.BytesIO()
    np.lib.format.write_array(whole, content)
    file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
