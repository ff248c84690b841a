"""Sums of vectors under CKKS, exact to the rounding of the participants' own numbers.

    participant -> coordinator    head, then for each ciphertext a seed of 64 bytes and N coefficients
    coordinator                   adds them, each times a public whole factor where the job says so
    coordinator -> participants   head, then for each ciphertext 2 N coefficients
    participant                   decrypts, rounds to whole numbers, refuses what is no sum

    head          "FCKF" (one participant's) or "FCKT" (total) || fingerprint of key and parameters, 16 ||
                  values, 4 || participants, 4 || sum of factors, 8 || largest factor, 4; little end first
    ciphertext    first number 1, which becomes the sum of factors; then N - 1 values

Who learns what. The coordinator learns who takes part, the length and public factors, and the sums if
participants tell it. Every participant has the key: it learns the sums, and could decrypt another's
ciphertext if it ever saw one. So the coordinator forwards totals only, is semi-honest, and does not work
together with a participant; it could have any single ciphertext decrypted by calling it a total. The sum of
factors inside each ciphertext and `least` show its mistakes (a ciphertext missing or doubled), not its
malice. Where that is too much trust: masking or threshold encryption.

Decrypted results and the key. CKKS hides its messages only from who sees no decryptions: a result at full
precision is message plus noise, and ciphertext and noise give the key in one linear equation (Li, Micciancio
2021, "IND-CPA^D"). Here the coordinator, who has the ciphertexts, is told the results. The defence is not to
reveal noise at all: participants encrypt whole numbers, and a result is rounded to the whole number that was
meant, which is a function of the inputs only, except with probability 2^-72 (`parameters`). For honestly
added ciphertexts IND-CPA^D is then IND-CPA, up to that probability, and no flooding is needed. It does not
hold against a coordinator that sends totals it did not add. The distance to the whole numbers, which is
noise, stays with the participant; `Opened.noise` is rounded up to a power of two, and has no place in what
goes to the coordinator.

Assumption: ring learning with errors, 128 bits (`parameters`). Bytes: 5, 6, 7 or 10 a value up, twice that
down. Rounds: 1 and the answer.

Source: Cheon, Kim, Kim, Song, ASIACRYPT 2017 (eprint 2016/421); Li, Micciancio, EUROCRYPT 2021 (eprint
2020/1533); Li, Micciancio, Schultz, Sorrell, CRYPTO 2022 (eprint 2022/816), for what flooding would cost; Cheon,
Choe, Passelègue, Stehlé, Suvanto, CCS 2024 (eprint 2024/127), for why an exact scheme must not fail either.
"""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.ckks.keys import PublicContext, SecretKey
from crypto.ckks.parameters import Parameters
from crypto.ckks.seal import SEED, Engine, Scratch, Words, engine, library, narrow, widen
from crypto.errors import ProtocolError

Whole = npt.NDArray[np.int64]

_HEAD = struct.Struct("<4s16sIIQI")
_FRESH, _TOTAL = b"FCKF", b"FCKT"
_LABEL = b"fedcore ckks form 1"
MOST_VALUES = 1 << 28
_NEAR = 0.25
"""From a whole number; `parameters` keeps noise below it."""


@dataclass(frozen=True)
class Opened:
    """A decrypted sum.

    Args:
        units: (n,) int64, the exact sum of the participants' whole numbers times their factors.
        terms: Participants in it.
        weight: Sum of their factors.
        noise: Largest distance of a decrypted number from its whole number, at most 1/4, rounded up to a power of
            two.
    """

    units: Whole
    terms: int
    weight: int
    noise: float


def whole_numbers(values: npt.ArrayLike, clip: float, parameters: Parameters) -> Whole:
    """Values as the whole numbers that stand for them: clipped, scaled, rounded to the nearest.

    Args:
        values: (n,) finite floats.
        clip: Values beyond it count as it; above 0, the same for all participants.
        parameters: Their precision; a value within the clip is off by at most clip / 2^(precision + 1).

    Raises:
        ValueError: A value is not finite; the message names the first one's place.
    """
    given = np.asarray(values)
    if given.ndim != 1 or given.dtype.kind not in "iuf" or not (math.isfinite(clip) and clip > 0):
        raise ValueError(
            f"values are (n,) numbers and clip is above 0, not {given.shape} {given.dtype}, {clip}"
        )
    finite = np.isfinite(given)
    if not finite.all():
        raise ValueError(f"value {int(np.argmin(finite))} is not finite")
    scaled = np.multiply(given, parameters.limit / clip, dtype=np.float64)
    np.clip(scaled, -float(parameters.limit), float(parameters.limit), out=scaled)
    whole: Whole = np.rint(scaled, out=scaled).astype(np.int64)
    return whole


def means(opened: Opened, clip: float, parameters: Parameters) -> npt.NDArray[np.float64]:
    """The mean of the participants' values by their factors, (n,); off by at most `error_bound`."""
    return opened.units.astype(np.float64) * (clip / parameters.limit / opened.weight)


def error_bound(clip: float, parameters: Parameters) -> float:
    """How far a mean of clipped values may be off: half a unit, in the unit of `clip`."""
    return clip / parameters.limit / 2


