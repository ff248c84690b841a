"""Sums of encrypted (g, h) over the rows of nodes: the label holder asks, a partner answers.

One key pair for each partner and training. At each level (g, h) of the smaller of each pair are encrypted afresh, both
in one plaintext, rows ordered by node, so that a node's rows lie together in few ciphertexts; the answers hold the
sums of all places of all nodes of the level. See `crypto.bfv.sums` for the encryption and its security.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from crypto.bfv import keys, ring, sums
from crypto.channel import Channel
from fedcore.vertical.boosting.histograms import Binned, Ints
from fedcore.vertical.boosting.nodes import Node

STEP = "boost.sums"
_KEY = "boost.key"
_VALUES = 2
LARGEST = 1 << 52
"""The limit where nobody else adds."""


class Asker:
    """The label holder's side.

    Args:
        channel: To the partner; the public key is sent at once.
        rows: Most rows that a sum is over.
    """

    def __init__(self, channel: Channel, rows: int) -> None:
        self.channel = channel
        self.limit = sum_limit(rows)
        self._secret = keys.new_keys(ring.SMALL)
        channel.send(_KEY, self._secret.public.to_bytes())

    def ask(self, nodes: Sequence[Node], values: Sequence[Ints], counts: Sequence[int]) -> list[Ints]:
        """Sums for each place of nodes.

        Args:
            nodes: Of any trees of the round.
            values: Of each tree, g and h of all rows, (n, 2).
            counts: Places of each node.

        Returns:
            Of each node, (places, 2).

        Raises:
            ProtocolError: An answer is damaged.
        """
        asked = [at for at, count in enumerate(counts) if count]
        found = [np.zeros((0, _VALUES), dtype=np.int64) for _ in nodes]
        if not asked:
            return found
        rows = np.concatenate([values[nodes[at].tree][nodes[at].chosen] for at in asked])
        sizes = [len(nodes[at].chosen) for at in asked]
        told = sums.sums_receive(
            self.channel, self._secret, rows, sizes, max(counts), limit=self.limit, step=STEP
        )
        for group, at in enumerate(asked):
            found[at] = told[group, : counts[at]]
        return found


class Answerer:
    """A partner's side.

    Args:
        channel: To the label holder, whose public key is awaited.
        columns: Of the partner.
        rows: Most rows that a sum is over.
    """

    def __init__(self, channel: Channel, columns: Binned, rows: int) -> None:
        self.channel = channel
        self._columns, self._limit = columns, sum_limit(rows)
        size = keys.public_key_bytes(ring.SMALL)
        self._public = keys.read_public_key(channel.recv(_KEY, size=size), ring.SMALL)

    def answer(self, nodes: Sequence[Node], places: Sequence[npt.NDArray[np.int32]]) -> None:
        """Sums over the rows of nodes with `code <= bin`, for each place (column, bin).

        Args:
            nodes: As the label holder has them.
            places: Of each node, (count, 2).

        Raises:
            ProtocolError: A ciphertext is damaged or of another key.
        """
        asked = [at for at, each in enumerate(places) if len(each)]
        if not asked:
            return
        order = np.concatenate([nodes[at].chosen for at in asked])
        table = np.full((len(asked), max(map(len, places)), 2), -1, dtype=np.int32)
        for group, at in enumerate(asked):
            table[group, : len(places[at])] = places[at]
        sums.sums_send(
            self.channel,
            self._public,
            [codes[order] for codes in self._columns.codes],
            [len(nodes[at].chosen) for at in asked],
            table,
            _VALUES,
            limit=self._limit,
            step=STEP,
            cumulative=True,
        )


def sum_limit(rows: int) -> int:
    """The largest sum of g or of h, in units; the same at both sides.

    It leaves g and h room in one plaintext, unless so many rows are then left with fewer than two bits each.

    Args:
        rows: Most that a sum is over.
    """
    together = sums.packed_limit(rows, _VALUES)
    return together if together >= 4 * rows else sums.packed_limit(rows, 1)
