"""Datasets: what a set must be, and what is said of one that is missing, cut short, altered or of the wrong form."""

from __future__ import annotations

import bz2
import gc
import gzip
import hashlib
import os
import pickle
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torchvision
from PIL import Image

from harness import datasets, downloads
from harness.datasets import DATASETS, FOLDER_IMAGE_SIZE, ImageSet
from harness.rules import UserError

Array = npt.NDArray[Any]

TRAIN, TEST = 30, 12
"""Images in the two parts of a set that a test makes."""

DOWNLOADED = {name: entry.fetch.args for name, entry in DATASETS.items() if isinstance(entry.fetch, partial)}
"""Class name, arguments and files of each set that torchvision downloads."""

REAL = Path(os.environ.get("HARNESS_DATA", "no folder"))
needs_mnist = pytest.mark.skipif(not (REAL / "MNIST" / "raw").is_dir(), reason="HARNESS_DATA names no folder with the real MNIST")


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    """No dataset is remembered from one test to the next."""
    datasets.load.cache_clear()
    yield
    datasets.load.cache_clear()


@pytest.fixture
def unpublished(monkeypatch: pytest.MonkeyPatch) -> None:
    """No checksum is published, so that a set that a test makes can be loaded."""
    monkeypatch.setattr(downloads, "PUBLISHED_MD5", {})


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every download is refused by a port on which nothing listens."""
    point_downloads_at("http://127.0.0.1:9/", monkeypatch)


def point_downloads_at(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes torchvision download from an address of this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for class_name, _, _ in DOWNLOADED.values():
        made = getattr(torchvision.datasets, class_name)
        if hasattr(made, "mirrors"):
            monkeypatch.setattr(made, "mirrors", [address])
        if hasattr(made, "url"):
            monkeypatch.setattr(made, "url", f"{address}gzip.zip")
        if hasattr(made, "split_list"):
            monkeypatch.setattr(made, "split_list", {part: [address + row[1], *row[1:]] for part, row in made.split_list.items()})


def pixels(count: int, *shape: int) -> Array:
    """Images that all differ, uint8."""
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def write_idx(path: Path, values: Array) -> None:
    """Writes unsigned bytes in the format of MNIST: a header of sizes, then the values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, dtype=">i4").tobytes()
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def write_libsvm(path: Path, images: Array, labels: Array) -> None:
    """Writes images of 0..255 in the format of USPS: a label from 1 and values of -1..1 a line, compressed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        f"{label + 1} " + " ".join(f"{place}:{value / 127.5 - 1:.6f}" for place, value in enumerate(image.ravel(), start=1))
        for image, label in zip(images, labels, strict=True)
    ]
    path.write_bytes(bz2.compress("\n".join(lines).encode()))


def write_torchvision(name: str, root: Path) -> list[Path]:
    """Writes the files of a set that torchvision reads; gives their paths."""
    paths = [root / file for file in DOWNLOADED[name][2]]
    for path in paths:
        count = TRAIN if path == paths[0] or "train" in path.name else TEST
        if path.suffix == ".bz2":
            write_libsvm(path, pixels(count, 16, 16), np.arange(count) % 10)
        else:
            write_idx(path, pixels(count, 28, 28) if "images" in path.name else np.arange(count) % 10)
    return paths


def write_folder(folder: Path, mode: str = "L", count: int = 20) -> None:
    """Writes two classes of pictures of various sizes."""
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(pixels(1, 9 + index % 20, 30 - index % 20, 3)[0]).convert(mode).save(
                folder / label / f"{index:02}.png"
            )


def npz_arrays(count: int = 42, height: int = 8, width: int = 9, channels: int = 0) -> dict[str, Array]:
    """Arrays that make a dataset."""
    shape = (channels, height, width) if channels else (height, width)
    return {"images": pixels(count, *shape), "labels": np.arange(count) % 3}


def make(name: str, root: Path) -> str:
    """Makes a small set of any kind below a folder; gives the name under which it loads."""
    if name in DOWNLOADED:
        write_torchvision(name, root)
    elif name == "folder":
        write_folder(root / "pictures")
        return f"folder:{root / 'pictures'}"
    elif name == "npz":
        np.savez(root / "arrays.npz", **npz_arrays())
        return f"npz:{root / 'arrays.npz'}"
    return name


def load(name: str, root: Path, image_size: int | None = None) -> ImageSet:
    """Checks and reads a dataset as a sweep does, from the disk."""
    datasets.prepare(name, str(root))
    datasets.load.cache_clear()
    return datasets.load(name, str(root), image_size)


def load_npz(root: Path, **arrays: Array) -> ImageSet:
    """Writes arrays and reads them as a dataset."""
    np.savez(root / "arrays.npz", **arrays)
    return load(f"npz:{root / 'arrays.npz'}", root)


def error_of(name: str, root: Path, image_size: int | None = None) -> str:
    """What the user is told of a dataset that cannot be used."""
    with pytest.raises(UserError) as caught:
        load(name, root, image_size)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def sha256(path: Path) -> str:
    """The checksum that a message names."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def md5(path: Path) -> str:
    """The checksum that is published of MNIST and that torchvision compares."""
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.mark.parametrize("name", DATASETS)
def test_every_dataset_gives_images_and_labels_in_the_same_form(name: str, tmp_path: Path, unpublished: None) -> None:
    """Whatever the files are, images are (N, C, H, W) in bytes or in [0, 1], with one label each."""
    data = load(make(name, tmp_path), tmp_path)
    images, labels, test_from = data.pixels
    assert images.ndim == 4
    assert images.dtype in (np.uint8, np.float32)
    assert images.flags["C_CONTIGUOUS"]
    assert images.min() >= 0
    assert images.max() <= (255 if images.dtype == np.uint8 else 1)
    assert images.max() > (1 if images.dtype == np.uint8 else 0.5)
    assert (labels.dtype, labels.shape, labels.min()) == (np.int64, (len(images),), 0)
    assert data.shape == images.shape[1:]
    assert test_from == (TRAIN if name in DOWNLOADED else None)


