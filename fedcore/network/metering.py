"""From measured seconds to what they stand for: TFLOP/s.h, kWh, grams and money, by the node's own descriptor.

A descriptor that lacks a quantity leaves its figures out; none is made up. Energy: with the rate at which processors
were used, a machine draws between idle and full load in proportion (Fan, Weber, Barroso 2007, section 3); where that
is not known, or an accelerator did the work, it counts as fully loaded.

The unit of computing is the node's rate of large matrix products in the precision of the work, times hours:
1 TFLOP/s.h is what a machine does in an hour that multiplies matrices at 1 TFLOP/s, 3.6e15 operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from typing import Any

from fedcore.network.descriptor import Descriptor
from fedcore.network.quantity import Quantity

_MONEY = Decimal("1e-12")
_NAMES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "float64": "fp64"}


@dataclass(frozen=True)
class Figures:
    """What a piece of work stands for, as of `fedcore.network.usage.Said`; None where the descriptor does not tell."""

    node: str | None = None
    tflops_h: float | None = None
    kwh: float | None = None
    kwh_source: str | None = None
    pue: float | None = None
    gco2_location: float | None = None
    gas_location: str | None = None
    gco2_market: float | None = None
    gas_market: str | None = None
    price: str | None = None
    currency: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """By name."""
        return dict(vars(self))


def figures(
    descriptor: Descriptor | None,
    *,
    seconds: float,
    device: str,
    precision: str,
    bytes_up: int,
    cpu_seconds: float | None = None,
) -> Figures:
    """What seconds on a node stand for.

    Args:
        descriptor: The node's own, with its quantities (L0); None where there is none.
        seconds: Of work.
        device: `cpu` or `cuda`.
        precision: As a job names it: `float32`, `bfloat16`, ...
        bytes_up: That left the site.
        cpu_seconds: Of all processors, for the load; None where that is not known.
    """
    if descriptor is None:
        return Figures()
    rate = descriptor.get(f"gemm.{device}.{_NAMES.get(precision, precision)}")
    tflops_h = None if rate is None else rate.value / 1e3 * seconds / 3600
    kwh, source = _energy(descriptor, seconds, None if device != "cpu" else cpu_seconds)
    pue = descriptor.get("pue")
    location, market = descriptor.get("carbon.location"), descriptor.get("carbon.market")
    site_kwh = None if kwh is None else kwh * (pue.value if pue else 1.0)
    price = _price(descriptor, tflops_h, bytes_up)
    return Figures(
        node=descriptor.node,
        tflops_h=tflops_h,
        kwh=kwh,
        kwh_source=source,
        pue=pue.value if pue else None,
        **_grams("location", location, site_kwh),
        **_grams("market", market, site_kwh),
        price=price,
        currency=None if price is None else descriptor.currency,
    )


def _energy(
    descriptor: Descriptor, seconds: float, cpu_seconds: float | None
) -> tuple[float | None, str | None]:
    load = descriptor.get("power.load")
    if load is None:
        return None, None
    idle, cores = descriptor.get("power.idle"), descriptor.get("cores")
    watts, how = load.value, "full load"
    if idle is not None and cores is not None and cpu_seconds is not None and seconds > 0:
        share = min(1.0, cpu_seconds / (seconds * cores.value))
        watts, how = idle.value + (load.value - idle.value) * share, f"{share:.0%} of full load"
    return watts * seconds / 3.6e6, f"{load.source}, {how}: {load.method}"[:400]


def _grams(basis: str, factor: Quantity | None, kwh: float | None) -> dict[str, Any]:
    """By the grid and by contract apart: one never stands in for the other."""
    if factor is None or kwh is None:
        return {}
    return {f"gco2_{basis}": factor.value * kwh, f"gas_{basis}": factor.unit.removeprefix("g").split("/")[0]}


def _price(descriptor: Descriptor, tflops_h: float | None, bytes_up: int) -> str | None:
    """Nothing where a part of it is not known: half a price would look like a whole one."""
    compute, egress = descriptor.get("price.compute"), descriptor.get("price.egress")
    if compute is None or egress is None or (tflops_h is None and compute.value > 0):
        return None
    with localcontext() as context:
        context.prec = 60
        work = Decimal(repr(compute.value)) * Decimal(repr(tflops_h or 0.0))
        sent = Decimal(repr(egress.value)) * Decimal(bytes_up) / Decimal(10**9)
        return format((work + sent).quantize(_MONEY, ROUND_HALF_EVEN).normalize(), "f")
