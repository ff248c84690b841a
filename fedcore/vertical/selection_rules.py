"""The rules by which variables of a scorecard stay or go, each with its reason; no message is sent here.

In this order: one bin only; missing values; information value, too low or so high that the column probably
knows the label; stability; correlation, of two the one with the lower information value goes; variance
inflation factor, the largest goes until none is too large. After a fit, `by_sign`: the coefficient on a
weight of evidence is negative.

Source: the list is the usual one of Siddiqi, "Credit Risk Scorecards", Wiley 2006, chapter 6; sign
constraints as a rule of selection, Zheng et al., "A vertical federated learning method for interpretable
scorecard", 2020, arXiv 2009.06218.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from fedcore.errors import DataError
from fedcore.jobs.vertical import Select
from fedcore.vertical.correlation import partly_known_inflation
from fedcore.vertical.evidence import Floats, Variable, WoeResult

ONE_BIN, MISSING, VALUE, STABILITY, CORRELATION, VIF, SIGN = RULES = (
    "one value",
    "missing",
    "information value",
    "stability",
    "correlation",
    "vif",
    "sign",
)
_CURES = {
    ONE_BIN: "bring columns that vary",
    MISSING: "raise select.missing",
    VALUE: "widen select.iv",
    STABILITY: "raise select.stability, or look at why the parts differ",
    SIGN: "set select.sign: false, or bring other columns",
}


@dataclass(frozen=True)
class Removed:
    """A variable that went: its name, the rule, and a sentence with the figures."""

    name: str
    rule: str
    reason: str


@dataclass(frozen=True, eq=False)
class Selection:
    """Which variables stay, as one party knows it.

    Args:
        kept: Names, in the order of the variables; at the label holder everybody's.
        removed: In the order in which they went.
        suspected: Of these, the ones whose information value is so high that they probably know the label.
        stability: By variable, then by part.
        correlated: Of rows and columns of `correlation`: all that the first four rules left.
        correlation: On training rows; NaN between two partners. At a partner only between its own.
        vif: Of the variables in `correlated`, the last one that was computed; empty at a partner. With several
            partners a lower bound.
    """

    kept: tuple[str, ...]
    removed: tuple[Removed, ...]
    suspected: tuple[str, ...]
    stability: dict[str, dict[str, float]]
    correlated: tuple[str, ...]
    correlation: Floats
    vif: dict[str, float] = field(default_factory=dict)

    def own(self, result: WoeResult) -> tuple[str, ...]:
        """Those of this party that stay."""
        return tuple(each.name for each in result.own if each.name in self.kept)

    @property
    def reasons(self) -> dict[str, str]:
        """Why each went that went, by name."""
        return {each.name: each.reason for each in self.removed}

    def as_dict(self) -> dict[str, Any]:
        """Plain lists, texts and numbers; a correlation that is not known is None."""
        rows = self.correlation.tolist()
        return {
            "kept": list(self.kept),
            "removed": [[each.name, each.rule, each.reason] for each in self.removed],
            "suspected": list(self.suspected),
            "stability": self.stability,
            "correlated": list(self.correlated),
            "correlation": [[None if np.isnan(each) else each for each in row] for row in rows],
            "vif": self.vif,
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """What `as_dict` gave.

        Raises:
            DataError: Something is missing or of another type.
        """
        try:
            names = tuple(found["correlated"])
            return cls(
                kept=tuple(found["kept"]),
                removed=tuple(Removed(*each) for each in found["removed"]),
                suspected=tuple(found["suspected"]),
                stability={name: dict(parts) for name, parts in found["stability"].items()},
                correlated=names,
                correlation=np.array(found["correlation"], dtype=np.float64).reshape(len(names), len(names)),
                vif=dict(found["vif"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"selection: cannot be read ({error!r}); select the variables again") from error


def alone(variable: Variable, moved: Mapping[str, float], settings: Select) -> Removed | None:
    """Whether a variable goes for itself; the first rule that it breaks.

    Args:
        variable: With its information value and rows.
        moved: Population stability index by part.
        settings: Of the job.
    """
    low, high = settings.iv
    if np.count_nonzero(variable.rows) <= 1:
        return Removed(variable.name, ONE_BIN, "all training rows are in one bin")
    if variable.missing > settings.missing:
        told = (
            f"{variable.missing:.1%} of training rows are missing; at most {settings.missing:.1%} are allowed"
        )
        return Removed(variable.name, MISSING, told)
    if variable.iv < low:
        told = f"its information value is {variable.iv:.4f}; at least {low:g} is asked for"
        return Removed(variable.name, VALUE, told)
    if variable.iv > high:
        told = (
            f"its information value is {variable.iv:.4f}, above {high:g}: it probably knows the label, look at when "
            "and how it was recorded"
        )
        return Removed(variable.name, VALUE, told)
    part, most = max(moved.items(), key=lambda each: each[1], default=("", 0.0))
    if most > settings.stability:
        told = (
            f"its stability index of training against {part} rows is {most:.3f}; at most {settings.stability:g} is "
            "allowed"
        )
        return Removed(variable.name, STABILITY, told)
    return None


def together(
    variables: Sequence[Variable], correlation: Floats, settings: Select
) -> tuple[list[Removed], dict[str, float]]:
    """Which variables go because of others, and the last variance inflation factor of each.

    Args:
        variables: That stay so far.
        correlation: (variables, variables), NaN where not known.
        settings: Of the job.
    """
    removed: list[Removed] = []
    ranked = sorted(range(len(variables)), key=lambda place: (-variables[place].iv, place))
    kept: list[int] = []
    for place in ranked:
        each = variables[place]
        over = [other for other in kept if abs(correlation[place, other]) > settings.correlation]
        if over:
            other = variables[over[0]]
            told = (
                f"correlates {correlation[place, over[0]]:.3f} with {other.name!r}, beyond {settings.correlation:g}, "
                f"and has the lower information value ({each.iv:.4f}, the other {other.iv:.4f})"
            )
            removed.append(Removed(each.name, CORRELATION, told))
        else:
            kept.append(place)
    factors: dict[str, float] = {}
    owners = [each.owner for each in variables]
    holder = next((each.owner for each in variables if each.bins is not None), "")
    while kept:
        found = partly_known_inflation(
            correlation[np.ix_(kept, kept)], [owners[place] for place in kept], holder
        )
        factors |= {variables[place].name: float(factor) for place, factor in zip(kept, found, strict=True)}
        # Ranked by information value: of equal factors the last has the lowest.
        worst = len(found) - 1 - int(np.argmax(found[::-1]))
        if found[worst] <= settings.vif:
            break
        told = f"its variance inflation factor is {found[worst]:.1f}; at most {settings.vif:g} is allowed"
        removed.append(Removed(variables[kept.pop(worst)].name, VIF, told))
    return removed, factors


def by_sign(selection: Selection, coefficients: Mapping[str, float]) -> Selection:
    """Without the variables whose coefficient contradicts their weight of evidence.

    Args:
        selection: Before the fit.
        coefficients: Of weights of evidence, of those variables whose coefficients this party holds.

    Raises:
        DataError: A coefficient is of a variable that was not kept, or no variable is left.
    """
    return without(selection, wrong_signs(selection, coefficients))


def wrong_signs(selection: Selection, coefficients: Mapping[str, float]) -> list[Removed]:
    """The variables with a negative coefficient.

    Raises:
        DataError: A coefficient is of a variable that was not kept.
    """
    if strange := sorted(set(coefficients) - set(selection.kept)):
        raise DataError(
            f"coefficients: {', '.join(strange)} are of no variable that was kept; fit those kept"
        )
    return [
        Removed(name, SIGN, f"its coefficient is {value:.4f}; on a weight of evidence it must be 0 or more")
        for name, value in coefficients.items()
        if value < 0
    ]


def without(selection: Selection, removed: Sequence[Removed]) -> Selection:
    """A selection without more of its variables.

    Raises:
        DataError: No variable is left.
    """
    gone = {each.name for each in removed}
    every = (*selection.removed, *removed)
    kept = tuple(name for name in selection.kept if name not in gone)
    if selection.kept and not kept:
        raise nothing_left(every)
    return replace(selection, kept=kept, removed=every)


def suspected(result: WoeResult, removed: Sequence[Removed], settings: Select) -> tuple[str, ...]:
    """Variables that went because they probably know the label."""
    went = {each.name for each in removed if each.rule == VALUE}
    return tuple(each.name for each in result.variables if each.name in went and each.iv > settings.iv[1])


def nothing_left(removed: Sequence[Removed]) -> DataError:
    """The error of a job whose rules leave no variable, with those that removed most."""
    counts = Counter(each.rule for each in removed).most_common()
    told = ", ".join(f"{rule} removed {number}" for rule, number in counts)
    cure = _CURES.get(counts[0][0], "relax it") if counts else "bring columns"
    return DataError(f"select: no variable is left ({told or 'there was none'}); {cure}")