@pytest.mark.parametrize("name", DATASETS)
def test_every_dataset_has_the_same_fingerprint_whenever_it_is_read(name: str, tmp_path: Path, unpublished: None) -> None:
    """The fingerprint is of the content, 64 hexadecimal digits."""
    full = make(name, tmp_path)
    first, second = load(full, tmp_path), load(full, tmp_path)
    assert first is not second
    assert first.fingerprint == second.fingerprint
    assert len(bytes.fromhex(first.fingerprint)) == 32


@pytest.mark.parametrize("name", DATASETS)
def test_a_dataset_takes_a_path_exactly_where_it_needs_one(name: str) -> None:
    """A path too many or too few is answered with the form to write."""
    takes_path = DATASETS[name].takes_path
    with pytest.raises(UserError) as caught:
        datasets.check_name(name if takes_path else f"{name}:here")
    assert str(caught.value).endswith(f"is written {name}:PATH" if takes_path else f"is written {name}")
    datasets.check_name(f"{name}:here" if takes_path else name)


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "folder"])
def test_a_size_of_images_can_be_chosen_for_folders_only(name: str) -> None:
    """All other sets have images of their own size."""
    full = f"{name}:here" if DATASETS[name].takes_path else name
    with pytest.raises(UserError, match=f"image_size is for folder:PATH only: the images of {name} have"):
        datasets.check_name(full, 16)


def test_an_unknown_dataset_is_answered_with_the_nearest(tmp_path: Path) -> None:
    """The error lists the sets and says how those with a path are written."""
    message = error_of("minst", tmp_path)
    assert "unknown dataset 'minst'" in message
    assert "did you mean 'mnist'?" in message
    assert all(name in message for name in DATASETS)
    assert "folder:PATH" in message


def test_a_dataset_that_was_read_is_remembered(tmp_path: Path) -> None:
    """The second trial of a worker does not read it again."""
    assert datasets.load("digits", str(tmp_path)) is datasets.load("digits", str(tmp_path))


def test_datasets_are_kept_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is named goes before HARNESS_DATA, and that before the user's cache folder."""
    monkeypatch.setenv("HARNESS_DATA", "some/folder")
    assert datasets.data_root(None) == "some/folder"
    assert datasets.data_root("~/another") == str(Path.home() / "another")
    monkeypatch.delenv("HARNESS_DATA")
    assert "harness" in datasets.data_root(None)


# --- sets that torchvision downloads


@pytest.mark.parametrize("name", [name for name in DOWNLOADED if name not in ("emnist", "usps")])
def test_what_is_in_the_files_comes_out_with_the_test_split_last(name: str, tmp_path: Path, unpublished: None) -> None:
    """Images and labels are those on the disk, in their order."""
    write_torchvision(name, tmp_path)
    images, labels, test_from = load(name, tmp_path).pixels
    np.testing.assert_array_equal(images[:TRAIN, 0], pixels(TRAIN, 28, 28))
    np.testing.assert_array_equal(images[TRAIN:, 0], pixels(TEST, 28, 28))
    np.testing.assert_array_equal(labels, [*(np.arange(TRAIN) % 10), *(np.arange(TEST) % 10)])
    assert test_from == TRAIN


