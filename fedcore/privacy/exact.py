"""Exact numbers of a privacy budget: read without rounding, checked, written without rounding, shown with care.

A budget is a fraction. What was asked for is rounded up when it is shown and what is left is rounded down, so that
no reader is told of more privacy or more budget than there is.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal, InvalidOperation
from fractions import Fraction
from math import isqrt

from fedcore.errors import JobError

Number = int | float | str | Decimal | Fraction
"""Something that stands for one exact number; a float stands for the shortest decimal text that reads back as it."""

DIGITS = 6


def exact(value: Number, name: str) -> Fraction:
    """The number that a value stands for.

    Args:
        value: `0.1`, `"0.1"`, `"1/10"`, `Decimal("0.1")` and `Fraction(1, 10)` are all one tenth.
        name: What it is, for the error.

    Raises:
        JobError: No finite number.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        if isinstance(value, float):
            value = repr(float(value))
        if isinstance(value, str) and "/" not in value:
            value = Decimal(value.strip())
        return Fraction(value)
    except (TypeError, ValueError, ArithmeticError, InvalidOperation):
        raise JobError(f"{name} is {value}; allowed: a finite number, as 0.5 or 1/3") from None


def positive(value: Number, name: str) -> Fraction:
    """The number that a value stands for, which must be above zero.

    Raises:
        JobError: Zero, negative, infinite, NaN or no number.
    """
    found = exact(value, name)
    if found <= 0:
        raise JobError(f"{name} is {value}; allowed: a finite number above 0")
    return found


def check_delta(delta: Number, rows: int) -> Fraction:
    """The probability with which a promise may fail, which must be at most one over the people it is given to.

    With a larger one, publishing one row of one person in full would keep the promise.

    Args:
        delta: Above 0.
        rows: How many units (rows, people, clients) are protected; 1 or more, public.

    Raises:
        JobError: Zero, negative, not finite, or above 1 / rows.
    """
    found = positive(delta, "delta")
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
        raise JobError(f"delta is checked against {rows} rows; allowed: a whole number, 1 or more")
    if found > Fraction(1, rows):
        raise JobError(
            f"delta is {delta} with {rows} rows; allowed: at most 1/{rows} = {shown(Fraction(1, rows))}, for a larger one "
            f"would allow to publish somebody's row. Cure: delta {shown(Fraction(1, 10 * rows))} or smaller"
        )
    return found


def text(value: Fraction) -> str:
    """A number as text that `exact` reads back: as a decimal where it has one, else as p/q."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest != 1 or value.denominator.bit_length() > 200:
        return str(value)
    places = 0
    while (value * 10**places).denominator != 1:
        places += 1
    return f"{Decimal((value * 10**places).numerator).scaleb(-places, Context(prec=400)):f}"


def shown(value: Fraction, *, up: bool = False, digits: int = DIGITS) -> str:
    """A number for people.

    Args:
        value: Any.
        up: Round up; down otherwise.
        digits: That count.
    """
    return f"{rounded(value, up=up, digits=digits).normalize():g}"


def rounded(value: Fraction, *, up: bool, digits: int = DIGITS) -> Decimal:
    """The nearest decimal of some digits that is not below (`up`) or not above the number."""
    context = Context(prec=digits, rounding=ROUND_CEILING if up else ROUND_FLOOR)
    return context.divide(Decimal(value.numerator), Decimal(value.denominator))


def root_above(value: Fraction, bits: int = 64) -> Fraction:
    """A fraction that is at least the square root, by less than 2^(1-bits).

    Args:
        value: 0 or more.
        bits: Of the fraction's denominator.
    """
    scaled = -((-value.numerator << 2 * bits) // value.denominator)
    root = isqrt(scaled)
    return Fraction(root + (root * root < scaled), 1 << bits)
