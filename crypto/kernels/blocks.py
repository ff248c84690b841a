"""Operations on blocks of 128 bits, held as two 64-bit words (low, high), inlined into the kernels that use them.

Elements of GF(2^128) are polynomials modulo x^128 + x^7 + x^2 + x + 1; bit i of a block is the coefficient of
x^i (the bit order is not GHASH's reflected one).
"""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.kernels.compiled import intrinsic, kernel, native, types

u64 = np.uint64


def _clmul_portable(a: Any, b: Any) -> Any:
    """The 127-bit product of two polynomials over GF(2) of 64 bits: (low, high)."""
    low = u64(0)
    high = u64(0)
    for i in range(64):
        mask = u64(0) - ((b >> u64(i)) & u64(1))
        low ^= (a << u64(i)) & mask
        if i:
            high ^= (a >> u64(64 - i)) & mask
    return low, high


def vector(builder: Any, low: Any, high: Any) -> Any:
    """A block as a vector, in the code of an intrinsic."""
    from llvmlite import ir

    kind = ir.VectorType(ir.IntType(64), 2)
    index = ir.IntType(32)
    first = builder.insert_element(ir.Constant(kind, [0, 0]), low, ir.Constant(index, 0))
    return builder.insert_element(first, high, ir.Constant(index, 1))


def words(context: Any, builder: Any, kind: Any, vector: Any) -> Any:
    """A vector as a tuple of two words."""
    from llvmlite import ir

    index = ir.IntType(32)
    parts = [builder.extract_element(vector, ir.Constant(index, i)) for i in range(2)]
    return context.make_tuple(builder, kind, parts)


def instruction(builder: Any, name: str, arguments: list[Any], immediate: bool = False) -> Any:
    """Call one of the processor's instructions on vectors."""
    from llvmlite import ir

    kind = ir.VectorType(ir.IntType(64), 2)
    takes = [kind, kind, *([ir.IntType(8)] if immediate else [])]
    known = builder.module.globals.get(name)
    function = known or ir.Function(builder.module, ir.FunctionType(kind, takes), name)
    return builder.call(function, arguments)


@intrinsic
def _clmul_native(typing: Any, a: Any, b: Any) -> Any:
    kind = types.UniTuple(types.uint64, 2)

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        a, b = arguments
        zero = ir.Constant(ir.IntType(64), 0)
        operands = [vector(builder, a, zero), vector(builder, b, zero), ir.Constant(ir.IntType(8), 0)]
        product = instruction(builder, "llvm.x86.pclmulqdq", operands, immediate=True)
        return words(context, builder, kind, product)

    return kind(types.uint64, types.uint64), code


def _round_of(name: str) -> Any:
    @intrinsic
    def one_round(typing: Any, low: Any, high: Any, key_low: Any, key_high: Any) -> Any:
        kind = types.UniTuple(types.uint64, 2)

        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            low, high, key_low, key_high = arguments
            operands = [vector(builder, low, high), vector(builder, key_low, key_high)]
            return words(context, builder, kind, instruction(builder, name, operands))

        return kind(types.uint64, types.uint64, types.uint64, types.uint64), code

    return one_round


aes_round_native = _round_of("llvm.x86.aesni.aesenc")
aes_last_native = _round_of("llvm.x86.aesni.aesenclast")

clmul = _clmul_native if native() else kernel(_clmul_portable, inline="always")
"""(a, b) -> (low, high): the carry-less product of two 64-bit words."""


@kernel(inline="always")
def gf_mul(a0: Any, a1: Any, b0: Any, b1: Any) -> Any:
    """The product in GF(2^128), by Karatsuba's method: (low, high)."""
    l0, l1 = clmul(a0, b0)
    h0, h1 = clmul(a1, b1)
    m0, m1 = clmul(a0 ^ a1, b0 ^ b1)
    m0 ^= l0 ^ h0
    m1 ^= l1 ^ h1
    r0, r1, r2, r3 = l0, l1 ^ m0, h0 ^ m1, h1
    r2 ^= (r3 >> u64(63)) ^ (r3 >> u64(62)) ^ (r3 >> u64(57))
    r0 ^= r2 ^ (r2 << u64(1)) ^ (r2 << u64(2)) ^ (r2 << u64(7))
    r1 ^= r3 ^ (r3 << u64(1)) ^ (r3 << u64(2)) ^ (r3 << u64(7))
    r1 ^= (r2 >> u64(63)) ^ (r2 >> u64(62)) ^ (r2 >> u64(57))
    return r0, r1


@kernel(inline="always")
def gf_double(a0: Any, a1: Any) -> Any:
    """The product with x: (low, high)."""
    carry = u64(0) - (a1 >> u64(63))
    return (a0 << u64(1)) ^ (carry & u64(0x87)), (a1 << u64(1)) | (a0 >> u64(63))


@kernel
def scale(values: Any, by: Any, out: Any) -> None:
    """`out[i] = values[i] * by[0]`; arrays (n, 2) and (1, 2), uint64. `out` may be `values`."""
    b0, b1 = by[0, 0], by[0, 1]
    for i in range(values.shape[0]):
        out[i, 0], out[i, 1] = gf_mul(values[i, 0], values[i, 1], b0, b1)


@kernel
def add_scaled(total: Any, values: Any, by: Any) -> None:
    """`total[i] += values[i] * by[0]`; arrays (n, 2), (n, 2) and (1, 2), uint64."""
    b0, b1 = by[0, 0], by[0, 1]
    for i in range(values.shape[0]):
        p0, p1 = gf_mul(values[i, 0], values[i, 1], b0, b1)
        total[i, 0] ^= p0
        total[i, 1] ^= p1


def random_blocks(count: int) -> npt.NDArray[np.uint64]:
    """Secret blocks from the system's randomness, (count, 2) uint64."""
    return np.frombuffer(secrets.token_bytes(16 * count), dtype="<u8").reshape(count, 2).copy()


def gf_mul_reference(a: int, b: int) -> int:
    """The product in GF(2^128) of two elements as integers, by shift and add."""
    product = 0
    for i in range(128):
        if b >> i & 1:
            product ^= a << i
    for i in range(254, 127, -1):
        if product >> i & 1:
            product ^= (1 << i) ^ (0x87 << (i - 128))
    return product


def blocks_from(numbers: list[int]) -> Any:
    """Integers below 2^128 as blocks, (n, 2) uint64."""
    raw = b"".join(number.to_bytes(16, "little") for number in numbers)
    return np.frombuffer(raw, dtype="<u8").reshape(-1, 2).copy()


def numbers_from(blocks: Any) -> list[int]:
    """Blocks as integers."""
    raw = np.ascontiguousarray(blocks, dtype="<u8").tobytes()
    return [int.from_bytes(raw[at : at + 16], "little") for at in range(0, len(raw), 16)]
