"""Federated analytics: what a question over many sites costs, and whether its answer and its noise are what they say.

    python benchmarks/analytics.py --sites 100 --rows 1000000 --json
    python benchmarks/analytics.py --parts poisson

Parts, each of which can be measured alone:

    groups       a mean by group over `sites` x `rows` rows, beside the same DuckDB query over one site's rows
    poisson      a Poisson regression over `regression-sites` x `regression-rows` rows, beside statsmodels over all rows
    distributed  the error of noise that 100 participants draw in shares, 10 of them lost, beside noise from one hand
    release      noisy counts and sums of a toy, again and again, against the distribution that is claimed

Sites work side by side in life and one after the other here. What a question takes is therefore what one site takes (the
mean over sites; the slowest is told, too) and the secure sum: what a participant takes for it (median), and the coordinator.
All times are CPU seconds of this process and all its threads, so that they depend little on what else the machine does.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks import analytics_noise
from benchmarks.common import Figure, Report, Target, machine, parser, progress, ratio
from benchmarks.measure import use_cores
from benchmarks.sides.secagg_cohort import Cohort, Spent
from crypto.secagg.graph import Assumptions
from fedcore.analytics import glm
from fedcore.analytics.local import answer
from fedcore.analytics.partial import Moments, Partial
from fedcore.analytics.query import Query
from fedcore.analytics.source import Source
from fedcore.analytics.sums import Sums, add
from fedcore.participant.sums import SumForm, pack_sums, unpack_sums

GROUPS = 20
MISSING = 0.01
CORRUPT, DROPOUT = 0.05, 0.1
QUERY = Query("stays").group_by("ward").mean("days")
PLAIN = "SELECT ward, avg(days) FROM stays GROUP BY ward"
KEYS: dict[str, list[Any]] = {
    "whole numbers": list(range(GROUPS)),
    "texts": [f"ward {number:02}" for number in range(GROUPS)],
}
COLUMNS = tuple(f"x{number:02}" for number in range(50))


def main(words: Sequence[str] | None = None) -> Report:
    """Measure and tell."""
    options = parser(__doc__)
    options.add_argument("--sites", type=_cohort, default=100, help="of the mean by group (100)")
    options.add_argument("--rows", type=_count, default=1_000_000, help="of each (1000000)")
    options.add_argument("--regression-sites", type=_count, default=20)
    options.add_argument("--regression-rows", type=_count, default=50_000, help="of each")
    options.add_argument("--sums", type=_count, default=20_000, help="noisy sums of part `distributed`")
    options.add_argument("--releases", type=_count, default=10_000, help="of part `release`")
    options.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="only these")
    given = options.parse_args(words)
    given.cores = use_cores(given.cores)
    report = Report("analytics", _settings(given))
    for part in given.parts:
        PARTS[part](given, report)
    report.tell(given.json)
    return report


def _settings(given: Any) -> dict[str, Any]:
    return {
        "sites": given.sites,
        "rows of a site": given.rows,
        "groups": GROUPS,
        "values missing": MISSING,
        "compared": "mean over sites of what the local part takes, plus the secure sum, over the mean of what DuckDB takes for "
        f"`{PLAIN}` over the same Arrow table on one thread, plus the same secure sum; sites work side by side in life",
        "DuckDB": "on a connection that is open already; beside it, with a connection opened for the query, as figures only",
        "local part": "fedcore.analytics.local.answer over a data set not seen before: keys checked, NaN and infinity looked "
        "for, counts of rows and of values, sums that do not depend on chance; in a process that answered before, "
        "so that DuckDB is open; its first answer is a figure of its own",
        "secure sum": f"secagg+ over exact sums, {CORRUPT:.0%} collude, {DROPOUT:.0%} may drop out, coordinator active; a round "
        "of participants that have met; meeting, once a run, is a figure of its own and in no ratio",
        "times": "CPU seconds of this process and all its threads",
        "regression": f"Poisson, {len(COLUMNS)} columns (a third 0 or 1, a third normal, a third normal around 60) and an "
        f"intercept, {given.regression_sites} x {given.regression_rows:,} rows; sums added in clear, which changes no round",
        "rounds": "that travel: the one for starting values, and those of Newton",
        "distributed": f"{given.sums:,} sums under noise of {analytics_noise.PARTICIPANTS} participants of whom "
        f"{analytics_noise.LOST} are lost, as planned, over as many under noise from one hand; deviation of the "
        "ratio by chance: 1 / sqrt(sums)",
        "release": f"{given.releases:,} times; Pearson's test over cells of equal probability; 1 in 1,000 fails by chance",
        "machine": machine(),
    }


# ---- a mean by group -----------------------------------------------------------------------------------------------


def share(number: int, rows: int, keys: Sequence[Any]) -> pa.Table:
    """A site's rows, made from its number."""
    draw = np.random.default_rng(number)
    places = draw.integers(0, len(keys), rows)
    days = draw.gamma(2.0, 3.0, rows) + places
    return pa.table(
        {
            "ward": pa.array(keys).take(pa.array(places)),
            "days": pa.array(days, mask=draw.random(rows) < MISSING),
        }
    )


