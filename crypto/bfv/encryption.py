"""Vectors that their holder encrypts, products with an evaluator's numbers, answers that tell nothing else.

    holder      b_i = e_i + message_i - a_i s, a_i of a seed that travels once         `encrypt`, to bytes
    evaluator   sum_i p_i (b_i, a_i)                                                   `Ring.multiply_add`
                + (p0 u, p1 u), u fresh                                                `zeros`
                + (round(q r / t), 0), r uniform, where the result is to be shared     `add_numbers`
                + (w, f), w uniform and wide; modulo fewer primes; c1, and of c0 only
                what is a result                                                       `write_answers`
    holder      round(t (c0 + c1 s) / q) mod t                                         `open_answers`

Messages are polynomials with coefficients modulo t. Where `wraps` is true a number m stands for round(q m / t): sums
of products are right modulo t. Else it stands for m floor(q / t), signed: sums of products must stay below t / 2 in
size where they are results, and there is no rounding.

Who learns what: the evaluator nothing, the holder the coefficients that are sent, which must be results or masked.
Assumption: RLWE; statistical 2^-40 for what is sent together (`noise`); parties that follow the protocol. Messages are
not authenticated here: the channel does that. Of an answer damaged by chance each coefficient falls with one in eight
where no honest one does, and one that does is enough to refuse it; who changes an answer on purpose changes numbers.

Cost: a fresh polynomial 54 kB of the small ring, 217 kB of the large one; an answer less, see `answer_bytes`.

Source: Brakerski, CRYPTO 2012; Fan and Vercauteren, eprint 2012/144; fractions in RNS, Halevi, Polyakov and Shoup,
CT-RSA 2019, eprint 2018/117, section 2.2 (here with integers of 128 bits); answers, Huang, Lu, Hong and Ding,
"Cheetah", USENIX Security 2022, section 3.
"""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from crypto.bfv import packing
from crypto.bfv.keys import SEED, PublicKey, SecretKey, same_key
from crypto.bfv.noise import LARGEST_FRACTION, dropped_bits, flood_bits, kept_primes
from crypto.bfv.parameters import LARGEST_ODD_BITS, PRIME_BITS, SIGMA
from crypto.bfv.ring import BITS, RADIX, Element, Entropy, Ring, system
from crypto.errors import ProtocolError
from crypto.kernels import bfv_kernels
from crypto.kernels.aes import expand_key
from crypto.rlwe.parameters import gaussian_table

_STEP = "bfv message"
_FIELDS = struct.Struct("<16sQI")
Words = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Modulus:
    """What kernels need to know of t in a ring; fields as in `bfv_kernels`."""

    t: Words
    encoding: Words
    factor: Words
    decoding: Words


