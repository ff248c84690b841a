"""ristretto255, many elements at a time: hash to the group, multiplication by a secret, tags of the results.

libsodium does the group's arithmetic, in time that does not depend on secrets. The loops over elements are compiled
and call it by the address of its functions, so that no interpreter stands between two elements and threads run
beside each other.

    element of an item   map(expand_message_xmd(SHA-512, item as 16 bytes, DST, 64))
    tag of an element    the first 16 bytes of SHA-512(label, prefix, element's 32 bytes)

An element travels as its 32 canonical bytes. Multiplication refuses bytes that are no element, and the neutral
element, which would give away that the other side's secret has no effect.

Source: RFC 9496 (the group and its one-way map), RFC 9380 section 5.3.1 and appendix B (`hash_to_ristretto255`).
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from crypto import sodium
from crypto.errors import ProtocolError
from crypto.kernels.compiled import intrinsic, kernel, types

Blocks = npt.NDArray[np.uint64]
Points = npt.NDArray[np.uint8]

POINT = 32
SCALAR = 32
DST = b"FEDCORE-PSI-V01-CS01-with-ristretto255_XMD:SHA-512_R255MAP_RO_"
"""Domain separation of hashing to the group, in the form of RFC 9380 section 3.1."""
_SERIAL = 64
"""Below this many elements, threads cost more than they bring."""

# ---- secrets --------------------------------------------------------------------------------------------------


def new_scalar() -> bytes:
    """A secret scalar that is not zero, 32 bytes, from the system's randomness."""
    return sodium.random_scalar()


def inverse(scalar: bytes) -> bytes:
    """The scalar that undoes multiplication by `scalar`, 32 bytes."""
    return sodium.inverse(scalar)


def public_of(scalar: bytes) -> bytes:
    """The element `scalar` times the generator, 32 bytes."""
    return sodium.times_base(scalar)


# ---- libsodium by address -------------------------------------------------------------------------------------


def _caller(count: int) -> Any:
    """An intrinsic: call the function at an address with `count` words, addresses or numbers; its `int`."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        word = ir.IntType(64)
        kind = ir.FunctionType(ir.IntType(32), [word] * count)
        return builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])

    if count == 2:

        @intrinsic
        def call_two(typing: Any, address: Any, a: Any, b: Any) -> Any:
            return types.int32(types.int64, types.int64, types.int64), code

        return call_two

    @intrinsic
    def call_three(typing: Any, address: Any, a: Any, b: Any, c: Any) -> Any:
        return types.int32(types.int64, types.int64, types.int64, types.int64), code

    return call_three


_call2 = _caller(2)
_call3 = _caller(3)


@functools.cache
def _addresses() -> npt.NDArray[np.int64]:
    """Of libsodium's functions, as `sodium.addresses` has them."""
    return np.array(sodium.addresses(), dtype=np.int64)


@kernel
def _mask(functions: Any, scalar: Any, items: Any, first: Any, second: Any, out: Any) -> Any:
    """`out[i]` = scalar times the element of `items[i]`; how many were done before one failed.

    Args:
        functions: Addresses.
        scalar: (32,) uint8.
        items: (n, 16) uint8.
        first: Message of the first hash, its item at 128; (bytes,) uint8, changed.
        second: Message of the second hash, the first hash at 0; (bytes,) uint8, changed.
        out: (n, 32) uint8.
    """
    wide = np.empty(64, np.uint8)
    element = np.empty(32, np.uint8)
    for i in range(items.shape[0]):
        first[128:144] = items[i]
        _call3(functions[2], second.ctypes.data, first.ctypes.data, first.shape[0])
        _call3(functions[2], wide.ctypes.data, second.ctypes.data, second.shape[0])
        _call2(functions[1], element.ctypes.data, wide.ctypes.data)
        if _call3(functions[0], out[i].ctypes.data, scalar.ctypes.data, element.ctypes.data) != 0:
            return i
    return items.shape[0]


@kernel
def _multiply(functions: Any, scalar: Any, points: Any, out: Any) -> Any:
    """`out[i] = scalar * points[i]`, (n, 32) uint8 both; how many were done before one was refused."""
    for i in range(points.shape[0]):
        if _call3(functions[0], out[i].ctypes.data, scalar.ctypes.data, points[i].ctypes.data) != 0:
            return i
    return points.shape[0]


@kernel
def _tag(functions: Any, message: Any, items: Any, points: Any, out: Any) -> Any:
    """`out[i]`, (n, 16) uint8: hash of `message` with the item (where there are any) and the element at its end."""
    digest = np.empty(64, np.uint8)
    size = message.shape[0]
    for i in range(points.shape[0]):
        if items.shape[0]:
            message[size - 48 : size - 32] = items[i]
        message[size - 32 :] = points[i]
        _call3(functions[2], digest.ctypes.data, message.ctypes.data, size)
        out[i] = digest[:16]
    return points.shape[0]


# ---- many at a time -------------------------------------------------------------------------------------------


