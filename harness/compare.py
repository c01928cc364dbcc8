"""``python -m harness.compare``: sweeps side by side from their runs alone, as tables, files, a DataFrame or an Optuna study.

In Python::

    from harness import compare
    frame = compare.load("latent_sweep")            # a pandas DataFrame, a row a trial
    study = compare.optuna_study("latent_sweep")    # an optuna.Study, for any of Optuna's plots

What is slow to load is imported where it is first needed, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from shlex import quote
from typing import TYPE_CHECKING

from harness import compare_options
from harness.commands import DONE, run_as_program, run_command
from harness.compare_options import Request
from harness.config import HEADLINES
from harness.disk import write_whole
from harness.rules import UserError, user_path, without_password

if TYPE_CHECKING:
    from harness.optuna_study import Study
    from harness.reader import StoredRun, StoreReader
    from harness.sheets import Comparison
    from harness.sweeps import StoredSweep
    from harness.tables import DataFrame

LONGEST_TABLE = 40
LISTED = ("sweep", "study", "dataset", "trials", "status", "began", "run")


def load(*studies: str, where: str = "", tracking_uri: str | None = None) -> DataFrame:
    """Reads the ended trials of sweeps.

    Args:
        studies: Names of studies (their newest sweeps), identities of sweeps or ids of parent runs.
        where: An expression of SQL on the columns that selects trials, such as ``architecture = 'base'``.
        tracking_uri: Of the store; ``MLFLOW_TRACKING_URI`` or ``mlflow.db`` in this folder where it is ``None``.

    Returns:
        A row a trial: study, sweep, number, run, status, every field of the configuration and every metric.

    Raises:
        UserError: if there is no such sweep or store, or no trial is selected.
    """
    from harness import tables
    from harness.reader import open_reader

    sweeps = _find(open_reader(tracking_uri), studies, where)
    return tables.as_frame(row for sweep in sweeps for row in sweep.rows)


def optuna_study(study: str, metrics: Sequence[str] = (), where: str = "", tracking_uri: str | None = None) -> Study:
    """Makes an Optuna study in memory of the ended trials of a sweep.

    Args:
        study: Name of a study (its newest sweep), identity of a sweep or id of its parent run.
        metrics: The values of the trials; what the sweep has optimised where there are none.
        where: An expression of SQL that selects trials; empty for all.
        tracking_uri: Of the store; ``MLFLOW_TRACKING_URI`` or ``mlflow.db`` in this folder where it is ``None``.

    Raises:
        UserError: if there is no such sweep, store or metric, or no trial is selected.
    """
    from harness.reader import open_reader

    (sweep,) = _find(open_reader(tracking_uri), [study], where)
    return sweep.optuna_study(metrics)


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command; gives its exit code."""
    words = sys.argv[1:] if words is None else words
    return run_command(lambda: _run(compare_options.parse(words)), lambda: "interrupted: the same command goes on")


def _run(request: Request) -> int:
    from harness.reader import open_reader

    reader = open_reader(request.tracking_uri)
    if request.list_sweeps:
        return _list(reader, request.format == "json")
    sweeps = _find(reader, request.studies, request.where)
    if request.download:
        _download(reader, sweeps, request.download)
    if request.optuna_storage:
        _store_studies(sweeps, request)
    if request.format or not (request.download or request.optuna_storage):
        _write(_compare(reader, sweeps, request), request)
    return DONE


def _find(reader: StoreReader, studies: Sequence[str], where: str) -> list[StoredSweep]:
    from harness.sweeps import find_sweep

    if not studies:
        raise UserError("no study named: give one or several, such as 'latent_sweep'")
    sweeps: dict[str, StoredSweep] = {}
    for word in studies:
        sweep = find_sweep(reader, word)
        if sweep.parent.run_id in sweeps:
            raise UserError(f"{word} is the sweep {sweep.identity}, which is named already: --list shows the others")
        sweeps[sweep.parent.run_id] = sweep.where(where)
    return list(sweeps.values())


