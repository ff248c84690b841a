"""The code of primal LPN: each output is a combination of ten entries of a short secret, at public random places.

Over bits the entries are added. Over GF(2^128) the j-th is multiplied by x^j first (see `parameters.LPN`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.kernels.aes import encrypt, expand_key
from crypto.kernels.blocks import gf_double, u64
from crypto.kernels.compiled import kernel

Blocks = npt.NDArray[np.uint64]
WEIGHT = 10
_PER_WORD = 3  # places of at most 21 bits in a word


@kernel(inline="always")
def _places(keys: Any, row: Any, mask: Any, places: Any) -> None:
    """Ten places of a row, from two blocks of a generator with a public seed."""
    a, b = encrypt(keys, u64(2) * row, u64(0))
    c, d = encrypt(keys, u64(2) * row + u64(1), u64(0))
    places[0] = a & mask
    places[1] = (a >> u64(21)) & mask
    places[2] = (a >> u64(42)) & mask
    places[3] = b & mask
    places[4] = (b >> u64(21)) & mask
    places[5] = (b >> u64(42)) & mask
    places[6] = c & mask
    places[7] = (c >> u64(21)) & mask
    places[8] = (c >> u64(42)) & mask
    places[9] = d & mask


@kernel
def add_bits(keys: Any, first: Any, secret: Any, out: Any) -> None:
    """`out[i] += sum_j secret[place_j(first + i)]`.

    Args:
        keys: Round keys of the public seed.
        first: Row of the code that belongs to `out[0]`, uint64.
        secret: (k, 2) uint64, k a power of two of at most 2^21.
        out: (n, 2) uint64, changed in place.
    """
    mask = u64(secret.shape[0] - 1)
    places = np.empty(10, np.uint64)
    for i in range(out.shape[0]):
        _places(keys, first + u64(i), mask, places)
        x0 = out[i, 0]
        x1 = out[i, 1]
        for j in range(10):
            p = places[j]
            x0 ^= secret[p, 0]
            x1 ^= secret[p, 1]
        out[i, 0] = x0
        out[i, 1] = x1


@kernel
def add_field(keys: Any, first: Any, secret: Any, out: Any) -> None:
    """`out[i] += sum_j x^j secret[place_j(first + i)]`, as `add_bits`."""
    mask = u64(secret.shape[0] - 1)
    places = np.empty(10, np.uint64)
    for i in range(out.shape[0]):
        _places(keys, first + u64(i), mask, places)
        p = places[9]
        x0 = secret[p, 0]
        x1 = secret[p, 1]
        for j in range(8, -1, -1):
            p = places[j]
            x0, x1 = gf_double(x0, x1)
            x0 ^= secret[p, 0]
            x1 ^= secret[p, 1]
        out[i, 0] ^= x0
        out[i, 1] ^= x1


@kernel
def add_field_pairs(keys: Any, first: Any, secret: Any, out: Any) -> None:
    """`add_field` for two vectors that lie side by side: `secret` (k, 4), `out` (n, 4)."""
    mask = u64(secret.shape[0] - 1)
    places = np.empty(10, np.uint64)
    for i in range(out.shape[0]):
        _places(keys, first + u64(i), mask, places)
        p = places[9]
        x0 = secret[p, 0]
        x1 = secret[p, 1]
        y0 = secret[p, 2]
        y1 = secret[p, 3]
        for j in range(8, -1, -1):
            p = places[j]
            x0, x1 = gf_double(x0, x1)
            y0, y1 = gf_double(y0, y1)
            x0 ^= secret[p, 0]
            x1 ^= secret[p, 1]
            y0 ^= secret[p, 2]
            y1 ^= secret[p, 3]
        out[i, 0] ^= x0
        out[i, 1] ^= x1
        out[i, 2] ^= y0
        out[i, 3] ^= y1


def places_reference(seed: bytes, row: int, k: int) -> list[int]:
    """The ten places of a row, by plain Python over the library's AES."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    cipher = Cipher(algorithms.AES(seed), modes.ECB()).encryptor()
    words = []
    for number in (2 * row, 2 * row + 1):
        block = cipher.update(number.to_bytes(8, "little") + bytes(8))
        words += [int.from_bytes(block[at : at + 8], "little") for at in (0, 8)]
    return [words[j // _PER_WORD] >> (21 * (j % _PER_WORD)) & (k - 1) for j in range(WEIGHT)]


def public_keys(seed: bytes) -> Blocks:
    """Round keys of the code's public seed, 16 bytes."""
    return expand_key(seed)
