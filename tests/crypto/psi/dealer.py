"""A dealer in the place of VOLE, whom both sides trust because it is the test."""

from __future__ import annotations

import threading
from typing import Any

from crypto.kernels.blocks import add_scaled, random_blocks
from crypto.kernels.gf64 import add_word_times
from crypto.psi.vole_field import GF128, TOWER


class Dealt:
    """What one side has of VOLE."""

    def __init__(self, *columns: Any, delta: Any = None) -> None:
        self._columns, self._at = columns, 0
        self.delta = delta

    def take(self, count: int) -> Any:
        self._at += count
        some = tuple(column[self._at - count : self._at].copy() for column in self._columns)
        return some if len(some) > 1 else some[0]


class Dealer:
    """Deals correlations: the n-th receiver and the n-th sender get what belongs together.

    Attributes:
        deals: D, a and b of each run.
    """

    def __init__(self) -> None:
        self.deals: list[tuple[Any, Any, Any]] = []
        self._lock, self._asked = threading.Lock(), {"receiver": 0, "sender": 0}

    def _next(self, role: str, length: int, field: Any) -> tuple[Any, Any, Any]:
        assert field in (GF128, TOWER)
        with self._lock:
            number = self._asked[role]
            self._asked[role] += 1
            if number == len(self.deals):
                a = random_blocks(length)
                if field is TOWER:
                    a[:, 1] = 0
                self.deals.append((random_blocks(1), a, random_blocks(length)))
            return self.deals[number]

    def receiver(self, channel: Any, length: int, field: Any) -> Dealt:
        delta, a, b = self._next("receiver", length, field)
        c = b.copy()
        if field is TOWER:
            add_word_times(c, a[:, 0].copy(), delta)
        else:
            add_scaled(c, a, delta)
        return Dealt(a, c)

    def sender(self, channel: Any, length: int, field: Any) -> Dealt:
        delta, _, b = self._next("sender", length, field)
        return Dealt(b, delta=delta)
