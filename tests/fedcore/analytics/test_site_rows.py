"""Arrays of a site's rows: the rows of a condition are those that the query's database takes."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from itertools import product

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.analytics import local
from fedcore.analytics.condition import Both, Compare, Condition, Not
from fedcore.analytics.query import Query
from fedcore.analytics.site_rows import columns_of
from fedcore.analytics.source import Source
from fedcore.errors import DataError

NUMBERS = (-1.5, 0.0, 1.0, 2.5, float("nan"), float("inf"), None)
TEXTS = ("", "a", "B", "ä", "z'", None)


def source() -> Source:
    """A row for each pair of a number and a text, and other columns that go along."""
    pairs = list(product(NUMBERS, TEXTS))
    places = range(len(pairs))
    text = pa.array([each for _, each in pairs], pa.string())
    return Source(
        "toy",
        pa.table(
            {
                "x": pa.chunked_array(
                    [
                        pa.array([each for each, _ in pairs], pa.float64())[:10],
                        pa.array([each for each, _ in pairs], pa.float64())[10:],
                    ]
                ),
                "small": pa.array([None if place % 5 == 4 else place % 5 for place in places], pa.int8()),
                "price": pa.array(
                    [Decimal(place % 4) / 2 if place % 3 else None for place in places], pa.decimal128(9, 2)
                ),
                "t": text,
                "d": text.dictionary_encode(),
                "f": pa.array([(True, False, None)[place % 3] for place in places]),
                "day": pa.array([date(2024, 1, 1 + place % 9) if place % 4 else None for place in places]),
                "at": pa.array(
                    [datetime(2024, 1, 1 + place % 9, 12) if place % 4 else None for place in places]
                ),
            }
        ),
    )


HELD = source()


def compares() -> st.SearchStrategy[Condition]:
    """Any comparison that the columns allow."""
    values = {
        "x": st.sampled_from([-1.5, 0, 1, 1.0, 2.5, 10**30]),
        "small": st.sampled_from([0, 1, 3, 1.5, 300]),
        "price": st.sampled_from([0, 1, 0.5, 0.75]),
        "t": st.sampled_from(["", "a", "b", "B", "z'", "ä"]),
        "d": st.sampled_from(["", "a", "B"]),
        "day": st.sampled_from(["2024-01-02", "2024-01-05"]),
        "at": st.sampled_from(["2024-01-02T12:00:00", "2024-01-05"]),
    }
    made: list[st.SearchStrategy[Condition]] = []
    for name, each in values.items():
        one = st.sampled_from(["=", "!=", "<", "<=", ">", ">="])
        made.append(st.builds(lambda op, value, name=name: Compare(name, op, (value,)), one, each))
        made.append(st.builds(lambda a, b, name=name: Compare(name, "between", (a, b)), each, each))
        made.append(
            st.lists(each, min_size=1, max_size=3).map(lambda v, name=name: Compare(name, "in", tuple(v)))
        )
    null = st.sampled_from(["is null", "is not null"])
    made.append(st.builds(lambda name, op: Compare(name, op), st.sampled_from([*values, "f"]), null))
    made.append(
        st.builds(lambda op, v: Compare("f", op, (v,)), st.sampled_from(["=", "!=", "in"]), st.booleans())
    )
    return st.one_of(made)


CONDITIONS = st.recursive(
    compares(),
    lambda inner: st.one_of(
        inner.map(Not),
        st.builds(
            lambda op, parts: Both(op, tuple(parts)),
            st.sampled_from(["and", "or"]),
            st.lists(inner, min_size=1, max_size=3),
        ),
    ),
    max_leaves=6,
)


@settings(max_examples=80, deadline=None)
@given(CONDITIONS)
def test_a_condition_takes_the_rows_that_the_database_takes(condition: Condition):
    numbered = HELD.rows.append_column("place", pa.array(range(HELD.rows.num_rows), pa.int64()))
    places = columns_of(Source("toy", numbered), ["place"], condition)["place"]
    bits = local.row_sets(Query("toy", condition).count(), HELD, minimum=3).get((), 0)
    assert [int(place) for place in places] == [
        place for place in range(HELD.rows.num_rows) if bits >> place & 1
    ]


def test_columns_are_doubles_or_objects():
    found = columns_of(HELD, ["x", "small", "price", "t", "d", "f", "day", "at"])
    kinds = {name: each.dtype.kind for name, each in found.items()}
    assert kinds == dict.fromkeys(["x", "small", "price"], "f") | dict.fromkeys(
        ["t", "d", "f", "day", "at"], "O"
    )
    assert all(each.shape == (HELD.rows.num_rows,) for each in found.values())
    assert np.isnan(found["x"][-1]) and np.isnan(found["small"][4]) and found["t"][5] is None
    assert found["t"].tolist() == found["d"].tolist() == HELD.rows["t"].to_pylist()
    assert found["f"][0] is True and found["f"][2] is None
    assert found["day"][1] == "2024-01-02" and found["at"][1].startswith("2024-01-02 12:00:00")


def test_no_rows_and_no_chunks_give_empty_columns():
    for rows in (HELD.rows.slice(0, 0), HELD.rows.schema.empty_table()):
        found = columns_of(Source("toy", rows), ["x", "t", "f"], Compare("x", ">", (0,)))
        assert {name: (len(each), each.dtype.kind) for name, each in found.items()} == {
            "x": (0, "f"),
            "t": (0, "O"),
            "f": (0, "O"),
        }


def test_an_unknown_column_and_a_value_of_another_kind_are_refused():
    with pytest.raises(DataError, match=r'no column "prise".*price'):
        columns_of(HELD, ["prise"])
    with pytest.raises(DataError, match=r'no column "tt"'):
        columns_of(HELD, ["x"], Compare("tt", "=", ("a",)))
    for wrong in (Compare("x", ">", ("a",)), Compare("t", "=", (1,)), Compare("day", "=", ("soon",))):
        with pytest.raises(DataError, match="kinds that do not fit"):
            columns_of(HELD, ["x"], wrong)
