"""A participant of secure aggregation: makes and takes messages, and refuses what it must not answer.

    me = Participant("clinic", run, assumptions, authenticator)
    send(me.advert()); me.meet(roster)
    each round:  send(me.shares(number)); me.begin(start); send(me.mask(vector), vector)
                 send(me.confirm(survivors)); send(me.reveal(request))    # `curious`: me.reveal(survivors) only

Each step of a round is done once, in this order, and rounds only go up. A message that is not the next one,
or says what must not be, raises `ProtocolError` and changes nothing. `shares` alone may be asked again, and
ahead of its round, and gives the same bytes; whatever else has to be sent again is kept by whoever sends it.
"""

from __future__ import annotations

import hmac
import secrets
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from crypto.errors import ProtocolError
from crypto.kernels.keystream import check_words
from crypto.secagg import keys
from crypto.secagg.graph import Assumptions
from crypto.secagg.keys import TAG, Advert, OwnKey
from crypto.secagg.messages import (
    COORDINATOR,
    SEALED,
    SHARE,
    Kind,
    Shares,
    bitmap,
    pack,
    pack_advert,
    tags,
    unpack,
)
from crypto.secagg.place import Place, take_place
from crypto.secagg.protocol import Cohort, cohort_of, set_digest
from crypto.secagg.shamir import RANDOMNESS, split
from crypto.secagg.state import Done, RoundState, State, dump, load
from crypto.signatures import Authenticator
from crypto.streams import AddStreams, StreamCipher, add_streams

Words = npt.NDArray[Any]
MOST_ROUNDS = 2**32 - 1


