"""Opening a sum: partial decryptions of its key part by the holders of key shares.

    coordinator   (c0, c1) = the sum of key parts; names the holders A that will open it; sends c1
    holder i      h_i = s_i c1 + T w_i          all holders,  or  lambda_i(A) x_i c1 + T w_i   for t of n
    coordinator   c0 + sum h_i = S + T (v + sum w_i)

w_i is uniform and so wide that the h_i tell nothing of v, which depends on the key shares (`noise`): without
it every opened sum would give linear equations for the shares and their errors.

Who learns what: the coordinator S and what it opens; a coalition of fewer than the threshold of holders and
the coordinator nothing more, as a holder's share times c1 is an RLWE sample. Two rules make that hold and are
kept by `Answers`: a holder answers once for each context, since two answers with two sets A are two equations
with the same unknown; and it answers at most as many contexts as smudging was derived for. So when a named
holder fails to answer, the next opening has other key parts of the same vectors (`Context.openings`), or the
round is run anew under another label. Two openings must be of the same vectors, or their difference shows the
rest: holders that do not trust the coordinator see to that, and their quorums must have an honest one in common.

What an active coordinator could do: name the key part of one vector as the sum, or a c1 of its own making,
whose answer tells a share. A holder that does not want to trust it asks for the key parts of all vectors,
each signed by its participant, and adds them itself (`request_of_parts`, 54 kB for each vector). Against a
coordinator together with a participant proofs of well-formed key parts would be needed, which are not here.

Assumption: RLWE; parties that follow the protocol. Cost: 54 kB to and from each holder, whatever the length
of a vector; one round trip.

Source: Mouchet et al., PETS 2021, eprint 2020/304, section 4 (a key switch to the key zero); eprint
2022/780 for t of n.
"""

from __future__ import annotations

import functools
import hmac
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.errors import ProtocolError
from crypto.kernels import rlwe_kernels
from crypto.rlwe.encryption import RADIX, Ciphertext, Context, opening_digest, payload_keys
from crypto.rlwe.keys import SecretShare, Setup, opening_share
from crypto.rlwe.noise import opened_noise, smudging_bits, wide_sum
from crypto.rlwe.parameters import KEY_WIDTH, PRIME_BITS, PRIMES, SIZE, Q, ring
from crypto.rlwe.ring import (
    Element,
    Entropy,
    coefficients,
    factors,
    hashed,
    product,
    scaled,
    smudging,
    system,
    total,
    transformed,
)

_STEP = "rlwe opening"


@dataclass(frozen=True, eq=False)
class KeyPart:
    """c1 of one vector or of a sum: what a participant signs for holders that add themselves."""

    context: bytes
    contributors: int
    value: Element = field(repr=False)


@dataclass(frozen=True, eq=False)
class Request:
    """What holders are asked to open.

    Args:
        context: Digest of the opening of the context.
        contributors: Vectors in the sum.
        active: Numbers of the holders that answer, rising.
        value: c1, (primes, N).
    """

    context: bytes
    contributors: int
    active: tuple[int, ...]
    value: Element = field(repr=False)

    @property
    def digest(self) -> bytes:
        """16 bytes that stand for all of it."""
        numbers = (self.contributors, *self.active)
        written = b"".join(number.to_bytes(4, "little") for number in numbers)
        return hashed("rlwe request", self.context, written, self.value.tobytes())


@dataclass(frozen=True, eq=False)
class Partial:
    """h_i of one holder, for one request."""

    request: bytes
    index: int
    value: Element = field(repr=False)


