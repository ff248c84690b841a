"""Sums under a key that the participants share and the coordinator lacks, at a participant (`ckks`, `paillier`).

    group     all adverts, to the first member by name; it makes the key and seals it to every other member
    masked    adverts and sealed key, once; the vector goes out encrypted
    open      the sum, to one member that is in it; what it decrypts

Who learns what: the coordinator the sums, since a member tells it; a member too, and it could decrypt another's vector
if it ever saw one, which goes to the coordinator only. So the coordinator follows the protocol and does not work
together with a member: one that lies has a single vector decrypted by calling it a sum. A member holds it to one sum in
each round that the member's own vector left in, and to sums that claim enough members. Where that is too much trust,
`secagg+` and `threshold` hold against a coordinator that says anything.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import struct
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from crypto.errors import ProtocolError
from crypto.members import Roster
from crypto.secagg.keys import TAG
from fedcore.participant.mods.protocols.base import (
    MADE_OF_NOTHING,
    Agreed,
    AnyForm,
    Told,
    Words,
    as_mean,
    signed_words,
)
from fedcore.participant.mods.protocols.ckks import Ckks
from fedcore.participant.mods.protocols.member import MemberDriver, told
from fedcore.participant.mods.protocols.paillier import Paillier

_LENGTH = struct.Struct("<I")


class Cipher(Protocol):
    """An encryption under which whole numbers are added."""

    @staticmethod
    def new_key(agreed: Agreed, members: int) -> bytes:
        """A fresh secret key, for sums of so many."""

    @staticmethod
    def public(secret: bytes, agreed: Agreed) -> bytes:
        """What the coordinator adds with.

        Raises:
            ProtocolError: The secret key is none.
        """

    def __init__(self, secret: bytes, agreed: Agreed, members: int) -> None: ...

    def encrypt(self, values: npt.NDArray[np.int64], limit: int) -> bytes:
        """Whole numbers of at most the limit."""

    def decrypt(self, total: bytes, words: int, limit: int, least: int) -> npt.NDArray[np.int64]:
        """A sum of so many words over at least so many members.

        Raises:
            ProtocolError: It is none.
        """


_CIPHERS: dict[str, type[Any]] = {"ckks": Ckks, "paillier": Paillier}


class SharedKey(MemberDriver):
    """One participant in one session."""

    _made: Cipher | None = None

    def stage(self, stage: str, number: int, body: bytes, about: str) -> Told | None:
        """The answer to a message of the protocol itself."""
        if stage == "group":
            return self._lead(body)
        if stage == "open":
            return {"message": self._open(number, body, about)}
        return None

    def protect(
        self, number: int, body: bytes, vector: Words, form: AnyForm, made_of: bytes = MADE_OF_NOTHING
    ) -> tuple[Words, Told]:
        """The vector under the shared key."""
        if body:
            self._join(body)
        cipher = self._cipher()
        self.advance(number)
        form = as_mean(form)
        made = cipher.encrypt(signed_words(vector, form), form.limit)
        return np.frombuffer(made, dtype=np.uint8), {"message": mark(self.member.met, number)}

    def _lead(self, body: bytes) -> Told:
        self.meet(body)
        names = self.member.met.names
        if names[0] != self.member.name:
            raise ProtocolError(
                f"{names[0]} makes the key of this session, not {self.member.name}", step="group"
            )
        kind = _CIPHERS[self.agreed.protocol]
        secret: bytes = kind.new_key(self.agreed, len(names))
        self.state["secret"] = base64.b64encode(secret).decode()
        sealed = b"".join(self.member.seal(name, b"group key", 0, secret) for name in names[1:])
        return {"message": sealed, "public": kind.public(secret, self.agreed)}

    def _join(self, body: bytes) -> None:
        """Length of the roster (4), the roster, and the key that the first member sealed."""
        size = _LENGTH.unpack_from(body)[0] if len(body) >= _LENGTH.size else len(body)
        roster, sealed = body[_LENGTH.size : _LENGTH.size + size], body[_LENGTH.size + size :]
        if self.member.roster is None:
            self.meet(roster)
        elif roster != self.member.roster.encode():
            raise ProtocolError("a second roster came; a session has one", step="masked")
        secret = self.member.unseal(self.member.met.names[0], b"group key", 0, sealed)
        _CIPHERS[self.agreed.protocol].public(secret, self.agreed)
        kept = base64.b64encode(secret).decode()
        # It comes again to one whose last reply was lost.
        if not hmac.compare_digest(self.state.setdefault("secret", kept), kept):
            raise ProtocolError("a second key of the session came", step="masked")

    def _open(self, number: int, body: bytes, about: str) -> bytes:
        asked = told(about, words=int, limit=int, bits=int)
        if number != self.number:
            raise ProtocolError(
                f"round {number} is to be opened where the last vector of {self.member.name} left in round {self.number}",
                step="open",
            )
        if number <= self.state.get("opened", 0):
            raise ProtocolError(
                f"round {number} was opened before; a member opens one sum in each", step="open"
            )
        if asked["limit"] < 1 or asked["words"] < 1 or asked["bits"] not in (32, 64):
            raise ProtocolError("the coordinator tells no sum that can be opened", step="open")
        self.state["opened"] = number
        units = self._cipher().decrypt(body, asked["words"], asked["limit"], self.rules()[2])
        return units.astype(np.dtype(f"<u{asked['bits'] // 8}")).tobytes()

    def _cipher(self) -> Cipher:
        if "secret" not in self.state:
            raise ProtocolError("the key of this session has not come yet", step="masked")
        if self._made is None:
            secret = base64.b64decode(self.state["secret"])
            self._made = _CIPHERS[self.agreed.protocol](secret, self.agreed, len(self.member.met.names))
        return self._made


def mark(roster: Roster, number: int) -> bytes:
    """What stands beside a vector so that it is not taken for one of another round."""
    return hashlib.sha256(b"fedcore round 1" + roster.binding + number.to_bytes(8, "little")).digest()[:TAG]
