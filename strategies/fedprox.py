"""FedProx: a local term holds each site near the server's model.

Li et al., *Federated Optimization in Heterogeneous Networks*, MLSys 2020 (arXiv:1812.06127), Algorithm 2.
Each site minimises F_i(w) + mu/2 * |w - w_server|^2. The term enters as its gradient, mu * (w - w_server),
before the optimizer's step, so momentum and adaptive steps treat it as any part of the loss; the reported
loss is the task's own. Cost: one copy of the trained weights at the site, no bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from flwr.serverapp import strategy as flower

from strategies.base import ClientHalf

if TYPE_CHECKING:
    import torch
    from torch import nn


class FedProxClient(ClientHalf):
    """Adds mu * (w - w_server) to every gradient; mu comes in the config as Flower's `proximal-mu`."""

    def begin(self, model: nn.Module, config: Mapping[str, Any]) -> None:
        self.mu = float(config["proximal-mu"])
        self.server: dict[str, torch.Tensor] = {}
        if self.mu:
            self.server = {
                name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad
            }

    def adjust_gradients(self, model: nn.Module) -> None:
        for name, p in model.named_parameters():
            if name in self.server and p.grad is not None:
                p.grad.add_(p.detach(), alpha=self.mu).sub_(self.server[name], alpha=self.mu)


class FedProx(flower.FedProx):
    """Flower's FedProx, which averages and sends `proximal_mu` to the sites."""

    summable: ClassVar[bool] = True
    client: ClassVar[type[ClientHalf] | None] = FedProxClient
