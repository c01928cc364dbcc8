"""What is said of the agreement of seeds, and which of them are asked."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest

from harness.about import Layout
from harness.findings import find_in, read_evidence
from harness.reporting import report_files
from harness.stability_findings import agreements, find_stability
from harness.study_charts import study_charts
from harness.tables import summarize
from tests.made_up import made_up_sweep
from tests.made_up_studies import (
    ABOUT,
    evidence_of,
    seeds_reader,
)


@pytest.mark.parametrize("own_units", [True, False])
def test_seeds_that_find_the_same_space_agree_by_cka_and_unit_by_unit_only_if_they_do(own_units: bool) -> None:
    """Both measures are 1 for the same units in another order; turned codes have the same space and other units."""
    records = made_up_sweep(("base",), (4, 8), seeds=5)
    found = agreements(evidence_of(records), seeds_reader(records, own_units))
    for size in (4, 8):
        assert min(found["linear CKA"][size].pairs) == pytest.approx(1)
        assert len(found["linear CKA"][size].pairs) == 10
        assert (min(found["best-match correlation"][size].pairs) > 0.999) == own_units


def test_few_seeds_have_no_agreement() -> None:
    """A sweep with three seeds is no study of stability, and nothing is read for it."""
    records = made_up_sweep(("base",), (4, 8), seeds=3)
    evidence = read_evidence(summarize(records, ("latent_size",), len(records)), seeds_reader(records, own_units=True))
    assert evidence is not None
    assert evidence.agreements == {}
    assert study_charts(evidence) == {}
    assert find_stability(evidence) == []


@pytest.mark.parametrize("own_units", [True, False])
def test_seeds_are_said_to_agree_on_what_they_agree_on(own_units: bool) -> None:
    """On space and units, or on the space alone: turned at random, units agree no more than 0.9 of themselves."""
    records = made_up_sweep(("base",), (4, 8), seeds=6)
    claims = find_in(summarize(records, ("latent_size",), len(records)), seeds_reader(records, own_units))
    (claim,) = (each for each in claims if each.topic == "stability")
    assert claim.text.startswith("Two seeds of base agree on the space of the latents more than by chance (linear CKA 1.00")
    assert "unit by unit more than by chance" in claim.text
    assert claim.is_resolved
    units = [claim.numbers[f"best-match correlation, d = {size}"] for size in (4, 8)]
    assert (min(units) > 0.999) == own_units
    assert set(claim.run_ids) == {record.run_id for record in records}


def test_sizes_with_few_seeds_are_left_out_of_the_agreement() -> None:
    """Of the others the report is made as ever, where seeds were added to one size or their trials failed."""
    records = [
        each
        for each in made_up_sweep(("base",), (4, 8), seeds=6)
        if each.trial.config.latent_size == 4 or each.trial.config.seed < 1
    ]
    files = report_files(
        replace(ABOUT, layout=Layout(("latent_size",), ("val/mse",), "grid", 0, "c")), records, seeds_reader(records, True)
    )
    page = files["report.html"].decode()
    assert ">Agreement between seeds<" in page
    assert "at d = 4, by chance" in page
    assert "at d = 8, by chance" not in page
    read = [0]

    def counting(run_id: str, path: str) -> bytes:
        read[0] += path == "latents/test_codes.npz"
        return seeds_reader(records, True)(run_id, path)

    report_files(replace(ABOUT, layout=Layout(("latent_size",), ("val/mse",), "grid", 0, "c")), records, counting)
    assert read[0] == 6  # each code once


def test_an_agreement_that_may_be_chance_is_said_to_be_open() -> None:
    """Codes at random agree as chance has it, and the sentence does not leave it at that."""
    records = made_up_sweep(("base",), (4, 8), seeds=6)

    def at_random(run_id: str, path: str) -> bytes:
        if path != "latents/test_codes.npz":
            return seeds_reader(records, own_units=True)(run_id, path)
        buffer = io.BytesIO()
        np.savez(buffer, codes=np.random.default_rng(int(run_id, 16)).normal(size=(80, 4)), labels=np.zeros(80))
        return buffer.getvalue()

    claims = find_in(summarize(records, ("latent_size",), len(records)), at_random)
    (claim,) = (each for each in claims if each.topic == "stability")
    assert not claim.is_resolved
    assert "is not resolved with 6 seeds; take more." in claim.text
