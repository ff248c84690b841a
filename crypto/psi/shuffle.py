"""A secret order: Fisher and Yates' shuffle driven by a cryptographic generator.

Whoever learns which places of a shuffled list match must learn nothing of the list's order before. A shuffle from
a generator with a small seed can be searched through once some matches are known; this one has a seed of 128
bits, and its draws are exactly uniform, by rejection.

Assumption: AES-128 in counter mode is a pseudo-random generator. Cost: one draw of 64 bits and one exchange of two
random places for each element.

Source: Knuth, The Art of Computer Programming, volume 2, section 3.4.2, algorithm P.
"""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.kernels.aes import Generator, encrypt, expand_key
from crypto.kernels.blocks import u64
from crypto.kernels.compiled import kernel

Order = npt.NDArray[np.int64]


@kernel
def _shuffle(keys: Any, order: Any) -> None:
    """Shuffle `order`, (n,) int64, in place; draws are the words of the generator, low before high."""
    counter = u64(0)
    spare = u64(0)
    have = False
    for last in range(order.shape[0] - 1, 0, -1):
        bound = u64(last + 1)
        # Words below 2^64 mod bound would make some residues more likely than others.
        least = (u64(0) - bound) % bound
        while True:
            if have:
                word = spare
                have = False
            else:
                word, spare = encrypt(keys, counter, u64(0))
                counter += u64(1)
                have = True
            if word >= least:
                break
        pick = np.int64(word % bound)
        kept = order[last]
        order[last] = order[pick]
        order[pick] = kept


def new_seed() -> bytes:
    """A fresh secret seed of a permutation, 16 bytes."""
    return secrets.token_bytes(16)


def permutation(count: int, seed: bytes) -> Order:
    """A uniformly random order of 0 to count - 1, as its seed has it.

    Args:
        count: At least 0.
        seed: 16 bytes, secret, used once; from `new_seed`.

    Returns:
        (count,) int64.

    Raises:
        ValueError: The seed has another length.
    """
    order = np.arange(count, dtype=np.int64)
    _shuffle(expand_key(seed), order)
    return order


def permutation_reference(count: int, seed: bytes) -> list[int]:
    """`permutation` in plain Python."""
    generator = Generator(seed)
    order = list(range(count))
    words: list[int] = []
    for last in range(count - 1, 0, -1):
        bound = last + 1
        while True:
            if not words:
                words = [int(word) for word in generator.blocks(1)[0]]
            word = words.pop(0)
            if word >= 2**64 % bound:
                break
        pick = word % bound
        order[last], order[pick] = order[pick], order[last]
    return order
