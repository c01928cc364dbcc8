"""Propositions about linear maps, stationary points and chain rules, shown on the modules that the studies train."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev
from torch.nn import functional

from harness.config import Placement, TrialConfig
from harness.floors import LinearFloors
from harness.material import gather
from harness.models import ARCHITECTURES, Autoencoder, Shape, build, resolve
from harness.optimizers import StackedAdam
from harness.stacks import stack
from harness.train import initial_state, load_model, train_member

EXACT = 1e-10
"""Two ways to the same float64 number may differ by this much."""

SMALL: Shape = (1, 3, 3)

EVEN: Shape = (1, 2, 4)
EIGHTHS = 8
"""Where a gradient has to be 0 to the last bit: pixels that are whole eighths, as many as a power of two, are not rounded."""

Optimizer = Callable[[nn.Module], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": lambda net: torch.optim.SGD(net.parameters(), lr=0.1),
    "momentum": lambda net: torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda net: torch.optim.Adam(net.parameters(), lr=0.1),
    "amsgrad": lambda net: torch.optim.Adam(net.parameters(), lr=0.1, amsgrad=True),
}


def autoencoder(architecture: str, shape: Shape, **fields: object) -> Autoencoder:
    """A real one in float64 and evaluation mode, with weights and statistics as large as those of one that was trained.

    Those of a new network make a small one nearly constant, which would leave nothing to compare.
    """
    small = {"width": 4} if "width" in ARCHITECTURES[architecture].defaults else {}
    config = replace(TrialConfig(architecture=architecture, latent_size=3), **{**small, **fields})  # type: ignore[arg-type]
    net = build(shape, resolve(config)).double().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(7)
    for name, tensor in net.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        if tensor.dim() > 1:
            tensor.copy_(noise * math.sqrt(2 / tensor[0].numel()))
        elif name.endswith(("weight", "running_var")):  # of a batch norm
            tensor.copy_(0.5 + noise.abs())
        elif tensor.dim() == 1:
            tensor.copy_(0.1 * noise)
    return net


def random_images(count: int, shape: Shape, seed: int) -> Tensor:
    """Images of noise in [0, 1], (count, C, H, W), float64."""
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- compositions of linear and of affine maps


def one_layer(layers: list[nn.Linear]) -> nn.Linear:
    """The layer that does what all of these do one after the other: weight W_n ... W_1, bias b_n + W_n (b_n-1 + ...)."""
    weight = torch.eye(layers[0].in_features, dtype=torch.float64)
    bias = torch.zeros(layers[0].in_features, dtype=torch.float64)
    for layer in layers:
        weight, bias = layer.weight @ weight, layer.weight @ bias + (0 if layer.bias is None else layer.bias)
    one = nn.Linear(weight.shape[1], weight.shape[0]).double()
    one.weight.data, one.bias.data = weight.detach(), bias.detach()
    return one


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=6),
    is_affine=st.booleans(),
    seed=st.integers(0, 2**31 - 1),
)
def test_encoders_without_activations_are_one_layer(sizes: list[int], is_affine: bool, seed: int) -> None:
    """A composition of ``linear`` encoders, each on the code of the one before, is one affine map: the product of the weights.

    Without biases it is linear.
    """
    config = resolve(TrialConfig(architecture="linear", seed=seed))
    encoders = [
        build((1, 1, first), replace(config, latent_size=second)).encoder.double() for first, second in itertools.pairwise(sizes)
    ]
    layers = [module for encoder in encoders for module in encoder.modules() if isinstance(module, nn.Linear)]
    assert len(layers) == len(encoders)
    for layer in layers:
        layer.bias.data *= is_affine
    images = random_images(5, (1, 1, sizes[0]), seed)
    one = one_layer(layers)
    torch.testing.assert_close(nn.Sequential(*encoders)(images), one(images.flatten(1)), rtol=EXACT, atol=EXACT)
    assert bool(one.bias.any()) == is_affine


@pytest.mark.parametrize("copies", [1, 2, 5])
def test_the_linear_encoder_and_decoder_over_and_over_are_one_layer(copies: int) -> None:
    """However often images go through the ``linear`` autoencoder, it is one affine map of rank d at the most."""
    net = autoencoder("linear", (1, 4, 4))
    layers = [module for module in net.modules() if isinstance(module, nn.Linear)] * copies
    images = random_images(6, (1, 4, 4), seed=1)
    out = images
    for _ in range(copies):
        out = net(out)
    one = one_layer(layers)
    torch.testing.assert_close(out.flatten(1), one(images.flatten(1)), rtol=EXACT, atol=EXACT)
    assert int(torch.linalg.matrix_rank(one.weight)) == 3


def test_a_layer_with_an_activation_is_no_linear_layer() -> None:
    """What the propositions above need is that there is no activation: ``base`` does not even keep midpoints."""
    net, images = autoencoder("base", (1, 8, 8)), random_images(2, (1, 8, 8), seed=2)
    codes = net.encoder(images)
    middle = net.encoder(images.mean(dim=0, keepdim=True))[0]
    assert float((middle - codes.mean(dim=0)).abs().max()) > 1e-3


# --- the linear autoencoder is PCA


def largest_angle(first: Tensor, second: Tensor) -> float:
    """The largest principal angle between the spans of two matrices' columns, radians (Bjorck and Golub 1973)."""
    bases = [torch.linalg.qr(matrix.double()).Q for matrix in (first, second)]
    residual = bases[1] - bases[0] @ (bases[0].T @ bases[1])  # its norm is the sine, which is exact for small angles
    return math.asin(min(1.0, float(torch.linalg.matrix_norm(residual, ord=2))))


