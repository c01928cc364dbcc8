"""The page of a sweep: one file, no other host, every sentence with its runs, nobody's markup but ours."""

from __future__ import annotations

import base64
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from harness.about import About, Layout
from harness.artifacts import STRIPS_FILE
from harness.config import TrialRecord
from harness.evidence import Claim
from harness.reporting import read_findings, report_files, write_findings
from harness.rules import UserError
from tests.made_up import file_reader, made_up_sweep

ABOUT = About(
    title="latent_sweep on digits",
    question="How many latent dimensions?",
    identity="0123456789abcdef",
    run_id="f" * 32,
    experiment_id="1",
    uri="sqlite:///mlflow.db",
    layout=Layout(("architecture", "latent_size"), total=63, command="python -m harness.study latent_sweep"),
    facts={"dataset": "digits"},
)
OWN_HOSTS = ("http://127.0.0.1:5000/", "http://www.w3.org/", "data:", "#")
"""MLflow's pages, the name of SVG's own language, content in the page, places in it."""


class Elements(HTMLParser):
    """All elements of a page with their attributes, and its text."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, Any]]] = []
        self.text = ""
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        """Keeps it."""
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        """Keeps it."""
        self.text += data

    def of(self, attribute: str) -> list[str]:
        """All values of an attribute."""
        return [values[attribute] for _, values in self.found if attribute in values]


def page_of(records: list[TrialRecord], about: About = ABOUT, **more: Any) -> bytes:
    """The page of a sweep."""
    return report_files(about, records, file_reader(records), **more)["report.html"]


@pytest.fixture(scope="module")
def records() -> list[TrialRecord]:
    """A sweep with a line for each of two architectures."""
    return made_up_sweep(("base", "heavy"), seeds=2)


@pytest.fixture(scope="module")
def page(records: list[TrialRecord]) -> bytes:
    """Its page."""
    return page_of(records)


def test_the_page_asks_no_other_host_for_anything(page: bytes) -> None:
    """Every address leads into the page or to MLflow's own pages, and nothing is loaded by a style or a script."""
    elements = Elements(page)
    addresses = [*elements.of("src"), *elements.of("href"), *elements.of("xlink:href")]
    assert addresses
    assert [address for address in addresses if not address.startswith(OWN_HOSTS)] == []
    assert not re.search(rb"@import|url\((?!#)|fetch\(|XMLHttpRequest|<link(?! rel=.icon)|<iframe", page)


def test_every_sentence_of_the_verdict_links_the_runs_it_rests_on(page: bytes, records: list[TrialRecord]) -> None:
    """By the address of each run in MLflow."""
    verdict = page[page.index(b'<section id="verdict"') : page.index(b'<section id="autoencoding"')].decode()
    claims = verdict.split('<div class="claim ')[1:]
    assert len(claims) == 7
    known = {ABOUT.run_address(record.run_id) for record in records}
    for claim in claims:
        linked = re.findall(r'<a href="([^"]*)"', claim)
        assert linked
        assert set(linked) <= known
        assert f"rests on {len(linked)} runs" in claim


def test_a_sentence_whose_runs_are_gone_is_withheld(records: list[TrialRecord]) -> None:
    """What was said of them is not said again, nor anything in its place; other questions are answered."""
    earlier = read_findings(report_files(ABOUT, records, file_reader(records))["findings.json"])
    gone = next(
        record for record in records if (record.trial.config.architecture, record.trial.config.latent_size) == ("heavy", 10)
    )
    page = page_of([record for record in records if record is not gone], earlier=earlier).decode()
    verdict = page[page.index('<section id="verdict"') : page.index('<section id="autoencoding"')]
    assert "This sentence is withheld: 1 of the 14 runs that it rests on are not in the store any more." in verdict
    assert "is enough for heavy" not in page
    assert gone.run_id not in page


def test_every_figure_can_be_had_as_png_and_svg_and_its_numbers_as_csv(page: bytes) -> None:
    """The addresses hold the files themselves."""
    files: dict[str, bytes] = {}
    for tag, attributes in Elements(page).found:
        if tag == "a" and "download" in attributes:
            files[attributes["download"]] = base64.b64decode(attributes["href"].partition(",")[2])
    charts = {name.partition(".")[0] for name in files if name.endswith(".svg")}
    assert charts >= {
        "reconstruction_loss",
        "max_latent_correlation",
        "latent_correlations",
        "transfer_accuracy",
        "transfer_curves",
    }
    for name in charts:
        assert files[f"{name}.png"].startswith(b"\x89PNG")
        assert b"<svg" in files[f"{name}.svg"]
        assert files[f"{name}.csv"].startswith(b"panel,")


