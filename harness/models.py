"""Encoders and decoders by name. To add an architecture: an entry in ``ARCHITECTURES`` below.

Shapes: images (B, C, H, W), latent codes (B, d).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from harness.config import TrialConfig
from harness.rules import UserError, unknown

Shape = tuple[int, int, int]
"""Channels, height and width of an image."""

SMALLEST_MAP = 2
"""A feature map is halved as long as both its sides stay at least this long."""


class Autoencoder(nn.Module):
    """An encoder and the decoder that mirrors it."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, images: Tensor) -> Tensor:
        """Gives the reconstructions, (B, C, H, W)."""
        return cast(Tensor, self.decoder(self.encoder(images)))


class Stage(NamedTuple):
    """One convolution: channels and sides before and after it."""

    channels_in: int
    channels_out: int
    size_in: tuple[int, int]
    size_out: tuple[int, int]
    stride: int


class ResidualBlock(nn.Module):
    """x + g(x + h(x)), with g and h a convolution, batch norm and activation each."""

    def __init__(self, channels: int, config: TrialConfig) -> None:
        super().__init__()
        self.inner = _convolution(channels, channels, config)
        self.outer = _convolution(channels, channels, config)

    def forward(self, maps: Tensor) -> Tensor:
        """Keeps the shape (B, C, H, W)."""
        return maps + cast(Tensor, self.outer(maps + self.inner(maps)))


class DenseBlock(nn.Module):
    """Concatenating skips g_t(x) = (x, f_t(x)), twice, then a 1 x 1 convolution back to the channels it was given."""

    def __init__(self, channels: int, config: TrialConfig) -> None:
        super().__init__()
        growth = max(1, channels // 2)
        self.first = _convolution(channels, growth, config)
        self.second = _convolution(channels + growth, growth, config)
        self.merge = nn.Conv2d(channels + 2 * growth, channels, kernel_size=1)

    def forward(self, maps: Tensor) -> Tensor:
        """Keeps the shape (B, C, H, W)."""
        maps = torch.cat((maps, self.first(maps)), dim=1)
        maps = torch.cat((maps, self.second(maps)), dim=1)
        return cast(Tensor, self.merge(maps))


Block = Callable[[int, TrialConfig], nn.Module]


def build_convolutional(shape: Shape, config: TrialConfig, block: Block | None = None) -> Autoencoder:
    """Builds ``depth`` convolutions and two fully connected layers, and the mirror image as the decoder.

    Channels double from one convolution to the next, from ``width``; the hidden layer has ``8 * width`` units. A
    ``block``, where there is one, follows every convolution of the encoder and precedes every one of the decoder.
    """
    stages = _stages(shape, config)
    last = stages[-1]
    flat, hidden = last.channels_out * math.prod(last.size_out), 8 * _given(config.width)
    encoder: list[nn.Module] = []
    decoder: list[nn.Module] = []
    for stage in stages:
        encoder += [_down(stage, config), *_maybe(block, stage.channels_out, config)]
    encoder += [nn.Flatten(), nn.Linear(flat, hidden), _activation(config), nn.Linear(hidden, config.latent_size)]
    decoder += [nn.Linear(config.latent_size, hidden), _activation(config), nn.Linear(hidden, flat), _activation(config)]
    decoder += [nn.Unflatten(1, (last.channels_out, *last.size_out))]
    for stage in reversed(stages):
        decoder += [*_maybe(block, stage.channels_out, config), _up(stage, config, is_output=stage is stages[0])]
    return Autoencoder(nn.Sequential(*encoder), nn.Sequential(*decoder, _output(config)))


def build_residual(shape: Shape, config: TrialConfig) -> Autoencoder:
    """The convolutional autoencoder with a ``ResidualBlock`` at every convolution."""
    return build_convolutional(shape, config, ResidualBlock)


def build_dense(shape: Shape, config: TrialConfig) -> Autoencoder:
    """The convolutional autoencoder with a ``DenseBlock`` at every convolution."""
    return build_convolutional(shape, config, DenseBlock)


def build_linear(shape: Shape, config: TrialConfig) -> Autoencoder:
    """One fully connected layer each way: with mean squared error its optimum is PCA (Baldi and Hornik 1989)."""
    pixels = math.prod(shape)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, config.latent_size))
    decoder = nn.Sequential(nn.Linear(config.latent_size, pixels), nn.Unflatten(1, shape), _output(config))
    return Autoencoder(encoder, decoder)


