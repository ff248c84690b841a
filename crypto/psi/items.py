"""Items: the values of one or more columns as keys of 128 bits, equal at both sides exactly where the values are.

A row's key is BLAKE2s of its encoding, cut to 16 bytes:
`hashlib.blake2s(encoding, digest_size=16, person=b"fc-psi-1")`. The encoding is injective, so two different rows
have one key only where the hash collides: over all pairs of n_x and n_y distinct items, at most n_x n_y 2^-128.

    encoding = number of key columns (1 byte), then for each, in the order of the key:
               type (1 byte), length of the payload (4 bytes, little-endian), payload

    s  text        UTF-8, after Unicode NFKC, case folding and trimming as `ItemRules` says
    n  number      integers of any width and decimals, by value: decimal text without needless zeros, `-12.5`
    b  bytes       as they are (binary columns, UUIDs)
    t  boolean     `0` or `1`
    d  date        ISO 8601, `2026-01-31`
    c  time of day seconds since midnight, as a number
    m  timestamp with a time zone: seconds since 1970 UTC, as a number; the unit and the zone's name do not matter
    w  timestamp without a time zone: the same of its wall clock

Values of different types never match, so ("ab", "c") and ("a", "bc") differ, and the integer 1 and the text "1"
do unless the rules say otherwise. Floats are refused. A row with a null in any key column never matches; an empty
text is a value like any other. A key of one column has the number 1 in front, as a composite of one would.
White space is what Python's `str.strip` takes away.

Hashes of low-entropy values (telephone numbers) are found again by trying all of them: keys never leave a party
unprotected, they are the input of a protocol.

Source: RFC 7693 for BLAKE2s; Unicode Standard Annex 15 for NFKC, Unicode 5.18 for caseless matching.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from crypto.kernels import blake2s
from crypto.kernels.text import SLACK, append_spans
from crypto.psi.spans import KINDS, Int64, ItemError, Spans, fixed, kind_of, plain, spans_of, validity

__all__ = ["ENCODING", "ItemError", "ItemRules", "Keys", "keys_of", "kinds_of"]

Blocks = npt.NDArray[np.uint64]

ENCODING = 1
"""Version of the encoding; part of the rules that both sides compare."""
PERSON = b"fc-psi-1"
DIGEST_SIZE = 16
MOST_COLUMNS = 64
MOST_BYTES = 2**31
"""Bytes that the encoding of one row stays below."""

_AT_ONCE = 2**16  # rows, so that what stands between the buffers and the hash stays in the processor's cache


@dataclass(frozen=True)
class ItemRules:
    """What counts as the same item; both sides need the same.

    Args:
        trim: White space at both ends of a text does not count.
        fold_case: Capital and small letters are the same.
        numbers_as_text: A number is the text of its shortest decimal form: 7 is "7", not "007".
        normalize: Text is put in Unicode's form NFKC, so that full-width and composed letters are the same.
        dates_as_text: A date is its ISO 8601 text, "2026-01-31".
    """

    trim: bool = False
    fold_case: bool = False
    numbers_as_text: bool = False
    normalize: bool = True
    dates_as_text: bool = False

    def canonical(self) -> str:
        """The rules and the version of the encoding as JSON: keys sorted, no spaces, ASCII."""
        return json.dumps({"encoding": ENCODING, **asdict(self)}, sort_keys=True, separators=(",", ":"))

    def digest(self) -> bytes:
        """16 bytes that are equal where `canonical` is."""
        return hashlib.blake2s(self.canonical().encode(), digest_size=16, person=b"fc-rules").digest()


@dataclass(frozen=True)
class Keys:
    """Keys of the rows that can match.

    Args:
        blocks: (n, 2) uint64, little end first.
        rows: (n,) int64, ascending: which row each is of.
        nulls: Rows left out for a null in a key column.
    """

    blocks: Blocks
    rows: Int64
    nulls: int

    def __repr__(self) -> str:
        return f"Keys({len(self.rows)} rows, nulls={self.nulls})"


def kinds_of(types: Sequence[pa.DataType], rules: ItemRules) -> tuple[str, ...]:
    """What each key column is encoded as, in words: where two sides differ, nothing can match.

    Raises:
        ItemError: No column, too many, or a type that cannot be a key.
    """
    _some(len(types))
    return tuple(KINDS[kind_of(each, rules)] for each in types)


def keys_of(columns: Sequence[pa.Array | pa.ChunkedArray], rules: ItemRules, *, first_row: int = 0) -> Keys:
    """The keys of all rows without a null.

    Runs without the interpreter's lock but for text beyond ASCII, so threads may share the work by batches.

    Args:
        columns: The key's columns in its order, of equal length; chunks need not be the same.
        rules: Of both sides.
        first_row: Number of the first row, for a stream of batches.

    Raises:
        ItemError: No column, too many, of different lengths, of a type that cannot be a key, or with text that is
            not UTF-8; the message holds no value.
    """
    kinds_of([column.type for column in columns], rules)
    rows = len(columns[0])
    if any(len(column) != rows for column in columns):
        lengths = ", ".join(str(len(column)) for column in columns)
        raise ItemError(f"key columns of {lengths} rows; all need the same number")
    chain = fixed(blake2s.start(DIGEST_SIZE, PERSON))
    blocks = np.empty((rows, 2), dtype=np.uint64)
    numbers = np.empty(rows, dtype=np.int64)
    done = 0
    for first, parts in _aligned(columns):
        valid = _rows(parts)
        found = len(parts[0]) if valid is None else len(valid)
        spans = [spans_of(part, rules) for part in parts]
        if valid is not None:
            spans = [each.at(valid) for each in spans]
        out = blocks[done : done + found]
        if len(spans) == 1:
            _hash(chain, int.from_bytes(b"\1" + spans[0].kind, "little"), spans[0], out)
        else:
            _hash(chain, -1, _joined(spans), out)
        offset = first_row + first
        numbers[done : done + found] = np.arange(found) + offset if valid is None else valid + offset
        done += found
    if done < rows:
        blocks, numbers = blocks[:done].copy(), numbers[:done].copy()
    return Keys(blocks, numbers, rows - done)


def _some(columns: int) -> None:
    if not 1 <= columns <= MOST_COLUMNS:
        raise ItemError(f"a key of {columns} columns; it has 1 to {MOST_COLUMNS}")


def _aligned(columns: Sequence[pa.Array | pa.ChunkedArray]) -> Iterator[tuple[int, list[pa.Array]]]:
    """Stretches of rows that lie within one chunk of every column, with the number of their first row."""
    chunks = [column.chunks if isinstance(column, pa.ChunkedArray) else [column] for column in columns]
    cuts = {0, len(columns[0])}
    for each in chunks:
        at = 0
        for chunk in each:
            cuts.update(range(at, at + len(chunk), _AT_ONCE))
            at += len(chunk)
    places = sorted(cuts)
    current, begun = [0] * len(chunks), [0] * len(chunks)
    for first, end in pairwise(places):
        parts: list[pa.Array] = []
        for i, each in enumerate(chunks):
            while begun[i] + len(each[current[i]]) <= first:
                begun[i] += len(each[current[i]])
                current[i] += 1
            parts.append(plain(each[current[i]].slice(first - begun[i], end - first)))
        yield first, parts


def _rows(parts: list[pa.Array]) -> Int64 | None:
    """Rows without a null in any column; None for all."""
    masks = [mask for mask in map(validity, parts) if mask is not None]
    return np.flatnonzero(np.logical_and.reduce(masks)) if masks else None


def _hash(chain: npt.NDArray[np.uint32], head: int, spans: Spans, out: Blocks) -> None:
    longest = int((spans.ends - spans.starts).max(initial=0))
    if longest >= MOST_BYTES:
        raise ItemError(
            f"a key of {longest} bytes; it has at most {MOST_BYTES - 1}: no identifier is that long"
        )
    blake2s.hash_spans(chain, head, fixed(spans.data), fixed(spans.starts), fixed(spans.ends), out)


def _joined(spans: list[Spans]) -> Spans:
    """The encodings of rows of several columns."""
    lengths = np.full(len(spans[0].starts), 1, dtype=np.int64)
    for each in spans:
        lengths += 5 + each.ends - each.starts
    room = lengths + SLACK
    starts = np.cumsum(room) - room
    data = np.empty(int(room.sum()), dtype=np.uint8)
    data[starts] = len(spans)
    places = starts + 1
    for each in spans:
        append_spans(
            np.uint8(each.kind[0]), fixed(each.data), fixed(each.starts), fixed(each.ends), data, places
        )
    return Spans(b"", data, starts, places)