def arrays(part: Partial, keys: Sequence[Any]) -> Sums:
    """What a site puts into the sum: for each key that all sites know, values and their total."""
    cells = [part.cells.get((key,)) for key in keys]
    totals = [cell.moments["days", None] if cell else Moments(0.0, 0.0) for cell in cells]
    return {
        "values": np.array([cell.present["days"] if cell else 0 for cell in cells], np.int64),
        "total": np.array([each.total if isinstance(each, Moments) else np.nan for each in totals]),
    }


@dataclass
class Times:
    """CPU seconds of the sites, in their order."""

    local: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    opened: list[float] = field(default_factory=list)


def groups(given: Any, report: Report) -> None:
    """The mean by group, with keys of each kind."""
    import duckdb

    progress(f"groups: {given.sites} participants meet", given.json)
    cohort = Cohort(given.sites, Assumptions(CORRUPT, DROPOUT))
    number = 0
    for kind, keys in KEYS.items():
        times, parts, pooled = Times(), [], np.zeros((2, GROUPS))
        with duckdb.connect(":memory:") as connection:
            connection.execute("SET threads = 1")
            for site in range(given.sites):
                if site % 10 == 0:
                    progress(f"groups, {kind}: site {site}", given.json)
                table = share(site, given.rows, keys)
                parts.append(_site(site, table, keys, connection, times))
                pooled += _pooled(site, given.rows)
        number += 2
        secure_sum(cohort, number - 1, parts)
        spent, sums = secure_sum(cohort, number, parts)
        first = number == 2
        _tell(report, given, kind, times, spent, cohort.met if first else None)
        found, wanted = sums["total"] / sums["values"], pooled[1] / pooled[0]
        report.targets.append(
            Target(
                f"{_name(given, kind)}: largest relative difference to the mean over all rows",
                float(np.abs(found / wanted - 1).max()),
                at_most=1e-8,
            )
        )


def _site(site: int, table: pa.Table, keys: Sequence[Any], connection: Any, times: Times) -> Sums:
    """What a site sums; what that takes, and what DuckDB takes, in turns."""
    import duckdb

    def local() -> Partial:
        return answer(QUERY, Source("stays", table))

    def plain(using: Any) -> object:
        using.register("stays", table)
        return using.execute(PLAIN).fetchall()

    def opening() -> object:
        with duckdb.connect(":memory:") as own:
            own.execute("SET threads = 1")
            return plain(own)

    sides: list[tuple[list[float], Callable[[], Any]]] = [
        (times.local, local),
        (times.plain, lambda: plain(connection)),
        (times.opened, opening),
    ]
    part: Any = None
    for spent, work in sides[site % 3 :] + sides[: site % 3]:
        began = time.process_time()
        done = work()
        spent.append(time.process_time() - began)
        part = done if spent is times.local else part
    return arrays(part, keys)


