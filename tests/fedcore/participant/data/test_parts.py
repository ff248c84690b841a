"""Dealing rows to virtual participants: nothing lost, nothing twice, always the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from fedcore.errors import DataError
from fedcore.jobs.datasets import ParquetData, Part
from fedcore.participant.data import catalogue, read_table
from fedcore.participant.data.parts import deal

VALUES = st.one_of(
    st.lists(st.one_of(st.none(), st.integers(0, 5)), min_size=1, max_size=80),
    st.lists(st.sampled_from(["benign", "malignant", "unclear", None]), min_size=1, max_size=80),
    st.lists(st.booleans(), min_size=1, max_size=80),
    st.lists(st.sampled_from([0.5, -1.0, float("nan"), None]), min_size=1, max_size=80),
)


def part(method: str, of: int, **more: Any) -> Part:
    return Part(index=0, of=of, method=method, label="y", column="y", **more)  # type: ignore[arg-type]


@example(values=[None, None], method="by", of=2, alpha=1.0, seed=0)
@given(
    values=VALUES,
    method=st.sampled_from(["iid", "dirichlet", "by"]),
    of=st.integers(1, 8),
    alpha=st.floats(0.05, 100),
    seed=st.integers(0, 2**32),
)
def test_every_row_goes_to_exactly_one_participant_and_nobody_is_empty(
    values: list[Any], method: str, of: int, alpha: float, seed: int
) -> None:
    how = part(method, of, alpha=alpha, seed=seed)
    column = pa.chunked_array([pa.array(values)])
    try:
        parts = deal(how, len(values), column)
    except DataError:
        return
    assert len(parts) == of
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(values)))
    assert min(len(each) for each in parts) > 0
    again = deal(how, len(values), pa.chunked_array([column.chunk(0)[:1], column.chunk(0)[1:]]))
    assert [each.tolist() for each in again] == [each.tolist() for each in parts]


@given(rows=st.integers(1, 500), of=st.integers(1, 20))
def test_iid_parts_differ_by_one_row_at_most(rows: int, of: int) -> None:
    assume(rows >= of)
    sizes = [len(each) for each in deal(part("iid", of), rows, None)]
    assert max(sizes) - min(sizes) <= 1


def test_another_seed_deals_otherwise() -> None:
    column = pa.chunked_array([pa.array(np.arange(200) % 4)])
    for method in ("iid", "dirichlet"):
        first, second = (deal(part(method, 4, seed=seed), 200, column) for seed in (1, 2))
        assert [each.tolist() for each in first] != [each.tolist() for each in second]


def test_by_gives_each_value_to_one_participant_in_the_order_of_values() -> None:
    sites = ["c", "a", None, "b", "a", "d", "c"]
    column = pa.chunked_array([pa.array(sites)])
    owned = [{sites[row] for row in rows} for rows in deal(part("by", 5), 7, column)]
    assert owned == [{"a"}, {"b"}, {"c"}, {"d"}, {None}]
    owned = [{sites[row] for row in rows} for rows in deal(part("by", 2), 7, column)]
    assert owned == [{"a", "c", None}, {"b", "d"}]


def test_dirichlet_shares_of_a_class_are_a_dirichlet_draw() -> None:
    # Over many seeds a participant's share of a class has the mean and variance of Dirichlet(alpha, ..., alpha):
    # 1/n and (1/n)(1 - 1/n) / (n alpha + 1).
    rows, of, alpha = 400, 4, 0.5
    column = pa.chunked_array([pa.array(["a", "b"] * (rows // 2))])
    shares = np.array(
        [
            [
                np.count_nonzero(each % 2 == 0) / (rows // 2)
                for each in deal(part("dirichlet", of, alpha=alpha, seed=s), rows, column)
            ]
            for s in range(800)
        ]
    )
    np.testing.assert_allclose(shares.mean(axis=0), 1 / of, atol=0.04)
    np.testing.assert_allclose(shares.var(axis=0), (1 / of) * (1 - 1 / of) / (of * alpha + 1), rtol=0.2)


def test_smaller_alpha_makes_participants_less_alike() -> None:
    column = pa.chunked_array([pa.array(np.arange(2000) % 10)])

    def unlike(alpha: float) -> float:
        shares = [
            np.bincount(rows % 10, minlength=10) / len(rows)
            for rows in deal(part("dirichlet", 10, alpha=alpha), 2000, column)
        ]
        return float(np.abs(np.array(shares) - 0.1).sum(axis=1).mean())

    assert unlike(0.1) > 2 * unlike(10) > 4 * unlike(1000)


@pytest.mark.parametrize(
    ("how", "values", "words"),
    [
        (
            part("iid", 5),
            [1, 2, 3],
            "3 rows cannot be dealt to 5 virtual participants; each needs at least 1",
        ),
        (part("by", 3), [1, 1, 2, 2], "column 'y' has 2 distinct values .* use at most 2"),
        (part("dirichlet", 50, alpha=0.001), [0] * 60, "left one of them empty .* use a larger alpha"),
        (part("by", 2), [[1], [2]], "cannot be dealt by a column of type list"),
    ],
)
def test_deal_that_cannot_be_is_refused(how: Part, values: list[Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        deal(how, len(values), pa.chunked_array([pa.array(values)]))


# ---- through read_table


def parts_of(file: Path, method: str, of: int, columns: list[str] | None = None) -> list[pa.Table]:
    return [
        read_table(
            ParquetData(
                connector="parquet",
                path=file,
                part=Part(index=i, of=of, method=method, label="y", column="y"),  # type: ignore[arg-type]
            ),
            columns,
        )
        for i in range(of)
    ]


@pytest.mark.parametrize("method", ["iid", "dirichlet", "by"])
def test_parts_together_are_the_whole_table(tmp_path: Path, method: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 3, 2), dtype=np.uint8)
    table = pa.table(
        {
            "image": pa.FixedShapeTensorArray.from_numpy_ndarray(pixels),
            "y": np.arange(60) % 4,
            "id": np.arange(60),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=7)
    parts = parts_of(tmp_path / "t.parquet", method, 4)
    for each in parts:
        rows = each.column("id").to_numpy()
        np.testing.assert_array_equal(each.column("image").combine_chunks().to_numpy_ndarray(), pixels[rows])
    assert pa.concat_tables(parts).sort_by("id").drop_columns("image").to_pydict() == {
        "y": (np.arange(60) % 4).tolist(),
        "id": list(range(60)),
    }
    # The column that deals need not be asked for, and what is asked does not change the deal.
    only = parts_of(tmp_path / "t.parquet", method, 4, ["id"])
    assert [each.column_names for each in only] == [["id"]] * 4
    assert [each.column("id").to_pylist() for each in only] == [
        each.column("id").to_pylist() for each in parts
    ]


def test_participants_of_a_simulation_share_one_reading_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"y": [0, 1], "x": [1.0, 2.0]}), file)
    read = catalogue._read
    seen: list[Any] = []
    monkeypatch.setattr(catalogue, "_read", lambda *args: seen.append(args) or read(*args))
    first = parts_of(file, "by", 2)
    assert len(seen) == 1
    pq.write_table(pa.table({"y": [0, 1, 1], "x": [3.0, 4.0, 5.0]}), file)
    second = parts_of(file, "by", 2)
    assert len(seen) == 2
    assert [each.column("x").to_pylist() for each in first + second] == [[1.0], [2.0], [3.0], [4.0, 5.0]]


def test_dealing_by_a_column_that_is_not_there_names_the_nearest(tmp_path: Path) -> None:
    pq.write_table(pa.table({"label": [0, 1]}), tmp_path / "t.parquet")
    how = Part(index=0, of=2, method="by", column="labels")
    for columns in (None, ["label"]):
        with pytest.raises(DataError, match=r'no column .labels. .*did you mean "label"\?'):
            read_table(ParquetData(connector="parquet", path=tmp_path / "t.parquet", part=how), columns)