def _list(reader: StoreReader, as_json: bool) -> int:
    """Prints every sweep of the store."""
    from harness import display
    from harness.sweeps import all_sweeps

    rows = [_listed(study, parent) for study, parent in all_sweeps(reader)]
    if as_json:
        print(json.dumps([dict(zip(LISTED, row, strict=True)) for row in rows], indent=2))
    else:
        display.print_table("Sweeps, the newest first", LISTED, rows, len(LISTED))
    return DONE


def _listed(study: str, parent: StoredRun) -> tuple[str, ...]:
    tags, ended = parent.tags, parent.metrics.get("trials/finished")
    began = f"{datetime.fromtimestamp(parent.began / 1000):%Y-%m-%d %H:%M}"
    trials = "-" if ended is None else f"{ended:.0f}"
    return tags["harness.sweep"], study, tags.get("harness.dataset", "-"), trials, parent.status.lower(), began, parent.run_id


def _compare(reader: StoreReader, sweeps: Sequence[StoredSweep], request: Request) -> Comparison:
    from harness.comparison import compare
    from harness.differences import differences
    from harness.sheets import Comparison

    if request.baseline and len(sweeps) > 1:
        raise UserError("--baseline is for the groups of one sweep: of several, the first is what the others are compared with")
    records = [sweep.records for sweep in sweeps]
    metrics = request.metrics or [name for name in HEADLINES if any(name in each.metrics for part in records for each in part)]
    tables = [compare(records, name, request.axes, request.baseline) for name in metrics or HEADLINES]
    return Comparison(without_password(reader.uri), tuple(sweeps), tuple(tables), tuple(differences(sweeps)))


def _write(comparison: Comparison, request: Request) -> None:
    """Writes the comparison in the format that was asked for, on stdout or into a file."""
    if not request.format:
        _print(comparison)
        return
    from harness.formats import FORMATS

    content = FORMATS[request.format](comparison)
    if not request.output:
        sys.stdout.write(content)
        return
    path = user_path(request.output)
    try:
        write_whole(path, content.encode())
    except (OSError, ValueError) as error:  # the latter for a name that is none, such as "/"
        raise UserError(f"--output {request.output} cannot be written: {getattr(error, 'strerror', '') or error}") from error
    print(f"{path} is written", file=sys.stderr)


def _print(comparison: Comparison) -> None:
    from harness import display
    from harness.sheets import about, differing_sheet, note, others, sheet, shortened

    display.print_lines([about(*each) for each in zip(comparison.sweeps, comparison.labels, strict=True)])
    for table in comparison.tables:
        content = sheet(comparison, shortened(table, LONGEST_TABLE))
        more = f"; the best {LONGEST_TABLE} of {len(table.lines)}, --csv has all" if len(table.lines) > LONGEST_TABLE else ""
        display.print_table(content.title + more, content.columns, content.rows, content.left)
    if len(comparison.sweeps) > 1:
        content = differing_sheet(comparison)
        display.print_table(content.title + ("" if content.rows else ": nothing"), content.columns, content.rows, content.left)
    display.print_text([note(comparison)])
    display.print_lines(others(comparison))


def _download(reader: StoreReader, sweeps: Sequence[StoredSweep], name: str) -> None:
    from harness.collect import INDEX_FILE, collect

    folder = user_path(name)
    found = collect(reader, sweeps, folder, lambda line: print(line, file=sys.stderr))
    print(
        f"{found.files} files ({found.bytes / 1e6:.1f} MB) are in {folder}, {found.fetched} of them fetched now; "
        f"{folder / INDEX_FILE} lists them"
    )


def _store_studies(sweeps: Sequence[StoredSweep], request: Request) -> None:
    from harness.optuna_study import store_study

    address = without_password(request.optuna_storage)
    for sweep in sweeps:
        name = f"{sweep.study}-{sweep.identity}"
        study = sweep.optuna_study(request.metrics)
        written = store_study(study, name, request.optuna_storage)
        print(
            f"{name} is in {address}, {written} of its {len(study.trials)} trials written now: optuna-dashboard {quote(address)}"
        )


if __name__ == "__main__":
    run_as_program(main)
