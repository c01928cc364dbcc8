"""Optimizers of stacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

BETAS, EPS = (0.9, 0.999), 1e-8
"""Of Adam: those of ``torch.optim.Adam``."""


@dataclass(frozen=True, eq=False)
class _Team:
    """What one call of Adam updates: the whole stack where all rates are equal, one member of it where they differ.

    Attributes:
        rate: The learning rate.
        member: Which one, or ``None``.
        orders: The order in which each parameter's axes lie in memory: torch's fused Adam copies a parameter that it is given in
            another one, which takes longer than the step itself, and takes a gradient as if it lay like the parameter.
        parameters: The team's part of each, with its axes in that order.
        averages: Likewise of the averages of the gradients.
        squares: Likewise of the averages of their squares.
        steps: How many each parameter has made.
    """

    rate: float
    member: int | None
    orders: list[list[int]]
    parameters: list[Tensor]
    averages: list[Tensor]
    squares: list[Tensor]
    steps: list[Tensor]


class StackedAdam:
    """Adam (Kingma and Ba 2015) for a stack, with a learning rate for each member; the numbers are ``torch.optim.Adam``'s."""

    def __init__(self, net: nn.Module, rates: Sequence[float]) -> None:
        """Takes a stack that lies on its device, where it stays, and each member's learning rate."""
        self.parameters = list(net.parameters())
        self.averages = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.squares = [torch.zeros_like(parameter) for parameter in self.parameters]
        members = [None] if len(set(rates)) == 1 else range(len(rates))
        self.teams = [self._team(rates[member or 0], member) for member in members]
        self.members = len(rates)

    def _team(self, rate: float, member: int | None) -> _Team:
        lists = (self.parameters, self.averages, self.squares)
        own = [[each.detach() if member is None else each.detach()[member] for each in tensors] for tensors in lists]
        orders = [sorted(range(each.dim()), key=each.stride, reverse=True) for each in own[0]]
        parameters, averages, squares = (
            [each.permute(order) for each, order in zip(tensors, orders, strict=True)] for tensors in own
        )
        steps = [torch.zeros((), device=each.device) for each in self.parameters]
        return _Team(rate, member, orders, parameters, averages, squares, steps)

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, share: float) -> None:
        """Takes a step with each member's learning rate times a share; parameters without a gradient stay as they are."""
        gradients = {index: parameter.grad for index, parameter in enumerate(self.parameters) if parameter.grad is not None}
        for team in self.teams:
            own = {index: each if team.member is None else each[team.member] for index, each in gradients.items()}
            adam(
                [team.parameters[index] for index in own],
                [each.permute(team.orders[index]).contiguous() for index, each in own.items()],
                [team.averages[index] for index in own],
                [team.squares[index] for index in own],
                [],
                [team.steps[index] for index in own],
                fused=True,
                amsgrad=False,
                beta1=BETAS[0],
                beta2=BETAS[1],
                lr=team.rate * share,
                weight_decay=0.0,
                eps=EPS,
                maximize=False,
            )

    def state(self) -> dict[str, Tensor]:
        """The state as ``torch.optim.Adam`` names it, (K, ...)."""
        state: dict[str, Tensor] = {}
        for index, (average, square) in enumerate(zip(self.averages, self.squares, strict=True)):
            step = self.teams[0].steps[index]
            state |= {f"step.{index}": step.expand(self.members), f"exp_avg.{index}": average, f"exp_avg_sq.{index}": square}
        return state

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes up what ``state`` gave; all members have made equally many steps."""
        for index, (average, square) in enumerate(zip(self.averages, self.squares, strict=True)):
            if f"step.{index}" not in state:  # of a parameter that never had a gradient
                continue
            average.copy_(state[f"exp_avg.{index}"])
            square.copy_(state[f"exp_avg_sq.{index}"])
            for team in self.teams:
                team.steps[index].copy_(state[f"step.{index}"][0])
