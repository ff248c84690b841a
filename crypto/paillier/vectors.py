"""Sums of vectors under Paillier's encryption: participants encrypt, the coordinator adds.

    participant -> coordinator     head, ciphertexts of its values
    coordinator                    adds them, each times a public weight where the job says so
    coordinator -> key's holder    head, ciphertexts of the sum
    key's holder -> coordinator    the sums, if enough participants are in them

    head    "FCP1" || fingerprint of key and form, 16 || values, 4 || participants, 4 || sum of weights, 8; numbers
            little end first

Who learns what. The coordinator learns which participants take part, public weights and the length, and the
sums if the holder gives them. The holder of the key learns the sums and can decrypt every single ciphertext
that reaches it: it must not be the coordinator, nor be given participants' own ciphertexts. Where
participants share the key, each is such a holder.

Threshold: `decrypt` refuses a sum over fewer participants than `least`. It counts what the coordinator tells;
the sum of weights inside the ciphertexts shows a mistake (a missing or doubled batch), not a coordinator that
multiplies one batch to look like many. So the coordinator is semi-honest and does not work together with a
holder of the key.

Assumption: those of `keys` and `noise`. Bytes at 3072 bits: 36 and 768 for each ciphertext; of values with
40-bit slots 75 stand in one, so 10 bytes a value. Rounds: 1 and the answer.

Source: Paillier, EUROCRYPT 1999, section 8; layout in `packing`.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from crypto.errors import ProtocolError
from crypto.paillier.keys import Owner, PublicKey, ciphertext_from, integers
from crypto.paillier.noise import Encryptor
from crypto.paillier.packing import Packing, Whole, pack, unpack

_HEAD = struct.Struct("<4s16sIIQ")
_MAGIC = b"FCP1"
_LABEL = b"fedcore paillier form 1"
MOST_VALUES = 1 << 24


@dataclass(frozen=True)
class Encrypted:
    """Ciphertexts of one vector or of a sum of vectors.

    Args:
        form: Fingerprint of the key and the packing, 16 bytes.
        count: Values.
        terms: Participants in it.
        weight: Sum of their weights.
        ciphertexts: As numbers.
    """

    form: bytes
    count: int
    terms: int
    weight: int
    ciphertexts: tuple[int, ...]

    def to_bytes(self, public: PublicKey) -> bytes:
        """What travels; `encrypted_from` reads it."""
        head = _HEAD.pack(_MAGIC, self.form, self.count, self.terms, self.weight)
        return head + b"".join(number.to_bytes(public.size, "little") for number in self.ciphertexts)


@dataclass(frozen=True)
class Opened:
    """A decrypted sum.

    Args:
        units: Exact sums of the whole numbers, weighted.
        terms: Participants in it.
        weight: Sum of their weights.
        fraction: Binary digits after the point of the units.
    """

    units: tuple[int, ...]
    terms: int
    weight: int
    fraction: int

    def sums(self) -> npt.NDArray[np.float64]:
        """The sums in the values' own unit, (n,), each rounded once to a float."""
        return np.array([number / (1 << self.fraction) for number in self.units], dtype=np.float64)

    def means(self) -> npt.NDArray[np.float64]:
        """The weighted means, (n,)."""
        return np.array([number / (self.weight << self.fraction) for number in self.units], dtype=np.float64)


def fingerprint(public: PublicKey, packing: Packing) -> bytes:
    """Of a key and a form of numbers, 16 bytes; what differs in it is refused.

    Raises:
        ValueError: The form is for a key of another length.
    """
    if packing.bits != public.bits:
        raise ValueError(f"the form is for keys of {packing.bits} bits, the key has {public.bits}")
    parts = (packing.limit, packing.fraction, packing.cohort, packing.weight)
    state = hashlib.sha256(_LABEL + struct.pack("<QQQQ", *parts) + public.to_bytes())
    return state.digest()[:16]


