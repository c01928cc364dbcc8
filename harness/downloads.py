"""Datasets that torchvision downloads: fetched once under a lock, and compared with checksums ever after."""

from __future__ import annotations

import bz2
import math
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.disk import write_whole
from harness.rules import UserError, checksum_words, digest_of

DOWNLOAD_TIMEOUT_SECONDS = 30

LARGEST_FILE = 2**30
"""Bytes of a file, as it comes and when it is unpacked: the largest that is known, EMNIST's archive, has half as many."""

PUBLISHED_MD5 = {
    "MNIST/raw/train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "MNIST/raw/train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "MNIST/raw/t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "MNIST/raw/t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
"""Of the unpacked files; other sets are compared with the list of checksums that their download leaves beside them."""


Part = tuple[npt.NDArray[Any], npt.NDArray[Any]]
"""Images and labels."""


def read_parts(class_name: str, arguments: dict[str, str], files: tuple[str, ...], root: Path) -> list[Part]:
    """The training part and the test part of a set that was fetched.

    IDX files are read here, the numbers that torchvision reads from them: to load torchvision takes a second or two.

    Args:
        class_name: Of ``torchvision.datasets``.
        arguments: More of what that class takes.
        files: That it reads, below the data root: images and labels of the training part, then of the test part, where they are
            IDX files.
        root: The data root.

    Raises:
        UserError: if its files do not hold what they should.
    """
    paths = [root / file for file in files]
    try:
        parts = _idx_parts(paths) if all(map(_is_idx, paths)) else _torchvision_parts(class_name, arguments, root)
        if len(sizes := {images.shape[1:] for images, _ in parts}) > 1:
            raise ValueError(f"images of several sizes: {', '.join(map(str, sorted(sizes)))}")
        return parts
    except Exception as error:  # what reads a file of other content may raise anything
        cause = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(
            f"dataset {class_name}: the files in {root} cannot be read ({cause}): "
            "delete them and run again, or name another folder with --data-root"
        ) from None


def _idx_parts(paths: list[Path]) -> list[Part]:
    return [(_read_idx(images), _read_idx(labels)) for images, labels in zip(paths[::2], paths[1::2], strict=True)]


def _torchvision_parts(class_name: str, arguments: dict[str, str], root: Path) -> list[Part]:
    parts = [_torchvision_part(class_name, arguments, root, train) for train in (True, False)]
    return [(np.asarray(part.data), np.asarray(part.targets)) for part in parts]


def _torchvision_part(class_name: str, arguments: dict[str, str], root: Path, train: bool, download: bool = False) -> Any:
    """The torchvision dataset of one part, with ``data`` and ``targets``, downloaded on request where it is missing."""
    import torchvision

    known = getattr(torchvision.datasets, class_name)
    # Torchvision would rather take a file of its older versions, which has no checksum and is read by torch.load.
    own = type(class_name, (known,), {"_check_legacy_exist": lambda self: False})
    return own(str(root), train=train, download=download, **arguments)


def _is_idx(path: Path) -> bool:
    return path.name.endswith("ubyte")


def _idx_header(path: Path) -> tuple[bytes, tuple[int, ...]]:
    """The four bytes that say what an IDX file holds, and the sizes of it; zeros for what is cut off."""
    length = 16 if "idx3" in path.name else 8
    with path.open("rb") as file:
        head = file.read(length).ljust(length, b"\0")
    return head[:4], tuple(np.frombuffer(head[4:], dtype=">u4").tolist())


def _idx_kind(sizes: tuple[int, ...]) -> bytes:
    """The four bytes of bytes of so many dimensions."""
    return bytes([0, 0, 8, len(sizes)])


def _read_idx(path: Path) -> npt.NDArray[np.uint8]:
    kind, sizes = _idx_header(path)
    if kind != _idx_kind(sizes):
        raise ValueError(f"{path.name} is no IDX file of bytes")
    return np.fromfile(path, np.uint8, offset=4 + 4 * len(sizes)).reshape(sizes)


def fetch(class_name: str, arguments: dict[str, str], files: tuple[str, ...], root: Path) -> None:
    """Downloads what is missing, and compares the files with the checksums published or taken at the download.

    Args:
        class_name: Of ``torchvision.datasets``.
        arguments: More of what that class takes.
        files: That it reads, below the data root.
        root: The data root.

    Raises:
        UserError: if a file cannot be had, or is cut short or altered.
    """
    paths = [root / file for file in files]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        _download(class_name, arguments, root, missing)
    try:
        _check_files(paths, root / f"{class_name}.sha256")
    except OSError as error:
        raise UserError(
            f"dataset {class_name}: {error.filename or root} cannot be read ({error.strerror}): "
            "make it readable, or name another folder with --data-root"
        ) from None


def _check_files(paths: list[Path], list_file: Path) -> None:
    for path in paths:
        _check_size(path, path.stat().st_size)
    _compare_checksums(paths, _known_checksums(list_file))
    for path in paths:
        _check_idx_length(path)
        _check_bz2(path)


def _download(class_name: str, arguments: dict[str, str], root: Path, missing: list[Path]) -> None:
    from filelock import FileLock

    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{class_name}.lock"), _network_timeout(), _bounded_downloads():
            for train in (True, False):
                _torchvision_part(class_name, arguments, root, train, download=True)
            _remember_checksums(root, root / f"{class_name}.sha256", [path for path in missing if path.is_file()])
    except (OSError, RuntimeError, EOFError) as error:
        _remove_empty(root, class_name)
        cause = " ".join(str(error).split())[:160]
        raise UserError(
            f"dataset {class_name}: {missing[0].name} is missing, looked for in {missing[0].parent}, "
            f"and cannot be downloaded ({cause}): "
            "name a folder that has it with --data-root, or use --dataset digits"
        ) from None


def _remove_empty(root: Path, class_name: str) -> None:
    """Takes away what a failed download leaves, but for files that it did get."""
    with suppress(OSError):
        (root / f".{class_name}.lock").unlink(missing_ok=True)
        for folder in (root / class_name / "raw", root / class_name, root):
            if folder.is_dir():
                folder.rmdir()


def _remember_checksums(root: Path, list_file: Path, paths: list[Path]) -> None:
    """Puts the checksums of these files into a list and keeps those of others that are in it."""
    lines = list_file.read_text().splitlines() if list_file.is_file() else []
    known = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    known |= {path.relative_to(root).as_posix(): digest_of(path) for path in paths}
    content = "".join(f"{digest}  {name}\n" for name, digest in known.items()).encode()
    write_whole(list_file, lambda file: file.write(content))


@contextmanager
def _network_timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


class _SizeLimit(urllib.request.BaseHandler):
    """Gives up a download that says it is too large, or that goes on and on."""

    def http_response(self, request: urllib.request.Request, response: Any) -> Any:
        """Puts the limit on a response before anything of it is read."""
        read, left = response.read, LARGEST_FILE
        if (response.length or 0) > left:
            response.close()
            raise OSError(f"{request.full_url} has {response.length} bytes, allowed are {LARGEST_FILE}")

        def read_within_limit(size: int | None = None) -> Any:
            nonlocal left
            content = read(size)
            left -= len(content)
            if left < 0:
                raise OSError(f"{request.full_url} has more than {LARGEST_FILE} bytes, which are allowed")
            return content

        response.read = read_within_limit
        return response

    https_response = http_response


@contextmanager
def _bounded_downloads() -> Iterator[None]:
    before = getattr(urllib.request, "_opener", None)
    urllib.request.install_opener(urllib.request.build_opener(_SizeLimit))
    try:
        yield
    finally:
        urllib.request.install_opener(before)  # none stands for Python's own


def _known_checksums(list_file: Path) -> dict[str, str]:
    known = dict(PUBLISHED_MD5)
    if list_file.is_file():
        known.update((name, digest) for digest, _, name in (line.partition("  ") for line in list_file.read_text().splitlines()))
    return known


def _compare_checksums(paths: list[Path], known: dict[str, str]) -> None:
    for path in paths:
        expected = next((digest for name, digest in known.items() if path.absolute().as_posix().endswith("/" + name)), None)
        found = digest_of(path, "md5" if expected and len(expected) == 32 else "sha256")
        if expected and found != expected:
            raise UserError(
                f"{path} is cut short or altered: its checksum is {found}, it should be {expected}: "
                "delete it and run again, or name another folder with --data-root"
            )


def _check_size(path: Path, size: int) -> None:
    if size > LARGEST_FILE:
        raise UserError(
            f"{path} has more than the {LARGEST_FILE} bytes, unpacked, that are allowed: "
            "delete it and run again, or name another folder with --data-root"
        )


def _check_bz2(path: Path) -> None:
    """Unpacks a bz2 file to its end."""
    if path.suffix != ".bz2":
        return
    try:
        with bz2.open(path) as file:
            content = file.read(LARGEST_FILE + 1)
        _check_size(path, len(content))
        if content.strip():
            return
        cause = "it is empty"
    except (OSError, EOFError) as error:
        cause = str(error)
    raise UserError(
        f"{path} is cut short or altered: {cause} ({checksum_words(path)}): "
        "delete it and run again, or name another folder with --data-root"
    )


def _check_idx_length(path: Path) -> None:
    """Compares an IDX file's length with what its own header says."""
    if not _is_idx(path):
        return
    kind, sizes = _idx_header(path)
    expected = 4 + 4 * len(sizes) + math.prod(sizes)
    if kind != _idx_kind(sizes) or path.stat().st_size != expected:
        raise UserError(
            f"{path} is cut short or altered: it has {path.stat().st_size} bytes, its header says {expected} "
            f"({checksum_words(path)}): delete it and run again, or name another folder with --data-root"
        )
