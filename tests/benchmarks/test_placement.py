"""The benchmark of placement: its instances, its baselines, and a toy run."""

import json

import numpy as np
import psutil
import pytest

from benchmarks import placement, placement_baselines
from benchmarks.placement_baselines import CHOICES, judged, placed, random, restricted, star
from benchmarks.placement_instances import instance
from fedcore.network.offer import check_offers
from fedcore.network.problem import build
from fedcore.network.search import Effort, search


@pytest.fixture(autouse=True)
def small_grids(monkeypatch):
    """Baselines try few values, each for a moment."""
    monkeypatch.setattr(placement_baselines, "QUANTILES", (0.5,))
    monkeypatch.setattr(placement_baselines, "DRAWS", 2)
    monkeypatch.setattr(
        placement_baselines, "search", lambda problem, _=None: search(problem, Effort(6, 1, 1))
    )


@pytest.fixture(scope="module")
def drawn():
    return instance(60, 12, 1)


@pytest.fixture(scope="module")
def problem(drawn):
    return build(drawn.offers, drawn.topology, drawn.policy, drawn.work, drawn.root)


def test_a_seed_gives_the_same_plausible_instance_again(drawn):
    assert instance(60, 12, 1).offers == drawn.offers != instance(60, 12, 2).offers
    check_offers(drawn.offers)
    assert len({one.owner for one in drawn.offers}) == 60


def test_each_baseline_chooses_as_many_owners_as_asked_for_each_with_one_offer_of_its_own(problem):
    for name, choices in {**CHOICES, "random": random}.items():
        told = [choice for choice in choices(problem, 0) if choice is not None]
        assert told, name
        for choice in told:
            assert len(choice) == problem.pick == len(set(problem.owner_of[choice].tolist())), name


def test_the_simple_baselines_choose_what_they_are_named_for(problem):
    for name, value in (
        ("cheapest", problem.terms.money),
        ("carbon-greedy", problem.terms.grams),
        ("fastest", problem.seconds.min(axis=1)),
    ):
        (choice,) = CHOICES[name](problem, 0)
        best = np.sort(np.minimum.reduceat(value, problem.first))[: problem.pick]
        assert np.sort(value[choice]) == pytest.approx(best)


def test_a_baselines_choice_is_placed_as_it_was_chosen_and_no_better_than_the_plan(problem):
    plan = search(problem)
    (choice,) = CHOICES["fastest"](problem, 0)
    found = placed(problem, choice)
    small = restricted(problem, choice)
    assert {small.offers[i].id for i in found.offers} == {problem.offers[i].id for i in choice}
    assert found.objective >= plan.objective
    flat = star(problem, "beijing")
    assert {problem.sites[i] for i in flat.opened} == {"beijing"} and flat.objective >= plan.objective
    assert set(judged(problem, "beijing", 0)) == set(placement.BASELINES)


def test_a_toy_run_reports_figures_and_targets(monkeypatch, capsys):
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda *_: [0, 1])
    report = placement.main(["--nodes", "40", "--pick", "10", "--instances", "2", "--json"])
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(report.as_dict()))
    assert [row.get("baseline") for row in report.figures] == [None, *placement.BASELINES]
    assert {target.name.split(": ")[1].split(",")[0]: target.met for target in report.targets} == {
        "largest proven gap": True,
        "hard constraints broken": True,
        "least lead over any baseline on any instance": True,
    }
