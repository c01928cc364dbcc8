"""The sentences of a sweep whose truth is known, and their numbers computed again by pandas and SciPy."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from harness.config import TrialRecord
from harness.evidence import Claim, Evidence, enough, gather_evidence
from harness.findings import FINDINGS, find, verdict
from harness.tables import trials_frame
from tests.made_up import KNEE, made_up_sweep, summary_of


def evidence_of(records: list[TrialRecord]) -> Evidence:
    """A sweep made ready."""
    evidence = gather_evidence(summary_of(records))
    assert evidence is not None
    return evidence


def answer(topic: str, **sweep: Any) -> Claim:
    """The first sentence on a question."""
    return next(claim for claim in find(evidence_of(made_up_sweep(**sweep))) if claim.topic == topic)


def changed(records: list[TrialRecord], **metrics: Any) -> list[TrialRecord]:
    """Records with other numbers: functions of the record, by name with two underscores for a slash."""
    return [
        replace(each, metrics={**each.metrics, **{name.replace("__", "/"): of(each) for name, of in metrics.items()}})
        for each in records
    ]


def pivot(records: list[TrialRecord], metric: str, architecture: str) -> pd.DataFrame:
    """A metric by seed and latent size, by pandas."""
    frame = trials_frame(records)
    return frame[frame.architecture == architecture].pivot_table(index="seed", columns="latent_size", values=metric)


@pytest.mark.parametrize("seeds", [1, 2, 3])
@pytest.mark.parametrize("sizes", [(10,), (5, 10), (2, 5, 10, 15, 20, 25, 30)])
@pytest.mark.parametrize("architectures", [("base",), ("base", "deep", "heavy")])
def test_every_claim_rests_on_runs_that_are_there_and_reads_as_sentences(
    architectures: tuple[str, ...], sizes: tuple[int, ...], seeds: int
) -> None:
    """Whatever the sweep: no claim without runs, no number that is none, nothing resolved by a single seed."""
    records = made_up_sweep(architectures, sizes, seeds)
    claims = find(evidence_of(records))
    assert claims
    assert [claim.topic for claim in verdict(claims)] == [topic for topic in FINDINGS if any(c.topic == topic for c in claims)]
    for claim in claims:
        assert claim.run_ids
        assert set(claim.run_ids) <= {record.run_id for record in records}
        assert re.fullmatch(r"[A-Zad].*\.", claim.text), claim.text
        assert not re.search(r"\bnan\b|\binf\b|None|  |\.\.", claim.text), claim.text
        assert not (claim.is_resolved and seeds == 1), claim.text


def test_a_sweep_without_a_finished_trial_has_nothing_to_say() -> None:
    """There is no evidence."""
    failed = [replace(record, status="failed", metrics={}) for record in made_up_sweep(seeds=1)]
    assert gather_evidence(summary_of(failed)) is None


def test_the_knee_is_found_and_its_size_named() -> None:
    """At the truth, with an interval around it, of the architecture that is best on the validation split."""
    claim = answer("dimensions")
    assert claim.text.startswith("d = 10 is enough for heavy: its loss curve bends at d = ")
    assert claim.is_resolved
    assert claim.numbers["low"] < KNEE < claim.numbers["high"]


def test_what_is_left_beyond_the_knee_is_the_mean_over_seeds() -> None:
    """Computed again by pandas."""
    records = made_up_sweep()
    loss = pivot(records, "reconstruction_loss", "heavy")
    assert answer("dimensions").numbers["left"] == pytest.approx((1 - loss[30] / loss[10]).mean())


def test_a_knee_that_the_seeds_leave_open_is_not_called_one() -> None:
    """The sentence says so, and how many would do."""
    claim = answer("dimensions", architectures=("base",), noise=0.2)
    assert not claim.is_resolved
    assert re.search(r"is not resolved with 3 seeds; about \d+ would do", claim.text)


def test_the_best_architecture_is_chosen_on_the_validation_split() -> None:
    """Though another is better on the test split; the sentence then says higher."""
    records = changed(
        made_up_sweep(("base", "heavy")),
        val__mse=lambda each: each.metrics["val/mse"] * (0.5 if each.trial.config.architecture == "base" else 1),
    )
    claim = next(claim for claim in find(evidence_of(records)) if claim.topic == "architecture")
    assert claim.text.startswith("By the validation loss base is best.")
    assert "higher than that of heavy" in claim.text
    assert not claim.is_resolved


def test_architectures_are_compared_seed_by_seed_with_holms_correction() -> None:
    """Ratios and p values computed again by pandas, SciPy and statsmodels."""
    records = made_up_sweep(noise=0.1)
    logs = {name: np.log(pivot(records, "reconstruction_loss", name)).mean(axis=1) for name in ("base", "deep", "heavy")}
    p_values = [stats.ttest_rel(logs["heavy"], logs[name]).pvalue for name in ("deep", "base")]
    claim = next(claim for claim in find(evidence_of(records)) if claim.topic == "architecture")
    for name, corrected in zip(("deep", "base"), multipletests(p_values, method="holm")[1], strict=True):
        ratio = math.exp((logs["heavy"] - logs[name]).mean())
        assert claim.numbers[f"ratio to {name}"] == pytest.approx(ratio)
        written = "p < 0.001" if corrected < 0.001 else f"p = {corrected:.2g}"
        assert re.search(
            rf"{100 * (1 - ratio):.0f} % \(95 % interval [^)]*\) lower than that of {name} \({written}\)", claim.text
        )
    assert claim.is_resolved


def test_architectures_that_do_not_differ_are_not_told_apart() -> None:
    """And nobody is told that a thousand seeds would do."""
    claim = answer("architecture", architectures=("base", "deep"), noise=0.3)
    assert not claim.is_resolved
    assert "The difference from" in claim.text
    assert "is not resolved with 3 seeds" in claim.text


def test_that_all_architectures_have_as_many_parameters_is_said_once() -> None:
    """Where they have not, each is told with how many."""
    alike, others = (
        answer("architecture", architectures=names) for names in (("deep", "heavy", "dense"), ("base", "deep", "heavy"))
    )
    assert alike.text.endswith(" All of these have as many parameters.")
    assert alike.text.count("parameters") == 1
    assert "with as many parameters;" in others.text
    assert "with 3 times as many parameters" in others.text


def test_the_trend_of_the_correlation_is_beyond_its_chance_level() -> None:
    """Spearman of size and excess, computed again by SciPy; a maximum that only follows chance shows no trend."""
    records = made_up_sweep()
    claim = next(claim for claim in find(evidence_of(records)) if claim.topic == "redundancy")
    frame = trials_frame(records)
    own = frame[frame.architecture == "heavy"]
    rho = stats.spearmanr(own.latent_size, own.max_latent_correlation - own["latent/max_abs_corr_null95"]).statistic
    assert claim.numbers["rho"] == pytest.approx(rho)
    assert "rises with d" in claim.text

    chance = changed(
        records,
        max_latent_correlation=lambda each: each.metrics["latent/max_abs_corr_null95"] + 0.001 * (each.trial.number * 7 % 5),
    )
    claim = next(claim for claim in find(evidence_of(chance)) if claim.topic == "redundancy")
    assert not claim.is_resolved
    assert claim.text.startswith("Whether the largest correlation")


def test_the_smallest_code_that_is_not_worse_by_the_margin_is_named() -> None:
    """By one-sided paired tests with Holm's correction, computed again by SciPy and statsmodels."""
    records = made_up_sweep(noise=0.004)
    accuracy = pivot(records, "transfer_accuracy", "heavy")
    best = accuracy.mean().idxmax()
    others = [size for size in accuracy if size != best]
    p_values = [stats.ttest_1samp(accuracy[size] - accuracy[best], -0.02, alternative="greater").pvalue for size in others]
    corrected = dict(zip(others, multipletests(p_values, method="holm")[1], strict=True))
    expected = next(size for size in others if corrected[size] < 0.05)
    claim = next(claim for claim in find(evidence_of(records)) if claim.topic == "labels")
    assert (claim.numbers["size"], claim.numbers["best"]) == (expected, best)
    assert claim.numbers["p"] == pytest.approx(corrected[expected])
    assert claim.text.startswith(f"d = {expected} is enough for a classifier with 80 labels")


