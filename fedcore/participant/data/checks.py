"""What every connector refuses in the same words: no file, no such column, no rows, too much for memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from fedcore.errors import DataError, did_you_mean, nearest

if TYPE_CHECKING:
    from fedcore.jobs.datasets import DataSet

_MOST_NAMES = 40  # of columns in one message


def existing(path: Path, folder: bool | None = None) -> Path:
    """The path, when something is there.

    Args:
        path: As the catalogue gives it.
        folder: True for a folder, False for a file, None for either.

    Raises:
        DataError: Nothing is there, or a folder where a file is needed, or the reverse.
    """
    try:
        there = path.exists()
    except PermissionError as error:  # of a folder above it
        raise unreadable(path, error, "a file") from error
    if not there:
        cure = f"{path.parent} holds no {path.name}" if path.parent.is_dir() else f"no folder {path.parent}"
        raise DataError(f"no file {path}: {cure}; correct path in the participant's catalogue")
    if folder is True and not path.is_dir():
        raise DataError(f"{path} is a file; this connector reads a folder")
    if folder is False and not path.is_file():
        raise DataError(f"{path} is a folder; this connector reads one file")
    return path


def unreadable(path: Path, error: BaseException, what: str) -> DataError:
    """The error for a file that is there but cannot be read; the library's own words stay at the site."""
    if isinstance(error, PermissionError):
        return DataError(f"no permission to read {path}; let the account that runs fedcore read it")
    return DataError(
        f"{path} cannot be read as {what}; check that it is complete and of that format (details are in the "
        "site's log)",
        detail=f"{type(error).__name__}: {error}",
    )


def chosen(data: DataSet, columns: Sequence[str] | None, names: Sequence[str]) -> list[str]:
    """The columns to read, each once, in the order asked.

    Args:
        data: Whose `row_id` must be among the names too.
        columns: As asked; all when None.
        names: What the data set has.

    Raises:
        DataError: A column stands twice in the data set, is not there, or none was asked for.
    """
    name, times = Counter(names).most_common(1)[0] if names else ("", 0)
    if times > 1:
        raise DataError(f"column {name!r} stands twice in the data set; rename one of them at the site")
    for name in columns or ():
        if name not in names:
            raise DataError(f"no column {name!r} in the data set; {_allowed(name, names)}")
    if data.row_id is not None and data.row_id not in names:
        raise DataError(
            f"no column {data.row_id!r}, the row_id of the catalogue; {_allowed(data.row_id, names)}"
        )
    if columns is None:
        return list(names)
    if not columns:
        raise DataError("no column was asked for; name at least one")
    return list(dict.fromkeys(columns))


def _allowed(name: str, names: Sequence[str]) -> str:
    if len(names) <= _MOST_NAMES:
        return did_you_mean(name, names)
    near = nearest(name, names)
    hint = f'did you mean "{near}"? ' if near else ""
    return f"{hint}allowed: {', '.join(sorted(names)[:_MOST_NAMES])} and {len(names) - _MOST_NAMES} more"


def has_rows(rows: int) -> None:
    """Refuse an empty data set.

    Raises:
        DataError: No rows.
    """
    if rows == 0:
        raise DataError(
            "the data set has 0 rows; at least 1 is needed: fill it, or leave this participant out"
        )


def within(needed: int, memory: int | None, about: str = "") -> None:
    """Refuse what does not fit.

    Args:
        needed: Bytes that the columns asked for take in memory.
        memory: Bytes the site gives to a job; unbounded when None.
        about: Put before the size when it is not exact (`about `, `more than `).

    Raises:
        DataError: `needed` is above `memory`; both sizes and the cure are in it.
    """
    if memory is not None and needed > memory:
        raise DataError(
            f"the data set needs {about}{size(needed)} of memory and this site gives a job {size(memory)}; "
            "raise resources.memory in the participant file, read fewer columns, or give the job a smaller "
            "table"
        )


def collected(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, memory: int | None, rows: int | None = None
) -> pa.Table:
    """A table from a stream of batches that stops when it grows above the bound.

    Args:
        batches: Of one schema.
        schema: Theirs.
        memory: Bound in bytes; none when None.
        rows: How many there will be, when known: the refusal then estimates the whole size.

    Raises:
        DataError: Too large.
    """
    kept: list[pa.RecordBatch] = []
    used = read = 0
    for batch in batches:
        kept.append(batch)
        used += batch.nbytes
        read += batch.num_rows
        if memory is not None and used > memory:
            if rows is None or read == 0:
                within(used, memory, "more than ")
            else:
                within(max(used * rows // read, used), memory, "about ")
    return pa.Table.from_batches(kept, schema=schema)


def no_rows(schema: pa.Schema) -> pa.RecordBatch:
    """A batch that only says which columns of which types will come."""
    return pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)


def size(count: int) -> str:
    """Bytes for people, in the decimal units of `resources.memory`.

    Example:
        >>> size(1_500_000)
        '1.5 MB'
    """
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
