"""Population stability index: how far shares of bins have moved from the training rows to others.

    psi = sum_i (q_i - p_i) ln(q_i / p_i)        p_i, q_i the shares of bin i among training rows and the others

Each party computes it of its own columns; a partner tells the label holder one number per anonymous variable
and part. A bin without rows on one side counts half a row there.

Source: Siddiqi, "Credit Risk Scorecards", Wiley 2006: below 0.1 little moved, above 0.25 much.
"""

from __future__ import annotations

import numpy as np

from fedcore.vertical.evidence import WoeResult, codes_of
from fedcore.vertical.metrics import stability as stability_index
from fedcore.vertical.table import OUT_OF_TIME, PARTS, TEST, TRAIN, Table


def stability(table: Table, result: WoeResult) -> dict[str, dict[str, float]]:
    """The index of each own variable, for each part that has rows.

    Args:
        table: Own columns.
        result: Own variables among others.

    Returns:
        By name of the variable, then of the part: `test`, `out of time`.

    Raises:
        DataError: A column is not in the table, or has infinite values.
    """
    found: dict[str, dict[str, float]] = {}
    rows = {part: table.rows(part) for part in (TRAIN, TEST, OUT_OF_TIME)}
    for each in result.own:
        codes = codes_of(table, each)
        counts = {part: np.bincount(codes[rows[part]], minlength=len(each.woe)) for part in rows}
        found[each.name] = {
            PARTS[part]: stability_index(counts[TRAIN], counts[part])
            for part in (TEST, OUT_OF_TIME)
            if len(rows[part])
        }
    return found
