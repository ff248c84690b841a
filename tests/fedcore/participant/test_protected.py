"""Arrays and metrics as one vector of integers: sums of vectors stand for weighted means."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.errors import DataError, JobError
from fedcore.participant.protected import Form, Layout, pack, same_metrics, unpack


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 9),
    st.lists(st.lists(st.integers(0, 6), max_size=3), min_size=1, max_size=4),
    st.lists(st.sampled_from(["<f4", "<f8", "<f2", "<i8"]), min_size=4, max_size=4),
    st.integers(1, 10**5),
    st.sampled_from([32, 64]),
    st.integers(0, 2**32),
)
def test_a_sum_of_vectors_stands_for_the_weighted_mean(
    participants: int, shapes: list[list[int]], dtypes: list[str], largest: int, bits: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    form = Form(4.0, participants, largest, bits, metrics=("loss",))
    before = {
        f"a{i}": rng.normal(scale=9, size=s).astype(d)
        for i, (s, d) in enumerate(zip(shapes, dtypes, strict=False))
    }
    weights = rng.integers(1, largest, participants, endpoint=True)
    sent: list[dict[str, Any]] = [
        {n: (b + rng.uniform(-1, 1, b.shape) * 3).astype(b.dtype) for n, b in before.items()} for _ in weights
    ]
    losses = rng.normal(scale=1000, size=participants)
    total, layout = None, None
    for update, weight, loss in zip(sent, weights, losses, strict=True):
        vector, layout = pack(update, before, {"loss": loss, "num-examples": int(weight)}, form)
        total = vector if total is None else total + vector
    assert total is not None and layout is not None
    mean = unpack(total, Layout.from_json(layout.to_json()), before, form)
    assert mean.weight == weights.sum() and mean.clipped == 0
    assert mean.metrics["loss"] == pytest.approx(np.average(losses, weights=weights), rel=1e-9, abs=1e-6)
    bound = form.narrow.error_bound(int(weights.sum()), participants)
    for name, old in before.items():
        wanted = np.average([np.asarray(u[name], np.float64) for u in sent], axis=0, weights=weights)
        eps = np.finfo(old.dtype).eps if old.dtype.kind == "f" else 1e-9
        np.testing.assert_allclose(mean.arrays[name], wanted, rtol=4 * eps, atol=bound + 40 * eps)
        assert mean.arrays[name].shape == old.shape


def test_a_metric_counts_where_it_is_defined_and_unknown_ones_have_spare_places() -> None:
    form = Form(1.0, 2, 10, metrics=("auc",))
    one, layout = pack({}, {}, {"auc": math.nan, "extra": 3.0, "num-examples": 4}, form)
    two, other = pack({}, {}, {"auc": 0.75, "extra": 6.0, "num-examples": 8, "listed": [1]}, form)
    assert layout == other and layout.metrics == ("auc", "extra")
    mean = unpack(one + two, layout, {}, form)
    assert mean.metrics["auc"] == pytest.approx(0.75, abs=1e-9)
    assert mean.metrics["extra"] == pytest.approx(5.0, abs=1e-9)
    assert math.isnan(unpack(one, layout, {}, form).metrics["auc"])


def test_metrics_that_do_not_stand_at_one_place_wait_for_the_next_round() -> None:
    form = Form(1.0, 2, 10, metrics=("a",))
    assert same_metrics([("a", "b"), ("a", "b")], form) == (("a", "b"), ("a", "b"))
    assert same_metrics([("a", "b"), ("a",)], form) == (("a",), ("a", "b"))


def test_arrays_that_no_clip_fits_are_not_clipped() -> None:
    form = Form(0.5, 3, 100)
    arrays = {
        "bn.running_var": np.array([5e4, 0.25], np.float32),
        "count": np.array(2**20, np.int64),
        "extra/steps": np.array([640.0]),
        "w": np.array([9.0, 0.25], np.float32),
    }
    vector, layout = pack(arrays, {}, {"num-examples": 7}, form)
    mean = unpack(vector, layout, {}, form)
    assert mean.arrays["bn.running_var"].tolist() == [5e4, 0.25]
    assert mean.arrays["count"] == 2**20 and mean.arrays["extra/steps"].tolist() == [640.0]
    np.testing.assert_allclose(mean.arrays["w"], [0.5, 0.25], atol=1e-6)
    assert mean.clipped == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["w", "bn.running_mean"])
def test_an_array_that_is_not_finite_is_refused(name: str, bad: float) -> None:
    with pytest.raises(DataError, match="NaN"):
        pack({name: np.array([1.0, bad])}, {}, {"num-examples": 1}, Form(1.0, 3, 10))


@pytest.mark.parametrize("bad", [np.inf, 1e9])
def test_a_metric_that_no_sum_can_take_is_refused_by_name_without_its_value(bad: float) -> None:
    with pytest.raises(DataError, match="'loss'") as caught:
        pack({}, {}, {"loss": bad, "num-examples": 1}, Form(1.0, 3, 10))
    assert str(int(1e9)) not in str(caught.value)


@pytest.mark.parametrize("examples", [0, -1, 1.5, math.nan, math.inf, None, [1], 11])
def test_a_number_of_examples_that_is_no_weight_is_refused(examples: Any) -> None:
    metrics = {} if examples is None else {"num-examples": examples}
    with pytest.raises(JobError, match=r"num-examples|largest_weight"):
        pack({}, {}, metrics, Form(1.0, 3, 10))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"clip": 1}',
        '{"clip": 0, "cohort": 3, "largest_weight": 1, "metrics": []}',
        '{"clip": 1, "cohort": 3, "largest_weight": 1, "metrics": [], "bits": 16}',
        '{"clip": 1, "cohort": 3, "largest_weight": 1, "metrics": [], "spare": 100000000}',
    ],
)
def test_a_form_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(JobError, match="form"):
        Form.from_json(text)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"arrays": [{}], "metrics": []}', '{"arrays": 5, "metrics": []}', '{"metrics": []}']
)
def test_a_layout_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Layout.from_json(text)
