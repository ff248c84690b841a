"""A member with the shared key: who makes it, who gets it, and what it decrypts, once a round and for enough only."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import numpy as np
import pytest

from crypto.errors import ProtocolError
from crypto.secagg.graph import Assumptions
from fedcore.coordinator.grids.protocols.shared_key import _ADDERS
from fedcore.participant.mods.protocols.base import Agreed
from fedcore.participant.mods.protocols.paillier import MANY, Paillier
from fedcore.participant.mods.protocols.shared_key import SharedKey, mark
from fedcore.participant.protected import Form
from tests.crypto.psi.test_zero_sharing import Signers
from tests.fedcore.participant.mods.protocols.cohorts import Drivers

PROTOCOLS = ("ckks", "paillier")
FORM = Form(1.0, 4, 100)
WORDS = 12
CURIOUS = Assumptions(adversary="curious")


class Cohort:
    """Four members and a coordinator that a test can change."""

    def __init__(self, protocol: Any, signers: Any = None) -> None:
        self.agreed = Agreed(CURIOUS, protocol, 2048)
        self.them = Drivers(SharedKey, self.agreed, 4, signers)
        self.roster = self.them.roster
        told = self.them.answer("a", "group", self.roster.encode())
        self.public, sealed = told["public"], told["message"]
        size = len(sealed) // 3
        self.sealed = {name: sealed[size * i :][:size] for i, name in enumerate("bcd")} | {"a": b""}

    def body(self, name: str, sealed: bytes | None = None, roster: bytes | None = None) -> bytes:
        if name == "a":
            return b""
        raw = self.roster.encode() if roster is None else roster
        return struct.pack("<I", len(raw)) + raw + (self.sealed[name] if sealed is None else sealed)

    def mask(self, number: int = 1, words: int = WORDS) -> None:
        rng = np.random.default_rng(number)
        self.vectors = {n: rng.integers(-1000, 1000, words, dtype=np.int32) for n in "abcd"}
        self.hidden = {}
        for name, vector in self.vectors.items():
            body = self.body(name) if number == 1 else b""
            self.hidden[name], told = self.them.protect(name, number, body, vector.view(np.uint32), FORM)
            assert told == {"message": mark(self.roster, number)}

    def total(self, names: str = "abcd", words: int = WORDS) -> bytes:
        adder = _ADDERS[self.agreed.protocol](self.public, self.agreed, 4, words, FORM.limit)
        for name in names:
            adder.add(self.hidden[name])
        made: bytes = adder.total()
        return made

    def open(self, who: str, total: bytes, number: int = 1, **changed: Any) -> Any:
        about = {"words": WORDS, "limit": FORM.limit, "bits": 32, **changed}
        told = self.them.answer(who, "open", total, number, json.dumps(about))
        return np.frombuffer(told["message"], dtype=np.uint32).view(np.int32)


@pytest.fixture(params=PROTOCOLS)
def cohort(request: pytest.FixtureRequest) -> Cohort:
    """That has the key, and sent one vector each."""
    made = Cohort(request.param)
    made.mask()
    return made


def test_any_member_opens_the_sum_once_a_round(cohort: Cohort) -> None:
    wanted = sum(cohort.vectors.values())
    for who in "ad":
        np.testing.assert_array_equal(cohort.open(who, cohort.total()), wanted)
        with pytest.raises(ProtocolError, match="opened before"):
            cohort.open(who, cohort.total("abc"))
    cohort.mask(2)
    with pytest.raises(ProtocolError, match="last vector of a left in round 2"):
        cohort.open("a", cohort.total(), 1)
    np.testing.assert_array_equal(cohort.open("a", cohort.total(), 2), sum(cohort.vectors.values()))


def test_a_sum_of_too_few_is_not_opened(cohort: Cohort) -> None:
    # Of four at least three.
    for names in ("a", "ab"):
        with pytest.raises(ProtocolError, match="at least 3 must be in it"):
            cohort.open("b", cohort.total(names))
    assert len(cohort.open("b", cohort.total("abc"))) == WORDS


def test_a_sum_that_was_changed_or_cut_is_not_opened(cohort: Cohort) -> None:
    good = cohort.total()
    for bad in (good[:-1], good + b"\0", b"", good[:40] + bytes(len(good) - 40), cohort.hidden["a"]):
        with pytest.raises(ProtocolError):
            cohort.open("c", bad)
    other = Cohort(cohort.agreed.protocol)
    other.mask()
    with pytest.raises(ProtocolError, match="another key"):
        cohort.open("c", other.total())
    for changed in (
        {"words": WORDS + 1},
        {"words": 0},
        {"limit": 0},
        {"limit": 2**40},
        {"bits": 16},
        {"bits": "32"},
    ):
        with pytest.raises(ProtocolError):
            cohort.open("c", good, **changed)
    np.testing.assert_array_equal(cohort.open("c", good), sum(cohort.vectors.values()))


def test_a_member_opens_no_round_that_its_own_vector_did_not_leave_in(cohort: Cohort) -> None:
    with pytest.raises(ProtocolError, match="left in round 1"):
        cohort.open("b", cohort.total(), 2)


def test_only_the_first_member_by_name_makes_the_key() -> None:
    made = Cohort("ckks")
    with pytest.raises(ProtocolError, match="a makes the key of this session, not b"):
        made.them.answer("b", "group", made.roster.encode())
    with pytest.raises(ProtocolError, match="second roster"):
        made.them.answer("a", "group", made.roster.encode())


def test_a_sealed_key_that_was_changed_or_is_for_another_is_refused() -> None:
    made = Cohort("ckks")
    vector = np.zeros(WORDS, np.uint32)
    flipped = made.sealed["b"][:-1] + bytes([made.sealed["b"][-1] ^ 1])
    for sealed in (flipped, made.sealed["c"], b"", made.sealed["b"][:-1]):
        with pytest.raises(ProtocolError, match="not sealed"):
            made.them.protect("b", 1, made.body("b", sealed), vector, FORM)
    for body in (b"\1", struct.pack("<I", 2**31), struct.pack("<I", 0)):
        with pytest.raises(ProtocolError):
            made.them.protect("b", 1, body, vector, FORM)
    with pytest.raises(ProtocolError, match="has not come"):
        made.them.protect("b", 1, b"", vector, FORM)
    made.them.protect("b", 1, made.body("b"), vector, FORM)
    # It comes again where the reply was lost; another one does not.
    made.them.protect("b", 2, made.body("b"), vector, FORM)
    with pytest.raises(ProtocolError, match="second roster"):
        made.them.protect("b", 3, made.body("b", roster=b"FCMR"), vector, FORM)


def test_a_coordinator_cannot_put_its_own_key_between_signed_members() -> None:
    honest = Cohort("ckks", Signers(*"abcd"))
    forged = Cohort("ckks")  # whose members are the coordinator's own
    body = honest.body("b", forged.sealed["b"], forged.roster.encode())
    with pytest.raises(ProtocolError):
        honest.them.protect("b", 1, body, np.zeros(WORDS, np.uint32), FORM)


def test_what_the_coordinator_gets_holds_no_secret_key(cohort: Cohort) -> None:
    secret = base64.b64decode(cohort.them.driver("a").state["secret"])
    assert base64.b64decode(cohort.them.driver("b").state["secret"]) == secret
    seen = cohort.public + b"".join([*cohort.sealed.values(), *cohort.hidden.values()])
    half = len(secret) // 2
    for piece in (secret[-64:], secret[half : half + 64]):
        assert piece not in seen
    driver = cohort.them.driver("a")
    assert secret[-16:].hex() not in repr(driver.member) and "secret" not in repr(driver.member)


def test_a_long_vector_takes_the_table_of_randomness() -> None:
    made = Cohort("paillier")
    words = 62 * MANY
    made.mask(words=words)
    np.testing.assert_array_equal(
        made.open("b", made.total(words=words), words=words), sum(made.vectors.values())
    )
    cipher = Paillier(base64.b64decode(made.them.driver("a").state["secret"]), made.agreed, 4)
    cipher.encrypt(np.zeros(5, np.int64), FORM.limit)
    assert cipher._fast is None
    cipher.encrypt(np.zeros(words, np.int64), FORM.limit)
    assert cipher._fast is not None
