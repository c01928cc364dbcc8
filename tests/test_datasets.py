"""Datasets: what a set must be, and what is said of one that is missing, cut short or altered."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torchvision

from harness import datasets, downloads
from harness.datasets import DATASETS
from harness.rules import UserError
from tests.dataset_files import (
    DOWNLOADED,
    REAL,
    TEST,
    TRAIN,
    error_of,
    load,
    make,
    md5,
    needs_mnist,
    pixels,
    point_downloads_at,
    sha256,
    write_idx,
    write_torchvision,
)

pytestmark = pytest.mark.usefixtures("nothing_remembered")


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


@pytest.mark.parametrize("has_its_file", [True, False])
def test_digits_are_those_that_scikit_learn_loads(has_its_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from its file, and by its own function where the file has moved."""
    from sklearn.datasets import load_digits

    if not has_its_file:
        monkeypatch.setattr(datasets, "_digits_file", lambda: None)
    read, expected = DATASETS["digits"].read("", tmp_path, None), load_digits()
    assert (read.images.dtype, read.labels.dtype, read.test_from) == (np.float32, np.int64, None)
    np.testing.assert_array_equal(read.images[:, 0] * 16, expected.images)
    np.testing.assert_array_equal(read.labels, expected.target)


def test_digits_are_read_without_loading_scikit_learn() -> None:
    """It takes a second, which every command would wait for."""
    program = "import sys; from harness import datasets; datasets.load('digits', ''); print('sklearn' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False"]


def test_datasets_are_kept_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is named goes before HARNESS_DATA, and that before the user's cache folder."""
    monkeypatch.setenv("HARNESS_DATA", "some/folder")
    assert datasets.data_root(None) == "some/folder"
    assert datasets.data_root("~/another") == str(Path.home() / "another")
    monkeypatch.delenv("HARNESS_DATA")
    assert "harness" in datasets.data_root(None)


# --- sets that torchvision downloads


@pytest.mark.parametrize("name", DOWNLOADED)
def test_images_and_labels_are_those_that_torchvision_reads(name: str, tmp_path: Path, unpublished: None) -> None:
    """Of both parts, from the same files, which but for those of USPS are read without it."""
    class_name, arguments, files = DOWNLOADED[name]
    write_torchvision(name, tmp_path)
    known = getattr(torchvision.datasets, class_name)
    parts = downloads.read_parts(class_name, arguments, files, tmp_path)
    for (images, labels), is_training in zip(parts, (True, False), strict=True):
        expected = known(str(tmp_path), train=is_training, **arguments)
        np.testing.assert_array_equal(images, np.asarray(expected.data))
        np.testing.assert_array_equal(labels, np.asarray(expected.targets))


def test_mnist_is_read_without_loading_torchvision(tmp_path: Path) -> None:
    """It takes a second or two, which every command would wait for."""
    write_torchvision("mnist", tmp_path)
    program = "import sys; from harness import datasets; datasets.load('mnist', sys.argv[1]); print('torchvision' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False"]


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


def test_parts_whose_images_differ_in_size_are_refused(tmp_path: Path) -> None:
    """Each file is as its header says; one line says what the sizes are."""
    paths = write_torchvision("kmnist", tmp_path)
    write_idx(paths[2], pixels(TEST, 20, 28))
    assert "(20, 28), (28, 28)" in error_of("kmnist", tmp_path)


def test_a_file_emptied_after_it_was_checked_is_told_in_a_line(tmp_path: Path) -> None:
    """What reads it checks its header again."""
    paths = write_torchvision("kmnist", tmp_path)
    class_name, arguments, files = DOWNLOADED["kmnist"]
    paths[0].write_bytes(b"")
    with pytest.raises(UserError, match="cannot be read"):
        downloads.read_parts(class_name, arguments, files, tmp_path)


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
