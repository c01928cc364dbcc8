"""What a person sees while a sweep runs and when it is over. The only file that knows rich."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Protocol

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from harness.config import HEADLINES, TrialRecord

WIDE = 240
"""Characters of a line where no terminal limits them."""


class Display(Protocol):
    """Shows how a sweep goes on; all of it on stderr."""

    def start(self, title: str, units: float, done: float, total: int, ended: Sequence[TrialRecord]) -> None:
        """Begins: ``units`` of work in all, of which ``done``; ``total`` trials, of which some had ``ended`` before."""

    def more(self, units: float, trials: int) -> None:
        """There is more to do than was known in the beginning."""

    def advance(self, units: float) -> None:
        """Some work is done."""

    def trial_ended(self, name: str, record: TrialRecord, is_best: bool) -> None:
        """A trial has ended."""

    def note(self, text: str) -> None:
        """A sentence for the user."""

    def stop(self) -> None:
        """Ends."""


class PlainDisplay:
    """Plain lines, one for each trial."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
        self._started = time.monotonic()
        self._units = self._done = self._already = 0.0
        self._total = self._ended = self._failed = 0

    def start(self, title: str, units: float, done: float, total: int, ended: Sequence[TrialRecord]) -> None:
        """Begins."""
        self._started, self._units, self._done, self._already = time.monotonic(), units, done, done
        self._total, self._ended, self._failed = total, len(ended), _failed(ended)
        self.note(f"{title}: {total} trials" + (f", {len(ended)} done before" if ended else ""))

    def more(self, units: float, trials: int) -> None:
        """Expects more."""
        self._units, self._total = self._units + units, self._total + trials

    def advance(self, units: float) -> None:
        """Some work is done."""
        self._done += units

    def trial_ended(self, name: str, record: TrialRecord, is_best: bool) -> None:
        """Writes the trial's line."""
        self._ended += 1
        self._failed += record.status == "failed"
        left = f", {_duration(self._seconds_left())} left" if self._ended < self._total else ""
        failed = f", {self._failed} failed" if self._failed else ""
        self.note(f"[{self._ended}/{self._total}{failed}] {name}: {_outcome(record)}{' (best so far)' if is_best else ''}{left}")

    def note(self, text: str) -> None:
        """Writes a line."""
        self._console.print(text)

    def stop(self) -> None:
        """Has nothing to end."""

    def _seconds_left(self) -> float:
        done = self._done - self._already
        return (time.monotonic() - self._started) * (self._units - self._done) / done if done else 0.0


class LiveDisplay:
    """A bar with the trials done and failed and the time left, and the best so far in a line below it."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[trials]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            expand=True,
        )
        self._best = Text("  best so far: none in this run yet", style="dim", no_wrap=True, overflow="ellipsis")
        self._live = Live(Group(self._progress, self._best), console=self._console)
        self._task = TaskID(0)
        self._total = self._ended = self._failed = 0

    def start(self, title: str, units: float, done: float, total: int, ended: Sequence[TrialRecord]) -> None:
        """Shows the bar."""
        self._total, self._ended, self._failed = total, len(ended), _failed(ended)
        self._task = self._progress.add_task(title, total=units, completed=int(done), trials=self._trials())
        self._live.start()

    def more(self, units: float, trials: int) -> None:
        """Makes the bar longer."""
        self._total += trials
        whole = self._progress.tasks[self._task].total or 0
        self._progress.update(self._task, total=whole + units, trials=self._trials())

    def advance(self, units: float) -> None:
        """Moves the bar."""
        self._progress.advance(self._task, units)

    def trial_ended(self, name: str, record: TrialRecord, is_best: bool) -> None:
        """Counts the trial; writes a line where it failed."""
        self._ended += 1
        if record.status == "failed":
            self._failed += 1
            self.note(f"{name}: {_outcome(record)}")
        self._progress.update(self._task, trials=self._trials())
        if is_best:
            self._best.plain = f"  best so far: {name}: {_outcome(record)}"

    def note(self, text: str) -> None:
        """Writes a line above the bar."""
        self._console.print(text, markup=False, soft_wrap=True)

    def stop(self) -> None:
        """Leaves the bar as it is."""
        self._live.stop()

    def _trials(self) -> str:
        failed = f", {self._failed} failed" if self._failed else ""
        return f"{self._ended}/{self._total} trials{failed}"


def open_display() -> Display:
    """A live display on a terminal, plain lines elsewhere."""
    return LiveDisplay() if sys.stderr.isatty() else PlainDisplay()


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> None:
    """Prints a table on stdout; the first ``left`` columns are set to the left, the others to the right."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column("_\n".join(column.rsplit("_", 1)), justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = WIDE  # a file, or the next command, has room for a row in a line
    console.print(table)


def print_text(lines: Sequence[str]) -> None:
    """Prints sentences on stdout, wrapped to the terminal's width; what stands in from the left stays so."""
    console = Console(highlight=False, markup=False)
    for line in lines:
        text = line.lstrip()
        console.print(Padding(text, (0, 0, 0, len(line) - len(text))))


def print_lines(lines: Sequence[str], to_stderr: bool = False) -> None:
    """Prints lines as they are, unwrapped, so that they can be copied."""
    console = Console(stderr=to_stderr, highlight=False, markup=False, soft_wrap=True)
    for line in lines:
        console.print(line)


def _failed(records: Sequence[TrialRecord]) -> int:
    return sum(record.status == "failed" for record in records)


def _outcome(record: TrialRecord) -> str:
    if record.status != "finished":
        return record.reason if record.status == "pruned" else f"failed: {record.reason}"
    return ", ".join(f"{name} {record.metrics[name]:.4f}" for name in HEADLINES if name in record.metrics)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
