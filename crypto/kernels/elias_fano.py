"""Sorting and coding of a list of random numbers, in a length that depends only on how many there are and how wide.

Of each number of `width` bits the lowest are written as they are. The others, ceil(log2 n) of them, say in which of
2^u buckets it falls: for every bucket as many ones as numbers it has, then a zero. So n numbers take
n (width - u + 1) + 2^u - 1 bits whatever they are: about half a bit a number more than their order leaves.

A list that is not in order, or whose buckets do not hold n numbers, is refused, so that a list has one code.

Source: Elias, "Efficient storage and retrieval by content and address of static files", Journal of the ACM 21(2),
1974; Fano, 1971.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.kernels.blocks import u64
from crypto.kernels.compiled import kernel

Blocks = npt.NDArray[np.uint64]
MOST_BITS = 127
"""Of a number."""


def buckets_log2(count: int) -> int:
    """u: log2 of the buckets of a list of so many numbers, which makes its code shortest."""
    return max(0, count - 1).bit_length()


def code_bits(count: int, width: int) -> int:
    """Bits of the code of `count` numbers of `width` bits."""
    return count * (width - buckets_log2(count) + 1) + (1 << buckets_log2(count)) - 1


def code_bytes(count: int, width: int) -> int:
    """Bytes of the code of `count` numbers of `width` bits.

    Raises:
        ValueError: Numbers too narrow or too wide for it.
    """
    if not 0 <= count < 2**31 or not buckets_log2(count) < width <= MOST_BITS:
        raise ValueError(
            f"{count} numbers of {width} bits have no such code; at most {MOST_BITS} bits are allowed"
        )
    return -(-code_bits(count, width) // 8)


@kernel(inline="always")
def _bucket(low: Any, high: Any, below: Any) -> Any:
    """The number without its lowest `below` bits, 1 to 127."""
    if below >= 64:
        return np.int64(high >> u64(below - 64))
    return np.int64((low >> u64(below)) | (high << u64(64 - below)))


@kernel
def sort(numbers: Any, width: Any, buckets: Any, out: Any, order: Any) -> None:
    """Sort random numbers: into buckets, then by insertion in each. Equal ones keep their order.

    Args:
        numbers: (n, 2) uint64, of `width` bits.
        width: int.
        buckets: Room, zeros, (2^u + 1,) int64.
        out: (n, 2) uint64.
        order: Out, (n,) uint32: where the i-th stood.
    """
    log2 = 0
    while (1 << log2) < buckets.shape[0] - 1:
        log2 += 1
    below = width - log2
    for i in range(numbers.shape[0]):
        buckets[_bucket(numbers[i, 0], numbers[i, 1], below) + 1] += 1
    for b in range(buckets.shape[0] - 1):
        buckets[b + 1] += buckets[b]
    for i in range(numbers.shape[0]):
        b = _bucket(numbers[i, 0], numbers[i, 1], below)
        at = buckets[b]
        buckets[b] = at + 1
        order[at] = i
        out[at, 0] = numbers[i, 0]
        out[at, 1] = numbers[i, 1]
    # Numbers of different buckets are in order already, so that each moves within its bucket at most.
    for i in range(1, numbers.shape[0]):
        low, high, number = out[i, 0], out[i, 1], order[i]
        at = i
        while at > 0 and (out[at - 1, 1] > high or (out[at - 1, 1] == high and out[at - 1, 0] > low)):
            out[at, 0] = out[at - 1, 0]
            out[at, 1] = out[at - 1, 1]
            order[at] = order[at - 1]
            at -= 1
        out[at, 0] = low
        out[at, 1] = high
        order[at] = number


@kernel(inline="always")
def _put(words: Any, at: Any, bits: Any) -> None:
    """Write up to 64 bits at a place; what is above them is zero."""
    w, s = at >> 6, u64(at & 63)
    words[w] |= bits << s
    words[w + 1] |= (bits >> u64(1)) >> (u64(63) - s)


@kernel(inline="always")
def _get(words: Any, at: Any) -> Any:
    """64 bits from a place."""
    w, s = at >> 6, u64(at & 63)
    return (words[w] >> s) | ((words[w + 1] << u64(1)) << (u64(63) - s))


@kernel
def _encode(numbers: Any, below: Any, words: Any) -> None:
    n = numbers.shape[0]
    ones = n * below
    mask = ~u64(0) >> u64(64 - min(below, 64))
    above = ~u64(0) >> u64(128 - below) if below > 64 else u64(0)
    for i in range(n):
        _put(words, i * below, numbers[i, 0] & mask)
        if below > 64:
            _put(words, i * below + 64, numbers[i, 1] & above)
        at = ones + _bucket(numbers[i, 0], numbers[i, 1], below) + i
        words[at >> 6] |= u64(1) << u64(at & 63)


@kernel
def _decode(words: Any, below: Any, bits: Any, numbers: Any) -> Any:
    """Whether it is a code; `bits` in all, behind which there are only zeros."""
    n = numbers.shape[0]
    mask = ~u64(0) >> u64(64 - min(below, 64))
    above = ~u64(0) >> u64(128 - below) if below > 64 else u64(0)
    i = 0
    bucket = u64(0)
    for at in range(n * below, bits):
        if not (words[at >> 6] >> u64(at & 63)) & u64(1):
            bucket += u64(1)
            continue
        if i == n:
            return False
        low = _get(words, i * below) & mask
        high = u64(0)
        if below >= 64:
            if below > 64:
                high = _get(words, i * below + 64) & above
            high |= bucket << u64(below - 64)
        else:
            low |= bucket << u64(below)
            high = bucket >> u64(64 - below)
        numbers[i, 0] = low
        numbers[i, 1] = high
        if i and (numbers[i - 1, 1] > high or (numbers[i - 1, 1] == high and numbers[i - 1, 0] > low)):
            return False
        i += 1
    for at in range(bits, 64 * words.shape[0]):
        if (words[at >> 6] >> u64(at & 63)) & u64(1):
            return False
    return i == n


def encode(numbers: Blocks, width: int) -> npt.NDArray[np.uint8]:
    """The code of sorted numbers.

    Args:
        numbers: (n, 2) uint64, ascending, below 2^width.
        width: Bits of a number.

    Returns:
        (code_bytes(n, width),) uint8.
    """
    size = code_bytes(len(numbers), width)
    words = np.zeros(size // 8 + 2, dtype="<u8")
    _encode(numbers, width - buckets_log2(len(numbers)), words)
    return words.view(np.uint8)[:size]


def decode(code: npt.NDArray[np.uint8], count: int, width: int) -> Blocks | None:
    """The numbers of a code, (count, 2) uint64; None where it is none.

    Args:
        code: uint8, of any length.
        count, width: As they were for `encode`.
    """
    size = code_bytes(count, width)
    if code.shape != (size,):
        return None
    words = np.zeros(size // 8 + 2, dtype="<u8")
    words.view(np.uint8)[:size] = code
    numbers = np.empty((count, 2), dtype=np.uint64)
    good = _decode(words, width - buckets_log2(count), code_bits(count, width), numbers)
    return numbers if good else None


def ordered(numbers: Blocks, width: int) -> tuple[Blocks, npt.NDArray[np.uint32]]:
    """Random numbers in ascending order, and where each stood, (n,) uint32.

    Args:
        numbers: (n, 2) uint64, below 2^width. Numbers that are not random are sorted rightly too, but slowly.
        width: Bits of a number.
    """
    out = np.empty_like(numbers)
    order = np.empty(len(numbers), dtype=np.uint32)
    sort(numbers, width, np.zeros((1 << buckets_log2(len(numbers))) + 1, dtype=np.int64), out, order)
    return out, order


def encode_reference(numbers: list[int], width: int) -> bytes:
    """`encode` in plain Python."""
    log2 = buckets_log2(len(numbers))
    below = width - log2
    total = 0
    for i, number in enumerate(numbers):
        total |= (number & ((1 << below) - 1)) << (i * below)
        total |= 1 << (len(numbers) * below + (number >> below) + i)
    return total.to_bytes(code_bytes(len(numbers), width), "little")
