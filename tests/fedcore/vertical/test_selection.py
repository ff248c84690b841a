"""Selection: every rule with its reason, correlations against the pooled ones, signs after a fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from crypto.errors import ProtocolError
from fedcore.errors import DataError
from fedcore.jobs.vertical import Bin, Select
from fedcore.vertical.evidence import WoeResult
from fedcore.vertical.selection import (
    Selection,
    by_sign,
    select_label_holder,
    select_partner,
    sign_label_holder,
    sign_partner,
)
from fedcore.vertical.stability import stability
from fedcore.vertical.table import Table
from fedcore.vertical.woe import woe_label_holder, woe_partner
from tests.fedcore.vertical.test_woe import changed
from tests.fedcore.vertical.two_parties import customers, meet, ok

BINS = Bin(min_rows=20, prebins=16, max_bins=5, special={"late": (-9.0,)})
OPEN = Select(iv=(1e-9, 1e9), correlation=1.0, vif=1e9, stability=1e9, missing=1.0)


def both(
    bank: Table,
    *partners: Table,
    rules: Select = OPEN,
    theirs: Select | None = None,
    spoil: Callable[[Any], Any] = lambda channel: channel,
    spoil_holder: Callable[[Any], Any] = lambda channel: channel,
) -> tuple[Any, dict[str, Any]]:
    """Bin and select; at each party its variables and its selection."""

    def holder(channels: list[Any]) -> tuple[WoeResult, Selection]:
        found = woe_label_holder(channels, bank, BINS, owner="bank")
        return found, select_label_holder([spoil_holder(each) for each in channels], found, bank, rules)

    def partner(channel: Any, table: Table, name: str) -> tuple[WoeResult, Selection]:
        found = woe_partner(channel, table, BINS, owner=name)
        return found, select_partner(spoil(channel), found, table, theirs or rules)

    names = ["telecom", "shop"][: len(partners)]
    return meet(
        holder,
        {
            name: lambda channel, table=table, name=name: partner(channel, table, name)
            for name, table in zip(names, partners, strict=True)
        },
    )


def number_of(found: WoeResult, name: str) -> str:
    """What the label holder calls a partner's variable."""
    return f"{found[name].owner} {found[name].number}"


def test_correlations_and_inflation_equal_those_of_the_pooled_columns() -> None:
    bank, telecom = customers()
    holder, others = both(bank, telecom)
    (result, selection), (theirs, own) = ok(holder), ok(others["telecom"])
    rows = bank.rows(0)
    by_name = {each.name: result.transformed(bank, [each.name])[rows, 0] for each in result.own}
    by_name |= {
        number_of(theirs, each.name): theirs.transformed(telecom, [each.name])[rows, 0] for each in theirs.own
    }
    pooled = np.corrcoef(np.column_stack([by_name[name] for name in selection.correlated]), rowvar=False)
    assert selection.correlated == tuple(each.name for each in result.variables)
    assert selection.correlation == pytest.approx(pooled, abs=1e-4)
    vif = np.diag(np.linalg.inv(pooled))
    assert [selection.vif[name] for name in selection.correlated] == pytest.approx(vif.tolist(), rel=1e-3)
    assert set(selection.kept) == set(by_name)
    assert selection.own(result) == tuple(bank.columns) and own.own(theirs) == tuple(telecom.columns)
    # Between its own columns a partner knows them too, in the order of its numbers.
    place = [selection.correlated.index(number_of(theirs, name)) for name in own.correlated]
    assert own.correlation == pytest.approx(pooled[np.ix_(place, place)], abs=0.51e-6) and own.vif == {}


def test_stability_is_that_of_the_owners_columns() -> None:
    bank, telecom = customers()
    telecom.columns["usage"][telecom.part == 2] += 2
    holder, others = both(bank, telecom)
    (_, selection), (theirs, own) = ok(holder), ok(others["telecom"])
    assert own.stability == stability(telecom, theirs)
    assert set(own.stability["usage"]) == {"test", "out of time"}
    assert own.stability["usage"]["out of time"] > 0.25 > own.stability["usage"]["test"]
    # Told to four digits.
    assert selection.stability[number_of(theirs, "usage")] == pytest.approx(
        own.stability["usage"], abs=0.51e-4
    )


