"""Vectors under Paillier beside phe one by one, their messages, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import phe
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import ProtocolError
from crypto.paillier import keys
from crypto.paillier.keys import Owner, new_owner, owner_from
from crypto.paillier.noise import Encryptor
from crypto.paillier.packing import Packing, whole_numbers
from crypto.paillier.vectors import (
    Encrypted,
    add,
    decrypt,
    encrypt,
    encrypted_from,
    fingerprint,
    size,
    weighted,
)

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "sums.json").read_text())
OWNER = owner_from(bytes.fromhex(VECTORS["owner"]), 2048, "vectors")
PACKING = Packing(**VECTORS["packing"])
COUNT: int = VECTORS["count"]
MESSAGES = [bytes.fromhex(message) for message in VECTORS["messages"]]
TOTAL = bytes.fromhex(VECTORS["total"])
STEP = "paillier.test"


@pytest.fixture(scope="module")
def short() -> Owner:
    """A key that is quick and not secure: the arithmetic is the same."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(keys, "LEAST_BITS", 64)
        return new_owner(512)


@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(1, 60),
    cohort=st.integers(1, 6),
    weight=st.integers(1, 50),
    fraction=st.integers(0, 30),
    seed=st.integers(0, 2**32),
)
def test_weighted_sums_are_exactly_those_of_plain_integers(
    short, count, cohort, weight, fraction, seed
) -> None:
    packing = Packing(1000.0, fraction, cohort, weight, bits=512)
    rng, public = np.random.default_rng(seed), short.public
    values = rng.uniform(-1000, 1000, (cohort, count))
    weights = rng.integers(1, weight + 1, cohort).tolist()
    encryptor, batches = Encryptor(public), []
    for row in values:
        sent = encrypt(encryptor, whole_numbers(row, packing), packing).to_bytes(public)
        assert len(sent) == size(count, packing)
        batches.append(encrypted_from(sent, count, public, packing, STEP))
    total = add(
        public, packing, [weighted(public, packing, *each) for each in zip(batches, weights, strict=True)]
    )
    came = encrypted_from(total.to_bytes(public), count, public, packing, STEP)
    opened = decrypt(short, packing, came, least=cohort, step=STEP)
    wanted = [
        sum(w * int(row[at]) for w, row in zip(weights, map(np.rint, values * 2**fraction), strict=True))
        for at in range(count)
    ]
    assert list(opened.units) == wanted
    assert (opened.terms, opened.weight) == (cohort, sum(weights))
    assert np.abs(opened.sums() - weights @ values).max() <= sum(weights) * 2.0 ** -(fraction + 1) + 1e-6
    assert (
        np.abs(opened.means() - np.average(values, axis=0, weights=weights)).max()
        <= 2.0 ** -(fraction + 1) + 1e-9
    )


def test_sums_are_those_of_phe_one_by_one() -> None:
    theirs = phe.PaillierPublicKey(OWNER.public.n)
    key = phe.PaillierPrivateKey(theirs, OWNER.private.p, OWNER.private.q)
    one, other = np.array([1.5, -2.0, 0.25, 0.0]), np.array([-1.5, -2.0, 2.0, 1.0])
    encryptor = Encryptor(OWNER.public)
    total = add(
        OWNER.public,
        PACKING,
        [encrypt(encryptor, whole_numbers(row, PACKING), PACKING) for row in (one, other)],
    )
    slow = [theirs.encrypt(float(a)) + theirs.encrypt(float(b)) for a, b in zip(one, other, strict=True)]
    opened = decrypt(OWNER, PACKING, total, least=2, step=STEP)
    assert opened.sums().tolist() == [key.decrypt(number) for number in slow]


def test_the_owner_encrypts_what_a_stranger_encrypts() -> None:
    numbers = np.array([1, -2, 3])
    made = encrypt(OWNER, numbers, PACKING)
    assert decrypt(OWNER, PACKING, made, least=1, step=STEP).units == (1, -2, 3)


# ---- vectors ---------------------------------------------------------------------------------------------------


def test_vectors_of_the_total() -> None:
    assert (PACKING.slot, PACKING.slots) == (VECTORS["slot"], VECTORS["slots"])
    batches = [encrypted_from(message, COUNT, OWNER.public, PACKING, STEP) for message in MESSAGES]
    made = [weighted(OWNER.public, PACKING, *each) for each in zip(batches, VECTORS["weights"], strict=True)]
    assert add(OWNER.public, PACKING, made).to_bytes(OWNER.public) == TOTAL


def test_vectors_of_the_sum() -> None:
    total = encrypted_from(TOTAL, COUNT, OWNER.public, PACKING, STEP)
    opened = decrypt(OWNER, PACKING, total, least=2, step=STEP)
    one, other = VECTORS["numbers"]
    assert list(opened.units) == [a + 3 * b for a, b in zip(one, other, strict=True)]


