"""The measures of latent codes against NumPy, SciPy and calculations by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import stats
from torch import Tensor

from harness import latents

PAIR_MEASURES = (latents.max_abs_correlation, latents.mean_abs_correlation, latents.max_abs_correlation_null95)


def _codes(count: int, units: int, seed: int = 0) -> Tensor:
    """Correlated Gaussian codes of unequal scale and offset, (count, units), float32."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(count, units)) @ rng.normal(size=(units, units))
    return torch.from_numpy((mixed * rng.uniform(0.1, 10, units) + rng.normal(size=units)).astype(np.float32))


def _numpy_correlation(codes: Tensor) -> npt.NDArray[np.float64]:
    return np.atleast_2d(np.corrcoef(codes.double().numpy(), rowvar=False))


def _columns_of_variance(*variances: float) -> Tensor:
    """Uncorrelated columns with exactly these sample variances: those of a Hadamard matrix, scaled."""
    signs = np.array([[1]])
    while len(signs) <= len(variances):
        signs = np.block([[signs, signs], [signs, -signs]])
    count = len(signs)
    scales = np.sqrt(np.array(variances) * (count - 1) / count)
    return torch.from_numpy(signs[:, 1 : len(variances) + 1] * scales)


@pytest.mark.parametrize(("count", "units"), [(50, 1), (50, 2), (200, 7), (12, 30)])
def test_the_correlation_matrix_is_that_of_numpy(count: int, units: int) -> None:
    """Pearson's r of every two units, also where there are more units than codes."""
    codes = _codes(count, units)
    matrix = latents.correlation_matrix(codes)
    assert matrix.dtype == torch.float64
    np.testing.assert_allclose(matrix.numpy(), _numpy_correlation(codes), atol=1e-12)


def test_a_large_offset_does_not_blur_the_correlation() -> None:
    """Units that vary by a millionth of their mean correlate as NumPy says."""
    codes = 1e4 + 1e-2 * torch.from_numpy(np.random.default_rng(3).normal(size=(80, 3)))
    np.testing.assert_allclose(latents.correlation_matrix(codes).numpy(), _numpy_correlation(codes), atol=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e6])
def test_a_constant_unit_correlates_with_nothing(value: float) -> None:
    """Its row and column are 0 off the diagonal and 1 on it, where NumPy would give NaN."""
    codes = _codes(359, 3)
    with_constant = torch.cat((codes, torch.full((359, 1), value)), dim=1)
    matrix = latents.correlation_matrix(with_constant).numpy()
    np.testing.assert_array_equal(matrix[3], [0, 0, 0, 1])
    np.testing.assert_array_equal(matrix[:, 3], [0, 0, 0, 1])
    np.testing.assert_allclose(matrix[:3, :3], _numpy_correlation(codes), atol=1e-12)


def test_codes_that_never_vary_have_finite_measures() -> None:
    """No correlation, no total correlation, no rank, and every unit dead."""
    codes = torch.full((359, 3), 0.1)
    assert latents.max_abs_correlation(codes) == 0
    assert latents.mean_abs_correlation(codes) == 0
    assert latents.max_abs_correlation_null95(codes, permutations=5) == 0
    assert latents.total_correlation(codes) == 0
    assert latents.effective_rank(codes) == 0
    assert latents.dead_units(codes) == 3


@pytest.mark.parametrize("units", [2, 5, 20])
def test_maximum_and_mean_are_over_the_pairs_above_the_diagonal(units: int) -> None:
    """The absolute values of NumPy's upper triangle, the diagonal left out."""
    codes = _codes(150, units, seed=units)
    pairs = np.abs(_numpy_correlation(codes)[np.triu_indices(units, k=1)])
    assert latents.max_abs_correlation(codes) == pytest.approx(pairs.max(), abs=1e-12)
    assert latents.mean_abs_correlation(codes) == pytest.approx(pairs.mean(), abs=1e-12)


def test_an_opposite_pair_counts_by_its_absolute_value() -> None:
    """By hand: r = -1 for (x, -2 x), 0 for either with y; the maximum is 1 and the mean 1/3."""
    x, y = torch.tensor([1.0, 1.0, -1.0, -1.0]), torch.tensor([1.0, -1.0, 1.0, -1.0])
    codes = torch.stack((x, -2 * x, y), dim=1)
    assert latents.max_abs_correlation(codes) == pytest.approx(1)
    assert latents.mean_abs_correlation(codes) == pytest.approx(1 / 3)


