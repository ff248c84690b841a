"""One key column as canonical bytes: a span of a buffer for each row, read from Arrow's own buffers.

Text that is ASCII, bytes and numbers go through compiled kernels without an object a row; text beyond ASCII goes
through Python's Unicode functions, those rows only. `crypto.psi.items` has the rules in words.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from crypto.kernels import text

if TYPE_CHECKING:
    from crypto.psi.items import ItemRules

Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]

TEXT, NUMBER, BYTES, TRUTH = b"s", b"n", b"b", b"t"
DATE, TIME, INSTANT, LOCAL, NULL = b"d", b"c", b"m", b"w", b"0"

KINDS = {
    TEXT: "text",
    NUMBER: "number",
    BYTES: "bytes",
    TRUTH: "boolean",
    DATE: "date",
    TIME: "time of day",
    INSTANT: "timestamp with time zone",
    LOCAL: "timestamp without time zone",
    NULL: "null",
}
"""The type byte of an encoded column, and what it is called between people and in the handshake."""

_SCALES = {"s": 0, "ms": 3, "us": 6, "ns": 9}
_KERNEL_DIGITS = 18


class ItemError(ValueError):
    """Columns that cannot be keys; the message holds no value of theirs."""


@dataclass(frozen=True)
class Spans:
    """Rows of one column, in canonical form.

    Args:
        kind: Type byte.
        data: uint8.
        starts, ends: (n,) int64 in `data`; of a null row, anything.
    """

    kind: bytes
    data: UInt8
    starts: Int64
    ends: Int64

    def at(self, rows: Int64) -> Spans:
        """Some of the rows."""
        return replace(self, starts=self.starts[rows], ends=self.ends[rows])


def kind_of(column: pa.DataType, rules: ItemRules) -> bytes:
    """The type byte that a column of this type is encoded with.

    Raises:
        ItemError: A type that has no canonical form.
    """
    kind = _plain_kind(column)
    if (kind == NUMBER and rules.numbers_as_text) or (kind == DATE and rules.dates_as_text):
        return TEXT
    return kind


def _plain_kind(column: pa.DataType) -> bytes:
    of = pa.types
    if of.is_dictionary(column):
        return _plain_kind(column.value_type)
    if of.is_string(column) or of.is_large_string(column) or of.is_string_view(column):
        return TEXT
    if of.is_integer(column) or of.is_decimal(column):
        return NUMBER
    if of.is_binary(column) or of.is_large_binary(column) or of.is_binary_view(column):
        return BYTES
    if of.is_fixed_size_binary(column) or isinstance(column, pa.UuidType):
        return BYTES
    if of.is_boolean(column):
        return TRUTH
    if of.is_date(column):
        return DATE
    if of.is_time(column):
        return TIME
    if of.is_timestamp(column):
        return LOCAL if column.tz is None else INSTANT
    if of.is_null(column):
        return NULL
    if of.is_floating(column):
        raise ItemError(
            f"a key column of type {column} is refused: two systems round and write the same fraction in "
            "different ways, and whole numbers above 2^53 are rounded already; cast it to an integer, a decimal "
            "or text where the data comes from"
        )
    raise ItemError(
        f"a key column of type {column} is refused; allowed: text, integers, decimals, bytes, booleans, dates, "
        "times and timestamps"
    )


def plain(column: pa.Array) -> pa.Array:
    """The same values in one of Arrow's plain layouts: no dictionary, no views, no extension."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if isinstance(column.type, pa.UuidType):
        column = column.storage
    if pa.types.is_string_view(column.type):
        return column.cast(pa.large_string())
    if pa.types.is_binary_view(column.type):
        return column.cast(pa.large_binary())
    return column


def validity(column: pa.Array) -> npt.NDArray[np.bool_] | None:
    """Which rows are not null, (n,) bool; None when all are. The column is plain."""
    if pa.types.is_null(column.type):
        return np.zeros(len(column), dtype=np.bool_)
    if column.null_count == 0:
        return None
    return _bits(column.buffers()[0], column.offset, len(column)).view(np.bool_)