@pytest.mark.parametrize("vector", VECTORS["bad"]["message"], ids=lambda vector: vector["why"])
def test_vectors_of_what_is_no_message(vector: dict[str, Any]) -> None:
    good = MESSAGES[0]
    if "cut" in vector:
        made = good[: -vector["cut"]]
    elif "add" in vector:
        made = good + bytes.fromhex(vector["add"])
    else:
        put = bytes.fromhex(vector["put"])
        made = good[: vector["at"]] + put + good[vector["at"] + len(put) :]
    assert made != good
    with pytest.raises(ProtocolError, match=STEP):
        encrypted_from(made, COUNT, OWNER.public, PACKING, STEP)


# ---- refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "numbers",
    [
        np.array([PACKING.limit + 1]),
        np.array([-PACKING.limit - 1]),
        np.array([0.5]),
        np.array([], dtype=np.int64),
        np.zeros((2, 2), dtype=np.int64),
    ],
)
def test_numbers_that_do_not_fit_are_refused_before_encrypting(numbers, monkeypatch) -> None:
    monkeypatch.setattr(Owner, "encrypt", lambda *_: pytest.fail("it was encrypted"))
    with pytest.raises(ValueError, match="number"):
        encrypt(OWNER, numbers, PACKING)


def test_a_form_for_a_key_of_another_length_is_refused(short) -> None:
    with pytest.raises(ValueError, match="keys of 2048 bits, the key has 512"):
        fingerprint(short.public, PACKING)


@pytest.mark.parametrize("change", [{"bound": 1.0}, {"fraction": 15}, {"cohort": 4}, {"weight": 5}])
def test_another_form_of_numbers_is_refused(change) -> None:
    other = Packing(**(VECTORS["packing"] | change))
    with pytest.raises(ProtocolError, match="another form"):
        encrypted_from(MESSAGES[0], COUNT, OWNER.public, other, STEP)
    batch = encrypted_from(MESSAGES[0], COUNT, OWNER.public, PACKING, STEP)
    with pytest.raises(ProtocolError, match="another form"):
        decrypt(OWNER, other, batch, least=1, step=STEP)


def test_another_key_is_refused(short) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(keys, "LEAST_BITS", 64)
        other = new_owner(512)
    packing = Packing(1.0, 4, 3, bits=512)
    sent = encrypt(short, np.array([1, 2]), packing).to_bytes(short.public)
    with pytest.raises(ProtocolError, match="another key"):
        encrypted_from(sent, 2, other.public, packing, STEP)
    forged = sent[:4] + fingerprint(other.public, packing) + sent[20:]
    # Half of the other key's ciphertexts may not even be below n^2.
    with pytest.raises(ProtocolError, match=STEP):
        decrypt(other, packing, encrypted_from(forged, 2, other.public, packing, STEP), least=1, step=STEP)


def test_weights_and_participants_beyond_the_room_are_refused() -> None:
    public = OWNER.public
    batch = encrypt(OWNER, np.array([1, 2]), PACKING)
    with pytest.raises(ValueError, match="at least 1, and 12 in total"):
        weighted(public, PACKING, batch, 13)
    with pytest.raises(ValueError, match="at least 1"):
        weighted(public, PACKING, batch, 0)
    full = weighted(public, PACKING, batch, 12)
    assert decrypt(OWNER, PACKING, full, least=1, step=STEP).units == (12, 24)
    with pytest.raises(ValueError, match="total weight 13"):
        add(public, PACKING, [full, batch])
    with pytest.raises(ValueError, match="4 participants"):
        add(public, PACKING, [batch] * 4)
    with pytest.raises(ValueError, match="no batch"):
        add(public, PACKING, [])
    with pytest.raises(ValueError, match="lengths do not add"):
        add(public, PACKING, [batch, encrypt(OWNER, np.array([1]), PACKING)])


def test_a_sum_over_too_few_is_not_decrypted(monkeypatch) -> None:
    total = encrypted_from(TOTAL, COUNT, OWNER.public, PACKING, STEP)
    monkeypatch.setattr(Owner, "decrypt", lambda *_: pytest.fail("it was decrypted"))
    with pytest.raises(ProtocolError, match="over 2 participants, at least 3"):
        decrypt(OWNER, PACKING, total, least=3, step=STEP)


def test_a_total_that_tells_other_weights_than_it_has_is_refused() -> None:
    total = encrypted_from(TOTAL, COUNT, OWNER.public, PACKING, STEP)
    told = Encrypted(total.form, total.count, total.terms, total.weight + 1, total.ciphertexts)
    with pytest.raises(ProtocolError, match="weights of 5 in total are told"):
        decrypt(OWNER, PACKING, told, least=2, step=STEP)
