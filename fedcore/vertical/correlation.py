"""Correlations of columns of two parties, and variance inflation factors.

    correlation.key       holder, partner    public key of the label holder
    correlation.products  both ways          for each of the holder's columns: encrypted, and shares of its products
                                             with each of the partner's, modulo p
    correlation.shares    partner, holder    the partner's shares, uint64 [holder's columns, partner's columns]
    correlation.own       partner, holder    correlations among the partner's columns, float64

Columns are standardised and rounded to multiples of 2^-16 before they are multiplied, as integers.

Who learns what: The label holder the correlations of its columns with the partner's, which are anonymous, and
of the partner's with each other. The partner ciphertexts, and how many columns the label holder compares.
Between two partners nothing is multiplied; those correlations are not known (NaN) to anybody.

Assumption: RLWE, and parties that follow the protocol: products with whatever the label holder encrypts are
opened. They are opened exactly, so over few rows a column of few different values could be solved for: both refuse
fewer than `ROWS_FOR_COLUMN` for each column of the label holder.

Cost: one protected product of `crypto.bfv.products` for each of the label holder's columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from crypto.bfv.keys import SecretKey, new_keys, public_key_bytes, read_public_key
from crypto.bfv.products import MATRICES, MODULUS, prepared, transposed_receive, transposed_send
from crypto.channel import Channel, recv_array
from crypto.errors import ProtocolError
from fedcore.errors import DataError

Floats = npt.NDArray[np.float64]
ROWS_FOR_COLUMN = 20
"""Fewest rows for each column whose products with another party's are opened. A product with a column of two values
tells about 12 bits and half the logarithm of the rows; the rows' values are more than that."""
DIGITS = 6
"""After the point, of correlations that are told."""
_BITS = 16
"""Binary digits that standardised columns keep behind the point."""
_BEYOND = 1e-2
"""How far a correlation may lie beyond 1 through rounding."""
_LEAST_EIGENVALUE = 1e-9
"""Smaller ones count as this one, so that an exact linear relation has a large factor and not an infinite one."""
MOST_VIF = 1e6
"""Larger factors are reported as this one."""


def standardised(columns: Floats) -> Floats:
    """Columns with mean 0 and variance 1; constant ones become 0.

    Args:
        columns: (n, d).
    """
    centred = columns - columns.mean(axis=0)
    spread = np.sqrt((centred**2).mean(axis=0))
    # A constant's own rounding is not a spread.
    constant = spread <= 1e-12 * np.abs(columns).max(axis=0, initial=0.0)
    scaled: Floats = np.divide(centred, spread, out=np.zeros_like(centred), where=~constant)
    return scaled


def correlations(columns: Floats) -> Floats:
    """Correlation matrix; constant columns correlate with nothing but themselves.

    Args:
        columns: (n, d).
    """
    scaled = standardised(columns)
    found: Floats = np.clip(scaled.T @ scaled / len(columns), -1.0, 1.0)
    np.fill_diagonal(found, 1.0)
    return found


