"""Adam for a stack against ``torch.optim.Adam`` for each member."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn

from harness.optimizers import StackedAdam

MEMBERS, STEPS = 3, 6
ROUNDING = 1e-6
"""Relative; the sums are the same, in other pieces."""

RATES = {"equal": (1e-2, 1e-2, 1e-2), "different": (1e-2, 3e-4, 0.5)}


class Weights(nn.Module):
    """A stack of three parameters: one of a single number a member, one whose axes lie in another order in memory."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.matrix = nn.Parameter(torch.randn(MEMBERS, 4, 3, generator=random))
        self.number = nn.Parameter(torch.randn(MEMBERS, 1, generator=random))
        self.turned = nn.Parameter(torch.randn(MEMBERS, 3, 5, generator=random).transpose(1, 2))


def gradients(steps: int) -> Iterator[list[Tensor]]:
    """Gradients of very different sizes, one list a step, the same at every call."""
    random = torch.Generator().manual_seed(1)
    for step in range(steps):
        yield [
            10.0 ** (2 * step - 6) * torch.randn(MEMBERS, 4, 3, generator=random),
            torch.randn(MEMBERS, 1, generator=random),
            torch.randn(MEMBERS, 3, 5, generator=random).transpose(1, 2),
        ]


def take_steps(net: nn.Module, optimizer: StackedAdam, steps: Sequence[list[Tensor]], shares: Sequence[float]) -> None:
    """Takes the steps with gradients as they are given."""
    for own, share in zip(steps, shares, strict=True):
        optimizer.zero_grad()
        for parameter, gradient in zip(net.parameters(), own, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step(share)


@pytest.mark.parametrize("rates", RATES.values(), ids=list(RATES))
def test_every_member_takes_the_steps_that_torch_takes(rates: tuple[float, ...]) -> None:
    """After each of several steps whose learning rate goes up and down, with a rate of its own for each member."""
    shares = [0.1, 1.0, 0.5, 2.0, 0.0, 0.3]
    net, alone = Weights(), [Weights() for _ in range(MEMBERS)]
    optimizer = StackedAdam(net, rates)
    references = [torch.optim.Adam(each.parameters(), lr=rate) for each, rate in zip(alone, rates, strict=True)]
    for own, share in zip(gradients(STEPS), shares, strict=True):
        take_steps(net, optimizer, [own], [share])
        for member, (reference, rate) in enumerate(zip(references, rates, strict=True)):
            reference.param_groups[0]["lr"] = rate * share
            for parameter, gradient in zip(alone[member].parameters(), own, strict=True):
                parameter.grad = gradient.clone()
            reference.step()
            for one, other in zip(net.parameters(), alone[member].parameters(), strict=True):
                torch.testing.assert_close(one[member], other[member], rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("rates", RATES.values(), ids=list(RATES))
def test_the_state_goes_to_another_optimizer_and_on(rates: tuple[float, ...]) -> None:
    """Three steps, the state taken up by a new optimizer, three more: the bits of six steps."""
    steps, shares = list(gradients(STEPS)), [1.0] * STEPS
    whole, cut = Weights(), Weights()
    take_steps(whole, StackedAdam(whole, rates), steps, shares)
    first = StackedAdam(cut, rates)
    take_steps(cut, first, steps[:3], shares[:3])
    saved = {name: tensor.clone() for name, tensor in first.state().items()}
    second = StackedAdam(cut, rates)
    second.load_state(saved)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in second.state().items())
    take_steps(cut, second, steps[3:], shares[3:])
    assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), cut.parameters(), strict=True))


def test_the_state_is_named_as_by_torch() -> None:
    """Every member's part loads into ``torch.optim.Adam``, and holds what that one would hold."""
    net, alone = Weights(), Weights()
    optimizer, reference = StackedAdam(net, [1e-2] * MEMBERS), torch.optim.Adam(alone.parameters(), lr=1e-2)
    take_steps(net, optimizer, list(gradients(2)), [1.0, 1.0])
    for own in gradients(2):
        for parameter, gradient in zip(alone.parameters(), own, strict=True):
            parameter.grad = gradient.clone()
        reference.step()
    state = optimizer.state()
    for index, own_state in reference.state_dict()["state"].items():
        assert state.keys() >= {f"{name}.{index}" for name in own_state}
        assert state[f"step.{index}"].tolist() == [2.0] * MEMBERS
        for name in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(state[f"{name}.{index}"], own_state[name], rtol=ROUNDING, atol=0)


@pytest.mark.parametrize("rates", RATES.values(), ids=list(RATES))
def test_a_parameter_without_a_gradient_stays_as_it_is(rates: tuple[float, ...]) -> None:
    """As in torch: a frozen one, or one that the loss does not know of; the others are trained."""
    net = Weights()
    before = [parameter.detach().clone() for parameter in net.parameters()]
    optimizer = StackedAdam(net, rates)
    net.matrix.grad = torch.ones_like(net.matrix)
    optimizer.step(1.0)
    assert torch.equal(net.number, before[1])
    assert not torch.equal(net.matrix, before[0])
    assert optimizer.state()["step.1"].tolist() == [0.0] * MEMBERS


@pytest.mark.parametrize("rates", RATES.values(), ids=list(RATES))
def test_a_gradient_may_lie_in_memory_as_it_likes(rates: tuple[float, ...]) -> None:
    """A step does not depend on it, nor on how the parameter lies."""
    alike, other = Weights(), Weights()
    other.matrix = nn.Parameter(other.matrix.detach().transpose(1, 2).contiguous().transpose(1, 2))
    own = next(gradients(1))
    take_steps(alike, StackedAdam(alike, rates), [own], [1.0])
    take_steps(other, StackedAdam(other, rates), [[own[0], own[1], own[2].contiguous()]], [1.0])
    for one, two in zip(alike.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("rates", RATES.values(), ids=list(RATES))
def test_no_parameter_is_copied_for_the_sake_of_its_layout(rates: tuple[float, ...]) -> None:
    """Torch's fused Adam would copy one whose axes lie in another order, there and back."""
    net = Weights()
    optimizer = StackedAdam(net, rates)
    for parameter, gradient in zip(net.parameters(), next(gradients(1)), strict=True):
        parameter.grad = gradient
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        optimizer.step(1.0)
    called = {event.key for event in profile.key_averages()}
    assert "aten::_fused_adam_" in called
    assert not called & {"aten::contiguous", "aten::clone"}


def test_forgetting_the_gradients_leaves_none() -> None:
    """They are not kept as zeros, which Adam would take for gradients."""
    net = Weights()
    optimizer = StackedAdam(net, [1e-2] * MEMBERS)
    net.matrix.grad = torch.ones_like(net.matrix)
    optimizer.zero_grad()
    assert [parameter.grad for parameter in net.parameters()] == [None, None, None]
