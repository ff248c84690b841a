"""The shared key of Paillier's encryption at a participant (`crypto.paillier`): for statistics and short vectors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from crypto.errors import ProtocolError
from crypto.paillier.keys import new_owner, owner_from, public_from
from crypto.paillier.noise import Encryptor
from crypto.paillier.packing import Packing
from crypto.paillier.vectors import decrypt, encrypt, encrypted_from
from fedcore.participant.mods.protocols.base import Agreed

MANY = 100
"""Ciphertexts from which on a table of randomness pays, which is made in the time of 64."""


class Paillier:
    """Encrypts and decrypts with the shared key.

    Args:
        secret: The key.
        agreed: In the session.
        members: Of the session.
    """

    def __init__(self, secret: bytes, agreed: Agreed, members: int) -> None:
        self._owner = owner_from(secret, agreed.key_bits, "group")
        self._members = members
        self._fast: Encryptor | None = None

    @staticmethod
    def new_key(agreed: Agreed, members: int) -> bytes:
        """A fresh secret key."""
        return new_owner(agreed.key_bits).to_bytes()

    @staticmethod
    def public(secret: bytes, agreed: Agreed) -> bytes:
        """What the coordinator adds with."""
        made = owner_from(secret, agreed.key_bits, "group").public
        return public_from(made.to_bytes(), agreed.key_bits, "group").to_bytes()

    def encrypt(self, values: npt.NDArray[np.int64], limit: int) -> bytes:
        """Whole numbers of at most the limit."""
        packing = paillier_packing(limit, self._members, self._owner.public.bits)
        with_table = packing.ciphertexts(len(values)) >= MANY or self._fast is not None
        if with_table and self._fast is None:
            self._fast = Encryptor(self._owner.public)
        made = encrypt(self._fast or self._owner, values, packing)
        return made.to_bytes(self._owner.public)

    def decrypt(self, total: bytes, words: int, limit: int, least: int) -> npt.NDArray[np.int64]:
        """A sum."""
        packing = paillier_packing(limit, self._members, self._owner.public.bits)
        came = encrypted_from(total, words, self._owner.public, packing, "open")
        opened = decrypt(self._owner, packing, came, least=least, step="open")
        if opened.weight != opened.terms:
            raise ProtocolError("a sum came in which a vector counts more than once", step="open")
        return np.array(opened.units, dtype=np.int64)


def paillier_packing(limit: int, members: int, bits: int) -> Packing:
    """The form of whole numbers of at most a limit.

    Raises:
        ProtocolError: They do not fit the key.
    """
    try:
        return Packing(float(limit), 0, members, 1, bits)
    except ValueError as error:
        raise ProtocolError(str(error), step="masked") from None
