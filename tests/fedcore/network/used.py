"""What the tests of usage share: a plausible half of the owner's, the coordinator's to it, and the record of both."""

from __future__ import annotations

from typing import Any

from fedcore.network.usage import Said, Seen, UsageRecord, new_id, record_of, sign_said
from fedcore.trust.identity import Identity
from tests.fedcore.network.nodes import ANNA, HUB

START, END = "2026-03-01T12:00:00+00:00", "2026-03-01T12:00:10+00:00"


def said(**changed: Any) -> Said:
    told: dict[str, Any] = {
        "id": new_id(),
        "job": "digits",
        "run": "digits-1",
        "round": 3,
        "step": "train",
        "owner": "anna",
        "node": "n1",
        "start": START,
        "end": END,
        "seconds": 10.0,
        "cpu_seconds": 12.0,
        "cpu_of": "process",
        "device": "cpu",
        "precision": "float32",
        "tflops_h": 0.0002,
        "samples": 500,
        "bytes_down": 4000,
        "bytes_up": 3000,
        "kwh": 0.0004,
        "kwh_source": "measured",
        "pue": 1.25,
        "gco2_location": 0.25,
        "gas_location": "CO2",
        "price": "1.05",
        "currency": "CNY",
        "result": "ab" * 32,
    }
    return Said(**(told | changed))


def seen(half: Said, **changed: Any) -> Seen:
    told: dict[str, Any] = {
        "phase": "train round 3",
        "start": START,
        "end": END,
        "seconds": half.seconds,
        "bytes_down": half.bytes_down,
        "bytes_up": half.bytes_up,
        "result": half.result,
    }
    return Seen(**(told | changed))


def record(owner: Identity = ANNA, *, sees: dict[str, Any] | None = None, **changed: Any) -> UsageRecord:
    half = said(**({"owner": owner.name} | changed))
    return record_of(half, sign_said(half, owner), seen(half, **(sees or {})), identity=HUB)
