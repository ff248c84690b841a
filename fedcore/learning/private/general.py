"""Gradients of single rows for any model: made one by one, in parallel where torch can (`torch.func`).

Memory and time grow with rows times parameters; for layers without a rule (`fedcore.learning.private.layers`) there is no
other way. What `vmap` cannot do, recurrent layers and random numbers of a generator of one's own among it, goes row by row.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import nn

from fedcore.learning.private.parts import AT_A_TIME

_log = logging.getLogger(__name__)

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Losses `[n]` from the model's outputs and the targets, row by row."""


class RowByRow:
    """Every row's gradients, made.

    Args:
        model: Its parameters that require gradients count.
        loss: Of rows.
    """

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        self._model, self._loss = model, loss
        self._named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._parallel = True
        size = sum(p.numel() for p in self._named.values())
        self.at_a_time = max(1, AT_A_TIME // max(1, size))

    def gradients(self, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
        """For each trainable parameter in the model's order, `[n, ...]`; n is `at_a_time` or less."""
        if self._parallel:
            try:
                return self._vmapped(x, y)
            except (RuntimeError, NotImplementedError, ValueError) as error:
                self._parallel = False
                _log.warning(
                    "private training goes row by row: torch.func fails with %s", type(error).__name__
                )
                _log.debug("why torch.func fails", exc_info=error)
        rows = [self._one(x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
        return [torch.stack(each) for each in zip(*rows, strict=True)]

    def _vmapped(self, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
        # Not at the top: it imports the compiler of torch, which most trainings never need.
        from torch.func import functional_call, grad, vmap

        def one(named: dict[str, torch.Tensor], row: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            outputs = functional_call(self._model, named, (row[None],))
            return self._loss(outputs, target[None]).sum()

        plain = {name: p.detach() for name, p in self._named.items()}
        made = vmap(grad(one), in_dims=(None, 0, 0), randomness="different")(plain, x, y)
        return [made[name].detach() for name in self._named]

    def _one(self, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
        loss = self._loss(self._model(x), y).sum()
        parameters = list(self._named.values())
        made = torch.autograd.grad(loss, parameters, allow_unused=True)
        return [
            torch.zeros_like(p) if each is None else each for p, each in zip(parameters, made, strict=True)
        ]
