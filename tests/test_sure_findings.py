"""What the sentences of a sweep must not say: nothing beyond what was compared, and nothing as sure that is not."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from harness.config import TrialConfig, TrialRecord
from harness.findings import FINDINGS, find
from harness.study_charts import study_charts
from tests.made_up import made_up_sweep
from tests.made_up_studies import (
    CHANGES,
    COUNTS,
    PREFIXES,
    WEIGHTS,
    choice_numbers,
    claims_of,
    evidence_of,
    label_numbers,
    path_numbers,
    penalty_numbers,
    prefix_numbers,
    records_of,
)

Numbers = Callable[[TrialConfig, float], dict[str, float]]


# --- every sentence


def no_effect(config: TrialConfig, noise: float) -> dict[str, float]:
    """Everything is noise about one level, independent of the configuration; floors are at that level."""
    names = [name for of in (choice_numbers, penalty_numbers, label_numbers, path_numbers) for name in of(config, 0.0)]
    names += ["max_latent_correlation", "latent/max_abs_corr_null95", "interpolation/manifold_distance", "floor/pca_mse"]
    names += [f"prefix/mse_{size}" for size in (2, 5, 10)]
    generator = np.random.default_rng([config.seed, *json.dumps(config.to_params()).encode()])
    numbers = {name: 0.5 * math.exp(0.1 * generator.normal()) for name in names}
    return {**numbers, "transfer/labelled_images": float(config.labels), "val/mse": 0.5}


SWEEPS: dict[str, tuple[list[dict[str, Any]], Numbers, tuple[str, ...]]] = {
    "sizes": ([{"latent_size": size} for size in (2, 5, 10, 15, 20, 30)], path_numbers, ("latent_size",)),
    "choices": (CHANGES, choice_numbers, ("latent_size", "batch_norm", "loss")),
    "penalty": (WEIGHTS, penalty_numbers, ("latent_size", "decorrelation", "decorrelation_kind")),
    "labels": ([{"labels": count} for count in COUNTS], label_numbers, ("labels",)),
    "prefixes": (PREFIXES, prefix_numbers, ("latent_size", "prefix")),
    "architectures": (
        [{"latent_size": size, "architecture": name} for name in ("base", "heavy") for size in (2, 10, 20)],
        choice_numbers,
        ("architecture", "latent_size"),
    ),
}


@pytest.mark.parametrize("seeds", [1, 4])
@pytest.mark.parametrize("has_effect", [True, False])
@pytest.mark.parametrize("name", SWEEPS)
def test_a_sentence_that_is_not_resolved_says_so_itself(name: str, has_effect: bool, seeds: int) -> None:
    """On the terminal and in the store no mark stands beside it. No p value is written where there is none."""
    variants, numbers, axes = SWEEPS[name]
    claims = find(evidence_of(records_of(variants, numbers if has_effect else no_effect, seeds), *axes))
    assert claims
    for claim in claims:
        assert not re.search(r"\bnan\b|\binf\b|None(?! of)|  |\.\.|\(\)", claim.text), claim.text
        if seeds == 1:
            assert not claim.is_resolved, claim.text
        if not claim.is_resolved:
            assert re.search(r"not resolved|None of these differences is resolved", claim.text), claim.text


def test_those_sweeps_have_sentences_on_every_question() -> None:
    """But for searches, which have no replicates but their confirmations, and for stability, which is read from files."""
    topics = {
        claim.topic
        for variants, numbers, axes in SWEEPS.values()
        for claim in find(evidence_of(records_of(variants, numbers, 2), *axes))
    }
    assert topics == set(FINDINGS) - {"winners", "stability"}


def test_sentences_on_accuracy_say_that_seeds_share_their_labelled_images() -> None:
    """An interval over seeds leaves out the draw of labels."""
    for name in ("choices", "penalty", "labels"):
        variants, numbers, axes = SWEEPS[name]
        claims = find(evidence_of(records_of(variants, numbers), *axes))
        for claim in claims:
            if re.search(r"accuracy|classifier (with|reaches)|the frozen codes from", claim.text) and "epoch" not in claim.text:
                assert "with the same 5 draws of labels" in claim.text, claim.text


def test_trials_that_only_the_evaluation_tells_apart_are_one_autoencoder() -> None:
    """No number of labels is compared with another as an architecture, and each seed counts once."""
    variants, numbers, axes = SWEEPS["labels"]
    evidence = evidence_of(records_of(variants, numbers), *axes)
    assert [line.label for line in evidence.lines] == ["base"]
    assert len(evidence.lines[0].trials) == 4
    topics = [claim.topic for claim in find(evidence)]
    assert "architecture" not in topics
    assert topics.count("redundancy") == 1


# --- pairs


def test_each_line_has_its_own_crossing_and_panel() -> None:
    """Of an architecture that never crosses and one that does neither hides the other."""

    def numbers(config: TrialConfig, noise: float) -> dict[str, float]:
        worse = {"transfer/finetuned_accuracy": 0.5 + noise} if config.architecture == "heavy" else {}
        return {**label_numbers(config, noise), **worse}

    variants = [{"architecture": name, "labels": count} for name in ("base", "heavy") for count in COUNTS]
    records = records_of(variants, numbers, noise=0.003)
    base, heavy = claims_of("crossings", records, "architecture", "labels")
    assert base.numbers["finetuned"] == pytest.approx(50, rel=0.1)
    assert "the encoder of base along beats" in base.text
    assert "the encoder of heavy along never beats" in heavy.text
    (chart,) = study_charts(evidence_of(records, "architecture", "labels")).values()
    assert [panel.title for panel in chart.panels] == ["base, d = 10", "heavy, d = 10"]


def test_a_crossing_that_may_be_anywhere_is_not_from_the_fewest_labels_on() -> None:
    """Above in the mean from the first count on, but surely so only later."""

    def numbers(config: TrialConfig, noise: float) -> dict[str, float]:
        lead = 0.01 + 0.002 * math.log(config.labels / 10)
        return {**label_numbers(config, noise), "transfer/finetuned_accuracy": 0.7 + lead + 2.4 * noise}

    (claim,) = claims_of("crossings", records_of([{"labels": count} for count in COUNTS], numbers), "labels")
    assert "beats the frozen codes from at most 10 labels on (95 % interval 10 to" in claim.text
    assert not claim.is_resolved


def test_seeds_without_common_counts_of_labels_have_no_crossing() -> None:
    """Nor an error."""
    records = records_of([{"labels": count} for count in COUNTS], label_numbers, seeds=2)
    kept = [each for each in records if (each.trial.config.labels > 50) == bool(each.trial.config.seed)]
    assert claims_of("crossings", kept, "labels") == []


def test_a_penalty_is_compared_with_what_is_equal_in_all_else() -> None:
    """Not with another architecture, whose loss is ten times as high."""

    def numbers(config: TrialConfig, noise: float) -> dict[str, float]:
        found = penalty_numbers(config, noise)
        scale = 10 if config.architecture == "linear" else 1
        return {**found, **{name: scale * found[name] for name in ("reconstruction_loss", "val/mse")}}

    variants = [
        {"architecture": name, "latent_size": size, "decorrelation": weight}
        for name in ("base", "linear")
        for size in (5, 10)
        for weight in (0.0, 0.1)
    ]
    claims = claims_of("penalty", records_of(variants, numbers), "architecture", "latent_size", "decorrelation")
    costs = [claim.numbers["cost"] for claim in claims if "cost" in claim.numbers]
    assert costs == pytest.approx([2, 2], rel=0.02)
    assert sorted("of linear, decorrelation=0" in claim.text for claim in claims) == [False, False, True, True]


def test_prefixes_are_compared_with_what_is_equal_in_all_else() -> None:
    """One claim an architecture."""
    variants = [{"architecture": name, **each} for name in ("base", "heavy") for each in PREFIXES]
    claims = claims_of("prefixes", records_of(variants, prefix_numbers), "architecture", "latent_size", "prefix")
    assert [claim.numbers["all"] for claim in claims] == pytest.approx([1.2, 1.2], rel=0.01)
    assert ["of heavy, prefix=True" in claim.text for claim in claims] == [False, True]


# --- tests that fit their sentences


def with_accuracy(accuracies: dict[int, float], noise: float) -> list[TrialRecord]:
    """A sweep with these accuracies by latent size and independent noise."""

    def numbers(config: TrialConfig, shared: float) -> dict[str, float]:
        own = np.random.default_rng([config.latent_size, config.seed]).normal()
        return {"reconstruction_loss": 0.01, "transfer_accuracy": accuracies[config.latent_size] + noise * own}

    return records_of([{"latent_size": size} for size in accuracies], numbers)


def test_that_smaller_codes_lose_the_margin_is_tested_against_the_margin() -> None:
    """Surely worse, but only by about the margin, is not enough."""
    claim = claims_of("labels", with_accuracy({2: 0.5, 5: 0.777, 10: 0.8}, 0.003), "latent_size")[0]
    assert claim.text.startswith("Whether d = 10 is needed")
    assert not claim.is_resolved
    claim = claims_of("labels", with_accuracy({2: 0.5, 5: 0.7, 10: 0.8}, 0.003), "latent_size")[0]
    assert claim.text.startswith("d = 10 is needed")
    assert claim.is_resolved


def test_that_the_smallest_code_is_enough_is_tested() -> None:
    """Of equal ones with much noise the smallest is the best by chance."""
    claim = claims_of("labels", with_accuracy({2: 0.84, 5: 0.8, 10: 0.8}, 0.05), "latent_size")[0]
    assert claim.text.startswith("Whether the smallest code")
    assert not claim.is_resolved
    assert claims_of("labels", with_accuracy({2: 0.84, 5: 0.8, 10: 0.8}, 0.003), "latent_size")[0].is_resolved


def test_the_weight_that_is_chosen_is_corrected_for_all_there_were() -> None:
    """All kinds and weights, computed again by SciPy and statsmodels."""
    evidence = evidence_of(records_of(WEIGHTS, penalty_numbers, noise=0.1), "latent_size", "decorrelation", "decorrelation_kind")
    plain, *others = evidence.evaluated
    means = {line.label: _means(line, "max_latent_correlation") for line in evidence.evaluated}
    p_values = [stats.ttest_rel(means[line.label], means[plain.label]).pvalue for line in others]
    corrected = multipletests(p_values, method="holm")[1]
    claims = [claim for claim in find(evidence) if claim.topic == "penalty" and "weight" in claim.numbers]
    written = {f"p = {value:.2g}" if value >= 0.001 else "p < 0.001" for value in corrected}
    assert all(re.findall(r"\((p [^)]*?)\)", claim.text)[0] in written for claim in claims)


def _means(line: Any, metric: str) -> Any:
    block = line.block(metric)
    return block.values.mean(axis=1)


def test_the_clearest_of_many_sizes_is_corrected_for_all_of_them() -> None:
    """Its p value against the largest, computed again by SciPy and statsmodels."""
    evidence = evidence_of(records_of(SWEEPS["sizes"][0], no_effect, seeds=4), "latent_size")
    block = evidence.best.block("interpolation/linear_confidence")
    assert block is not None
    p_values = [stats.ttest_rel(block.at(size), block.at(30)).pvalue for size in block.sizes[:-1]]
    corrected = list(multipletests(p_values, method="holm")[1])
    claim = next(claim for claim in find(evidence) if claim.topic == "paths")
    assert claim.numbers["p"] == pytest.approx(corrected[block.sizes.index(int(claim.numbers["clearest"]))])


def changed(records: Sequence[TrialRecord], change: Callable[[TrialRecord], dict[str, float]]) -> list[TrialRecord]:
    """Records with some other metrics."""
    return [replace(each, metrics={**each.metrics, **change(each)}) for each in records]


def test_what_never_turns_does_not_overfit() -> None:
    """No conclusion without its premise."""
    records = changed(
        made_up_sweep(("base",)), lambda _: {f"transfer/{mode}_best_epoch": 30.0 for mode in ("frozen", "finetuned", "scratch")}
    )
    assert "overfitting" not in claims_of("modes", records, "latent_size")[1].text
    assert "What follows is overfitting." in claims_of("modes", made_up_sweep(("base",)), "latent_size")[1].text


def test_a_rotation_that_does_nothing_is_not_said_to_do_it() -> None:
    """The largest correlation is as high along the principal axes."""

    def numbers(config: TrialConfig, noise: float) -> dict[str, float]:
        found = penalty_numbers(config, noise)
        return {**found, "latent/max_abs_corr_rotated": found["max_latent_correlation"]}

    *_, rotation = claims_of("penalty", records_of(WEIGHTS, numbers), "latent_size", "decorrelation")
    assert rotation.text.startswith("What a rotation does for nothing is not resolved")
    assert not rotation.is_resolved


def _rising(size: int) -> float:
    return 0.1 * (2 / size) if size <= 10 else 0.02 * (size / 10) ** 0.3


def test_a_loss_that_rises_beyond_its_bend_is_not_said_to_fall() -> None:
    """By minus so much."""
    records = changed(
        made_up_sweep(("base",)),
        lambda each: {"reconstruction_loss": _rising(each.trial.config.latent_size) * (1 + 1e-3 * each.trial.config.seed)},
    )
    (claim,) = claims_of("dimensions", records, "latent_size")
    assert re.search(r"beyond it adds [\d.e-]+ to it\. From d = 10 to d = 30 it rises by \d+ %", claim.text), claim.text
    assert not re.search(r"-\d", claim.text)


def test_a_line_beyond_those_that_are_shown_has_to_be_resolved_as_well() -> None:
    """The best line is surely better than the four nearest ones, and not than the noisy fifth."""

    def numbers(config: TrialConfig, noise: float) -> dict[str, float]:
        place = round(1e3 * config.learning_rate)
        own = (0.001, 1.1, 0.0, 1.2)[config.seed] if place == 6 else 0.001 * place * config.seed
        loss = 0.01 * (1 + 0.1 * place) * math.exp(own)
        return {"reconstruction_loss": loss, "val/mse": 0.01 * place}

    variants = [{"learning_rate": 1e-3 * place, "latent_size": 10} for place in range(1, 7)]
    (claim,) = claims_of("architecture", records_of(variants, numbers), "latent_size", "learning_rate")
    assert "that of 1 more is further off, 1 of them not resolved" in claim.text
    assert not claim.is_resolved


def test_a_size_that_pca_leaves_open_counts_only_where_the_curves_cross() -> None:
    """At the only size, or at the end, it is open; between better and worse it is the crossing."""

    def numbers(ratios: dict[int, float]) -> Numbers:
        def of(config: TrialConfig, noise: float) -> dict[str, float]:
            own = 0.1 * np.random.default_rng([config.seed, config.latent_size]).normal()
            loss = 0.01 * ratios[config.latent_size] * math.exp(own)
            return {"reconstruction_loss": loss, "floor/pca_mse": 0.01}

        return of

    for ratios, is_resolved in (({5: 1.0}, False), ({2: 0.5, 5: 1.0}, False), ({2: 0.5, 5: 1.0, 10: 2.0}, True)):
        records = records_of([{"latent_size": size} for size in ratios], numbers(ratios))
        (claim,) = claims_of("floors", records, "latent_size")
        assert "not told apart at d = 5" in claim.text
        assert claim.is_resolved == is_resolved
