"""TLS for the SuperLink, made from the coordinator's long-term key.

The certificate authority is the coordinator's own identity: its certificate is signed by, and holds, the key
that every roster pins. A participant that was given `ca.crt` over any channel compares the key inside with
its roster (`check_pinned`) and needs to trust neither the channel nor a public authority. The server's own
key is fresh and its certificate short-lived, so that the long-term key is used at start-up only.

Source: RFC 5280 (profile of the certificates), RFC 6125 (names of the server).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedcore.errors import IdentityError
from fedcore.trust.identity import Identity, fingerprint, key_blob, public_blob, replace_secret, same_key

AUTHORITY_LIFE = timedelta(days=730)
SERVER_LIFE = timedelta(days=30)
# Clocks of two institutions differ; a certificate is valid a little before it was made.
_CLOCK_SKEW = timedelta(minutes=10)


@dataclass(frozen=True)
class TlsFiles:
    """Where the coordinator's certificates lie.

    Args:
        authority: `ca.crt`, given to participants.
        certificate: `server.pem`.
        key: `server.key`, mode 0600.
        expires: When the server's certificate ends; a new one is made at each start.
    """

    authority: Path
    certificate: Path
    key: Path
    expires: datetime


def prepare_tls(folder: Path, coordinator: Identity, federation: str, hosts: Iterable[str]) -> TlsFiles:
    """Write `ca.crt`, `server.pem` and `server.key` for a federation.

    The authority's certificate is kept while it holds the coordinator's key and has a month to live, so that
    copies at participants stay byte-equal; a copy with the same key remains valid in any case.

    Args:
        folder: Where the three files go; made (mode 0700) when absent.
        coordinator: Signs both certificates.
        federation: Its name, in the certificates' subjects.
        hosts: Names and IP addresses under which the SuperLink is reached.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    files = (folder / "ca.crt", folder / "server.pem", folder / "server.key")
    authority = _kept(files[0], coordinator) or new_authority(coordinator, federation)
    certificate, key = new_server_certificate(coordinator, authority, hosts)
    _replace(files[0], authority.public_bytes(serialization.Encoding.PEM))
    replace_secret(files[2], key)
    _replace(files[1], certificate.public_bytes(serialization.Encoding.PEM))
    return TlsFiles(*files, certificate.not_valid_after_utc)


def new_authority(coordinator: Identity, federation: str) -> x509.Certificate:
    """A certificate authority whose key is the coordinator's long-term key."""
    subject = _name(f"fedcore coordinator of {federation}")
    key = coordinator.private_key.public_key()
    return (
        _builder(subject, subject, key, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key), critical=False)
        .sign(coordinator.private_key, hashes.SHA384())
    )


def new_server_certificate(
    coordinator: Identity, authority: x509.Certificate, hosts: Iterable[str]
) -> tuple[x509.Certificate, bytes]:
    """A certificate for the SuperLink with a key made for it.

    Args:
        coordinator: The authority's key.
        authority: Its certificate.
        hosts: Names and IP addresses, at least one.

    Returns:
        The certificate and its private key (PKCS #8 PEM, not encrypted: for a file with mode 0600).
    """
    names = [_alternative(host) for host in dict.fromkeys(hosts)]
    if not names:
        raise IdentityError("a server certificate needs at least one host name or address; none was given")
    key = ec.generate_private_key(ec.SECP384R1())
    issuer_key = coordinator.private_key.public_key()
    certificate = (
        _builder(_name("fedcore SuperLink"), authority.subject, key.public_key(), SERVER_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
        .sign(coordinator.private_key, hashes.SHA384())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate, secret


def check_pinned(authority_pem: bytes, pinned_line: str, *, at: datetime | None = None) -> None:
    """Refuse a `ca.crt` that was not made by the key the roster pins to the coordinator.

    Args:
        authority_pem: Content of `ca.crt`.
        pinned_line: The coordinator's public key line from the roster.
        at: The moment of which validity is asked; now when absent.

    Raises:
        IdentityError: Not one certificate, another key, a signature that does not verify, not an authority,
            or outside its time.
    """
    certificate = _parse(authority_pem)
    cure = "Cure: ask the coordinator for its ca.crt again and compare its fingerprint over another channel"
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise IdentityError(
            f"the CA certificate does not hold an ECDSA P-384 key, the only kind allowed. {cure}"
        )
    if not same_key(key_blob(key), public_blob(pinned_line)):
        raise IdentityError(
            f"the CA certificate was made by another key than the roster pins to the coordinator "
            f"({fingerprint(pinned_line)}): whoever made it is not the coordinator. {cure}"
        )
    try:
        certificate.verify_directly_issued_by(certificate)
    except (InvalidSignature, ValueError, TypeError) as exc:
        raise IdentityError(
            f"the CA certificate's signature is not made by the coordinator's key. {cure}"
        ) from exc
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        is_authority = constraints.ca
    except x509.ExtensionNotFound:
        is_authority = False
    if not is_authority:
        raise IdentityError(
            f"the certificate is not one of an authority, but perhaps the server's own. {cure}"
        )
    now = at or datetime.now(UTC)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise IdentityError(
            f"the CA certificate is valid from {certificate.not_valid_before_utc:%Y-%m-%d} to "
            f"{certificate.not_valid_after_utc:%Y-%m-%d}, and today is {now:%Y-%m-%d}. {cure}"
        )


def _kept(path: Path, coordinator: Identity) -> x509.Certificate | None:
    """The certificate that is there already, if it can serve for another month."""
    try:
        content = path.read_bytes()
        check_pinned(content, coordinator.public_line, at=datetime.now(UTC) + SERVER_LIFE)
    except (FileNotFoundError, IdentityError):
        return None
    return _parse(content)


def _parse(pem: bytes) -> x509.Certificate:
    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError as exc:
        raise IdentityError(
            "the CA file is not a PEM certificate; allowed: the coordinator's ca.crt"
        ) from exc
    if len(found) != 1:
        # A second certificate in the file would be trusted by TLS without having been compared.
        raise IdentityError(f"the CA file holds {len(found)} certificates; allowed: exactly one")
    return found[0]


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
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    # RFC 5280 allows 64 characters.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return x509.DNSName(host)


def _replace(path: Path, content: bytes) -> None:
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(content)
    fresh.replace(path)