def workers() -> int:
    """Threads used where a caller names no number: the processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def mask_items(items: Blocks, scalar: bytes, *, threads: int | None = None) -> Points:
    """Secret multiples of the elements of items.

    Args:
        items: (n, 2) uint64.
        scalar: 32 bytes. Secret.
        threads: At most this many; all processors where None.

    Returns:
        (n, 32) uint8.
    """
    raw = as_bytes(items)
    out = np.empty((raw.shape[0], POINT), dtype=np.uint8)
    secret = np.frombuffer(scalar, dtype=np.uint8)
    ending = DST + bytes([len(DST)])
    before = bytes(128 + 16) + (64).to_bytes(2, "big") + b"\0" + ending
    after = bytes(64) + b"\1" + ending

    def part(low: int, high: int) -> int:
        first = np.frombuffer(bytearray(before), dtype=np.uint8)
        second = np.frombuffer(bytearray(after), dtype=np.uint8)
        done: int = _mask(_addresses(), secret, raw[low:high], first, second, out[low:high])
        return done

    if _spread(part, raw.shape[0], threads) is not None:
        raise ValueError("an item hashed to the neutral element, or the scalar is zero: take another scalar")
    return out


def multiply(points: Points, scalar: bytes, step: str, *, threads: int | None = None) -> Points:
    """Secret multiples of elements that came from the other side.

    Args:
        points: (n, 32) uint8.
        scalar: 32 bytes, not zero. Secret.
        step: Of the protocol around.
        threads: As in `mask_items`.

    Returns:
        (n, 32) uint8.

    Raises:
        ProtocolError: One of them is no element of the group, or the neutral one.
    """
    given = np.ascontiguousarray(points)
    out = np.empty_like(given)
    secret = np.frombuffer(scalar, dtype=np.uint8)

    def part(low: int, high: int) -> int:
        done: int = _multiply(_addresses(), secret, given[low:high], out[low:high])
        return done

    refused = _spread(part, given.shape[0], threads)
    if refused is not None:
        raise ProtocolError(
            f"element {refused} of the {given.shape[0]} that came is not of the group ristretto255, or is its "
            "neutral element; the other side does not follow the protocol",
            step=step,
        )
    return out


def tags(points: Points, label: bytes, *, items: Blocks | None = None, threads: int | None = None) -> Blocks:
    """Hashes of elements, which stand for them in comparisons.

    Args:
        points: (n, 32) uint8.
        label: What the tag is for.
        items: (n, 2) uint64, hashed with their elements; without where None.
        threads: As in `mask_items`.

    Returns:
        (n, 2) uint64.
    """
    given = np.ascontiguousarray(points)
    raw = as_bytes(items) if items is not None else np.empty((0, 16), dtype=np.uint8)
    out = np.empty((given.shape[0], 16), dtype=np.uint8)
    empty = bytes([len(label)]) + label + bytes(POINT + (16 if items is not None else 0))

    def part(low: int, high: int) -> int:
        message = np.frombuffer(bytearray(empty), dtype=np.uint8)
        done: int = _tag(_addresses(), message, raw[low:high], given[low:high], out[low:high])
        return done

    _spread(part, given.shape[0], threads)
    return out.view("<u8")


def as_bytes(blocks: Blocks) -> Points:
    """Blocks as their bytes, (n, 16) uint8, little end first; a view where that is possible."""
    return np.ascontiguousarray(blocks, dtype="<u8").view(np.uint8).reshape(-1, 16)


def _spread(part: Callable[[int, int], int], count: int, threads: int | None) -> int | None:
    """Run `part(low, high)`, which says how many it did, over threads; the first place that failed."""
    number = min(threads or workers(), max(1, count // _SERIAL))
    bounds = [count * i // number for i in range(number + 1)]
    pairs = list(itertools.pairwise(bounds))
    if number == 1:
        done = [part(*pairs[0])]
    else:
        with ThreadPoolExecutor(number) as pool:
            done = list(pool.map(lambda pair: part(*pair), pairs))
    for (low, high), some in zip(pairs, done, strict=True):
        if some != high - low:
            return low + some
    return None


# ---- plain references -----------------------------------------------------------------------------------------


def expand_reference(message: bytes, dst: bytes, size: int = 64) -> bytes:
    """`expand_message_xmd` of RFC 9380 section 5.3.1 with SHA-512, for up to 64 bytes."""
    ending = dst + bytes([len(dst)])
    first = hashlib.sha512(bytes(128) + message + size.to_bytes(2, "big") + b"\0" + ending).digest()
    return hashlib.sha512(first + b"\1" + ending).digest()[:size]


def element_reference(item: bytes, dst: bytes = DST) -> bytes:
    """The element of an item, 32 bytes."""
    return sodium.from_hash(expand_reference(item, dst))


def tag_reference(point: bytes, label: bytes, item: bytes = b"") -> bytes:
    """The tag of an element, 16 bytes."""
    return hashlib.sha512(bytes([len(label)]) + label + item + point).digest()[:16]
