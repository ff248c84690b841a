"""Tables become tensors: columns, missing values, images, the split, scaling, batches."""

from __future__ import annotations

import decimal

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from fedcore.errors import DataError
from fedcore.learning import examples
from fedcore.learning.examples import (
    Examples,
    Rows,
    classes_of,
    columns_to_read,
    encode,
    rows_from_table,
    split,
)
from fedcore.learning.task import Schema

TABLE = pa.table(
    {
        "age": pa.array([30, 40, 50], pa.int16()),
        "name": ["a", "b", "c"],
        "dose": [0.5, 1.5, 2.5],
        "smokes": [True, False, True],
        "cost": pa.array([decimal.Decimal("1.25"), decimal.Decimal("2.50"), decimal.Decimal("3.75")]),
        "person": [7, 8, 7],
        "y": [0, 1, 1],
    }
)


# ---- columns ------------------------------------------------------------------------------------------------


def test_only_the_named_columns_are_read_each_once() -> None:
    names = TABLE.column_names
    assert columns_to_read(names, ("dose", "age"), "y", "person") == ["dose", "age", "y", "person"]
    assert columns_to_read(names, ("dose", "person"), "dose", "person") == ["dose", "person"]
    assert columns_to_read(names, None, "y", "person") is None


@pytest.mark.parametrize(
    ("features", "target", "row_id"), [(("dosis",), "y", None), (None, "dosis", None), (None, None, "dosis")]
)
def test_a_column_that_is_not_there_is_answered_with_the_nearest(features, target, row_id) -> None:
    with pytest.raises(DataError, match=r"no column 'dosis'.*did you mean \"dose\""):
        columns_to_read(TABLE.column_names, features, target, row_id)


def test_features_are_all_numeric_columns_but_target_and_row_id() -> None:
    rows = rows_from_table(TABLE, None, "y", "person")
    assert rows.features == ("age", "dose", "smokes", "cost")
    assert rows.x.dtype == np.float32
    np.testing.assert_array_equal(rows.x, [[30, 0.5, 1, 1.25], [40, 1.5, 0, 2.5], [50, 2.5, 1, 3.75]])
    assert rows.target.tolist() == [0, 1, 1]
    assert rows.groups[0] == rows.groups[2] != rows.groups[1]


def test_named_features_keep_their_order() -> None:
    rows = rows_from_table(TABLE, ("cost", "age"), None, None)
    np.testing.assert_array_equal(rows.x, [[1.25, 30], [2.5, 40], [3.75, 50]])
    assert rows.target is None and rows.groups.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("table", "features", "words"),
    [
        (TABLE.slice(0, 0), None, "has no rows"),
        (TABLE, ("age", "name"), "column 'name' is string, a feature must be numeric"),
        (TABLE.select(["name", "y"]), None, "no numeric column beside the target"),
    ],
)
def test_a_table_that_gives_no_features_says_why(table, features, words) -> None:
    with pytest.raises(DataError, match=words):
        rows_from_table(table, features, "y", None)


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf"), 1e300])
def test_missing_and_infinite_values_name_their_columns_and_no_value(bad) -> None:
    table = pa.table({"good": [1.0, 2.0], "poor": pa.array([4711.0, bad]), "y": [0, 1]})
    with np.errstate(over="ignore"), pytest.raises(DataError, match="infinite values in poor;") as caught:
        rows_from_table(table, None, "y", None)
    assert "good" not in str(caught.value) and "4711" not in str(caught.value)
    assert caught.value.detail == "1 such values"


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ({"y": pa.array([0, None])}, "target 'y' has missing values"),
        ({"y": [0.0, float("nan")]}, "target 'y' has NaN"),
        ({"id": pa.array(["a", None])}, "row id 'id' has missing values"),
    ],
)
def test_a_target_or_row_id_with_gaps_is_refused(column, words) -> None:
    table = pa.table({"x": [1.0, 2.0], "y": [0, 1], "id": ["a", "b"], **column})
    with pytest.raises(DataError, match=words):
        rows_from_table(table, ("x",), "y", "id")


def test_classes_are_plain_sorted_and_not_too_many() -> None:
    assert classes_of(np.array([True, False, True]), "y") == [0, 1]
    assert classes_of(np.array(["b", "a"], dtype=object), "y") == ["a", "b"]
    found = classes_of(np.array([2.0, 1.0, 2.0]), "y")
    assert found == [1.0, 2.0] and type(found[0]) is float
    classes_of(np.repeat(np.arange(1000), 2), "y")
    with pytest.raises(DataError, match="more than 1000 distinct values"):
        classes_of(np.arange(1001), "y")
    with pytest.raises(DataError, match="it names rows, it is not a class"):
        classes_of(np.array([f"patient-{i}" for i in range(30)], dtype=object), "y")