def test_the_trained_linear_autoencoder_spans_the_pca_subspace(placement: Placement) -> None:
    """The optimum of a linear autoencoder is the projection on the principal subspace (Baldi and Hornik 1989)."""
    config = resolve(TrialConfig(architecture="linear", latent_size=4, epochs=400, learning_rate=5e-3))
    material = gather(config, placement)
    start = initial_state(config, material.shape)
    floors = LinearFloors.fit(material.splits.train.images)
    angles = []
    for state in (start, train_member(config, start, config.epochs, material.splits)[0]):
        net = load_model(config, state, material.shape, "cpu")
        decoder = next(module for module in net.decoder.modules() if isinstance(module, nn.Linear))
        angles.append(largest_angle(decoder.weight.detach(), floors.directions[:, :4]))
    assert angles[0] > 1
    assert angles[1] < 0.2


@pytest.mark.parametrize("components", [2, 4])
def test_trained_to_the_end_the_optimum_is_pca(components: int) -> None:
    """Trained to the end by a second-order method, the angle between decoder and principal directions is nothing."""
    scale = torch.linspace(1, 0.1, 9, dtype=torch.float64).view(SMALL)  # so that the variances are well apart
    images = random_images(40, SMALL, seed=3) * scale
    net = autoencoder("linear", SMALL, latent_size=components).requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        net.parameters(), max_iter=500, history_size=50, tolerance_grad=1e-14, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = 100 * functional.mse_loss(net(images), images)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    floors = LinearFloors.fit(images)
    decoder = next(module for module in net.decoder.modules() if isinstance(module, nn.Linear))
    assert largest_angle(decoder.weight.detach(), floors.directions[:, :components]) < 1e-3
    assert float(closure().detach()) / 100 == pytest.approx(floors.pca_mse(images, components), rel=1e-6)


# --- stationary points