@pytest.mark.parametrize("measure", PAIR_MEASURES)
def test_one_unit_has_no_pairs(measure: Callable[[Tensor], float]) -> None:
    """With one unit nothing is redundant: the largest correlation is 0; the mean and the chance level are not defined."""
    value = measure(_codes(40, 1))
    assert value == 0 if measure is latents.max_abs_correlation else math.isnan(value)


@pytest.mark.parametrize("measure", [latents.max_abs_correlation, latents.mean_abs_correlation, latents.total_correlation])
def test_scale_offset_and_order_of_the_units_do_not_matter(measure: Callable[[Tensor], float]) -> None:
    """A correlation has no units, and the measures over all pairs do not know which pair is which."""
    codes = _codes(100, 4).double()
    other = (codes * torch.tensor([2.0, -0.5, 3.0, 1.0]) + 5)[:, [2, 0, 3, 1]]
    assert measure(other) == pytest.approx(measure(codes), abs=1e-9)


@pytest.mark.parametrize("units", [2, 6])
def test_the_null_is_the_critical_value_of_the_t_distribution(units: int) -> None:
    """For Gaussian codes the maximum of p pairs has the quantile 0.95 ** (1 / p) of abs(r) as its 95th percentile."""
    count, pairs = 100, units * (units - 1) / 2
    codes = torch.from_numpy(np.random.default_rng(1).normal(size=(count, units)))
    t = stats.t.ppf((1 + 0.95 ** (1 / pairs)) / 2, count - 2)
    critical = t / math.sqrt(count - 2 + t**2)
    assert latents.max_abs_correlation_null95(codes, permutations=1500) == pytest.approx(critical, rel=0.07)


def test_the_null_does_not_see_how_the_units_hang_together() -> None:
    """Each unit is permuted on its own: copies of one unit have the null of independent ones."""
    unit = torch.from_numpy(np.random.default_rng(2).normal(size=(400, 1)))
    null = latents.max_abs_correlation_null95(torch.cat((unit, unit), dim=1), permutations=400)
    assert null == pytest.approx(stats.norm.ppf(0.975) / math.sqrt(400), rel=0.15)


@pytest.mark.parametrize("count", [50, 33_000])
def test_the_null_is_the_percentile_of_the_largest_correlation_of_permuted_units(count: int) -> None:
    """Each permutation made and correlated by itself, by NumPy; also where there are more codes than 16 bits count."""
    codes, permutations, seed = _codes(count, 3), 12, 4
    generators = [torch.Generator().manual_seed(seed + unit) for unit in range(3)]
    largest = []
    for _ in range(permutations):
        orders = [torch.randperm(count, generator=generator).numpy() for generator in generators]
        shuffled = np.stack([codes.double().numpy()[order, unit] for unit, order in enumerate(orders)])
        largest.append(np.abs(np.corrcoef(shuffled)[np.triu_indices(3, k=1)]).max())
    null = latents.max_abs_correlation_null95(codes, permutations, seed)
    assert null == pytest.approx(np.quantile(largest, 0.95), rel=1e-6)


def test_the_null_of_more_units_is_no_smaller() -> None:
    """A unit is permuted in the same ways whatever is beside it, so that more units have more pairs to be the largest."""
    codes = _codes(80, 6)
    nulls = [latents.max_abs_correlation_null95(codes[:, :units], permutations=50) for units in (2, 3, 4, 6)]
    assert nulls == sorted(nulls)


