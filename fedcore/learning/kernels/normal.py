"""Gaussian noise made on the device it is needed on, from ChaCha20 keyed by the operating system.

    number 16 b + j        r_j cos t_j     for j below 8
    number 16 b + 8 + j    r_j sin t_j     r_j and t_j from words j and 8 + j of block b (Box and Muller)

As `fedcore.learning.private.noise` makes it on a CPU: 31 bits give the radius, and a word below 2^7 gets 63 bits more from a
stream of its own, so that |z| reaches 11. Logarithms are made in float64, roots, cosines and sines in float32. What that means
for a release, and why it is rounded to a grid, stands in that module.

Source: Box and Muller, "A note on the generation of random normal deviates", 1958; RFC 8439.
"""

from __future__ import annotations

import math
import secrets

import torch

from fedcore.errors import JobError
from fedcore.learning.kernels import chacha, dispatch

SMALL = 2**7
"""A radius from a smaller word is beyond 5.7 and gets more bits."""
AT_A_TIME = 2**16
"""Blocks that plain torch makes at a time."""
_LOW_31, _LOW_63 = 2**31 - 1, 2**63 - 1
_MORE = (1).to_bytes(12, "little")
"""Nonce of the stream that small words get more bits from."""


def standard_normal(count: int, device: torch.device | str, *, key: bytes | None = None) -> torch.Tensor:
    """Independent normal numbers of mean 0 and variance 1.

    Args:
        count: How many, 0 or more.
        device: Where they are made.
        key: 32 bytes that were never used before; from the operating system if not given, which is right for all but tests.

    Returns:
        float32, `[count]`; others at each call without a key.

    Raises:
        JobError: The key has another length.
    """
    if key is not None and len(key) != chacha.KEY:
        raise JobError(f"a key of {len(key)} bytes; ChaCha20 takes {chacha.KEY}")
    key = secrets.token_bytes(chacha.KEY) if key is None else key
    states = chacha.states([key + bytes(chacha.NONCE), key + _MORE], device)
    if count and dispatch.usable(states):
        return dispatch.guarded(
            "normal", lambda: _kernel(count, states), lambda: normal_plain(count, states), on=states
        )
    return normal_plain(count, states)


def normal_plain(count: int, states: torch.Tensor) -> torch.Tensor:
    """The same in plain torch, some blocks at a time.

    Args:
        count: How many.
        states: int32, `[2, 16]`: of the words, and of more bits for small ones.
    """
    blocks = -(-count // 16)
    drawn = torch.empty(blocks, 16, device=states.device)
    for start in range(0, blocks, AT_A_TIME):
        part = drawn[start : start + AT_A_TIME]
        words = chacha.words(states[0], start, len(part))
        radius = _radius(words[:, :8] & _LOW_31, states[1], start)
        # A word of 32 bits with its sign is an angle of half a turn to either side.
        angle = words[:, 8:].to(torch.float32).mul_(math.pi * 2.0**-31)
        torch.mul(torch.cos(angle), radius, out=part[:, :8])
        torch.mul(angle.sin_(), radius, out=part[:, 8:])
    return drawn.view(-1)[:count]


def floor(count: int) -> tuple[int, int]:
    """What no way to make them can do without.

    Args:
        count: How many.

    Returns:
        Bytes, each number written once; operations on words of 32 bits, those of the cipher.
    """
    return 4 * count, -(-count // 16) * chacha.OPERATIONS


def _radius(words: torch.Tensor, more: torch.Tensor, first: int) -> torch.Tensor:
    """sqrt(-2 log u), float32, u uniform: (word + a uniform number of its own) / 2^31, which matters for small words only."""
    exact = words.to(torch.float64).add_(0.5)
    for row, column in torch.nonzero(words < SMALL).tolist():
        low, high = chacha.words(more, first + row, 1)[0].view(8, 2)[column].tolist()
        extra = ((low & 0xFFFFFFFF) | (high << 32)) & _LOW_63
        exact[row, column] += (extra + 0.5) * 2.0**-63 - 0.5
    return exact.mul_(2.0**-31).log_().mul_(-2).to(torch.float32).sqrt_()


def _kernel(count: int, states: torch.Tensor) -> torch.Tensor:
    from fedcore.learning.kernels import triton_normal

    return triton_normal.normal(count, states)
