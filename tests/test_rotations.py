"""PCA and whitening of codes against scikit-learn, and a probe that cannot tell."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from torch import Tensor

from harness.latents import max_abs_correlation
from harness.rotations import Rotation, linear_probe_accuracy


def codes_of(count: int, units: int, seed: int = 0) -> Tensor:
    """Correlated codes of different scales, (N, d)."""
    random = np.random.default_rng(seed)
    return torch.from_numpy((random.normal(size=(count, units)) @ random.normal(size=(units, units)) + 2).astype(np.float32))


def labels_of(codes: Tensor, classes: int = 3) -> Tensor:
    """Classes that hang on the codes, with noise."""
    noise = np.random.default_rng(9).normal(size=(len(codes), classes))
    weights = np.random.default_rng(8).normal(size=(codes.shape[1], classes))
    return torch.from_numpy((codes.numpy() @ weights + 2 * noise).argmax(axis=1))


@pytest.mark.parametrize("whiten", [False, True])
def test_codes_are_turned_as_scikit_learn_turns_them(whiten: bool) -> None:
    """Of other codes than it was fitted on, too; up to the sign of each axis and the divisor of the variance."""
    training, others = codes_of(200, 5), codes_of(50, 5, seed=1)
    pca = PCA(whiten=whiten).fit(training.double().numpy())
    expected = pca.transform(others.double().numpy()) * (np.sqrt(200 / 199) if whiten else 1)
    rotation = Rotation.fit(training)
    found = rotation.whitened(others) if whiten else rotation.rotated(others)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(np.abs(found.numpy()), np.abs(expected), rtol=1e-3, atol=1e-4)


def test_a_rotation_takes_all_correlation_away_and_no_information() -> None:
    """Of the codes it was fitted on none is left, and distances are what they were."""
    codes = codes_of(100, 4)
    rotated = Rotation.fit(codes).rotated(codes)
    assert max_abs_correlation(codes) > 0.3
    assert max_abs_correlation(rotated) < 1e-5
    np.testing.assert_allclose(pdist(rotated.numpy()), pdist(codes.numpy()), rtol=1e-4)


def test_a_direction_without_variance_is_left_out_of_whitening() -> None:
    """A unit that repeats another one, and one that never varies, are not blown up to noise."""
    codes = codes_of(100, 2)
    degenerate = torch.cat((codes, codes[:, :1], torch.full((100, 1), 7.0)), dim=1)
    white = Rotation.fit(degenerate).whitened(degenerate)
    assert torch.isfinite(white).all()
    np.testing.assert_allclose(white.var(dim=0, correction=0).numpy(), [1, 1, 0, 0], atol=1e-3)


def test_the_probe_is_least_squares_on_classes() -> None:
    """The accuracy of scikit-learn's linear regression on one-hot targets, the largest output taken."""
    codes, test = codes_of(290, 6).split([90, 200])
    labels, test_labels = labels_of(codes), labels_of(test)
    reference = LinearRegression().fit(codes.double().numpy(), np.eye(3)[labels.numpy()])
    expected = (reference.predict(test.double().numpy()).argmax(axis=1) == test_labels.numpy()).mean()
    assert linear_probe_accuracy(codes, labels, test, test_labels) == pytest.approx(expected)
    assert 0.4 < expected < 1


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_no_rotation_and_no_whitening_changes_the_probe(seed: int) -> None:
    """As long as there are more labelled codes than units: the same classes for the same images."""
    codes, test = codes_of(40, 5, seed), codes_of(100, 5, seed + 1)
    labels, test_labels = labels_of(codes), labels_of(test)
    rotation = Rotation.fit(test)
    plain = linear_probe_accuracy(codes, labels, test, test_labels)
    for change in (rotation.rotated, rotation.whitened):
        assert linear_probe_accuracy(change(codes), labels, change(test), test_labels) == pytest.approx(plain, abs=0.011)


def test_fewer_labels_than_units_have_a_probe_too() -> None:
    """The one with the smallest weights; a class that no label names is counted among the wrong ones."""
    codes, test = codes_of(4, 10), codes_of(30, 10, seed=1)
    labels, test_labels = torch.tensor([0, 1, 0, 1]), torch.arange(30) % 3
    assert 0 <= linear_probe_accuracy(codes, labels, test, test_labels) <= 2 / 3
