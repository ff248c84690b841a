"""One party's part in a set intersection: read the keys, meet the other, run the protocol, check it, write the rows.

What leaves the party is what the protocol sends (see `crypto.psi`), and the settings in the handshake. The result
stays here: `rows.parquet` has, for each row of the party's own data that matched, its number from 0 (`row`) and the
number of the match (`match`). Where both parties learn the result, a match has the same number at both.
"""

from __future__ import annotations

import hashlib
import json
import resource
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from crypto.errors import ProtocolError
from crypto.psi import ecdh, parameters, vole_psi
from crypto.psi.distinct import Distinct, collapse
from crypto.psi.items import ItemRules, Keys, keys_of, kinds_of
from crypto.psi.planted import check_planted, check_planted_count, planted
from fedcore.errors import DataError, JobError, ProtocolFailed, did_you_mean
from fedcore.jobs.datasets import DataSet
from fedcore.participant.data.batches import read_batches
from fedcore.peer.channel import FramedChannel
from fedcore.peer.handshake import Hello, shake_hands

Int64 = npt.NDArray[np.int64]
Role = Literal["receiver", "sender"]
Watch = Callable[[str, int, int], None]
"""Told a phase, how much of it is done, and how much there is (0 when that is not known)."""

PROTOCOLS = ("vole", "ecdh")
REVEALS = ("rows", "cardinality")
VERSION = 1
PLANTED = 64
ROWS = "rows.parquet"
RESULT = "result.json"


@dataclass(frozen=True)
class Side:
    """What one party brings and what was agreed.

    Args:
        role: The receiver learns the result.
        data: Its rows.
        key: Columns of the key, in an order that both parties know.
        session: Name of the meeting, the same at both.
        rules: What counts as the same item.
        protocol: `vole` or `ecdh`.
        reveal: `rows` or `cardinality`.
        both: Whether the sender learns the rows too.
        memory: Bytes for reading; unbounded when None.
    """

    role: Role
    data: DataSet
    key: tuple[str, ...]
    session: str
    rules: ItemRules = field(default_factory=ItemRules)
    protocol: str = "vole"
    reveal: str = "rows"
    both: bool = False
    memory: int | None = None

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("role", self.role, ("receiver", "sender")),
            ("protocol", self.protocol, PROTOCOLS),
            ("reveal", self.reveal, REVEALS),
        ):
            if value not in allowed:
                raise JobError(f"{name}: {value!r} is not known; {did_you_mean(value, allowed)}")
        if not self.key:
            raise JobError("key: name one column or more")
        if self.reveal == "cardinality" and self.protocol != "ecdh":
            raise JobError(
                f"protocol {self.protocol} shows the receiver which rows match; for the cardinality alone take "
                "protocol ecdh"
            )
        if self.reveal == "cardinality" and self.both:
            raise JobError(
                "both: with cardinality the receiver alone learns the number, and nobody rows; leave it out"
            )


