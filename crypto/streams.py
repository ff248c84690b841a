"""The ciphers that masks and the randomness of rounding are drawn from, by the name that a job gives them.

    aes         AES-128 in counter mode, 28 bytes of key and nonce: fastest where the processor has it as an instruction
    chacha20    ChaCha20 of RFC 8439, 44 bytes: additions and rotations of 32 bits, which a GPU does as fast as it adds

Both are taken for pseudo-random generators; either gives the same words wherever it is worked out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from crypto.kernels import chacha, keystream

StreamCipher = Literal["aes", "chacha20"]
CIPHERS: tuple[StreamCipher, ...] = get_args(StreamCipher)
KEY_BYTES: dict[StreamCipher, int] = {"aes": 16 + keystream.NONCE, "chacha20": chacha.BYTES}
"""Bytes of key and nonce."""

Words = npt.NDArray[Any]


class AddStreams(Protocol):
    """Adds streams to a vector in place of this package, on another device.

    Args:
        keys: Of each stream, key and nonce of one cipher. Secret.
        minus: Which of them to take away instead, (m,).
        vector: uint32 or uint64, (n,), contiguous; changed in place.
    """

    def __call__(self, keys: Sequence[bytes], minus: npt.NDArray[np.bool_], vector: Words, /) -> None:
        """Add them."""


def streams(cipher: StreamCipher, keys: Sequence[bytes]) -> keystream.Streams | chacha.Streams:
    """Streams of some keys, ready to be added to vectors.

    Args:
        cipher: Of all of them.
        keys: Key and nonce of each, `KEY_BYTES` long. Secret.

    Raises:
        ValueError: The cipher is none, or a key has another length.
    """
    check_cipher(cipher)
    return keystream.Streams(list(keys)) if cipher == "aes" else chacha.Streams(list(keys))


def add_streams(
    cipher: StreamCipher,
    keys: Sequence[bytes],
    minus: npt.NDArray[np.bool_],
    vector: Words,
    *,
    threads: int = 1,
    add: AddStreams | None = None,
) -> None:
    """Add streams to a vector, here or by what another device brings.

    Args:
        cipher: Of all of them.
        keys, minus, vector: As in `AddStreams`.
        threads: That work on parts of the vector at once, if it is done here.
        add: Does it instead.
    """
    if add is None:
        streams(cipher, keys).add(vector, minus, threads=threads)
    else:
        add(keys, minus, vector)


def check_cipher(cipher: str) -> None:
    """Refuse what is no cipher.

    Raises:
        ValueError: It is none.
    """
    if cipher not in CIPHERS:
        raise ValueError(f"cipher is {cipher!r}; allowed: {', '.join(CIPHERS)}")