@functools.cache
def _modulus(ring: Ring, t: int) -> _Modulus:
    if not 3 <= t <= 2**64 or (t & (t - 1) and (t % 2 == 0 or t >> LARGEST_ODD_BITS)):
        raise ValueError(
            f"a modulus of messages is a power of two up to 2^64, or odd and below 2^61, not {t}"
        )
    power = t & (t - 1) == 0
    whole = ring.q % t if power else ring.q * RADIX % t
    described = [t % RADIX, 0 if power else -pow(t, -1, RADIX) % RADIX, t - 1 if power else 0, whole, t // 2]
    encoding = [[pow(t, -1, p) * RADIX % p, t // 2 * pow(t, -1, p) % p] for p in ring.primes]
    decoding = []
    for p in ring.primes:
        share = (2**128 + p // 2) // p
        decoding.append([pow(ring.q // p, -1, p) * RADIX % p, share >> 64, share % RADIX])
    return _Modulus(
        np.array(described, dtype=np.uint64),
        np.array(encoding, dtype=np.uint64),
        ring.montgomery(ring.q // t),
        np.array(decoding, dtype=np.uint64),
    )


@dataclass(frozen=True, eq=False)
class Vector:
    """Fresh ciphertexts of one call of `encrypt`.

    Args:
        key: Under which they are.
        t: Modulus of messages.
        seed: 16 bytes that stand for all a_i.
        body: b_i, (n, primes, N).
    """

    key: PublicKey
    t: int
    seed: bytes
    body: Element = field(repr=False)

    @property
    def pairs(self) -> Element:
        """(b_i, a_i), (n, 2, primes, N)."""
        return np.stack([self.body, self.key.ring.uniform(self.seed, len(self.body))], axis=1)

    def to_bytes(self) -> bytes:
        """As a message."""
        fields = _fields(self.key, self.t, len(self.body)) + self.seed
        return packing.write("vector", self.key.ring, fields, [self.body])


def encrypt(
    secret: SecretKey,
    t: int,
    numbers: npt.NDArray[np.uint64] | npt.NDArray[np.int64],
    *,
    wraps: bool = True,
    entropy: Entropy = system,
) -> Vector:
    """The holder's polynomials.

    Args:
        secret: The holder's key.
        t: Modulus of messages: a power of two up to 2^64, or odd and below 2^61.
        numbers: Coefficients, (n, N): uint64 below t where they wrap, else int64, below t / 2 in size.
        wraps: Whether sums of products are taken modulo t; else they must stay below t / 2 in size.
        entropy: Secret randomness.

    Raises:
        ValueError: The modulus, the shape or the type is not allowed.
    """
    ring, modulus = secret.ring, _modulus(secret.ring, t)
    kind = np.uint64 if wraps else np.int64
    if numbers.ndim != 2 or numbers.shape[1] != ring.size or numbers.dtype != kind:
        raise ValueError(
            f"coefficients of shape {numbers.shape} and type {numbers.dtype}; (n, {ring.size}) {kind.__name__} is needed"
        )
    seed = entropy(SEED)
    tables = ring.tables
    body = ring.empty(len(numbers))
    bfv_kernels.encrypt_rows(
        np.ascontiguousarray(numbers).view(np.int64),
        wraps,
        modulus.t,
        modulus.encoding,
        modulus.factor,
        expand_key(seed),
        secret.factor,
        expand_key(entropy(16)),
        gaussian_table(SIGMA),
        ring.moduli,
        BITS,
        tables.roots,
        tables.shoup,
        np.empty((4, ring.size), dtype=np.int64),
        body,
    )
    return Vector(secret.public, t, seed, body)


def vector_bytes(ring: Ring, count: int) -> int:
    """Bytes of a vector of so many polynomials as a message."""
    return packing.size(ring, _FIELDS.size + SEED, count)


def read_vector(data: packing.Data, key: PublicKey, t: int, count: int) -> Vector:
    """A vector of so many polynomials under this key.

    Raises:
        ProtocolError: The bytes are none.
    """
    fields, body = packing.read("vector", data, key.ring, _FIELDS.size + SEED, count)
    _checked(fields[: _FIELDS.size], key, t, count)
    return Vector(key, t, fields[_FIELDS.size :], body)


# ---- what an evaluator adds -----------------------------------------------------------------------------------------


def zeros(key: PublicKey, count: int, entropy: Entropy = system) -> Element:
    """(p0 u, p1 u) for fresh u, (count, 2, primes, N), transformed: what an answer starts from.

    Zeros are safe to show only with the errors that `write_answers` adds. The evaluator checks its products with
    `noise.check` before.
    """
    ring = key.ring
    out, room = ring.empty(count, 2), np.empty((2, ring.size), dtype=np.uint64)
    tables = ring.tables
    bfv_kernels.zero_rows(
        expand_key(entropy(16)), key.factors, ring.moduli, tables.roots, tables.shoup, room, out
    )
    return out


def add_numbers(ring: Ring, t: int, total: Element, numbers: Words) -> None:
    """Add `numbers`, uint64 below t, (N,), to the messages of one answer (2, primes, N), transformed, in place."""
    modulus = _modulus(ring, t)
    message = ring.zeros(1)
    bfv_kernels.encode(numbers, modulus.t, modulus.encoding, ring.moduli, message[0])
    ring.forward(message)
    ring.add(total[None, 0], message)


def uniform_numbers(t: int, shape: tuple[int, ...], entropy: Entropy = system) -> Words:
    """Numbers uniform below t, up to a distance of 2^-64 for each, from an entropy: masks."""
    count = int(np.prod(shape))
    raw = np.frombuffer(entropy(8 * count if t & (t - 1) == 0 else 16 * count), dtype=np.uint64)
    if t == 2**64:
        return raw.reshape(shape).copy()
    if t & (t - 1) == 0:
        return (raw & np.uint64(t - 1)).reshape(shape)
    out = np.empty(count, dtype=np.uint64)
    bfv_kernels.reduce(
        raw.reshape(-1, 2),
        np.array([t, -pow(t, -1, RADIX) % RADIX, RADIX % t, RADIX**2 % t], dtype=np.uint64),
        out,
    )
    return out.reshape(shape)


# ---- answers --------------------------------------------------------------------------------------------------------


def answer_bytes(ring: Ring, t: int, count: int, positions: int) -> int:
    """Bytes of a message of so many answers, of each of which so many coefficients are asked for."""
    kept, width = kept_primes(ring, t), PRIME_BITS - dropped_bits(ring, t)
    first = packing.packed_bytes(count * kept * ring.size, width)
    second = packing.packed_bytes(count * kept * positions, width)
    return len(packing.head("answers", ring, b"")) + _FIELDS.size + first + second


def write_answers(
    key: PublicKey, t: int, answers: Element, positions: Positions, entropy: Entropy = system
) -> bytes:
    """Answers as a message, with the errors and the smudging that make them safe to show.

    Args:
        key: Under which they are.
        t: Modulus of messages.
        answers: (n, 2, primes, N), transformed, each with one of `zeros` in it. Spoilt.
        positions: Coefficients that are results or masked, (m,) int64; of the others nothing is sent.
        entropy: Secret randomness.
    """
    ring, bits = key.ring, flood_bits(key.ring, t)
    kept, dropped = kept_primes(ring, t), np.uint64(dropped_bits(ring, t))
    first = np.empty((len(answers), len(ring.primes), len(positions)), dtype=np.uint64)
    tables = ring.tables
    bfv_kernels.finish_rows(
        expand_key(entropy(16)),
        expand_key(entropy(16)),
        np.uint64(bits),
        ring.residues(1 << bits),
        gaussian_table(SIGMA),
        ring.moduli,
        tables.inverse_roots,
        tables.inverse_shoup,
        tables.last,
        positions,
        np.empty((3, ring.size), dtype=np.int64),
        np.empty(4, dtype=np.uint64),
        answers,
        first,
    )
    second = np.ascontiguousarray(answers[:, 1])
    for last in range(len(ring.primes) - 1, kept - 1, -1):
        inverses = [pow(ring.primes[last], -1, p) * RADIX % p for p in ring.primes[:last]]
        for part in (first, second):
            bfv_kernels.drop_prime(part[:, : last + 1], ring.moduli, np.array(inverses, dtype=np.uint64))
    fields = _fields(key, t, len(answers))
    parts = [part[:, :kept] >> dropped for part in (second, first)]
    return packing.write("answers", ring, fields, parts, PRIME_BITS - int(dropped))


def open_answers(secret: SecretKey, t: int, data: packing.Data, count: int, positions: Positions) -> Words:
    """What the holder learns of answers: numbers modulo t, (count, m) uint64.

    Args:
        secret: The holder's key.
        t: Modulus of messages.
        data: From `write_answers`.
        count: Answers in it.
        positions: As in `write_answers`.

    Raises:
        ProtocolError: The bytes are no such answers, or do not open.
    """
    ring = secret.ring
    kept, dropped = kept_primes(ring, t), dropped_bits(ring, t)
    wanted = answer_bytes(ring, t, count, len(positions))
    fields, rest = packing.fields_of("answers", data, ring, _FIELDS.size, wanted)
    _checked(fields, secret.public, t, count)
    smaller, width = ring.fewer(kept), PRIME_BITS - dropped
    shift, middle = np.uint64(dropped), np.uint64(1 << dropped >> 1)
    second = packing.unpacked(rest, count * kept * ring.size, width).reshape(count, kept, ring.size)
    at = packing.packed_bytes(second.size, width)
    first = packing.unpacked(rest[at:], count * kept * len(positions), width).reshape(count, kept, -1)
    second, first = second << shift, first << shift
    packing.checked(second, smaller)
    packing.checked(first, smaller)
    second += middle
    first += middle
    smaller.forward(second)
    opened = np.zeros_like(second)
    smaller.multiply_add(opened, second, np.ascontiguousarray(secret.factor[:kept]))
    smaller.inverse(opened)
    chosen = np.ascontiguousarray(opened[:, :, positions])
    smaller.add(chosen, first)
    modulus = _modulus(smaller, t)
    out = np.empty((count, len(positions)), dtype=np.uint64)
    for i in range(count):
        apart = bfv_kernels.decode(chosen[i], modulus.t[0], modulus.decoding, smaller.moduli, out[i])
        if int(apart) > LARGEST_FRACTION * RADIX:
            raise ProtocolError(
                "an answer does not open: it was damaged, or made under another key", step=_STEP
            )
    return out


def _fields(key: PublicKey, t: int, count: int) -> bytes:
    return _FIELDS.pack(key.digest, t % RADIX, count)


def _checked(fields: bytes, key: PublicKey, t: int, count: int) -> None:
    digest, modulus, counted = _FIELDS.unpack(fields)
    same_key(digest, key, _STEP)
    if modulus != t % RADIX or counted != count:
        raise ProtocolError(
            f"a message of {counted} polynomials modulo {modulus} came where {count} modulo {t % RADIX} are expected "
            "(0 is 2^64)",
            step=_STEP,
        )
