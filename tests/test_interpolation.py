"""Interpolation between codes against NumPy, scikit-learn's nearest neighbours and calculations by hand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from harness import interpolation

PAIRS = [(0, 3), (2, 1)]


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape).astype(np.float32))


def _as_image(codes: Tensor) -> Tensor:
    """A decoder that lays four latent units out as an image of 2 x 2 pixels."""
    return codes.view(-1, 1, 2, 2)


@pytest.mark.parametrize("units", [1, 4])
def test_codes_are_mixed_by_weight(units: int) -> None:
    """The mixture is a E(x1) + (1 - a) E(x2), computed with NumPy pair by pair."""
    codes, weights = _random(5, units), (0.0, 0.25, 0.7, 1.0)
    array = codes.numpy()
    reference = [[a * array[first] + (1 - a) * array[second] for a in weights] for first, second in PAIRS]
    mixed = interpolation.interpolate(codes, PAIRS, weights)
    assert mixed.shape == (2, 4, units)
    np.testing.assert_allclose(mixed.numpy(), reference, rtol=1e-6)


def test_one_weight_gives_one_point_a_pair() -> None:
    """The midpoint of (0, 2) and (4, -2) is (2, 0)."""
    mixed = interpolation.interpolate(torch.tensor([[0.0, 2.0], [4.0, -2.0]]), [(0, 1)], [0.5])
    assert mixed.tolist() == [[[2.0, 0.0]]]


def on_arcs(first: list[float], second: list[float], weights: list[float], centre: list[float]) -> npt.NDArray[np.float64]:
    """The points between two codes, (weights, d), without the centre."""
    codes = torch.tensor([first, second], dtype=torch.float64)
    middle = torch.tensor(centre, dtype=torch.float64)
    points: npt.NDArray[np.float64] = (interpolation.interpolate_on_arcs(codes, [(0, 1)], weights, middle)[0] - middle).numpy()
    return points


@pytest.mark.parametrize("degrees", [10, 90, 175])
def test_an_arc_between_codes_of_two_lengths_stays_between_them(degrees: float) -> None:
    """By hand, about a centre that is not 0: at a share of the way the same share of the angle and of the radius."""
    angle, centre = np.radians(degrees), [3.0, -1.0]
    first, second = [3.0 + 1.0, -1.0], [3.0 + 2 * np.cos(angle), -1.0 + 2 * np.sin(angle)]
    weights = [1.0, 0.75, 0.5, 0.25, 0.0]
    points = on_arcs(first, second, weights, centre)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), [1, 1.25, 1.5, 1.75, 2])
    np.testing.assert_allclose(np.arctan2(points[:, 1], points[:, 0]), angle * (1 - np.array(weights)), atol=1e-9)


def test_an_arc_between_codes_of_one_length_is_shoemakes() -> None:
    """(sin(a t) x1 + sin((1 - a) t) x2) / sin t, in three dimensions."""
    first, second = np.array([0.0, 2.0, 0.0]), np.array([0.0, 0.0, -2.0])
    expected = [np.sin(a * np.pi / 2) * first + np.sin((1 - a) * np.pi / 2) * second for a in (0.2, 0.5)]
    np.testing.assert_allclose(on_arcs(list(first), list(second), [0.2, 0.5], [0.0] * 3), expected, atol=1e-12)


@pytest.mark.parametrize(("first", "second"), [([1.0, 0.0], [-2.0, 0.0]), ([1.0, 1.0], [2.0, 2.0]), ([0.0, 0.0], [0.0, 2.0])])
def test_where_there_is_no_arc_codes_are_mixed_on_a_line(first: list[float], second: list[float]) -> None:
    """Opposite, in one direction, or with one of them in the centre."""
    expected = 0.25 * np.array(first) + 0.75 * np.array(second)
    np.testing.assert_allclose(on_arcs(first, second, [0.25], [0.0, 0.0])[0], expected, atol=1e-12)


@pytest.mark.parametrize("steps", [2, 5, interpolation.STRIP_STEPS])
def test_a_strip_goes_from_the_first_image_to_the_second(steps: int) -> None:
    """Its ends are the decoded codes of the pair and its steps are even."""
    codes = _random(5, 4)
    strips = interpolation.decoded_strips(codes, PAIRS, _as_image, steps)
    assert strips.shape == (2, steps, 1, 2, 2)
    for strip, (first, second) in zip(strips.flatten(2).numpy(), PAIRS, strict=True):
        np.testing.assert_allclose(strip, np.linspace(codes[first].numpy(), codes[second].numpy(), steps), atol=1e-6)


def test_a_strip_is_decoded_after_mixing() -> None:
    """With a decoder that squares, the middle of 1 and 3 is 4 and not the 5 of mixed images."""
    codes = torch.tensor([[1.0], [3.0]])
    strips = interpolation.decoded_strips(codes, [(0, 1)], lambda mixed: mixed.square().view(-1, 1, 1, 1), steps=3)
    assert strips.flatten().tolist() == [1.0, 4.0, 9.0]


@pytest.mark.parametrize("block", [1, 4, 7, 256])
def test_the_nearest_distance_is_that_of_scikit_learn(block: int) -> None:
    """Whatever the number of queries compared at a time; the squared distance is per pixel."""
    queries, references = _random(7, 3, 4, 5, seed=1), _random(30, 3, 4, 5, seed=2)
    neighbours = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(references.flatten(1).double().numpy())
    distances = neighbours.kneighbors(queries.flatten(1).double().numpy())[0][:, 0]
    np.testing.assert_allclose(interpolation.nearest_mse(queries, references, block).numpy(), distances**2 / 60, rtol=1e-5)


def test_an_image_that_is_there_is_at_no_distance() -> None:
    """The distance to the nearest is exactly 0 for a copy, without the rounding of a matrix product."""
    references = 100 + _random(20, 1, 3, 3)
    assert interpolation.nearest_mse(references[[4, 11]].clone(), references).tolist() == [0.0, 0.0]


def test_the_distance_to_a_single_reference_is_the_squared_error() -> None:
    """One reference only: the plain mean squared error to it."""
    queries, reference = _random(3, 1, 2, 2, seed=3), _random(1, 1, 2, 2, seed=4)
    expected = ((queries.numpy() - reference.numpy()) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(interpolation.nearest_mse(queries, reference).numpy(), expected, rtol=1e-5)


def test_the_manifold_distance_by_hand() -> None:
    """Black training images, midpoints 0.2 away and data 0.01 in squared error away: 0.04 / 0.01 = 4."""
    training, midpoints = torch.zeros(3, 1, 2, 2), torch.full((2, 1, 2, 2), 0.2)
    assert interpolation.manifold_distance(midpoints, training, 0.01) == pytest.approx(4, rel=1e-5)


def test_the_manifold_distance_is_of_the_mean_over_the_midpoints() -> None:
    """By hand: (0.01 + 0.09) / 2 over 0.01 is 5."""
    training, midpoints = torch.zeros(1, 1, 1, 1), torch.tensor([0.1, 0.3]).view(2, 1, 1, 1)
    assert interpolation.manifold_distance(midpoints, training, 0.01) == pytest.approx(5, rel=1e-5)


def test_data_are_as_close_to_the_data_as_data() -> None:
    """The manifold distance of the real images themselves is 1, and that of training images is 0."""
    real, training = _random(6, 1, 4, 4, seed=5), _random(40, 1, 4, 4, seed=6)
    data_distance = float(interpolation.nearest_mse(real, training).mean())
    assert interpolation.manifold_distance(real, training, data_distance) == 1
    assert interpolation.manifold_distance(training[:5], training, data_distance) == 0


def test_where_data_are_copies_of_data_there_is_no_unit_to_measure_in() -> None:
    """The manifold distance is not defined, and no error of the trial."""
    images = _random(5, 1, 2, 2)
    assert np.isnan(interpolation.manifold_distance(images + 0.1, images, 0.0))