def test_the_null_follows_from_its_seed() -> None:
    """Equal for equal seeds, another value for another one, and the global random state is not used."""
    codes = _codes(60, 3)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = latents.max_abs_correlation_null95(codes, permutations=20, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert first == latents.max_abs_correlation_null95(codes, permutations=20, seed=1)
    assert first != latents.max_abs_correlation_null95(codes, permutations=20, seed=2)


@pytest.mark.parametrize("units", [1, 2, 8])
def test_the_total_correlation_is_half_the_negative_log_determinant(units: int) -> None:
    """-0.5 log det R with R and the determinant by NumPy."""
    codes = _codes(300, units, seed=units)
    reference = -0.5 * np.linalg.slogdet(_numpy_correlation(codes)).logabsdet
    assert latents.total_correlation(codes) == pytest.approx(reference, abs=1e-9)


def test_the_total_correlation_of_two_units_has_a_closed_form() -> None:
    """-0.5 log(1 - r^2), here with r = 0.6 by construction: y = 0.6 a + 0.8 b for uncorrelated a and b."""
    a, b = _columns_of_variance(1.0, 1.0).T
    assert latents.total_correlation(torch.stack((a, 0.6 * a + 0.8 * b), dim=1)) == pytest.approx(-0.5 * math.log(1 - 0.36))


def test_uncorrelated_units_share_no_information() -> None:
    """The total correlation of exactly uncorrelated units is 0, whatever their scales."""
    assert latents.total_correlation(_columns_of_variance(1.0, 5.0, 0.1)) == pytest.approx(0, abs=1e-12)


def test_dead_units_have_no_part_in_the_total_correlation() -> None:
    """A unit that is a tiny copy of another one is dead, so it adds nothing."""
    codes = _codes(100, 2).double()
    with_dead = torch.cat((codes, 1e-4 * codes[:, :1]), dim=1)
    assert latents.dead_units(with_dead) == 1
    assert latents.total_correlation(with_dead) == pytest.approx(latents.total_correlation(codes))


@pytest.mark.parametrize("kind", ["copy", "opposite", "sum"])
def test_the_total_correlation_of_dependent_units_is_infinite(kind: str) -> None:
    """Where one unit is a linear function of others, on 30 samples each."""
    for seed in range(30):
        x = torch.from_numpy(np.random.default_rng(seed).normal(size=(200, 2)))
        extra = {"copy": x[:, :1], "opposite": 1 - 3 * x[:, :1], "sum": x.sum(dim=1, keepdim=True)}[kind]
        assert latents.total_correlation(torch.cat((x, extra), dim=1)) == math.inf


@pytest.mark.parametrize(("count", "units"), [(100, 1), (100, 5), (10, 30)])
def test_the_effective_rank_follows_from_the_singular_values(count: int, units: int) -> None:
    """It is exp of the entropy of the squared singular values of the centred codes, by NumPy."""
    codes = _codes(count, units, seed=4)
    centred = codes.double().numpy() - codes.double().numpy().mean(axis=0)
    shares = np.linalg.svd(centred, compute_uv=False) ** 2
    shares = shares[shares > 1e-12 * shares.max()] / shares.sum()
    assert latents.effective_rank(codes) == pytest.approx(np.exp(-np.sum(shares * np.log(shares))), rel=1e-6)


@pytest.mark.parametrize("units", [1, 3, 6])
def test_equal_variance_in_every_direction_is_full_rank(units: int) -> None:
    """The effective rank of d uncorrelated units of one variance is d."""
    assert latents.effective_rank(_columns_of_variance(*[2.5] * units)) == pytest.approx(units)


def test_copies_of_one_unit_have_rank_one() -> None:
    """All variance lies in one direction, however many units there are."""
    unit = _codes(50, 1).double()
    assert latents.effective_rank(unit * torch.tensor([1.0, -2.0, 0.5, 4.0])) == pytest.approx(1, abs=1e-6)


def test_the_effective_rank_does_not_change_under_rotation() -> None:
    """It belongs to the spectrum and not to the axes."""
    rotation = torch.from_numpy(np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4))).Q)
    codes = _codes(90, 4).double()
    assert latents.effective_rank(codes @ rotation) == pytest.approx(latents.effective_rank(codes))


def test_dead_units_lie_below_a_ten_thousandth_of_the_largest_variance() -> None:
    """Of the variances 5, 6e-4, 4e-4 and 0 the last two are below 5e-4."""
    assert latents.dead_units(_columns_of_variance(5.0, 6e-4, 4e-4, 0.0)) == 2


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_small_codes_are_not_dead_for_being_small(scale: float) -> None:
    """Only the share of the largest variance counts, not the variance."""
    assert latents.dead_units(scale * _columns_of_variance(1.0, 1e-3, 1e-5)) == 1
