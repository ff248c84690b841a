"""By how much a release can change when a neighbour's data are taken: derived from bounds, never typed in.

A neighbour relation says whose presence is hidden and what may change:

    unit      row | person | client        what belongs together
    change    add-remove | replace         it is there or not; or it is there with other values

A row is one row. A person or a client has as many rows as a contribution bound allows, in as many groups; who cuts the
data down to that bound does so before anything is computed from them. Replacing a unit is removing one and adding one,
and costs up to twice as much.

Each row adds to one cell a number from `lower` to `upper`, and a row that the filter leaves out adds 0. All is exact.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal, get_args

from fedcore.errors import JobError, did_you_mean
from fedcore.privacy.exact import Number, exact, positive, root_above, text

Unit = Literal["row", "person", "client"]
Change = Literal["add-remove", "replace"]


@dataclass(frozen=True)
class Neighbours:
    """Which two data sets must look alike.

    Args:
        unit: Whose data differ.
        change: How.
    """

    unit: Unit = "row"
    change: Change = "add-remove"

    def __post_init__(self) -> None:
        """Refuse other words."""
        for name, value, allowed in (
            ("unit", self.unit, get_args(Unit)),
            ("change", self.change, get_args(Change)),
        ):
            if value not in allowed:
                raise JobError(f'neighbours: {name} "{value}"; {did_you_mean(value, allowed)}')

    def __str__(self) -> str:
        """As a person reads it: "add or remove one row"."""
        return f"{self.change.replace('add-remove', 'add or remove')} one {self.unit}"

    @property
    def word(self) -> str:
        """As a file says it: `add-remove-row`."""
        return f"{self.change}-{self.unit}"


RELATIONS = {each.word: each for each in (Neighbours(u, c) for c in get_args(Change) for u in get_args(Unit))}


def neighbours(word: str) -> Neighbours:
    """The relation of that word.

    Raises:
        JobError: Another word.
    """
    if word not in RELATIONS:
        raise JobError(f'neighbours "{word}"; {did_you_mean(word, RELATIONS)}')
    return RELATIONS[word]


@dataclass(frozen=True)
class Contribution:
    """The most that one unit has in the data.

    Args:
        rows: In one group (cell, bin, key), 1 or more.
        groups: In which it has any, 1 or more.
    """

    rows: int = 1
    groups: int = 1

    def __post_init__(self) -> None:
        """Refuse less than one."""
        for name, value in (("rows", self.rows), ("groups", self.groups)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise JobError(
                    f"contribution: {name} is {value!r}; allowed: a whole number, 1 or more. Cure: keep at most that "
                    "many of each unit, chosen at random, before anything is computed"
                )


@dataclass(frozen=True)
class Sensitivity:
    """The most by which a release changes between neighbours.

    Args:
        l1: Sum of the absolute changes; what Laplace noise is scaled by.
        l2_squared: Sum of the squared changes; what Gaussian noise is scaled by.
        neighbours: The relation.
        what: Of what, for a result and a ledger.
    """

    l1: Fraction
    l2_squared: Fraction
    neighbours: Neighbours
    what: str

    def in_steps(self, step: Number) -> Sensitivity:
        """The same in steps, for values that are whole numbers of steps.

        Args:
            step: Above 0.
        """
        size = positive(step, "step")
        return replace(self, l1=self.l1 / size, l2_squared=self.l2_squared / size**2)


def count(relation: Neighbours, contribution: Contribution | None = None) -> Sensitivity:
    """Of a number of rows, all or those that a filter leaves.

    Args:
        relation: Of the release.
        contribution: The bound for persons and clients; its groups do not matter.
    """
    bound = _contribution(relation, contribution)
    rows = bound.rows * bound.groups
    return _cells(Fraction(0), Fraction(1), relation, Contribution(rows), 1, "count")


def total(
    lower: Number, upper: Number, relation: Neighbours, contribution: Contribution | None = None
) -> Sensitivity:
    """Of a sum of values that are cut to bounds.

    Args:
        lower, upper: What each row is cut to; chosen without looking at the data.
        relation: Of the release.
        contribution: The bound for persons and clients; its groups do not matter.

    Raises:
        JobError: The bounds are not finite or not in order, or both zero.
    """
    low, high = _bounds(lower, upper)
    bound = _contribution(relation, contribution)
    what = f"sum of values from {text(low)} to {text(high)}"
    return _cells(low, high, relation, Contribution(bound.rows * bound.groups), 1, what)


def histogram(cells: int, relation: Neighbours, contribution: Contribution | None = None) -> Sensitivity:
    """Of counts by group or bin, released together.

    Args:
        cells: How many, 1 or more, named without looking at the data.
        relation: Of the release.
        contribution: Rows per cell and cells per unit.
    """
    return _cells(
        Fraction(0), Fraction(1), relation, _contribution(relation, contribution), cells, "histogram"
    )


def totals(
    lower: Number, upper: Number, cells: int, relation: Neighbours, contribution: Contribution | None = None
) -> Sensitivity:
    """Of sums by group, released together: `histogram` for values that are cut to bounds."""
    low, high = _bounds(lower, upper)
    what = f"sums by group of values from {text(low)} to {text(high)}"
    return _cells(low, high, relation, _contribution(relation, contribution), cells, what)


@dataclass(frozen=True)
class MeanParts:
    """A mean is centre + sum of (value - centre) / count; the two are released, the quotient costs nothing more.

    Args:
        centre: Half way between the bounds, where the sum is least sensitive.
        total, count: Of the two.
    """

    centre: Fraction
    total: Sensitivity
    count: Sensitivity


def mean(
    lower: Number, upper: Number, relation: Neighbours, contribution: Contribution | None = None
) -> MeanParts:
    """Of a mean of values that are cut to bounds.

    Args:
        lower, upper: What each row is cut to; lower below upper.
        relation: Of the release.
        contribution: The bound for persons and clients.

    Raises:
        JobError: The bounds are not finite or not in order.
    """
    low, high = _bounds(lower, upper)
    if low == high:
        raise JobError(f"values are cut to {text(low)} on both sides; allowed: lower below upper")
    half = (high - low) / 2
    return MeanParts(
        (low + high) / 2, total(-half, half, relation, contribution), count(relation, contribution)
    )


def clipped(clip: Number, dimension: int, relation: Neighbours) -> Sensitivity:
    """Of a sum of vectors, one of each unit, whose Euclidean norm is clipped.

    Args:
        clip: Largest norm, above 0.
        dimension: Of a vector, 1 or more.
        relation: Of the release; `add-remove-client` for models.
    """
    norm = positive(clip, "clip")
    return _vectors(norm**2, dimension, relation, f"sum of vectors clipped to {text(norm)}")


def _vectors(squared: Fraction, dimension: int, relation: Neighbours, what: str) -> Sensitivity:
    twice = 2 if relation.change == "replace" else 1
    l1 = root_above(squared * _dimension(dimension))
    return Sensitivity(l1 * twice, squared * twice**2, relation, what)


def _cells(
    low: Fraction, high: Fraction, relation: Neighbours, bound: Contribution, cells: int, what: str
) -> Sensitivity:
    """Of sums in cells, of which a unit has rows in some."""
    if isinstance(cells, bool) or not isinstance(cells, int) or cells < 1:
        raise JobError(f"{what}: {cells!r} cells; allowed: a whole number, 1 or more")
    groups, rows = min(bound.groups, cells), bound.rows
    most = max(abs(low), abs(high))
    if relation.change == "add-remove":
        return Sensitivity(groups * rows * most, groups * (rows * most) ** 2, relation, what)
    # The two units meet in all of their cells, or in as few as there is room for; between, it is linear.
    apart = min(groups, cells - groups)
    span = max(high - low, most)
    choices = [(groups - each, each) for each in (0, apart)]
    l1 = max(rows * (met * span + 2 * alone * most) for met, alone in choices)
    l2 = max(rows**2 * (met * span**2 + 2 * alone * most**2) for met, alone in choices)
    return Sensitivity(l1, l2, relation, what)


def _contribution(relation: Neighbours, given: Contribution | None) -> Contribution:
    if relation.unit == "row":
        if given is not None and given != Contribution():
            raise JobError(
                f"{relation}: a row is one row in one group, and a contribution bound of {given.rows} rows in "
                f"{given.groups} groups was given. Cure: neighbours {relation.change}-person"
            )
        return Contribution()
    if given is None:
        raise JobError(
            f"{relation}: nothing bounds how many rows one {relation.unit} has. Cure: a contribution bound (rows per "
            "group, groups), to which the data are cut down first"
        )
    return given


def _bounds(lower: Number, upper: Number) -> tuple[Fraction, Fraction]:
    low, high = exact(lower, "lower bound"), exact(upper, "upper bound")
    if low > high or low == high == 0:
        raise JobError(
            f"values are cut to {lower} .. {upper}; allowed: lower not above upper, and not both 0"
        )
    return low, high


def _dimension(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise JobError(f"vectors have {value!r} coordinates; allowed: a whole number, 1 or more")
    return value
