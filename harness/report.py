"""``python -m harness.report``: the report of a sweep, written again from its runs alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands import DONE, run_as_program, run_command
from harness.options import Parser
from harness.rules import UserError, user_path

if TYPE_CHECKING:
    from harness.about import About
    from harness.sweeps import StoredSweep


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command; gives its exit code."""
    words = sys.argv[1:] if words is None else words
    return run_command(lambda: _main(words), lambda: "interrupted: the same command writes the report anew")


def _main(words: Sequence[str]) -> int:
    request = _parser().read(words)
    print(_write(request.sweep, request.tracking_uri, request.output))
    return DONE


def _parser() -> Parser:
    parser = Parser(
        prog="python -m harness.report",
        description="Writes the report of a sweep, its tables and its figures again from the runs alone; the store is only read.",
        allow_abbrev=False,
    )
    parser.add_argument("sweep", metavar="SWEEP", help="a study's name (its newest sweep), a sweep's identity, or its run")
    parser.add_argument(
        "--output", metavar="DIR", help="folder for report.html and what it is made of (default: report-IDENTITY)"
    )
    parser.add_argument("--tracking-uri", metavar="URI", help="store of the runs (default: as for harness.study)")
    return parser


def _write(name: str, uri: str | None, output: str | None) -> str:
    """Writes the files; gives the path of the page."""
    from harness.disk import write_whole
    from harness.reader import open_reader
    from harness.recorded import reading
    from harness.reporting import FINDINGS_FILE, PAGE_FILE, read_findings, report_files
    from harness.sensitivity import search_plots
    from harness.sweeps import find_sweep

    reader = open_reader(uri)
    sweep = find_sweep(reader, name)
    about, earlier, parent = _about(sweep, reader.uri), [], sweep.parent.run_id
    if FINDINGS_FILE in reader.files(parent).sizes():
        with reading(parent, FINDINGS_FILE):
            earlier = read_findings(reader.read_file(parent, FINDINGS_FILE))
    plots = search_plots(sweep.optuna_study(), sweep.objectives) if about.layout.sampler != "grid" else ""
    files = report_files(about, sweep.records, reader.read_file, plots, earlier)
    folder = user_path(output) if output else Path(f"report-{sweep.identity}")
    try:
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            write_whole(folder / path, content)
    except OSError as error:
        raise UserError(f"the report cannot be written to {folder}: {error}: name another folder with --output") from None
    return str(folder / PAGE_FILE)


def _about(sweep: StoredSweep, uri: str) -> About:
    from harness.about import TAG, About, Layout, facts_of
    from harness.rules import without_password

    parent = sweep.parent
    layout = Layout.from_tag(parent.tags.get(TAG, ""))
    question = parent.tags.get("harness.question", sweep.title)
    place = (parent.run_id, parent.experiment_id, without_password(uri))
    return About(sweep.title, question, sweep.identity, *place, layout, facts_of(parent.tags), parent.has_ended)


if __name__ == "__main__":
    run_as_program(main)
