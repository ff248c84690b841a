"""What the words of `fedcore psi` mean, and what is said of those that mean nothing."""

from __future__ import annotations

import sqlite3
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crypto.psi.items import ItemRules
from fedcore.cli import psi_words
from fedcore.cli.psi_words import bounds_of, data_of, holder_of, holder_of_two, reveal_of, side_of
from fedcore.errors import DataError, JobError
from fedcore.participant.data.batches import read_batches


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Parquet with two columns beside the key."""
    pq.write_table(pa.table({"id": [1], "income": [2], "tax": [3]}), tmp_path / "a.parquet")
    return tmp_path / "a.parquet"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Parquet with the key and one column of the first file."""
    pq.write_table(pa.table({"id": [1], "income": [5], "calls": [2]}), tmp_path / "b.parquet")
    return tmp_path / "b.parquet"


@pytest.fixture
def sqlite(tmp_path: Path) -> Path:
    """Two tables."""
    path = tmp_path / "many.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE customers (id INTEGER)")
        database.executemany("INSERT INTO customers VALUES (?)", [(1,), (2,)])
        database.execute("CREATE TABLE orders (id INTEGER, amount REAL)")
    return path


def ids(data: Any) -> list[int]:
    return [value for batch in read_batches(data, ["id"]) for value in batch.column("id").to_pylist()]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("rows", ("rows", ())),
        ("cardinality", ("cardinality", ())),
        ("sum:income", ("sum", ("income",))),
        ("sum:income, tax", ("sum", ("income", "tax"))),
        ("sum:a:b", ("sum", ("a:b",))),
    ],
)
def test_what_is_revealed(text: str, meant: tuple[str, tuple[str, ...]]) -> None:
    assert reveal_of(text) == meant


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sum", "names no column; write sum:COLUMN"),
        ("sum:", "names no column"),
        ("sum:a,,b", "names no column"),
        ("row", 'did you mean "rows"? allowed: cardinality, rows, sum:COLUMN'),
        ("rows:income", "rows takes no column; write rows, or sum:income"),
    ],
)
def test_what_cannot_be_revealed(text: str, said: str) -> None:
    with pytest.raises(JobError) as caught:
        reveal_of(text)
    assert said in str(caught.value)


def test_bounds_are_two_numbers() -> None:
    assert bounds_of("-10:2.50") == (Decimal("-10"), Decimal("2.5"))
    for wrong in ("10", "a:b", "1:", ":", "0:inf", "nan:1"):
        with pytest.raises(JobError, match="allowed: two numbers"):
            bounds_of(wrong)


# ---- data ---------------------------------------------------------------------------------------------------------


def test_a_table_of_several_is_named(sqlite: Path) -> None:
    assert ids(data_of(sqlite, "customers")) == [1, 2]
    with pytest.raises(DataError, match="has 2 tables: customers, orders"):
        data_of(sqlite)


def test_a_catalogue_gives_a_data_set_by_its_name(sqlite: Path, tmp_path: Path) -> None:
    catalogue = tmp_path / "bank.yaml"
    entry = "{connector: sqlite, path: many.sqlite, query: SELECT id + 5 AS id FROM customers}"
    catalogue.write_text(f"name: bank\ncatalogue:\n  customers: {entry}\n")
    assert ids(data_of(catalogue)) == ids(data_of(catalogue, None, "customers")) == [6, 7]
    catalogue.write_text(
        catalogue.read_text() + "  orders: {connector: sqlite, path: many.sqlite, table: orders}\n"
    )
    with pytest.raises(JobError, match=r"2 data sets \(customers, orders\); give --dataset NAME"):
        data_of(catalogue)
    with pytest.raises(JobError, match='did you mean "customers"'):
        data_of(catalogue, None, "custmers")
    with pytest.raises(JobError, match="says which table"):
        data_of(catalogue, "customers", "customers")


def test_a_server_stands_in_a_catalogue(tmp_path: Path) -> None:
    catalogue = tmp_path / "bank.yml"
    url = "postgresql://reader@db.bank.example/crm"
    catalogue.write_text(
        f'name: bank\ncatalogue:\n  customers: {{connector: postgresql, url: "{url}", table: c}}\n'
    )
    data = data_of(catalogue)
    assert (data.connector, data.url) == ("postgresql", url)  # type: ignore[union-attr]


