"""Each study has its own section in its report, and no other one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.about import Layout
from harness.config import TrialRecord
from harness.reporting import report_files
from tests.made_up import made_up_sweep
from tests.made_up_studies import (
    ABOUT,
    CHANGES,
    COUNTS,
    PREFIXES,
    WEIGHTS,
    choice_numbers,
    label_numbers,
    path_numbers,
    penalty_numbers,
    prefix_numbers,
    records_of,
    searched,
    seeds_reader,
)

PAGES: dict[str, tuple[list[TrialRecord], tuple[str, ...]]] = {
    "Single choices": (records_of(CHANGES, choice_numbers), ("latent_size", "batch_norm", "loss")),
    "The decorrelation penalty": (records_of(WEIGHTS, penalty_numbers), ("latent_size", "decorrelation", "decorrelation_kind")),
    "Numbers of labels": (records_of([{"labels": count} for count in COUNTS], label_numbers), ("labels",)),
    "Paths between codes": (records_of([{"latent_size": size} for size in (2, 5, 10)], path_numbers), ("latent_size",)),
    "Prefixes": (records_of(PREFIXES, prefix_numbers), ("latent_size", "prefix")),
    "Agreement between seeds": (made_up_sweep(("base",), (4, 8), seeds=5), ("latent_size",)),
    "Winners from fresh seeds": (searched(), ("latent_size",)),
}


@pytest.mark.parametrize("title", PAGES)
def test_every_study_has_its_section_on_the_page(title: str) -> None:
    """Beside the general ones, and no study's section stands in another one's report."""
    records, axes = PAGES[title]
    about = replace(ABOUT, layout=Layout(axes, ("val/mse",), "grid", 0, "c"))
    files = report_files(about, records, seeds_reader(records, own_units=True))
    page = files["report.html"].decode()
    assert [each for each in PAGES if f">{each}<" in page] == [title]
    charts = [path for path in files if path.endswith(".svg")]
    assert all(f"{path[:-4]}.csv" in files for path in charts)
