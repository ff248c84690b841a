"""Keys of secure aggregation: advertised and signed, agreed by pairs, derived for every use.

A participant has one X25519 key for a run. The secret that two agree on is never revealed and never used
itself; for each purpose, round and direction another key is derived, HMAC-SHA-256(secret, label || round ||
from || to).
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from crypto.errors import ProtocolError
from crypto.kernels.keystream import NONCE
from crypto.signatures import MOST_SIGNATURE, Authenticator
from crypto.streams import StreamCipher

PUBLIC = 32
SECRET = 32
TAG = 16
DIGEST = 16
MOST_NAME = 64
STEP = "secagg.keys"
_SIGNED = b"fedcore secagg key 1"
_LEAF = b"fedcore secagg leaf 2"
_PERSON = b"fedcore secagg person 1"
PERSON = 16
"""Bytes of a leaf that stand for the name."""
_PAIR = b"fedcore secagg pair 1"
_ZEROS = bytes(12)
_numbers = struct.Struct("<III").pack


@dataclass(frozen=True)
class Advert:
    """A participant's public key, as it is advertised.

    Args:
        name: The participant, 1 to 64 bytes of printable text.
        public: X25519, 32 bytes.
        signature: Over run, name and key, up to 512 bytes; empty where nobody signs.

    Raises:
        ProtocolError: The name, the key or the signature has no allowed form.
    """

    name: str
    public: bytes
    signature: bytes

    def __post_init__(self) -> None:
        if not self.name.isprintable() or not 1 <= len(self.name.encode()) <= MOST_NAME:
            raise ProtocolError(
                f"{self.name!a} is no name of a participant: 1 to {MOST_NAME} bytes of printable text",
                step=STEP,
            )
        if len(self.public) != PUBLIC or len(self.signature) > MOST_SIGNATURE:
            raise ProtocolError(
                f"{self.name} advertised a key of {len(self.public)} bytes with a signature of "
                f"{len(self.signature)}; allowed are {PUBLIC}, and up to {MOST_SIGNATURE}",
                step=STEP,
            )


def signed_bytes(run: bytes, name: str, public: bytes) -> bytes:
    """What a participant signs."""
    return _SIGNED + run + _named(name, public)


def leaf(name: str, public: bytes) -> bytes:
    """What stands for an advertised key in the roster, 32 bytes: 16 of a hash of the name, 16 of one of name and key.

    All see by the first half that nobody stands in the roster twice. The signature is no part of it.
    """
    person = hashlib.sha256(_PERSON + name.encode()).digest()[:PERSON]
    return person + hashlib.sha256(_LEAF + _named(name, public)).digest()[:PERSON]


def check_advert(advert: Advert, run: bytes, authenticator: Authenticator | None) -> None:
    """Refuse a key that its participant has not signed for this run.

    Args:
        advert: As it came.
        run: 32 bytes.
        authenticator: Of the pinned identities; None where whoever forwards the keys is trusted not to change
            them.

    Raises:
        ProtocolError: The signature is missing, wrong, or nobody checks it here.
    """
    if authenticator is None:
        if advert.signature:
            raise ProtocolError(
                f"the key of {advert.name} is signed and this side checks no signatures: give all participants "
                "an authenticator, or none",
                step=STEP,
            )
        return
    if not advert.signature or not authenticator.verify(
        advert.name, signed_bytes(run, advert.name, advert.public), advert.signature
    ):
        raise ProtocolError(
            f"the key that came for {advert.name} was not signed for this run by the identity pinned to it: somebody "
            f"in between put another in its place, or the pinned key is an old one. Compare the fingerprint of its "
            f"identity with {advert.name} over another channel",
            step=STEP,
        )


@dataclass(frozen=True)
class OwnKey:
    """A participant's key for one run. The private half shows in no `repr`."""

    name: str
    private: X25519PrivateKey = field(repr=False)

    @property
    def public(self) -> bytes:
        """32 bytes."""
        return self.private.public_key().public_bytes_raw()

    def advert(self, run: bytes, authenticator: Authenticator | None) -> Advert:
        """The public key, signed if there is an authenticator."""
        signature = b""
        if authenticator is not None:
            signature = authenticator.sign(signed_bytes(run, self.name, self.public))
        return Advert(self.name, self.public, signature)

    def agree(self, other: Advert, binding: bytes) -> bytes:
        """The secret with another participant, 32 bytes.

        Args:
            other: Checked before.
            binding: Digest of the cohort.

        Raises:
            ProtocolError: Its key is no proper public key, or is one's own.
        """
        if other.public == self.public:
            raise ProtocolError(
                f"{other.name} advertised the key of {self.name}: two participants cannot have one", step=STEP
            )
        try:
            shared = self.private.exchange(X25519PublicKey.from_public_bytes(other.public))
        except ValueError:
            raise ProtocolError(
                f"the key that came for {other.name} is no proper public key", step=STEP
            ) from None
        pair = sorted([_named(self.name, self.public), _named(other.name, other.public)])
        return HKDF(hashes.SHA256(), SECRET, binding, _PAIR + b"".join(pair)).derive(shared)


def _named(name: str, public: bytes) -> bytes:
    raw = name.encode()
    return len(raw).to_bytes(2, "little") + raw + public


def derive(secret: bytes, label: bytes, number: int, sender: int = 0, receiver: int = 0) -> bytes:
    """A key for one purpose, round and direction, 32 bytes."""
    info = b"fedcore secagg %b 1%b" % (label, _numbers(number, sender, receiver))
    return hmac.digest(secret, info, "sha256")


def pair_seed(secret: bytes, number: int, one: int, other: int) -> bytes:
    """h: what the mask of a pair in one round is made of, the same at both, 32 bytes."""
    return derive(secret, b"pair mask", number, min(one, other), max(one, other))


def stream_key(seed: bytes, cipher: StreamCipher = "aes") -> bytes:
    """Key and nonce of the stream that a seed stands for: 28 bytes for AES, 44 for ChaCha20.

    A key of ChaCha20 fills all that is derived. It makes one stream, so its nonce is zero.
    """
    if cipher == "aes":
        return derive(seed, b"stream", 0)[: 16 + NONCE]
    return derive(seed, b"stream chacha20", 0) + bytes(NONCE)


def tag(secret: bytes, label: bytes, number: int, sender: int, receiver: int, digest: bytes) -> bytes:
    """What convinces the receiver that the sender saw the same sets, 16 bytes."""
    return hmac.digest(derive(secret, label, number, sender, receiver), digest, "sha256")[:TAG]


def commit(label: bytes, binding: bytes, number: int, owner: int, holder: int, value: bytes) -> bytes:
    """A hash that commits to a secret of full entropy, 16 bytes."""
    told = b"fedcore secagg %b 1%b%b%b" % (label, binding, _numbers(number, owner, holder), value)
    return hashlib.sha256(told).digest()[:DIGEST]


def seal(key: bytes, text: bytes, binding: bytes) -> bytes:
    """Encrypt the one text that a key is for; 16 bytes longer."""
    return ChaCha20Poly1305(key).encrypt(_ZEROS, text, binding)


def unseal(key: bytes, sealed: bytes, binding: bytes) -> bytes | None:
    """The text, or None if it was not sealed with this key and binding."""
    try:
        return ChaCha20Poly1305(key).decrypt(_ZEROS, sealed, binding)
    except InvalidTag:
        return None
