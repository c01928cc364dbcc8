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
    """What one call of Adam updates: the whole stack where all rates are equal, one member of it where they differ."""

    rate: float
    member: int | None
    steps: list[Tensor]

    def part(self, tensor: Tensor) -> Tensor:
        """The team's part of a tensor of the stack."""
        return tensor if self.member is None else tensor[self.member]


class StackedAdam:
    """Adam (Kingma and Ba 2015) for a stack, with a learning rate for each member; the numbers are ``torch.optim.Adam``'s."""

    def __init__(self, net: nn.Module, rates: Sequence[float]) -> None:
        """Takes a stack that lies on its device, and each member's learning rate."""
        self.parameters = list(net.parameters())
        self.averages = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.squares = [torch.zeros_like(parameter) for parameter in self.parameters]
        device = self.parameters[0].device
        teams = [(rates[0], None)] if len(set(rates)) == 1 else [(rate, member) for member, rate in enumerate(rates)]
        self.teams = [_Team(rate, member, [torch.zeros((), device=device) for _ in self.parameters]) for rate, member in teams]
        self.members = len(rates)

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, share: float) -> None:
        """Takes a step with each member's learning rate times a share; parameters without a gradient stay as they are."""
        gradients = {index: parameter.grad for index, parameter in enumerate(self.parameters) if parameter.grad is not None}
        for team in self.teams:
            adam(
                [team.part(self.parameters[index]) for index in gradients],
                [team.part(gradient) for gradient in gradients.values()],
                [team.part(self.averages[index]) for index in gradients],
                [team.part(self.squares[index]) for index in gradients],
                [],
                [team.steps[index] for index in gradients],
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
