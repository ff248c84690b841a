"""ChaCha20 on the device that values are on: the stream of RFC 8439, word for word that of `crypto.kernels.chacha`.

Word i of a stream follows from key, nonce and i alone, so that any part of a stream can be made anywhere: block i // 16 of
64 bytes, its words least significant byte first. Of all that a GPU does, additions, exclusive ors and rotations of 32 bits are
what it does most of; a cipher that looks up tables or needs AES instructions is slow there.

    words(states, first, blocks)    in plain torch: int32, whose sums wrap around as those of uint32 do
    triton_chacha                   the same for Triton
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fedcore.errors import JobError

KEY, NONCE = 32, 12
BYTES = KEY + NONCE
"""Of a key and a nonce."""
WORDS = 16
"""Of a block, 32 bits each."""
MOST_BLOCKS = 2**32
"""Of a stream: the counter is one word, and would begin again."""
OPERATIONS = 80 * 12 + WORDS
"""On words of 32 bits in a block: quarter rounds of four additions, exclusive ors and rotations; the first state added."""
_CONSTANTS = (0x61707865, 0x3320646E, 0x79622D32, 0x6B206574)
_TURNS = (16, 12, 8, 7)


def states(keys: Sequence[bytes], device: torch.device | str = "cpu") -> torch.Tensor:
    """What the first block of each stream is made from.

    Args:
        keys: 32 bytes of key and 12 of nonce each. Secret, and so is what is returned.
        device: Where it is wanted.

    Returns:
        int32, `[streams, 16]`, counters zero.

    Raises:
        JobError: A key has another length.
    """
    for each in keys:
        if len(each) != BYTES:
            raise JobError(f"a stream of ChaCha20 takes {BYTES} bytes of key and nonce, not {len(each)}")
    found = np.zeros((len(keys), WORDS), dtype=np.uint32)
    raw = np.frombuffer(b"".join(keys), dtype="<u4").reshape(len(keys), BYTES // 4)
    found[:, :4], found[:, 4:12], found[:, 13:] = _CONSTANTS, raw[:, :8], raw[:, 8:]
    return torch.from_numpy(found.view(np.int32)).to(device)


def words(state: torch.Tensor, first: int, blocks: int) -> torch.Tensor:
    """Blocks of one stream, in plain torch.

    Args:
        state: int32, `[16]`, of `states`.
        first: Block to begin with, 0 to 2^32 - 1.
        blocks: How many, 0 or more.

    Returns:
        int32, `[blocks, 16]`, on the device of `state`.
    """
    start = state[:, None].expand(WORDS, blocks).clone()
    # Counters from 2^31 on wrap around to negative numbers, which have the same bits.
    start[12] = torch.arange(first, first + blocks, device=state.device).to(torch.int32)
    a, b, c, d = start.view(4, 4, blocks).unbind()
    for _ in range(10):
        a, b, c, d = _quarters(a, b, c, d)
        a, b, c, d = _quarters(a, b.roll(-1, 0), c.roll(-2, 0), d.roll(-3, 0))
        b, c, d = b.roll(1, 0), c.roll(2, 0), d.roll(3, 0)
    return torch.cat([a, b, c, d]).add_(start).T.contiguous()


def floor(blocks: int) -> tuple[int, int]:
    """What no way to make blocks can do without.

    Args:
        blocks: How many.

    Returns:
        Bytes, if they are written; operations on words of 32 bits, a rotation being one.
    """
    return 4 * WORDS * blocks, OPERATIONS * blocks


def _quarters(
    a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Four quarter rounds side by side, `[4, blocks]` each."""
    a = a + b
    d = _turned(d ^ a, _TURNS[0])
    c = c + d
    b = _turned(b ^ c, _TURNS[1])
    a = a + b
    d = _turned(d ^ a, _TURNS[2])
    c = c + d
    b = _turned(b ^ c, _TURNS[3])
    return a, b, c, d


def _turned(value: torch.Tensor, bits: int) -> torch.Tensor:
    """Rotated to the left; a shift of int32 to the right draws the sign in, which is cut off."""
    return (value << bits) | ((value >> (32 - bits)) & ((1 << bits) - 1))
