"""Normal numbers from a stream of ChaCha20, and vectors under such noise on a grid, in one pass.

Box and Muller's transform in float32, from a word w for the radius and a word a for the angle, 32 bits each:

    z = r cos t,  r sin t        r = sqrt(-2 log((w + 1/2) / 2^32)),  t = 2 pi (a + 1/2) / 2^32

The functions are the polynomials of Moshier's Cephes (`logf`, `sinf`, `cosf`), without branches, so that a compiler works on
as many numbers at once as a register has room for. The angle is reduced in whole numbers, without error; near one the
logarithm takes the distance from one, which 24 bits hold better than the number. What is made is within 2^-22 r of z.

A radius from a word below 2^8 is in the far tail, where 32 bits are too coarse: its pair is told, and the caller's to make
anew with more bits.

Words of 32 bits stay so by intrinsics: numba's own arithmetic would widen them to 64, and halve the numbers in a register.

Source: Box and Muller, "A note on the generation of random normal deviates", 1958; Moshier, Cephes mathematical library 2.2.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from crypto.kernels.chacha import whole_stripes
from crypto.kernels.compiled import intrinsic, kernel, types

f32, u32 = np.float32, np.uint32
FEW = np.uint32(2**8)
"""A radius from a smaller word is beyond 5.7 and takes more bits; one of 2^24 does."""
PIECE = 4096
"""Words that are made at once: they stay in the first cache until they are numbers."""
HALF = PIECE // 2
TOLD = 1024
"""Pairs that a call has room to tell of; of 2^31 numbers, 64 are expected."""
ROOM = PIECE + 4 * TOLD
"""Words that a call works in."""


def _operation(name: str, returns: str, *takes: str) -> Any:
    """One instruction of LLVM, or one function of its own, on numbers of 32 bits."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        kinds = {"float32": ir.FloatType(), "uint32": ir.IntType(32)}
        if name.startswith("llvm."):
            known = builder.module.globals.get(name)
            kind = ir.FunctionType(kinds[returns], [kinds[each] for each in takes])
            return builder.call(known or ir.Function(builder.module, kind, name), arguments)
        if len(takes) == 1:
            return getattr(builder, name)(*arguments, kinds[returns])
        return getattr(builder, name)(*arguments)

    def signature() -> Any:
        return getattr(types, returns)(*(getattr(types, each) for each in takes))

    def one(typing: Any, a: Any) -> Any:
        return signature(), code

    def two(typing: Any, a: Any, b: Any) -> Any:
        return signature(), code

    return intrinsic(one if len(takes) == 1 else two)


_add, _sub, _and, _xor, _left, _right, _signed_right = (
    _operation(name, "uint32", "uint32", "uint32")
    for name in ("add", "sub", "and_", "xor", "shl", "lshr", "ashr")
)
_number = _operation("uitofp", "float32", "uint32")
_signed_number = _operation("sitofp", "float32", "uint32")
_float = _operation("bitcast", "float32", "uint32")
_bits = _operation("bitcast", "uint32", "float32")
_root = _operation("llvm.sqrt.f32", "float32", "float32")
_whole = _operation("llvm.rint.f32", "float32", "float32")

_L0, _L1, _L2 = f32(7.0376836292e-2), f32(-1.1514610310e-1), f32(1.1676998740e-1)
_L3, _L4, _L5 = f32(-1.2420140846e-1), f32(1.4249322787e-1), f32(-1.6668057665e-1)
_L6, _L7, _L8 = f32(2.0000714765e-1), f32(-2.4999993993e-1), f32(3.3333331174e-1)
_LOG2_HIGH, _LOG2_LOW = f32(0.693359375), f32(-2.12194440e-4)
_S0, _S1, _S2 = f32(-1.9515295891e-4), f32(8.3321608736e-3), f32(-1.6666654611e-1)
_C0, _C1, _C2 = f32(2.443315711809948e-5), f32(-1.388731625493765e-3), f32(4.166664568298827e-2)
_HALF, _ONE, _MINUS_TWO = f32(0.5), f32(1), f32(-2)
_UNIT, _TURN = f32(2.0**-32), f32(2 * math.pi * 2.0**-32)
_ALL, _NONE, _FIRST, _SECOND = u32(0xFFFFFFFF), u32(0), u32(1), u32(2)
_ROOT_HALF = u32(0x3F3504F3)  # bits of sqrt(1/2)
_FRACTION, _QUARTER, _EIGHTH = u32(23), u32(30), u32(2**29)


