"""Results as tables: printed as a statistician expects, as CSV, and as JSON values.

Each result of this package has `table()`, which gives a `Table`; numbers stay whole in it and are rounded only in print.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import rich.table
from scipy import special

from fedcore.analytics.disclosure import SUPPRESSED, Suppressed
from fedcore.analytics.disclosure import to_json as value_json
from fedcore.analytics.sums import Floats
from fedcore.errors import DataError

Cell = str | int | float | Suppressed | None


@dataclass(frozen=True)
class Table:
    """A result to be shown.

    Args:
        title: What it is.
        heads: Of the columns.
        rows: Of cells, one for each head; None is shown as a dash, `SUPPRESSED` as that word.
        notes: Lines below it: numbers of rows, tests of the whole.
        p_values: Heads of columns that are p-values.
    """

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    p_values: tuple[str, ...] = ("p",)

    def rich(self) -> rich.table.Table:
        """For a terminal."""
        shown = rich.table.Table(title=self.title, caption="\n".join(self.notes) or None)
        shown.title_justify = shown.caption_justify = "left"
        for place, head in enumerate(self.heads):
            shown_cells = [row[place] for row in self.rows if row[place] is not SUPPRESSED]
            text = all(isinstance(cell, str | None) for cell in shown_cells)
            shown.add_column(head, justify="left" if text else "right", no_wrap=not text)
        for row in self.rows:
            shown.add_row(*(self._text(head, cell) for head, cell in zip(self.heads, row, strict=True)))
        return shown

    @property
    def suppressed(self) -> int:
        """Cells that are kept back."""
        return sum(cell is SUPPRESSED for row in self.rows for cell in row)

    def to_csv(self) -> str:
        """A line of heads and one a row, RFC 4180; numbers as short as they can be read back exactly."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow(self.heads)
        writer.writerows(["" if cell is None else cell for cell in row] for row in self.rows)
        return file.getvalue()

    def as_dict(self) -> dict[str, Any]:
        """JSON values: the title, the rows by head, the notes. What is not finite becomes null, what is suppressed an
        object of its own."""
        return {
            "title": self.title,
            "heads": list(self.heads),
            "p_values": list(self.p_values),
            "rows": [
                {head: _json(cell) for head, cell in zip(self.heads, row, strict=True)} for row in self.rows
            ],
            "notes": list(self.notes),
        }

    def _text(self, head: str, cell: Cell) -> str:
        if isinstance(cell, float):
            return p_text(cell) if head in self.p_values else number_text(cell)
        return "–" if cell is None else str(cell)


@dataclass(frozen=True)
class Coefficient:
    """A row of a model's table.

    Args:
        name: Of the column.
        estimate, error: Of the coefficient, and its standard error.
        statistic: Their ratio.
        p: Two-sided, of the coefficient being 0.
        low, high: Confidence interval.
    """

    name: str
    estimate: float
    error: float
    statistic: float
    p: float
    low: float
    high: float

    @property
    def ratio(self) -> tuple[float, float, float]:
        """Exponential of the estimate and of its interval: ratio of odds, rates or hazards."""
        return _exp(self.estimate), _exp(self.low), _exp(self.high)


def coefficients(
    names: Sequence[str], estimate: Floats, covariance: Floats, confidence: float, dof: float = math.inf
) -> tuple[Coefficient, ...]:
    """A model's table: Wald statistics against the normal distribution, or Student's where `dof` is finite.

    Args:
        names: (p,).
        estimate: (p,).
        covariance: (p, p) of the estimates.
        confidence: Level of the intervals, between 0 and 1.
        dof: Degrees of freedom of the residuals.
    """
    check_confidence(confidence)
    errors = np.sqrt(np.diag(covariance))
    far = quantile(confidence, dof)
    made = []
    for name, value, error in zip(names, estimate.tolist(), errors.tolist(), strict=True):
        ratio = value / error
        made.append(
            Coefficient(
                name, value, error, ratio, two_sided(ratio, dof), value - far * error, value + far * error
            )
        )
    return tuple(made)


def two_sided(statistic: float, dof: float = math.inf) -> float:
    """p-value of a statistic of the normal distribution, or of Student's with `dof` degrees of freedom."""
    below = -abs(statistic)
    return 2 * float(special.ndtr(below) if math.isinf(dof) else special.stdtr(dof, below))


def quantile(confidence: float, dof: float = math.inf) -> float:
    """How many standard errors an interval of that level reaches to each side."""
    tail = 1 - (1 - confidence) / 2
    return float(special.ndtri(tail) if math.isinf(dof) else special.stdtrit(dof, tail))


def chi_square_p(statistic: float, dof: float) -> float:
    """Share of a chi-square distribution above a statistic."""
    return float(special.chdtrc(dof, statistic))


def check_confidence(confidence: float) -> None:
    """Raise a DataError unless a level is between 0 and 1, both outside."""
    if not 0 < confidence < 1:
        raise DataError(
            f"confidence is {confidence}; allowed: above 0 and below 1, as in 0.95", step="result"
        )


def number_text(value: float) -> str:
    """Four significant digits or more; an exponent where the number is very large or small."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.3e}".replace("-", "−")
    decimals = 4 if abs(value) < 100 else 2
    return f"{value:.{decimals}f}".replace("-", "−")


def p_text(value: float) -> str:
    """Three decimals, `<0.001` below that."""
    return "–" if math.isnan(value) else "<0.001" if value < 0.0005 else f"{value:.3f}"


def level_text(confidence: float) -> str:
    """`95 %`."""
    return f"{100 * confidence:g} %"


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _json(cell: Cell) -> Any:
    return None if isinstance(cell, float) and not math.isfinite(cell) else value_json(cell)
