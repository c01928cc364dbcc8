"""A stack does what its members do alone: contracts over the architectures, the layers with a twin, and those without."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness import models
from harness.models import ARCHITECTURES
from harness.optimizers import StackedAdam
from harness.stacks import lend_weights, member_state, stack, stack_states
from tests.stacking import (
    BATCH,
    SHAPES,
    SIZES,
    assert_close,
    assert_stack_is_its_members,
    autoencoders,
    random_like,
)


@pytest.mark.usefixtures("each_way")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_stack_of_every_architecture_is_its_members(architecture: str, shape: models.Shape) -> None:
    """Reconstructions, gradients and batch norms' statistics, in either mode, with a latent size of its own each."""
    assert_stack_is_its_members(autoencoders(architecture, shape), random_like(len(SIZES) * BATCH, *shape))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_encoder_and_decoder_of_a_stack_can_be_called_by_themselves(architecture: str) -> None:
    """Codes are as long as the longest, and zero where a member has none."""
    members = [member.eval() for member in autoencoders(architecture, (1, 8, 8))]
    net = stack(members).eval()
    images = random_like(len(SIZES) * BATCH, 1, 8, 8)
    with torch.no_grad():
        codes = net.encoder(images)
        assert codes.shape == (len(images), max(SIZES))
        for part, member, size, own in zip(codes.chunk(3), members, SIZES, images.chunk(3), strict=True):
            assert_close(part[:, :size], member.encoder(own))
            assert torch.count_nonzero(part[:, size:]) == 0
        assert_close(net.decoder(codes), net(images))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_stack_has_the_names_of_its_members_and_their_weights(architecture: str) -> None:
    """In the same order, with one more axis; taking the members out again gives the bits that went in."""
    members = autoencoders(architecture, (1, 8, 8))
    net = stack(members)
    assert [*net.state_dict()] == [*members[0].state_dict()]
    assert [name for name, _ in net.named_parameters()] == [name for name, _ in members[0].named_parameters()]
    for index, member in enumerate(members):
        own = member.state_dict()
        part = member_state(net.state_dict(), index, own)
        assert all(torch.equal(part[name], own[name]) for name in own)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_making_a_stack_leaves_its_members_alone(architecture: str) -> None:
    """What the stack learns is its own, and the members can still be called."""
    members = autoencoders(architecture, (1, 8, 8))
    before = copy.deepcopy(members)
    net = stack(members)
    with torch.no_grad():
        for each in net.parameters():
            each.add_(1)
    net(random_like(len(SIZES) * BATCH, 1, 8, 8))
    for member, other in zip(members, before, strict=True):
        assert all(torch.equal(member.state_dict()[name], tensor) for name, tensor in other.state_dict().items())
        assert_close(member(random_like(BATCH, 1, 8, 8)).detach(), other(random_like(BATCH, 1, 8, 8)).detach())


