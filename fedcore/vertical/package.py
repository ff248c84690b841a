"""One party's part of a joint model as a folder: what it needs to score new customers, and nothing of the others'.

    model.json            who, which run and model, columns and keys, hashes of the inputs, versions, the part itself
    arrays.safetensors    its arrays, where it has any
    seal.json             SHA-256 of model.json, and a signature over it by the party's long-term key

`model.json` holds the SHA-256 of the arrays' file, so the seal covers all of it. Nothing is pickled. Without a
signature the seal notices a damaged file and not somebody who writes a new seal too; with one, and with the key pinned
at `load_package`, it notices both.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from fedcore.errors import DataError, IdentityError, JobError
from fedcore.trust.identity import Identity
from fedcore.trust.signing import authenticator
from fedcore.vertical.record import Record

FORMAT = 1
MODEL, ARRAYS, SEAL = "model.json", "arrays.safetensors", "seal.json"
_SIGNED = b"fedcore model package\0"
_CURE = "restore the folder that the run wrote, or score with another one"

Kind = Literal["scorecard", "linear", "boosting", "split-network"]


@dataclass(frozen=True)
class About(Record):
    """What a package is.

    Args:
        party: Whose part.
        role: `label holder` or `partner`.
        run, model: Which run made it, and its name in the job; the same at all parties.
        kind: How scores are made.
        holder: The label holder.
        partners: In the order of the job.
        purpose: That the job stated.
        data: The party's data set, by its name in the catalogue.
        key: Its key columns.
        items: Settings of what counts as the same key.
        columns: That the part reads.
        inputs: SHA-256 of what the model was made of, by name.
        versions: Of fedcore, Python and numpy that wrote it.
        created: UTC, ISO 8601.
    """

    party: str
    role: Literal["label holder", "partner"]
    run: str
    model: str
    kind: Kind
    holder: str
    partners: tuple[str, ...]
    purpose: str = "research"
    data: str = ""
    key: tuple[str, ...] = ()
    items: dict[str, bool] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    inputs: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    created: str = ""

    @property
    def place(self) -> int:
        """Number of this partner in the order of the job, from 0."""
        return self.partners.index(self.party)


@dataclass(frozen=True, eq=False)
class Package:
    """A party's part of a model.

    Args:
        about: What it is.
        content: The part as JSON; what is in it depends on `about.kind` (see `fedcore.vertical.scoring`).
        arrays: By name, of numbers.
    """

    about: About
    content: Mapping[str, Any]
    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


def save_package(folder: Path, package: Package, identity: Identity | None = None) -> str:
    """Write a package; one that is there is replaced, as a whole.

    Args:
        folder: Where.
        package: Versions and time are filled in where they are empty.
        identity: Signs it; nobody when None.

    Returns:
        SHA-256 of `model.json`, hex: names the package in logs and reports.

    Raises:
        JobError: The folder cannot be written.
    """
    from fedcore import __version__

    about = package.about.as_dict()
    about["created"] = about["created"] or datetime.now(UTC).isoformat(timespec="seconds")
    about["versions"] = about["versions"] or {
        "fedcore": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    arrays = save_arrays({name: np.ascontiguousarray(value) for name, value in package.arrays.items()})
    told = {
        "format": FORMAT,
        "about": about,
        "content": package.content,
        "arrays": hashlib.sha256(arrays).hexdigest() if package.arrays else None,
    }
    model = (json.dumps(told, indent=1, allow_nan=False) + "\n").encode()
    digest = hashlib.sha256(model)
    seal: dict[str, Any] = {"sha256": digest.hexdigest(), "signature": None, "signer": None}
    if identity is not None:
        signature = authenticator(identity, {}).sign(_SIGNED + digest.digest())
        seal |= {"signature": base64.b64encode(signature).decode(), "signer": identity.public_line}
    files = {MODEL: model, SEAL: (json.dumps(seal, indent=1) + "\n").encode()}
    if package.arrays:
        files[ARRAYS] = arrays
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, content in files.items():
            (partial / name).write_bytes(content)
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    except OSError as error:
        raise JobError(
            f"the model's folder {folder} cannot be written ({error.strerror}); choose another place"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return digest.hexdigest()


def load_package(folder: Path, signers: Sequence[str] | None = None) -> Package:
    """Read a package and check that it is as it was written.

    Args:
        folder: That `save_package` wrote.
        signers: Public key lines of which one must have signed it; None takes an unsigned package too.

    Raises:
        DataError: It is not there, was changed, or is of another version.
        IdentityError: It is not signed, or not by one of the keys.
    """
    model, seal = _read(folder / MODEL), _json(folder / SEAL)
    digest = hashlib.sha256(model)
    if not hmac.compare_digest(str(seal.get("sha256")), digest.hexdigest()):
        raise DataError(
            f"{folder / MODEL} is not as it was written: its SHA-256 is not that of {SEAL}; {_CURE}"
        )
    if signers is not None:
        _check_signature(folder, seal, digest.digest(), signers)
    told = _json(folder / MODEL, model)
    if told.get("format") != FORMAT or set(told) != {"format", "about", "content", "arrays"}:
        raise DataError(
            f"{folder / MODEL} is no model of format {FORMAT}; use the version of fedcore that wrote it"
        )
    about = About.from_dict(told["about"])
    if about.role == "partner" and about.party not in about.partners:
        raise DataError(f"{folder / MODEL}: {about.party!r} is none of its partners; {_CURE}")
    arrays: dict[str, npt.NDArray[Any]] = {}
    if told["arrays"] is not None:
        raw = _read(folder / ARRAYS)
        if not hmac.compare_digest(hashlib.sha256(raw).hexdigest(), str(told["arrays"])):
            raise DataError(f"{folder / ARRAYS} is not as it was written: another SHA-256; {_CURE}")
        try:
            arrays = load_arrays(raw)
        except SafetensorError as error:
            raise DataError(f"{folder / ARRAYS} is no file of arrays; {_CURE}") from error
    return Package(about, told["content"], arrays)


def _check_signature(folder: Path, seal: Mapping[str, Any], digest: bytes, signers: Sequence[str]) -> None:
    if not isinstance(seal.get("signature"), str):
        raise IdentityError(f"the model in {folder} is not signed; {_CURE}")
    try:
        signature = base64.b64decode(seal["signature"], validate=True)
    except ValueError:
        signature = b""
    pins = {str(number): line for number, line in enumerate(signers)}
    check = authenticator(None, pins)
    if not any(check.verify(name, _SIGNED + digest, signature) for name in pins):
        raise IdentityError(
            f"the model in {folder} is not signed by a key that counts here: it was changed, or another party wrote it; "
            f"{_CURE}"
        )


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}); {_CURE}") from error


def _json(file: Path, raw: bytes | None = None) -> dict[str, Any]:
    try:
        found = json.loads(_read(file) if raw is None else raw)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is no JSON; {_CURE}") from error
    if not isinstance(found, dict):
        raise DataError(f"{file} is no JSON object; {_CURE}")
    return found
