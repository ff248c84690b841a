"""A participant's place in the cohort: what it makes of the roster, once in a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from crypto.errors import ProtocolError
from crypto.secagg import keys
from crypto.secagg.graph import Assumptions, NoParameters
from crypto.secagg.keys import Advert, OwnKey
from crypto.secagg.messages import Kind, Roster
from crypto.secagg.protocol import Cohort, cohort_of
from crypto.signatures import Authenticator
from crypto.streams import StreamCipher

_STEP = Kind.ROSTER.step


@dataclass(frozen=True)
class Place:
    """Where a participant stands, and the secrets it shares there.

    Args:
        cohort: Of the run.
        index: Of this participant.
        pairs: The secret with each neighbour, by its index, ascending.
    """

    cohort: Cohort
    index: int
    pairs: dict[int, bytes] = field(repr=False)

    @property
    def neighbours(self) -> tuple[int, ...]:
        """Their indices, ascending."""
        return tuple(self.pairs)

    def among(self, members: frozenset[int]) -> tuple[int, ...]:
        """The neighbours in a set, ascending."""
        return tuple(other for other in self.pairs if other in members)

    def enough(self, members: frozenset[int], kind: Kind) -> tuple[int, ...]:
        """The neighbours in a set.

        Args:
            members: That take part.
            kind: Of the message that says so.

        Raises:
            ProtocolError: This participant is not in the set, or not well hidden there.
        """
        limits, partners = self.cohort.parameters, self.among(members)
        if self.index not in members:
            raise ProtocolError("this participant is not among those that take part", step=kind.step)
        if len(members) < limits.least or len(partners) < limits.threshold:
            raise ProtocolError(
                f"{len(members)} of {limits.cohort} participants and {len(partners)} of {limits.degree} "
                f"neighbours take part; {limits.least} and {limits.threshold} are needed, or the sum would protect "
                "too little",
                step=kind.step,
            )
        return partners


def take_place(
    roster: bytes,
    key: OwnKey,
    advert: Advert,
    run: bytes,
    assumptions: Assumptions,
    authenticator: Authenticator | None,
    cipher: StreamCipher = "aes",
) -> Place:
    """Check message 2 and agree on a secret with each neighbour.

    Args:
        roster: As it came.
        key, advert: This participant's own.
        run, assumptions, authenticator, cipher: As in `Participant`.

    Raises:
        ProtocolError: This participant is not in it; a neighbour's key was changed, is not signed as it has
            to be or stands there twice; or the cohort does not hold the assumptions.
    """
    told = Roster.decode(roster)
    try:
        cohort = cohort_of(run, told.leaves, assumptions, cipher)
    except NoParameters as error:
        raise ProtocolError(str(error), step=_STEP) from None
    except ValueError as error:
        raise ProtocolError(f"the roster is none: {error}", step=_STEP) from None
    own = keys.leaf(key.name, advert.public)
    if told.leaves != cohort.leaves or own not in told.leaves:
        raise ProtocolError(
            f"the roster does not have the key of {key.name} in its place: somebody changed it on the way",
            step=_STEP,
        )
    index = cohort.leaves.index(own)
    neighbours = cohort.graph.neighbours(index)
    if set(told.neighbours) != set(neighbours):
        raise ProtocolError("the roster has keys of others than the neighbours", step=_STEP)
    pairs: dict[int, bytes] = {}
    publics = set()
    for other in neighbours:
        theirs = told.neighbours[other]
        if keys.leaf(theirs.name, theirs.public) != cohort.leaves[other]:
            raise ProtocolError(f"the key of {theirs.name} is not that of the roster", step=_STEP)
        if theirs.name == key.name or theirs.public in publics:
            raise ProtocolError(
                f"{theirs.name} advertised a name or key that another participant has; each has its own",
                step=_STEP,
            )
        publics.add(theirs.public)
        keys.check_advert(theirs, run, authenticator)
        pairs[other] = key.agree(theirs, cohort.binding)
    return Place(cohort, index, pairs)
