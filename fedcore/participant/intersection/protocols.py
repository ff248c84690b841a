"""The protocol that was agreed, from a party's keys to its result."""

from __future__ import annotations

import numpy as np

from crypto.psi import ecdh, vole_psi
from crypto.psi.key_store import KeyStore
from fedcore.participant.intersection.keys import Watch
from fedcore.participant.intersection.rows import RowsFile
from fedcore.participant.intersection.side import Side
from fedcore.peer.channel import FramedChannel

ASSUMPTIONS = {
    "vole": "primal LPN over GF(2) and GF(2^128), Diffie-Hellman in ristretto255, AES an ideal permutation",
    "ecdh": "decisional Diffie-Hellman in ristretto255, random oracle",
}


def learns_rows(side: Side) -> bool:
    """Whether this party is told which of its rows match."""
    return side.reveal == "rows" and (side.role == "receiver" or side.both)


def run(channel: FramedChannel, side: Side, store: KeyStore, found: RowsFile, watch: Watch) -> int | None:
    """Run the protocol; rows go to `found`, with the planted items among them.

    Returns:
        Where only the number of matches is revealed, to this party: that number, planted items included.
    """
    receives = side.role == "receiver"
    reveal: vole_psi.Reveal = "both" if side.both else "receiver"
    if side.protocol == "vole":
        role = vole_psi.receive_set if receives else vole_psi.send_set
        role(channel, store, found, reveal=reveal, progress=watch)
        return None
    if side.reveal == "cardinality":
        count = (ecdh.receive if receives else ecdh.send)(channel, store.whole(), reveal="cardinality")
        return None if count is None else int(count)
    positions = (ecdh.receive if receives else ecdh.send)(channel, store.whole(), reveal=reveal)
    if positions is not None:
        found.append(np.asarray(positions, dtype=np.int64))
    return None
