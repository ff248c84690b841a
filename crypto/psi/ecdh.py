"""Set intersection from Diffie-Hellman: each side masks both sets with a secret exponent and the masks are compared.

    both       a secret scalar each, used once; the own set goes in a secret random order
    X -> Y     a H(x) for each x            Y -> X   b H(y) for each y
    Y -> X     tags of b a H(x), in the order they came; `both`: X -> Y the tags of a b H(y) as well
    result     items whose tags both sets have

Who learns what. `receive` learns which of its items the other side has too, and nothing of the other's remaining
items. `send` learns nothing (`reveal="receiver"`) or the same of its own items (`"both"`). With
`reveal="cardinality"` neither learns an item, see `ecdh_cardinality`. Both always learn both sizes. Each set is
shuffled, so that the places of matches say nothing of the other side's order of rows.

Semi-honest parties. A side may put items into its set that it does not have, and learn by that whether the other has
them: sizes should be plausible, and runs counted. Results of runs over sets that differ by one item show whether
that item is in the other set.

Assumption: decisional Diffie-Hellman in ristretto255, H and the hash of tags random oracles. A run shows a false
match with probability at most 2^-40 over all pairs.

Cost: 32 bytes for each item of either side, and a tag of `parameters.mask_bytes` (10 bytes at 2^20 items a side) for
each of the receiver's, for `both` of both; two scalar multiplications on each side for each pair of items (one for
an own item, with a hash to the group, one for the other's). Rounds: 2 and the number of batches of the longer set.

Source: Meadows, IEEE S&P 1986; Huberman, Franklin, Hogg, EC 1999.
"""

from __future__ import annotations

from typing import Literal, overload

import numpy as np
import numpy.typing as npt

from crypto.channel import Channel
from crypto.psi import ecdh_cardinality
from crypto.psi.ecdh_rounds import BATCH, Exchanged, exchange, greet
from crypto.psi.matching import check_items, members
from crypto.psi.shuffle import new_seed, permutation

Blocks = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]
Rows = Literal["receiver", "both"]


@overload
def receive(
    channel: Channel,
    items: Blocks,
    *,
    reveal: Rows = "receiver",
    threshold: int = 0,
    threads: int | None = None,
    batch: int = BATCH,
) -> Positions: ...


@overload
def receive(
    channel: Channel,
    items: Blocks,
    *,
    reveal: Literal["cardinality"],
    threshold: int = 0,
    threads: int | None = None,
    batch: int = BATCH,
) -> int | None: ...


def receive(
    channel: Channel,
    items: Blocks,
    *,
    reveal: Rows | Literal["cardinality"] = "receiver",
    threshold: int = 0,
    threads: int | None = None,
    batch: int = BATCH,
) -> Positions | int | None:
    """The side that learns the result.

    Args:
        channel: To `send`.
        items: (n, 2) uint64, distinct, any n.
        reveal: What the run shows, the same on both sides: "receiver", "both" or "cardinality".
        threshold: For "cardinality" only: below it the receiver learns no number.
        threads: At most this many; all processors where None.
        batch: Items in a message; the same on both sides.

    Returns:
        "receiver": positions in `items` that are in the intersection, (k,) int64, ascending. "both": the same in
        an order shared with `send`, so that row i here belongs to row i there. "cardinality": their number, or
        None where it is below the threshold.

    Raises:
        ValueError: An item stands in the set twice, or an option is unknown.
        ProtocolError: The other side sent what the protocol does not allow.
    """
    if reveal == "cardinality":
        return ecdh_cardinality.receive(channel, items, threshold=threshold, threads=threads, batch=batch)
    return _rows(channel, items, reveal, threshold, threads, batch, first=True)


@overload
def send(
    channel: Channel,
    items: Blocks,
    *,
    reveal: Rows = "receiver",
    threshold: int = 0,
    threads: int | None = None,
    batch: int = BATCH,
) -> Positions | None: ...


@overload
def send(
    channel: Channel,
    items: Blocks,
    *,
    reveal: Literal["cardinality"],
    threshold: int = 0,
    threads: int | None = None,
    batch: int = BATCH,
) -> int | None: ...


def send(
    channel: Channel,
    items: Blocks,
    *,
    reveal: Rows | Literal["cardinality"] = "receiver",
    threshold: int = 0,
    threads: int | None = None,
    batch: int = BATCH,
) -> Positions | int | None:
    """The other side.

    Args:
        channel: To `receive`.
        items, reveal, threshold, threads, batch: As in `receive`.

    Returns:
        "receiver": None. "both": positions in `items`, (k,) int64, in the order shared with `receive`.
        "cardinality": None; with a threshold, the number, which this side learns in any case.

    Raises:
        ValueError: An item stands in the set twice, or an option is unknown.
        ProtocolError: The other side sent what the protocol does not allow.
    """
    if reveal == "cardinality":
        return ecdh_cardinality.send(channel, items, threshold=threshold, threads=threads, batch=batch)
    found = _rows(channel, items, reveal, threshold, threads, batch, first=False)
    return found if reveal == "both" else None


def _rows(
    channel: Channel,
    items: Blocks,
    reveal: str,
    threshold: int,
    threads: int | None,
    batch: int,
    *,
    first: bool,
) -> Positions:
    if reveal not in ("receiver", "both"):
        raise ValueError(f'reveal is "receiver", "both" or "cardinality", not {reveal!r}')
    if threshold:
        raise ValueError("a threshold is for reveal='cardinality': rows show the number anyway")
    whole = check_items(items)
    meeting = greet(channel, f"rows:{reveal}", whole.shape[0], first=first, batch=batch)
    order = permutation(whole.shape[0], new_seed())
    both = reveal == "both"
    exchanged = exchange(
        channel,
        meeting,
        whole[order],
        first=first,
        give=both or not first,
        get=both or first,
        threads=threads,
    )
    return _positions(exchanged, order, shared=both)


def _positions(exchanged: Exchanged, order: Positions, *, shared: bool) -> Positions:
    """Positions, before the shuffle, of the own items that are in both sets; ascending, or by their tags."""
    if exchanged.mine is None:
        return np.empty(0, dtype=np.int64)
    found = members(exchanged.mine, exchanged.theirs)
    if not shared:
        return np.sort(order[found])
    common = exchanged.mine[found]
    return order[found[np.lexsort((common[:, 0], common[:, 1]))]]
