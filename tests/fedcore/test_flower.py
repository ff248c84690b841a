"""Contracts on the private names of Flower that `fedcore/flower.py` uses, and on the records it makes."""

from __future__ import annotations

import os
import subprocess
import sys

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedcore import flower
from fedcore.flower import through_outage


def message(content: RecordDict) -> Message:
    flower.enter_process()
    made = Message(content, 7, "train")
    flower.stamp(made)
    return made


def test_telemetry_update_checks_and_usage_statistics_are_off() -> None:
    # In a process of its own: flwr reads the variables once, when it is first imported.
    code = (
        "import fedcore.flower, os\n"
        "from flwr.supercore import telemetry\n"
        "print(telemetry.FLWR_TELEMETRY_ENABLED, os.environ['FLWR_DISABLE_UPDATE_CHECK'], "
        "os.environ['RAY_USAGE_STATS_ENABLED'])"
    )
    bare = {key: value for key, value in os.environ.items() if key not in flower.quiet_environment()}
    told = subprocess.run([sys.executable, "-c", code], env=bare, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["0", "1", "0"]


def test_a_lazy_array_crosses_the_wire_as_flowers_own_and_keeps_its_values() -> None:
    values = {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "steps": np.array(3, dtype=np.int64),
        "empty": np.zeros((0, 4), dtype=np.float64),
    }
    sent = message(RecordDict({"arrays": flower.array_record(values)}))
    arrived = flower.through_the_wire(sent).content["arrays"]
    assert isinstance(arrived, ArrayRecord) and all(type(a) is Array for a in arrived.values())
    for name, value in values.items():
        assert arrived[name].numpy().dtype == value.dtype
        np.testing.assert_array_equal(arrived[name].numpy(), value)


def test_the_wire_keeps_the_message_id_so_that_replies_find_their_question() -> None:
    sent = message(RecordDict({"c": ConfigRecord({"a": 1})}))
    arrived = flower.through_the_wire(sent)
    assert arrived.metadata.message_id == sent.metadata.message_id != ""
    assert Message(RecordDict(), reply_to=arrived).metadata.reply_to_message_id == sent.metadata.message_id


def test_received_arrays_are_read_only_because_they_are_shared() -> None:
    record = flower.array_record({"w": np.zeros(2)})
    with pytest.raises(ValueError, match="read-only"):
        flower.ndarrays(record)["w"][0] = 1


def test_payload_counts_values_not_the_format() -> None:
    lazy = RecordDict({"arrays": flower.array_record({"w": np.zeros(10, np.float32)})})
    plain = RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(10, np.float32))})})
    assert flower.payload_bytes(lazy) == flower.payload_bytes(plain) == 40 + len("w")
    assert flower.payload_bytes(RecordDict({"m": MetricRecord({"ab": 1.0, "c": [1, 2]})})) == 2 + 8 + 1 + 16


def test_a_digest_depends_on_name_dtype_shape_and_values() -> None:
    def digest(**arrays: np.ndarray) -> str:
        return flower.digest_of(RecordDict({"arrays": flower.array_record(arrays)}))

    base = digest(w=np.zeros((2, 3), np.float32))
    assert base == digest(w=np.zeros((2, 3), np.float32))
    others = [
        digest(v=np.zeros((2, 3), np.float32)),
        digest(w=np.zeros((3, 2), np.float32)),
        digest(w=np.zeros((2, 3), np.int32)),
        digest(w=np.ones((2, 3), np.float32)),
    ]
    assert base not in others and len(set(others)) == 4


def test_flower_s_process_identity_is_set_once() -> None:
    flower.enter_process()
    before = TaskIdentity.run_id
    flower.enter_process()
    assert TaskIdentity.run_id == before


def test_a_superlink_that_goes_away_in_the_middle_is_asked_again(monkeypatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    calls = []

    def call() -> str:
        calls.append(None)
        if len(calls) < 3:
            raise httpx.ConnectError(
                "[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol"
            )
        return "there"

    assert through_outage(call) == "there" and len(calls) == 3


def test_an_outage_that_lasts_is_raised_and_other_errors_are_at_once() -> None:
    def away() -> None:
        raise httpx.ReadError("[SSL] gone")

    def wrong() -> None:
        raise ValueError("no")

    with pytest.raises(httpx.ReadError):
        through_outage(away, seconds=0.0)
    with pytest.raises(ValueError, match="no"):
        through_outage(wrong)
