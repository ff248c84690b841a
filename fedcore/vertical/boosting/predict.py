"""Margins of rows under a joint ensemble, in one round.

    boost.sides   16 + splits * ceil(n / 8) bytes   partner, label holder

A partner sends, for each of its splits, in the order of their names, one bit for each row: 1 when the row goes left,
and, as far as the partner's own splits above tell, comes to the split at all. The 16 bytes tell whether the two
halves are of one training.

Who learns what: the label holder, of each row, which of a partner's splits let it pass to the left (as much as the
list of leaves that are still possible would tell, and not a column or a bin); the partner nothing but the number of
rows, which it has anyway. A label holder that asks for many rows collects those bits for all of them.

Assumption: parties that follow the protocol. A bit that a partner turns is not noticed: margins are then as if its
columns were others.

Source: leaves as the intersection of what each party finds possible, in one round for all trees: Chen, Zhou, Guan, Yang,
Fan, Wang and Wang, "Fed-EINI", IEEE BigData 2021, arXiv 2105.09540, here without its encryption of weights, which
stay at the label holder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.channel import Channel, recv_array
from crypto.errors import ProtocolError
from fedcore.errors import DataError
from fedcore.vertical.boosting.ensemble import LEAF, OWN, Ensemble, PartnerSplits, Tree, fingerprint
from fedcore.vertical.boosting.histograms import Binned, Flags, Floats, binned
from fedcore.vertical.boosting.messages import check_padding

STEP = "boost.sides"
_BLOCK = 1 << 16
_MARK = 16


def predict_label_holder(
    channels: Sequence[Channel],
    ensemble: Ensemble,
    columns: Sequence[npt.NDArray[Any]],
    rows: int | None = None,
) -> Floats:
    """Margins at the label holder.

    Args:
        channels: To the partners, in the order of training.
        ensemble: The label holder's half.
        columns: Its codes, each (n,), binned as for training.
        rows: n; needed only where there is no column.

    Returns:
        (n,), for `multiclass` (n, classes); see `losses.expected` for what they mean.

    Raises:
        DataError: The columns are not those of the ensemble.
        ProtocolError: What a partner sent is of another training or of other rows.
        PeerLost: A partner went away.
    """
    if len(channels) != ensemble.partners:
        raise DataError(
            f"{len(channels)} partners; the ensemble was grown with {ensemble.partners}", step=STEP
        )
    if rows is None and not columns:
        raise DataError("without a column the number of rows must be told", step=STEP)
    own = binned(columns, ensemble.bins, rows)
    sides: dict[str, npt.NDArray[np.uint8]] = {}
    for number, channel in enumerate(channels, start=1):
        names = ensemble.splits_of(number)
        sides.update(zip(names, _receive(channel, names, own.rows), strict=True))
    margins = np.tile(np.array(ensemble.base), (own.rows, 1))
    for trees in ensemble.rounds:
        for place, tree in enumerate(trees):
            _add(tree, own, sides, margins[:, place])
    return margins if ensemble.loss == "multiclass" else margins[:, 0]


def _receive(channel: Channel, names: Sequence[str], rows: int) -> npt.NDArray[np.uint8]:
    """Packed bits, (splits, ceil(n / 8))."""
    width = -(-rows // 8)
    message = recv_array(channel, STEP, np.uint8, _MARK + len(names) * width)
    if message[:_MARK].tobytes() != fingerprint(names):
        raise ProtocolError(
            "the partner's splits are not those that this ensemble was grown with; both parties need the result of "
            "the same run",
            step=STEP,
        )
    bits = message[_MARK:].reshape(len(names), width)
    check_padding(bits, rows, STEP)
    return bits


def _add(tree: Tree, own: Binned, sides: dict[str, npt.NDArray[np.uint8]], margins: Floats) -> None:
    """Add the weights of the leaves that rows come to."""
    at = {0: np.arange(own.rows)}
    for node in range(len(tree)):
        rows = at.pop(node)
        if tree.owner[node] == LEAF:
            margins[rows] += tree.value[node]
            continue
        if tree.owner[node] == OWN:
            left: Flags = own.codes[tree.column[node]][rows] <= tree.code[node]
        else:
            left = np.unpackbits(sides[tree.split[node]], count=own.rows).view(np.bool_)[rows]
        at[tree.left[node]], at[tree.right[node]] = rows[left], rows[~left]


def predict_partner(channel: Channel, splits: PartnerSplits, columns: Sequence[npt.NDArray[Any]]) -> None:
    """A partner's part.

    Args:
        channel: To the label holder.
        splits: The partner's half.
        columns: Its codes, each (n,), the same rows in the same order as the label holder's.

    Raises:
        DataError: The columns are not those of the splits.
        PeerLost: The label holder went away.
    """
    own = binned(columns, splits.bins)
    width = -(-own.rows // 8)
    message = np.zeros(_MARK + len(splits.splits) * width, dtype=np.uint8)
    names = [split.name for split in splits.splits]
    message[:_MARK] = np.frombuffer(fingerprint(names), dtype=np.uint8)
    bits = message[_MARK:].reshape(len(names), width)
    place = {name: number for number, name in enumerate(sorted(names))}
    for first in range(0, own.rows, _BLOCK):
        last = min(first + _BLOCK, own.rows)
        for name, left in zip(names, _sides(splits, own, first, last), strict=True):
            bits[place[name], first // 8 : -(-last // 8)] = np.packbits(left)
    channel.send(STEP, message)


def _sides(splits: PartnerSplits, own: Binned, first: int, last: int) -> list[Flags]:
    """Of each split, which rows come to it, as far as is known here, and go left."""
    comes: list[Flags] = []
    found: list[Flags] = []
    for split in splits.splits:
        if split.under < 0:
            here = np.ones(last - first, dtype=bool)
        else:
            here = found[split.under] if split.left else comes[split.under] & ~found[split.under]
        comes.append(here)
        found.append(here & (own.codes[split.column][first:last] <= split.code))
    return found
