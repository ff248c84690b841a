"""Numbers to integers and back in one pass: clip, scale, round at random.

The randomness of rounding is a stream of AES (`keystream`) or of ChaCha20 (`chacha`), four bytes a number, made a piece
at a time. Products are made in double precision and none is fused with a sum, so that a GPU makes the same integers.
Floats come and go as their bits: kernels whose arguments are whole numbers start without a compiler.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from crypto.kernels.blocks import u64
from crypto.kernels.chacha import STRIPE, whole_stripes
from crypto.kernels.compiled import intrinsic, kernel, types
from crypto.kernels.keystream import stream

PIECE = 4096
"""Numbers rounded at once."""
_STRIPE = STRIPE // 4
_FRACTION = np.float64(2.0**-32)
_LARGEST = np.float64(np.finfo(np.float64).max)


def _cast(kind: str, width: int) -> Any:
    """A word's bits as a float, or a float's bits as a word."""

    @intrinsic
    def cast(typing: Any, value: Any) -> Any:
        to = getattr(types, f"{kind}{width}")

        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.bitcast(arguments[0], context.get_value_type(to))

        return to(getattr(types, f"{'uint' if kind == 'float' else 'float'}{width}")), code

    return cast


_float32, _float64 = _cast("float", 32), _cast("float", 64)
_word32, _word64 = _cast("uint", 32), _cast("uint", 64)


@kernel(inline="always")
def _rounded(values: Any, first: Any, count: Any, clip: Any, scale: Any, fractions: Any, out: Any) -> Any:
    """`out[i] = floor(clipped values[i] * scale + r)` of one piece; how many were clipped, and not finite."""
    clipped = 0
    strange = 0
    for i in range(count):
        if values.itemsize == 4:
            x = np.float64(_float32(np.uint32(values[first + i])))
        else:
            x = _float64(u64(values[first + i]))
        size = abs(x)
        strange += 0 if size <= _LARGEST else 1
        clipped += 1 if size > clip else 0
        x = min(max(x, -clip), clip) * scale
        whole = np.floor(x + np.float64(fractions[i]) * _FRACTION)
        out[first + i] = out.dtype.type(np.int64(whole))
    return clipped, strange


@kernel
def to_integers(
    values: Any, bounds: Any, keys: Any, nonces: Any, start: Any, fractions: Any, out: Any, told: Any
) -> None:
    """`out[i] = floor(clipped values[i] * scale + r)` with r uniform in [0, 1), as two's complement.

    Args:
        values: Bits of float32 or float64, (n,) uint32 or uint64.
        bounds: Bits of the clip and the scale, both float64 and positive, (2,) uint64.
        keys, nonces: Of the one stream that r comes from, (1, 11, 2) and (1, 2) uint64.
        start: Block of the stream that the first r are in.
        fractions: Room, (PIECE,) uint32.
        out: (n,) uint32 or uint64.
        told: Out, (2,) int64: how many numbers were clipped, and how many are not finite; what stands for
            these in `out` has no meaning.
    """
    clip, scale = _float64(bounds[0]), _float64(bounds[1])
    told[:] = 0
    for first in range(0, values.shape[0], PIECE):
        count = min(PIECE, values.shape[0] - first)
        fractions[:] = np.uint32(0)
        stream(keys, 0, nonces, u64(start + (first >> 2)), False, fractions, 0, count)
        clipped, strange = _rounded(values, first, count, clip, scale, fractions, out)
        told[0] += clipped
        told[1] += strange


@kernel
def to_integers_chacha(
    values: Any, bounds: Any, states: Any, start: Any, fractions: Any, out: Any, told: Any
) -> None:
    """As `to_integers`, r from a stream of ChaCha20.

    Args:
        states: Of the one stream, (1, 16) uint32.
    """
    clip, scale = _float64(bounds[0]), _float64(bounds[1])
    told[:] = 0
    for first in range(0, values.shape[0], PIECE):
        count = min(PIECE, values.shape[0] - first)
        fractions[:] = np.uint32(0)
        # A piece is a whole number of stripes: what the last one makes too many is not read.
        behind = (count + _STRIPE - 1) & -_STRIPE
        whole_stripes(states, 0, u64(start + (first >> 4)), False, fractions, 0, behind)
        clipped, strange = _rounded(values, first, count, clip, scale, fractions, out)
        told[0] += clipped
        told[1] += strange


@kernel
def from_integers(total: Any, factor: Any, out: Any) -> None:
    """`out[i] = total[i] * factor`, the product made in float64.

    Args:
        total: (n,) int32 or int64.
        factor: Bits of float64, (1,) uint64.
        out: Bits of float32 or float64, (n,) uint32 or uint64.
    """
    by = _float64(factor[0])
    for i in range(total.shape[0]):
        number = np.float64(total[i]) * by
        if out.itemsize == 4:
            out[i] = _word32(np.float32(number))
        else:
            out[i] = _word64(number)
