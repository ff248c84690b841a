"""A published set: its file, the secret that answers for it, and the receiver's side of a query.

    NAME.psi              the set as `crypto.psi.ecdh_published` has it; for everyone who may ask
    NAME.key              the secret, JSON, readable by its owner only; never leaves the publisher
    NAME.key.spent        how many items were asked for so far (`spending`); beside the secret
    .NAME.psi.checked     at the receiver: that this file's digest was compared once

Items of the self-check are in the set: 64 random ones that follow from the set's identity, which whoever asks knows
too. They are the same in every query, so they show a fault of the file or of the run, and not one that spares them.

Who learns what: see `crypto.psi.ecdh_cached`. The rules of the keys and their types are told in the handshake.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import stat
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.errors import ProtocolError
from crypto.psi import ecdh_cached, parameters
from crypto.psi.ecdh_cached import Key, query_receive
from crypto.psi.ecdh_published import Published, layout, open_published
from crypto.psi.items import ItemRules
from crypto.psi.planted import planted
from fedcore.errors import DataError, JobError, PolicyRefused
from fedcore.participant.intersection.keys import Watch, keeping, read_keys
from fedcore.participant.intersection.rows import save
from fedcore.participant.intersection.side import PLANTED, Side
from fedcore.participant.intersection.spending import spent_file, start_counting
from fedcore.peer.channel import FramedChannel
from fedcore.trust.identity import write_secret

LIFETIME = ecdh_cached.LIFETIME
VERSION = 1
"""Of the secret's file."""
STEP = "published"
_DIGEST = 32
_LEFT = np.dtype("<i8")

Blocks = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Secret:
    """What answers for a published set.

    Args:
        key: The scalar.
        items: In the set, those of the self-check aside.
        lifetime: Items that may be asked for in all.
        rules: What counts as the same item.
        kinds: What the key columns are encoded as.
        digest: SHA-256 of the published set, as it stands at its end.
    """

    key: Key = field(repr=False)
    items: int
    lifetime: int
    rules: ItemRules
    kinds: tuple[str, ...]
    digest: bytes

    @property
    def name(self) -> bytes:
        """What both parties compare, 48 bytes: a set that was changed on its way has another."""
        return self.key.identity + self.digest


@dataclass(frozen=True)
class Opened:
    """A published set at the party that asks.

    Args:
        found: For lookups.
        name: As `Secret.name`.
    """

    found: Published
    name: bytes


def planted_in(identity: bytes) -> Blocks:
    """The items of the self-check in the set of that identity."""
    return planted(PLANTED, hashlib.sha256(b"fedcore psi published planted items" + identity).digest())


# ---- publish ----------------------------------------------------------------------------------------------------


def publish(side: Side, out: Path, secret: Path, *, lifetime: int = LIFETIME, watch: Watch) -> dict[str, Any]:
    """Publish a party's set, and make the secret that answers for it.

    Args:
        side: Data, key, rules and memory count; the rest of it does not.
        out: The file to give to those who may ask.
        secret: The file to keep; the counter is made beside it.
        lifetime: Items that may be asked for in all, over all queries, with 64 for the self-check of each.
        watch: Told the progress.

    Returns:
        Counts, sizes, and the set's identity.

    Raises:
        JobError: One of the files is there already, or the lifetime is not possible.
        DataError: The data cannot be read, or a file not be written; then none of them is left.
    """
    if lifetime <= PLANTED:
        raise JobError(
            f"lifetime: {lifetime} items; more than {PLANTED} are needed, which each query asks for as a check"
        )
    for file in (out, secret, spent_file(secret)):
        if file.exists():
            raise JobError(
                f"{file} is there and is not overwritten: who has the old set would ask the new secret in vain. Take "
                "other names, or move the old files away"
            )
        if not file.parent.is_dir():
            raise JobError(
                f"there is no folder {file.parent} for {file.name}; make it, or choose another place"
            )
    with keeping(out.parent):
        read = read_keys(side, out.parent, watch)
        watch("collapse", 0, 0)
        read.store.collapse()
    store, items = read.store, len(read.store)
    try:
        _check_lifetime(items, lifetime)
        key = ecdh_cached.new_key()
        with keeping(out.parent):
            store.plant(planted_in(key.identity))
            whole = store.whole()
        watch("ecdh-cached", 0, 0)
        data = ecdh_cached.publish(whole, key, lifetime=lifetime)
    finally:
        store.close()
    watch("write", 0, 0)
    _write(out, data, secret, Secret(key, items, lifetime, side.rules, read.kinds, data[-_DIGEST:]))
    return {
        "kind": "psi published",
        "set": key.identity.hex(),
        "rows": read.rows,
        "nulls": read.nulls,
        "duplicates": store.duplicates,
        "items": items,
        "lifetime": lifetime,
        "bytes": len(data),
        "published": str(out),
        "secret": str(secret),
    }


def _write(out: Path, data: bytes, secret: Path, made: Secret) -> None:
    """Write the three files, or none."""
    written: list[Path] = []
    try:
        write_secret(secret, _written(made))
        written.append(secret)
        start_counting(secret, made.key.identity)
        written.append(spent_file(secret))
        save(out, lambda file: file.write_bytes(data))
    except (OSError, DataError) as error:
        for file in written:
            file.unlink(missing_ok=True)
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"the secret {secret} could not be written ({error.strerror or error}), so nothing is published; choose "
            "another place",
            step="write",
        ) from error


