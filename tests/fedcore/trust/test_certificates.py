"""Certificates: what TLS accepts, and what the pin refuses."""

from __future__ import annotations

import socket
import ssl
import stat
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from fedcore.errors import IdentityError
from fedcore.trust.certificates import (
    AUTHORITY_LIFE,
    TlsFiles,
    check_pinned,
    new_authority,
    new_server_certificate,
    prepare_tls,
)
from fedcore.trust.identity import Identity, new_identity

HOSTS = ["localhost", "127.0.0.1", "::1", "coordinator.example"]


@pytest.fixture
def coordinator(tmp_path: Path) -> Identity:
    return new_identity(tmp_path / "coordinator.key", "coordinator")


@pytest.fixture
def files(tmp_path: Path, coordinator: Identity) -> TlsFiles:
    return prepare_tls(tmp_path / "tls", coordinator, "five-hospitals", HOSTS)


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def handshake(files: TlsFiles, authority: Path, name: str) -> str | None:
    """Connect to a server with these certificates; the TLS version agreed on."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.certificate, files.key)
    client = ssl.create_default_context(cafile=str(authority))
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    theirs.settimeout(5)

    def serve() -> None:
        try:
            server.wrap_socket(theirs, server_side=True).close()
        except (ssl.SSLError, OSError):
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=name) as connection:
            return connection.version()
    finally:
        ours.close()
        thread.join(10)


@pytest.mark.parametrize("name", HOSTS)
def test_tls_accepts_the_server_under_each_of_its_names(files: TlsFiles, name: str) -> None:
    assert handshake(files, files.authority, name) == "TLSv1.3"


def test_tls_refuses_the_server_under_another_name(files: TlsFiles) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="ostname"):
        handshake(files, files.authority, "elsewhere.example")


def test_tls_refuses_a_server_of_another_coordinator(files: TlsFiles, tmp_path: Path) -> None:
    other = new_identity(tmp_path / "other.key", "coordinator")
    others = prepare_tls(tmp_path / "others", other, "five-hospitals", HOSTS)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(files, others.authority, "localhost")


def test_openssl_verifies_the_chain_strictly(files: TlsFiles) -> None:
    arguments = [
        "-x509_strict",
        "-purpose",
        "sslserver",
        "-CAfile",
        str(files.authority),
        str(files.certificate),
    ]
    done = subprocess.run(["openssl", "verify", *arguments], capture_output=True, text=True, timeout=20)
    assert done.stdout.strip().endswith(": OK"), done.stderr


def test_private_key_of_the_server_has_mode_0600(files: TlsFiles) -> None:
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600


def test_server_key_is_not_the_long_term_key(files: TlsFiles, coordinator: Identity) -> None:
    leaf = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    assert leaf.public_key() != coordinator.private_key.public_key()
    assert leaf.not_valid_after_utc == files.expires
    assert files.expires < datetime.now(UTC) + timedelta(days=31)


def test_second_start_keeps_the_authority_and_renews_the_server(
    files: TlsFiles, coordinator: Identity, tmp_path: Path
) -> None:
    authority, certificate = files.authority.read_bytes(), files.certificate.read_bytes()
    again = prepare_tls(tmp_path / "tls", coordinator, "five-hospitals", HOSTS)
    assert again.authority.read_bytes() == authority
    assert again.certificate.read_bytes() != certificate
    assert handshake(again, again.authority, "localhost")


def test_authority_of_another_key_is_replaced_at_start(files: TlsFiles, tmp_path: Path) -> None:
    other = new_identity(tmp_path / "other.key", "coordinator")
    before = files.authority.read_bytes()
    prepare_tls(tmp_path / "tls", other, "five-hospitals", HOSTS)
    assert files.authority.read_bytes() != before
    check_pinned(files.authority.read_bytes(), other.public_line)


def test_older_copy_of_the_authority_still_verifies_a_server_signed_under_a_newer_one(
    files: TlsFiles, coordinator: Identity, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.crt"
    copy.write_bytes(files.authority.read_bytes())
    files.authority.unlink()
    again = prepare_tls(tmp_path / "tls", coordinator, "five-hospitals", HOSTS)
    assert copy.read_bytes() != again.authority.read_bytes()
    assert handshake(again, copy, "localhost")


def test_pin_accepts_the_coordinators_authority(files: TlsFiles, coordinator: Identity) -> None:
    check_pinned(files.authority.read_bytes(), coordinator.public_line)


def test_pin_refuses_an_authority_of_another_key(files: TlsFiles, tmp_path: Path) -> None:
    other = new_identity(tmp_path / "other.key", "coordinator")
    with pytest.raises(IdentityError, match="another key"):
        check_pinned(files.authority.read_bytes(), other.public_line)


def test_pin_refuses_the_pinned_key_in_a_certificate_signed_by_someone_else(
    coordinator: Identity, tmp_path: Path
) -> None:
    """Anyone can put a known public key into a certificate; only its owner can sign it."""
    attacker = new_identity(tmp_path / "attacker.key", "coordinator")
    genuine = new_authority(coordinator, "five-hospitals")
    forged = (
        x509.CertificateBuilder()
        .subject_name(genuine.subject)
        .issuer_name(genuine.subject)
        .public_key(coordinator.private_key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(attacker.private_key, hashes.SHA384())
    )
    with pytest.raises(IdentityError, match="signature"):
        check_pinned(pem(forged), coordinator.public_line)


def test_pin_refuses_a_second_certificate_in_the_file(
    files: TlsFiles, coordinator: Identity, tmp_path: Path
) -> None:
    attacker = new_identity(tmp_path / "attacker.key", "coordinator")
    both = files.authority.read_bytes() + pem(new_authority(attacker, "x"))
    with pytest.raises(IdentityError, match="2 certificates"):
        check_pinned(both, coordinator.public_line)


def test_pin_refuses_an_expired_authority(files: TlsFiles, coordinator: Identity) -> None:
    later = datetime.now(UTC) + AUTHORITY_LIFE + timedelta(days=1)
    with pytest.raises(IdentityError, match="valid from"):
        check_pinned(files.authority.read_bytes(), coordinator.public_line, at=later)


def test_pin_refuses_the_servers_own_certificate(files: TlsFiles, coordinator: Identity) -> None:
    with pytest.raises(IdentityError):
        check_pinned(files.certificate.read_bytes(), coordinator.public_line)


@pytest.mark.parametrize("content", [b"", b"not a certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_pin_refuses_what_is_no_certificate(coordinator: Identity, content: bytes) -> None:
    with pytest.raises(IdentityError):
        check_pinned(content, coordinator.public_line)


def test_server_certificate_without_a_host_is_refused(coordinator: Identity) -> None:
    with pytest.raises(IdentityError, match="at least one host"):
        new_server_certificate(coordinator, new_authority(coordinator, "x"), [])
