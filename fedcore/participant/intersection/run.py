"""One party's part in a set intersection: read the keys, meet the other, run the protocol, check it, write the rows.

What leaves the party is what the protocol sends (see `crypto.psi`), and the settings in the handshake. The result
stays here: `rows.parquet` has, for each row of the party's own data that matched, its number from 0 (`row`) and the
number of the match (`match`). Where both parties learn the result, a match has the same number at both.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from crypto.errors import ProtocolError
from crypto.psi import parameters
from crypto.psi.planted import check_back, check_planted_count, planted
from fedcore.errors import DataError, JobError, ProtocolFailed
from fedcore.participant.intersection.costs import CompileClock, Phases, peak_memory
from fedcore.participant.intersection.keys import Watch, keeping, read_keys
from fedcore.participant.intersection.meeting import VERSION, agree
from fedcore.participant.intersection.protocols import ASSUMPTIONS, learns_rows, run
from fedcore.participant.intersection.rows import RowsFile, save
from fedcore.participant.intersection.side import Side
from fedcore.peer.channel import FramedChannel

PLANTED = 64
ROWS = "rows.parquet"
RESULT = "result.json"


def intersect(
    meet: Callable[[], FramedChannel], side: Side, out: Path, watch: Watch = lambda phase, done, of: None
) -> dict[str, Any]:
    """Take part in an intersection, and write `rows.parquet` and `result.json` to `out`.

    Args:
        meet: Opens the channel to the other party; called when the own keys are read.
        side: What this party brings.
        out: Folder; made when absent. Keys that have no room in memory are in an unnamed file on the same disk.
        watch: Told the progress.

    Returns:
        What stands in `result.json`: counts, seconds per phase, memory, bytes.

    Raises:
        DataError: The data cannot be read, or lacks a key column, or the result cannot be written or the keys not be
            kept; then nothing of the result is left.
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
    compiling = CompileClock()
    with keeping(out):
        with phases("read") as told:
            read = read_keys(side, out, told)
        with phases("collapse"):
            read.store.collapse()
    store, items = read.store, len(read.store)
    found = RowsFile(out / ROWS, store)
    try:
        with phases("meet"):
            try:
                channel = meet()
            except ProtocolError as error:
                raise ProtocolFailed(error.message, step=error.step) from error
        with channel, keeping(out):
            try:
                with phases("agree"):
                    seed = agree(channel, side, read.kinds)
                # From here on a result that is there would be of another run than the last.
                for stale in (ROWS, RESULT):
                    (out / stale).unlink(missing_ok=True)
                store.plant(planted(PLANTED, seed))
                with phases(side.protocol) as told:
                    count = run(channel, side, store, found, told)
                with phases("check"):
                    count = _check(channel, side, found, count)
            except ProtocolError as error:
                raise ProtocolFailed(error.message, step=error.step) from error
            counters = channel.counters
        with phases("write"):
            if learns_rows(side):
                found.finish()
    finally:
        found.discard()
        store.close()
    result = {
        "kind": "psi",
        "session": side.session,
        "role": side.role,
        "protocol": {
            "name": side.protocol,
            "version": VERSION,
            "parameters": parameters.VERSION,
            "assumption": ASSUMPTIONS[side.protocol],
        },
        "reveal": side.reveal,
        "to": "both" if side.both else "receiver",
        "rules": json.loads(side.rules.canonical()),
        "rows": read.rows,
        "nulls": read.nulls,
        "duplicates": store.duplicates,
        "items": items,
        "intersection": count,
        "matched_rows": found.written if learns_rows(side) else None,
        "self_check": {"planted": PLANTED, "returned": PLANTED},
        "phases": phases.taken,
        "compile_seconds": compiling.seconds,
        "peak_memory_bytes": peak_memory(),
        "spilled_bytes": store.spilled,
        "bytes": {"sent": counters.sent.bytes, "received": counters.received.bytes},
    }
    try:
        save(out / RESULT, lambda file: file.write_text(json.dumps(result, indent=1) + "\n"))
    except DataError:
        (out / ROWS).unlink(missing_ok=True)
        raise
    return result


def _check(channel: FramedChannel, side: Side, found: RowsFile, count: int | None) -> int | None:
    """The number of matches without the planted items, which must all be there; both sides found as many."""
    if learns_rows(side):
        check_back(len(found.planted), PLANTED, "psi.check")
        count = found.matches
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
    return count
