"""What statsmodels and SciPy say over all rows in one place, beside what the sites said together.

Of each question a few numbers that a person would look at first; `check` puts them beside the answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from examples.hospital_survival.sites import Columns
from fedcore.analytics.disclosure import SUPPRESSED
from fedcore.coordinator.record_analytics import Answered, AnswerTable
from fedcore.jobs import asks
from fedcore.jobs.analytics import AnalyticsJob

Places = npt.NDArray[np.int64]
MIN_CELL = 5
"""Of all sites of this example."""
MODELS = ("linear", "logistic", "poisson", "cox")
"""Found step by step; the others are sums, in one step."""


@dataclass(frozen=True)
class Number:
    """A number that the pooled rows give.

    Args:
        head: Column of the answer's table that holds it.
        key: First cells of its row; none where the table has one row.
        value: The number.
        end: `low` or `high` where the answer holds that end of an interval about it.
    """

    head: str
    key: tuple[Any, ...]
    value: float
    end: str = ""


@dataclass(frozen=True)
class Compared:
    """A number of an answer beside that of the pooled rows.

    Args:
        question, what: Its place.
        answer: Of the sites; `SUPPRESSED` where it is kept back.
        pooled: Of all rows in one place.
        end: As in `Number`.
        model: Whether it is a coefficient or the like, which is found step by step.
    """

    question: str
    what: str
    answer: Any
    pooled: float
    end: str
    model: bool

    @property
    def difference(self) -> float:
        """Relative; NaN where the answer is suppressed."""
        if self.answer is SUPPRESSED:
            return math.nan
        far = abs(float(self.answer) - self.pooled)
        return far / abs(self.pooled) if self.pooled else far

    @property
    def holds(self) -> bool:
        """Whether it is what was promised: 1e-8, of models 1e-6, of quantiles an end of their interval; or suppressed."""
        if self.answer is SUPPRESSED:
            return True
        if self.end:
            low, high = (self.answer, self.pooled) if self.end == "low" else (self.pooled, self.answer)
            return bool(low <= high)
        return self.difference <= (1e-6 if self.model else 1e-8)


def check(job: AnalyticsJob, name: str, answer: Answered, rows: Columns, places: Places) -> list[Compared]:
    """Numbers of an answer beside those of the pooled rows.

    Args:
        job: That asked.
        name: Of the question.
        answer: To it.
        rows: Of the sites that took part, in one place.
        places: Whose each row is.

    Raises:
        FedcoreError: The question has no answer.
    """
    question = job.ask[name]
    answer.table()
    found = []
    for number in numbers(question, rows, places):
        table = _table_with(answer.tables, number.head, number.key)
        # What is suppressed as a whole has no column of its own.
        cell = SUPPRESSED if table is None else table.value(number.head, *number.key)
        what = " ".join([number.head, *map(str, number.key)])
        model = question.kind in MODELS
        found.append(Compared(name, what, cell, number.value, number.end, model))
    return found


def numbers(question: asks.Question, rows: Columns, places: Places) -> Iterator[Number]:
    """Of a question, over rows in one place; nothing where the kind has no reference here."""
    made = REFERENCES.get(question.kind)
    return iter(()) if made is None else made(question.asked, rows, places)


def complete(rows: Columns, places: Places, names: Sequence[str]) -> tuple[Columns, Places]:
    """The rows that have all of these."""
    kept = ~np.isnan(np.stack([rows[name] for name in names])).any(axis=0)
    return {name: values[kept] for name, values in rows.items()}, places[kept]


def _sql(asked: str, rows: Columns, places: Places) -> Iterator[Number]:
    """The one SELECT of the example's job."""
    if not asked.startswith("SELECT sex, count(*), avg(age), median("):
        return
    for sex in np.unique(rows["sex"]):
        mine = rows["sex"] == sex
        key = (int(sex),)
        yield Number("count(*)", key, int(mine.sum()))
        yield Number("mean(age)", key, float(rows["age"][mine].mean()))
        median = float(np.quantile(rows["time"][mine], 0.5, method="inverted_cdf"))
        for end in ("low", "high"):
            yield Number(f"quantile(time, 0.5) {end}", key, median, end=end)


def _histogram(asked: asks.Histogram, rows: Columns, places: Places) -> Iterator[Number]:
    counts, _ = np.histogram(rows[asked.column], asked.edges)
    for place, count in enumerate(counts.tolist(), 1):
        yield Number("rows", (place,), count)


def _quantiles(asked: asks.Quantiles, rows: Columns, places: Places) -> Iterator[Number]:
    for share, value in zip(
        asked.q, np.quantile(rows[asked.column], asked.q, method="inverted_cdf"), strict=True
    ):
        # An interval may be wider than asked, where fewer rows than the least cell would lie within.
        for end in ("low", "high"):
            yield Number(end, (share,), float(value), end=end)


