"""Histograms of the kernel and of plain torch against sums made row by row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.errors import DataError
from fedcore.learning.kernels import dispatch, histograms, triton_histograms

Table = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def table(rows: int, features: int, c: int, bins: int, nodes: int) -> Table:
    source = torch.Generator().manual_seed(rows + 7 * features)
    codes = torch.randint(0, bins, (rows, features), generator=source).to(torch.uint8)
    values = torch.randn(rows, c, generator=source) * 10.0 ** torch.randint(
        -3, 4, (rows, 1), generator=source
    )
    where = torch.randint(-1, nodes, (rows,), generator=source).to(torch.int32)
    return codes, values, where


def exact(
    codes: torch.Tensor, values: torch.Tensor, where: torch.Tensor, bins: int, nodes: int
) -> np.ndarray:
    found = np.zeros((nodes, codes.shape[1], bins, values.shape[1]))
    inside = where.numpy() >= 0
    for feature in range(codes.shape[1]):
        np.add.at(
            found,
            (where.numpy()[inside], feature, codes.numpy()[inside, feature]),
            values.double().numpy()[inside],
        )
    return found


def assert_right(of: Table, bins: int, nodes: int) -> None:
    wanted = exact(*of, bins, nodes)
    for found in (
        histograms.histograms(*of, bins, nodes),
        histograms.histograms_plain(*of, bins, nodes),
    ):
        assert found.dtype == torch.float32 and found.shape == wanted.shape
        np.testing.assert_allclose(
            found.numpy(), wanted, rtol=1e-5, atol=1e-5 * max(np.abs(wanted).max(), 1e-9)
        )


@settings(max_examples=12)
@given(
    rows=st.integers(1, 150),
    features=st.integers(1, 4),
    c=st.integers(1, 6),
    bins=st.sampled_from([1, 2, 15, 16, 17, 63]),
    nodes=st.integers(1, 6),
)
def test_sums_are_those_of_the_rows(rows: int, features: int, c: int, bins: int, nodes: int) -> None:
    assert_right(table(rows, features, c, bins, nodes), bins, nodes)


def test_the_most_bins_and_more_rows_than_a_program_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_histograms, "BLOCKS", 3)
    assert_right(table(400, 2, 2, 256, 1), 256, 1)
    assert_right(table(400, 2, 2, 40, 5), 40, 5)


def test_strides_do_not_matter() -> None:
    codes, values, where = table(50, 6, 4, 9, 2)
    by_feature = codes.T.contiguous().T
    assert_right((by_feature[:, ::2], values[:, ::2], where), 9, 2)


def test_nodes_without_rows_and_rows_without_a_node_are_zero() -> None:
    codes, values, where = table(40, 2, 2, 5, 1)
    where[:] = 3
    assert_right((codes, values, where), 5, 6)
    where[:] = -1
    assert_right((codes, values, where), 5, 6)


def test_values_of_float32_are_summed_to_their_last_bit() -> None:
    codes, where = torch.zeros(2, 1, dtype=torch.uint8), torch.zeros(2, dtype=torch.int32)
    values = torch.tensor([[1.0 + 2**-23], [-1.0]])

    assert histograms.histograms(codes, values, where, 1, 1).item() == 2**-23


@pytest.mark.parametrize(("rows", "features", "c"), [(0, 2, 3), (3, 0, 2), (3, 2, 0)])
def test_nothing_sums_to_zero(rows: int, features: int, c: int) -> None:
    codes, values = torch.zeros(rows, features, dtype=torch.uint8), torch.ones(rows, c)
    found = histograms.histograms(codes, values, torch.zeros(rows, dtype=torch.int32), 4, 2)

    assert torch.equal(found, torch.zeros(2, features, 4, c))


def test_what_is_out_of_range_is_refused_before_it_is_summed() -> None:
    codes, values, where = table(20, 2, 2, 4, 3)
    for bins, nodes in ((int(codes.max()), 3), (4, int(where.max()))):
        with pytest.raises(DataError, match="out of range; allowed: bins below"):
            histograms.histograms(codes, values, where, bins, nodes)
    for bad in (float("nan"), float("inf"), 2e38):
        broken = values.clone()
        broken[3, 1] = bad
        with pytest.raises(DataError, match="finite values within"):
            histograms.histograms(codes, broken, where, 4, 3)
    with pytest.raises(DataError, match="nodes from -1"):
        histograms.histograms(codes, values, where - 2, 4, 3)
    for bins, nodes in ((0, 1), (257, 1), (4, 0)):
        with pytest.raises(DataError, match="1 to 256 bins"):
            histograms.histograms(codes, values, where, bins, nodes)


def test_shapes_and_types_are_told() -> None:
    codes, values, where = table(20, 2, 2, 4, 3)
    for wrong in ((codes.long(), values, where), (codes, values.double(), where), (codes, values, where[1:])):
        with pytest.raises(DataError, match=r"allowed: uint8 \[rows, features\]"):
            histograms.histograms(*wrong, 4, 3)


def test_the_kernel_is_what_ran(caplog: pytest.LogCaptureFixture) -> None:
    of = table(20, 2, 2, 4, 3)
    histograms.histograms(*of, 4, 3)

    assert dispatch.usable(*of) and not caplog.records


def test_the_floor_counts_each_number_once() -> None:
    assert histograms.floor(100, 5, 2, 64, 3) == (100 * 17 + 4 * 3 * 5 * 64 * 2, 1000)
