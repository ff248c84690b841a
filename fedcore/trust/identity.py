"""A participant's long-term key: made once, kept at the site, pinned by everyone else's roster.

The key is ECDSA over NIST P-384, because that is what Flower's SuperNode authenticates with; the file is
an OpenSSH private key, because that is what `flower-supernode --auth-supernode-private-key` reads. The public
half stands beside it as `FILE.pub`, one line as `ssh-keygen` writes it, which goes into the roster.

Who learns what: the roster's readers learn names and public keys. The private key never leaves its file; its
file is made with mode 0600 from its first byte, and a file that anyone else may read is refused.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedcore.errors import IdentityError, did_you_mean

KEY_TYPE = "ecdsa-sha2-nistp384"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")


@dataclass(frozen=True)
class Identity:
    """A long-term key pair. The private half shows in no `repr`, log or traceback.

    Args:
        name: Whose key it is; the comment of the public line.
        path: The private key file.
        private_key: Signs; never printed.
    """

    name: str
    path: Path
    private_key: ec.EllipticCurvePrivateKey = field(repr=False, compare=False)

    @property
    def public_line(self) -> str:
        """The public key as one OpenSSH line: type, base64, name."""
        return _public_line(self.private_key, self.name)

    @property
    def fingerprint(self) -> str:
        """`SHA256:...` as `ssh-keygen -lf` prints it."""
        return fingerprint(self.public_line)


def new_identity(path: Path, name: str) -> Identity:
    """Make a key pair: `path` (mode 0600) and `path.pub`.

    Args:
        path: Where the private key goes; its folder is made (mode 0700) when absent.
        name: The participant's name, written as the public line's comment.

    Raises:
        IdentityError: The name is none, or one of the two files exists. A key is never overwritten: whoever pinned it would
            refuse the new one.
    """
    if not _NAME.match(name):
        raise IdentityError(
            f"{name!r} is no name for a key; allowed: letters, digits, '.', '_' and '-', a letter or digit first. "
            f"Cure: --name hospital-1"
        )
    public_path = _public_path(path)
    for there in (path, public_path):
        if there.exists():
            raise IdentityError(
                f"{there} exists and a key is never overwritten; allowed: a path that does not exist. "
                f"Cure: choose another path, or move the old key away if it is no longer pinned anywhere"
            )
    key = ec.generate_private_key(ec.SECP384R1())
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_secret(
            path,
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.OpenSSH,
                serialization.NoEncryption(),
            ),
        )
        public_path.write_text(_public_line(key, name) + "\n")
    except OSError as exc:
        raise IdentityError(f"the key file {path} cannot be written: {exc.strerror}") from exc
    return Identity(name, path, key)


def load_identity(path: Path, name: str | None = None) -> Identity:
    """Read a private key file and refuse one that anybody else could have read.

    Args:
        path: The file that `new_identity` (or `ssh-keygen -t ecdsa -b 384`) made.
        name: Whose it is; the comment in `path.pub`, else the file's stem, when absent.

    Raises:
        IdentityError: Absent, readable by group or others, not a P-384 OpenSSH key, locked by a passphrase,
            or `path.pub` belongs to another key.
    """
    key = _parse_private(path, _read_private(path))
    comment = _check_public_beside(path, key)
    return Identity(name or comment or path.stem, path, key)


def fingerprint(public_line: str) -> str:
    """`SHA256:` and the unpadded base64 digest of the key, as `ssh-keygen -lf` prints it.

    Args:
        public_line: An OpenSSH public key line.
    """
    digest = hashlib.sha256(public_blob(public_line)).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def public_blob(public_line: str) -> bytes:
    """The key inside a public line, in OpenSSH's wire format, after checking that it is a point on P-384.

    Raises:
        IdentityError: It is not such a key.
    """
    words = public_line.split()
    try:
        loaded = serialization.load_ssh_public_key(" ".join(words[:2]).encode())
    except (ValueError, UnsupportedAlgorithm, IndexError) as exc:
        raise IdentityError(
            f"{_short(public_line)} is not an OpenSSH public key line; allowed: one that begins with "
            f'"{KEY_TYPE} ". Cure: copy the line from the .pub file of `fedcore identity new`'
        ) from exc
    return _blob(_require_p384(loaded, _short(public_line)))


def key_blob(key: ec.EllipticCurvePublicKey) -> bytes:
    """A public key in OpenSSH's wire format: two keys are equal when these bytes are."""
    return _blob(key)


def same_key(one: bytes, other: bytes) -> bool:
    """Whether two key blobs are equal, in time that does not depend on where they differ."""
    return hmac.compare_digest(one, other)


