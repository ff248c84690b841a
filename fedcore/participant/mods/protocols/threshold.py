"""Sums under a key that nobody holds, at a participant (`crypto.rlwe`).

    roster    all adverts; a holder commits to its part of the key          tagged for every other holder
    parts     all commitments; a holder shows its part, and deals its share     sealed to every other holder
    joint     all parts and what was dealt to this holder; it confirms the key to every member
    masked    the key and the confirmations, once; the vector goes out encrypted
    open      the sum of the key parts, or (`active`) each vector's, tagged by its participant; a partial decryption

Members know each other's keys, signed by their enrolled identities, so a tag or a seal under a key between two is as
good as a signature, and 16 bytes. Who learns what: `crypto.rlwe`.

A holder answers once for each opening, opens rounds in rising order, and within a round the same participants' vectors
only: any two quorums of an `active` cohort have an honest holder in common. Against a coordinator that makes up messages
it holds as long as participants that work with it send what the protocol says: of these it has no proofs.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Iterator

import numpy as np

from crypto.errors import ProtocolError
from crypto.rlwe import messages
from crypto.rlwe.committee import drawn
from crypto.rlwe.decryption import Answers, Request, key_part, partial_decryption, request_of_parts
from crypto.rlwe.encryption import Context, encrypt
from crypto.rlwe.keys import (
    PublicKey,
    SecretShare,
    Setup,
    combine,
    commitment,
    deal,
    new_share,
    public_key,
)
from crypto.rlwe.layout import layout
from crypto.rlwe.parameters import PRIMES, SIZE
from crypto.rlwe.ring import Element
from crypto.secagg.keys import TAG
from fedcore.participant.mods.protocols.base import (
    MADE_OF_NOTHING,
    AnyForm,
    Told,
    Words,
    as_mean,
    signed_words,
)
from fedcore.participant.mods.protocols.member import MemberDriver, told

OPENINGS = 2
"""Key parts of a vector: one is for holders that drop out while a sum is opened."""
COMMITMENT = 32
MADE_OF = 32
"""Bytes of the digest of what a vector was made of."""
ABSENT = bytes(TAG)
"""In the place of a tag that there is none of."""


class Threshold(MemberDriver):
    """One participant in one session, and if drawn a holder of a share of the key."""

    def stage(self, stage: str, number: int, body: bytes, about: str) -> Told | None:
        """The answer to a message of the protocol itself."""
        if stage == "roster":
            self.meet(body)
            return {"message": self._commit()}
        if stage == "parts":
            return {"message": self._show(body)}
        if stage == "joint":
            return {"message": self._confirm(body)}
        if stage == "open":
            return {"message": self._open(number, body, about)}
        return None

    def protect(
        self, number: int, body: bytes, vector: Words, form: AnyForm, made_of: bytes = MADE_OF_NOTHING
    ) -> tuple[Words, Told]:
        """The vector under the joint key, with tags of its key parts for holders that add themselves."""
        if body:
            self._take_key(body)
        self.advance(number)
        form = as_mean(form)
        context = self._context(number, len(vector), form.limit)
        made = encrypt(context, signed_words(vector, form))
        parts = [messages.write_key_part(key_part(made, opening)) for opening in range(OPENINGS)]
        self.state["own"] = [_hash(made_of + part) for part in parts]
        tags = b""
        if self._active:
            tags = made_of + b"".join(
                ABSENT
                if holder == self.member.name
                else self.member.tag(holder, b"key part", number, made_of + part)
                for part in parts
                for holder in self._holders()
            )
        return np.frombuffer(messages.write_ciphertext(made), dtype=np.uint8), {"message": tags}

    # ---- the key ----------------------------------------------------------------------------------------

    def _commit(self) -> bytes:
        if self.member.name not in self._holders():
            return b""
        share, part = new_share(self._setup(), self._index())
        self.state |= {"share": _text(share.value), "part": _text(messages.write_public_part(part))}
        told = commitment(part)
        return told + b"".join(self.member.tag(other, b"commitment", 0, told) for other in self._others())

    def _show(self, body: bytes) -> bytes:
        """Check commitments: of each holder 32 bytes and its tag; then show the part and deal the share."""
        setup, names = self._setup(), self._holders()
        if "part" not in self.state or "commitments" in self.state:
            raise ProtocolError("this participant has no part of a key to show now", step="parts")
        entries = list(_pieces(body, len(names), COMMITMENT + TAG, "parts"))
        own = messages.read_public_part(_bytes(self.state["part"]), setup)
        for name, entry in zip(names, entries, strict=True):
            told, tag = entry[:COMMITMENT], entry[COMMITMENT:]
            if name != self.member.name:
                self.member.check(name, b"commitment", 0, told, tag)
            elif told != commitment(own):
                raise ProtocolError("the commitment of this holder was changed on the way", step="parts")
        self.state["commitments"] = [entry[:COMMITMENT].hex() for entry in entries]
        sent = [_bytes(self.state["part"])]
        if setup.shared:
            share = SecretShare(setup, self._index(), _element(self.state.pop("share")))
            for name, each in zip(names, deal(share), strict=True):
                text = messages.write_dealt_share(each)
                if name == self.member.name:
                    self.state["dealt"] = _text(text)
                else:
                    sent.append(self.member.seal(name, b"dealt share", 0, text))
        return b"".join(sent)

    def _confirm(self, body: bytes) -> bytes:
        """Make the key of all parts and keep this holder's share; confirm the key to all members."""
        setup, names = self._setup(), self._holders()
        if "commitments" not in self.state or "key" in self.state:
            raise ProtocolError("this participant has no key to confirm now", step="joint")
        size = messages.PUBLIC_PART
        sealed = messages.DEALT_SHARE + TAG if setup.shared else 0
        if len(body) != size * len(names) + sealed * (len(names) - 1):
            raise ProtocolError(
                f"{len(body)} bytes of parts and shares came, others are expected", step="joint"
            )
        shown = _pieces(body[: size * len(names)], len(names), size, "joint")
        parts = [messages.read_public_part(each, setup) for each in shown]
        committed = {i + 1: bytes.fromhex(each) for i, each in enumerate(self.state["commitments"])}
        key = public_key(setup, parts, committed)
        if setup.shared:
            pieces = _pieces(body[size * len(names) :], len(names) - 1, sealed, "joint")
            dealt = [messages.read_dealt_share(_bytes(self.state.pop("dealt")), setup)]
            for name, piece in zip(self._others(), pieces, strict=True):
                each = messages.read_dealt_share(self.member.unseal(name, b"dealt share", 0, piece), setup)
                if each.dealer != names.index(name) + 1:
                    raise ProtocolError(f"{name} dealt in the name of another holder", step="joint")
                dealt.append(each)
            self.state["share"] = _text(combine(setup, self._index(), dealt).value)
        del self.state["part"], self.state["commitments"]
        self.state["key"] = _text(messages.write_public_key(key))
        return b"".join(
            ABSENT if name == self.member.name else self.member.tag(name, b"joint key", 0, key.digest)
            for name in self.member.met.names
        )

    def _take_key(self, body: bytes) -> None:
        """The joint key, and of each holder a tag or `ABSENT`."""
        setup, names = self._setup(), self._holders()
        key = messages.read_public_key(body[: messages.PUBLIC_KEY], setup)
        tags = _pieces(body[messages.PUBLIC_KEY :], len(names), TAG, "masked")
        good = 0
        for name, tag in zip(names, tags, strict=True):
            if name != self.member.name and tag != ABSENT:
                self.member.check(name, b"joint key", 0, key.digest, tag)
                good += 1
        if good < setup.threshold:
            raise ProtocolError(
                f"{good} holders confirm the joint key, {setup.threshold} of {setup.holders} are needed",
                step="masked",
            )
        if "key" in self.state and self._key().digest != key.digest:
            raise ProtocolError("another joint key came; a session has one", step="masked")
        self.state["key"] = _text(messages.write_public_key(key))

    # ---- opening ----------------------------------------------------------------------------------------

    def _open(self, number: int, body: bytes, about: str) -> bytes:
        setup = self._setup()
        asked = told(about, words=int, limit=int, opening=int, active=list)
        if self.member.name not in self._holders() or "key" not in self.state:
            raise ProtocolError("this participant holds no share of the key", step="open")
        context = self._context(number, asked["words"], asked["limit"])
        if not 0 <= asked["opening"] < OPENINGS:
            raise ProtocolError(f"opening {asked['opening']} of {OPENINGS}, counted from 0", step="open")
        last, those = self.state.get("opened", [0, ""])
        if number < last:
            raise ProtocolError(
                f"round {number} is to be opened after round {last}; rounds only go up", step="open"
            )
        if self._active:
            request, names = self._added(context, number, asked["opening"], body, asked["active"])
            contributors = _hash(",".join(map(str, names)).encode())
        else:
            request, contributors = messages.read_request(body, context, asked["opening"]), ""
        if number == last and contributors != those:
            raise ProtocolError(
                f"round {number} was opened for other participants before; the difference would show single vectors",
                step="open",
            )
        answers = Answers(bytes.fromhex(each) for each in self.state.get("seen", []))
        share = SecretShare(setup, self._index(), _element(self.state["share"]), dealt=setup.shared)
        partial = partial_decryption(share, context, request, answers, least=self.rules()[2])
        self.state["opened"] = [number, contributors]
        self.state["seen"] = sorted(each.hex() for each in answers.seen)
        return messages.write_partial(partial)

    def _added(
        self, context: Context, number: int, opening: int, body: bytes, active: list[int]
    ) -> tuple[Request, list[int]]:
        """The request that the key parts of single vectors make, all made of the same, whose digest comes first (32):
        of each place (4), tag (16) and part."""
        names = self.member.met.names
        size = 4 + TAG + messages.KEY_PART
        parts, places = [], []
        made_of, body = body[:MADE_OF], body[MADE_OF:]
        for entry in _pieces(body, len(body) // size, size, "open"):
            (place,) = struct.unpack_from("<I", entry)
            part = entry[4 + TAG :]
            if place >= len(names) or place in places:
                raise ProtocolError("a key part is of no member, or a member has two", step="open")
            if names[place] != self.member.name:
                self.member.check(names[place], b"key part", number, made_of + part, entry[4 : 4 + TAG])
            elif self.number != number or _hash(made_of + part) != self.state["own"][opening]:
                raise ProtocolError("the key part of this participant was changed on the way", step="open")
            parts.append(messages.read_key_part(part, context, opening))
            places.append(place)
        if not all(type(index) is int for index in active):
            raise ProtocolError("the holders asked are no numbers", step="open")
        return request_of_parts(context, parts, active), sorted(places)

    # ---- helpers ----------------------------------------------------------------------------------------

    @property
    def _active(self) -> bool:
        return self.agreed.assumptions.adversary == "active"

    def _holders(self) -> tuple[str, ...]:
        """Numbered from 1."""
        roster = self.member.met
        return drawn(roster.names, self.rules()[0], roster.binding)

    def _others(self) -> list[str]:
        return [name for name in self._holders() if name != self.member.name]

    def _index(self) -> int:
        return self._holders().index(self.member.name) + 1

    def _setup(self) -> Setup:
        holders, threshold, _ = self.rules()
        return Setup(self.member.met.binding, holders, threshold, len(self.member.met.names))

    def _key(self) -> PublicKey:
        if "key" not in self.state:
            raise ProtocolError("the joint key has not come yet", step="masked")
        return messages.read_public_key(_bytes(self.state["key"]), self._setup())

    def _context(self, number: int, words: int, limit: int) -> Context:
        return context_of(self._key(), number, words, limit)


def context_of(key: PublicKey, number: int, words: int, limit: int) -> Context:
    """Which sum the messages of a round belong to.

    Raises:
        ProtocolError: There can be no such sum.
    """
    try:
        plan = layout(words, limit, key.setup.contributors)
    except ValueError as error:
        raise ProtocolError(str(error), step="masked") from None
    return Context(key, plan, number.to_bytes(8, "little"), OPENINGS)


def _pieces(data: bytes, count: int, size: int, step: str) -> Iterator[bytes]:
    if len(data) != count * size:
        raise ProtocolError(f"{len(data)} bytes came where {count} pieces of {size} are expected", step=step)
    return (data[at : at + size] for at in range(0, len(data), size))


def _hash(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _text(data: bytes | Element) -> str:
    """As it is kept."""
    return base64.b64encode(data if isinstance(data, bytes) else data.tobytes()).decode()


def _bytes(kept: str) -> bytes:
    return base64.b64decode(kept)


def _element(kept: str) -> Element:
    return np.frombuffer(_bytes(kept), dtype=np.uint64).reshape(len(PRIMES), SIZE)
