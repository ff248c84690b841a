"""Adds vectors under Paillier's encryption at the coordinator (`crypto.paillier`)."""

from __future__ import annotations

from crypto.errors import ProtocolError
from crypto.paillier.keys import public_from
from crypto.paillier.vectors import Encrypted, add, encrypted_from
from fedcore.participant.mods.protocols.base import Agreed
from fedcore.participant.mods.protocols.paillier import paillier_packing


class PaillierSum:
    """The sum of one round.

    Args:
        public: The participants' key.
        agreed: In the session.
        members: Of the session.
        words: Of a vector.
        limit: Largest number.

    Raises:
        ProtocolError: The key is none, or too short for the numbers.
    """

    def __init__(self, public: bytes, agreed: Agreed, members: int, words: int, limit: int) -> None:
        self._public = public_from(public, agreed.key_bits, "group")
        self._packing = paillier_packing(limit, members, agreed.key_bits)
        self._words = words
        self._total: Encrypted | None = None

    def add(self, data: bytes) -> None:
        """Add one participant's."""
        came = encrypted_from(data, self._words, self._public, self._packing, "masked")
        if (came.terms, came.weight) != (1, 1):
            raise ProtocolError("a participant's ciphertexts are told to be of several", step="masked")
        both = [came] if self._total is None else [self._total, came]
        self._total = add(self._public, self._packing, both)

    def total(self) -> bytes:
        """For the member that opens it.

        Raises:
            ProtocolError: Nothing was added.
        """
        if self._total is None:
            raise ProtocolError("nothing was added", step="open")
        return self._total.to_bytes(self._public)