def test_codes_that_are_worse_than_pixels_are_called_of_no_use() -> None:
    """And those that are better, of use."""
    records = made_up_sweep(("base",), noise=0.004)
    assert any("of no use to the classifier" in claim.text for claim in find(evidence_of(records)) if claim.topic == "labels")
    better = changed(records, transfer__raw_pixels_accuracy=lambda each: 0.7 + 0.001 * each.trial.config.seed)
    assert any("are of use: at d = " in claim.text for claim in find(evidence_of(better)) if claim.topic == "labels")


def test_the_ways_to_use_the_encoder_are_compared_over_all_sizes() -> None:
    """The difference computed again by pandas, and the epochs at which overfitting begins."""
    records = made_up_sweep(("base",))
    frozen, finetuned = (pivot(records, f"transfer/{mode}_accuracy", "base").mean(axis=1) for mode in ("frozen", "finetuned"))
    claims = [claim for claim in find(evidence_of(records)) if claim.topic == "modes"]
    assert f"finetuned reaches {100 * (frozen - finetuned).mean():.1f} points less" in claims[0].text
    assert claims[0].is_resolved
    assert claims[1].numbers == {"frozen": 4.0, "finetuned": 2.0, "scratch": 3.0}


def test_a_test_loss_that_is_lowest_at_the_end_has_not_turned_up() -> None:
    """It is not called overfitting."""
    records = changed(made_up_sweep(("base",)), transfer__frozen_best_epoch=lambda each: 30.0)
    claims = [claim for claim in find(evidence_of(records)) if claim.topic == "modes"]
    assert "frozen not within 30 epochs" in claims[1].text


