"""Gradient-based one-side sampling: rows with large gradients stay, of the others a part is drawn and weighs more.

Partners learn which rows were chosen. Over many trees, rows that are always among them are those with large
gradients, which in unbalanced data are those of the rare class: GOSS buys time with that.

Source: Ke, Meng, Finley, Wang, Chen, Ma, Ye and Liu, "LightGBM", NIPS 2017, section 3, algorithm 2.
"""

from __future__ import annotations

import hashlib

import numpy as np

from fedcore.vertical.boosting.histograms import Flags, Floats

Shares = tuple[float, float]


def sizes(shares: Shares | None, rows: int) -> tuple[int, int]:
    """How many rows stay for their gradients and how many others are drawn; all and 0 without GOSS.

    Args:
        shares: Of the job.
        rows: Training rows.
    """
    if shares is None:
        return rows, 0
    top = min(rows, max(1, round(shares[0] * rows)))
    return top, min(rows - top, max(1, round(shares[1] * rows)))


def generator(seed: int, labels: Floats) -> np.random.Generator:
    """What rows are drawn and numbers rounded with: the same for the same seed and labels.

    Labels are part of it so that a partner, who knows the job's seed, cannot tell the drawn rows from the others.
    """
    told = hashlib.sha256(b"fedcore goss" + int(seed).to_bytes(16, "little", signed=True) + labels.tobytes())
    return np.random.default_rng(int.from_bytes(told.digest(), "little"))


def draw(shares: Shares | None, g: Floats, random: np.random.Generator) -> tuple[Flags, Floats]:
    """Rows of a round.

    Args:
        shares: Of the job.
        g: First derivatives, (n, classes).
        random: From `generator`.

    Returns:
        Which rows are chosen, and the weight of each row, both (n,). Weighted sums over chosen rows have the sums over
        all rows as expected value, whichever rows stay.
    """
    rows = len(g)
    if shares is None:
        return np.ones(rows, dtype=bool), np.ones(rows)
    top, others = sizes(shares, rows)
    ties = random.random(rows)
    order = np.lexsort((ties, -np.abs(g).sum(axis=1)))
    drawn = order[top + random.permutation(rows - top)[:others]]
    chosen, weights = np.zeros(rows, dtype=bool), np.zeros(rows)
    chosen[order[:top]] = chosen[drawn] = True
    weights[order[:top]] = 1.0
    weights[drawn] = (rows - top) / max(others, 1)
    return chosen, weights
