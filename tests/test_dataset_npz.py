"""Arrays of a npz file as a dataset: forms, what is refused, and the fingerprint."""

from __future__ import annotations

import gc
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.rules import UserError
from tests.dataset_files import (
    Array,
    error_of,
    load,
    load_npz,
    npz_arrays,
    sha256,
)

pytestmark = pytest.mark.usefixtures("nothing_remembered")


@pytest.mark.parametrize("channels", [0, 1, 3])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_of_bytes_come_out_as_they_are(channels: int, save: Callable[..., None], tmp_path: Path) -> None:
    """With a dimension for the channels or without, compressed or not."""
    arrays = npz_arrays(channels=channels)
    save(tmp_path / "arrays.npz", **arrays)
    images, labels, _ = load(f"npz:{tmp_path / 'arrays.npz'}", tmp_path).pixels
    np.testing.assert_array_equal(images.reshape(arrays["images"].shape), arrays["images"])
    np.testing.assert_array_equal(labels, arrays["labels"])
    assert images.shape[1] == max(1, channels)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_arrays_of_floats_are_kept_in_single_precision(kind: type, tmp_path: Path) -> None:
    """From 0 to 1, both included."""
    given = (npz_arrays()["images"] / 255).astype(kind)
    given[0, 0, :2] = 0, 1
    images = load_npz(tmp_path, images=given, labels=np.arange(42) % 2).pixels.images
    np.testing.assert_array_equal(images[:, 0], given.astype(np.float32))


def test_labels_may_be_words_or_any_numbers(tmp_path: Path) -> None:
    """They are numbered from 0 in their order."""
    images = npz_arrays()["images"]
    words = load_npz(tmp_path, images=images, labels=np.array(["cat", "ant", "dog"] * 14))
    numbers = load_npz(tmp_path, images=images, labels=np.array([50, -7, 60] * 14))
    np.testing.assert_array_equal(words.pixels.labels, [1, 0, 2] * 14)
    assert words.fingerprint == numbers.fingerprint


@pytest.mark.parametrize(("height", "width"), [(8, 8), (64, 64), (8, 64), (64, 8)])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_8_to_64_pixels_are_taken(height: int, width: int, channels: int, tmp_path: Path) -> None:
    """They need not be square."""
    assert load_npz(tmp_path, **npz_arrays(42, height, width, channels)).shape == (channels, height, width)


@pytest.mark.parametrize(("height", "width"), [(7, 8), (8, 7), (65, 8), (8, 65), (0, 8)])
def test_images_of_any_other_size_are_refused(height: int, width: int, tmp_path: Path) -> None:
    """The error has the size and the limits."""
    np.savez(tmp_path / "arrays.npz", **npz_arrays(42, height, width))
    assert f"{height} x {width} pixels: allowed are 8 to 64" in error_of(f"npz:{tmp_path / 'arrays.npz'}", tmp_path)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_one_image_over_and_over_is_refused(value: float, tmp_path: Path) -> None:
    """There is nothing to learn, and no distance to measure by; one pixel of one image is enough to be taken."""
    images = np.full((42, 8, 8), value)
    np.savez(tmp_path / "arrays.npz", images=images, labels=np.arange(42) % 2)
    assert "all 42 images are the same one: there is nothing to learn" in error_of(f"npz:{tmp_path / 'arrays.npz'}", tmp_path)
    images[41, 7, 7] = 0.25
    assert len(load_npz(tmp_path, images=images, labels=np.arange(42) % 2).pixels.images) == 42


ARRAYS = npz_arrays()
FLOATS = (ARRAYS["images"] / 255).astype(np.float32)


def with_pixel(value: float) -> Array:
    """Float images, one pixel of which has this value."""
    images = FLOATS.copy()
    images[3, 4, 5] = value
    return images


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"labels": None}, ["labels", "arrays images and labels"]),
        ({"images": None}, ["images", "arrays images and labels"]),
        ({"labels": ARRAYS["labels"][:-1]}, ["42 images and labels of shape (41,)"]),
        ({"labels": ARRAYS["labels"][:, None]}, ["labels of shape (42, 1)"]),
        ({"labels": np.array(3)}, ["labels of shape ()"]),
        ({"labels": np.zeros(42)}, ["one class"]),
        ({"images": npz_arrays(channels=2)["images"]}, ["(42, 2, 8, 9)", "C = 1 or 3"]),
        ({"images": npz_arrays(channels=4)["images"]}, ["(42, 4, 8, 9)", "C = 1 or 3"]),
        ({"images": ARRAYS["images"].reshape(42, -1)}, ["(42, 72)", "(N, H, W)"]),
        ({"images": np.array(7, dtype=np.uint8)}, ["(N, H, W)"]),
        ({"images": ARRAYS["images"][:0], "labels": ARRAYS["labels"][:0]}, ["0 images", "at least 40"]),
        ({"images": ARRAYS["images"][:39], "labels": ARRAYS["labels"][:39]}, ["39 images", "at least 40"]),
        ({"images": ARRAYS["images"].astype(np.int64)}, ["int64", "uint8 in 0..255", "floats in [0, 1]"]),
        ({"images": ARRAYS["images"] > 100}, ["bool", "uint8 in 0..255"]),
        ({"images": FLOATS.astype(np.complex64)}, ["complex64", "uint8 in 0..255"]),
        ({"images": with_pixel(np.nan)}, ["float32", "floats in [0, 1]"]),
        ({"images": with_pixel(np.inf)}, ["float32", "floats in [0, 1]"]),
        ({"images": with_pixel(1.001)}, ["float32", "floats in [0, 1]"]),
        ({"images": with_pixel(-0.001)}, ["float32", "floats in [0, 1]"]),
        ({"images": np.array([None] * 42)}, ["pickle", "arrays.npz"]),
        ({"labels": np.array(["cat", 3] * 21, dtype=object)}, ["pickle", "arrays.npz"]),
    ],
)
def test_arrays_of_the_wrong_form_are_refused(changes: dict[str, Any], parts: list[str], tmp_path: Path) -> None:
    """The error has what was found and what is allowed."""
    arrays = {name: array for name, array in {**ARRAYS, **changes}.items() if array is not None}
    np.savez(tmp_path / "arrays.npz", **arrays)
    message = error_of(f"npz:{tmp_path / 'arrays.npz'}", tmp_path)
    assert "arrays.npz" in message
    assert all(part in message for part in parts), message


