"""Stacks and their members side by side."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from harness import models
from harness.config import TrialConfig
from harness.models import ARCHITECTURES, resolve
from harness.stacks import member_state, stack

BATCH = 6


ROUNDING = 2e-5
"""What a number may be off, in units of the largest of its tensor: batch norms pass the rounding of float32 on."""


SIZES = (3, 5, 2)


SHAPES = [(1, 8, 8), (3, 7, 9)]


def autoencoders(architecture: str, shape: models.Shape, sizes: tuple[int, ...] = SIZES) -> list[nn.Module]:
    """Members of different seeds and latent sizes."""
    small = {"width": 4} if "width" in ARCHITECTURES[architecture].defaults else {}
    configs = [
        resolve(replace(TrialConfig(architecture=architecture, latent_size=size, seed=seed), **small))
        for seed, size in enumerate(sizes)
    ]
    return [models.build(shape, config) for config in configs]


def random_like(*shape: int) -> Tensor:
    """Numbers in [0, 1], the same for the same shape."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def assert_close(one: Tensor, other: Tensor, name: str = "", largest: float = 0.0, rounding: float = ROUNDING) -> None:
    """No value is further off than rounding, in units of the largest: of the tensor, or of what it is a part of."""
    assert one.shape == other.shape, name
    largest = largest or max(float(other.abs().max()), 1e-3)
    assert float((one.double() - other.double()).abs().max()) <= rounding * largest, name


def weighted(outputs: Tensor) -> Tensor:
    """A loss of one member's outputs whose gradient is another at every place."""
    return (outputs * torch.linspace(-1, 1, outputs.numel()).view(outputs.shape)).sum()


def assert_stack_is_its_members(members: list[nn.Module], inputs: Tensor, net: nn.Module | None = None) -> nn.Module:
    """Outputs, gradients and buffers in training mode, and the outputs in evaluation mode after it; gives the stack.

    The members compute in double precision: in float32 their own rounding is on some processors more than the stack's may be.
    """
    net = stack(members) if net is None else net
    members = [copy.deepcopy(member).double() for member in members]
    for each in (net, *members):
        each.train()
    parts = net(inputs).chunk(len(members))
    for part, member, own in zip(parts, members, inputs.double().chunk(len(members)), strict=True):
        outputs = member(own)
        assert_close(part.detach(), outputs.detach(), "outputs in training mode")
        if outputs.requires_grad:
            weighted(outputs).backward()
    if any(part.requires_grad for part in parts):
        torch.stack([weighted(part) for part in parts]).sum().backward()
    for index, member in enumerate(members):
        assert_members_part(net, index, member)
    for each in (net, *members):
        each.eval()
    with torch.no_grad():
        alone = [member(own) for member, own in zip(members, inputs.double().chunk(len(members)), strict=True)]
        assert_close(net(inputs), torch.cat(alone), "outputs in evaluation mode")
    return net


def assert_members_part(net: nn.Module, index: int, member: nn.Module) -> None:
    """The member's weights, gradients and buffers; all that they are filled up with is zero.

    Gradients are measured against the largest of all: that of a bias before a batch norm is nothing but rounding.
    """
    own = dict(member.named_parameters())
    gradients = {name: each.grad for name, each in net.named_parameters() if each.grad is not None}
    assert gradients.keys() == {name for name, each in own.items() if each.grad is not None}
    largest = max((float(each.grad.abs().max()) for each in own.values() if each.grad is not None), default=0.0)
    for name, each in member_state(gradients, index, own).items():
        wanted = own[name].grad
        assert wanted is not None
        assert_close(each, wanted, f"gradient of {name}", largest)
        assert torch.count_nonzero(gradients[name][index]) == torch.count_nonzero(each), f"filled-up gradient of {name}"
    for name, each in member_state(net.state_dict(), index, member.state_dict()).items():
        assert_close(each, member.state_dict()[name], name)
