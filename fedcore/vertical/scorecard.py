"""A scorecard: whole points per bin and variable, of which each party keeps its own; a score is their sum.

    factor = pdo / ln 2          offset = base - factor ln(odds)          m variables, the label holder has m0
    score  = offset - factor (intercept + sum_j coefficient_j woe_j)      = offset - factor ln(odds of bad)
    points of bin i of variable j = round(-factor coefficient_j woe_ij + share)

The label holder alone knows the intercept, and spreads `offset - factor intercept` evenly over its own
variables: their share is that divided by m0, and a partner's share is 0. A label holder without variables
keeps it, rounded, as the `start` of its card. So a partner's points are above 0 in bins that are better than
the average and below in those that are worse.

A joint score is off by at most m/2 points from the one that is not rounded (by (m + 1)/2 with a rounded
start): half a point for each number that is added. `Card.log_odds` turns a joint score into ln(odds of bad).

Source: Siddiqi, "Credit Risk Scorecards", Wiley 2006, chapter 6.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from fedcore.errors import DataError, JobError
from fedcore.jobs.vertical import Scorecard
from fedcore.vertical.binning import Bins
from fedcore.vertical.evidence import Variable
from fedcore.vertical.table import Table

Floats = npt.NDArray[np.float64]
Points = npt.NDArray[np.int64]
MOST_POINTS = 2**31
"""Points of a bin are smaller in size."""


def factor(settings: Scorecard) -> float:
    """Points for one unit of log-odds."""
    return settings.pdo / math.log(2)


def offset(settings: Scorecard) -> float:
    """Points at even odds."""
    return settings.base - factor(settings) * math.log(settings.odds)


def score_of(log_odds: npt.ArrayLike, settings: Scorecard) -> Floats:
    """Scores, not rounded, of log-odds of bad.

    Args:
        log_odds: ln(p / (1 - p)), p the probability of bad.
        settings: Of the job.
    """
    return offset(settings) - factor(settings) * np.asarray(log_odds, dtype=np.float64)


def log_odds_of(score: npt.ArrayLike, settings: Scorecard) -> Floats:
    """Log-odds of bad of scores; undoes `score_of`."""
    return (offset(settings) - np.asarray(score, dtype=np.float64)) / factor(settings)


def points(bins: Bins, woe: Floats, coefficient: float, share: float, settings: Scorecard) -> Points:
    """Whole points of each bin of a variable.

    Args:
        bins: Of the variable.
        woe: Weight of evidence per bin.
        coefficient: Of the variable.
        share: Of the points of the intercept; 0 at a partner.
        settings: Of the job.

    Returns:
        (bins.size,) int64.

    Raises:
        DataError: The weights are not those of the bins.
        JobError: Points are too large to be a scorecard's.
    """
    if len(woe) != bins.size:
        raise DataError(
            f"scorecard: {len(woe)} weights of evidence of {bins.size} bins; bin the column again"
        )
    exact = -factor(settings) * coefficient * np.asarray(woe, dtype=np.float64) + share
    if not (np.abs(exact) < MOST_POINTS).all():
        raise JobError(
            f"scorecard: a bin has {np.abs(exact).max():.3g} points; lower scorecard.pdo or base, or look at the "
            f"coefficient {coefficient:.3g}"
        )
    return np.rint(exact).astype(np.int64)


@dataclass(frozen=True)
class Reason:
    """Why a row lost points.

    Args:
        variable: Its name.
        label: Of the bin in which the row is.
        points: Of that bin.
        lost: How far these lie below the best or the neutral ones.
    """

    variable: str
    label: str
    points: int
    lost: int


@dataclass(frozen=True)
class CardVariable:
    """Points of a variable.

    Args:
        name: The column's.
        bins: Its bins.
        points: Of each bin.
        neutral: Points of a bin whose weight of evidence is 0.
    """

    name: str
    bins: Bins
    points: tuple[int, ...]
    neutral: int


@dataclass(frozen=True)
class Card:
    """The part of a scorecard that one party keeps.

    Args:
        settings: Of the job.
        variables: Own ones.
        start: Points that every row has.
    """

    settings: Scorecard
    variables: tuple[CardVariable, ...]
    start: int = 0

    def score(self, table: Table) -> Points:
        """Own points of each row; the joint score is the sum over the parties.

        Args:
            table: With the columns; nothing else of it is looked at.

        Returns:
            (n,) int64.

        Raises:
            DataError: A column is not in the table, or has infinite values.
        """
        total = np.full(len(table), self.start, dtype=np.int64)
        for each in self.variables:
            total += np.array(each.points, dtype=np.int64)[_codes(each, table)]
        return total

    def reasons(
        self, table: Table, most: int = 4, against: Literal["best", "neutral"] = "best"
    ) -> list[tuple[Reason, ...]]:
        """For each row, the own variables that cost it most points.

        Args:
            table: As for `score`.
            most: Of one row.
            against: Points are compared with those of the variable's best bin, or with neutral ones.

        Returns:
            A tuple per row, most points first; variables that cost nothing are not named.

        Raises:
            DataError: As `score`.
        """
        codes = [_codes(each, table) for each in self.variables]
        lost = np.zeros((len(table), len(codes)), dtype=np.int64)
        for place, each in enumerate(self.variables):
            reached = np.array(each.points, dtype=np.int64)[codes[place]]
            lost[:, place] = (max(each.points) if against == "best" else each.neutral) - reached
        order = np.argsort(-lost, axis=1, kind="stable")[:, :most]
        labels = [each.bins.labels for each in self.variables]
        found = []
        for row, best in enumerate(order.tolist()):
            found.append(
                tuple(
                    Reason(
                        variable=self.variables[place].name,
                        label=labels[place][codes[place][row]],
                        points=self.variables[place].points[codes[place][row]],
                        lost=int(lost[row, place]),
                    )
                    for place in best
                    if lost[row, place] > 0
                )
            )
        return found

    def log_odds(self, score: npt.ArrayLike) -> Floats:
        """ln(odds of bad) of joint scores."""
        return log_odds_of(score, self.settings)

    def as_dict(self) -> dict[str, Any]:
        """Plain lists, texts and numbers."""
        return {
            "settings": self.settings.model_dump(),
            "start": self.start,
            "variables": [
                {
                    "name": each.name,
                    "bins": each.bins.as_dict(),
                    "points": list(each.points),
                    "neutral": each.neutral,
                }
                for each in self.variables
            ],
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """What `as_dict` gave.

        Raises:
            DataError: Something is missing, of another type, or points are not one for each bin.
        """
        try:
            variables = []
            for each in found["variables"]:
                bins = Bins.from_dict(each["bins"])
                values = tuple(int(part) for part in each["points"])
                if len(values) != bins.size:
                    raise ValueError(f"{len(values)} points of {bins.size} bins")
                variables.append(CardVariable(str(each["name"]), bins, values, int(each["neutral"])))
            return cls(Scorecard(**found["settings"]), tuple(variables), int(found["start"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"scorecard: cannot be read ({error!r}); make it again") from error


def card(
    variables: Sequence[Variable],
    coefficients: Mapping[str, float],
    settings: Scorecard,
    intercept: float | None = None,
) -> Card:
    """The card of one party.

    Args:
        variables: Own ones that were kept.
        coefficients: Of each, by name.
        settings: Of the job.
        intercept: At the label holder; None at a partner.

    Raises:
        DataError: A variable is another party's, or has no coefficient.
        JobError: Points are too large to be a scorecard's.
    """
    held = 0.0 if intercept is None else float(score_of(intercept, settings))
    share = held / len(variables) if variables else 0.0
    made = []
    for each in variables:
        if each.bins is None:
            raise DataError(f"scorecard: {each.name!r} is of {each.owner}, which keeps its points")
        if each.name not in coefficients:
            raise DataError(f"scorecard: {each.name!r} has no coefficient; fit the variables that were kept")
        values = points(each.bins, each.woe, coefficients[each.name], share, settings)
        made.append(CardVariable(each.name, each.bins, tuple(values.tolist()), round(share)))
    return Card(settings, tuple(made), 0 if variables else round(held))


def _codes(variable: CardVariable, table: Table) -> npt.NDArray[np.uint16]:
    if variable.name not in table.columns:
        raise DataError(f"column {variable.name!r} is not in the table, which the scorecard asks for; add it")
    return variable.bins.codes(table.columns[variable.name], name=variable.name)
