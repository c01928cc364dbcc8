"""A comparison as Markdown, CSV and JSON. To add a format: an entry in ``FORMATS``, at the end."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

from harness.comparison import Entry, Table, finding
from harness.comparison_page import as_html
from harness.sheets import Comparison, Sheet, about, differing_sheet, heading, note, point_text, sheet
from harness.statistics import Interval

CSV_COLUMNS = ("sweep", "trials", "seeds", "mean", "low", "high", "compared_with")
CSV_DIFFERENCE = ("difference", "difference_low", "difference_high", "pairs", "p", "p_holm", "finding")


def as_markdown(comparison: Comparison) -> str:
    """Headings, pipe tables, and the note below."""
    parts = [f"# {_plain(heading(comparison))}"]
    parts.append("\n".join(f"- {_plain(about(*each))}" for each in zip(comparison.sweeps, comparison.labels, strict=True)))
    sheets = [sheet(comparison, table) for table in comparison.tables]
    if len(comparison.sweeps) > 1:
        sheets.append(differing_sheet(comparison))
    for each in sheets:
        parts += [f"## {_plain(each.title)}", _pipes(each) if each.rows else "Nothing: the sweeps were made in the same way."]
    return "\n\n".join([*parts, _plain(note(comparison))]) + "\n"


def as_csv(comparison: Comparison) -> str:
    """A line for each metric, group and sweep; every axis of any table has a column."""
    axes = list(dict.fromkeys(name for table in comparison.tables for name in table.axes))
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, ["metric", *axes, *CSV_COLUMNS, *CSV_DIFFERENCE], restval="", lineterminator="\n")
    writer.writeheader()
    for table in comparison.tables:
        for row in _rows(comparison, table):
            writer.writerow({name: "" if value is None else value for name, value in row.items()})
    return buffer.getvalue()


def as_json(comparison: Comparison) -> str:
    """The same numbers by table, the sweeps, and in what they differ; what is not defined is null."""
    content = {
        "tracking_uri": comparison.store,
        "sweeps": [
            {
                "study": sweep.study,
                "sweep": sweep.identity,
                "run_id": sweep.parent.run_id,
                "dataset": sweep.dataset,
                "trials": len(sweep.records),
                "failed": sum(record.status == "failed" for record in sweep.records),
            }
            for sweep in comparison.sweeps
        ],
        "tables": [
            {"metric": table.metric, "axes": list(table.axes), "rows": [*_rows(comparison, table)]} for table in comparison.tables
        ],
        "differ": {each.what: list(each.values) for each in comparison.differing},
        "note": note(comparison),
    }
    return json.dumps(content, indent=2) + "\n"


def _rows(comparison: Comparison, table: Table) -> Iterator[dict[str, Any]]:
    for line in table.lines:
        for sweep, entry in zip(comparison.sweeps, line.entries, strict=True):
            if entry.value:
                point = dict(zip(table.axes, line.point, strict=True))
                yield {
                    "metric": table.metric,
                    **point,
                    "sweep": sweep.identity,
                    **_numbers(comparison, table, entry, entry.value),
                }


def _numbers(comparison: Comparison, table: Table, entry: Entry, value: Interval) -> dict[str, Any]:
    found = entry.difference
    low, high = _ends(value)
    numbers = {"trials": entry.trials, "seeds": value.count, "mean": value.mean, "low": low, "high": high}
    if found is None:
        return numbers
    against = comparison.sweeps[0].identity if table.baseline is None else point_text(table.axes, table.baseline)
    ends = [
        found.difference.mean,
        *_ends(found.difference),
        found.difference.count,
        _finite(found.p_value),
        _finite(found.corrected),
    ]
    return {**numbers, "compared_with": against, **dict(zip(CSV_DIFFERENCE, [*ends, finding(entry, table.metric)], strict=True))}


def _ends(value: Interval) -> tuple[float | None, float | None]:
    return _finite(value.low), _finite(value.high)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _pipes(each: Sheet) -> str:
    marks = [":--" if place < each.left else "--:" for place in range(len(each.columns))]
    cells = [list(map(_plain, each.columns)), marks, *(list(map(_plain, row)) for row in each.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _plain(text: str) -> str:
    """Text that is not taken for Markdown."""
    return "".join(f"\\{each}" if each in "\\`*[]<>|" else each for each in text)


FORMATS: dict[str, Callable[[Comparison], str]] = {
    "markdown": as_markdown,
    "html": as_html,
    "csv": as_csv,
    "json": as_json,
}
