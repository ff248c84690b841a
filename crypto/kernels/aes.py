"""AES-128 as a fixed-key permutation, a generator and a hash of blocks.

`fill` is AES in counter mode, a pseudo-random generator of its key. `hash_blocks` is the tweakable construction
pi(pi(x) + i) + pi(x) of Guo, Katz, Wang and Yu (IEEE S&P 2020, section 7.4; eprint 2019/074), tweakable circular
correlation robust where pi is an ideal permutation; it is what oblivious transfer extension hashes with.

Source: FIPS 197 for AES.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.kernels.blocks import aes_last_native, aes_round_native, instruction, u64, vector, words
from crypto.kernels.compiled import intrinsic, kernel, native, types

Blocks = npt.NDArray[np.uint64]
ROUNDS = 10


def _tables() -> tuple[list[int], npt.NDArray[np.uint32]]:
    """The S-box, and the first of the four tables that join SubBytes and MixColumns."""
    power, log = [0] * 256, [0] * 256
    value = 1
    for exponent in range(255):
        power[exponent], log[value] = value, exponent
        value ^= (value << 1) ^ (0x11B if value & 0x80 else 0)
        value &= 0xFF
    box = [0x63]
    for byte in range(1, 256):
        inverse = power[(255 - log[byte]) % 255]
        made = inverse
        for _ in range(4):
            inverse = ((inverse << 1) | (inverse >> 7)) & 0xFF
            made ^= inverse
        box.append(made ^ 0x63)
    table = np.zeros(256, np.uint32)
    for byte, s in enumerate(box):
        twice = ((s << 1) ^ (0x1B if s & 0x80 else 0)) & 0xFF
        table[byte] = twice | s << 8 | s << 16 | (twice ^ s) << 24
    return box, table


SBOX, _T0 = _tables()
_BOX = np.array(SBOX, dtype=np.uint32)
_u32 = np.uint32


@kernel(inline="always")
def _byte(word: Any, at: Any) -> Any:
    return (word >> _u32(8 * at)) & _u32(0xFF)


@kernel
def _expand(key: Any, out: Any) -> None:
    """The key schedule: (1, 2) uint64 to (11, 2) uint64."""
    a, b = _u32(key[0, 0] & u64(0xFFFFFFFF)), _u32(key[0, 0] >> u64(32))
    c, d = _u32(key[0, 1] & u64(0xFFFFFFFF)), _u32(key[0, 1] >> u64(32))
    constant = 1
    for r in range(ROUNDS + 1):
        out[r, 0] = u64(a) | u64(b) << u64(32)
        out[r, 1] = u64(c) | u64(d) << u64(32)
        a ^= (
            _BOX[_byte(d, 1)]
            | _BOX[_byte(d, 2)] << _u32(8)
            | _BOX[_byte(d, 3)] << _u32(16)
            | _BOX[_byte(d, 0)] << _u32(24)
        ) ^ _u32(constant)
        b ^= a
        c ^= b
        d ^= c
        constant = (constant << 1) ^ (0x11B if constant & 0x80 else 0)


def expand_key(key: bytes) -> Blocks:
    """The eleven round keys of a key of 16 bytes, (11, 2) uint64.

    Raises:
        ValueError: The key has another length.
    """
    if len(key) != 16:
        raise ValueError(f"an AES-128 key has 16 bytes, this one {len(key)}")
    out = np.empty((ROUNDS + 1, 2), dtype=np.uint64)
    _expand(np.frombuffer(key, dtype="<u8").reshape(1, 2), out)
    return out


def expand_key_reference(key: bytes) -> Blocks:
    """`expand_key` in plain Python."""
    words = [list(key[at : at + 4]) for at in range(0, 16, 4)]
    constant = 1
    for number in range(4, 4 * (ROUNDS + 1)):
        word = list(words[-1])
        if number % 4 == 0:
            word = [SBOX[byte] for byte in word[1:] + word[:1]]
            word[0] ^= constant
            constant = (constant << 1) ^ (0x11B if constant & 0x80 else 0)
        words.append([a ^ b for a, b in zip(words[-4], word, strict=True)])
    raw = bytes(byte for word in words for byte in word)
    return np.frombuffer(raw, dtype="<u8").reshape(ROUNDS + 1, 2).copy()


@kernel(inline="always")
def _turn(word: Any, by: Any) -> Any:
    return (word << _u32(by)) | (word >> _u32(32 - by))


@kernel
def _encrypt_portable(keys: Any, low: Any, high: Any) -> Any:
    """One block by tables. Not constant in time: for processors without AES instructions."""
    low ^= keys[0, 0]
    high ^= keys[0, 1]
    a, b = _u32(low & u64(0xFFFFFFFF)), _u32(low >> u64(32))
    c, d = _u32(high & u64(0xFFFFFFFF)), _u32(high >> u64(32))
    for r in range(1, ROUNDS):
        k0, k1 = keys[r, 0], keys[r, 1]
        e = (
            _T0[_byte(a, 0)]
            ^ _turn(_T0[_byte(b, 1)], 8)
            ^ _turn(_T0[_byte(c, 2)], 16)
            ^ _turn(_T0[_byte(d, 3)], 24)
        )
        f = (
            _T0[_byte(b, 0)]
            ^ _turn(_T0[_byte(c, 1)], 8)
            ^ _turn(_T0[_byte(d, 2)], 16)
            ^ _turn(_T0[_byte(a, 3)], 24)
        )
        g = (
            _T0[_byte(c, 0)]
            ^ _turn(_T0[_byte(d, 1)], 8)
            ^ _turn(_T0[_byte(a, 2)], 16)
            ^ _turn(_T0[_byte(b, 3)], 24)
        )
        h = (
            _T0[_byte(d, 0)]
            ^ _turn(_T0[_byte(a, 1)], 8)
            ^ _turn(_T0[_byte(b, 2)], 16)
            ^ _turn(_T0[_byte(c, 3)], 24)
        )
        a, b = _u32(e ^ _u32(k0 & u64(0xFFFFFFFF))), _u32(f ^ _u32(k0 >> u64(32)))
        c, d = _u32(g ^ _u32(k1 & u64(0xFFFFFFFF))), _u32(h ^ _u32(k1 >> u64(32)))
    e = (
        _BOX[_byte(a, 0)]
        | _BOX[_byte(b, 1)] << _u32(8)
        | _BOX[_byte(c, 2)] << _u32(16)
        | _BOX[_byte(d, 3)] << _u32(24)
    )
    f = (
        _BOX[_byte(b, 0)]
        | _BOX[_byte(c, 1)] << _u32(8)
        | _BOX[_byte(d, 2)] << _u32(16)
        | _BOX[_byte(a, 3)] << _u32(24)
    )
    g = (
        _BOX[_byte(c, 0)]
        | _BOX[_byte(d, 1)] << _u32(8)
        | _BOX[_byte(a, 2)] << _u32(16)
        | _BOX[_byte(b, 3)] << _u32(24)
    )
    h = (
        _BOX[_byte(d, 0)]
        | _BOX[_byte(a, 1)] << _u32(8)
        | _BOX[_byte(b, 2)] << _u32(16)
        | _BOX[_byte(c, 3)] << _u32(24)
    )
    low = (u64(e) | u64(f) << u64(32)) ^ keys[ROUNDS, 0]
    high = (u64(g) | u64(h) << u64(32)) ^ keys[ROUNDS, 1]
    return low, high


def _encrypt_native(keys: Any, low: Any, high: Any) -> Any:
    low ^= keys[0, 0]
    high ^= keys[0, 1]
    for r in range(1, ROUNDS):
        low, high = aes_round_native(low, high, keys[r, 0], keys[r, 1])
    return aes_last_native(low, high, keys[ROUNDS, 0], keys[ROUNDS, 1])


encrypt = kernel(_encrypt_native, inline="always") if native() else _encrypt_portable
"""(round keys, low, high) -> (low, high): one block."""


@kernel
def fill(keys: Any, first: Any, out: Any) -> None:
    """Counter mode: `out[i] = AES(first + i)`, the counter in the low word.

    Args:
        keys: Round keys, (11, 2) uint64.
        first: uint64.
        out: (n, 2) uint64.
    """
    for i in range(out.shape[0]):
        out[i, 0], out[i, 1] = encrypt(keys, first + u64(i), u64(0))


FIXED_KEY = bytes.fromhex("243f6a8885a308d313198a2e03707344")
"""Of the fixed permutation pi: the first 128 bits of the fraction of the number pi."""
_FIXED = expand_key_reference(FIXED_KEY)


@intrinsic
def _fixed_native(typing: Any, low: Any, high: Any) -> Any:
    """All rounds with the round keys as constants."""
    kind = types.UniTuple(types.uint64, 2)

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        shape = ir.VectorType(ir.IntType(64), 2)
        keys = [ir.Constant(shape, [int(word) for word in row]) for row in _FIXED]
        block = builder.xor(vector(builder, *arguments), keys[0])
        for key in keys[1:-1]:
            block = instruction(builder, "llvm.x86.aesni.aesenc", [block, key])
        block = instruction(builder, "llvm.x86.aesni.aesenclast", [block, keys[-1]])
        return words(context, builder, kind, block)

    return kind(types.uint64, types.uint64), code


@kernel(inline="always")
def _fixed_portable(low: Any, high: Any) -> Any:
    return _encrypt_portable(_FIXED, low, high)


fixed = _fixed_native if native() else _fixed_portable
"""(low, high) -> (low, high): the fixed permutation pi of a block."""


@kernel
def hash_blocks(tweak: Any, values: Any, out: Any) -> None:
    """`out[i] = pi(pi(x) + (tweak + i)) + pi(x)` for `x = values[i]`. `out` may be `values`.

    Args:
        tweak: uint64, different in every use; element i has `tweak + i`.
        values, out: (n, 2) uint64.
    """
    for i in range(values.shape[0]):
        p0, p1 = fixed(values[i, 0], values[i, 1])
        q0, q1 = fixed(p0 ^ (tweak + u64(i)), p1)
        out[i, 0] = p0 ^ q0
        out[i, 1] = p1 ^ q1


class Generator:
    """A stream of blocks from a seed of 16 bytes.

    Args:
        seed: Secret or public, as its user needs.
    """

    def __init__(self, seed: bytes) -> None:
        self._keys = expand_key(seed)
        self._next = 0

    def __repr__(self) -> str:
        return "Generator(seed=<hidden>)"

    def blocks(self, count: int) -> Blocks:
        """The next `count` blocks, (count, 2) uint64."""
        out = np.empty((count, 2), dtype=np.uint64)
        fill(self._keys, np.uint64(self._next), out)
        self._next += count
        return out
