"""Answers with noise: charged before they are made, stored before they are sent, and never made twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedcore.analytics.question import Bounds, Part
from fedcore.analytics.source import Source, opened
from fedcore.errors import BudgetExhausted, DataError, JobError, PolicyRefused
from fedcore.jobs.participant import Participant
from fedcore.jobs.request import AnalyticsRequest
from fedcore.participant.answer_costs import fewest
from fedcore.participant.budgets import site_ledger
from fedcore.participant.private_answers import counted, entries_of, plan_of, private_round
from fedcore.participant.private_keys import told_keys

ROWS = 50


def site(
    folder: Path, epsilon: float = 2, neighbours: str = "add-remove-row", **catalogue: Any
) -> Participant:
    return Participant.model_validate(
        {
            "name": "north",
            "catalogue": {"lung": {"connector": "csv", "path": folder / "lung.csv", **catalogue}},
            "state": folder / "state",
            "policy": {
                "privacy": {
                    "lung": {"epsilon": epsilon, "delta": 1e-3, "per": "ever", "neighbours": neighbours}
                }
            },
        }
    )


def asking(name: str = "age", **given: Any) -> AnalyticsRequest:
    privacy = {"epsilon": 1.0, "delta": 1e-6, **given.pop("privacy", {})}
    told = {
        "run": "ages-1",
        "job": "ages",
        "kind": "analytics",
        "purpose": "research",
        "cohort": 20,
        "data": "lung",
        "asker": "anna",
        "least": 3,
        "secure_aggregation": "secagg+",
        "differential_privacy": privacy,
        "shares": 2,
        "name": name,
        "question": {"kind": "describe", "asked": {"columns": ["age"]}},
        "state": {"round": 1},
        **given,
    }
    return AnalyticsRequest.model_validate(told)


def part() -> Part:
    return Part(
        {"rows": np.array(ROWS), "z_sum": np.array([1234.5, 2.25]), "a_bins": np.arange(6).reshape(2, 3)},
        ROWS,
        bounds={"rows": Bounds(0, 1), "z_sum": Bounds(0, 90), "a_bins": Bounds(0, 1)},
    )


def never() -> Part:
    raise AssertionError("the rows were read again")


def answer(
    participant: Participant, request: AnalyticsRequest, make: Callable[[], Part] = part, **given: int
) -> Any:
    return private_round(participant, request, make, **{"rounds": 1, "rows": ROWS, **given})


def account(participant: Participant) -> Any:
    ledger = site_ledger(participant, "lung")
    assert ledger is not None
    return ledger.account()


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return list(one) == list(other) and all(
        one[name].tobytes() == other[name].tobytes() and one[name].shape == other[name].shape for name in one
    )


def test_a_question_pays_its_part_of_the_jobs_budget_and_comes_back_with_noise(tmp_path: Path) -> None:
    north = site(tmp_path)
    found = answer(north, asking())
    assert list(found.sums) == ["rows", "z_sum", "a_bins"] and found.sums["a_bins"].shape == (2, 3)
    assert found.sums["rows"].shape == () and not found.again and found.number == 1
    # Seven numbers have no noise in them with a probability below 1e-9.
    assert any(not np.array_equal(found.sums[name], part().sums[name]) for name in found.sums)
    (charge,) = account(north).charges
    assert charge.request == "ages-1/age" and charge.what == "ages: age (describe)"
    assert (charge.cost.amount, charge.cost.delta) == (Fraction(1, 2), Fraction(1, 2_000_000))
    assert charge.answer is not None
    assert found.promise["epsilon"] == 0.5 and found.promise["neighbours"] == "add-remove-row"


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 4), st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_what_was_stored_is_sent_again_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, rounds: int, order: list[int]
) -> None:
    north = site(tmp_path_factory.mktemp("site"))
    first: dict[int, Any] = {}
    for number in (min(each, rounds) for each in order):
        request = asking(state={"round": number, "edges": [0.5] * number})
        found = answer(north, request, never if number in first else part, rounds=rounds)
        if number in first:
            assert found.again and found.number == first[number].number
            assert equal(found.sums, first[number].sums) and found.promise == first[number].promise
        first.setdefault(number, found)
    assert len(account(north).charges) == 1


def test_a_round_beyond_those_that_the_noise_is_for_is_refused(tmp_path: Path) -> None:
    north = site(tmp_path)
    for number in (1, 2):
        answer(north, asking(state={"round": number}), rounds=2)
    with pytest.raises(PolicyRefused, match="a round beyond the 2 that its noise is sized for"):
        answer(north, asking(state={"round": 3}), never, rounds=2)
    assert answer(north, asking(state={"round": 2}), never, rounds=2).number == 2


def test_a_crash_between_charge_and_answer_stays_charged_and_is_resumed_without_paying(
    tmp_path: Path,
) -> None:
    north = site(tmp_path, epsilon=0.5)

    def crash() -> Part:
        # Charged already, with nothing computed.
        assert account(north).spent.amount == Fraction(1, 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer(north, asking(), crash)
    assert account(north).charges[0].answer is None
    with pytest.raises(BudgetExhausted):
        answer(north, asking("other"), never)
    found = answer(north, asking())
    assert account(north).spent.amount == Fraction(1, 2) and account(north).charges[0].answer is not None
    assert equal(answer(north, asking(), never).sums, found.sums)


@pytest.mark.parametrize("where", ["os.replace", "fedcore.privacy.ledger.Ledger.release"])
def test_a_crash_while_storing_or_recording_sends_one_answer_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    north = site(tmp_path)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(
            "fedcore.participant.stored_answers.os.replace" if where == "os.replace" else where, crash
        )
        with pytest.raises(KeyboardInterrupt):
            answer(north, asking())
    stored = list((tmp_path / "state" / "answers" / "ages-1").glob("*.safetensors"))
    assert len(stored) == (0 if where == "os.replace" else 1)
    raw = [each.read_bytes() for each in stored]
    found = answer(north, asking(), part if where == "os.replace" else never)
    assert equal(answer(north, asking(), never).sums, found.sums)
    assert raw == [each.read_bytes() for each in stored] and len(account(north).charges) == 1


def test_a_site_that_lost_its_answers_draws_no_noise_a_second_time(tmp_path: Path) -> None:
    north = site(tmp_path)
    answer(north, asking())
    (file,) = (tmp_path / "state" / "answers" / "ages-1").glob("*.safetensors")
    file.unlink()
    with pytest.raises(PolicyRefused, match="answered before, with other bytes"):
        answer(north, asking())


def test_a_stored_answer_that_was_damaged_or_is_missing_in_the_middle_is_not_sent(tmp_path: Path) -> None:
    north = site(tmp_path)
    for number in (1, 2):
        answer(north, asking(state={"round": number}), rounds=2)
    folder = tmp_path / "state" / "answers" / "ages-1"
    whole = (folder / "age-2.safetensors").read_bytes()
    (folder / "age-2.safetensors").write_bytes(whole[:-3])
    with pytest.raises(DataError, match="cannot be read"):
        answer(north, asking(state={"round": 2}), never, rounds=2)
    (folder / "age-2.safetensors").write_bytes(whole)
    (folder / "age-1.safetensors").unlink()
    with pytest.raises(DataError, match="are missing"):
        answer(north, asking(state={"round": 2}), never, rounds=2)


def test_of_two_questions_that_race_for_the_last_budget_one_is_refused(tmp_path: Path) -> None:
    north = site(tmp_path, epsilon=0.5)
    start, got, refused = threading.Barrier(2), [], []

    def ask(name: str) -> None:
        start.wait()
        try:
            got.append(answer(north, asking(name)))
        except BudgetExhausted as error:
            refused.append(str(error))

    threads = [threading.Thread(target=ask, args=(name,)) for name in ("age", "sex")]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(got) == len(refused) == 1
    assert "requested epsilon 0.5" in refused[0] and "remaining epsilon 0" in refused[0]
    assert "difference epsilon 0.5" in refused[0]
    assert account(north).remaining.amount == 0


def test_one_request_that_comes_many_times_at_once_gets_one_answer(tmp_path: Path) -> None:
    north, made, got = site(tmp_path), [], []

    def make() -> Part:
        made.append(1)
        return part()

    threads = [threading.Thread(target=lambda: got.append(answer(north, asking(), make))) for _ in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(made) == 1 and len(got) == 6 and all(equal(each.sums, got[0].sums) for each in got)
    assert len(account(north).charges) == 1


def test_a_budget_exhausted_in_the_middle_of_a_job_keeps_what_was_paid(tmp_path: Path) -> None:
    north = site(tmp_path, epsilon=1)
    first = answer(north, asking("one", shares=2))
    answer(north, asking("two", shares=2))
    with pytest.raises(
        BudgetExhausted, match=r"requested epsilon 0\.5.*remaining epsilon 0.*difference epsilon 0\.5"
    ):
        answer(north, asking("three", shares=2), never)
    assert equal(answer(north, asking("one", shares=2), never).sums, first.sums)


def test_a_ledger_put_back_to_an_older_copy_is_found_out(tmp_path: Path) -> None:
    north = site(tmp_path)
    answer(north, asking("one"))
    ledger = site_ledger(north, "lung")
    assert ledger is not None
    older = ledger.file.read_bytes()
    answer(north, asking("two"))
    ledger.file.write_bytes(older)
    with pytest.raises(DataError, match="an older copy was put back"):
        answer(north, asking("three"), never)


def test_another_question_cost_or_promise_under_a_used_name_is_refused(tmp_path: Path) -> None:
    north = site(tmp_path)
    answer(north, asking())
    for other in (
        {"question": {"kind": "describe", "asked": {"columns": ["time"]}}},
        {"shares": 1},
        {"privacy": {"epsilon": 0.9}},
    ):
        with pytest.raises(PolicyRefused, match="charged before for another"):
            answer(north, asking(**other), never)
    # Also where no ledger is kept.
    free = north.model_copy(update={"policy": type(north.policy)(), "state": tmp_path / "free"})
    found = answer(free, asking())
    with pytest.raises(PolicyRefused, match="asked something else"):
        answer(free, asking(question={"kind": "describe", "asked": {"columns": ["time"]}}), never)
    assert equal(answer(free, asking(), never).sums, found.sums)


def test_a_promise_that_is_not_the_budgets_is_refused_and_nothing_charged(tmp_path: Path) -> None:
    north = site(tmp_path, neighbours="replace-person", row_id="id")
    with pytest.raises(PolicyRefused, match="neighbours: person and change: replace"):
        answer(north, asking(), never)
    assert account(north).charges == ()
    answer(north, asking(privacy={"neighbours": "person", "change": "replace", "rows": 3}))


def test_a_delta_above_one_over_the_rows_is_refused_without_telling_the_rows(tmp_path: Path) -> None:
    north = site(tmp_path)
    with pytest.raises(PolicyRefused, match="above one over the number of rows") as caught:
        answer(north, asking(privacy={"delta": 0.021}), never)
    assert "50" not in str(caught.value) and account(north).charges == ()
    answer(north, asking(privacy={"delta": 1e-3}), rows=0)


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".x"])
def test_a_name_that_would_leave_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(JobError, match="no name of letters"):
        answer(site(tmp_path), asking(name), never)


def test_names_that_begin_alike_are_two_questions(tmp_path: Path) -> None:
    north = site(tmp_path)
    one, other = answer(north, asking("a")), answer(north, asking("a-1"))
    assert equal(answer(north, asking("a"), never).sums, one.sums)
    assert equal(answer(north, asking("a-1"), never).sums, other.sums)


def test_an_array_without_bounds_cannot_be_told(tmp_path: Path) -> None:
    bare = Part({"rows": np.array(3), "sum": np.zeros(2)}, 3, bounds={"rows": Bounds(0, 1)})
    with pytest.raises(JobError, match="arrays sum have no bounds"):
        answer(site(tmp_path), asking(), lambda: bare)
    with pytest.raises(JobError, match="no differential privacy"):
        answer(site(tmp_path), asking().model_copy(update={"differential_privacy": None}), never)


def test_the_cohort_draws_shares_for_those_that_may_be_lost() -> None:
    entries = entries_of(part())
    assert entries["rows"].whole and not entries["z_sum"].whole
    plan = plan_of(asking(), entries, 3)
    # Of 20, a tenth may drop out and a twentieth tell their share.
    assert fewest(asking()) == 18 and (plan.participants, plan.lost, plan.rounds) == (20, 3, 3)
    local = asking(privacy={"mode": "local"})
    alone = plan_of(local, entries, 3)
    assert fewest(local) == 1 and alone.arrays["rows"].shares.participants == 1
    assert alone.arrays["rows"].shares.share == pytest.approx(plan.arrays["rows"].shares.share * 17, rel=1e-3)


def test_rows_of_one_person_beyond_the_bound_do_not_count(tmp_path: Path) -> None:
    table = pa.table({"id": ["a", "b", "a", "a", "c", "b"], "age": [1, 2, 3, 4, 5, 6]})
    pq.write_table(table, tmp_path / "lung.parquet")
    source = opened("lung", tmp_path / "lung.parquet")
    north = site(tmp_path, connector="parquet", path=tmp_path / "lung.parquet", row_id="id")
    person = asking(privacy={"neighbours": "person", "rows": 2})
    assert counted(north, asking(), source) is source
    assert counted(north, person, source).rows.column("age").to_pylist() == [1, 2, 3, 5, 6]
    with pytest.raises(DataError, match="changed while they were read"):
        counted(north, person, Source("lung", table.slice(1)))
    unnamed = site(tmp_path, connector="parquet", path=tmp_path / "lung.parquet")
    with pytest.raises(PolicyRefused, match="row_id in the site's catalogue"):
        counted(unnamed, person, source)


def keys_of(columns: list[str], **privacy: Any) -> AnalyticsRequest:
    return asking(privacy={"private_keys": True, **privacy}, question={}, state={"keys": columns})


def test_keys_that_many_rows_have_are_told_for_half_of_the_question(tmp_path: Path) -> None:
    north, rows = site(tmp_path), {"f": 5000, "m": 5000, "rare": 1}
    request = keys_of(["sex", "stage"])
    # Thresholds are near 100: "rare" is told with probability 2.5e-7, "f" is not with one below 1e-100.
    assert told_keys(north, request, "sex", rows) == ["f", "m"]
    (charge,) = account(north).charges
    assert (charge.cost.amount, charge.cost.delta) == (Fraction(1, 8), Fraction(1, 8_000_000))
    assert charge.answer is not None and charge.what == "ages: keys of sex"
    # Asked again, the same are told and nothing is paid, whatever the rows are by now.
    assert told_keys(north, request, "sex", {}) == ["f", "m"] and len(account(north).charges) == 1
    assert told_keys(north, request, "stage", {1: 4000, 2: 1}) == [1]
    # The sums of the question pay the other half.
    answer(north, asking(privacy={"private_keys": True}))
    assert [each.cost.amount for each in account(north).charges] == [
        Fraction(1, 8),
        Fraction(1, 8),
        Fraction(1, 4),
    ]


def test_keys_are_refused_where_they_are_not_asked_for_or_the_budget_does_not_reach(tmp_path: Path) -> None:
    north = site(tmp_path, epsilon=0.1)
    with pytest.raises(BudgetExhausted, match=r"requested epsilon 0\.25"):
        told_keys(north, keys_of(["sex"]), "sex", {"f": 5000})
    with pytest.raises(JobError, match="are not asked for"):
        told_keys(north, keys_of(["sex"]), "stage", {})
    with pytest.raises(JobError, match="are not asked for"):
        told_keys(north, asking(state={"keys": ["sex"]}), "sex", {})


def test_keys_hide_no_person(tmp_path: Path) -> None:
    request = asking(privacy={"neighbours": "person"}, state={"keys": ["sex"]})
    privacy = request.differential_privacy
    assert privacy is not None
    request = request.model_copy(
        update={"differential_privacy": privacy.model_copy(update={"private_keys": True})}
    )
    with pytest.raises(JobError, match="hide a row and no person"):
        told_keys(site(tmp_path), request, "sex", {"f": 4000})
