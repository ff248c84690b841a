"""LightSecAgg, which fedcore does not have, beside `secagg+`: the same cohort with some and with many drop-outs."""

from __future__ import annotations

import math
from typing import Any

from benchmarks.common import Report, progress
from benchmarks.measure import alternate
from benchmarks.secure_masks import CORRUPT, median, ours, row, told, values
from benchmarks.sides.secagg_cohort import Cohort, Round
from crypto.secagg.graph import Adversary, Assumptions, NoParameters

TIMES = (1, 3)
"""Drop-outs, times those of the other parts."""
LINE = 100e6
"""Bits a second, both ways."""


def coded(given: Any, report: Report) -> None:
    """Figures of both; there is no target."""
    size, count = given.participants, given.parameters
    for times in TIMES:
        dropped = round(size * given.dropout * times)
        _lightsecagg(given, report, size, count, dropped)
        for adversary in ("active", "curious"):
            _masks(given, report, size, count, dropped, adversary)


def _masks(given: Any, report: Report, size: int, count: int, dropped: int, adversary: Adversary) -> None:
    side = f"secagg+, {adversary}"
    progress(f"lightsecagg: {side}, {dropped} of {size} drop out", given.json)
    try:
        cohort = Cohort(size, Assumptions(CORRUPT, dropped / size, adversary))
    except NoParameters as error:
        report.absent[f"{side}, {dropped} of {size} drop out"] = str(error)
        return
    one = median(ours(cohort, dropped, count, given.repeats))
    degree = cohort.coordinator.cohort.parameters.degree
    _tell(report, side, size, count, dropped, one, neighbours=degree)


def _lightsecagg(given: Any, report: Report, size: int, count: int, dropped: int) -> None:
    try:
        from benchmarks.sides.secagg_coded import Code, one_round
    except ImportError as error:
        report.absent["LightSecAgg"] = str(error)
        return
    code = Code(size, math.ceil(CORRUPT * size), size - dropped)
    progress(f"lightsecagg: {dropped} of {size} drop out", given.json)
    # Compiles.
    one_round(code, dropped, values(count))
    rounds: list[Round] = alternate(
        {"coded": lambda _: one_round(code, dropped, values(count))}, given.repeats
    )["coded"]
    _tell(report, "LightSecAgg, curious", size, count, dropped, median(rounds))


def _tell(report: Report, side: str, size: int, count: int, dropped: int, one: Round, **more: Any) -> None:
    line = {"s at 100 Mbit/s": (one.up + one.down) * 8 / LINE}
    report.figures.append(row("lightsecagg", side, size, count, dropped, **more, **told(one, count), **line))