# ---- images -------------------------------------------------------------------------------------------------


def image_table(pixels: np.ndarray, chunks: int = 2) -> pa.Table:
    column = pa.chunked_array(
        [pa.FixedShapeTensorArray.from_numpy_ndarray(part) for part in np.array_split(pixels, chunks)]
    )
    return pa.table({"image": column, "label": np.arange(len(pixels)) % 2})


@pytest.mark.parametrize("chunks", [1, 3])
def test_grey_images_get_a_channel_axis_and_colour_comes_first(chunks) -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (5, 3, 4), dtype=np.uint8)
    rgb = rng.integers(0, 256, (5, 3, 4, 3), dtype=np.uint8)
    found = rows_from_table(image_table(grey, chunks), ("image",), "label", None).x
    np.testing.assert_array_equal(found, grey[:, None])
    found = rows_from_table(image_table(rgb, chunks), ("image",), "label", None).x
    assert found.dtype == np.uint8 and found.shape == (5, 3, 3, 4)
    np.testing.assert_array_equal(found[2, 1], rgb[2, :, :, 1])


def test_a_slice_of_an_image_table_has_the_slice_s_images() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(6, 2, 2)
    table = image_table(pixels, 1).slice(2, 3)
    np.testing.assert_array_equal(
        rows_from_table(table, ("image",), "label", None).x, pixels[2:5].reshape(3, 1, 2, 2)
    )


def test_bytes_become_zero_to_one_and_float_images_stay() -> None:
    raw = np.array([[[0, 51], [102, 255]]] * 2, dtype=np.uint8)
    schema = Schema(("image",), (1, 2, 2), (0, 1))
    coded = encode(rows_from_table(image_table(raw), ("image",), "label", None), schema, True, np.arange(2))
    assert coded.x.dtype == torch.uint8
    batch = next(coded.batches(2))
    assert batch.x.dtype == torch.float32
    torch.testing.assert_close(batch.x[0, 0], torch.tensor([[0.0, 0.2], [0.4, 1.0]]))
    assert coded.x[0, 0, 1, 1] == 255, "the resident rows are not scaled in place"
    rows = rows_from_table(image_table(raw.astype(np.float64) / 255), ("image",), "label", None)
    assert rows.x.dtype == np.float32
    np.testing.assert_allclose(rows.x[0, 0], [[0, 0.2], [0.4, 1]], rtol=1e-6)


def test_images_that_are_missing_not_finite_or_volumes_are_refused() -> None:
    gap = pa.array([[1, 2, 3, 4], None], pa.list_(pa.float32(), 4))
    kind = pa.fixed_shape_tensor(pa.float32(), (2, 2))
    table = pa.table({"image": pa.ExtensionArray.from_storage(kind, gap), "label": [0, 1]})
    with pytest.raises(DataError, match="missing images"):
        rows_from_table(table, ("image",), "label", None)
    with pytest.raises(DataError, match="infinite values in image"):
        rows_from_table(image_table(np.full((2, 2, 2), np.nan, np.float32)), ("image",), "label", None)
    with pytest.raises(DataError, match="arrays of 4 axes"):
        rows_from_table(image_table(np.zeros((2, 2, 2, 2, 2), np.uint8)), ("image",), "label", None)


# ---- the split ----------------------------------------------------------------------------------------------


@st.composite
def sites(draw):
    groups = draw(st.lists(st.integers(0, 12), min_size=1, max_size=40))
    labels = draw(st.lists(st.integers(0, 2), min_size=len(groups), max_size=len(groups)))
    x = np.zeros((len(groups), 1), np.float32)
    return Rows(("x",), x, np.array(labels), np.array(groups, dtype=np.int64))


@given(sites(), st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.9]), st.booleans(), st.integers(0, 5))
def test_the_split_is_complete_disjoint_repeatable_and_divides_no_group(rows, share, stratify, seed) -> None:
    train, validation = split(rows, share, stratify, seed, "site")
    assert sorted([*train, *validation]) == list(range(len(rows)))
    assert np.all(np.diff(train) > 0) and np.all(np.diff(validation) > 0)
    assert not set(rows.groups[train]) & set(rows.groups[validation])
    again = split(rows, share, stratify, seed, "site")
    assert np.array_equal(train, again[0]) and np.array_equal(validation, again[1])
    if share == 0:
        assert len(validation) == 0