def spans_of(column: pa.Array, rules: ItemRules) -> Spans:
    """A column's rows in canonical form.

    Args:
        column: Plain; what stands for a null row means nothing.
        rules: Of both sides.

    Raises:
        ItemError: A type that has no canonical form, text that is not UTF-8, days with a time in them.
    """
    kind = kind_of(column.type, rules)
    of = pa.types
    if of.is_string(column.type) or of.is_large_string(column.type):
        return _text(column, rules)
    if of.is_binary(column.type) or of.is_large_binary(column.type):
        return Spans(kind, *_offsets(column))
    if of.is_fixed_size_binary(column.type):
        width = column.type.byte_width
        starts = np.arange(column.offset, column.offset + len(column), dtype=np.int64) * width
        return Spans(kind, _bytes(column.buffers()[1]), starts, starts + width)
    if of.is_boolean(column.type):
        ones = _bits(column.buffers()[1], column.offset, len(column)).astype(np.int64)
        return Spans(kind, np.frombuffer(b"01", dtype=np.uint8), ones, ones + 1)
    if of.is_date(column.type):
        return _dates(kind, column)
    if of.is_decimal(column.type):
        return _decimals(kind, column)
    if of.is_null(column.type):
        nothing = np.zeros(len(column), dtype=np.int64)
        return Spans(kind, np.empty(0, dtype=np.uint8), nothing, nothing)
    scale = 0 if of.is_integer(column.type) else _SCALES[column.type.unit]
    return _numbers(kind, _values(column), not of.is_uint64(column.type), scale)


# ---- numbers, dates and times


def _values(column: pa.Array) -> Int64:
    """The values of a column of fixed width as int64, or the bits of uint64; of null rows, anything."""
    if pa.types.is_integer(column.type):
        kind = np.dtype(column.type.to_pandas_dtype())
    else:
        kind = np.dtype(f"<i{column.type.bit_width // 8}")
    stored = np.frombuffer(column.buffers()[1] or b"", dtype=kind)
    stored = stored[column.offset : column.offset + len(column)]
    return stored.view(np.int64) if kind.itemsize == 8 else stored.astype(np.int64)


def _numbers(kind: bytes, values: Int64, signed: bool, scale: int) -> Spans:
    slot = text.NUMBER_SLOT
    data = np.empty(len(values) * slot, dtype=np.uint8)
    starts = np.empty(len(values), dtype=np.int64)
    text.write_numbers(fixed(values), signed, scale, data, starts)
    return Spans(kind, data, starts, np.arange(slot, data.size + 1, slot, dtype=np.int64))


def _dates(kind: bytes, column: pa.Array) -> Spans:
    days = _values(column)
    if pa.types.is_date64(column.type):
        days, rest = np.divmod(days, 86_400_000)
        valid = validity(column)
        wrong = int(np.count_nonzero(rest if valid is None else rest[valid]))
        if wrong:
            raise ItemError(f"{wrong} values of a date64 key column are not whole days; cast it to timestamp")
    slot = text.DATE_SLOT
    data = np.empty(len(days) * slot, dtype=np.uint8)
    starts = np.empty(len(days), dtype=np.int64)
    text.write_dates(fixed(days), data, starts)
    return Spans(kind, data, starts, np.arange(slot, data.size + 1, slot, dtype=np.int64))


def _decimals(kind: bytes, column: pa.Array) -> Spans:
    scale = column.type.scale
    if column.type.bit_width < 128:
        column = column.cast(pa.decimal128(column.type.precision, scale))
    if column.type.bit_width == 128 and 0 <= scale <= _KERNEL_DIGITS:
        words = np.frombuffer(column.buffers()[1] or b"", dtype="<i8").reshape(-1, 2)
        words = words[column.offset : column.offset + len(column)]
        low = np.ascontiguousarray(words[:, 0])
        valid = validity(column)
        fits = words[:, 1] == low >> 63
        if (fits if valid is None else fits[valid]).all():
            return _numbers(kind, low, True, scale)
    return _written(kind, [_decimal(value) for value in column.to_pylist()])


def _decimal(value: Decimal | None) -> bytes:
    if value is None:
        return b""
    # Not `normalize`, which rounds to the context's digits.
    digits = f"{value:f}"
    if "." in digits:
        digits = digits.rstrip("0").rstrip(".")
    return b"0" if digits == "-0" else digits.encode()


