"""CSV against the standard library's csv module, Parquet against what was written."""

from __future__ import annotations

import csv
import gzip
import io
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.errors import DataError
from fedcore.jobs.datasets import CsvData, ParquetData
from fedcore.participant.data import read_schema, read_table


def csv_file(folder: Path, text: str | bytes, name: str = "site.csv", **more: object) -> CsvData:
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return CsvData(connector="csv", path=file, **more)  # type: ignore[arg-type]


def parquet_file(file: Path, table: pa.Table, **more: object) -> ParquetData:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file)
    return ParquetData(connector="parquet", path=file, **more)  # type: ignore[arg-type]


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), min_size=1, max_size=12)


@settings(deadline=None)
@given(rows=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=20))
def test_csv_text_is_what_the_csv_module_wrote(
    rows: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL)
    writer.writerow(["a", "b"])
    # The letter in front keeps Arrow from taking the text for a number or a date.
    writer.writerows([("t" + a, "t" + b) for a, b in rows])
    data = csv_file(tmp_path_factory.mktemp("csv"), buffer.getvalue())
    expected = list(csv.DictReader(io.StringIO(buffer.getvalue(), newline="")))
    assert read_table(data).to_pylist() == expected


@settings(deadline=None)
@given(
    values=st.lists(
        st.one_of(st.none(), st.just(math.nan), st.floats(allow_nan=False)), min_size=1, max_size=30
    ),
    ending=st.sampled_from(["\n", "\r\n"]),
)
def test_csv_numbers_missing_and_nan_are_kept_apart(
    values: list[float | None], ending: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines = ["n,x", "1,0.5", *(f"1,{'' if value is None else repr(value)}" for value in values)]
    data = csv_file(tmp_path_factory.mktemp("csv"), ending.join(lines) + ending)
    read = read_table(data, ["x"]).column("x").to_pylist()
    assert [v if v is None else np.float64(v).tobytes() for v in read] == [
        v if v is None else np.float64(v).tobytes() for v in [0.5, *values]
    ]


def test_csv_types_are_inferred_over_the_whole_file(tmp_path: Path) -> None:
    lines = ["a,b,day,yes,none"] + ["1,2,2026-01-31,true,"] * 450_000 + ["high,2.5,2026-02-01,false,"]
    data = csv_file(tmp_path, "\n".join(lines))
    assert data.path.stat().st_size > 8 * 2**20  # more than one block of the parser
    schema = read_schema(data)
    assert {field.name: str(field.type) for field in schema} == {
        "a": "string",
        "b": "double",
        "day": "date32[day]",
        "yes": "bool",
        "none": "null",
    }
    table = read_table(data, ["b", "a"])
    assert table.column_names == ["b", "a"]
    assert table.num_rows == 450_001
    assert table.column("a").to_pylist()[-2:] == ["1", "high"]


def test_csv_row_id_stays_text_with_its_zeros(tmp_path: Path) -> None:
    data = csv_file(tmp_path, "id,x\n007,1\n7,2\n92345678901234567890,3\n", row_id="id")
    assert read_table(data, ["id"]).column("id").to_pylist() == ["007", "7", "92345678901234567890"]
    assert read_table(data, ["x"]).column_names == ["x"]


def test_csv_missing_values_are_the_ones_the_catalogue_names(tmp_path: Path) -> None:
    text = 'x,city\n1,NA\n"",Rome\n-99,""\n'
    assert read_table(csv_file(tmp_path, text)).to_pydict() == {
        "x": [1, None, -99],
        "city": [None, "Rome", None],
    }
    assert read_table(csv_file(tmp_path, text, nulls=("-99", ""))).to_pydict() == {
        "x": [1, None, None],
        "city": ["NA", "Rome", None],
    }


def test_csv_delimiter_encoding_and_compression_are_settings(tmp_path: Path) -> None:
    text = "stadt;n\nKöln;1\n"
    data = csv_file(tmp_path, text.encode("latin-1"), delimiter=";", encoding="latin-1")
    assert read_table(data).to_pylist() == [{"stadt": "Köln", "n": 1}]
    packed = csv_file(tmp_path, gzip.compress(text.encode()), "site.csv.gz", delimiter=";")
    assert read_table(packed).to_pylist() == [{"stadt": "Köln", "n": 1}]
    with pytest.raises(DataError, match="is not utf-8 text; set encoding"):
        read_table(csv_file(tmp_path, text.encode("latin-1"), delimiter=";"))


def test_csv_with_a_short_line_is_refused_without_showing_the_line(tmp_path: Path) -> None:
    data = csv_file(tmp_path, "name,age\nada,36\nsecretname\n")
    with pytest.raises(DataError, match="has 1 fields and the header has 2") as caught:
        read_table(data)
    assert "secretname" not in str(caught.value)
    assert "secretname" in (caught.value.detail or "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty; a CSV file has the names of its columns in the first line"),
        ("a,b\n", "the data set has 0 rows; at least 1 is needed"),
        ("a,b,a\n1,2,3\n", "column 'a' stands twice in the data set; rename one"),
    ],
)
def test_csv_without_usable_rows_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_table(csv_file(tmp_path, text))