def saddle() -> tuple[Autoencoder, Tensor]:
    """The ``linear`` autoencoder that decodes everything as the mean image, and images that are whole eighths."""
    generator = torch.Generator().manual_seed(4)
    half = torch.randint(0, EIGHTHS + 1, (8, *EVEN), generator=generator).double() / EIGHTHS
    images = torch.cat((half, 1 - half))  # the mean image is 1/2 everywhere, without rounding
    net = autoencoder("linear", EVEN, latent_size=2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        next(module for module in net.decoder.modules() if isinstance(module, nn.Linear)).bias.fill_(0.5)
    return net.requires_grad_(True), images


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_from_a_stationary_point_goes_nowhere(name: str) -> None:
    """Where the gradient is 0 a cold optimizer leaves every weight as it is, bit for bit, however often it steps."""
    net, images = saddle()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    optimizer = OPTIMIZERS[name](net)
    for _ in range(3):
        optimizer.zero_grad()
        functional.mse_loss(net(images), images).backward()
        assert all(float(parameter.grad.abs().max()) == 0 for parameter in net.parameters() if parameter.grad is not None)
        optimizer.step()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_the_stacks_optimizer_stays_at_a_stationary_point_too() -> None:
    """The harness's own Adam, for a stack of two."""
    (net, images), (other, _) = saddle(), saddle()
    both = stack([net.float(), other.float()])
    before = {key: value.clone() for key, value in both.state_dict().items()}
    optimizer = StackedAdam(both, [0.1, 0.1])
    batch = images.float().repeat(2, 1, 1, 1)
    functional.mse_loss(both(batch), batch).backward()
    optimizer.step(1.0)
    assert all(torch.equal(value, before[key]) for key, value in both.state_dict().items())


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_an_optimizer_that_remembers_goes_on_past_a_stationary_point(name: str) -> None:
    """That it was cold is needed: with moments of earlier steps the gradient may be 0 and the weights move all the same."""
    net, images = saddle()
    optimizer = OPTIMIZERS[name](net)
    bias = next(module for module in net.decoder.modules() if isinstance(module, nn.Linear)).bias
    functional.mse_loss(net(images * 0.5), images * 0.5).backward()  # of other images: the optimizer is warm then
    optimizer.step()
    with torch.no_grad():
        bias.fill_(0.5)
    optimizer.zero_grad()
    functional.mse_loss(net(images), images).backward()
    assert bias.grad is not None
    assert float(bias.grad.abs().max()) == 0
    optimizer.step()
    assert float((bias.detach() - 0.5).abs().max()) > 1e-3


def parameter_hessian(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Second derivatives of a loss by a flat vector of weights."""
    return jacrev(grad(loss))(at)  # type: ignore[no-any-return]


def loss_of_weights(net: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The loss as a function of all weights as one vector, and that vector."""
    shapes = {name: parameter.shape for name, parameter in net.named_parameters()}

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([shape.numel() for shape in shapes.values()])
        weights = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        return functional.mse_loss(functional_call(net, weights, (inputs,)), targets)

    return loss, torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


def best_decoder(seed: int) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The loss of the ``linear`` decoder by its weights, for fixed codes, and the weights that least squares gives."""
    net = autoencoder("linear", SMALL, latent_size=2)
    images = random_images(30, SMALL, seed)
    codes = net.encoder(images)
    affine = torch.cat((codes, torch.ones(len(codes), 1, dtype=torch.float64)), dim=1)
    solution = torch.linalg.lstsq(affine, images.flatten(1)).solution  # (d + 1, P)
    layer = next(module for module in net.decoder.modules() if isinstance(module, nn.Linear))
    layer.weight.data, layer.bias.data = solution[:-1].T.contiguous(), solution[-1]
    return loss_of_weights(net.decoder, codes, images)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31 - 1), radius=st.floats(1e-2, 1.0))
def test_where_the_hessian_is_positive_definite_all_nearby_loss_is_larger(seed: int, radius: float) -> None:
    """The second-order sufficient condition: gradient 0 and Hessian positive definite make a strict local minimum."""
    loss, at = best_decoder(seed % 5)
    assert float(grad(loss)(at).abs().max()) < EXACT
    smallest = float(torch.linalg.eigvalsh(parameter_hessian(loss, at)).min())
    assert smallest > 0
    step = torch.randn(at.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    step *= radius / step.norm()
    gain = float(loss(at + step) - loss(at))
    assert gain >= 0.5 * smallest * radius**2 * (1 - 1e-6)  # the loss is quadratic here: the bound is Taylor's, exactly


def best_sigmoid_decoder(seed: int) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The same of a decoder that ends in a sigmoid, whose loss is not quadratic; by Newton's method from the mean image."""
    net = autoencoder("linear", SMALL, latent_size=2, output_activation="sigmoid")
    images = random_images(30, SMALL, seed)
    layer = next(module for module in net.decoder.modules() if isinstance(module, nn.Linear))
    layer.weight.data, layer.bias.data = torch.zeros_like(layer.weight), images.flatten(1).mean(dim=0).logit()
    loss, at = loss_of_weights(net.decoder, net.encoder(images), images)
    for _ in range(20):
        at = at - torch.linalg.solve(parameter_hessian(loss, at), grad(loss)(at))
    return loss, at


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31 - 1), radius=st.floats(1e-4, 1e-3))
def test_where_the_loss_is_not_quadratic_the_condition_holds_nearby(seed: int, radius: float) -> None:
    """At the optimum of a sigmoid decoder: within a small radius half of what the Hessian promises is left at the least.

    Farther away it may be less: the second derivatives differ from place to place.
    """
    loss, at = best_sigmoid_decoder(seed % 5)
    hessian = parameter_hessian(loss, at)
    assert float(grad(loss)(at).abs().max()) < EXACT
    smallest = float(torch.linalg.eigvalsh(hessian).min())
    assert smallest > 0
    step = torch.randn(at.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    step *= radius / step.norm()
    assert float(loss(at + step) - loss(at)) >= 0.25 * smallest * radius**2
    assert not torch.allclose(parameter_hessian(loss, at + 1000 * step), hessian, rtol=1e-3)


def test_a_stationary_point_with_a_negative_curvature_is_a_saddle() -> None:
    """At the mean image gradient descent stays, and along the most negative direction of the Hessian the loss falls."""
    net, images = saddle()
    loss, at = loss_of_weights(net.requires_grad_(False), images, images)
    values, vectors = torch.linalg.eigh(parameter_hessian(loss, at))
    assert float(grad(loss)(at).abs().max()) == 0
    assert float(values[0]) < -1e-3
    assert float(loss(at + 0.1 * vectors[:, 0])) < float(loss(at))
    assert float(loss(at + 0.1 * vectors[:, -1])) > float(loss(at))


def test_the_optimum_of_the_whole_autoencoder_is_flat_along_changes_of_basis() -> None:
    """For any invertible A, decoder A^-1 and A encoder decode alike: no Hessian of an autoencoder is positive definite."""
    net, images = autoencoder("linear", SMALL, latent_size=2), random_images(20, SMALL, seed=6)
    mean, basis = images.flatten(1).mean(dim=0), LinearFloors.fit(images).directions[:, :2]
    encoder, decoder = (next(m for m in part.modules() if isinstance(m, nn.Linear)) for part in (net.encoder, net.decoder))
    encoder.weight.data, encoder.bias.data = basis.T.contiguous(), -basis.T @ mean
    decoder.weight.data, decoder.bias.data = basis.contiguous(), mean
    loss, at = loss_of_weights(net, images, images)
    values = torch.linalg.eigvalsh(parameter_hessian(loss, at))
    assert float(grad(loss)(at).abs().max()) < EXACT
    assert float(values.min()) > -EXACT
    assert int((values.abs() < 1e-9).sum()) == 2 * 2 + 2  # A is 2 x 2, and the codes may be shifted by two numbers