def test_no_two_elements_have_one_name(page: bytes) -> None:
    """Figures that are drawn by one library would share those of their clips otherwise."""
    names = Elements(page).of("id")
    assert len(set(names)) == len(names)
    used = set(re.findall(rb'(?:url\(#|href="#)([^")]+)', page))
    assert {each.decode() for each in used} <= set(names)


def test_figures_follow_the_pages_colours(page: bytes) -> None:
    """No white ground and no dark text of their own, which could not be read in the dark."""
    for figure in re.findall(rb"<svg .*?</svg>", page, re.DOTALL):
        assert not re.search(rb"#333333|#ffffff|#000000|#dddddd", figure)
        assert b"currentColor" in figure


def test_every_trial_is_in_the_table_with_its_run(page: bytes, records: list[TrialRecord]) -> None:
    """Numbers are sorted as numbers."""
    table = page[page.index(b'<section id="trials"') : page.index(b'<section id="reproduce"')].decode()
    assert table.count("<tr>") == 1 + len(records)
    for record in records:
        assert ABOUT.run_address(record.run_id) in table
    assert f'data-value="{records[0].metrics["reconstruction_loss"]}"' in table


def test_what_others_have_named_is_text(records: list[TrialRecord]) -> None:
    """A dataset's folder or the reason of a failure may have any name; none becomes an element."""
    evil = "<script>alert(1)</script><img src=x>"
    failed = replace(records[0], status="failed", reason=evil, metrics={})
    about = replace(ABOUT, title=evil, question=evil, facts={"dataset": evil}, layout=replace(ABOUT.layout, command=evil))
    page = page_of([failed, *records[1:]], about)
    assert page.count(b"<script>") == 1
    assert b"<img src=x" not in page
    assert Elements(page).text.count("alert(1)") >= 4


@pytest.mark.parametrize("name", [r"folder:C:\Users\me", r"npz:/data/\1.npz", "npz:/data/$a^$.npz"])
def test_a_dataset_may_have_any_path(name: str) -> None:
    """Those of Windows are no patterns, and dollars no formulas: the page and every figure's title have them as they are."""
    page = page_of(made_up_sweep(seeds=2, dataset=name)).decode()
    assert f"{name}, d = " in page or f"dataset={name}" in page or name in Elements(page.encode()).text


def test_a_sweep_that_is_not_finished_says_so(records: list[TrialRecord], page: bytes) -> None:
    """Its sentences are of the trials so far."""
    assert "Not finished yet" in Elements(page_of(records[:40], replace(ABOUT, has_ended=False))).text
    assert "Not finished yet" not in Elements(page).text


@pytest.mark.parametrize("sweep", [{"seeds": 1, "sizes": (10,)}, {"architectures": ("base",), "sizes": (2, 5)}])
def test_a_small_sweep_has_a_page_as_well(sweep: dict[str, Any]) -> None:
    """With the sections that it has numbers for."""
    text = Elements(page_of(made_up_sweep(**sweep))).text
    assert "Every trial" in text
    assert "nan" not in text.split()


def test_a_sweep_of_failures_has_a_page_that_says_so(records: list[TrialRecord]) -> None:
    """And lists them."""
    failed = [replace(record, status="failed", reason="boom", metrics={}) for record in records]
    text = Elements(page_of(failed)).text
    assert "No trial has finished" in text
    assert text.count("failed: boom") == len(failed)


def test_the_page_is_the_same_each_time(records: list[TrialRecord], page: bytes) -> None:
    """Byte by byte: no time of day, no random name."""
    assert page_of(records) == page


@pytest.mark.parametrize("path", ["curves/transfer.csv", "latents/correlation.csv", STRIPS_FILE])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe damaged, \x00"])
def test_a_damaged_file_of_a_run_is_named(records: list[TrialRecord], path: str, content: bytes) -> None:
    """With its run and what to do, in one line."""
    read = file_reader(records)
    with pytest.raises(UserError, match=f"{path} of the run [0-9a-z]+ is damaged .*: put back"):
        report_files(ABOUT, records, lambda run_id, wanted: content if wanted == path else read(run_id, wanted))


def test_numbers_that_are_not_defined_are_null(records: list[TrialRecord]) -> None:
    """In the file of the sentences, which is read back as it was."""
    claims = [Claim("dimensions", "x", False, ("a", "b"), {"low": math.nan, "at": 3.0})]
    content = write_findings(claims)
    assert json.loads(content, parse_constant=lambda word: pytest.fail(word))[0]["numbers"] == {"low": None, "at": 3.0}
    (again,) = read_findings(content)
    assert math.isnan(again.numbers.pop("low"))
    assert again == replace(claims[0], numbers={"at": 3.0})
