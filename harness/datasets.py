"""Images by name: whole sets in memory, checked, with a fingerprint. To add one: an entry in ``DATASETS`` below."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from harness import downloads
from harness.arrays import read_arrays
from harness.folders import MOST_IMAGES, read_folder
from harness.rules import UserError, exists_as, unknown, user_path

SMALLEST, LARGEST = 8, 64
"""Allowed height and width of an image, in pixels."""

FOLDER_IMAGE_SIZE = 32
"""Side of a ``folder:`` dataset's images where ``--image-size`` does not say otherwise."""

FEWEST_IMAGES = 40


class Pixels(NamedTuple):
    """What a reader gives.

    Attributes:
        images: (N, C, H, W), uint8 in 0..255 or float32 in [0, 1].
        labels: (N,), int64 from 0.
        test_from: Index of the first image of the set's own test split, which comes last; ``None`` if it has none.
    """

    images: npt.NDArray[Any]
    labels: npt.NDArray[np.int64]
    test_from: int | None = None


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A whole dataset in memory.

    Attributes:
        name: As on the command line.
        pixels: Images and labels.
        fingerprint: SHA-256 of the images, the labels and their order.
    """

    name: str
    pixels: Pixels
    fingerprint: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.pixels.images.shape[1:]
        return int(channels), int(height), int(width)


@dataclass(frozen=True)
class Dataset:
    """How to get a dataset.

    Attributes:
        read: (argument, data root, image size) -> pixels; the argument is what follows the colon of the name.
        fetch: (data root) -> nothing: downloads what is missing and checks what is there.
        takes_path: Whether the name goes on with ``:PATH``.
    """

    read: Callable[[str, Path, int | None], Pixels]
    fetch: Callable[[Path], None] = lambda root: None
    takes_path: bool = False


def check_name(name: str, image_size: int | None = None) -> None:
    """Checks that a dataset of this name is known, without reading it.

    Raises:
        UserError: if it is not, if its path is missing, or if an image size is given where none can be chosen.
    """
    kind, _, argument = name.partition(":")
    if kind not in DATASETS:
        raise unknown("dataset", kind, DATASETS, "folder and npz are written folder:PATH and npz:PATH")
    if DATASETS[kind].takes_path != bool(argument) or (":" in name and not argument):
        form = f"{kind}:PATH" if DATASETS[kind].takes_path else kind
        raise UserError(f"dataset {name!r} is written {form}")
    if image_size is not None and kind != "folder":
        raise UserError(f"image_size is for folder:PATH only: the images of {kind} have a size of their own")


def prepare(name: str, data_root: str) -> None:
    """Downloads a dataset that is missing and checks the files of one that is there.

    Raises:
        UserError: if it cannot be had, or if a file is cut short or altered.
    """
    check_name(name)
    DATASETS[name.partition(":")[0]].fetch(Path(data_root))


LARGEST_LENT = 2**30
"""Bytes of images that are lent to other processes in files: as many as a temporary folder can be expected to take."""

OPEN_FILES = Path("/proc/self/fd")
"""Where Linux shows what a process has open."""

_GIVEN: dict[str, ImageSet] = {}


def give(data: ImageSet) -> None:
    """Keeps a dataset in this process, which then needs no files to have it."""
    _GIVEN[data.fingerprint] = data


def given(fingerprint: str) -> ImageSet | None:
    """The dataset of a fingerprint, where this process was given it."""
    return _GIVEN.get(fingerprint)


@contextmanager
def lent(data: ImageSet) -> Iterator[Callable[[], None]]:
    """Lends a dataset to other processes of this machine, in files that they all map.

    The files have no names and end with the processes that have them, however those end: the others open them where Linux
    shows what a process has open. Elsewhere there are none.

    Yields:
        What such a process calls to have it, as of ``give``. It is small, and does nothing where the files cannot be had: the
        process then reads the dataset as it would have done.
    """
    names: list[str] = []
    with ExitStack() as files:
        if OPEN_FILES.is_dir() and data.pixels.images.nbytes <= LARGEST_LENT:
            with suppress(OSError):  # no room for them
                for content in (data.pixels.images, data.pixels.labels):
                    file = files.enter_context(
                        TemporaryFile(buffering=0)
                    )  # nothing left to write, and to fail, when it is closed
                    np.save(file, content)
                    names.append(f"/proc/{os.getpid()}/fd/{file.fileno()}")
        yield partial(_borrow, names, data.name, data.pixels.test_from, data.fingerprint)


def _borrow(files: Sequence[str], name: str, test_from: int | None, fingerprint: str) -> None:
    with suppress(OSError, ValueError, EOFError):  # not there, or cut short
        images, labels = files
        give(ImageSet(name, Pixels(np.load(images, mmap_mode="r"), np.load(labels), test_from), fingerprint))


@lru_cache(maxsize=2)
def load(name: str, data_root: str, image_size: int | None = None) -> ImageSet:
    """Reads a whole dataset; the last two are remembered.

    Raises:
        UserError: if the name is unknown or the data are not as they should be.
    """
    check_name(name, image_size)
    kind, _, argument = name.partition(":")
    pixels = DATASETS[kind].read(argument, Path(data_root), image_size)
    _check_pixels(name, pixels)
    return ImageSet(name, pixels, _fingerprint(pixels))


def data_root(named: str | None) -> str:
    """The folder that was named, else that of ``HARNESS_DATA`` where it is set, else the user's cache folder."""
    import platformdirs

    return str(user_path(named or os.environ.get("HARNESS_DATA") or platformdirs.user_cache_dir("harness")))


