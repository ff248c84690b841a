"""How far apart two parties are, and how much goes between them, measured on the channel that the work will use.

One side measures, the other serves:

    measuring -> serving    command: 1 byte what, 8 bytes how many, 16 random bytes
    ECHO                    the same 25 bytes come back
    SINK                    that many bytes follow, and 25 bytes come back when all are there
    SOURCE                  that many bytes come back
    END                     nothing

This is over TLS between two pinned keys (`fedcore.peer`), so what is seen includes encryption, framing and the other
side's scheduling, as a round will. No ICMP and no rights are needed. A party can make itself seem far away, never
near: it cannot send back random bytes that it has not received.

Later nothing is sent to measure: each transfer of a model is a measurement (`Passive`).
"""

from __future__ import annotations

import math
import secrets
import statistics
import struct
import time
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

import numpy as np

from crypto.channel import Channel
from crypto.errors import ProtocolError
from fedcore.network.quantity import LEAST_SAMPLES, Quantity, derived, iso, measured

STEP = "link-probe"
ECHOES = 40
LEAST_ECHOES = 20
MOST_BYTES = 64 * 2**20
"""Of one timed transfer; more is refused."""
_FIRST_BYTES = 2**18
_LONG_ENOUGH = 0.25
"""Seconds after which a transfer is long enough to be a measurement rather than a delay."""
_REPEATS = 5
_ECHO, _SINK, _SOURCE, _END = 1, 2, 3, 4
_COMMAND = struct.Struct(">BQ16s")
_WARM = 3


@dataclass(frozen=True)
class LinkMeasured:
    """What was seen of a link.

    Args:
        rtt_min, rtt_p50, rtt_p95: Round trip of 25 bytes, ms.
        up, down: From and to the measuring side, Mbit/s (10^6 bits).
    """

    rtt_min: Quantity
    rtt_p50: Quantity
    rtt_p95: Quantity
    up: Quantity
    down: Quantity

    @property
    def one_way(self) -> Quantity:
        """Half of the shortest round trip, ms: the two directions cannot be told apart without one clock."""
        return derived(self.rtt_min.value / 2, "ms", "half of the shortest round trip", self.rtt_min)

    def quantities(self) -> dict[str, Quantity]:
        """By the names that descriptors use."""
        return {
            "rtt.min": self.rtt_min,
            "rtt.p50": self.rtt_p50,
            "rtt.p95": self.rtt_p95,
            "link.up": self.up,
            "link.down": self.down,
        }


def serve_link(channel: Channel, *, most: int = 10_000) -> None:
    """The serving side; returns when the other has measured.

    Args:
        channel: To the measuring side.
        most: Commands that are served.

    Raises:
        ProtocolError: A command is none, or asks for too much.
        PeerLost: The other side is gone.
    """
    for _ in range(most):
        command = bytes(channel.recv(STEP, size=_COMMAND.size))
        what, size, _ = _COMMAND.unpack(command)
        if what == _END:
            return
        if size > MOST_BYTES:
            raise ProtocolError(
                f"{size} bytes were asked for; at most {MOST_BYTES} are sent to measure", step=STEP
            )
        if what == _ECHO:
            channel.send(STEP, command)
        elif what == _SINK:
            channel.recv(STEP, size=size)
            channel.send(STEP, command)
        elif what == _SOURCE:
            channel.send(STEP, np.zeros(size, dtype=np.uint8))
        else:
            raise ProtocolError(f"command {what} is none of a link's measurement", step=STEP)
    raise ProtocolError(f"more than {most} commands came", step=STEP)


def measure_link(
    channel: Channel, *, echoes: int = ECHOES, seconds: float = 5.0, at: datetime | None = None
) -> LinkMeasured:
    """The measuring side.

    Args:
        channel: To the serving side.
        echoes: Round trips, at least 20.
        seconds: After which no further transfer begins.
        at: When; now by default.

    Raises:
        ValueError: Fewer than 20 echoes.
        ProtocolError: What came back was not what was sent.
        PeerLost: The other side is gone.
    """
    if echoes < LEAST_ECHOES:
        raise ValueError(f"{echoes} echoes; at least {LEAST_ECHOES} are needed for a 95th percentile")
    until = time.perf_counter() + seconds
    trips = [_echo(channel) * 1e3 for _ in range(_WARM + echoes)][_WARM:]
    latency = min(trips) / 1e3
    up = _rates(channel, _SINK, latency, until)
    down = _rates(channel, _SOURCE, latency, until)
    channel.send(STEP, _COMMAND.pack(_END, 0, bytes(16)))
    ordered = sorted(trips)
    whole = measured(trips, "ms", f"echo over TLS, median of {echoes}", at=at)
    return LinkMeasured(
        replace(whole, value=ordered[0], method=f"echo over TLS, least of {echoes}"),
        whole,
        replace(whole, value=percentile(ordered, 0.95), method=f"echo over TLS, 95th percentile of {echoes}"),
        measured(up[0], "Mbit/s", f"transfers of {up[1] >> 10} KiB over TLS", at=at),
        measured(down[0], "Mbit/s", f"transfers of {down[1] >> 10} KiB over TLS", at=at),
    )


