"""What the parties of a linear model check and exchange before the first pass: settings, widths, keys.

    every pair     what must be equal: version, fixed point, modulus, rows, the job's settings; and own columns
    label holder   its key for matrices, to each partner; the number of columns of each party
    first partner  its keys for matrices and for rows, to the label holder; the one for matrices to further partners

Nothing is secret in it. Cost: 163 kB for a key for matrices, 217 kB for one for rows.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.bfv.keys import PublicKey, new_keys, public_key_bytes, read_public_key
from crypto.bfv.products import MATRICES, MODULUS, ROWS
from crypto.bfv.ring import Ring
from crypto.channel import Channel
from fedcore.errors import DataError, JobError, ProtocolFailed
from fedcore.jobs.vertical import FEWEST, Logistic
from fedcore.vertical.correlation import ROWS_FOR_COLUMN
from fedcore.vertical.glm_pass import (
    COLUMN_BITS,
    EXTRA,
    WAVE_BITS,
    WEIGHT_BITS,
    First,
    Holder,
    Other,
)
from fedcore.vertical.sharing import Floats, fixed

VERSION = 1
LARGEST_COLUMN = 128.0
"""Largest absolute value of a column's entry."""
MOST_ROWS = 1 << 22
"""Sums over rows in 64 bits hold that many."""
SPARE_ROWS = 10
"""Rows of a step beyond the number of all columns."""
ROWS_FOR_PAIR = 4
"""Rows for each opened sum over rows of 9 bits each, weighted with products of 6 bits after the point."""
_LIMIT = 4096
STEP = "glm.settings"


def agreed(settings: Logistic, rows: int, test_rows: int = 0) -> dict[str, Any]:
    """What must be the same at all parties."""
    told = settings.model_dump(mode="json", exclude={"scorecard", "use"})
    bits = [COLUMN_BITS, WEIGHT_BITS, WAVE_BITS, EXTRA]
    counts = {"rows": rows, "test rows": test_rows}
    return {"version": VERSION, "fixed point": bits, "modulus": MODULUS, **counts, **told}


def tell(channel: Channel, same: dict[str, Any], columns: int) -> None:
    """Send own settings."""
    channel.send(STEP, json.dumps({**same, "columns": columns}).encode())


