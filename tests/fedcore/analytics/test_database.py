"""The database at a site: kept for the next query, which sees nothing of the last one."""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.analytics import database
from fedcore.analytics.database import KEPT, connected
from fedcore.analytics.local import answer, bins, row_sets
from fedcore.analytics.partial import Moments
from fedcore.analytics.query import Query
from fedcore.analytics.source import Source
from fedcore.errors import DataError, PolicyRefused

MEMORY = 77
"""That no other test gives."""


@pytest.fixture(autouse=True)
def nothing_waits() -> Iterator[None]:
    database._waiting.clear()
    yield
    database._waiting.clear()


def waiting() -> list[Any]:
    return [each for kept in database._waiting.values() for each in kept]


def test_a_query_sees_nothing_of_the_one_before_in_the_same_database() -> None:
    import duckdb

    with connected(MEMORY) as first:
        first.register("given", pa.table({"a": [1]}))
        first.execute("CREATE TEMP TABLE cells AS SELECT 1 AS a")
        first.execute("CREATE TEMP VIEW held AS SELECT * FROM given")
    (kept,) = waiting()
    with connected(MEMORY) as second:
        assert waiting() == []
        for name in ("given", "cells", "held"):
            with pytest.raises(duckdb.CatalogException):
                second.execute(f"SELECT * FROM {name}")
        assert second.execute("SELECT count(*) FROM duckdb_tables()").fetchall() == [(0,)]
    assert waiting() == [kept]


def test_each_connection_is_closed_to_the_outside_also_in_a_database_that_was_used() -> None:
    secret = pa.table({"a": [1]})
    wanted = {
        "threads": "1",
        "temp_directory": "",
        "memory_limit": "77.0 MiB",
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "allow_community_extensions": "false",
        "python_enable_replacements": "false",
        "enable_external_access": "false",
        "lock_configuration": "true",
    }
    for _ in range(2):
        with connected(MEMORY) as connection:
            found = dict(connection.execute("SELECT name, value FROM duckdb_settings()").fetchall())
            assert {name: found[name] for name in wanted} == wanted
    assert len(secret) == 1 and len(waiting()) == 1


def test_a_database_in_which_something_failed_is_not_used_again() -> None:
    with pytest.raises(ZeroDivisionError), connected(MEMORY):
        raise ZeroDivisionError
    assert waiting() == []
    source = Source("lung", pa.table({"k": [f"key {at // 3}" * 20 for at in range(400_000)]}), memory=16)
    with pytest.raises(DataError, match=r"more than 16 MiB"):
        answer(Query("lung").group_by("k").count(), source)
    assert waiting() == []


def test_queries_at_once_have_databases_of_their_own_and_few_are_kept() -> None:
    ready = threading.Barrier(KEPT + 2)
    open_at_once = []

    def use() -> None:
        with connected(MEMORY) as connection:
            connection.execute("CREATE TABLE mine AS SELECT 1")
            ready.wait(20)
            open_at_once.append(connection.execute("SELECT count(*) FROM duckdb_tables()").fetchall())
            ready.wait(20)
            connection.execute("DROP TABLE mine")

    threads = [threading.Thread(target=use) for _ in range(KEPT + 2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert open_at_once == [[(1,)]] * (KEPT + 2)
    assert len(waiting()) == KEPT


def identifying() -> Source:
    rows = 60
    return Source(
        "d", pa.table({"id": range(rows), "few": [at % 2 for at in range(rows)], "x": [1.0] * rows})
    )


@pytest.mark.parametrize("groups", [("id",), ("few", "id"), ("id", "few")])
@pytest.mark.parametrize("where", [True, False])
def test_a_key_that_identifies_is_refused_by_every_way_in_and_every_time(
    groups: tuple[str, ...], where: bool
) -> None:
    source, query = identifying(), Query("d").group_by(*groups).mean("x")
    if where:
        # Of the rows that are left the key has few values; it is judged by all rows.
        query = query.where("id", "<", 4)
    for _ in range(2):
        with pytest.raises(PolicyRefused, match="id"):
            answer(query, source)
        with pytest.raises(PolicyRefused, match="id"):
            bins(query, source, "x", {(0,) * len(groups): [1.0]})
        with pytest.raises(PolicyRefused, match="id"):
            row_sets(query, source)
    assert source.distinct["id"] == 60


def test_what_was_counted_once_is_held_against_each_later_minimum() -> None:
    source = Source("d", pa.table({"k": [at % 9 for at in range(20)], "x": [1.0] * 20}))
    query = Query("d").group_by("k").count()
    assert len(answer(query, source, minimum=5).cells) == 9
    with pytest.raises(DataError, match="fewer than 21 rows"):
        answer(query, source, minimum=21)
    assert source.distinct == {"k": 9}
    source.distinct["k"] = 10
    with pytest.raises(PolicyRefused):
        answer(query, source, minimum=5)


def test_a_missing_value_among_the_words_of_a_dictionary_is_missing() -> None:
    words = pa.DictionaryArray.from_arrays(pa.array([0, 1, 1, 0, 0, 1]), pa.array(["f", None]))
    numbers = pa.DictionaryArray.from_arrays(
        pa.array([0, 1, 2, 0, 0, 1]), pa.array([2.0, None, float("nan")])
    )
    source = Source("d", pa.table({"word": words, "number": numbers}))
    cell = answer(Query("d").count("word").sum("number"), source, minimum=3).cells[()]
    assert (cell.rows, cell.present) == (6, {"word": 3, "number": 3})
    assert cell.moments["number", None].total == 6  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()])
