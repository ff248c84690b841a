"""Keys: made private, read only when private, compared with what is pinned."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from fedcore.errors import IdentityError
from fedcore.trust.identity import (
    Identity,
    check_pin,
    fingerprint,
    load_identity,
    new_identity,
    public_blob,
    replace_secret,
    write_secret,
)


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return new_identity(tmp_path / "keys" / "hospital-1.key", "hospital-1")


def ssh_keygen(*arguments: str) -> str:
    done = subprocess.run(["ssh-keygen", *arguments], capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.strip()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_private_key_file_has_mode_0600_under_any_umask(tmp_path: Path) -> None:
    for umask in (0o000, 0o022, 0o377):
        before = os.umask(umask)
        try:
            write_secret(tmp_path / f"key-{umask:o}", b"secret")
        finally:
            os.umask(before)
        assert mode(tmp_path / f"key-{umask:o}") == 0o600


def test_no_one_else_can_open_the_file_even_before_its_content_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real = os.fchmod

    def spy(descriptor: int, wanted: int) -> None:
        seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        real(descriptor, wanted)

    monkeypatch.setattr(os, "fchmod", spy)
    before = os.umask(0)
    try:
        new_identity(tmp_path / "a.key", "a")
    finally:
        os.umask(before)
    assert seen == [0o600]


def test_flower_reads_the_private_key_as_its_supernode_does(identity: Identity) -> None:
    key = load_ssh_private_key(identity.path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.curve.name == "secp384r1"


def test_fingerprint_is_what_ssh_keygen_prints(identity: Identity) -> None:
    bits, printed, comment, kind = ssh_keygen("-lf", f"{identity.path}.pub").split()
    assert (bits, printed, comment, kind) == ("384", identity.fingerprint, "hospital-1", "(ECDSA)")


def test_public_line_is_what_ssh_keygen_derives_from_the_private_key(identity: Identity) -> None:
    assert ssh_keygen("-yf", str(identity.path)).split()[:2] == identity.public_line.split()[:2]


def test_key_made_by_ssh_keygen_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "theirs"
    ssh_keygen("-q", "-t", "ecdsa", "-b", "384", "-N", "", "-C", "clinic", "-f", str(path))
    assert load_identity(path).name == "clinic"


def test_loaded_key_is_the_made_one(identity: Identity) -> None:
    loaded = load_identity(identity.path)
    assert loaded.public_line == identity.public_line
    signature = loaded.private_key.sign(b"message", ec.ECDSA(hashes.SHA384()))
    identity.private_key.public_key().verify(signature, b"message", ec.ECDSA(hashes.SHA384()))


def test_repr_shows_no_key_material(identity: Identity) -> None:
    secret = identity.private_key.private_numbers().private_value
    assert str(secret) not in repr(identity)
    assert "private_key" not in repr(identity)
    assert "hospital-1" in repr(identity)


@pytest.mark.parametrize("bit", [0o040, 0o020, 0o010, 0o004, 0o002, 0o001])
def test_any_right_of_group_or_others_is_refused(identity: Identity, bit: int) -> None:
    identity.path.chmod(0o600 | bit)
    with pytest.raises(IdentityError) as refused:
        load_identity(identity.path)
    text = str(refused.value)
    assert f"{0o600 | bit:04o}" in text
    assert "allowed is 0600" in text
    assert f"chmod 600 {identity.path}" in text


def test_read_only_key_is_accepted(identity: Identity) -> None:
    identity.path.chmod(0o400)
    assert load_identity(identity.path).fingerprint == identity.fingerprint


@pytest.mark.parametrize("which", ["", ".pub"])
def test_existing_file_is_never_overwritten(tmp_path: Path, which: str) -> None:
    path = tmp_path / "old.key"
    old = path.with_name(path.name + which)
    old.write_text("precious")
    with pytest.raises(IdentityError, match="never overwritten"):
        new_identity(path, "old")
    assert old.read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == [old.name]


@pytest.mark.parametrize("name", ["", "two words", "line\nbreak", "-x", "naïve", "a\n"])
def test_name_that_is_unsafe_in_a_path_or_a_line_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(IdentityError, match="no name"):
        new_identity(tmp_path / "a.key", name)
    assert list(tmp_path.iterdir()) == []


def test_failed_write_leaves_no_half_of_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(IdentityError, match="No space left"):
        new_identity(tmp_path / "a.key", "a")
    assert list(tmp_path.iterdir()) == []


def test_replaced_secret_keeps_mode_0600_and_the_new_content(tmp_path: Path) -> None:
    path = tmp_path / "server.key"
    path.write_text("old")
    path.chmod(0o644)
    replace_secret(path, b"new")
    assert (mode(path), path.read_bytes()) == (0o600, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["server.key"]


def test_missing_key_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match=r"does not exist.*fedcore identity new"):
        load_identity(tmp_path / "none.key")


def test_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="folder"):
        load_identity(tmp_path)


def test_key_with_a_passphrase_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "locked"
    ssh_keygen("-q", "-t", "ecdsa", "-b", "384", "-N", "a long passphrase", "-f", str(path))
    with pytest.raises(IdentityError, match="passphrase"):
        load_identity(path)


@pytest.mark.parametrize("kind", ["p256", "ed25519", "garbage"])
def test_other_kinds_of_key_are_refused(tmp_path: Path, kind: str) -> None:
    key = (
        ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())
    )
    content = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    write_secret(tmp_path / "k", b"not a key" if kind == "garbage" else content)
    with pytest.raises(IdentityError, match="P-384"):
        load_identity(tmp_path / "k")


def test_public_file_of_another_key_is_refused(identity: Identity, tmp_path: Path) -> None:
    other = new_identity(tmp_path / "other.key", "other")
    Path(f"{identity.path}.pub").write_text(other.public_line)
    with pytest.raises(IdentityError, match="not the public half"):
        load_identity(identity.path)


def test_pinned_key_passes_whatever_its_comment(identity: Identity) -> None:
    kind, key, _ = identity.public_line.split()
    check_pin("hospital-1", identity.public_line, {"hospital-1": f"{kind} {key} another comment"})


def test_key_that_is_not_the_pinned_one_is_refused_with_both_fingerprints(
    identity: Identity, tmp_path: Path
) -> None:
    other = new_identity(tmp_path / "other.key", "other")
    with pytest.raises(IdentityError) as refused:
        check_pin("hospital-1", other.public_line, {"hospital-1": identity.public_line})
    assert identity.fingerprint in str(refused.value)
    assert other.fingerprint in str(refused.value)


def test_name_outside_the_roster_is_refused_with_the_nearest_name(identity: Identity) -> None:
    with pytest.raises(IdentityError, match='did you mean "hospital-1"'):
        check_pin("hospitl-1", identity.public_line, {"hospital-1": identity.public_line})


@pytest.mark.parametrize(
    "line",
    [
        "",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp384 AAAA",
        "ecdsa-sha2-nistp384 !!!!",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJqk0Rrb4s5Y9bKx0yZb3QhR0bO6m1k2d7aQ0K4g5mSx",
    ],
)
def test_line_that_is_no_p384_key_is_refused(line: str) -> None:
    with pytest.raises(IdentityError):
        public_blob(line)


def test_point_off_the_curve_is_refused(identity: Identity) -> None:
    kind, _, _ = identity.public_line.split()
    blob = bytearray(public_blob(identity.public_line))
    blob[-1] ^= 1
    import base64

    with pytest.raises(IdentityError):
        fingerprint(f"{kind} {base64.b64encode(bytes(blob)).decode()}")