def test_the_images_of_emnist_are_turned_upright(tmp_path: Path) -> None:
    """Its files hold rows and columns exchanged."""
    write_torchvision("emnist", tmp_path)
    np.testing.assert_array_equal(load("emnist", tmp_path).pixels.images[:TRAIN, 0], pixels(TRAIN, 28, 28).transpose(0, 2, 1))


def test_usps_comes_out_in_bytes_with_labels_from_0(tmp_path: Path, unpublished: None) -> None:
    """Values of -1..1 become 0..255, labels of 1..10 become 0..9."""
    write_torchvision("usps", tmp_path)
    images, labels, _ = load("usps", tmp_path).pixels
    assert abs(images[:TRAIN, 0].astype(int) - pixels(TRAIN, 16, 16)).max() <= 1
    np.testing.assert_array_equal(labels[:TRAIN], np.arange(TRAIN) % 10)


@pytest.mark.parametrize("name", DOWNLOADED)
def test_a_set_that_is_missing_without_a_network_is_told_what_to_do(
    name: str, tmp_path: Path, no_network: None, capfd: pytest.CaptureFixture[str]
) -> None:
    """The error names the file, where it was looked for, and the two ways out; nothing else is printed on stdout."""
    class_name, _, files = DOWNLOADED[name]
    message = error_of(name, tmp_path / "data")
    assert (
        f"dataset {class_name}: {Path(files[0]).name} is missing, looked for in {(tmp_path / 'data' / files[0]).parent}"
        in message
    )
    assert "refused" in message
    assert "--data-root" in message
    assert "--dataset digits" in message
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("name", DOWNLOADED)
def test_one_missing_file_of_a_set_is_named(name: str, tmp_path: Path, no_network: None, unpublished: None) -> None:
    """A set of which some files are there is not a set."""
    last = write_torchvision(name, tmp_path)[-1]
    last.unlink()
    assert f"{last.name} is missing, looked for in {last.parent}" in error_of(name, tmp_path)


def test_a_data_root_that_cannot_be_made_is_named(tmp_path: Path, no_network: None) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "data").write_text("a file")
    assert str(tmp_path / "data") in error_of("mnist", tmp_path / "data")


@pytest.mark.parametrize(("which", "keep"), [(which, keep) for which in (0, 1) for keep in (0, 3, 6, 8, 10, 16, -1)])
def test_a_file_cut_short_is_named_with_its_checksum(which: int, keep: int, tmp_path: Path) -> None:
    """Wherever it was cut, in the header too, and without any published checksum."""
    path = write_torchvision("fashion_mnist", tmp_path)[which]
    path.write_bytes(path.read_bytes()[:keep])
    message = error_of("fashion_mnist", tmp_path)
    assert str(path) in message
    assert "cut short or altered" in message
    assert sha256(path) in message


@pytest.mark.parametrize("name", DOWNLOADED)
@pytest.mark.parametrize("which", ["first", "last"])
def test_a_file_of_any_set_that_was_cut_short_is_named(name: str, which: str, tmp_path: Path, unpublished: None) -> None:
    """Half a file is never read as a smaller set, and never ends in a traceback."""
    paths = write_torchvision(name, tmp_path)
    path = paths[0] if which == "first" else paths[-1]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert str(path) in error_of(name, tmp_path)


@pytest.mark.parametrize("place", range(8))
@pytest.mark.parametrize("which", [0, 1], ids=["images", "labels"])
def test_an_altered_header_is_an_error_of_the_file(which: int, place: int, tmp_path: Path) -> None:
    """A wrong type, number of dimensions or count in a header names the file, without any published checksum."""
    path = write_torchvision("fashion_mnist", tmp_path)[which]
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert str(path) in error_of("fashion_mnist", tmp_path)


def test_labels_and_images_of_different_number_are_refused(tmp_path: Path) -> None:
    """Two whole files that do not belong together are no set."""
    paths = write_torchvision("kmnist", tmp_path)
    write_idx(paths[1], np.arange(TRAIN - 1) % 10)
    message = error_of("kmnist", tmp_path)
    assert f"{TRAIN + TEST} images and labels of shape ({TRAIN + TEST - 1},)" in message


