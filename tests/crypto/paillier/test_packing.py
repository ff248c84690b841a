"""Packing: no slot carries into the next, whatever the numbers, and what does not fit is refused."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import ProtocolError
from crypto.paillier.packing import MOST_LIMIT, Packing, pack, unpack, whole_numbers


@st.composite
def packings(draw) -> Packing:
    fraction = draw(st.integers(0, 40))
    bound = draw(st.one_of(st.integers(1, 2**20), st.floats(2.0**-20, 2.0**20)))
    return Packing(bound, fraction, draw(st.integers(1, 10_000)), draw(st.integers(1, 2**20)), bits=1024)


@settings(deadline=None)
@given(packings(), st.data())
def test_the_largest_sums_that_weights_allow_do_not_carry(packing: Packing, data) -> None:
    """Beside plain integers: every slot at a bound, and the plaintext times all of the capacity."""
    number = st.sampled_from([packing.limit, -packing.limit, 0, 1 - packing.limit])
    numbers = data.draw(st.lists(number, min_size=1, max_size=packing.slots))
    plain = pack(numbers, packing)
    assert plain * packing.capacity < 1 << (packing.bits - 1)
    sums = unpack(plain * packing.capacity, packing.capacity, packing, "x")
    assert sums[: len(numbers)] == [packing.capacity * number for number in numbers]
    assert not any(sums[len(numbers) :])


@settings(deadline=None)
@given(packings(), st.data())
def test_a_weighted_sum_of_plaintexts_is_that_of_the_numbers(packing: Packing, data) -> None:
    left, total, wanted = packing.capacity, 0, [0, 0]
    for _ in range(5):
        if not left:
            break
        weight = data.draw(st.integers(1, left))
        numbers = [
            data.draw(st.integers(-packing.limit, packing.limit)) for _ in range(min(2, packing.slots))
        ]
        total += weight * pack(numbers, packing)
        wanted = [a + weight * b for a, b in zip(wanted, [*numbers, 0], strict=False)]
        left -= weight
    found = unpack(total, packing.capacity - left, packing, "x")
    assert found[: min(2, packing.slots)] == wanted[: min(2, packing.slots)]


def test_a_slot_is_as_short_as_its_sum_allows() -> None:
    packing = Packing(1.0, 20, cohort=100)
    assert (packing.limit, packing.slot, packing.slots) == (2**20, 28, 108)
    assert packing.ciphertexts(10_000) == 93
    assert [packing.ciphertexts(count) for count in (1, 108, 109)] == [1, 1, 2]
    # A key of 1024 bits holds 1023 for certain, so not 32 slots of 32.
    assert (
        Packing(1.0, 20, cohort=1024, bits=1024).slot,
        Packing(1.0, 20, cohort=1024, bits=1024).slots,
    ) == (32, 30)


@settings(deadline=None)
@given(packings(), st.floats(-1, 1))
def test_a_value_is_off_by_half_a_unit_at_most(packing: Packing, part: float) -> None:
    value = float(np.clip(part * packing.bound, -packing.bound, packing.bound))
    number = int(whole_numbers([value], packing)[0])
    assert abs(number) <= packing.limit
    assert abs(Fraction(number, 2**packing.fraction) - Fraction(value)) <= Fraction(
        1, 2 ** (packing.fraction + 1)
    )


def test_integers_beyond_the_53_bits_of_a_float_are_exact() -> None:
    packing = Packing(2**62, 0, cohort=2)
    values = [2**62, -(2**62), 2**62 - 1, 2**53 + 1]
    assert whole_numbers(np.array(values), packing).tolist() == values
    assert whole_numbers(np.array([3], dtype=np.uint8), Packing(2**40, 10, 2)).tolist() == [3072]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.5000001, -2])
def test_a_value_out_of_bounds_is_refused_with_its_place(value: float) -> None:
    with pytest.raises(ValueError, match=r"value 1 is not a number between -1\.5 and 1\.5"):
        whole_numbers([1.5, value], Packing(1.5, 10, 2))


@pytest.mark.parametrize("kind", [np.int8, np.int64, np.uint64, np.float32])
def test_a_value_out_of_bounds_is_refused_whatever_its_type(kind) -> None:
    packing = Packing(100.5, 10, 2)
    assert whole_numbers(np.array([100], dtype=kind), packing).tolist() == [102400]
    with pytest.raises(ValueError, match="value 0"):
        whole_numbers(np.array([101], dtype=kind), packing)
    # As a float of 32 bits 0.1 is above 0.1, which shows in a form this fine.
    with pytest.raises(ValueError, match="value 0"):
        whole_numbers(np.array([0.1], dtype=np.float32), Packing(0.1, 50, 2))


@pytest.mark.parametrize("values", [np.zeros((2, 2)), np.array(["1"]), np.array([1j])])
def test_what_are_no_numbers_is_refused(values) -> None:
    with pytest.raises(ValueError, match="values are"):
        whole_numbers(values, Packing(1.0, 10, 2))


@pytest.mark.parametrize(
    ("bound", "fraction", "cohort", "weight", "said"),
    [
        (0, 10, 2, 1, "above 0"),
        (-1, 10, 2, 1, "above 0"),
        (float("nan"), 10, 2, 1, "above 0"),
        (float("inf"), 10, 2, 1, "above 0"),
        (1, -1, 2, 1, "fewer digits"),
        (2, 62, 2, 1, "fewer digits"),
        (1, 10, 0, 1, "at least 1"),
        (1, 10, 2, 0, "at least 1"),
        (1, 10, 2**40, 2**23, "at most 2\\^62"),
    ],
)
def test_forms_that_cannot_be_are_refused(bound, fraction, cohort, weight, said) -> None:
    with pytest.raises(ValueError, match=said):
        Packing(bound, fraction, cohort, weight)


def test_a_form_whose_slots_do_not_fit_the_key_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit a key of 128 bits"):
        Packing(float(MOST_LIMIT), 0, 10, bits=128)


def test_a_plaintext_that_is_no_sum_is_refused() -> None:
    packing = Packing(1.0, 4, cohort=4)
    plain = pack([3, -16], packing)
    assert unpack(3 * plain, 3, packing, "x")[:2] == [9, -48]
    for wrong, weight, said in (
        (3 * plain, 2, "weights of 2"),
        (plain + (33 << packing.slot), 1, "more than the bounds"),
        (1 << packing.slot * (packing.slots + 1), 1, "no sum of numbers"),
    ):
        with pytest.raises(ProtocolError, match=said):
            unpack(wrong, weight, packing, "x")
