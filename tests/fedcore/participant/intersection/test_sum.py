"""Sums over an intersection, refusal below a number of matches, settings that do not go together."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from crypto.paillier import keys as paillier
from crypto.psi import sum_of_intersection
from crypto.psi.sum_of_intersection import Total
from fedcore.errors import DataError, JobError, PeerLost, ProtocolFailed
from fedcore.participant.intersection import RESULT, SumOf, intersect, protocols
from tests.fedcore.participant.intersecting import Pair

LEFT = {
    "id": [1, 2, 3, 4, 4, None],
    "income": ["10.50", "20", "-3.25", "1000", "0.5", "7"],
    "n": [1, 2, 3, 4, 5, 6],
}
RIGHT = {"id": [2, 3, 4, 9, 4], "calls": [7, 8, 9, 10, 11]}


@pytest.fixture(autouse=True)
def _short_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that are quick and not secure: the arithmetic is the same."""
    monkeypatch.setattr(paillier, "LEAST_BITS", 64)
    monkeypatch.setattr(protocols, "KEY_BITS", 512)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """Left is the receiver and has incomes, right the sender and has calls; three keys are shared."""
    return Pair(tmp_path, LEFT, RIGHT)


def of(*columns: str, holder: str = "receiver", **options: Any) -> dict[str, Any]:
    """Options of a side for a sum."""
    return {"reveal": "sum", "sum_of": SumOf(columns, holder, **options)}  # type: ignore[arg-type]


def test_the_receiver_that_holds_the_column_learns_its_sum_over_all_matching_rows(pair: Pair) -> None:
    left, right = pair.run(**of("income"))
    assert left["sums"] == {"income": "1017.25"} and right["sums"] is None
    assert [each["intersection"] for each in (left, right)] == [3, 3]
    assert [each["holder"] for each in (left, right)] == ["receiver", "receiver"]
    assert not left["refused"] and left["to"] == "receiver" and left["matched_rows"] is None
    assert "composite residuosity" in left["protocol"]["assumption"]
    for folder, told in zip(pair.out, (left, right), strict=True):
        assert [file.name for file in folder.iterdir()] == [RESULT]
        assert json.loads((folder / RESULT).read_text()) == told


def test_the_receiver_learns_the_sum_of_a_column_that_the_sender_holds(pair: Pair) -> None:
    left, right = pair.run(**of("calls", holder="sender"))
    assert left["sums"] == {"calls": "35"} and right["sums"] is None
    assert [each["intersection"] for each in (left, right)] == [3, 3]


def test_several_columns_are_added_up_in_one_run(pair: Pair) -> None:
    # They share a scale.
    assert pair.run(**of("income", "n"))[0]["sums"] == {"income": "1017.25", "n": "14.00"}


@pytest.mark.parametrize(("other", "told", "matches"), [(1, "-5", 1), (2, "0", 0)])
def test_a_sum_below_zero_and_a_sum_of_nothing(other: int, told: str, matches: int, tmp_path: Path) -> None:
    left, right = Pair(tmp_path, {"id": [1], "x": [-5]}, {"id": [other]}).run(**of("x"))
    assert left["sums"] == {"x": told}
    assert left["intersection"] == right["intersection"] == matches


@pytest.mark.parametrize("holder", ["receiver", "sender"])
def test_with_too_few_matches_nobody_learns_a_sum(holder: str, pair: Pair) -> None:
    column = "income" if holder == "receiver" else "calls"
    left, right = pair.run(**of(column, holder=holder), min_matches=4)
    assert left["sums"] is None and left["refused"] and right["refused"]
    assert right["intersection"] == 3
    # Who adds up counts: the receiver is told the number where it does not hold the column.
    assert left["intersection"] == (None if holder == "receiver" else 3)
    assert pair.run(**of(column, holder=holder), min_matches=3)[0]["sums"] is not None


def test_with_too_few_matches_the_receiver_learns_no_cardinality(pair: Pair) -> None:
    left, right = pair.run(reveal="cardinality", min_matches=4)
    assert (left["intersection"], left["refused"]) == (None, True)
    assert (right["intersection"], right["refused"], right["min_matches"]) == (3, True, 4)
    left, right = pair.run(reveal="cardinality", min_matches=3)
    assert [(each["intersection"], each["refused"]) for each in (left, right)] == [(3, False)] * 2


# ---- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({**of("x"), "protocol": "vole"}, "for a sum alone take protocol ecdh"),
        ({**of("x"), "both": True}, "the receiver alone learns the sum"),
        ({"reveal": "sum"}, "needs the columns to add up"),
        ({"sum_of": SumOf(("x",), "sender")}, "nothing else does"),
        (of("x", holder="sender", scale=2), "they are for the party that holds the columns"),
        ({"min_matches": 3}, "rows show how many there are"),
        ({**of("x"), "min_matches": -1}, "min_matches: -1; allowed"),
        ({"reveal": "summ"}, 'did you mean "sum"'),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_anything_is_read(
    options: dict[str, Any], said: str, pair: Pair
) -> None:
    with pytest.raises(JobError, match=said):
        pair.side(0, **options)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: SumOf((), "sender"), "0 columns to add up; name 1 to 16"),
        (lambda: SumOf(("a", "a"), "sender"), "stands twice"),
        (lambda: SumOf(("a",), "sendr"), 'did you mean "sender"'),  # type: ignore[arg-type]
        (lambda: SumOf(("a",), "sender", scale=19), "19 digits after the point; allowed: 0 to 18"),
        (lambda: SumOf(("a",), "sender", bounds=(Decimal(1), Decimal(2))), "1 to 2 do not enclose 0"),
        (lambda: SumOf(("a",), "sender", bounds=(Decimal(0), Decimal("Infinity"))), "do not enclose 0"),
    ],
)
def test_a_sum_that_cannot_be_is_refused(made: Any, said: str) -> None:
    with pytest.raises(JobError, match=said):
        made()