class Sigmoided(nn.Module):
    """Codes between 0 and 1: what a shorter code is filled up with is 1 / 2 then, not 0."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, size), nn.BatchNorm1d(size), nn.Sigmoid())
        self.decoder = nn.Sequential(nn.Linear(size, 64), nn.Unflatten(1, (1, 8, 8)))

    def forward(self, images: Tensor) -> Tensor:
        """Keeps the shape."""
        return self.decoder(self.encoder(images))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "sigmoided"])
def test_what_weights_are_filled_up_with_stays_zero(architecture: str, dtype: torch.dtype) -> None:
    """Exactly, in weights and in moments, after steps at a high rate."""
    members = [Sigmoided(size) for size in SIZES] if architecture == "sigmoided" else autoencoders(architecture, (1, 8, 8))
    net = stack(members, dtype)
    optimizer = StackedAdam(net, [0.1] * len(SIZES))
    images = random_like(len(SIZES) * BATCH, 1, 8, 8)
    for _ in range(4):
        optimizer.zero_grad()
        functional.mse_loss(net(images), images, reduction="sum").backward()
        optimizer.step(1.0)
    kinds = [dict(net.named_parameters())]
    kinds += [dict(zip(kinds[0], each, strict=True)) for each in (optimizer.averages, optimizer.squares)]
    for tensors in kinds:
        for index, member in enumerate(members):
            for name, part in member_state(tensors, index, dict(member.named_parameters())).items():
                assert torch.count_nonzero(tensors[name][index]) == torch.count_nonzero(part), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_less_precise_products_are_for_training_only(architecture: str) -> None:
    """In evaluation mode the bits are those of float32; in training they are others, within bfloat16's rounding."""
    members = autoencoders(architecture, (1, 8, 8))
    images = random_like(len(SIZES) * BATCH, 1, 8, 8)
    precise, coarse = stack(members), stack(members, torch.bfloat16)
    with torch.no_grad():
        one, other = precise.train()(images), coarse.train()(images)
        assert not torch.equal(one, other)
        assert other.dtype == torch.float32
        assert_close(other, one, rounding=0.1)
        coarse.load_state_dict(precise.state_dict())
        assert torch.equal(precise.eval()(images), coarse.eval()(images))


def test_the_members_states_and_the_stacks_state_are_two_forms_of_one() -> None:
    """Into one and out again are the same bits, whatever the sizes; what is filled up is zero."""
    random = torch.Generator().manual_seed(0)
    states = [{"a": torch.randn(2, size, generator=random), "b": torch.tensor(float(size))} for size in (3, 1, 2)]
    together = stack_states(states)
    assert {name: tuple(tensor.shape) for name, tensor in together.items()} == {"a": (3, 2, 3), "b": (3,)}
    assert together["a"][1, :, 1:].tolist() == [[0.0, 0.0], [0.0, 0.0]]
    for member, state in enumerate(states):
        again = member_state(together, member, state)
        assert again.keys() == state.keys()
        assert all(torch.equal(again[name], state[name]) for name in state)


@pytest.mark.usefixtures("each_way")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_members_with_the_stacks_weights_learn_what_it_learns(architecture: str) -> None:
    """After a step their outputs in evaluation mode are the stack's, and other than before it."""
    members = autoencoders(architecture, (1, 8, 8))
    net = stack(members)
    lend_weights(net, members)
    images = random_like(len(SIZES) * BATCH, 1, 8, 8)
    before = outputs_of_each(members, images)
    optimizer = StackedAdam(net, [0.01] * len(SIZES))
    functional.mse_loss(net.train()(images), images, reduction="sum").backward()
    optimizer.step(1.0)
    with torch.no_grad():
        after = net.eval()(images)
    assert_close(outputs_of_each(members, images), after)
    assert float((after - before).abs().max()) > 1e-4


def outputs_of_each(members: list[nn.Module], images: Tensor) -> Tensor:
    """In evaluation mode, each member's of its own images, one below the other."""
    with torch.no_grad():
        return torch.cat([member.eval()(own) for member, own in zip(members, images.chunk(len(members)), strict=True)])


def test_a_weight_that_two_layers_share_is_still_shared_when_it_is_lent() -> None:
    """And so are statistics that are no part of a saved state."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.second.weight = self.first.weight
            self.register_buffer("seen", torch.zeros(4), persistent=False)

    members: list[nn.Module] = [Tied(), Tied()]
    net = stack(members)
    lend_weights(net, members)
    with torch.no_grad():
        net.get_parameter("first.weight").fill_(3)
        net.get_buffer("seen").fill_(5)
    for member in members:
        assert member.get_parameter("second.weight") is member.get_parameter("first.weight")
        assert float(member.get_parameter("second.weight").detach().mean()) == 3
        assert float(member.get_buffer("seen").mean()) == 5


def test_a_stack_of_one_is_its_member() -> None:
    """The smallest stack there is."""
    assert_stack_is_its_members(autoencoders("base", (1, 8, 8), (3,)), random_like(BATCH, 1, 8, 8))
