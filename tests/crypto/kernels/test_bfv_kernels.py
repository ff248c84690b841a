"""Kernels of ring encryption against Python's integers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.bfv.encryption import _modulus
from crypto.bfv.parameters import SIGMA
from crypto.bfv.ring import LARGE, SMALL, Ring
from crypto.kernels import bfv_kernels
from crypto.kernels.aes import expand_key
from crypto.rlwe.parameters import gaussian_table
from tests.crypto.bfv.plain import lifted, residues_of
from tests.crypto.rlwe.plain import kronecker

MODULI = st.sampled_from([4, 2**20, 2**33, 2**64, 3, 12345677, 2305843009213317121]) | st.integers(
    1, 2**60 - 1
).map(lambda number: 2 * number + 1)
RINGS = st.sampled_from([SMALL, LARGE, LARGE.fewer(3), LARGE.fewer(1)])


def rounded(number: Fraction) -> int:
    return (2 * number.numerator + number.denominator) // (2 * number.denominator)


@settings(deadline=None, max_examples=60)
@given(RINGS, MODULI, st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20), st.data())
def test_a_number_is_encoded_as_its_multiple_of_q_over_t(
    ring: Ring, t: int, given_: list[int], data: st.DataObject
) -> None:
    numbers = [number % t for number in given_] + [0, t - 1, t // 2]
    before = data.draw(st.integers(-1000, 1000))
    out = residues_of(ring, [before] * len(numbers))
    modulus = _modulus(ring, t)
    bfv_kernels.encode(np.array(numbers, dtype=np.uint64), modulus.t, modulus.encoding, ring.moduli, out)
    wanted = [rounded(Fraction(ring.q * number, t)) + before for number in numbers]
    assert [(a - b) % ring.q for a, b in zip(lifted(ring, out), wanted, strict=True)] == [0] * len(numbers)


@settings(deadline=None, max_examples=60)
@given(RINGS, MODULI, st.lists(st.integers(0, 2**220), min_size=1, max_size=20))
def test_a_coefficient_is_decoded_to_the_nearest_number(ring: Ring, t: int, given_: list[int]) -> None:
    near = [ring.q * k // t + d for k in (0, 1, t - 1, t // 2) for d in (-1, 0, 1)]
    coefficients = [number % ring.q for number in given_ + near]
    modulus, out = _modulus(ring, t), np.empty(len(coefficients), dtype=np.uint64)
    apart = bfv_kernels.decode(
        residues_of(ring, coefficients), modulus.t[0], modulus.decoding, ring.moduli, out
    )
    exact = [Fraction(t * number, ring.q) for number in coefficients]
    worst = max(abs(each - rounded(each)) for each in exact)
    assert abs(int(apart) / 2**64 - float(worst)) < 2**-8
    for made, fraction in zip(out.tolist(), exact, strict=True):
        if abs(abs(fraction - rounded(fraction)) - Fraction(1, 2)) > Fraction(1, 256):
            assert made == rounded(fraction) % t


@settings(deadline=None, max_examples=40)
@given(RINGS, st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20), st.integers(0, 2**200))
def test_any_signed_number_has_its_residues_times_a_factor(
    ring: Ring, given_: list[int], factor: int
) -> None:
    numbers = np.array([*given_, -(2**63), 2**63 - 1, 0], dtype=np.int64)
    out = residues_of(ring, [7] * len(numbers))
    bfv_kernels.residues(numbers, ring.montgomery(factor), ring.moduli, out)
    wanted = [(int(number) * factor + 7) % ring.q for number in numbers]
    assert [value % ring.q for value in lifted(ring, out)] == wanted


def test_small_numbers_are_added() -> None:
    numbers = np.array([0, 1, -1, 40, -40], dtype=np.int64)
    out = residues_of(SMALL, [0, 5, 0, -41, 41])
    bfv_kernels.add_small(numbers, SMALL.moduli, out)
    assert lifted(SMALL, out) == [0, 6, -1, -1, 1]


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 4), st.lists(st.integers(0, 2**220), min_size=1, max_size=20))
def test_a_prime_is_dropped_with_rounding(primes: int, given_: list[int]) -> None:
    ring = LARGE.fewer(primes)
    smaller, gone = ring.fewer(primes - 1), ring.primes[-1]
    coefficients = [number % ring.q for number in given_] + [0, ring.q - 1, gone // 2, gone // 2 + 1]
    out = residues_of(ring, coefficients)[None].copy()
    inverses = np.array([pow(gone, -1, p) * 2**64 % p for p in smaller.primes], dtype=np.uint64)
    bfv_kernels.drop_prime(out, ring.moduli, inverses)
    made = [value % smaller.q for value in lifted(smaller, out[0, :-1])]
    assert made == [rounded(Fraction(number, gone)) % smaller.q for number in coefficients]


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 2**60 - 1).map(lambda number: 2 * number + 1),
    st.lists(st.integers(0, 2**128 - 1), min_size=1, max_size=20),
)
def test_numbers_of_128_bits_are_reduced(t: int, numbers: list[int]) -> None:
    words = np.array([[number % 2**64, number >> 64] for number in numbers], dtype=np.uint64)
    modulus = np.array([t, -pow(t, -1, 2**64) % 2**64, 2**64 % t, 2**128 % t], dtype=np.uint64)
    out = np.empty(len(numbers), dtype=np.uint64)
    bfv_kernels.reduce(words, modulus, out)
    assert out.tolist() == [number % t for number in numbers]


@pytest.mark.parametrize("cumulative", [False, True])
def test_rows_in_cells_are_multiplied_in_as_a_polynomial_of_ones(cumulative: bool) -> None:
    ring, block, first, last, start = SMALL, 1000, 1300, 2900, 1000
    generator = np.random.default_rng(2)
    codes = generator.integers(0, 4, (2, 3000)).astype(np.uint16)
    places = np.array([[0, 1], [-1, -1], [1, 3], [1, 9]], dtype=np.int32)
    pairs = ring.uniform(bytes(16), 4).reshape(2, 1, 2, 2, ring.size)
    tables, out = ring.tables, np.zeros((1, 2, 2, 2, ring.size), dtype=np.uint64)
    bfv_kernels.add_rows(
        codes,
        first,
        last,
        start,
        block,
        places,
        cumulative,
        pairs,
        tables.moduli,
        tables.roots,
        tables.shoup,
        ring.empty(),
        out,
    )
    total = ring.zeros(2)
    bfv_kernels.add_reduced(total, out[0], ring.moduli)
    ring.inverse(total)
    plain = pairs.reshape(4, 2, ring.size).copy()
    ring.inverse(plain)
    plain = plain.reshape(2, 2, 2, ring.size)
    for part in range(2):
        for k, p in enumerate(ring.primes):
            wanted = [0] * ring.size
            for b in range(2):
                ones = [0] * ring.size
                for i, (feature, code) in enumerate(places.tolist()):
                    for row in range(max(first, start + b * block), min(last, start + (b + 1) * block)):
                        held = int(codes[feature][row]) if feature >= 0 else -1
                        if held == code >= 0 or (cumulative and 0 <= held < code):
                            ones[i * block + block - 1 - (row - start - b * block)] = 1
                more = kronecker(plain[b, part, k].tolist(), ones, p)
                wanted = [(a + c) % p for a, c in zip(wanted, more, strict=True)]
            assert total[part, k].tolist() == wanted


def test_a_block_without_a_row_costs_and_adds_nothing() -> None:
    ring, tables = SMALL, SMALL.tables
    out = np.zeros((1, 2, 2, 2, ring.size), dtype=np.uint64)
    codes, room = np.zeros((1, 100), dtype=np.uint16), ring.empty()
    places = np.array([[0, 1]], dtype=np.int32)
    pairs = ring.uniform(bytes(16), 2).reshape(1, 1, 2, 2, ring.size)
    bfv_kernels.add_rows(
        codes, 0, 100, 0, 100, places, False, pairs, tables.moduli, tables.roots, tables.shoup, room, out
    )
    assert not out.any()


def test_answers_are_finished_with_errors_and_smudging_that_differ_each_time() -> None:
    ring, tables, bits = SMALL, SMALL.tables, 70
    given_ = ring.uniform(bytes(16), 4).reshape(2, 2, 2, ring.size)
    plain = given_.reshape(4, 2, ring.size).copy()
    ring.inverse(plain)
    plain = plain.reshape(given_.shape)
    positions = np.array([3, 4000, 17], dtype=np.int64)
    answers, first = given_.copy(), np.empty((2, 2, 3), dtype=np.uint64)
    bfv_kernels.finish_rows(
        expand_key(bytes(16)),
        expand_key(bytes(15) + b"1"),
        np.uint64(bits),
        ring.residues(1 << bits),
        gaussian_table(SIGMA),
        ring.moduli,
        tables.inverse_roots,
        tables.inverse_shoup,
        tables.last,
        positions,
        np.empty((3, ring.size), dtype=np.int64),
        np.empty(4, dtype=np.uint64),
        answers,
        first,
    )
    errors, floods = [], []
    for i in range(2):
        before, after = lifted(ring, plain[i, 1]), lifted(ring, answers[i, 1])
        errors.append([centred(a - b, ring.q) for a, b in zip(after, before, strict=True)])
        before, after = lifted(ring, plain[i, 0][:, positions]), lifted(ring, first[i])
        floods.append([centred(a - b, ring.q) for a, b in zip(after, before, strict=True)])
    for each in errors:
        assert 3.0 < np.std(each) < 3.4
        assert max(map(abs, each)) < 12 * SIGMA
    assert errors[0] != errors[1]
    assert all(2 ** (bits - 12) < abs(value) <= 2**bits for each in floods for value in each)
    assert len({value for each in floods for value in each}) == 6


def centred(number: int, modulus: int) -> int:
    return (number + modulus // 2) % modulus - modulus // 2