def test_a_part_without_rows_has_no_index() -> None:
    bank, telecom = customers(600)
    part = np.where(telecom.part == 2, np.int8(1), telecom.part)
    holder, others = both(
        Table(bank.columns, part, bank.label), Table(telecom.columns, part), rules=Select(iv=(1e-9, 1e9))
    )
    assert set(ok(holder)[1].stability["age"]) == {"test"} == set(ok(others["telecom"])[1].stability["late"])


def test_each_rule_removes_with_its_figures() -> None:
    bank, telecom = customers()
    rows = len(bank)
    draw = np.random.default_rng(1)
    moved = bank.columns["age"] + 0.0
    moved[bank.part == 2] += 60
    mostly = np.where(draw.random(rows) < 0.97, np.nan, bank.columns["age"])
    bank = Table({**bank.columns, "constant": np.ones(rows), "moved": moved}, bank.part, bank.label)
    leak = np.where(draw.random(rows) < 0.01, 1 - bank.label, bank.label)
    twin = telecom.columns["late"] + 0.0
    flip = draw.random(rows) < 0.05
    twin[flip] = draw.permutation(twin[flip])
    odd = {**telecom.columns, "leak": leak, "twin": twin, "empty": np.full(rows, np.nan), "mostly": mostly}
    rules = Select(iv=(0.05, 5.0), correlation=0.8, missing=0.9)
    holder, others = both(bank, Table(odd, telecom.part), rules=rules)
    (result, selection), (theirs, own) = ok(holder), ok(others["telecom"])
    why = selection.reasons
    assert why["constant"] == "all training rows are in one bin"
    assert why["noise"] == f"its information value is {result['noise'].iv:.4f}; at least 0.05 is asked for"
    index = selection.stability["moved"]["out of time"]
    assert why["moved"] == (
        f"its stability index of training against out of time rows is {index:.3f}; at most 0.25 is allowed"
    )
    assert own.reasons["empty"] == "all training rows are in one bin"
    told = f"{theirs['mostly'].missing:.1%} of training rows are missing; at most 90.0% are allowed"
    assert own.reasons["mostly"] == told == why[number_of(theirs, "mostly")]
    assert own.suspected == ("leak",) and selection.suspected == (number_of(theirs, "leak"),)
    assert "above 5: it probably knows the label" in own.reasons["leak"]
    gone, stays = sorted(("late", "twin"), key=lambda name: theirs[name].iv)
    assert gone not in own.kept and stays in own.kept
    assert own.reasons[gone] == (
        "correlates beyond 0.8 with a variable of this or another party, and has the lower information value"
    )
    assert number_of(theirs, stays) in why[number_of(theirs, gone)]
    assert [each.rule for each in own.removed if each.name == gone] == ["correlation"]
    # Both agree on what is left.
    assert {number_of(theirs, name) for name in own.kept} | set(selection.own(result)) == set(selection.kept)


def test_the_label_holders_own_column_goes_when_a_partners_like_it_tells_more() -> None:
    bank, telecom = customers()
    worse = telecom.columns["late"] + 0.0
    worse[:100] = np.random.default_rng(2).permutation(worse[:100])
    bank = Table({"worse": worse, "age": bank.columns["age"]}, bank.part, bank.label)
    telecom = Table({"late": telecom.columns["late"]}, telecom.part)
    holder, others = both(bank, telecom, rules=Select(iv=(1e-9, 1e9), correlation=0.7))
    result, selection = ok(holder)
    names = ("worse", "telecom 0")
    gone = min(names, key=lambda name: result[name].iv)
    assert set(selection.kept) == {"age", *names} - {gone}
    assert selection.reasons[gone].startswith("correlates 0.") and "beyond 0.7" in selection.reasons[gone]
    if gone == "worse":
        assert ok(others["telecom"])[1].kept == ("late",)


