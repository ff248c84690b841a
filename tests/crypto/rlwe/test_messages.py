"""Messages: what was written is read, vectors good and bad, nothing of a wrong length."""

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

from crypto.errors import ProtocolError
from crypto.rlwe import decryption, encryption, keys, layout, messages, ring
from crypto.rlwe.parameters import PRIMES, SIZE
from tests.crypto.rlwe.joint import SEED, Stream

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "messages.json").read_text())
KINDS = (
    "public part",
    "public key",
    "dealt share",
    "ciphertext",
    "key part",
    "request",
    "partial decryption",
)


def setup_of() -> keys.Setup:
    return keys.Setup(SEED, holders=3, threshold=2, contributors=5)


@functools.cache
def key_of() -> tuple[keys.PublicKey, keys.PublicPart, list[keys.DealtShare], keys.SecretShare]:
    """A key whose randomness a person can make again."""
    stream, setup = Stream("vectors"), setup_of()
    made = [keys.new_share(setup, index, stream) for index in (1, 2, 3)]
    parts = [part for _, part in made]
    dealt = [keys.deal(share, stream) for share, _ in made]
    key = keys.public_key(setup, parts, {part.index: keys.commitment(part) for part in parts})
    return key, parts[1], [each[2] for each in dealt], keys.combine(setup, 3, [each[2] for each in dealt])


@functools.cache
def context_of() -> encryption.Context:
    return encryption.Context(key_of()[0], layout.layout(5000, 1000, 5), b"round 7")


@functools.cache
def asked_of() -> decryption.Request:
    stream, context = Stream("vectors of participants"), context_of()
    made = [encryption.encrypt(context, np.arange(5000) % 7 - number, stream) for number in range(2)]
    total = encryption.add(context, made)
    return decryption.request(context, decryption.key_part(total), (1, 3))


@functools.cache
def written() -> dict[str, bytes]:
    """A message of each kind."""
    key, part, dealt, share = key_of()
    vector = encryption.encrypt(context_of(), np.arange(5000) % 7, Stream("vector"))
    partial = decryption.partial_decryption(
        share, context_of(), asked_of(), decryption.Answers(), entropy=Stream("partial")
    )
    return {
        "public part": messages.write_public_part(part),
        "public key": messages.write_public_key(key),
        "dealt share": messages.write_dealt_share(dealt[0]),
        "ciphertext": messages.write_ciphertext(vector),
        "key part": messages.write_key_part(decryption.key_part(vector)),
        "request": messages.write_request(asked_of()),
        "partial decryption": messages.write_partial(partial),
    }


READ: dict[str, Callable[[Any], Any]] = {
    "public part": lambda data: messages.read_public_part(data, setup_of()),
    "public key": lambda data: messages.read_public_key(data, setup_of()),
    "dealt share": lambda data: messages.read_dealt_share(data, setup_of()),
    "ciphertext": lambda data: messages.read_ciphertext(data, context_of()),
    "key part": lambda data: messages.read_key_part(data, context_of()),
    "request": lambda data: messages.read_request(data, context_of()),
    "partial decryption": lambda data: messages.read_partial(data, asked_of()),
}
WRITE: dict[str, Callable[[Any], bytes]] = {
    "public part": messages.write_public_part,
    "public key": messages.write_public_key,
    "dealt share": messages.write_dealt_share,
    "ciphertext": messages.write_ciphertext,
    "key part": messages.write_key_part,
    "request": messages.write_request,
    "partial decryption": messages.write_partial,
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_written_is_read(kind: str) -> None:
    raw = written()[kind]
    for form in (bytes, bytearray, memoryview):
        assert WRITE[kind](READ[kind](form(raw))) == raw


def test_an_element_is_its_residues_of_53_bits_lowest_first() -> None:
    raw, part = written()["public part"], key_of()[1]
    whole = sum(number << (53 * i) for i, number in enumerate(part.value.ravel().tolist()))
    assert raw[-messages.ELEMENT :] == whole.to_bytes(messages.ELEMENT, "little")


def test_a_vector_has_the_length_that_is_told_and_few_bytes_for_a_number() -> None:
    context = context_of()
    assert len(written()["ciphertext"]) == messages.ciphertext_bytes(context)
    plan = layout.layout(1_000_000, 2**24, 100)
    large = encryption.Context(keys.PublicKey(keys.Setup(SEED, 3, 2, 100), context.key.value), plan, b"")
    assert messages.ciphertext_bytes(large) / 1_000_000 < 7


def test_sums_travel_with_their_number_of_vectors() -> None:
    context = context_of()
    vectors = [encryption.encrypt(context, np.arange(5000) % 5) for _ in range(3)]
    total = encryption.add(context, vectors)
    raw = messages.write_ciphertext(total)
    assert np.array_equal(messages.read_ciphertext(raw, context, contributors=3).payload, total.payload)
    with pytest.raises(ProtocolError, match="holds 3 vectors came where it must hold 1"):
        messages.read_ciphertext(raw, context)


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_of_another_length_is_refused(kind: str) -> None:
    raw = written()[kind]
    for wrong in (b"", raw[:5], raw[:-1], raw + b"\0", raw[: len(raw) // 2], raw * 2):
        with pytest.raises(ProtocolError, match=r"bytes came|names|is so long"):
            READ[kind](wrong)


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_of_one_kind_is_no_other(kind: str) -> None:
    for other in KINDS:
        if other != kind:
            with pytest.raises(ProtocolError):
                READ[kind](written()[other])


def test_a_residue_equal_to_its_prime_is_refused() -> None:
    part = key_of()[1]
    for k, p in enumerate(PRIMES):
        value = part.value.copy()
        value[k, SIZE - 1] = p
        with pytest.raises(ProtocolError, match="not below its prime"):
            READ["public part"](messages.write_public_part(keys.PublicPart(part.setup, part.index, value)))


@settings(deadline=None, max_examples=150)
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
    assert WRITE[kind](made) == raw


# ---- vectors ------------------------------------------------------------------------------------------------------


def test_vectors_of_digests_and_the_common_polynomial() -> None:
    common = ring.common_polynomial(bytes.fromhex(VECTORS["common"]["seed"]))
    assert common[:, :3].ravel().tolist() == [int(number) for number in VECTORS["common"]["first"]]
    assert setup_of().digest.hex() == VECTORS["setup"]
    assert context_of().digest.hex() == VECTORS["context"]


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_of_messages(kind: str) -> None:
    raw, vector = written()[kind], VECTORS["messages"][kind]
    assert len(raw) == vector["bytes"]
    assert raw[:60].hex() == vector["head"]
    assert hashlib.sha256(raw).hexdigest() == vector["sha256"]


@pytest.mark.parametrize(
    "vector", VECTORS["altered"], ids=lambda vector: f"{vector['kind']}: {vector['why']}"
)
def test_vectors_of_what_is_no_message(vector: dict[str, Any]) -> None:
    raw = bytearray(written()[vector["kind"]])
    new = bytes.fromhex(vector["bytes"]) if "bytes" in vector else bytes([vector["byte"]])
    assert raw[vector["at"] : vector["at"] + len(new)] != new
    raw[vector["at"] : vector["at"] + len(new)] = new
    with pytest.raises(ProtocolError, match=vector["told"]):
        READ[vector["kind"]](bytes(raw))
