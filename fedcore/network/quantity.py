"""One measured, attested, declared or derived number of a node, with all that is needed to doubt it.

A number alone invites trust that it has not earned: a short probe on a shared machine can be off by half. So each
carries its unit, where it comes from, how it was obtained, how far its samples lay apart and when. A number whose
samples lie too far apart is *unreliable*, and so is whatever is computed from it: that is never averaged away.

Source: IETF draft-ietf-cats-metric-definition, on metrics that carry their source and statistics.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal, get_args

from fedcore.errors import DataError

Source = Literal["measured", "attested", "declared", "derived"]
"""Timed or counted by a program; vouched for by a third party; said by the owner; computed from others."""

LEAST_SAMPLES = 3
"""Fewer tell nothing about how far samples lie apart."""

MOST_SPREAD = 0.10
"""Coefficient of variation above which a rate is unreliable."""

_MOST_SPREAD = {"ms": 0.5, "Mbit/s": 0.25, "samples/s": 0.25}
"""Where the thing itself varies: round trips, shared lines, and rounds of a real job."""


@dataclass(frozen=True)
class Quantity:
    """A number with its unit, origin and spread.

    Args:
        value: In `unit`.
        unit: As `LIMITS` lists it for the quantity's name.
        source: Where the number comes from.
        method: How it was obtained, in a few words.
        spread: Coefficient of variation of the samples, 0 or more; None where there were no samples.
        at: When, UTC in ISO 8601; empty where nobody knows.
        samples: How many went into it.
        doubt: Why it is unreliable; empty where it is not. Filled in where the spread is too wide, and never cleared.

    Raises:
        ValueError: A value is not finite, the spread is negative, there is no sample or the source is unknown.
    """

    value: float
    unit: str
    source: Source
    method: str
    spread: float | None = None
    at: str = ""
    samples: int = 1
    doubt: str = ""

    def __post_init__(self) -> None:
        if not _number(self.value):
            raise ValueError(f"{self.value!r} is no finite number")
        if self.source not in get_args(Source):
            raise ValueError(f"source is {self.source!r}; allowed: {', '.join(get_args(Source))}")
        if self.spread is not None and (not _number(self.spread) or self.spread < 0):
            raise ValueError(f"the spread is {self.spread!r}; it must be 0 or more, as a share of the mean")
        if isinstance(self.samples, bool) or not isinstance(self.samples, int) or self.samples < 1:
            raise ValueError(f"{self.samples!r} samples; there must be at least 1")
        if self.at:
            moment(self.at)
        # Whole numbers and floats of one value must not be written, and so signed, in two ways.
        object.__setattr__(self, "value", float(self.value))
        object.__setattr__(self, "spread", None if self.spread is None else float(self.spread))
        if not self.doubt:
            object.__setattr__(self, "doubt", self._own_doubt())

    def _own_doubt(self) -> str:
        most = _MOST_SPREAD.get(self.unit, MOST_SPREAD)
        if self.spread is not None and self.spread > most:
            return f"spread {self.spread:.2f} is above {most:.2f}"
        if self.source == "measured" and self.spread is None:
            return f"measured {self.samples} times; fewer than {LEAST_SAMPLES} say nothing about the spread"
        return ""

    @property
    def reliable(self) -> bool:
        """Whether nothing speaks against the number, as far as its own samples tell."""
        return not self.doubt

    def age(self, now: datetime | None = None) -> float | None:
        """Seconds since it was obtained; None where that is not known."""
        if not self.at:
            return None
        return ((now or datetime.now(UTC)) - moment(self.at)).total_seconds()


def measured(
    samples: Sequence[float], unit: str, method: str, *, at: datetime | None = None, doubt: str = ""
) -> Quantity:
    """The median of samples, with their coefficient of variation.

    Args:
        samples: At least one, in `unit`.
        unit, method: As of `Quantity`.
        at: When; now by default.
        doubt: Why the samples tell little although they lie close together.

    Raises:
        ValueError: There is no sample, or one is not finite.
    """
    if not samples:
        raise ValueError(f"no sample was taken for: {method}")
    if len(samples) < LEAST_SAMPLES:
        spread = None
    else:
        mean = statistics.fmean(samples)
        spread = statistics.stdev(samples) / abs(mean) if mean else (0.0 if not any(samples) else 1.0)
    found = Quantity(statistics.median(samples), unit, "measured", method, spread, iso(at), len(samples))
    return doubted(found, doubt) if doubt else found


def counted(value: float, unit: str, method: str, *, at: datetime | None = None) -> Quantity:
    """What the system counts and no repetition would change: cores, bytes of memory."""
    return Quantity(value, unit, "measured", method, 0.0, iso(at))


def declared(value: float, unit: str, method: str, *, at: datetime | None = None) -> Quantity:
    """What the owner, or a published table, says."""
    return Quantity(value, unit, "declared", method, None, iso(at))


def derived(
    value: float, unit: str, method: str, *origins: Quantity, doubt: str = "", at: datetime | None = None
) -> Quantity:
    """What was computed as a product or quotient of other quantities.

    Args:
        value, unit, method: As of `Quantity`.
        origins: What it was computed from. The spread is theirs, added as of independent factors; the doubt of any
            stays; it is as old as the oldest.
        doubt: A further reason to doubt it.
        at: When, where there are no origins.
    """
    spreads = [each.spread for each in origins if each.spread is not None]
    doubts = [each.doubt for each in origins if each.doubt]
    dated = sorted((each.at for each in origins if each.at), key=moment)
    return Quantity(
        value,
        unit,
        "derived",
        method,
        math.sqrt(sum(spread**2 for spread in spreads)) if spreads else None,
        dated[0] if dated else iso(at),
        min((each.samples for each in origins), default=1),
        doubt or (f"made from an unreliable value: {doubts[0]}" if doubts else ""),
    )


def doubted(quantity: Quantity, why: str) -> Quantity:
    """The same, unreliable for a further reason."""
    return replace(quantity, doubt="; ".join(part for part in (quantity.doubt, why) if part))


# ---- what can be true --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limit:
    """What a quantity of a name may be.

    Args:
        units: That it may have.
        least, most: Allowed from and to, inclusive.
        below, above: Why nothing less and nothing more can be true.
    """

    units: tuple[str, ...]
    least: float
    most: float
    below: str
    above: str


_POSITIVE = "nothing works at a rate of zero or less"
_GRAMS = ("gCO2/kWh", "gCO2e/kWh")


def _rate(unit: str, least: float, most: float, above: str) -> Limit:
    return Limit((unit,), least, most, _POSITIVE, above)


LIMITS: dict[str, Limit] = {
    # Widest CPUs: 2 x 16 fp32 operations per core and cycle in two units of 512 bits, half of that in fp64; tiles
    # (AMX) do 2,048 in 16 bits. 512 cores at 4 GHz are more than any machine has today.
    "gemm.cpu.fp32": _rate(
        "GFLOP/s", 1e-3, 1.4e5, "512 cores of 4 GHz with two units of 512 bits do 131,000"
    ),
    "gemm.cpu.fp64": _rate("GFLOP/s", 1e-3, 7e4, "512 cores of 4 GHz with two units of 512 bits do 65,500"),
    "gemm.cpu.bf16": _rate("GFLOP/s", 1e-3, 4.5e6, "512 cores of 4 GHz with matrix tiles do 4,200,000"),
    "gemm.cpu.fp16": _rate("GFLOP/s", 1e-3, 4.5e6, "512 cores of 4 GHz with matrix tiles do 4,200,000"),
    "gemm.cuda.fp32": _rate("GFLOP/s", 1, 3e6, "no accelerator reaches 3 PFLOP/s in fp32, TF32 included"),
    "gemm.cuda.fp64": _rate("GFLOP/s", 1, 3e5, "no accelerator reaches 300 TFLOP/s in fp64"),
    "gemm.cuda.bf16": _rate("GFLOP/s", 1, 1e7, "no accelerator reaches 10 PFLOP/s in 16 bits"),
    "gemm.cuda.fp16": _rate("GFLOP/s", 1, 1e7, "no accelerator reaches 10 PFLOP/s in 16 bits"),
    "memory.cpu.bandwidth": _rate("GB/s", 1e-2, 1e4, "two sockets of high-bandwidth memory have some 5,000"),
    "memory.cuda.bandwidth": _rate("GB/s", 1, 5e4, "stacked memory of one accelerator has some 10,000"),
    "memory.cpu": Limit(
        ("GB",), 1e-2, 1e6, "no job runs in less than 10 MB", "no machine has 1 PB of memory"
    ),
    "memory.cuda": Limit(
        ("GB",), 1e-2, 1e5, "no accelerator has less than 10 MB", "no machine has 100 TB there"
    ),
    "cores": Limit(
        ("cores",), 0.01, 1e4, "a node without processor time does nothing", "no machine has 10,000 cores"
    ),
    "accelerators": Limit(
        ("devices",), 0, 1024, "a count is never negative", "no one node has 1,000 accelerators"
    ),
    "ecc.x25519": _rate(
        "op/s", 0.1, 1e6, "one core does less than a million multiplications on a curve a second"
    ),
    "ecc.ristretto": _rate(
        "op/s", 0.1, 1e6, "one core does less than a million multiplications on a curve a second"
    ),
    "cipher.keystream": _rate("GB/s", 1e-4, 1e3, "one core does less than 1 TB of AES a second"),
    "power.idle": Limit(("W",), 1e-3, 1e6, "a machine that is on draws power", "1 MW is a hall, not a node"),
    "power.load": Limit(("W",), 1e-3, 1e6, "a machine that works draws power", "1 MW is a hall, not a node"),
    "pue": Limit(
        ("ratio",),
        1.0,
        3.0,
        "a site cannot draw less than the machines in it",
        "worse than any site that is reported",
    ),
    "carbon.location": Limit(
        _GRAMS, 0.0, 2000.0, "a grid's mean is never below zero", "dirtier than lignite alone"
    ),
    "carbon.market": Limit(
        _GRAMS, 0.0, 2000.0, "a contract's factor is not below zero", "dirtier than lignite alone"
    ),
    "price.compute": Limit(
        ("per TFLOP/s.h",), 0.0, 1e6, "nobody pays to be used", "dearer than the machine itself"
    ),
    "price.egress": Limit(("per GB",), 0.0, 1e6, "nobody pays to be used", "dearer than sending the disk"),
    "security.level": Limit(("level",), 1, 5, "levels begin at 1", "levels end at 5"),
    "availability": Limit(("probability",), 0.0, 1.0, "a probability", "a probability"),
    "mtbf": _rate("s", 1e-3, 1e10, "longer than computers exist"),
    "mttr": _rate("s", 1e-3, 1e10, "longer than computers exist"),
    "link.up": _rate("Mbit/s", 1e-3, 1e7, "no access line has 10 Tbit/s"),
    "link.down": _rate("Mbit/s", 1e-3, 1e7, "no access line has 10 Tbit/s"),
    "rtt": Limit(
        ("ms",), 0.0, 1e5, "nothing is answered before it is asked", "100 s is an outage, not a line"
    ),
    "work": _rate("samples/s", 1e-6, 1e10, "no job reads ten thousand million samples a second"),
    "score": Limit(("score",), 0, 10, "scores begin at 0", "scores end at 10"),
}
"""What may stand under a name. `work.<job>`, `rtt.<what>` and `score.<what>` go by their first word."""

_PER_CORE = {
    "gemm.cpu.fp32": 64 * 6.0,
    "gemm.cpu.fp64": 32 * 6.0,
    "gemm.cpu.bf16": 2048 * 6.0,
    "gemm.cpu.fp16": 2048 * 6.0,
}
"""GFLOP/s of one core at 6 GHz, which none is sold with, at the widest instructions there are."""


def limit_of(name: str) -> Limit | None:
    """What a quantity of this name may be; None where there is no such name."""
    return LIMITS.get(name) or (LIMITS.get(name.split(".", 1)[0]) if "." in name else None)


def implausible(name: str, quantity: Quantity) -> str | None:
    """Why a quantity cannot be true, as a sentence; None where it can."""
    limit = limit_of(name)
    if limit is None:
        return f"{name} is no quantity that is known"
    if quantity.unit not in limit.units:
        return f"{name} has the unit {quantity.unit!r}; allowed: {' or '.join(limit.units)}"
    value = quantity.value
    if value < limit.least or value > limit.most:
        why = limit.below if value < limit.least else limit.above
        return f"{name} is {value:g} {quantity.unit}; allowed: {limit.least:g} to {limit.most:g} ({why})"
    if name == "security.level" and value != int(value):
        return f"security.level is {value:g}; allowed: a whole number from 1 to 5"
    return None


def contradictions(quantities: Mapping[str, Quantity]) -> list[str]:
    """What cannot be true of one node, each as a sentence: single values, and values that contradict each other."""
    wrong = [said for name, each in quantities.items() if (said := implausible(name, each))]
    cores = quantities.get("cores")
    for name, most in _PER_CORE.items():
        rate = quantities.get(name)
        # Half a core more: what a container is given of a core may be exceeded for a moment.
        if rate and cores and rate.value > most * (cores.value + 0.5):
            wrong.append(
                f"{name} is {rate.value:g} GFLOP/s on {cores.value:g} cores; allowed: at most {most:g} for each, "
                "which is its widest instruction in every cycle at 6 GHz"
            )
    idle, load = quantities.get("power.idle"), quantities.get("power.load")
    if idle and load and idle.value > load.value:
        wrong.append(
            f"power.idle is {idle.value:g} W and power.load {load.value:g} W; a node draws more when it works"
        )
    return wrong


def check_quantities(quantities: Mapping[str, Quantity], *, party: str | None = None) -> None:
    """Refuse what cannot be true of a node.

    Args:
        quantities: By name.
        party: Whose, for the message.

    Raises:
        DataError: With all contradictions.
    """
    wrong = contradictions(quantities)
    if wrong:
        raise DataError(
            f"{'; '.join(wrong)}. Cure: measure again with `fedcore network probe`, or correct what is declared",
            party=party,
            step="descriptor",
        )


# ---- moments -----------------------------------------------------------------------------------------------------


def iso(at: datetime | None = None) -> str:
    """A moment as files have it: UTC, whole seconds; now by default."""
    return (at or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds")


def moment(text: str) -> datetime:
    """The moment of such a text.

    Raises:
        ValueError: It is none, or says no time zone, so that two machines would read two moments.
    """
    try:
        found = datetime.fromisoformat(text)
    except (ValueError, TypeError):
        raise ValueError(
            f"{text!r} is no moment; allowed: UTC in ISO 8601, as 2026-03-01T12:00:00+00:00"
        ) from None
    if found.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone; allowed: UTC in ISO 8601, as 2026-03-01T12:00:00+00:00")
    return found


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
