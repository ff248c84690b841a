"""Joint keys, entropy that repeats, and sums, for the tests of this folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.rlwe import decryption, encryption, keys, layout
from crypto.rlwe.ring import Entropy, system

SEED = b"a public seed of a test"


class Stream:
    """Bytes that a person can make again; it remembers what it gave."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.given: list[bytes] = []

    def __call__(self, count: int) -> bytes:
        made = hashlib.shake_128(f"{self.name} {len(self.given)}".encode()).digest(count)
        self.given.append(made)
        return made


def joint(
    holders: int, threshold: int, contributors: int, seed: bytes = SEED, entropy: Entropy = system
) -> tuple[keys.PublicKey, list[keys.SecretShare]]:
    """A joint key and what each holder keeps."""
    setup = keys.Setup(seed, holders, threshold, contributors)
    made = [keys.new_share(setup, index, entropy) for index in range(1, holders + 1)]
    parts = [part for _, part in made]
    key = keys.public_key(setup, parts, {part.index: keys.commitment(part) for part in parts})
    shares = [share for share, _ in made]
    if setup.shared:
        dealt = [keys.deal(share, entropy) for share in shares]
        shares = [keys.combine(setup, j + 1, [each[j] for each in dealt]) for j in range(holders)]
    return key, shares


def vectors(plan: layout.Layout, count: int, seed: int = 0) -> list[npt.NDArray[Any]]:
    """Random vectors of participants, the ends of the range among them."""
    generator = np.random.default_rng(seed)
    least, kind = (-plan.limit, np.int64) if plan.signed else (0, np.uint64)
    made = [
        generator.integers(least, plan.limit, plan.count, dtype=kind, endpoint=True) for _ in range(count)
    ]
    for vector in made:
        vector[0], vector[-1] = least, plan.limit
    return made


def opened(
    context: encryption.Context,
    total: encryption.Ciphertext,
    shares: Sequence[keys.SecretShare],
    active: Sequence[int],
) -> npt.NDArray[Any]:
    """What the coordinator gets from these holders."""
    asked = decryption.request(context, decryption.key_part(total), active)
    answers = [
        decryption.partial_decryption(shares[i - 1], context, asked, decryption.Answers(), least=1)
        for i in active
    ]
    return decryption.decrypt(context, total, asked, answers)
