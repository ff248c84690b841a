"""The folded mean against numpy in double precision, Flower's own FedAvg and the definition of NaN."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from hypothesis import given
from hypothesis import strategies as st

from fedcore.coordinator.grids.layer import Layer
from fedcore.coordinator.grids.mean import (
    EXAMPLES,
    MeanGrid,
    MetricMean,
    RunningMean,
    mean_metrics,
    with_all_metrics,
)
from fedcore.flower import error_reply, ndarrays
from tests.messages import message, reply_to

WEIGHTS = st.floats(1e-3, 1e6)


class Answers(Layer):
    """A grid whose replies a test makes."""

    def __init__(self, replies: list[Message]) -> None:
        self.replies = replies

    def stream(self, messages: Any, timeout: float | None) -> Any:
        yield from self.replies


def folded(replies: list[Message]) -> list[Message]:
    return list(MeanGrid(Answers(replies)).send_and_receive([message()], timeout=1))


def replies_of(count: int, seed: int = 0, scale: float = 1.0) -> list[Message]:
    rng = np.random.default_rng(seed)
    return [
        reply_to(
            message(node=i),
            {
                "w": (scale * rng.normal(size=(40, 30))).astype(np.float32),
                "b": rng.normal(size=30),
                "n": np.array(rng.integers(0, 100)),
                "scalar": np.array(rng.normal(), np.float32),
            },
            int(rng.integers(1, 1000)),
            loss=float(rng.normal()),
            accuracy=float(rng.random()),
        )
        for i in range(count)
    ]


# ---- arrays -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 7, 60])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_mean_is_numpy_s_in_double_precision(count, scale) -> None:
    replies = replies_of(count, count, scale)
    (reply,) = folded(replies_of(count, count, scale))
    weights = [r.content["metrics"][EXAMPLES] for r in replies]
    found = ndarrays(reply.content["arrays"])
    for name, dtype in {"w": np.float32, "b": np.float64, "n": np.float64, "scalar": np.float32}.items():
        values = [ndarrays(r.content["arrays"])[name].astype(np.float64) for r in replies]
        expected = np.average(values, axis=0, weights=weights)
        assert found[name].dtype == dtype and found[name].shape == expected.shape
        # One rounding to the array's own dtype (half of a last place), nothing more.
        half = 2.0**-24 if dtype == np.float32 else 1e-15
        np.testing.assert_allclose(found[name], expected, rtol=half, atol=1e-13 * scale)
    assert reply.content["metrics"][EXAMPLES] == sum(weights)


def test_flower_s_fedavg_over_the_one_reply_is_its_result_over_all() -> None:
    replies = replies_of(9)
    (reply,) = folded(replies_of(9))
    for strategy in (FedAvg(), FedAvg(train_metrics_aggr_fn=mean_metrics)):
        all_arrays, all_metrics = strategy.aggregate_train(1, replies)
        one_arrays, one_metrics = strategy.aggregate_train(1, [reply])
        for name, value in ndarrays(all_arrays).items():
            np.testing.assert_allclose(
                ndarrays(one_arrays)[name], value, rtol=0, atol=1e-7 * (1 + abs(value).max())
            )
        assert set(one_metrics) == set(all_metrics)
        for name in all_metrics:
            assert one_metrics[name] == pytest.approx(all_metrics[name], abs=1e-12)


@given(st.permutations(range(6)))
def test_the_order_of_the_replies_changes_less_than_one_rounding(order) -> None:
    replies = replies_of(6)
    (base,), (other,) = folded(replies), folded([replies_of(6)[i] for i in order])
    for name, value in ndarrays(base.content["arrays"]).items():
        if value.dtype == np.float32:
            found = ndarrays(other.content["arrays"])[name]
            np.testing.assert_allclose(found, value, rtol=2.0**-23, atol=1e-14)


def test_a_mean_of_equal_arrays_is_that_array() -> None:
    value = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    mean = RunningMean()
    for i, examples in enumerate([1, 3, 7, 11]):
        mean.add(reply_to(message(node=i), {"w": value}, examples).content)
    np.testing.assert_array_equal(ndarrays(mean.content()["arrays"])["w"], value)


def test_the_replies_themselves_are_not_changed() -> None:
    replies = replies_of(3)
    before = [{k: v.copy() for k, v in ndarrays(r.content["arrays"]).items()} for r in replies]
    mean = RunningMean()
    for reply in replies:
        mean.add(reply.content)
    mean.content()
    for reply, values in zip(replies, before, strict=True):
        assert all(np.array_equal(ndarrays(reply.content["arrays"])[k], v) for k, v in values.items())


def test_error_replies_are_dropped_and_without_any_other_there_is_none() -> None:
    good, bad = replies_of(2), error_reply(message(node=9), "lost")
    (reply,) = folded([bad, *good])
    (expected,) = folded(replies_of(2))
    np.testing.assert_array_equal(
        reply.content["arrays"]["w"].numpy(), expected.content["arrays"]["w"].numpy()
    )
    assert folded([bad, bad]) == [] and folded([]) == []


def test_an_evaluation_has_metrics_and_no_arrays() -> None:
    replies = [reply_to(message(node=i), None, 10 * (i + 1), auc=0.5 + i / 10) for i in range(2)]
    (reply,) = folded(replies)
    assert set(reply.content) == {"metrics"}
    assert reply.content["metrics"]["auc"] == pytest.approx((0.5 * 10 + 0.6 * 20) / 30)


def test_the_reply_still_names_a_message_that_was_sent() -> None:
    replies = replies_of(3)
    asked = {reply.metadata.reply_to_message_id for reply in replies}
    assert folded(replies)[0].metadata.reply_to_message_id in asked


# ---- metrics ------------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(WEIGHTS, st.just(math.nan) | st.floats(-1e6, 1e6), st.floats(0, 1)),
        min_size=1,
        max_size=20,
    )
)
def test_a_metric_is_averaged_over_those_where_it_is_defined(sites) -> None:
    contents = [
        RecordDict({"metrics": MetricRecord({EXAMPLES: w, "auc": auc, "loss": loss})})
        for w, auc, loss in sites
    ]
    found = mean_metrics(contents, EXAMPLES)
    weights, aucs, losses = (np.array(column) for column in zip(*sites, strict=True))
    here = ~np.isnan(aucs)
    if here.any():
        assert found["auc"] == pytest.approx(
            np.average(aucs[here], weights=weights[here]), rel=1e-9, abs=1e-6
        )
    else:
        assert math.isnan(found["auc"])
    assert found["loss"] == pytest.approx(np.average(losses, weights=weights), rel=1e-9, abs=1e-12)
    assert set(found) == {"auc", "loss"}


def test_a_metric_that_only_some_report_is_averaged_over_them_and_lists_are_left_out() -> None:
    mean = MetricMean()
    mean.add(MetricRecord({EXAMPLES: 3, "a": 1.0, "list": [1.0, 2.0]}), 3)
    mean.add(MetricRecord({EXAMPLES: 1, "a": 5.0, "b": 7}), 1)
    assert mean.means() == {"a": 2.0, "b": 7.0}
    assert MetricMean().means() == {}


def test_replies_with_different_metrics_give_flower_the_same_mean_as_the_folded_one() -> None:
    def replies() -> list[Message]:
        told = [{"loss": 1.0, "auc": 0.5}, {"loss": 3.0}, {"auc": 0.9}]
        return [reply_to(message(node=i), None, i + 1, **metrics) for i, metrics in enumerate(told)]

    (one,) = folded(replies())
    each = [*replies(), error_reply(message(node=9), "lost")]
    with_all_metrics(each)
    strategy = FedAvg(evaluate_metrics_aggr_fn=mean_metrics)
    found = strategy.aggregate_evaluate(1, each)
    expected = {name: value for name, value in one.content["metrics"].items() if name != EXAMPLES}
    assert dict(found) == pytest.approx(expected) == {"loss": 7 / 3, "auc": (0.5 + 2.7) / 4}
    with_all_metrics([])


def test_it_is_a_flower_grid() -> None:
    assert isinstance(MeanGrid(Answers([])), Grid)
