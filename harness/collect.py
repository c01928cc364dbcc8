"""The files of chosen trials in a tidy tree on disk, with an index. Begun again it fetches what is missing.

A file is there whole or not at all, so that what is there is kept::

    DIR/index.csv                                                a line a file: path, trial, run, bytes, SHA-256
    DIR/trials.csv                                               a line a trial: its folder, configuration and metrics
    DIR/latent_sweep-digits-0123abcd/sweep-89ef4567/             the files of the sweep
    DIR/latent_sweep-digits-0123abcd/trial-0007-base-d=10-seed=1-4cd5e6f7/
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath

from harness.config import TrialRecord
from harness.disk import write_whole
from harness.reader import StoreReader
from harness.rules import UserError, digest_of, leads_outside, shown
from harness.sweeps import StoredSweep
from harness.tables import as_frame, trial_name

SHORT_ID = 8
INDEX_FILE, TRIALS_FILE = "index.csv", "trials.csv"


@dataclass(frozen=True)
class IndexLine:
    """A file of the tree.

    Attributes:
        path: Below the tree's folder.
        study: Name of the study.
        sweep: Identity of the sweep.
        trial: Number of the trial; empty for the files of a whole sweep.
        run_id: Of the run that has the file.
        artifact: Its path there.
        bytes: Its size.
        sha256: Its checksum.
    """

    path: str
    study: str
    sweep: str
    trial: str
    run_id: str
    artifact: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Collected:
    """What a tree came to.

    Attributes:
        files: All that belong to it.
        fetched: Those of them that were not there before.
        bytes: Of all.
    """

    files: int
    fetched: int
    bytes: int


def collect(reader: StoreReader, sweeps: Sequence[StoredSweep], folder: Path, note: Callable[[str], None]) -> Collected:
    """Fetches all files of sweeps and of their trials, and writes the index when all are there.

    Args:
        reader: Of the store.
        sweeps: With the trials that were selected.
        folder: Of the tree; made where it is not there.
        note: Is told of each run that is done.

    Raises:
        UserError: if a file cannot be read or written, or its name leads out of the folder.
    """
    tree = _Tree(reader, folder)
    runs = sum(1 + len(sweep.runs) for sweep in sweeps)
    lines: list[IndexLine] = []
    for done, (sweep, run_id, number, place) in enumerate(_places(sweeps), start=1):
        lines += tree.fetch(sweep, run_id, number, place)
        note(f"[{done}/{runs}] {place}")
    tree.write(INDEX_FILE, _csv(lines))
    rows = [
        {"folder": _trial_place(sweep, each), **row}
        for sweep in sweeps
        for each, row in zip(sweep.records, sweep.rows, strict=True)
    ]
    tree.write(TRIALS_FILE, as_frame(rows).to_csv(index=False).encode())
    return Collected(len(lines), tree.fetched, sum(line.bytes for line in lines))


def _places(sweeps: Sequence[StoredSweep]) -> Iterator[tuple[StoredSweep, str, str, str]]:
    """Every run: its sweep, its id, the number of its trial, and its folder in the tree."""
    for sweep in sweeps:
        run_id = sweep.parent.run_id
        yield sweep, run_id, "", f"{_sweep_place(sweep)}/sweep-{run_id[:SHORT_ID]}"
        for record in sweep.records:
            yield sweep, record.run_id, str(record.trial.number), _trial_place(sweep, record)


def _sweep_place(sweep: StoredSweep) -> str:
    return f"{_as_name(f'{sweep.study}-{sweep.dataset}')}-{sweep.identity[:SHORT_ID]}"


def _trial_place(sweep: StoredSweep, record: TrialRecord) -> str:
    """With the run's id: a trial that ran again has another run, with other files."""
    name = _as_name(trial_name(record.trial, ()))
    return f"{_sweep_place(sweep)}/trial-{record.trial.number:04}-{name}-{record.run_id[:SHORT_ID]}"


def _as_name(text: str) -> str:
    """A text as the name of a folder on any system."""
    return re.sub(r"[^A-Za-z0-9._=]+", "-", text).strip("-.")[: SHORT_ID * 10]


class _Tree:
    """The folder, and how many files were fetched into it."""

    def __init__(self, reader: StoreReader, folder: Path) -> None:
        self._reader, self._folder, self.fetched = reader, folder, 0

    def fetch(self, sweep: StoredSweep, run_id: str, number: str, place: str) -> list[IndexLine]:
        """Fetches the files of a run that are not there; of a sweep, which may be gone on with, those from before its end too."""
        files = self._reader.files(run_id)
        lines = []
        for artifact, size in files.sizes().items():
            path = f"{place}/{_checked(run_id, artifact)}"
            target = self._folder / path
            if not _is_there(target, size, 0.0 if number else (sweep.parent.ended or math.inf) / 1000):
                self.write(path, files.read(artifact))
                self.fetched += 1
            lines.append(
                IndexLine(path, sweep.study, sweep.identity, number, run_id, artifact, target.stat().st_size, digest_of(target))
            )
        return lines

    def write(self, path: str, content: bytes) -> None:
        """Writes a file, whole or not at all."""
        target = self._folder / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if leads_outside(target, self._folder):
                raise UserError(f"{target} is a link that leads out of {self._folder}: take it out, or choose another folder")
            write_whole(target, content)
        except OSError as error:
            cause = error.strerror or str(error)
            raise UserError(f"{target} cannot be written: {cause}: mend that, then the same command goes on") from error


def _is_there(target: Path, size: int, since: float) -> bool:
    """Whether a file is there, which is whole then, and not from before a time."""
    try:
        found = target.stat()
    except OSError:
        return False
    return found.st_size == size and found.st_mtime > since


def _checked(run_id: str, artifact: str) -> str:
    """A path as a store gives it, which may be anybody's."""
    path = PurePosixPath(artifact)
    if path.is_absolute() or ".." in path.parts or "\\" in artifact or not artifact.isprintable():
        raise UserError(
            f"run {run_id} has a file {shown(artifact)}, whose name leads out of its folder: take it out of the store"
        )
    return artifact


def _csv(lines: Sequence[IndexLine]) -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, [each.name for each in fields(IndexLine)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, lines))
    return buffer.getvalue().encode()
