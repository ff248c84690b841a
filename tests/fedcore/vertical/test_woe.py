"""Weights of evidence of two and three parties against a pooled computation; bad labels, columns, messages."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from crypto.errors import ProtocolError
from fedcore.errors import DataError, PeerLost
from fedcore.jobs.vertical import Bin
from fedcore.vertical.evidence import WoeResult, evidence
from fedcore.vertical.table import TRAIN, Table
from fedcore.vertical.woe import codes_of, woe_label_holder, woe_partner
from tests.fedcore.vertical.two_parties import customers, meet, ok

BINS = Bin(min_rows=20, prebins=16, max_bins=5, special={"late": (-9.0,)})


def together(
    bank: Table, *partners: Table, settings: Bin = BINS, spoil: Callable[[Any], Any] = lambda channel: channel
) -> tuple[Any, dict[str, Any]]:
    names = ["telecom", "shop"][: len(partners)]
    return meet(
        lambda channels: woe_label_holder(channels, bank, settings, owner="bank"),
        {
            name: lambda channel, table=table, name=name: woe_partner(
                spoil(channel), table, settings, owner=name
            )
            for name, table in zip(names, partners, strict=True)
        },
    )


def pooled(codes: list[int], label: list[float]) -> tuple[list[float], float]:
    """Weights of evidence by bin and the information value, row by row in plain Python."""
    bads, goods = sum(label), len(label) - sum(label)
    woe, iv = [], 0.0
    for code in range(max(codes) + 1):
        bad = sum(1 for c, y in zip(codes, label, strict=True) if c == code and y == 1)
        good = sum(1 for c, y in zip(codes, label, strict=True) if c == code and y == 0)
        if bad + good == 0:
            woe.append(0.0)
            continue
        if bad == 0 or good == 0:
            bad, good = bad + 0.5, good + 0.5
        woe.append(math.log((bad / bads) / (good / goods)))
        iv += (bad / bads - good / goods) * woe[-1]
    return woe, iv


def test_partners_weights_equal_those_of_a_pooled_computation() -> None:
    bank, telecom = customers()
    holder, others = together(bank, telecom)
    holder, partner = ok(holder), ok(others["telecom"])
    rows = bank.rows(TRAIN)
    label = bank.label[rows].tolist()
    for known, table in ((holder, bank), (partner, telecom)):
        assert [each.name for each in known.own] == list(table.columns)
        for each in known.own:
            codes = codes_of(table, each)[rows].tolist()
            woe, iv = pooled(codes, label)
            assert each.woe[: len(woe)] == pytest.approx(woe, abs=1e-12), each.name
            assert each.iv == pytest.approx(iv, abs=1e-12)
            assert each.rows.tolist() == [codes.count(code) for code in range(len(each.woe))]
    # A bin with more bad rows than the average has a positive weight.
    late = partner["late"]
    assert late.woe[late.regular - 1] > 0 and late.labels[-2:] == ("-9", "missing")


def test_both_sides_know_the_same_of_a_partners_variable_but_for_what_it_is() -> None:
    bank, telecom = customers()
    holder, others = together(bank, telecom)
    anonymous = [each for each in ok(holder).variables if each.owner == "telecom"]
    own = {each.number: each for each in ok(others["telecom"]).variables}
    assert [each.name for each in anonymous] == ["telecom 0", "telecom 1", "telecom 2"]
    for each in anonymous:
        theirs = own[each.number]
        assert each.woe.tolist() == theirs.woe.tolist() and each.iv == theirs.iv
        assert each.rows.tolist() == theirs.rows.tolist() == (each.good + each.bad).tolist()
        assert each.ordered == theirs.ordered and each.regular == theirs.regular
        assert each.bins is None and theirs.good is None and theirs.bad is None
        assert not set(each.labels) & {"home", "late", "usage"} and len(each.labels) == len(each.woe)
        assert np.nanmax(each.bad_rate) <= 1 and theirs.bad_rate is None


def test_a_partners_column_has_the_bins_it_would_have_at_the_label_holder() -> None:
    bank, telecom = customers()
    _, others = together(bank, telecom)
    alone, _ = meet(
        lambda channels: woe_label_holder(channels, Table(telecom.columns, bank.part, bank.label), BINS), {}
    )
    for name in telecom.columns:
        assert ok(others["telecom"])[name].bins == ok(alone)[name].bins
        assert ok(others["telecom"])[name].woe.tolist() == ok(alone)[name].woe.tolist()


def test_bad_rates_of_regular_bins_rise_or_fall_and_bins_keep_their_share() -> None:
    bank, telecom = customers()
    holder, _ = together(bank, telecom)
    for each in ok(holder).variables:
        rates = each.bad_rate[: each.regular].tolist()
        pairs = list(itertools.pairwise(rates))
        assert all(a < b for a, b in pairs) or all(a > b for a, b in pairs)
        assert each.regular <= 5 and (each.rows[: each.regular] >= 0.05 * len(bank.rows(TRAIN))).all()


def test_quantile_bins_are_not_merged_by_their_bad_rate() -> None:
    bank, telecom = customers()
    settings = Bin(method="quantile", max_bins=4, min_rows=20)
    holder, _ = together(bank, telecom, settings=settings)
    assert ok(holder)["noise"].regular == 4


def test_two_partners_with_equal_column_names_stay_apart() -> None:
    bank, telecom = customers()
    shop = Table({"usage": -telecom.columns["usage"]}, telecom.part)
    holder, others = together(bank, telecom, shop)
    assert [each.name for each in ok(holder).variables][-1] == "shop 0"
    assert ok(others["shop"])["usage"].iv == pytest.approx(ok(others["telecom"])["usage"].iv, rel=0.5)
    bank = Table({**bank.columns, "usage": telecom.columns["usage"]}, bank.part, bank.label)
    holder, _ = together(bank, telecom)
    assert len(ok(holder).variables) == 7


def test_a_column_named_like_a_partners_variable_is_refused() -> None:
    bank, telecom = customers()
    bank = Table({"telecom 1": bank.columns["age"]}, bank.part, bank.label)
    holder, _ = together(bank, telecom)
    with pytest.raises(DataError, match="two variables are named 'telecom 1'; rename the column"):
        ok(holder)


def test_a_party_without_columns_takes_part() -> None:
    bank, telecom = customers(400)
    holder, others = together(bank, Table({}, telecom.part))
    assert len(ok(holder).variables) == 3 and ok(others["telecom"]).variables == ()
    holder, others = together(Table({}, bank.part, bank.label), telecom)
    assert len(ok(holder).variables) == 3 and ok(holder).own == ()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_label_with_one_class_is_refused_before_anything_is_sent(value: float) -> None:
    bank, telecom = customers(400)
    holder, others = together(Table(bank.columns, bank.part, np.full(400, value)), telecom)
    with pytest.raises(DataError, match=f"label: none of .* training rows is {1 - int(value)}; both classes"):
        ok(holder)
    assert isinstance(others["telecom"], PeerLost)


def test_labels_that_are_not_0_and_1_are_refused_with_their_number() -> None:
    bank, telecom = customers(400)
    label = bank.label.copy()
    label[bank.rows(TRAIN)[:3]] = [2.0, np.nan, 0.5]
    holder, _ = together(Table(bank.columns, bank.part, label), telecom)
    with pytest.raises(DataError, match=r"label: 3 of .* training rows are neither 0 nor 1"):
        ok(holder)
    holder, _ = together(Table(bank.columns, bank.part), telecom)
    with pytest.raises(DataError, match="label: the table has none"):
        ok(holder)


@pytest.mark.parametrize("part", [0, 1])
def test_infinite_values_of_any_part_are_refused_at_their_party(part: int) -> None:
    bank, telecom = customers(400)
    telecom.columns["usage"][telecom.rows(part)[:2]] = np.inf
    holder, others = together(bank, telecom)
    with pytest.raises(DataError, match="column 'usage': 2 infinite values"):
        ok(others["telecom"])
    assert isinstance(holder, PeerLost)


def test_constant_all_missing_high_cardinality_and_leaking_columns_have_bins() -> None:
    bank, telecom = customers()
    rows = len(telecom)
    odd = {
        "constant": np.ones(rows),
        "empty": np.full(rows, np.nan),
        "identifier": np.array([f"p{i}" for i in range(rows)], dtype=object),
        "leak": bank.label + 0.0,
    }
    _, others = together(bank, Table(odd, telecom.part))
    found = ok(others["telecom"])
    for name in ("constant", "empty", "identifier"):
        assert np.count_nonzero(found[name].rows) == 1 and found[name].iv == 0 and not found[name].woe.any()
    assert found["empty"].missing == 1
    assert found["leak"].iv > 5 and np.isfinite(found["leak"].woe).all()
    assert found["leak"].woe[1] > 0 > found["leak"].woe[0]


def test_fewer_training_rows_than_a_bin_must_have_are_refused() -> None:
    bank, telecom = customers(400)
    holder, _ = together(bank, telecom, settings=Bin(min_rows=300))
    with pytest.raises(DataError, match="a bin has 300 at least"):
        ok(holder)


def test_no_total_of_a_bin_that_is_too_small_leaves_the_partner() -> None:
    bank, telecom = customers(400)
    told: list[Any] = []

    def watched(channel: Any) -> Any:
        send = channel.send
        channel.send = lambda step, data: (told.append((step, bytes(data))), send(step, data))[1]
        return channel

    holder, _ = together(bank, telecom, spoil=watched)
    ok(holder)
    variables = json.loads(next(data for step, data in told if step == "woe.variables"))
    assert len(variables) == 3
    for ordered, regular, rows in variables:
        assert isinstance(ordered, bool) and regular < len(rows)
        assert sum(rows) == len(bank.rows(TRAIN)) and all(each == 0 or each >= 20 for each in rows)
    plain = b"".join(data for step, data in told if not step.startswith("woe.sums"))
    assert not any(name.encode() in plain for name in ("home", "late", "usage", "north"))


def test_the_partner_draws_another_order_each_time() -> None:
    bank, _ = customers(200)
    many = Table({f"c{i}": np.arange(200.0) for i in range(12)}, bank.part)
    orders = {
        tuple(each.number for each in ok(together(bank, many)[1]["telecom"]).variables) for _ in range(3)
    }
    assert len(orders) > 1


def test_rows_or_settings_that_differ_are_told_to_both() -> None:
    bank, telecom = customers(400)
    holder, others = together(bank, Table(telecom.columns, np.zeros(400, dtype=np.int8)))
    for each in (holder, others["telecom"]):
        with pytest.raises(ProtocolError, match=r"option rows.* match them again"):
            ok(each)
    holder, others = meet(
        lambda channels: woe_label_holder(channels, bank, BINS),
        {"telecom": lambda channel: woe_partner(channel, telecom, BINS.model_copy(update={"min_rows": 30}))},
    )
    for each in (holder, others["telecom"]):
        with pytest.raises(ProtocolError, match="option min_rows"):
            ok(each)


def changed(step: str, change: Callable[[bytes], bytes]) -> Callable[[Any], Any]:
    """A channel that changes what it sends at a step."""

    def wrap(channel: Any) -> Any:
        send = channel.send
        channel.send = lambda at, data: send(at, change(bytes(data)) if at.startswith(step) else data)
        return channel

    return wrap


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda data: b"{", "no JSON"),
        (lambda data: b"[" * 100_000, "no JSON"),
        (lambda data: b"{}", "no list"),
        (lambda data: b"[[true, 1, [1, 2]]]", "variable 0 is no list of bins with"),
        (lambda data: b'[["x", 1, [1, 2]]]', "variable 0 is no list of bins with"),
        (lambda data: data.replace(b"[", b"[[", 1), "no JSON"),
        (
            lambda data: json.dumps([[True, 1, [sum(json.loads(data)[0][2]) - 3, 3]]]).encode(),
            "fewer than 20 rows",
        ),
        (lambda data: json.dumps([[True, 9, json.loads(data)[0][2][:2]]]).encode(), "variable 0 is no list"),
    ],
)
def test_a_list_of_variables_that_is_none_is_refused(change: Callable[[bytes], bytes], told: str) -> None:
    bank, telecom = customers(400)
    holder, _ = together(bank, telecom, spoil=changed("woe.variables", change))
    with pytest.raises(ProtocolError, match=rf"woe\.variables: .*{told}"):
        ok(holder)


def test_a_tampered_ciphertext_is_refused() -> None:
    bank, telecom = customers(400)
    holder, _ = together(
        bank, telecom, spoil=changed("woe.sums", lambda data: data[:-200] + bytes(100) + data[-100:])
    )
    # It opens to other totals, or not at all, as the change happens to fall.
    with pytest.raises(ProtocolError, match=r"an answer does not open|do not come to the label's"):
        ok(holder)


def test_totals_that_do_not_fit_the_rows_that_were_told_are_refused() -> None:
    bank, telecom = customers(400)
    bank = Table(bank.columns, bank.part, 1 - bank.label)

    def swapped(data: bytes) -> bytes:
        ((ordered, regular, rows),) = json.loads(data)
        return json.dumps([[ordered, regular, [rows[1], rows[0], rows[2]]]]).encode()

    partner = Table({"usage": bank.label.copy()}, telecom.part)
    assert len(ok(together(bank, partner)[0]).variables) == 4
    holder, _ = together(bank, partner, spoil=changed("woe.variables", swapped))
    with pytest.raises(
        ProtocolError, match=r"woe\.sums: the totals of variable 0 do not come to the label's"
    ):
        ok(holder)


def test_totals_that_do_not_come_to_all_bad_rows_are_refused() -> None:
    bank, telecom = customers(400)
    partner = Table({"half": np.arange(400) % 2 + 0.0, "constant": np.ones(400)}, telecom.part)
    # Rows of one variable are told as those of the other, so that totals fall into wrong bins.
    spoil = changed("woe.variables", lambda data: json.dumps(json.loads(data)[::-1]).encode())
    holder, _ = together(bank, partner, spoil=spoil)
    with pytest.raises(ProtocolError, match="do not come to the label's"):
        ok(holder)


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found[:-1],
        lambda found: [[[[0]], *found[0][1:]], *found[1:]],
        lambda found: [[found[0][0], found[0][1][:-1], found[0][2]], *found[1:]],
        lambda found: [[found[0][0], [float("nan")] * len(found[0][1]), found[0][2]], *found[1:]],
        lambda found: [[found[0][0], found[0][1], "x"], *found[1:]],
        lambda found: [[found[0][0], found[0][1], 10**400], *found[1:]],
        lambda found: [[[[math.inf]], found[0][1], found[0][2]], *found[1:]],
        lambda found: [7],
    ],
)
def test_weights_that_do_not_fit_the_bins_are_refused(change: Callable[[Any], Any]) -> None:
    bank, telecom = customers(400)
    wrap = changed("woe.merged", lambda data: json.dumps(change(json.loads(data))).encode())
    _, others = meet(
        lambda channels: woe_label_holder([wrap(each) for each in channels], bank, BINS),
        {"telecom": lambda channel: woe_partner(channel, telecom, BINS)},
    )
    with pytest.raises(ProtocolError, match=r"woe\.merged: what came of variable"):
        ok(others["telecom"])


def test_results_survive_json() -> None:
    bank, telecom = customers(400)
    holder, others = together(bank, telecom)
    for known in (ok(holder), ok(others["telecom"])):
        again = WoeResult.from_dict(json.loads(json.dumps(known.as_dict())))
        assert again.as_dict() == known.as_dict()
    found = ok(holder).as_dict()
    found["variables"][0]["woe"].pop()
    with pytest.raises(DataError, match="lists have different lengths"):
        WoeResult.from_dict(found)


def test_transformed_columns_are_the_weights_of_their_bins() -> None:
    bank, telecom = customers(400)
    _, others = together(bank, telecom)
    known = ok(others["telecom"])
    x = known.transformed(telecom, ["late", "home"])
    assert x.shape == (400, 2)
    assert x[telecom.columns["late"] == -9, 0] == pytest.approx(known["late"].woe[-2])
    with pytest.raises(DataError, match="column 'home' is not in the table"):
        known.transformed(Table({}, telecom.part))
    anonymous = ok(together(bank, telecom)[0])["telecom 0"]
    with pytest.raises(DataError, match="'telecom 0' is of telecom; only its owner"):
        codes_of(bank, anonymous)


def test_a_bin_of_one_class_counts_half_a_row_more_of_both_and_an_empty_one_weighs_nothing() -> None:
    woe, parts = evidence([10, 0, 40, 0], [0, 5, 5, 0], 50, 10)
    assert woe[0] == pytest.approx(math.log((0.5 / 10) / (10.5 / 50)))
    assert woe[1] == pytest.approx(math.log((5.5 / 10) / (0.5 / 50)))
    assert woe[2] == pytest.approx(math.log((5 / 10) / (40 / 50)))
    assert woe[3] == 0 and parts[3] == 0 and (parts >= 0).all()