def compare(channel: Channel, same: dict[str, Any]) -> int:
    """Read the other party's settings and compare them.

    Returns:
        Its number of columns.

    Raises:
        ProtocolFailed: They are not the same.
    """
    raw = bytes(channel.recv(STEP, limit=_LIMIT))
    try:
        told = json.loads(raw)
        columns = int(told["columns"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise ProtocolFailed("the other party's settings are no settings", step=STEP) from None
    for key, own in same.items():
        if told.get(key) != own:
            raise ProtocolFailed(
                f"{key}: {own} here, {told.get(key)} at the other party; run the same job and the same version "
                "of fedcore at both",
                step=STEP,
            )
    if not 1 <= columns <= 1 << 16:
        raise ProtocolFailed(f"the other party tells {columns} columns", step=STEP)
    return columns


def holder_setup(channels: Sequence[Channel], same: dict[str, Any], columns: int) -> Holder:
    """The label holder's side; `columns` without the intercept."""
    secret = new_keys(MATRICES)
    for channel in channels:
        tell(channel, same, columns)
    widths = (columns + 1, *(compare(channel, same) for channel in channels))
    told = np.array(widths, dtype=np.int64)
    for channel in channels:
        channel.send("glm.widths", told)
        channel.send("glm.key", secret.public.to_bytes())
    first = read_key(channels[0], MATRICES)
    return Holder(channels, secret, first, read_key(channels[0], ROWS), widths)


def first_setup(channel: Channel, others: Sequence[Channel], same: dict[str, Any], columns: int) -> First:
    """The first partner's side."""
    tell(channel, same, columns)
    compare(channel, same)
    widths = _widths(channel, columns, 2 + len(others))
    label = read_key(channel, MATRICES)
    secret, rows = new_keys(MATRICES), new_keys(ROWS)
    channel.send("glm.key", secret.public.to_bytes())
    channel.send("glm.key", rows.public.to_bytes())
    for each in others:
        each.send("glm.key", secret.public.to_bytes())
    return First(channel, others, secret, rows, label, widths)


def other_setup(
    channel: Channel, to_first: Channel, same: dict[str, Any], columns: int
) -> tuple[Other, PublicKey, tuple[int, ...]]:
    """A further partner's side, the first partner's key, and the number of columns of each party."""
    tell(channel, same, columns)
    compare(channel, same)
    widths = _widths(channel, columns, None)
    label = read_key(channel, MATRICES)
    return Other(channel, to_first, label), read_key(to_first, MATRICES), widths


def read_key(channel: Channel, ring: Ring) -> PublicKey:
    """The other party's public key."""
    return read_public_key(channel.recv("glm.key", size=public_key_bytes(ring)), ring)


def _widths(channel: Channel, own: int, parties: int | None) -> tuple[int, ...]:
    raw = channel.recv("glm.widths", limit=_LIMIT)
    if len(raw) % 8:
        raise ProtocolFailed("the numbers of columns are no numbers", step="glm.widths")
    widths = tuple(int(each) for each in np.frombuffer(raw, dtype=np.int64))
    if parties is not None and len(widths) != parties:
        raise ProtocolFailed(
            f"the label holder has {len(widths) - 1} partners, the first partner knows {parties - 2} others; "
            "the job names the same parties everywhere",
            step="glm.widths",
        )
    if own not in widths[1:] or min(widths) < 1:
        raise ProtocolFailed(
            f"the numbers of columns, {widths}, do not hold this party's {own}", step="glm.widths"
        )
    return widths


def columns_of(x: Floats) -> npt.NDArray[np.int64]:
    """Columns in fixed point, checked.

    Args:
        x: (n, d) float64, standardised or weights of evidence.

    Raises:
        DataError: It is no matrix of finite numbers, or one is too large.
    """
    if x.ndim != 2 or x.shape[0] < 1 or x.shape[1] < 1:
        raise DataError(
            f"columns of shape {x.shape}; rows by columns, at least one of each, are needed", step="glm"
        )
    if len(x) > MOST_ROWS:
        raise DataError(f"{len(x)} rows; {MOST_ROWS} are the most, take a sample", step="glm")
    for j in range(x.shape[1]):
        if not np.isfinite(x[:, j]).all():
            raise DataError(
                f"column {j} holds missing or infinite values; bin it, or fill it, before the model",
                step="glm",
            )
    largest = np.abs(x).max(axis=0)
    if (largest > LARGEST_COLUMN).any():
        j = int(largest.argmax())
        raise DataError(
            f"column {j} reaches {largest[j]:.3g} in size, {LARGEST_COLUMN:g} is the most; standardise it, or "
            "limit its outliers",
            step="glm",
        )
    return fixed(x, COLUMN_BITS)


def check_rare(numbers: npt.NDArray[np.int64]) -> None:
    """Refuse a column that sets few rows apart, since second moments and weights would tell about these.

    Args:
        numbers: Own columns of the training rows, (n, d).

    Raises:
        DataError: In a column that is not constant fewer than `FEWEST` rows differ from the commonest value.
    """
    for j in range(numbers.shape[1]):
        apart = len(numbers) - int(np.unique(numbers[:, j], return_counts=True)[1].max())
        if 0 < apart < FEWEST:
            raise DataError(
                f"column {j} has one value but for fewer than {FEWEST} rows, about which the other party would learn; "
                "leave it out, or bin it",
                step="glm",
            )


def blocks_of(rows: int, batch: int | None) -> list[slice]:
    """Rows of each step of a pass: all, or as many as a batch has or a few more."""
    count = max(1, rows // (batch or rows))
    ends = [rows * i // count for i in range(count + 1)]
    return [slice(low, high) for low, high in itertools.pairwise(ends)]


def check_rows(settings: Logistic, rows: int, widths: Sequence[int], test_rows: int = 0) -> None:
    """Refuse steps of so few rows that what is opened could be solved for them.

    Raises:
        JobError: The batch is too small.
        DataError: The rows are too few, for the second moments or for the information matrix.
    """
    columns = sum(widths)
    least = columns + SPARE_ROWS
    if settings.batch is not None and min(settings.batch, rows) < least:
        raise JobError(
            f"batch: {settings.batch} rows for {columns} columns; from that few rows a party could solve the "
            f"change of its weights for the other's residuals, so at least {least} are needed",
            step="glm",
        )
    needed = ROWS_FOR_COLUMN * columns
    if rows < needed:
        raise DataError(
            f"{rows} rows for {columns} columns; the table of second moments that is opened could be solved for "
            f"the other party's values, so at least {needed} are needed",
            step="glm",
        )
    if settings.early_stop and test_rows < ROWS_FOR_COLUMN:
        raise DataError(
            f"early_stop: {test_rows} test rows; their loss, which is opened after each pass, would tell about single "
            f"ones, so at least {ROWS_FOR_COLUMN} are needed",
            step="glm",
        )
    # The label holder knows the products of its own columns in pairs, and learns their sums weighted by row.
    pairs = widths[0] * (widths[0] + 1) // 2
    if settings.p_values and rows < ROWS_FOR_PAIR * pairs:
        raise DataError(
            f"p_values: {rows} rows for {pairs} pairs of the label holder's columns; the information matrix that is "
            f"opened could be solved for the prediction of each row, so at least {ROWS_FOR_PAIR * pairs} are needed",
            step="glm",
        )


def unsupported(settings: Logistic, partners: int) -> None:
    """Refuse what the protocol has no answer for.

    Raises:
        JobError: There is something.
    """
    if settings.sign and settings.on != "woe":
        raise JobError("sign: a sign is known for weights of evidence only; set on: woe", step="glm")
    if settings.p_values and settings.link == "linear":
        raise JobError(
            "p_values: not for the linear link, whose variance stays closed; leave it out", step="glm"
        )
    if settings.p_values and partners > 1:
        raise JobError("p_values: for one partner only; leave it out", step="glm")
    if settings.early_stop and settings.link != "logistic":
        raise JobError("early_stop: for the logistic link only; leave it out", step="glm")
    if settings.batch is not None and (settings.sign or settings.p_values or settings.link == "linear"):
        raise JobError("batch: not with sign, p_values or the linear link; leave it out", step="glm")
    if settings.class_weight is not None and settings.link != "logistic":
        raise JobError("class_weight: for the logistic link only; leave it out", step="glm")
