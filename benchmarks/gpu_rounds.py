"""Quarter rounds of ChaCha20 and nothing else, in Triton: how many of its operations a device does in a second."""

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
def _word(at, k: tl.constexpr):
    return (at * (2 * k + 1) + 0x61707865 * (k + 1)).to(tl.uint32)


@triton.jit
def rounds_only(out, ROUNDS: tl.constexpr, BLOCK: tl.constexpr):
    """Four quarter rounds on the columns of a state, `ROUNDS` times; the exclusive or of its words is written.

    Args:
        out: int32, `[programs x BLOCK]`.
        ROUNDS: Of four quarter rounds.
    """
    at = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    a0, a1, a2, a3 = _word(at, 0), _word(at, 1), _word(at, 2), _word(at, 3)
    b0, b1, b2, b3 = _word(at, 4), _word(at, 5), _word(at, 6), _word(at, 7)
    c0, c1, c2, c3 = _word(at, 8), _word(at, 9), _word(at, 10), _word(at, 11)
    d0, d1, d2, d3 = _word(at, 12), _word(at, 13), _word(at, 14), _word(at, 15)
    for _ in range(ROUNDS):
        a0, b0, c0, d0 = _quarter(a0, b0, c0, d0)
        a1, b1, c1, d1 = _quarter(a1, b1, c1, d1)
        a2, b2, c2, d2 = _quarter(a2, b2, c2, d2)
        a3, b3, c3, d3 = _quarter(a3, b3, c3, d3)
    total = a0 ^ a1 ^ a2 ^ a3 ^ b0 ^ b1 ^ b2 ^ b3 ^ c0 ^ c1 ^ c2 ^ c3 ^ d0 ^ d1 ^ d2 ^ d3
    tl.store(out + at, total.to(tl.int32, bitcast=True))
