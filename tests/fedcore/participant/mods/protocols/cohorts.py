"""Drivers of several participants, saved and restored between messages as in a deployment."""

from __future__ import annotations

from typing import Any

from crypto.members import check_advert, roster
from crypto.signatures import Authenticator
from fedcore.participant.mods.protocols.base import Agreed, Driver, Told
from fedcore.participant.protected import Form

SESSION = bytes(range(32))
MADE_OF = b"m" * 32
"""Digest of what all vectors are made of."""


class Drivers:
    """Participants a, b, c, ... of one session.

    Args:
        kind: Their half of a protocol.
        agreed: Between all.
        count: How many.
        signers: Gives each its authenticator.
    """

    def __init__(self, kind: type[Driver], agreed: Agreed, count: int, signers: Any = None) -> None:
        self.kind, self.agreed = kind, agreed
        self.names = [chr(ord("a") + i) for i in range(count)]
        self.signed: dict[str, Authenticator | None] = {
            name: signers.of(name) if signers else None for name in self.names
        }
        self.saved = {
            name: kind.enter(name, SESSION, agreed, self.signed[name]).save() for name in self.names
        }
        adverts = [
            check_advert(name, self.driver(name).advert(), SESSION, self.signed[name]) for name in self.names
        ]
        self.roster = roster(SESSION, agreed.to_json().encode(), adverts)

    def driver(self, name: str) -> Any:
        """As another process would have it."""
        return self.kind.restore(self.saved[name], self.agreed, self.signed[name])

    def answer(self, name: str, stage: str, body: bytes, number: int = 0, about: str = "") -> Told:
        """What one answers; its state goes on only if it answers."""
        driver = self.driver(name)
        told = driver.answer(stage, number, body, about)
        assert told is not None
        self.saved[name] = driver.save()
        return dict(told)

    def protect(
        self, name: str, number: int, body: bytes, vector: Any, form: Form, made_of: bytes = MADE_OF
    ) -> tuple[bytes, Told]:
        """What leaves in place of a vector."""
        driver = self.driver(name)
        hidden, told = driver.protect(number, body, vector.copy(), form, made_of)
        self.saved[name] = driver.save()
        return hidden.tobytes(), told
