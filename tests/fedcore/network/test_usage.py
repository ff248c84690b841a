"""Usage records: both sides' signatures, disputes, and what cannot be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.errors import DataError, IdentityError
from fedcore.network.usage import (
    UsageRecord,
    check_record,
    check_said,
    differences,
    read_record,
    read_said,
    record_of,
    sign_said,
)
from tests.fedcore.network.nodes import ANNA, BERT, HUB, PINS, party
from tests.fedcore.network.used import record, said, seen


def changed_json(path: tuple[str, ...], value: Any) -> UsageRecord:
    told = record().to_json()
    inner: Any = told
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return read_record(told)


def test_a_record_of_both_is_believed_and_survives_its_file() -> None:
    made = record()
    check_record(made, PINS)
    again = read_record(made.to_json())
    assert again == made and made.disputes == ()
    check_record(again, PINS)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("said", "seconds"), 9.0),
        (("said", "price"), "0.01"),
        (("said", "owner"), "bert"),
        (("said", "samples"), None),
        (("seen", "seconds"), 10.1),
        (("seen", "bytes_up"), 3001),
        (("seen", "other_up"), 7),
        (("coordinator",), "anna"),
    ],
)
def test_a_record_that_was_changed_in_any_place_is_refused(path: tuple[str, ...], value: Any) -> None:
    with pytest.raises(IdentityError, match="not signed by"):
        check_record(changed_json(path, value), PINS)


def test_a_signature_of_another_party_or_none_is_refused() -> None:
    half = said()
    forged = half.model_copy(update={"owner": "bert"})
    for signature in (sign_said(half, ANNA), "", "bm90IGEgc2lnbmF0dXJl", "%"):
        with pytest.raises(IdentityError):
            check_said(forged, signature, PINS)
    with pytest.raises(IdentityError, match="the owner's key"):
        sign_said(half, BERT)
    stranger = party("anna")
    with pytest.raises(IdentityError):
        check_said(half, sign_said(half, stranger), PINS)
    with pytest.raises(IdentityError, match="roster"):
        check_said(half, sign_said(half, ANNA), {"bert": BERT.public_line})


def test_an_owner_cannot_sign_for_the_coordinator() -> None:
    half = said()
    by_owner = record_of(half, sign_said(half, ANNA), seen(half), identity=ANNA)
    check_record(by_owner, PINS)
    with pytest.raises(IdentityError):
        check_record(replace(by_owner, coordinator="hub"), PINS)


def test_without_keys_nothing_is_asked_but_of_whom_a_key_is_known() -> None:
    check_said(said(), "", {}, signed=False)
    with pytest.raises(IdentityError, match="not signed"):
        check_said(said(), "", PINS, signed=False)


@pytest.mark.parametrize(
    ("sees", "what"),
    [
        ({"bytes_up": 2800}, "bytes_up"),
        ({"bytes_up": 3200}, "bytes_up"),
        ({"bytes_down": 0}, "bytes_down"),
        ({"seconds": 9.4}, "seconds"),
        ({"seconds": 10.7}, "seconds"),
        ({"seconds": 20.0, "waiting": 9.0}, "seconds"),
        ({"result": "cd" * 32}, "result"),
    ],
)
def test_a_difference_above_five_percent_is_a_dispute_that_the_record_tells(sees: Any, what: str) -> None:
    made = record(sees=sees)
    assert len(made.disputes) == 1 and made.disputes[0].startswith(what)
    check_record(made, PINS)
    hidden = replace(made, disputes=())
    with pytest.raises(IdentityError):
        check_record(hidden, PINS)
    resigned = record_of(hidden.said, hidden.owner_signature, hidden.seen, identity=HUB)
    assert resigned.disputes == made.disputes


def test_a_dispute_that_is_not_told_is_refused_even_without_signatures() -> None:
    made = record(sees={"bytes_up": 2000})
    with pytest.raises(DataError, match="other disputes"):
        check_record(replace(made, disputes=()), {}, signed=False)


@pytest.mark.parametrize(
    "sees",
    [
        {"bytes_up": 2860},
        {"seconds": 9.6},
        {"seconds": 10.5},
        {"seconds": 60.0, "waiting": None},
        {"seconds": 19.0, "waiting": 9.0},
        {"bytes_up": None, "bytes_down": None},
    ],
)
def test_what_is_within_five_percent_or_was_not_seen_is_no_dispute(sees: Any) -> None:
    assert record(sees=sees).disputes == ()


def test_waiting_that_nobody_knows_excuses_less_time_and_never_more() -> None:
    assert record(sees={"seconds": 9.0, "waiting": None}).disputes


@given(st.floats(0.2, 1e6), st.floats(0.5, 2.0))
def test_time_is_in_dispute_exactly_when_it_is_off_by_more_than_five_percent(
    seconds: float, factor: float
) -> None:
    if 0.049 < abs(factor - 1) < 0.051:
        return
    half = said(
        seconds=seconds * factor,
        tflops_h=None,
        kwh=None,
        gco2_location=None,
        gas_location=None,
        cpu_seconds=None,
    )
    assert bool(differences(half, seen(half, seconds=seconds))) == (abs(factor - 1) > 0.05)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"seconds": -1.0}, "seconds"),
        ({"seconds": float("nan")}, "seconds"),
        ({"seconds": float("inf")}, "seconds"),
        ({"pue": 0.8}, "pue"),
        ({"pue": 5.0}, "pue"),
        ({"tflops_h": 1e6}, "tflops_h is 1e\\+06 in 10 s"),
        ({"kwh": 1e4}, "kwh"),
        ({"gco2_location": 1e4}, "gco2_location"),
        ({"cpu_seconds": 1e9}, "cpu_seconds"),
        ({"price": "-1"}, "price"),
        ({"price": "NaN"}, "price"),
        ({"price": "1e99"}, "price"),
        ({"price": "much"}, "price"),
        ({"price": None}, "price needs its unit"),
        ({"gas_location": None}, "gco2_location needs its unit"),
        ({"gas_location": "methane"}, "gas_location"),
        ({"bytes_up": -1}, "bytes_up"),
        ({"bytes_up": 1.5}, "bytes_up"),
        ({"samples": True}, "samples"),
        ({"id": "short"}, "id"),
        ({"owner": "../anna"}, "owner"),
        ({"end": "yesterday"}, "end"),
        ({"end": "2026-03-01T11:00:00+00:00"}, "before it starts"),
        ({"start": "2026-03-01T12:00:00"}, "time zone"),
        ({"version": 2}, "version"),
        ({"bonus": 1}, "bonus"),
        ({"step": "x" * 100}, "step"),
    ],
)
def test_a_half_that_cannot_be_is_refused(changed: dict[str, Any], why: str) -> None:
    with pytest.raises(DataError, match=why):
        read_said({**said().to_json(), **changed})


@pytest.mark.parametrize("told", [None, 3, [], {}, {"said": 1}, {"disputes": "none", "said": {}, "seen": {}}])
def test_what_is_no_record_is_refused(told: Any) -> None:
    with pytest.raises(DataError, match="no usage record"):
        read_record(told if isinstance(told, dict) else {"said": told})


def test_energy_is_with_pue_where_that_is_known() -> None:
    assert said().energy == pytest.approx(0.0005)
    assert said(pue=None).energy == pytest.approx(0.0004)
    assert said(kwh=None, gco2_location=None, gas_location=None).energy is None
