"""One protected pass: predictor, residual and gradient of a linear model, all of them shared.

Columns lie in one order, x = [1, label holder's, first partner's, others'], and so do weights. Weights w are held by
the label holder and the first partner, w = w^a + w^b. Further partners hold columns only.

    z = X w          X_i w_i^a: label holder encrypts, partner i multiplies       `product`
                     X_a w_a^b: first partner encrypts, label holder multiplies
                     X_i w_i^b at partner i; further partners pass their share of z to the first one
    e = mu(z) - y    `rows`: 2 K products for a row, see `links`; the label holder subtracts y and multiplies by the
                     row's weight; truncated to EXTRA bits
    g = X^T e        X_i^T e^a and X_a^T e^b as above, by `transposed`; X_i^T e^b at partner i, who got e^b from the
                     first partner

Who learns what: nobody anything; every message is a ciphertext or a uniform share. Label holder and any partner
together could open e, and so z: they must not collude with each other against a third one.

Assumption: ring learning with errors; parties that follow the protocol.
Source: Chen, Zhou, Wang et al., "When Homomorphic Encryption Marries Secret Sharing" (CAESAR), KDD 2021, arXiv
2008.08753, section 4, here with packed products and a mean function that is no polynomial.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from crypto.bfv.keys import PublicKey, SecretKey
from crypto.bfv.products import (
    MODULUS,
    Matrix,
    prepared,
    product_receive,
    product_send,
    rows_receive,
    rows_send,
    transposed_receive,
    transposed_send,
)
from crypto.channel import Channel, recv_array
from crypto.errors import ProtocolError
from fedcore.vertical.links import Series, other_terms, own_terms, turns
from fedcore.vertical.sharing import (
    Floats,
    Residues,
    minus,
    plus,
    residues,
    scattered,
    times,
    truncated,
)

COLUMN_BITS = 12
"""Fixed point of columns."""
WEIGHT_BITS = 24
"""Fixed point of weights in a product."""
WAVE_BITS = 11
"""Fixed point of sines and cosines."""
EXTRA = 11
"""Fixed point of the residual."""
Z_BITS = COLUMN_BITS + WEIGHT_BITS
GRADIENT_BITS = COLUMN_BITS + EXTRA


@dataclass(frozen=True, eq=False)
class Block:
    """Rows that are taken in one step.

    Args:
        numbers: A party's columns in fixed point, (n, d) int64.
        matrix: The same, to multiply ciphertexts with.
    """

    numbers: npt.NDArray[np.int64] = field(repr=False)
    matrix: Matrix = field(repr=False)


def block_of(numbers: npt.NDArray[np.int64]) -> Block:
    """Columns in fixed point, made ready."""
    return Block(numbers, prepared(numbers))


@dataclass(frozen=True, eq=False)
class Holder:
    """The label holder's side.

    Args:
        channels: To the partners, the first one first.
        secret: Own key for matrices.
        first_key: The first partner's key for matrices.
        rows_key: The first partner's key for rows.
        widths: Columns of the label holder, with the intercept, and of each partner.
    """

    channels: Sequence[Channel]
    secret: SecretKey = field(repr=False)
    first_key: PublicKey
    rows_key: PublicKey
    widths: tuple[int, ...]

    def parts(self, vector: Residues) -> list[Residues]:
        """A vector over all columns by party."""
        return list(np.split(vector, np.cumsum(self.widths)[:-1]))


@dataclass(frozen=True, eq=False)
class First:
    """The first partner's side.

    Args:
        channel: To the label holder.
        others: To the further partners.
        secret, rows_secret: Own keys for matrices and for rows.
        label_key: The label holder's key for matrices.
        widths: As the label holder's.
    """

    channel: Channel
    others: Sequence[Channel]
    secret: SecretKey = field(repr=False)
    rows_secret: SecretKey = field(repr=False)
    label_key: PublicKey
    widths: tuple[int, ...]

    def parts(self, vector: Residues) -> list[Residues]:
        """A vector over all columns by party."""
        return list(np.split(vector, np.cumsum(self.widths)[:-1]))


@dataclass(frozen=True, eq=False)
class Other:
    """A further partner's side.

    Args:
        channel: To the label holder.
        to_first: To the first partner.
        label_key: The label holder's key for matrices.
    """

    channel: Channel
    to_first: Channel
    label_key: PublicKey


# ---- z = X w --------------------------------------------------------------------------------------------------------


def holder_predictor(side: Holder, block: Block, weights: Residues) -> Residues:
    """The label holder's share of z 2^Z_BITS.

    Args:
        side: The label holder.
        block: Own columns.
        weights: Own share of all weights, 2^WEIGHT_BITS, (D,).
    """
    parts = side.parts(weights)
    n = len(block.numbers)
    z = times(block.numbers, parts[0])
    for channel, part in zip(side.channels, parts[1:], strict=True):
        z = plus(z, product_receive(channel, side.secret, part, n, "glm.weights"))
    return plus(z, product_send(side.channels[0], side.first_key, block.matrix, "glm.own-weights"))


def first_predictor(side: First, block: Block, weights: Residues) -> Residues:
    """The first partner's share of z 2^Z_BITS; as `holder_predictor`."""
    parts = side.parts(weights)
    n = len(block.numbers)
    for channel, part in zip(side.others, parts[2:], strict=True):
        channel.send("glm.share", part)
    z = plus(
        times(block.numbers, parts[1]),
        product_send(side.channel, side.label_key, block.matrix, "glm.weights"),
    )
    z = plus(z, product_receive(side.channel, side.secret, parts[0], n, "glm.own-weights"))
    for channel in side.others:
        z = plus(z, recv_residues(channel, "glm.share", n))
    return z


