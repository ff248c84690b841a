"""Messages of sums under a joint key as bytes, checked before they are used.

    header      magic "FCRL", version of the parameters, kind; then the fields of the kind, little-endian
    elements    residues of 53 bits one behind the other, lowest bit first: 54,272 bytes each

| kind | fields | elements |
|---|---|---|
| public part | setup 16, index 4 | 1 |
| public key | setup 16 | 1 |
| dealt share (secret) | setup 16, dealer 4, recipient 4 | 1 |
| ciphertext | context 16, contributors 4 | 2 for each opening, then those of the payload |
| key part | context 16, contributors 4 | 1 |
| request | context 16, contributors 4, holders 4, then 4 for each | 1 |
| partial decryption | request 16, index 4 | 1 |

A reader knows the setup or the context and so every length; a message of another length, version or kind, and
a residue that is not below its prime, is refused. Whose message it is, a signature around it says.
"""

from __future__ import annotations

import hmac
import struct
from typing import Any

import numpy as np

from crypto.errors import ProtocolError
from crypto.kernels import rlwe_kernels
from crypto.rlwe.decryption import KeyPart, Partial, Request, request
from crypto.rlwe.encryption import Ciphertext, Context
from crypto.rlwe.keys import DealtShare, PublicKey, PublicPart, Setup
from crypto.rlwe.parameters import PRIME_BITS, PRIMES, SIZE, VERSION, ring
from crypto.rlwe.ring import Element

MAGIC = b"FCRL"
_HEADER = struct.Struct("<4sBB")
ELEMENT = len(PRIMES) * SIZE * PRIME_BITS // 8
"""Bytes of an element."""
PUBLIC_PART = KEY_PART = _HEADER.size + 20 + ELEMENT
PUBLIC_KEY = _HEADER.size + 16 + ELEMENT
DEALT_SHARE = _HEADER.size + 24 + ELEMENT
"""Bytes of messages of one element."""

_STEP = "rlwe message"
_KINDS = (
    "public part",
    "public key",
    "dealt share",
    "ciphertext",
    "key part",
    "request",
    "partial decryption",
)
Data = bytes | bytearray | memoryview


def write_public_part(part: PublicPart) -> bytes:
    """A public part as bytes."""
    return _write("public part", struct.pack("<16sI", part.setup.digest, part.index), part.value[None])


def read_public_part(data: Data, setup: Setup) -> PublicPart:
    """A public part of this setup.

    Raises:
        ProtocolError: The bytes are none.
    """
    (digest, index), elements = _read("public part", data, "<16sI", 1)
    _same(digest, setup.digest, "setup")
    return PublicPart(setup, _holder(index, setup), elements[0])


def write_public_key(key: PublicKey) -> bytes:
    """The joint key as bytes."""
    return _write("public key", key.setup.digest, key.value[None])


def read_public_key(data: Data, setup: Setup) -> PublicKey:
    """A joint key of this setup; compare its digest with what holders sign.

    Raises:
        ProtocolError: The bytes are none.
    """
    (digest,), elements = _read("public key", data, "<16s", 1)
    _same(digest, setup.digest, "setup")
    return PublicKey(setup, elements[0])


def write_dealt_share(share: DealtShare) -> bytes:
    """A dealt share as bytes. Secret: to be encrypted to its recipient."""
    fields = struct.pack("<16sII", share.setup.digest, share.dealer, share.recipient)
    return _write("dealt share", fields, share.value[None])


def read_dealt_share(data: Data, setup: Setup) -> DealtShare:
    """A dealt share of this setup.

    Raises:
        ProtocolError: The bytes are none.
    """
    (digest, dealer, recipient), elements = _read("dealt share", data, "<16sII", 1)
    _same(digest, setup.digest, "setup")
    return DealtShare(setup, _holder(dealer, setup), _holder(recipient, setup), elements[0])


def write_ciphertext(ciphertext: Ciphertext) -> bytes:
    """A vector, or a sum, as bytes."""
    fields = struct.pack("<16sI", ciphertext.context, ciphertext.contributors)
    return _write("ciphertext", fields, ciphertext.key, ciphertext.payload)


def read_ciphertext(data: Data, context: Context, *, contributors: int = 1) -> Ciphertext:
    """A vector of this context, or a sum of so many.

    Raises:
        ProtocolError: The bytes are none.
    """
    under = 2 * context.openings
    (digest, counted), elements = _read("ciphertext", data, "<16sI", under + context.plan.polynomials)
    _same(digest, context.digest, "key, layout or round")
    _counted(counted, contributors)
    return Ciphertext(context.digest, counted, elements[:under], elements[under:])


def write_key_part(part: KeyPart) -> bytes:
    """A key part as bytes: what a participant signs."""
    return _write("key part", struct.pack("<16sI", part.context, part.contributors), part.value[None])


