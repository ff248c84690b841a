"""Spans of text: what of them is ASCII, trimming, small letters, joining, numbers and dates as text.

A span is `data[start:end]`. Text that a kernel writes stands in slots of one width, each at its slot's end, since
digits come last one first.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from crypto.kernels.blocks import u64
from crypto.kernels.compiled import kernel
from crypto.kernels.unaligned import copy, load64, store64

NUMBER_SLOT = 24
"""Bytes for a number of 64 bits with a sign and up to 18 digits behind the point."""
DATE_SLOT = 16
"""Bytes for a date; the years of 32 bits of days have at most 7 digits."""

_HIGH = u64(0x8080808080808080)
_EIGHT_DIGITS = u64(100_000_000)
_ZERO, _POINT, _MINUS = np.uint8(48), np.uint8(46), np.uint8(45)


@kernel
def is_ascii(data: Any, first: Any, end: Any) -> Any:
    """Whether all of `data[first:end]` is below 128; `data` is uint8."""
    seen = u64(0)
    at = first
    while at + 8 <= end:
        seen |= load64(data, at)
        at += 8
    while at < end:
        seen |= u64(data[at])
        at += 1
    return (seen & _HIGH) == u64(0)


@kernel
def mark_other(data: Any, starts: Any, ends: Any, out: Any) -> None:
    """`out[i]` is whether span i holds a byte of 128 or more.

    Args:
        data: uint8.
        starts, ends: (n,) int64.
        out: (n,) bool.
    """
    for i in range(starts.shape[0]):
        out[i] = not is_ascii(data, starts[i], ends[i])


@kernel
def to_small(data: Any, out: Any) -> None:
    """Capital letters A to Z become small ones, other bytes stay; arrays of one length, uint8."""
    for i in range(data.shape[0]):
        byte = data[i]
        out[i] = byte | np.uint8(32) if byte >= np.uint8(65) and byte <= np.uint8(90) else byte


@kernel(inline="always")
def _is_space(byte: Any) -> Any:
    """The ASCII characters that Python's `str.strip` takes away."""
    return byte == 32 or (byte >= 9 and byte <= 13) or (byte >= 28 and byte <= 31)


@kernel
def trim(data: Any, starts: Any, ends: Any, new_starts: Any, new_ends: Any) -> None:
    """Spans without the white space of ASCII at their ends.

    Args:
        data: uint8.
        starts, ends, new_starts, new_ends: (n,) int64.
    """
    for i in range(starts.shape[0]):
        first, end = starts[i], ends[i]
        while first < end and _is_space(data[first]):
            first += 1
        while first < end and _is_space(data[end - 1]):
            end -= 1
        new_starts[i] = first
        new_ends[i] = end


@kernel(inline="always")
def _eight_digits(value: Any) -> Any:
    """A number below 10^8 as eight ASCII digits, the first in the lowest byte: halved thrice, all parts at once."""
    halves = value // u64(10_000)
    halves |= (value - halves * u64(10_000)) << u64(32)
    # n // 100 = n 10486 >> 20 for n < 10^4, and n // 10 = n 103 >> 10 for n < 100.
    upper = ((halves * u64(10486)) >> u64(20)) & u64(0x0000007F0000007F)
    pairs = upper + ((halves - upper * u64(100)) << u64(16))
    tens = ((pairs * u64(103)) >> u64(10)) & u64(0x000F000F000F000F)
    return tens + ((pairs - tens * u64(10)) << u64(8)) + u64(0x3030303030303030)


@kernel
def write_numbers(values: Any, signed: Any, scale: Any, data: Any, starts: Any) -> None:
    """Whole numbers divided by a power of ten as decimal text, in its one shortest form.

    No sign before zero, no zeros in front but the one before a point, none at the end behind a point.

    Args:
        values: (n,) int64.
        signed: Whether they are; else their bits are those of uint64.
        scale: The power of ten, 0 to 18.
        data: (n * NUMBER_SLOT,) uint8; text i ends where slot i does.
        starts: (n,) int64, where it starts.
    """
    for i in range(values.shape[0]):
        minus = signed and values[i] < 0
        left = u64(0) - u64(values[i]) if minus else u64(values[i])
        slot = i * NUMBER_SLOT
        at = slot + NUMBER_SLOT
        behind = scale
        # Zeros at the end behind the point are shifted out of the slot's end: it must end where the text does.
        while behind > 0 and left % u64(10) == u64(0):
            left //= u64(10)
            behind -= 1
        if behind > 0:
            for _ in range(behind):
                at -= 1
                data[at] = _ZERO + np.uint8(left % u64(10))
                left //= u64(10)
            at -= 1
            data[at] = _POINT
        while left >= _EIGHT_DIGITS:
            rest = left // _EIGHT_DIGITS
            at -= 8
            store64(data, at, _eight_digits(left - rest * _EIGHT_DIGITS))
            left = rest
        while True:
            at -= 1
            data[at] = _ZERO + np.uint8(left % u64(10))
            left //= u64(10)
            if left == u64(0):
                break
        if minus:
            at -= 1
            data[at] = _MINUS
        starts[i] = at


@kernel
def write_dates(days: Any, data: Any, starts: Any) -> None:
    """Days since 1970-01-01 as ISO 8601 text in the proleptic Gregorian calendar; a year has at least 4 digits.

    Source: the inverse of the day count in eras of 400 years that start on 1 March (Hinnant, "chrono-compatible
    low-level date algorithms", `civil_from_days`).

    Args:
        days: (n,) int64, within 32 bits.
        data: (n * DATE_SLOT,) uint8; text i ends where slot i does.
        starts: (n,) int64, where it starts.
    """
    for i in range(days.shape[0]):
        shifted = days[i] + 719468
        era = shifted // 146097
        day = shifted - era * 146097
        year = (day - day // 1460 + day // 36524 - day // 146096) // 365
        day -= 365 * year + year // 4 - year // 100
        month = (5 * day + 2) // 153
        day -= (153 * month + 2) // 5
        month = month + 3 if month < 10 else month - 9
        year += era * 400 + (1 if month <= 2 else 0)
        at = (i + 1) * DATE_SLOT
        for number, digits in ((day + 1, 2), (month, 2), (abs(year), 4)):
            rest = number
            while digits > 0 or rest > 0:
                at -= 1
                data[at] = np.uint8(48 + rest % 10)
                rest //= 10
                digits -= 1
            at -= 1
            data[at] = _MINUS  # between the parts, and the sign of a year before 0
        starts[i] = at if year < 0 else at + 1


SLACK = 8
"""Free bytes that `append_spans` needs behind each place."""


@kernel
def append_spans(kind: Any, data: Any, starts: Any, ends: Any, out: Any, places: Any) -> None:
    """Write a byte, a length of four bytes (little-endian) and span i at `places[i]`, and move that behind it.

    Args:
        kind: uint8.
        data: uint8.
        starts, ends: (n,) int64; spans below 2^32 bytes.
        out: uint8; the SLACK bytes behind each piece are overwritten too.
        places: (n,) int64.
    """
    for i in range(starts.shape[0]):
        size = ends[i] - starts[i]
        store64(out, places[i], u64(kind) | u64(size) << u64(8))
        copy(out, places[i] + 5, data, starts[i], size)
        places[i] += 5 + size
