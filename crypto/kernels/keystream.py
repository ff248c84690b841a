"""AES-128 in counter mode, added to or taken from vectors of words: the masks of secure aggregation.

The stream is that of AES-128-CTR (NIST SP 800-38A) whose first counter block is a nonce of 12 bytes and four
zeros, the counter the last four bytes, most significant first. Element i of a vector takes its bytes from `i
* itemsize`, least significant first. A stream is 2^32 blocks at most: 64 GB.

With several streams all are added to a piece of the vector that stays in the cache, before the next piece is
touched. Where the processor has AES for vectors of 256 or 512 bits (VAES), eight of these are in work at
once; else eight blocks; the portable path gives the same bytes.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from crypto.kernels import stored
from crypto.kernels.aes import ROUNDS, SBOX, encrypt
from crypto.kernels.blocks import aes_last_native, u64
from crypto.kernels.compiled import intrinsic, kernel, native, types
from crypto.kernels.unaligned import pointer

Words = npt.NDArray[Any]

NONCE = 12
BLOCKS = 2**32
"""Of one stream, at most."""
PIECE = 2**15
"""Bytes that are worked on before the next: half of a small first-level cache."""
VECTORS = 8
"""In work at once, so that one round of AES need not wait for the round before it."""
_u32 = np.uint32
_BOX = np.array(SBOX, dtype=np.uint32)
_NAMES = {1: "llvm.x86.aesni.aes{}", 2: "llvm.x86.aesni.aes{}.256", 4: "llvm.x86.aesni.aes{}.512"}


def _lanes() -> int:
    """Blocks that one instruction works on."""
    if not native():
        return 1
    told = stored.processor()
    if told is None or not told.has("vaes"):
        return 1
    return 4 if told.has("avx512f") else 2 if told.has("avx2") else 1


LANES = _lanes()


@intrinsic
def _stripe_native(
    typing: Any, out: Any, at: Any, keys: Any, row: Any, nonces: Any, counter: Any, minus: Any
) -> Any:
    """Add `VECTORS * LANES` blocks of stream `row` from block `counter` on to `out`, from element `at` on."""
    element = 32 if out.dtype.bitwidth == 32 else 64

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        i32, i64 = ir.IntType(32), ir.IntType(64)
        wide = ir.VectorType(i64, 2 * LANES)
        quads = ir.VectorType(i32, 4 * LANES)
        target = ir.VectorType(ir.IntType(element), 128 * LANES // element)

        def splat(value: Any, kind: Any, count: int) -> Any:
            one = ir.Constant(ir.VectorType(kind, 1), [ir.Undefined])
            one = builder.insert_element(one, value, ir.Constant(i32, 0))
            return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(i32, count), [0] * count))

        def repeat(block: Any) -> Any:
            order = ir.Constant(ir.VectorType(i32, 2 * LANES), [0, 1] * LANES)
            return builder.shuffle_vector(block, block, order)

        def block_at(array: Any, kind: Any, word: Any) -> Any:
            place = builder.gep(pointer(context, builder, kind, array, i64), [word])
            pair = ir.VectorType(i64, 2)
            return repeat(builder.load(builder.bitcast(place, pair.as_pointer()), align=8))

        def call(name: str, *operands: Any) -> Any:
            kind = ir.FunctionType(operands[0].type, [each.type for each in operands])
            known = builder.module.globals.get(name)
            return builder.call(known or ir.Function(builder.module, kind, name), operands)

        def aes(step: str, state: Any, key: Any) -> Any:
            return call(_NAMES[LANES].format(step), state, key)

        out, at, keys, row, nonces, counter, minus = arguments
        first = builder.mul(row, ir.Constant(row.type, 2 * (ROUNDS + 1)))
        round_keys = [
            block_at(keys, signature.args[2], builder.add(first, ir.Constant(row.type, 2 * r)))
            for r in range(ROUNDS + 1)
        ]
        nonce = block_at(nonces, signature.args[4], builder.mul(row, ir.Constant(row.type, 2)))
        start = splat(builder.trunc(counter, i32), i32, 4 * LANES)
        lasts = ir.Constant(quads, [0, 0, 0, -1] * LANES)
        states = []
        for number in range(VECTORS):
            offsets = [number * LANES + lane for lane in range(LANES) for _ in range(4)]
            counted = call(f"llvm.bswap.v{4 * LANES}i32", builder.add(start, ir.Constant(quads, offsets)))
            state = builder.or_(nonce, builder.bitcast(builder.and_(counted, lasts), wide))
            states.append(builder.xor(state, round_keys[0]))
        for r in range(1, ROUNDS):
            states = [aes("enc", state, round_keys[r]) for state in states]
        states = [aes("enclast", state, round_keys[ROUNDS]) for state in states]

        sign = splat(builder.sub(ir.Constant(i64, 0), minus), i64, target.count)
        if element == 32:
            sign = builder.trunc(sign, target)
        data = builder.gep(pointer(context, builder, signature.args[0], out, ir.IntType(element)), [at])
        for number, state in enumerate(states):
            place = builder.gep(data, [ir.Constant(i64, number * target.count)])
            place = builder.bitcast(place, target.as_pointer())
            # x + (s ^ -1) - -1 is x - s, and x + (s ^ 0) - 0 is x + s.
            signed = builder.sub(builder.xor(builder.bitcast(state, target), sign), sign)
            builder.store(builder.add(builder.load(place, align=4), signed), place, align=4)
        return context.get_dummy_value()

    return types.void(out, types.int64, keys, types.int64, nonces, types.uint64, types.uint64), code


@kernel(inline="always")
def _block(keys: Any, row: Any, nonces: Any, counter: Any) -> Any:
    """One block of the stream: (low, high)."""
    c = (counter >> u64(24)) | ((counter >> u64(8)) & u64(0xFF00))
    c |= ((counter & u64(0xFF00)) << u64(8)) | ((counter & u64(0xFF)) << u64(24))
    return encrypt(keys[row], nonces[row, 0], nonces[row, 1] | (c << u64(32)))


@kernel(inline="always")
def _blocks(keys: Any, row: Any, nonces: Any, counter: Any, minus: Any, out: Any, at: Any, end: Any) -> None:
    """Add the stream from block `counter` on to `out[at:end]`, block by block."""
    if out.itemsize == 4:
        while at < end:
            low, high = _block(keys, row, nonces, counter)
            counter += u64(1)
            for j in range(min(4, end - at)):
                word = (low if j < 2 else high) >> u64(32 * (j & 1))
                out[at + j] += _u32(u64(0) - word) if minus else _u32(word)
            at += 4
    else:
        while at < end:
            low, high = _block(keys, row, nonces, counter)
            counter += u64(1)
            out[at] += u64(0) - low if minus else low
            if at + 1 < end:
                out[at + 1] += u64(0) - high if minus else high
            at += 2


def _stream_native(
    keys: Any, row: Any, nonces: Any, counter: Any, minus: Any, out: Any, at: Any, end: Any
) -> None:
    per_block = 4 if out.itemsize == 4 else 2
    while end - at >= VECTORS * LANES * per_block:
        _stripe_native(out, at, keys, row, nonces, counter, u64(minus))
        counter += u64(VECTORS * LANES)
        at += VECTORS * LANES * per_block
    _blocks(keys, row, nonces, counter, minus, out, at, end)


stream = kernel(_stream_native, inline="always") if native() else _blocks
"""Add a stream to a run of a vector, in other kernels; as `_blocks`."""


@kernel
def _add(keys: Any, nonces: Any, minus: Any, out: Any, first: Any, behind: Any) -> None:
    """Add streams to `out[first:behind]`; `first` begins a block."""
    # No division and no step that could be zero: a kernel that may raise cannot be stored.
    shift = 2 if out.itemsize == 4 else 1
    piece = PIECE >> (4 - shift)
    at = first
    while at < behind:
        end = min(at + piece, behind)
        for row in range(keys.shape[0]):
            stream(keys, row, nonces, u64(at >> shift), minus[row], out, at, end)
        at = end


def _sub_word_native(word: Any) -> Any:
    # With the same word four times ShiftRows changes nothing.
    twice = word | (word << u64(32))
    low, _ = aes_last_native(twice, twice, u64(0), u64(0))
    return low & u64(0xFFFFFFFF)


def _sub_word_portable(word: Any) -> Any:
    made = u64(0)
    for j in range(4):
        made |= u64(_BOX[(word >> u64(8 * j)) & u64(0xFF)]) << u64(8 * j)
    return made


_sub_word = kernel(_sub_word_native if native() else _sub_word_portable, inline="always")


@kernel
def _expand(raw: Any, keys: Any) -> None:
    """Round keys of each row of `raw` (m, 2) uint64, to `keys` (m, 11, 2); FIPS 197, section 5.2."""
    for row in range(raw.shape[0]):
        low, high = raw[row, 0], raw[row, 1]
        constant = u64(1)
        keys[row, 0, 0], keys[row, 0, 1] = low, high
        for r in range(1, ROUNDS + 1):
            last = high >> u64(32)
            turned = _sub_word(((last >> u64(8)) | (last << u64(24))) & u64(0xFFFFFFFF)) ^ constant
            a = (low & u64(0xFFFFFFFF)) ^ turned
            b = (low >> u64(32)) ^ a
            c = (high & u64(0xFFFFFFFF)) ^ b
            d = last ^ c
            low, high = a | (b << u64(32)), c | (d << u64(32))
            keys[row, r, 0], keys[row, r, 1] = low, high
            constant = (constant << u64(1)) ^ (u64(0x11B) if constant & u64(0x80) else u64(0))


class Streams:
    """Streams of some keys, ready to be added to vectors.

    Args:
        keys: 16 bytes of key and 12 of nonce each. Secret.

    Raises:
        ValueError: One has another length.
    """

    def __init__(self, keys: list[bytes]) -> None:
        for each in keys:
            if len(each) != 16 + NONCE:
                raise ValueError(f"a stream takes {16 + NONCE} bytes of key and nonce, not {len(each)}")
        raw = np.frombuffer(b"".join(each + bytes(4) for each in keys), dtype="<u8").reshape(len(keys), 4)
        self.keys = np.empty((len(keys), ROUNDS + 1, 2), dtype=np.uint64)
        self.nonces = np.ascontiguousarray(raw[:, 2:])
        _expand(np.ascontiguousarray(raw[:, :2]), self.keys)

    def __repr__(self) -> str:
        return f"Streams({len(self.keys)}, keys=<hidden>)"

    def add(self, out: Words, minus: npt.NDArray[np.bool_] | None = None, *, threads: int = 1) -> None:
        """Add all streams to a vector, modulo two to the bits of its words.

        Args:
            out: uint32 or uint64, (n,), contiguous; changed in place.
            minus: Which streams to take from it instead; none by default.
            threads: That work on parts of the vector at once.

        Raises:
            ValueError: The vector has another form, or is longer than a stream.
        """
        check_words(out)
        signs = np.zeros(len(self.keys), dtype=np.bool_) if minus is None else np.asarray(minus, np.bool_)
        if signs.shape != (len(self.keys),):
            raise ValueError(f"signs of {signs.shape} for {len(self.keys)} streams")
        part = -(-len(out) // (max(threads, 1) * PIECE)) * PIECE
        if part >= len(out):
            _add(self.keys, self.nonces, signs, out, 0, len(out))
            return
        with ThreadPoolExecutor(threads) as pool:
            work = [
                pool.submit(_add, self.keys, self.nonces, signs, out, at, min(at + part, len(out)))
                for at in range(0, len(out), part)
            ]
            for each in work:
                each.result()


def check_words(out: Words) -> None:
    """Refuse what is no vector of words that masks can be added to.

    Raises:
        ValueError: It is not uint32 or uint64, not one-dimensional and contiguous, or too long for a stream.
    """
    if out.dtype not in (np.uint32, np.uint64) or out.ndim != 1 or not out.flags.c_contiguous:
        raise ValueError(
            f"masks are added to contiguous vectors of uint32 or uint64, not to {out.dtype} {out.shape}"
        )
    if out.nbytes > 16 * BLOCKS:
        raise ValueError(f"a vector of {out.nbytes} bytes; a stream has {16 * BLOCKS}")


def keystream_reference(key: bytes, size: int) -> bytes:
    """The first bytes of a stream, by another implementation; for tests.

    Args:
        key: 16 bytes of key and 12 of nonce.
        size: In bytes.
    """
    cipher = Cipher(algorithms.AES(key[:16]), modes.CTR(key[16:] + bytes(4)))
    return cipher.encryptor().update(bytes(size))
