"""Adds vectors under CKKS at the coordinator (`crypto.ckks`)."""

from __future__ import annotations

from crypto.ckks.keys import public_from
from crypto.ckks.vectors import Sum
from fedcore.participant.mods.protocols.base import Agreed
from fedcore.participant.mods.protocols.ckks import ckks_parameters


class CkksSum:
    """The sum of one round.

    Args:
        public: Context of the participants' key.
        agreed: In the session.
        members: Of the session.
        words: Of a vector.
        limit: Largest number.

    Raises:
        ProtocolError: The context is none.
        ValueError: It is of another ring than the sum needs.
    """

    def __init__(self, public: bytes, agreed: Agreed, members: int, words: int, limit: int) -> None:
        self._sum = Sum(public_from(public, "group"), ckks_parameters(members), words)

    def add(self, data: bytes) -> None:
        """Add one participant's."""
        self._sum.add(data, "masked")

    def total(self) -> bytes:
        """For the member that opens it."""
        return self._sum.to_bytes()
