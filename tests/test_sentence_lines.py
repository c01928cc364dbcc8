"""Which trials are a line, in sentences: confirmations and failed trials."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from harness.comparison import compare
from harness.config import Trial, TrialConfig, TrialRecord
from harness.confirmation import FIRST_NUMBER, PLACES
from harness.evidence import enough
from harness.findings import find
from harness.lines import lines_of
from harness.models import resolve
from tests.made_up import made_up_sweep, summary_of
from tests.made_up_studies import (
    choice_numbers,
    claims_of,
    evidence_of,
    records_of,
)


def failed(records: Sequence[TrialRecord], *lost: tuple[str, int, int]) -> list[TrialRecord]:
    """The records, some of which (architecture, latent size, seed) have failed."""

    def is_lost(config: TrialConfig) -> bool:
        return (config.architecture, config.latent_size, config.seed) in lost

    return [replace(each, status="failed", metrics={}) if is_lost(each.trial.config) else each for each in records]


# --- lines


def searched(configs: Sequence[dict[str, Any]], confirmed: Sequence[int], seeds: int = 3) -> list[TrialRecord]:
    """A search whose winners were lucky: what their confirmations have is 1.5 times as high."""
    records = []
    for number, fields in enumerate(configs):
        trial = Trial(number, resolve(TrialConfig(**fields)), json.dumps({"params": {}}))
        base = made_up_sweep(("base",), (trial.config.latent_size,), 1)[0].metrics
        records.append(TrialRecord(f"{number:032x}", trial, "finished", {**base, "val/mse": 0.01, "reconstruction_loss": 0.01}))
    for number in confirmed:
        for place in range(seeds):
            own = FIRST_NUMBER + PLACES * number + place
            config = replace(records[number].trial.config, seed=1 + place)
            trial = Trial(own, config, json.dumps({"confirms": number, "params": {}}))
            metrics = {**records[number].metrics, "val/mse": 0.015, "reconstruction_loss": 0.015 + place * 1e-5}
            records.append(TrialRecord(f"{own:032x}", trial, "finished", metrics))
    return records


def test_a_winner_is_no_replicate_of_its_own_confirmations() -> None:
    """Its line has the fresh seeds alone, and so has its group in a comparison."""
    records = searched([{"latent_size": 4}, {"latent_size": 6, "learning_rate": 0.01}], [0])
    (line,) = evidence_of(records, "latent_size").lines
    assert sorted(line.trials) == [(4, 1), (4, 2), (4, 3)]
    group = compare([records], "reconstruction_loss", ["latent_size"]).lines[0].entries[0]
    assert group.value is not None
    assert (group.trials, group.value.count) == (3, 3)
    assert group.value.mean == pytest.approx(0.01501)


def test_a_search_without_confirmations_has_its_best_trial_and_no_others() -> None:
    """A thousand single trials are not a thousand lines."""
    records = searched([{"latent_size": 4, "learning_rate": 1e-3 * (1 + each)} for each in range(20)], [])
    evidence = evidence_of(records, "latent_size")
    assert len(evidence.lines) == 1
    assert all(not claim.is_resolved for claim in find(evidence))


def test_configurations_that_the_table_does_not_tell_apart_are_lines_of_their_own() -> None:
    """With several architectures it has no columns for what an architecture has of its own."""
    configs = [{"width": 8}, {"width": 16}, {"architecture": "linear"}]
    lines = lines_of(summary_of(searched(configs, [0, 1, 2])))
    assert [line.label for line in lines] == ["base, width=8", "base, width=16", "linear"]
    assert [len(line.trials) for line in lines] == [3, 3, 3]


def test_many_lines_have_few_sentences() -> None:
    """The best ones."""
    variants = [{"latent_size": size, "learning_rate": 1e-3 * (1 + each)} for each in range(12) for size in (2, 5, 10, 15, 20)]
    claims = find(evidence_of(records_of(variants, choice_numbers, 2), "latent_size", "learning_rate"))
    topics = [claim.topic for claim in claims]
    assert max(topics.count(topic) for topic in ("dimensions", "redundancy")) <= 4


# --- failed trials


def test_a_line_that_lacks_a_trial_of_each_seed_is_still_compared_and_best() -> None:
    """Over the sizes that all its seeds have."""
    records = failed(made_up_sweep(), ("heavy", 2, 0), ("heavy", 5, 1), ("heavy", 30, 2))
    (claim,) = claims_of("architecture", records, "architecture", "latent_size")
    assert claim.text.startswith("By the validation loss heavy is best. On the test split, over ")
    assert claim.is_resolved


def test_two_failed_trials_leave_three_seeds() -> None:
    """A size is given up for them, as that costs fewer trials."""
    records = failed(made_up_sweep(("base",)), ("base", 30, 1), ("base", 30, 2))
    (claim,) = claims_of("dimensions", records, "latent_size")
    assert "one seed" not in claim.text
    assert claim.is_resolved


def test_a_line_with_one_size_is_left_out_by_name() -> None:
    """It is not the best of what it has nothing to say to, and the floors are not its own."""
    lost = [("heavy", size, seed) for size in (5, 10, 15, 20, 25, 30) for seed in range(3)]
    evidence = evidence_of(failed(made_up_sweep(("base", "deep", "heavy")), *lost), "architecture", "latent_size")
    assert evidence.best.label == "deep"
    assert [line.label for line in evidence.left_out] == ["heavy"]
    claims = {claim.topic: claim for claim in reversed(find(evidence))}
    assert "Left out is heavy, with too few latent sizes and seeds" in claims["architecture"].text
    assert enough(evidence) == 10


def test_two_lines_of_which_one_is_left_out_are_not_compared() -> None:
    """The question is open, and the sentence says why."""
    lost = [("heavy", size, seed) for size in (5, 10, 15, 20, 25, 30) for seed in range(3)]
    (claim,) = claims_of("architecture", failed(made_up_sweep(("base", "heavy")), *lost), "architecture", "latent_size")
    assert not claim.is_resolved
    assert "not resolved" in claim.text
