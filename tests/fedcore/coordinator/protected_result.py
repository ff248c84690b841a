"""Results of runs under secure aggregation, made without one."""

from __future__ import annotations

from typing import Any

from tests.fedcore.coordinator.result_factory import make_result

FAILED = "round 2 failed: 2 of 5 participants are left and 3 are needed"


def account(sites: int = 5, *, first: bool = False, **changes: Any) -> dict[str, Any]:
    """What an exchange was, as the coordinator writes it.

    Args:
        sites: Participants that were asked.
        first: With the stages that agree on keys.
        changes: Other values.
    """
    names = (["keys", "roster"] if first else []) + ["masked", "confirm", "reveal"]
    bulk = {"masked": 20_000}
    stages = {
        name: {
            "seconds": 0.25,
            "down": sites * bulk.get(name, 100),
            "up": sites * bulk.get(name, 50),
            "asked": sites,
            "answered": sites,
        }
        for name in names
    }
    made = {
        "asked": sites,
        "summed": sites,
        "threshold": 3,
        "neighbours": sites - 1,
        "stages": stages,
        "dropped": {},
        "blamed": [],
        "clipped": 0,
        "error_bound": 5e-8,
        "failed": "",
    }
    return made | changes


def make_protected(rounds: int = 4, **settings: Any) -> dict[str, Any]:
    """A run of five under `secagg+`, in which nothing went wrong."""
    result = make_result(rounds=rounds, losses=False, baselines=False, central=False, **settings)
    result["protection"] = {"secure_aggregation": "secagg+"}
    result["job"]["protection"] = {"secure_aggregation": "secagg+"}
    for each in result["rounds"]:
        first = each["round"] == 1
        each["protection"] = {"train": account(first=first), "evaluate": account()}
        each["empty"] = False
    for member in result["participants"]:
        member["layers"]["protection"] = "secagg+"
    return result


def make_troubled() -> dict[str, Any]:
    """The same with one that dropped out late, a round without a sum, cut values and a wrong share."""
    result = make_protected()
    second, third, fourth = (each["protection"] for each in result["rounds"][1:4])
    second["train"] = account(
        summed=0, failed=FAILED, dropped={"hospital-1": "masked", "hospital-2": "masked"}
    )
    second["train"]["stages"] = {"masked": {**second["train"]["stages"]["masked"], "answered": 3}}
    result["rounds"][1]["lost"] = [
        {"party": "coordinator", "step": "train round 2", "kind": "RoundFailed", "reason": FAILED}
    ]
    third["train"] = account(dropped={"hospital-4": "reveal"}, clipped=120, error_bound=3e-7)
    fourth["evaluate"] = account(blamed=["hospital-5"])
    return result
