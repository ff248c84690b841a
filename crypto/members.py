"""Members of a session who know each other's signed keys, and talk in secret over a coordinator.

    member -> coordinator     advert: name, X25519 key, signature over the session, the name and the key
    coordinator -> members    roster: all adverts
    two members               a secret by X25519 and HKDF, and from it a key for each purpose, round and direction

A roster binds: session, what was agreed on, and all names and keys go into the derivation of every secret. Members
that were shown different rosters, or agree on something else, cannot open each other's messages.

Who learns what: the coordinator who takes part, and the length and time of messages. It cannot read or change what
members seal to each other, nor forge a tag, where adverts are signed; where they are not, it is trusted with keys.

Assumption: gap Diffie-Hellman over X25519, HKDF a random oracle, HMAC-SHA-256 a pseudo-random function,
ChaCha20-Poly1305 authenticated encryption; identities known beforehand. Bytes: 36 and the name for a key, and its
signature, to every member; 16 for a tag, 16 more than the text for a sealed one.

Source: as the first two messages of Bonawitz et al., CCS 2017 (eprint 2017/281), over a complete graph.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from crypto.errors import ProtocolError
from crypto.secagg import keys
from crypto.secagg.keys import TAG, Advert, OwnKey
from crypto.secagg.messages import pack_advert, unpack_advert
from crypto.signatures import Authenticator

MAGIC = b"FCMR\x01"
MOST_MEMBERS = 10_000
STEP = "roster"
_BINDING = b"fedcore members 1"


@dataclass(frozen=True)
class Roster:
    """Who takes part in a session, the same for all.

    Args:
        session: 32 bytes that no other session has.
        agreed: What all agree on: protocol, assumptions.
        adverts: By name as bytes, ascending.
    """

    session: bytes
    agreed: bytes
    adverts: tuple[Advert, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Ascending as bytes."""
        return tuple(each.name for each in self.adverts)

    @cached_property
    def binding(self) -> bytes:
        """Digest of all of it but the signatures, 32 bytes."""
        state = hashlib.sha256(_BINDING + self.session + hashlib.sha256(self.agreed).digest())
        for each in self.adverts:
            state.update(keys.leaf(each.name, each.public))
        return state.digest()

    def index(self, name: str) -> int:
        """Place of a member, from 0.

        Raises:
            ProtocolError: It is none.
        """
        if name not in self._places:
            raise ProtocolError(f"{name!a} is no member of this session", step=STEP)
        return self._places[name]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.names)}

    def encode(self) -> bytes:
        """What the coordinator sends to members."""
        raw = [pack_advert(each) for each in self.adverts]
        return (
            MAGIC
            + struct.pack("<I", len(raw))
            + b"".join(struct.pack("<H", len(each)) + each for each in raw)
        )


def roster(session: bytes, agreed: bytes, adverts: Iterable[Advert]) -> Roster:
    """The roster of these members.

    Raises:
        ProtocolError: A name or a key stands there twice.
    """
    ordered = tuple(sorted(adverts, key=lambda each: each.name.encode()))
    for what in ({each.name for each in ordered}, {each.public for each in ordered}):
        if len(what) != len(ordered):
            raise ProtocolError(
                "a name or a key stands in the roster twice; each member has one of its own", step=STEP
            )
    return Roster(session, agreed, ordered)


def read_roster(data: bytes | memoryview, session: bytes, agreed: bytes) -> Roster:
    """The roster that came; signatures are not checked here.

    Raises:
        ProtocolError: It is none.
    """
    raw = bytes(data)
    if raw[: len(MAGIC)] != MAGIC or len(raw) < len(MAGIC) + 4:
        raise ProtocolError("what came is no roster of this version", step=STEP)
    (count,) = struct.unpack_from("<I", raw, len(MAGIC))
    if not 1 <= count <= MOST_MEMBERS:
        raise ProtocolError(f"a roster of {count} members; allowed are 1 to {MOST_MEMBERS}", step=STEP)
    at, adverts = len(MAGIC) + 4, []
    for _ in range(count):
        if at + 2 > len(raw):
            raise ProtocolError("a roster ends too early", step=STEP)
        (size,) = struct.unpack_from("<H", raw, at)
        at += 2 + size
        if at > len(raw):
            raise ProtocolError("a roster ends too early", step=STEP)
        adverts.append(unpack_advert(raw[at - size : at]))
    if at != len(raw):
        raise ProtocolError(f"a roster is {len(raw) - at} bytes too long", step=STEP)
    made = roster(session, agreed, adverts)
    if made.adverts != tuple(adverts):
        raise ProtocolError("a roster is not in order", step=STEP)
    return made


def check_advert(name: str, data: bytes, session: bytes, authenticator: Authenticator | None) -> Advert:
    """The advert that came from somebody.

    Raises:
        ProtocolError: It is none, another's, or not signed as it has to be.
    """
    told = unpack_advert(data)
    if told.name != name:
        raise ProtocolError(f"{name} sent the key of {told.name}", step="keys")
    keys.check_advert(told, session, authenticator)
    return told


