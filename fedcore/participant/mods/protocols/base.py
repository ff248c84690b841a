"""What every protocol of secure aggregation is at a participant: stages to answer, and a vector to protect."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from typing import Any, Self, get_args

import numpy as np
import numpy.typing as npt

from crypto.secagg.graph import Assumptions
from crypto.signatures import Authenticator
from fedcore.errors import JobError
from fedcore.jobs.secure import MaskCipher, SumProtocol
from fedcore.participant.protected import Form
from fedcore.participant.protected_steps import StepForm
from fedcore.participant.sums import SumForm

PROTOCOLS: tuple[SumProtocol, ...] = get_args(SumProtocol)
CIPHERS: tuple[MaskCipher, ...] = get_args(MaskCipher)
ACTIVE = ("secagg+", "threshold")
"""Those that hold against a coordinator that says anything to anybody."""
KEY_BITS = 3072
MOST_KEY_BITS = 16384
STEP = "secure aggregation"

MADE_OF_NOTHING = bytes(32)
"""Digest in the place of one where nothing is bound to a vector."""

AnyForm = Form | SumForm | StepForm
"""Of weighted means, of exact sums, and of sums of whole numbers."""

Told = dict[str, Any]
"""What a reply carries in its record, besides the stage; `message` is always there."""
Words = npt.NDArray[Any]


@dataclass(frozen=True)
class Agreed:
    """What coordinator and participants of a session agree on.

    Args:
        assumptions: About the cohort.
        protocol: Of the sums.
        key_bits: Of Paillier's key.
        cipher: Of the masks of `secagg+`; under others it is `aes` and has no meaning.
    """

    assumptions: Assumptions = field(default_factory=Assumptions)
    protocol: SumProtocol = "secagg+"
    key_bits: int = KEY_BITS
    cipher: MaskCipher = "aes"

    def to_json(self) -> str:
        """As it travels; the same text for the same contents."""
        told = {"protocol": self.protocol, "key_bits": self.key_bits, **asdict(self.assumptions)}
        if self.cipher != "aes":
            # Sides that know AES only understand all that asks for no other.
            told["cipher"] = self.cipher
        return json.dumps(told, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Agreed:
        """As it came.

        Raises:
            JobError: It is none, or of a protocol that this version does not have.
        """
        try:
            told = json.loads(text)
            protocol, bits = told.pop("protocol", "secagg+"), told.pop("key_bits", KEY_BITS)
            cipher = told.pop("cipher", "aes")
            assumptions = Assumptions(**told)
        except (ValueError, TypeError, AttributeError) as error:
            raise JobError(f"the coordinator's assumptions cannot be used: {error}", step=STEP) from error
        if protocol not in PROTOCOLS:
            raise JobError(
                f"the coordinator asks for protocol {protocol!r}; this participant has {', '.join(PROTOCOLS)}",
                step=STEP,
            )
        if type(bits) is not int or not 2048 <= bits <= MOST_KEY_BITS or bits % 16:
            raise JobError(
                f"the coordinator asks for a key of {bits!r} bits; from 2048 to {MOST_KEY_BITS} are allowed, a multiple "
                "of 16",
                step=STEP,
            )
        if cipher not in CIPHERS or (cipher != "aes" and protocol != "secagg+"):
            raise JobError(
                f"the coordinator asks for masks of {cipher!r} under {protocol}; this participant has "
                f"{', '.join(CIPHERS)}, others than aes under secagg+ only",
                step=STEP,
            )
        return cls(assumptions, protocol, bits, cipher)


def needs(protocol: str) -> str | None:
    """The package that a protocol needs and this side lacks, with how to get it; None when nothing is lacking."""
    try:
        if protocol == "ckks":
            from crypto.ckks.seal import library

            library()
        elif protocol == "paillier":
            from crypto.paillier.keys import integers

            integers()
    except ModuleNotFoundError as error:
        return str(error)
    return None


class Driver(ABC):
    """One participant in one session.

    A message's answer changes the driver, and what it is then is kept with `save` before the answer leaves.
    """

    @classmethod
    @abstractmethod
    def enter(cls, name: str, session: bytes, agreed: Agreed, authenticator: Authenticator | None) -> Self:
        """A participant that has met nobody yet.

        Args:
            name: Its own.
            session: 32 bytes that no other session has.
            agreed: Checked against what the participant requires.
            authenticator: Of its identity and the pinned ones; None where the coordinator is trusted with keys.
        """

    @classmethod
    @abstractmethod
    def restore(cls, saved: bytes, agreed: Agreed, authenticator: Authenticator | None) -> Self:
        """The participant as it was when saved."""

    @abstractmethod
    def save(self) -> bytes:
        """All that it knows, secrets in clear."""

    @abstractmethod
    def advert(self) -> bytes:
        """Its signed public key."""

    @abstractmethod
    def answer(self, stage: str, number: int, body: bytes, about: str) -> Told | None:
        """The answer to a message of the protocol itself; None when it has no such stage.

        Raises:
            ProtocolError: The message is not what it should be, or comes when it should not.
        """

    @abstractmethod
    def protect(
        self, number: int, body: bytes, vector: Words, form: AnyForm, made_of: bytes = MADE_OF_NOTHING
    ) -> tuple[Words, Told]:
        """What leaves in place of a vector.

        Args:
            number: Of the round.
            body: That came with the work.
            vector: Words of `Form.bits` bits; it may be overwritten.
            form: Of the round. Exact sums (`SumForm`, `StepForm`) are made under `secagg+` only.
            made_of: Digest of what the coordinator said that the vector depends on; nothing is opened together with
                one that was made of something else.

        Returns:
            An array of unsigned numbers, and what goes beside it.

        Raises:
            ProtocolError: No vector may leave now.
        """


def as_mean(form: AnyForm) -> Form:
    """The form, which is one of weighted means.

    Raises:
        JobError: Exact sums are asked for.
    """
    if not isinstance(form, Form):
        raise JobError("exact sums are made under secagg+ only", step=STEP)
    return form


def signed_words(vector: Words, form: Form) -> npt.NDArray[np.int64]:
    """The words of a vector as the whole numbers that encryption adds, of at most `Form.limit`."""
    return vector.view(np.int32 if form.bits == 32 else np.int64).astype(np.int64)
