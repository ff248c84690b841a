"""BLAKE2s (RFC 7693) of many short messages, sixteen at a time.

A vector holds the same word of sixteen messages, one a lane. The vectors are written out in LLVM's own terms, so
that they do not hang on what a compiler finds out by itself: a processor with wide registers takes a vector in
one instruction, any other in several, and the bytes are the same.

Source: RFC 7693, sections 2 and 3; lanes of one length run together, a shorter one is masked once it is done.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.kernels.blocks import u64
from crypto.kernels.compiled import intrinsic, kernel, types
from crypto.kernels.unaligned import copy, pointer, store64

LANES = 16
BLOCK = 64  # bytes

_IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
_SIGMA = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
    (14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3),
    (11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4),
    (7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8),
    (9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13),
    (2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9),
    (12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11),
    (13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10),
    (6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5),
    (10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0),
)
_QUARTERS = (
    (0, 4, 8, 12),
    (1, 5, 9, 13),
    (2, 6, 10, 14),
    (3, 7, 11, 15),
    (0, 5, 10, 15),
    (1, 6, 11, 12),
    (2, 7, 8, 13),
    (3, 4, 9, 14),
)

# Rows of the lanes' state behind the eight words of the chain: bytes so far, all ones in a message's last block,
# all ones while a message is not done.
_COUNT, _LAST, _ACTIVE = 8, 9, 10
_u32 = np.uint32


def start(digest_size: int, person: bytes) -> npt.NDArray[np.uint32]:
    """The chain before the first block, (8,) uint32, of an unkeyed hash.

    Args:
        digest_size: Bytes, 1 to 32.
        person: At most 8 bytes, filled up with zeros: which use of the hash this is.

    Raises:
        ValueError: A size that BLAKE2s does not have.
    """
    if not 1 <= digest_size <= 32:
        raise ValueError(f"a BLAKE2s digest has 1 to 32 bytes, not {digest_size}")
    if len(person) > 8:
        raise ValueError(f"a BLAKE2s personalisation has at most 8 bytes, this one {len(person)}")
    chain = np.array(_IV, dtype=np.uint32)
    chain[0] ^= _u32(0x01010000 | digest_size)
    chain[6:8] ^= np.frombuffer(person.ljust(8, b"\0"), dtype="<u4")
    return chain


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """A square of words, mirrored by swapping ever larger quarters."""
    from llvmlite import ir

    kind = ir.VectorType(ir.IntType(32), LANES)
    for step in (1, 2, 4, 8):
        upper = ir.Constant(kind, [j if not j & step else LANES + j - step for j in range(LANES)])
        lower = ir.Constant(kind, [j + step if not j & step else LANES + j for j in range(LANES)])
        for i in range(LANES):
            if not i & step:
                a, b = rows[i], rows[i + step]
                rows[i] = builder.shuffle_vector(a, b, upper)
                rows[i + step] = builder.shuffle_vector(a, b, lower)
    return rows


@intrinsic
def _compress(typing: Any, state: Any, stage: Any) -> Any:
    """One block of each lane: RFC 7693, section 3.2. `state` is (11, 16) uint32; `stage` holds a block a lane."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        kind = ir.VectorType(ir.IntType(32), LANES)
        index = ir.IntType(64)
        chain_at = pointer(context, builder, signature.args[0], arguments[0], kind)
        stage_at = pointer(context, builder, signature.args[1], arguments[1], kind)

        def at(base: Any, row: int) -> Any:
            return builder.gep(base, [ir.Constant(index, row)])

        def splat(value: int) -> Any:
            return ir.Constant(kind, [value] * LANES)

        def turned(value: Any, by: int) -> Any:
            return builder.or_(builder.lshr(value, splat(by)), builder.shl(value, splat(32 - by)))

        message = _transposed(builder, [builder.load(at(stage_at, i), align=1) for i in range(LANES)])
        state_rows = [builder.load(at(chain_at, i), align=4) for i in range(11)]
        chain = state_rows[:8]
        v = [*chain, *(splat(word) for word in _IV)]
        v[12] = builder.xor(v[12], state_rows[_COUNT])
        v[14] = builder.xor(v[14], state_rows[_LAST])
        for order in _SIGMA:
            for number, (a, b, c, d) in enumerate(_QUARTERS):
                v[a] = builder.add(builder.add(v[a], v[b]), message[order[2 * number]])
                v[d] = turned(builder.xor(v[d], v[a]), 16)
                v[c] = builder.add(v[c], v[d])
                v[b] = turned(builder.xor(v[b], v[c]), 12)
                v[a] = builder.add(builder.add(v[a], v[b]), message[order[2 * number + 1]])
                v[d] = turned(builder.xor(v[d], v[a]), 8)
                v[c] = builder.add(v[c], v[d])
                v[b] = turned(builder.xor(v[b], v[c]), 7)
        for i in range(8):
            change = builder.and_(builder.xor(v[i], v[i + 8]), state_rows[_ACTIVE])
            builder.store(builder.xor(chain[i], change), at(chain_at, i), align=4)
        return context.get_dummy_value()

    return types.void(state, stage), code


