"""TLS between two parties that know each other's public key and nothing else.

Neither has the other's certificate beforehand, and none is needed. What RFC 5280 (section 6.1.1 d) calls a trust
anchor is a name and a public key. Each side makes the other's anchor itself, from the pinned key: a certificate that
holds this key under a name derived from it. Its signature is worth nothing, and nobody looks at it: TLS trusts the
anchor because it was put there. The parties show certificates that their long-term keys signed under that same name.
So a handshake ends well only if the other side's certificate was signed by exactly the pinned key, in both
directions, with the check where TLS makes it. A wrong key fails the handshake.

The certificate that is shown holds a fresh key, lives for a day and is made anew for each connection (at a
listener: for each half of its life), so that the long-term key signs certificates and is never handed to the TLS
library. It names the long-term key, not the session; frames carry the session.

Assumption: ECDSA over P-384 cannot be forged, and TLS 1.2 or 1.3 as gRPC's BoringSSL speaks it.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import grpc  # type: ignore[import-untyped]
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedcore.errors import IdentityError
from fedcore.trust.identity import Identity, fingerprint, public_blob, same_key

LIFE = timedelta(days=1)
_ANCHOR_LIFE = timedelta(days=365)
# Clocks of two institutions differ.
_CLOCK_SKEW = timedelta(hours=1)


@dataclass(frozen=True)
class Peer:
    """The party at the other side.

    Args:
        name: For messages and errors.
        public_line: Its long-term public key as one OpenSSH line; the pin.
    """

    name: str
    public_line: str


def check_apart(identity: Identity, peer: Peer) -> None:
    """Refuse a peer that has this party's own key: a message sent back would pass as the peer's.

    Raises:
        IdentityError: The keys are the same, or the peer's is none.
    """
    if same_key(public_blob(identity.public_line), public_blob(peer.public_line)):
        raise IdentityError(
            f"{peer.name} is pinned to this party's own key ({identity.fingerprint}); allowed: two different keys. "
            f"Cure: give each party its own, and the other's .pub line as the peer's key"
        )


def public_key(public_line: str) -> ec.EllipticCurvePublicKey:
    """The key of a public line.

    Raises:
        IdentityError: It is no P-384 key.
    """
    public_blob(public_line)
    key = serialization.load_ssh_public_key(" ".join(public_line.split()[:2]).encode())
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise IdentityError("the peer's key is not an ECDSA P-384 key, the only kind allowed")
    return key


def server_name(public_line: str) -> str:
    """The DNS name in a party's certificates; made from its key, resolved by nobody."""
    return hashlib.sha256(public_blob(public_line)).hexdigest()[:32] + ".peer.fedcore.invalid"


def trust_anchor(public_line: str) -> x509.Certificate:
    """The pinned key in the form in which TLS takes it; see the module's text for its signature."""
    key = public_key(public_line)
    name = _authority_name(public_line)
    return (
        _builder(name, name, key, _ANCHOR_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .sign(ec.generate_private_key(ec.SECP384R1()), hashes.SHA384())
    )


def new_certificate(identity: Identity) -> tuple[bytes, bytes]:
    """A certificate for one connection, with a key made for it.

    Returns:
        Certificate and private key, both PEM.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    line = identity.public_line
    usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        _builder(_name(f"peer {identity.name}"), _authority_name(line), key.public_key(), LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(server_name(line))]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(identity.private_key.public_key()),
            critical=False,
        )
        .sign(identity.private_key, hashes.SHA384())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), secret


def signer(certificate_pem: bytes, peers: Iterable[Peer]) -> Peer:
    """Which of these parties signed a certificate that was shown.

    TLS has checked it against all of them; this tells them apart.

    Raises:
        IdentityError: None of them did.
    """
    try:
        shown = x509.load_pem_x509_certificate(certificate_pem)
    except ValueError as exc:
        raise IdentityError("the other side showed no certificate that can be read") from exc
    for peer in peers:
        if shown.issuer != _authority_name(peer.public_line):
            continue
        try:
            # Not `verify_directly_issued_by`: the key is what counts, and this names the hash too.
            public_key(peer.public_line).verify(
                shown.signature, shown.tbs_certificate_bytes, ec.ECDSA(hashes.SHA384())
            )
        except InvalidSignature:
            continue
        return peer
    raise IdentityError("the other side's certificate was signed by none of the pinned keys")


def channel_credentials(identity: Identity, peer: Peer) -> grpc.ChannelCredentials:
    """What the connecting side gives to gRPC; `server_name` of the peer must be asked for."""
    certificate, key = new_certificate(identity)
    return grpc.ssl_channel_credentials(_anchors([peer]), key, certificate)


def server_credentials(identity: Identity, peers: Sequence[Peer]) -> grpc.ServerCredentials:
    """What the listening side gives to gRPC: only these parties get past the handshake."""
    made = datetime.now(UTC)
    lock = threading.Lock()

    def configuration() -> grpc.ServerCertificateConfiguration:
        certificate, key = new_certificate(identity)
        return grpc.ssl_server_certificate_configuration(
            [(key, certificate)], root_certificates=_anchors(peers)
        )

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        """Asked at every handshake; None keeps what is there."""
        nonlocal made
        with lock:
            if datetime.now(UTC) - made < LIFE / 2:
                return None
            made = datetime.now(UTC)
        return configuration()

    return grpc.dynamic_ssl_server_credentials(configuration(), renewed, require_client_authentication=True)


def _anchors(peers: Iterable[Peer]) -> bytes:
    return b"".join(trust_anchor(peer.public_line).public_bytes(serialization.Encoding.PEM) for peer in peers)


def _authority_name(public_line: str) -> x509.Name:
    return _name(f"fedcore {fingerprint(public_line)}")


def _name(common: str) -> x509.Name:
    # RFC 5280 allows 64 characters.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, life: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + life)
    )
