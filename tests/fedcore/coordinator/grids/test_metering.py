"""The grid that makes usage records: what it believes, what it refuses, and that no strategy meets a half."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedcore.coordinator.grids.evidence import EvidenceGrid
from fedcore.coordinator.grids.layer import Layer
from fedcore.coordinator.grids.metering import MeteringGrid
from fedcore.coordinator.watch import Silent
from fedcore.flower import array_record, payload_bytes
from fedcore.jobs.request import SECURE, USAGE
from fedcore.network.usage import UsageRecord, check_record, new_id, sign_said
from fedcore.network.usage_log import UsageLog, read_log
from fedcore.participant.mods.metering import round_of
from fedcore.participant.protected import MASKED
from fedcore.participant.region import RegionSum, apart
from fedcore.trust import evidence
from tests.fedcore.network.nodes import ANNA, BERT, HUB, PINS
from tests.fedcore.network.used import said
from tests.messages import message, reply_to

ARRAYS = {"w": np.ones((2, 3), np.float32)}
OWNERS = {1: ANNA, 2: BERT}
Change = Callable[[Message, dict[str, Any]], None]


class Sites(Layer):
    """Nodes 1 and 2, which are anna and bert, answer with halves; `change` may spoil what bert says."""

    def __init__(self, change: Change = lambda reply, told: None) -> None:
        self.change = change

    def stream(self, messages: Any, timeout: float | None) -> Any:
        for asked in messages:
            number = asked.metadata.dst_node_id
            reply = reply_to(asked, ARRAYS, 20, loss=0.5)
            told = said_by(number, asked, reply)
            if number == 2:
                self.change(reply, told)
            if told:
                put(reply, USAGE, number, told)
            yield reply


def said_by(number: int, asked: Message, reply: Message) -> dict[str, Any]:
    plan = asked.content[USAGE].get("plan")
    return {
        "owner": OWNERS[number].name,
        "id": new_id(),
        "round": round_of(asked.content),
        "plan": plan,
        "seconds": 0.0,
        "tflops_h": 0.0,
        "kwh": 0.0,
        "gco2_location": 0.0,
        "cpu_seconds": 0.0,
        "bytes_down": payload_bytes(asked.content),
        "bytes_up": payload_bytes(reply.content),
        "result": None,
    }


def put(reply: Message, name: str, signer: int, told: dict[str, Any]) -> None:
    half = said(**told)
    reply.content[name] = ConfigRecord(
        {"said": half.model_dump_json(), "signature": sign_said_by(OWNERS[signer], half)}
    )


def sign_said_by(identity: Any, half: Any) -> str:
    return sign_said(half, identity) if identity.name == half.owner else sign_said(said(), ANNA)


def grid_of(folder: Path, sites: Layer, **more: Any) -> MeteringGrid:
    names = {1: "anna", 2: "bert"}
    below = EvidenceGrid(
        sites, lambda node: names.get(node, f"node {node}"), folder / "coordinator.jsonl", True, Silent()
    )
    told = {"run": "digits-1", "job": "digits", "pins": PINS, "signed": True, "identity": lambda: HUB}
    return MeteringGrid(below, UsageLog(folder / "usage.jsonl"), **(told | more))


def exchange(grid: MeteringGrid, number: int = 3, kind: str = "train") -> list[Message]:
    grid.evidence.begin(kind, number)
    asked = [message(kind, node=node, arrays=ARRAYS, server_round=number) for node in (1, 2)]
    replies = list(grid.send_and_receive(asked, timeout=5))
    grid.write()
    return replies


def records(folder: Path) -> list[UsageRecord]:
    return read_log(folder / "usage.jsonl")


def refusals(folder: Path) -> list[tuple[str, str]]:
    log = folder / "coordinator.jsonl"
    return [(each["party"], each["why"]) for each in evidence.read(log) if each["event"] == "usage refused"]


def test_an_exchange_gives_a_record_of_each_that_both_signed(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, Sites())
    replies = exchange(grid)
    made = records(tmp_path)
    assert [each.said.owner for each in made] == ["anna", "bert"]
    for each in made:
        check_record(each, PINS)
        assert each.coordinator == "hub" and each.disputes == () and each.seen.phase == "train round 3"
    assert all(sorted(reply.content) == ["arrays", "metrics"] for reply in replies)


def test_all_bytes_of_an_exchange_are_in_its_record(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, Sites())
    exchange(grid)
    for each in records(tmp_path):
        total = grid.evidence.phase.sites[each.said.owner]["bytes"]
        assert each.seen.bytes_up is not None and each.seen.other_up > 0
        assert total == {
            "down": each.seen.bytes_down,
            "up": each.seen.bytes_up + each.seen.other_up,
        }


def test_a_message_that_is_not_metered_passes_as_it_is(tmp_path: Path) -> None:
    class Plain(Layer):
        def __init__(self) -> None:
            self.seen: list[RecordDict] = []

        def stream(self, messages: Any, timeout: float | None) -> Any:
            for asked in messages:
                self.seen.append(asked.content)
                yield reply_to(asked)

    plain = Plain()
    exchange(grid_of(tmp_path, plain), kind="query.secure")
    assert all(USAGE not in content for content in plain.seen) and records(tmp_path) == []


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"owner": "anna"}, "owner 'anna', and 'bert'"),
        ({"run": "digits-2"}, "run"),
        ({"job": "other"}, "job"),
        ({"round": 2}, "round 2, and 3"),
        ({"step": "evaluate"}, "step"),
        ({"plan": "version 9"}, "plan"),
    ],
)
def test_a_half_of_another_message_makes_no_record_and_the_work_counts(
    tmp_path: Path, changed: dict[str, Any], why: str
) -> None:
    replies = exchange(grid_of(tmp_path, Sites(lambda reply, told: told.update(changed))))
    assert len(replies) == 2 and [each.said.owner for each in records(tmp_path)] == ["anna"]
    ((party, reason),) = refusals(tmp_path)
    assert party == "bert" and why in reason


def test_a_half_of_an_earlier_round_that_is_sent_again_is_refused(tmp_path: Path) -> None:
    kept: list[ConfigRecord] = []

    def again(reply: Message, told: dict[str, Any]) -> None:
        if not kept:
            put(reply, USAGE, 2, told)
            kept.append(reply.content[USAGE])
        reply.content[USAGE] = kept[0]
        told.clear()

    sites = Sites(again)
    grid = grid_of(tmp_path, sites)
    exchange(grid)
    exchange(grid, 4)
    # And the same round, done again by a coordinator that was resumed.
    exchange(grid_of(tmp_path, sites))
    assert [each.said.owner for each in records(tmp_path)] == ["anna", "bert", "anna", "anna"]
    assert [party for party, _ in refusals(tmp_path)] == ["bert", "bert"]
    assert "round 3, and 4" in refusals(tmp_path)[0][1] and "counts once" in refusals(tmp_path)[1][1]


def spoiled(record: Any) -> Change:
    def change(reply: Message, told: dict[str, Any]) -> None:
        reply.content[USAGE] = record
        told.clear()

    return change


@pytest.mark.parametrize(
    "record",
    [
        ConfigRecord({}),
        ConfigRecord({"said": "{"}),
        ConfigRecord({"said": "[" * 5000}),
        ConfigRecord({"said": "3", "signature": ""}),
        ConfigRecord({"said": json.dumps({"seconds": -1}), "signature": ""}),
        ConfigRecord({"said": said(owner="bert").model_dump_json(), "signature": ""}),
    ],
    ids=["empty", "half a text", "deep", "a number", "a part", "another"],
)
def test_what_is_no_half_makes_no_record_and_does_no_harm(tmp_path: Path, record: ConfigRecord) -> None:
    replies = exchange(grid_of(tmp_path, Sites(spoiled(record))))
    assert all(sorted(reply.content) == ["arrays", "metrics"] for reply in replies)
    assert [each.said.owner for each in records(tmp_path)] == ["anna"]
    assert [party for party, _ in refusals(tmp_path)] == ["bert"]


def test_a_half_that_somebody_else_signed_or_nobody_makes_no_record(tmp_path: Path) -> None:
    def forged(reply: Message, told: dict[str, Any]) -> None:
        half = said(**told)
        reply.content[USAGE] = ConfigRecord(
            {
                "said": half.model_dump_json(),
                "signature": sign_said(half.model_copy(update={"owner": "anna"}), ANNA),
            }
        )
        told.clear()

    exchange(grid_of(tmp_path, Sites(forged)))
    assert [each.said.owner for each in records(tmp_path)] == ["anna"]
    assert "not signed by bert" in refusals(tmp_path)[0][1]


def test_claims_that_the_coordinator_saw_otherwise_are_recorded_as_disputes(tmp_path: Path) -> None:
    def boast(reply: Message, told: dict[str, Any]) -> None:
        told.update(seconds=3600.0, bytes_up=10**6)

    exchange(grid_of(tmp_path, Sites(boast)))
    anna, bert = records(tmp_path)
    assert anna.disputes == ()
    assert [each.split(":")[0] for each in bert.disputes] == ["bytes_up", "seconds"]
    check_record(bert, PINS)


def test_children_of_a_region_are_recorded_by_what_they_signed(tmp_path: Path) -> None:
    class Region(Layer):
        """An aggregator's one reply, which brings the halves of both."""

        def __init__(self) -> None:
            pass

        def stream(self, messages: Any, timeout: float | None) -> Any:
            first, second = messages
            whole = reply_to(first, ARRAYS, 40)
            for number, asked in ((1, first), (2, second)):
                put(whole, f"{USAGE} {number}", number, said_by(number, asked, whole) | {"bytes_up": 99})
            put(whole, f"{USAGE} 7", 1, said_by(1, first, whole))
            put(whole, f"{USAGE} x", 1, said_by(1, first, whole))
            yield whole

    (reply,) = exchange(grid_of(tmp_path, Region()))
    made = records(tmp_path)
    assert [each.said.owner for each in made] == ["anna", "bert"] and sorted(reply.content) == [
        "arrays",
        "metrics",
    ]
    for each in made:
        assert each.seen.bytes_up is None and each.disputes == ()
        check_record(each, PINS)
    assert len(refusals(tmp_path)) == 2


