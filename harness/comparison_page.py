"""A comparison as one HTML file: no script, nothing from elsewhere; light, dark, on paper and on a phone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from harness.comparison import Line, Table
from harness.sheets import Comparison, Sheet, about, differing_sheet, heading, note, sheet
from harness.statistics import Interval

WIDTH, HEIGHT, MARGIN = 160, 12, 5
"""Of the strip with a line's intervals, in pixels."""

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's, which people with any colour vision can tell apart."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --soft: #5c5c5c; --rule: #d9d9d9; --paper: #fff; --band: #f6f6f6; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --soft: #a6a6a6; --rule: #444; --paper: #161616; --band: #1f1f1f; } }
body { margin: 2rem auto; max-width: 80rem; padding: 0 1rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
ul { padding-left: 1.2rem; } p, li { overflow-wrap: anywhere; }
.note { color: var(--soft); max-width: 60rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--rule); }
th { font-weight: 600; vertical-align: bottom; } th small { display: block; font-weight: 400; color: var(--soft); }
.left { text-align: left; } tbody tr:nth-child(even) { background: var(--band); }
.dot { display: inline-block; width: .65em; height: .65em; border-radius: 50%; margin-right: .35em; }
svg { display: block; } .better, .worse { font-weight: 600; }
@media print {
  body { margin: 0; max-width: none; font-size: 10pt; } section { break-inside: avoid; } .wide { overflow: visible; } }
"""


def as_html(comparison: Comparison) -> str:
    """The page."""
    labels = comparison.labels
    title = escape(heading(comparison))
    sweeps = "".join(f"<li>{escape(about(*each))}</li>" for each in zip(comparison.sweeps, labels, strict=True))
    sections = [_section(comparison, table) for table in comparison.tables]
    if len(labels) > 1:
        sections.append(_differing(comparison))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style>\n</head>\n<body>\n'
        f'<h1>{title}</h1>\n<ul>{sweeps}</ul>\n<p class="note">{escape(note(comparison))}</p>\n'
        f"{''.join(sections)}</body>\n</html>\n"
    )


def _section(comparison: Comparison, table: Table) -> str:
    """A metric: its sheet, and in each line a strip with its intervals."""
    content = sheet(comparison, table)
    ends = _ends(table)
    head = f"<th>95 % intervals<small>{ends[0]:.4g} to {ends[1]:.4g}</small></th>"
    strips = [head, *(f"<td>{_strip(line, ends)}</td>" for line in table.lines)]
    return _titled(content.title, _table(content, comparison.labels, strips))


def _differing(comparison: Comparison) -> str:
    content = differing_sheet(comparison)
    if not content.rows:
        return _titled(content.title, "<p>Nothing: the sweeps were made in the same way.</p>")
    return _titled(content.title, _table(content, comparison.labels, [""] * (1 + len(content.rows))))


def _titled(title: str, content: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>\n"


def _table(content: Sheet, labels: Sequence[str], strips: Sequence[str]) -> str:
    """A sheet; each line, the head first, with a cell more behind the groups and the number of their seeds."""
    place = content.left + 1
    names = [f"<th{_side(index, content)}>{_dot(name, labels)}{escape(name)}</th>" for index, name in enumerate(content.columns)]
    lines = [[f"<td{_side(index, content, text)}>{escape(text)}</td>" for index, text in enumerate(row)] for row in content.rows]
    head, *rows = ("".join([*cells[:place], strip, *cells[place:]]) for cells, strip in zip([names, *lines], strips, strict=True))
    body = "".join(f"<tr>{row}</tr>\n" for row in rows)
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>'


def _side(place: int, content: Sheet, text: str = "") -> str:
    words = [*(["left"] if place < content.left else []), *([text] if text in ("better", "worse") else [])]
    return f' class="{" ".join(words)}"' if words else ""


def _dot(name: str, labels: Sequence[str]) -> str:
    """The colour of a sweep, before its name."""
    if len(labels) < 2 or name not in labels:
        return ""
    return f'<span class="dot" style="background:{_color(labels.index(name))}"></span>'


def _color(place: int) -> str:
    return COLORS[place % len(COLORS)]


def _ends(table: Table) -> tuple[float, float]:
    """The smallest and the largest number that the strips of a table show."""
    values = [entry.value for line in table.lines for entry in line.entries if entry.value]
    numbers = [number for each in values for number in (each.mean, each.low, each.high) if math.isfinite(number)]
    return min(numbers), max(numbers)


def _strip(line: Line, ends: tuple[float, float]) -> str:
    height = HEIGHT * len(line.entries)
    marks = "".join(_mark(entry.value, place, ends) for place, entry in enumerate(line.entries) if entry.value)
    return f'<svg width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" aria-hidden="true">{marks}</svg>'


def _mark(value: Interval, place: int, ends: tuple[float, float]) -> str:
    """A dot for the mean, with a line from end to end of the interval."""
    y, color = HEIGHT * (place + 0.5), _color(place)
    dot = f'<circle cx="{_x(value.mean, ends):.1f}" cy="{y}" r="3.5" fill="{color}"/>'
    if math.isnan(value.low):
        return dot
    low, high = _x(value.low, ends), _x(value.high, ends)
    return f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}" stroke="{color}" stroke-width="2"/>{dot}'


def _x(value: float, ends: tuple[float, float]) -> float:
    span = ends[1] - ends[0] or 1.0
    return MARGIN + (value - ends[0]) / span * (WIDTH - 2 * MARGIN)
