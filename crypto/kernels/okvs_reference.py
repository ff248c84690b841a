"""The oblivious key-value store in plain Python: rows, reading, and whether a set has a store at all.

What the tests compare the kernels with. Integers below 2^128 stand for blocks.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from crypto.kernels.blocks import gf_mul_reference


def row(key: int, seed: bytes, bins: int, sparse: int) -> tuple[int, list[int], int]:
    """The bin of a key, its three sparse columns, and the coefficient h."""
    cipher = Cipher(algorithms.AES(seed), modes.ECB()).encryptor()
    made = int.from_bytes(cipher.update(key.to_bytes(16, "little")), "little")
    quarters = [made >> (32 * i) & 0xFFFFFFFF for i in range(4)]
    columns: list[int] = []
    for taken, quarter in enumerate((quarters[0], quarters[2], quarters[3])):
        free = [column for column in range(sparse) if column not in columns]
        columns.append(free[quarter * (sparse - taken) >> 32])
    low, high = made & (2**64 - 1), made >> 64
    h = low ^ ((high >> 16 | high << 48) & (2**64 - 1))
    return ((key >> 120) << 24 | quarters[1] >> 8) * bins >> 32, columns, h


def coefficients(key: int, seed: bytes, bins: int, sparse: int, dense: int) -> dict[int, int]:
    """The row of a key over the whole store: place to coefficient."""
    chosen, columns, h = row(key, seed, bins, sparse)
    first = chosen * (sparse + dense)
    out = {first + column: 1 for column in columns}
    power = 1
    for j in range(dense):
        power = gf_mul_reference(power, h)
        out[first + sparse + j] = power
    return out


def decode(key: int, store: list[int], seed: bytes, bins: int, sparse: int, dense: int) -> int:
    """What a store gives for a key."""
    total = 0
    for place, by in coefficients(key, seed, bins, sparse, dense).items():
        total ^= gf_mul_reference(store[place], by)
    return total


def rank(rows: list[dict[int, int]]) -> int:
    """How many of the rows are linearly independent, by elimination over GF(2^128)."""
    done: list[tuple[int, dict[int, int]]] = []
    for new in rows:
        left = dict(new)
        for pivot, old in done:
            by = left.get(pivot, 0)
            if by:
                for place, coefficient in old.items():
                    left[place] = left.get(place, 0) ^ gf_mul_reference(by, coefficient)
        pivots = [place for place, coefficient in left.items() if coefficient]
        if pivots:
            by = _inverse(left[pivots[0]])
            done.append((pivots[0], {place: gf_mul_reference(by, each) for place, each in left.items()}))
    return len(done)


def _inverse(a: int) -> int:
    power, result = a, 1
    for _ in range(127):
        power = gf_mul_reference(power, power)
        result = gf_mul_reference(result, power)
    return result
