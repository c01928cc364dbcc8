"""Any bytes as a dataset: images, or one line; never another exception, and nothing written."""

from __future__ import annotations

import contextlib
import io
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from PIL import Image

from harness import datasets
from harness.folders import read_folder
from tests.properties import ANY_TEXT, EXAMPLES, contents, for_all, outcome

SHAPES = st.lists(st.integers(0, 70) | st.sampled_from([-1, 1, 3, 8, 42, 2**20, 2**63]), max_size=5).map(tuple)
DTYPES = st.sampled_from(
    ["|u1", "<f4", ">f8", "<f2", "|b1", "<i8", "|O", "<U3", "|S0", "|V0", "|V8", "<M8[s]", "<c8", "<f16", [("a", "<f4")], "x", 3]
)
IMAGES = np.random.default_rng(0).integers(0, 256, (42, 8, 9), dtype=np.uint8)
LABELS = np.arange(42) % 3


def damage(content: bytes, share: float, changes: list[tuple[int, int]]) -> bytes:
    """A file that was cut short after a share of it, and some bytes of which have other values."""
    altered = bytearray(content)
    for place, value in changes:
        altered[place % len(altered)] = value
    return bytes(altered[: round(share * len(altered))])


PLACES = st.integers(0, 99) | st.integers(-99, -1) | st.integers(0, 10_000)


def damaged(files: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Files that were cut short or altered, most of all at their ends."""
    changes = st.lists(st.tuples(PLACES, st.integers(0, 255)), max_size=4)
    return st.builds(damage, files, st.just(1.0), changes) | st.builds(damage, files, st.floats(0, 1), st.just([]))


def npz_of(save: Callable[..., None], **arrays: Any) -> bytes:
    """The bytes of an archive of arrays."""
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def member(head: dict[str, Any] | str, content: bytes, version: int = 1) -> bytes:
    """An array's file with any header."""
    text = str(head).encode("utf-8", "replace") + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + content


def archive_of(members: dict[str, bytes], compression: int) -> bytes:
    """An archive of any files."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


HEADERS = st.fixed_dictionaries({"descr": DTYPES, "fortran_order": st.booleans(), "shape": SHAPES})
MEMBERS = st.one_of(
    st.builds(member, HEADERS | ANY_TEXT, st.binary(max_size=99), st.integers(0, 4)),
    st.builds(
        member, st.sampled_from(["(" * 9000, "-" * 9000 + "1", "{}", "{'shape': (3L,)}", "[" * 90 + "]" * 90]), st.just(b"")
    ),
    st.binary(max_size=99),
    st.just(npz_of(np.savez, images=IMAGES)),
)
ARCHIVES = st.builds(
    archive_of,
    st.dictionaries(st.sampled_from(["images.npy", "labels.npy", "images", "labels", "../images.npy"]), MEMBERS, max_size=4),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]),
)
KINDS = (
    arrays_of.scalar_dtypes() | arrays_of.unicode_string_dtypes() | arrays_of.byte_string_dtypes() | st.just(np.dtype(np.uint8))
)
ARRAYS = st.builds(
    lambda images, labels: npz_of(np.savez, images=images, labels=labels),
    arrays_of.arrays(KINDS, arrays_of.array_shapes(min_dims=0, max_dims=4, max_side=9), fill=st.nothing()) | st.just(IMAGES),
    arrays_of.arrays(KINDS, st.just(42) | arrays_of.array_shapes(min_dims=0, max_dims=2)) | st.just(LABELS),
)
WHOLE = [npz_of(save, images=IMAGES, labels=LABELS) for save in (np.savez, np.savez_compressed)]
NPZ = st.one_of(st.binary(max_size=200), damaged(st.sampled_from(WHOLE)), ARCHIVES, ARRAYS)


@pytest.mark.parametrize("count", EXAMPLES)
def test_any_bytes_as_npz_give_images_or_one_line(count: int, tmp_path: Path) -> None:
    """Random ones, whole files cut short or altered, and archives of any members and arrays."""

    def check(content: bytes) -> None:
        (tmp_path / "a.npz").write_bytes(content)
        before = contents(tmp_path)
        data = outcome(datasets.load.__wrapped__, "npz:a.npz", str(tmp_path))
        assert contents(tmp_path) == before
        if data is not None:
            images, labels, _ = data.pixels
            assert images.dtype in (np.uint8, np.float32)
            assert (images.min() >= 0, labels.shape, labels.dtype) == (True, (len(images),), np.int64)

    for_all(count, NPZ, check)


SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tiff", "WEBP": ".webp", "PPM": ".ppm"}
MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16"]
OTHER_FORMATS = {"EPS": ".eps", "PDF": ".pdf", "ICO": ".ico", "TGA": ".tga"}


def picture(kind: str, mode: str, size: tuple[int, int]) -> bytes:
    """The bytes of a picture of noise; a coloured PNG where the format has no such."""
    file, noise = io.BytesIO(), np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    with contextlib.suppress(ValueError):
        image = image.convert("L").convert(mode) if mode in ("I", "F", "I;16", "PA", "LA") else image.convert(mode)
    try:
        image.save(file, kind)
    except (OSError, ValueError, KeyError):
        file = io.BytesIO()
        image.convert("RGB").save(file, "PNG")
    return file.getvalue()


PICTURES = st.builds(
    picture,
    st.sampled_from([*SUFFIXES, *OTHER_FORMATS]),
    st.sampled_from(MODES),
    st.tuples(st.integers(1, 40), st.integers(1, 40)) | st.sampled_from([(1, 1), (1, 300), (999, 1)]),
)
SOME_PICTURES = st.builds(picture, st.sampled_from(list(SUFFIXES)), st.sampled_from(MODES), st.just((9, 7)))
FILE_NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), max_size=9).map(lambda text: f"a{text}")
FILES = st.tuples(
    FILE_NAMES,
    st.sampled_from([*SUFFIXES.values(), *OTHER_FORMATS.values(), ".PNG", ".txt", ""]),
    st.one_of(st.binary(max_size=200), PICTURES, damaged(SOME_PICTURES)),
)


@pytest.mark.parametrize("count", EXAMPLES)
def test_any_file_in_a_folder_gives_images_or_one_line(count: int, tmp_path: Path) -> None:
    """Any bytes under any name, whole pictures of any format, mode and size, and such cut short or altered."""
    folder = tmp_path / "pictures"

    def check(file: tuple[str, str, bytes]) -> None:
        name, suffix, content = file
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "cat").mkdir(parents=True)
        (folder / "cat" / f"{name}{suffix}").write_bytes(content)
        before = contents(tmp_path)
        read = outcome(read_folder, folder, 8)
        assert contents(tmp_path) == before
        if read is not None:
            images, labels = read
            assert images.shape in ((1, 1, 8, 8), (1, 3, 8, 8))
            assert (images.dtype, labels.tolist()) == (np.uint8, [0])

    for_all(count, FILES, check)