def _fingerprint(pixels: Pixels) -> str:
    digest = hashlib.sha256(f"{pixels.images.shape} {pixels.images.dtype} {pixels.test_from}".encode())
    digest.update(np.ascontiguousarray(pixels.images).data)
    digest.update(np.ascontiguousarray(pixels.labels).data)
    return digest.hexdigest()


def _check_pixels(name: str, pixels: Pixels) -> None:
    images, labels = pixels.images, pixels.labels
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise UserError(
            f"dataset {name!r}: images have shape {images.shape}: allowed are (N, H, W) and (N, C, H, W) with C = 1 or 3"
        )
    if not all(SMALLEST <= side <= LARGEST for side in images.shape[2:]):
        height, width = images.shape[2:]
        raise UserError(
            f"dataset {name!r}: images are {height} x {width} pixels: allowed are {SMALLEST} to {LARGEST} on each side"
        )
    if len(images) < FEWEST_IMAGES:
        raise UserError(f"dataset {name!r} has {len(images)} images: at least {FEWEST_IMAGES} are needed for its three splits")
    if len(images) > MOST_IMAGES:
        raise UserError(f"dataset {name!r} has {len(images)} images: allowed are at most {MOST_IMAGES}; give it fewer")
    if _are_all_the_same(images):
        raise UserError(f"dataset {name!r}: all {len(images)} images are the same one: there is nothing to learn; give it others")
    if labels.shape != (len(images),):
        raise UserError(f"dataset {name!r}: {len(images)} images and labels of shape {labels.shape}: give one label an image")
    if len(np.unique(labels)) < 2:
        raise UserError(f"dataset {name!r} has one class: transfer needs at least two")


def _are_all_the_same(images: npt.NDArray[Any], block: int = 1024) -> bool:
    """A block at a time: most sets are done with after the first, and none needs another copy's memory."""
    return not any((images[start : start + block] != images[0]).any() for start in range(0, len(images), block))


def _read_digits(argument: str, root: Path, image_size: int | None) -> Pixels:
    """From the file that scikit-learn reads: to import scikit-learn for that takes every command a second."""
    if path := _digits_file():
        table = np.loadtxt(path, delimiter=",")  # 64 pixels in 0..16, and the digit
    else:  # it has another place in this scikit-learn
        from sklearn.datasets import load_digits

        table = np.column_stack(load_digits(return_X_y=True))
    return Pixels((table[:, :64].reshape(-1, 1, 8, 8) / 16).astype(np.float32), table[:, 64].astype(np.int64))


def _digits_file() -> Path | None:
    library = find_spec("sklearn")  # finds it without importing it
    if library is None or library.origin is None:
        return None
    path = Path(library.origin).parent / "datasets" / "data" / "digits.csv.gz"
    return path if path.is_file() else None


