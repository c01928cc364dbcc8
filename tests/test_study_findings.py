"""The sentences, charts and sections of single studies, from sweeps whose truth is known."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.stats import ortho_group
from statsmodels.stats.multitest import multipletests

from harness.about import About, Layout
from harness.config import Trial, TrialConfig, TrialRecord
from harness.contrasts import contrast, contrasts
from harness.evidence import Claim, Evidence, gather_evidence
from harness.findings import find, find_in, read_evidence
from harness.lines import Line
from harness.models import resolve
from harness.reporting import report_files
from harness.stability_findings import agreements, find_stability
from harness.study_charts import study_charts
from harness.tables import summarize, table_axes
from tests.made_up import file_reader, made_up_sweep

Numbers = Callable[[TrialConfig, float], dict[str, float]]
"""From a configuration and noise to metrics."""


def records_of(variants: Sequence[dict[str, Any]], numbers: Numbers, seeds: int = 4, noise: float = 0.01) -> list[TrialRecord]:
    """Every variant from every seed; the noise of a seed is the same for all variants but for a tenth."""
    configs = [resolve(replace(TrialConfig(), **variant, seed=seed)) for seed in range(seeds) for variant in variants]
    return [_record(number, config, numbers, noise) for number, config in enumerate(configs)]


def _record(number: int, config: TrialConfig, numbers: Numbers, noise: float) -> TrialRecord:
    shared, own = (np.random.default_rng(seed).normal() for seed in (config.seed, 1000 + number))
    base = made_up_sweep(("base",), (config.latent_size,), 1, 0.0)[0].metrics
    metrics = {**base, **numbers(config, noise * (shared + 0.1 * own))}
    return TrialRecord(
        f"{number:032x}", Trial(number, config), "finished", {"val/mse": metrics["reconstruction_loss"], **metrics}
    )


def evidence_of(records: Sequence[TrialRecord], *axes: str) -> Evidence:
    """A sweep made ready."""
    evidence = gather_evidence(summarize(records, table_axes(axes, list(records)), len(records)))
    assert evidence is not None
    return evidence


def claims_of(topic: str, records: Sequence[TrialRecord], *axes: str) -> list[Claim]:
    """What is said to a question."""
    return [claim for claim in find(evidence_of(records, *axes)) if claim.topic == topic]


# --- choices

CHANGES: list[dict[str, Any]] = [
    {"latent_size": size, **change}
    for size in (2, 10)
    for change in ({}, {"batch_norm": False}, {"loss": "bce"}, {"batch_norm": False, "loss": "bce"})
]


def choice_numbers(config: TrialConfig, noise: float) -> dict[str, float]:
    """Without batch norm the loss is 1.5 times as high and the accuracy 3 points lower; bce makes no difference."""
    worse = config.batch_norm is False
    loss = 0.02 * (1.5 if worse else 1.0) * math.exp(noise)
    return {"reconstruction_loss": loss, "val/mse": loss, "transfer_accuracy": 0.8 - 0.03 * worse + noise}


def test_single_choices_are_compared_with_the_first_line() -> None:
    """The one that matters is found with its size; the one that does not is called open; two changes at once are no choice."""
    records = records_of(CHANGES, choice_numbers)
    loss, accuracy = claims_of("choices", records, "latent_size", "batch_norm", "loss")
    assert loss.numbers["batch_norm=False"] == pytest.approx(1.5, rel=0.01)
    assert loss.numbers["loss=bce"] == pytest.approx(1, rel=0.01)
    assert len(loss.numbers) == 2
    assert accuracy.numbers["batch_norm=False"] == pytest.approx(-0.03, abs=0.003)
    assert "batch_norm=False it is 1.5" in loss.text
    assert "1 of the 2 differences is not resolved" in loss.text


def logs_of(line: Line, sizes: Sequence[int]) -> Any:
    """Logarithms of the loss, (seeds, sizes)."""
    losses = [[line.trials[size, seed].metrics["reconstruction_loss"] for size in sizes] for seed in range(4)]
    return np.log(np.array(losses))


def test_the_comparison_is_that_of_scipy_on_logarithms() -> None:
    """Paired by seed, averaged over sizes, corrected for both choices by statsmodels."""
    evidence = evidence_of(records_of(CHANGES, choice_numbers), "latent_size", "batch_norm", "loss")
    baseline, *others = evidence.lines
    found = contrasts(others[:2], baseline, "reconstruction_loss", as_ratio=True)
    table = {line.label: logs_of(line, (2, 10)) for line in evidence.lines}
    p_values = [stats.ttest_rel(table[each.line.label].mean(axis=1), table[baseline.label].mean(axis=1)).pvalue for each in found]
    assert [each.test.p_value for each in found] == pytest.approx(p_values)
    assert [each.test.corrected for each in found] == pytest.approx(list(multipletests(p_values, method="holm")[1]))
    expected = math.exp((table[found[0].line.label] - table[baseline.label]).mean())
    assert found[0].change.mean == pytest.approx(expected)


def test_lines_with_nothing_in_common_are_not_compared() -> None:
    """Other latent sizes, or a metric that one of them lacks."""
    records = records_of([{"latent_size": 2}, {"latent_size": 5, "loss": "bce"}], choice_numbers)
    one, other = evidence_of(records, "latent_size", "loss").lines
    assert contrast(one, other, "reconstruction_loss") is None
    assert contrast(one, one, "no_such_metric") is None


# --- the penalty

WEIGHTS: list[dict[str, Any]] = [
    {"latent_size": size, **penalty}
    for size in (5, 10)
    for penalty in (
        {},
        {"decorrelation": 0.01},
        {"decorrelation": 0.1},
        {"decorrelation": 0.1, "decorrelation_kind": "barlow"},
    )
]


def penalty_numbers(config: TrialConfig, noise: float) -> dict[str, float]:
    """Correlation 0.5 falls with the weight, faster with barlow; the loss doubles at the largest weight of either."""
    strength = config.decorrelation * (2 if config.decorrelation_kind == "barlow" else 1)
    loss = 0.01 * (2 if config.decorrelation == 0.1 else 1) * math.exp(noise)
    return {
        "reconstruction_loss": loss,
        "val/mse": loss,
        "max_latent_correlation": 0.5 - strength + noise,
        "transfer_accuracy": 0.8 + noise,
        "latent/max_abs_corr_rotated": 0.05,
        "transfer/rotated_accuracy": 0.81,
        "transfer/whitened_accuracy": 0.79,
        "transfer/linear_probe_accuracy": 0.75,
        "transfer/linear_probe_whitened_accuracy": 0.75,
    }


def test_each_kind_of_penalty_has_its_strongest_weight_and_a_rotation_stands_beside_them() -> None:
    """What it lowers, what it costs, what it does to accuracy; then what is had for nothing."""
    barlow, decov, rotation = claims_of("penalty", records_of(WEIGHTS, penalty_numbers), "latent_size", "decorrelation")
    assert decov.numbers == pytest.approx({"weight": 0.1, "fall": 0.1, "cost": 2, "gain": 0}, abs=0.01)
    assert barlow.numbers["fall"] == pytest.approx(0.2, abs=0.01)
    assert "With barlow a weight of 0.1" in barlow.text
    assert "which is not resolved" in barlow.text
    assert rotation.numbers["before"] == pytest.approx(0.5, abs=0.02)
    assert re.search(r"is 0\.05 .*instead of 0\.5", rotation.text)
    assert "cannot tell the difference" in rotation.text


# --- labels

COUNTS = (10, 20, 50, 100, 200, 500)


def label_numbers(config: TrialConfig, noise: float) -> dict[str, float]:
    """Finetuning overtakes frozen codes at 50 labels, training from scratch both at 200."""
    x = math.log(config.labels)
    return {
        "reconstruction_loss": 0.01,
        "val/mse": 0.01,
        "transfer/labelled_images": min(config.labels, 450),
        "transfer/frozen_accuracy": 0.7 + noise,
        "transfer/finetuned_accuracy": 0.7 + 0.04 * (x - math.log(50)) + 0.7 * noise,
        "transfer/scratch_accuracy": 0.7 + 0.04 * (math.log(200) - math.log(50)) + 0.1 * (x - math.log(200)) + 0.3 * noise,
        "transfer/raw_pixels_accuracy": 0.6,
        "transfer/pca_accuracy": 0.65,
    }


def test_crossings_are_found_on_the_scale_of_labels() -> None:
    """At the counts that were put in, within the interval that is told."""
    (claim,) = claims_of("crossings", records_of([{"labels": count} for count in COUNTS], label_numbers, noise=0.003), "labels")
    assert claim.numbers["finetuned"] == pytest.approx(50, rel=0.1)
    assert claim.numbers["scratch"] == pytest.approx(200, rel=0.1)
    assert claim.is_resolved
    assert "beats the frozen codes from about" in claim.text


def test_a_way_that_never_wins_is_said_to() -> None:
    """With how far it is behind at the most labels that there are."""

    def numbers(config: TrialConfig, noise: float) -> dict[str, float]:
        return {**label_numbers(config, noise), "transfer/scratch_accuracy": 0.5 + noise}

    (claim,) = claims_of("crossings", records_of([{"labels": count} for count in COUNTS], numbers), "labels")
    assert "never beats both with up to 450 labels" in claim.text
    assert "scratch" not in claim.numbers
    assert claim.is_resolved


# --- paths, prefixes


def path_numbers(config: TrialConfig, noise: float) -> dict[str, float]:
    """Clearest at d = 10, nearest at d = 5, worse beyond; arcs a little further off; blended pixels at 2."""
    size = config.latent_size
    return {
        "interpolation/linear_distance": 1 + abs(size - 5) / 20 + noise,
        "interpolation/spherical_distance": 1.05 + abs(size - 5) / 20 + noise,
        "interpolation/blend_distance": 2.0,
        "interpolation/decoded_distance": 0.9,
        "interpolation/linear_confidence": 0.9 - abs(size - 10) / 100 + noise / 10,
        "interpolation/spherical_confidence": 0.9 - abs(size - 10) / 100 + noise / 10,
        "interpolation/blend_confidence": 0.6,
        "interpolation/decoded_confidence": 0.95,
        "interpolation/data_confidence": 0.97,
        "reconstruction_loss": 0.01,
        "val/mse": 0.01,
    }


def test_paths_tell_where_they_turn() -> None:
    """Clearest and nearest size, arcs against lines, and codes against pixels."""
    sizes = [{"latent_size": size} for size in (2, 5, 10, 20, 50)]
    turn, arcs, pixels = claims_of("paths", records_of(sizes, path_numbers))
    assert (turn.numbers["clearest"], turn.numbers["nearest"]) == (10, 5)
    assert turn.is_resolved
    assert "the distance from the data changes by +0.05" in arcs.text
    assert arcs.is_resolved
    assert "nearer to the data at d = 2, 5, 10 and 20, further from it at d = 50:" in pixels.text
    assert "blended pixels are 2 times as far" in pixels.text


def prefix_numbers(config: TrialConfig, noise: float) -> dict[str, float]:
    """The loss from k units is 1.2 times that of k units alone."""
    own = {size: 0.05 * math.exp(-0.1 * size) for size in (2, 5, 10)}
    prefixes = {f"prefix/mse_{size}": 1.2 * loss * math.exp(noise) for size, loss in own.items() if size <= config.latent_size}
    loss = own[config.latent_size] * (1.2 if config.prefix else 1.0)
    return {"reconstruction_loss": loss, "val/mse": loss, "floor/pca_mse": loss, **prefixes}


PREFIXES = [{"prefix": True, "latent_size": 10}, *({"latent_size": size} for size in (2, 5, 10))]


def test_the_gap_of_one_training_for_all_is_a_ratio() -> None:
    """Over all sizes and at both ends."""
    (claim,) = claims_of("prefixes", records_of(PREFIXES, prefix_numbers), "latent_size", "prefix")
    assert claim.numbers == pytest.approx({"all": 1.2, "d = 2": 1.2, "d = 5": 1.2, "d = 10": 1.2}, rel=0.01)
    assert "of 3 separate trainings" in claim.text


# --- searches


def searched() -> list[TrialRecord]:
    """Four trials, two of them confirmed from three seeds: both were 10 % lucky, and the second is really the better one."""
    shared = {"transfer_accuracy": 0.8, "max_latent_correlation": 0.3, "reconstruction_loss": 0.01}
    records = []
    for number in range(4):
        config = resolve(TrialConfig(architecture="linear", latent_size=number + 2))
        trial = Trial(number, config, '{"params": {"latent_size": 2}}')
        records.append(TrialRecord(f"{number:032x}", trial, "finished", {"val/mse": 0.010 + 0.001 * number, **shared}))
    for number, loss in ((0, 0.013), (1, 0.0115)):
        for place in range(3):
            config = replace(records[number].trial.config, seed=1 + place)
            metrics = {**records[number].metrics, "val/mse": loss + 1e-5 * place, "transfer_accuracy": 0.78}
            own = 1_000_000 + 1_000 * number + place
            proposal = json.dumps({"confirms": number, "params": {"latent_size": 2}})
            records.append(TrialRecord(f"{own:032x}", Trial(own, config, proposal), "finished", metrics))
    return records


def test_winners_are_told_by_their_fresh_seeds() -> None:
    """The best of these is another one than the search's own, and all were lucky."""
    best, luck = claims_of("winners", searched(), "latent_size")
    assert best.numbers["trial"] == 1
    assert best.is_resolved
    assert luck.numbers["times"] == pytest.approx(math.sqrt(1.301 * 1.1509 / 1.1), rel=0.01)
    assert "-2.0 points" in luck.text
    assert set(luck.run_ids) == {record.run_id for record in searched() if record.trial.number not in (2, 3)}


