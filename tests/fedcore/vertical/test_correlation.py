"""Correlations of two parties against numpy's; inflation factors; messages that are none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from crypto.bfv.products import MODULUS
from crypto.errors import ProtocolError
from fedcore.errors import DataError
from fedcore.vertical.correlation import (
    MOST_VIF,
    correlate_label_holder,
    correlate_partner,
    correlations,
    inflation,
    partly_known_inflation,
)
from tests.fedcore.vertical.test_woe import changed
from tests.fedcore.vertical.two_parties import meet, ok


def both(
    x: np.ndarray, y: np.ndarray, spoil: Callable[[Any], Any] = lambda channel: channel
) -> tuple[Any, Any]:
    """The label holder's result with columns x, and the partner's with y."""
    holder, others = meet(
        lambda channels: correlate_label_holder(channels[0], x, y.shape[1]),
        {"telecom": lambda channel: correlate_partner(spoil(channel), y, x.shape[1])},
    )
    return holder, others["telecom"]


@pytest.mark.parametrize(("own", "others"), [(1, 1), (3, 2), (2, 70)])
def test_correlations_equal_those_of_the_columns_in_one_place(own: int, others: int) -> None:
    draw = np.random.default_rng(own + others)
    x = draw.normal(size=(900, own)) * 1000
    y = draw.normal(size=(900, others)) + x[:, :1] / 1000
    holder, partner = both(x, y)
    between, among = ok(holder)
    pooled = np.corrcoef(np.hstack([x, y]), rowvar=False).reshape(own + others, -1)
    assert between == pytest.approx(pooled[:own, own:], abs=1e-4)
    # Told to six digits.
    assert among == pytest.approx(pooled[own:, own:], abs=0.51e-6)
    assert ok(partner).tolist() == among.tolist()


def test_a_rare_value_far_from_the_rest_does_not_overflow() -> None:
    x = np.zeros((3000, 1))
    x[7] = 1e9
    between, _ = ok(both(x, -x)[0])
    assert between == pytest.approx(-1.0, abs=1e-4)


@pytest.mark.parametrize(("own", "others"), [(0, 2), (2, 0), (0, 0)])
def test_a_party_without_columns_has_no_correlations(own: int, others: int) -> None:
    holder, partner = both(np.ones((50, own)), np.arange(50.0 * others).reshape(50, others))
    between, among = ok(holder)
    assert between.shape == (own, others) and among.shape == (others, others) == ok(partner).shape


def test_so_few_rows_that_values_could_be_solved_are_refused_by_both() -> None:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(79, 3)), (draw.random((79, 1)) < 0.5).astype(float)
    for each in both(x, y):
        with pytest.raises(DataError, match=r"79 training rows for 3 columns .* so 80 are needed"):
            ok(each)
    ok(both(np.vstack([x, x[:1]]), np.vstack([y, y[:1]]))[0])


@pytest.mark.parametrize("step", ["correlation.products", "correlation.shares"])
def test_changed_ciphertexts_and_shares_are_refused(step: str) -> None:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(2, 300, 1))
    spoil = changed(
        step, lambda data: data[:-8] + bytes([data[-8] ^ 1, *data[-7:-2], data[-2] ^ 8, data[-1]])
    )
    holder, _ = both(x, y, spoil)
    with pytest.raises(ProtocolError):
        ok(holder)


def test_a_share_beyond_the_modulus_is_refused() -> None:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(2, 300, 1))
    more = changed(
        "correlation.shares", lambda data: (int.from_bytes(data, "little") + MODULUS).to_bytes(8, "little")
    )
    holder, _ = both(x, y, more)
    with pytest.raises(ProtocolError, match="a share beyond the modulus"):
        ok(holder)


def test_a_product_under_another_key_is_refused() -> None:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(2, 300, 1))
    kept: list[bytes] = []
    ok(both(x, y, changed("correlation.products", lambda data: (kept.append(data), data)[1]))[0])
    holder, _ = both(x, y, changed("correlation.products", lambda data: kept[0]))
    with pytest.raises(ProtocolError, match="another key"):
        ok(holder)


def test_an_exact_linear_relation_has_a_large_factor_and_not_an_error() -> None:
    draw = np.random.default_rng(4)
    x = draw.normal(size=(500, 2))
    columns = np.column_stack([x, x.sum(axis=1)])
    factors = inflation(correlations(columns))
    assert (factors == MOST_VIF).all()
    assert inflation(np.zeros((0, 0))).shape == (0,)
    constant = np.column_stack([x[:, 0], np.full(500, 0.1)])
    assert correlations(constant) == pytest.approx(np.eye(2))
    assert inflation(correlations(constant)) == pytest.approx([1, 1])


def test_inflation_between_partners_is_that_of_what_is_known() -> None:
    draw = np.random.default_rng(5)
    bank, telecom, shop = draw.normal(size=(3, 400)) + 2 * draw.normal(size=400)
    known = np.corrcoef([bank, telecom, shop])
    known[1, 2] = known[2, 1] = np.nan
    factors = partly_known_inflation(known, ["bank", "telecom", "shop"], "bank")
    pairs = [np.corrcoef(bank, each)[0, 1] for each in (telecom, shop)]
    expected = [1 / (1 - each**2) for each in pairs]
    assert factors == pytest.approx([max(expected), *expected], rel=1e-9)
    assert partly_known_inflation(known[:1, :1], ["bank"], "bank") == pytest.approx([1])
