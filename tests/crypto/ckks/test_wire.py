"""Vectors of keys and messages, and of what is none: they must be read alike by every version."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from crypto.ckks.keys import public_from, secret_from
from crypto.ckks.parameters import Parameters, Ring
from crypto.ckks.vectors import Sum, decrypt
from crypto.errors import ProtocolError

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "sums.json").read_text())
PARAMETERS = Parameters(**VECTORS["parameters"])
COUNT: int = VECTORS["count"]
SECRET, PUBLIC, TOTAL = (base64.b64decode(VECTORS[name]) for name in ("secret", "public", "total"))
MESSAGES = [base64.b64decode(message) for message in VECTORS["messages"]]
STEP = "ckks.vectors"


def spoilt(good: bytes, vector: dict[str, Any]) -> bytes:
    if "cut" in vector:
        return good[: -vector["cut"]]
    if "add" in vector:
        return good + bytes.fromhex(vector["add"])
    put = bytes.fromhex(vector["put"])
    made = good[: vector["at"]] + put + good[vector["at"] + len(put) :]
    assert made != good
    return made


def test_vectors_of_the_parameters() -> None:
    told = VECTORS["ring"]
    assert Ring(told["degree"], tuple(told["primes"]), told["special"]) == PARAMETERS.ring
    assert PARAMETERS.scale == told["scale"]


def test_vectors_of_the_total() -> None:
    public = public_from(PUBLIC, STEP)
    assert secret_from(SECRET, STEP).public == public
    total = Sum(public, PARAMETERS, COUNT)
    for message in MESSAGES:
        total.add(message, STEP)
    assert total.to_bytes() == TOTAL


def test_vectors_of_the_sum() -> None:
    opened = decrypt(secret_from(SECRET, STEP), PARAMETERS, TOTAL, COUNT, least=2, step=STEP)
    assert opened.units.tolist() == [sum(column) for column in zip(*VECTORS["numbers"], strict=True)]


@pytest.mark.parametrize("vector", VECTORS["bad"]["secret"], ids=lambda vector: vector["why"])
def test_vectors_of_what_is_no_secret_key(vector: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match=STEP):
        secret_from(spoilt(SECRET, vector), STEP)


@pytest.mark.parametrize("vector", VECTORS["bad"]["public"], ids=lambda vector: vector["why"])
def test_vectors_of_what_is_no_public_context(vector: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match=STEP):
        public_from(spoilt(PUBLIC, vector), STEP)


@pytest.mark.parametrize("vector", VECTORS["bad"]["message"], ids=lambda vector: vector["why"])
def test_vectors_of_what_is_no_message(vector: dict[str, Any]) -> None:
    total = Sum(public_from(PUBLIC, STEP), PARAMETERS, COUNT)
    with pytest.raises(ProtocolError, match=STEP):
        total.add(spoilt(MESSAGES[0], vector), STEP)
    assert total.terms == 0


@pytest.mark.parametrize("vector", VECTORS["bad"]["total"], ids=lambda vector: vector["why"])
def test_vectors_of_what_is_no_total(vector: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match=STEP):
        decrypt(secret_from(SECRET, STEP), PARAMETERS, spoilt(TOTAL, vector), COUNT, least=2, step=STEP)