def test_the_largest_inflation_goes_until_none_is_too_large() -> None:
    bank, telecom = customers()
    draw = np.random.default_rng(3)
    first, second, third = bank.columns["age"] + draw.normal(scale=3, size=(3, len(bank)))
    telecom = Table({"third": third}, telecom.part)
    bank = Table({"first": first, "second": second}, bank.part, bank.label)
    rules = Select(iv=(1e-12, 1e9), correlation=0.99, vif=3.0, stability=1e9)
    holder, others = both(bank, telecom, rules=rules)
    result, selection = ok(holder)
    assert len(selection.kept) < 3 and {each.rule for each in selection.removed} == {"vif"}
    gone = selection.removed[0]
    assert selection.vif[gone.name] > 3 and all(selection.vif[name] <= 3 for name in selection.kept)
    assert gone.reason == (
        f"its variance inflation factor is {selection.vif[gone.name]:.1f}; at most 3 is allowed"
    )
    if gone.name == "telecom 0":
        (told,) = ok(others["telecom"])[1].removed
        assert told.reason == "its variance inflation factor is above 3"
    assert result.variables[-1].name == "telecom 0"


def test_between_two_partners_correlations_are_not_known() -> None:
    bank, telecom = customers()
    shop = Table({"usage": telecom.columns["usage"]}, telecom.part)
    holder, others = both(bank, telecom, shop, rules=Select(iv=(1e-9, 1e9), correlation=0.9))
    _, selection = ok(holder)
    owners = np.array([name.split()[0] for name in selection.correlated])
    unknown = np.isnan(selection.correlation)
    assert unknown[np.ix_(owners == "telecom", owners == "shop")].all()
    assert unknown.sum() == 2 * 3 * 1
    # The same column at both partners stays: nobody can see that.
    assert "shop 0" in selection.kept and len(ok(others["telecom"])[1].kept) == 3
    again = Selection.from_dict(json.loads(json.dumps(selection.as_dict())))
    assert again.as_dict() == selection.as_dict()


def test_nothing_left_is_an_error_at_both_that_names_the_rules_that_removed_most() -> None:
    bank, telecom = customers()
    bank.columns["constant"] = np.ones(len(bank))
    rules = Select(iv=(50.0, 60.0))
    holder, others = both(bank, telecom, rules=rules)
    with pytest.raises(
        DataError,
        match=r"no variable is left \(information value removed 6, one value removed 1\); widen select.iv",
    ):
        ok(holder)
    with pytest.raises(DataError, match=r"no variable is left \(information value removed 3\)"):
        ok(others["telecom"])


def test_a_party_may_be_left_with_nothing_while_others_are_not() -> None:
    bank, telecom = customers(600)
    noise = Table({"constant": np.ones(600)}, telecom.part)
    holder, others = both(bank, noise)
    assert len(ok(holder)[1].kept) == 3 and ok(others["telecom"])[1].kept == ()
    holder, others = both(Table({"constant": np.ones(600)}, bank.part, bank.label), telecom)
    assert ok(holder)[1].own(ok(holder)[0]) == () and len(ok(others["telecom"])[1].kept) == 3


def test_rules_or_rows_that_differ_are_told_to_both() -> None:
    bank, telecom = customers(600)
    holder, others = both(bank, telecom, theirs=OPEN.model_copy(update={"vif": 5.0}))
    for each in (holder, others["telecom"]):
        with pytest.raises(ProtocolError, match=r"option vif.*the rules from one job"):
            ok(each)


@pytest.mark.parametrize(
    ("step", "data"),
    [
        ("select.stability", b"{}"),
        ("select.stability", b"["),
        ("select.stability", b'[{"test": -1.0}]'),
        ("select.stability", b"[{}]"),
        ("select.stability", b"[" * 100_000),
        ("select.stability", b'[{"test": 1%s, "out of time": 0.1}]' % (b"0" * 400)),
        ("correlation.shares", bytes([255]) * 24),
        ("correlation.own", np.array([7.0]).tobytes()),
        ("correlation.own", np.array([np.nan]).tobytes()),
        ("correlation.shares", bytes(23)),
    ],
)
def test_what_a_partner_sends_is_checked(step: str, data: bytes) -> None:
    bank, telecom = customers(600)
    telecom = Table({"usage": telecom.columns["usage"]}, telecom.part)
    holder, _ = both(bank, telecom, spoil=changed(step, lambda _: data))
    with pytest.raises(ProtocolError, match=r"select|correlation"):
        ok(holder)


