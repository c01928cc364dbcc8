"""Keeps a sweep going while its store is away: what cannot be written goes to a journal, and from there into the store."""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeVar

from harness.journal import Header, Journal, JournalError, Write
from harness.rules import UserError
from harness.store_errors import LoginError, StoreError, TrashedError

RETRY_SECONDS = 5.0
"""The store is asked again when this time has passed since it was last asked."""

WAITING_SHARE = 5
"""After a try that took long, as with a server whose database is locked, the next one comes after so many times as long."""

CALM_SECONDS = 1.0
"""A store that has just taken a write is not asked whether it is there."""

LARGEST_JOURNAL = 2 * 1024**3
"""Bytes of a journal at which a sweep ends."""

Answer = TypeVar("Answer")


class Writer(Protocol):
    """What takes writes."""

    def write(self, write: Write, again: bool = False) -> str:
        """Does a write, which may have been done before where it is done ``again``; gives the run's id."""


@dataclass(frozen=True)
class Patience:
    """How long a sweep goes on without its store.

    Attributes:
        minutes: So long; the first write that fails ends it where that is 0.
        note: Says a sentence to the user.
        stop: Is set when there is to be no more waiting.
    """

    minutes: float = 0.0
    note: Callable[[str], None] = field(default=lambda text: None)
    stop: threading.Event = field(default_factory=threading.Event)


