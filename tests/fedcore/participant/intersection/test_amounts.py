"""Numbers that are added up: exact whatever they are written as, and refused where they are none."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.psi.items import ItemRules, keys_of
from crypto.psi.key_store import KeyStore
from crypto.psi.planted import planted
from fedcore.errors import DataError
from fedcore.participant.intersection.amounts import Columns, Table
from fedcore.participant.intersection.side import SumOf

MEMORY = 2**26


def table_of(values: Any, *, batches: int = 1, keyed: list[int] | None = None, **options: Any) -> Table:
    """The numbers of one column, taken in batches."""
    column = values if isinstance(values, pa.Array) else pa.array(values)
    columns = Columns(SumOf(("x",), "receiver", **options))
    size = -(-len(column) // batches) or 1
    for first in range(0, max(len(column), 1), size):
        part = column.slice(first, size)
        rows = np.arange(len(part)) if keyed is None else np.array(keyed, dtype=np.int64)
        columns.take(pa.record_batch({"x": part}), rows)
    return columns.table()


def shown(table: Table) -> list[Decimal]:
    return [Decimal(int(units)).scaleb(-table.amounts.scale) for units in table.units[:, 0]]


@pytest.mark.parametrize(
    ("values", "scale", "told"),
    [
        ([1, -2, 3], 0, [1, -2, 3]),
        ([0.1, 2.25, -3.0], 2, ["0.1", "2.25", "-3"]),
        (["12", " 12.50 ", "+1e2", ".5", "-0.0"], 1, ["12", "12.5", "100", "0.5", "0"]),
        (pa.array([Decimal("1.10"), Decimal("2.00")], pa.decimal128(10, 2)), 2, ["1.1", "2"]),
        (pa.array([1, 2], pa.uint64()), 0, [1, 2]),
        (pa.array([0.1, 2.5], pa.float32()), 17, None),
        ([], 0, []),
        ([2**63 - 1, -(2**63) + 1], 0, [2**63 - 1, -(2**63) + 1]),
    ],
)
def test_a_number_is_what_was_written(values: Any, scale: int, told: list[Any] | None) -> None:
    if told is None:
        # A float32 is not the decimal that was written: its digits as a float64 are what is taken.
        with pytest.raises(DataError, match="more than 2 digits"):
            table_of(values, scale=2)
        return
    if isinstance(values, list) and not values:
        values = pa.array([], pa.int64())
    table = table_of(values)
    assert table.amounts.scale == scale and shown(table) == [Decimal(each) for each in told]


def test_the_type_of_a_decimal_says_the_scale_and_not_its_values() -> None:
    assert table_of(pa.array([Decimal("1")], pa.decimal128(10, 4))).amounts.scale == 4


@given(
    rows=st.lists(
        st.tuples(st.integers(0, 6), st.decimals(-(10**6), 10**6, places=3, allow_nan=False)), max_size=30
    ),
    batches=st.integers(1, 4),
    as_text=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_what_a_key_adds_is_the_sum_of_its_rows(
    rows: list[tuple[int, Decimal]], batches: int, as_text: bool
) -> None:
    keys = pa.array([key for key, _ in rows], pa.int64())
    numbers: pa.Array = pa.array([number for _, number in rows], pa.decimal128(20, 3))
    table = table_of(numbers.cast(pa.string()) if as_text else numbers, batches=batches)
    store = KeyStore(MEMORY)
    found = keys_of([keys], ItemRules())
    store.add(found.blocks, found.rows)
    store.collapse()
    store.plant(planted(5, bytes(16)))
    added = table.of_items(store)
    wanted: dict[int, Decimal] = {}
    for key, number in rows:
        wanted[key] = wanted.get(key, Decimal(0)) + number
    real = added[added[:, 1] == 0, 0]
    scale = table.amounts.scale
    assert sorted(Decimal(int(units)).scaleb(-scale) for units in real) == sorted(wanted.values())
    assert added[:, 1].sum() == 5 and not added[added[:, 1] == 1, 0].any()


@pytest.mark.parametrize(
    ("values", "count", "first"),
    [
        ([1, None, 3, None], 2, 1),
        ([1.0, float("nan"), float("inf")], 2, 1),
        (["1", "1,5", "", "n/a", "0x10", "1_000", "٣", "9" * 65], 7, 1),
    ],
)
def test_rows_without_a_number_are_refused_with_their_count(values: Any, count: int, first: int) -> None:
    with pytest.raises(DataError) as caught:
        table_of(values)
    said = str(caught.value)
    assert f"column 'x': {count} of {len(values)} rows have no number" in said
    assert f"the first is row {first} from 0" in said and "n/a" not in said


def test_rows_without_a_key_need_no_number() -> None:
    assert shown(table_of([1, None, 3], keyed=[0, 2])) == [1, 0, 3]


def test_more_digits_than_the_scale_are_refused_and_not_rounded() -> None:
    with pytest.raises(DataError, match="1 of 2 rows have more than 1 digits after the point"):
        table_of(["1.5", "1.25"], scale=1)
    with pytest.raises(DataError, match="1 of 1 rows have more than 18 digits"):
        table_of([1e-20])


@pytest.mark.parametrize(
    ("values", "options"),
    [
        ([2**63], {}),
        (["10000000000000000000"], {}),
        ([10], {"scale": 18}),
        (["9223372036854775807", "0.5"], {}),
    ],
)
def test_numbers_beyond_64_bits_are_refused(values: Any, options: dict[str, Any]) -> None:
    column = pa.array(values, pa.uint64()) if values == [2**63] else pa.array(values)
    with pytest.raises(DataError, match="more than 64 bits"):
        table_of(column, batches=len(values), **options)


@pytest.mark.parametrize("kind", [pa.date32(), pa.bool_(), pa.binary()])
def test_a_type_without_numbers_is_refused(kind: pa.DataType) -> None:
    with pytest.raises(DataError, match="cannot be added up; allowed: integers"):
        table_of(pa.array([], kind))


def store_of(keys: list[int]) -> KeyStore:
    store = KeyStore(MEMORY)
    found = keys_of([pa.array(keys)], ItemRules())
    store.add(found.blocks, found.rows)
    store.collapse()
    return store


def test_bounds_are_of_what_a_key_adds_and_are_allowed_themselves() -> None:
    bounds = (Decimal("-1"), Decimal("2.5"))
    keys, values = [1, 1, 2, 3], ["1", "1.5", "-1", "0"]
    assert table_of(values, bounds=bounds).of_items(store_of(keys))[:, 0].max() == 25
    with pytest.raises(DataError, match=r"'x': 2 of 3 keys add less than -1\.0 or more than 2\.5"):
        table_of(["1", "1.6", "-1.1", "0"], bounds=bounds).of_items(store_of(keys))


def test_sums_of_a_key_beyond_64_bits_are_out_of_bounds_and_do_not_wrap() -> None:
    with pytest.raises(DataError, match="1 of 1 keys add less"):
        table_of([2**62] * 4).of_items(store_of([7] * 4))


def test_bounds_that_the_scale_cannot_say_are_refused() -> None:
    with pytest.raises(DataError, match="--amount-bounds have more than 0 digits"):
        table_of([1], scale=0, bounds=(Decimal(0), Decimal("1.5")))
    assert table_of([1], bounds=(Decimal(0), Decimal("1.5"))).amounts.scale == 1
