"""The site's policy for questions: who may ask what of which columns, and what a person may allow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedcore.errors import JobError, PolicyRefused
from fedcore.jobs.datasets import ParquetData
from fedcore.jobs.participant import Participant, Rule
from fedcore.jobs.request import AnalyticsRequest
from fedcore.participant.mods.policy import check, policy
from fedcore.participant.mods.policy_analytics import desk
from fedcore.trust import approvals
from tests.fedcore.participant.mods.asked import BINS, MEAN, PRIVATE, a_question
from tests.messages import CONTEXT, message


def rule(**changes: Any) -> Rule:
    return Rule.model_validate({"jobs": ("analytics",), "data": "lung", **changes})


def site(folder: Path, *rules: Rule, **policy: Any) -> Participant:
    data = {
        "lung": ParquetData(connector="parquet", path=Path("a.parquet"), row_id="patient"),
        "other": ParquetData(connector="parquet", path=Path("b.parquet")),
    }
    written = {"rules": rules, "privacy": {"lung": {"epsilon": 10}}, **policy}
    return Participant.model_validate(
        {"name": "site-0", "catalogue": data, "policy": written, "state": folder / "state"}
    )


def refused(participant: Participant, asked: AnalyticsRequest) -> str:
    with pytest.raises(PolicyRefused) as caught:
        check(participant, asked)
    return str(caught.value)


# ---- each reason --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "job", "said"),
    [
        ({"jobs": ("train",)}, {}, "jobs allowed are train"),
        ({"data": "other"}, {}, "the rule is for data 'other'"),
        ({"purpose": "care"}, {}, "the purpose must be 'care'"),
        ({"min_cohort": 4}, {}, "the cohort has 3 participants, at least 4 are required"),
        (
            {"min_cohort": 4},
            {"cohort": 9},
            "an answer may be of 3 participants, at least 4 are required (participants.min in the job)",
        ),
        ({"askers": ("bert", "carl")}, {}, "'anna' may not ask (askers: bert, carl)"),
        ({"askers": ()}, {}, "'anna' may not ask (askers: none)"),
        ({"private": "required"}, {}, "differential privacy only (private: required)"),
        ({"columns": ("age",)}, {}, "columns sex may not be read (allowed: age)"),
        ({"statistics": ("mean", "cox")}, {}, "statistics t_test may not be computed (allowed: mean, cox)"),
        ({"min_cell": 6}, {}, "cells of 5 rows would be shown, at least 6 are required (min_cell)"),
    ],
)
def test_each_thing_that_a_rule_lacks_is_named(tmp_path: Path, changes: Any, job: Any, said: str) -> None:
    told = refused(site(tmp_path, rule(**changes)), a_question(MEAN, **job))
    assert said in told
    assert "does not allow analytics on 'lung' for research" in told and "policy.rules" in told


def test_what_a_rule_covers_passes(tmp_path: Path) -> None:
    allowed = rule(
        askers=("anna",),
        columns=("age", "sex"),
        statistics=("mean", "histogram"),
        min_cell=6,
        min_cohort=3,
        private="required",
    )
    asked = a_question(BINS, minimum=6, protection=PRIVATE)
    assert check(site(tmp_path, rule(purpose="care"), allowed), asked) == allowed


def test_columns_of_a_condition_are_read_too(tmp_path: Path) -> None:
    asked = a_question({"describe": {"columns": ["age"], "where": "status = 1"}})
    assert "columns status may not be read" in refused(site(tmp_path, rule(columns=("age",))), asked)


@pytest.mark.parametrize(
    "asked",
    [
        {"describe": {"columns": ["patient"]}},
        {"t_test": {"value": "patient", "by": "sex"}},
        {"describe": {"columns": ["age"], "where": "patient = 4711"}},
    ],
)
def test_whom_a_row_is_about_is_part_of_no_question_and_nobody_can_grant_it(
    tmp_path: Path, asked: Any
) -> None:
    open_ = site(tmp_path, rule(), approval={"by": "office", "for": ("any",)})
    assert "row_id in the catalogue" in refused(open_, a_question(asked))
    assert not desk(open_).exists()


def test_the_smallest_cells_that_a_rule_allows_hold_where_several_do(tmp_path: Path) -> None:
    rules = [rule(min_cell=5, min_rows=50), rule(min_cell=4, min_rows=60), rule(min_cell=3, purpose="care")]
    assert check(site(tmp_path, *rules), a_question(MEAN)) == rules[1]


@pytest.mark.parametrize(
    "agreed",
    [{"protected": False}, {"private": True}, {"data": "other"}],
    ids=["protected", "private", "data"],
)
def test_a_question_that_says_other_things_than_its_request_is_refused(tmp_path: Path, agreed: Any) -> None:
    assert "the request around it" in refused(site(tmp_path, rule()), a_question(BINS, agreed=agreed))


def test_a_question_that_is_none_is_refused(tmp_path: Path) -> None:
    broken = a_question().model_copy(update={"question": {"kind": "meen"}})
    with pytest.raises(JobError):
        check(site(tmp_path, rule()), broken)


# ---- protection and noise ----------------------------------------------------------------------------------------

ALONE = {"protection": {"secure_aggregation": "none"}}


def test_where_protected_sums_are_required_no_answer_is_seen_by_itself(tmp_path: Path) -> None:
    strict = site(tmp_path, rule(), secure_aggregation={"required": True})
    assert "answers leave this site under secure aggregation only" in refused(
        strict, a_question(MEAN, **ALONE)
    )
    assert check(strict, a_question(MEAN)) == rule()
    assert check(site(tmp_path, rule()), a_question(MEAN, **ALONE)) == rule()


def test_a_protected_sum_must_be_as_strong_as_the_site_says(tmp_path: Path) -> None:
    strict = site(tmp_path, rule(), secure_aggregation={"least_cohort": 9})
    assert "least_cohort is 3, at least 9 is required" in refused(strict, a_question(MEAN))


def test_a_budget_that_is_required_lets_nothing_out_without_noise(tmp_path: Path) -> None:
    budget = {"lung": {"epsilon": 10.0, "required_for": ("analytics",)}}
    strict = site(tmp_path, rule(), privacy=budget, approval={"by": "office", "for": ("any",)})
    assert "under differential privacy only (policy.privacy, required_for)" in refused(
        strict, a_question(MEAN)
    )
    assert check(strict, a_question(BINS, protection=PRIVATE)) == rule()
    trains = site(tmp_path, rule(), privacy={"lung": {"epsilon": 10.0, "required_for": ("train",)}})
    assert check(trains, a_question(MEAN)) == rule()


# ---- while preparing --------------------------------------------------------------------------------------------


def test_while_preparing_only_what_is_known_is_checked(tmp_path: Path) -> None:
    narrow = rule(columns=("age",), statistics=("cox",), min_cell=9)
    assert check(site(tmp_path, narrow), a_question()) == narrow
    assert "'anna' may not ask" in refused(site(tmp_path, rule(askers=("bert",))), a_question())
    assert "private: required" in refused(site(tmp_path, rule(private="required")), a_question())


def test_while_preparing_the_columns_of_all_rules_are_shown(tmp_path: Path) -> None:
    rules = [
        rule(columns=("age",), min_cell=6),
        rule(columns=("sex", "age")),
        rule(columns=("x",), purpose="care"),
    ]
    assert check(site(tmp_path, *rules), a_question()).columns == ("age", "sex")
    assert check(site(tmp_path, *rules, rule()), a_question()).columns == "all"


def test_keys_are_asked_of_a_rule_that_tells_them(tmp_path: Path) -> None:
    rules = [rule(min_cell=3), rule(min_cell=7, keys="told")]
    asked = a_question().model_copy(update={"state": {"keys": ["sex"]}})
    assert check(site(tmp_path, *rules), asked) == rules[1]


# ---- approval by a person -----------------------------------------------------------------------------------------

NARROW = rule(askers=("bert",), columns=("age",), statistics=("mean",), purpose="care")
ALL_WORDS = ("askers", "columns", "statistics", "purpose")


def office(folder: Path, *words: str, rules: tuple[Rule, ...] = (NARROW,)) -> Participant:
    return site(folder, *rules, approval={"by": "data-office", "for": words})


def test_what_no_rule_allows_waits_and_what_was_granted_passes_exactly(tmp_path: Path) -> None:
    waits = office(tmp_path, *ALL_WORDS)
    asked = a_question(MEAN)
    told = refused(waits, asked)
    assert f"request with hash {asked.digest[:16]} waits for approval by data-office" in told
    assert f"fedcore approvals grant PARTICIPANT_FILE {asked.digest[:16]}" in told
    (found,) = approvals.listed(desk(waits))
    assert found.hash == asked.digest and found.asked.columns == ("age", "sex")
    assert "age" in found.asked.text and found.asked.asker == "anna" and found.asked.statistics == ("t_test",)
    assert "'anna' may not ask" in found.asked.lacking and "secagg+" in found.asked.protection
    approvals.grant(desk(waits), asked.digest, "data-office")
    assert check(waits, asked) == NARROW
    assert check(waits, a_question(MEAN, run="run-2", name="another-job", cohort=7)) == NARROW
    for other in (
        a_question({"t_test": {"value": "age", "by": "sex", "confidence": 0.9}}),
        a_question(MEAN, asker="carl"),
        a_question(MEAN, purpose="billing"),
        a_question(MEAN, minimum=6),
        a_question(MEAN, participants={"min": 4}),
        a_question(BINS),
        a_question(BINS, protection=PRIVATE),
        a_question(MEAN, **ALONE),
    ):
        assert "waits for approval" in refused(waits, other)


@pytest.mark.parametrize("missing", ALL_WORDS)
def test_a_person_may_allow_no_more_than_the_policy_says(tmp_path: Path, missing: str) -> None:
    partly = office(tmp_path, *[word for word in ALL_WORDS if word != missing])
    assert "waits" not in refused(partly, a_question(MEAN))
    assert not desk(partly).exists()


@pytest.mark.parametrize(
    ("limit", "job"),
    [({"min_cohort": 9}, {}), ({"min_cell": 9}, {}), ({"min_cohort": 4}, {"cohort": 4})],
)
def test_cohorts_and_cells_are_for_nobody_to_grant(tmp_path: Path, limit: Any, job: Any) -> None:
    strict = office(tmp_path, "any", rules=(rule(askers=(), **limit),))
    assert "does not allow" in refused(strict, a_question(MEAN, **job)) and not desk(strict).exists()


def test_noise_may_be_waived_where_the_policy_says_so(tmp_path: Path) -> None:
    noisy = rule(private="required")
    assert "waits" in refused(office(tmp_path, "privacy", rules=(noisy,)), a_question(MEAN))
    assert "waits" not in refused(office(tmp_path, "askers", rules=(noisy,)), a_question(MEAN))


def test_for_a_data_set_without_rules_the_defaults_hold_when_any_may_be_granted(tmp_path: Path) -> None:
    bare = office(tmp_path, "any", rules=(rule(jobs=("train",)),))
    asked = a_question(MEAN)
    assert check(bare, a_question()) == rule()
    assert "waits" in refused(bare, asked)
    approvals.grant(desk(bare), asked.digest, "data-office")
    assert check(bare, asked) == rule()
    assert "waits" not in refused(office(tmp_path / "b", *ALL_WORDS, rules=()), asked)


def test_a_denial_is_told_with_its_reason_and_uses_run_out(tmp_path: Path) -> None:
    waits, asked = office(tmp_path, "any"), a_question(MEAN)
    refused(waits, asked)
    approvals.deny(desk(waits), asked.digest, "board", reason="ask us first")
    assert "was denied by board (ask us first)" in refused(waits, asked)
    approvals.grant(desk(waits), asked.digest, "board", uses=1)
    assert check(waits, asked) == check(waits, asked) == NARROW
    assert "for 1 run, and is used up" in refused(waits, a_question(MEAN, run="run-2"))


def test_of_the_rules_that_could_be_granted_the_nearest_holds(tmp_path: Path) -> None:
    near = rule(askers=("bert",), min_cell=4)
    waits, asked = office(tmp_path, "any", rules=(NARROW, near, rule(min_cell=9))), a_question(MEAN)
    refused(waits, asked)
    approvals.grant(desk(waits), asked.digest, "data-office")
    assert check(waits, asked) == near


def test_while_preparing_what_could_be_granted_passes_and_tells_nothing_of_rows(tmp_path: Path) -> None:
    told = rule(askers=("bert",), columns=("age",), keys="told")
    prepared = check(office(tmp_path, "askers", rules=(told,)), a_question())
    assert (prepared.keys, prepared.columns) == ("declared", ("age",))
    assert check(office(tmp_path, "askers", "columns", rules=(told,)), a_question()).columns == "all"
    keys = a_question().model_copy(update={"state": {"keys": ["sex"]}})
    # A person decides on questions; values of keys are told by rules only.
    assert "'anna' may not ask" in refused(office(tmp_path, "askers", "columns", rules=(told,)), keys)
    assert not desk(office(tmp_path, "askers")).exists()


# ---- as a layer -----------------------------------------------------------------------------------------------


def test_the_layer_stops_a_question_that_no_rule_allows(tmp_path: Path) -> None:
    mod = policy(lambda context: site(tmp_path, rule(statistics=("t_test",))))
    reply = message()
    assert mod(message("query.totals", request=a_question(MEAN)), CONTEXT, lambda *_: reply) is reply
    other = message("query.totals", request=a_question({"describe": {"columns": ["age"]}}))
    with pytest.raises(PolicyRefused, match="statistics describe"):
        mod(other, CONTEXT, lambda *_: pytest.fail("done"))
