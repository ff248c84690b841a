"""What an analytics job asks: one model for each kind of question, as a job file writes it.

    ask:
      by_sex: "SELECT sex, count(*), avg(age) FROM lung GROUP BY sex"
      curve:  {kaplan_meier: {time: time, event: status, by: sex}}

What a question computes, what leaves a site for it and its source stand in `fedcore.analytics`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from fedcore.errors import did_you_mean
from fedcore.jobs.common import Strict

Value = int | float | str | bool
Column = Annotated[str, Field(min_length=1, max_length=256)]
Confidence = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(gt=0, lt=1)]


class Ask(Strict):
    """What every question but SQL may say.

    Args:
        where: Rows it is over, a condition as in SQL: `age > 60 and sex = 1`; all when absent.
        missing: What a missing value in a column asked for does: `refuse`, or `leave out` its row, which is counted.
    """

    where: str | None = Field(default=None, max_length=20_000)
    missing: Literal["refuse", "leave out"] = "leave out"


class Describe(Ask):
    """Count, mean, variance of numeric columns.

    Args:
        columns: Which.
    """

    columns: tuple[Column, ...] = Field(min_length=1)


class Covariance(Describe):
    """Covariance of numeric columns."""


class Correlation(Describe):
    """Pearson's correlation of numeric columns, with p-values."""


class Components(Describe):
    """Principal components of numeric columns.

    Args:
        scaled: Of the correlations in place of the covariances.
    """

    scaled: bool = False


class TTest(Ask):
    """Welch's t-test between two groups.

    Args:
        value: Numeric column.
        by: Column of the groups.
        groups: The two, where `by` has more values; the first minus the second.
    """

    value: Column
    by: Column
    groups: tuple[Value, Value] | None = None
    confidence: Confidence = 0.95


class Anova(Ask):
    """One-way analysis of variance.

    Args:
        value: Numeric column.
        by: Column of the groups.
    """

    value: Column
    by: Column


class Contingency(Ask):
    """A table of two columns of categories with totals and Pearson's chi-square test.

    Args:
        down, across: The columns.
    """

    down: Column
    across: Column


class Odds(Ask):
    """Odds ratio of an outcome by an exposure in strata, after Mantel and Haenszel.

    Args:
        exposure, outcome: Columns of 0 and 1.
        strata: `site`: each participant is a stratum; else a column.
    """

    exposure: Column
    outcome: Column
    strata: Column = "site"
    confidence: Confidence = 0.95


class Histogram(Ask):
    """Rows between edges.

    Args:
        column: Numeric.
        edges: Rising; a bin holds its lower edge, the last one also its upper edge.
    """

    column: Column
    edges: tuple[float, ...] = Field(min_length=2, max_length=1001)


class Quantiles(Ask):
    """Quantiles of a numeric column, each narrowed to an interval.

    Args:
        column: Numeric.
        q: Shares.
        low, high: Bounds of the column, known beforehand.
        width: Of the interval, in the column's unit.
    """

    column: Column
    q: tuple[Share, ...] = (0.25, 0.5, 0.75)
    low: float
    high: float
    width: float = Field(gt=0)


class Linear(Ask):
    """Linear regression.

    Args:
        response: The column explained.
        columns: That explain it. A column with declared levels becomes indicators of all but the first.
        intercept: Whether there is one.
        offset: Column added to the predictor as it is.
        weights: Column that says how many times a row counts.
    """

    response: Column
    columns: tuple[Column, ...] = Field(min_length=1)
    intercept: bool = True
    offset: Column | None = None
    weights: Column | None = None
    confidence: Confidence = 0.95


class Logistic(Linear):
    """Logistic regression of a column of 0 and 1."""


class Poisson(Linear):
    """Poisson regression of counts; `offset` is the logarithm of the exposure."""


class KaplanMeier(Ask):
    """Survival curves, and the log-rank test between groups.

    Args:
        time: Column of the time to the event or to the end of follow-up, 0 or more.
        event: Column of 1 for an event and 0 for none.
        by: Column of the groups; one curve when absent.
        unit: Step of the grid of times; with that in which times are written the curves are those of the pooled rows.
        end: Last point of the grid; rows beyond it count as censored there.
        log_rank: `pooled`, or stratified by `site`, which sends no time; `none`.
        interval: Scale of the confidence intervals.
    """

    time: Column
    event: Column
    by: Column | None = None
    unit: float = Field(default=1.0, gt=0)
    end: float = Field(default=3650.0, gt=0)
    log_rank: Literal["pooled", "site", "none"] = "pooled"
    interval: Literal["log-log", "log", "plain"] = "log-log"
    confidence: Confidence = 0.95


