"""From Arrow tables to tensors: which columns, which classes, which rows train and which validate."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from fedcore.errors import DataError, did_you_mean
from fedcore.learning.seeds import derive_seed
from fedcore.learning.task import Batch, Schema
from fedcore.learning.upload import fits, uploaded

if TYPE_CHECKING:
    import pyarrow as pa

MOST_CLASSES = 1000
FEW_CLASSES = 20  # up to here a small site may have as many classes as rows
GATHER_AT_ONCE = 256 * 2**20  # bytes; a larger epoch is gathered batch by batch

NDArray = npt.NDArray[Any]


@dataclass(frozen=True)
class Rows:
    """One site's rows before they are scaled and split.

    Args:
        features: Names in the order of the columns of `x`.
        x: `[n, features]` float32, or images `[n, channels, height, width]` uint8 or float32.
        target: `[n]` labels or numbers, or masks `[n, height, width]`, or None.
        groups: `[n]` int64; rows with the same number (the same person) stay on one side of the split.
    """

    features: tuple[str, ...]
    x: NDArray
    target: NDArray | None
    groups: NDArray

    def __len__(self) -> int:
        return int(self.x.shape[0])


def columns_to_read(
    available: list[str], features: tuple[str, ...] | None, target: str | None, row_id: str | None
) -> list[str] | None:
    """Which columns a task reads; None means all.

    Raises:
        DataError: A named column is not there.
    """
    wanted = [*(features or ()), *([target] if target else []), *([row_id] if row_id else [])]
    for name in wanted:
        if name not in available:
            raise DataError(f"no column {name!r} in the data set; {did_you_mean(name, available)}")
    return None if features is None else list(dict.fromkeys(wanted))


def rows_from_table(
    table: pa.Table,
    features: tuple[str, ...] | None,
    target: str | None,
    row_id: str | None,
    *,
    empty: bool = False,
) -> Rows:
    """Take features, target and row ids out of a table.

    Args:
        table: As a connector gives it.
        features: Their names; all numeric columns but target and row id when None.
        target: Column to predict.
        row_id: Column that names the person or object of a row.
        empty: Whether there may be no rows.

    Raises:
        DataError: A column is missing, not numeric, or holds missing or infinite values; no rows.
    """
    import pyarrow as pa

    columns_to_read(table.column_names, features, target, row_id)
    if table.num_rows == 0 and not empty:
        raise DataError("the data set has no rows; give it data or leave the site out of participants.names")
    kinds = {field.name: field.type for field in table.schema}
    if features is None:
        features = tuple(n for n, kind in kinds.items() if n not in (target, row_id) and _numeric(kind))
        if not features:
            raise DataError("no numeric column beside the target; name the features in task.features")
    if len(features) == 1 and isinstance(kinds[features[0]], pa.FixedShapeTensorType):
        x = _images(table, features[0])
    else:
        x = np.empty((table.num_rows, len(features)), dtype=np.float32)
        for i, name in enumerate(features):
            if not _numeric(kinds[name]):
                raise DataError(
                    f"column {name!r} is {kinds[name]}, a feature must be numeric; convert it at the site or "
                    "leave it out of task.features"
                )
            x[:, i] = _numbers(table, name)
    _refuse_missing(x, features)
    labels = None if target is None else _target(table, target)
    return Rows(features, x, labels, _groups(table, row_id))


def _numeric(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(
        types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind)
    )


def _numbers(table: pa.Table, name: str) -> NDArray:
    import pyarrow as pa

    column = table.column(name)
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        column = column.cast(pa.float64(), safe=False)
    values: NDArray = column.to_numpy().astype(np.float64).astype(np.float32)
    return values


def _images(table: pa.Table, name: str) -> NDArray:
    column = table.column(name).combine_chunks()
    if column.null_count:
        raise DataError(f"column {name!r} has missing images; remove those rows at the site")
    pixels: NDArray = column.to_numpy_ndarray()
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.ndim == 4:
        pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    else:
        raise DataError(
            f"column {name!r} holds arrays of {pixels.ndim - 1} axes; an image has height x width, or "
            "height x width x channels"
        )
    return pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)


def _refuse_missing(x: NDArray, features: tuple[str, ...]) -> None:
    if x.dtype == np.uint8:
        return
    finite = np.isfinite(x)
    if finite.all():
        return
    if len(features) == x.shape[1] and x.ndim == 2:
        good: list[bool] = np.logical_and.reduce(finite, axis=0).tolist()
        bad = [name for name, fine in zip(features, good, strict=True) if not fine]
    else:
        bad = list(features)
    raise DataError(
        f"missing, NaN or infinite values in {', '.join(bad)}; fill or remove them at the site, or leave the "
        "columns out of task.features",
        detail=f"{int((~finite).sum())} such values",
    )


def _target(table: pa.Table, name: str) -> NDArray:
    import pyarrow as pa

    column = table.column(name)
    if column.null_count:
        raise DataError(f"the target {name!r} has missing values; remove those rows at the site")
    if isinstance(column.type, pa.FixedShapeTensorType):
        masks: NDArray = column.combine_chunks().to_numpy_ndarray()
        return masks
    values: NDArray = column.to_numpy()
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError(f"the target {name!r} has NaN or infinite values; remove those rows at the site")
    return values


def _groups(table: pa.Table, row_id: str | None) -> NDArray:
    if row_id is None:
        return np.arange(table.num_rows, dtype=np.int64)
    if table.column(row_id).null_count:
        raise DataError(f"the row id {row_id!r} has missing values; every row needs one")
    ids = [str(value).encode() for value in table.column(row_id).to_pylist()]
    hashed = [int.from_bytes(hashlib.blake2b(i, digest_size=8).digest(), "big") >> 1 for i in ids]
    return np.asarray(hashed, dtype=np.int64)


def classes_of(target: NDArray, name: str) -> list[int | float | str]:
    """The distinct values of a class target, sorted.

    Raises:
        DataError: More than 1,000 of them, or nearly one per row: that is no class, and the distinct values
            of a class target leave the site.
    """
    if target.ndim > 1:
        raise DataError(f"the target {name!r} holds images or masks; a class is one value for each row")
    values = np.unique(target)
    if len(values) > MOST_CLASSES:
        raise DataError(
            f"the target {name!r} has more than {MOST_CLASSES} distinct values; a class has fewer; "
            "choose another target or a task for numbers"
        )
    if len(values) > FEW_CLASSES and 2 * len(values) > len(target):
        raise DataError(
            f"the target {name!r} differs in nearly every row: it names rows, it is not a class; "
            "choose another target"
        )
    return [plain_label(value) for value in values]


def plain_label(value: Any) -> int | float | str:
    """A label as it stands in a schema: a whole number, a number or a text."""
    plain = value.item() if hasattr(value, "item") else value
    if isinstance(plain, bool):
        return int(plain)
    return plain if isinstance(plain, int | float | str) else str(plain)


def split(rows: Rows, share: float, stratify: bool, *seed: str | int) -> tuple[NDArray, NDArray]:
    """Which rows train and which validate, the same in every round and on every engine.

    Args:
        rows: The site's rows.
        share: Of groups that validate, in [0, 1).
        stratify: Take the share within each class (by the class of a group's first row).
        seed: Parts of the seed.

    Returns:
        Row numbers to train on, row numbers to validate on; int64, ascending. Each class with two groups or
        more has at least one on each side when the share is positive.
    """
    groups, first, inverse = np.unique(rows.groups, return_index=True, return_inverse=True)
    strata = np.zeros(len(groups), dtype=np.int64)
    if stratify and rows.target is not None:
        _, strata = np.unique(rows.target[first], return_inverse=True)
    order = np.random.default_rng(derive_seed(*seed)).permutation(len(groups))
    validates = np.zeros(len(groups), dtype=bool)
    for stratum in np.unique(strata):
        members = order[strata[order] == stratum]
        count = round(share * len(members))
        if share > 0 and len(members) > 1:
            count = min(max(count, 1), len(members) - 1)
        validates[members[:count]] = True
    chosen = validates[inverse]
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def encode(rows: Rows, schema: Schema, classification: bool, at: NDArray) -> Examples:
    """Scale features and index classes by the agreed schema.

    Args:
        rows: The site's rows.
        schema: As agreed by all participants.
        classification: Whether the target is a class.
        at: Row numbers to take.
    """
    x = rows.x[at]
    if schema.mean:
        x = ((x - np.asarray(schema.mean)) / np.asarray(schema.scale)).astype(np.float32)
    if rows.target is None:
        y: NDArray = np.empty(0, dtype=np.float32)
    elif classification:
        index = {label: i for i, label in enumerate(schema.classes)}
        labels = [plain_label(value) for value in rows.target[at]]
        unknown = [label for label in labels if label not in index]
        if unknown:
            raise DataError(
                "the target has classes that were not there when the run was prepared; start a new run"
            )
        y = np.asarray([index[label] for label in labels], dtype=np.int64)
    elif rows.target.ndim > 1:
        y = rows.target[at]
    else:
        y = rows.target[at].astype(np.float32)
    return Examples(torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(y))


@dataclass
class Examples:
    """Encoded rows, resident on a device; rows that would fill a GPU stay in the machine's memory.

    Args:
        x: `[n, ...]` float32, or uint8 for images, which become float32 in [0, 1] batch by batch.
        y: `[n]` int64 or float32, or masks `[n, height, width]` uint8, or `[0]`.
        elsewhere: Device that batches are copied to; None where the rows are on it.
    """

    x: torch.Tensor
    y: torch.Tensor
    elsewhere: torch.device | None = None

    def __len__(self) -> int:
        return int(self.x.shape[0])

    @property
    def device(self) -> torch.device:
        """Where batches are."""
        return self.elsewhere or self.x.device

    def to(self, device: torch.device) -> Examples:
        """The same rows for a device; self when they are there."""
        if self.device == device:
            return self
        size = sum(each.element_size() * each.nelement() for each in (self.x, self.y))
        if self.x.device.type == "cpu" and not fits(size, device):
            return Examples(self.x, self.y, device)
        return Examples(self.x.to(device), self.y.to(device))

    def batch(self, at: torch.Tensor) -> Batch:
        """Some rows.

        Args:
            at: Row numbers, int64.
        """
        x, y = self._take(self.x, self.y, at.to(self.x.device))
        return _batch(x.to(self.device), y.to(self.device))

    def batches(
        self, size: int, order: torch.Tensor | None = None, keep_two: bool = False
    ) -> Iterator[Batch]:
        """Batches of `size` rows.

        Args:
            size: Rows per batch; the last may be smaller.
            order: Row numbers `[n]` int64; as stored when None.
            keep_two: Merge a last batch of one row into the one before (batch normalisation needs two).
        """
        pairs = self._pairs(size, order, keep_two)
        for x, y in pairs if self.elsewhere is None else uploaded(pairs, self.elsewhere):
            yield _batch(x, y)

    def _pairs(
        self, size: int, order: torch.Tensor | None, keep_two: bool
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        rows = len(self)
        whole = self.x.element_size() * self.x.nelement() <= GATHER_AT_ONCE
        x, y = self.x, self.y
        if order is not None:
            order = order.to(x.device)
            if whole:
                (x, y), order = self._take(x, y, order), None
        start = 0
        while start < rows:
            stop = min(start + size, rows)
            if keep_two and rows - stop == 1:
                stop = rows
            if order is None:
                yield x[start:stop], y[start:stop]
            else:
                yield self._take(x, y, order[start:stop])
            start = stop

    @staticmethod
    def _take(x: torch.Tensor, y: torch.Tensor, at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x[at], y[at] if len(y) else y


def _batch(x: torch.Tensor, y: torch.Tensor) -> Batch:
    return Batch(x.float().div_(255) if x.dtype == torch.uint8 else x, y)
