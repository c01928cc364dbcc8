"""All files of a sweep's report, from its records: tables, pictures with their numbers, findings and the page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from harness import pictures, report_page, tables
from harness.about import About
from harness.config import TrialRecord
from harness.evidence import Claim
from harness.findings import FINDINGS, find, read_evidence, verdict
from harness.sections import SECTIONS, Dossier, Section
from harness.study_charts import study_charts
from harness.study_sections import study_sections
from harness.workers import Spread

PAGE_FILE, FINDINGS_FILE = "report.html", "findings.json"


def report_files(
    about: About,
    records: Sequence[TrialRecord],
    read_file: pictures.ReadFile,
    plots: str = "",
    earlier: Sequence[Claim] = (),
    spread: Spread = map,
) -> dict[str, bytes]:
    """Makes the report.

    Args:
        about: The sweep.
        records: The trials that have ended and whose runs are in the store.
        read_file: From a run id and a path to the file's content.
        plots: Figures of a sampler's search, as HTML.
        earlier: The sentences of the report before, where there is one: those whose runs are gone since are withheld, and
            nothing is said in their place.
        spread: Draws the charts: one after the other, where it does not say otherwise.

    Returns:
        Contents by path: ``report.html``, ``findings.json``, ``summary.json``, ``trials.csv`` and ``figures/``.
    """
    ordered = sorted(records, key=lambda record: record.trial.number)
    summary = tables.summarize(ordered, tables.table_axes(about.layout.axes, ordered), about.layout.total or len(ordered))
    charts = pictures.charts(summary, read_file)
    drawn = pictures.begin_to_draw(charts, spread)
    evidence = read_evidence(summary, read_file)
    numbers = {record.run_id: record.trial.number for record in ordered}
    claims = kept_claims(find(evidence) if evidence else [], earlier, numbers)
    own = study_charts(evidence) if evidence else {}
    own_drawn = pictures.begin_to_draw(own, spread)
    files = pictures.picture_files(summary, charts, drawn, read_file) | pictures.chart_files(own, own_drawn)
    charts |= own
    dossier = Dossier(about, ordered, summary, evidence, claims, charts, files, read_file)
    sections = {key: section(dossier) for key, section in SECTIONS.items()}
    for key, section in study_sections(dossier).items():
        sections = _with(sections, key, section, before="cost")
    if plots:
        sections = _with(sections, "sensitivity", Section("Sensitivity", html=plots), before="cost")
    return {
        **tables.table_files(summary, ordered),
        **files,
        FINDINGS_FILE: write_findings(claims),
        PAGE_FILE: report_page.render(about, sections, claims, charts, files, numbers),
    }


def kept_claims(claims: Sequence[Claim], earlier: Sequence[Claim], numbers: dict[str, int]) -> list[Claim]:
    """What may be said: where earlier sentences on a question have lost runs those, to be withheld, else the new ones."""
    lost = [claim for claim in earlier if claim.topic in FINDINGS and report_page.missing(claim, numbers)]
    topics = {claim.topic for claim in lost}
    able = [*lost, *(claim for claim in claims if claim.topic not in topics)]
    return [claim for topic in FINDINGS for claim in able if claim.topic == topic]


def write_findings(claims: Sequence[Claim]) -> bytes:
    """The content of ``findings.json``; a number that is not defined is null."""
    return json.dumps([asdict(claim) | {"numbers": _defined(claim.numbers)} for claim in claims], indent=1).encode()


def _defined(numbers: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def read_findings(content: bytes) -> list[Claim]:
    """Reads ``findings.json``.

    Raises:
        ValueError, KeyError, TypeError: if it is none.
    """
    return [_read_claim(**each) for each in json.loads(content)]


def _read_claim(run_ids: Sequence[str], numbers: Mapping[str, float | None], **others: Any) -> Claim:
    values = {name: math.nan if value is None else value for name, value in numbers.items()}
    return Claim(**others, run_ids=tuple(run_ids), numbers=values)


def describe(question: str, claims: Sequence[Claim], page_address: str) -> str:
    """The note on a sweep's run, in Markdown: the question and its answers.

    Args:
        question: The study's.
        claims: All sentences.
        page_address: Where the page is.
    """
    answers = [f"- **{FINDINGS[claim.topic].question}** {claim.text}" for claim in verdict(claims)]
    return "\n".join(
        [
            f"**{question}**",
            "",
            *answers,
            "",
            f"[The whole report](#{page_address.partition('#')[2]}) is the file `{PAGE_FILE}` of this run.",
            "",
            "Its metrics are the best of its trials, each by itself; the tags `harness.best.*` name the runs.",
        ]
    )


def _with(sections: dict[str, Section], key: str, section: Section, before: str) -> dict[str, Section]:
    """The sections with one more."""
    changed: dict[str, Section] = {}
    for name, each in sections.items():
        if name == before:
            changed[key] = section
        changed[name] = each
    return changed
