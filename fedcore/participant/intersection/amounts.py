"""Numbers of rows, to be added up over the keys that match: exact, as whole multiples of a power of ten.

A key that stands in several rows adds the numbers of all of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from crypto.psi.key_store import MOST_ROWS, KeyStore
from fedcore.errors import DataError
from fedcore.participant.intersection.side import MOST_DIGITS, SumOf

if TYPE_CHECKING:
    # What only sums need is imported for them.
    from crypto.psi.sum_of_intersection import Amounts

Int64 = npt.NDArray[np.int64]

STEP = "read"
_MOST = 2**63 - 1
_LONGEST = 64
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)


@dataclass(frozen=True)
class Exact:
    """A number as whole * 10^-digits, without needless zeros."""

    whole: int
    digits: int


@dataclass(frozen=True)
class Table:
    """The numbers of all rows.

    Args:
        units: (rows, columns) int64, in units of 10^-scale; 0 in rows without a key.
        amounts: Scale, and bounds of what a key may add.
        names: Of the columns.
    """

    units: Int64
    amounts: Amounts
    names: tuple[str, ...]

    def of_items(self, store: KeyStore) -> Int64:
        """What each key adds: the sums of its rows.

        Args:
            store: Collapsed; planted items may be among its own.

        Returns:
            (items, columns + 1) int64. The last column is 1 for a planted item and 0 for others: its sum over the
            matches shows that all planted items came back.

        Raises:
            DataError: A key adds less or more than the bounds.
        """
        rows, places = store.rows_of(np.arange(len(store)))
        real = rows < MOST_ROWS
        out = np.zeros((len(store), len(self.names) + 1), dtype=np.int64)
        out[places[~real], -1] = 1
        for at, name in enumerate(self.names):
            added = _added(self.units[rows[real], at], places[real], len(store))
            outside = int(np.count_nonzero((added < self.amounts.low) | (added > self.amounts.high)))
            if outside:
                raise DataError(
                    f"column {name!r}: {outside:,} of {len(store):,} keys add less than {self.shown(self.amounts.low)} "
                    f"or more than {self.shown(self.amounts.high)}; correct the data, or give wider --amount-bounds",
                    step=STEP,
                )
            out[:, at] = added
        return out

    def shown(self, units: int) -> str:
        """A number of units as decimal text."""
        return _text(units, self.amounts.scale)


class Columns:
    """Takes the numbers batch by batch.

    Args:
        sum_of: Which columns, and what their numbers may be.
    """

    def __init__(self, sum_of: SumOf) -> None:
        self._sum_of = sum_of
        self._taken: dict[str, list[tuple[Int64, int]]] = {name: [] for name in sum_of.columns}
        self._scales = dict.fromkeys(sum_of.columns, 0)
        self._missing = dict.fromkeys(sum_of.columns, 0)
        self._first = dict.fromkeys(sum_of.columns, -1)
        self._finer = dict.fromkeys(sum_of.columns, 0)
        self._rows = 0

    def take(self, batch: pa.RecordBatch, keyed: Int64) -> None:
        """Take the numbers of a batch's rows.

        Args:
            batch: With the columns.
            keyed: Rows of it that have a key, (n,) int64. What the others hold does not matter.

        Raises:
            DataError: A column's type has no numbers.
        """
        for name in self._sum_of.columns:
            column = batch.column(name)
            kind = column.type
            text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
            if not (
                text or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
            ):
                raise DataError(
                    f"column {name!r} has type {kind}, which cannot be added up; allowed: integers, decimals, floats, "
                    "and text that is decimal numbers",
                    step=STEP,
                )
            # The type's own scale, so that the other party is not told how many digits the values happen to have.
            least = max(0, kind.scale) if pa.types.is_decimal(kind) else 0
            self._take(name, column.take(pa.array(keyed)), keyed, batch.num_rows, least)
        self._rows += batch.num_rows

    def _take(self, name: str, column: pa.Array, keyed: Int64, rows: int, least: int) -> None:
        found = [_exact(value) for value in column.to_pylist()]
        fixed = self._sum_of.scale
        wanted = fixed if fixed is not None else MOST_DIGITS
        scale = least if fixed is None else fixed
        places, usable = [], []
        for place, number in zip(keyed.tolist(), found, strict=True):
            if number is None:
                self._missing[name] += 1
                self._first[name] = self._rows + place if self._first[name] < 0 else self._first[name]
            elif number.digits > wanted:
                self._finer[name] += 1
            else:
                places.append(place)
                usable.append(number)
                scale = max(scale, number.digits)
        units = np.zeros(rows, dtype=np.int64)
        whole = [number.whole * 10 ** (scale - number.digits) for number in usable]
        if any(abs(each) > _MOST for each in whole):
            raise _too_large(name, scale)
        units[places] = whole
        self._taken[name].append((units, scale))
        self._scales[name] = max(self._scales[name], scale)

    def table(self) -> Table:
        """All that was taken, in one scale.

        Raises:
            DataError: A row with a key has no number, or more digits than the scale; or the numbers are too large.
        """
        from crypto.psi.sum_of_intersection import Amounts

        fixed = self._sum_of.scale
        for name, rows in self._missing.items():
            if rows:
                raise DataError(
                    f"column {name!r}: {rows:,} of {self._rows:,} rows have no number (empty, or not a decimal number), "
                    f"the first is row {self._first[name]} from 0; correct or leave out these rows",
                    step=STEP,
                )
        for name, rows in self._finer.items():
            if rows:
                digits = MOST_DIGITS if fixed is None else fixed
                raise DataError(
                    f"column {name!r}: {rows:,} of {self._rows:,} rows have more than {digits} digits after the point; "
                    "round them at the site"
                    + (", or give a larger --amount-scale" if fixed is not None else ""),
                    step=STEP,
                )
        low, high = self._sum_of.bounds or (Decimal(0), Decimal(0))
        limits = [number for number in (_exact(low), _exact(high)) if number is not None]
        scale = max([*self._scales.values(), *(each.digits for each in limits)] if fixed is None else [fixed])
        if scale > MOST_DIGITS or any(each.digits > scale for each in limits):
            raise DataError(
                f"--amount-bounds have more than {min(scale, MOST_DIGITS)} digits after the point; round them",
                step=STEP,
            )
        columns = []
        for name, taken in self._taken.items():
            scaled = [_rescaled(units, scale - own, name, scale) for units, own in taken]
            columns.append(np.concatenate([np.empty(0, dtype=np.int64), *scaled]))
        if self._sum_of.bounds is None:
            amounts = Amounts(-_MOST, _MOST, scale)
        else:
            least, most = (each.whole * 10 ** (scale - each.digits) for each in limits)
            if max(-least, most) > _MOST:
                raise DataError(
                    "--amount-bounds are too large: with the scale they need more than 64 bits", step=STEP
                )
            # One unit has room in any case: it marks planted items.
            amounts = Amounts(least, max(most, 1), scale)
        return Table(np.stack(columns, axis=1), amounts, self._sum_of.columns)


def _exact(value: object) -> Exact | None:
    """A value as a number; None where it is none."""
    if isinstance(value, float):
        # The shortest text that gives this float again, which is what was written.
        value = repr(value)
    if isinstance(value, str):
        text = value.strip()
        if len(text) > _LONGEST or not _NUMBER.fullmatch(text):
            return None
        value = Decimal(text)
    if isinstance(value, int) and not isinstance(value, bool):
        return Exact(value, 0)
    if not isinstance(value, Decimal) or not value.is_finite():
        return None
    sign, digits, exponent = value.as_tuple()
    whole = int("".join(map(str, digits)))
    if whole == 0:
        return Exact(0, 0)
    places = -int(exponent)
    while places > 0 and whole % 10 == 0:
        whole, places = whole // 10, places - 1
    if places < 0:
        whole, places = whole * 10**-places, 0
    return Exact(-whole if sign else whole, places)


def _rescaled(units: Int64, digits: int, name: str, scale: int) -> Int64:
    if digits == 0 or not units.size:
        return units
    most = max(abs(int(units.min())), abs(int(units.max())))
    if most * 10**digits > _MOST:
        raise _too_large(name, scale)
    return units * np.int64(10**digits)


def _added(units: Int64, places: Int64, items: int) -> npt.NDArray[np.object_] | Int64:
    """Sums by place; exact also where they need more than 64 bits."""
    most = max(abs(int(units.min())), abs(int(units.max()))) if units.size else 0
    longest = int(np.bincount(places).max()) if places.size else 0
    fits = most * longest <= _MOST
    out = np.zeros(items, dtype=np.int64 if fits else object)
    np.add.at(out, places, units if fits else units.astype(object))
    return out


def _too_large(name: str, scale: int) -> DataError:
    return DataError(
        f"column {name!r} has numbers that need more than 64 bits with {scale} digits after the point; round them at "
        "the site, or give a smaller --amount-scale",
        step=STEP,
    )


def _text(units: int, scale: int) -> str:
    digits = tuple(int(digit) for digit in str(abs(units)))
    return f"{Decimal((int(units < 0), digits, -scale)):f}"
