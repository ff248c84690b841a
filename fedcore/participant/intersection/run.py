"""One party's part in a set intersection: read the keys, meet the other, run the protocol, check it, write the rows.

What leaves the party is what the protocol sends (see `crypto.psi`), and the settings in the handshake. The result
stays here: `rows.parquet` has, for each row of the party's own data that matched, its number from 0 (`row`) and the
number of the match (`match`). Where both parties learn the result, a match has the same number at both.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crypto.errors import ProtocolError
from crypto.psi import parameters
from crypto.psi.planted import check_back, check_planted_count, planted
from fedcore.errors import DataError, JobError, ProtocolFailed
from fedcore.participant.intersection.costs import CompileClock, Phases, peak_memory
from fedcore.participant.intersection.keys import Watch, keeping, read_keys
from fedcore.participant.intersection.meeting import VERSION, agree
from fedcore.participant.intersection.protocols import Learned, assumption, learns_rows, run
from fedcore.participant.intersection.rows import RowsFile, save
from fedcore.participant.intersection.side import PLANTED, Side
from fedcore.peer.channel import FramedChannel

if TYPE_CHECKING:
    from crypto.psi.ecdh_published import Published

__all__ = ["PLANTED", "RESULT", "ROWS", "intersect"]

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
        DataError: The data or the published set cannot be read, a column is not there or a row has no number to add
            up, or the result cannot be written or the keys not be kept; then nothing of the result is left.
        PolicyRefused: The publisher of the set does not answer for so many items.
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
    opened = None
    if side.published is not None:
        from fedcore.participant.intersection import published as sets

        opened = sets.open_file(side.published)
    published = None if opened is None else opened.found
    with keeping(out):
        with phases("read") as told:
            read = read_keys(side, out, told)
        with phases("collapse"):
            read.store.collapse()
    store, items = read.store, len(read.store)
    # What cannot serve is told before anybody is met.
    if read.amounts is not None:
        read.amounts.of_items(store)
    if published is not None:
        sets.check_asked(items, published)
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
                    seed = agree(channel, side, read.kinds, None if opened is None else opened.name)
                # From here on a result that is there would be of another run than the last.
                for stale in (ROWS, RESULT):
                    (out / stale).unlink(missing_ok=True)
                # What is in a published set was planted on another day.
                store.plant(
                    planted(PLANTED, seed) if published is None else sets.planted_in(published.key_id)
                )
                with phases(side.protocol) as told:
                    learned = run(
                        channel, side, store, found, told, amounts=read.amounts, published=published
                    )
                with phases("check"):
                    learned = _check(channel, side, found, learned)
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
            "assumption": assumption(side),
        },
        "reveal": side.reveal,
        "to": "both" if side.both else "receiver",
        "rules": json.loads(side.rules.canonical()),
        "rows": read.rows,
        "nulls": read.nulls,
        "duplicates": store.duplicates,
        "items": items,
        "intersection": learned.count,
        "matched_rows": found.written if learns_rows(side) else None,
        "min_matches": side.min_matches,
        "refused": learned.refused,
        "sums": _sums(side, learned),
        "holder": None if side.sum_of is None else side.sum_of.holder,
        "published": None if published is None else _published(published),
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


def _check(channel: FramedChannel, side: Side, found: RowsFile, learned: Learned) -> Learned:
    """Numbers without the planted items, which must all be there; where both learn rows, both found as many."""
    count, step = learned.count, "psi.check"
    if learns_rows(side):
        check_back(len(found.planted), PLANTED, step)
        count = found.matches
    elif count is not None:
        count = check_planted_count(count, PLANTED, step)
    if learned.sums is not None:
        # The last column counts the planted items, and nothing else.
        marked = learned.sums[-1]
        check_back(int(marked.scaleb(-int(marked.as_tuple().exponent))), PLANTED, step)
    own = count if side.both and count is not None else -1
    channel.send("psi.count", np.array([own], dtype="<i8"))
    other = int(np.frombuffer(channel.recv("psi.count", size=8), dtype="<i8")[0])
    if own != other:
        raise ProtocolError(
            f"this side found {own} matches, the other {other}; the result is not used. Run it again, and report "
            "it when it happens again",
            step=step,
        )
    return Learned(count, learned.sums, learned.refused)


def _sums(side: Side, learned: Learned) -> dict[str, str] | None:
    """The sums by column, as decimal text, which keeps all digits."""
    if learned.sums is None or side.sum_of is None:
        return None
    return {name: f"{total:f}" for name, total in zip(side.sum_of.columns, learned.sums[:-1], strict=True)}


def _published(published: Published) -> dict[str, str | int]:
    return {
        "set": published.key_id.hex(),
        "items": published.items - PLANTED,
        "lifetime": published.lifetime,
    }