class Phases:
    """Seconds and CPU seconds of each phase, in order."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.taken: dict[str, dict[str, float]] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[Watch]:
        self._watch(name, 0, 0)
        wall, cpu = time.monotonic(), time.process_time()
        yield lambda _, done, of: self._watch(name, done, of)
        self.taken[name] = {"seconds": time.monotonic() - wall, "cpu_seconds": time.process_time() - cpu}


def read_keys(side: Side, watch: Watch) -> tuple[Keys, tuple[str, ...]]:
    """The keys of all rows, and what each key column is encoded as.

    Raises:
        DataError: The data cannot be read, lacks a key column (those it has are listed), or has one that cannot be
            a key.
    """
    parts: list[Keys] = []
    rows = 0
    kinds: tuple[str, ...] = ()
    for batch in read_batches(side.data, side.key, memory=side.memory):
        try:
            kinds = kinds or kinds_of(batch.schema.types, side.rules)
            parts.append(keys_of(batch.columns, side.rules, first_row=rows))
        except ValueError as error:
            raise DataError(f"key {', '.join(side.key)}: {error}", step="read") from error
        rows += batch.num_rows
        watch("read", rows, 0)
    blocks = np.concatenate([part.blocks for part in parts])
    numbers = np.concatenate([part.rows for part in parts])
    return Keys(blocks, numbers, sum(part.nulls for part in parts)), kinds


def intersect(
    meet: Callable[[], FramedChannel], side: Side, out: Path, watch: Watch = lambda phase, done, of: None
) -> dict[str, Any]:
    """Take part in an intersection, and write `rows.parquet` and `result.json` to `out`.

    Args:
        meet: Opens the channel to the other party; called when the own keys are read.
        side: What this party brings.
        out: Folder; made when absent.
        watch: Told the progress.

    Returns:
        What stands in `result.json`: counts, seconds per phase, memory, bytes.

    Raises:
        DataError: As `read_keys`, or the result cannot be written; then nothing of it is left.
        ProtocolFailed: The parties do not agree on the settings, a message was wrong, or the self-check failed.
        PeerLost: The other party did not come, or went away.
        JobError: The folder cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JobError(
            f"out: the folder {out} cannot be made ({error.strerror}); choose another place"
        ) from error
    phases = Phases(watch)
    compiling = _CompileClock()
    with phases("read"):
        keys, kinds = read_keys(side, watch)
    with phases("collapse"):
        mine = collapse(keys.blocks, keys.rows)
        rows = len(keys.rows) + keys.nulls
        nulls = keys.nulls
        del keys
    with phases("meet"):
        try:
            channel = meet()
        except ProtocolError as error:
            raise ProtocolFailed(error.message, step=error.step) from error
    with channel:
        try:
            with phases("agree"):
                seed = _agree(channel, side, kinds)
            # From here on a result that is there would be of another run than the last.
            for stale in (ROWS, RESULT):
                (out / stale).unlink(missing_ok=True)
            items = np.concatenate([mine.blocks, planted(PLANTED, seed)])
            # The keys stand in memory once: at a hundred million of them a copy is 1.6 GB.
            mine = replace(mine, blocks=items[: len(mine.blocks)])
            with phases(side.protocol) as told:
                positions, count = _run(channel, side, items, told)
            with phases("check"):
                positions, count = _check(channel, side, positions, count, len(mine.blocks))
        except ProtocolError as error:
            raise ProtocolFailed(error.message, step=error.step) from error
        counters = channel.counters
    with phases("write"):
        written = 0 if positions is None else _write(out / ROWS, mine, positions)
    result = {
        "kind": "psi",
        "session": side.session,
        "role": side.role,
        "protocol": {
            "name": side.protocol,
            "version": VERSION,
            "parameters": parameters.VERSION,
            "assumption": _ASSUMPTIONS[side.protocol],
        },
        "reveal": side.reveal,
        "to": "both" if side.both else "receiver",
        "rules": json.loads(side.rules.canonical()),
        "rows": rows,
        "nulls": nulls,
        "duplicates": mine.duplicates,
        "items": len(mine.blocks),
        "intersection": count,
        "matched_rows": written if positions is not None else None,
        "self_check": {"planted": PLANTED, "returned": PLANTED},
        "phases": phases.taken,
        "compile_seconds": compiling.seconds,
        "peak_memory_bytes": _peak_memory(),
        "bytes": {"sent": counters.sent.bytes, "received": counters.received.bytes},
    }
    try:
        _save(out / RESULT, lambda file: file.write_text(json.dumps(result, indent=1) + "\n"))
    except DataError:
        (out / ROWS).unlink(missing_ok=True)
        raise
    return result


_ASSUMPTIONS = {
    "vole": "primal LPN over GF(2) and GF(2^128), Diffie-Hellman in ristretto255, AES an ideal permutation",
    "ecdh": "decisional Diffie-Hellman in ristretto255, random oracle",
}


