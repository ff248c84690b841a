"""The base of the strategies: extra arrays, state, names, dtypes, empty rounds."""

import doctest

import numpy as np
import pytest
from flwr.app import Message

import strategies.base
from strategies.base import Strategy, StrategyError, split, to_arrays, to_record
from tests.strategies.toy_federation import run, unlike_sites, weights

MODEL = {"w": np.arange(3, dtype=np.float32), "seen": np.array(7, dtype=np.int64)}


class Momentum(Strategy):
    def begin(self, arrays):
        return {"step": np.zeros_like(arrays["w"])}

    def update(self, current, mean):
        step = mean["w"] - current["w"] + 0.5 * current["extra/step"]
        return {"w": current["w"] + step, "extra/step": step}


def test_the_toys_in_the_docstrings_print_what_they_say():
    assert doctest.testmod(strategies.base).failed == 0


def test_plain_strategy_is_the_weighted_mean_of_local_training():
    sites = unlike_sites(steps=(4, 4, 4))
    w = np.zeros(3)
    for found in run(Strategy(), sites, 5):
        ends = []
        for site in sites:
            end = w
            for _ in range(4):
                end = end - 0.1 * site.gradient(end)
            ends.append(end)
        w = weights(sites) @ np.array(ends)
        np.testing.assert_allclose(found, w, rtol=1e-12)


def test_extra_arrays_go_down_come_back_through_update_and_never_enter_the_model():
    strategy = Momentum()
    sent = strategy.outgoing(MODEL)
    assert sorted(sent) == ["extra/step", "seen", "w"]
    new = strategy.incoming(sent, {"w": MODEL["w"] + 2, "seen": np.array(7.0)})
    assert sorted(new) == ["seen", "w"]
    np.testing.assert_array_equal(strategy.outgoing(new)["extra/step"], np.full(3, 2, np.float32))


def test_begin_is_not_repeated_on_a_restored_state():
    first = Momentum()
    sent = first.outgoing(MODEL)
    model = first.incoming(sent, {"w": MODEL["w"] + 2, "seen": np.array(7.0)})
    restored = Momentum()
    restored.state = dict(first.state)
    np.testing.assert_array_equal(restored.outgoing(model)["extra/step"], first.state["extra/step"])


def test_dtypes_of_the_model_survive_a_mean_in_floats():
    strategy = Strategy()
    sent = strategy.outgoing(MODEL)
    new = strategy.incoming(sent, {"w": np.zeros(3), "seen": np.array(9.6)})
    assert new["w"].dtype == np.float32
    assert new["seen"].dtype == np.int64
    assert new["seen"] == 10


def test_an_array_that_no_site_sent_stays_as_it_is():
    strategy = Strategy()
    new = strategy.incoming(strategy.outgoing(MODEL), {"w": np.ones(3, np.float32)})
    assert new["seen"] == 7


def test_an_unknown_name_from_update_is_an_error_that_names_it():
    class Misspelt(Strategy):
        def update(self, current, mean):
            return {"weight": mean["w"]}

    strategy = Misspelt()
    with pytest.raises(StrategyError, match="'weight'"):
        strategy.incoming(strategy.outgoing(MODEL), {"w": MODEL["w"], "seen": MODEL["seen"]})


def test_another_shape_from_update_is_an_error():
    class Flattened(Strategy):
        def update(self, current, mean):
            return {"w": np.zeros(4)}

    strategy = Flattened()
    with pytest.raises(StrategyError, match=r"\(3,\) to \(4,\)"):
        strategy.incoming(strategy.outgoing(MODEL), {"w": MODEL["w"]})


def test_a_round_without_replies_changes_nothing():
    strategy = Momentum()
    strategy.outgoing(MODEL)
    before = {name: array.copy() for name, array in strategy.state.items()}
    replies: list[Message] = []
    assert strategy.aggregate_train(1, replies) == (None, None)
    np.testing.assert_equal(strategy.state, before)


def test_records_and_arrays_convert_into_each_other():
    again = to_arrays(to_record(MODEL))
    for name, array in MODEL.items():
        np.testing.assert_array_equal(again[name], array)
        assert again[name].dtype == array.dtype


def test_split_takes_the_prefix_off():
    assert split({"a": 1, "extra/b": 2}) == ({"a": 1}, {"b": 2})


def test_running_statistics_are_averaged_and_never_reach_update():
    class Double(Strategy):
        def update(self, current, mean):
            assert "bn.running_var" not in {*current, *mean}
            return {name: 2 * array for name, array in mean.items()}

    strategy = Double()
    model = {"bn.weight": np.ones(2), "bn.running_var": np.ones(2)}
    new = strategy.incoming(strategy.outgoing(model), {name: array * 3 for name, array in model.items()})
    np.testing.assert_array_equal(new["bn.weight"], [6.0, 6.0])
    np.testing.assert_array_equal(new["bn.running_var"], [3.0, 3.0])
