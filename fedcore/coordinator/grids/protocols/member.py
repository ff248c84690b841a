"""What protocols with keys between all members have in common at the coordinator (`crypto.members`).

Stages: keys; each round: again, to ask those that failed in the round before whether they still know the session.
"""

from __future__ import annotations

from collections.abc import Mapping

from crypto import members
from crypto.errors import ProtocolError
from crypto.members import Roster
from crypto.rlwe.committee import Committee, committee
from crypto.secagg.graph import NoParameters
from crypto.secagg.keys import Advert
from crypto.signatures import Authenticator
from fedcore.coordinator.grids.protocols.base import Session
from fedcore.coordinator.grids.secure_stages import Stages, told_bytes
from fedcore.participant.mods.protocols.base import Agreed


class MemberSession(Session):
    """Participants that know each other's keys.

    Attributes:
        roster: Of all that sent a key; who dropped out later in the meeting is in it.
        taken: Whose vector is in the sum of this round, in the order in which they came.
    """

    def __init__(self, agreed: Agreed, authenticator: Authenticator | None) -> None:
        super().__init__(agreed, authenticator)
        self.roster = Roster(self.run, b"", ())
        self.taken: list[str] = []
        self._asked: set[str] = set()

    @property
    def size(self) -> int:
        """Members."""
        return len(self.roster.names)

    def advertise(self, stages: Stages, nodes: Mapping[str, int]) -> list[Advert]:
        """The keys of those that are there."""
        replies = stages.exchange(
            "keys", self.run, 0, dict.fromkeys(nodes, b""), nodes, self.agreed.to_json()
        )
        found: list[Advert] = []
        for name, told in replies.items():
            with stages.using(name, "keys"):
                advert = members.check_advert(name, told_bytes(told, "message"), self.run, self.authenticator)
                if any(advert.public == other.public for other in found):
                    raise ProtocolError(
                        f"the key of {name} came before; each member has its own", step="keys"
                    )
                found.append(advert)
        return found

    def enroll(self, adverts: list[Advert]) -> Committee:
        """Make the roster, and what follows from its size.

        Raises:
            RoundFailed: They are too few.
        """
        self.roster = members.roster(self.run, self.agreed.to_json().encode(), adverts)
        try:
            rules = committee(self.size, self.agreed.assumptions)
        except NoParameters as error:
            raise self.failed("roster", self.size, max(self.least, self.size), str(error)) from None
        self.least = rules.least
        return rules

    def returned(self, stages: Stages, there: Mapping[str, int]) -> dict[str, int]:
        """Those of whom it is known, or who say, that they still know the session; begins the next round."""
        doubtful = {name: b"" for name in there if name in self._asked and name not in self.taken}
        self.number += 1
        self.taken = []
        left = dict(there)
        if doubtful:
            told = stages.exchange("again", self.run, self.number, doubtful, there)
            self.stale = set(told) != set(doubtful)
            left = {name: node for name, node in there.items() if name not in doubtful or name in told}
        self._asked = set(left)
        if len(left) < self.least:
            raise self.failed("masked", len(left), self.least)
        return left

    def once(self, name: str) -> None:
        """Refuse a vector of one that was not asked, or a second one.

        Raises:
            ProtocolError: It is.
        """
        if name in self.taken:
            raise ProtocolError(f"the vector of {name} came twice; it is not counted", step="masked")
        if name not in self._asked:
            raise ProtocolError(f"{name} is not among those that a vector is awaited from", step="masked")

    def enough(self) -> None:
        """Refuse to open a sum of too few.

        Raises:
            RoundFailed: It is.
        """
        if len(self.taken) < self.least:
            raise self.failed("masked", len(self.taken), self.least)
