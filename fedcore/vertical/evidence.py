"""Weight of evidence and information value of bins, and the variables of a job as one party knows them.

    woe_i = ln((bad_i / B) / (good_i / G))        iv = sum_i (bad_i / B - good_i / G) woe_i

over training rows, B and G their bad and good rows. A positive weight of evidence is a bin that is riskier
than the average, so that coefficients on it must be 0 or more. In a bin that has rows of one class only, half
a row is added to both classes; a bin without rows has weight 0. Where bad rows are rare, a small bin of good
rows may so come out as risky: larger bins (`min_share`, `min_rows`) prevent that.

Source: Siddiqi, "Credit Risk Scorecards", Wiley 2006, chapter 6, with the sign turned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fedcore.errors import DataError
from fedcore.vertical.binning import Bins
from fedcore.vertical.table import Table

EMPTY_CLASS = 0.5
"""Rows added to both classes of a bin in which one of them has none."""

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


def evidence(good: npt.ArrayLike, bad: npt.ArrayLike, goods: int, bads: int) -> tuple[Floats, Floats]:
    """Weight of evidence of each bin, and what it adds to the information value.

    Args:
        good, bad: Rows of each class per bin, of any one shape.
        goods, bads: Rows of each class in all, at least 1.

    Returns:
        Two arrays of the same shape; the second is nowhere negative.
    """
    of_good, of_bad = np.asarray(good, dtype=np.float64), np.asarray(bad, dtype=np.float64)
    one_class = (of_good == 0) ^ (of_bad == 0)
    share_good = (of_good + EMPTY_CLASS * one_class) / goods
    share_bad = (of_bad + EMPTY_CLASS * one_class) / bads
    rows = (of_good + of_bad) > 0
    woe = np.zeros(of_good.shape)
    np.log(np.divide(share_bad, share_good, out=np.ones(woe.shape), where=rows), out=woe)
    return woe, (share_bad - share_good) * woe


@dataclass(frozen=True, eq=False)
class Variable:
    """A variable with its bins: `regular` bins first, then those of special values, the one of missing values last.

    Args:
        owner: Whose column it is.
        name: The column's, or `<owner> <number>` where it is another party's and anonymous.
        number: Of a partner's variable, from 0 in the order that the partner drew; None for the label holder's.
        ordered: Whether regular bins are ranges of a number; groups of categories otherwise.
        regular: Number of regular bins.
        rows: Training rows per bin, int64.
        good, bad: The same by class, int64; None at a partner, which does not learn them.
        woe: Weight of evidence per bin.
        iv: Information value.
        missing: Share of training rows in the bin of missing values.
        bins: None where it is another party's.
    """

    owner: str
    name: str
    number: int | None
    ordered: bool
    regular: int
    rows: Counts
    good: Counts | None
    bad: Counts | None
    woe: Floats
    iv: float
    missing: float
    bins: Bins | None

    @property
    def labels(self) -> tuple[str, ...]:
        """Of the bins; numbered where they are another party's."""
        if self.bins is not None:
            return self.bins.labels
        kind = "bin" if self.ordered else "group"
        special = len(self.woe) - self.regular - 1
        return (
            *(f"{kind} {place + 1}" for place in range(self.regular)),
            *(f"special {place + 1}" for place in range(special)),
            "missing",
        )

    @property
    def bad_rate(self) -> Floats | None:
        """Share of bad rows per bin, NaN in a bin without rows; None at a partner."""
        if self.bad is None:
            return None
        rate = np.full(len(self.rows), np.nan)
        np.divide(self.bad, self.rows, out=rate, where=self.rows > 0)
        return rate

    def as_dict(self) -> dict[str, Any]:
        """Plain lists, texts and numbers."""
        return {
            "owner": self.owner,
            "name": self.name,
            "number": self.number,
            "ordered": self.ordered,
            "regular": self.regular,
            "rows": self.rows.tolist(),
            "good": None if self.good is None else self.good.tolist(),
            "bad": None if self.bad is None else self.bad.tolist(),
            "woe": self.woe.tolist(),
            "iv": self.iv,
            "missing": self.missing,
            "bins": None if self.bins is None else self.bins.as_dict(),
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """What `as_dict` gave.

        Raises:
            DataError: Something is missing or of another type.
        """
        try:
            rows, good, bad = (
                None if found[name] is None else np.array(found[name], dtype=np.int64)
                for name in ("rows", "good", "bad")
            )
            bins = None if found["bins"] is None else Bins.from_dict(found["bins"])
            woe = np.array(found["woe"], dtype=np.float64)
            sizes = {len(each) for each in (rows, good, bad, woe) if each is not None}
            sizes |= set() if bins is None else {bins.size}
            if rows is None or len(sizes) != 1:
                raise ValueError("its lists have different lengths")
            return cls(
                owner=str(found["owner"]),
                name=str(found["name"]),
                number=None if found["number"] is None else int(found["number"]),
                ordered=bool(found["ordered"]),
                regular=int(found["regular"]),
                rows=rows,
                good=good,
                bad=bad,
                woe=woe,
                iv=float(found["iv"]),
                missing=float(found["missing"]),
                bins=bins,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"bins: a variable cannot be read ({error!r}); bin the columns again") from error


@dataclass(frozen=True, eq=False)
class WoeResult:
    """All variables that a party knows: at the label holder everybody's, its own first; at a partner its own."""

    variables: tuple[Variable, ...]

    def __post_init__(self) -> None:
        """Refuse two variables of one name.

        Raises:
            DataError: There are two.
        """
        names = [each.name for each in self.variables]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(f"bins: two variables are named {', '.join(map(repr, twice))}; rename the column")

    def __getitem__(self, name: str) -> Variable:
        for each in self.variables:
            if each.name == name:
                return each
        raise KeyError(name)

    @property
    def own(self) -> tuple[Variable, ...]:
        """Those of this party, in the order of its table."""
        return tuple(each for each in self.variables if each.bins is not None)

    def transformed(self, table: Table, names: Sequence[str] | None = None) -> Floats:
        """Weights of evidence of own columns.

        Args:
            table: With the columns.
            names: Which variables, in this order; all own ones when None.

        Returns:
            (n, variables) float64.

        Raises:
            DataError: A column is not in the table, or has infinite values.
        """
        chosen = self.own if names is None else [self[name] for name in names]
        out = np.empty((len(table), len(chosen)))
        for place, each in enumerate(chosen):
            out[:, place] = each.woe[codes_of(table, each)]
        return out

    def as_dict(self) -> dict[str, Any]:
        """Plain lists, texts and numbers."""
        return {"variables": [each.as_dict() for each in self.variables]}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """What `as_dict` gave.

        Raises:
            DataError: Something is missing or of another type.
        """
        return cls(tuple(Variable.from_dict(each) for each in found.get("variables", ())))


def codes_of(table: Table, variable: Variable) -> npt.NDArray[np.uint16]:
    """The bin of each row of an own variable.

    Raises:
        DataError: The variable is another party's, its column is not in the table, or has infinite values.
    """
    if variable.bins is None:
        raise DataError(f"bins: {variable.name!r} is of {variable.owner}; only its owner can look up bins")
    if variable.name not in table.columns:
        raise DataError(f"column {variable.name!r} is not in the table, which the bins were made for; add it")
    return variable.bins.codes(table.columns[variable.name], name=variable.name)
