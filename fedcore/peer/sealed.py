"""End-to-end encryption between two parties whose frames pass through somebody else.

Key agreement: Diffie-Hellman over X25519 with ephemeral keys, each side signing both ephemeral keys, both long-term
keys and the session (ISO/IEC 9798-3 with identities under the signature; Krawczyk, "SIGMA", CRYPTO 2003, section 4).

    both    "FCPK", version 1, X25519 public key                                              37 bytes
    both    ECDSA P-384 signature with SHA-384 over
            "fedcore peer signature 1" || transcript || digest of the signer's long-term key  at most 104 bytes

    transcript = SHA-256 over, each behind its length in 4 bytes: "fedcore peer keys 1", session id, then of the party
    whose long-term key (in OpenSSH's wire format) is the smaller as bytes: long-term key, X25519 key; then the other's
    keys = HKDF-SHA-256(secret = X25519, salt = transcript, info = "fedcore peer frames 1", 64 bytes): 32 for the frames
    of that first party, 32 for those of the other

After that each frame is AES-256-GCM ciphertext, nonce = number of the frame in its direction (12 bytes), no associated
data, 16 bytes longer than the frame. The number is not sent, so a frame that was changed, left out, repeated or
overtaken does not decrypt. One key serves one direction of one connection.

Who learns what: whoever carries the frames learns both long-term public keys, and the number, sizes and times of
frames; not the step's names, not the lengths of messages inside a frame, no content, also not with the long-term
keys later (forward secrecy). It can cut the connection. Cost: two rounds and about 282 bytes, and 16 bytes a frame.
Assumption: gap Diffie-Hellman over X25519, unforgeable ECDSA, AES-256-GCM, HKDF as a random oracle.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from crypto.errors import ProtocolError
from fedcore.errors import IdentityError
from fedcore.peer.link import Link, Refused
from fedcore.peer.tls import Peer, check_apart, public_key
from fedcore.trust.identity import Identity, public_blob

STEP = "relay.keys"
VERSION = 1
_HELLO = b"FCPK" + bytes([VERSION])
_SIGNATURE = b"fedcore peer signature 1"
# DER of two numbers of 384 bits.
_MAX_SIGNATURE = 104


@dataclass(frozen=True)
class Keys:
    """What both sides derive. Shows in no `repr`.

    Args:
        transcript: 32 bytes, the same at both sides.
        outgoing, incoming: AES-256 keys of this side's frames and of the other's.
    """

    transcript: bytes
    outgoing: bytes = field(repr=False)
    incoming: bytes = field(repr=False)


def agree(link: Link, *, identity: Identity, peer: Peer, session: bytes, until: float) -> SealedLink:
    """Agree on keys with the one party that holds the pinned key, over a link that may be anybody's.

    Args:
        link: Nothing was sent over it yet.
        identity: This party's key.
        peer: The other party and its pinned key.
        session: 16 bytes, the same at both parties.
        until: `time.monotonic()` at which to give up.

    Raises:
        IdentityError: The other side does not hold the pinned key, or is in another session.
        ProtocolError: What came is not a message of this agreement.
        Ended, TimeoutError: As `Link.get`.
    """
    check_apart(identity, peer)
    own = X25519PrivateKey.generate()
    link.put(_HELLO + own.public_key().public_bytes_raw(), until)
    theirs = _public(_taken(link, until))
    keys = derive(
        own,
        theirs,
        mine=public_blob(identity.public_line),
        other=public_blob(peer.public_line),
        session=session,
    )
    link.put(identity.private_key.sign(_signed(keys, identity.public_line), ec.ECDSA(hashes.SHA384())), until)
    signature = _taken(link, until)
    if len(signature) > _MAX_SIGNATURE:
        raise ProtocolError(
            f"a signature of {len(signature)} bytes came; allowed are {_MAX_SIGNATURE}", step=STEP
        )
    try:
        public_key(peer.public_line).verify(
            signature, _signed(keys, peer.public_line), ec.ECDSA(hashes.SHA384())
        )
    except InvalidSignature:
        raise IdentityError(
            f"what answers does not have the key that is pinned to {peer.name}, or is in another session. Cure: give "
            f"both sides the same session, and compare the fingerprint of the peer's key with {peer.name} over "
            f"another channel",
            party=peer.name,
            step=STEP,
        ) from None
    return SealedLink(link, keys)


def derive(own: X25519PrivateKey, theirs: bytes, *, mine: bytes, other: bytes, session: bytes) -> Keys:
    """The keys of one connection.

    Args:
        own: This side's ephemeral key.
        theirs: The other's ephemeral public key, 32 bytes.
        mine, other: The long-term public keys, in OpenSSH's wire format.
        session: 16 bytes.

    Raises:
        ProtocolError: The other's key is a point of small order.
    """
    first = mine < other
    sides = [(mine, own.public_key().public_bytes_raw()), (other, theirs)]
    digest = hashlib.sha256()
    for part in (b"fedcore peer keys 1", session, *(one for side in sorted(sides) for one in side)):
        digest.update(len(part).to_bytes(4, "big") + part)
    transcript = digest.digest()
    try:
        secret = own.exchange(X25519PublicKey.from_public_bytes(theirs))
    except ValueError:
        raise ProtocolError(
            "the other side's ephemeral key is of small order; it does not follow the protocol", step=STEP
        ) from None
    both = HKDF(hashes.SHA256(), 64, transcript, b"fedcore peer frames 1").derive(secret)
    halves = (both[:32], both[32:])
    return Keys(transcript, *(halves if first else halves[::-1]))


class SealedLink:
    """A link whose frames are encrypted under the keys that two parties agreed on."""

    def __init__(self, link: Link, keys: Keys) -> None:
        self._link = link
        self.outgoing, self.incoming = link.outgoing, link.incoming
        self._seal, self._open = AESGCM(keys.outgoing), AESGCM(keys.incoming)
        self._sent = self._received = 0

    def put(self, frame: bytes, until: float | None) -> None:
        """As `FrameQueue.put`."""
        nonce = self._sent.to_bytes(12, "big")
        # Counted before it is used: a nonce never serves twice, whatever happens next.
        self._sent += 1
        self._link.put(self._seal.encrypt(nonce, frame, None), until)

    def get(self, until: float | None) -> bytes:
        """As `FrameQueue.get`.

        Raises:
            Refused: What came is not the next frame of the other party.
        """
        sealed = self._link.get(until)
        try:
            frame = self._open.decrypt(self._received.to_bytes(12, "big"), sealed, None)
        except InvalidTag:
            raise Refused(
                f"frame {self._received} does not decrypt: it was changed, repeated, lost or overtaken on its way"
            ) from None
        self._received += 1
        return frame

    def close(self, linger: float) -> None:
        """As `Link.close`."""
        self._link.close(linger)

    def abort(self) -> None:
        """As `Link.abort`."""
        self._link.abort()


def _taken(link: Link, until: float) -> bytes:
    try:
        return link.get(until)
    except Refused as error:
        raise ProtocolError(str(error), step=STEP) from None


def _public(message: bytes) -> bytes:
    if len(message) != len(_HELLO) + 32 or message[:4] != _HELLO[:4]:
        raise ProtocolError("what came is not the other side's ephemeral key", step=STEP)
    if message[4] != VERSION:
        raise ProtocolError(
            f"the other side's key agreement has version {message[4]}, this side's version {VERSION}; install the "
            f"same version of fedcore at both parties",
            step=STEP,
        )
    return message[len(_HELLO) :]


def _signed(keys: Keys, signer_line: str) -> bytes:
    return _SIGNATURE + keys.transcript + hashlib.sha256(public_blob(signer_line)).digest()