@pytest.mark.parametrize("where", ["asked", "bounded", "quantile", "key"])
def test_infinite_values_are_refused_where_they_would_be_summed_and_are_keys_otherwise(
    kind: pa.DataType, where: str
) -> None:
    pieces = [pa.array([1.0, 2, 3], kind), pa.array([None, math.inf, 5], kind)] * 4
    source = Source("d", pa.table({"x": pa.chunked_array(pieces), "k": [1] * 24}))
    start = Query("d")
    if where == "key":
        assert len(answer(start.group_by("x").count(), source, minimum=6).cells) == 6
        return
    asked = {"asked": start.mean("x"), "bounded": start.sum("x", (0, 1)), "quantile": start.quantile("x")}
    with pytest.raises(DataError, match="x holds infinite values"):
        answer(asked[where].where("k", "=", 2), source, minimum=3)


maybe = st.one_of(st.none(), st.just(math.nan), st.integers(-4, 4).map(float))
sites = st.lists(st.tuples(st.sampled_from([None, "a", "b", "é"]), maybe, maybe), min_size=24, max_size=60)


@settings(deadline=None, max_examples=60)
@given(sites, st.booleans(), st.integers(1, 3))
def test_groups_sums_bins_and_rows_are_those_of_plain_python(
    rows: list[tuple[str | None, float | None, float | None]], where: bool, chunks: int
) -> None:
    cut = np.linspace(0, len(rows), chunks + 1).astype(int)
    columns = {
        name: pa.chunked_array([pa.array([row[at] for row in rows[a:b]], kind) for a, b in pairwise(cut)])
        for at, (name, kind) in enumerate({"k": pa.string(), "f": pa.float64(), "x": pa.float64()}.items())
    }
    source = Source("d", pa.table(columns))
    query = Query("d").group_by("k", "f").mean("x").variance("x", (-2, 2)).histogram("x", [-1, 1, 3])
    if where:
        query = query.where("x", ">", -3)
    groups: dict[Any, list[tuple[int, float | None]]] = defaultdict(list)
    for at, (k, f, x) in enumerate(rows):
        value = None if x is None or math.isnan(x) else x
        if not where or (value is not None and value > -3):
            groups[k, None if f is None or math.isnan(f) else f].append((at, value))
    found = answer(query, source, minimum=3, centres={"x": 0.5})
    edges = [-1.5, 0.0, 2.0]
    counted = bins(query, source, "x", dict.fromkeys(groups, edges), minimum=3)
    assert row_sets(query, source, minimum=3) == {
        key: sum(1 << at for at, _ in own) for key, own in groups.items()
    }
    assert found.cells.keys() == groups.keys()
    for key, own in groups.items():
        values = [value for _, value in own if value is not None]
        cut_ = [min(max(value, -2), 2) for value in values]
        cell = found.cells[key]
        assert (cell.rows, cell.present) == (len(own), {"x": len(values)})
        assert cell.moments["x", None].total == sum(value - 0.5 for value in values)  # type: ignore[union-attr]
        assert cell.moments["x", (-2.0, 2.0)].squares == sum((value - 0.5) ** 2 for value in cut_)  # type: ignore[union-attr]
        inside = [sum(value < -1 for value in values), sum(-1 <= value < 1 for value in values)]
        inside += [sum(1 <= value <= 3 for value in values), sum(value > 3 for value in values)]
        assert cell.bins["histogram(x)"] == tuple(inside)
        places = np.searchsorted(edges, values, side="right") if values else np.zeros(0, int)
        assert counted[key] == tuple(np.bincount(places, minlength=4).tolist())


def test_sums_come_out_the_same_each_time_and_are_close_to_exact() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(0, 1, 200_000) * 10.0 ** draw.integers(-8, 9, 200_000)
    source = Source("d", pa.table({"k": draw.integers(0, 7, 200_000), "x": x}))
    query = Query("d").group_by("k").sum("x")
    found = [answer(query, Source("d", source.rows)).cells for _ in range(3)]
    assert found[0] == found[1] == found[2]
    keys = np.asarray(source.rows["k"])
    for (key,), cell in found[0].items():
        assert cell.moments["x", None].total == pytest.approx(math.fsum(x[keys == key]), rel=1e-12)  # type: ignore[union-attr]


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("centre", [0.0, 2.5])
def test_a_column_that_nobody_looked_at_is_looked_at_when_its_sum_is_not_finite(
    odd: float, centre: float
) -> None:
    rows = {"k": [1, 2] * 6, "x": [1.0] * 11 + [odd], "y": [2.0] * 12}
    source, query = Source("d", pa.table(rows)), Query("d").group_by("k").mean("x").variance("y")
    for _ in range(2):
        if math.isinf(odd):
            with pytest.raises(DataError, match="x holds infinite values"):
                answer(query, source, centres={"x": centre})
        else:
            cell = answer(query, source, centres={"x": centre}).cells[(2,)]
            assert cell.present == {"x": 5, "y": 6}
            assert cell.moments["x", None] == Moments(5 * (1 - centre), 0.0)
            assert cell.moments["y", None] == Moments(12.0, 24.0)
    assert not source.to_look_at("x") and not source.finite("x") and source.finite("y")


def test_a_sum_that_overflows_is_no_sign_of_an_infinite_value() -> None:
    source = Source("d", pa.table({"x": [1.7e308] * 6}))
    cell = answer(Query("d").count("x").sum("x"), source).cells[()]
    assert cell.present == {"x": 6} and not math.isfinite(cell.moments["x", None].total)  # type: ignore[union-attr]
    assert source.finite("x")


def test_a_column_that_nobody_has_is_named_before_anything_is_looked_at() -> None:
    with pytest.raises(DataError, match=r"ages.*age"):
        answer(Query("d").mean("ages"), Source("d", pa.table({"age": [1.0] * 6})))
