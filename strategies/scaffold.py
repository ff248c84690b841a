"""SCAFFOLD: control variates cancel the drift of sites whose data differ.

Karimireddy et al., *SCAFFOLD: Stochastic Controlled Averaging for Federated Learning*, ICML 2020
(arXiv:1910.06378), Algorithm 1 with option II. Site i remembers c_i, its mean gradient along the local
path; the server keeps c, their mean. Each local step goes along g - c_i + c. After K steps

    c_i  <-  c_i - c + (w - w_i) / (K lr)  =  mean of the K gradients g          (option II)
    w    <-  w + server_lr * mean(w_i - w)         c  <-  c + share * mean(change of c_i)

`share` is the part of the sites that took part in the round. The mean of the gradients is summed up as they
come rather than derived from w - w_i: for plain SGD the two are the same, and the sum stays right under
momentum, weight decay and adaptive steps.

Means are weighted by examples here, as everywhere; c is then the gradient of the weighted objective. When
every site takes part, sites send c_i itself and c becomes the mean: a reply that was lost does no lasting
harm. When a part is sampled, they send the change of c_i as in the paper, and a lost reply leaves c off by
that site's change. Cost: the trained weights once more in each direction (not down in the first round), and
three copies of them at the site.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid

from strategies.base import EXTRA, Arrays, ClientHalf, Strategy, trained_flags, trained_names

if TYPE_CHECKING:
    import torch
    from torch import nn

_CONTROL = "control/"
_SHARE = "share"


class ScaffoldClient(ClientHalf):
    """Steps along g - c_i + c and sends its new control variate."""

    def begin(self, model: nn.Module, config: Mapping[str, Any]) -> None:
        import torch

        self.summed = 0
        self.total: dict[str, torch.Tensor] = {}
        self.correction: dict[str, torch.Tensor] = {}
        for name, p in model.named_parameters():
            if p.requires_grad:
                self.total[name] = torch.zeros_like(p)
                server, own = self.extra.get(_CONTROL + name), self.state.get(_CONTROL + name)
                if server is not None:
                    own = np.zeros_like(server) if own is None else own
                    self.correction[name] = torch.tensor(server - own, dtype=p.dtype, device=p.device)

    def adjust_gradients(self, model: nn.Module) -> None:
        self.summed += 1
        for name, p in model.named_parameters():
            if p.grad is not None and name in self.total:
                self.total[name].add_(p.grad)
                if name in self.correction:
                    p.grad.add_(self.correction[name])

    def finish(self, model: nn.Module) -> Arrays:
        import torch

        own = {}
        for name, total in self.total.items():
            before = torch.as_tensor(self.state.get(_CONTROL + name, np.zeros(())), dtype=total.dtype)
            # Where the site took no step, or float16 overflowed in one, the control variate stays as it was.
            # Divided by what was summed up: early stopping sends a model of fewer steps.
            mean = (total / max(self.summed, 1)).cpu()
            keep = ~torch.isfinite(mean) | (self.summed == 0)
            own[_CONTROL + name] = torch.where(keep, before, mean).numpy()
        everyone = self.extra[_SHARE][0] >= 1
        sent = own if everyone else {name: new - self.state.get(name, 0) for name, new in own.items()}
        self.state = own
        return {**sent, **trained_flags(model)}


class Scaffold(Strategy):
    """Averages the models and keeps the mean control variate.

    Args:
        server_lr: Factor on the mean update; above 0, 1 averages.
        **settings: Flower's.
    """

    client: ClassVar[type[ClientHalf] | None] = ScaffoldClient

    def __init__(self, *, server_lr: float = 1.0, **settings: Any) -> None:
        super().__init__(**settings)
        self.server_lr = server_lr

    def begin(self, arrays: Arrays) -> Arrays:
        return {_SHARE: np.array([1.0])}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The base's, once it is known which share of the sites it will sample."""
        nodes = len(list(grid.get_node_ids()))
        sampled = max(int(nodes * self.fraction_train), self.min_train_nodes)
        self.state[EXTRA + _SHARE] = np.array([min(1.0, sampled / max(nodes, 1))])
        return super().configure_train(server_round, arrays, config, grid)

    def update(self, current: Arrays, mean: Arrays) -> Arrays:
        share = float(current[EXTRA + _SHARE][0])
        new = {name: array for name, array in mean.items() if name in current}
        for name in trained_names(current, mean) & set(new):
            new[name] = current[name] + self.server_lr * (mean[name] - current[name])
        for name, array in mean.items():
            if name.startswith(EXTRA + _CONTROL):
                new[name] = array if share >= 1 else current.get(name, 0) + share * array
        return new
