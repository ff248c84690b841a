"""What protocols with keys between all members have in common at a participant (`crypto.members`)."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Self

from crypto.errors import ProtocolError
from crypto.members import Member, new_member
from crypto.rlwe.committee import committee
from crypto.secagg.graph import NoParameters
from crypto.signatures import Authenticator
from fedcore.participant.mods.protocols.base import Agreed, Driver, Told

State = dict[str, Any]
"""What a protocol keeps, for JSON: texts and numbers."""


class MemberDriver(Driver):
    """One participant in one session.

    Args:
        member: Its key, and the others' once they have met.
        agreed: In the session.
        authenticator: Checks the others' keys; None where they are not signed.

    Attributes:
        state: What the protocol keeps besides.
        number: Of the last round that a vector left in.
    """

    def __init__(self, member: Member, agreed: Agreed, authenticator: Authenticator | None) -> None:
        self.member, self.agreed, self.authenticator = member, agreed, authenticator
        self.state: State = {}
        self.number = 0

    @classmethod
    def enter(cls, name: str, session: bytes, agreed: Agreed, authenticator: Authenticator | None) -> Self:
        """A participant that has met nobody yet."""
        member = new_member(name, session, agreed.to_json().encode(), authenticator)
        return cls(member, agreed, authenticator)

    @classmethod
    def restore(cls, saved: bytes, agreed: Agreed, authenticator: Authenticator | None) -> Self:
        """The participant as it was when saved."""
        told = json.loads(saved)
        made = cls(Member.restore(told["member"]), agreed, authenticator)
        made.state, made.number = told["state"], told["number"]
        return made

    def save(self) -> bytes:
        """All that it knows, secrets in clear."""
        told = {"member": self.member.save(), "state": self.state, "number": self.number}
        return json.dumps(told).encode()

    def advert(self) -> bytes:
        """Its signed public key."""
        return self.member.advert()

    def answer(self, stage: str, number: int, body: bytes, about: str) -> Told | None:
        """The answer to a message of the protocol itself; to `again`, that it still knows the session."""
        if stage == "again":
            return {"message": b""}
        return self.stage(stage, number, body, about)

    @abstractmethod
    def stage(self, stage: str, number: int, body: bytes, about: str) -> Told | None:
        """As `answer`, of the protocol's own stages."""

    def meet(self, roster: bytes) -> None:
        """Take the roster.

        Raises:
            ProtocolError: It is none, or too small for what this participant assumes.
        """
        self.member.meet(roster, self.authenticator)
        self.rules()

    def rules(self) -> tuple[int, int, int]:
        """Holders, threshold and the fewest in a sum that follow from the assumptions.

        Raises:
            ProtocolError: The members are too few for these.
        """
        try:
            found = committee(len(self.member.met.names), self.agreed.assumptions)
        except NoParameters as error:
            raise ProtocolError(str(error), step="roster") from None
        return found.holders, found.threshold, found.least

    def advance(self, number: int) -> None:
        """Note that a vector leaves in a round.

        Raises:
            ProtocolError: One has left in it, or in a later one.
        """
        if number <= self.number:
            raise ProtocolError(
                f"a vector for round {number} is asked for after that of round {self.number}; rounds only go up",
                step="masked",
            )
        self.number = number


def told(about: str, **kinds: type) -> Mapping[str, Any]:
    """What the coordinator says beside a message.

    Raises:
        ProtocolError: Something is missing or of another type.
    """
    try:
        found = json.loads(about)
        if all(type(found[key]) is kind for key, kind in kinds.items()):
            return dict(found)
    except (ValueError, TypeError, KeyError):
        pass
    raise ProtocolError(
        f"the coordinator's message says none of {', '.join(kinds)}; install the same version of fedcore everywhere",
        step="open",
    )