class Answers:
    """What a holder has opened with its share of one key; it is kept as long as the share is.

    Args:
        seen: Digests of contexts answered before, as `seen` gave them.
    """

    def __init__(self, seen: Iterable[bytes] = ()) -> None:
        self._seen = set(seen)

    @property
    def seen(self) -> frozenset[bytes]:
        """Digests of all contexts answered: to be stored with the share."""
        return frozenset(self._seen)

    def claim(self, setup: Setup, request: Request) -> None:
        """Note an answer before it is given.

        Raises:
            ProtocolError: The context was answered before, or the key has opened as many sums as it may.
        """
        if request.context in self._seen:
            raise ProtocolError(
                "this round was opened before; a holder answers once, run the round anew under another label",
                step=_STEP,
            )
        allowed = setup.releases(len(request.active))
        if len(self._seen) >= allowed:
            raise ProtocolError(
                f"the key has opened {allowed} sums, as many as it may; make a new one", step=_STEP
            )
        self._seen.add(request.context)


def key_part(ciphertext: Ciphertext, opening: int = 0) -> KeyPart:
    """The part of a vector, or of a sum, that an opening needs."""
    digest = opening_digest(ciphertext.context, opening)
    return KeyPart(digest, ciphertext.contributors, ciphertext.key[2 * opening + 1])


def request(context: Context, part: KeyPart, active: Sequence[int]) -> Request:
    """What holders are asked.

    Args:
        context: Of the sum.
        part: Of the sum.
        active: Numbers of the holders that will answer.

    Raises:
        ProtocolError: The part is of another context, or these holders cannot open it.
    """
    made = Request(part.context, part.contributors, tuple(sorted(active)), part.value)
    _check(context, made)
    return made


def request_of_parts(context: Context, parts: Sequence[KeyPart], active: Sequence[int]) -> Request:
    """The same from the parts of all vectors, by a holder that verified who signed each.

    Raises:
        ProtocolError: As `request`; or a part comes twice, or holds more than one vector.
    """
    opening = parts[0].context if parts else b""
    if any(part.contributors != 1 or part.context != opening for part in parts) or not parts:
        raise ProtocolError("parts of single vectors of this round are needed", step=_STEP)
    if len({part.value.tobytes() for part in parts}) != len(parts):
        raise ProtocolError("the same part came twice; a participant sends one for each round", step=_STEP)
    summed = KeyPart(opening, len(parts), total(*(part.value for part in parts)))
    return request(context, summed, active)


def partial_decryption(
    share: SecretShare,
    context: Context,
    asked: Request,
    answers: Answers,
    *,
    least: int = 2,
    entropy: Entropy = system,
) -> Partial:
    """A holder's part in opening a sum.

    Args:
        share: Of the key.
        context: That the holder expects to be opened now.
        asked: By the coordinator.
        answers: Given before with this share.
        least: Vectors that a sum must hold.
        entropy: Secret randomness, fresh for every call.

    Raises:
        ProtocolError: The request is of another context, for other holders, for too few vectors, or was
            answered before.
        ValueError: The share is of another key, or was not dealt where shares are.
    """
    setup = context.key.setup
    if share.setup != setup or share.dealt != setup.shared:
        raise ValueError(
            "the share is not the one this key is opened with; where t of n open, it is that of combine"
        )
    _check(context, asked)
    if share.index not in asked.active:
        raise ProtocolError(f"holder {share.index} is not among those asked", step=_STEP)
    if asked.contributors < least:
        raise ProtocolError(
            f"the sum holds {asked.contributors} vectors, at least {least} are needed", step=_STEP
        )
    answers.claim(setup, asked)
    bits = smudging_bits(setup.contributors, setup.holders, len(asked.active))
    told = product(opening_share(share, asked.active), asked.value)
    return Partial(asked.digest, share.index, total(told, smudging(bits, entropy)))