@dataclass
class Member:
    """One member of one session. Nothing secret shows in its `repr`.

    Args:
        session: 32 bytes that no other session has.
        agreed: What it agrees to: protocol, assumptions; its own, never the coordinator's word.
        key: Its own.
        signature: Of the key.
        roster: Once it has met the others.
    """

    session: bytes
    agreed: bytes
    key: OwnKey = field(repr=False)
    signature: bytes = field(repr=False)
    roster: Roster | None = None
    _pairs: dict[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """Its own."""
        return self.key.name

    @property
    def met(self) -> Roster:
        """The roster.

        Raises:
            ProtocolError: None has come yet.
        """
        if self.roster is None:
            raise ProtocolError(f"{self.name} has not met the others of this session yet", step=STEP)
        return self.roster

    def advert(self) -> bytes:
        """Its public key, signed if there is an authenticator."""
        return pack_advert(Advert(self.name, self.key.public, self.signature))

    def meet(self, data: bytes, authenticator: Authenticator | None) -> Roster:
        """Take the roster.

        Raises:
            ProtocolError: One came before, it is none or without this member's own key, or a key is not signed as it
                has to be.
        """
        if self.roster is not None:
            raise ProtocolError("a second roster came; a session has one", step=STEP)
        told = read_roster(data, self.session, self.agreed)
        if told.adverts[told.index(self.name)].public != self.key.public:
            raise ProtocolError(f"the roster has another key for {self.name} than its own", step=STEP)
        for each in told.adverts:
            if each.name != self.name:
                keys.check_advert(each, self.session, authenticator)
        self.roster = told
        return told

    def seal(self, to: str, label: bytes, number: int, text: bytes) -> bytes:
        """A text for one other member; at most one for each label and number."""
        return keys.seal(self._derived(self.name, to, label, number), text, self.met.binding)

    def unseal(self, sender: str, label: bytes, number: int, sealed: bytes) -> bytes:
        """The text that another member sealed.

        Raises:
            ProtocolError: It was changed, or was sealed for something else.
        """
        text = keys.unseal(self._derived(sender, self.name, label, number), sealed, self.met.binding)
        if text is None:
            raise ProtocolError(
                f"what came as a message of {sender} was not sealed by it for {self.name} in this session: it was "
                "changed on the way, or the two were shown different rosters",
                step=label.decode(),
            )
        return text

    def tag(self, to: str, label: bytes, number: int, text: bytes) -> bytes:
        """What convinces one other member that this one sent a text, 16 bytes."""
        return hmac.digest(self._derived(self.name, to, label, number), text, "sha256")[:TAG]

    def check(self, sender: str, label: bytes, number: int, text: bytes, tag: bytes) -> None:
        """Refuse a text that its sender has not tagged.

        Raises:
            ProtocolError: The tag is another.
        """
        made = hmac.digest(self._derived(sender, self.name, label, number), text, "sha256")[:TAG]
        if not hmac.compare_digest(made, tag):
            raise ProtocolError(
                f"what came as a message of {sender} is not tagged by it for {self.name} in this session: it was "
                "changed on the way, or the two were shown different rosters",
                step=label.decode(),
            )

    def save(self) -> dict[str, str]:
        """All that it knows, secrets in clear, for JSON."""
        told = {
            "name": self.name,
            "session": self.session.hex(),
            "key": self.key.private.private_bytes_raw().hex(),
            "signature": self.signature.hex(),
            "agreed": self.agreed.decode(),
        }
        if self.roster is not None:
            told["roster"] = self.roster.encode().hex()
        return told

    @classmethod
    def restore(cls, told: dict[str, str]) -> Member:
        """The member that was saved."""
        key = OwnKey(told["name"], X25519PrivateKey.from_private_bytes(bytes.fromhex(told["key"])))
        session, agreed = bytes.fromhex(told["session"]), told["agreed"].encode()
        made = cls(session, agreed, key, bytes.fromhex(told["signature"]))
        if "roster" in told:
            made.roster = read_roster(bytes.fromhex(told["roster"]), session, agreed)
        return made

    def _derived(self, sender: str, receiver: str, label: bytes, number: int) -> bytes:
        other = receiver if sender == self.name else sender
        if other not in self._pairs:
            advert = self.met.adverts[self.met.index(other)]
            self._pairs[other] = self.key.agree(advert, self.met.binding)
        places = self.met.index(sender), self.met.index(receiver)
        return keys.derive(self._pairs[other], label, number, *places)


def new_member(name: str, session: bytes, agreed: bytes, authenticator: Authenticator | None) -> Member:
    """A member with a fresh key.

    Args:
        name: Its own, as its identity is pinned.
        session: 32 bytes that no other session has.
        agreed: Text that all members agree on, UTF-8.
        authenticator: Signs; None where whoever forwards keys is trusted.
    """
    key = OwnKey(name, X25519PrivateKey.generate())
    return Member(session, agreed, key, key.advert(session, authenticator).signature)
