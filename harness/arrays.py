"""Arrays from a npz file of anybody's: without pickle, and nothing is unpacked before its size is known."""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.rules import UserError, checksum_words

LARGEST_ARRAY = 4 * 2**30
"""Bytes of one array: sets are held whole in memory, and 4 GiB are 90,000 colour images of 64 x 64 in float32."""

LONGEST_HEADER = 16 * 2**10
"""Bytes in which an array's header must end: those that NumPy writes have 128."""

COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""What NumPy writes. Others are unpacked by the block, of which a few bytes can become gigabytes."""


def read_arrays(path: Path, names: Sequence[str]) -> list[npt.NDArray[Any]]:
    """Reads the arrays of these names, and of the file nothing else.

    Raises:
        UserError: if the file is no npz, lacks one of them, or holds one that is too large or that only pickle could read.
    """
    try:
        with warnings.catch_warnings(), path.open("rb") as file, zipfile.ZipFile(file) as archive:
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote
            members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            for name in names:
                _check_member(path, name, members.get(name))
            return [_read_array(path, archive, members[name]) for name in names]
    except UserError:
        raise
    except Exception as error:  # what unpacks and reads a broken file may raise anything
        cause = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{path} cannot be read as npz without pickle ({cause[:200]}), {checksum_words(path)}: "
            "write it with numpy.savez, from arrays of numbers"
        ) from None


def _check_member(path: Path, name: str, member: zipfile.ZipInfo | None) -> None:
    if member is None:
        raise UserError(f"dataset npz:{path}: {name} is not in the file; it needs the arrays images and labels")
    if member.compress_type not in COMPRESSIONS:
        raise ValueError(f"{name} is compressed in another way than those of numpy.savez and numpy.savez_compressed")
    _check_size(path, name, member.file_size)


def _check_size(path: Path, name: str, size: int) -> None:
    if size > LARGEST_ARRAY + LONGEST_HEADER:
        raise UserError(
            f"{path}: the array {name} has {size} bytes when it is unpacked: allowed are {LARGEST_ARRAY}; "
            "give fewer images, or bytes instead of floats"
        )


def _read_array(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> npt.NDArray[Any]:
    with archive.open(member) as file:
        shape, dtype, start = _read_header(file.read(LONGEST_HEADER))
    if dtype.hasobject:
        raise ValueError(f"{member.filename} holds Python objects, which only pickle could read")
    if any(length < 0 for length in shape) or not dtype.itemsize:
        raise ValueError(f"{member.filename} has shape {shape} and type {dtype}")
    declared = math.prod(shape) * dtype.itemsize
    _check_size(path, member.filename.removesuffix(".npy"), declared)
    if start + declared != member.file_size:
        raise ValueError(f"{member.filename} has {member.file_size} bytes, and its header says {start + declared}")
    with archive.open(member) as file:
        array: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        return array


def _read_header(head: bytes) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Gives the shape, the type and where the values begin; makes no array."""
    file = io.BytesIO(head)
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"its arrays are of npy version {version}: allowed are (1, 0) and (2, 0)")
    shape, _, dtype = read(file)
    return shape, dtype, file.tell()