def decrypt(
    context: Context, ciphertext: Ciphertext, asked: Request, partials: Sequence[Partial]
) -> npt.NDArray[Any]:
    """The sum.

    Args:
        context: Of the sum.
        ciphertext: The sum of vectors.
        asked: What holders were asked.
        partials: One of each that was asked.

    Returns:
        (count,), int64 where the layout is signed and uint64 where not.

    Raises:
        ProtocolError: An answer is missing, comes twice or is for another request; or what comes out is no
            sum, since a message was altered or a party did not follow the protocol.
    """
    opening = _check(context, asked)
    if ciphertext.context != context.digest or not np.array_equal(
        asked.value, ciphertext.key[2 * opening + 1]
    ):
        raise ProtocolError("the request is for another sum", step=_STEP)
    if sorted(each.index for each in partials) != list(asked.active):
        raise ProtocolError(
            f"{len(partials)} answers came where {len(asked.active)} holders were asked, each once",
            step=_STEP,
        )
    expected = asked.digest
    for each in partials:
        if not hmac.compare_digest(each.request, expected):
            raise ProtocolError(f"the answer of holder {each.index} is for another request", step=_STEP)
    plan = context.plan
    secret = _secret_sum(context, ciphertext, ciphertext.key[2 * opening], asked, partials)
    values = np.empty(plan.count, dtype=np.int64)
    good = rlwe_kernels.decrypt_rows(
        ciphertext.payload,
        payload_keys(context),
        scaled(transformed(secret), factors(RADIX)),
        ring().moduli,
        np.uint64(PRIME_BITS),
        ring().inverse_roots,
        ring().inverse_shoup,
        ring().last,
        np.uint64(plan.width),
        plan.fields,
        plan.signed,
        _lift(),
        _words(wide_sum(ciphertext.contributors)),
        np.empty((1 + len(PRIMES), SIZE), dtype=np.uint64),
        values,
    )
    if not good:
        raise ProtocolError(
            "the payload is no sum of vectors; one was altered or is not what its key part belongs to",
            step=_STEP,
        )
    return values if plan.signed else values.view(np.uint64)


def _secret_sum(
    context: Context, ciphertext: Ciphertext, first: Element, asked: Request, partials: Sequence[Partial]
) -> npt.NDArray[np.int64]:
    """S, from what holders answered."""
    setup = context.key.setup
    opened = coefficients(total(first, *(each.value for each in partials)))
    secret = np.empty(SIZE, dtype=np.int64)
    limit = _words(opened_noise(setup.contributors, setup.holders, len(asked.active)))
    good = rlwe_kernels.decode(opened, np.uint64(KEY_WIDTH), 1, True, _lift(), limit, secret)
    if not good or int(np.abs(secret).max()) > wide_sum(ciphertext.contributors):
        raise ProtocolError(
            "the answers do not open the sum; one of them is wrong, or holders have shares of different keys",
            step=_STEP,
        )
    return secret


def _check(context: Context, asked: Request) -> int:
    """Which opening is asked for."""
    setup = context.key.setup
    openings = [number for number in range(context.openings) if context.opening(number) == asked.context]
    if not openings:
        raise ProtocolError("a request of another key, layout or round came", step=_STEP)
    if not 1 <= asked.contributors <= context.plan.contributors:
        raise ProtocolError(
            f"a sum of {asked.contributors} vectors; from 1 to {context.plan.contributors} are allowed",
            step=_STEP,
        )
    active = asked.active
    rising = all(a < b for a, b in itertools.pairwise(active))
    if not rising or not active or active[0] < 1 or active[-1] > setup.holders:
        raise ProtocolError(f"the holders asked are not some of 1 to {setup.holders}, each once", step=_STEP)
    if len(active) < setup.threshold:
        raise ProtocolError(
            f"{len(active)} holders were asked, {setup.threshold} of {setup.holders} are needed", step=_STEP
        )
    return openings[0]


@functools.cache
def _lift() -> npt.NDArray[np.uint64]:
    """What joining residues needs, as `decode` takes it."""
    p0, p1 = PRIMES
    half = (Q - 1) // 2
    words = [p0, p1, int(ring().moduli[1, 1]), pow(p0, -1, p1) * 2**64 % p1]
    return np.array([*words, half % 2**64, half >> 64, Q % 2**64, Q >> 64], dtype=np.uint64)


def _words(number: int) -> npt.NDArray[np.uint64]:
    return np.array([number % 2**64, number >> 64], dtype=np.uint64)
