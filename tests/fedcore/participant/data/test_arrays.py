"""`.npz` and MedMNIST files against the NumPy arrays they were made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedcore.errors import DataError
from fedcore.jobs.datasets import MedMnistData, NpzData
from fedcore.participant.data import read_schema, read_table


def npz(file: Path, **arrays: Any) -> NpzData:
    np.savez(file, **arrays)
    return NpzData(connector="npz", path=file)


def medmnist(file: Path, subset: str = "train", **arrays: Any) -> MedMnistData:
    np.savez_compressed(file, **arrays)
    return MedMnistData(connector="medmnist", path=file, subset=subset)  # type: ignore[arg-type]


@given(
    array=hnp.arrays(
        st.sampled_from(["u1", "i2", "f4", "f8", ">f8", "f2", "?"]),
        hnp.array_shapes(min_dims=2, max_dims=4, max_side=4),
    )
)
def test_tensor_columns_hold_the_array_as_uint8_or_float32(
    array: np.ndarray[Any, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = npz(tmp_path_factory.mktemp("npz") / "a.npz", x=array)
    read = read_table(data)
    assert read.schema == read_schema(data)
    values = read.column("x").combine_chunks().to_numpy_ndarray()
    assert values.dtype == (np.uint8 if array.dtype == np.uint8 else np.float32)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(values, array.astype(values.dtype))


@given(
    array=st.one_of(
        hnp.arrays(st.sampled_from(["u1", "i4", "i8", "f4", ">f8", "?"]), st.integers(1, 20)),
        hnp.arrays("U4", st.integers(1, 20), elements=st.text("añ雪", max_size=4)),
        hnp.arrays("M8[s]", st.integers(1, 20), elements=st.datetimes().map(lambda t: np.datetime64(t, "s"))),
    )
)
def test_flat_arrays_become_columns_of_their_type(
    array: np.ndarray[Any, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = npz(tmp_path_factory.mktemp("npz") / "a.npz", x=array)
    read = read_table(data)
    assert read.schema == read_schema(data)
    np.testing.assert_array_equal(read.column("x").to_numpy().astype(array.dtype), array)


def test_arrays_in_fortran_order_keep_their_rows(tmp_path: Path) -> None:
    array = np.asfortranarray(np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    read = read_table(npz(tmp_path / "a.npz", x=array)).column("x").combine_chunks().to_numpy_ndarray()
    np.testing.assert_array_equal(read, array)


def test_only_the_arrays_asked_for_are_loaded(tmp_path: Path) -> None:
    data = npz(
        tmp_path / "a.npz", big=np.zeros((1000, 1000)), y=np.arange(1000), name=np.array([b"x"] * 1000)
    )
    assert read_table(data, ["y", "name"], memory=20_000).slice(0, 1).to_pylist() == [{"y": 0, "name": "x"}]
    with pytest.raises(DataError, match=r"needs 8\.0 MB of memory and this site gives a job 20\.0 kB"):
        read_table(data, ["big"], memory=20_000)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.zeros(3), "y": np.zeros(4)}, r"different lengths \(x: 3, y: 4\)"),
        ({"x": np.float64(3)}, "array 'x' of .* is one number, not a column"),
        ({"x": np.array([{"a": 1}], dtype=object)}, "array 'x' holds Python objects, which are never loaded"),
        ({"x": np.zeros(2, dtype=complex)}, "array 'x' of type complex128 .* cannot be a column; allowed"),
        ({"x": np.zeros((2, 0))}, "an axis of length 0"),
        ({"x": np.zeros((0, 2, 2))}, "the data set has 0 rows"),
        ({"x": np.array([["a"]])}, "cannot be a column"),
        ({"x": np.array([b"\xff"])}, "bytes that are not utf-8 text"),
        ({}, "holds no array"),
    ],
)
def test_npz_that_is_no_table_is_refused(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_table(npz(tmp_path / "a.npz", **arrays))


def test_file_that_is_not_npz_or_is_cut_short_is_refused(tmp_path: Path) -> None:
    data = npz(tmp_path / "a.npz", x=np.arange(10_000))
    data.path.write_bytes(data.path.read_bytes()[:5000])
    with pytest.raises(
        DataError, match=r"cannot be read as an \.npz file of arrays; check that it is complete"
    ):
        read_table(data)
    np.save(tmp_path / "b.npy", np.arange(3))
    with pytest.raises(DataError, match="cannot be read as"):
        read_table(NpzData(connector="npz", path=tmp_path / "b.npy"))


def test_npz_missing_array_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r'no column .pixel. in the data set; did you mean "pixels"\?'):
        read_table(npz(tmp_path / "a.npz", pixels=np.zeros(3)), ["pixel"])


def test_medmnist_subset_gives_its_images_and_labels(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = {
        f"{subset}_{what}": random.integers(0, 9, shape, dtype=np.uint8)
        for subset, n in (("train", 20), ("val", 5), ("test", 7))
        for what, shape in (("images", (n, 28, 28, 3)), ("labels", (n, 1)))
    }
    for subset in ("train", "val", "test"):
        data = medmnist(tmp_path / "pathmnist.npz", subset, **arrays)
        table = read_table(data)
        assert table.schema == read_schema(data)
        assert table.schema.field("label").type == pa.int64()
        np.testing.assert_array_equal(
            table.column("image").combine_chunks().to_numpy_ndarray(), arrays[f"{subset}_images"]
        )
        assert table.column("label").to_pylist() == arrays[f"{subset}_labels"][:, 0].tolist()
    assert read_table(data, ["label"]).column_names == ["label"]


def test_medmnist_with_several_labels_has_a_column_for_each(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 2, (6, 14), dtype=np.uint8)
    data = medmnist(tmp_path / "c.npz", train_images=np.zeros((6, 28, 28), np.uint8), train_labels=labels)
    table = read_table(data, ["label_13", "label_0"])
    assert table.column("label_13").to_pylist() == labels[:, 13].tolist()
    assert table.column("label_0").to_pylist() == labels[:, 0].tolist()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": np.zeros((2, 3, 3))}, r"no array .train_images., .*; did you mean \"images\"\?"),
        ({"train_images": np.zeros((2, 3, 3)), "train_labels": np.zeros((3, 1), int)}, "a MedMNIST file has"),
        ({"train_images": np.zeros((2, 3, 3)), "train_labels": np.zeros((2, 1))}, "has whole numbers"),
    ],
)
def test_file_that_is_not_medmnist_is_refused(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_table(medmnist(tmp_path / "x.npz", **arrays))
