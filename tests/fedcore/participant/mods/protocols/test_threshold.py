"""A holder of a share of the key: what it commits to, confirms and opens, and what it refuses."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from crypto.errors import ProtocolError
from crypto.rlwe import messages
from crypto.rlwe.committee import drawn
from crypto.rlwe.decryption import decrypt, key_part, request
from crypto.rlwe.encryption import add
from crypto.rlwe.keys import Setup, new_share
from crypto.secagg.graph import Assumptions
from crypto.secagg.keys import TAG
from fedcore.participant.mods.protocols.base import Agreed
from fedcore.participant.mods.protocols.threshold import ABSENT, COMMITMENT, OPENINGS, Threshold, context_of
from fedcore.participant.protected import Form
from tests.crypto.psi.test_zero_sharing import Signers
from tests.fedcore.participant.mods.protocols.cohorts import Drivers

PARTS = messages.PUBLIC_PART
DEALT = messages.DEALT_SHARE + TAG
FORM = Form(1.0, 5, 100)
WORDS = 12


class Cohort:
    """Five participants, all of them holders, and a coordinator that a test can change."""

    def __init__(self, assumptions: Assumptions | None = None, signers: Any = None) -> None:
        self.agreed = Agreed(assumptions or Assumptions(), "threshold")
        self.them = Drivers(Threshold, self.agreed, 5, signers)
        self.roster = self.them.roster
        self.holders = drawn(self.roster.names, 5, self.roster.binding)
        threshold = 4 if self.agreed.assumptions.adversary == "active" else 2
        self.setup = Setup(self.roster.binding, 5, threshold, 5)

    def commit(self) -> None:
        raw = self.roster.encode()
        self.committed = {name: self.them.answer(name, "roster", raw)["message"] for name in self.holders}

    def commitments(self, name: str) -> bytes:
        def entry(other: str) -> bytes:
            told = self.committed[other]
            place = [each for each in self.holders if each != other].index(name) if other != name else -1
            tag = told[COMMITMENT + TAG * place :][:TAG] if other != name else ABSENT
            return told[:COMMITMENT] + tag

        return b"".join(entry(other) for other in self.holders)

    def show(self) -> None:
        self.commit()
        self.shown = {
            name: self.them.answer(name, "parts", self.commitments(name))["message"] for name in self.holders
        }

    def dealt(self, name: str) -> bytes:
        sealed = b""
        for other in self.holders:
            if other != name:
                place = [each for each in self.holders if each != other].index(name)
                sealed += self.shown[other][PARTS + DEALT * place :][:DEALT]
        return b"".join(self.shown[other][:PARTS] for other in self.holders) + sealed

    def meet(self) -> None:
        self.show()
        self.confirmed = {
            name: self.them.answer(name, "joint", self.dealt(name))["message"] for name in self.holders
        }
        self.key = self.them.driver("a")._key()

    def mask(self, number: int = 1, *, words: int = WORDS) -> None:
        rng = np.random.default_rng(number)
        self.vectors = {n: rng.integers(-1000, 1000, words, dtype=np.int32) for n in self.roster.names}
        self.hidden, self.tags = {}, {}
        for name, vector in self.vectors.items():
            raw, told = self.them.protect(name, number, b"", vector.view(np.uint32), FORM)
            context = context_of(self.key, number, words, FORM.limit)
            self.hidden[name], self.tags[name] = messages.read_ciphertext(raw, context), told["message"][32:]
            self.made_of = told["message"][:32]
        self.context = context

    def parts(self, holder: str, names: str, opening: int = 0) -> bytes:
        place = TAG * (opening * 5 + self.holders.index(holder))
        return self.made_of + b"".join(
            struct.pack("<I", self.roster.index(name))
            + self.tags[name][place : place + TAG]
            + messages.write_key_part(key_part(self.hidden[name], opening))
            for name in names
        )

    def about(self, active: str, opening: int = 0) -> str:
        numbers = sorted(self.holders.index(name) + 1 for name in active)
        return json.dumps({"words": WORDS, "limit": FORM.limit, "opening": opening, "active": numbers})

    def open(self, names: str = "abcde", active: str = "", opening: int = 0, number: int = 1) -> Any:
        active = active or "".join(self.holders[: self.setup.threshold])
        total = add(self.context, [self.hidden[name] for name in names])
        numbers = sorted(self.holders.index(name) + 1 for name in active)
        asked = request(self.context, key_part(total, opening), numbers)
        partials = [
            messages.read_partial(
                self.them.answer(
                    name, "open", self.parts(name, names, opening), number, self.about(active, opening)
                )["message"],
                asked,
            )
            for name in active
        ]
        return decrypt(self.context, total, asked, partials)


@pytest.fixture(scope="module")
def ready() -> Cohort:
    """That has met, and sent one vector each."""
    made = Cohort()
    made.meet()
    made.mask()
    return made


@pytest.fixture
def cohort(ready: Cohort) -> Cohort:
    """The same, to be changed by one test."""
    ready.them.saved = dict(ready.them.saved)
    kept = dict(ready.them.saved)
    made = object.__new__(Cohort)
    made.__dict__ |= ready.__dict__
    made.them = object.__new__(Drivers)
    made.them.__dict__ |= ready.them.__dict__ | {"saved": kept}
    return made


def test_all_confirm_one_key_and_a_quorum_opens_the_sum(cohort: Cohort) -> None:
    assert len({cohort.them.driver(name)._key().digest for name in cohort.holders}) == 1
    np.testing.assert_array_equal(cohort.open(), sum(v.astype(np.int64) for v in cohort.vectors.values()))


def test_identities_sign_the_keys_that_everything_else_rests_on() -> None:
    signed = Cohort(signers=Signers(*"abcde"))
    signed.meet()
    signed.mask()
    assert len(signed.open()) == WORDS


def test_the_share_is_forgotten_once_it_is_dealt_and_no_secret_shows(cohort: Cohort) -> None:
    made = Cohort()
    made.show()
    state = made.them.driver("a").state
    assert "share" not in state and "dealt" in state
    kept = cohort.them.driver("a").state
    assert set(kept) == {"share", "key", "own"}
    assert kept["share"][:40] not in repr(cohort.them.driver("a").member)


@pytest.mark.parametrize(
    ("at", "why"),
    [(0, "changed on the way"), (48, "not tagged"), (48 + 40, "not tagged"), (3 * 48, "not tagged")],
)
def test_a_commitment_or_its_tag_that_was_changed_is_refused(at: int, why: str) -> None:
    made = Cohort()
    made.commit()
    name = made.holders[0]
    body = bytearray(made.commitments(name))
    body[at] ^= 1
    with pytest.raises(ProtocolError, match=why):
        made.them.answer(name, "parts", bytes(body))


def test_a_part_that_its_holder_did_not_commit_to_is_refused() -> None:
    # A coordinator that puts its own part in after seeing the others' would have a key of its own.
    made = Cohort()
    made.show()
    name, other = made.holders[:2]
    _, forged = new_share(made.setup, 2)
    body = bytearray(made.dealt(name))
    body[PARTS : 2 * PARTS] = messages.write_public_part(forged)
    with pytest.raises(ProtocolError, match="not the one it committed to"):
        made.them.answer(name, "joint", bytes(body))
    assert other in made.shown


@pytest.mark.parametrize("where", ["first", "last", "swapped", "short"])
def test_a_dealt_share_that_was_changed_is_refused(where: str) -> None:
    made = Cohort()
    made.show()
    name = made.holders[0]
    body = bytearray(made.dealt(name))
    start = 5 * PARTS
    if where == "first":
        body[start] ^= 1
    elif where == "last":
        body[-1] ^= 1
    elif where == "swapped":
        body[start : start + 2 * DEALT] = (
            body[start + DEALT : start + 2 * DEALT] + body[start : start + DEALT]
        )
    else:
        del body[-1]
    with pytest.raises(ProtocolError, match=r"not sealed|are expected"):
        made.them.answer(name, "joint", bytes(body))


def test_stages_out_of_order_and_twice_are_refused(cohort: Cohort) -> None:
    fresh = Cohort()
    for stage in ("parts", "joint", "open"):
        with pytest.raises(ProtocolError):
            fresh.them.answer("a", stage, b"", about=cohort.about("abcd"))
    fresh.commit()
    with pytest.raises(ProtocolError, match="second roster"):
        fresh.them.answer("a", "roster", fresh.roster.encode())
    for stage in ("parts", "joint"):
        with pytest.raises(ProtocolError, match="now"):
            cohort.them.answer("a", stage, b"")
    assert fresh.them.driver("a").answer("unmask", 0, b"", "") is None


# ---- the key at a participant ------------------------------------------------------------------------------


def confirmations(made: Cohort, name: str, holders: tuple[str, ...]) -> bytes:
    place = TAG * made.roster.index(name)
    return b"".join(made.confirmed[h][place : place + TAG] if h in holders else ABSENT for h in made.holders)


def forget(made: Cohort, name: str) -> None:
    """As one that holds no share and has no key yet."""
    told = json.loads(made.them.saved[name])
    told["state"], told["number"] = {}, 0
    made.them.saved[name] = json.dumps(told).encode()


def test_a_participant_takes_the_key_that_enough_holders_confirm(cohort: Cohort) -> None:
    vector = np.zeros(WORDS, np.uint32)
    key = messages.write_public_key(cohort.key)
    name = cohort.holders[-1]
    others = cohort.holders[:-1]
    for few in (others[:3], ()):
        forget(cohort, name)
        with pytest.raises(ProtocolError, match="4 of 5 are needed"):
            cohort.them.protect(name, 1, key + confirmations(cohort, name, few), vector, FORM)
    # Somebody's tag for another member, another key, and none at all.
    wrong = confirmations(cohort, cohort.holders[0], others)
    for body in (key + wrong, key[:-1] + bytes([key[-1] ^ 1]) + confirmations(cohort, name, others)):
        with pytest.raises(ProtocolError):
            cohort.them.protect(name, 1, body, vector, FORM)
    with pytest.raises(ProtocolError, match="has not come"):
        cohort.them.protect(name, 1, b"", vector, FORM)
    cohort.them.protect(name, 1, key + confirmations(cohort, name, others), vector, FORM)
    # It may come again, where the reply was lost.
    cohort.them.protect(name, 2, key + confirmations(cohort, name, others), vector, FORM)


def test_one_vector_leaves_in_a_round_and_rounds_only_go_up(cohort: Cohort) -> None:
    vector = np.zeros(WORDS, np.uint32)
    for number in (1, 0, -3):
        with pytest.raises(ProtocolError, match="only go up"):
            cohort.them.protect("a", number, b"", vector, FORM)
    cohort.them.protect("a", 5, b"", vector, FORM)


# ---- opening -----------------------------------------------------------------------------------------------


def test_a_holder_answers_once_and_others_open_where_one_does_not_answer(cohort: Cohort) -> None:
    first = "".join(cohort.holders[:4])
    asked = cohort.parts(first[0], "abcde"), 1, cohort.about(first)
    cohort.them.answer(first[0], "open", *asked)
    with pytest.raises(ProtocolError, match="opened before"):
        cohort.them.answer(first[0], "open", *asked)
    total = cohort.open(active="".join(cohort.holders[i] for i in (0, 1, 3, 4)), opening=1)
    np.testing.assert_array_equal(total, sum(v.astype(np.int64) for v in cohort.vectors.values()))


def test_a_round_is_opened_for_one_set_of_participants_only(cohort: Cohort) -> None:
    # The difference of two sums would show who is in one and not in the other.
    active = "".join(cohort.holders[:4])
    cohort.open()
    with pytest.raises(ProtocolError, match="other participants"):
        cohort.them.answer(active[0], "open", cohort.parts(active[0], "abcd", 1), 1, cohort.about(active, 1))


def test_a_round_before_the_last_opened_is_not_opened(cohort: Cohort) -> None:
    active = "".join(cohort.holders[:4])
    before = cohort.parts(active[0], "abcde", 1)
    cohort.mask(2)
    cohort.open(number=2)
    with pytest.raises(ProtocolError, match="only go up"):
        cohort.them.answer(active[0], "open", before, 1, cohort.about(active, 1))


def test_a_sum_of_too_few_is_not_opened(cohort: Cohort) -> None:
    active = "".join(cohort.holders[:4])
    with pytest.raises(ProtocolError, match="holds 2 vectors, at least 3"):
        cohort.them.answer(active[0], "open", cohort.parts(active[0], "ab"), 1, cohort.about(active))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda made, who, body: body[:-1], "expected"),
        (lambda made, who, body: b"", "parts of single vectors"),
        (lambda made, who, body: body + body[32 : 32 + 4 + TAG + messages.KEY_PART], "has two"),
        (lambda made, who, body: body[:32] + struct.pack("<I", 9) + body[36:], "no member"),
        (lambda made, who, body: body[:-1] + bytes([body[-1] ^ 1]), "tagged|changed"),
        # A tag of the same participant, for another holder or another opening.
        (lambda made, who, body: made.parts(made.holders[1], "abcde"), "tagged|changed"),
        # Another model than the one that they were made of.
        (lambda made, who, body: bytes(32) + body[32:], "tagged|changed"),
        (lambda made, who, body: made.parts(who, "abcde", 1), "opening|tagged|changed"),
    ],
)
def test_key_parts_that_are_not_of_their_participants_are_not_added(
    cohort: Cohort, change: Callable[[Cohort, str, bytes], bytes], why: str
) -> None:
    active = "".join(cohort.holders[:4])
    who = active[0]
    body = change(cohort, who, cohort.parts(who, "abcde"))
    with pytest.raises(ProtocolError, match=why):
        cohort.them.answer(who, "open", body, 1, cohort.about(active))


def test_the_key_part_of_one_vector_called_a_sum_is_refused(cohort: Cohort) -> None:
    # As a coordinator would that wants to read a single update.
    active = "".join(cohort.holders[:4])
    single = cohort.hidden["a"]
    forged = replace(key_part(single), contributors=5)
    asked = messages.write_request(request(cohort.context, forged, [1, 2, 3, 4]))
    with pytest.raises(ProtocolError):
        cohort.them.answer(active[0], "open", asked, 1, cohort.about(active))


@pytest.mark.parametrize(
    "about",
    [
        "",
        "[]",
        "{}",
        '{"words": 12, "limit": 1, "opening": 0}',
        '{"words": "12", "limit": 1, "opening": 0, "active": []}',
        '{"words": 12, "limit": 1, "opening": 9, "active": [1, 2, 3, 4]}',
        '{"words": 0, "limit": 1, "opening": 0, "active": [1, 2, 3, 4]}',
        '{"words": 12, "limit": -1, "opening": 0, "active": [1, 2, 3, 4]}',
        '{"words": 12, "limit": 1, "opening": 0, "active": ["1"]}',
    ],
)
def test_a_request_that_says_nothing_usable_is_refused(cohort: Cohort, about: str) -> None:
    with pytest.raises(ProtocolError):
        cohort.them.answer("a", "open", cohort.parts("a", "abcde"), 1, about)


def test_a_curious_cohort_trusts_the_coordinator_to_add() -> None:
    made = Cohort(Assumptions(adversary="curious"))
    made.meet()
    made.mask()
    assert set(made.tags.values()) == {b""}
    total = add(made.context, made.hidden.values())
    asked = request(made.context, key_part(total), [1, 2])
    body = messages.write_request(asked)
    active = "".join(made.holders[:2])
    told = [
        messages.read_partial(made.them.answer(n, "open", body, 1, made.about(active))["message"], asked)
        for n in active
    ]
    wanted = sum(v.astype(np.int64) for v in made.vectors.values())
    np.testing.assert_array_equal(decrypt(made.context, total, asked, told), wanted)
    assert OPENINGS > 1
