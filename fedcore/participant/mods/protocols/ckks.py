"""The shared key of CKKS at a participant (`crypto.ckks`): whole numbers in, exact sums out.

CKKS is approximate. What is added here are whole numbers that stand so far apart that rounding what was decrypted finds
their exact sum (`crypto.ckks.parameters`), so that the noise of the encryption, which would tell of the key, leaves
nobody; what is left is the rounding of the numbers themselves (`Form`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from crypto.ckks.keys import new_key, secret_from
from crypto.ckks.parameters import Parameters
from crypto.ckks.vectors import decrypt, encrypt
from crypto.errors import ProtocolError
from fedcore.participant.mods.protocols.base import Agreed


class Ckks:
    """Encrypts and decrypts with the shared key.

    Args:
        secret: The key.
        agreed: In the session.
        members: Of the session.
    """

    def __init__(self, secret: bytes, agreed: Agreed, members: int) -> None:
        self._key, self._members = secret_from(secret, "group"), members

    @staticmethod
    def new_key(agreed: Agreed, members: int) -> bytes:
        """A fresh secret key."""
        return new_key(ckks_parameters(members).ring).to_bytes()

    @staticmethod
    def public(secret: bytes, agreed: Agreed) -> bytes:
        """What the coordinator adds with."""
        return secret_from(secret, "group").public.to_bytes()

    def encrypt(self, values: npt.NDArray[np.int64], limit: int) -> bytes:
        """Whole numbers of at most the limit."""
        self._check(limit)
        return encrypt(self._key, values, ckks_parameters(self._members))

    def decrypt(self, total: bytes, words: int, limit: int, least: int) -> npt.NDArray[np.int64]:
        """A sum."""
        self._check(limit)
        opened = decrypt(self._key, ckks_parameters(self._members), total, words, least=least, step="open")
        if opened.weight != opened.terms:
            raise ProtocolError("a sum came in which a vector counts more than once", step="open")
        return opened.units

    def _check(self, limit: int) -> None:
        if limit > ckks_parameters(self._members).limit:
            raise ProtocolError(f"numbers up to {limit} are more than the key was made for", step="masked")


def ckks_parameters(members: int) -> Parameters:
    """Of sums of words of 32 bits: each at most (2^31 - 1) / members in size."""
    return Parameters(members, 1, ((2**31 - 1) // members).bit_length())
