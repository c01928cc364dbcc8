"""Writes that a store could not take, kept on disk until it can. Standard library only.

A journal is a folder: a line for each write, its checksum and JSON, after a first line that says of which sweep, and beside the
lines the contents of files. A line is added when all that belongs to it is on the disk. What a kill or a full disk leaves
half-written is at the very end, and is dropped.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Literal

from harness.disk import sync_folder, write_whole
from harness.rules import UserError

FORMAT = 1
LINES, FILES = "writes.jsonl", "files"

Kind = Literal["create", "batch", "input", "files", "status"]


class JournalError(UserError):
    """A journal that cannot be written, or not be read."""


@dataclass(frozen=True)
class Write:
    """One write on a run. Done twice it comes to the same as once: times are part of it, and a new run has a key.

    Attributes:
        kind: What is done with the run.
        run_id: Of the run; of one that is to be created the key by which it is known until the store gives it an id.
        content: What is written; JSON.
        files: Contents by path.
    """

    kind: Kind
    run_id: str
    content: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Header:
    """Of which sweep a journal is.

    Attributes:
        store: Address of the store, without its password.
        sweep: Identity of the sweep.
        experiment_id: Of its experiment.
    """

    store: str
    sweep: str
    experiment_id: str


class Journal:
    """A journal on disk. ``begin`` makes one, ``open`` finds one."""

    def __init__(self, folder: Path, header: Header, lines: int, end: int) -> None:
        """Takes what ``begin`` and ``open`` know.

        Args:
            folder: That of the journal.
            header: Of which sweep it is.
            lines: The number of writes in it.
            end: Where the last whole line ends, in bytes.
        """
        self.folder, self.header, self.length = folder, header, lines
        self._end = end
        self.size = end + sum(path.stat().st_size for path in (folder / FILES).rglob("*") if path.is_file())

    @classmethod
    def begin(cls, folder: Path, header: Header) -> Journal:
        """Makes an empty journal.

        Raises:
            JournalError: if the disk does not take it.
        """
        line = _as_line({"format": FORMAT, **asdict(header)})
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            shutil.rmtree(folder / FILES, ignore_errors=True)  # of a journal that was removed half-way
            (folder / FILES).mkdir()
            write_whole(folder / LINES, lambda file: file.write(line))
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise _unwritable(folder, error) from None
        return cls(folder, header, 0, len(line))

    @classmethod
    def open(cls, folder: Path) -> Journal | None:
        """Finds a journal, whole writes only; nothing where there is none.

        Raises:
            JournalError: if it is of another format, or broken elsewhere than at its end.
        """
        if not (folder / LINES).is_file():
            return None
        lines = (folder / LINES).read_bytes().splitlines(keepends=True)
        if lines and _content_of(lines[-1]) is None:
            lines.pop()
        for number, line in enumerate(lines, start=1):
            if _content_of(line) is None:
                raise _damaged(folder, f"line {number} is not what was written")
        first = (_content_of(lines[0]) if lines else None) or {}
        if first.pop("format", None) != FORMAT:
            raise _damaged(folder, "its first line is not that of a journal of this version")
        return cls(folder, Header(**first), len(lines) - 1, sum(map(len, lines)))

    def append(self, write: Write) -> None:
        """Adds a write, which is on the disk when this returns.

        Raises:
            JournalError: if the disk does not take it; the journal is then as before.
        """
        try:
            names = self._keep(write.files) if write.files else []
            line = _as_line({"kind": write.kind, "run": write.run_id, "content": write.content, "files": names})
            with (self.folder / LINES).open("r+b") as file:
                file.truncate(self._end)  # what an append that failed has left
                file.seek(self._end)
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _unwritable(self.folder, error) from None
        self._end += len(line)
        self.length += 1
        self.size += len(line) + sum(map(len, write.files.values()))

    def writes(self, skip: int = 0) -> Iterator[Write]:
        """Reads the writes in their order, without the first ``skip``.

        Raises:
            JournalError: if a file is not what was kept.
        """
        with (self.folder / LINES).open("rb") as file:
            for number, line in enumerate(file.read(self._end).splitlines(keepends=True)[1:]):
                if number >= skip:
                    entry = _content_of(line)
                    if entry is None:
                        raise _damaged(self.folder, f"line {number + 2} has changed")
                    files = {name: self._read(number, place, digest) for place, (name, digest) in enumerate(entry["files"])}
                    yield Write(entry["kind"], entry["run"], entry["content"], files)

    def remove(self) -> None:
        """Deletes the journal, its lines first: files without lines are none."""
        (self.folder / LINES).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _keep(self, files: Mapping[str, bytes]) -> list[tuple[str, str]]:
        """Writes the files of the next line, all or none; gives their names and SHA-256."""
        whole = self.folder / FILES / str(self.length)
        draft = whole.with_suffix(".part")
        for left_over in (whole, draft):
            shutil.rmtree(left_over, ignore_errors=True)
        try:
            draft.mkdir()
            for place, content in enumerate(files.values()):
                write_whole(draft / str(place), partial(_fill, content))
            draft.rename(whole)
            sync_folder(whole.parent)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        return [(name, sha256(content).hexdigest()) for name, content in files.items()]

    def _read(self, number: int, place: int, digest: str) -> bytes:
        try:
            content = (self.folder / FILES / str(number) / str(place)).read_bytes()
        except OSError as error:
            raise _damaged(self.folder, str(error)) from None
        if sha256(content).hexdigest() != digest:
            raise _damaged(self.folder, f"file {place} of write {number} has changed")
        return content


def _fill(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def _as_line(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content).encode()
    return _digest(text) + b" " + text + b"\n"


def _content_of(line: bytes) -> dict[str, Any] | None:
    """What a line says; nothing where it is not whole."""
    digest, _, text = line.partition(b" ")
    return dict(json.loads(text)) if text.endswith(b"\n") and _digest(text[:-1]) == digest else None


def _digest(text: bytes) -> bytes:
    return sha256(text).hexdigest()[:16].encode()


def _unwritable(folder: Path, error: OSError) -> JournalError:
    return JournalError(f"the journal {folder} cannot be written: {error.strerror or error}")


def _damaged(folder: Path, cause: str) -> JournalError:
    return JournalError(
        f"the journal {folder} is damaged: {cause}: move it away, and the trials whose results are in it run again"
    )