def test_without_the_extra_package_a_sum_says_what_to_install(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "gmpy2" else real(name, *more)
    )
    with pytest.raises(JobError, match=r"pip install 'fedcore\[paillier\]'"):
        pair.side(0, **of("income"))
    assert pair.side(0).reveal == "rows"


@pytest.mark.parametrize(
    ("left", "right", "said"),
    [
        (of("income"), of("calls"), "name the same columns"),
        (of("income"), {**of("income", holder="sender")}, "--holder"),
        ({"min_matches": 2, **of("income")}, of("income"), "--min-matches"),
        ({"min_matches": 2, "reveal": "cardinality"}, {"reveal": "cardinality"}, "--min-matches"),
        (of("income"), {"reveal": "cardinality"}, "name the same columns"),
    ],
)
def test_parties_that_mean_different_sums_are_told_the_setting(
    left: dict[str, Any], right: dict[str, Any], said: str, tmp_path: Path
) -> None:
    pair = Pair(tmp_path, LEFT, {**RIGHT, "income": [1] * 5})
    pair.options = (left, right)
    assert said in pair.refused()


# ---- data and faults ----------------------------------------------------------------------------------------------


def never() -> Any:
    raise AssertionError("the other party is not to be met")


@pytest.mark.parametrize(
    ("column", "options", "said"),
    [
        (["1", None, "3", "4", "x", None], {}, "2 of 6 rows have no number"),
        (["1", "2", "3", "4", "5", "6.25"], {"scale": 1}, None),
        (["1", "2", "3", "4", "5.25", "6"], {"scale": 1}, "1 of 6 rows have more than 1 digits"),
        (
            ["1", "2", "3", "9", "9", "6"],
            {"bounds": (Decimal(0), Decimal(10))},
            "1 of 4 keys add less than 0 or more than 10",
        ),
    ],
)
def test_numbers_that_cannot_serve_are_refused_before_the_other_is_met(
    column: list[Any], options: dict[str, Any], said: str | None, tmp_path: Path
) -> None:
    pair = Pair(tmp_path, {"id": LEFT["id"], "x": column}, RIGHT)
    if said is None:
        # The row has no key.
        pair.options = (of("x", **options), of("x"))
        assert pair.run()[0]["sums"] == {"x": "14.0"}
        return
    with pytest.raises(DataError) as caught:
        intersect(never, pair.side(0, **of("x", **options)), pair.out[0])
    assert said in str(caught.value) and pair.nothing_written()


def test_a_column_that_is_not_there_lists_those_that_are(pair: Pair) -> None:
    with pytest.raises(DataError, match='did you mean "income"'):
        intersect(never, pair.side(0, **of("incme")), pair.out[0])


def test_a_column_of_the_key_may_be_added_up(pair: Pair) -> None:
    assert pair.run(**of("id"))[0]["sums"] == {"id": "13"}


@pytest.mark.parametrize("lost", ["a match of its own", "a planted item"])
def test_a_run_that_loses_planted_items_fails(lost: str, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    real = sum_of_intersection.hold

    def hold(channel: Any, items: Any, numbers: Any, *given: Any, **options: Any) -> Total:
        total = real(channel, items, numbers, *given, **options)
        assert total.sums is not None and total.cardinality is not None
        if lost == "a planted item":
            one = Decimal(1).scaleb(-given[0].scale)
            return replace(total, sums=(*total.sums[:-1], total.sums[-1] - one))
        return replace(total, cardinality=total.cardinality - 4)

    monkeypatch.setattr(sum_of_intersection, "hold", hold)
    assert "of 64 planted items came back" in pair.refused(**of("income"))


def test_sums_of_other_columns_than_were_agreed_are_refused(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sum_of_intersection.match

    def match(*given: Any, **options: Any) -> Total:
        total = real(*given, **options)
        return replace(total, sums=(*(total.sums or ()), Decimal(0)))

    monkeypatch.setattr(sum_of_intersection, "match", match)
    told = pair.told(**of("calls", holder="sender"))
    assert isinstance(told[0], ProtocolFailed) and isinstance(told[1], PeerLost)
    assert "sums of 2 columns came, 1 were agreed on" in str(told[0])


# ---- published sets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"protocol": "ecdh-cached"}, "name the other party's published set"),
        ({"protocol": "ecdh-cached", "role": "sender"}, "answers from the secret"),
        ({"protocol": "vole", "published": Path("x.psi")}, "protocol vole needs no published set"),
        (
            {"protocol": "ecdh-cached", "published": Path("x"), "both": True},
            "the receiver alone learns the rows",
        ),
        ({"protocol": "ecdh-cached", "published": Path("x"), "reveal": "cardinality"}, "take protocol ecdh"),
        ({"protocol": "ecdh-cachd"}, 'did you mean "ecdh-cached"'),
    ],
)
def test_a_published_set_serves_one_protocol_and_reveals_rows(
    options: dict[str, Any], said: str, pair: Pair
) -> None:
    with pytest.raises(JobError, match=said):
        pair.side(0, **options)