def _check_lifetime(items: int, lifetime: int) -> None:
    try:
        if lifetime >= 2**63:
            raise ValueError("a lifetime is below 2^63")
        layout(items + PLANTED, lifetime)
    except ValueError as error:
        raise JobError(f"lifetime: {error}") from error


# ---- the secret -------------------------------------------------------------------------------------------------


def _written(secret: Secret) -> bytes:
    told = {
        "fedcore": "psi secret",
        "version": VERSION,
        "parameters": parameters.VERSION,
        "set": secret.key.identity.hex(),
        "scalar": secret.key.scalar.hex(),
        "items": secret.items,
        "lifetime": secret.lifetime,
        "rules": asdict(secret.rules),
        "kinds": secret.kinds,
        "digest": secret.digest.hex(),
    }
    return (json.dumps(told, indent=1) + "\n").encode()


def load_secret(file: Path) -> Secret:
    """The secret of a published set.

    Raises:
        JobError: It is not there, others can read it, or it is no such secret; nothing of it is quoted.
    """
    try:
        with file.open("rb") as opened:
            mode = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
            raw = opened.read(2**16)
    except OSError as error:
        raise JobError(
            f"secret: {file} cannot be read ({error.strerror}); it is made by `fedcore psi publish`"
        ) from error
    if mode & 0o077:
        raise JobError(
            f"secret: {file} has mode {mode:04o}, so others can read it; allowed is 0600. chmod 600 {file}, and publish "
            "the set again if anyone else uses this machine"
        )
    try:
        told = json.loads(raw)
        if told["fedcore"] != "psi secret":
            raise ValueError
        found = told["version"], told["parameters"]
        key = Key(bytes.fromhex(told["scalar"]))
        secret = Secret(
            key,
            int(told["items"]),
            int(told["lifetime"]),
            ItemRules(**told["rules"]),
            tuple(map(str, told["kinds"])),
            bytes.fromhex(told["digest"]),
        )
        same = told["set"] == key.identity.hex()
    except (ValueError, KeyError, TypeError):
        raise JobError(
            f"secret: {file} is not the secret of a published set, or is damaged; it is made by `fedcore psi publish`"
        ) from None
    if found != (VERSION, parameters.VERSION):
        raise JobError(
            f"secret: {file} has version {found[0]} and parameter version {found[1]}, this program {VERSION} and "
            f"{parameters.VERSION}; publish the set again"
        )
    if not same:
        raise JobError(f"secret: {file} is damaged: its scalar is not that of its set; publish the set again")
    return secret


# ---- the receiver -----------------------------------------------------------------------------------------------


def open_file(file: Path) -> Opened:
    """A published set, mapped: what is looked up is read, not the whole file.

    The first time, all of it is read once to compare its digest; that this was done is noted beside the file.

    Raises:
        DataError: It is not there, or is not a whole and sound set.
    """
    try:
        with file.open("rb") as opened:
            about = os.fstat(opened.fileno())
            data = (
                memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)) if about.st_size else b""
            )
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise DataError(f"the published set {file} cannot be read ({said})", step=STEP) from error
    note = file.with_name(f".{file.name}.checked")
    stamp = f"{about.st_size} {about.st_mtime_ns} {about.st_ino}\n"
    try:
        known = note.read_text() == stamp
    except (OSError, ValueError):
        known = False
    try:
        found = open_published(data, check=not known)
    except ProtocolError as error:
        raise DataError(f"the published set {file}: {error.message}", step=STEP) from error
    if not known:
        _note(note, stamp)
    return Opened(found, found.key_id + bytes(data[-_DIGEST:]))


def _note(note: Path, stamp: str) -> None:
    try:
        note.write_text(stamp)
    except OSError:
        # A folder that cannot be written to: the digest is compared every time.
        return


def check_asked(items: int, published: Published) -> None:
    """Refuse to ask for more than a set was ever published for.

    Args:
        items: Without those of the self-check.
        published: The other party's set.

    Raises:
        DataError: There are more.
    """
    if items + PLANTED > published.lifetime:
        raise DataError(
            f"{items:,} items, and {PLANTED} of the self-check; the set was published for {published.lifetime:,} in all: "
            "ask for fewer, or have it published with a longer lifetime",
            step=STEP,
        )


def ask(channel: FramedChannel, items: Blocks, published: Published) -> npt.NDArray[np.int64]:
    """Which items the published set has.

    Args:
        channel: To `answering.answer`, after the handshake.
        items: With those of the self-check.
        published: The other party's set.

    Raises:
        PolicyRefused: The other side answers for fewer.
        ProtocolError: The other side sent what is not allowed.
    """
    channel.send("psi.asking", np.array([len(items)], dtype=_LEFT))
    left = int(np.frombuffer(channel.recv("psi.left", size=8), dtype=_LEFT)[0])
    if left < len(items):
        raise PolicyRefused(
            f"the other side answers for {max(left, 0):,} more items of this set and {len(items):,} are asked for "
            f"({PLANTED} of them for the self-check); ask for fewer, or have the set published again",
            step="psi.asking",
        )
    return query_receive(channel, items, published)
