"""The information matrix X^T D X + l2 of a fitted model, D the slope of the mean function, for standard errors.

D = D^a + D^b is shared like the residual (`rows`). With two parties,

    X_a^T D X_a     D^a at the label holder; D^b encrypted by the partner, times the products of a's columns in pairs
    X_b^T D X_b     the other way round
    X_a^T D X_b     D^a x, x a column of a, encrypted by the label holder, times X_b; D^b x the other way round

Who learns what: the label holder the matrix, the partner the variances of its own weights. The variances of penalised
estimates are those of the inverse of this matrix.

Assumption: as `glm_pass`. Cost: one `transposed` for each column, and two for the pairs.
Source: Nelder and Wedderburn, Journal of the Royal Statistical Society A 135, 1972 (Fisher information).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from crypto.bfv.products import prepared, transposed_receive, transposed_send
from crypto.channel import recv_array
from fedcore.errors import DataError, ProtocolFailed
from fedcore.vertical.glm_pass import (
    COLUMN_BITS,
    EXTRA,
    WAVE_BITS,
    Block,
    First,
    Holder,
    first_rows,
    holder_rows,
    recv_residues,
)
from fedcore.vertical.links import Series
from fedcore.vertical.sharing import Floats, Residues, plus, scaled, signed, times, truncated

PAIR_BITS = 6
"""Fixed point of products of two columns."""
_STEP = "glm.information"


def holder_information(
    side: Holder,
    block: Block,
    z: Residues,
    series: Series,
    weights: Floats,
    level: float,
    ridge: Floats,
) -> Floats:
    """Standard errors of the label holder's weights.

    Args:
        side: The label holder.
        block: Own columns.
        z: Own share of the predictor at the fitted weights, its middle at 0.
        series: The slope.
        weights, level: What it is multiplied with, (n,) and a number.
        ridge: l2 of each weight, (D,).
    """
    channel = side.channels[0]
    share = truncated(holder_rows(side, z, series, weights * level), 2 * WAVE_BITS - EXTRA, first=True)
    own, other = side.widths[0], side.widths[1]
    pairs = pairs_of(block)
    local = times(pairs.T, share)
    masked = transposed_send(channel, side.first_key, prepared(pairs, forward=False), _STEP)
    mine = plus(plus(local, masked), recv_residues(channel, _STEP, len(local)))
    count = other * (other + 1) // 2
    theirs = plus(
        transposed_receive(channel, side.secret, share, count, _STEP), recv_residues(channel, _STEP, count)
    )
    crossed = np.stack(
        [
            transposed_receive(channel, side.secret, scaled(column, share), other, _STEP)
            for column in block.numbers.T
        ]
    )
    back = np.stack([transposed_send(channel, side.first_key, block.matrix, _STEP) for _ in range(other)])
    crossed = plus(plus(crossed, back.T), recv_residues(channel, _STEP, own, other))
    matrix = np.diag(ridge)
    matrix[:own, :own] += squared(signed(mine) / 2.0 ** (PAIR_BITS + EXTRA), own)
    matrix[own:, own:] += squared(signed(theirs) / 2.0 ** (PAIR_BITS + EXTRA), other)
    between = signed(crossed) / 2.0 ** (2 * COLUMN_BITS + EXTRA)
    matrix[:own, own:] += between
    matrix[own:, :own] += between.T
    values = np.linalg.eigvalsh(matrix)
    if values[0] <= 0:
        raise DataError(
            "the information matrix is not positive: columns are nearly dependent; set l2 higher or drop one",
            step=_STEP,
        )
    variances = np.diag(np.linalg.inv(matrix))
    channel.send(_STEP, np.ascontiguousarray(variances[own:]))
    return np.sqrt(variances[:own])


def first_information(side: First, block: Block, z: Residues, series: Series) -> Floats:
    """Standard errors of the partner's weights; as `holder_information`."""
    channel = side.channel
    share = truncated(first_rows(side, z, series), 2 * WAVE_BITS - EXTRA, first=False)
    other, own = side.widths[0], side.widths[1]
    count = other * (other + 1) // 2
    channel.send(_STEP, transposed_receive(channel, side.secret, share, count, _STEP))
    pairs = pairs_of(block)
    masked = transposed_send(channel, side.label_key, prepared(pairs, forward=False), _STEP)
    channel.send(_STEP, plus(times(pairs.T, share), masked))
    crossed = np.stack([transposed_send(channel, side.label_key, block.matrix, _STEP) for _ in range(other)])
    back = np.stack(
        [
            transposed_receive(channel, side.secret, scaled(column, share), other, _STEP)
            for column in block.numbers.T
        ]
    )
    channel.send(_STEP, plus(crossed, back.T))
    variances = recv_array(channel, _STEP, np.float64, own)
    if not (np.isfinite(variances).all() and (variances > 0).all()):
        raise ProtocolFailed("the variances of own weights are not positive", step=_STEP)
    return np.sqrt(variances)


def pairs_of(block: Block) -> npt.NDArray[np.int64]:
    """Products of every two columns, i <= j, (n, d (d + 1) / 2)."""
    i, j = np.triu_indices(block.numbers.shape[1])
    exact = block.numbers[:, i] * block.numbers[:, j]
    half = 1 << (2 * COLUMN_BITS - PAIR_BITS - 1)
    return np.asarray((exact + half) >> (2 * COLUMN_BITS - PAIR_BITS))


def squared(upper: Floats, size: int) -> Floats:
    """A symmetric matrix from its upper triangle."""
    out = np.zeros((size, size))
    i, j = np.triu_indices(size)
    out[i, j] = upper
    out[j, i] = upper
    return out
