"""A key that nobody holds: shares, their public parts, the joint public key, and t-of-n by Shamir's sharing.

    holder i      s_i uniform in -1, 0, 1; e_i an error
                  p_i = -(a s_i + T e_i)          a common_polynomial(seed), the same for all
    all           p = sum p_i                      a key for s = sum s_i, which nobody knows

The public parts travel in two steps, first a commitment of each, then the parts, both signed by their
holder's enrolled identity: whoever could choose its part after seeing the others' would make a key that is
its own.

For t of n every holder deals s_i by a random polynomial of degree t - 1 over the ring, F_i(0) = s_i, and
sends F_i(j) to holder j, encrypted; holder j keeps x_j = sum_i F_i(j), and s_j is deleted. Any t of the x_j
give s, fewer nothing.

Who learns what: nobody the key; a coalition of fewer than t holders, together with the coordinator, nothing
that helps to open a ciphertext. Assumption: RLWE with a ternary secret; parties follow the protocol (a dealer
of wrong shares makes opening fail, which is noticed and not attributed).

Cost: 54 kB for a part. Dealing: 54 kB and 8,192 t multiplications for each of n holders; for large cohorts
let a committee hold the key.

Source: Mouchet, Troncoso-Pastoriza, Bossuat and Hubaux, PETS 2021, eprint 2020/304, section 4 (EncKeyGen);
Mouchet, Bertrand and Hubaux, Journal of Cryptology 36, 2023, eprint 2022/780 (t of n, Share and Combine).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from crypto.errors import ProtocolError
from crypto.kernels import ntt
from crypto.rlwe.noise import releases
from crypto.rlwe.parameters import LARGEST_COHORT, PRIMES, VERSION, ring
from crypto.rlwe.ring import (
    Element,
    Entropy,
    common_polynomial,
    error,
    hashed,
    negated,
    product,
    scaled,
    system,
    ternary,
    total,
    uniform,
)

_STEP = "rlwe keys"


@dataclass(frozen=True)
class Setup:
    """What all parties of a key agree on before it is made.

    Args:
        seed: Public, fresh for every key, at least 16 bytes.
        holders: Of key shares, from 2 to 10,000; they are numbered from 1.
        threshold: Holders that open a sum, from 2; equal to `holders` when all are needed.
        contributors: Participants whose vectors a sum may hold at most, from 2 to 10,000.
    """

    seed: bytes
    holders: int
    threshold: int
    contributors: int

    def __post_init__(self) -> None:
        if len(self.seed) < 16:
            raise ValueError(f"a common seed has at least 16 bytes, this one {len(self.seed)}")
        if not 2 <= self.holders <= LARGEST_COHORT:
            raise ValueError(f"{self.holders} holders of the key; from 2 to {LARGEST_COHORT} are allowed")
        if not 2 <= self.threshold <= self.holders:
            raise ValueError(
                f"a threshold of {self.threshold}; from 2 to all {self.holders} holders are allowed"
            )
        if not 2 <= self.contributors <= LARGEST_COHORT:
            raise ValueError(f"{self.contributors} participants; from 2 to {LARGEST_COHORT} are allowed")

    @cached_property
    def digest(self) -> bytes:
        """16 bytes that stand for all of it and for the version of the parameters."""
        numbers = (VERSION, self.holders, self.threshold, self.contributors)
        return hashed("rlwe setup", self.seed, *(number.to_bytes(4, "little") for number in numbers))

    @property
    def shared(self) -> bool:
        """Whether shares are dealt by Shamir's sharing, because fewer than all open a sum."""
        return self.threshold < self.holders

    def releases(self, active: int) -> int:
        """Sums that one key may open, when so many holders open each."""
        return releases(self.contributors, self.holders, active)


@dataclass(frozen=True, eq=False)
class SecretShare:
    """What a holder keeps: s_i, or after dealing x_i. Secret.

    Args:
        setup: Of the key.
        index: The holder's number, from 1.
        value: (primes, N).
        dealt: Whether it is x_i.
    """

    setup: Setup
    index: int
    value: Element = field(repr=False)
    dealt: bool = False


@dataclass(frozen=True, eq=False)
class PublicPart:
    """p_i of one holder."""

    setup: Setup
    index: int
    value: Element = field(repr=False)


@dataclass(frozen=True, eq=False)
class DealtShare:
    """F_i(j), from one holder to another. Secret: it travels encrypted."""

    setup: Setup
    dealer: int
    recipient: int
    value: Element = field(repr=False)


@dataclass(frozen=True, eq=False)
class PublicKey:
    """The joint key p."""

    setup: Setup
    value: Element = field(repr=False)

    @cached_property
    def digest(self) -> bytes:
        """16 bytes that holders sign and participants compare before they encrypt."""
        return hashed("rlwe public key", self.setup.digest, self.value.tobytes())


