"""Small sets of every kind for the tests of datasets, and what is said of one that cannot be used."""

from __future__ import annotations

import bz2
import hashlib
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torchvision
from PIL import Image

from harness import datasets
from harness.datasets import DATASETS, ImageSet
from harness.rules import UserError

Array = npt.NDArray[Any]

TRAIN, TEST = 30, 12
"""Images in the two parts of a set that a test makes."""

DOWNLOADED = {name: entry.fetch.args for name, entry in DATASETS.items() if isinstance(entry.fetch, partial)}
"""Class name, arguments and files of each set that torchvision downloads."""

REAL = Path(os.environ.get("HARNESS_DATA", "no folder"))
needs_mnist = pytest.mark.skipif(not (REAL / "MNIST" / "raw").is_dir(), reason="HARNESS_DATA names no folder with the real MNIST")


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
