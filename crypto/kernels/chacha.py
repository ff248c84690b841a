"""ChaCha20 added to or taken from vectors of words: the masks of secure aggregation where a GPU works beside the CPU.

The stream is that of RFC 8439, section 2.4: blocks of 64 bytes of a key of 32 bytes and a nonce of 12, the counter from
zero. Element i of a vector takes its bytes from `i * itemsize`, least significant first, so that each word follows from
key, nonce and its place alone. A stream is 2^32 blocks at most: 256 GB.

Blocks are worked on side by side, one in each lane of a vector register: additions, exclusive ors and rotations of 32
bits are all there is, and any processor's vectors have them. AES-128 in counter mode (`keystream`) is faster where the
processor has it as an instruction; this one where it has not, as on a GPU.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from crypto.kernels import stored
from crypto.kernels.blocks import u64
from crypto.kernels.compiled import intrinsic, kernel, native, types
from crypto.kernels.keystream import BLOCKS, NONCE, PIECE, check_words
from crypto.kernels.unaligned import pointer

Words = npt.NDArray[Any]

KEY = 32
BYTES = KEY + NONCE
"""Of a key and a nonce."""
BLOCK = 64
WORDS = 16
"""Of a state, 32 bits each."""
CONSTANTS = (0x61707865, 0x3320646E, 0x79622D32, 0x6B206574)
"""The first four words of a state, "expand 32-byte k"."""
QUARTERS = (
    *((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)),
    *((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)),
)
"""Words that the eight quarter rounds of a double round work on: columns, then diagonals."""
TURNS = (16, 12, 8, 7)
"""Bits that the four steps of a quarter round rotate by."""
DOUBLE_ROUNDS = 10


def _lanes() -> int:
    """Blocks that are worked on at once: as many as words of 32 bits fit into a register."""
    told = stored.processor()
    if told is None or not native():
        return 4
    return 16 if told.has("avx512f") else 8 if told.has("avx2") else 4


LANES = _lanes()
STRIPE = BLOCK * LANES
"""Bytes of the blocks that are made at once."""


@intrinsic
def _stripe(typing: Any, out: Any, at: Any, states: Any, row: Any, counter: Any, minus: Any) -> Any:
    """Add `LANES` blocks of stream `row` from block `counter` on to `out`, from element `at` on."""
    element = 32 if out.dtype.bitwidth == 32 else 64

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        i32, i64 = ir.IntType(32), ir.IntType(64)
        lanes = ir.VectorType(i32, LANES)

        def splat(value: Any) -> Any:
            one = ir.Constant(ir.VectorType(value.type, 1), [ir.Undefined])
            one = builder.insert_element(one, value, ir.Constant(i32, 0))
            return builder.shuffle_vector(one, one, ir.Constant(lanes, [0] * LANES))

        def turned(value: Any, bits: int) -> Any:
            name = f"llvm.fshl.v{LANES}i32"
            kind = ir.FunctionType(lanes, [lanes] * 3)
            known = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
            return builder.call(known, [value, value, ir.Constant(lanes, [bits] * LANES)])

        def mixed(one: Any, other: Any, order: list[int]) -> Any:
            return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(i32, len(order)), order))

        out, at, states, row, counter, minus = arguments
        words = pointer(context, builder, signature.args[2], states, i32)
        first = builder.mul(row, ir.Constant(row.type, WORDS))
        start = [
            splat(builder.load(builder.gep(words, [builder.add(first, ir.Constant(row.type, i))])))
            for i in range(WORDS)
        ]
        blocks = splat(builder.trunc(counter, i32))
        start[12] = builder.add(blocks, ir.Constant(lanes, list(range(LANES))))
        state = list(start)
        for _ in range(DOUBLE_ROUNDS):
            for a, b, c, d in QUARTERS:
                for (one, two, three), bits in zip(((a, b, d), (c, d, b)) * 2, TURNS, strict=True):
                    state[one] = builder.add(state[one], state[two])
                    state[three] = turned(builder.xor(state[three], state[one]), bits)
        state = [builder.add(one, two) for one, two in zip(state, start, strict=True)]

        # From a register for each word of a state to registers that hold a block in a row: four words of four blocks
        # at a time inside each quarter of 128 bits, then these quarters between registers.
        def inside(one: Any, other: Any, size: int, high: bool) -> Any:
            order = []
            for quarter in range(0, LANES, 4):
                for i in range(0, 2, size):
                    at = quarter + i + (2 if high else 0)
                    order += [at + j for j in range(size)] + [LANES + at + j for j in range(size)]
            return mixed(one, other, order)

        groups = LANES // 4
        rows: dict[tuple[int, int], Any] = {}
        for quad in range(4):
            a, b, c, d = state[4 * quad : 4 * quad + 4]
            for half in (False, True):
                left, right = inside(a, b, 1, half), inside(c, d, 1, half)
                rows[quad, 2 * half] = inside(left, right, 2, False)
                rows[quad, 2 * half + 1] = inside(left, right, 2, True)
        quarters = [list(range(4 * g, 4 * g + 4)) for g in range(2 * groups)]
        for base in range(0, 4, groups):
            for k in range(4):
                for apart in (1, 2):
                    for g in range(groups):
                        if apart >= groups or g & apart:
                            continue
                        one, other = rows[base + g, k], rows[base + g + apart, k]
                        low: list[int] = []
                        high: list[int] = []
                        for lane in range(groups):
                            low += quarters[groups + lane - apart if lane & apart else lane]
                            high += quarters[groups + lane if lane & apart else lane + apart]
                        rows[base + g, k] = mixed(one, other, low)
                        rows[base + g + apart, k] = mixed(one, other, high)

        target = ir.VectorType(ir.IntType(element), 32 * LANES // element)
        wide = ir.VectorType(i64, 1)
        sign = builder.insert_element(
            ir.Constant(wide, [ir.Undefined]), builder.sub(ir.Constant(i64, 0), minus), ir.Constant(i32, 0)
        )
        order = ir.Constant(ir.VectorType(i32, target.count), [0] * target.count)
        sign = builder.shuffle_vector(sign, sign, order)
        if element == 32:
            sign = builder.trunc(sign, target)
        data = builder.gep(pointer(context, builder, signature.args[0], out, ir.IntType(element)), [at])
        for (number, k), made in rows.items():
            # Row g of a base holds quarters base to base + groups of block 4 g + k.
            base, g = number // groups * groups, number % groups
            place = ((4 * g + k) * WORDS + 4 * base) * 32 // element
            there = builder.bitcast(builder.gep(data, [ir.Constant(i64, place)]), target.as_pointer())
            # x + (s ^ -1) - -1 is x - s, and x + (s ^ 0) - 0 is x + s.
            signed = builder.sub(builder.xor(builder.bitcast(made, target), sign), sign)
            builder.store(builder.add(builder.load(there, align=4), signed), there, align=4)
        return context.get_dummy_value()

    return types.void(out, types.int64, states, types.int64, types.uint64, types.uint64), code


@kernel(inline="always")
def whole_stripes(states: Any, row: Any, counter: Any, minus: Any, out: Any, at: Any, end: Any) -> Any:
    """Add as many whole stripes of a stream as fit, from block `counter` on, to `out[at:end]`; where they end."""
    step = LANES * (16 if out.itemsize == 4 else 8)
    while end - at >= step:
        _stripe(out, at, states, row, counter, u64(minus))
        counter += u64(LANES)
        at += step
    return at


@kernel
def _add(states: Any, minus: Any, out: Any, first: Any, behind: Any, before: Any, room: Any) -> None:
    """Add streams to `out[first:behind]`.

    Args:
        states: (m, 16) uint32, with a counter of zero.
        minus: (m,) bool.
        out: (n,) uint32 or uint64.
        first: Begins a block.
        before: Blocks of the streams before those of `out[0]`.
        room: One stripe, of the type of `out`; overwritten.
    """
    # No division and no step that could be zero: a kernel that may raise cannot be stored.
    shift = 4 if out.itemsize == 4 else 3
    piece = PIECE >> (6 - shift)
    at = first
    while at < behind:
        end = min(at + piece, behind)
        for row in range(states.shape[0]):
            done = whole_stripes(states, row, u64(before + (at >> shift)), minus[row], out, at, end)
            if done < end:
                room[:] = 0
                _stripe(room, 0, states, row, u64(before + (done >> shift)), u64(minus[row]))
                for i in range(end - done):
                    out[done + i] += room[i]
        at = end


class Streams:
    """Streams of some keys, ready to be added to vectors; as `keystream.Streams`, of another cipher.

    Args:
        keys: 32 bytes of key and 12 of nonce each. Secret.

    Raises:
        ValueError: One has another length.
    """

    def __init__(self, keys: list[bytes]) -> None:
        for each in keys:
            if len(each) != BYTES:
                raise ValueError(f"a stream takes {BYTES} bytes of key and nonce, not {len(each)}")
        self.states = np.zeros((len(keys), WORDS), dtype=np.uint32)
        self.states[:, :4] = CONSTANTS
        raw = np.frombuffer(b"".join(keys), dtype="<u4").reshape(len(keys), BYTES // 4)
        self.states[:, 4:12], self.states[:, 13:] = raw[:, :8], raw[:, 8:]

    def __repr__(self) -> str:
        return f"Streams({len(self.states)}, keys=<hidden>)"

    def add(
        self, out: Words, minus: npt.NDArray[np.bool_] | None = None, *, threads: int = 1, first: int = 0
    ) -> None:
        """Add all streams to a vector, modulo two to the bits of its words.

        Args:
            out: uint32 or uint64, (n,), contiguous; changed in place.
            minus: Which streams to take from it instead; none by default.
            threads: That work on parts of the vector at once.
            first: Place in the streams of the vector's first element, a multiple of 64 bytes.

        Raises:
            ValueError: The vector has another form, or is longer than a stream.
        """
        check_words(out)
        per_block = BLOCK // out.itemsize
        if first < 0 or first % per_block:
            raise ValueError(
                f"a vector from element {first} of a stream; allowed are multiples of {per_block}"
            )
        signs = np.zeros(len(self.states), dtype=np.bool_) if minus is None else np.asarray(minus, np.bool_)
        if signs.shape != (len(self.states),):
            raise ValueError(f"signs of {signs.shape} for {len(self.states)} streams")
        if (first + len(out)) * out.itemsize > BLOCK * BLOCKS:
            raise ValueError(f"{len(out)} words from element {first} on pass the end of a stream")
        before, part = first // per_block, -(-len(out) // (max(threads, 1) * PIECE)) * PIECE

        def work(at: int, end: int) -> None:
            _add(self.states, signs, out, at, end, before, np.empty(STRIPE // out.itemsize, out.dtype))

        if part >= len(out):
            work(0, len(out))
            return
        with ThreadPoolExecutor(threads) as pool:
            parts = [pool.submit(work, at, min(at + part, len(out))) for at in range(0, len(out), part)]
            for each in parts:
                each.result()


def keystream_reference(key: bytes, size: int, block: int = 0) -> bytes:
    """Bytes of a stream, by another implementation; for tests.

    Args:
        key: 32 bytes of key and 12 of nonce.
        size: In bytes.
        block: Where they begin.
    """
    start = block.to_bytes(4, "little") + key[KEY:]
    return Cipher(algorithms.ChaCha20(key[:KEY], start), None).encryptor().update(bytes(size))
