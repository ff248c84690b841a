"""Sums of vectors under a joint key: every participant encrypts, the coordinator adds.

    participant j   t_j, e_j,k discrete Gaussian, fresh for every vector
                    payload    d_j,k = b_k t_j + T' e_j,k + m_j,k      k = 0, 1, ... of the vector
                    key part   (p u_j + T f_j + t_j,  a u_j + T g_j)    u_j uniform in -1, 0, 1
    coordinator     adds the vectors' payloads, and their key parts
    holders         open the sum of the key parts, and only that: S = sum t_j      (`decryption`)
                    where a holder may drop out meanwhile, t_j comes under several key parts, one for each try
    coordinator     sum_j d_j,k - b_k S = T' sum e_j,k + sum m_j,k

b_k are uniform elements of a public seed for each context (key, layout, round), so a vector costs one element
for each polynomial of numbers and not two, and one transform instead of three; what holders do depends on the
number of participants and not on the length of the vector. Integers lie in the coefficients below T' =
2^(width fields), noise above them: sums are exact.

Who learns what: the coordinator the sum, the sum of the one-time secrets t_j and of their errors, which are
chosen wide enough to be opened as sums (`parameters.hinted`); nobody a vector, as long as fewer than the
threshold of holders help. A vector that is left out of the sum stays closed: its t_j is never opened.

Assumption: RLWE, parties that follow the protocol. An active coordinator can claim any sum: see `decryption`.
A participant that goes beyond its limit spoils sums, which nobody notices; so does one that lies about its
numbers.

Cost: 13.25 / fields bytes for a number (an element is 54 kB), 109 kB for each key part.

Source: key part, Mouchet, Troncoso-Pastoriza, Bossuat and Hubaux, PETS 2021, eprint 2020/304, section 4, in
the form of BGV (Brakerski, Gentry, Vaikuntanathan, ITCS 2012). Payload under a one-time key whose sum is
opened: Bell, Gascon, Lepoint, Li, Meiklejohn, Raykova and Yun, "ACORN", USENIX Security 2023, eprint
2022/1461, section 3.2; the two layers together: Bell-Clark, Gascon, Li, Raykova and Schoppmann, "Willow",
CRYPTO 2025, eprint 2024/936.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.errors import ProtocolError
from crypto.kernels import ntt, rlwe_kernels
from crypto.kernels.aes import expand_key
from crypto.rlwe.keys import PublicKey
from crypto.rlwe.layout import Layout, words_of
from crypto.rlwe.parameters import PRIME_BITS, PRIMES, SIZE, WIDE_SIGMA, gaussian_table, ring
from crypto.rlwe.ring import (
    Element,
    Entropy,
    common_polynomial,
    error,
    factors,
    hashed,
    product,
    scaled,
    system,
    ternary,
    total,
    transformed,
    wide_secret,
)

_STEP = "rlwe sum"
MOST_OPENINGS = 8
RADIX = 2**64
"""A factor that is multiplied with goes to the kernels with this one."""


@dataclass(frozen=True)
class Context:
    """Which sum a message belongs to: nothing of another key, layout or round is added to it.

    Args:
        key: The joint key.
        plan: The layout of vectors.
        label: Of the round, never used twice with one key.
        openings: Tries at opening the sum that there are key parts for.
    """

    key: PublicKey
    plan: Layout
    label: bytes
    openings: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.openings <= MOST_OPENINGS:
            raise ValueError(f"{self.openings} openings; from 1 to {MOST_OPENINGS} are allowed")
        if self.plan.contributors > self.key.setup.contributors:
            raise ValueError(
                f"the layout is for {self.plan.contributors} participants, the key for "
                f"{self.key.setup.contributors} at most"
            )

    @property
    def digest(self) -> bytes:
        """16 bytes that stand for all of it."""
        plan = self.plan
        numbers = (plan.count, plan.limit, plan.contributors, plan.signed, plan.width, plan.fields)
        written = b"".join(int(number).to_bytes(8, "little") for number in numbers)
        return hashed("rlwe context", self.key.digest, written, self.label)

    def opening(self, number: int) -> bytes:
        """16 bytes that stand for one try at opening.

        Raises:
            ValueError: There is no key part for it.
        """
        if not 0 <= number < self.openings:
            raise ValueError(f"opening {number} of {self.openings}, which are counted from 0")
        return opening_digest(self.digest, number)


def opening_digest(context: bytes, number: int) -> bytes:
    """16 bytes that stand for one try at opening, from the digest of the context."""
    return context if number == 0 else hashed("rlwe opening", context, bytes([number]))


@dataclass(frozen=True, eq=False)
class Ciphertext:
    """A vector of one participant, or a sum of several.

    Args:
        context: Digest of the context.
        contributors: Vectors in it.
        key: Key parts, one for each opening, (2 openings, primes, N).
        payload: (polynomials, primes, N).
    """

    context: bytes
    contributors: int
    key: Element = field(repr=False)
    payload: Element = field(repr=False)


def encrypt(context: Context, values: npt.NDArray[Any], entropy: Entropy = system) -> Ciphertext:
    """A participant's vector, for the sum.

    Args:
        context: Of the sum.
        values: Integers, (count,), within the limit of the layout.
        entropy: Secret randomness, fresh for every call.

    Raises:
        ValueError: The vector does not have the agreed shape, or a number is too large.
    """
    plan = context.plan
    words = words_of(values, plan)
    secret = wide_secret(entropy)
    payload = np.empty((plan.polynomials, len(PRIMES), SIZE), dtype=np.uint64)
    rlwe_kernels.encrypt_rows(
        words,
        np.uint64(plan.width),
        plan.fields,
        plan.signed,
        payload_keys(context),
        scaled(transformed(secret), factors(RADIX)),
        expand_key(entropy(16)),
        gaussian_table(WIDE_SIGMA),
        factors(plan.factor),
        ring().moduli,
        np.uint64(PRIME_BITS),
        ring().roots,
        ring().shoup,
        np.empty((4, SIZE), dtype=np.int64),
        payload,
    )
    under = [_key_part(context.key, transformed(secret), entropy) for _ in range(context.openings)]
    return Ciphertext(context.digest, 1, np.concatenate(under), payload)


def _key_part(key: PublicKey, message: Element, entropy: Entropy) -> Element:
    """A one-time secret under the joint key."""
    once = ternary(entropy)
    first = total(product(key.value, once), error(entropy), message)
    second = total(product(common_polynomial(key.setup.seed), once), error(entropy))
    return np.stack([first, second])


def payload_keys(context: Context) -> npt.NDArray[np.uint64]:
    """Round keys of the public seed of b_k."""
    return expand_key(hashed("rlwe payload", context.digest))


def add(context: Context, ciphertexts: Iterable[Ciphertext]) -> Ciphertext:
    """The sum of vectors, taken one by one.

    Args:
        context: Of the sum.
        ciphertexts: At least one; sums are allowed among them.

    Raises:
        ProtocolError: There is none, one is of another context, the same one comes twice, or there are more
            than the layout has room for.
    """
    key = np.zeros((2 * context.openings, len(PRIMES), SIZE), dtype=np.uint64)
    payload = np.zeros((context.plan.polynomials, len(PRIMES), SIZE), dtype=np.uint64)
    seen: set[bytes] = set()
    contributors = 0
    expected = context.digest
    for each in ciphertexts:
        if each.context != expected or each.key.shape != key.shape:
            raise ProtocolError("a vector of another key, layout or round came; it is not added", step=_STEP)
        mark = hashed("rlwe seen", each.key.tobytes())
        if mark in seen:
            raise ProtocolError(
                "the same vector came twice; a participant sends one for each round", step=_STEP
            )
        seen.add(mark)
        contributors += each.contributors
        if contributors > context.plan.contributors:
            raise ProtocolError(
                f"{contributors} vectors came where the layout has room for {context.plan.contributors}",
                step=_STEP,
            )
        ntt.add_to(key, each.key, ring().moduli)
        ntt.add_to(payload, each.payload, ring().moduli)
    if not seen:
        raise ProtocolError("no vector came; there is nothing to add", step=_STEP)
    return Ciphertext(expected, contributors, key, payload)
