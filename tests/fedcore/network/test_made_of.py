"""What a plan was made of, kept beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedcore.errors import DataError, PlanRefused
from fedcore.network.made_of import beside, load_made_of, save_made_of
from fedcore.network.place import make_plan
from fedcore.network.plan import load_plan, save_plan, verify
from tests.fedcore.network.placing import WORK, network, policy, random_offers


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    offers, topology, rules = random_offers(3, 6), network(), policy(4)
    plan = make_plan(offers, topology, rules, WORK, "s0")
    save_plan(plan, tmp_path / "plan.json")
    save_made_of(tmp_path / "plan.json", offers, topology, rules)
    return tmp_path / "plan.json"


def test_a_plan_can_be_judged_anew_from_the_two_files(saved: Path) -> None:
    made_of, plan = load_made_of(saved), load_plan(saved)
    score = verify(plan, made_of.offers, made_of.topology, made_of.policy)
    assert score.objective == pytest.approx(plan.quality.objective)


def test_other_offers_beside_a_plan_are_noticed(saved: Path) -> None:
    told = json.loads(beside(saved).read_text())
    told["offers"][0]["cost"] += 1
    beside(saved).write_text(json.dumps(told))
    made_of = load_made_of(saved)
    with pytest.raises(PlanRefused, match="other offers"):
        verify(load_plan(saved), made_of.offers, made_of.topology, made_of.policy)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"form": 9}', '{"form": 1, "offers": [{}]}', '{"form": 1}']
)
def test_a_file_that_is_none_is_refused_by_name(saved: Path, text: str) -> None:
    beside(saved).write_text(text)
    with pytest.raises(DataError, match=r"plan\.inputs\.json"):
        load_made_of(saved)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"plan\.inputs\.json is not there"):
        load_made_of(tmp_path / "plan.json")
