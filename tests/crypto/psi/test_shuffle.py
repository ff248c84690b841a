from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.psi.shuffle import new_seed, permutation, permutation_reference
from tests.crypto.psi.sets import VECTORS


@settings(deadline=None, max_examples=50)
@given(count=st.integers(0, 300), seed=st.binary(min_size=16, max_size=16))
def test_an_order_agrees_with_plain_python_and_has_every_place_once(count, seed):
    order = permutation(count, seed).tolist()
    assert order == permutation_reference(count, seed)
    assert sorted(order) == list(range(count))


@pytest.mark.parametrize("vector", VECTORS["permutation"])
def test_the_vectors_come_out(vector):
    assert permutation(vector["count"], bytes.fromhex(vector["seed"])).tolist() == vector["order"]


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_every_order_of_few_places_is_equally_likely(count):
    # Seeds are fixed, so the test gives the same result each time; the bound is that of p = 1e-6 or less.
    runs = 200 * math.factorial(count)
    seen = Counter(
        tuple(permutation(count, number.to_bytes(16, "little")).tolist()) for number in range(runs)
    )
    assert len(seen) == math.factorial(count)
    chi = sum((times - 200) ** 2 / 200 for times in seen.values())
    freedom = math.factorial(count) - 1
    assert chi < freedom + 5 * math.sqrt(2 * freedom) + 20


def test_a_seed_of_another_length_is_refused():
    with pytest.raises(ValueError, match="16 bytes"):
        permutation(3, b"short")


def test_fresh_seeds_differ():
    assert new_seed() != new_seed()
    assert len(new_seed()) == 16
