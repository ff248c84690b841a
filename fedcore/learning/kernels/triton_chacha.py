# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
"""The block function of ChaCha20 for Triton: one block in each lane, its sixteen words in as many registers."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _quarter(a, b, c, d):
    a = a + b
    d = d ^ a
    d = (d << 16) | (d >> 16)
    c = c + d
    b = b ^ c
    b = (b << 12) | (b >> 20)
    a = a + b
    d = d ^ a
    d = (d << 8) | (d >> 24)
    c = c + d
    b = b ^ c
    b = (b << 7) | (b >> 25)
    return a, b, c, d


@triton.jit
def word(states, row, i: tl.constexpr, like):
    """Word i of a stream's state, in every lane."""
    found = tl.load(states + row * 16 + i).to(tl.uint32, bitcast=True)
    return tl.zeros_like(like) + found


@triton.jit
def block(states, row, counter):
    """Blocks `counter` (uint32, `[lanes]`) of the stream of one row of `states` (int32, `[streams, 16]`): sixteen words."""
    x0, x1 = word(states, row, 0, counter), word(states, row, 1, counter)
    x2, x3 = word(states, row, 2, counter), word(states, row, 3, counter)
    x4, x5 = word(states, row, 4, counter), word(states, row, 5, counter)
    x6, x7 = word(states, row, 6, counter), word(states, row, 7, counter)
    x8, x9 = word(states, row, 8, counter), word(states, row, 9, counter)
    x10, x11 = word(states, row, 10, counter), word(states, row, 11, counter)
    x12, x13 = counter, word(states, row, 13, counter)
    x14, x15 = word(states, row, 14, counter), word(states, row, 15, counter)
    for _ in range(10):
        x0, x4, x8, x12 = _quarter(x0, x4, x8, x12)
        x1, x5, x9, x13 = _quarter(x1, x5, x9, x13)
        x2, x6, x10, x14 = _quarter(x2, x6, x10, x14)
        x3, x7, x11, x15 = _quarter(x3, x7, x11, x15)
        x0, x5, x10, x15 = _quarter(x0, x5, x10, x15)
        x1, x6, x11, x12 = _quarter(x1, x6, x11, x12)
        x2, x7, x8, x13 = _quarter(x2, x7, x8, x13)
        x3, x4, x9, x14 = _quarter(x3, x4, x9, x14)
    # The first state is loaded again: held over the rounds it would take as many registers as the state itself.
    x0, x1 = x0 + word(states, row, 0, counter), x1 + word(states, row, 1, counter)
    x2, x3 = x2 + word(states, row, 2, counter), x3 + word(states, row, 3, counter)
    x4, x5 = x4 + word(states, row, 4, counter), x5 + word(states, row, 5, counter)
    x6, x7 = x6 + word(states, row, 6, counter), x7 + word(states, row, 7, counter)
    x8, x9 = x8 + word(states, row, 8, counter), x9 + word(states, row, 9, counter)
    x10, x11 = x10 + word(states, row, 10, counter), x11 + word(states, row, 11, counter)
    x12, x13 = x12 + counter, x13 + word(states, row, 13, counter)
    x14, x15 = x14 + word(states, row, 14, counter), x15 + word(states, row, 15, counter)
    return x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11, x12, x13, x14, x15


@triton.jit
def eight_in_a_row(x0, x1, x2, x3, x4, x5, x6, x7):
    """`[lanes]` each, lane by lane behind one another: `[8 x lanes]`."""
    # Each join makes a last axis, so that the highest bit of a word's number is joined first.
    found = tl.join(tl.join(tl.join(x0, x4), tl.join(x2, x6)), tl.join(tl.join(x1, x5), tl.join(x3, x7)))
    return found.reshape(8 * x0.shape[0])


@triton.jit
def sixteen_in_a_row(x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11, x12, x13, x14, x15):
    """`[lanes]` each, lane by lane behind one another: `[16 x lanes]`."""
    even = tl.join(tl.join(tl.join(x0, x8), tl.join(x4, x12)), tl.join(tl.join(x2, x10), tl.join(x6, x14)))
    odd = tl.join(tl.join(tl.join(x1, x9), tl.join(x5, x13)), tl.join(tl.join(x3, x11), tl.join(x7, x15)))
    return tl.join(even, odd).reshape(16 * x0.shape[0])