def fingerprint(public: PublicContext, parameters: Parameters) -> bytes:
    """Of key and parameters, 16 bytes; ciphertexts that differ in it are refused.

    Raises:
        ValueError: The key is of another ring.
    """
    if public.ring != parameters.ring:
        raise ValueError(f"the key is of {public.ring}, these parameters need one of {parameters.ring}")
    parts = struct.pack("<III", parameters.cohort, parameters.weight, parameters.precision)
    return hashlib.sha256(_LABEL + parts + public.to_bytes()).digest()[:16]


def ciphertexts(count: int, parameters: Parameters) -> int:
    """Ciphertexts of so many values."""
    return -(-count // (parameters.ring.degree - 1))


def size(count: int, parameters: Parameters, *, total: bool) -> int:
    """Bytes of a message of so many values: a participant's, or the total."""
    ring = parameters.ring
    half = ring.degree * len(ring.primes) * ring.width
    return _HEAD.size + ciphertexts(count, parameters) * (2 * half if total else SEED + half)


def encrypt(key: SecretKey, numbers: Whole, parameters: Parameters) -> bytes:
    """A participant's message.

    Args:
        key: That the participants share.
        numbers: (n,) integers, of at most `parameters.limit`, n at least 1.
        parameters: Of this run.

    Raises:
        ValueError: A number is too large, or there are none; nothing was encrypted.
    """
    form = fingerprint(key.public, parameters)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or not 1 <= numbers.size <= MOST_VALUES:
        raise ValueError(
            f"numbers are (n,) integers, n from 1 to 2^28; these are {numbers.shape} {numbers.dtype}"
        )
    if int(numbers.max()) > parameters.limit or int(numbers.min()) < -parameters.limit:
        raise ValueError(f"a number is not between -{parameters.limit} and {parameters.limit}")
    ring, made = parameters.ring, engine(parameters.ring, parameters.scale)
    encryptor = library().Encryptor(made.context, key.loaded(made))
    out = bytearray(_HEAD.pack(_FRESH, form, numbers.size, 1, 1, 1))
    slots = np.zeros(ring.degree)
    with Scratch() as scratch:
        for at in range(0, numbers.size, ring.degree - 1):
            some = numbers[at : at + ring.degree - 1]
            slots[0], slots[1 : some.size + 1], slots[some.size + 1 :] = 1, some, 0
            plain = made.encode(slots.view(np.complex128).tolist())
            words, seed = made.fresh.take(scratch.save(encryptor.encrypt_symmetric(plain)))
            out += seed
            out += narrow(np.frombuffer(words, dtype="<u8"), ring.width)
    return bytes(out)


class Sum:
    """What the coordinator adds up; it holds ciphertexts of one vector, whatever the number of participants.

    Args:
        public: The participants' context.
        parameters: Of this run.
        count: Values of each vector.
    """

    def __init__(self, public: PublicContext, parameters: Parameters, count: int) -> None:
        self._form = fingerprint(public, parameters)
        self._parameters, self._count = parameters, count
        self._engine = engine(parameters.ring, parameters.scale)
        self._total: list[Any] = []
        self.terms = self.weight = self._factor = 0

    def add(self, data: bytes | memoryview, step: str, *, factor: int = 1) -> None:
        """Add one participant's message; one that is refused leaves the sum as it was.

        Args:
            data: The message.
            step: For errors.
            factor: Public, a whole number, at least 1.

        Raises:
            ProtocolError: It is not a message of this key, these parameters and this length.
            ValueError: The factor, or one participant more, is beyond the parameters.
        """
        parameters = self._parameters
        if not 1 <= factor <= parameters.weight or self.terms == parameters.cohort:
            raise ValueError(
                f"factor {factor} on participant {self.terms + 1}: a factor is at most {parameters.weight}, and "
                f"participants are at most {parameters.cohort}"
            )
        terms, weight, largest = _checked(data, _FRESH, self._form, self._count, parameters, step)
        if (terms, weight, largest) != (1, 1, 1):
            raise ProtocolError("a participant's ciphertexts are told to be of several", step=step)
        seeds, words = _fresh(data, self._engine, step)
        came = []
        with Scratch() as scratch:
            for seed, half in zip(seeds, words, strict=True):
                came.append(library().Ciphertext())
                stream = self._engine.fresh.stream(half.tobytes(), seed.tobytes())
                scratch.load(came[-1], self._engine.context, stream)
        self._times(came, factor)
        for at, ciphertext in enumerate(self._total):
            self._engine.evaluator.add_inplace(ciphertext, came[at])
        self._total = self._total or came
        self.terms, self.weight = self.terms + 1, self.weight + factor
        self._factor = max(self._factor, factor)

    def scale(self, factor: int) -> None:
        """Multiply the whole sum by a public whole number, at least 1.

        Raises:
            ValueError: There is no sum yet, or a participant's factor would pass the parameters' weight.
        """
        most = self._parameters.weight
        if not self.terms or factor < 1 or self._factor * factor > most:
            raise ValueError(
                f"factor {factor} on {self.terms} participants of factors up to {self._factor}: the product is at most {most}"
            )
        self._times(self._total, factor)
        self.weight, self._factor = self.weight * factor, self._factor * factor

    def to_bytes(self) -> bytes:
        """The total for the participants.

        Raises:
            ValueError: Nothing was added.
        """
        if not self.terms:
            raise ValueError("nothing was added")
        width = self._parameters.ring.width
        head = _HEAD.pack(_TOTAL, self._form, self._count, self.terms, self.weight, self._factor)
        out = bytearray(head)
        with Scratch() as scratch:
            for ciphertext in self._total:
                words, _ = self._engine.total.take(scratch.save(ciphertext))
                out += narrow(np.frombuffer(words, dtype="<u8"), width)
        return bytes(out)

    def _times(self, batch: list[Any], factor: int) -> None:
        if factor > 1:
            slots = self._parameters.ring.degree // 2
            plain = self._engine.encode([complex(factor)] * slots, 1.0)
            for ciphertext in batch:
                self._engine.evaluator.multiply_plain_inplace(ciphertext, plain)


def decrypt(
    key: SecretKey, parameters: Parameters, data: bytes | memoryview, count: int, *, least: int, step: str
) -> Opened:
    """The sum in a total that the coordinator sent.

    Args:
        key: That the participants share.
        parameters: Of this run.
        data: The message.
        count: Values it must have.
        least: Participants that must be in it.
        step: For errors.

    Raises:
        ProtocolError: It is no such total, is over fewer participants, or does not decrypt to whole numbers.
    """
    form = fingerprint(key.public, parameters)
    terms, weight, _ = _checked(data, _TOTAL, form, count, parameters, step)
    if terms < least:
        raise ProtocolError(
            f"the sum is over {terms} participants, at least {least} must be in it; it was not decrypted",
            step=step,
        )
    ring, made = parameters.ring, engine(parameters.ring, parameters.scale)
    decryptor = library().Decryptor(made.context, key.loaded(made))
    words = widen(memoryview(data)[_HEAD.size :], ring.width)
    words = made.checked(words.reshape(-1, 2, len(ring.primes), ring.degree), step)
    units = np.empty((len(words), ring.degree - 1), dtype=np.int64)
    noise, most = 0.0, weight * parameters.limit
    with Scratch() as scratch:
        for at, both in enumerate(words):
            ciphertext, plain = library().Ciphertext(), library().Plaintext()
            scratch.load(ciphertext, made.context, made.total.stream(both.tobytes(), b""))
            decryptor.decrypt(ciphertext, plain)
            slots = np.array(made.encoder.decode_complex(plain)).view(np.float64)
            whole = np.rint(slots)
            noise = max(noise, float(np.abs(slots - whole).max()))
            if not (noise <= _NEAR and whole[0] == weight and np.abs(whole[1:]).max() <= most):
                raise ProtocolError(
                    f"ciphertext {at} is no sum of {terms} participants with factors of {weight} in total: it is under "
                    "another key, was changed, or ciphertexts are missing",
                    step=step,
                )
            units[at] = whole[1:]
    shown = 2.0 ** math.ceil(math.log2(noise)) if noise else 0.0
    return Opened(units.reshape(-1)[:count], terms, weight, shown)


def _checked(
    data: bytes | memoryview, kind: bytes, form: bytes, count: int, parameters: Parameters, step: str
) -> tuple[int, int, int]:
    """Participants, sum of factors and largest factor that a head tells."""
    wanted = size(count, parameters, total=kind == _TOTAL)
    if len(data) != wanted:
        raise ProtocolError(f"{len(data)} bytes came where {wanted} are expected", step=step)
    magic, told_form, told, terms, weight, factor = _HEAD.unpack(data[: _HEAD.size])
    if magic != kind or told != count:
        raise ProtocolError(f"what came are not CKKS ciphertexts of {count} values", step=step)
    if told_form != form:
        raise ProtocolError(
            "the ciphertexts that came are under another key or other parameters (cohort, weight, precision); all "
            "participants must have the same",
            step=step,
        )
    if not (
        1 <= terms <= parameters.cohort and terms <= weight <= terms * factor and factor <= parameters.weight
    ):
        raise ProtocolError(
            f"{terms} participants with factors of {weight} in total are told; there are at most {parameters.cohort}, "
            f"of factors up to {parameters.weight}",
            step=step,
        )
    return terms, weight, factor


def _fresh(data: bytes | memoryview, made: Engine, step: str) -> tuple[npt.NDArray[np.uint8], Words]:
    """Seeds, (ciphertexts, 64) uint8, and coefficients, (ciphertexts, primes, N), of a message."""
    ring = made.ring
    half = ring.degree * len(ring.primes) * ring.width
    rows = np.frombuffer(memoryview(data)[_HEAD.size :], dtype=np.uint8).reshape(-1, SEED + half)
    words = widen(memoryview(rows[:, SEED:].tobytes()), ring.width).reshape(-1, len(ring.primes), ring.degree)
    return rows[:, :SEED], made.checked(words, step)
