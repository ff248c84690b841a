"""Messages as bytes, checked before they are used.

    header      magic "FCBF", version of the parameters, kind, number of the ring, primes; then fields of the kind
    residues    of 53 bits, or the upper bits of them, one behind the other, lowest bit first; each array of them is
                filled up with zeros to a multiple of 64 residues

| kind | fields | residues |
|---|---|---|
| public key | seed 16 | p0 |
| vector | key 16, t 8, count 4, seed 16 | b of each polynomial |
| answers | key 16, t 8, count 4 | c1 of each, then the coefficients of c0 that are asked for |

A reader knows key, modulus and count and so every length; a message of another length, version or kind, and a
residue that is not below its prime, is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from crypto.bfv.parameters import PRIME_BITS, VERSION
from crypto.bfv.ring import RINGS, Element, Ring
from crypto.errors import ProtocolError
from crypto.kernels import rlwe_kernels

MAGIC = b"FCBF"
_HEADER = struct.Struct("<4sBBBB")
_STEP = "bfv message"
_KINDS = ("public key", "vector", "answers")
Data = bytes | bytearray | memoryview


def size(ring: Ring, fields: int, count: int) -> int:
    """Bytes of a message of so many elements."""
    return _HEADER.size + fields + packed_bytes(count * len(ring.primes) * ring.size)


def packed_bytes(numbers: int, width: int = PRIME_BITS) -> int:
    """Bytes of so many residues."""
    return -(-numbers // 64) * 8 * width


def head(kind: str, ring: Ring, fields: bytes) -> bytes:
    """A message's header and fields."""
    number = next(i for i, each in enumerate(RINGS) if each.size == ring.size)
    return _HEADER.pack(MAGIC, VERSION, _KINDS.index(kind), number, len(ring.primes)) + fields


def write(
    kind: str, ring: Ring, fields: bytes, residues: Sequence[Element], width: int = PRIME_BITS
) -> bytes:
    """A message: residues are arrays of any shape, of which each number has `width` bits."""
    start = head(kind, ring, fields)
    out = bytearray(len(start) + sum(packed_bytes(each.size, width) for each in residues))
    out[: len(start)] = start
    at = len(start)
    for each in residues:
        numbers = np.zeros(-(-each.size // 64) * 64, dtype=np.uint64)
        numbers[: each.size] = each.reshape(-1)
        packed = np.empty(numbers.size * width // 64, dtype=np.uint64)
        rlwe_kernels.pack(numbers, np.uint64(width), packed)
        out[at : at + packed.nbytes] = packed.view(np.uint8).data
        at += packed.nbytes
    return bytes(out)


def fields_of(kind: str, data: Data, ring: Ring, fields: int, wanted: int) -> tuple[bytes, memoryview]:
    """The fields of a message and what is behind them, once length and header are right.

    Raises:
        ProtocolError: They are not.
    """
    view = memoryview(data).cast("B")
    if view.nbytes != wanted:
        raise ProtocolError(f"{view.nbytes} bytes came where this message ({kind}) has {wanted}", step=_STEP)
    expected = head(kind, ring, b"")
    if bytes(view[:5]) != expected[:5]:
        raise ProtocolError(f"a message of version {VERSION} is expected; update the older side", step=_STEP)
    if bytes(view[5 : len(expected)]) != expected[5:]:
        raise ProtocolError(f"a message of another kind or ring came where {kind} is expected", step=_STEP)
    return bytes(view[len(expected) : len(expected) + fields]), view[len(expected) + fields :]


def unpacked(data: memoryview, count: int, width: int = PRIME_BITS) -> Element:
    """So many numbers; bytes behind them must be there."""
    whole = np.empty(-(-count // 64) * 64, dtype=np.uint64)
    packed = np.frombuffer(bytes(data[: packed_bytes(count, width)]), dtype=np.uint64)
    rlwe_kernels.unpack(packed, np.uint64(width), whole)
    if whole[count:].any():
        raise ProtocolError("a message does not end in zeros where it is filled up", step=_STEP)
    return whole[:count]


def read(kind: str, data: Data, ring: Ring, fields: int, count: int) -> tuple[bytes, Element]:
    """The fields and elements of a message of whole elements.

    Raises:
        ProtocolError: The bytes are no such message.
    """
    told, rest = fields_of(kind, data, ring, fields, size(ring, fields, count))
    elements = unpacked(rest, count * len(ring.primes) * ring.size)
    elements = elements.reshape(count, len(ring.primes), ring.size)
    checked(elements, ring)
    return told, elements


def checked(elements: Element, ring: Ring) -> None:
    """Refuse residues that are not below their prime.

    Raises:
        ProtocolError: There is one.
    """
    if not ring.below(elements):
        raise ProtocolError("a message holds a number that is not below its prime", step=_STEP)
