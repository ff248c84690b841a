"""The site's policy: every reason to refuse, and nothing allowed that no rule covers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord
from hypothesis import given
from hypothesis import strategies as st

from fedcore.errors import JobError, PolicyRefused
from fedcore.jobs.datasets import ParquetData
from fedcore.jobs.participant import Participant, Policy, Rule
from fedcore.participant.mods.policy import asked_columns, check, policy, request_of
from tests.messages import CONTEXT, a_request, message

TABULAR = {"use": "tabular-classifier", "target": "y"}
IMAGES = {"use": "image-classifier"}


def site(*rules: Rule, code: tuple[str, ...] = ("fedcore", "strategies")) -> Participant:
    data = {
        "study": ParquetData(connector="parquet", path=Path("a.parquet"), row_id="patient"),
        "other": ParquetData(connector="parquet", path=Path("b.parquet")),
    }
    return Participant(name="site-0", catalogue=data, policy=Policy(rules=rules, code=code))


def rule(**changes: Any) -> Rule:
    return Rule.model_validate({"jobs": ("train",), "data": "study", **changes})


def refused(participant: Participant, request: Any) -> str:
    with pytest.raises(PolicyRefused) as caught:
        check(participant, request)
    return str(caught.value)


# ---- each reason --------------------------------------------------------------------------------------------


def test_without_rules_nothing_is_allowed() -> None:
    assert "the policy has no rules" in refused(site(), a_request())


@pytest.mark.parametrize(
    ("changes", "request_", "words"),
    [
        ({"jobs": ("psi", "analytics")}, {}, "jobs allowed are psi, analytics"),
        ({"data": "other"}, {}, "the rule is for data 'other'"),
        ({"purpose": "care"}, {}, "the purpose must be 'care'"),
        ({"min_cohort": 4}, {"cohort": 3}, "the cohort has 3 participants, at least 4 are required"),
        ({"columns": ("f0", "y")}, {}, "only the columns f0, y may be read; name task.features"),
        (
            {"columns": ("f0", "y")},
            {"task": {**TABULAR, "features": ["f0", "f1", "age"]}},
            r"columns f1, age may not be read (allowed: f0, y)",
        ),
        ({"columns": ("f0",)}, {"task": {**TABULAR, "features": ["f0"]}}, "columns y may not be read"),
        ({"columns": ("label",)}, {"task": IMAGES}, "columns image may not be read"),
    ],
)
def test_each_thing_that_a_rule_lacks_is_named_with_the_cure(changes, request_, words) -> None:
    told = refused(site(rule(**changes)), a_request(**request_))
    assert words in told
    assert "does not allow train on 'study' for research" in told and "policy.rules" in told


def test_the_reasons_of_all_rules_are_told_each_once() -> None:
    told = refused(site(rule(purpose="care"), rule(purpose="care"), rule(min_cohort=9)), a_request())
    assert told.count("the purpose must be 'care'") == 1 and "at least 9" in told


def test_a_data_set_that_is_not_there_is_answered_with_the_nearest() -> None:
    told = refused(site(rule(data="any")), a_request(data="studdy"))
    assert "no data set 'studdy' in the catalogue" in told and 'did you mean "study"' in told


@pytest.mark.parametrize(
    ("code", "changes", "module"),
    [
        (("strategies",), {}, "fedcore"),
        (("fedcore",), {}, "strategies"),
        (("fedcore", "strategies"), {"task": {"use": "lab.tasks:Net"}}, "lab.tasks"),
        (("fedcore", "strategies", "lab.task"), {"task": {"use": "lab.tasks:Net"}}, "lab.tasks"),
        (("fedcore", "strategies"), {"strategy": {"use": "lab.own:Mean"}}, "lab.own"),
        (("fedcore", "strategies", "lab.tasks"), {"strategy": {"use": "lab.own:Mean"}}, "lab.own"),
        (("fedcore", "strategies"), {"strategy": {"use": "strategiesx:Mean"}}, "strategiesx"),
        ((), {}, "strategies"),
    ],
)
def test_code_that_the_site_does_not_name_may_not_run(code, changes, module) -> None:
    told = refused(site(rule(), code=code), a_request(**changes))
    assert f"code of {module!r} may not run here; allowed: {', '.join(code) or 'none'}" in told


@pytest.mark.parametrize("code", ["lab", "lab.tasks"])
def test_code_is_allowed_by_package_or_module(code) -> None:
    request = a_request(task={"use": "lab.tasks:Net"}, strategy={"use": "lab.tasks.own:Mean"})
    assert check(site(rule(), code=(code,)), request) == rule()


# ---- what is allowed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", ["all", ("f0", "y"), ("f0", "y", "patient")])
@pytest.mark.parametrize("task", [{"target": "patient"}, {"features": ["f0", "patient"]}])
def test_whom_a_row_is_about_is_asked_for_under_no_rule(task: dict[str, Any], columns: Any) -> None:
    said = refused(site(rule(columns=columns)), a_request(task={**TABULAR, "features": ["f0"], **task}))
    assert "'patient'" in said and "row_id" in said


def test_the_row_id_need_not_stand_among_the_columns_of_a_rule() -> None:
    request = a_request(task={**TABULAR, "features": ["f0"]})
    assert check(site(rule(columns=("f0", "y"))), request).columns == ("f0", "y")


def test_of_several_rules_that_allow_it_the_one_with_the_fewest_rows_counts() -> None:
    rules = [rule(min_rows=50), rule(min_rows=7), rule(min_rows=1, purpose="care"), rule(min_rows=9)]
    assert check(site(*rules), a_request()).min_rows == 7


@pytest.mark.parametrize(
    ("task", "columns"),
    [
        (TABULAR, None),
        ({**TABULAR, "features": ["b", "a"]}, ["b", "a", "y"]),
        (IMAGES, ["image", "label"]),
        ({"use": "lab:Net"}, None),
        ({"use": "lab:Net", "features": ["a"]}, ["a"]),
    ],
)
def test_the_columns_a_task_asks_for(task, columns) -> None:
    assert asked_columns(a_request(task=task)) == columns


NAMES = ("f0", "f1", "y", "patient")
RULES = st.builds(
    Rule,
    jobs=st.sampled_from([("train",), ("psi",), ("train", "psi"), ("analytics",)]),
    data=st.sampled_from(["any", "study", "other"]),
    columns=st.just("all") | st.lists(st.sampled_from(NAMES), unique=True, max_size=4).map(tuple),
    purpose=st.sampled_from(["any", "research", "care"]),
    min_cohort=st.integers(1, 4),
    min_rows=st.integers(1, 3),
)


@given(
    st.lists(RULES, max_size=3),
    st.sampled_from(["study", "other"]),
    st.sampled_from(["research", "care", "billing"]),
    st.integers(1, 5),
    st.none() | st.lists(st.sampled_from(["f0", "f1", "patient"]), min_size=1, unique=True),
    st.sampled_from([("fedcore", "strategies"), ("fedcore",), ("strategies",)]),
)
def test_nothing_is_allowed_that_no_rule_covers_and_what_one_covers_is(
    rules, data, purpose, cohort, features, code
) -> None:
    participant = site(*rules, code=code)
    task = {**TABULAR, "features": features}
    request = a_request(data=data, purpose=purpose, cohort=cohort, task=task)
    read = None if features is None else {*features, "y"}
    identifies = data == "study" and "patient" in (features or ())
    covering = []
    for one in rules:
        if "train" not in one.jobs or one.data not in (data, "any") or one.purpose not in (purpose, "any"):
            continue
        if cohort >= one.min_cohort and (
            one.columns == "all" or (read is not None and read <= {*one.columns})
        ):
            covering.append(one)
    if covering and not identifies and {"fedcore", "strategies"} == set(code):
        assert check(participant, request) in covering
    else:
        refused(participant, request)


# ---- as a layer -----------------------------------------------------------------------------------------------


def test_the_layer_lets_an_allowed_request_through_and_stops_another() -> None:
    mod = policy(lambda context: site(rule()))
    reply = message()
    assert mod(message(request=a_request()), CONTEXT, lambda *_: reply) is reply
    with pytest.raises(PolicyRefused):
        mod(message(request=a_request(purpose="care", data="other")), CONTEXT, lambda *_: pytest.fail("done"))


def test_the_layer_stops_what_is_no_request() -> None:
    mod = policy(lambda context: site(rule()))
    with pytest.raises(JobError, match="no fedcore request; only fedcore's coordinator is served here"):
        mod(message(), CONTEXT, lambda *_: pytest.fail("done"))


@pytest.mark.parametrize("record", [{"other": "text"}, {"request": 5}])
def test_a_record_that_holds_no_text_of_a_request_is_none(record) -> None:
    sent = message()
    sent.content["fedcore"] = ConfigRecord(record)
    with pytest.raises(JobError, match="no fedcore request"):
        request_of(sent)
