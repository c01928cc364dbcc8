"""Files that are there whole or not at all, whatever is killed and however full the disk is. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_whole(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Writes a file under another name, and renames it when it is on the disk: until then what was there before stays.

    Args:
        path: Of the file; its folder is there.
        content: What is to be in it, or what writes that to an open file.

    Raises:
        OSError: if it cannot be written, such as on a full disk; nothing is left of the attempt.
    """
    draft = path.with_name(f"{path.name}.part")
    try:
        with draft.open("wb") as file:
            content(file) if callable(content) else file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Has the names in a folder on the disk, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
