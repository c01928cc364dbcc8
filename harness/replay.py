"""Writes a journal that a sweep has left into its store."""

from __future__ import annotations

from pathlib import Path

from harness.journal import Journal
from harness.outage import Patience
from harness.rules import UserError
from harness.store import database_path
from harness.track import MlflowTracker


def replay(folder: Path, uri: str | None, patience: Patience) -> Journal:
    """Writes a journal into its store and removes it.

    Args:
        folder: Of the journal.
        uri: Of the store, where it is not the one that the journal names.
        patience: Whose notes are told.

    Returns:
        The journal that was.

    Raises:
        UserError: if there is no journal, or its sweep is being run, or the store is away, in which case it stays.
    """
    journal = Journal.open(folder)
    if journal is None:
        raise UserError(f"there is no journal in {folder}: --replay takes the folder that the error named")
    store = uri or journal.header.store
    if not uri and "***" in store:
        raise UserError(f"the journal {folder} is of the store {store}: add its address with the password: --tracking-uri URI")
    if (database := database_path(store)) and not database.exists():
        raise UserError(f"the store {store} of the journal {folder} is missing: bring it back, or name it with --tracking-uri")
    tracker = MlflowTracker(store)
    with tracker.claim(journal.header.sweep):
        tracker.write_journal(journal, patience)
    return journal
