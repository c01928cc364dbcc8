"""Contract of every architecture, from the dict."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from harness import models
from harness.config import TrialConfig
from harness.models import ARCHITECTURE_FIELDS, ARCHITECTURES, build, resolve
from harness.rules import UserError

SHAPES = [(1, 8, 8), (3, 8, 8), (1, 28, 28), (3, 32, 32), (1, 9, 13), (3, 64, 64), (1, 8, 64)]


def config_of(architecture: str, **fields: object) -> TrialConfig:
    """A resolved configuration."""
    return resolve(replace(TrialConfig(architecture=architecture, latent_size=3), **fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(("architecture", "shape"), list(itertools.product(ARCHITECTURES, SHAPES)))
def test_every_architecture_takes_every_shape(architecture: str, shape: models.Shape) -> None:
    """Codes are (B, d) and reconstructions have the images' shape and, with a sigmoid, lie in [0, 1]."""
    model = build(shape, config_of(architecture, output_activation="sigmoid"))
    images = torch.rand(4, *shape)
    assert model.encoder(images).shape == (4, 3)
    reconstructions = model(images)
    assert reconstructions.shape == images.shape
    assert 0 <= float(reconstructions.detach().min()) <= float(reconstructions.detach().max()) <= 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_parameter_of_every_architecture_gets_a_gradient(architecture: str) -> None:
    """No layer is built and then left out of the forward pass."""
    model = build((1, 12, 12), config_of(architecture))
    model(torch.rand(8, 1, 12, 12)).square().mean().backward()
    unused = [name for name, each in model.named_parameters() if each.grad is None or not torch.isfinite(each.grad).all()]
    assert unused == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_initial_weights_follow_from_the_seed_and_leave_the_global_state_alone(architecture: str) -> None:
    """The same seed gives the same weights whatever was drawn before; another seed gives others."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build((1, 8, 8), config_of(architecture, seed=1)).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    again = build((1, 8, 8), config_of(architecture, seed=1)).state_dict()
    other = build((1, 8, 8), config_of(architecture, seed=2)).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_resolving_fills_in_every_field_the_architecture_has(architecture: str) -> None:
    """Fields of its own are set, the others stay unset, and resolving again changes nothing."""
    resolved = config_of(architecture)
    own = ARCHITECTURES[architecture].defaults
    assert {name for name in ARCHITECTURE_FIELDS if getattr(resolved, name) is not None} == set(own)
    assert resolve(resolved) == resolved


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_field_the_architecture_lacks_is_refused(architecture: str) -> None:
    """The error names the architecture, the field and the fields that it has."""
    values = {"depth": 2, "width": 4, "kernel_size": 5, "activation": "gelu", "batch_norm": True, "output_activation": "sigmoid"}
    for name in set(ARCHITECTURE_FIELDS) - set(ARCHITECTURES[architecture].defaults):
        with pytest.raises(UserError, match=f"'{architecture}' has no {name}"):
            config_of(architecture, **{name: values[name]})


def test_a_kind_of_penalty_without_a_weight_makes_no_other_configuration() -> None:
    """What trains alike is equal; with a weight the kinds are two."""
    kinds = {config_of("base", decorrelation_kind=kind) for kind in ("decov", "barlow")}
    assert len(kinds) == 1
    assert len({config_of("base", decorrelation_kind=kind, decorrelation=0.1) for kind in ("decov", "barlow")}) == 2


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_names_of_the_same_network_have_the_same_weights(architecture: str) -> None:
    """Under the first name it is built bit for bit alike; another width, seed or block is another network."""
    config = config_of(architecture)
    first = models.same_network(config)
    ours, other = (build((1, 8, 8), each).state_dict() for each in (config, first))
    assert all(torch.equal(ours[name], other[name]) for name in ours | other)
    assert first.architecture == (architecture if architecture not in ("deep", "heavy") else "base")
    assert models.same_network(config_of("heavy")) == models.same_network(config_of("base", width=32))
    assert len({models.same_network(config_of(name)) for name in ARCHITECTURES}) == len(ARCHITECTURES)


def test_an_unknown_architecture_is_named_with_the_nearest() -> None:
    """One line: the value, the allowed ones, the nearest match."""
    with pytest.raises(UserError, match=r"unknown architecture 'bse': allowed are .*did you mean 'base'\?"):
        resolve(TrialConfig(architecture="bse"))


def test_bce_with_outputs_outside_the_unit_interval_is_refused() -> None:
    """Also where the identity output is the architecture's own."""
    with pytest.raises(UserError, match="bce"):
        resolve(TrialConfig(architecture="linear", loss="bce"))