def _contingency(asked: asks.Contingency, rows: Columns, places: Places) -> Iterator[Number]:
    from scipy.stats import chi2_contingency

    rows, _ = complete(rows, places, (asked.down, asked.across))
    down, across = (np.unique(rows[name]) for name in (asked.down, asked.across))
    counts = np.array(
        [[int(np.sum((rows[asked.down] == i) & (rows[asked.across] == j))) for j in across] for i in down]
    )
    for (i, j), count in np.ndenumerate(counts):
        yield Number(f"{across[j]:g}", (f"{down[i]:g}",), int(count))
    test = chi2_contingency(counts, correction=False)
    yield Number("chi-square", (), float(test.statistic))


def _t_test(asked: asks.TTest, rows: Columns, places: Places) -> Iterator[Number]:
    from scipy.stats import ttest_ind

    first, second = asked.groups or np.unique(rows[asked.by])
    test = ttest_ind(
        *(rows[asked.value][rows[asked.by] == group] for group in (first, second)), equal_var=False
    )
    yield Number("t", (), float(test.statistic))
    yield Number("dof", (), float(test.df))
    yield Number("p", (), float(test.pvalue))


def _odds(asked: asks.Odds, rows: Columns, places: Places) -> Iterator[Number]:
    from statsmodels.stats.contingency_tables import StratifiedTable

    strata = places if asked.strata == "site" else rows[asked.strata]
    exposure, outcome = rows[asked.exposure], rows[asked.outcome]
    tables = [
        np.array(
            [[np.sum((exposure == i) & (outcome == j) & (strata == each)) for j in (1, 0)] for i in (1, 0)],
            dtype=float,
        )
        for each in np.unique(strata)
    ]
    found = StratifiedTable(tables)
    low, high = found.oddsratio_pooled_confint()
    level = f"{100 * asked.confidence:g} %"
    yield Number("odds ratio", (), float(found.oddsratio_pooled))
    yield Number(f"{level} low", (), float(low))
    yield Number(f"{level} high", (), float(high))
    yield Number("chi-square", (), float(found.test_null_odds().statistic))


def _logistic(asked: asks.Logistic, rows: Columns, places: Places) -> Iterator[Number]:
    import statsmodels.api as sm

    rows, places = complete(rows, places, (asked.response, *asked.columns))
    columns = sm.add_constant(np.column_stack([rows[name] for name in asked.columns]))
    fit = sm.GLM(rows[asked.response], columns, family=sm.families.Binomial()).fit(tol=1e-12)
    yield from _coefficients(("intercept", *asked.columns), fit)


def _cox(asked: asks.CoxModel, rows: Columns, places: Places) -> Iterator[Number]:
    from statsmodels.duration.hazard_regression import PHReg

    rows, places = complete(rows, places, (asked.time, asked.event, *asked.covariates))
    strata = {"site": places, "none": None}.get(asked.strata)
    columns = np.column_stack([rows[name] for name in asked.covariates])
    model = PHReg(rows[asked.time], columns, status=rows[asked.event], ties=asked.ties, strata=strata)
    yield from _coefficients(asked.covariates, model.fit(tol=1e-12))


def _coefficients(names: Sequence[str], fit: Any) -> Iterator[Number]:
    for name, value, error in zip(names, fit.params.tolist(), fit.bse.tolist(), strict=True):
        yield Number("coefficient", (name,), value)
        yield Number("standard error", (name,), error)


def _kaplan_meier(asked: asks.KaplanMeier, rows: Columns, places: Places) -> Iterator[Number]:
    from statsmodels.duration.survfunc import SurvfuncRight

    names = (asked.time, asked.event, *([asked.by] if asked.by else []))
    rows, _ = complete(rows, places, names)
    groups = np.unique(rows[asked.by]) if asked.by else [None]
    for group in groups:
        mine = np.ones(len(rows[asked.time]), bool) if group is None else rows[asked.by or ""] == group
        curve = SurvfuncRight(rows[asked.time][mine], rows[asked.event][mine])
        shown = "all" if group is None else f"{group:g}"
        yield Number("rows", (shown,), int(mine.sum()))
        if curve.surv_prob.min() <= 0.5:
            yield Number("median", (shown,), float(curve.quantile(0.5)))
        # Where fewer are at risk, the sites' curve has ended.
        told = np.flatnonzero(curve.n_risk >= MIN_CELL)
        for place in told[:: max(1, len(told) // 4)]:
            yield Number("survival", (shown, float(curve.surv_times[place])), float(curve.surv_prob[place]))


REFERENCES: dict[str, Callable[[Any, Columns, Places], Iterator[Number]]] = {
    "sql": _sql,
    "histogram": _histogram,
    "quantiles": _quantiles,
    "contingency": _contingency,
    "t_test": _t_test,
    "odds": _odds,
    "logistic": _logistic,
    "cox": _cox,
    "kaplan_meier": _kaplan_meier,
}
"""By kind of question."""


def _table_with(tables: Sequence[AnswerTable], head: str, key: tuple[Any, ...]) -> AnswerTable | None:
    """The first table with such a column, and with such a row where it has several; None where all is suppressed."""
    having = [table for table in tables if head in table.heads]
    for table in having:
        if any(all(str(a) == str(b) for a, b in zip(row, key, strict=False)) for row in table.rows):
            return table
    if having or not any(cell is SUPPRESSED for table in tables for row in table.rows for cell in row):
        return having[0]
    return None
