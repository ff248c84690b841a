"""Stability of own columns: a figure by hand, parts without rows, bins without rows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedcore.errors import DataError
from fedcore.vertical.binning import Bins
from fedcore.vertical.evidence import Variable, WoeResult
from fedcore.vertical.stability import stability
from fedcore.vertical.table import Table


def known(*names: str) -> WoeResult:
    """Variables with the bins below 1, from 1, missing."""
    none = np.zeros(3, dtype=np.int64)
    bins = Bins(True, edges=(1.0,))
    return WoeResult(
        tuple(Variable("own", name, 0, True, 2, none, None, None, np.zeros(3), 0, 0, bins) for name in names)
    )


def test_the_index_is_that_of_the_shares_of_bins() -> None:
    part = np.array([0] * 10 + [1] * 10, dtype=np.int8)
    column = np.array([0] * 4 + [1] * 6 + [0] * 7 + [1] * 3, dtype=np.float64)
    found = stability(Table({"age": column}, part), known("age"))
    expected = (0.7 - 0.4) * math.log(0.7 / 0.4) + (0.3 - 0.6) * math.log(0.3 / 0.6)
    assert found == {"age": {"test": pytest.approx(expected)}}


def test_a_bin_without_rows_on_one_side_counts_half_a_row() -> None:
    part = np.array([0] * 10 + [2] * 20, dtype=np.int8)
    column = np.array([0.0] * 5 + [1.0] * 5 + [0.0] * 10 + [math.nan] * 10)
    found = stability(Table({"age": column}, part), known("age"))
    gone, new = (0.5 / 20 - 0.5) * math.log(0.5 / 20 / 0.5), (0.5 - 0.05) * math.log(0.5 / 0.05)
    assert found["age"] == {"out of time": pytest.approx(gone + new)}


def test_equal_shares_have_index_0() -> None:
    part = np.array([0, 0, 1, 1], dtype=np.int8)
    table = Table({"age": np.array([0.0, 1.0, 1.0, 0.0])}, part)
    assert stability(table, known("age"))["age"]["test"] == 0


def test_a_column_that_is_not_there_is_named() -> None:
    table = Table({"age": np.zeros(3)}, np.zeros(3, dtype=np.int8))
    with pytest.raises(DataError, match="column 'income' is not in the table"):
        stability(table, known("age", "income"))
