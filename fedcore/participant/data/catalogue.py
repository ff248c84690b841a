"""One door to every data set of a participant's catalogue."""

from __future__ import annotations

import functools
import importlib
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from fedcore.errors import DataError, did_you_mean
from fedcore.participant.data.checks import has_rows, within
from fedcore.participant.data.parts import Indices, deal, rows_of

if TYPE_CHECKING:
    from fedcore.jobs.datasets import DataSet, Part

# connector -> module of this package and the prefix of its two functions, `<prefix>_schema` and
# `<prefix>_table`. Modules are imported when a data set needs them: a ClientApp process starts for every
# message.
_CONNECTORS = {
    "csv": ("tables", "csv"),
    "parquet": ("tables", "parquet"),
    "sqlite": ("databases", "sqlite"),
    "postgresql": ("databases", "postgres"),
    "npz": ("arrays", "npz"),
    "medmnist": ("arrays", "medmnist"),
    "images": ("images", "folder"),
    "dicom": ("dicom", "dicom"),
    "nifti": ("nifti", "nifti"),
}

Stamp = tuple[int, ...] | None

_sharing = threading.Lock()


def read_schema(data: DataSet) -> pa.Schema:
    """Names and types of a data set's columns, without reading the rows where the format allows it.

    Raises:
        DataError: It is not there or cannot be read.
    """
    stamp = _stamp(data)
    if data.part is None or stamp is None:
        return _schema(data, stamp)
    with _sharing:
        return _shared_schema(data.model_copy(update={"part": None}), stamp)


def read_table(data: DataSet, columns: Sequence[str] | None = None, *, memory: int | None = None) -> pa.Table:
    """The rows of a data set; of its `part` only, for a virtual participant.

    Missing values and NaN are left as they are: the task decides what they mean.

    Args:
        data: As the catalogue has it.
        columns: Which to read, pushed down to the reader; all when None.
        memory: Most bytes that the table may take; unbounded when None.

    Returns:
        The columns in the order asked. Images and other tensors are `FixedShapeTensor` columns, one row per
        example, uint8 or float32.

    Raises:
        DataError: The data set is not there, cannot be read, lacks a column, has no rows or is too large.
    """
    part = data.part
    if part is None:
        return _read(data, columns, memory)
    key = part.label if part.method == "dirichlet" else part.column if part.method == "by" else None
    asked = columns if columns is None or key is None or key in columns else [*columns, key]
    whole = data.model_copy(update={"part": None})
    shared = part.model_copy(update={"index": 0})
    stamp = _stamp(whole)
    if stamp is None:
        table, parts = _dealt(whole, asked, shared, key, memory, stamp)
    else:
        # The participants of a simulation share one machine, so they share one copy of the whole table too.
        with _sharing:
            table, parts = _shared(whole, None if asked is None else tuple(asked), shared, key, memory, stamp)
    mine = table if columns is None else table.select(list(dict.fromkeys(columns)))
    return rows_of(mine, parts[part.index])


def _schema(data: DataSet, stamp: Stamp) -> pa.Schema:
    del stamp  # of the cache's key: another file, another schema
    return plain_schema(_function(data, "schema")(data))


def _dealt(
    whole: DataSet,
    columns: Sequence[str] | None,
    part: Part,
    key: str | None,
    memory: int | None,
    stamp: Stamp,
) -> tuple[pa.Table, list[Indices]]:
    """The whole table and everybody's rows."""
    del stamp  # as in _schema
    table = _read(whole, columns, memory)
    if key is not None and key not in table.column_names:
        raise DataError(f"no column {key!r} to deal the rows by; {did_you_mean(key, table.column_names)}")
    return table, deal(part, table.num_rows, None if key is None else table.column(key))


_shared_schema = functools.lru_cache(maxsize=2)(_schema)
_shared = functools.lru_cache(maxsize=2)(_dealt)


def _stamp(data: DataSet) -> Stamp:
    """Times and sizes of the files behind a data set, to the depth of one folder; None for a server."""
    path = getattr(data, "path", None)
    if path is None or not path.exists():
        return None
    around = [path, *(sorted(path.iterdir()) if path.is_dir() else ())]
    beside = [getattr(data, key, None) for key in ("labels", "masks")]
    around += [each for each in beside if each is not None and each.exists()]
    return tuple(number for each in around for number in (each.stat().st_mtime_ns, each.stat().st_size))


def _read(data: DataSet, columns: Sequence[str] | None, memory: int | None) -> pa.Table:
    table: pa.Table = _function(data, "table")(data, columns, memory)
    has_rows(table.num_rows)
    schema = plain_schema(table.schema)
    plain = table if schema.equals(table.schema, check_metadata=True) else table.cast(schema)
    within(plain.nbytes, memory)
    return plain


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """Without what only the source needs: dictionary encoding and metadata of columns and table."""
    return pa.schema(
        [
            pa.field(field.name, field.type.value_type if pa.types.is_dictionary(field.type) else field.type)
            for field in schema
        ]
    )


def _function(data: DataSet, what: str) -> Callable[..., Any]:
    module, prefix = _CONNECTORS[data.connector]
    function: Callable[..., Any] = getattr(
        importlib.import_module(f"{__package__}.{module}"), f"{prefix}_{what}"
    )
    return function
