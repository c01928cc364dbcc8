"""Agreement between codes: what turning, scaling, ordering and mixing do to it, and references from outside."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import ortho_group

from harness.agreement import (
    MEASURES,
    Measure,
    agreement_matrix,
    agreement_of,
    best_match_correlation,
    by_chance,
    linear_cka,
    mean_over_pairs,
)
from harness.statistics import mean_interval

Codes = npt.NDArray[np.float64]


def codes_of(count: int, units: int, seed: int = 0) -> Codes:
    """Correlated codes of different scales."""
    random = np.random.default_rng(seed)
    codes: Codes = random.normal(size=(count, units)) @ random.normal(size=(units, units)) + 2
    return codes


def test_cka_is_that_of_the_definition_by_kernels() -> None:
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with centred Gram matrices, as the paper defines it."""
    first, second = codes_of(30, 4), codes_of(30, 6, seed=1)
    centring = np.eye(30) - 1 / 30
    one, other = (centring @ (codes @ codes.T) @ centring for codes in (first, second))
    expected = np.trace(one @ other) / np.sqrt(np.trace(one @ one) * np.trace(other @ other))
    assert linear_cka(first, second) == pytest.approx(expected)


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100))
def test_cka_does_not_see_how_codes_are_turned(seed: int, scale: float) -> None:
    """Turned, mirrored, scaled as a whole and moved they agree fully; with one unit scaled alone they do not."""
    codes = codes_of(40, 4, seed)
    turned = scale * codes @ ortho_group.rvs(4, random_state=seed) + 5
    assert linear_cka(codes, turned) == pytest.approx(1)
    assert linear_cka(codes, codes * [10, 1, 1, 1]) < 1 - 1e-6


@settings(max_examples=25)
@given(st.integers(0, 1000))
def test_the_best_match_does_not_see_the_order_the_scale_and_the_sign_of_units(seed: int) -> None:
    """Units of their own agree fully in any order; turned by a rotation that mixes them they do not."""
    random = np.random.default_rng(seed)
    codes = random.normal(size=(60, 4))
    changed = (codes * [-1, 3, 0.1, -7] + 2)[:, random.permutation(4)]
    assert best_match_correlation(codes, changed) == pytest.approx(1)
    mixed = codes @ (np.array([[1, 1, 0, 0], [1, -1, 0, 0], [0, 0, 1, 1], [0, 0, 1, -1]]) / np.sqrt(2))
    assert best_match_correlation(codes, mixed) < 0.95


def test_the_matching_is_the_best_of_all() -> None:
    """Every one-to-one matching was tried; also where one code has fewer units, of which each has a match."""
    for units in (4, 3):
        first, second = codes_of(50, 4), codes_of(50, units, seed=3)
        correlations = np.abs(np.corrcoef(first.T, second.T)[:4, 4:])
        best = max(
            np.mean([correlations[row, column] for column, row in enumerate(rows)])
            for rows in itertools.permutations(range(4), units)
        )
        assert best_match_correlation(first, second) == pytest.approx(best)
        assert best_match_correlation(second, first) == pytest.approx(best)


def test_a_unit_that_never_varies_agrees_with_nothing() -> None:
    """One of two units constant: half of the agreement; all constant: CKA is not defined."""
    codes = codes_of(20, 2)
    half = codes * [1, 0]
    assert best_match_correlation(half, half) == pytest.approx(0.5)
    assert np.isnan(linear_cka(codes * 0, codes))


@pytest.mark.parametrize("name", MEASURES)
def test_chance_is_far_below_agreement(name: str) -> None:
    """With the images in another order little is left, the same little each time."""
    codes = codes_of(300, 3)
    assert MEASURES[name](codes, codes) == pytest.approx(1)
    assert by_chance(MEASURES[name], codes, codes) < 0.2
    assert by_chance(MEASURES[name], codes, codes) == by_chance(MEASURES[name], codes, codes)


def test_the_matrix_has_every_pair_once_on_each_side() -> None:
    """Symmetric, ones on the diagonal, and above it the pairs in order."""
    codes = [codes_of(50, 3, seed) for seed in range(4)]
    matrix = agreement_matrix(codes, linear_cka)
    assert np.array_equal(matrix, matrix.T)
    np.testing.assert_allclose(np.diag(matrix), 1)
    found = agreement_of(codes, linear_cka)
    assert np.array_equal(found.matrix, matrix)
    assert found.pairs == [linear_cka(codes[b], codes[a]) for a, b in itertools.combinations(range(4), 2)]
    assert found.chance == by_chance(linear_cka, codes[0], codes[3])


def test_every_code_is_prepared_once_however_many_pairs_it_is_in() -> None:
    """The numbers are those of the pairs one by one."""
    codes = [codes_of(50, units, seed=units) for units in (2, 3, 4, 5)]
    prepared: list[int] = []

    def prepare(each: Codes) -> Codes:
        prepared.append(each.shape[1])
        return linear_cka.prepared(each)

    matrix = agreement_matrix(codes, Measure(prepare, linear_cka.between))
    assert prepared == [2, 3, 4, 5]
    np.testing.assert_allclose(matrix, [[linear_cka(one, other) for one in codes] for other in codes])


def made_up_agreement(random: np.random.Generator, count: int, kind: str) -> Codes:
    """Of seeds that agree with all others more or less, around a mean of 0.5; with some noise for each pair."""
    own, noise = random.normal(size=count), 0.02 * random.normal(size=(count, count))
    shared = 0.1 * (own[:, None] + own) if kind == "sums" else 0.05 * own[:, None] * own + 0.1 * (own[:, None] + own)
    return np.asarray(0.5 + shared + noise + noise.T)


@pytest.mark.parametrize("kind", ["sums", "products"])
@pytest.mark.parametrize("count", [5, 10])
def test_the_interval_of_a_mean_over_pairs_holds_the_truth_as_often_as_it_says(count: int, kind: str) -> None:
    """In 95 of 100 sweeps; one that takes the pairs for independent holds it far less often."""
    random, covered = np.random.default_rng(count), []
    for _ in range(600):
        matrix = made_up_agreement(random, count, kind)
        pairs = [float(value) for value in matrix[np.triu_indices(count, k=1)]]
        found, naive = mean_over_pairs(matrix), mean_interval(pairs)
        assert found.mean == pytest.approx(naive.mean)
        covered.append([not found.excludes(0.5), not naive.excludes(0.5)])
    jackknife, independent = np.mean(covered, axis=0)
    assert 0.92 < jackknife < 0.98
    assert independent < 0.8


def test_leaving_out_one_seed_by_hand() -> None:
    """Pairs 0.2, 0.4 and 0.9 of three seeds: without each of them 0.9, 0.4 and 0.2; two seeds have no interval."""
    matrix = np.array([[1, 0.2, 0.4], [0.2, 1, 0.9], [0.4, 0.9, 1]])
    found = mean_over_pairs(matrix)
    error = np.sqrt(2 / 3 * ((np.array([0.9, 0.4, 0.2]) - 0.5) ** 2).sum())
    assert (found.mean, found.count) == (pytest.approx(0.5), 3)
    assert found.half_width == pytest.approx(error * stats.t.ppf(0.975, 2))
    assert np.isnan(mean_over_pairs(matrix[:2, :2]).low)
