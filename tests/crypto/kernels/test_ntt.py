"""The number-theoretic transform: the kernels compute what plain polynomials do."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.kernels import ntt, ntt_reference
from crypto.rlwe.parameters import PRIMES, ring
from tests.crypto.rlwe.plain import kronecker

SMALL = ntt.tables(16, PRIMES)
NUMBER = st.integers(0, min(PRIMES) - 1) | st.sampled_from([0, 1, min(PRIMES) - 1])
POLYNOMIAL = st.lists(NUMBER, min_size=16, max_size=16)


def element(numbers: list[int]) -> npt.NDArray[np.uint64]:
    return np.array([numbers, numbers], dtype=np.uint64)


def forward(a: npt.NDArray[np.uint64], tables: ntt.Tables) -> npt.NDArray[np.uint64]:
    out = a[None].copy()
    ntt.forward(out, tables.moduli, tables.roots, tables.shoup)
    return out[0]


def inverse(a: npt.NDArray[np.uint64], tables: ntt.Tables) -> npt.NDArray[np.uint64]:
    out = a[None].copy()
    ntt.inverse(out, tables.moduli, tables.inverse_roots, tables.inverse_shoup, tables.last)
    return out[0]


@settings(deadline=None, max_examples=40)
@given(POLYNOMIAL)
def test_the_transform_is_the_values_at_odd_powers_of_the_root(a: list[int]) -> None:
    made = forward(element(a), SMALL)
    for k, p in enumerate(PRIMES):
        root = int(SMALL.roots[k, 8])  # bit-reversed order: place N/2 holds the first power
        assert pow(root, 16, p) == p - 1
        assert made[k].tolist() == ntt_reference.transform(a, root, p)


@settings(deadline=None, max_examples=40)
@given(POLYNOMIAL, POLYNOMIAL)
def test_products_are_those_of_the_schoolbook(a: list[int], b: list[int]) -> None:
    out = np.empty((2, 16), dtype=np.uint64)
    ntt.multiply(forward(element(a), SMALL), forward(element(b), SMALL), SMALL.moduli, out)
    made = inverse(out, SMALL)
    for k, p in enumerate(PRIMES):
        assert made[k].tolist() == ntt_reference.multiply(a, b, p) == kronecker(a, b, p)


def test_products_in_the_whole_ring_are_those_of_large_integers() -> None:
    tables, generator = ring(), np.random.default_rng(1)
    a, b = (np.stack([generator.integers(0, p, 4096, dtype=np.uint64) for p in PRIMES]) for _ in range(2))
    out = np.empty_like(a)
    ntt.multiply(forward(a, tables), forward(b, tables), tables.moduli, out)
    made = inverse(out, tables)
    for k, p in enumerate(PRIMES):
        assert made[k].tolist() == kronecker(a[k].tolist(), b[k].tolist(), p)


def test_there_and_back_at_the_edges() -> None:
    tables = ring()
    for number in (0, 1, -1):
        a = np.stack([np.full(4096, number % p, dtype=np.uint64) for p in PRIMES])
        assert np.array_equal(inverse(forward(a, tables), tables), a)


@settings(deadline=None, max_examples=40)
@given(POLYNOMIAL, POLYNOMIAL, NUMBER)
def test_sums_differences_and_multiples(a: list[int], b: list[int], number: int) -> None:
    total, apart = element(a)[None].copy(), element(a)[None].copy()
    ntt.add_to(total, element(b)[None], SMALL.moduli)
    ntt.take_from(apart, element(b)[None], SMALL.moduli)
    scaled = np.empty((2, 16), dtype=np.uint64)
    ntt.scale(element(a), np.array([number, number], dtype=np.uint64), SMALL.moduli, scaled)
    for k, p in enumerate(PRIMES):
        assert total[0, k].tolist() == [(x + y) % p for x, y in zip(a, b, strict=True)]
        assert apart[0, k].tolist() == [(x - y) % p for x, y in zip(a, b, strict=True)]
        assert scaled[k].tolist() == [x * number % p for x in a]


@settings(deadline=None, max_examples=40)
@given(st.lists(POLYNOMIAL, min_size=1, max_size=5), st.lists(st.integers(1, 10_000), min_size=1, max_size=4))
def test_sharing_polynomials_have_the_value_of_each_term_added(
    coefficients: list[list[int]], points: list[int]
) -> None:
    given_ = np.stack([element(each) for each in coefficients])
    out = np.empty((len(points), 2, 16), dtype=np.uint64)
    ntt.evaluate(given_, np.array(points, dtype=np.uint64), SMALL.moduli, out)
    for i, x in enumerate(points):
        for k, p in enumerate(PRIMES):
            wanted = [sum(c[j] * x**degree for degree, c in enumerate(coefficients)) % p for j in range(16)]
            assert out[i, k].tolist() == wanted


@pytest.mark.parametrize("prime", [PRIMES[0] + 8192, 17, 2**61 + 8192 * 5 + 1])
def test_a_modulus_without_a_transform_is_refused(prime: int) -> None:
    with pytest.raises(ValueError, match="no"):
        ntt.tables(4096, (prime,))