def _stages(shape: Shape, config: TrialConfig) -> list[Stage]:
    channels, *sides = shape
    size = (sides[0], sides[1])
    stages = []
    for index in range(_given(config.depth)):
        stride = 2 if -(-min(size) // 2) >= SMALLEST_MAP else 1
        after = (-(-size[0] // stride), -(-size[1] // stride))
        width = _given(config.width) * 2**index
        stages.append(Stage(channels, width, size, after, stride))
        channels, size = width, after
    return stages


def _down(stage: Stage, config: TrialConfig) -> nn.Module:
    return _convolution(stage.channels_in, stage.channels_out, config, stage.stride)


def _up(stage: Stage, config: TrialConfig, is_output: bool) -> nn.Module:
    """Undoes ``_down``: the output padding makes up for what its rounding of odd sides lost."""
    kernel = _given(config.kernel_size)
    missing = tuple(
        side - ((small - 1) * stage.stride - 2 * (kernel // 2) + kernel)
        for side, small in zip(stage.size_in, stage.size_out, strict=True)
    )
    padding, bias = (missing[0], missing[1]), is_output or not config.batch_norm
    transposed = nn.ConvTranspose2d(
        stage.channels_out, stage.channels_in, kernel, stage.stride, kernel // 2, output_padding=padding, bias=bias
    )
    return transposed if is_output else nn.Sequential(transposed, *_norm(stage.channels_in, config), _activation(config))


def _convolution(channels_in: int, channels_out: int, config: TrialConfig, stride: int = 1) -> nn.Sequential:
    kernel = _given(config.kernel_size)
    bias = not config.batch_norm  # the norm would take it out again, and Adam would move it by rounding errors
    convolution = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=bias)
    return nn.Sequential(convolution, *_norm(channels_out, config), _activation(config))


def _norm(channels: int, config: TrialConfig) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels)] if config.batch_norm else []


def _activation(config: TrialConfig) -> nn.Module:
    return nn.GELU() if _given(config.activation) == "gelu" else nn.ReLU()


def _output(config: TrialConfig) -> nn.Module:
    return nn.Sigmoid() if config.output_activation == "sigmoid" else nn.Identity()


def _maybe(block: Block | None, channels: int, config: TrialConfig) -> list[nn.Module]:
    return [block(channels, config)] if block else []


def _given(value: Any) -> Any:
    """A field that ``resolve`` has filled in."""
    if value is None:
        raise ValueError("the configuration has fields left to the architecture: pass it through models.resolve first")
    return value


@dataclass(frozen=True)
class Architecture:
    """A variant of the autoencoder.

    Attributes:
        build: (shape of an image, configuration) -> the module.
        defaults: Its own values for the fields that a configuration leaves to it; it has no others.
    """

    build: Callable[[Shape, TrialConfig], Autoencoder]
    defaults: dict[str, Any]


def resolve(config: TrialConfig) -> TrialConfig:
    """Fills in the architecture's own values for the fields that the configuration leaves to it.

    A kind of penalty without a weight is no penalty, whatever the kind: it becomes the default one, so that configurations
    that train alike are equal.

    Raises:
        UserError: if there is no such architecture, or if it does not have a field that is set.
    """
    if config.architecture not in ARCHITECTURES:
        raise unknown("architecture", config.architecture, ARCHITECTURES)
    defaults = ARCHITECTURES[config.architecture].defaults
    for name in ARCHITECTURE_FIELDS:
        if getattr(config, name) is not None and name not in defaults:
            raise UserError(f"architecture {config.architecture!r} has no {name}: it has {', '.join(defaults)}; leave {name} out")
    own = {name: value for name, value in defaults.items() if getattr(config, name) is None}
    kind = config.decorrelation_kind if config.decorrelation else TrialConfig().decorrelation_kind
    return replace(config, **own, decorrelation_kind=kind)


def same_network(config: TrialConfig) -> TrialConfig:
    """The resolved configuration of the same network under the first name that it has: equal where two train bit for bit alike.

    Names that share a builder differ in the values that they give to what is left to them, and in nothing else: ``heavy`` is
    ``base`` with a width of 32.
    """
    own = ARCHITECTURES[config.architecture]
    names = (name for name, each in ARCHITECTURES.items() if each.build is own.build and set(each.defaults) == set(own.defaults))
    return replace(config, architecture=next(names))


def applicable(fields: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    """Those of some fields that an architecture has; all of them where there is no such architecture."""
    lacking = set(ARCHITECTURE_FIELDS) - set(ARCHITECTURES[architecture].defaults) if architecture in ARCHITECTURES else ()
    return {name: value for name, value in fields.items() if name not in lacking}


def build(shape: Shape, config: TrialConfig) -> Autoencoder:
    """Builds an autoencoder with the initial weights that follow from the configuration's seed.

    The global random state is left as it was. A network without batch norm has the weights of its twin with batch norm: the
    biases that stand in the place of the norms are drawn after all of them.

    Args:
        shape: Channels, height and width of an image.
        config: A resolved configuration.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        make = ARCHITECTURES[config.architecture].build
        if config.batch_norm is not False:
            return make(shape, config)
        twin, net = make(shape, replace(config, batch_norm=True)), make(shape, config)
        known = net.state_dict()
        net.load_state_dict(known | {name: value for name, value in twin.state_dict().items() if name in known})
        return net


@lru_cache(maxsize=256)
def parameters(shape: Shape, config: TrialConfig) -> int:
    """The number of an autoencoder's parameters, without making them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in ARCHITECTURES[config.architecture].build(shape, config).parameters())


_CONVOLUTIONAL = {
    "depth": 3,
    "width": 16,
    "kernel_size": 3,
    "activation": "relu",
    "batch_norm": True,
    "output_activation": "sigmoid",
}
ARCHITECTURE_FIELDS = tuple(_CONVOLUTIONAL)

ARCHITECTURES: dict[str, Architecture] = {
    "base": Architecture(build_convolutional, _CONVOLUTIONAL),
    "deep": Architecture(build_convolutional, _CONVOLUTIONAL | {"depth": 4}),
    "heavy": Architecture(build_convolutional, _CONVOLUTIONAL | {"width": 32}),
    "residual": Architecture(build_residual, _CONVOLUTIONAL),
    "dense": Architecture(build_dense, _CONVOLUTIONAL),
    "linear": Architecture(build_linear, {"output_activation": "identity"}),
}
