"""The size of an intersection and nothing else; with a threshold, not even that where it is small.

    both       a secret scalar each, used once; the own set goes in a secret random order
    X -> Y     a H(x) for each x            Y -> X   b H(y) for each y
    Y -> X     tags of b a H(x), shuffled   X counts how many of them are among its tags of a b H(y)

Who learns what. Without a threshold, the receiver is X: it learns the number, the sender nothing. With one, the side
that must agree has to know the number first: the sender is X, counts, and tells the receiver the number, or only
that it is below the threshold. Both always learn both sizes and the threshold.

Differencing: the numbers of two runs over sets that differ in one item show whether the other side has that item.
A threshold does not prevent it where both numbers are above. Runs must be counted, and sets kept from changing by
little between them.

Semi-honest parties. Assumption: decisional Diffie-Hellman in ristretto255, H and the hash of tags random oracles.
A false match is counted with probability at most 2^-40.

Cost: 32 bytes for each item of either side and a tag of `parameters.mask_bytes` for each item of Y; two scalar
multiplications on each side for each pair of items. Rounds: 2 and the number of batches of the longer set.

Source: De Cristofaro, Gasti, Tsudik, CANS 2012, eprint 2011/141, with the masking of Huberman, Franklin and Hogg.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from crypto.channel import Channel
from crypto.errors import ProtocolError
from crypto.psi.ecdh_rounds import BATCH, exchange, greet, recv_tags, send_tags
from crypto.psi.matching import check_items, members
from crypto.psi.shuffle import new_seed, permutation

Blocks = npt.NDArray[np.uint64]

_ANSWER = struct.Struct("<?Q")


def receive(
    channel: Channel, items: Blocks, *, threshold: int = 0, threads: int | None = None, batch: int = BATCH
) -> int | None:
    """The side that learns the number.

    Args:
        channel: To `send`.
        items: (n, 2) uint64, distinct, any n.
        threshold: Below it, this side learns no number; the same on both sides. 0: it always learns it.
        threads: At most this many; all processors where None.
        batch: Items in a message; the same on both sides.

    Returns:
        Items in the intersection, or None: fewer than the threshold.

    Raises:
        ValueError: An item stands in the set twice, or the threshold is negative.
        ProtocolError: The other side sent what the protocol does not allow.
    """
    if not threshold:
        return _count(channel, items, threshold, threads, batch, first=True, counts=True)
    _count(channel, items, threshold, threads, batch, first=True, counts=False)
    step = "ecdh.cardinality"
    allowed, number = _ANSWER.unpack(channel.recv(step, size=_ANSWER.size))
    if not allowed:
        return None
    if not threshold <= number <= items.shape[0]:
        raise ProtocolError(
            f"the other side counted {number}, between {threshold} and {items.shape[0]} can be", step=step
        )
    return int(number)


def send(
    channel: Channel, items: Blocks, *, threshold: int = 0, threads: int | None = None, batch: int = BATCH
) -> int | None:
    """The other side; with a threshold it decides.

    Args:
        channel: To `receive`.
        items, threshold, threads, batch: As in `receive`.

    Returns:
        None without a threshold; with one, items in the intersection, whether told to the receiver or not.

    Raises:
        ValueError: An item stands in the set twice, or the threshold is negative.
        ProtocolError: The other side sent what the protocol does not allow.
    """
    number = _count(channel, items, threshold, threads, batch, first=False, counts=bool(threshold))
    if number is None:
        return None
    allowed = number >= threshold
    channel.send("ecdh.cardinality", _ANSWER.pack(allowed, number if allowed else 0))
    return number


def _count(
    channel: Channel,
    items: Blocks,
    threshold: int,
    threads: int | None,
    batch: int,
    *,
    first: bool,
    counts: bool,
) -> int | None:
    """Exchange the sets; the number where this side `counts`."""
    whole = check_items(items)
    meeting = greet(channel, "cardinality", whole.shape[0], first=first, batch=batch, threshold=threshold)
    shuffled = whole[permutation(whole.shape[0], new_seed())]
    exchanged = exchange(channel, meeting, shuffled, first=first, give=False, get=False, threads=threads)
    if not counts:
        order = permutation(meeting.theirs, new_seed())
        send_tags(channel, exchanged.theirs[order], meeting)
        return None
    mine = recv_tags(channel, meeting.mine, meeting)
    return int(members(mine, exchanged.theirs).size)
