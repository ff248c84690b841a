"""FedNova: sites that take more local steps do not pull the model towards their own optimum.

Wang et al., *Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization*,
NeurIPS 2020 (arXiv:2007.07481), equations (5) to (8). With different numbers of local steps, FedAvg
converges to the optimum of another objective, in which a site counts in proportion to its steps. FedNova
averages the update *per step* and then takes the average number of steps:

    w  <-  w + server_lr * tau_eff * sum_i p_i (w_i - w) / tau_i        tau_eff = sum_i p_i tau_i

p_i is the site's share of the examples; tau_i is its effective number of steps, |a_i|_1 in the paper: the
count of steps for plain SGD, more under momentum (section 4.2 and appendix A).

Both sums are weighted means, so FedNova runs under protection that reveals only a sum. A site sends the
model w + (tau_ref / tau_i) (w_i - w) and its tau_i, where tau_ref is the last round's tau_eff: the sent
model keeps a model's magnitude, which fixed-point encodings, clipping and float32 need. Cost: one number
down, one number and one flag per array up; one copy of the trained weights at the site.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from strategies.base import EXTRA, Arrays, ClientHalf, Strategy, trained_flags, trained_names

if TYPE_CHECKING:
    import torch
    from torch import nn

_STEPS = "steps"


class FedNovaClient(ClientHalf):
    """Sends the model as if the site had taken the reference number of steps, and its own number."""

    def begin(self, model: nn.Module, config: Mapping[str, Any]) -> None:
        self.server: dict[str, torch.Tensor] = {
            name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad
        }

    def finish(self, model: nn.Module) -> Arrays:
        import torch

        steps = effective_steps(self.steps, self.momentum)
        if steps > 0:  # a site without a step sends the model it received and counts as zero steps
            scale = float(self.extra[_STEPS][0]) / steps
            with torch.no_grad():
                for name, p in model.named_parameters():
                    if name in self.server:
                        p.sub_(self.server[name]).mul_(scale).add_(self.server[name])
        return {_STEPS: np.array([steps]), **trained_flags(model)}


class FedNova(Strategy):
    """Takes the average number of steps along the average update per step.

    Args:
        server_lr: Factor on the combined update; above 0.
        **settings: Flower's.
    """

    client: ClassVar[type[ClientHalf] | None] = FedNovaClient

    def __init__(self, *, server_lr: float = 1.0, **settings: Any) -> None:
        super().__init__(**settings)
        self.server_lr = server_lr

    def begin(self, arrays: Arrays) -> Arrays:
        return {_STEPS: np.array([1.0])}

    def update(self, current: Arrays, mean: Arrays) -> Arrays:
        steps = mean[EXTRA + _STEPS]
        scale = self.server_lr * float(steps[0] / current[EXTRA + _STEPS][0])
        new = dict(mean)
        for name in trained_names(current, mean) & set(mean):
            new[name] = current[name] + scale * (mean[name] - current[name])
        reference = steps if steps[0] > 0 else current[EXTRA + _STEPS]
        return {**{name: new[name] for name in current if name in new}, EXTRA + _STEPS: reference}


def effective_steps(steps: int, momentum: float) -> float:
    """How many plain steps the last of `steps` momentum steps has travelled: |a|_1 of equation (6).

    Args:
        steps: Optimizer steps taken.
        momentum: In [0, 1), as in `v = momentum * v + g; w = w - lr * v`, v zero at first.

    Example:
        >>> effective_steps(3, 0.0), effective_steps(3, 0.5)
        (3.0, 4.25)
    """
    return (steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum)
