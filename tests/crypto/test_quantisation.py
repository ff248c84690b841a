"""Numbers as integers: no sum overflows, a weighted mean comes out to the stated error, rounding is fair."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from crypto.kernels.chacha import keystream_reference
from crypto.quantisation import FixedPoint, NotFinite, quantise, weighted_mean
from crypto.streams import CIPHERS, KEY_BYTES, StreamCipher, streams

CLIPS = st.floats(2.0**-20, 2.0**20)


@st.composite
def forms(draw: st.DrawFn) -> FixedPoint:
    bits = draw(st.sampled_from([32, 64]))
    try:
        return FixedPoint(draw(CLIPS), draw(st.integers(1, 2000)), draw(st.integers(1, 10**6)), bits)
    except ValueError:
        assume(False)
        raise


def signed(vector: Any) -> list[int]:
    return [int(each) for each in vector.view(f"int{8 * vector.itemsize}")]


# ---- no sum overflows -----------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(forms(), st.binary(min_size=28, max_size=28))
@example(FixedPoint(1.0, 1, 1, 32), bytes(28))
@example(FixedPoint(0.3, 1000, 1, 32), bytes(28))
def test_the_largest_vectors_of_a_whole_cohort_do_not_overflow(form: FixedPoint, seed: bytes) -> None:
    ends = np.array([form.clip, -form.clip])
    vector, clipped = quantise(ends, form, weight=form.largest_weight, seed=seed)
    assert clipped == 0
    # Exact, in Python's integers: as many such vectors as there are participants.
    sums = [form.cohort * each for each in signed(vector)]
    assert all(-(2 ** (form.bits - 1)) <= each < 2 ** (form.bits - 1) for each in sums)
    assert sums[0] > 0 > sums[1] and sums[2] == form.cohort * form.largest_weight


@settings(deadline=None)
@given(forms())
def test_the_scale_is_the_largest_power_of_two_that_fits(form: FixedPoint) -> None:
    assert math.frexp(form.scale)[0] == 0.5
    most = form.clip * form.largest_weight * form.scale
    room = 2 ** (form.bits - 1) - 1 - form.cohort
    assert most * form.cohort <= room and most <= 2**44
    assert 2 * most * form.cohort > room or 2 * most > 2**44


@pytest.mark.parametrize(("cohort", "weight"), [(2**31, 1), (2, 2**30), (2000, 2**21)])
def test_a_cohort_without_room_below_the_modulus_is_refused(cohort: int, weight: int) -> None:
    with pytest.raises(ValueError, match="bits=64"):
        FixedPoint(1.0, cohort, weight, 32)


@pytest.mark.parametrize(
    "values",
    [
        (0.0, 3, 1, 32),
        (-1.0, 3, 1, 32),
        (math.nan, 3, 1, 32),
        (math.inf, 3, 1, 32),
        (1.0, 0, 1, 32),
        (1.0, 3, 0, 32),
        (1.0, 3, 1, 16),
    ],
)
def test_impossible_forms_are_refused(values: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError):
        FixedPoint(*values)


# ---- the mean -------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.data(), st.sampled_from([32, 64]), st.sampled_from(["float32", "float64"]), st.booleans())
def test_the_sum_gives_the_weighted_mean_to_the_stated_error(
    data: st.DataObject, bits: int, dtype: str, weighted: bool
) -> None:
    cohort, length = data.draw(st.integers(1, 20)), data.draw(st.integers(0, 30))
    largest = data.draw(st.integers(1, 5000)) if weighted else 1
    form = FixedPoint(data.draw(st.floats(0.01, 100)), cohort, largest, bits)
    taking = data.draw(st.integers(1, cohort))
    number = st.floats(-2, 2, width=32).map(lambda each: each * form.clip)
    total: Any = np.zeros(length + 1, dtype=form.dtype)
    values, weights = [], []
    for _ in range(taking):
        values.append(np.array(data.draw(st.lists(number, min_size=length, max_size=length)), dtype=dtype))
        weights.append(data.draw(st.integers(1, largest)))
        vector, clipped = quantise(values[-1], form, weight=weights[-1])
        assert clipped == np.count_nonzero(np.abs(values[-1].astype("f8")) > form.clip)
        total += vector
    mean, weight = weighted_mean(total, form, dtype=np.float64)
    assert weight == sum(weights)
    exact = np.average(np.clip(np.array(values, dtype="f8"), -form.clip, form.clip), axis=0, weights=weights)
    # What the plain average in float64 is itself off by.
    slack = 1e-12 * form.clip
    assert np.all(np.abs(mean - exact) < form.error_bound(weight, taking) + slack)
    short, _ = weighted_mean(total, form)
    assert short.dtype == np.float32 and np.array_equal(short, mean.astype(np.float32))


def test_a_participant_of_weight_zero_adds_nothing() -> None:
    form = FixedPoint(1.0, 3, 10)
    vector, _ = quantise(np.array([0.5, -1.0, 1.0]), form, weight=0)
    assert not vector.any()


def test_numbers_that_stand_for_integers_come_through_exactly() -> None:
    form = FixedPoint(1.0, 3, 1)
    values = np.arange(-8, 9) / 8
    assert np.array_equal(weighted_mean(quantise(values, form)[0], form, dtype=np.float64)[0], values)


# ---- rounding -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.0, 0.03, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("sign", [1, -1])
def test_rounding_goes_up_with_the_probability_of_the_fraction(fraction: float, sign: int) -> None:
    form = FixedPoint(1.0, 1, 1)
    count = 200_000
    values = np.full(count, sign * (1000 + fraction) / form.scale)
    vector, _ = quantise(values, form, seed=bytes(range(28)))
    found = np.unique(vector[:-1].view(np.int32))
    assert set(found.tolist()) <= {math.floor(sign * (1000 + fraction)), math.ceil(sign * (1000 + fraction))}
    deviation = math.sqrt(fraction * (1 - fraction) / count)
    assert abs(np.mean(vector[:-1].view(np.int32)) - sign * (1000 + fraction)) <= 5 * deviation


def test_the_same_seed_rounds_the_same_and_another_does_not() -> None:
    form, values = FixedPoint(1.0, 1000, 1000), np.random.default_rng(0).uniform(-1, 1, 5000)
    one, same = (quantise(values, form, seed=bytes(28))[0] for _ in range(2))
    assert np.array_equal(one, same)
    assert np.count_nonzero(one != quantise(values, form, seed=bytes([1] * 28))[0]) > 1000
    assert np.count_nonzero(one != quantise(values, form)[0]) > 1000


# ---- refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strange", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("at", [0, 4999, 5000, 9999])
def test_what_is_not_finite_is_refused_and_counted(strange: float, dtype: str, at: int) -> None:
    values = np.zeros(10_000, dtype=dtype)
    values[at] = strange
    form = FixedPoint(1.0, 3)
    out = np.ones(10_001, dtype=np.uint32)
    with pytest.raises(NotFinite, match="1 of 10000 numbers are NaN or infinite") as raised:
        quantise(values, form, out=out)
    assert (raised.value.count, raised.value.length) == (1, 10_000)
    assert not out.any()


@pytest.mark.parametrize("weight", [-1, 11])
def test_a_weight_that_is_not_allowed_is_refused(weight: int) -> None:
    with pytest.raises(ValueError, match="allowed are 0 to 10"):
        quantise(np.zeros(3), FixedPoint(1.0, 3, 10), weight=weight)


@pytest.mark.parametrize(
    "values", [np.zeros(3, np.int32), np.zeros((2, 2)), np.zeros(6)[::2], np.zeros(3, np.float16)]
)
def test_arrays_of_another_form_are_refused(values: Any) -> None:
    with pytest.raises(ValueError, match="contiguous vectors of float32 or float64"):
        quantise(values, FixedPoint(1.0, 3))


@pytest.mark.parametrize("out", [np.zeros(3, np.uint32), np.zeros(4, np.uint64)])
def test_room_of_another_form_is_refused(out: Any) -> None:
    with pytest.raises(ValueError, match="4 of uint32 are needed"):
        quantise(np.zeros(3), FixedPoint(1.0, 3), out=out)


@pytest.mark.parametrize("weight", [0, 31, 2**32 - 1])
def test_a_sum_with_an_impossible_weight_is_refused(weight: int) -> None:
    total = np.zeros(4, dtype=np.uint32)
    total[-1] = weight
    with pytest.raises(ValueError, match="possible are 1 to 30"):
        weighted_mean(total, FixedPoint(1.0, 3, 10))


def test_a_sum_of_other_words_is_refused() -> None:
    with pytest.raises(ValueError, match="uint32 and a weight are expected"):
        weighted_mean(np.ones(4, dtype=np.uint64), FixedPoint(1.0, 3, 10))


# ---- ciphers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("length", [0, 1, 17, 5003])
def test_rounding_takes_four_bytes_of_the_stream_for_each_number(bits: int, dtype: str, length: int) -> None:
    form, seed = FixedPoint(1.0, 10, 1000, bits), bytes(range(44))
    values = np.random.default_rng(length).normal(size=length).astype(dtype)
    fractions = np.frombuffer(keystream_reference(seed, 4 * length), "<u4") * 2.0**-32
    scaled = np.clip(values.astype(np.float64), -1, 1) * (777 * form.scale)
    expected = np.floor(scaled + fractions).astype(np.int64)
    vector, clipped = quantise(values, form, weight=777, seed=seed, cipher="chacha20")
    assert signed(vector[:-1]) == expected.tolist() and vector[-1] == 777
    assert clipped == (np.abs(values) > 1).sum()


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("first", [0, 16, 4096, 4112, 4992])
def test_pieces_of_a_vector_are_rounded_as_the_whole(cipher: StreamCipher, first: int) -> None:
    form, seed = FixedPoint(1.0, 10, 7), bytes(range(KEY_BYTES[cipher]))
    values = np.random.default_rng(0).normal(size=5003).astype("f4")
    whole, _ = quantise(values, form, weight=3, seed=seed, cipher=cipher)
    part, _ = quantise(values[first:], form, weight=3, seed=seed, cipher=cipher, first=first)
    assert np.array_equal(part, whole[first:])


@pytest.mark.parametrize("first", [-16, 1, 8])
def test_a_piece_that_begins_inside_a_block_is_refused(first: int) -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        quantise(np.zeros(3), FixedPoint(1.0, 3), first=first)


@pytest.mark.parametrize(("cipher", "size"), [("aes", 44), ("chacha20", 28)])
def test_a_seed_of_another_cipher_is_refused(cipher: StreamCipher, size: int) -> None:
    with pytest.raises(ValueError, match="bytes of key and nonce"):
        quantise(np.zeros(3), FixedPoint(1.0, 3), cipher=cipher, seed=bytes(size))


def test_an_unknown_cipher_is_refused() -> None:
    with pytest.raises(ValueError, match="'rc4'; allowed: aes, chacha20"):
        quantise(np.zeros(3), FixedPoint(1.0, 3), cipher="rc4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'rc4'; allowed: aes, chacha20"):
        streams("rc4", [])  # type: ignore[arg-type]
