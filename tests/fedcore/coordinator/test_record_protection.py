"""What the record of a run says of secure aggregation."""

from __future__ import annotations

import json

import pytest

from fedcore.coordinator.record import parse
from fedcore.coordinator.record_protection import exchanges_of, protected
from tests.fedcore.coordinator.protected_result import FAILED, account, make_protected, make_troubled
from tests.fedcore.coordinator.result_factory import make_result


def test_a_run_without_secure_aggregation_has_no_account_of_it():
    assert protected(make_result()) is None
    assert protected({}) is None


def test_the_summary_adds_up_all_exchanges():
    told = protected(make_protected())
    assert told is not None
    assert (told.protocol, len(told.exchanges), told.sums, told.fewest) == ("secagg+", 8, 8, 5)
    stages = {stage.name: stage for stage in told.stages}
    assert list(stages) == ["keys", "roster", "masked", "confirm", "reveal"]
    assert (stages["keys"].exchanges, stages["masked"].exchanges) == (1, 8)
    assert stages["masked"].seconds == 8 * 0.25
    assert (stages["masked"].down, stages["masked"].answered) == (8 * 5 * 20_000, 40)
    assert told.dropped == () and told.failed == () and told.clipped == 0


def test_the_summary_names_drop_outs_with_their_stage_failed_exchanges_with_the_reason_and_who_is_blamed():
    told = protected(make_troubled())
    assert told is not None
    summary = told.as_dict()
    assert summary["sums"] == 7 and summary["exchanges"] == 8
    assert {"round": 3, "phase": "train", "party": "hospital-4", "stage": "reveal"} in summary["dropped"]
    assert len(summary["dropped"]) == 3
    assert summary["failed"] == [{"round": 2, "phase": "train", "why": FAILED}]
    assert summary["blamed"] == ["hospital-5"]
    assert summary["clipped"] == 120
    assert summary["error_bound"] == 3e-7, "the largest"
    json.dumps(summary, allow_nan=False)


def test_assumptions_that_a_job_leaves_out_are_those_of_the_defaults():
    told = protected(make_protected())
    assert told is not None
    assumed = told.as_dict()["assumptions"]
    assert assumed["adversary"] == "active" and assumed["least_cohort"] == 3 and assumed["corrupt"] == 0.05


def test_assumptions_that_a_job_states_are_kept():
    result = make_protected()
    result["protection"]["secure_aggregation"] = {"protocol": "secagg+", "corrupt": 0.3, "least_cohort": 4}
    told = protected(result)
    assert told is not None
    assert (
        told.as_dict()["assumptions"] | {"corrupt": 0.3, "least_cohort": 4} == told.as_dict()["assumptions"]
    )


def test_a_protocol_that_this_version_does_not_know_is_named_and_its_fields_are_kept():
    result = make_protected()
    result["protection"]["secure_aggregation"] = "of-the-future"
    result["rounds"][0]["protection"]["train"]["spread"] = 1e-9
    told = protected(result)
    assert told is not None
    assert told.protocol == "of-the-future"
    assert told.exchanges[0].more == {"spread": 1e-9}


@pytest.mark.parametrize(
    "spoiled",
    [
        None,
        3,
        {},
        {"stages": 1, "dropped": [], "blamed": "x", "clipped": None, "asked": "five"},
        {"stages": {"masked": None, "": {"seconds": "nan", "up": -5, "asked": float("inf")}}},
    ],
)
def test_a_damaged_account_is_read_as_far_as_it_goes(spoiled):
    result = make_protected(rounds=1)
    result["rounds"][0]["protection"]["train"] = spoiled
    told = protected(result)
    assert told is not None
    assert all(stage.seconds >= 0 and stage.up >= 0 for stage in told.stages)
    json.dumps(told.as_dict(), allow_nan=False)


def test_an_exchange_without_a_sum_is_no_lost_participant():
    record = parse(make_troubled())
    assert record.rounds[1].lost == ()
    assert record.rounds[1].cohort == 5
    assert [each.round for each in exchanges_of(record.raw) if each.failed] == [2]


def test_the_account_of_a_single_round_can_be_read():
    (one,) = exchanges_of({"rounds": [{"round": 7, "protection": {"train": account()}}]})
    assert (one.round, one.phase, one.summed) == (7, "train", 5)
