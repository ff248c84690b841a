"""How many rows carry a column: exact for columns of two values, n over the kurtosis for others, few for a far row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedcore.analytics.questions.concentration import carrying, powers, two_valued
from tests.fedcore.analytics.over_sites import lung


def standard(values: np.ndarray) -> np.ndarray:
    return ((values - values.mean()) / values.std())[:, None]


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 3000), st.data())
def test_the_rows_on_the_smaller_side_of_two_values_are_counted_exactly(rows: int, data: st.DataObject):
    few = data.draw(st.integers(1, rows - 1))
    first, second = data.draw(st.sampled_from([(0.0, 1.0), (1.0, 2.0), (7.0, -3e5), (1e6, 1e6 + 1)]))
    total = powers(standard(np.where(np.arange(rows) < few, first, second)))
    assert carrying(total) == two_valued(total) == [min(few, rows - few)]


def test_columns_about_zero_are_counted_about_their_mean():
    values = np.where(np.arange(237) < 3, 1.0, 2.0)
    assert carrying(powers((values / np.sqrt((values**2).mean()))[:, None])) == [3]


def test_sums_over_sites_give_what_all_rows_give():
    z = standard(np.random.default_rng(0).normal(size=400))
    parts = [powers(each) for each in np.split(z, [0, 30, 31, 200])]
    whole = carrying(powers(z))
    np.testing.assert_allclose(carrying(np.sum(parts, axis=0)), whole, rtol=1e-10)
    np.testing.assert_allclose(whole, 400 / stats.kurtosis(z[:, 0], fisher=False), rtol=1e-10)
    assert two_valued(powers(z)) == [np.inf]


@pytest.mark.parametrize("rows", [50, 237, 5000])
def test_one_far_row_of_many_carries_the_variance(rows: int):
    values = np.random.default_rng(rows).normal(size=rows)
    values[0] = 20 * np.sqrt(rows)
    assert carrying(powers(standard(values)))[0] < 1.2


def test_a_column_that_does_not_vary_has_all_rows():
    for value in (0.0, 0.1, -1e9):
        assert carrying(powers(np.full((40, 1), value))) == [40]
        assert two_valued(powers(np.full((40, 1), value))) == [np.inf]


def test_weights_make_few_rows_of_many():
    z = standard(np.random.default_rng(1).normal(size=300))
    one = np.ones_like(z)
    heavy = np.where(np.arange(300) < 3, 1e4, 1.0)
    assert carrying(powers(one, heavy))[0] < 3.1 and carrying(powers(z, heavy))[0] < 3.1
    twice = carrying(powers(z, np.full(300, 2.0)))
    np.testing.assert_allclose(twice, carrying(powers(z)), rtol=1e-12)


def test_columns_of_lung_cancer_are_far_from_the_least_cell():
    for name, values in lung().items():
        assert carrying(powers(standard(values[~np.isnan(values)])))[0] > 25, name