@pytest.mark.parametrize("root", ["absolute", "data", "."])
def test_files_that_differ_from_the_published_checksum_are_refused(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A made MNIST is not MNIST, however its folder is named: the error has the file and both checksums."""
    folder = tmp_path / "data"
    path = write_torchvision("mnist", folder)[0]
    monkeypatch.chdir(folder if root == "." else tmp_path)
    message = error_of("mnist", folder if root == "absolute" else Path(root))
    assert "MNIST/raw/train-images-idx3-ubyte is cut short or altered" in message
    assert md5(path) in message
    assert downloads.PUBLISHED_MD5["MNIST/raw/train-images-idx3-ubyte"] in message
    assert "delete it" in message
    assert "--data-root" in message


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that a web server of this machine serves, and from which torchvision downloads a small FashionMNIST."""
    served = tmp_path / "served"
    made, resources = torchvision.datasets.FashionMNIST, []
    for path in write_torchvision("fashion_mnist", served):
        (served / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        resources.append((f"{path.name}.gz", md5(served / f"{path.name}.gz")))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *arguments: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(served))) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        point_downloads_at(f"http://127.0.0.1:{server.server_address[1]}/", monkeypatch)
        monkeypatch.setattr(made, "resources", resources)
        yield served
        server.shutdown()


def test_a_missing_set_is_downloaded_once(mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time the files are there and the network is not asked."""
    first = load("fashion_mnist", tmp_path / "data")
    point_downloads_at("http://127.0.0.1:9/", monkeypatch)
    assert load("fashion_mnist", tmp_path / "data").fingerprint == first.fingerprint
    assert len(first.pixels.labels) == TRAIN + TEST


@pytest.mark.parametrize("refetched", [False, True], ids=["downloaded whole", "one file fetched again"])
def test_a_file_altered_after_its_download_is_named_with_its_checksum(refetched: bool, mirror: Path, tmp_path: Path) -> None:
    """The checksums that a download leaves go on to guard every file, also after one was deleted and fetched again."""
    load("fashion_mnist", tmp_path / "data")
    paths = [tmp_path / "data" / file for file in DOWNLOADED["fashion_mnist"][2]]
    if refetched:
        paths[-1].unlink()
        load("fashion_mnist", tmp_path / "data")
    before, content = sha256(paths[0]), bytearray(paths[0].read_bytes())
    content[1000] ^= 1
    paths[0].write_bytes(content)
    message = error_of("fashion_mnist", tmp_path / "data")
    assert str(paths[0]) in message
    assert sha256(paths[0]) in message
    assert before in message


def test_a_download_that_breaks_off_is_told_as_one(mirror: Path, tmp_path: Path) -> None:
    """A file that comes with another checksum than the published one is not taken."""
    packed = mirror / "train-images-idx3-ubyte.gz"
    packed.write_bytes(packed.read_bytes()[:500])
    message = error_of("fashion_mnist", tmp_path / "data")
    assert "train-images-idx3-ubyte is missing" in message
    assert "cannot be downloaded" in message


@needs_mnist
def test_the_real_mnist_is_as_published(tmp_path: Path) -> None:
    """60,000 and 10,000 images of 28 x 28 in ten classes, with the same fingerprint twice."""
    data = load("mnist", REAL)
    assert (len(data.pixels.images), data.pixels.test_from) == (70_000, 60_000)
    assert data.shape == (1, 28, 28)
    assert np.bincount(data.pixels.labels).shape == (10,)
    assert load("mnist", REAL).fingerprint == data.fingerprint


@needs_mnist
@pytest.mark.parametrize("fault", ["cut short", "altered"])
def test_a_damaged_copy_of_the_real_mnist_is_named_with_its_checksum(fault: str, tmp_path: Path) -> None:
    """One missing byte, or one byte of another value, is found."""
    raw = tmp_path / "MNIST" / "raw"
    shutil.copytree(REAL / "MNIST" / "raw", raw, copy_function=os.symlink)
    path = raw / "t10k-images-idx3-ubyte"
    content = bytearray(path.read_bytes())
    content[5_000_000] ^= fault == "altered"
    path.unlink()
    path.write_bytes(content if fault == "altered" else content[:-1])
    message = error_of("mnist", tmp_path)
    assert str(path) in message
    assert md5(path) in message


# --- folder:PATH


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


# --- npz:PATH


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
    save(path, images=np.tile(ARRAYS["images"][:1], (42, 1, 1)), labels=ARRAYS["labels"])
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
