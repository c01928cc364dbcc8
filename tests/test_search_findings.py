"""What is said of a search's winners, by their replicates from fresh seeds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from harness.config import TrialRecord
from tests.made_up_studies import (
    claims_of,
    searched,
)


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


def test_winners_that_are_not_told_apart_are_said_not_to_be() -> None:
    """In the sentence itself, which stands without a mark on the terminal."""
    found = replicates(searched(), lambda trial, place: {"val/mse": (0.010, 0.020, 0.030)[(place + trial) % 3]})
    best = claims_of("winners", found, "latent_size")[0]
    assert not best.is_resolved
    assert "Whether the next one is worse is not resolved with 3 seeds; take more." in best.text