def _read_downloaded(
    class_name: str, files: tuple[str, ...], arguments: dict[str, str], argument: str, root: Path, image_size: int | None
) -> Pixels:
    parts = downloads.read_parts(class_name, arguments, files, root)
    images = np.concatenate([images.astype(np.uint8, copy=False) for images, _ in parts])[:, None]
    if class_name == "EMNIST":  # its files hold each letter with rows and columns exchanged
        images = images.swapaxes(2, 3)
    labels = np.concatenate([labels.astype(np.int64) for _, labels in parts])
    return Pixels(np.ascontiguousarray(images), labels, test_from=len(parts[0][0]))


def _read_folder(argument: str, root: Path, image_size: int | None) -> Pixels:
    folder = user_path(argument)
    if not exists_as(folder, "folder"):
        raise UserError(
            f"dataset folder:{argument}: there is no such folder; give one with a sub-folder of images for each class"
        )
    images, labels = read_folder(folder, image_size or FOLDER_IMAGE_SIZE)
    return Pixels(images, _number_labels(argument, labels))


def _read_npz(argument: str, root: Path, image_size: int | None) -> Pixels:
    path = user_path(argument)
    if not exists_as(path, "file"):
        raise UserError(
            f"dataset npz:{argument}: there is no such file; give one with images (N, H, W) or (N, C, H, W) and labels (N,)"
        )
    images, labels = read_arrays(path, ("images", "labels"))
    images = images[:, None] if images.ndim == 3 else images
    return Pixels(_as_pixels(argument, images), _number_labels(argument, labels))


def _number_labels(argument: str, labels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Numbers the classes that there are from 0, in their own order."""
    if labels.dtype.kind not in "biufUS":
        raise UserError(f"dataset npz:{argument}: labels are {labels.dtype}: allowed are numbers and words")
    if labels.size > MOST_IMAGES:
        raise UserError(
            f"dataset npz:{argument} has {labels.size} labels: allowed are at most {MOST_IMAGES}; give it fewer images"
        )
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.int64)


def _as_pixels(argument: str, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images)
    if images.dtype.kind != "f" or (images.size and not (images.min() >= 0 and images.max() <= 1)):
        raise UserError(f"dataset npz:{argument}: images are {images.dtype}: allowed are uint8 in 0..255 and floats in [0, 1]")
    return np.ascontiguousarray(images, dtype=np.float32)


_IDX = tuple(f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))
_EMNIST = tuple(
    f"EMNIST/raw/emnist-balanced-{part}-{kind}"
    for part in ("train", "test")
    for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
)


def _torchvision(class_name: str, files: tuple[str, ...], **arguments: str) -> Dataset:
    """A set that torchvision downloads; its files in the order of ``downloads.read_parts``."""
    return Dataset(
        read=partial(_read_downloaded, class_name, files, arguments),
        fetch=partial(downloads.fetch, class_name, arguments, files),
    )


DATASETS: dict[str, Dataset] = {
    "digits": Dataset(_read_digits),  # 1,797 handwritten digits, 8 x 8, shipped with scikit-learn
    "mnist": _torchvision("MNIST", tuple(f"MNIST/raw/{file}" for file in _IDX)),  # 70,000 digits, 28 x 28
    "fashion_mnist": _torchvision("FashionMNIST", tuple(f"FashionMNIST/raw/{file}" for file in _IDX)),  # clothing
    "kmnist": _torchvision("KMNIST", tuple(f"KMNIST/raw/{file}" for file in _IDX)),  # cursive Japanese characters
    "emnist": _torchvision("EMNIST", _EMNIST, split="balanced"),  # 131,600 letters and digits in 47 classes, 28 x 28
    "usps": _torchvision("USPS", ("usps.bz2", "usps.t.bz2")),  # 9,298 digits from envelopes, 16 x 16
    "folder": Dataset(_read_folder, takes_path=True),  # one sub-folder of images for each class
    "npz": Dataset(_read_npz, takes_path=True),  # images (N, H, W) or (N, C, H, W), labels (N,)
}
