"""Messages: what was written is read; vectors good and bad; nothing of a wrong length, version, kind or ring."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.bfv import encryption, keys, packing
from crypto.bfv.ring import LARGE, SMALL, Ring
from crypto.errors import ProtocolError
from tests.crypto.rlwe.joint import Stream

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "messages.json").read_text())
KINDS = ("public key small", "public key large", "vector", "answers small", "answers large")
POSITIONS = np.arange(10, dtype=np.int64) * 400 + 399
T = {"small": 2**33, "large": 2**64}


@functools.cache
def key(ring: Ring) -> keys.SecretKey:
    """A key whose randomness a person can make again."""
    return keys.new_keys(ring, Stream(f"key {ring.size}"))


def answers_of(ring: Ring, t: int) -> bytes:
    stream = Stream(f"answers {ring.size}")
    answers = encryption.zeros(key(ring).public, 2, stream)
    numbers = np.zeros(ring.size, dtype=np.uint64)
    numbers[POSITIONS] = np.arange(10, dtype=np.uint64)
    for answer in answers:
        encryption.add_numbers(ring, t, answer, numbers)
    return encryption.write_answers(key(ring).public, t, answers, POSITIONS, stream)


@functools.cache
def written() -> dict[str, bytes]:
    """A message of each kind."""
    numbers = (np.arange(2 * SMALL.size, dtype=np.int64) % 2001 - 1000).reshape(2, -1)
    vector = encryption.encrypt(key(SMALL), T["small"], numbers, wraps=False, entropy=Stream("vector"))
    return {
        "public key small": key(SMALL).public.to_bytes(),
        "public key large": key(LARGE).public.to_bytes(),
        "vector": vector.to_bytes(),
        "answers small": answers_of(SMALL, T["small"]),
        "answers large": answers_of(LARGE, T["large"]),
    }


READ: dict[str, Callable[[Any], Any]] = {
    "public key small": lambda data: keys.read_public_key(data, SMALL),
    "public key large": lambda data: keys.read_public_key(data, LARGE),
    "vector": lambda data: encryption.read_vector(data, key(SMALL).public, T["small"], 2),
    "answers small": lambda data: encryption.open_answers(key(SMALL), T["small"], data, 2, POSITIONS),
    "answers large": lambda data: encryption.open_answers(key(LARGE), T["large"], data, 2, POSITIONS),
}


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview])
def test_what_was_written_is_read(form: Any) -> None:
    for kind, raw in written().items():
        made = READ[kind](form(raw))
        if kind.startswith("answers"):
            assert made.tolist() == [list(range(10))] * 2
        else:
            assert made.to_bytes() == raw


def test_a_fresh_polynomial_is_its_residues_of_53_bits_lowest_first() -> None:
    raw, vector = written()["vector"], READ["vector"](written()["vector"])
    whole = sum(number << (53 * i) for i, number in enumerate(vector.body.ravel().tolist()))
    size = packing.packed_bytes(vector.body.size)
    assert raw[-size:] == whole.to_bytes(size, "little")
    assert size == 2 * 54_272


def test_lengths_are_told_before() -> None:
    told = {
        "public key small": keys.public_key_bytes(SMALL),
        "public key large": keys.public_key_bytes(LARGE),
        "vector": encryption.vector_bytes(SMALL, 2),
        "answers small": encryption.answer_bytes(SMALL, T["small"], 2, 10),
        "answers large": encryption.answer_bytes(LARGE, T["large"], 2, 10),
    }
    assert {kind: len(raw) for kind, raw in written().items()} == told


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_of_another_length_is_refused(kind: str) -> None:
    raw = written()[kind]
    for wrong in (b"", raw[:5], raw[:-1], raw + b"\0", raw[: len(raw) // 2], raw * 2):
        with pytest.raises(ProtocolError, match="bytes came"):
            READ[kind](wrong)


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_of_one_kind_is_no_other(kind: str) -> None:
    for other in KINDS:
        if other != kind:
            with pytest.raises(ProtocolError):
                READ[kind](written()[other])


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_of_another_kind_version_or_ring_is_refused(kind: str) -> None:
    for at, told in (
        (0, "version"),
        (4, "version"),
        (5, "another kind"),
        (6, "another kind"),
        (7, "another kind"),
    ):
        raw = bytearray(written()[kind])
        raw[at] ^= 1
        with pytest.raises(ProtocolError, match=told):
            READ[kind](bytes(raw))


def test_numbers_behind_the_last_one_are_refused() -> None:
    raw = bytearray(written()["answers small"])
    raw[-1] ^= 128  # 20 residues of c0 are filled up to 64
    with pytest.raises(ProtocolError, match="does not end in zeros"):
        READ["answers small"](bytes(raw))


@pytest.mark.parametrize("kind", KINDS)
def test_a_residue_equal_to_its_prime_is_refused(kind: str) -> None:
    if kind == "vector":
        vector = READ[kind](written()[kind])
        body = vector.body.copy()
        body[1, 1, 5] = SMALL.primes[1]
        raw = encryption.Vector(vector.key, vector.t, vector.seed, body).to_bytes()
    elif kind.startswith("public"):
        public = READ[kind](written()[kind])
        value = public.value.copy()
        value[-1, -1] = public.ring.primes[-1]
        raw = keys.PublicKey(public.ring, public.seed, value).to_bytes()
    else:
        head = written()[kind][:36]
        raw = head + b"\xff" * 200 + written()[kind][236:]
    with pytest.raises(ProtocolError, match="not below its prime"):
        READ[kind](raw)


@settings(deadline=None, max_examples=100)
@given(
    st.sampled_from(KINDS),
    st.lists(st.tuples(st.integers(0, 70), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_an_altered_head_gives_a_message_or_a_protocol_error(
    kind: str, changes: list[tuple[int, int]]
) -> None:
    raw = bytearray(written()[kind])
    for at, byte in changes:
        raw[at] = byte
    try:
        made = READ[kind](bytes(raw))
    except ProtocolError:
        return
    assert kind.startswith("answers") or made.to_bytes() == raw


# ---- vectors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_of_messages(kind: str) -> None:
    raw, vector = written()[kind], VECTORS["messages"][kind]
    assert len(raw) == vector["bytes"]
    assert raw[:60].hex() == vector["head"]
    assert hashlib.sha256(raw).hexdigest() == vector["sha256"]


def test_vectors_of_fingerprints() -> None:
    assert key(SMALL).public.digest.hex() == VECTORS["digests"]["small"]
    assert key(LARGE).public.digest.hex() == VECTORS["digests"]["large"]


@pytest.mark.parametrize(
    "vector", VECTORS["altered"], ids=lambda vector: f"{vector['kind']}: {vector['why']}"
)
def test_vectors_of_what_is_no_message(vector: dict[str, Any]) -> None:
    raw = bytearray(written()[vector["kind"]])
    new = bytes.fromhex(vector["bytes"])
    assert raw[vector["at"] : vector["at"] + len(new)] != new
    raw[vector["at"] : vector["at"] + len(new)] = new
    with pytest.raises(ProtocolError, match=vector["told"]):
        READ[vector["kind"]](bytes(raw))
