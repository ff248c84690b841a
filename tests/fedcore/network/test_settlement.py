"""Settlement: whole cents that add up to the pot, whatever is in it."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.errors import DataError
from fedcore.network.settlement import Prices, allot, reimbursements, settle
from tests.fedcore.network.nodes import ANNA, BERT
from tests.fedcore.network.used import record

NAMES = st.sampled_from([f"owner-{i}" for i in range(12)])
DUE = st.dictionaries(NAMES, st.decimals(0, 10**6, places=9), min_size=1, max_size=12)
VALUES = st.dictionaries(NAMES, st.floats(-1, 1, allow_subnormal=False), max_size=12)
GAIN = st.decimals(0, 10**6, places=2)
CENT = Decimal("0.01")


def settled(due: Mapping[str, Decimal], values: Mapping[str, float], gain: Decimal, **more: Any) -> Any:
    if gain and not any(value > 0 for value in values.values()):
        gain = Decimal(0)
    return settle(due, values, gain, **more)


@given(DUE, VALUES, GAIN)
def test_shares_add_up_to_the_pot_to_the_cent(
    due: dict[str, Decimal], values: dict[str, float], gain: Decimal
) -> None:
    found = settled(due, values, gain)
    assert sum(share.total for share in found.shares.values()) == found.pot
    for name, share in found.shares.items():
        assert share.total == share.total.quantize(CENT) and share.gain >= 0
        assert abs(share.reimbursed - due.get(name, Decimal(0))) < CENT


def test_who_is_due_whole_cents_gets_them_though_the_sum_is_rounded_down() -> None:
    due = {"small": Decimal("0.004"), "whole": Decimal("1000000.00")}
    found = settle(due, {})
    assert found.shares["whole"].reimbursed == due["whole"] and found.pot == due["whole"]


@given(DUE, VALUES, GAIN, st.randoms())
def test_the_order_of_names_changes_nothing(
    due: dict[str, Decimal], values: dict[str, float], gain: Decimal, rng: Any
) -> None:
    def shuffled(told: dict[str, Any]) -> dict[str, Any]:
        items = list(told.items())
        rng.shuffle(items)
        return dict(items)

    assert settled(shuffled(due), shuffled(values), gain) == settled(due, values, gain)


@given(DUE, VALUES, GAIN)
def test_who_contributed_nothing_or_did_harm_gets_none_of_the_gain_and_harm_is_reported(
    due: dict[str, Decimal], values: dict[str, float], gain: Decimal
) -> None:
    values = {**values, "null": 0.0, "harm": -0.5}
    found = settled(due, values, gain)
    for name in ("null", "harm"):
        assert found.shares[name].gain == 0 and found.shares[name].total == 0
    assert found.clipped["harm"] == -0.5 and "null" not in found.clipped
    assert all(value < 0 for value in found.clipped.values())


@given(DUE, st.floats(0.2, 1), GAIN)
def test_nobody_gets_more_of_the_gain_than_the_cap(
    due: dict[str, Decimal], cap: float, gain: Decimal
) -> None:
    values = {f"owner-{i}": 2.0**i for i in range(6)}
    part = Decimal(str(round(cap, 3)))
    found = settle(due, values, max(gain, Decimal(1)), cap=part)
    whole = sum(share.gain for share in found.shares.values())
    assert whole == max(gain, Decimal(1))
    assert all(share.gain <= part * whole for share in found.shares.values())
    assert sum(share.total for share in found.shares.values()) == found.pot


def test_what_the_cap_cuts_goes_to_the_others_in_proportion() -> None:
    found = settle({}, {"a": 8.0, "b": 3.0, "c": 1.0}, Decimal(100), cap=Decimal("0.4"))
    gains = {name: share.gain for name, share in found.shares.items()}
    # b would get 45 of the 60 that a leaves, so it is cut too.
    assert gains == {"a": Decimal("40.00"), "b": Decimal("40.00"), "c": Decimal("20.00")}
    assert {name for name, share in found.shares.items() if share.capped} == {"a", "b"}


def test_the_gain_is_split_in_proportion_and_left_cents_go_to_the_largest_remainders() -> None:
    found = settle({}, {"a": 1.0, "b": 1.0, "c": 1.0}, Decimal("0.05"))
    assert [share.gain for share in found.shares.values()] == [
        Decimal("0.02"),
        Decimal("0.02"),
        Decimal("0.01"),
    ]
    found = settle({}, {"a": 0.5, "b": 0.3, "c": 0.2}, Decimal(1000))
    # 0.3 and 0.2 are not decimals in binary: the cents are exact all the same.
    assert [str(share.gain) for share in found.shares.values()] == ["500.00", "300.00", "200.00"]


@pytest.mark.parametrize(("places", "pot"), [(0, "1000"), (2, "1000.00"), (3, "1000.000")])
def test_a_currency_without_cents_is_split_whole(places: int, pot: str) -> None:
    found = settle({"a": Decimal("333.3"), "b": Decimal("666.7")}, {}, places=places)
    assert str(found.pot) == pot
    assert sum(share.total for share in found.shares.values()) == Decimal(pot)


@pytest.mark.parametrize(
    ("due", "values", "gain", "more", "why"),
    [
        ({"a": Decimal(-1)}, {}, "0", {}, "0 or more"),
        ({"a": Decimal("NaN")}, {}, "0", {}, "0 or more"),
        ({}, {"a": float("nan")}, "1", {}, "finite"),
        ({}, {"a": float("inf")}, "1", {}, "finite"),
        ({}, {"a": 1.0}, "-1", {}, "the gain is -1"),
        ({}, {"a": 1.0}, "0.001", {}, "2 decimal places"),
        ({}, {"a": 1.0}, "Infinity", {}, "the gain is"),
        ({}, {"a": 0.0, "b": -1.0}, "1", {}, "nobody contributed"),
        ({"a": Decimal(5)}, {}, "1", {}, "nobody contributed"),
        ({}, {"a": 1.0, "b": 1.0}, "100", {"cap": Decimal("0.4")}, "at least 0.5"),
        ({}, {"a": 1.0}, "1", {"cap": Decimal(0)}, "the cap is 0"),
        ({}, {"a": 1.0}, "1", {"cap": Decimal(2)}, "the cap is 2"),
    ],
)
def test_what_cannot_be_settled_is_refused(due: Any, values: Any, gain: str, more: Any, why: str) -> None:
    with pytest.raises(DataError, match=why):
        settle(due, values, Decimal(gain), **more)


@given(st.dictionaries(NAMES, st.fractions(0, 100), min_size=1), st.integers(0, 10**6))
def test_an_allotment_is_within_a_cent_of_the_exact_part(weights: dict[str, Fraction], cents: int) -> None:
    whole = sum(weights.values())
    if whole == 0:
        return
    found = allot(cents, weights)
    assert sum(found.values()) == cents
    assert all(abs(found[name] - cents * weight / whole) < 1 for name, weight in weights.items())


# ---- what use costs --------------------------------------------------------------------------------------------


@given(st.floats(1e-6, 1e-3), st.integers(0, 10**12), st.decimals(0, 1000, places=4))
def test_twice_the_usage_is_reimbursed_twice(tflops_h: float, sent: int, price: Decimal) -> None:
    prices = {"anna": Prices(price, Decimal("0.5"))}
    once = reimbursements([record(tflops_h=tflops_h, bytes_up=sent)], prices)
    twice = reimbursements([record(tflops_h=2 * tflops_h, bytes_up=2 * sent)], prices)
    apart = reimbursements([record(tflops_h=tflops_h, bytes_up=sent) for _ in range(2)], prices)
    # Amounts are kept to 10^-12 of the currency.
    assert abs(twice.due["anna"] - 2 * once.due["anna"]) <= Decimal("2e-12")
    assert apart.due["anna"] == 2 * once.due["anna"]


def test_the_owners_price_counts_where_none_was_agreed() -> None:
    found = reimbursements([record(price="1.05"), record(BERT, price="2")], {"bert": Prices(Decimal(10**4))})
    assert found.due == {"anna": Decimal("1.05"), "bert": Decimal("2")}
    assert found.currency == "CNY"


def test_a_record_in_dispute_is_held_back() -> None:
    found = reimbursements([record(price="1"), record(price="5", sees={"bytes_up": 1})])
    assert found.due == {"anna": Decimal(1)} and found.held == {"anna": Decimal(5)}


def test_a_record_counts_once() -> None:
    one = record()
    with pytest.raises(DataError, match="counts once"):
        reimbursements([one, one])


def test_a_record_without_a_price_is_told_and_costs_nothing() -> None:
    plain = record(ANNA, price=None, currency=None, tflops_h=None)
    found = reimbursements([plain])
    assert found.due == {"anna": Decimal(0)} and found.unpriced == {"anna": 1} and found.currency == ""
    assert reimbursements([plain], {"anna": Prices(Decimal(1))}).unpriced == {"anna": 1}


def test_two_currencies_are_not_added_up() -> None:
    with pytest.raises(DataError, match="CNY, EUR"):
        reimbursements([record(), record(BERT, currency="EUR")])