def replicates(records: list[TrialRecord], change: Callable[[int, int], dict[str, float] | None]) -> list[TrialRecord]:
    """The search with other numbers for its confirmations, by trial and place; without those that have none."""
    changed = []
    for record in records:
        trial, place = divmod(record.trial.number - 1_000_000, 1_000)
        metrics = change(trial, place) if trial >= 0 else {}
        if metrics is not None:
            changed.append(replace(record, metrics={**record.metrics, **metrics}))
    return changed


def test_winners_are_compared_seed_by_seed_where_a_replicate_is_missing() -> None:
    """Each seed has a loss of its own, far larger than the difference."""
    offsets = (0.0, 0.1, 0.35)

    def change(trial: int, place: int) -> dict[str, float] | None:
        return None if (trial, place) == (0, 0) else {"val/mse": 1 + offsets[place] - 0.01 * trial + 1e-4 * place * trial}

    best = claims_of("winners", replicates(searched(), change), "latent_size")[0]
    assert best.is_resolved
    assert best.numbers["trial"] == 1
    alone, _ = claims_of("winners", replicates(searched(), lambda trial, place: None if place == trial else {}), "latent_size")
    assert not alone.is_resolved  # one seed in common tells nothing


def test_what_is_said_of_luck_follows_from_its_interval() -> None:
    """Higher losses are luck, lower ones are not, and where both may be it is open."""
    said = []
    for first, second in ((1.2, 1.21), (0.9, 0.91), (0.9, 1.2)):
        times = (first, second)
        found = replicates(searched(), lambda trial, place, times=times: {"val/mse": (0.010 + 0.001 * trial) * times[trial]})  # type: ignore[misc]
        said.append(claims_of("winners", found, "latent_size")[1])
    assert [claim.is_resolved for claim in said] == [True, True, False]
    endings = ("a winner is partly a lucky one.", "they were not lucky.", "whether they were lucky is not resolved.")
    assert all(claim.text.endswith(ending) for claim, ending in zip(said, endings, strict=True))