def test_parquet_keeps_types_tensors_and_missing_values(tmp_path: Path) -> None:
    pixels = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    signal = np.linspace(0, 1, 3 * 2 * 2, dtype=np.float32).reshape(3, 2, 2)
    table = pa.table(
        {
            "image": pa.FixedShapeTensorArray.from_numpy_ndarray(pixels),
            "signal": pa.FixedShapeTensorArray.from_numpy_ndarray(signal),
            "x": pa.array([1.5, None, float("nan")]),
            "sex": pa.array(["f", None, "m"]).dictionary_encode(),
        }
    )
    data = parquet_file(tmp_path / "site.parquet", table)
    assert read_schema(data).field("image").type == pa.fixed_shape_tensor(pa.uint8(), [4, 5])
    read = read_table(data)
    assert read.schema == read_schema(data)
    np.testing.assert_array_equal(read.column("image").combine_chunks().to_numpy_ndarray(), pixels)
    np.testing.assert_array_equal(read.column("signal").combine_chunks().to_numpy_ndarray(), signal)
    x = read.column("x").to_pylist()
    assert x[:2] == [1.5, None] and np.isnan(x[2])
    assert read.schema.field("sex").type == pa.string()
    assert read.column("sex").to_pylist() == ["f", None, "m"]


def test_parquet_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for name, x in (("b/2", 3), ("a", 1), ("b/1", 2)):
        parquet_file(tmp_path / f"{name}.parquet", pa.table({"x": [x]}))
    (tmp_path / "notes.txt").write_text("not data")
    data = ParquetData(connector="parquet", path=tmp_path)
    assert read_table(data).column("x").to_pylist() == [1, 2, 3]


def test_parquet_folder_with_different_columns_is_refused(tmp_path: Path) -> None:
    parquet_file(tmp_path / "1.parquet", pa.table({"x": [1]}))
    parquet_file(tmp_path / "2.parquet", pa.table({"x": [1.5]}))
    with pytest.raises(DataError, match="different columns or types"):
        read_table(ParquetData(connector="parquet", path=tmp_path))


def test_parquet_folder_without_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \*.parquet file below the folder"):
        read_table(ParquetData(connector="parquet", path=tmp_path))


def test_file_that_is_not_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_table(ParquetData(connector="parquet", path=tmp_path / "x.parquet"))


def test_missing_column_names_the_nearest_and_the_allowed(tmp_path: Path) -> None:
    table = pa.table({"age": [1], "weight": [2.0]})
    for data in (
        parquet_file(tmp_path / "s.parquet", table),
        csv_file(tmp_path, "age,weight\n1,2.0\n"),
    ):
        with pytest.raises(
            DataError,
            match="no column 'wieght' in the data set; did you mean \"weight\"\\? allowed: age, weight",
        ):
            read_table(data, ["wieght"])
        with pytest.raises(DataError, match="no column was asked for"):
            read_table(data, [])


def test_missing_row_id_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    data = parquet_file(tmp_path / "s.parquet", pa.table({"patient": [1]}), row_id="pateint")
    for read in (read_schema, read_table):
        with pytest.raises(DataError, match="no column 'pateint', the row_id of the catalogue; did you mean"):
            read(data)


def test_many_columns_are_not_all_listed(tmp_path: Path) -> None:
    table = pa.table({f"gene{i:04d}": [0] for i in range(500)})
    with pytest.raises(DataError, match='did you mean "gene0499"') as caught:
        read_table(parquet_file(tmp_path / "s.parquet", table), ["gene-0499"])
    assert "and 460 more" in str(caught.value) and len(str(caught.value)) < 800


def test_table_above_the_memory_bound_is_refused_with_both_sizes(tmp_path: Path) -> None:
    rows = 200_000
    table = pa.table({"x": np.random.default_rng(0).random(rows), "y": np.zeros(rows)})
    data = parquet_file(tmp_path / "s.parquet", table)
    with pytest.raises(
        DataError, match=r"needs about 3\.2 MB of memory and this site gives a job 2\.0 MB; raise"
    ):
        read_table(data, memory=2_000_000)
    assert read_table(data, ["x"], memory=2_000_000).num_rows == rows  # one column fits
    text = csv_file(tmp_path, "x\n" + "1.25\n" * rows)
    with pytest.raises(
        DataError, match=r"needs at least 1\.0 MB of memory and this site gives a job 500\.0 kB"
    ):
        read_table(text, memory=500_000)
    with pytest.raises(DataError, match=r"needs 1\.6 MB of memory"):
        read_table(text, memory=1_100_000)


def test_missing_file_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file .*gone.csv: .* holds no gone.csv; correct path"):
        read_table(CsvData(connector="csv", path=tmp_path / "gone.csv"))
    with pytest.raises(DataError, match=r"no file .*x.parquet: no folder .*nowhere"):
        read_table(ParquetData(connector="parquet", path=tmp_path / "nowhere" / "x.parquet"))
    with pytest.raises(DataError, match="is a folder; this connector reads one file"):
        read_table(CsvData(connector="csv", path=tmp_path))
