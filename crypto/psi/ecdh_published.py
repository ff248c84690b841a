"""The large side's masked set as bytes: made once, read where it lies, looked into at the price of a few reads.

    header      see `_HEADER`: format, parameters, sizes, identity of the key, places of the parts
    offsets     for each 64 buckets, how many tags stand before them, uint64
    counts      for each of 2^k buckets, how many tags it has, uint8
    tails       for each tag, by bucket, its `width` bytes that are not the bucket's number, ascending in a bucket
    digest      SHA-256 of all of that

A tag's bucket is the top k bits of its second word, its tail the first bytes of the rest. With k about log2(n) - 3 a
tag costs its tail and about a bit and a half: 8.2 bytes at 2^20 tags, where the masked elements have 32. A lookup reads
an offset, at most 63 counts and about 8 tails, so the bytes may be a mapped file.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.errors import ProtocolError
from crypto.kernels.blocks import u64
from crypto.kernels.compiled import kernel
from crypto.psi import parameters
from crypto.psi.group import as_bytes
from crypto.psi.matching import Blocks, Positions

FORMAT = 1
KEY_ID = 16
_STEP = "ecdh.published"
_MAGIC = b"fcpsiset"
_HEADER = struct.Struct("<8sHHBBxxQQ16s")
_DIGEST = 32
_GROUP = 64
"""Buckets to an offset."""


@dataclass(frozen=True)
class Published:
    """A published set, checked and ready for lookups; views of the bytes it was opened from.

    Args:
        key_id: Of the key it was made with, 16 bytes.
        items: Tags in it.
        lifetime: Items that may be looked up in all, over all queries, for the bound on false matches to hold.
        bits: k, of a bucket's number.
        width: Bytes of a tail.
        offsets: (2^k / 64 rounded up,) uint64.
        counts: (2^k,) uint8.
        tails: (items, width) uint8.
    """

    key_id: bytes
    items: int
    lifetime: int
    bits: int
    width: int
    offsets: npt.NDArray[np.uint64]
    counts: npt.NDArray[np.uint8]
    tails: npt.NDArray[np.uint8]


def layout(items: int, lifetime: int) -> tuple[int, int]:
    """Bits of a bucket's number, and bytes of a tail.

    A bucket's number and a tail together have LAMBDA + log2(items lifetime) bits or more, so that over all pairs a
    tag looked up is found by accident with probability at most 2^-LAMBDA.

    Raises:
        ValueError: That is more than the 128 bits of a tag.
    """
    bits = max(0, items.bit_length() - 4)
    wanted = parameters.LAMBDA + math.log2(max(1, items)) + math.log2(max(1, lifetime))
    width = math.ceil((wanted - bits) / 8)
    if 8 * width + bits > 128:
        raise ValueError(
            f"{items} items and {lifetime} asked for would need tags of {8 * width + bits} bits, 128 are there: "
            "take a shorter lifetime"
        )
    return bits, width


def pack(tags: Blocks, key_id: bytes, lifetime: int) -> bytes:
    """Tags as the bytes of a published set.

    Args:
        tags: (n, 2) uint64, whole hashes.
        key_id: 16 bytes.
        lifetime: See `Published`; at least 1.
    """
    items = tags.shape[0]
    bits, width = layout(items, lifetime)
    ordered = tags[np.lexsort((tags[:, 0], tags[:, 1]))]
    buckets = ordered[:, 1] >> u64(64 - bits) if bits else np.zeros(items, dtype=np.uint64)
    counts = np.bincount(buckets.astype(np.int64), minlength=1 << bits)
    if counts.max() > 255:
        raise ValueError("a bucket has more than 255 tags: these are not hashes")
    offsets = (np.cumsum(counts) - counts)[::_GROUP]
    tails = as_bytes(ordered)[:, :width]
    # By their tails, not by bits of the tag that are not there.
    inside = np.lexsort((*(tails[:, i] for i in range(width - 1, -1, -1)), buckets))
    head = _HEADER.pack(_MAGIC, FORMAT, parameters.VERSION, bits, width, items, lifetime, key_id)
    body = b"".join(
        (
            head,
            offsets.astype("<u8").tobytes(),
            counts.astype(np.uint8).tobytes(),
            np.ascontiguousarray(tails[inside]).tobytes(),
        )
    )
    return body + hashlib.sha256(body).digest()


def open_published(data: bytes | memoryview, *, check: bool = True) -> Published:
    """A published set from its bytes, which it keeps using.

    Args:
        data: From `pack`, perhaps a mapped file.
        check: Read all of it and compare the digest. Without, only the header and the length are looked at.

    Raises:
        ProtocolError: The bytes are no such set, are of another version, cut off or damaged.
    """
    view = memoryview(data).cast("B")
    if view.nbytes < _HEADER.size + _DIGEST:
        raise ProtocolError(f"a published set has more than {view.nbytes} bytes: it is cut off", step=_STEP)
    head = _HEADER.unpack(view[: _HEADER.size])
    magic, form, version, bits, width, items, lifetime, key_id = head
    if magic != _MAGIC:
        raise ProtocolError("these bytes are not a published set", step=_STEP)
    for what, ours, theirs in (("format", FORMAT, form), ("parameter", parameters.VERSION, version)):
        if ours != theirs:
            raise ProtocolError(
                f"the set has {what} version {theirs}, this program {ours}: publish it again", step=_STEP
            )
    try:
        fits = lifetime >= 1 and (bits, width) == layout(items, lifetime)
    except ValueError:
        fits = False
    if not fits:
        raise ProtocolError("the header's sizes do not fit each other", step=_STEP)
    groups = -(-(1 << bits) // _GROUP)
    at_counts = _HEADER.size + 8 * groups
    at_tails = at_counts + (1 << bits)
    end = at_tails + items * width
    if view.nbytes != end + _DIGEST:
        raise ProtocolError(
            f"{view.nbytes} bytes where the header makes {end + _DIGEST}: the set is cut off or damaged",
            step=_STEP,
        )
    if check and not hmac.compare_digest(hashlib.sha256(view[:end]).digest(), view[end:]):
        raise ProtocolError("the digest does not fit: the set is damaged, fetch it again", step=_STEP)
    counts = np.frombuffer(view[at_counts:at_tails], dtype=np.uint8)
    offsets = np.frombuffer(view[_HEADER.size : at_counts], dtype="<u8")
    if check:
        whole = counts.astype(np.int64)
        if whole.sum() != items or not np.array_equal((np.cumsum(whole) - whole)[::_GROUP], offsets):
            raise ProtocolError("the counts do not fit the number of tags", step=_STEP)
    tails = np.frombuffer(view[at_tails:end], dtype=np.uint8).reshape(items, width)
    return Published(key_id, items, lifetime, bits, width, offsets, counts, tails)


@kernel
def _look(tags: Any, raw: Any, bits: Any, offsets: Any, counts: Any, tails: Any, out: Any) -> None:
    """`out[i]`: whether the tag is there. A place beyond the tails, which a damaged set may name, is not."""
    width = tails.shape[1]
    for i in range(tags.shape[0]):
        bucket = np.int64(tags[i, 1] >> u64(64 - bits)) if bits else 0
        at = np.int64(offsets[bucket >> 6])
        for j in range(bucket & ~63, bucket):
            at += counts[j]
        out[i] = False
        for j in range(at, at + counts[bucket]):
            if not 0 <= j < tails.shape[0]:
                break
            same = True
            for b in range(width):
                if tails[j, b] != raw[i, b]:
                    same = False
                    break
            if same:
                out[i] = True
                break


def look(published: Published, tags: Blocks) -> Positions:
    """Positions of `tags` that the set has, ascending.

    Args:
        published: The set.
        tags: (n, 2) uint64, whole hashes.

    Returns:
        (k,) int64.
    """
    whole = np.ascontiguousarray(tags)
    out = np.empty(whole.shape[0], dtype=np.bool_)
    p = published
    _look(whole, as_bytes(whole), p.bits, p.offsets, p.counts, p.tails, out)
    return np.flatnonzero(out)
