"""A sweep's report as one HTML file that needs nothing else: no network, no second file. The only file that knows Jinja2."""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from harness.about import About
from harness.evidence import Claim
from harness.figures import FLOOR_COLOR, GRID_COLOR, TEXT_COLOR, Chart
from harness.findings import FINDINGS, verdict
from harness.sections import Section

MEDIA = {"png": "image/png", "svg": "image/svg+xml", "csv": "text/csv"}

THEME = {TEXT_COLOR: "currentColor", "#000000": "currentColor", GRID_COLOR: "var(--rule)", FLOOR_COLOR: "var(--soft)"}
"""Colours of a figure that follow the page's; those of the lines can be told apart on white and on black."""


@dataclass(frozen=True)
class Statement:
    """A sentence as the page shows it.

    Attributes:
        question: That it answers.
        text: The sentence; of one that is withheld, why it is.
        state: ``resolved``, ``not resolved`` or ``withheld``.
        runs: Numbers and addresses of the runs that it rests on.
    """

    question: str
    text: str
    state: str
    runs: Sequence[tuple[int, str]] = ()


@dataclass(frozen=True)
class Figure:
    """A chart on the page: the picture itself, and its files as addresses that hold their content."""

    title: str
    svg: str
    downloads: Mapping[str, tuple[str, str]]


def render(
    about: About,
    sections: Mapping[str, Section],
    claims: Sequence[Claim],
    charts: Mapping[str, Chart],
    files: Mapping[str, bytes],
    numbers: Mapping[str, int],
) -> bytes:
    """Writes the page.

    Args:
        about: The sweep.
        sections: By key, in order.
        claims: All sentences.
        charts: By name.
        files: Those of the charts, by path.
        numbers: Of the trials whose runs are in the store now, by run. A sentence that rests on any other is withheld.
    """
    answers = [_statement(claim, about, numbers) for claim in verdict(claims)]
    statements = {
        key: [_statement(claim, about, numbers) for claim in claims if claim.topic in section.topics]
        for key, section in sections.items()
    }
    shown = {name: _figure(chart, files) for name, chart in charts.items()}
    text = (
        _environment()
        .get_template("report.html")
        .render(about=about, sections=sections, answers=answers, statements=statements, figures=shown)
    )
    return text.encode()


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_address"] = data_address
    environment.filters["markup"] = Markup  # figures: matplotlib's, with titles of ours, and plotly's
    return environment


def _statement(claim: Claim, about: About, numbers: Mapping[str, int]) -> Statement:
    question = FINDINGS[claim.topic].question
    gone = missing(claim, numbers)
    if gone:
        text = (
            f"This sentence is withheld: {gone} of the {len(claim.run_ids)} runs that it rests on are not in the store any more."
        )
        return Statement(question, text, "withheld")
    runs = sorted((numbers[run_id], about.run_address(run_id)) for run_id in claim.run_ids)
    return Statement(question, claim.text, "resolved" if claim.is_resolved else "not resolved", runs)


def missing(claim: Claim, run_ids: Collection[str]) -> int:
    """How many of the runs that a sentence rests on are not there."""
    return sum(run_id not in run_ids for run_id in claim.run_ids)


def _figure(chart: Chart, files: Mapping[str, bytes]) -> Figure:
    parts = {kind: files[f"figures/{chart.name}.{kind}"] for kind in MEDIA}
    downloads = {kind: (f"{chart.name}.{kind}", data_address(content, kind)) for kind, content in parts.items()}
    return Figure(chart.title, _inline(parts["svg"].decode(), chart), downloads)


def data_address(content: bytes, kind: str) -> str:
    """An address that holds the content itself."""
    return f"data:{MEDIA[kind]};base64,{base64.b64encode(content).decode()}"


def _inline(svg: str, chart: Chart) -> str:
    """An SVG as part of a page: without its own head, in the page's colours, with names that no other figure has."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    head = re.compile(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>')
    label = escape(chart.title)  # a path of Windows in it is no pattern: hence a function
    body = head.sub(lambda found: f'<svg viewBox="{found[1]}" role="img" aria-label="{label}">', body)
    body = re.sub(r'\bid="', f'id="{chart.name}-', body)
    body = re.sub(r'(url\(#|xlink:href="#)', rf"\1{chart.name}-", body).replace("xlink:href", "href")
    body = re.sub(r'<g id="[^"]*patch_1">.*?</g>', "", body, count=1, flags=re.DOTALL)  # the white ground
    body = body.replace("fill: #ffffff", "fill: none")
    for color, own in THEME.items():
        body = body.replace(color, own)
    return body
