"""The optimizers of a cohort: one step moves the parameters of all participants that take it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from fedcore.jobs.job import LocalTraining

BETAS, EPSILON = (0.9, 0.999), 1e-8  # those of torch.optim.Adam


class Stepper:
    """The optimizer of all participants; what it does is done value by value.

    All who take a step have taken as many before, so that Adam's corrections are the same numbers for them.

    Source: the update rules of torch.optim.SGD, Adam and AdamW.
    """

    def __init__(self, local: LocalTraining, parameters: Sequence[torch.Tensor], pull: float) -> None:
        self._local, self._parameters, self._pull = local, parameters, pull
        self._start = [each.clone() for each in parameters] if pull else []
        self._moments: dict[int, tuple[torch.Tensor, ...]] = {}
        self._taken = 0

    @torch.no_grad()
    def step(self, active: int, gradients: Sequence[torch.Tensor | None]) -> None:
        """Move the first `active` participants; a parameter without gradient stays."""
        self._taken += 1
        used = [i for i, gradient in enumerate(gradients) if gradient is not None]
        if not used:
            return
        moving = [self._parameters[i][:active] for i in used]
        along = [gradient for gradient in gradients if gradient is not None]
        if self._pull:
            along = list(torch._foreach_add(along, moving, alpha=self._pull))
            torch._foreach_sub_(along, [self._start[i][:active] for i in used], alpha=self._pull)
        decay = self._local.weight_decay
        if decay and self._local.optimizer != "adamw":
            along = list(torch._foreach_add(along, moving, alpha=decay))
        if self._local.optimizer == "sgd":
            if self._local.momentum:
                (velocity,) = self._kept(used, 1, active)
                torch._foreach_mul_(velocity, self._local.momentum)
                torch._foreach_add_(velocity, along)
                along = velocity
            torch._foreach_add_(moving, along, alpha=-self._local.lr)
            return
        if decay and self._local.optimizer == "adamw":
            torch._foreach_mul_(moving, 1 - self._local.lr * decay)
        self._adam(moving, along, *self._kept(used, 2, active))

    def _adam(
        self,
        moving: list[torch.Tensor],
        along: list[torch.Tensor],
        first: list[torch.Tensor],
        second: list[torch.Tensor],
    ) -> None:
        torch._foreach_lerp_(first, along, 1 - BETAS[0])
        torch._foreach_mul_(second, BETAS[1])
        torch._foreach_addcmul_(second, along, along, 1 - BETAS[1])
        sizes = torch._foreach_sqrt(second)
        torch._foreach_div_(sizes, (1 - BETAS[1] ** self._taken) ** 0.5)
        torch._foreach_add_(sizes, EPSILON)
        torch._foreach_addcdiv_(moving, first, sizes, -self._local.lr / (1 - BETAS[0] ** self._taken))

    def _kept(self, used: Sequence[int], how_many: int, active: int) -> list[list[torch.Tensor]]:
        """Moments of the parameters in use, zero at first."""
        for i in used:
            if i not in self._moments:
                like = self._parameters[i]
                self._moments[i] = tuple(torch.zeros_like(like) for _ in range(how_many))
        return [[self._moments[i][number][:active] for i in used] for number in range(how_many)]
