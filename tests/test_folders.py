"""Folders of images of anybody's: nothing from outside of them, no programs, nothing of absurd size."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from harness import folders
from harness.folders import read_folder
from harness.rules import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of two pictures each."""
    for label in ("cat", "dog"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for index in range(2):
            Image.new("L", (10, 9), 40 * index).save(tmp_path / "pictures" / label / f"{index}.png")
    return tmp_path / "pictures"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A class of one picture outside of the folder."""
    (tmp_path / "elsewhere").mkdir()
    Image.new("L", (10, 9)).save(tmp_path / "elsewhere" / "secret.png")
    return tmp_path / "elsewhere"


def error_of(folder: Path) -> str:
    """What the user is told of a folder that cannot be used."""
    with pytest.raises(UserError) as caught:
        read_folder(folder, 8)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("link", ["cat/9.png", "mouse", "cat/more"])
@pytest.mark.parametrize("form", ["absolute", "relative"])
def test_a_link_that_leads_out_of_the_folder_is_refused(link: str, form: str, folder: Path, elsewhere: Path) -> None:
    """An image, a class and a folder of a class: the line has its name."""
    target = elsewhere / "secret.png" if link.endswith(".png") else elsewhere
    ups = "../" * (1 + link.count("/"))
    (folder / link).symlink_to(target if form == "absolute" else f"{ups}{target.relative_to(folder.parent)}")
    message = error_of(folder)
    assert f"{folder / link} is a link that leads out of {folder}" in message


def test_links_within_the_folder_are_followed(folder: Path) -> None:
    """As are those to the folder itself, and those that are no image and lead anywhere are passed over."""
    (folder / "cat" / "9.png").symlink_to("../dog/1.png")
    (folder / "cat" / "notes.txt").symlink_to("/etc/hostname")
    (folder / "cat" / "loop.png").symlink_to("loop.png")
    (folder.parent / "link").symlink_to(folder)
    images, labels = read_folder(folder.parent / "link", 8)
    assert labels.tolist() == [0, 0, 0, 1, 1]
    assert images[2].max() == 40


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_unpacked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pixel over the limit is enough; at the limit it is taken. Pillow's own limit is as it was afterwards."""
    before = Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(folders, "MOST_PIXELS", 90)
    read_folder(folder, 8)
    Image.new("L", (91, 1)).save(folder / "dog" / "wide.png")
    message = error_of(folder)
    assert f"{folder / 'dog' / 'wide.png'} has more than the 90 pixels that are allowed" in message
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_small_file_of_a_huge_picture_is_refused(folder: Path) -> None:
    """Also where Pillow itself would refuse it: a header is all that is read."""
    content = bytearray((folder / "dog" / "0.png").read_bytes())
    content[16:24] = np.array([60_000, 60_000], dtype=">u4").tobytes()
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    (folder / "dog" / "0.png").write_bytes(content)
    assert str(folders.MOST_PIXELS) in error_of(folder)


def test_too_many_images_are_refused_before_any_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line has the limit."""
    monkeypatch.setattr(folders, "MOST_IMAGES", 3)
    monkeypatch.setattr(Image, "open", None)
    assert "more than 3 images" in error_of(folder)


@pytest.mark.parametrize("name", ["cat/9.eps", "cat/9.png"])
def test_a_picture_that_is_a_program_is_not_executed(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is called, it never comes to Ghostscript, which Pillow would start."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", None)
    Image.new("L", (10, 9)).save(folder / name, format="EPS")
    message = error_of(folder)
    assert f"{folder / name} cannot be read as an image" in message
    assert "allowed are PNG, JPEG" in message


def test_a_picture_of_more_than_16_bits_is_refused(folder: Path) -> None:
    """Its values would come out as others."""
    Image.fromarray(np.full((9, 9), 70_000, dtype=np.int32)).save(folder / "cat" / "9.tiff")
    assert "more than 16 bits" in error_of(folder)


def test_a_folder_that_cannot_be_listed_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line has the system's reason."""

    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert "Permission denied" in error_of(folder)
