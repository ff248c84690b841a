"""A label holder and partners in threads that fit one model, and data they fit it to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from fedcore.jobs.vertical import Logistic
from fedcore.peer.memory import MemoryChannel
from fedcore.vertical.glm import Fit, fit_label_holder, fit_partner

ROWS = 600
DRAW = np.random.default_rng(1)
X = DRAW.normal(size=(ROWS, 6))
X[:, 3] = 0.9 * X[:, 2] + 0.4 * X[:, 3]
ETA = X @ [1, -0.5, 0.3, 0.8, 0, -0.4] + 0.5
LABEL = (DRAW.random(ROWS) < 1 / (1 + np.exp(-ETA))).astype(np.float64)
RARE = (DRAW.random(ROWS) < 1 / (1 + np.exp(3 - ETA))).astype(np.float64)
COUNTS = DRAW.poisson(np.exp(0.4 * ETA + 0.5)).astype(np.float64)
AMOUNTS = 50_000 * (5 + ETA + 0.3 * DRAW.normal(size=ROWS))


def job(**settings: Any) -> Logistic:
    return Logistic(**{"use": "logistic", "on": "values", "iterations": 13, **settings})


def quiet(phase: str, done: int, of: int) -> None:
    """Nobody watches."""


def together(*roles: tuple[Callable[[], Any], list[MemoryChannel]]) -> list[Any]:
    """Results of roles in threads; an error is the result of its role, whose channels are then cut."""
    found: list[Any] = [None] * len(roles)

    def go(number: int, role: Callable[[], Any], own: list[MemoryChannel]) -> None:
        try:
            found[number] = role()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            found[number] = error
            for each in own:
                each.abort()

    threads = [threading.Thread(target=go, args=(i, *role), daemon=True) for i, role in enumerate(roles)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(timeout=120)
    return found


def two(
    settings: Logistic,
    x: Any = X,
    y: Any = LABEL,
    cut: int = 2,
    *,
    theirs: Logistic | None = None,
    partner_rows: Any = slice(None),
    weights: Any = None,
    held_out: Any = None,
    watch: Any = quiet,
    wrap: Callable[[MemoryChannel], Any] = lambda channel: channel,
) -> list[Any]:
    """A fit of one label holder, who has the first columns, and one partner; or their errors."""
    one, other = MemoryChannel.pair(names=("bank", "telecom"))
    test = (None, None) if held_out is None else ((held_out[0][:, :cut], held_out[1]), held_out[0][:, cut:])
    return together(
        (
            lambda: fit_label_holder([wrap(one)], x[:, :cut], y, settings, watch, weights, test[0]),
            [one],
        ),
        (
            lambda: fit_partner(
                other, x[partner_rows, cut:], theirs or settings, quiet, True, held_out=test[1]
            ),
            [other],
        ),
    )


def star(settings: Logistic, parts: list[Any], y: Any) -> list[Any]:
    """A fit of one label holder and two or three partners."""
    pairs = [MemoryChannel.pair(names=("bank", f"partner-{i}")) for i in range(len(parts) - 1)]
    among = [MemoryChannel.pair(names=("partner-0", f"partner-{i}")) for i in range(1, len(parts) - 1)]
    mine = [pair[0] for pair in pairs]
    firsts = [pair[0] for pair in among]
    roles: list[tuple[Callable[[], Any], list[MemoryChannel]]] = [
        (lambda: fit_label_holder(mine, parts[0], y, settings, quiet), mine),
        (lambda: fit_partner(pairs[0][1], parts[1], settings, quiet, True, firsts), [pairs[0][1], *firsts]),
    ]
    for i, (pair, between) in enumerate(zip(pairs[1:], among, strict=True)):
        roles.append(
            (
                lambda pair=pair, between=between, i=i: fit_partner(
                    pair[1], parts[2 + i], settings, quiet, False, to_first=between[1]
                ),
                [pair[1], between[1]],
            )
        )
    return together(*roles)


def ok(found: list[Any]) -> list[Fit]:
    """The results of roles, of which none raised."""
    for each in found:
        if isinstance(each, Exception):
            raise each
    return found


def numbers(found: list[Any]) -> Any:
    """Intercept and all coefficients."""
    fits = ok(found)
    return np.concatenate([[fits[0].intercept], *(fit.coefficients for fit in fits)])
