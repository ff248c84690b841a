"""Polynomials over GF(2^128), against plain arithmetic."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.kernels.blocks import blocks_from, gf_mul_reference, numbers_from
from crypto.kernels.polynomials import at_zero, evaluate

ELEMENT = st.integers(0, 2**128 - 1)
POINTS = st.lists(st.integers(1, 2**32 - 1), min_size=1, max_size=6, unique=True)


def value_at(coefficients: list[int], x: int) -> int:
    total = 0
    for coefficient in reversed(coefficients):
        total = gf_mul_reference(total, x) ^ coefficient
    return total


@settings(deadline=None, max_examples=30)
@given(st.lists(ELEMENT, min_size=1, max_size=5), st.lists(ELEMENT, min_size=1, max_size=5), POINTS)
def test_values_are_those_of_horners_rule(one: list[int], other: list[int], points: list[int]) -> None:
    degree = max(len(one), len(other)) - 1
    both = [each + [0] * (degree + 1 - len(each)) for each in (one, other)]
    coefficients = np.empty((degree, 2, 2), dtype=np.uint64)
    for i in range(degree):
        coefficients[i] = blocks_from([each[i + 1] for each in both])
    out = np.empty((len(points), 2, 2), dtype=np.uint64)
    evaluate(blocks_from([each[0] for each in both]), coefficients, np.array(points, dtype=np.uint64), out)
    for i, x in enumerate(points):
        assert numbers_from(out[i]) == [value_at(each, x) for each in both]


@settings(deadline=None, max_examples=30)
@given(st.data(), POINTS)
def test_as_many_values_as_coefficients_give_the_constant(data: st.DataObject, points: list[int]) -> None:
    coefficients = data.draw(st.lists(ELEMENT, min_size=len(points), max_size=len(points)))
    values = np.array([blocks_from([value_at(coefficients, x)]) for x in points])
    out, room = np.empty((1, 2), np.uint64), np.empty((2, len(points) + 1, 2), np.uint64)
    at_zero(np.array(points, dtype=np.uint64), values, room, out)
    assert numbers_from(out) == [coefficients[0]]