def check_pin(name: str, public_line: str, pins: Mapping[str, str]) -> None:
    """Refuse a key that is not the one the roster pins to this name.

    Args:
        name: Who claims the key.
        public_line: The key.
        pins: Name to public key line, from the roster.

    Raises:
        IdentityError: The name is not in the roster, or another key is pinned to it.
    """
    pinned = pins.get(name)
    if pinned is None:
        raise IdentityError(
            f"{name} is not in the roster; {did_you_mean(name, pins)}. Cure: let the roster's keeper add "
            f"the line of its .pub file"
        )
    if not same_key(public_blob(public_line), public_blob(pinned)):
        raise IdentityError(
            f"the key of {name} is {fingerprint(public_line)} but the roster pins {fingerprint(pinned)}; "
            f"allowed is the pinned key only. Cure: use the key file that belongs to {name}, or, after "
            f"asking {name} over another channel, replace the line in the roster"
        )


def write_secret(path: Path, content: bytes) -> None:
    """Write a new file that only its owner can ever open.

    The mode is set at creation, so that there is no moment at which another user could open it.

    Raises:
        FileExistsError: `path` exists.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            # The umask may have taken a bit from the owner too.
            os.fchmod(file.fileno(), 0o600)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def replace_secret(path: Path, content: bytes) -> None:
    """Write a file that only its owner can open in place of an older one, in one step."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    write_secret(fresh, content)
    fresh.replace(path)


def _read_private(path: Path) -> bytes:
    cure = f"Cure: fedcore identity new {path}"
    try:
        with path.open("rb") as file:
            # Ask about the open file, not about its name: the name may point elsewhere a moment later.
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise IdentityError(f"{path} is not a file; allowed: a private key file. {cure}")
            mode = stat.S_IMODE(found.st_mode)
            if mode & 0o077:
                raise IdentityError(
                    f"the key file {path} has mode {mode:04o}, so others can read it; allowed is 0600 "
                    f"(nothing for group and others). Cure: chmod 600 {path}, and make a new key if anyone "
                    f"else uses this machine"
                )
            return file.read()
    except FileNotFoundError as exc:
        raise IdentityError(f"the key file {path} does not exist. {cure}") from exc
    except IsADirectoryError as exc:
        raise IdentityError(f"{path} is a folder; allowed: a private key file. {cure}") from exc
    except OSError as exc:
        raise IdentityError(f"the key file {path} cannot be read: {exc.strerror}") from exc


def _parse_private(path: Path, content: bytes) -> ec.EllipticCurvePrivateKey:
    cure = f"Cure: fedcore identity new {path.with_suffix('.new.key')}"
    try:
        key = serialization.load_ssh_private_key(content, None)
    except TypeError as exc:
        raise IdentityError(
            f"the key file {path} is locked by a passphrase, which Flower's SuperNode cannot ask for; "
            f"allowed: a key without one, mode 0600. Cure: ssh-keygen -p -N '' -f {path}"
        ) from exc
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise IdentityError(
            f"{path} is not an OpenSSH private key file; allowed: ECDSA P-384 in OpenSSH format. {cure}"
        ) from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise IdentityError(f"the key in {path} is not ECDSA over P-384, the only kind allowed. {cure}")
    return key


def _check_public_beside(path: Path, key: ec.EllipticCurvePrivateKey) -> str | None:
    """The comment of `path.pub`; None when there is no such file."""
    beside = _public_path(path)
    try:
        line = beside.read_text().strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    if not same_key(public_blob(line), _blob(key.public_key())):
        raise IdentityError(
            f"{beside} is not the public half of {path}; allowed: the matching pair. Cure: bring the right "
            f".pub file, or delete it (it can be shown again with `fedcore identity show {path}`)"
        )
    words = line.split(maxsplit=2)
    return words[2] if len(words) == 3 else None


def _require_p384(key: object, shown: str) -> ec.EllipticCurvePublicKey:
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise IdentityError(
            f"{shown} is not an ECDSA P-384 key, the only kind allowed. Cure: make one with "
            "`fedcore identity new`"
        )
    return key


def _blob(key: ec.EllipticCurvePublicKey) -> bytes:
    line = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return base64.b64decode(line.split()[1])


def _public_line(key: ec.EllipticCurvePrivateKey, name: str) -> str:
    return f"{KEY_TYPE} {base64.b64encode(_blob(key.public_key())).decode()} {name}"


def _public_path(path: Path) -> Path:
    return path.with_name(path.name + ".pub")


def _short(line: str) -> str:
    return repr(line if len(line) <= 40 else line[:37] + "...")
