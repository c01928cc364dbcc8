"""npz files of anybody's: what is too large, needs pickle or contradicts itself is refused before it is unpacked."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import arrays
from harness.arrays import read_arrays
from harness.rules import UserError


def member(shape: tuple[int, ...], dtype: str = "|u1", content: bytes = b"") -> bytes:
    """An array's file whose header says what it likes."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue() + content


def write(path: Path, content: bytes, compression: int = zipfile.ZIP_STORED, name: str = "images.npy") -> Path:
    """Writes an archive with one file."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(name, content)
    return path


def error_of(path: Path) -> str:
    """What the user is told of a file that cannot be used."""
    with pytest.raises(UserError) as caught:
        read_arrays(path, ["images"])
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["images.npy", "images"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_an_array_comes_out_as_it_is(version: tuple[int, int], name: str, tmp_path: Path) -> None:
    """In both versions of the format, in either order of its values, and whatever else is in the file."""
    file, array = io.BytesIO(), np.asfortranarray(np.arange(12.0).reshape(3, 4))
    np.lib.format.write_array(file, array, version=version)
    path = write(tmp_path / "a.npz", file.getvalue(), name=name)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../notes.txt", "not for reading")
    np.testing.assert_array_equal(read_arrays(path, ["images"])[0], array)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("shape", [(2**40,), (2**20, 2**10, 2**10), (2**62, 4)])
def test_an_array_that_says_it_is_too_large_is_refused_with_the_limit(shape: tuple[int, ...], tmp_path: Path) -> None:
    """By its header, of which no value is read, however long the numbers are."""
    message = error_of(write(tmp_path / "a.npz", member(shape)))
    assert "images has " in message
    assert f"allowed are {arrays.LARGEST_ARRAY}" in message


def test_an_array_that_unpacks_to_more_than_is_allowed_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of some kilobytes can hold gigabytes of zeros."""
    path = write(tmp_path / "a.npz", member((2**22,), content=bytes(2**22)), zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(arrays, "LARGEST_ARRAY", 2**20)
    monkeypatch.setattr(zipfile.ZipFile, "open", None)
    assert path.stat().st_size < 2**16
    assert "allowed are 1048576" in error_of(path)


def test_an_archive_that_lies_about_a_size_is_refused(tmp_path: Path) -> None:
    """Its directory says few bytes, and the array's header many."""
    assert "its header says" in error_of(write(tmp_path / "a.npz", member((2**20,), content=bytes(10))))


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_than_those_of_numpy_are_refused(compression: int, tmp_path: Path) -> None:
    """They are unpacked by the block, however little is asked for."""
    assert "numpy.savez_compressed" in error_of(write(tmp_path / "a.npz", member((8,), content=bytes(8)), compression))


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (member((3,), "|O", b"cbuiltins\nprint\n."), "only pickle could read"),
        (member((-1,)), "shape (-1,)"),
        (member((10**15,), "|V0"), "type"),
        (member((2,), "|u1", b"123"), "its header says"),
        (b"no array", "magic"),
        (b"", "EOF"),
        (member((3,)).replace(b"'shape'", b"'shade'"), "keys"),
        (member((3,))[:20], "EOF"),
        (b"\x93NUMPY\x09\x00", "version"),
    ],
    ids=["objects", "negative", "nothing", "more bytes", "text", "empty", "keys", "cut", "version"],
)
def test_what_is_no_array_is_refused(content: bytes, part: str, tmp_path: Path) -> None:
    """The line has the file, why, and what to write it with."""
    message = error_of(write(tmp_path / "a.npz", content))
    assert part in message
    assert "without pickle" in message
    assert "numpy.savez" in message


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a checksum, for which it would have to be opened too."""

    def refuse(*arguments: Any, **more: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "no SHA-256: Permission denied" in error_of(tmp_path / "a.npz")
