"""Sums under a key that the participants share, at the coordinator (the stages stand at the participants' half).

Stages: keys, group; each round: masked, open. The first member by name makes the key; if it drops out, the next does.
One member in the sum opens it; if it does not answer, the next is asked.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from crypto.errors import ProtocolError
from crypto.signatures import Authenticator
from fedcore.coordinator.grids.protocols.base import Words
from fedcore.coordinator.grids.protocols.ckks import CkksSum
from fedcore.coordinator.grids.protocols.member import MemberSession
from fedcore.coordinator.grids.protocols.paillier import PaillierSum
from fedcore.coordinator.grids.secure_stages import Stages, told_bytes
from fedcore.participant.mods.protocols.base import Agreed
from fedcore.participant.mods.protocols.shared_key import mark
from fedcore.participant.protected import Form


class Adder(Protocol):
    """Adds ciphertexts of one round."""

    def __init__(self, public: bytes, agreed: Agreed, members: int, words: int, limit: int) -> None: ...

    def add(self, data: bytes) -> None:
        """Add one participant's.

        Raises:
            ProtocolError: It is none; the sum is as before.
        """

    def total(self) -> bytes:
        """For the member that opens it."""


_ADDERS: dict[str, type[Any]] = {"ckks": CkksSum, "paillier": PaillierSum}


class SharedKeySession(MemberSession):
    """Participants that share a key."""

    def __init__(self, agreed: Agreed, authenticator: Authenticator | None) -> None:
        super().__init__(agreed, authenticator)
        self._public = b""
        self._sealed: dict[str, bytes] = {}
        self._keyed: set[str] = set()
        self._sum: Adder | None = None
        self._form: Form | None = None
        self._words = 0
        self._seen: set[bytes] = set()

    def meet(self, stages: Stages, nodes: Mapping[str, int]) -> None:
        """Have the first member by name make the key; the next one when it drops out."""
        adverts = self.advertise(stages, nodes)
        while True:
            self.enroll(adverts)
            leader = self.roster.names[0]
            told = stages.exchange("group", self.run, 0, {leader: self.roster.encode()}, nodes)
            for name, reply in told.items():
                with stages.using(name, "group"):
                    self._take_key(told_bytes(reply, "message"), told_bytes(reply, "public"))
                    self._keyed = {name}
            if self._keyed:
                break
            stages.account.dropped.setdefault(leader, "group")
            adverts = [each for each in adverts if each.name != leader]
        self.nodes = {name: nodes[name] for name in self.roster.names}

    def _take_key(self, sealed: bytes, public: bytes) -> None:
        others = self.roster.names[1:]
        size = len(sealed) // len(others)
        if len(sealed) != size * len(others) or not 16 < size < 2**20:
            raise ProtocolError(f"{len(sealed)} bytes of sealed keys for {len(others)} members", step="group")
        # Refuses what is no public key.
        _ADDERS[self.agreed.protocol](public, self.agreed, self.size, 1, 1)
        self._public = public
        self._sealed = {name: sealed[size * i : size * (i + 1)] for i, name in enumerate(others)}

    def begin(self, stages: Stages, there: Mapping[str, int]) -> dict[str, bytes]:
        """Roster and sealed key, for those that have not shown that they have them."""
        left = self.returned(stages, there)
        self._sum, self._seen = None, set()
        raw = self.roster.encode()
        body = struct.pack("<I", len(raw)) + raw
        return {name: b"" if name in self._keyed else body + self._sealed[name] for name in left}

    def take(self, name: str, message: bytes, vector: Words, words: int, form: Form) -> None:
        """Add an encrypted vector."""
        self.once(name)
        if message != mark(self.roster, self.number):
            raise ProtocolError(f"{name} sent a vector of another round", step="masked")
        if vector.dtype != "uint8" or vector.ndim != 1 or (self._sum is not None and words != self._words):
            raise ProtocolError(f"{name} sent no encrypted vector of the words of the others", step="masked")
        data = vector.tobytes()
        digest = hashlib.sha256(data).digest()
        if digest in self._seen:
            raise ProtocolError(f"{name} sent the vector of another participant", step="masked")
        adder: Adder = self._sum or _ADDERS[self.agreed.protocol](
            self._public, self.agreed, self.size, words, form.limit
        )
        adder.add(data)
        self._sum, self._words, self._form = adder, words, form
        self._seen.add(digest)
        self.taken.append(name)
        self._keyed.add(name)

    def open(self, stages: Stages) -> Words:
        """Ask one member after the other, in each round another one first."""
        self.enough()
        if self._sum is None or self._form is None:
            raise self.failed("open", 0, 1)
        bits, total = self._form.bits, self._sum.total()
        told = json.dumps({"words": self._words, "limit": self._form.limit, "bits": bits})
        names = sorted(self.taken)
        first = self.number % len(names)
        for name in (*names[first:], *names[:first]):
            bodies = {name: total}
            replies = stages.exchange("open", self.run, self.number, bodies, self.nodes, told)
            for other, reply in replies.items():
                with stages.using(other, "open"):
                    message = told_bytes(reply, "message")
                    if len(message) != self._words * bits // 8:
                        raise ProtocolError(
                            f"{len(message)} bytes came as a sum of {self._words} words", step="open"
                        )
                    stages.account.opened_by = [other]
                    return np.frombuffer(message, dtype=f"<u{bits // 8}").astype(self._form.narrow.dtype)
        raise self.failed("open", 0, 1, "a member that is in the sum opens it")
