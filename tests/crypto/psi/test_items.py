"""Keys of items against the encoding in plain Python and hashlib."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.kernels import text
from crypto.psi import items
from crypto.psi.items import ItemError, ItemRules, keys_of, kinds_of
from crypto.psi.spans import fixed
from tests.crypto.psi.items_reference import encoding, key

PLAIN = ItemRules()
RULES = st.builds(ItemRules, *[st.booleans()] * 5)
VECTORS = json.loads((Path(__file__).parent / "vectors" / "items.json").read_text())
DATES = st.dates(date(1, 1, 1), date(9999, 12, 31))


def digests(columns: Sequence[pa.Array | pa.ChunkedArray], rules: ItemRules = PLAIN) -> list[bytes | None]:
    """The key of each row, None for a row that was left out."""
    keys = keys_of(columns, rules)
    found: list[bytes | None] = [None] * len(columns[0])
    for block, row in zip(keys.blocks, keys.rows.tolist(), strict=True):
        found[row] = block.astype("<u8").tobytes()
    assert keys.nulls == found.count(None)
    return found


def expected(columns: Sequence[Sequence[Any]], rules: ItemRules = PLAIN) -> list[bytes | None]:
    return [None if None in row else key(row, rules) for row in zip(*columns, strict=True)]


def maybe(values: st.SearchStrategy[Any], count: int = 40) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.none() | values, max_size=count)


# ---- text


@settings(deadline=None, max_examples=300)
@given(values=maybe(st.text() | st.text("aAzZ09 \t\x1c\x0b_")), rules=RULES)
def test_text_equals_the_reference(values: list[str | None], rules: ItemRules) -> None:
    made = expected([values], rules)
    for kind in (pa.string(), pa.large_string(), pa.string_view()):
        assert digests([pa.array(values, kind)], rules) == made


@settings(deadline=None)
@given(
    values=maybe(st.text(max_size=100)),
    cuts=st.lists(st.integers(0, 40), max_size=5),
    before=st.integers(0, 9),
    rules=RULES,
)
def test_chunks_slices_and_dictionaries_change_nothing(
    values: list[str | None], cuts: list[int], before: int, rules: ItemRules
) -> None:
    made = expected([values], rules)
    padded = pa.array([*(["ignored é"] * before), *values, "behind"], pa.string())
    sliced = padded.slice(before, len(values))
    places = sorted({0, len(values), *(min(cut, len(values)) for cut in cuts)})
    chunked = pa.chunked_array([sliced.slice(a, b - a) for a, b in pairwise(places)], pa.string())
    assert digests([sliced], rules) == made
    assert digests([chunked], rules) == made
    assert digests([sliced.dictionary_encode()], rules) == made
    assert digests([chunked.dictionary_encode()], rules) == made
    both = expected([values, values], rules)
    assert digests([chunked, sliced], rules) == both


def test_nulls_inside_a_dictionary_are_nulls() -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 0]), pa.array(["a", None]))
    assert digests([column]) == expected([["a", None, None, "a"]])


def test_text_that_null_rows_hide_is_not_looked_at() -> None:
    offsets, data = np.array([0, 1, 3, 4], dtype=np.int32), b"a\xff\xffb"
    valid = pa.py_buffer(np.packbits([1, 0, 1], bitorder="little").tobytes())
    column = pa.Array.from_buffers(pa.string(), 3, [valid, pa.py_buffer(offsets), pa.py_buffer(data)])
    assert digests([column]) == expected([["a", None, "b"]])


def test_forms_of_one_text_are_one_item_and_case_and_space_count_unless_the_rules_say_so() -> None:
    same = [("ＡＢ１", "AB1"), ("e\u0301", "é"), ("ﬁ", "fi"), ("①", "1")]
    for first, second in same:
        assert len(set(digests([pa.array([first, second])]))) == 1
        assert len(set(digests([pa.array([first, second])], ItemRules(normalize=False)))) == 2
    for rules, pair in (
        (ItemRules(fold_case=True), ("Straße", "STRASSE")),
        (ItemRules(trim=True), ("　a\n", "a")),
    ):
        assert len(set(digests([pa.array(pair)]))) == 2
        assert len(set(digests([pa.array(pair)], rules))) == 1


def test_more_rows_than_are_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "_AT_ONCE", 64)
    values = [None if i % 17 == 0 else f"klient {i} {'é' * (i % 3)}" for i in range(1000)]
    chunked = pa.chunked_array([values[:100], values[100:101], values[101:]])
    numbers = list(range(1000))
    assert digests([chunked]) == expected([values])
    assert digests([pa.array(numbers), chunked]) == expected([numbers, values])


def test_text_that_is_not_utf8_is_refused_with_a_count_and_passes_as_bytes() -> None:
    raw = pa.array([b"a\xff", b"ok", b"\xc3"], pa.binary())
    as_text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    with pytest.raises(ItemError, match="2 values of a key column of text are not UTF-8") as refused:
        keys_of([as_text], PLAIN)
    assert "\\xff" not in str(refused.value)
    assert digests([raw]) == expected([raw.to_pylist()])


# ---- bytes, numbers, booleans, dates and times


@settings(deadline=None)
@given(values=maybe(st.binary(max_size=150)), rules=RULES)
def test_bytes_are_hashed_as_they_are(values: list[bytes | None], rules: ItemRules) -> None:
    made = expected([values], rules)
    for kind in (pa.binary(), pa.large_binary(), pa.binary_view()):
        assert digests([pa.array(values, kind)], rules) == made


@settings(deadline=None)
@given(values=maybe(st.binary(min_size=5, max_size=5)))
def test_bytes_of_fixed_width_equal_other_bytes(values: list[bytes | None]) -> None:
    column = pa.array([b"-----", *values], pa.binary(5)).slice(1)
    assert digests([column]) == expected([values])


def test_uuids_are_their_sixteen_bytes() -> None:
    values = [uuid.UUID(int=i**20) for i in range(5)]
    column = pa.array([value.bytes for value in values], pa.uuid())
    assert digests([column]) == expected([[value.bytes for value in values]])


def test_integers_beside_every_power_of_ten_are_their_values() -> None:
    values = [10**power + by for power in range(19) for by in (-1, 0, 1)]
    columns = [pa.array(values, pa.int64()), pa.array([-value for value in values], pa.int64())]
    for column in columns:
        assert digests([column]) == expected([column.to_pylist()])


@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_integers_of_every_width_at_their_bounds_are_their_values(kind: str) -> None:
    bounds = np.iinfo(kind)
    values = [bounds.min, bounds.min + 1, 0, 1, 9, 10, 99, 100, bounds.max - 1, bounds.max, None]
    column = pa.array([3, *values], kind).slice(1)
    assert digests([column]) == expected([values])


@settings(deadline=None)
@given(values=maybe(st.integers(-(2**63), 2**63 - 1)), as_text=st.booleans())
def test_integers_equal_the_reference_and_decimals_of_the_same_value(
    values: list[int | None], as_text: bool
) -> None:
    rules = ItemRules(numbers_as_text=as_text)
    made = expected([values], rules)
    assert digests([pa.array(values, pa.int64())], rules) == made
    assert digests([pa.array(values, pa.decimal128(25, 3))], rules) == made
    if as_text:
        words = [None if value is None else str(value) for value in values]
        assert digests([pa.array(words, pa.string())], rules) == made


@pytest.mark.parametrize(
    "kind",
    [
        pa.decimal128(38, 5),
        pa.decimal128(38, 30),
        pa.decimal128(30, -2),
        pa.decimal256(60, 18),
        pa.decimal32(9, 4),
    ],
)
@settings(deadline=None)
@given(wholes=maybe(st.integers(-(10**9) + 1, 10**9 - 1) | st.sampled_from([0, 10, -100, 120000])))
def test_decimals_of_every_width_and_scale_are_their_values(
    kind: pa.DataType, wholes: list[int | None]
) -> None:
    values = [None if whole is None else Decimal(whole).scaleb(-kind.scale) for whole in wholes]
    assert digests([pa.array(values, kind)]) == expected([values])


def test_decimals_of_more_than_64_bits_beside_small_ones() -> None:
    values = [Decimal(2**64), Decimal(-(2**63)) - 1, Decimal("-0.50"), Decimal("7"), None, Decimal("0.00")]
    assert digests([pa.array(values, pa.decimal128(30, 2))]) == expected([values])


@settings(deadline=None)
@given(values=maybe(st.booleans()), skip=st.integers(0, 12))
def test_booleans_equal_the_reference(values: list[bool | None], skip: int) -> None:
    column = pa.array([True] * skip + values, pa.bool_()).slice(skip)
    assert digests([column]) == expected([values])


@settings(deadline=None)
@given(values=maybe(DATES), as_text=st.booleans())
def test_dates_are_their_iso_text(values: list[date | None], as_text: bool) -> None:
    rules = ItemRules(dates_as_text=as_text)
    made = expected([values], rules)
    assert digests([pa.array(values, pa.date32())], rules) == made
    assert digests([pa.array(values, pa.date64())], rules) == made


def test_dates_outside_python_s_calendar_have_long_years_and_signs() -> None:
    days = np.array([-(2**31), 2**31 - 1, -719529, -719528, 2932897], dtype=np.int64)
    data, starts = np.empty(len(days) * text.DATE_SLOT, np.uint8), np.empty(len(days), np.int64)
    text.write_dates(fixed(days), data, starts)
    found = [
        data[start : (i + 1) * text.DATE_SLOT].tobytes().decode() for i, start in enumerate(starts.tolist())
    ]
    assert found == ["-5877641-06-23", "5881580-07-11", "-0001-12-31", "0000-01-01", "10000-01-01"]


@settings(deadline=None)
@given(values=maybe(st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1))))
def test_timestamps_do_not_hang_on_unit_or_name_of_the_zone(values: list[datetime | None]) -> None:
    made = expected([values])
    assert digests([pa.array(values, pa.timestamp("us"))]) == made
    assert digests([pa.array(values, pa.timestamp("ns"))]) == made
    zoned = [None if value is None else value.replace(tzinfo=UTC) for value in values]
    made = expected([zoned])
    assert digests([pa.array(zoned, pa.timestamp("us", "UTC"))]) == made
    assert digests([pa.array(zoned, pa.timestamp("us", "Asia/Shanghai"))]) == made


@settings(deadline=None)
@given(values=maybe(st.times()))
def test_times_of_day_do_not_hang_on_the_unit(values: list[time | None]) -> None:
    assert digests([pa.array(values, pa.time64("us"))]) == expected([values])
    seconds = [None if value is None else value.replace(microsecond=0) for value in values]
    made = expected([seconds])
    for kind in (pa.time32("s"), pa.time32("ms"), pa.time64("ns")):
        assert digests([pa.array(seconds, kind)]) == made


def test_values_of_different_types_never_match_unless_the_rules_say_so() -> None:
    day = date(2026, 1, 31)
    columns = [
        pa.array([v]) for v in ("1", 1, b"1", True, day, datetime(2026, 1, 31), time(0, 0, 1), "2026-01-31")
    ]
    columns += [pa.array([datetime(2026, 1, 31, tzinfo=UTC)])]
    found = [digests([column])[0] for column in columns]
    assert len(set(found)) == len(found)
    rules = ItemRules(numbers_as_text=True, dates_as_text=True)
    found = [digests([column], rules)[0] for column in columns]
    same = {(i, j) for i, j in combinations(range(len(found)), 2) if found[i] == found[j]}
    assert same == {(0, 1), (4, 7)}


# ---- composite keys and nulls


@settings(deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.none() | st.text(max_size=70),
            st.none() | st.integers(-(2**63), 2**63 - 1),
            st.none() | st.binary(max_size=70),
            st.none() | DATES,
        ),
        max_size=40,
    ),
    rules=RULES,
    count=st.integers(1, 4),
)
def test_composite_keys_equal_the_reference(
    rows: list[tuple[Any, ...]], rules: ItemRules, count: int
) -> None:
    kinds = [pa.string(), pa.int64(), pa.binary(), pa.date32()][:count]
    values = [[row[i] for row in rows] for i in range(count)]
    columns = [pa.array(column, kind) for column, kind in zip(values, kinds, strict=True)]
    assert digests(columns, rules) == expected(values, rules)


@settings(deadline=None)
@given(
    first=st.lists(st.text("ab\x00|,", max_size=4), min_size=1, max_size=4),
    second=st.lists(st.text("ab\x00|,", max_size=4), min_size=1, max_size=4),
)
def test_encodings_of_different_rows_differ_wherever_columns_end(first: list[str], second: list[str]) -> None:
    keys = [digests([pa.array([value]) for value in row])[0] for row in (first, second)]
    assert (keys[0] == keys[1]) == (first == second)
    assert (encoding(tuple(first), PLAIN) == encoding(tuple(second), PLAIN)) == (first == second)


def test_columns_of_a_key_have_an_order() -> None:
    a, b = pa.array(["x"]), pa.array(["y"])
    assert digests([a, b]) != digests([b, a])


def test_a_null_in_any_column_leaves_the_row_out_and_is_counted_once() -> None:
    keys = keys_of([pa.array(["a", None, "c", None]), pa.array([1, 2, None, None])], PLAIN, first_row=100)
    assert keys.rows.tolist() == [100]
    assert keys.nulls == 3
    assert repr(keys) == "Keys(1 rows, nulls=3)"


def test_a_column_of_nulls_alone_has_no_key() -> None:
    assert digests([pa.nulls(70)]) == [None] * 70
    assert keys_of([pa.nulls(3), pa.array(["a", "b", "c"])], PLAIN).nulls == 3


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.int32(), pa.bool_(), pa.date64(), pa.binary(3), pa.decimal128(5)]
)
def test_no_rows_give_no_keys(kind: pa.DataType) -> None:
    for column in (pa.array([], kind), pa.chunked_array([], kind), pa.chunked_array([[], []], kind)):
        keys = keys_of([column, column], PLAIN)
        assert keys.blocks.shape == (0, 2) and keys.rows.shape == (0,) and keys.nulls == 0


# ---- refusals, rules and vectors


def test_floats_are_refused_with_the_reason_and_the_cure() -> None:
    with pytest.raises(
        ItemError, match=r"double is refused.*2\^53.*cast it to an integer, a decimal or text"
    ):
        keys_of([pa.array([1.0])], PLAIN)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([], "a key of 0 columns; it has 1 to 64"),
        ([pa.array(["a"])] * 65, "a key of 65 columns"),
        ([pa.array(["a"]), pa.array(["a", "b"])], "key columns of 1, 2 rows"),
        ([pa.array([[1]])], "type list<item: int64> is refused; allowed: text, integers"),
        ([pa.array([1], pa.duration("s"))], r"type duration\[s\] is refused"),
        ([pa.array([1, 86_400_000], pa.int64()).view(pa.date64())], "1 values of a date64 key column"),
    ],
)
def test_columns_that_cannot_be_keys_are_refused(columns: list[pa.Array], message: str) -> None:
    with pytest.raises(ItemError, match=message):
        keys_of(columns, PLAIN)


def test_kinds_tell_two_sides_why_nothing_would_match() -> None:
    left = [pa.int32(), pa.string(), pa.date32()]
    right = [pa.string(), pa.dictionary(pa.int32(), pa.large_string()), pa.string_view()]
    assert kinds_of(left, PLAIN) == ("number", "text", "date")
    rules = ItemRules(numbers_as_text=True, dates_as_text=True)
    assert kinds_of(left, rules) == kinds_of(right, rules) == ("text", "text", "text")


def test_every_rule_changes_the_digest_of_the_rules() -> None:
    every = [ItemRules(), ItemRules(True), ItemRules(False, True), ItemRules(numbers_as_text=True)]
    every += [ItemRules(normalize=False), ItemRules(dates_as_text=True)]
    assert len({rules.digest() for rules in every}) == len(every)
    assert ItemRules().canonical() == (
        '{"dates_as_text":false,"encoding":1,"fold_case":false,"normalize":true,"numbers_as_text":false,"trim":false}'
    )


def column_of(kind: str, values: list[Any]) -> pa.Array:
    if kind == "binary":
        return pa.array([None if value is None else bytes.fromhex(value) for value in values], pa.binary())
    if kind.startswith("decimal"):
        return pa.array([None if value is None else Decimal(value) for value in values], pa.decimal128(20, 4))
    return pa.array(values, pa.string()).cast(kind) if kind == "date32" else pa.array(values, kind)


@pytest.mark.parametrize("vector", VECTORS["good"], ids=lambda vector: vector["name"])
def test_good_vectors_have_the_keys_written_down(vector: dict[str, Any]) -> None:
    rules = ItemRules(**vector["rules"])
    found = digests([column_of(each["type"], each["values"]) for each in vector["columns"]], rules)
    assert [None if each is None else each.hex() for each in found] == vector["keys"]


@pytest.mark.parametrize("vector", VECTORS["bad"], ids=lambda vector: vector["name"])
def test_bad_vectors_are_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(ItemError, match=vector["message"]):
        keys_of([column_of(each["type"], each["values"]) for each in vector["columns"]], PLAIN)