class Trap:
    """Unpickling it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_nothing_in_an_npz_file_is_executed(tmp_path: Path) -> None:
    """A pickled object is refused before it can do anything."""
    np.savez(tmp_path / "arrays.npz", images=ARRAYS["images"], labels=np.array([Trap(tmp_path / "sprung")] * 42, dtype=object))
    assert "without pickle" in error_of(f"npz:{tmp_path / 'arrays.npz'}", tmp_path)
    (tmp_path / "plain.npz").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    assert "without pickle" in error_of(f"npz:{tmp_path / 'plain.npz'}", tmp_path)
    assert not (tmp_path / "sprung").exists()


def save_npy(path: Path) -> None:
    """Writes one array without the archive around it."""
    with path.open("wb") as file:
        np.save(file, ARRAYS["images"])


@pytest.mark.parametrize(
    "write",
    [
        save_npy,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("no arrays"),
        lambda path: path.write_bytes(b"PK\3\4"),
    ],
    ids=["npy", "empty", "text", "head of an archive"],
)
def test_a_file_that_is_no_npz_is_named_with_its_checksum(write: Callable[[Path], Any], tmp_path: Path) -> None:
    """Whatever else it is."""
    path = tmp_path / "arrays.npz"
    write(path)
    message = error_of(f"npz:{path}", tmp_path)
    assert f"{path} cannot be read as npz" in message
    assert sha256(path) in message


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_an_npz_file_cut_short_is_named_with_its_checksum(share: float, save: Callable[..., None], tmp_path: Path) -> None:
    """Wherever it was cut."""
    path = tmp_path / "arrays.npz"
    save(path, **ARRAYS)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    message = error_of(f"npz:{path}", tmp_path)
    assert str(path) in message
    assert sha256(path) in message


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_file_with_an_altered_byte_is_never_read_as_other_data(save: Callable[..., None], tmp_path: Path) -> None:
    """It is refused as an error of the user's file, or the byte does not matter; a traceback is neither."""
    path = tmp_path / "arrays.npz"
    save(path, images=np.tile(ARRAYS["images"][:2], (21, 1, 1)), labels=ARRAYS["labels"])
    whole, content = load(f"npz:{path}", tmp_path), path.read_bytes()
    refused = 0
    for place in range(0, len(content), 11):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            assert load(f"npz:{path}", tmp_path).fingerprint == whole.fingerprint
        except UserError:
            refused += 1
    assert refused > len(content) / 22


def test_an_npz_file_that_is_refused_is_not_left_open(tmp_path: Path) -> None:
    """It can be mended while the program goes on."""
    (tmp_path / "arrays.npz").write_bytes(b"PK\3\4")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        error_of(f"npz:{tmp_path / 'arrays.npz'}", tmp_path)
        gc.collect()
    assert [str(each.message) for each in caught if "arrays.npz" in str(each.message)] == []


@pytest.mark.parametrize(
    "path", ["gone.npz", "~nosuchuser/arrays.npz", "a" * 300, "."], ids=["gone", "unknown home", "too long", "a folder"]
)
def test_an_npz_file_that_is_not_there_is_named(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the name as it was given and what the file should hold."""
    monkeypatch.chdir(tmp_path)
    message = error_of(f"npz:{path}", tmp_path)
    assert f"npz:{path}" in message
    assert "images (N, H, W)" in message


def one_other_pixel(arrays: dict[str, Array]) -> None:
    """Changes a pixel by one."""
    arrays["images"][7, 3, 3] ^= 1


def one_other_label(arrays: dict[str, Array]) -> None:
    """Changes a label to another class."""
    arrays["labels"][7] = (arrays["labels"][7] + 1) % 3


def another_order(arrays: dict[str, Array]) -> None:
    """Turns images and labels round, pairs kept."""
    for name in arrays:
        arrays[name] = arrays[name][::-1]


def another_shape(arrays: dict[str, Array]) -> None:
    """Reads the same bytes as images of other sides."""
    arrays["images"] = arrays["images"].reshape(42, 9, 8)


@pytest.mark.parametrize("change", [one_other_pixel, one_other_label, another_order, another_shape])
def test_any_change_of_the_data_changes_the_fingerprint(change: Callable[[dict[str, Array]], None], tmp_path: Path) -> None:
    """So two sweeps on different data are never taken for one."""
    arrays = npz_arrays()
    before = load_npz(tmp_path, **arrays).fingerprint
    change(arrays)
    assert load_npz(tmp_path, **arrays).fingerprint != before
