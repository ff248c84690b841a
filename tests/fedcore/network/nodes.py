"""What the tests of nodes share: keys, a node's file, a plausible descriptor and a request."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from fedcore.network.descriptor import Descriptor, describe, sign_descriptor
from fedcore.network.node import Carbon, Line, NodeFile, Price, Security
from fedcore.network.quantity import Quantity, counted, measured
from fedcore.network.work import Request
from fedcore.trust.identity import Identity

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def party(name: str) -> Identity:
    return Identity(name, Path("/nowhere"), ec.generate_private_key(ec.SECP384R1()))


ANNA, BERT, HUB = (party(name) for name in ("anna", "bert", "hub"))
PINS = {each.name: each.public_line for each in (ANNA, BERT, HUB)}


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def node_file(**changed: Any) -> NodeFile:
    told: dict[str, Any] = {
        "node": "n1",
        "owner": "anna",
        "site": "guiyang",
        "jurisdiction": "CN",
        "carbon": Carbon(value=500, unit="gCO2/kWh", evidence="the grid operator's page"),
        "pue": 1.25,
        "price": Price(currency="CNY", compute=2.0, egress=0.5),
        "security": Security(level=3),
        "line": Line(up=100, down=200),
    }
    return NodeFile(**(told | changed))


def found(fp32: float = 100.0, **changed: Quantity) -> dict[str, Quantity]:
    return {
        "cores": counted(8, "cores", "counted", at=NOW),
        "memory.cpu": counted(16, "GB", "counted", at=NOW),
        "gemm.cpu.fp32": measured([fp32 * share for share in (0.99, 1.0, 1.01)], "GFLOP/s", "timed", at=NOW),
        "ecc.x25519": measured([20_000.0] * 3, "op/s", "timed", at=NOW),
        "cipher.keystream": measured([10.0] * 3, "GB/s", "timed", at=NOW),
        "power.idle": measured([50.0] * 3, "W", "counted", at=NOW),
        "power.load": measured([150.0] * 3, "W", "counted", at=NOW),
        "work.digits": measured([980.0, 1000.0, 1020.0], "samples/s", "a run", at=NOW),
        **changed,
    }


def described(
    owner: Identity = ANNA, quantities: dict[str, Quantity] | None = None, **changed: Any
) -> Descriptor:
    said = node_file(**({"owner": owner.name} | changed))
    return sign_descriptor(describe(said, quantities or found(), at=NOW), owner)


def request(**changed: Any) -> Request:
    told: dict[str, Any] = {
        "id": "r1",
        "job": "digits",
        "samples": 2000,
        "epochs": 3,
        "model_bytes": 400_000,
        "protocol": "secagg+",
        "currency": "CNY",
        "neighbours": 10,
    }
    return Request(**(told | changed))
