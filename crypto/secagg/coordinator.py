"""The coordinator of secure aggregation: meets the participants, and adds up one round after another.

    them = Coordinator(run, assumptions, authenticator)
    them.take_advert(name, bytes) ...; rosters = them.rosters()
    each round:  them.take_shares(name, bytes) ...; round = them.start(number); starts = round.starts()
                 round.take_masked(name, bytes, vector) ...; survivors = round.survivors()
                 round.take_confirmation(name, bytes) ...; requests = round.requests()     # only if `active`
                 round.take_revealed(name, bytes) ...; total = round.finish()

Participants that do not answer a step are left out of the next. What one sends wrongly raises `ProtocolError`
and changes nothing: it counts as not sent. `RoundFailed` ends a round, with numbers; the next can be started
at once. Shares of later rounds can come at any time.
"""

from __future__ import annotations

from crypto.errors import ProtocolError
from crypto.secagg import keys
from crypto.secagg.graph import Assumptions, NoParameters, parameters
from crypto.secagg.keys import Advert
from crypto.secagg.messages import Kind, Roster, Shares, unpack, unpack_advert
from crypto.secagg.protocol import Cohort, RoundFailed, cohort_of
from crypto.secagg.round import Round
from crypto.signatures import Authenticator
from crypto.streams import StreamCipher


class Coordinator:
    """The side that gets the sums.

    Args:
        run: 32 bytes that no other run has.
        assumptions: About the cohort; every participant has the same of its own.
        authenticator: Checks with the pinned identities, so that a wrong key is refused early; the
            participants check too.
        cipher: Of the masks; every participant has the same.
    """

    def __init__(
        self,
        run: bytes,
        assumptions: Assumptions,
        authenticator: Authenticator | None = None,
        cipher: StreamCipher = "aes",
    ) -> None:
        self._run = run
        self._cipher: StreamCipher = cipher
        self._assumptions = assumptions
        self._authenticator = authenticator
        self._adverts: dict[str, Advert] = {}
        self._cohort: Cohort | None = None
        self._names: tuple[str, ...] = ()
        self._near: tuple[tuple[int, ...], ...] = ()
        self._shares: dict[int, dict[int, Shares]] = {}
        self._last = 0

    @property
    def cohort(self) -> Cohort:
        """Of the run, once the rosters are made.

        Raises:
            ProtocolError: They are not.
        """
        if self._cohort is None:
            raise ProtocolError("the rosters are not made yet", step=Kind.ROSTER.step)
        return self._cohort

    @property
    def names(self) -> tuple[str, ...]:
        """Of the participants, by index."""
        return self._names

    # ---- once a run -------------------------------------------------------------------------------------

    def take_advert(self, name: str, advert: bytes) -> None:
        """Take message 1.

        Args:
            name: Who sent it, as the transport knows.
            advert: As it came.

        Raises:
            ProtocolError: It is none, another's, not signed as it has to be, or its name or key came before;
                or the roster is made.
        """
        if self._cohort is not None:
            raise ProtocolError(
                f"{name} comes after the roster was made; take it into the next run", step=Kind.ADVERT.step
            )
        told = unpack_advert(advert)
        if told.name != name:
            raise ProtocolError(f"{name} sent the key of {told.name}", step=Kind.ADVERT.step)
        if name in self._adverts or any(told.public == other.public for other in self._adverts.values()):
            raise ProtocolError(
                f"the name or the key of {name} came before; each participant has one of its own",
                step=Kind.ADVERT.step,
            )
        keys.check_advert(told, self._run, self._authenticator)
        self._adverts[name] = told

    def rosters(self) -> dict[str, bytes]:
        """Message 2 for each participant whose key came; nobody comes in afterwards.

        Raises:
            RoundFailed: They are too few for the assumptions.
        """
        leaves = {keys.leaf(each.name, each.public): each for each in self._adverts.values()}
        try:
            cohort = cohort_of(self._run, leaves, self._assumptions, self._cipher)
        except NoParameters as error:
            raise RoundFailed(
                step=Kind.ROSTER.step,
                number=0,
                left=len(leaves),
                needed=_needed(len(leaves), self._assumptions),
                cohort=len(leaves),
                reason=str(error),
            ) from None
        by_index = [leaves[leaf] for leaf in cohort.leaves]
        self._cohort = cohort
        self._names = tuple(each.name for each in by_index)
        self._near = tuple(cohort.graph.neighbours(index) for index in range(cohort.size))
        return {
            name: Roster(cohort.leaves, {other: by_index[other] for other in near}).encode()
            for name, near in zip(self._names, self._near, strict=True)
        }

    # ---- each round -------------------------------------------------------------------------------------

    def take_shares(self, name: str, shares: bytes) -> int:
        """Take message 3, of any round that was not started yet.

        Returns:
            The number of that round.

        Raises:
            ProtocolError: It is none, or of a round that was started, or another came before.
        """
        index = self._index(name, Kind.SHARES)
        body = unpack(shares, Kind.SHARES, sender=index, number=None, binding=self.cohort.binding)
        if body.number <= self._last:
            raise ProtocolError(
                f"shares of {name} for round {body.number} came after it had started; they count as not sent",
                step=Kind.SHARES.step,
            )
        read = Shares.read(body, len(self._near[index]))
        if index in self._shares.setdefault(body.number, {}):
            raise ProtocolError(f"shares of {name} for round {body.number} came twice", step=Kind.SHARES.step)
        self._shares[body.number][index] = read
        return body.number

    def start(self, number: int) -> Round:
        """Begin a round with those whose shares for it came.

        Args:
            number: Above that of every round before; of rounds in between shares are thrown away.

        Raises:
            RoundFailed: They are too few; the number is used up.
            ValueError: The number is not above those before.
        """
        if number <= self._last:
            raise ValueError(f"round {number} after round {self._last}; rounds only go up")
        cohort, self._last = self.cohort, number
        shares = self._shares.pop(number, {})
        self._shares = {later: each for later, each in self._shares.items() if later > number}
        begun = set(shares)
        # Who has too few neighbours left would refuse; without it others may have too few.
        while lonely := {v for v in begun if self._left(v, begun) < cohort.parameters.threshold}:
            begun -= lonely
        if len(begun) < cohort.parameters.least:
            raise RoundFailed(
                step=Kind.START.step,
                number=number,
                left=len(begun) if len(shares) >= cohort.parameters.least else len(shares),
                needed=cohort.parameters.least,
                cohort=cohort.size,
                reason=f"{len(shares)} sent shares; each needs {cohort.parameters.threshold} neighbours among them",
            )
        return Round(cohort, self._names, self._near, number, {v: shares[v] for v in begun})

    def _left(self, index: int, members: set[int]) -> int:
        return sum(other in members for other in self._near[index])

    def _index(self, name: str, kind: Kind) -> int:
        self.cohort  # noqa: B018  (raises before there are names)
        if name not in self._names:
            raise ProtocolError(f"{name} is not in the roster of this run", step=kind.step)
        return self._names.index(name)


def _needed(cohort: int, assumptions: Assumptions) -> int:
    """The smallest cohort from this one on that the assumptions allow; 0 if none of the next thousand."""
    for size in range(cohort + 1, cohort + 1000):
        try:
            parameters(size, assumptions)
        except NoParameters:
            continue
        return size
    return 0
