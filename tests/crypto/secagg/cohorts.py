"""Whole cohorts for the tests of secure aggregation: identities, a run, and rounds in which some drop out."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from crypto.secagg.coordinator import Coordinator
from crypto.secagg.graph import Assumptions
from crypto.secagg.participant import Participant
from crypto.secagg.round import Round
from crypto.signatures import Authenticator

Words = npt.NDArray[Any]
STAGES = ("shares", "mask", "confirm", "reveal")
"""Of a round: who drops out at one does nothing from it on."""
ANY = Assumptions(corrupt=0.0, dropout=0.0, least_cohort=2)


def identities(names: Iterable[str]) -> dict[str, Authenticator]:
    """Of each name, with the public keys of all pinned."""
    own = {name: Ed25519PrivateKey.generate() for name in names}

    def verify(name: str, message: bytes, signature: bytes) -> bool:
        try:
            own[name].public_key().verify(signature, message)
        except (KeyError, InvalidSignature):
            return False
        return True

    return {name: Authenticator(own[name].sign, verify) for name in own}


@dataclass
class Run:
    """A coordinator and participants that have met."""

    coordinator: Coordinator
    participants: dict[str, Participant]

    def participant(self, index: int) -> Participant:
        return self.participants[self.coordinator.names[index]]

    def begin(self, number: int, absent: Iterable[str] = ()) -> Round:
        """A round of all but some, begun at all."""
        gone = set(absent)
        for name, each in self.participants.items():
            if name not in gone:
                self.coordinator.take_shares(name, each.shares(number))
        return started(self, self.coordinator.start(number))

    def masked(self, number: int, vectors: Mapping[str, Words], absent: Iterable[str] = ()) -> Round:
        """A round up to the masked vectors; who has none in `vectors` drops out before."""
        round_ = self.begin(number, absent)
        for index in sorted(round_.begun):
            name = self.coordinator.names[index]
            if name in vectors:
                send_masked(self, round_, name, vectors[name])
        return round_

    def round(
        self, number: int, vectors: Mapping[str, Words], dropped: Mapping[str, str] | None = None
    ) -> Words:
        """The sum that a round gives.

        Args:
            vectors: Of all participants.
            dropped: Name -> stage at which it drops out.
        """
        gone = dict(dropped or {})

        def here(name: str, stage: str) -> bool:
            return name not in gone or STAGES.index(gone[name]) > STAGES.index(stage)

        round_ = self.begin(number, [name for name in self.participants if not here(name, "shares")])
        for index in sorted(round_.begun):
            name = self.coordinator.names[index]
            if here(name, "mask"):
                send_masked(self, round_, name, vectors[name])
        asked = round_.survivors()
        if self.coordinator.cohort.assumptions.adversary == "active":
            for name, survivors in asked.items():
                if here(name, "confirm"):
                    round_.take_confirmation(name, self.participants[name].confirm(survivors))
            asked = round_.requests()
        for name, request in asked.items():
            if here(name, "reveal"):
                round_.take_revealed(name, self.participants[name].reveal(request))
        return round_.finish()


def started(run: Run, round_: Round) -> Round:
    for name, start in round_.starts().items():
        assert run.participants[name].begin(start) == round_.number
    return round_


def send_masked(run: Run, round_: Round, name: str, vector: Words) -> Words:
    """Mask a copy of a vector, give it to the coordinator, and show it."""
    masked = vector.copy()
    message = run.participants[name].mask(masked)
    round_.take_masked(name, message, masked)
    return masked


def meet(cohort: int, assumptions: Assumptions = ANY, *, signed: bool = False) -> Run:
    """A run of a cohort whose participants are called p0, p1, ..."""
    names = [f"p{number}" for number in range(cohort)]
    known = identities(names) if signed else {}
    run = secrets.token_bytes(32)
    coordinator = Coordinator(run, assumptions, known.get(names[0]) if signed else None)
    participants = {name: Participant(name, run, assumptions, known.get(name)) for name in names}
    for name, each in participants.items():
        coordinator.take_advert(name, each.advert())
    for name, roster in coordinator.rosters().items():
        participants[name].meet(roster)
    return Run(coordinator, participants)


def random_vectors(run: Run, length: int, dtype: str = "uint32", seed: int = 0) -> dict[str, Words]:
    generator = np.random.default_rng(seed)
    most = np.iinfo(dtype).max
    return {
        name: generator.integers(0, most, length, dtype=dtype, endpoint=True) for name in run.participants
    }


def plain_sum(vectors: Mapping[str, Words], names: Iterable[str]) -> Words:
    """Of some vectors, modulo two to the bits of their words."""
    return np.sum([vectors[name] for name in names], axis=0, dtype=next(iter(vectors.values())).dtype)