class JournaledRuns:
    """Writes to a store, or to a journal as long as the store is away; a ``Writer``.

    All that is written after the first write that failed goes to the journal, so that the order stays. A run that is
    begun meanwhile is known by its key; ``stored_id`` gives its id when there is one.
    """

    def __init__(self, store: Writer, address: str, ask: Callable[[], None], patience: Patience) -> None:
        """Writes to the store as long as it is there.

        Args:
            store: What takes the writes.
            address: Of the store, as it may be shown.
            ask: Raises ``StoreError`` if the store is not there.
            patience: How long to go on without it.
        """
        self._store, self._address, self._ask, self._patience = store, address, ask, patience
        self._header = Header(address, "", "")
        self._folders: Sequence[Path] = ()
        self._journal: Journal | None = None
        self._ids: dict[str, str] = {}
        self._done = 0
        self._since = self._asked = self._served = -float("inf")
        self._pause = RETRY_SECONDS
        self._has_given_up = self._is_within = False

    @contextmanager
    def as_one(self) -> Iterator[None]:
        """For writes that are of no use by halves, such as of a trial's end: patience that ends meanwhile ends after them."""
        self._is_within = True
        try:
            yield
        finally:
            self._is_within = False

    def open(self, header: Header, folders: Sequence[Path]) -> int:
        """Writes what an earlier command of the sweep has left in its journal; gives how many writes that were.

        Args:
            header: Which sweep it is.
            folders: Where its journal may be, the best place first.

        Raises:
            StoreError: if the store is away; the journal stays.
        """
        self._header, self._folders = header, folders
        journals = [journal for folder in folders if (journal := Journal.open(folder))]
        for journal in journals:
            self.replay(journal)
        if count := sum(journal.length for journal in journals):
            self._patience.note(f"note: {count} writes of an earlier command were in a journal; they are in the store now")
        return count

    def replay(self, journal: Journal, skip: int = 0) -> None:
        """Does the writes of a journal and removes it.

        Raises:
            StoreError: if the store is away; the journal stays, and may be replayed as often as one likes.
        """
        self._ask()
        self._done = skip
        for write in journal.writes(skip):
            self._do_again(write, journal.folder)
            self._done += 1
        journal.remove()

    def write(self, write: Write, again: bool = False) -> str:
        """Writes to the store, or to the journal while the store is away; gives the run's id or key.

        Raises:
            StoreError: if the store has been away for too long.
            LoginError: if the store does not take the login: that is no outage, and ends the sweep at once.
            JournalError: if the journal cannot be written either.
        """
        if self._journal is not None and self._is_time_to_ask():
            self._catch_up()
        write = replace(write, run_id=self.stored_id(write.run_id))  # which catching up may have told
        if self._journal is None:
            try:
                return self._served_by(lambda: self._store.write(write, again))
            except StoreError as error:
                self._begin_outage(error)
        self._keep(write)
        return write.run_id

    def read(self, read: Callable[[], Answer]) -> Answer:
        """Reads from the store; waits for it where it is away."""
        try:
            return self._served_by(read)
        except StoreError:
            if error := self._why_away():
                self._begin_outage(error)
                self.settle()
            return read()

    def settle(self) -> None:
        """Returns when all that was kept is in the store.

        Raises:
            StoreError: if the store stays away for too long.
            KeyboardInterrupt: if there is to be no more waiting; the journal stays.
        """
        while self._journal is not None and not self._catch_up():
            self._check_patience()
            if self._patience.stop.wait(min(RETRY_SECONDS, max(0.05, self._seconds_left()))):
                raise KeyboardInterrupt

    def stored_id(self, run_id: str) -> str:
        """The id that the store gave the run of a key; anything else stays as it is."""
        return self._ids.get(run_id, run_id)

    def _served_by(self, call: Callable[[], Answer]) -> Answer:
        if time.monotonic() - self._served > CALM_SECONDS:
            self._ask()
        answer = call()
        self._served = time.monotonic()
        return answer

    def _do_again(self, write: Write, folder: Path) -> None:
        try:
            run_id = self._store.write(replace(write, run_id=self.stored_id(write.run_id)), again=True)
        except TrashedError as error:
            self._patience.note(f"note: {error}: what was kept of it is dropped")
            return
        except (StoreError, LoginError):
            raise
        except UserError as error:
            raise JournalError(
                f"the store does not take what the journal {folder} holds: {error}; or move the journal away"
            ) from None
        if write.kind == "create":
            self._ids[write.run_id] = run_id

    def _is_time_to_ask(self) -> bool:
        return not self._has_given_up and time.monotonic() - self._asked >= self._pause

    def _why_away(self) -> StoreError | None:
        try:
            self._ask()
        except StoreError as error:
            return error
        return None

    def _begin_outage(self, error: StoreError) -> None:
        error = self._why_away() or error  # which says it in fewer words than a client does
        self._journal, self._done = self._begin_journal(error), 0
        self._since = self._asked = time.monotonic()
        self._pause = RETRY_SECONDS
        self._patience.note(
            f"note: {error.cause_line}; training goes on for {self._patience.minutes:g} minutes at the most, "
            f"and what it gives is kept in {self._journal.folder}"
        )

    def _begin_journal(self, error: StoreError) -> Journal:
        """Makes the journal in the first folder that takes it."""
        causes = []
        for folder in self._folders:
            try:
                return Journal.begin(folder, self._header)
            except JournalError as unwritable:
                causes.append(str(unwritable))
        raise JournalError(
            f"{error.cause_line}, and there is no place for its results: {'; '.join(causes)}: "
            "free some space there; the same command goes on with what has ended"
        )

    def _catch_up(self) -> bool:
        """Tries to do the writes that were kept; gives whether all are done."""
        if self._journal is None:
            return True
        began = time.monotonic()
        try:
            self.replay(self._journal, self._done)
        except StoreError:
            return False
        except LoginError as error:
            self._has_given_up = True
            raise UserError(f"{error}; {self._what_replays()}") from None
        finally:
            self._asked = time.monotonic()
            self._pause = max(RETRY_SECONDS, WAITING_SHARE * (self._asked - began))
        self._patience.note(f"note: the tracking store is back, and has the {self._journal.length} writes that were kept")
        self._journal = None
        return True

    def _keep(self, write: Write) -> None:
        if self._journal is None:
            raise RuntimeError("a write is kept in an outage only")
        try:
            self._journal.append(write)
        except JournalError as error:
            self._has_given_up = True
            raise JournalError(
                f"the tracking store {self._address} is away, and {error}: free some space there; {self._what_replays()}"
            ) from None
        self._check_patience()

    def _seconds_left(self) -> float:
        return self._since + 60 * self._patience.minutes - time.monotonic()

    def _check_patience(self) -> None:
        """Ends the sweep, once, when the store has been away for too long or the journal has grown too large."""
        if self._journal is None or self._has_given_up:
            return
        if self._seconds_left() <= 0 and not self._is_within:
            why = f"for more than {self._patience.minutes:g} minutes"
        elif self._journal.size > LARGEST_JOURNAL:
            why = f"until its journal had {LARGEST_JOURNAL / 1024**3:g} GiB"
        else:
            return
        self._has_given_up = True
        raise StoreError(self._address, f"it was away {why}", self._what_replays())

    def _what_replays(self) -> str:
        folder = self._journal.folder if self._journal else ""
        return (
            f"results are kept in {folder}: when the store is back, python -m harness.study --replay {shlex.quote(str(folder))} "
            "writes them into it, and so does the same command, which then goes on"
        )