@kernel(inline="always", fastmath={"contract"})
def _pair(word: Any, angle: Any) -> Any:
    """Two independent normal numbers."""
    # u = 2^power (1 + f), with 1 + f between the roots of 1/2 and 2.
    bits = _bits((_number(word) + _HALF) * _UNIT)
    power = _signed_right(_sub(bits, _ROOT_HALF), _FRACTION)
    near_one = -((_number(_xor(word, _ALL)) + _HALF) * _UNIT)
    f = near_one if power == _NONE else _float(_sub(bits, _left(power, _FRACTION))) - _ONE
    ff = f * f
    p = ((_L0 * f + _L1) * f + _L2) * f + _L3
    p = ((p * f + _L4) * f + _L5) * f + _L6
    p = ((p * f + _L7) * f + _L8) * f * ff
    by = _signed_number(power)
    logarithm = f + (p + _LOG2_LOW * by - _HALF * ff) + _LOG2_HIGH * by
    radius = _root(_MINUS_TWO * logarithm)

    quarter = _right(_add(angle, _EIGHTH), _QUARTER)
    t = (_signed_number(_sub(angle, _left(quarter, _QUARTER))) + _HALF) * _TURN
    tt = t * t
    sine = ((_S0 * tt + _S1) * tt + _S2) * tt * t + t
    cosine = ((_C0 * tt + _C1) * tt + _C2) * tt * tt - _HALF * tt + _ONE
    odd = _and(quarter, _FIRST) != _NONE
    x = sine if odd else cosine
    y = cosine if odd else sine
    x_sign = _left(_and(_add(quarter, _FIRST), _SECOND), _QUARTER)
    y_sign = _left(_and(quarter, _SECOND), _QUARTER)
    return radius * _float(_xor(_bits(x), x_sign)), radius * _float(_xor(_bits(y), y_sign))


@kernel(inline="always")
def _tell(at: Any, pairs: Any, room: Any, found: Any) -> Any:
    """Note the pairs of a piece whose radius takes more bits."""
    for i in range(pairs):
        if room[i] < FEW and found < TOLD:
            here = PIECE + 4 * found
            room[here], room[here + 1] = at + i, at + pairs + i
            room[here + 2], room[here + 3] = room[i], room[HALF + i]
            found += 1
    return found


@kernel(fastmath={"contract"})
def normal(states: Any, room: Any, out: Any) -> Any:
    """`out` of independent normal numbers.

    Args:
        states: Of one stream (`crypto.kernels.chacha.Streams`), (1, 16) uint32. Another one for each call.
        room: (ROOM,) uint32. From `PIECE` on, what is told of each pair whose radius takes more bits, four words: their two
            places, word of the radius, word of the angle. One in 2^24 is such a pair.
        out: Bits of float32, (n,) uint32, n even and at most 2^31.

    Returns:
        Pairs that are told of, int64.
    """
    found = 0
    for at in range(0, out.shape[0], PIECE):
        pairs = min(PIECE, out.shape[0] - at) >> 1
        room[:PIECE] = _NONE
        whole_stripes(states, 0, np.uint64(at >> 4), False, room, 0, PIECE)
        here, least = out[at : at + 2 * pairs], _ALL
        for i in range(pairs):
            word = room[i]
            least = word if word < least else least
            x, y = _pair(word, room[HALF + i])
            here[i], here[pairs + i] = _bits(x), _bits(y)
        if least < FEW:
            found = _tell(at, pairs, room, found)
    return found


@kernel(fastmath={"contract"})
def noisy(states: Any, room: Any, values: Any, factors: Any, out: Any) -> Any:
    """`out[i] = round(factors[0] z[i] + factors[1] values[i]) factors[2]`, z as of `normal`, halves to even.

    Args:
        states, room: As of `normal`.
        values: Bits of float32, (n,) uint32, n even and at most 2^31.
        factors: Bits of float32, (3,) uint32.
        out: Bits of float32, (n,) uint32; other memory than `values`.

    Returns:
        Pairs that are told of, int64.
    """
    deviation, scale, step = _float(factors[0]), _float(factors[1]), _float(factors[2])
    found = 0
    for at in range(0, out.shape[0], PIECE):
        pairs = min(PIECE, out.shape[0] - at) >> 1
        room[:PIECE] = _NONE
        whole_stripes(states, 0, np.uint64(at >> 4), False, room, 0, PIECE)
        held, here, least = values[at : at + 2 * pairs], out[at : at + 2 * pairs], _ALL
        for i in range(pairs):
            word = room[i]
            least = word if word < least else least
            x, y = _pair(word, room[HALF + i])
            here[i] = _bits(_whole(x * deviation + _float(held[i]) * scale) * step)
            here[pairs + i] = _bits(_whole(y * deviation + _float(held[pairs + i]) * scale) * step)
        if least < FEW:
            found = _tell(at, pairs, room, found)
    return found
