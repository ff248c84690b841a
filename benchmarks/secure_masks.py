"""Sums under masks (`secagg+`): beside Flower's SecAgg+ and the floor, and how the cost grows with the cohort."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from benchmarks.common import Figure, Report, Target, progress, ratio
from benchmarks.measure import alternate, middle
from benchmarks.sides.secagg_cohort import Cohort, Floor, Round, floor
from crypto.secagg.graph import Assumptions, parameters

CORRUPT = 0.05
GROWTH = (0.5, 1, 2, 5, 10)
"""Cohorts of the table, times the one of the comparison, with a tenth of its parameters."""
BEYOND = (50, 100, 1000)
"""Cohorts of which the graph is told only."""
GROWTH_ROUNDS = 2
FLOWER = "Flower's SecAgg+ helpers"


def values(count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """An update."""
    return np.random.default_rng(0).standard_normal(count).astype(np.float32).clip(-8, 8)


def row(part: str, side: str, participants: int, count: int, dropped: int, **more: Any) -> Figure:
    """A figure of this benchmark."""
    shape = {"participants": participants, "parameters": count, "dropped": dropped}
    return {"part": part, "side": side, **shape, **more}


def told(one: Round, count: int) -> Figure:
    """Columns of a round."""
    return {
        "client ms": one.client * 1e3,
        "server ms": one.server * 1e3,
        "bytes up a value": one.up / count,
        "bytes down a value": one.down / count,
        "exact": "yes" if one.exact else "**no**",
    }


def ours(cohort: Cohort, dropped: int, count: int, repeats: int, first: int = 1) -> list[Round]:
    """Rounds of a cohort, without the first, which loads kernels and fills caches."""
    x = values(count)
    return [cohort.round(first + number, dropped, x) for number in range(repeats + 1)][1:]


def median(rounds: list[Round]) -> Round:
    """Of each figure."""
    return Round(
        *(middle([getattr(one, what) for one in rounds]) for what in ("client", "server", "up", "down")),
        exact=all(one.exact for one in rounds),
    )


def masks(given: Any, report: Report) -> None:
    """The comparison with Flower and with the floor."""
    size, count, dropped = given.participants, given.parameters, round(given.participants * given.dropout)
    assumptions = Assumptions(CORRUPT, given.dropout)
    progress(f"secagg+: {size} participants meet", given.json)
    cohort = Cohort(size, assumptions)
    limits = cohort.coordinator.cohort.parameters
    x, number = values(count), 1
    cohort.round(number, dropped, x)

    def own(repeat: int) -> Round:
        nonlocal number
        number += 1
        progress(f"secagg+: fedcore, round {repeat + 1}", given.json)
        return cohort.round(number, dropped, x)

    def least(repeat: int) -> Floor:
        return floor(x, limits.degree)

    def flower(repeat: int) -> Round | None:
        if FLOWER in report.absent:
            return None
        try:
            from benchmarks.sides.secagg_flower import one_round
        except ImportError as error:
            report.absent[FLOWER] = f"this version of Flower does not have them: {error}"
            return None
        progress(f"secagg+: Flower, round {repeat + 1}", given.json)
        return one_round(size, limits.degree, limits.threshold, dropped, x)

    sides: dict[str, Any] = {"own": own, "floor": least, "flower": flower}
    measured = alternate(sides, given.repeats)
    mine = median(measured["own"])
    theirs = median(measured["flower"]) if all(measured["flower"]) else None
    bottom = Floor(
        **{what: middle([getattr(one, what) for one in measured["floor"]]) for what in Floor.__annotations__}
    )
    streams, left = cohort.masks(dropped), size - dropped
    client = {
        "one by one": limits.degree * bottom.stream + bottom.quantise,
        "in pieces": limits.degree * bottom.together + bottom.quantise,
        "by OpenSSL": limits.degree * bottom.openssl + bottom.quantise,
    }
    rest = left * bottom.add + bottom.mean
    server = {
        "one by one": streams * bottom.stream + rest,
        "in pieces": streams * bottom.together + rest,
        "by OpenSSL": streams * bottom.openssl + rest,
    }
    shape = ("secagg+", size, count, dropped)
    report.figures += [
        _row(shape, "fedcore, a round", limits.degree, **told(mine, count)),
        _row(
            shape,
            "fedcore, once a run: keys",
            limits.degree,
            **{
                "client ms": cohort.met.of(cohort.names) * 1e3,
                "server ms": cohort.met.server * 1e3,
            },
        ),
        *(
            _row(
                shape,
                f"floor: streams of AES-CTR, {how}",
                limits.degree,
                **{"client ms": client[how] * 1e3, "server ms": server[how] * 1e3},
            )
            for how in client
        ),
    ]
    if theirs:
        report.figures.append(_row(shape, FLOWER, limits.degree, **told(theirs, count)))
    name = f"secagg+, {size} x {count:,}, {dropped} drop out"
    with_keys = {
        "client": mine.client + cohort.met.of(cohort.names),
        "server": mine.server + cohort.met.server,
    }
    for who in ("client", "server"):
        spent, other = getattr(mine, who), getattr(theirs, who) if theirs else None
        report.targets += [
            Target(f"{name}: {who}, times less than Flower", ratio(other, spent), at_least=4),
            Target(
                f"{name}: {who} in a run of one round, times less than Flower",
                ratio(other, with_keys[who]),
                at_least=4,
            ),
        ]
    report.targets += [
        Target(f"{name}: client over the floor", ratio(mine.client, client["one by one"]), at_most=1.5),
        Target(f"{name}: server over the floor", ratio(mine.server, server["one by one"]), at_most=1.5),
    ]


def growth(given: Any, report: Report) -> None:
    """What a participant costs in cohorts of several sizes."""
    count = max(given.parameters // 10, 1)
    exact = 0
    for times in GROWTH:
        size = max(round(given.participants * times), 3)
        dropped = round(size * given.dropout)
        progress(f"growth: {size} participants, {count:,} parameters", given.json)
        cohort = Cohort(size, Assumptions(CORRUPT, given.dropout))
        rounds = ours(cohort, dropped, count, GROWTH_ROUNDS)
        one, degree = median(rounds), cohort.coordinator.cohort.parameters.degree
        exact = sum(each.exact for each in rounds)
        report.figures.append(
            _row(
                ("growth", size, count, dropped),
                "fedcore, a round",
                degree,
                **told(one, count),
                **{"neighbours / log2 n": degree / math.log2(size)},
            )
        )
    report.targets.append(
        Target(
            f"growth, {size:,} x {count:,}: rounds that give the exact sum, of {GROWTH_ROUNDS}",
            float(exact),
            at_least=GROWTH_ROUNDS,
        )
    )
    for times in BEYOND:
        size = given.participants * times
        degree = parameters(size, Assumptions(CORRUPT, given.dropout)).degree
        report.figures.append(
            _row(
                ("growth", size, count, round(size * given.dropout)),
                "the graph only",
                degree,
                **{"neighbours / log2 n": degree / math.log2(size)},
            )
        )


def _row(shape: tuple[str, int, int, int], side: str, degree: int, **more: Any) -> Figure:
    part, size, count, dropped = shape
    return row(part, side, size, count, dropped, neighbours=degree, **more)