def percentile(ordered: list[float], share: float) -> float:
    """The nearest-rank percentile of sorted samples: one that was seen.

    Args:
        ordered: At least one, ascending.
        share: Above 0, at most 1.
    """
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _echo(channel: Channel) -> float:
    command = _COMMAND.pack(_ECHO, 0, secrets.token_bytes(16))
    began = time.perf_counter()
    channel.send(STEP, command)
    back = bytes(channel.recv(STEP, size=_COMMAND.size))
    taken = time.perf_counter() - began
    if back != command:
        raise ProtocolError("what came back is not what was sent", step=STEP)
    return taken


def _transfer(channel: Channel, what: int, size: int) -> float:
    command = _COMMAND.pack(what, size, secrets.token_bytes(16))
    data = np.zeros(size, dtype=np.uint8) if what == _SINK else None
    began = time.perf_counter()
    channel.send(STEP, command)
    if data is not None:
        channel.send(STEP, data)
        if bytes(channel.recv(STEP, size=_COMMAND.size)) != command:
            raise ProtocolError("what came back is not what was sent", step=STEP)
    else:
        channel.recv(STEP, size=size)
    return time.perf_counter() - began


def _rates(channel: Channel, what: int, latency: float, until: float) -> tuple[list[float], int]:
    """Mbit/s of some transfers of one size, and the size: the first that takes long enough, or the largest."""
    size = _FIRST_BYTES
    taken = _transfer(channel, what, size)
    while taken < _LONG_ENOUGH and size < MOST_BYTES and time.perf_counter() + 8 * taken < until:
        size *= 2
        taken = _transfer(channel, what, size)
    found = [taken]
    while len(found) < LEAST_SAMPLES or (len(found) < _REPEATS and time.perf_counter() < until):
        found.append(_transfer(channel, what, size))
    # One way of the round trip is the command's or the answer's, and no transfer.
    return [8e-6 * size / max(each - latency, each / 10) for each in found], size


# ---- without sending anything --------------------------------------------------------------------------------------

Direction = Literal["up", "down"]
_WEIGHT = 0.3
"""Of the newest transfer: the last four or so count."""
_SMALL = 64 * 2**10
"""Bytes below which a transfer shows the delay and not the rate."""


@dataclass(frozen=True)
class Passive:
    """Rates of a link in each direction, from the transfers that the work makes anyway; start with `Passive()`.

    Args:
        up, down: Mean in Mbit/s, variance and number of transfers that counted.
        weight: Of the newest transfer, above 0, at most 1.

    Source: exponentially weighted mean and variance: Finch, "Incremental calculation of weighted mean and variance",
    section 9.
    """

    up: tuple[float, float, int] = (0.0, 0.0, 0)
    down: tuple[float, float, int] = (0.0, 0.0, 0)
    weight: float = _WEIGHT

    def seen(self, direction: Direction, size: int, seconds: float) -> Passive:
        """With one more transfer; a small one changes nothing.

        Args:
            direction: As this side sees it.
            size: Bytes.
            seconds: From its first byte to its last.

        Raises:
            ValueError: The time is not positive.
        """
        if not seconds > 0:
            raise ValueError(f"a transfer of {size} bytes in {seconds} s")
        if size < _SMALL:
            return self
        rate = 8e-6 * size / seconds
        mean, variance, count = self.up if direction == "up" else self.down
        if count == 0:
            after = (rate, 0.0, 1)
        else:
            step = self.weight * (rate - mean)
            after = (mean + step, (1 - self.weight) * (variance + step * (rate - mean)), count + 1)
        return replace(self, up=after) if direction == "up" else replace(self, down=after)

    def quantity(self, direction: Direction, *, at: datetime | None = None) -> Quantity | None:
        """The rate so far, Mbit/s; None before the first transfer."""
        mean, variance, count = self.up if direction == "up" else self.down
        if not count:
            return None
        spread = math.sqrt(variance) / mean if count >= LEAST_SAMPLES else None
        how = f"weighted mean of {count} transfers of the work"
        return Quantity(mean, "Mbit/s", "measured", how, spread, iso(at), count)


def trips_of(samples: list[float], *, at: datetime | None = None) -> dict[str, Quantity]:
    """`rtt.min`, `rtt.p50` and `rtt.p95` of round trips that were timed elsewhere, ms.

    Args:
        samples: At least 20, ms.
        at: When; now by default.

    Raises:
        ValueError: Fewer than 20.
    """
    if len(samples) < LEAST_ECHOES:
        raise ValueError(
            f"{len(samples)} round trips; at least {LEAST_ECHOES} are needed for a 95th percentile"
        )
    ordered = sorted(samples)
    whole = measured(ordered, "ms", f"{len(ordered)} round trips", at=at)
    return {
        "rtt.min": replace(whole, value=ordered[0]),
        "rtt.p50": replace(whole, value=statistics.median(ordered)),
        "rtt.p95": replace(whole, value=percentile(ordered, 0.95)),
    }
