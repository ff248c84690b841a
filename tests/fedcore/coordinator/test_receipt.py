"""The headline and the receipt: what the run was, and which layers protected it."""

from __future__ import annotations

from typing import Any

import pytest

from fedcore.coordinator.receipt import layers
from fedcore.coordinator.record import parse
from fedcore.coordinator.wording import headline
from tests.fedcore.coordinator.result_factory import LAYERS, make_result


def test_the_headline_says_what_was_trained_by_whom_the_result_and_what_was_protected():
    result = make_result()
    said = headline(parse(result))
    rows = sum(each["rows"] for each in result["participants"])
    local = [each["accuracy"] for each in result["baselines"]["local"].values()]
    assert said.startswith("Five participants trained a neural network (MLP) to predict “malignant”")
    assert f"from {rows} rows in twelve rounds" in said
    assert f"reached accuracy {result['baselines']['federated']['accuracy']:.3f}" in said
    assert f"against {sum(local) / 5:.3f} when each trained alone" in said
    assert f"{result['baselines']['pooled']['accuracy']:.3f} with all rows pooled" in said
    assert said.endswith("model updates travelled without secure aggregation or differential privacy.")
    assert said.count(".") == said.count("0.") + 1, "one sentence"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"status": "interrupted"}, "until the run was interrupted after twelve of 20 rounds,"),
        ({"engine": "deployment"}, "rows stayed at the sites"),
        ({"engine": "simulation"}, "all ran in simulation"),
        ({"baselines": None}, "reached accuracy 0.949; all ran"),
        (
            {"rounds": [], "final": None, "status": "refused"},
            "No model was trained: five participants were to",
        ),
    ],
)
def test_the_headline_follows_the_run(change, said):
    assert said in headline(parse(make_result(planned=20) | change))


def states(result: dict[str, Any]) -> dict[str, str]:
    return {layer.name: layer.state for layer in layers(parse(result))}


def test_layers_that_are_on_are_on():
    result = make_result(engine="deployment")
    result["protection"] = {"secure_aggregation": "secagg+", "differential_privacy": {"epsilon": 8}}
    for member in result["participants"]:
        member["layers"] = dict.fromkeys(LAYERS, "on")
    assert set(states(result).values()) == {"on"}
    assert "travelled under secure aggregation and differential privacy." in headline(parse(result))


def test_a_layer_that_one_site_did_not_apply_is_off():
    result = make_result(engine="deployment")
    result["protection"] = {"secure_aggregation": "secagg+", "differential_privacy": {"epsilon": 8}}
    for member in result["participants"]:
        member["layers"] = dict.fromkeys(LAYERS, "on")
    result["participants"][2]["layers"] |= {"privacy": "off", "policy": "off"}
    found = states(result)
    assert found["differential privacy"] == found["site policy"] == "off"
    assert found["secure aggregation"] == "on"


def test_a_layer_without_a_receipt_is_unknown_not_on():
    result = make_result()
    del result["participants"]
    assert states(result)["site policy"] == states(result)["evidence log"] == "unknown"
