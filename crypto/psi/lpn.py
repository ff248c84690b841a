"""The code of primal LPN: each output is a combination of ten entries of a short secret, at public random places.

Over bits the entries are added. Over GF(2^128), or over GF(2^64) word by word, the j-th is multiplied by x^j first
(see `parameters.LPN` for why).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.kernels.aes import FIXED_KEY, fixed
from crypto.kernels.blocks import u64
from crypto.kernels.compiled import kernel
from crypto.kernels.gather import (
    combine_bits,
    combine_field,
    combine_field_pairs,
    combine_words,
    combine_words_pairs,
    reduce_above,
)

Blocks = npt.NDArray[np.uint64]
WEIGHT = 10
_PER_WORD = 3  # places of at most 21 bits in a word


@kernel(inline="always")
def _words(seed: Any, row: Any) -> Any:
    """256 public bits of a row: the fixed permutation of the seed plus a counter."""
    a, b = fixed(seed[0] ^ (u64(2) * row), seed[1])
    c, d = fixed(seed[0] ^ (u64(2) * row + u64(1)), seed[1])
    return a, b, c, d


@kernel
def add_bits(seed: Any, first: Any, secret: Any, out: Any) -> None:
    """`out[i] += sum_j secret[place_j(first + i)]`.

    Args:
        seed: Public, (2,) uint64.
        first: Row of the code that belongs to `out[0]`, uint64.
        secret: (k, 2) uint64, k a power of two of at most 2^21.
        out: (n, 2) uint64, changed in place.
    """
    m = u64(secret.shape[0] - 1)
    s, t = u64(21), u64(42)
    for i in range(out.shape[0]):
        a, b, c, d = _words(seed, first + u64(i))
        x0, x1 = combine_bits(
            secret, a & m, (a >> s) & m, (a >> t) & m, b & m, (b >> s) & m, (b >> t) & m,
            c & m, (c >> s) & m, (c >> t) & m, d & m,
        )  # fmt: skip
        out[i, 0] ^= x0
        out[i, 1] ^= x1


@kernel
def add_field(seed: Any, first: Any, secret: Any, out: Any) -> None:
    """`out[i] += sum_j x^j secret[place_j(first + i)]`, as `add_bits`."""
    m = u64(secret.shape[0] - 1)
    s, t = u64(21), u64(42)
    for i in range(out.shape[0]):
        a, b, c, d = _words(seed, first + u64(i))
        x0, x1, above = combine_field(
            secret, a & m, (a >> s) & m, (a >> t) & m, b & m, (b >> s) & m, (b >> t) & m,
            c & m, (c >> s) & m, (c >> t) & m, d & m,
        )  # fmt: skip
        out[i, 0] ^= reduce_above(x0, above)
        out[i, 1] ^= x1


@kernel
def add_field_pairs(seed: Any, first: Any, secret: Any, out: Any) -> None:
    """`add_field` for two vectors that lie side by side: `secret` (k, 4), `out` (n, 4)."""
    m = u64(secret.shape[0] - 1)
    s, t = u64(21), u64(42)
    for i in range(out.shape[0]):
        a, b, c, d = _words(seed, first + u64(i))
        x0, x1, y0, y1, above, over = combine_field_pairs(
            secret, a & m, (a >> s) & m, (a >> t) & m, b & m, (b >> s) & m, (b >> t) & m,
            c & m, (c >> s) & m, (c >> t) & m, d & m,
        )  # fmt: skip
        out[i, 0] ^= reduce_above(x0, above)
        out[i, 1] ^= x1
        out[i, 2] ^= reduce_above(y0, over)
        out[i, 3] ^= y1


@kernel
def add_words(seed: Any, first: Any, secret: Any, out: Any) -> None:
    """`add_field` over GF(2^64): each word of `secret` (k, 2) is an element, x a generator of GF(2^64)."""
    m = u64(secret.shape[0] - 1)
    s, t = u64(21), u64(42)
    for i in range(out.shape[0]):
        a, b, c, d = _words(seed, first + u64(i))
        x0, x1 = combine_words(
            secret, a & m, (a >> s) & m, (a >> t) & m, b & m, (b >> s) & m, (b >> t) & m,
            c & m, (c >> s) & m, (c >> t) & m, d & m,
        )  # fmt: skip
        out[i, 0] ^= x0
        out[i, 1] ^= x1


@kernel
def add_words_pairs(seed: Any, first: Any, secret: Any, out: Any) -> None:
    """`add_words` for two vectors that lie side by side: `secret` (k, 4), `out` (n, 4)."""
    m = u64(secret.shape[0] - 1)
    s, t = u64(21), u64(42)
    for i in range(out.shape[0]):
        a, b, c, d = _words(seed, first + u64(i))
        x0, x1, y0, y1 = combine_words_pairs(
            secret, a & m, (a >> s) & m, (a >> t) & m, b & m, (b >> s) & m, (b >> t) & m,
            c & m, (c >> s) & m, (c >> t) & m, d & m,
        )  # fmt: skip
        out[i, 0] ^= x0
        out[i, 1] ^= x1
        out[i, 2] ^= y0
        out[i, 3] ^= y1


def places_reference(seed: bytes, row: int, k: int) -> list[int]:
    """The ten places of a row, by plain Python over the library's AES."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    cipher = Cipher(algorithms.AES(FIXED_KEY), modes.ECB()).encryptor()
    words = []
    for number in (2 * row, 2 * row + 1):
        given = int.from_bytes(seed, "little") ^ number
        block = cipher.update(given.to_bytes(16, "little"))
        words += [int.from_bytes(block[at : at + 8], "little") for at in (0, 8)]
    return [words[j // _PER_WORD] >> (21 * (j % _PER_WORD)) & (k - 1) for j in range(WEIGHT)]


def public_seed(seed: bytes) -> Blocks:
    """The code's public seed, 16 bytes, as the kernels take it."""
    return np.frombuffer(seed, dtype="<u8").copy()