_TYPES = "types of the key"
_CURES = {
    _TYPES: "keys match only where both sides name as many columns with the same types in the same order; numbers "
    "against text (a CSV file has only text) need --numbers-as-text at both, dates against text --dates-as-text",
    "reveal": "give --reveal the same value at both",
    "both": "give --both at both parties, or at neither",
    **{
        rule: f"give --{rule.replace('_', '-')} at both parties, or at neither"
        for rule in ("trim", "fold_case", "numbers_as_text", "dates_as_text")
    },
    "encoding": "install the same version of fedcore at both",
}


def _agree(channel: FramedChannel, side: Side, kinds: Sequence[str]) -> bytes:
    """Shake hands; the seed of the planted items, to which both contributed."""
    hello = Hello(
        protocol=f"psi {side.protocol}",
        version=VERSION,
        table=str(parameters.VERSION),
        session=side.session,
        role=side.role,
        options={
            "reveal": side.reveal,
            "both": side.both,
            # One by one, so that an error names the rule in which the sides differ.
            **json.loads(side.rules.canonical()),
            _TYPES: ", ".join(kinds),
        },
    )
    peer_role = "sender" if side.role == "receiver" else "receiver"
    shake_hands(channel, hello, peer_role=peer_role, cures=_CURES)
    own = secrets.token_bytes(16)
    channel.send("psi.nonce", own)
    other = bytes(channel.recv("psi.nonce", size=16))
    both = own + other if side.role == "receiver" else other + own
    return hashlib.sha256(side.session.encode() + both).digest()


def _run(
    channel: FramedChannel, side: Side, items: npt.NDArray[np.uint64], watch: Watch
) -> tuple[Int64 | None, int | None]:
    """Positions, or the count, with the planted items among them."""
    role = "receive" if side.role == "receiver" else "send"
    if side.reveal == "cardinality":
        return None, getattr(ecdh, role)(channel, items, reveal="cardinality")
    reveal = "both" if side.both else "receiver"
    if side.protocol == "vole":
        return getattr(vole_psi, role)(channel, items, reveal=reveal, progress=watch), None
    return getattr(ecdh, role)(channel, items, reveal=reveal), None


def _check(
    channel: FramedChannel, side: Side, positions: Int64 | None, count: int | None, items: int
) -> tuple[Int64 | None, int | None]:
    """Without the planted items, which must all be there; where both sides learn the result, they found as many."""
    if positions is not None:
        positions = check_planted(positions, items, PLANTED, "psi.check")
        count = len(positions)
    elif count is not None:
        count = check_planted_count(count, PLANTED, "psi.check")
    own = count if side.both and count is not None else -1
    channel.send("psi.count", np.array([own], dtype="<i8"))
    other = int(np.frombuffer(channel.recv("psi.count", size=8), dtype="<i8")[0])
    if own != other:
        raise ProtocolError(
            f"this side found {own} matches, the other {other}; the result is not used. Run it again, and report "
            "it when it happens again",
            step="psi.check",
        )
    return positions, count


def _write(file: Path, mine: Distinct, positions: Int64) -> int:
    """The matched rows; how many."""
    rows, groups = mine.rows_of(positions)
    table = pa.table({"row": rows, "match": groups})
    _save(file, lambda partial: pq.write_table(table, partial))
    return len(rows)


def _save(file: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole or not at all."""
    partial = file.with_name(f".{file.name}.partial")
    try:
        write(partial)
        partial.replace(file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DataError(
            f"{file.name} could not be written ({error.strerror or error}); make room and run it again",
            step="write",
        ) from error


def _peak_memory() -> int:
    """Of this process. Linux counts in `ru_maxrss` what the process that started this one had, too."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class _CompileClock:
    """Seconds spent compiling kernels, which a first run on a machine pays and later ones do not."""

    def __init__(self) -> None:
        from numba.core import event

        self._recorder = event.RecordingListener()
        event.register("numba:compile", self._recorder)

    @property
    def seconds(self) -> float:
        """So far; nested compilations count once."""
        total, depth, began = 0.0, 0, 0.0
        for when, what in self._recorder.buffer:
            if what.is_start:
                began = when if depth == 0 else began
                depth += 1
            elif what.is_end and depth:
                depth -= 1
                total += when - began if depth == 0 else 0.0
        return total