@given(
    st.lists(st.integers(0, 3), min_size=2, max_size=60), st.sampled_from([0.05, 0.2, 0.5]), st.integers(0, 5)
)
def test_a_stratified_split_takes_the_share_of_every_class(labels, share, seed) -> None:
    target = np.array(labels)
    rows = Rows(("x",), np.zeros((len(labels), 1), np.float32), target, np.arange(len(labels)))
    train, validation = split(rows, share, True, seed)
    for label in set(labels):
        here, of = int((target[validation] == label).sum()), labels.count(label)
        assert abs(here - share * of) <= max(0.5, 1 - share * of)
        if of > 1:
            assert here >= 1 and (target[train] == label).any()


def test_another_seed_or_site_splits_otherwise() -> None:
    rows = Rows(("x",), np.zeros((100, 1), np.float32), None, np.arange(100))
    picked = {tuple(split(rows, 0.2, False, *seed)[1]) for seed in [(1, "a"), (1, "b"), (2, "a")]}
    assert len(picked) == 3 and all(len(rows) == 20 for rows in picked)


# ---- encoding and batches -------------------------------------------------------------------------------------


def test_scaling_is_scikit_learns() -> None:
    x = np.random.default_rng(0).normal(5, 3, (50, 3)).astype(np.float32)
    scaler = StandardScaler().fit(x.astype(np.float64))
    schema = Schema(("a", "b", "c"), (3,), (), tuple(scaler.mean_), tuple(scaler.scale_))
    at = np.array([3, 1, 4])
    coded = encode(Rows(schema.features, x, None, np.arange(50)), schema, False, at)
    assert coded.x.dtype == torch.float32 and coded.y.numel() == 0
    np.testing.assert_allclose(coded.x.numpy(), scaler.transform(x)[at], rtol=1e-5, atol=1e-6)


def test_classes_are_indexed_by_the_agreed_schema_and_numbers_stay_numbers() -> None:
    rows = Rows(("x",), np.zeros((3, 1), np.float32), np.array(["c", "a", "c"], dtype=object), np.arange(3))
    coded = encode(rows, Schema(("x",), (1,), ("a", "b", "c")), True, np.arange(3))
    assert coded.y.dtype == torch.int64 and coded.y.tolist() == [2, 0, 2]
    # One site stores its classes as whole numbers, another as floats.
    floats = Rows(("x",), rows.x, np.array([1.0, 0.0, 1.0]), rows.groups)
    assert encode(floats, Schema(("x",), (1,), (0, 1)), True, np.arange(3)).y.tolist() == [1, 0, 1]
    coded = encode(floats, Schema(("x",), (1,)), False, np.arange(3))
    assert coded.y.dtype == torch.float32 and coded.y.tolist() == [1.0, 0.0, 1.0]


def test_a_class_that_came_after_prepare_is_refused_without_being_named() -> None:
    rows = Rows(("x",), np.zeros((2, 1), np.float32), np.array(["a", "zebra"], dtype=object), np.arange(2))
    with pytest.raises(DataError, match="start a new run") as caught:
        encode(rows, Schema(("x",), (1,), ("a", "b")), True, np.arange(2))
    assert "zebra" not in str(caught.value)


@pytest.mark.parametrize("at_once", [10**9, 0])
def test_batches_follow_the_order_whether_gathered_at_once_or_one_by_one(monkeypatch, at_once) -> None:
    monkeypatch.setattr(examples, "GATHER_AT_ONCE", at_once)
    rows = Examples(torch.arange(7.0)[:, None], torch.arange(7))
    order = torch.tensor([6, 0, 5, 1, 4, 2, 3])
    found = [(b.x[:, 0].tolist(), b.y.tolist()) for b in rows.batches(3, order)]
    assert found == [([6, 0, 5], [6, 0, 5]), ([1, 4, 2], [1, 4, 2]), ([3], [3])]
    no_target = Examples(rows.x, torch.empty(0))
    assert [(len(b), len(b.y)) for b in no_target.batches(3, order)] == [(3, 0), (3, 0), (1, 0)]


@given(st.integers(1, 30), st.integers(1, 9), st.booleans())
def test_every_row_is_in_one_batch_and_a_last_one_alone_joins_the_batch_before(rows, size, keep_two) -> None:
    data = Examples(torch.arange(float(rows))[:, None], torch.arange(rows))
    batches = list(data.batches(size, keep_two=keep_two))
    assert torch.cat([b.y for b in batches]).tolist() == list(range(rows))
    lengths = [len(b) for b in batches]
    if keep_two and rows > 1 and size > 1:
        assert min(lengths) >= 2 and max(lengths) <= size + 1
    else:
        assert max(lengths) <= size + (1 if keep_two else 0)