def test_the_best_winner_is_told_with_what_flatters_it_and_no_impossible_correlation() -> None:
    """An interval of a correlation ends at 0 and 1."""
    found = replicates(searched(), lambda trial, place: {"max_latent_correlation": (0.1, 0.4, 0.9)[place]})
    best = claims_of("winners", found, "latent_size")[0]
    assert "a largest correlation of 0.47 (95 % interval 0.00 to 1.00)" in best.text
    assert best.text.endswith("It was named by these seeds, which flatters its interval.")


# --- stability, and the page


def seeds_reader(records: Sequence[TrialRecord], own_units: bool) -> Callable[[str, str], bytes]:
    """Files of a sweep in which all seeds find the same codes, with units in another order or turned at random."""
    rest, by_run = file_reader(records), {record.run_id: record.trial.config for record in records}

    def read_file(run_id: str, path: str) -> bytes:
        if path != "latents/test_codes.npz":
            content: bytes = rest(run_id, path)
            return content
        config = by_run[run_id]
        codes = np.random.default_rng(config.latent_size).normal(size=(80, config.latent_size))
        turned = codes @ ortho_group.rvs(config.latent_size, random_state=config.seed)
        order = np.random.default_rng(config.seed).permutation(config.latent_size)
        buffer = io.BytesIO()
        np.savez(buffer, codes=codes[:, order] if own_units else turned, labels=np.zeros(80))
        return buffer.getvalue()

    return read_file


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


ABOUT = About("t", "q?", "0" * 16, "r" * 32, "1", "sqlite:///mlflow.db")

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