def _pooled(site: int, rows: int) -> npt.NDArray[np.float64]:
    """Values and their sums by group, (2, groups), of the rows as they were drawn."""
    table = share(site, rows, range(GROUPS))
    kept = table.filter(table["days"].is_valid())
    places = kept["ward"].to_numpy()
    return np.stack(
        [np.bincount(places, minlength=GROUPS), np.bincount(places, kept["days"].to_numpy(), GROUPS)]
    )


def secure_sum(cohort: Cohort, number: int, parts: Sequence[Sums]) -> tuple[Spent, dict[str, Any]]:
    """One round of exact sums under masks, in which nobody drops out.

    Args:
        cohort: Participants that have met, one for each part.
        number: Of the round.
        parts: One for each.

    Returns:
        Who spent what, and the sums.
    """
    spent, them, form = Spent(), cohort.coordinator, SumForm(len(parts))
    for name, each in cohort.clients.items():
        spent.serve(them.take_shares, name, spent.client(name, each.shares, number))
    began = spent.serve(them.start, number)
    layout = None
    for (name, start), part in zip(spent.serve(began.starts).items(), parts, strict=True):
        client = cohort.clients[name]
        spent.client(name, client.begin, start)
        vector, layout = spent.client(name, pack_sums, part, form)
        spent.serve(began.take_masked, name, spent.client(name, client.mask, vector), vector)
    for name, survivors in spent.serve(began.survivors).items():
        spent.serve(
            began.take_confirmation, name, spent.client(name, cohort.clients[name].confirm, survivors)
        )
    for name, request in spent.serve(began.requests).items():
        spent.serve(began.take_revealed, name, spent.client(name, cohort.clients[name].reveal, request))
    sums, count = spent.serve(unpack_sums, spent.serve(began.finish), layout, form)
    if count != len(parts):
        raise RuntimeError(f"{count} of {len(parts)} participants are in the sum")
    return spent, sums


def _name(given: Any, kind: str) -> str:
    return f"mean by {kind}, {given.sites} x {given.rows:,} rows"


def _tell(report: Report, given: Any, kind: str, times: Times, spent: Spent, met: Spent | None) -> None:
    # The first answer of the process opens DuckDB. The first time DuckDB is asked counts on neither side.
    local, plain = np.array(times.local[1:]), np.array(times.plain[1:])
    mine = spent.of(spent.clients)
    summed = mine + spent.server
    both = float(local.mean()) + summed, float(plain.mean()) + summed
    part = f"groups: mean by {kind}"

    def row(side: str, values: npt.NDArray[np.float64]) -> Figure:
        return {"part": part, "side": side, "mean ms": 1e3 * values.mean(), "slowest ms": 1e3 * values.max()}

    report.figures += [
        row("local part of a site", local),
        row("DuckDB, open", plain),
        row("DuckDB, opened for the query", np.array(times.opened)),
        row("secure sum: a participant", np.array(list(spent.clients.values()))),
        row("secure sum: coordinator", np.array([spent.server])),
        row("the question in all", local + summed),
    ]
    if met is not None:
        report.figures += [
            row("once a process: first answer", np.array(times.local[:1])),
            row("once a run, meeting: a participant", np.array(list(met.clients.values()))),
            row("once a run, meeting: coordinator", np.array([met.server])),
        ]
    name = _name(given, kind)
    report.targets += [
        Target(f"{name}: over DuckDB on one site's rows, plus the secure sum", ratio(*both), at_most=1.5),
        Target(
            f"{name}: slowest site, the same",
            ratio(float(local.max()) + summed, both[1]),
            at_most=1.5,
        ),
        Target(
            f"{name}: local part alone over DuckDB",
            ratio(float(local.mean()), float(plain.mean())),
            at_most=1.5,
        ),
    ]


