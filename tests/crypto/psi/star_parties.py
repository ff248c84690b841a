"""What the tests of an intersection of several parties share: parties in one process, and dealt correlations."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from crypto.channel import Data
from crypto.errors import ProtocolError
from crypto.kernels.blocks import add_scaled, random_blocks
from crypto.psi import oprf, star
from tests.crypto.memory_channel import End, ends

LEADER = "lea"
FOLLOWERS = ("ann", "bob", "cy", "dee", "eve", "flo", "gus")
_STOPPED = "(stopped)"


class Gone(Exception):
    """The other party is not there any more."""


class Line(End):
    """An end that can be stopped, after which both ends raise `Gone`."""

    def __init__(self, end: End) -> None:
        super().__init__(end._out, end._in)
        self._over = threading.Event()

    def send(self, step: str, data: Data) -> None:
        if self._over.is_set():
            raise Gone(f"{step}: stopped")
        super().send(step, data)

    def recv(self, step: str, *, size: int | None = None, limit: int | None = None) -> memoryview:
        try:
            return super().recv(step, size=size, limit=limit)
        except ProtocolError as error:
            if _STOPPED in error.message:
                raise Gone(f"{step}: stopped") from None
            raise

    def stop(self) -> None:
        """End it in both directions; what was sent before can still be received."""
        self._over.set()
        self._out.put((_STOPPED, b""))
        self._in.put((_STOPPED, b""))


def lines() -> tuple[Line, Line]:
    """Two connected ends, which stop together."""
    left, right = (Line(end) for end in ends())
    right._over = left._over
    return left, right


class Meeting:
    """A leader and its followers, each with a set; `run` gives what each found or raised.

    Attributes:
        leader: The leader's ends, by the follower's name.
        others: The followers' ends, by name.
        options: Of `lead` or `follow`, by name.
    """

    def __init__(self, sets: list[Any], **same: Any) -> None:
        self.names = FOLLOWERS[: len(sets) - 1]
        self.sets = dict(zip((LEADER, *self.names), sets, strict=True))
        made = {name: lines() for name in self.names}
        self.leader = {name: pair[0] for name, pair in made.items()}
        self.others = {name: pair[1] for name, pair in made.items()}
        self.options: dict[str, dict[str, Any]] = {
            LEADER: {"name": LEADER, **same},
            **{
                name: {"name": name, "leader": LEADER, "followers": self.names, **same} for name in self.names
            },
        }

    def stop(self) -> None:
        for line in self.leader.values():
            line.stop()

    def run(self) -> dict[str, Any]:
        """Results and errors, by name."""
        found: dict[str, Any] = {}

        def party(name: str, role: Callable[[], Any]) -> None:
            try:
                found[name] = role()
            except Exception as error:  # noqa: BLE001 - the tests look at it
                found[name] = error
                (self.stop if name == LEADER else self.others[name].stop)()

        roles: dict[str, Callable[[], Any]] = {
            name: lambda name=name: star.follow(self.others[name], self.sets[name], **self.options[name])
            for name in self.names
        }
        roles[LEADER] = lambda: star.lead(
            self.leader, self.sets[LEADER], **{"stop": self.stop, **self.options[LEADER]}
        )
        threads = [threading.Thread(target=party, args=each, daemon=True) for each in roles.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert set(found) == set(self.sets), "a party did not stop"
        return found

    def result(self) -> dict[str, Any]:
        """As `run`; an error is raised, and not one that followed from it."""
        found = self.run()
        errors = [each for each in found.values() if isinstance(each, Exception)]
        for error in sorted(errors, key=lambda error: isinstance(error, Gone)):
            raise error
        return found

    def refused(self) -> tuple[str, ProtocolError]:
        """Who refused what came; all others have stopped too."""
        found = self.run()
        assert all(isinstance(each, Exception) for each in found.values()), found
        refused = [(name, each) for name, each in found.items() if isinstance(each, ProtocolError)]
        assert len(refused) == 1, found
        return refused[0]


def common(sets: list[Any]) -> set[tuple[int, ...]]:
    """Items in all sets, by Python's sets."""
    return set.intersection(*({tuple(item) for item in each.tolist()} for each in sets))


# ---- correlations without VOLE ------------------------------------------------------------------------------------


class Dealt:
    """Rows of arrays, in portions."""

    def __init__(self, *columns: Any, delta: Any = None) -> None:
        self._columns, self._at, self.delta = columns, 0, delta

    def take(self, count: int) -> Any:
        self._at += count
        some = tuple(column[self._at - count : self._at].copy() for column in self._columns)
        return some if len(some) > 1 else some[0]


class Dealer:
    """Deals correlations to the two ends of each channel."""

    def __init__(self) -> None:
        self._dealt: dict[frozenset[int], tuple[Any, Any, Any]] = {}
        self._lock = threading.Lock()

    def _deal(self, channel: Any, length: int) -> tuple[Any, Any, Any]:
        link = getattr(channel, "link", None)  # of fedcore's channel in memory
        queues = (link.outgoing, link.incoming) if link else (channel._out, channel._in)
        both = frozenset(map(id, queues))
        with self._lock:
            if both not in self._dealt:
                self._dealt[both] = random_blocks(1), random_blocks(length), random_blocks(length)
            return self._dealt[both]

    def receiver(self, channel: Any, length: int) -> Dealt:
        delta, a, b = self._deal(channel, length)
        c = b.copy()
        add_scaled(c, a, delta)
        return Dealt(a, c)

    def sender(self, channel: Any, length: int) -> Dealt:
        delta, _, b = self._deal(channel, length)
        return Dealt(b, delta=delta)

    def put(self, patch: pytest.MonkeyPatch) -> None:
        """In the place of VOLE."""
        patch.setattr(oprf, "Receiver", self.receiver)
        patch.setattr(oprf, "Sender", self.sender)


def byte_statistic(values: Any) -> float:
    """Chi squared of the bytes' frequencies: mean 255 and standard deviation 22.6 where they are uniform."""
    raw = np.ascontiguousarray(values).view(np.uint8).reshape(-1)
    counts = np.bincount(raw, minlength=256)
    return float(((counts - raw.size / 256) ** 2).sum() / (raw.size / 256))
