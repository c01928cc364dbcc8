"""Pictures in folders as a dataset: sizes, colours, and what is said of those that make none."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.datasets import FOLDER_IMAGE_SIZE
from tests.dataset_files import (
    error_of,
    load,
    pixels,
    sha256,
    write_folder,
)

pytestmark = pytest.mark.usefixtures("nothing_remembered")


def test_grey_pictures_of_any_size_make_a_set_of_one_channel(tmp_path: Path) -> None:
    """They are resized to one size, and labelled by their sub-folders in the order of their names."""
    write_folder(tmp_path / "pictures")
    data = load(f"folder:{tmp_path / 'pictures'}", tmp_path)
    assert data.shape == (1, FOLDER_IMAGE_SIZE, FOLDER_IMAGE_SIZE)
    assert data.pixels.images.dtype == np.uint8
    np.testing.assert_array_equal(data.pixels.labels, [0] * 20 + [1] * 20)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK"])
def test_colour_pictures_make_a_set_of_three_channels(mode: str, tmp_path: Path) -> None:
    """Transparency, palettes and printing colours become red, green and blue."""
    write_folder(tmp_path / "pictures", "RGB", 19)
    for label in ("cat", "dog"):
        Image.fromarray(np.full((20, 20, 3), (255, 0, 0), dtype=np.uint8)).convert(mode).save(
            tmp_path / "pictures" / label / "99.tiff"
        )
    images = load(f"folder:{tmp_path / 'pictures'}", tmp_path).pixels.images
    assert images.shape == (40, 3, FOLDER_IMAGE_SIZE, FOLDER_IMAGE_SIZE)
    assert abs(images[-1].mean(axis=(1, 2)) - [254, 0, 0]).max() <= 2


def test_grey_pictures_among_colour_ones_get_three_equal_channels(tmp_path: Path) -> None:
    """One colour picture makes the whole set coloured."""
    write_folder(tmp_path / "pictures", "L")
    Image.fromarray(pixels(1, 20, 20, 3)[0]).save(tmp_path / "pictures" / "cat" / "00.png")
    images = load(f"folder:{tmp_path / 'pictures'}", tmp_path).pixels.images
    assert images.shape[1] == 3
    np.testing.assert_array_equal(images[1:, 0], images[1:, 2])
    assert (images[0, 0] != images[0, 2]).any()


@pytest.mark.parametrize("mode", ["1", "LA"])
def test_black_and_white_and_transparent_grey_are_grey(mode: str, tmp_path: Path) -> None:
    """Neither makes the set coloured."""
    write_folder(tmp_path / "pictures", mode)
    assert load(f"folder:{tmp_path / 'pictures'}", tmp_path).shape[0] == 1


def test_a_grey_picture_of_16_bits_keeps_its_shades(tmp_path: Path) -> None:
    """Its range is brought to that of 8 bits instead of being cut off at white."""
    write_folder(tmp_path / "pictures")
    Image.fromarray(np.full((20, 20), 0x8000, dtype=np.uint16)).save(tmp_path / "pictures" / "cat" / "00.png")
    images = load(f"folder:{tmp_path / 'pictures'}", tmp_path).pixels.images
    assert images.shape[1] == 1
    assert abs(int(images[0, 0, 5, 5]) - 128) <= 1


def test_a_palette_with_transparent_colours_is_read_without_a_warning(tmp_path: Path) -> None:
    """Such pictures are common on the web, and nothing is printed of them."""
    write_folder(tmp_path / "pictures")
    picture = Image.fromarray(pixels(1, 20, 20)[0] % 4).convert("P")
    picture.save(tmp_path / "pictures" / "cat" / "00.png", transparency=bytes([0, 100, 200, 255]))
    assert load(f"folder:{tmp_path / 'pictures'}", tmp_path).shape[0] == 3


@pytest.mark.parametrize("size", [8, 17, 64])
def test_pictures_get_the_size_that_is_asked_for(size: int, tmp_path: Path) -> None:
    """From 8 to 64 pixels a side."""
    write_folder(tmp_path / "pictures")
    assert load(f"folder:{tmp_path / 'pictures'}", tmp_path, size).shape == (1, size, size)


@pytest.mark.parametrize("size", [7, 65])
def test_a_size_beyond_the_limits_is_refused(size: int, tmp_path: Path) -> None:
    """The error has the size and the limits."""
    write_folder(tmp_path / "pictures")
    assert f"{size} x {size} pixels: allowed are 8 to 64" in error_of(f"folder:{tmp_path / 'pictures'}", tmp_path, size)


def test_a_resized_picture_shows_the_same(tmp_path: Path) -> None:
    """Left and right, top and bottom stay where they are."""
    write_folder(tmp_path / "pictures")
    picture = np.zeros((40, 20), dtype=np.uint8)
    picture[:20, 10:] = 200
    Image.fromarray(picture).save(tmp_path / "pictures" / "cat" / "00.png")
    image = load(f"folder:{tmp_path / 'pictures'}", tmp_path, 16).pixels.images[0, 0]
    assert (image[2, 13], image[2, 2], image[13, 13], image[13, 2]) == (200, 0, 0, 0)


@pytest.mark.parametrize("path", [".hidden.png", "._00.png", ".thumbnails/00.png", "notes.txt", "../.trash/00.png"])
def test_hidden_files_and_what_is_no_picture_are_passed_over(path: str, tmp_path: Path) -> None:
    """File managers leave such things behind; broken as they may be, they are no part of the set."""
    write_folder(tmp_path / "pictures")
    before = load(f"folder:{tmp_path / 'pictures'}", tmp_path)
    stray = (tmp_path / "pictures" / "cat" / path).resolve()
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"no picture")
    assert load(f"folder:{tmp_path / 'pictures'}", tmp_path).fingerprint == before.fingerprint


@pytest.mark.parametrize("form", ["png", "jpg", "gif", "bmp", "tiff", "webp"])
@pytest.mark.parametrize("fault", ["empty", "cut short", "not a picture"])
def test_one_corrupt_picture_is_named_with_its_checksum(form: str, fault: str, tmp_path: Path) -> None:
    """The error has its path, so that it can be mended or taken out."""
    write_folder(tmp_path / "pictures")
    path = tmp_path / "pictures" / "dog" / f"bad.{form}"
    Image.fromarray(pixels(1, 20, 20, 3)[0]).save(path)
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "cut short": content[: len(content) // 2], "not a picture": b"no picture at all"}[fault])
    message = error_of(f"folder:{tmp_path / 'pictures'}", tmp_path)
    assert f"{path} cannot be read as an image" in message
    assert sha256(path) in message


@pytest.mark.parametrize("path", ["gone", "~nosuchuser/pictures", "a" * 300], ids=["gone", "unknown home", "too long"])
def test_a_folder_that_is_not_there_is_named(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the name as it was given and what the folder should hold."""
    monkeypatch.chdir(tmp_path)
    message = error_of(f"folder:{path}", tmp_path)
    assert f"folder:{path}" in message
    assert "sub-folder" in message