@pytest.mark.parametrize(
    ("step", "data"),
    [
        ("select.left", b"[]"),
        ("select.left", b'{"left": [9], "own": 1, "any": true}'),
        ("select.left", b'{"left": [0, 0], "own": 1, "any": true}'),
        ("select.left", b'{"left": [0], "own": -1, "any": true}'),
        ("select.kept", b"[]"),
        ("select.kept", b'[["whim", "because"]]'),
        ("select.kept", b'[["vif"]]'),
        ("select.kept", b'[[["vif"], "because"]]'),
    ],
)
def test_what_the_label_holder_sends_is_checked(step: str, data: bytes) -> None:
    bank, telecom = customers(600)
    telecom = Table({"usage": telecom.columns["usage"]}, telecom.part)
    _, others = both(bank, telecom, spoil_holder=changed(step, lambda _: data))
    with pytest.raises(ProtocolError, match=step.replace(".", r"\.")):
        ok(others["telecom"])


# ---- signs ----------------------------------------------------------------------------------------------------------


def kept(*names: str) -> Selection:
    return Selection(names, (), (), {}, names, np.eye(len(names)))


def test_a_negative_coefficient_on_a_weight_of_evidence_removes_its_variable() -> None:
    found = by_sign(kept("a", "b", "c"), {"a": 0.4, "b": -0.125, "c": 0.0})
    assert found.kept == ("a", "c")
    assert [(each.rule, each.reason) for each in found.removed] == [
        ("sign", "its coefficient is -0.1250; on a weight of evidence it must be 0 or more")
    ]


def test_coefficients_of_unknown_variables_and_all_wrong_signs_are_refused() -> None:
    with pytest.raises(DataError, match="coefficients: z are of no variable that was kept"):
        by_sign(kept("a"), {"z": 1.0})
    with pytest.raises(DataError, match=r"no variable is left \(sign removed 1\); set select.sign: false"):
        by_sign(kept("a"), {"a": -1.0})


def signs(own: dict[str, float], theirs: dict[str, float], spoil: Any = lambda channel: channel) -> Any:
    bank, telecom = customers(600)
    holder, others = both(bank, telecom)
    (result, selection), (partner_result, partner) = ok(holder), ok(others["telecom"])
    after = meet(
        lambda channels: sign_label_holder(channels, selection, own, result),
        {"telecom": lambda channel: sign_partner(spoil(channel), partner, theirs, partner_result)},
    )
    return after[0], after[1]["telecom"], partner_result


def test_all_parties_know_after_a_fit_what_is_left() -> None:
    mine = {"income": 1.0, "age": -0.5, "noise": 0.2}
    holder, partner, result = signs(mine, {"home": 0.1, "late": -0.1, "usage": 0.3})
    (left, again), (own, also) = ok(holder), ok(partner)
    assert again and also
    assert own.kept == ("home", "usage")
    assert set(left.kept) == {"income", "noise", number_of(result, "home"), number_of(result, "usage")}
    assert left.reasons[number_of(result, "late")] == "its coefficient, which its owner holds, is negative"


def test_a_fit_with_right_signs_is_not_repeated() -> None:
    holder, partner, _ = signs({"income": 1.0}, {"late": 0.1})
    assert not ok(holder)[1] and not ok(partner)[1] and len(ok(partner)[0].kept) == 3


def test_wrong_signs_everywhere_are_an_error_at_all_parties() -> None:
    names = {"income": -1.0, "age": -0.5, "noise": -0.2}
    holder, partner, _ = signs(names, {"home": -0.1, "late": -0.1, "usage": -0.3})
    for each in (holder, partner):
        with pytest.raises(DataError, match="no variable is left"):
            ok(each)


def test_signs_of_variables_that_were_not_kept_are_refused() -> None:
    holder, _, _ = signs({"income": 1.0}, {}, spoil=changed("select.sign", lambda data: b"[77]"))
    with pytest.raises(ProtocolError, match="a variable came that was not kept"):
        ok(holder)
