"""Prefixes and decorrelation penalties: by hand, against NumPy, and member by member in a stack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.config import TrialConfig, rule_of
from harness.regularizers import PENALTIES, Decorrelation, keep_prefix, prefix_lengths
from tests.support import TINY

CPU = torch.device("cpu")


def codes_of(count: int, units: int, seed: int = 0) -> Tensor:
    """Codes that are correlated and of different scales, (N, d)."""
    generator = torch.Generator().manual_seed(seed)
    raw, mixing = torch.randn(count, units, generator=generator), torch.randn(units, units, generator=generator)
    return raw @ mixing + 3


def configs_of(*members: tuple[int, float], kind: str = "decov") -> list[TrialConfig]:
    """Configurations by latent size and weight."""
    return [replace(TINY, latent_size=size, decorrelation=weight, decorrelation_kind=kind) for size, weight in members]


def penalties(codes: Tensor, *configs: TrialConfig) -> Tensor:
    """What is added to each member's loss."""
    penalty = Decorrelation.of(configs, CPU)
    assert penalty is not None
    return penalty(codes)


def test_every_kind_of_penalty_can_be_chosen() -> None:
    """The names that a configuration takes are those that there is a function for."""
    assert rule_of("decorrelation_kind").choices == tuple(PENALTIES)


@pytest.mark.parametrize(
    ("kind", "matrix"), [("decov", lambda x: np.cov(x.T, bias=True)), ("barlow", lambda x: np.corrcoef(x.T))]
)
def test_the_penalty_is_the_mean_square_off_the_diagonal(kind: str, matrix: Callable[[Any], Any]) -> None:
    """Of NumPy's covariance or correlation of the batch, times the weight."""
    codes = codes_of(50, 4)
    reference = matrix(codes.double().numpy())
    expected = 0.3 * np.square(reference[~np.eye(4, dtype=bool)]).mean()
    (found,) = penalties(codes, *configs_of((4, 0.3), kind=kind))
    assert float(found) == pytest.approx(expected, rel=1e-5)


@settings(max_examples=30)
@given(scale=st.floats(0.1, 10), seed=st.integers(0, 1000))
def test_shrinking_the_codes_lowers_one_penalty_and_not_the_other(scale: float, seed: int) -> None:
    """Covariances go with the fourth power of the scale when squared; correlations do not change."""
    codes = codes_of(40, 3, seed)
    for kind, power in (("decov", 4), ("barlow", 0)):
        config = configs_of((3, 1.0), kind=kind)
        before, after = float(penalties(codes, *config)), float(penalties(scale * codes, *config))
        assert after == pytest.approx(scale**power * before, rel=1e-3)


@pytest.mark.parametrize("kind", PENALTIES)
def test_uncorrelated_codes_cost_nothing(kind: str) -> None:
    """The four corners of a square are uncorrelated; one unit alone has no pair; a unit that never varies costs nothing."""
    square = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    assert float(penalties(square, *configs_of((2, 1.0), kind=kind))) == 0
    assert float(penalties(square[:, :1], *configs_of((1, 1.0), kind=kind))) == 0
    constant = torch.cat((square, torch.full((4, 1), 5.0)), dim=1).requires_grad_()
    cost = penalties(constant, *configs_of((3, 1.0), kind=kind))
    cost.sum().backward()  # type: ignore[no-untyped-call]
    assert float(cost.detach()) == 0
    assert constant.grad is not None
    assert torch.isfinite(constant.grad).all()


@pytest.mark.parametrize("kind", PENALTIES)
def test_members_of_a_stack_have_the_penalties_that_they_have_alone(kind: str) -> None:
    """Whatever their weights and latent sizes; smaller codes are filled up with zeros."""
    configs = configs_of((4, 0.5), (2, 2.0), (4, 0.0), (1, 1.0), kind=kind)
    own = [codes_of(20, config.latent_size, seed) for seed, config in enumerate(configs)]
    filled = torch.cat([torch.nn.functional.pad(codes, (0, 4 - codes.shape[1])) for codes in own])
    alone = [
        penalties(codes, config) if config.decorrelation else torch.zeros(1) for codes, config in zip(own, configs, strict=True)
    ]
    torch.testing.assert_close(penalties(filled, *configs), torch.cat(alone))


def test_no_weight_is_no_penalty() -> None:
    """Training is then left as it is: there is nothing to add."""
    assert Decorrelation.of(configs_of((3, 0.0), (4, 0.0)), CPU) is None


def test_a_prefix_keeps_the_first_units() -> None:
    """Each code its own number of them, or all codes the same."""
    codes = torch.arange(1.0, 7).view(2, 3)
    assert keep_prefix(codes, torch.tensor([1, 3])).tolist() == [[1, 0, 0], [4, 5, 6]]
    assert keep_prefix(codes, 2).tolist() == [[1, 2, 0], [4, 5, 0]]


def test_prefix_lengths_are_uniform_and_follow_from_seed_and_epoch() -> None:
    """From 1 to d equally often; the same again, others in another epoch or for another seed; none without ``prefix``."""
    config = replace(TINY, latent_size=4, prefix=True)
    lengths = prefix_lengths(config, 1, 8000)
    assert lengths is not None
    counts = torch.bincount(lengths, minlength=5)
    assert counts[0] == 0
    assert (counts[1:] > 1850).all()
    assert torch.equal(lengths, prefix_lengths(config, 1, 8000))  # type: ignore[arg-type]
    for other, epoch in ((config, 2), (replace(config, seed=1), 1)):
        assert not torch.equal(lengths, prefix_lengths(other, epoch, 8000))  # type: ignore[arg-type]
    assert prefix_lengths(replace(config, prefix=False), 1, 8000) is None


def test_the_largest_seed_has_prefixes_too() -> None:
    """The seed of the generator fits into 64 bits."""
    assert prefix_lengths(replace(TINY, seed=2**40, prefix=True), 10**6, 3) is not None