def test_nobody_counts_twice_in_an_exchange(tmp_path: Path) -> None:
    def twice(reply: Message, told: dict[str, Any]) -> None:
        put(reply, f"{USAGE} 2", 2, dict(told, id=new_id()))

    exchange(grid_of(tmp_path, Sites(twice)))
    assert [each.said.owner for each in records(tmp_path)] == ["anna", "bert"]
    assert "two halves" in refusals(tmp_path)[0][1]


def test_without_keys_a_record_is_made_of_what_nobody_signed(tmp_path: Path) -> None:
    def plain(reply: Message, told: dict[str, Any]) -> None:
        half = said(**told)
        reply.content[USAGE] = ConfigRecord({"said": half.model_dump_json(), "signature": ""})
        told.clear()

    exchange(grid_of(tmp_path, Sites(plain), pins={}, signed=False, identity=lambda: None))
    made = records(tmp_path)
    assert [each.said.owner for each in made] == ["anna", "bert"]
    assert made[1].owner_signature == made[1].coordinator_signature == ""


@pytest.mark.parametrize("kind", ["plain", "masked"])
def test_an_aggregator_passes_the_halves_of_its_children_on(kind: str) -> None:
    asked = {node: message(node=node, arrays=ARRAYS, server_round=3) for node in (1, 2)}
    region = RegionSum()
    for node, one in asked.items():
        one.content[USAGE] = ConfigRecord({})
        reply = reply_to(one, ARRAYS, 20)
        if kind == "masked":
            vector = array_record({MASKED: np.full(4, node, np.uint32)})
            reply.content = RecordDict({MASKED: vector, SECURE: ConfigRecord({"stage": "masked"})})
        put(reply, USAGE, node, said_by(node, one, reply))
        region.add(reply)
    found = [
        (reply.metadata.src_node_id, name)
        for reply in apart(region.content(), asked)
        for name in reply.content
        if name.startswith(USAGE)
    ]
    assert [name for _, name in found] == ["usage 1", "usage 2"]
    assert [node for node, _ in found] == ([1, 2] if kind == "masked" else [1, 1])
