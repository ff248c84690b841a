"""The publisher's part in a query: charge it to the set's lifetime, then answer.

Its data is not read: the secret is all that an answer needs. Who asks learns which of its items the set has
(`crypto.psi.ecdh_cached`).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from crypto.errors import ProtocolError
from crypto.psi import parameters
from crypto.psi.ecdh_cached import query_send
from crypto.psi.ecdh_rounds import MOST
from fedcore.errors import JobError, PeerLost, PolicyRefused, ProtocolFailed
from fedcore.participant.intersection.costs import Phases, peak_memory
from fedcore.participant.intersection.keys import Watch
from fedcore.participant.intersection.meeting import VERSION, of_set, shake, terms
from fedcore.participant.intersection.protocols import ASSUMPTIONS
from fedcore.participant.intersection.published import load_secret
from fedcore.participant.intersection.rows import save
from fedcore.participant.intersection.run import RESULT
from fedcore.participant.intersection.spending import charge, spent
from fedcore.peer.channel import FramedChannel

PROTOCOL = "ecdh-cached"


def answer(
    meet: Callable[[], FramedChannel],
    secret: Path,
    session: str,
    out: Path,
    watch: Watch = lambda phase, done, of: None,
    *,
    by: str = "",
) -> dict[str, Any]:
    """Answer one query, and write `result.json` to `out`.

    Args:
        meet: Opens the channel to the party that asks.
        secret: Of the published set; its counter lies beside it.
        session: Name of the meeting, the same at both.
        out: Folder; made when absent.
        watch: Told the progress.
        by: Who asks, for the counter's record.

    Returns:
        What stands in `result.json`: items asked for and left, seconds, bytes.

    Raises:
        JobError: The secret cannot be used, or the folder not be made.
        PolicyRefused: The lifetime is spent, or would be by this query; nothing was answered.
        DataError: The counter cannot be used, or the result not be written.
        ProtocolFailed: The parties do not agree on the settings, or a message was wrong.
        PeerLost: The other party did not come, or went away.
    """
    known = load_secret(secret)
    identity = known.key.identity
    # A counter that cannot be used is told now; one that is spent is told to the other party too.
    spent(secret, identity)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JobError(
            f"out: the folder {out} cannot be made ({error.strerror}); choose another place"
        ) from error
    phases = Phases(watch)
    try:
        with phases("meet"):
            channel = meet()
        with channel:
            with phases("agree"):
                shake(
                    channel, PROTOCOL, "sender", session, terms(known.rules, known.kinds) | of_set(known.name)
                )
            (out / RESULT).unlink(missing_ok=True)
            asked = int(np.frombuffer(channel.recv("psi.asking", size=8), dtype="<i8")[0])
            if not 0 <= asked <= MOST:
                raise ProtocolError(f"{asked} items asked for; 0 to {MOST} can be", step="psi.asking")
            try:
                # On the disk before the first answer goes.
                left = charge(secret, identity, asked, known.lifetime, session=session, by=by)
            except PolicyRefused:
                still = min(known.lifetime - spent(secret, identity), asked - 1)
                channel.send("psi.left", np.array([still], dtype="<i8"))
                with contextlib.suppress(PeerLost):
                    channel.close()
                raise
            channel.send("psi.left", np.array([left + asked], dtype="<i8"))
            with phases(PROTOCOL):
                query_send(channel, known.key, most=asked)
            with phases("check"):
                channel.send("psi.count", np.array([-1], dtype="<i8"))
                channel.recv("psi.count", size=8)
        counters = channel.counters
    except ProtocolError as error:
        raise ProtocolFailed(error.message, step=error.step) from error
    result = {
        "kind": "psi",
        "session": session,
        "role": "sender",
        "protocol": {
            "name": PROTOCOL,
            "version": VERSION,
            "parameters": parameters.VERSION,
            "assumption": ASSUMPTIONS[PROTOCOL],
        },
        "reveal": "rows",
        "to": "receiver",
        "rules": json.loads(known.rules.canonical()),
        "published": {"set": identity.hex(), "items": known.items, "lifetime": known.lifetime},
        "asked": asked,
        "left": left,
        "intersection": None,
        "phases": phases.taken,
        "peak_memory_bytes": peak_memory(),
        "bytes": {"sent": counters.sent.bytes, "received": counters.received.bytes},
    }
    save(out / RESULT, lambda file: file.write_text(json.dumps(result, indent=1) + "\n"))
    return result
