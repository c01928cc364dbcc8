"""The sentences, charts and sections of single studies, from sweeps whose truth is known."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from harness.config import TrialConfig
from harness.contrasts import contrast, contrasts
from harness.lines import Line
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


def test_the_gap_of_one_training_for_all_is_a_ratio() -> None:
    """Over all sizes and at both ends."""
    (claim,) = claims_of("prefixes", records_of(PREFIXES, prefix_numbers), "latent_size", "prefix")
    assert claim.numbers == pytest.approx({"all": 1.2, "d = 2": 1.2, "d = 5": 1.2, "d = 10": 1.2}, rel=0.01)
    assert "of 3 separate trainings" in claim.text