class CoxModel(Ask):
    """Cox proportional hazards.

    Args:
        time, event: As for `kaplan_meier`.
        covariates: Columns that the hazard depends on.
        strata: `site`: each participant has a baseline hazard of its own, and no time leaves it; `none`: one baseline,
            as one regression over all rows gives it; else a column within the sites.
        ties: How events at one time count.
        unit, end: Of the grid of times, for `strata: none`.
    """

    time: Column
    event: Column
    covariates: tuple[Column, ...] = Field(min_length=1)
    strata: Column = "site"
    ties: Literal["efron", "breslow"] = "efron"
    unit: float = Field(default=1.0, gt=0)
    end: float = Field(default=3650.0, gt=0)
    confidence: Confidence = 0.95


class HeavyHitters(Ask):
    """The most frequent values of a text column.

    Args:
        column: Of text.
        least: Rows that a value must have over all sites to be told.
        most: Values told.
        length: Longest value, bytes.
    """

    column: Column
    least: int = Field(ge=5)
    most: int = Field(default=50, ge=1, le=1000)
    length: int = Field(default=32, ge=1, le=256)


class Question(Strict):
    """One question: SQL, or one of the kinds, under its name.

    Args:
        sql: SELECT of group keys and aggregates over the job's data set.
        totals: Of `sql`: totals over the keys too.
        query: Another spelling of `sql`, as `fedcore.analytics.Query` writes itself (`to_json`): `query: {by: [sex], …}`.
    """

    sql: str | None = Field(default=None, max_length=20_000)
    totals: bool = False
    query: dict[str, Any] | None = None
    describe: Describe | None = None
    covariance: Covariance | None = None
    correlation: Correlation | None = None
    components: Components | None = None
    t_test: TTest | None = None
    anova: Anova | None = None
    contingency: Contingency | None = None
    odds: Odds | None = None
    histogram: Histogram | None = None
    quantiles: Quantiles | None = None
    linear: Linear | None = None
    logistic: Logistic | None = None
    poisson: Poisson | None = None
    kaplan_meier: KaplanMeier | None = None
    cox: CoxModel | None = None
    heavy_hitters: HeavyHitters | None = None

    @model_validator(mode="before")
    @classmethod
    def _text(cls, written: Any) -> Any:
        if isinstance(written, str):
            return {"sql": written}
        if isinstance(written, dict) and "query" in written:
            # A query is read by its own reader, which takes lists as JSON has them.
            return {
                key: value if key == "query" else _lists_as_tuples(value) for key, value in written.items()
            }
        return _lists_as_tuples(written)

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> Any:
        return {key: value for key, value in handler(self).items() if value not in (None, False)}

    @model_validator(mode="after")
    def _one(self) -> Self:
        said = [kind for kind in (*KINDS, "query") if getattr(self, kind) is not None]
        if len(said) != 1:
            raise ValueError(
                f"a question asks one thing, this one asks {', '.join(said) or 'nothing'}; allowed: SQL, or one of "
                f"{', '.join(KINDS[1:])}"
            )
        if self.totals and self.sql is None:
            raise ValueError("totals is for sql; a query says margins: true")
        return self

    @property
    def kind(self) -> str:
        """Which of the kinds."""
        if self.query is not None:
            return "sql"
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def asked(self) -> Any:
        """What stands under the kind: the text of SQL, the JSON of a query, or the model."""
        return self.query if self.query is not None else getattr(self, self.kind)


def _lists_as_tuples(written: Any) -> Any:
    """What a strict model takes once a validator has looked at it: pydantic no longer knows then that it was JSON."""
    if isinstance(written, list):
        return tuple(map(_lists_as_tuples, written))
    if isinstance(written, dict):
        return {key: _lists_as_tuples(value) for key, value in written.items()}
    return written


KINDS = tuple(name for name in Question.model_fields if name not in ("totals", "query"))
"""Kinds of question, as a job and a site's policy name them; `sql` first."""

STATISTICS = ("count", "sum", "mean", "variance", "stddev", "quantile", "histogram", "min", "max", *KINDS[1:])
"""What a site's policy may allow by name: aggregates of SQL, and the other kinds."""


def check_statistic(word: str) -> str:
    """The word, if it is a statistic.

    Raises:
        ValueError: It is none; the nearest is named.
    """
    if word not in STATISTICS:
        raise ValueError(f"{word!r} is no statistic; {did_you_mean(word, STATISTICS)}")
    return word
