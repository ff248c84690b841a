"""The protocol that was agreed, from a party's keys to its result."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np

from crypto.errors import ProtocolError
from crypto.psi import vole_psi
from crypto.psi.key_store import KeyStore
from fedcore.errors import ProtocolFailed
from fedcore.participant.intersection.amounts import Table
from fedcore.participant.intersection.keys import Watch
from fedcore.participant.intersection.rows import RowsFile
from fedcore.participant.intersection.side import PLANTED, Side
from fedcore.peer.channel import FramedChannel

if TYPE_CHECKING:
    from crypto.psi.ecdh_published import Published

ASSUMPTIONS = {
    "vole": "primal LPN over GF(2) and GF(2^128), Diffie-Hellman in ristretto255, AES an ideal permutation",
    "vole-compact": "primal LPN over GF(2) and GF(2^64), Diffie-Hellman in ristretto255, AES an ideal permutation",
    "ecdh": "decisional Diffie-Hellman in ristretto255, random oracle",
    "ecdh-cached": "one-more gap Diffie-Hellman in ristretto255, random oracles",
}
KEY_BITS = 3072
"""Of the holder's key, for sums."""


@dataclass(frozen=True)
class Learned:
    """What this party is told beside rows.

    Args:
        count: Matches; None where it is told none.
        sums: Of each column; None where it is told none.
        refused: Whether there are fewer matches than agreed, so that no number is told to the receiver.
    """

    count: int | None = None
    sums: tuple[Decimal, ...] | None = None
    refused: bool = False


def assumption(side: Side) -> str:
    """What the run's security rests on."""
    more = f"; decisional composite residuosity at {KEY_BITS} bits" if side.reveal == "sum" else ""
    return ASSUMPTIONS[side.protocol] + more


def learns_rows(side: Side) -> bool:
    """Whether this party is told which of its rows match."""
    return side.reveal == "rows" and (side.role == "receiver" or side.both)


def run(
    channel: FramedChannel,
    side: Side,
    store: KeyStore,
    found: RowsFile,
    watch: Watch,
    *,
    amounts: Table | None = None,
    published: Published | None = None,
) -> Learned:
    """Run the protocol; rows go to `found`, with the planted items among them.

    Args:
        channel: To the other party, after the handshake.
        side: What this party brings.
        store: Its keys, planted items included.
        found: Takes rows.
        watch: Told the progress.
        amounts: Of the holder: its numbers.
        published: Of the receiver of `ecdh-cached`: the other party's set.

    Returns:
        Numbers that are told to this party, planted items included.
    """
    receives = side.role == "receiver"
    reveal: vole_psi.Reveal = "both" if side.both else "receiver"
    if side.protocol.startswith("vole"):
        role = vole_psi.receive_set if receives else vole_psi.send_set
        try:
            role(channel, store, found, reveal=reveal, progress=watch, steps=_steps(side.protocol))
        except ValueError as error:
            # Sizes that the protocol is not made for, which are known once both sides have told them.
            raise ProtocolFailed(str(error), step="psi.sizes") from error
        return Learned()
    if published is not None:
        from fedcore.participant.intersection.published import ask

        found.append(ask(channel, store.whole(), published))
        return Learned()
    if side.reveal == "sum":
        return _sum(channel, side, store, amounts)
    from crypto.psi import ecdh

    if side.reveal == "cardinality":
        threshold = _threshold(side)
        count = (ecdh.receive if receives else ecdh.send)(
            channel, store.whole(), reveal="cardinality", threshold=threshold
        )
        refused = count is None if receives else count is not None and count < threshold
        return Learned(None if count is None else int(count), refused=refused)
    positions = (ecdh.receive if receives else ecdh.send)(channel, store.whole(), reveal=reveal)
    if positions is not None:
        found.append(np.asarray(positions, dtype=np.int64))
    return Learned()


def _steps(protocol: str) -> vole_psi.Steps:
    """What the protocol does in its own way; imported when it is wanted, since a run's start is not free."""
    if protocol == "vole":
        from crypto.psi import wide

        return wide
    from crypto.psi import compact

    return compact


def _threshold(side: Side) -> int:
    """Fewest matches, planted items included, of which the receiver is told; 0 where it is always told."""
    return side.min_matches + PLANTED if side.min_matches else 0


def _sum(channel: FramedChannel, side: Side, store: KeyStore, amounts: Table | None) -> Learned:
    from crypto.psi import sum_of_intersection

    to: sum_of_intersection.To = "holder" if side.holds == (side.role == "receiver") else "matcher"
    threshold = _threshold(side)
    if amounts is not None:
        total = sum_of_intersection.hold(
            channel,
            store.whole(),
            amounts.of_items(store),
            amounts.amounts,
            to=to,
            threshold=threshold,
            bits=KEY_BITS,
        )
    else:
        total = sum_of_intersection.match(channel, store.whole(), to=to, threshold=threshold, bits=KEY_BITS)
    if side.role == "sender":
        return Learned(total.cardinality, refused=(total.cardinality or 0) < threshold)
    columns = len(side.sum_of.columns) if side.sum_of is not None else 0
    if total.sums is not None and len(total.sums) != columns + 1:
        raise ProtocolError(
            f"sums of {len(total.sums) - 1} columns came, {columns} were agreed on", step="sum.total"
        )
    return Learned(total.cardinality, total.sums, refused=total.sums is None)
