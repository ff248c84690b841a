"""Sums of doubles over words: exact, whatever the order, the signs and the magnitudes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.exact_sums import DTYPE, Digits, TooLarge, join, split
from crypto.quantisation import NotFinite

values = st.floats(min_value=-1e30, max_value=1e30, allow_subnormal=False).filter(
    lambda value: value == 0 or abs(value) > 1e-7
)


def summed(rows: list[np.ndarray], digits: Digits) -> np.ndarray:
    total = np.zeros((digits.count, rows[0].size), DTYPE)
    for row in rows:
        total += split(row, digits)
    return join(total, digits)


@given(st.lists(values, min_size=1, max_size=40))
def test_a_sum_over_participants_is_that_of_fsum(column: list[float]) -> None:
    digits = Digits(len(column), -120, 120)
    assert summed([np.array([value]) for value in column], digits)[0] == math.fsum(column)


@given(st.lists(values, min_size=1, max_size=8), st.integers(1, 1024))
def test_one_value_comes_back_as_it_was(column: list[float], cohort: int) -> None:
    digits = Digits(cohort, -120, 120)
    np.testing.assert_array_equal(join(split(np.array(column), digits), digits), column)


@pytest.mark.parametrize("cohort", [1, 2, 3, 64, 65, 1024])
@pytest.mark.parametrize("drawn", [b"\x00", b"\xff"])
def test_the_largest_digits_and_carries_of_a_full_cohort_do_not_overflow(
    cohort: int, drawn: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secrets.token_bytes", lambda count: drawn * count)
    digits = Digits(cohort)
    largest = np.nextafter(2.0**digits.high, 0)
    for value in (largest, -largest):
        total = split(np.array([value]), digits) * DTYPE.type(cohort)
        assert join(total, digits)[0] == float(int(value) * cohort)


def test_what_is_below_the_smallest_step_is_cut_off_towards_zero() -> None:
    digits = Digits(4, low=-10, high=20)
    found = join(
        split(np.array([2.0**-10, 1.75 * 2.0**-10, -1.75 * 2.0**-10, 2.0**-11, 1e-300]), digits), digits
    )
    np.testing.assert_array_equal(found, [2.0**-10, 2.0**-10, -(2.0**-10), 0.0, 0.0])


def test_counts_are_exact_up_to_the_whole_numbers_of_a_double() -> None:
    digits = Digits(3)
    rows = [np.array([2.0**53 - 1]), np.array([1.0]), np.array([0.0])]
    assert summed(rows, digits)[0] == 2.0**53


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(NotFinite):
        split(np.array([1.0, value]), Digits(3))


def test_a_value_that_does_not_fit_is_refused() -> None:
    with pytest.raises(TooLarge, match="1 values"):
        split(np.array([1.0, 2.0**120]), Digits(3))


@pytest.mark.parametrize("wrong", [{"cohort": 0}, {"cohort": 1025}, {"low": 5, "high": 5}, {"high": 1001}])
def test_digits_that_cannot_be_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"cohort|exponents"):
        Digits(**{"cohort": 3, **wrong})


def test_words_of_another_shape_or_dtype_are_refused() -> None:
    digits = Digits(3)
    words = split(np.ones(2), digits)
    for wrong in (words[:-1], words.astype(np.int64), words.ravel()):
        with pytest.raises(ValueError, match="words of dtype"):
            join(wrong, digits)


def test_no_values_have_no_words() -> None:
    digits = Digits(3)
    assert join(split(np.zeros(0), digits), digits).shape == (0,)


def test_the_sum_of_a_digit_shows_its_low_bits_and_above_them_what_is_drawn() -> None:
    digits, tries = Digits(3), 20_000
    seen = {}
    # Two ways to the same sum: one carries in the lowest digit, the other does not.
    for name, column in {
        "carries": [2.0**-64 * (2**digits.width - 1), 2.0**-64],
        "not": [2.0**-64 * 2**digits.width, 0.0],
    }.items():
        total = sum(split(np.full(tries, value), digits).view(np.int64) for value in column)
        assert set(total[0] % 2**digits.width) == {0}
        seen[name] = total[0] >> digits.width
    scale = 2.0 ** (digits.carry - 1)
    for moments in (
        [np.mean(drawn) / scale for drawn in seen.values()],
        [np.std(drawn) / scale for drawn in seen.values()],
    ):
        # Two uniform numbers of variance 1/3: a true carry is a part in 2^41 of this.
        assert abs(moments[0] - moments[1]) < 0.05


def test_the_lowest_words_of_one_value_differ_each_time() -> None:
    digits = Digits(3)
    first, second = split(np.ones(1), digits), split(np.ones(1), digits)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(join(first, digits), join(second, digits))
