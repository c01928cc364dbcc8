"""Chain rules on real encoders and blocks: Jacobians derived by hand equal those of automatic differentiation."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import jacrev

from harness.models import ARCHITECTURES, DenseBlock, ResidualBlock
from tests.test_theory import EXACT, autoencoder, random_images

CONVOLUTIONAL = [name for name, each in ARCHITECTURES.items() if "width" in each.defaults]


def by_hand(module: nn.Module, point: Tensor) -> tuple[Tensor, Tensor]:
    """The Jacobian of a module at one input, (outputs, inputs), as it is derived on paper, and the module's output."""
    if isinstance(module, ResidualBlock):
        return _of_residual(module, point)
    if isinstance(module, DenseBlock):
        return _of_dense(module, point)
    if isinstance(module, nn.Sequential):
        jacobian = torch.eye(point.numel(), dtype=point.dtype)
        for layer in module:
            own, point = by_hand(layer, point)
            jacobian = own @ jacobian
        return jacobian, point
    return _of_layer(module, point), module(point)


def _of_layer(layer: nn.Module, point: Tensor) -> Tensor:
    flat = point.flatten()
    if isinstance(layer, nn.Flatten):
        return torch.eye(flat.numel(), dtype=flat.dtype)
    if isinstance(layer, nn.Linear):
        return layer.weight
    if isinstance(layer, nn.ReLU):
        return torch.diag((flat > 0).to(flat.dtype))
    if isinstance(layer, nn.GELU):  # of x P(X < x): P(X < x) + x p(x)
        return torch.diag(torch.special.ndtr(flat) + flat * torch.exp(-flat.square() / 2) / math.sqrt(2 * math.pi))
    if isinstance(layer, nn.BatchNorm2d):
        assert layer.running_var is not None
        scale = layer.weight / (layer.running_var + layer.eps).sqrt()
        return torch.diag(scale.view(1, -1, 1, 1).expand(point.shape).flatten())
    assert isinstance(layer, nn.Conv2d)  # an affine map: column by column, what each pixel alone makes
    pixels = torch.eye(flat.numel(), dtype=flat.dtype).view(-1, *point.shape[1:])
    return (layer(pixels) - layer(torch.zeros_like(point))).flatten(1).T


def _of_residual(block: ResidualBlock, point: Tensor) -> tuple[Tensor, Tensor]:
    """Of x + g(x + h(x)): I + G (I + H), H at x and G at x + h(x)."""
    inner, inside = by_hand(block.inner, point)
    outer, outside = by_hand(block.outer, point + inside)
    one = torch.eye(point.numel(), dtype=point.dtype)
    return one + outer @ (one + inner), point + outside


def _of_dense(block: DenseBlock, point: Tensor) -> tuple[Tensor, Tensor]:
    """Of g_t(x) = (x, f_t(x)): I on top of F_t; two of them and the merging convolution are M (I, F_2) (I, F_1)."""
    jacobian = torch.eye(point.numel(), dtype=point.dtype)
    for layer in (block.first, block.second):
        own, grown = by_hand(layer, point)
        jacobian = torch.cat((torch.eye(point.numel(), dtype=point.dtype), own)) @ jacobian
        point = torch.cat((point, grown), dim=1)
    own, out = by_hand(block.merge, point)
    return own @ jacobian, out


def automatic(module: nn.Module, point: Tensor) -> Tensor:
    """The Jacobian that ``torch.func`` gives, (outputs, inputs)."""
    jacobian: Tensor = jacrev(module)(point)
    return jacobian.reshape(-1, point.numel())


def assert_exact(one: Tensor, other: Tensor) -> None:
    """Equal to ten digits, and not nothing."""
    assert float(one.abs().max()) > 1e-3
    torch.testing.assert_close(one, other, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize(("batch_norm", "activation"), list(itertools.product((True, False), ("relu", "gelu"))))
@pytest.mark.parametrize("architecture", CONVOLUTIONAL)
def test_the_jacobian_of_an_encoder_is_the_product_of_its_layers(architecture: str, batch_norm: bool, activation: str) -> None:
    """For f_1(f_2(... f_n(x))) it is F_1 F_2 ... F_n, each at the point that the layers before it lead to."""
    fields = {"width": 2, "depth": 3, "batch_norm": batch_norm, "activation": activation}
    encoder = autoencoder(architecture, (1, 8, 8), **fields).encoder
    point = random_images(1, (1, 8, 8), seed=1)
    jacobian, codes = by_hand(encoder, point)
    assert_exact(jacobian, automatic(encoder, point))
    torch.testing.assert_close(codes, encoder(point), rtol=EXACT, atol=EXACT)


@settings(max_examples=10)
@given(st.integers(0, 2**31 - 1))
def test_the_residual_block_followed_by_a_layer(seed: int) -> None:
    """For f(x + g(x + h(x))) it is F (I + G (I + H)), whatever x is."""
    encoder = autoencoder("residual", (1, 6, 6), width=2, depth=1).encoder
    block = next(module for module in encoder.modules() if isinstance(module, ResidualBlock))
    after = nn.Conv2d(2, 3, 3, dtype=torch.float64).requires_grad_(False)
    point = random_images(1, (2, 3, 3), seed) - 0.5
    inner, inside = by_hand(block.inner, point)
    outer, outside = by_hand(block.outer, point + inside)
    last, _ = by_hand(after, point + outside)
    one = torch.eye(point.numel(), dtype=torch.float64)
    assert_exact(last @ (one + outer @ (one + inner)), automatic(nn.Sequential(block, after), point))


@settings(max_examples=10)
@given(st.integers(0, 2**31 - 1))
def test_the_concatenating_skips_of_the_dense_block(seed: int) -> None:
    """For g_t(x) = (x, f_t(x)) it is I on top of F_t: every block before the last keeps its inputs whole."""
    encoder = autoencoder("dense", (1, 6, 6), width=2, depth=1).encoder
    block = next(module for module in encoder.modules() if isinstance(module, DenseBlock))
    point = random_images(1, (2, 3, 3), seed) - 0.5
    first, grown = by_hand(block.first, point)
    one = torch.eye(point.numel(), dtype=torch.float64)
    skip = automatic(_Skip(block.first), point)
    assert_exact(torch.cat((one, first)), skip)
    assert torch.equal(skip[: point.numel()], one)
    assert grown.shape[1] == 1
    assert_exact(by_hand(block, point)[0], automatic(block, point))


class _Skip(nn.Module):
    """Gives (x, f(x))."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat((maps, self.inner(maps)), dim=1)


@settings(max_examples=10)
@given(st.integers(0, 2**31 - 1), st.sampled_from(["base", "residual", "dense"]))
def test_arguments_that_share_a_variable_add_up(seed: int, architecture: str) -> None:
    """For f(x + y, 2x, z): by x it is F_1 + 2 F_2, by y F_1, by z F_3; f is an encoder of three channels."""
    encoder = autoencoder(architecture, (3, 4, 4), width=2, depth=2).encoder
    x, y, z = random_images(3, (1, 4, 4), seed).split(1)

    def whole(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        codes: Tensor = encoder(torch.cat((x + y, 2 * x, z), dim=1))
        return codes

    inside = torch.cat((x + y, 2 * x, z), dim=1)
    first, second, third = by_hand(encoder, inside)[0].split(x.numel(), dim=1)
    expected = (first + 2 * second, first, third)
    for derived, found in zip(expected, jacrev(whole, argnums=(0, 1, 2))(x, y, z), strict=True):
        assert_exact(derived, found.reshape(3, -1))
