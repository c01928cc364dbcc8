"""The linear floors against scikit-learn's PCA, NumPy's least squares and calculations by hand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from harness.floors import LinearFloors, SharedFloors

HEIGHT, WIDTH = 5, 4
PIXELS = HEIGHT * WIDTH
ENOUGH = [1, 3, 10, PIXELS - 1]


def _images(count: int, seed: int) -> Tensor:
    """Images in [0, 1] whose pixels hang together, (count, 1, 5, 4)."""
    mixing = np.random.default_rng(99).normal(size=(PIXELS, PIXELS)) * np.linspace(1, 0.1, PIXELS)[:, None]
    raw = np.random.default_rng(seed).normal(size=(count, PIXELS)) @ mixing
    return torch.from_numpy((1 / (1 + np.exp(-raw))).astype(np.float32)).view(count, 1, HEIGHT, WIDTH)


def _pixels(images: Tensor) -> npt.NDArray[np.float64]:
    return images.flatten(1).double().numpy()


@pytest.fixture(scope="module")
def training() -> Tensor:
    """Training images."""
    return _images(300, seed=0)


@pytest.fixture(scope="module")
def held_out() -> Tensor:
    """Images of the same kind that no floor is fitted on."""
    return _images(80, seed=1)


@pytest.fixture(scope="module")
def floors(training: Tensor) -> LinearFloors:
    """The floors of the training images."""
    return LinearFloors.fit(training)


def test_the_mean_image_is_that_of_the_training_images(floors: LinearFloors, training: Tensor, held_out: Tensor) -> None:
    """The error on the test images is taken from the training mean, not from their own."""
    reference = np.mean((_pixels(held_out) - _pixels(training).mean(axis=0)) ** 2)
    assert floors.mean_image_mse(held_out) == pytest.approx(reference)


def test_the_mean_image_error_of_two_images_by_hand() -> None:
    """The mean of a black and a white image is grey, 0.5 from both, so the error is 0.25; a grey image has none."""
    floors = LinearFloors.fit(torch.stack((torch.zeros(1, 2, 2), torch.ones(1, 2, 2))))
    assert floors.mean_image_mse(torch.ones(3, 1, 2, 2)) == pytest.approx(0.25)
    assert floors.mean_image_mse(torch.full((1, 1, 2, 2), 0.5)) == 0


@pytest.mark.parametrize("components", ENOUGH)
def test_the_pca_error_is_that_of_scikit_learn(floors: LinearFloors, training: Tensor, held_out: Tensor, components: int) -> None:
    """The error of scikit-learn's reconstruction of test images, fitted on training images."""
    pca = PCA(components, svd_solver="full").fit(_pixels(training))
    reference = np.mean((pca.inverse_transform(pca.transform(_pixels(held_out))) - _pixels(held_out)) ** 2)
    assert floors.pca_mse(held_out, components) == pytest.approx(reference, rel=1e-6)


def test_the_pca_scores_are_those_of_scikit_learn(floors: LinearFloors, training: Tensor, held_out: Tensor) -> None:
    """Equal up to the sign of each component, and in single precision as a classifier takes them."""
    reference = PCA(4, svd_solver="full").fit(_pixels(training)).transform(_pixels(held_out))
    scores = floors.pca_scores(held_out, 4)
    assert scores.dtype == torch.float32
    np.testing.assert_allclose(np.abs(scores.numpy()), np.abs(reference), atol=1e-5)


@pytest.mark.parametrize("components", [PIXELS, PIXELS + 1, 5 * PIXELS])
def test_as_many_components_as_pixels_lose_nothing(floors: LinearFloors, held_out: Tensor, components: int) -> None:
    """Both projections are exact, also where more components are asked for than there are pixels."""
    assert floors.pca_mse(held_out, components) == pytest.approx(0, abs=1e-12)
    assert floors.random_projection_mse(held_out, components) == pytest.approx(0, abs=1e-12)
    assert floors.pca_scores(held_out, components).shape == (len(held_out), PIXELS)