class Participant:
    """One participant in one run.

    Args:
        name: Its own, as its identity is pinned.
        run: 32 bytes that no other run has.
        assumptions: About the cohort: the participant's own, never the coordinator's word.
        authenticator: Signs and checks with the pinned identities; None where whoever forwards keys is
            trusted.
        cipher: Of the masks; all in the run have the same.

    Raises:
        ProtocolError: The name is none.
    """

    def __init__(
        self,
        name: str,
        run: bytes,
        assumptions: Assumptions,
        authenticator: Authenticator | None = None,
        cipher: StreamCipher = "aes",
    ) -> None:
        self._run = run
        self._cipher: StreamCipher = cipher
        self._assumptions = assumptions
        self._authenticator = authenticator
        self._key = OwnKey(name, X25519PrivateKey.generate())
        self._advert = self._key.advert(run, authenticator)
        self._root = secrets.token_bytes(keys.SECRET)
        self._place: Place | None = None
        self._round: RoundState | None = None

    def __repr__(self) -> str:
        at = f"round {self._round.number} {self._round.done}" if self._round else "no round yet"
        return f"Participant({self.name!r}, {at}, secrets=<hidden>)"

    @property
    def name(self) -> str:
        """Its own."""
        return self._key.name

    # ---- once a run -------------------------------------------------------------------------------------

    def advert(self) -> bytes:
        """Message 1: the signed public key."""
        return pack_advert(self._advert)

    def meet(self, roster: bytes) -> Cohort:
        """Take message 2: agree on a secret with each neighbour.

        Returns:
            The cohort, with the degree and threshold that follow from this participant's own assumptions.

        Raises:
            ProtocolError: One came before; this participant is not in it; a neighbour's key was changed, is not
                signed as it has to be or stands there twice; or the cohort does not hold the assumptions.
        """
        if self._place is not None:
            raise ProtocolError("a second roster came; a run has one", step=Kind.ROSTER.step)
        self._place = take_place(
            roster,
            self._key,
            self._advert,
            self._run,
            self._assumptions,
            self._authenticator,
            self._cipher,
        )
        return self._place.cohort

    # ---- each round -------------------------------------------------------------------------------------

    def shares(self, number: int) -> bytes:
        """Message 3 for a round: shares of what hides this participant's vector in it.

        Args:
            number: Of the round, above that of the last one begun.

        Raises:
            ProtocolError: The round has begun or is over.
        """
        place = self._met()
        cohort, index = place.cohort, place.index
        self._later(number, Kind.SHARES)
        b, u = self._secret(b"self mask", number), self._secret(b"box", number)
        randomness = self._secret(b"polynomials", number)[:RANDOMNESS]
        of_b, of_u = split([b, u], place.neighbours, cohort.parameters.threshold, randomness)
        sealed, digests, seeds = [], [], []
        for (other, pair), share_b, share_u in zip(place.pairs.items(), of_b, of_u, strict=True):
            key = keys.derive(pair, b"shares", number, index, other)
            sealed.append(keys.seal(key, share_b + share_u, cohort.binding))
            where = cohort.binding, number, index, other
            digests.append(
                (keys.commit(b"share b", *where, share_b), keys.commit(b"share u", *where, share_u))
            )
            seeds.append(keys.pair_seed(pair, number, index, other))
        where = cohort.binding, number, index, index
        commitments = keys.commit(b"b", *where, b), keys.commit(b"u", *where, u)
        box = keys.seal(keys.derive(u, b"box", number), b"".join(seeds), cohort.binding)
        return self._pack(Kind.SHARES, number, Shares(commitments, sealed, digests, box).body())

    def begin(self, start: bytes) -> int:
        """Take message 4: who takes part, and the shares of others. What an earlier round left is forgotten.

        Returns:
            The number of the round.

        Raises:
            ProtocolError: The round is not later than the last; this participant is not in it; too few are;
                or shares were changed, or come from another round.
        """
        place = self._met()
        binding = place.cohort.binding
        body = unpack(start, Kind.START, sender=COORDINATOR, number=None, binding=binding)
        number = body.number
        self._later(number, Kind.START)
        begun = body.members(place.cohort.size)
        partners = place.enough(begun, Kind.START)
        sealed = body.pieces(len(partners), SEALED)
        body.end()
        shares = {}
        for other, each in zip(partners, sealed, strict=True):
            key = keys.derive(place.pairs[other], b"shares", number, other, place.index)
            text = keys.unseal(key, each, binding)
            if text is None:
                raise ProtocolError(
                    f"the shares that came from participant {other} were not made for this participant and "
                    "round: somebody changed them on the way, or they are of another round",
                    step=Kind.START.step,
                )
            shares[other] = text[:SHARE], text[SHARE:]
        self._round = RoundState(number, "begun", begun, shares)
        return number

    def mask(self, vector: Words, made_of: bytes = b"", *, add: AddStreams | None = None) -> bytes:
        """Mask a vector in place, and make message 5, which travels beside it.

        Args:
            vector: (n,) uint32 or uint64, contiguous, as `quantisation.quantise` makes it.
            made_of: Digest of all that the coordinator said which the vector depends on; no sum is opened in which
                a neighbour has another.
            add: Adds the masks instead, say on a GPU. What it raises ends this participant's part in the round: the
                masks count as used, and what stands in the vector must not leave.

        Raises:
            ProtocolError: The round has not begun, or a vector was masked in it.
            ValueError: The vector has another form.
        """
        place, at = self._at("begun", Kind.MASKED)
        check_words(vector)
        partners = place.among(at.begun)
        seeds = [keys.pair_seed(place.pairs[other], at.number, place.index, other) for other in partners]
        seeds.insert(0, self._secret(b"self mask", at.number))
        masks = [keys.stream_key(seed, self._cipher) for seed in seeds]
        minus = np.array([False, *(other < place.index for other in partners)])
        # The state goes first: should this be interrupted, no second vector meets the same masks.
        at.done = "masked"
        add_streams(self._cipher, masks, minus, vector, add=add)
        at.made_of = made_of
        digest = self._digest("begun", at.number, at.begun, made_of=made_of)
        tagged = b"".join(self._tag(b"masked", at.number, other, digest) for other in partners)
        size = (8 * vector.itemsize).to_bytes(1, "little") + len(vector).to_bytes(8, "little")
        return self._pack(Kind.MASKED, at.number, size + tagged)

    def confirm(self, survivors: bytes) -> bytes:
        """Take message 6, whose vectors came, and make message 7. Only under `active`.

        Raises:
            ProtocolError: It is not the next message; this participant is not in it; too few are; or a
                neighbour in it masked with others than this one was told of.
        """
        place, at = self._at("masked", Kind.SURVIVORS)
        if self._assumptions.adversary != "active":
            raise ProtocolError(
                "nothing is confirmed where the coordinator is curious", step=Kind.SURVIVORS.step
            )
        at.survivors = self._survivors(survivors, at)
        at.done = "confirmed"
        digest = self._digest("confirm", at.number, at.begun, at.survivors)
        partners = place.among(at.survivors)
        tagged = b"".join(self._tag(b"confirm", at.number, other, digest) for other in partners)
        return self._pack(Kind.CONFIRM, at.number, tagged)

    def reveal(self, request: bytes) -> bytes:
        """Take message 8 (under `curious` message 6) and make message 9: one share for each neighbour.

        Of a neighbour whose vector came it is the share of its self mask, of another that of its box, never both.
        All shares of the round are forgotten.

        Raises:
            ProtocolError: It is not the next message; or fewer neighbours than the threshold confirmed the
                survivors; or a confirmation is of others.
        """
        if self._assumptions.adversary == "active":
            place, at = self._at("confirmed", Kind.REQUEST)
            self._check_confirmations(request, at)
        else:
            place, at = self._at("masked", Kind.SURVIVORS)
            at.survivors = self._survivors(request, at)
        at.done = "revealed"
        held, at.shares = at.shares, {}
        chosen = (held[other][0 if other in at.survivors else 1] for other in place.among(at.begun))
        return self._pack(Kind.REVEAL, at.number, b"".join(chosen))

    # ---- what is checked --------------------------------------------------------------------------------

    def _met(self) -> Place:
        if self._place is None:
            raise ProtocolError("no roster has come yet", step=Kind.ROSTER.step)
        return self._place

    def _at(self, done: Done, kind: Kind) -> tuple[Place, RoundState]:
        place, at = self._met(), self._round
        if at is None or at.done != done:
            state = "no round has begun" if at is None else f"round {at.number} is {at.done}"
            raise ProtocolError(
                f"{state}; this comes once, when it is {done}. A step of a round is never done twice",
                step=kind.step,
            )
        return place, at

    def _later(self, number: int, kind: Kind) -> None:
        last = self._round.number if self._round else 0
        if not last < number <= MOST_ROUNDS:
            raise ProtocolError(f"round {number} comes after round {last}; rounds only go up", step=kind.step)

    def _survivors(self, raw: bytes, at: RoundState) -> frozenset[int]:
        cohort = self._met().cohort
        step = Kind.SURVIVORS
        body = unpack(raw, step, sender=COORDINATOR, number=at.number, binding=cohort.binding)
        survivors = body.members(cohort.size)
        if not survivors <= at.begun:
            raise ProtocolError("a participant came in after the round had begun", step=step.step)
        digest = self._digest("begun", at.number, at.begun, made_of=at.made_of)
        for other, found in tags(body, self._met().enough(survivors, step)).items():
            if not self._tagged(b"masked", at.number, other, digest, found):
                raise ProtocolError(
                    f"participant {other} did not mask with the participants that this one was told of, or was sent "
                    "another model, task or form than this one",
                    step=step.step,
                )
        return survivors

    def _check_confirmations(self, raw: bytes, at: RoundState) -> None:
        place, step = self._met(), Kind.REQUEST
        limits = place.cohort.parameters
        body = unpack(raw, step, sender=COORDINATOR, number=at.number, binding=place.cohort.binding)
        digest = self._digest("confirm", at.number, at.begun, at.survivors)
        silent = set(place.among(at.survivors))
        count = body.number_of(4, len(silent))
        for _ in range(count):
            other, found = body.number_of(4, limits.cohort - 1), body.take(TAG)
            if other not in silent:
                raise ProtocolError(
                    f"participant {other} cannot confirm this, or did so before", step=step.step
                )
            silent.remove(other)
            if not self._tagged(b"confirm", at.number, other, digest, found):
                raise ProtocolError(
                    f"participant {other} did not confirm the survivors that this one was told of: the "
                    "coordinator told different ones, or somebody changed them on the way",
                    step=step.step,
                )
        body.end()
        if count < limits.threshold:
            raise ProtocolError(
                f"{count} of {limits.degree} neighbours confirmed the survivors; {limits.threshold} are needed",
                step=step.step,
            )

    # ---- helpers ----------------------------------------------------------------------------------------

    def _pack(self, kind: Kind, number: int, body: bytes) -> bytes:
        place = self._met()
        return pack(kind, place.index, number, place.cohort.binding, body)

    def _digest(self, step: str, number: int, *sets: frozenset[int], made_of: bytes = b"") -> bytes:
        cohort = self._met().cohort
        told = (bitmap(each, cohort.size) for each in sets)
        return set_digest(cohort, step, number, *told, *([made_of] if made_of else []))

    def _tag(self, label: bytes, number: int, other: int, digest: bytes) -> bytes:
        place = self._met()
        return keys.tag(place.pairs[other], label, number, place.index, other, digest)

    def _tagged(self, label: bytes, number: int, other: int, digest: bytes, found: bytes) -> bool:
        place = self._met()
        wanted = keys.tag(place.pairs[other], label, number, other, place.index, digest)
        return secrets.compare_digest(wanted, found)

    def _secret(self, label: bytes, number: int) -> bytes:
        """A secret of this participant for a round of this cohort: with another roster it is another."""
        own = hmac.digest(self._root, self._met().cohort.binding, "sha256")
        return keys.derive(own, label, number)

    # ---- between processes ------------------------------------------------------------------------------

    def save(self) -> bytes:
        """All of the state, secrets in clear: for a place that only this participant reads.

        A participant that goes on from an older state than its newest can be made to answer twice, which gives its
        vector away: write the state before what was answered is sent, and keep only the newest.
        """
        place = self._place
        return dump(
            State(
                self.name,
                self._run,
                self._key.private.private_bytes_raw(),
                self._advert.signature,
                self._root,
                place.cohort.leaves if place else (),
                place.pairs if place else {},
                self._round,
                self._cipher,
            )
        )

    @classmethod
    def restore(
        cls,
        saved: bytes,
        assumptions: Assumptions,
        authenticator: Authenticator | None = None,
        cipher: StreamCipher = "aes",
    ) -> Participant:
        """The participant that a state is of.

        Args:
            saved, assumptions, authenticator, cipher: From `save`, and as it had.

        Raises:
            ValueError: It is no state, one of another version, or one of another cipher.
        """
        state = load(saved)
        if state.cipher != cipher:
            raise ValueError(
                f"the cipher is {cipher}; this state is of a run whose masks are of {state.cipher}"
            )
        made = cls(state.name, state.run, assumptions, cipher=cipher)
        made._authenticator = authenticator
        made._key = OwnKey(state.name, X25519PrivateKey.from_private_bytes(state.key))
        made._advert = Advert(state.name, made._key.public, state.signature)
        made._root, made._round = state.root, state.round
        if state.leaves:
            cohort = cohort_of(state.run, state.leaves, assumptions, cipher)
            index = cohort.leaves.index(keys.leaf(state.name, made._key.public))
            made._place = Place(cohort, index, state.pairs)
        return made