def test_the_sizes_at_which_pca_is_better_are_named() -> None:
    """By the intervals of the logarithms, computed again by pandas and SciPy."""
    records = made_up_sweep(("base",))
    claim = next(claim for claim in find(evidence_of(records)) if claim.topic == "floors")
    ratio = np.log(pivot(records, "reconstruction_loss", "base")) - np.log(pivot(records, "floor/pca_mse", "base"))
    for size in ratio:
        low, high = stats.t.interval(0.95, 2, loc=ratio[size].mean(), scale=stats.sem(ratio[size]))
        assert claim.numbers[f"d = {size}"] == (-1 if high < 0 else 1 if low > 0 else 0)
    assert "PCA" in claim.text.partition("In order")[2]


def test_interpolations_at_a_small_and_a_large_size_are_compared() -> None:
    """The difference and its p value computed again."""
    records = made_up_sweep(("base",))
    distance = pivot(records, "interpolation/manifold_distance", "base")
    claim = next(claim for claim in find(evidence_of(records)) if claim.topic == "interpolation")
    assert claim.numbers["difference"] == pytest.approx((distance[20] - distance[10]).mean())
    assert claim.numbers["p"] == pytest.approx(stats.ttest_rel(distance[20], distance[10]).pvalue)
    assert "further from the data with more latents" in claim.text
    assert len(claim.run_ids) == 6


def test_the_size_that_is_enough_is_the_first_past_the_knee() -> None:
    """Or the middle one, where there is none."""
    assert enough(evidence_of(made_up_sweep(("base",)))) == 10
    assert enough(evidence_of(made_up_sweep(("base",), sizes=(5, 20, 30)))) == 20


def test_a_trial_that_failed_takes_what_costs_fewer_trials_out_and_nothing_else() -> None:
    """Its latent size here, of all seeds; the claim does not rest on the failed run."""
    records = made_up_sweep(("base",))
    failed = replace(records[0], status="failed", metrics={})
    claim = next(claim for claim in find(evidence_of([failed, *records[1:]])) if claim.topic == "dimensions")
    assert "d = 1" in claim.text
    assert failed.run_id not in claim.run_ids
    assert len(claim.run_ids) == 18