def _written(kind: bytes, values: list[bytes]) -> Spans:
    ends = np.cumsum([len(value) for value in values], dtype=np.int64)
    starts = np.concatenate([np.zeros(1, dtype=np.int64), ends])[:-1]
    return Spans(kind, np.frombuffer(b"".join(values), dtype=np.uint8), starts, ends)


# ---- text


def _text(column: pa.Array, rules: ItemRules) -> Spans:
    data, starts, ends = _offsets(column)
    if not (rules.normalize or rules.trim or rules.fold_case) or not len(column):
        return Spans(TEXT, data, starts, ends)
    data, starts, ends = (fixed(array) for array in (data, starts, ends))
    beyond = np.empty(0, dtype=np.int64)
    if not text.is_ascii(data, starts[0], ends[-1]):
        marks = np.empty(len(starts), dtype=np.bool_)
        text.mark_other(data, starts, ends, marks)
        valid = validity(column)
        beyond = np.flatnonzero(marks if valid is None else marks & valid)
    rewritten = _written(TEXT, _folded(data, starts[beyond], ends[beyond], rules)) if len(beyond) else None
    if rules.fold_case:
        small = np.empty(ends[-1] - starts[0], dtype=np.uint8)
        text.to_small(data[starts[0] : ends[-1]], small)
        data, starts, ends = small, starts - starts[0], ends - starts[0]
    if rules.trim:
        trimmed = np.empty_like(starts), np.empty_like(ends)
        text.trim(fixed(data), fixed(starts), fixed(ends), *trimmed)
        starts, ends = trimmed
    if rewritten is not None:
        starts, ends = starts.copy(), ends.copy()
        first = int(starts.min())
        kept = data[first : int(ends.max())]
        starts -= first
        ends -= first
        starts[beyond] = rewritten.starts + len(kept)
        ends[beyond] = rewritten.ends + len(kept)
        data = np.concatenate([kept, rewritten.data])
    return Spans(TEXT, data, starts, ends)


def _folded(data: UInt8, starts: Int64, ends: Int64, rules: ItemRules) -> list[bytes]:
    raw = data.data
    found: list[bytes] = []
    wrong = 0
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        try:
            found.append(folded(str(raw[start:end], "utf-8"), rules).encode())
        except UnicodeDecodeError:
            wrong += 1
    if wrong:
        raise ItemError(
            f"{wrong} values of a key column of text are not UTF-8; read the column as binary at both sides, or "
            "with its right encoding"
        )
    return found


def folded(value: str, rules: ItemRules) -> str:
    """One text in canonical form: NFKC, case folding, NFKC again (folding can undo it), trimming."""
    if rules.normalize:
        value = unicodedata.normalize("NFKC", value)
    if rules.fold_case:
        value = value.casefold()
        if rules.normalize:
            value = unicodedata.normalize("NFKC", value)
    return value.strip() if rules.trim else value


# ---- Arrow's buffers


def fixed(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A view that cannot be written: the kernels are compiled for these alone."""
    view = array.view()
    view.flags.writeable = False
    return view


def _bytes(buffer: pa.Buffer | None) -> UInt8:
    return np.frombuffer(buffer, dtype=np.uint8) if buffer else np.empty(0, dtype=np.uint8)


def _bits(buffer: pa.Buffer, first: int, count: int) -> UInt8:
    skip = first // 8
    packed = _bytes(buffer)[skip : (first + count + 7) // 8]
    return np.unpackbits(packed, bitorder="little")[first - 8 * skip :][:count]


def _offsets(column: pa.Array) -> tuple[UInt8, Int64, Int64]:
    _, offsets, data = column.buffers()
    wide = pa.types.is_large_string(column.type) or pa.types.is_large_binary(column.type)
    stored = np.frombuffer(offsets or b"", dtype="<i8" if wide else "<i4")
    places = stored[column.offset : column.offset + len(column) + 1].astype(np.int64, copy=False)
    if not len(column):
        places = np.zeros(1, dtype=np.int64)
    return _bytes(data), places[:-1], places[1:]