def test_a_catalogue_with_a_fault_and_a_data_set_of_no_catalogue_are_refused(
    file: Path, tmp_path: Path
) -> None:
    (tmp_path / "bank.yaml").write_text("name: bank\ncatalogue:\n  x: {connector: parket, path: x}\n")
    with pytest.raises(JobError, match="parquet"):
        data_of(tmp_path / "bank.yaml")
    with pytest.raises(JobError, match="is not a catalogue"):
        data_of(file, None, "customers")
    with pytest.raises(DataError, match="is not a database"):
        data_of(file, "customers")


# ---- who has the columns ------------------------------------------------------------------------------------------


def test_who_has_the_columns_is_the_holder(file: Path, other: Path) -> None:
    first, second = data_of(file), data_of(other)
    assert holder_of(first, ("income", "tax"), "sender", None) == "sender"
    assert holder_of(first, ("calls",), "sender", None) == "receiver"
    assert holder_of(first, ("income",), "sender", "receiver") == "receiver"
    with pytest.raises(DataError, match="column income is here and calls is not"):
        holder_of(first, ("income", "calls"), "sender", None)
    with pytest.raises(JobError, match='did you mean "sender"'):
        holder_of(first, ("income",), "sender", "sendr")
    assert holder_of_two(first, second, ("tax",), None) == "left"
    assert holder_of_two(first, second, ("calls", "income"), None) == "right"
    assert holder_of_two(first, second, ("income",), "right") == "right"
    with pytest.raises(JobError, match="both files have income; say whose is added up: --holder left or"):
        holder_of_two(first, second, ("income",), None)
    with pytest.raises(
        DataError, match="neither file has all of tax, calls; the columns are left: id, income, tax"
    ):
        holder_of_two(first, second, ("tax", "calls"), None)
    with pytest.raises(JobError, match='did you mean "right"'):
        holder_of_two(first, second, ("income",), "rihgt")


def side(file: Path, **options: Any) -> Any:
    given = {"role": "receiver", "protocol": None, "reveal": "rows", "both": False, "memory": None}
    given |= {
        "min_matches": None,
        "scale": None,
        "bounds": None,
        "holder": None,
        "published": None,
        **options,
    }
    return side_of(given.pop("role"), data_of(file), ["id"], "s", ItemRules(), **given)


@pytest.mark.parametrize(
    ("options", "protocol", "least"),
    [
        ({}, "vole", 0),
        ({"reveal": "cardinality"}, "ecdh", 0),
        ({"reveal": "sum:tax"}, "ecdh", 5),
        ({"reveal": "sum:tax", "min_matches": 0}, "ecdh", 0),
        ({"protocol": "ecdh"}, "ecdh", 0),
        ({"published": Path("x.psi")}, "ecdh-cached", 0),
    ],
)
def test_what_is_not_said_is_chosen_safely(
    options: dict[str, Any], protocol: str, least: int, file: Path
) -> None:
    made = side(file, **options)
    assert (made.protocol, made.min_matches) == (protocol, least)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"reveal": "sum:tax", "protocol": "vole"}, "for a sum alone take protocol ecdh"),
        ({"reveal": "sum:tax", "both": True}, "the receiver alone learns the sum"),
        ({"scale": 2}, "--amount-scale: it is for --reveal sum:COLUMN"),
        ({"bounds": "0:1", "reveal": "cardinality"}, "--amount-bounds: it is for"),
        ({"holder": "sender"}, "--holder: it is for"),
        ({"reveal": "sum:tax", "role": "reciever"}, "role: 'reciever' is not known"),
        ({"reveal": "sum:tax", "bounds": "1:2"}, "do not enclose 0"),
        ({"memory": 1000}, "at least 67108864"),
    ],
)
def test_words_that_do_not_go_together_are_refused_before_the_data_is_looked_at(
    options: dict[str, Any], said: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looked(*given: Any) -> Any:
        raise AssertionError("the data is not to be looked at")

    monkeypatch.setattr(psi_words, "columns_there", looked)
    with pytest.raises(JobError) as caught:
        side(file, **options)
    assert said in str(caught.value)


def test_limits_of_numbers_are_refused_where_the_other_party_has_the_columns(file: Path) -> None:
    assert side(file, reveal="sum:tax", scale=2, bounds="0:10").sum_of.bounds == (0, 10)
    with pytest.raises(JobError, match="they are for the party that holds the columns"):
        side(file, reveal="sum:calls", scale=2)
