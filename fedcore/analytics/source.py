"""A data set at a site: columns of Arrow, their kinds and units, and what is found out about them once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedcore.analytics.columns import Column, Kind
from fedcore.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

STEP = "query"
MEMORY = 1024


@dataclass(frozen=True, eq=False)
class Source:
    """A data set at this site.

    Args:
        name: As in the catalogue.
        rows: Its columns, at least those that a query reads.
        units: Per column; over what a field's metadata says under `unit`.
        memory: That DuckDB may take, in MiB.

    Attributes:
        distinct: Values of columns, a missing one counted too, where they were counted already.
    """

    name: str
    rows: pa.Table
    units: Mapping[str, str] = field(default_factory=dict)
    memory: int = MEMORY
    distinct: dict[str, int] = field(default_factory=dict, init=False, repr=False)
    _finite: dict[str, bool] = field(default_factory=dict, init=False, repr=False)

    @property
    def columns(self) -> dict[str, Column]:
        """What a query sees of them; columns of other types are left out."""
        found = {}
        for each in self.rows.schema:
            kind = _kind_of(each.type)
            stated = (each.metadata or {}).get(b"unit", b"").decode(errors="replace")
            if kind is not None:
                found[each.name] = Column(kind, self.units.get(each.name, stated))
        return found

    def finite(self, column: str) -> bool:
        """Whether a column surely has no NaN and nothing infinite."""
        if column not in self._finite:
            self._finite[column] = _finite(self.rows.column(column))
        return self._finite[column]

    def to_look_at(self, column: str) -> bool:
        """Whether `finite` would have to look at the rows."""
        import pyarrow as pa

        return column not in self._finite and pa.types.is_floating(self.rows.schema.field(column).type)

    def found_finite(self, column: str) -> None:
        """Keep what a sum over the whole column showed: `finite` from now on."""
        self._finite[column] = True

    def full(self, column: str) -> bool:
        """Whether a column surely misses no value, NaN apart."""
        import pyarrow as pa

        held = self.rows.column(column)
        # A dictionary may have a missing value among its values, which is not counted.
        return not held.null_count and not pa.types.is_dictionary(held.type)


def opened(name: str, file: Path, units: Mapping[str, str] | None = None, memory: int = MEMORY) -> Source:
    """A Parquet or CSV file of the site's own catalogue.

    Raises:
        DataError: There is no such file, or it is of another kind or cannot be read.
    """
    import pyarrow as pa
    from pyarrow import csv, parquet

    readers = {".parquet": parquet.read_table, ".csv": csv.read_csv}
    if file.suffix not in readers:
        raise DataError(f"data set {name}: {file.suffix or 'no ending'}; allowed: .csv, .parquet", step=STEP)
    try:
        return Source(name, readers[file.suffix](file), dict(units or {}), memory)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"data set {name} cannot be read", step=STEP, detail=str(error)) from error


def _kind_of(held: pa.DataType) -> Kind | None:
    import pyarrow as pa

    if pa.types.is_dictionary(held):
        held = held.value_type
    tests: tuple[tuple[Kind, tuple[Any, ...]], ...] = (
        ("number", (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)),
        ("text", (pa.types.is_string, pa.types.is_large_string)),
        ("flag", (pa.types.is_boolean,)),
        ("date", (pa.types.is_date,)),
        ("time", (pa.types.is_timestamp,)),
    )
    return next((kind for kind, allowed in tests if any(test(held) for test in allowed)), None)


def _finite(held: pa.ChunkedArray) -> bool:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_float64(held.type) or pa.types.is_float32(held.type):
        return bool(pc.all(pc.is_finite(held), min_count=0).as_py())
    return not pa.types.is_floating(held.type) and not pa.types.is_dictionary(held.type)