def read_key_part(data: Data, context: Context, opening: int = 0) -> KeyPart:
    """The key part of one vector of this context, for one opening.

    Raises:
        ProtocolError: The bytes are none.
    """
    (digest, counted), elements = _read("key part", data, "<16sI", 1)
    _same(digest, context.opening(opening), "key, layout, round or opening")
    _counted(counted, 1)
    return KeyPart(digest, counted, elements[0])


def write_request(asked: Request) -> bytes:
    """A request as bytes."""
    count = len(asked.active)
    fields = struct.pack(f"<16sII{count}I", asked.context, asked.contributors, count, *asked.active)
    return _write("request", fields, asked.value[None])


def read_request(data: Data, context: Context, opening: int = 0) -> Request:
    """A request of this context, for one opening.

    Raises:
        ProtocolError: The bytes are none, or these holders cannot open a sum.
    """
    count = (memoryview(data).nbytes - _HEADER.size - 24 - ELEMENT) // 4
    if not 0 <= count <= context.key.setup.holders:
        raise ProtocolError(f"a request of {memoryview(data).nbytes} bytes came, none is so long", step=_STEP)
    (digest, counted, told, *active), elements = _read("request", data, f"<16sII{count}I", 1)
    _same(digest, context.opening(opening), "key, layout, round or opening")
    if told != count:
        raise ProtocolError(f"a request for {told} holders names {count}", step=_STEP)
    if list(active) != sorted(set(active)):
        raise ProtocolError("a request does not name its holders in rising order", step=_STEP)
    return request(context, KeyPart(digest, counted, elements[0]), active)


def write_partial(partial: Partial) -> bytes:
    """A partial decryption as bytes."""
    return _write(
        "partial decryption", struct.pack("<16sI", partial.request, partial.index), partial.value[None]
    )


def read_partial(data: Data, asked: Request) -> Partial:
    """A partial decryption for this request.

    Raises:
        ProtocolError: The bytes are none.
    """
    (digest, index), elements = _read("partial decryption", data, "<16sI", 1)
    _same(digest, asked.digest, "request")
    if index not in asked.active:
        raise ProtocolError(f"an answer of holder {index} came, who was not asked", step=_STEP)
    return Partial(asked.digest, index, elements[0])


def ciphertext_bytes(context: Context) -> int:
    """The length of a vector's message."""
    return _HEADER.size + 20 + (2 * context.openings + context.plan.polynomials) * ELEMENT


def _write(kind: str, fields: bytes, *elements: Element) -> bytes:
    head = _HEADER.pack(MAGIC, VERSION, _KINDS.index(kind)) + fields
    count = sum(len(each) for each in elements)
    out = bytearray(len(head) + count * ELEMENT)
    out[: len(head)] = head
    at = len(head)
    for each in elements:
        packed = np.empty(len(each) * ELEMENT // 8, dtype=np.uint64)
        rlwe_kernels.pack(each.reshape(-1), np.uint64(PRIME_BITS), packed)
        out[at : at + packed.nbytes] = packed.view(np.uint8).data
        at += packed.nbytes
    return bytes(out)


def _read(kind: str, data: Data, form: str, count: int) -> tuple[tuple[Any, ...], Element]:
    """The fields and elements of a message whose length is known."""
    view = memoryview(data).cast("B")
    wanted = _HEADER.size + struct.calcsize(form) + count * ELEMENT
    if view.nbytes != wanted:
        raise ProtocolError(f"{view.nbytes} bytes came where a {kind} has {wanted}", step=_STEP)
    magic, version, number = _HEADER.unpack_from(view)
    if magic != MAGIC or version != VERSION:
        raise ProtocolError(f"a message of version {VERSION} is expected; update the older side", step=_STEP)
    if number != _KINDS.index(kind):
        raise ProtocolError(f"a message of another kind came where a {kind} is expected", step=_STEP)
    fields = struct.unpack_from(form, view, _HEADER.size)
    packed = np.frombuffer(bytes(view[wanted - count * ELEMENT :]), dtype=np.uint64)
    elements = np.empty((count, len(PRIMES), SIZE), dtype=np.uint64)
    rlwe_kernels.unpack(packed, np.uint64(PRIME_BITS), elements.reshape(-1))
    if not rlwe_kernels.below(elements, ring().moduli):
        raise ProtocolError(f"a {kind} holds a number that is not below its prime", step=_STEP)
    return fields, elements


def _same(theirs: bytes, ours: bytes, what: str) -> None:
    if not hmac.compare_digest(theirs, ours):
        raise ProtocolError(f"a message of another {what} came", step=_STEP)


def _holder(index: int, setup: Setup) -> int:
    if not 1 <= index <= setup.holders:
        raise ProtocolError(f"a message of holder {index} of {setup.holders} came", step=_STEP)
    return index


def _counted(theirs: int, ours: int) -> None:
    if theirs != ours:
        raise ProtocolError(
            f"a message that holds {theirs} vectors came where it must hold {ours}", step=_STEP
        )
