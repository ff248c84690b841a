"""Stochastic gradient descent without torch's optimizer machinery.

Making any of torch's own optimizers imports torch's compiler: a second of processor time and 800 modules, in
a process that may live for one message.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


class Sgd:
    """The steps of `torch.optim.SGD(parameters, lr, momentum, weight_decay=...)`, bit for bit.

    Args:
        parameters: To train.
        lr: Learning rate.
        momentum: In [0, 1); 0 keeps no buffers.
        weight_decay: Added to the gradient, times the parameter.

    Source: the update rule of torch.optim.SGD with dampening 0 and without Nesterov momentum.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        self.parameters = list(parameters)
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self._velocity: dict[torch.Tensor, torch.Tensor] = {}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad.zero_()

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient."""
        moving: list[torch.Tensor] = [each for each in self.parameters if each.grad is not None]
        if not moving:
            return
        directions = [each.grad for each in moving if each.grad is not None]
        if self.weight_decay:
            directions = list(torch._foreach_add(directions, moving, alpha=self.weight_decay))
        if self.momentum:
            directions = self._with_momentum(moving, directions)
        torch._foreach_add_(moving, directions, alpha=-self.lr)

    def _with_momentum(
        self, moving: list[torch.Tensor], directions: list[torch.Tensor]
    ) -> list[torch.Tensor]:
        for parameter, direction in zip(moving, directions, strict=True):
            velocity = self._velocity.get(parameter)
            if velocity is None:
                self._velocity[parameter] = direction.clone()
            else:
                velocity.mul_(self.momentum).add_(direction)
        return [self._velocity[parameter] for parameter in moving]
