"""What a participant file may say of questions, approvals and privacy budgets; what it may not, with the cure."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from fedcore.jobs import participant
from fedcore.jobs.asks import STATISTICS
from fedcore.jobs.load import load_participant
from fedcore.privacy.sensitivity import RELATIONS
from tests.fedcore.jobs.job_files import only, told

FILE = """name: site-a
catalogue:
  rows: {{connector: csv, path: rows.csv{data}}}
policy:
  rules:
    - {{jobs: [analytics], data: rows{rule}}}
{policy}
"""


def text(data: str = "", rule: str = "", policy: str = "") -> str:
    return FILE.format(data=data, rule=rule, policy=policy)


def test_the_defaults_are_the_safe_ones_for_cells_keys_and_approval(folder: Path) -> None:
    (folder / "a.yaml").write_text(text())
    policy = load_participant(folder / "a.yaml").policy
    rule = policy.rules[0]
    assert (rule.min_cell, rule.keys, rule.rows_per_parameter) == (5, "declared", 5)
    assert (rule.small_cells, rule.private, rule.askers, rule.statistics) == (
        "in_sums",
        "optional",
        "any",
        "all",
    )
    assert policy.approval is None and policy.privacy == {}


def test_all_words_together(folder: Path) -> None:
    words = ", ".join(STATISTICS)
    rule = (
        f", askers: [anna], statistics: [{words}], min_cell: 3, small_cells: never, rows_per_parameter: 7.5, "
        "private: required, keys: told"
    )
    policy = (
        "  approval: {by: data-office, for: [askers, any]}\n"
        "  privacy: {rows: {epsilon: 1, delta: 1.0e-6, per: ever, neighbours: replace-person, required_for: [analytics]}}"
    )
    data = ", levels: {sex: [1, 2], arm: [a, b], old: [true, false]}, units: {age: years}"
    assert told(folder, text(data, rule, policy)) == []
    site = load_participant(folder / "a.yaml")
    assert site.policy.rules[0].statistics == STATISTICS
    assert site.policy.approval is not None and site.policy.approval.for_ == ("askers", "any")
    assert site.catalogue["rows"].levels["old"] == (True, False)


@pytest.mark.parametrize("least", [2, 0, -5])
def test_nobody_sets_the_least_cell_below_three(folder: Path, least: int) -> None:
    assert "min_cell: must be greater than or equal to 3" in only(folder, text(rule=f", min_cell: {least}"))


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("statistics: [meen]", 'did you mean "mean"?'),
        ("statistics: some", "must be all or a list"),
        ("small_cells: nver", 'did you mean "never"?'),
        ("private: require", 'did you mean "required"?'),
        ("keys: tell", "allowed: declared, told"),
        ("askrs: [anna]", 'did you mean "askers"?'),
        ("rows_per_parameter: 0", "rows_per_parameter: must be greater than or equal to 1"),
        ("rows_per_parameter: .inf", "rows_per_parameter: must be a finite number"),
        ("min_cell: 5.5", "min_cell"),
    ],
)
def test_wrong_words_of_a_rule_are_named_with_the_nearest(folder: Path, rule: str, said: str) -> None:
    assert said in only(folder, text(rule=f", {rule}"))


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("approval: {by: office, for: [asker]}", 'did you mean "askers"?'),
        ("approval: {by: office, for: []}", "name what a person may allow"),
        ("approval: {by: office}", "approval.for: missing"),
        ("approval: {for: [any]}", "approval.by: missing"),
        ("privacy: {row: {epsilon: 1}}", 'row is no data set of the catalogue; did you mean "rows"?'),
        ("privacy: {rows: {epsilon: 0}}", "epsilon: must be greater than 0"),
        ("privacy: {rows: {epsilon: -1}}", "epsilon: must be greater than 0"),
        ("privacy: {rows: {epsilon: .inf}}", "epsilon: must be a finite number"),
        ("privacy: {rows: {epsilon: .nan}}", "epsilon: must be a finite number"),
        ("privacy: {rows: {epsilon: 1, delta: 1}}", "delta: must be less than 1"),
        ("privacy: {rows: {epsilon: 1, delta: -0.1}}", "delta: must be greater than or equal to 0"),
        ("privacy: {rows: {epsilon: 1, per: yer}}", 'did you mean "year"?'),
        ("privacy: {rows: {epsilon: 1, neighbours: add-remove-rows}}", 'did you mean "add-remove-row"?'),
        ("privacy: {rows: {epsilon: 1, required_for: [analitics]}}", 'did you mean "analytics"?'),
    ],
)
def test_wrong_words_of_approvals_and_budgets(folder: Path, policy: str, said: str) -> None:
    assert said in only(folder, text(policy=f"  {policy}"))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("levels: {sex: []}", "sex needs one or more values, each once"),
        ("levels: {sex: [1, 2, 1]}", "sex needs one or more values, each once"),
        ("levels: {sex: [1, .nan]}", "sex[1]: must be a finite number"),
        ("levels: {sex: [[1]]}", "levels.sex[0]"),
        ("units: {age: 5}", "units.age"),
    ],
)
def test_wrong_levels_and_units(folder: Path, data: str, said: str) -> None:
    assert said in only(folder, text(data=f", {data}"))


def test_a_budget_without_an_end_is_none() -> None:
    with pytest.raises(ValidationError):
        participant.SiteBudget(epsilon=float("inf"))


def test_neighbours_are_those_of_the_ledger() -> None:
    assert set(get_args(participant.Neighbours)) == set(RELATIONS)
