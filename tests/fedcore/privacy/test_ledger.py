"""The ledger: exact sums, one charge to a request, one answer to a charge, and nothing else in the file."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from fedcore.errors import BudgetExhausted, DataError, JobError, PolicyRefused
from fedcore.privacy import ledger_file
from fedcore.privacy.budget import Cost, epsilon_cost, rho_cost
from fedcore.privacy.ledger import Ledger, open_ledger
from fedcore.privacy.sensitivity import Neighbours

ROW = Neighbours()
ONE = epsilon_cost(1)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return open_ledger(
        tmp_path / "site" / "lung.jsonl", "lung", ONE, ROW, anchor=tmp_path / "away" / "lung.last"
    )


def test_charges_add_up_without_rounding(ledger: Ledger) -> None:
    for i in range(10):
        paid = ledger.charge(f"q{i}", epsilon_cost(0.1), "count", digest="ab")
        assert paid.cost.amount == Fraction(1, 10) and not paid.again
    found = ledger.account()
    assert (found.spent, found.remaining.amount) == (ONE, 0)
    assert [each.request for each in found.charges] == [f"q{i}" for i in range(10)]
    assert (found.data, found.neighbours, found.budget) == ("lung", ROW, ONE)


def test_queries_and_training_pay_from_one_budget(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "l", "lung", rho_cost(1, "1e-6"), ROW)
    ledger.charge("q", epsilon_cost("1/3"), "count")
    ledger.charge("t", rho_cost("0.5", "1e-7"), "50 rounds", source="training")
    found = ledger.account()
    assert found.spent == Cost("rho", Fraction(1, 18) + Fraction(1, 2), Fraction(1, 10**7))
    assert [each.source for each in found.charges] == ["query", "training"]
    with pytest.raises(
        BudgetExhausted, match=r"requested rho 0.1, delta 0.000001, remaining rho 0.444444, delta 9e-7"
    ):
        ledger.charge("u", rho_cost("0.1", "1e-6"), "more")


def test_a_budget_that_does_not_reach_says_what_was_asked_what_is_left_and_the_difference(
    ledger: Ledger,
) -> None:
    ledger.charge("a", epsilon_cost("0.7"), "mean")
    before = ledger.file.read_bytes()
    with pytest.raises(
        BudgetExhausted,
        match=r"lung: requested epsilon 0.5, remaining epsilon 0.3, difference epsilon 0.2 \(budget epsilon 1",
    ) as refused:
        ledger.charge("b", epsilon_cost("0.5"), "mean")
    assert refused.value.exit_code == 13
    assert ledger.file.read_bytes() == before
    # By how little does not matter, and it is not rounded away.
    with pytest.raises(BudgetExhausted, match=r"difference epsilon 1e-30"):
        ledger.charge("b", epsilon_cost(Fraction(3, 10) + Fraction(1, 10**30)), "mean")
    ledger.charge("b", epsilon_cost("0.3"), "mean")
    with pytest.raises(BudgetExhausted, match=r"remaining epsilon 0, difference"):
        ledger.charge("c", epsilon_cost("1e-9"), "mean")
    with pytest.raises(
        BudgetExhausted, match=r"remaining epsilon 0, delta 0, difference epsilon 0.1, delta 1e-9"
    ):
        ledger.charge("c", epsilon_cost("0.1", "1e-9"), "mean")


def test_a_request_pays_once(ledger: Ledger) -> None:
    first = ledger.charge("q", epsilon_cost("0.6"), "mean", digest="ab")
    again = ledger.charge("q", epsilon_cost("0.6"), "mean", digest="ab")
    assert again.again and again.time == first.time
    assert ledger.account().spent.amount == Fraction(6, 10)


def test_an_identity_is_of_one_request_and_one_cost(ledger: Ledger) -> None:
    ledger.charge("q", epsilon_cost("0.1"), "mean", digest="ab")
    with pytest.raises(PolicyRefused, match=r"charged before for another request"):
        ledger.charge("q", epsilon_cost("0.1"), "mean", digest="cd")
    with pytest.raises(PolicyRefused, match=r"charged before for another cost"):
        ledger.charge("q", epsilon_cost("0.2"), "mean", digest="ab")


def test_one_answer_to_a_charge(ledger: Ledger) -> None:
    with pytest.raises(PolicyRefused, match=r"q was not charged"):
        ledger.release("q", b"41.2")
    ledger.charge("q", epsilon_cost("0.1"), "mean")
    sealed = ledger.release("q", b"41.2")
    assert ledger.release("q", b"41.2") == sealed
    assert len(ledger.account().charges) == 1 and ledger.account().charges[0].answer == sealed
    with pytest.raises(PolicyRefused, match=r"two noisy answers tell more than one"):
        ledger.release("q", b"40.9")
    assert ledger.charge("q", epsilon_cost("0.1"), "mean").answer == sealed


def test_a_ledger_is_its_data_sets_alone_and_its_budget_is_not_raised(ledger: Ledger) -> None:
    file, anchor = ledger.file, ledger.anchor
    assert open_ledger(file, "lung", ONE, ROW, anchor=anchor) == ledger
    for data, budget, relation, said in (
        ("brca", ONE, ROW, "data set is lung, and brca"),
        ("lung", epsilon_cost(2), ROW, "budget is 1, and 2"),
        ("lung", epsilon_cost(1, "1e-9"), ROW, "delta is 0, and 0.000000001"),
        ("lung", rho_cost(1), ROW, "measure is epsilon, and rho"),
        ("lung", ONE, Neighbours("person"), "neighbours is add-remove-row, and add-remove-person"),
    ):
        with pytest.raises(JobError, match=said):
            open_ledger(file, data, budget, relation, anchor=anchor)
    assert oct(file.stat().st_mode)[-3:] == "600"


def test_words_and_costs_that_mean_nothing_are_refused(ledger: Ledger) -> None:
    with pytest.raises(JobError, match=r"1 to 200 characters"):
        ledger.charge("", epsilon_cost("0.1"), "mean")
    with pytest.raises(JobError, match='did you mean "query"'):
        ledger.charge("a", epsilon_cost("0.1"), "mean", source="qery")  # type: ignore[arg-type]
    with pytest.raises(JobError, match=r"allowed: above 0"):
        ledger.charge("a", Cost("epsilon", Fraction(0)), "mean")
    with pytest.raises(JobError, match=r"without choosing a delta"):
        ledger.charge("a", rho_cost("0.1"), "mean")
    with pytest.raises(JobError, match=r"a budget of epsilon 0"):
        open_ledger(ledger.file, "lung", Cost("epsilon", Fraction(0)), ROW)


def test_a_file_that_is_no_ledger_is_said_to_be_none(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    with pytest.raises(DataError, match=r"x.jsonl: there is no such ledger"):
        Ledger(file).account()
    assert not file.exists()
    file.write_bytes(b"")
    with pytest.raises(DataError, match=r"x.jsonl is no privacy ledger"):
        Ledger(file).account()
    file.write_text('{"previous":"' + "0" * 64 + '"}\n')
    with pytest.raises(DataError, match=r"x.jsonl is no privacy ledger"):
        Ledger(file).account()
    anchor = tmp_path / "anchor"
    open_ledger(tmp_path / "l", "lung", ONE, ROW, anchor=anchor)
    anchor.write_text("not a hash")
    with pytest.raises(DataError, match=r"anchor anchor holds no SHA-256"):
        Ledger(tmp_path / "l", anchor).account()


@pytest.mark.parametrize(
    "entry",
    [
        {"kind": "charge", "request": "q"},
        {"kind": "gift", "request": "q"},
        {"kind": "release", "request": "q", "answer": "ab"},
        {
            "kind": "charge",
            "request": "q",
            "amount": "-1",
            "delta": "0",
            "what": "",
            "source": "query",
            "digest": "",
        },
        {
            "kind": "charge",
            "request": "q",
            "amount": "nan",
            "delta": "0",
            "what": "",
            "source": "query",
            "digest": "",
        },
        {
            "kind": "charge",
            "request": "q",
            "amount": "2",
            "delta": "0",
            "what": "",
            "source": "query",
            "digest": "",
        },
    ],
    ids=lambda entry: entry["kind"] + entry.get("amount", ""),
)
def test_entries_that_this_program_would_not_write_are_refused(tmp_path: Path, entry: dict[str, str]) -> None:
    ledger = open_ledger(tmp_path / "l", "lung", ONE, ROW)
    with ledger_file.locked(ledger.file) as log:
        ledger_file.append(log, ledger_file.lines(log, "l"), entry)
    with pytest.raises(DataError, match=r"cannot be read|was not written by this program"):
        ledger.account()
