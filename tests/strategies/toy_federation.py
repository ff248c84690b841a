"""A federation of straight lines for the strategies' tests: full-batch least squares in float64.

The loop is the one that `strategies.base.ClientHalf` describes. Each test has its own numpy reference beside
it, written from the paper's formulas.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from strategies.base import EXTRA, Arrays, ClientHalf, Strategy, split


@dataclass(frozen=True)
class Site:
    """x: float64 [n, d]; y: float64 [n]; steps: local steps a round."""

    x: np.ndarray
    y: np.ndarray
    steps: int

    def gradient(self, w: np.ndarray) -> np.ndarray:
        """Of half the mean squared error."""
        return self.x.T @ (self.x @ w - self.y) / len(self.y)


class Line(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(width, dtype=torch.float64))

    def loss(self, site: Site) -> torch.Tensor:
        return ((torch.from_numpy(site.x) @ self.w - torch.from_numpy(site.y)) ** 2).mean() / 2


def unlike_sites(steps: Iterable[int], rows: Iterable[int] = (30, 60, 90), width: int = 3) -> list[Site]:
    """Sites whose own optima differ, with covariances that differ too."""
    rng = np.random.default_rng(5)
    sites = []
    for number, (k, n) in enumerate(zip(steps, rows, strict=True)):
        x = rng.normal(size=(n, width)) * rng.uniform(0.5, 1.5, size=width)
        own = rng.normal(size=width) + 2 * number
        sites.append(Site(x, x @ own + 0.1 * rng.normal(size=n), k))
    return sites


def optimum(sites: list[Site]) -> np.ndarray:
    """The least-squares solution over all rows."""
    return np.linalg.lstsq(
        np.concatenate([s.x for s in sites]), np.concatenate([s.y for s in sites]), rcond=None
    )[0]


def weights(sites: list[Site]) -> np.ndarray:
    """Shares of the rows."""
    rows = np.array([len(s.y) for s in sites], float)
    return rows / rows.sum()


def local_round(
    half: ClientHalf, site: Site, model: Arrays, *, lr: float, momentum: float, config: Any
) -> Arrays:
    """One site's part of one round; what it sends."""
    line = Line(site.x.shape[1])
    line.load_state_dict({name: torch.tensor(array) for name, array in model.items()})
    half.restore(line)
    half.lr, half.momentum = lr, momentum
    optimizer = torch.optim.SGD(line.parameters(), lr=lr, momentum=momentum)
    half.begin(line, config)
    for _ in range(site.steps):
        optimizer.zero_grad()
        line.loss(site).backward()
        half.adjust_gradients(line)
        optimizer.step()
        half.steps += 1
    extra = half.finish(line)
    sent = {name: tensor.detach().numpy().copy() for name, tensor in line.state_dict().items()}
    return {**sent, **{EXTRA + name: array for name, array in extra.items()}}


def run(
    strategy: Strategy,
    sites: list[Site],
    rounds: int,
    *,
    client: type[ClientHalf] | None = None,
    lr: float = 0.1,
    momentum: float = 0.0,
    config: Mapping[str, Any] | None = None,
    lost: Mapping[int, int] | None = None,
) -> list[np.ndarray]:
    """The server's weights after each round.

    Args:
        client: Client half; the strategy's own when absent.
        lost: Round number to the site whose reply is lost on the way, after it stored its state.
    """
    kind = client or strategy.client or ClientHalf
    model: Arrays = {"w": np.zeros(sites[0].x.shape[1])}
    states: list[Arrays] = [{} for _ in sites]
    path = []
    for number in range(1, rounds + 1):
        sent = strategy.outgoing(model)
        arrays, extra = split(sent)
        replies = []
        for index, site in enumerate(sites):
            half = kind(states[index], extra, {})
            about = {"server-round": number, **(config or {})}
            reply = local_round(half, site, arrays, lr=lr, momentum=momentum, config=about)
            states[index] = half.state
            if (lost or {}).get(number) != index:
                replies.append((len(site.y), reply))
        total = sum(n for n, _ in replies)
        mean = {name: sum(n / total * reply[name] for n, reply in replies) for name in replies[0][1]}
        model = strategy.incoming(sent, mean)
        path.append(model["w"])
    return path
