"""One round at the coordinator: adds up masked vectors and takes the masks away that are left in the sum."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.errors import ProtocolError
from crypto.kernels.keystream import check_words
from crypto.secagg import keys
from crypto.secagg.messages import COORDINATOR, SHARE, Kind, Reader, Shares, bitmap, pack, tags, unpack
from crypto.secagg.protocol import Cohort, RoundFailed
from crypto.secagg.shamir import combine
from crypto.streams import AddStreams, add_streams

Words = npt.NDArray[Any]


@dataclass(repr=False)
class Round:
    """One round at the coordinator, made by `Coordinator.start`.

    Args:
        cohort: Of the run.
        names: Of the participants.
        near: Neighbours of each.
        number: Of the round.
        shares: Of those that take part.
    """

    cohort: Cohort
    names: tuple[str, ...]
    near: tuple[tuple[int, ...], ...]
    number: int
    shares: Mapping[int, Shares]
    _total: Words | None = None
    _masked: dict[int, dict[int, bytes]] = field(default_factory=dict)
    _survivors: frozenset[int] | None = None
    _confirmed: dict[int, dict[int, bytes]] | None = None
    _asked: frozenset[int] | None = None
    _revealed: dict[int, dict[int, bytes]] = field(default_factory=dict)
    _finished: bool = False
    blamed: set[str] = field(default_factory=set)
    """Names of those that revealed a wrong share, whether the sum came out or not."""

    def __repr__(self) -> str:
        return f"Round({self.number}, {len(self.shares)} begun, {len(self._masked)} masked, {len(self._revealed)} revealed)"

    @property
    def begun(self) -> frozenset[int]:
        """Participants that take part, by index."""
        return frozenset(self.shares)

    def starts(self) -> dict[str, bytes]:
        """Message 4 for each participant that takes part."""
        begun, told = self.begun, bitmap(self.shares, self.cohort.size)
        places = [{other: i for i, other in enumerate(near)} for near in self.near]
        made = {}
        for v in begun:
            sealed = b"".join(self.shares[w].sealed[places[w][v]] for w in self._partners(v, begun))
            made[self.names[v]] = self._pack(Kind.START, told + sealed)
        return made

    def take_masked(self, name: str, masked: bytes, vector: Words) -> None:
        """Take message 5 and add the vector that came beside it.

        Args:
            name: Who sent it.
            masked: As it came.
            vector: (n,) uint32 or uint64, as long as that of the others; not changed.

        Raises:
            ProtocolError: It came late, twice, from one that does not take part, or for another round; or the
                vector has another length or type than it says or than those before.
        """
        v, body = self._read(Kind.MASKED, name, masked, self.begun)
        if self._survivors is not None or v in self._masked:
            why = "twice" if v in self._masked else "after the round went on without it"
            raise ProtocolError(f"the vector of {name} came {why}; it is not counted", step=Kind.MASKED.step)
        bits, length = body.number_of(1, 64), body.number_of(8, 2**63)
        found = tags(body, self._partners(v, self.begun))
        try:
            check_words(vector)
        except ValueError as error:
            raise ProtocolError(f"what {name} sent is no vector: {error}", step=Kind.MASKED.step) from None
        wanted = self._total if self._total is not None else vector
        if (8 * vector.itemsize, len(vector)) != (bits, length) or (wanted.dtype, wanted.shape) != (
            vector.dtype,
            vector.shape,
        ):
            raise ProtocolError(
                f"{name} sent {len(vector)} words of {vector.dtype} and says {length} of {bits} bits; expected are "
                f"{len(wanted)} of {wanted.dtype}, as of the others",
                step=Kind.MASKED.step,
            )
        if self._total is None:
            self._total = vector.copy()
        else:
            self._total += vector
        self._masked[v] = found

    def survivors(self) -> dict[str, bytes]:
        """Message 6 for each participant whose vector came; no other is taken afterwards.

        Raises:
            RoundFailed: They are too few, or somebody has too few neighbours among them.
        """
        limits, alive = self.cohort.parameters, frozenset(self._masked)
        fewest = min((len(self._partners(v, alive)) for v in alive), default=0)
        if len(alive) < limits.least:
            raise self._failed(Kind.SURVIVORS, len(alive), limits.least)
        if fewest < limits.threshold:
            raise self._failed(
                Kind.SURVIVORS,
                len(alive),
                limits.least,
                f"one has {fewest} of {limits.degree} neighbours left and {limits.threshold} are needed",
            )
        self._survivors = alive
        told = bitmap(alive, self.cohort.size)
        made = {}
        for v in alive:
            seen = b"".join(self._masked[w][v] for w in self._partners(v, alive))
            made[self.names[v]] = self._pack(Kind.SURVIVORS, told + seen)
        if self.cohort.assumptions.adversary == "active":
            self._confirmed = {}
        else:
            self._asked = alive
        return made

    def take_confirmation(self, name: str, confirmation: bytes) -> None:
        """Take message 7.

        Raises:
            ProtocolError: It came late, twice, from one that is no survivor, or for another round.
        """
        if self._survivors is None or self._confirmed is None or self._asked is not None:
            raise ProtocolError(f"no confirmation of {name} is awaited now", step=Kind.CONFIRM.step)
        v, body = self._read(Kind.CONFIRM, name, confirmation, self._survivors)
        if v in self._confirmed:
            raise ProtocolError(f"{name} confirmed twice", step=Kind.CONFIRM.step)
        self._confirmed[v] = tags(body, self._partners(v, self._survivors))

    def requests(self) -> dict[str, bytes]:
        """Message 8 for each participant that confirmed and has enough neighbours that did.

        Raises:
            RoundFailed: They are too few for the secrets of every participant.
        """
        if self._confirmed is None or self._asked is not None:
            raise ProtocolError("there is nothing to request now", step=Kind.REQUEST.step)
        done = self._confirmed
        ready = {v for v in done if len(self._partners(v, done)) >= self.cohort.parameters.threshold}
        self._enough(Kind.REQUEST, ready, len(done))
        self._asked = frozenset(ready)
        made = {}
        for v in ready:
            by = self._partners(v, done)
            body = b"".join(w.to_bytes(4, "little") + done[w][v] for w in by)
            made[self.names[v]] = self._pack(Kind.REQUEST, len(by).to_bytes(4, "little") + body)
        return made

    def take_revealed(self, name: str, revealed: bytes) -> None:
        """Take message 9.

        Raises:
            ProtocolError: It came twice, from one that was not asked, or for another round.
        """
        if self._asked is None or self._finished:
            raise ProtocolError(f"no shares of {name} are awaited now", step=Kind.REVEAL.step)
        v, body = self._read(Kind.REVEAL, name, revealed, self._asked)
        if v in self._revealed:
            raise ProtocolError(f"{name} revealed twice", step=Kind.REVEAL.step)
        partners = self._partners(v, self.begun)
        pieces = body.pieces(len(partners), SHARE)
        body.end()
        self._revealed[v] = dict(zip(partners, pieces, strict=True))

    def finish(self, *, threads: int = 1, add: AddStreams | None = None) -> Words:
        """The sum of the survivors' vectors, modulo two to the bits of their words.

        Args:
            threads: That take masks away at once, each from its part of the vector.
            add: Takes them away instead, say on a GPU.

        Raises:
            RoundFailed: Too few revealed their shares, or what somebody shared is not what it committed to.
            ProtocolError: The round is not that far, or is finished.
        """
        if self._asked is None or self._finished or self._total is None:
            raise ProtocolError("the round is not at its end", step=Kind.REVEAL.step)
        self._enough(Kind.REVEAL, self._revealed, len(self._revealed))
        self._finished = True
        survivors = self._survivors or frozenset()
        left, minus = [], []
        for v in sorted(survivors):
            left.append(self._secret(v, 0))
            minus.append(True)
        for v in sorted(self.begun - survivors):
            seeds = self._seeds(v)
            for w in self._partners(v, survivors):
                left.append(seeds[w])
                # Who has the smaller index added it.
                minus.append(w < v)
        found = [keys.stream_key(seed, self.cohort.cipher) for seed in left]
        add_streams(self.cohort.cipher, found, np.array(minus), self._total, threads=threads, add=add)
        return self._total

    # ---- helpers -----------------------------------------------------------------------------------------------------

    def _pack(self, kind: Kind, body: bytes) -> bytes:
        return pack(kind, COORDINATOR, self.number, self.cohort.binding, body)

    def _read(self, kind: Kind, name: str, raw: bytes, allowed: Collection[int]) -> tuple[int, Reader]:
        """Who sent it and the body of its message."""
        index = self.names.index(name) if name in self.names else -1
        if index not in allowed:
            raise ProtocolError(f"{name} is not among those that this is awaited from", step=kind.step)
        return index, unpack(raw, kind, sender=index, number=self.number, binding=self.cohort.binding)

    def _partners(self, v: int, members: Collection[int]) -> tuple[int, ...]:
        """The neighbours of a participant in a set, ascending."""
        return tuple(w for w in self.near[v] if w in members)

    def _enough(self, kind: Kind, there: Collection[int], left: int) -> None:
        """Refuse to go on when somebody's secret could not be put together."""
        threshold = self.cohort.parameters.threshold
        fewest = min(len(self._partners(v, there)) for v in self.begun)
        if fewest < threshold:
            raise self._failed(
                kind,
                left,
                max(self.cohort.parameters.least, threshold + 1),
                f"of the shares of one secret {fewest} are left and {threshold} are needed",
            )

    def _failed(self, kind: Kind, left: int, needed: int, reason: str = "", *blamed: int) -> RoundFailed:
        self._finished = True
        return RoundFailed(
            step=kind.step,
            number=self.number,
            left=left,
            needed=needed,
            cohort=self.cohort.size,
            reason=reason,
            blamed=[self.names[v] for v in blamed],
        )

    def _seeds(self, v: int) -> dict[int, bytes]:
        """Seeds of the masks between one who dropped out and its neighbours."""
        u = self._secret(v, 1)
        raw = keys.unseal(keys.derive(u, b"box", self.number), self.shares[v].box, self.cohort.binding)
        if raw is None or len(raw) != SHARE * len(self.near[v]):
            raise self._failed(
                Kind.REVEAL, len(self._revealed), 0, "the seeds that came are not sealed as said", v
            )
        return {w: raw[SHARE * i : SHARE * (i + 1)] for i, w in enumerate(self.near[v])}

    def _secret(self, v: int, which: int) -> bytes:
        """b (0) or u (1) of a participant, put together and compared with what it committed to."""
        threshold, shares = self.cohort.parameters.threshold, self.shares[v]
        held = {w: self._revealed[w][v] for w in self.near[v] if w in self._revealed}
        made = combine(held, threshold)
        if self._right(v, which, made):
            return made
        # A share is wrong. Its owner has committed to each, so it shows whose.
        label = (b"share b", b"share u")[which]
        good = {}
        for w, digests in zip(self.near[v], shares.digests, strict=True):
            if w not in held:
                continue
            found = keys.commit(label, self.cohort.binding, self.number, v, w, held[w])
            if secrets.compare_digest(found, digests[which]):
                good[w] = held[w]
            else:
                self.blamed.add(self.names[w])
        if len(good) >= threshold and self._right(v, which, made := combine(good, threshold)):
            return made
        if len(good) == len(held):
            self.blamed.add(self.names[v])
        raise self._failed(
            Kind.REVEAL,
            len(good),
            threshold,
            "shares of one secret are not those that were made",
            *(index for index, name in enumerate(self.names) if name in self.blamed),
        )

    def _right(self, v: int, which: int, secret: bytes) -> bool:
        label = (b"b", b"u")[which]
        found = keys.commit(label, self.cohort.binding, self.number, v, v, secret)
        return secrets.compare_digest(found, self.shares[v].commitments[which])
