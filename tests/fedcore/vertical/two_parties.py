"""A label holder and its partners in threads, and a small data set with all kinds of columns."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fedcore.peer.memory import MemoryChannel
from fedcore.vertical.table import Table

Role = Callable[[Any], Any]


def meet(holder: Role, partners: dict[str, Role]) -> tuple[Any, dict[str, Any]]:
    """Run the label holder with a list of channels and each partner with its own.

    Returns:
        The label holder's result, and each partner's. A party that raises gives the error as its result; its
        channels are then cut, as those of a party that went away.
    """
    pairs = {name: MemoryChannel.pair(names=("bank", name)) for name in partners}
    found: dict[str, Any] = {}

    def run(name: str, role: Role, given: Any, own: Sequence[MemoryChannel]) -> None:
        try:
            found[name] = role(given)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            found[name] = error
            for each in own:
                each.close()

    mine = [pair[0] for pair in pairs.values()]
    threads = [threading.Thread(target=run, args=("", holder, mine, mine), daemon=True)]
    for name, role in partners.items():
        end = pairs[name][1]
        threads.append(threading.Thread(target=run, args=(name, role, end, [end]), daemon=True))
    for each in threads:
        each.start()
    for each in threads:
        each.join(timeout=60)
    return found.pop(""), found


def ok(result: Any) -> Any:
    """The result of a party that did not raise."""
    if isinstance(result, Exception):
        raise result
    return result


def customers(rows: int = 1200, seed: int = 7) -> tuple[Table, Table]:
    """A bank's and a telecom's table about the same people: numbers, categories, special and missing values."""
    draw = np.random.default_rng(seed)
    risk = draw.normal(size=rows)
    label = (risk + draw.logistic(size=rows) > 1.0).astype(np.float64)
    part = draw.choice(np.array([0, 1, 2], dtype=np.int8), size=rows, p=[0.7, 0.2, 0.1])
    income = 3000 * np.exp(-0.4 * risk + draw.normal(scale=0.4, size=rows))
    income[draw.random(rows) < 0.1] = np.nan
    age = np.round(45 - 5 * risk + draw.normal(scale=10, size=rows))
    town = np.array(["north", "south", "east", "west", "hills"], dtype=object)
    home = town[np.clip(np.round(2 + risk + draw.normal(size=rows)), 0, 4).astype(int)]
    home[draw.random(rows) < 0.05] = None
    late = np.maximum(np.round(risk + draw.normal(size=rows)), 0)
    late[draw.random(rows) < 0.15] = -9
    noise = draw.normal(size=rows)
    bank = Table({"income": income, "age": age, "noise": noise}, part, label)
    telecom = Table({"home": home, "late": late, "usage": np.abs(draw.normal(size=rows)) - 0.5 * risk}, part)
    return bank, telecom