def other_predictor(side: Other, block: Block) -> None:
    """A further partner passes its share of z on."""
    d = block.numbers.shape[1]
    weights = recv_residues(side.to_first, "glm.share", d)
    masked = product_send(side.channel, side.label_key, block.matrix, "glm.weights")
    side.to_first.send("glm.share", plus(times(block.numbers, weights), masked))


# ---- f(z) for each row ----------------------------------------------------------------------------------------------


def holder_rows(
    side: Holder,
    z: Residues,
    series: Series,
    weights: Floats,
    bits: int = WAVE_BITS,
    signs: Floats | None = None,
) -> Residues:
    """The label holder's share of w f(z) 2^(2 bits) for each row, up to rounding that is right on average.

    Args:
        side: The label holder.
        z: Own share of z 2^Z_BITS, (n,).
        series: f.
        weights: w of each row, (n,).
        bits: Fixed point of each factor.
        signs: What the sines of each row are multiplied with, (n,).
    """
    angles = turns(z, series.period, Z_BITS)
    sine = series.sine if signs is None else np.outer(signs, series.sine)
    own = own_terms(angles, series.cosine, sine) / balance(series) * weights[:, None]
    share = rows_send(side.channels[0], side.rows_key, scattered(np.ldexp(own, bits)), "glm.waves")
    return plus(share, residues(scattered(np.ldexp(series.constant * weights, 2 * bits))))


def first_rows(side: First, z: Residues, series: Series, bits: int = WAVE_BITS) -> Residues:
    """The first partner's share of what `holder_rows` computes."""
    waves = other_terms(turns(z, series.period, Z_BITS), len(series.sine)) * balance(series)
    return rows_receive(side.channel, side.rows_secret, scattered(np.ldexp(waves, bits)), "glm.waves")


def balance(series: Series) -> Floats:
    """How a coefficient is divided between the two factors of a term, so that rounding costs least, (2 K,)."""
    size = np.sqrt(np.maximum(np.hypot(series.cosine, series.sine), 1e-6))
    return np.concatenate([size, size])


def holder_residual(
    side: Holder, z: Residues, series: Series, y: Floats, weights: Floats, level: float
) -> Residues:
    """The label holder's share of w (level f(z) - y) 2^EXTRA."""
    share = holder_rows(side, z, series, weights * level)
    target = scattered(np.ldexp(weights * y, 2 * WAVE_BITS))
    return truncated(minus(share, residues(target)), 2 * WAVE_BITS - EXTRA, first=True)


def first_residual(side: First, z: Residues, series: Series) -> Residues:
    """The first partner's share of w (level f(z) - y) 2^EXTRA."""
    return truncated(first_rows(side, z, series), 2 * WAVE_BITS - EXTRA, first=False)


# ---- g = X^T e ------------------------------------------------------------------------------------------------------


def holder_gradient(side: Holder, block: Block, e: Residues) -> Residues:
    """The label holder's share of X^T e 2^GRADIENT_BITS, (D,)."""
    own = times(block.numbers.T, e)
    parts = [plus(own, transposed_send(side.channels[0], side.first_key, block.matrix, "glm.own-residual"))]
    for channel, d in zip(side.channels, side.widths[1:], strict=True):
        parts.append(transposed_receive(channel, side.secret, e, d, "glm.residual"))
    return np.concatenate(parts)


def first_gradient(side: First, block: Block, e: Residues) -> Residues:
    """The first partner's share of X^T e 2^GRADIENT_BITS, (D,)."""
    for channel in side.others:
        channel.send("glm.share", e)
    label = transposed_receive(side.channel, side.secret, e, side.widths[0], "glm.own-residual")
    masked = transposed_send(side.channel, side.label_key, block.matrix, "glm.residual")
    parts = [label, plus(times(block.numbers.T, e), masked)]
    for channel, d in zip(side.others, side.widths[2:], strict=True):
        parts.append(recv_residues(channel, "glm.share", d))
    return np.concatenate(parts)


def other_gradient(side: Other, block: Block) -> None:
    """A further partner passes its share of the gradient on."""
    e = recv_residues(side.to_first, "glm.share", len(block.numbers))
    masked = transposed_send(side.channel, side.label_key, block.matrix, "glm.residual")
    side.to_first.send("glm.share", plus(times(block.numbers.T, e), masked))


def recv_residues(channel: Channel, step: str, *shape: int) -> Residues:
    """The next message as residues.

    Raises:
        ProtocolError: Its length is wrong, or a number is not below the modulus.
    """
    numbers: Residues = recv_array(channel, step, np.uint64, *shape)
    if numbers.size and int(numbers.max()) >= MODULUS:
        raise ProtocolError("a share is not below the modulus", step=step)
    return numbers