def hash_spans(chain: Any, head: Any, data: Any, starts: Any, ends: Any, out: Any) -> None:
    """`out[i]` is the hash of the i-th message, cut to 16 bytes, in two little-endian words.

    A message is `data[starts[i]:ends[i]]`; with `head`, it is the two bytes of `head`, the length of that span in
    four bytes (both little-endian), and the span.

    Args:
        chain: From `start`, (8,) uint32.
        head: int64, 0 to 65535, or -1 for none.
        data: uint8, not written to.
        starts, ends: (n,) int64, `0 <= starts <= ends <= len(data)`, spans below 2^32 - 64 bytes. Not checked.
        out: (n, 2) uint64.
    """
    stage, state = np.zeros(LANES * BLOCK + 8, dtype=np.uint8), np.empty((11, LANES), dtype=np.uint32)
    _hash_spans(chain, head, data, starts, ends, stage, state, out)


@kernel
def _hash_spans(
    chain: Any, head: Any, data: Any, starts: Any, ends: Any, stage: Any, state: Any, out: Any
) -> None:
    """`hash_spans` with room for a block of each lane, and for the lanes' state."""
    before = 6 if head >= 0 else 0
    n = starts.shape[0]
    for group in range(0, n, LANES):
        lanes = min(LANES, n - group)
        longest = 0
        for lane in range(LANES):
            for i in range(8):
                state[i, lane] = chain[i]
            if lane < lanes:
                longest = max(longest, ends[group + lane] - starts[group + lane] + before)
        for block in range(max(1, (longest + BLOCK - 1) // BLOCK)):
            for lane in range(lanes):
                base = lane * BLOCK
                first = starts[group + lane]
                size = ends[group + lane] - first
                whole = size + before
                done = block * BLOCK
                state[_COUNT, lane] = _u32(min(whole, done + BLOCK))
                state[_LAST, lane] = _u32(0xFFFFFFFF) if whole <= done + BLOCK else _u32(0)
                state[_ACTIVE, lane] = _u32(0xFFFFFFFF) if whole > done or block == 0 else _u32(0)
                for i in range(8):
                    store64(stage, base + 8 * i, u64(0))
                if block == 0:
                    if before:
                        store64(stage, base, u64(head) | u64(size) << u64(16))
                    copy(stage, base + before, data, first, min(size, BLOCK - before))
                elif whole > done:
                    copy(stage, base, data, first + done - before, min(whole - done, BLOCK))
            _compress(state, stage)
        for lane in range(lanes):
            out[group + lane, 0] = u64(state[0, lane]) | u64(state[1, lane]) << u64(32)
            out[group + lane, 1] = u64(state[2, lane]) | u64(state[3, lane]) << u64(32)
