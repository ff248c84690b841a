"""Shares of products add up to what Python's integers give, are uniform, and damaged messages are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from crypto.bfv.keys import new_keys
from crypto.bfv.noise import flood_bits
from crypto.bfv.products import (
    MATRICES,
    MODULUS,
    ROWS,
    prepared,
    product_columns,
    product_receive,
    product_send,
    rows_receive,
    rows_send,
    transposed_columns,
    transposed_receive,
    transposed_send,
)
from crypto.errors import ProtocolError
from tests.crypto.memory_channel import both, ends, run

KEY, ROW_KEY = new_keys(MATRICES), new_keys(ROWS)
P = MODULUS


def numbers(seed: int, n: int, d: int, size: int = 1 << 18) -> Any:
    return np.random.default_rng(seed).integers(-size, size, (n, d))


def shares(seed: int, n: int) -> Any:
    return np.random.default_rng(seed).integers(0, P, n).astype(np.uint64)


def total(found: tuple[Any, Any]) -> list[int]:
    return [(int(a) + int(b)) % P for a, b in zip(*found, strict=True)]


def product(matrix: Any, vector: Any, key: Any = KEY) -> tuple[Any, Any]:
    return both(
        lambda channel: product_receive(channel, key, vector, len(matrix), "test.product"),
        lambda channel: product_send(channel, key.public, prepared(matrix), "test.product"),
    )


def transposed(matrix: Any, vector: Any) -> tuple[Any, Any]:
    return both(
        lambda channel: transposed_receive(channel, KEY, vector, matrix.shape[1], "test.transposed"),
        lambda channel: transposed_send(channel, KEY.public, prepared(matrix), "test.transposed"),
    )


def rows(u: Any, v: Any) -> tuple[Any, Any]:
    return both(
        lambda channel: rows_receive(channel, ROW_KEY, u, "test.rows"),
        lambda channel: rows_send(channel, ROW_KEY.public, v, "test.rows"),
    )


SHAPES = [(1, 1), (7, 5), (300, 17), (8192, 2), (8193, 3), (9001, 4)]


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_shares_of_a_product_add_up_to_it(n: int, d: int) -> None:
    matrix, vector = numbers(1, n, d), shares(2, d)
    assert total(product(matrix, vector)) == list(matrix.astype(object) @ vector.astype(object) % P)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_shares_of_a_transposed_product_add_up_to_it(n: int, d: int) -> None:
    matrix, vector = numbers(3, n, d), shares(4, n)
    assert total(transposed(matrix, vector)) == list(matrix.T.astype(object) @ vector.astype(object) % P)


def test_several_columns_share_a_polynomial_where_that_saves_bytes() -> None:
    assert product_columns(24_000, 18) > 1 and transposed_columns(24_000, 18) > 1
    assert product_columns(1, 1) == 1


@pytest.mark.parametrize(("n", "k"), [(1, 1), (100, 6), (8193, 2)])
def test_shares_of_row_products_add_up_to_them(n: int, k: int) -> None:
    u, v = numbers(5, n, k, 1 << 20), numbers(6, n, k, 1 << 20)
    assert total(rows(u, v)) == list((u * v).sum(axis=1) % P)


def test_row_products_hold_the_largest_numbers() -> None:
    u, v = np.array([[P // 2, 1], [-(P // 2), 1]]), np.array([[P // 2, 3], [P // 2, 3]])
    wanted = [
        sum(a * b for a, b in zip(x, y, strict=True)) % P for x, y in zip(u.tolist(), v.tolist(), strict=True)
    ]
    assert total(rows(u, v)) == wanted


@pytest.mark.parametrize("kind", ["product", "transposed", "rows"])
def test_each_share_alone_is_uniform_though_the_result_is_constant(kind: str) -> None:
    n = 4000
    ones = np.ones((n, 1), dtype=np.int64)
    vector = np.array([5], dtype=np.uint64)
    if kind == "product":
        found = product(ones, vector)
    elif kind == "rows":
        found = rows(ones, 5 * ones)
    else:
        found = transposed(np.ones((1, n), dtype=np.int64), vector)
    assert set(total(found)) == {5}
    for share in found:
        counts = np.bincount((share // np.uint64(P // 16 + 1)).astype(int), minlength=16)
        assert ((counts - n / 16) ** 2 / (n / 16)).sum() < 70  # chi-square of 15 degrees: once in 10^8
        assert len(np.unique(share)) == n


def test_the_same_product_gives_other_shares_and_other_messages() -> None:
    matrix, vector = numbers(7, 20, 3), shares(8, 3)
    first, second = product(matrix, vector), product(matrix, vector)
    assert total(first) == total(second)
    assert not (first[1] == second[1]).any()


def spoilt(at: str, change: Any, key: Any = KEY) -> None:
    """A product whose question ("receive") or answer ("send") is changed on its way."""
    left, right = ends()
    (left if at == "receive" else right).spoil = lambda step, data: change(bytearray(data))
    matrix, vector = numbers(9, 50, 3), shares(10, 3)
    run(
        lambda channel: product_receive(channel, KEY, vector, 50, "test.product"),
        left,
        lambda channel: product_send(channel, key.public, prepared(matrix), "test.product"),
        right,
    )


def flipped(data: bytearray) -> bytes:
    data[200] ^= 4
    return bytes(data)


def beyond(data: bytearray) -> bytes:
    data[100:164] = b"\xff" * 64
    return bytes(data)


def test_a_damaged_answer_is_refused() -> None:
    with pytest.raises(ProtocolError, match="does not open"):
        spoilt("send", flipped)


@pytest.mark.parametrize("at", ["receive", "send"])
def test_a_number_that_is_not_below_its_prime_is_refused(at: str) -> None:
    with pytest.raises(ProtocolError, match="not below its prime"):
        spoilt(at, beyond)


@pytest.mark.parametrize("at", ["receive", "send"])
def test_a_message_of_another_length_is_refused(at: str) -> None:
    with pytest.raises(ProtocolError, match="bytes came where"):
        spoilt(at, lambda data: bytes(data[:-8]))


def test_a_vector_under_another_key_is_refused() -> None:
    with pytest.raises(ProtocolError, match="another key"):
        spoilt("receive", bytes, new_keys(MATRICES))


def test_a_matrix_whose_noise_would_show_is_refused() -> None:
    with pytest.raises(ValueError, match="smudging"):
        product(numbers(11, 10, 2, 1 << 50), shares(12, 2))


@pytest.mark.parametrize(("answers", "fits"), [(1, True), (3, False)])
def test_all_answers_of_a_product_share_one_bound_on_what_their_noise_shows(answers: int, fits: bool) -> None:
    # Of one answer of 8192 results the distance is 0.9 * 2^-40, of three of them 2.7 times that.
    spread = 0.9 * 2.0 ** (flood_bits(MATRICES, P) + 1 - 40) / MATRICES.size
    made = prepared(numbers(15, MATRICES.size * (answers - 1) + 1, 1), backward=False)
    matrix = replace(made, bounds=(spread, spread))

    def both_sides() -> tuple[Any, Any]:
        return both(
            lambda channel: product_receive(channel, KEY, shares(16, 1), made.shape[0], "test.product"),
            lambda channel: product_send(channel, KEY.public, matrix, "test.product"),
        )

    if fits:
        both_sides()
    else:
        with pytest.raises(ValueError, match="smudging"):
            both_sides()


def test_row_products_need_the_larger_modulus() -> None:
    u = numbers(13, 10, 2)
    with pytest.raises(ValueError, match="smudging"):
        both(
            lambda channel: rows_receive(channel, KEY, u, "test.rows"),
            lambda channel: rows_send(channel, KEY.public, u, "test.rows"),
        )


def test_an_empty_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        prepared(np.zeros((0, 3), dtype=np.int64))


def test_the_modulus_has_slots_and_shares_fit_a_word() -> None:
    assert P % (2 * ROWS.size) == 1 and P < 1 << 61
    assert all(pow(base, P - 1, P) == 1 for base in (2, 3, 5, 7, 11))