def correlate_label_holder(
    channel: Channel, columns: Floats, others: int, keys: SecretKey | None = None
) -> tuple[Floats, Floats]:
    """Correlations with a partner's columns; at the label holder.

    Args:
        channel: To the partner.
        columns: (n, d) own columns.
        others: Number of the partner's columns, as both know.
        keys: Of the ring for products; fresh ones when None.

    Returns:
        Those of own with the partner's columns, (d, others), and among the partner's, (others, others).

    Raises:
        DataError: There are too few rows.
        ProtocolError: A message was not what the protocol allows, or what was opened is no correlation.
    """
    rows, own = columns.shape
    _enough(rows, own if others else 0)
    secret = keys or new_keys(MATRICES)
    channel.send("correlation.key", secret.public.to_bytes())
    shares = np.zeros((own, others), dtype=np.uint64)
    whole = _whole(columns)
    if others:
        for place in range(own):
            vector = np.where(whole[:, place] < 0, whole[:, place] + MODULUS, whole[:, place]).astype(
                np.uint64
            )
            shares[place] = transposed_receive(channel, secret, vector, others, "correlation.products")
    theirs = recv_array(channel, "correlation.shares", "<u8", own, others)
    if theirs.max(initial=0) >= MODULUS:
        raise ProtocolError(
            "a share beyond the modulus came; the partner does not follow the protocol",
            step="correlation.shares",
        )
    opened = ((shares + theirs) % np.uint64(MODULUS)).astype(np.int64)
    between = np.where(opened > MODULUS // 2, opened - MODULUS, opened) / (rows * 4.0**_BITS)
    among = recv_array(channel, "correlation.own", "<f8", others, others)
    for found in (between, among):
        if not (np.abs(found) <= 1 + _BEYOND).all():
            raise ProtocolError(
                "what was opened is no correlation; the parties' rows differ, or a message was changed. Match the "
                "rows again",
                step="correlation.shares",
            )
    return np.clip(between, -1.0, 1.0), np.clip(among, -1.0, 1.0)


def correlate_partner(channel: Channel, columns: Floats, others: int) -> Floats:
    """Correlations with the label holder's columns, which this side does not learn; at a partner.

    Args:
        channel: To the label holder.
        columns: (n, d) own columns.
        others: Number of the label holder's columns, as both know.

    Returns:
        Correlations of own columns with each other, (d, d).

    Raises:
        DataError: There are too few rows.
        ProtocolError: A message was not what the protocol allows.
    """
    _enough(len(columns), others if columns.shape[1] else 0)
    public = read_public_key(channel.recv("correlation.key", size=public_key_bytes(MATRICES)), MATRICES)
    shares = np.zeros((others, columns.shape[1]), dtype=np.uint64)
    if others and columns.shape[1]:
        matrix = prepared(_whole(columns), forward=False)
        for place in range(others):
            shares[place] = transposed_send(channel, public, matrix, "correlation.products")
    channel.send("correlation.shares", shares.astype("<u8"))
    # Rounded: the digits beyond would tell of rows.
    found = np.round(correlations(columns), DIGITS)
    channel.send("correlation.own", found.astype("<f8"))
    return found


def inflation(correlation: Floats) -> Floats:
    """Variance inflation factor of each column, from 1 to `MOST_VIF`.

    Args:
        correlation: (d, d), without NaN.
    """
    if not len(correlation):
        return np.zeros(0)
    # The diagonal of the inverse. Rounded correlations of a linear relation may have an eigenvalue below 0.
    values, vectors = np.linalg.eigh((correlation + correlation.T) / 2)
    factors: Floats = (vectors**2 / np.maximum(values, _LEAST_EIGENVALUE)).sum(axis=1)
    return np.clip(factors, 1.0, MOST_VIF)


def partly_known_inflation(correlation: Floats, owners: Sequence[str], holder: str) -> Floats:
    """Variance inflation factors where correlations between two partners are not known.

    Args:
        correlation: (d, d), NaN where not known.
        owners: Of each column.
        holder: The label holder's name.

    Returns:
        The largest of each column's factors among the label holder's and one partner's columns, which is a lower
        bound of that among all.
    """
    found = np.ones(len(owners))
    partners = list(dict.fromkeys(each for each in owners if each != holder)) or [holder]
    for partner in partners:
        among = [place for place, each in enumerate(owners) if each in (holder, partner)]
        found[among] = np.maximum(found[among], inflation(correlation[np.ix_(among, among)]))
    return found


def _enough(rows: int, columns: int) -> None:
    needed = ROWS_FOR_COLUMN * (columns + 1)
    if columns and rows < needed:
        raise DataError(
            f"{rows} training rows for {columns} columns of the label holder; from correlations over so few rows the "
            f"partner's values could be solved, so {needed} are needed. Match more rows or use fewer columns",
            step="correlation",
        )


def _whole(columns: Floats) -> npt.NDArray[np.int64]:
    """Standardised columns as integers."""
    return np.rint(standardised(columns) * 2.0**_BITS).astype(np.int64)
