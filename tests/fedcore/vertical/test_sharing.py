"""Shares keep their value under every local operation, but for the stated rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crypto.bfv.products import MODULUS
from fedcore.vertical.sharing import (
    fixed,
    lifted,
    lowered,
    minus,
    plus,
    residues,
    scaled,
    scattered,
    signed,
    times,
    truncated,
)

DRAW = np.random.default_rng(3)


def split(numbers: Any) -> tuple[Any, Any]:
    """Uniform shares."""
    first = DRAW.integers(0, MODULUS, len(numbers)).astype(np.uint64)
    return first, minus(residues(numbers), first)


def test_sums_and_differences_are_modulo_the_prime() -> None:
    a, b = (DRAW.integers(0, MODULUS, 1000).astype(np.uint64) for _ in range(2))
    whole = a.astype(object), b.astype(object)
    assert (plus(a, b).astype(object) == (whole[0] + whole[1]) % MODULUS).all()
    assert (minus(a, b).astype(object) == (whole[0] - whole[1]) % MODULUS).all()


def test_signed_undoes_residues() -> None:
    numbers = DRAW.integers(-(1 << 59), 1 << 59, 1000)
    assert (signed(residues(numbers)) == numbers).all()


def test_a_matrix_of_the_largest_integers_times_residues_is_exact() -> None:
    matrix = DRAW.integers(-(1 << 20), 1 << 20, (40, 3000))
    vector = np.full(3000, MODULUS - 1, dtype=np.uint64)
    vector[::2] = DRAW.integers(0, MODULUS, 1500).astype(np.uint64)
    wanted = matrix.astype(object) @ vector.astype(object) % MODULUS
    assert (times(matrix, vector).astype(object) == wanted).all()
    column = matrix[0]
    assert (scaled(column, vector).astype(object) == column * vector.astype(object) % MODULUS).all()


@pytest.mark.parametrize("bits", [1, 11, 30])
def test_truncation_is_off_by_less_than_one_and_right_on_average(bits: int) -> None:
    numbers = DRAW.integers(-(1 << 31), 1 << 31, 20_000)
    first, second = split(numbers)
    got = signed(plus(truncated(first, bits, first=True), truncated(second, bits, first=False)))
    apart = got - numbers / 2.0**bits
    assert np.abs(apart).max() < 1 + 1e-6
    assert abs(apart.mean()) < 6 * apart.std() / np.sqrt(len(apart)) + 1e-12


def test_lifting_gives_the_number_over_the_integers() -> None:
    numbers = DRAW.integers(-(1 << 31), 1 << 31, 2000)
    first, second = split(numbers)
    assert ((lifted(first, first=True) + lifted(second, first=False)) == numbers).all()


def test_lowering_gives_the_number_modulo_the_prime_again() -> None:
    whole = np.array([3 << 80, -(5 << 80), 12345], dtype=object)
    mask = np.array([int(x) << 60 for x in DRAW.integers(-(1 << 60), 1 << 60, 3)], dtype=object)
    got = signed(plus(lowered(whole + mask, 76), lowered(-mask, 76)))
    assert np.abs(got - np.array([48, -80, 0])).max() <= 1


def test_scattered_rounding_is_right_on_average() -> None:
    rounded = scattered(np.full(200_000, -0.3))
    assert set(rounded.tolist()) == {-1, 0}
    assert abs(rounded.mean() + 0.3) < 6 * 0.46 / np.sqrt(200_000)


def test_fixed_point_rounds_to_the_nearest() -> None:
    assert fixed(np.array([0.5, -0.1, 1 / 3]), 4).tolist() == [8, -2, 5]