# ---- Poisson regression --------------------------------------------------------------------------------------------


def counts(number: int, rows: int) -> dict[str, npt.NDArray[Any]]:
    """A site's rows of the regression, made from its number."""
    draw = np.random.default_rng([7, number])
    x = draw.standard_normal((len(COLUMNS), rows))
    truth = np.random.default_rng(7).uniform(-0.1, 0.1, len(COLUMNS))
    x[::3] = x[::3] > 0.5
    x[1::3] = 60 + 10 * x[1::3]
    truth[1::3] /= 10
    predictor = 0.5 + truth @ (x - np.where(np.arange(len(COLUMNS)) % 3 == 1, 60.0, 0.0)[:, None])
    return {
        "events": draw.poisson(np.exp(predictor)).astype(np.float64),
        **dict(zip(COLUMNS, x, strict=True)),
    }


def poisson(given: Any, report: Report) -> None:
    """A regression over sites, a site in memory at a time."""
    asked = glm.Regression("poisson", "events", COLUMNS)
    spent: list[float] = []

    def parts(ask: Callable[[Any], Sums]) -> Iterator[Sums]:
        for site in range(given.regression_sites):
            rows = counts(site, given.regression_rows)
            began = time.process_time()
            part = ask(rows)
            spent.append(time.process_time() - began)
            yield part

    state = glm.combine_start(add(parts(lambda rows: glm.partial_start(rows, asked))), asked)
    travelled = 1
    while True:
        progress(f"poisson: round {travelled}", given.json)
        sums = add(parts(lambda rows, now=state: glm.partial_step(rows, asked, now)))  # type: ignore[misc]
        travelled += 1
        state = glm.combine_step(sums, asked, state)
        if state.done:
            break
    found = glm.result(sums, asked, state)
    progress("poisson: statsmodels", given.json)
    apart = _apart(found, given, report)
    report.figures.append(
        {
            "part": "poisson: regression",
            "sites": given.regression_sites,
            "rows": found.rows,
            "columns": len(COLUMNS),
            "rounds": travelled,
            "a round of a site ms": 1e3 * float(np.mean(spent)),
            "largest difference to statsmodels": apart,
        }
    )
    name = f"Poisson regression, {len(COLUMNS)} columns, {given.regression_sites} x {given.regression_rows:,} rows"
    report.targets += [
        Target(f"{name}: rounds", float(travelled), at_most=8),
        Target(f"{name}: largest difference of a coefficient to statsmodels", apart, at_most=1e-6),
    ]


def _apart(found: glm.RegressionResult, given: Any, report: Report) -> float | None:
    try:
        import statsmodels.api as sm
    except ImportError as error:
        report.absent["statsmodels"] = str(error)
        return None
    total = given.regression_sites * given.regression_rows
    x, y = np.ones((total, 1 + len(COLUMNS))), np.empty(total)
    for site in range(given.regression_sites):
        rows = counts(site, given.regression_rows)
        here = slice(site * given.regression_rows, (site + 1) * given.regression_rows)
        y[here] = rows["events"]
        for at, name in enumerate(COLUMNS, start=1):
            x[here, at] = rows[name]
    reference = sm.GLM(y, x, family=sm.families.Poisson()).fit(tol=1e-12, maxiter=50)
    own = np.array([each.estimate for each in found.coefficients])
    return float(np.abs(own - np.asarray(reference.params)).max())


PARTS: dict[str, Callable[[Any, Report], None]] = {
    "groups": groups,
    "poisson": poisson,
    "distributed": analytics_noise.distributed,
    "release": analytics_noise.release,
}


def _cohort(text: str) -> int:
    return _at_least(int(text), 5)


def _count(text: str) -> int:
    return _at_least(int(text), 1)


def _at_least(number: int, least: int) -> int:
    if number < least:
        raise argparse.ArgumentTypeError(f"{number} is below {least}")
    return number


if __name__ == "__main__":
    main()