@pytest.mark.parametrize("components", ENOUGH)
def test_the_random_projection_is_decoded_by_least_squares(
    floors: LinearFloors, training: Tensor, held_out: Tensor, components: int
) -> None:
    """NumPy's least-squares decoder of the same Gaussian directions, fitted on training images, has the same test error."""
    gaussian = torch.randn(PIXELS, components, generator=torch.Generator().manual_seed(7), dtype=torch.float64).numpy()
    centred = _pixels(training) - _pixels(training).mean(axis=0)
    decoder = np.linalg.lstsq(centred @ gaussian, centred)[0]
    tested = _pixels(held_out) - _pixels(training).mean(axis=0)
    reference = np.mean((tested - tested @ gaussian @ decoder) ** 2)
    assert floors.random_projection_mse(held_out, components, seed=7) == pytest.approx(reference, rel=1e-6)


@pytest.mark.parametrize("components", ENOUGH)
def test_the_floors_of_training_images_are_in_order(floors: LinearFloors, training: Tensor, components: int) -> None:
    """PCA is the best linear projection, a random one is worse, and the mean image, which has no components, is worst."""
    pca, projected = floors.pca_mse(training, components), floors.random_projection_mse(training, components)
    assert 0 < pca < projected < floors.mean_image_mse(training)


def test_another_seed_projects_another_way(floors: LinearFloors, held_out: Tensor) -> None:
    """The random projection is a function of its seed."""
    first = floors.random_projection_mse(held_out, 3, seed=0)
    assert first == floors.random_projection_mse(held_out, 3, seed=0)
    assert first != floors.random_projection_mse(held_out, 3, seed=1)


@pytest.mark.parametrize("components", [6, 9, PIXELS])
def test_fewer_images_than_pixels_are_fitted_exactly(components: int) -> None:
    """Seven images span six directions: six components decode them exactly, and more do no harm."""
    few = _images(7, seed=5)
    floors = LinearFloors.fit(few)
    assert floors.pca_mse(few, 5) > 1e-6
    assert floors.pca_mse(few, components) == pytest.approx(0, abs=1e-12)
    assert floors.random_projection_mse(few, components) == pytest.approx(0, abs=1e-10)


def test_pixels_that_never_vary_do_no_harm(held_out: Tensor) -> None:
    """A border that is always black adds no error: the summed squared error stays as it was."""
    training = _images(300, seed=0)
    bordered = [torch.nn.functional.pad(images, (2, 2, 2, 2)) for images in (training, held_out)]
    floors = LinearFloors.fit(bordered[0])
    share = PIXELS / bordered[1][0].numel()
    assert floors.pca_mse(bordered[1], 3) == pytest.approx(LinearFloors.fit(training).pca_mse(held_out, 3) * share)
    assert 0 < floors.random_projection_mse(bordered[1], 3) < floors.mean_image_mse(bordered[1])


def test_a_colour_image_has_three_values_a_pixel() -> None:
    """The floors of (N, 3, H, W) are those of scikit-learn on all channels together."""
    images = _images(120, seed=2).view(40, 3, HEIGHT, WIDTH)
    pca = PCA(5, svd_solver="full").fit(_pixels(images))
    reference = np.mean((pca.inverse_transform(pca.transform(_pixels(images))) - _pixels(images)) ** 2)
    assert LinearFloors.fit(images).pca_mse(images, 5) == pytest.approx(reference, rel=1e-6)


@pytest.mark.parametrize("count", [PIXELS // 2, PIXELS, 4 * PIXELS])
@pytest.mark.parametrize("components", [*ENOUGH, PIXELS, 5 * PIXELS])
def test_floors_of_the_same_images_many_times_are_the_floors(floors: LinearFloors, count: int, components: int) -> None:
    """From one matrix, or image by image where there are few: the same but for the last digits."""
    images = _images(count, seed=6)
    shared = SharedFloors(floors, images)
    assert shared.mean_image_mse() == pytest.approx(floors.mean_image_mse(images), rel=1e-12)
    assert shared.pca_mse(components) == pytest.approx(floors.pca_mse(images, components), rel=1e-9, abs=1e-14)
    projected = floors.random_projection_mse(images, components)
    assert shared.random_projection_mse(components) == pytest.approx(projected, rel=1e-9, abs=1e-14)


def test_the_images_are_gone_through_once(floors: LinearFloors, held_out: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """For all floors of all latent sizes."""
    shared, gone_through = SharedFloors(floors, held_out), []
    centre = LinearFloors._centred
    monkeypatch.setattr(LinearFloors, "_centred", lambda self, images: gone_through.append(images) or centre(self, images))
    for components in ENOUGH:
        assert shared.pca_mse(components) < shared.mean_image_mse()
        assert shared.random_projection_mse(components) > 0
    assert len(gone_through) == 1
