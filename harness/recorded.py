"""Files of runs, which may be damaged: what cannot be read is said in a line. Standard library only."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

from harness.rules import UserError

DAMAGE = (ValueError, KeyError, IndexError, TypeError, EOFError, zipfile.BadZipFile)
"""What the readers of CSV, JSON, npz and safetensors raise on a file that is not what it was."""


@contextmanager
def reading(run_id: str, path: str) -> Iterator[None]:
    """While the content of a run's file is taken apart.

    Raises:
        UserError: instead of what a damaged file makes of the reading.
    """
    try:
        yield
    except DAMAGE as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        step = "put back the file as it was, or delete the run in MLflow and start its sweep again"
        raise UserError(f"{path} of the run {run_id} is damaged ({cause}): {step}") from error