@pytest.mark.parametrize("content", ["empty", "pictures without sub-folders", "empty sub-folders"])
def test_a_folder_without_classes_is_told_what_it_needs(content: str, tmp_path: Path) -> None:
    """Pictures belong into a sub-folder for each class."""
    folder = tmp_path / "pictures"
    (folder / "cat" if content == "empty sub-folders" else folder).mkdir(parents=True)
    if content == "pictures without sub-folders":
        Image.fromarray(pixels(1, 20, 20)[0]).save(folder / "00.png")
    assert "no images found; it needs a sub-folder of images for each class" in error_of(f"folder:{folder}", tmp_path)


def test_a_folder_of_one_class_is_refused(tmp_path: Path) -> None:
    """Transfer learning needs two."""
    write_folder(tmp_path / "pictures", count=40)
    shutil.rmtree(tmp_path / "pictures" / "dog")
    assert "has one class" in error_of(f"folder:{tmp_path / 'pictures'}", tmp_path)


def test_a_folder_of_few_pictures_is_refused(tmp_path: Path) -> None:
    """The error has how many there are and how many are needed."""
    write_folder(tmp_path / "pictures", count=19)
    assert "has 38 images: at least 40 are needed" in error_of(f"folder:{tmp_path / 'pictures'}", tmp_path)
