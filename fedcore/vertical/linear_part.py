"""One party's part of a linear predictor: what its columns add to a row, as a whole number of 2^-32.

Parts of several parties are added as they are: whole numbers, so that the sum does not depend on their order. Where the
predictor is a logarithm (logistic, Poisson), a part is rounded to 2^-8: exact parts would tell whoever knows the weights
of the bins which bins a row is in, nearly always; rounded ones do so for few rows, and change odds by 0.2 % for a party.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from fedcore.errors import DataError
from fedcore.vertical.binning import Bins
from fedcore.vertical.table import Table

FRACTION = 32
"""Bits after the point."""
COARSE = 8
"""Bits after the point that are told, where the predictor is a logarithm."""
_LARGEST = 2.0**20
"""Of one party's part, in size; far beyond any log-odds, and sums of hundreds of parties still fit 64 bits."""


@dataclass(frozen=True)
class Term:
    """What one column adds.

    Args:
        column: Its name.
        coefficient: Of the fit.
        bins: Where the fit was on weights of evidence: the bins.
        woe: Their weights, one for each bin.
        mean, scale: Where the fit was on values: (value - mean) / scale was its column. A missing value adds nothing.
    """

    column: str
    coefficient: float
    bins: Bins | None = None
    woe: tuple[float, ...] = ()
    mean: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot be scored with.

        Raises:
            DataError: Weights and bins differ in number, or a number is not finite.
        """
        numbers = np.array([self.coefficient, self.mean, self.scale, *self.woe], dtype=np.float64)
        wrong = self.bins is not None and len(self.woe) != self.bins.size
        if wrong or not np.isfinite(numbers).all() or self.scale == 0:
            raise DataError(
                f"term {self.column!r}: {len(self.woe)} weights for its bins, or a number that is not finite; write the "
                "model again from its run"
            )

    def of(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """What each value adds, float64 [n]."""
        if self.bins is not None:
            return self.coefficient * np.array(self.woe)[self.bins.codes(values, name=self.column)]
        if values.dtype == object or np.isinf(values).any():
            raise DataError(f"column {self.column!r} must be of finite or missing numbers to be scored")
        return np.nan_to_num(self.coefficient * (values - self.mean) / self.scale, nan=0.0)


@dataclass(frozen=True)
class LinearPart:
    """A party's terms.

    Args:
        terms: One for each column.
        intercept: The label holder's; 0 at a partner.
        link: `logistic`, `linear` or `poisson`.
    """

    terms: tuple[Term, ...]
    intercept: float = 0.0
    link: Literal["logistic", "linear", "poisson"] = "logistic"

    def score(self, table: Table) -> npt.NDArray[np.int64]:
        """The part of each row, int64 [n], in units of 2^-32, rounded to 2^-8 but for the linear link.

        Raises:
            DataError: A column is not there or has values that cannot be scored, or a part is too large.
        """
        total = np.full(len(table), self.intercept)
        for term in self.terms:
            if term.column not in table.columns:
                raise DataError(f"no column {term.column!r}, which the model needs; {_has(table)}")
            total += term.of(table.columns[term.column])
        if (np.abs(total) > _LARGEST).any():
            raise DataError(
                f"a row's part of the predictor is beyond {_LARGEST:.0f}; its values are far outside those of the training"
            )
        told = FRACTION if self.link == "linear" else COARSE
        return np.rint(total * 2.0**told).astype(np.int64) << (FRACTION - told)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "link": self.link,
            "intercept": self.intercept,
            "terms": [
                {
                    "column": term.column,
                    "coefficient": term.coefficient,
                    "bins": None if term.bins is None else term.bins.as_dict(),
                    "woe": list(term.woe),
                    "mean": term.mean,
                    "scale": term.scale,
                }
                for term in self.terms
            ],
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """What `as_dict` gave.

        Raises:
            DataError: It is something else.
        """
        try:
            link = found["link"]
            if link not in ("logistic", "linear", "poisson"):
                raise ValueError
            terms = tuple(
                Term(
                    str(each["column"]),
                    float(each["coefficient"]),
                    None if each["bins"] is None else Bins.from_dict(each["bins"]),
                    tuple(map(float, each["woe"])),
                    float(each["mean"]),
                    float(each["scale"]),
                )
                for each in found["terms"]
            )
            return cls(terms, float(found["intercept"]), link)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError("this is no linear part of a model; write it again from its run") from error


def mean_of(
    total: npt.NDArray[np.int64], link: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Predictor and expected label of summed parts.

    Args:
        total: int64 [n], in units of 2^-32.
        link: Of the model.
    """
    predictor = total.astype(np.float64) * 2.0**-FRACTION
    if link == "logistic":
        return predictor, 1 / (1 + np.exp(-np.clip(predictor, -700, 700)))
    return predictor, np.exp(np.minimum(predictor, 700)) if link == "poisson" else predictor


def _has(table: Table) -> str:
    return "it has " + (", ".join(table.columns) or "none")
