"""Jobs placed on a compute network: who takes part, what becomes of faults, and that results stay what they were."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from safetensors.numpy import load_file

from fedcore.coordinator.grids.hierarchy import HierarchyGrid, Region
from fedcore.coordinator.owners import Owners
from fedcore.coordinator.placing import Placing
from fedcore.coordinator.workflows import train
from fedcore.engines.run import resume
from fedcore.errors import FedcoreError, JobError, RunInterrupted
from fedcore.network.made_of import load_made_of
from fedcore.network.plan import load_plan, verify
from fedcore.network.quantity import iso
from fedcore.network.signed import sign
from fedcore.network.signed_offer import KIND
from tests.fedcore.coordinator.placed import Placed, ago, answers_of, offline, placements
from tests.fedcore.network.nodes import found, party
from tests.sites import Study, write_federation, write_job

FAR = 2000.0
"""Kilometres between sites of which each is more than 5 ms, the circle `region`, from the next."""


@pytest.fixture
def placed(tmp_path: Path) -> Placed:
    return Placed(tmp_path)


def reasons(run: Any) -> dict[str, str]:
    """Why owners are left out, by name, as the first round says it."""
    return {one["owner"]: one["reason"] for one in placements(run)[0]["left_out"]}


def same_model(one: Any, other: Any, slack: float = 0.0) -> None:
    left, right = load_file(one.model), load_file(other.model)
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_allclose(left[name], right[name], rtol=0, atol=slack)


# ---- what a placed run is ---------------------------------------------------------------------------------


def test_the_participants_of_the_plan_train_and_nobody_else_and_nodes_are_given_back(placed: Placed) -> None:
    placed.policy(participants={"pick": 3})
    run = placed.run()
    told = placements(run)
    assert [each["version"] for each in told] == [1, 1, 1]
    for record, plan in zip(run.json["rounds"], told, strict=True):
        assert sorted(record["sites"]) == plan["participants"] and len(plan["participants"]) == 3
    plan = load_plan(run.folder / "plan.json")
    assert [one.owner for one in plan.participants] == told[0]["participants"]
    leased = [name for name in placed.names if (placed.folder / ".fedcore" / name / "leases.jsonl").exists()]
    assert leased == told[0]["participants"]
    assert placed.still_leased() == set()


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": "{use: fedavg}"},
        {"strategy": "{use: fedadam, server_lr: 0.1}"},
        {"strategy": "{use: fedmedian}"},
        {"strategy": "{use: fedavg}", "protection": "{secure_aggregation: secagg+}"},
    ],
    ids=["fedavg", "fedadam", "fedmedian", "secagg+"],
)
@pytest.mark.parametrize("regions", [False, True], ids=["star", "regions"])
def test_a_strategy_gives_what_it_gives_the_same_participants_unplaced(
    tmp_path: Path, changes: dict[str, str], regions: bool
) -> None:
    study = Placed(tmp_path, sites=7, km=FAR)
    who = "{names: [site-0, site-1, site-3, site-4, site-6, site-2], min: 3}"
    if regions:
        # Two sites of three participants each: none may go farther than its own.
        for name, site in zip(study.names, ("s0", "s2", "s0", "s0", "s2", "s1", "s2"), strict=True):
            study.site(name, [study.node(name, site=site)], rows=40 + 10 * study.names.index(name))
        study.policy(hard={"latency": {"circle": "region"}})
    study.job = write_job(tmp_path, participants=who, **changes)
    plain = study.run(folder=tmp_path / "plain")
    study.job = write_job(tmp_path, participants=who, placement="policy.yaml", **changes)
    run = study.run(folder=tmp_path / "placed")
    # The median needs each update, so that its rounds go through no region.
    through = regions and "fedmedian" not in changes["strategy"]
    assert set(placements(run)[0]["aggregators"]) == ({"s0", "s2"} if through else {"s0"})
    # A region's mean is rounded once more on its way, and what is masked is rounded by chance in each run.
    same_model(run, plain, 2e-6 if through or "protection" in changes else 0.0)
    assert run.json["rounds"][-1]["empty"] is False


def test_equal_nodes_and_the_same_seed_give_the_same_plan(placed: Placed) -> None:
    for name in placed.names:
        placed.site(name, [placed.node(name, site="s1", quantities=found())])
    placed.policy(participants={"pick": 3})
    chosen = [
        placements(placed.run(folder=placed.folder / name))[0]["participants"] for name in ("one", "two")
    ]
    assert chosen[0] == chosen[1] and len(chosen[0]) == 3


@pytest.mark.slow
def test_a_placed_run_on_the_simulation_engine_has_the_same_plan_and_model(placed: Placed) -> None:
    placed.policy(participants={"pick": 4})
    placed.job = write_job(placed.folder, placement="policy.yaml", deadline=120)
    here = placed.run(folder=placed.folder / "here")
    ray = placed.run(folder=placed.folder / "ray", engine="simulation")
    assert [each["participants"] for each in placements(ray)] == [
        each["participants"] for each in placements(here)
    ]
    same_model(ray, here, 1e-5)
    assert placed.still_leased() == set()


def test_everybody_takes_part_as_often_as_fairness_asks(tmp_path: Path) -> None:
    study = Placed(tmp_path, sites=6)
    study.policy(participants={"pick": 3}, fairness={"window": 4, "min_rate": 0.25, "max_rate": 0.75})
    study.job = write_job(tmp_path, rounds=8, placement="policy.yaml", local="{lr: 0.1, batch_size: 64}")
    run = study.run()
    rounds = [set(each["participants"]) for each in placements(run)]
    for start in range(len(rounds) - 3):
        window = rounds[start : start + 4]
        assert all(1 <= sum(name in each for each in window) <= 3 for name in study.names), window
    versions = [each["version"] for each in placements(run)]
    assert versions == sorted(versions) and len(set(map(frozenset, rounds))) > 1


def test_a_protected_sum_is_made_over_cohorts_that_change_from_round_to_round(tmp_path: Path) -> None:
    study = Placed(tmp_path, sites=6)
    study.policy(participants={"pick": 3}, fairness={"window": 2, "max_rate": 0.5})
    study.job = write_job(tmp_path, placement="policy.yaml", protection="{secure_aggregation: secagg+}")
    run = study.run()
    cohorts = [each["participants"] for each in placements(run)]
    assert cohorts[0] == cohorts[2] and not set(cohorts[0]) & set(cohorts[1])
    assert [record["protection"]["train"]["summed"] for record in run.json["rounds"]] == [3, 3, 3]


# ---- who is left out --------------------------------------------------------------------------------------


def test_bad_descriptors_and_offers_are_left_out_with_their_reason_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Placed(tmp_path, sites=10)
    study.site("site-0", [study.node("site-0", at=ago(10 * 86400))])
    forged = study.node("site-1").model_copy(update={"security": None, "tier": "hub"})
    study.site("site-1", [forged])

    def told(participant: Any, body: Any, answer: Any) -> Any:
        if participant.name == "site-2":
            answer["offers"][0]["offer"]["work_s"] /= 10
        elif participant.name == "site-3":
            old = answer["offers"][0]
            old.update(issued=iso(ago(2000)), expires=iso(ago(1000)))
            del old["signature"]
            old["signature"] = sign(study.keys["site-3"], KIND, old)
        elif participant.name == "site-4":
            # Another's offer, and another's descriptor.
            answer["offers"][0]["offer"].update(id="site-7/n1/cpu", owner="site-7")
        elif participant.name == "site-5":
            answer["descriptors"][0]["owner"] = "site-8"
        elif participant.name == "site-6":
            return {"offers": "none"}
        return answer

    answers_of(monkeypatch, "offers", told)
    run = study.run()
    assert all(each["participants"] == ["site-7", "site-8", "site-9"] for each in placements(run))
    why = reasons(run)
    assert set(why) == {f"site-{i}" for i in range(7)}
    assert "expired at" in why["site-0"]
    assert "not signed by site-1" in why["site-1"] and "changed" in why["site-1"]
    assert "this offer is not signed by site-2" in why["site-2"]
    assert "this offer expired at" in why["site-3"]
    assert "speaks for itself only" in why["site-4"]
    assert "descriptors of others" in why["site-5"]
    assert "cannot be used" in why["site-6"]
    log = (run.folder / "run.log").read_text()
    assert all(f"of site-{i} is left out" in log for i in range(7))


def test_an_offer_made_for_an_earlier_request_is_left_out(
    placed: Placed, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []

    def told(participant: Any, body: Any, answer: Any) -> Any:
        if participant.name == "site-0":
            kept.append(answer)
            return kept[0]
        return answer

    answers_of(monkeypatch, "offers", told)
    placed.run(folder=placed.folder / "first")
    run = placed.run(folder=placed.folder / "second")
    assert "answers another request" in reasons(run)["site-0"]
    assert "site-0" not in placements(run)[0]["participants"]


def test_who_does_not_fulfil_the_policy_is_left_out_and_named(tmp_path: Path) -> None:
    study = Placed(tmp_path, sites=7)
    study.site("site-0", [study.node("site-0", security={"level": 2})])
    study.site("site-1", [study.node("site-1", jurisdiction="SG")])
    declared = {
        name: replace(each, source="declared", spread=None) if name.startswith(("gemm", "work")) else each
        for name, each in found().items()
    }
    study.site("site-2", [study.node("site-2", quantities=declared)])
    study.site("site-3", [])
    for name in study.names[3:]:
        measured = found(100.0, **{"work.study-job": found()["work.digits"]})
        if name != "site-3":
            study.site(name, [study.node(name, quantities=measured)])
    for name in ("site-0", "site-1"):
        measured = found(100.0, **{"work.study-job": found()["work.digits"]})
        changes = {"security": {"level": 2}} if name == "site-0" else {"jurisdiction": "SG"}
        study.site(name, [study.node(name, quantities=measured, **changes)])
    study.policy(hard={"security_level": 3, "jurisdiction": ["CN"], "evidence": {"compute": "measured"}})
    run = study.run()
    why = reasons(run)
    assert why["site-0"] == "security level 2 is below 3"
    assert why["site-1"] == "jurisdiction SG is not allowed"
    assert "compute is declared; the policy asks for measured" in why["site-2"]
    assert "names no node" in why["site-3"]
    assert placements(run)[0]["participants"] == ["site-4", "site-5", "site-6"]


def test_an_offer_from_a_site_that_the_map_lacks_is_left_out(placed: Placed) -> None:
    placed.site("site-4", [placed.node("site-4", site="atlantis")])
    run = placed.run()
    assert "atlantis" in reasons(run)["site-4"] and len(placements(run)[0]["participants"]) == 4


# ---- leases -----------------------------------------------------------------------------------------------


def test_a_refused_lease_costs_its_offer_and_the_plan_is_made_again(
    placed: Placed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(participant: Any, body: Any, answer: Any) -> Any:
        if participant.name != "site-1":
            return answer
        # It speaks of another's offer, which changes nothing for that one.
        return [
            {**body[0], "granted": False, "owner": "site-2", "offer": "site-2/n1/cpu", "reason": "repairs"}
        ]

    answers_of(monkeypatch, "lease", told)
    run = placed.run()
    first = placements(run)[0]
    assert first["version"] == 2 and first["cause"] == "first; lease refused by site-1"
    assert first["participants"] == ["site-0", "site-2", "site-3", "site-4"]
    refused = [each for each in first["events"] if each["event"] == "refused"]
    assert [(each["owner"], each["offer"], each["reason"]) for each in refused] == [
        ("site-1", "site-1/n1/cpu", "repairs")
    ]
    # What the others had granted for the first version was given back.
    assert [each["event"] for each in placed.book("site-0")][:3] == ["seen", "granted", "released"]
    assert placed.still_leased() <= {each["lease"]["id"] for each in placed.book("site-1") if "lease" in each}


def test_a_lease_that_is_not_bound_counts_as_refused(placed: Placed, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(participant: Any, body: Any, answer: Any) -> Any:
        return {} if participant.name == "site-2" else answer

    answers_of(monkeypatch, "bind", told)
    first = placements(placed.run())[0]
    assert first["version"] == 2 and "site-2" not in first["participants"]


def test_a_lease_signed_by_another_counts_as_refused(placed: Placed, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = party("site-2")

    def told(participant: Any, body: Any, answer: Any) -> Any:
        if participant.name == "site-2":
            lease = {key: value for key, value in answer[0].items() if key not in ("granted", "signature")}
            answer[0]["signature"] = sign(stranger, "lease", lease)
        return answer

    answers_of(monkeypatch, "lease", told)
    first = placements(placed.run())[0]
    assert first["version"] == 2 and "site-2" not in first["participants"]


def test_nobody_grants_and_the_run_says_so(placed: Placed, monkeypatch: pytest.MonkeyPatch) -> None:
    answers_of(
        monkeypatch, "lease", lambda participant, body, answer: [{"granted": False, "reason": "not today"}]
    )
    with pytest.raises(JobError, match=r"no participant that is online offers a node.*not today"):
        placed.run()


def test_leases_are_renewed_before_they_end(placed: Placed, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, calls = Owners.ends_within, []

    def soon(self: Owners, seconds: float) -> bool:
        calls.append(seconds)
        return honest(self, seconds) or len(calls) == 3

    monkeypatch.setattr(Owners, "ends_within", soon)
    run = placed.run()
    assert [each["version"] for each in placements(run)] == [1, 1, 1]
    granted = [each["lease"] for each in placed.book("site-0") if each["event"] == "granted"]
    assert [each["version"] for each in granted] == [1, 1] and placed.still_leased() == set()
    # A lease outlives the exchange that begins under it.
    assert set(calls) == {30.0}


def test_an_owner_that_does_not_renew_its_lease_is_left_out(
    placed: Placed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Owners, "ends_within", lambda self, seconds: "site-3" in self.leases)
    asked: list[str] = []

    def told(participant: Any, body: Any, answer: Any) -> Any:
        if participant.name == "site-3":
            asked.append(body[0]["id"])
        if participant.name != "site-3" or len(asked) == 1:
            return answer
        return [{"granted": False, "reason": "enough"}]

    answers_of(monkeypatch, "lease", told)
    first = placements(placed.run())[0]
    assert first["version"] == 2 and first["cause"] == "a lease was not renewed"
    assert first["participants"] == ["site-0", "site-1", "site-2", "site-4"]


def test_a_round_of_an_older_plan_is_fenced_off_at_the_participants(
    placed: Placed, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Placing.asked

    def older(self: Placing, kind: str, nodes: Any) -> int | None:
        version = honest(self, kind, nodes)
        return version - 1 if version is not None and version > 1 else version

    monkeypatch.setattr(Placing, "asked", older)
    offline(monkeypatch, placed, lambda phase, number: ["site-4"] if number == 2 else [])
    with pytest.raises(
        RunInterrupted, match=r"the work is of version 1 of plan .*, the lease .* of version 2"
    ):
        placed.run()


# ---- who is lost ------------------------------------------------------------------------------------------


def test_an_owner_that_is_away_with_all_its_nodes_is_replaced_and_comes_back(
    placed: Placed, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed.site("site-1", [placed.node("site-1"), placed.node("site-1", node="n2")])
    placed.policy(participants={"pick": 4}, fairness={"window": 3, "min_rate": 0.34})
    placed.job = write_job(placed.folder, rounds=4, placement="policy.yaml")
    offline(monkeypatch, placed, lambda phase, number: ["site-1"] if number == 2 else [])
    run = placed.run()
    told = placements(run)
    assert ["site-1" in each["participants"] for each in told][:2] == [True, False]
    assert any("site-1" in each["participants"] for each in told[2:])
    assert run.json["status"] == "finished"


def test_a_planned_participant_that_goes_inside_a_round_is_repaired(
    placed: Placed, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed.site("site-1", [placed.node("site-1"), placed.node("site-1", node="n2", site="s2")])
    placed.policy(participants={"pick": 4, "min": 3})
    offline(
        monkeypatch, placed, lambda phase, number: ["site-1"] if (phase, number) == ("evaluate", 2) else []
    )
    run = placed.run()
    told = placements(run)
    assert told[0]["version"] == 1 and "site-1" in told[0]["participants"]
    assert told[1]["version"] == 2 and "site-1/" in told[1]["cause"] and "lost" in told[1]["cause"]
    made = load_made_of(run.folder / "plan.json")
    verify(load_plan(run.folder / "plan.json"), made.offers, made.topology, made.policy)
    # It had trained, which is what fairness counts.
    assert "site-1" in told[1]["participants"]
    assert "evaluate" not in run.json["rounds"][1]["sites"].get("site-1", {})
    assert "evaluate" in run.json["rounds"][1]["sites"]["site-4"]


def test_an_owner_that_fairness_needs_and_that_goes_away_does_not_stop_the_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Placed(tmp_path, sites=6)
    study.policy(participants={"pick": 4, "min": 3}, fairness={"window": 2, "min_rate": 0.5})
    due = placements(study.run(folder=tmp_path / "whole"))[1]
    assert {"site-4", "site-5"} <= set(due["participants"])
    offline(
        monkeypatch, study, lambda phase, number: ["site-5"] if (phase, number) == ("evaluate", 2) else []
    )
    run = study.run()
    told = placements(run)
    assert told[1]["version"] == due["version"] + 1 and "site-5" in told[1]["cause"]
    assert "site-5" in told[1]["participants"] and run.json["status"] == "finished"


@pytest.mark.parametrize("mandatory", [True, False])
def test_a_loss_that_cannot_be_made_good_interrupts_the_run_and_it_resumes(
    placed: Placed, monkeypatch: pytest.MonkeyPatch, mandatory: bool
) -> None:
    rules = {"mandatory": ["site-4"]} if mandatory else {"min": 5, "pick": 5}
    placed.policy(participants=rules, fairness={"window": 3, "max_rate": 1.0})
    away = ["site-4"]
    offline(monkeypatch, placed, lambda phase, number: away if number == 2 else [])
    with pytest.raises(RunInterrupted, match=r"round 2 cannot be placed.*site-4.*resume the run"):
        placed.run()
    away.clear()
    first = load_plan(placed.folder / "run" / "plan.json").version
    run = resume(placed.folder / "run")
    told = placements(run)
    assert run.json["status"] == "finished" and len(told) == 3
    assert told[0]["version"] == first == 1 and told[1]["version"] == told[2]["version"] == 2
    assert told[1]["cause"] == "resumed"
    assert placed.still_leased() == set()


def test_who_took_part_before_counts_in_a_resumed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Placed(tmp_path, sites=6)
    study.policy(participants={"pick": 3}, fairness={"window": 2, "max_rate": 0.5})
    study.job = write_job(tmp_path, rounds=4, placement="policy.yaml")
    whole = placements(study.run(folder=tmp_path / "whole"))
    away = study.names[:4]
    with monkeypatch.context() as patch:
        offline(patch, study, lambda phase, number: away if number == 2 else [])
        with pytest.raises(RunInterrupted):
            study.run(folder=tmp_path / "run")
    told = placements(resume(tmp_path / "run"))
    assert [each["participants"] for each in told] == [each["participants"] for each in whole]
    # Nobody twice in a row, also over the interruption.
    for one, other in itertools.pairwise(told):
        assert not set(one["participants"]) & set(other["participants"])
    versions = [each["version"] for each in told]
    assert versions == sorted(set(versions))


class Losing:
    """Aggregators of other machines, of which one is lost in the second exchange that it is asked for."""

    def __init__(self, calls: int = 2) -> None:
        self.met: list[Sequence[Region]] = []
        self.asked, self.calls = 0, calls

    def meet(self, regions: Sequence[Region], request: Any, send: Any) -> None:
        self.met.append(tuple(regions))

    def wrap(self, region: Region, asked: Any, timeout: float | None) -> tuple[Message, set[int]] | None:
        self.asked += 1
        if self.asked != self.calls:
            return None
        return Message(RecordDict(), region.aggregator, "query.nobody"), set(asked)


def test_an_aggregator_lost_in_a_round_loses_no_update_and_the_plan_goes_on_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Placed(tmp_path, sites=7, km=FAR)
    for name, site in zip(study.names, ("s0", "s2", "s0", "s0", "s2", "s2", "s0"), strict=True):
        study.site(name, [study.node(name, site=site)], rows=40 + 10 * study.names.index(name))
    # A plan for each round, and nothing but the lost aggregator's own rest that keeps it closed.
    study.policy(
        hard={"latency": {"circle": "national"}},
        weights={"time": 0, "carbon": 0, "cost": 0, "latency": 1, "security": 0},
        participants={"pick": 6},
        replace={"min_gain": 0, "cooldown_rounds": 0},
    )
    study.job = write_job(tmp_path, placement="policy.yaml", rounds=4)
    aggregators = Losing()
    monkeypatch.setattr(train, "HierarchyGrid", lambda grid, others: HierarchyGrid(grid, aggregators))
    run = study.run()
    told = placements(run)
    assert set(told[0]["aggregators"]) == {"s0", "s2"}
    for record, plan in zip(run.json["rounds"], told, strict=True):
        assert sorted(record["sites"]) == plan["participants"] and len(plan["participants"]) == 6
        assert record["lost"] == []
    assert told[1]["cause"] == "aggregator s2 lost" and told[1]["version"] == 2
    assert ["s2" in plan["aggregators"] for plan in told] == [True, False, False, True]
    assert told[1]["events"][0] == {
        "event": "plan",
        "round": 2,
        "version": 2,
        "cause": "aggregator s2 lost",
    }


def test_a_plan_that_has_no_other_aggregator_stays_when_one_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Placed(tmp_path, sites=6, km=FAR)
    for name, site in zip(study.names, ("s0", "s2", "s0", "s0", "s2", "s2"), strict=True):
        study.site(name, [study.node(name, site=site)], rows=40 + 10 * study.names.index(name))
    study.policy(hard={"latency": {"circle": "region"}}, participants={"pick": 6})
    aggregators = Losing()
    monkeypatch.setattr(train, "HierarchyGrid", lambda grid, others: HierarchyGrid(grid, aggregators))
    run = study.run()
    told = placements(run)
    assert [plan["version"] for plan in told] == [1, 1, 1]
    assert all(set(record["sites"]) == set(study.names) for record in run.json["rounds"])
    assert {"event": "lost", "round": 2, "what": "aggregator s2 lost"} in told[1]["events"]


# ---- what cannot be placed --------------------------------------------------------------------------------


def test_an_infeasible_policy_names_what_to_relax_and_how_far(placed: Placed) -> None:
    placed.policy(hard={"round_deadline": "1ms"})
    with pytest.raises(JobError, match=r"It is enough to relax hard.round_deadline to [0-9]"):
        placed.run()


def test_a_network_in_two_pieces_is_said_to_be_the_cause(tmp_path: Path) -> None:
    study = Placed(tmp_path, linked=False)
    with pytest.raises(JobError, match=r"nothing can be placed.*(reach an aggregator|no path to s0)"):
        study.run()


@pytest.mark.parametrize(
    ("policy", "job", "match"),
    [
        ({"participants": {"pick": 3}}, {"participants": "{min: 4}"}, "picks 3 participants.*needs 4"),
        ({"participants": {"pick": 5, "min": 3}, "hard": {"security_level": 5}}, {}, "security_level"),
        ({"participants": {"mandatory": ["nobody"]}}, {}, "nobody"),
        ({"participants": {"utility": {"weight": 0.1, "epsilon": 1.0}}}, {}, "utility.*allowed: weight 0"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused_with_the_cause(
    placed: Placed, policy: dict[str, Any], job: dict[str, str], match: str
) -> None:
    placed.policy(**policy)
    placed.job = write_job(placed.folder, placement="policy.yaml", **job)
    with pytest.raises(JobError, match=match):
        placed.run()


def test_a_plan_with_fewer_than_the_job_needs_is_refused_instead_of_waited_for(placed: Placed) -> None:
    placed.site("site-0", [])
    placed.job = write_job(placed.folder, placement="policy.yaml", participants="{min: 5}")
    with pytest.raises(JobError, match=r"4 participants, and the job needs 5.*site-0.*names no node"):
        placed.run()


def test_a_federation_without_a_network_or_with_another_root_is_refused(placed: Placed) -> None:
    write_federation(placed.folder, placed.names, extra="network: {map: map.json, root: s9}\n")
    with pytest.raises(FedcoreError, match="no site is called 's9'"):
        placed.run(folder=placed.folder / "a")
    write_federation(placed.folder, placed.names)
    with pytest.raises(FedcoreError, match="names no network"):
        placed.run(folder=placed.folder / "b")


def test_nobody_has_a_node(study: Study) -> None:
    placed = Placed.__new__(Placed)
    placed.folder, placed.names = study.folder, study.names
    placed.map()
    placed.policy()
    write_federation(study.folder, study.names, extra="network: {map: map.json, root: s0}\n")
    study.job = write_job(study.folder, placement="policy.yaml")
    with pytest.raises(JobError, match=r"no participant that is online offers a node.*names no node"):
        study.run()
