"""Secure aggregation under pairwise masks at a participant (`crypto.secagg`): stages roster, shares, confirm, reveal."""

from __future__ import annotations

from typing import Self

from crypto.secagg.participant import Participant
from crypto.signatures import Authenticator
from crypto.streams import AddStreams
from fedcore.participant.mods.protocols.base import MADE_OF_NOTHING, Agreed, AnyForm, Driver, Told, Words


class Masks(Driver):
    """One participant in one session.

    Args:
        me: The protocol's.
    """

    def __init__(self, me: Participant) -> None:
        self._me = me

    @classmethod
    def enter(cls, name: str, session: bytes, agreed: Agreed, authenticator: Authenticator | None) -> Self:
        """A participant that has met nobody yet."""
        return cls(Participant(name, session, agreed.assumptions, authenticator, agreed.cipher))

    @classmethod
    def restore(cls, saved: bytes, agreed: Agreed, authenticator: Authenticator | None) -> Self:
        """The participant as it was when saved."""
        return cls(Participant.restore(saved, agreed.assumptions, authenticator, agreed.cipher))

    def save(self) -> bytes:
        """All that it knows, secrets in clear."""
        return self._me.save()

    def advert(self) -> bytes:
        """Its signed public key."""
        return self._me.advert()

    def answer(self, stage: str, number: int, body: bytes, about: str) -> Told | None:
        """The answer to a message of the protocol itself."""
        me = self._me
        if stage == "roster":
            me.meet(body)
            return {"message": b"", "shares": me.shares(number)}
        if stage == "shares":
            return {"message": b"", "shares": me.shares(number)}
        if stage == "confirm":
            return {"message": me.confirm(body)}
        if stage == "reveal":
            return {"message": me.reveal(body)}
        return None

    def protect(
        self,
        number: int,
        body: bytes,
        vector: Words,
        form: AnyForm,
        made_of: bytes = MADE_OF_NOTHING,
        add: AddStreams | None = None,
    ) -> tuple[Words, Told]:
        """The vector under masks, and the shares for the next round; `add` adds the masks, where that is given."""
        self._me.begin(body)
        message = self._me.mask(vector, made_of, add=add)
        return vector, {"message": message, "shares": self._me.shares(number + 1)}