def size(count: int, packing: Packing) -> int:
    """Bytes of a message of that many values."""
    return _HEAD.size + packing.ciphertexts(count) * (packing.bits // 4)


def encrypt(encryptor: Encryptor | Owner, numbers: Whole, packing: Packing) -> Encrypted:
    """A participant's vector.

    Args:
        encryptor: Of the key; `Encryptor` is the fast one.
        numbers: (n,) integers out of `whole_numbers`, n at least 1.
        packing: Their form.

    Raises:
        ValueError: A number is out of bounds, or there are none or too many; nothing was encrypted.
    """
    form = fingerprint(encryptor.public, packing)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or not 1 <= numbers.size <= MOST_VALUES:
        raise ValueError(
            f"numbers are (n,) integers, n from 1 to 2^24; these are {numbers.shape} {numbers.dtype}"
        )
    if int(numbers.max()) > packing.limit or int(numbers.min()) < -packing.limit:
        raise ValueError(f"a number is not between -{packing.limit} and {packing.limit}")
    plain, step = numbers.tolist(), packing.slots
    made = tuple(encryptor.encrypt(pack(plain[at : at + step], packing)) for at in range(0, len(plain), step))
    return Encrypted(form, len(plain), 1, 1, made)


def encrypted_from(
    data: bytes | memoryview, count: int, public: PublicKey, packing: Packing, step: str
) -> Encrypted:
    """A batch that came.

    Args:
        data: The message.
        count: Values it must have.
        public, packing: Of this run.
        step: For errors.

    Raises:
        ProtocolError: Its length is another, it was made under another key or form, it claims more participants
            or weight than the cohort has, or a ciphertext is not one of the key's.
    """
    if len(data) != size(count, packing):
        raise ProtocolError(f"{len(data)} bytes came where {size(count, packing)} are expected", step=step)
    magic, form, told, terms, weight = _HEAD.unpack(data[: _HEAD.size])
    if magic != _MAGIC or told != count:
        raise ProtocolError(f"what came are not Paillier ciphertexts of {count} values", step=step)
    if form != fingerprint(public, packing):
        raise ProtocolError(
            "the ciphertexts that came are under another key or another form of numbers (bound, digits, cohort, weight); "
            "all participants must have the same",
            step=step,
        )
    if not 1 <= terms <= packing.cohort or not terms <= weight <= packing.capacity:
        raise ProtocolError(
            f"{terms} participants of total weight {weight} are told, the cohort has at most {packing.cohort} of "
            f"{packing.capacity}",
            step=step,
        )
    body = memoryview(data)[_HEAD.size :]
    made = tuple(
        ciphertext_from(body[at : at + public.size], public, step) for at in range(0, len(body), public.size)
    )
    return Encrypted(form, count, terms, weight, made)


def weighted(public: PublicKey, packing: Packing, batch: Encrypted, weight: int) -> Encrypted:
    """A batch with all its numbers times a public weight.

    Args:
        public, packing: Of this run.
        batch: One participant's, or a sum.
        weight: A whole number, at least 1.

    Raises:
        ValueError: The weights would exceed what the form has room for.
    """
    if weight < 1 or batch.weight * weight > packing.capacity:
        raise ValueError(
            f"weight {weight} on a batch of weight {batch.weight}: at least 1, and {packing.capacity} in total"
        )
    square, powmod = public.n * public.n, integers().powmod
    made = tuple(int(powmod(number, weight, square)) for number in batch.ciphertexts)
    return replace(batch, weight=batch.weight * weight, ciphertexts=made)


def add(public: PublicKey, packing: Packing, batches: Iterable[Encrypted]) -> Encrypted:
    """The sum of batches of different participants.

    Raises:
        ValueError: There are none, they are of different keys, forms or lengths, or more than there is room for.
    """
    total: Encrypted | None = None
    mpz, square = integers().mpz, integers().mpz(public.n) ** 2
    running: list[int] = []
    for batch in batches:
        if total is None:
            total, running = batch, [mpz(number) for number in batch.ciphertexts]
            continue
        if (batch.form, batch.count) != (total.form, total.count):
            raise ValueError("batches of different keys, forms of numbers or lengths do not add")
        total = replace(total, terms=total.terms + batch.terms, weight=total.weight + batch.weight)
        if total.terms > packing.cohort or total.weight > packing.capacity:
            raise ValueError(
                f"{total.terms} participants of total weight {total.weight} are more than the form has room for: "
                f"{packing.cohort} of {packing.capacity}"
            )
        running = [a * b % square for a, b in zip(running, batch.ciphertexts, strict=True)]
    if total is None:
        raise ValueError("there is no batch to add")
    return replace(total, ciphertexts=tuple(int(number) for number in running))


def decrypt(owner: Owner, packing: Packing, total: Encrypted, *, least: int, step: str) -> Opened:
    """The sums of a batch that `encrypted_from` has checked.

    Args:
        owner: Of the key.
        packing: Of this run.
        total: From the coordinator.
        least: Participants that must be in it.
        step: For errors.

    Raises:
        ProtocolError: There are fewer participants in it, or it is not the sum that its head tells.
    """
    if total.form != fingerprint(owner.public, packing):
        raise ProtocolError("the ciphertexts are under another key or another form of numbers", step=step)
    if total.terms < least:
        raise ProtocolError(
            f"the sum is over {total.terms} participants, at least {least} must be in it; it was not decrypted",
            step=step,
        )
    units: list[int] = []
    for ciphertext in total.ciphertexts:
        units += unpack(owner.decrypt(ciphertext), total.weight, packing, step)
    return Opened(tuple(units[: total.count]), total.terms, total.weight, packing.fraction)