def new_share(setup: Setup, index: int, entropy: Entropy = system) -> tuple[SecretShare, PublicPart]:
    """A holder's share of the key and its public part.

    Args:
        setup: Of the key.
        index: The holder's number, from 1.
        entropy: Secret randomness.

    Raises:
        ValueError: There is no such holder.
    """
    if not 1 <= index <= setup.holders:
        raise ValueError(f"holder {index} of {setup.holders}; they are numbered from 1")
    secret = ternary(entropy)
    part = negated(total(product(common_polynomial(setup.seed), secret), error(entropy)))
    return SecretShare(setup, index, secret), PublicPart(setup, index, part)


def commitment(part: PublicPart) -> bytes:
    """What a holder sends before any public part is shown, 32 bytes."""
    state = hashlib.blake2b(digest_size=32, person=b"rlwe commitment")
    state.update(part.setup.digest + part.index.to_bytes(4, "little") + part.value.tobytes())
    return state.digest()


def public_key(setup: Setup, parts: Sequence[PublicPart], commitments: dict[int, bytes]) -> PublicKey:
    """The joint key from the parts of all holders.

    Args:
        setup: Of the key.
        parts: One of each holder.
        commitments: What each holder sent before, by its number.

    Raises:
        ProtocolError: A part is missing, comes twice, is of another key, or is not what its holder committed
            to.
    """
    _one_of_each([part.index for part in parts], setup.holders, "public parts")
    for part in parts:
        _same_setup(part.setup, setup)
        if not hmac.compare_digest(commitments.get(part.index, b""), commitment(part)):
            raise ProtocolError(
                f"the public part of holder {part.index} is not the one it committed to; make the key anew",
                step=_STEP,
            )
    return PublicKey(setup, total(*(part.value for part in parts)))


# ---- t of n ------------------------------------------------------------------------------------------------


def deal(share: SecretShare, entropy: Entropy = system) -> list[DealtShare]:
    """A holder's share split for all holders, itself among them.

    Args:
        share: As `new_share` made it.
        entropy: Secret randomness.

    Raises:
        ValueError: The share is dealt already, or all holders are needed anyway.
    """
    setup = share.setup
    if share.dealt or not setup.shared:
        raise ValueError(
            "only a share fresh from new_share is dealt, and only where fewer than all holders open a sum"
        )
    chosen = np.concatenate([share.value[None], uniform(entropy(16), setup.threshold - 1)])
    points = np.arange(1, setup.holders + 1, dtype=np.uint64)
    out = np.empty((setup.holders, *share.value.shape), dtype=np.uint64)
    ntt.evaluate(chosen, points, ring().moduli, out)
    return [DealtShare(setup, share.index, j + 1, value) for j, value in enumerate(out)]


def combine(setup: Setup, index: int, dealt: Iterable[DealtShare]) -> SecretShare:
    """The share that a holder keeps after dealing.

    Args:
        setup: Of the key.
        index: The holder's number.
        dealt: What every holder dealt to this one, its own among them.

    Raises:
        ProtocolError: One is missing, comes twice, or is for another holder or key.
    """
    kept = list(dealt)
    _one_of_each([each.dealer for each in kept], setup.holders, "dealt shares")
    for each in kept:
        _same_setup(each.setup, setup)
        if each.recipient != index:
            raise ProtocolError(f"a share for holder {each.recipient} came to holder {index}", step=_STEP)
    return SecretShare(setup, index, total(*(each.value for each in kept)), dealt=True)


def lagrange(active: Sequence[int], index: int) -> Element:
    """What holder `index` multiplies its dealt share with, so that all of `active` add up to s, (primes,)."""
    out = np.empty(len(PRIMES), dtype=np.uint64)
    for k, p in enumerate(PRIMES):
        above, below = 1, 1
        for other in active:
            if other != index:
                above = above * other % p
                below = below * (other - index) % p
        out[k] = above * pow(below, -1, p) % p
    return out


def opening_share(share: SecretShare, active: Sequence[int]) -> Element:
    """The share as a summand of s among the holders of `active`."""
    if not share.dealt:
        return share.value
    return scaled(share.value, lagrange(active, share.index))


def _one_of_each(indices: list[int], holders: int, what: str) -> None:
    if sorted(indices) != list(range(1, holders + 1)):
        missing = sorted(set(range(1, holders + 1)) - set(indices))[:5]
        raise ProtocolError(
            f"{len(indices)} {what} came of {holders} holders, missing {missing}, each once is needed",
            step=_STEP,
        )


def _same_setup(theirs: Setup, ours: Setup) -> None:
    if theirs != ours:
        raise ProtocolError("a message of another key came; all parties must agree on one setup", step=_STEP)
