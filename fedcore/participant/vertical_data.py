"""A party's columns of a vertical job, in the agreed order, and whether they are still those that were agreed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from crypto.psi.items import ItemRules, keys_of
from fedcore.errors import DataError, did_you_mean
from fedcore.jobs.datasets import DataSet
from fedcore.jobs.participant import Participant
from fedcore.jobs.reveals import is_binary
from fedcore.jobs.vertical import Boosting, VerticalJob
from fedcore.participant.data.batches import read_batches
from fedcore.participant.data.catalogue import read_schema, read_table
from fedcore.vertical.table import TRAIN, Table

Int64 = npt.NDArray[np.int64]
MOST_GROUPS = 120
"""Lines of a match-rate report."""


def data_of(participant: Participant, job: VerticalJob) -> DataSet:
    """The data set that the job names for this party."""
    return participant.catalogue[job.parties[participant.name].data]


def features_of(participant: Participant, job: VerticalJob) -> list[str]:
    """The columns that models may use; those of the job, else all but keys, label and the column of the split.

    Raises:
        DataError: A column that the job needs is not there; those that are there are listed.
    """
    party, holds = job.parties[participant.name], participant.name == job.label.party
    data = data_of(participant, job)
    names = read_schema(data).names
    late = job.split.out_of_time
    special = [
        *party.keys,
        *([job.label.column] if holds else []),
        *([late.column] if holds and late else []),
    ]
    for name in (*special, *(party.columns or ())):
        if name not in names:
            what = "the label" if holds and name == job.label.column else "a column"
            raise DataError(
                f"no column {name!r} for {what} in data set {party.data!r}; {did_you_mean(name, names)}",
                step="read",
            )
    if party.columns is not None:
        for name in party.columns:
            if holds and name == job.label.column:
                raise DataError(
                    f"parties.{participant.name}.columns: the label {name!r} stands among them; models would be told "
                    "the answer",
                    step="read",
                )
        return list(party.columns)
    found = [name for name in names if name not in special and name != data.row_id]
    if not found:
        raise DataError(
            f"data set {party.data!r} has no column beside key, label and split; a party brings one or more",
            step="read",
        )
    return found


def items_of(data: DataSet, key: Sequence[str], rules: ItemRules, rows: Int64) -> npt.NDArray[np.uint64]:
    """The items of some rows, read as the intersection reads them.

    Args:
        data: The data set.
        key: Its key columns.
        rules: What counts as the same.
        rows: (n,) int64, numbers of rows in the data set.

    Returns:
        (n, 2) uint64.

    Raises:
        DataError: The data cannot be read, or a row is not there any more or has no key.
    """
    blocks, numbers, seen = [np.empty((0, 2), np.uint64)], [np.empty(0, np.int64)], 0
    for batch in read_batches(data, key):
        keys = keys_of([batch.column(name) for name in key], rules, first_row=seen)
        blocks.append(keys.blocks)
        numbers.append(keys.rows)
        seen += batch.num_rows
    known, places = np.concatenate(blocks), np.concatenate(numbers)
    at = np.searchsorted(places, rows)
    if len(rows) and (at.max() >= len(places) or (places[at] != rows).any()):
        raise DataError(
            "rows that were matched are not in the data set any more; begin a new run with the data as it is now",
            step="read",
        )
    return known[at]


def load_table(
    participant: Participant, job: VerticalJob, rows: Int64, part: npt.NDArray[np.int8]
) -> tuple[Table, str]:
    """The party's table in the agreed order, and the SHA-256 of its values.

    Args:
        participant: Whose.
        job: The job.
        rows: (n,) int64, numbers of rows in the data set.
        part: (n,) int8.

    Raises:
        DataError: A column is not there, is of a type that no model takes, or has infinite values; or the label is not
            what the models need.
    """
    data, names = data_of(participant, job), features_of(participant, job)
    holds = participant.name == job.label.party
    asked = [*names, *([job.label.column] if holds else [])]
    read = read_table(data, asked, memory=participant.resources.memory)
    if len(rows) and rows.max() >= read.num_rows:
        raise DataError(
            "rows that were matched are not in the data set any more; begin a new run with the data as it is now",
            step="read",
        )
    whole = read.take(pa.array(rows))
    columns = {name: column_values(whole.column(name), name) for name in names}
    label = _label(whole.column(job.label.column), part, job) if holds else None
    table = Table(columns, part, label)
    return table, _digest(table)


def late_rows(participant: Participant, job: VerticalJob, rows: Int64) -> npt.NDArray[np.bool_]:
    """Which rows of the label holder are out of time.

    Raises:
        DataError: A row has no time, or the column is of another type than what the job compares it with.
    """
    late = job.split.out_of_time
    if late is None:
        return np.zeros(len(rows), dtype=np.bool_)
    read = read_table(data_of(participant, job), [late.column], memory=participant.resources.memory)
    column = read.column(late.column).take(pa.array(rows))
    if column.null_count:
        raise DataError(
            f"split.out_of_time: column {late.column!r} has rows without a value; all need one", step="read"
        )
    numbers = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    text = _as_text(column)
    if numbers and isinstance(late.from_, int | float):
        return np.asarray(column.cast(pa.float64())) >= float(late.from_)
    if text is None or not isinstance(late.from_, str):
        raise DataError(
            f"split.out_of_time: column {late.column!r} is of type {column.type} and from is {late.from_!r}; a number is "
            "compared with a number, a date or a text with a text",
            step="read",
        )
    return np.array([value >= late.from_ for value in text], dtype=np.bool_)


def groups_of(participant: Participant, job: VerticalJob, rows: Int64) -> list[tuple[str, int, int]]:
    """Match rate by month: name, own rows, matched ones; empty where the job has no column of times."""
    late = job.split.out_of_time
    if late is None or participant.name != job.label.party:
        return []
    column = read_table(data_of(participant, job), [late.column], memory=participant.resources.memory).column(
        0
    )
    text = _as_text(column)
    if text is None:
        text = [str(value) for value in column.to_pylist()]
    # A date is told by its month.
    found = np.array(
        [value[:7] if len(value) > 7 and value[4:5] == "-" else value for value in text], dtype=object
    )
    names, place = np.unique(found.astype(str), return_inverse=True)
    if len(names) > MOST_GROUPS:
        return []
    matched = np.bincount(place[rows], minlength=len(names))
    return [
        (str(name), int(all_), int(in_))
        for name, all_, in_ in zip(names, np.bincount(place, minlength=len(names)), matched, strict=True)
    ]


def _as_text(column: pa.ChunkedArray) -> list[str] | None:
    kind = column.type
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return [value.isoformat() if value is not None else "" for value in column.to_pylist()]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return [value if value is not None else "" for value in column.to_pylist()]
    return None


def column_values(column: pa.ChunkedArray, name: str) -> npt.NDArray[Any]:
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.array(column.to_pylist(), dtype=object)
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    if (
        pa.types.is_boolean(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
    ):
        values = np.array(pc.fill_null(column.cast(pa.float64()), float("nan")), dtype=np.float64)
        if np.isinf(values).any():
            raise DataError(
                f"column {name!r} has infinite values; allowed are finite ones and missing ones. Put a number or "
                "nothing in their place",
                step="read",
            )
        return values
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    raise DataError(
        f"column {name!r} is of type {kind}; a model takes numbers, text and true or false. Leave it out of the party's "
        "columns, or make a number of it",
        step="read",
    )


def _label(column: pa.ChunkedArray, part: npt.NDArray[np.int8], job: VerticalJob) -> npt.NDArray[np.float64]:
    name = job.label.column
    values = column_values(column, name)
    if values.dtype == object or np.isnan(values).any():
        what = "is text" if values.dtype == object else "has rows without a value"
        raise DataError(f"label {name!r} {what}; it must be a number in every row", step="read")
    training = values[part == TRAIN]
    if is_binary(job) and not np.isin(values, (0.0, 1.0)).all():
        raise DataError(
            f"label {name!r} has other values than 0 and 1; 1 is the event (bad), 0 is none", step="read"
        )
    if any(isinstance(model, Boosting) and model.loss == "multiclass" for model in job.models.values()) and (
        (values < 0).any() or (values != np.floor(values)).any()
    ):
        raise DataError(f"label {name!r}: classes are whole numbers from 0", step="read")
    if len(np.unique(training)) < 2:
        raise DataError(
            f"label {name!r} has one value only in all training rows; there is nothing to tell apart. Take other rows, or "
            "another label",
            step="read",
        )
    return values


def _digest(table: Table) -> str:
    found = hashlib.sha256(table.part.tobytes())
    for name, values in table.columns.items():
        found.update(name.encode() + b"\0")
        raw = "\0".join(map(str, values)).encode() if values.dtype == object else values.tobytes()
        found.update(len(raw).to_bytes(8, "little") + raw)
    if table.label is not None:
        found.update(table.label.tobytes())
    return found.hexdigest()