@pytest.mark.parametrize(
    ("architecture", "convolutions", "channels", "hidden"),
    [("base", 3, [16, 32, 64], 128), ("deep", 4, [16, 32, 64, 128], 128), ("heavy", 3, [32, 64, 128], 256)],
)
def test_widths_and_depth_follow_from_named_fields(
    architecture: str, convolutions: int, channels: list[int], hidden: int
) -> None:
    """Channels double from ``width``, and there are ``depth`` convolutions and two fully connected layers."""
    encoder = build((1, 28, 28), config_of(architecture)).encoder
    found = [module for module in encoder.modules() if isinstance(module, torch.nn.Conv2d)]
    linear = [module for module in encoder.modules() if isinstance(module, torch.nn.Linear)]
    assert [module.out_channels for module in found] == channels
    assert len(found) == convolutions
    assert [module.out_features for module in linear] == [hidden, 3]


@pytest.mark.parametrize("architecture", ["base", "deep", "heavy"])
def test_the_decoder_mirrors_the_encoder(architecture: str) -> None:
    """Its transposed convolutions have the encoder's channels, exchanged and in reverse."""
    model = build((3, 28, 28), config_of(architecture))
    down = [(each.in_channels, each.out_channels) for each in model.encoder.modules() if isinstance(each, torch.nn.Conv2d)]
    up = [(each.in_channels, each.out_channels) for each in model.decoder.modules() if isinstance(each, torch.nn.ConvTranspose2d)]
    assert up == [(channels_out, channels_in) for channels_in, channels_out in reversed(down)]


@pytest.mark.parametrize(
    ("field", "value", "module"), [("batch_norm", False, torch.nn.BatchNorm2d), ("activation", "gelu", torch.nn.ReLU)]
)
def test_a_field_takes_a_layer_out(field: str, value: object, module: type[torch.nn.Module]) -> None:
    """Without batch norm there is no batch norm; with GELU there is no ReLU."""
    default = build((1, 8, 8), config_of("base"))
    changed = build((1, 8, 8), config_of("base", **{field: value}))
    assert any(isinstance(each, module) for each in default.modules())
    assert not any(isinstance(each, module) for each in changed.modules())


def test_the_linear_architecture_is_one_affine_map() -> None:
    """The whole autoencoder equals the affine map that is built from its weights by hand."""
    model = build((1, 8, 8), config_of("linear")).double()
    encoder, decoder = model.encoder[1], model.decoder[0]  # type: ignore[index]
    weight, bias = decoder.weight @ encoder.weight, decoder.weight @ encoder.bias + decoder.bias
    images = torch.rand(5, 1, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(model(images).flatten(1), images.flatten(1) @ weight.T + bias)


def test_residual_and_dense_blocks_are_what_their_formulas_say() -> None:
    """X + g(x + h(x)); and (x, f1(x), f2(x, f1(x))) before the merging convolution."""
    config = config_of("residual")
    maps = torch.rand(4, 6, 5, 5)
    residual = models.ResidualBlock(6, config).eval()
    torch.testing.assert_close(residual(maps), maps + residual.outer(maps + residual.inner(maps)))
    dense = models.DenseBlock(6, config).eval()
    first = dense.first(maps)
    second = dense.second(torch.cat((maps, first), dim=1))
    torch.testing.assert_close(dense(maps), dense.merge(torch.cat((maps, first, second), dim=1)))
