"""The server optimizers against their papers in numpy; running statistics are averaged, not stepped."""

import numpy as np
import pytest
from flwr.serverapp import strategy as flower

from strategies.registry import build
from tests.strategies.toy_messages import one_round

START = {
    "w": np.array([1.0, -2.0]),
    "bn.running_var": np.array([0.02, 0.5]),
    "bn.num_batches_tracked": np.array(4),
}
ROWS = (10, 30)


def rounds(strategy, count):
    """Two sites that move halfway to their own targets; the server's weights after each round."""
    model, path = dict(START), []
    for number in range(1, count + 1):
        replies = []
        for rows, target in zip(ROWS, (3.0, 0.0), strict=True):
            replies.append(
                (
                    rows,
                    {
                        "w": (model["w"] + target) / 2,
                        "bn.running_var": np.array([0.01, 0.4]) * rows / 10,
                        "bn.num_batches_tracked": np.array(4 * number + rows),
                    },
                    1.0,
                )
            )
        model = one_round(strategy, model, replies, number)
        path.append(model)
    return path


def mean_move(w):
    return (np.array([10, 30]) / 40) @ np.array([(w + 3.0) / 2 - w, (w + 0.0) / 2 - w])


def test_fedadam_follows_its_equations():
    w, m, v = START["w"], 0.0, 0.0
    strategy = build("fedadam", {"server_lr": 0.3, "beta1": 0.8, "beta2": 0.9, "tau": 0.01})
    for number, found in enumerate(rounds(strategy, 5), start=1):
        delta = mean_move(w)
        m, v = 0.8 * m + 0.2 * delta, 0.9 * v + 0.1 * delta**2
        rate = 0.3 * np.sqrt(1 - 0.9 ** (number + 1)) / (1 - 0.8 ** (number + 1))
        w = w + rate * m / (np.sqrt(v) + 0.01)
        np.testing.assert_allclose(found["w"], w, rtol=1e-12)


def test_fedyogi_follows_its_equations():
    w, m, v = START["w"], 0.0, 0.0
    strategy = build("fedyogi", {"server_lr": 0.3, "beta1": 0.8, "beta2": 0.9, "tau": 0.01})
    for found in rounds(strategy, 5):
        delta = mean_move(w)
        m, v = 0.8 * m + 0.2 * delta, v - 0.1 * delta**2 * np.sign(v - delta**2)
        w = w + 0.3 * m / (np.sqrt(v) + 0.01)
        np.testing.assert_allclose(found["w"], w, rtol=1e-12)


def test_fedavgm_follows_its_equations():
    w, velocity = START["w"], 0.0
    for found in rounds(build("fedavgm", {"momentum": 0.7, "server_lr": 0.5}), 5):
        velocity = 0.7 * velocity + mean_move(w)
        w = w + 0.5 * velocity
        np.testing.assert_allclose(found["w"], w, rtol=1e-12)


@pytest.mark.parametrize("name", ["fedavgm", "fedadam", "fedyogi", "fedadagrad"])
def test_running_statistics_are_the_weighted_mean(name):
    for number, found in enumerate(rounds(build(name, {}), 4), start=1):
        expected = (1 * 0.25 + 3 * 0.75) * np.array([0.01, 0.4])
        np.testing.assert_allclose(found["bn.running_var"], expected, rtol=1e-12)
        np.testing.assert_allclose(found["bn.num_batches_tracked"], 4 * number + 25.0)


def lowest_variance(strategy):
    """A batch norm layer starts at variance 1; the sites' features have 0.01."""
    model, lowest = {"bn.running_var": np.ones(1)}, 1.0
    for number in range(1, 31):
        model = one_round(strategy, model, [(5, {"bn.running_var": np.array([0.01])}, 1.0)] * 2, number)
        lowest = min(lowest, float(model["bn.running_var"][0]))
    return lowest


def test_flowers_own_fedadam_drives_a_small_variance_below_zero_and_ours_does_not():
    assert lowest_variance(build("fedadam", {})) == pytest.approx(0.01)
    assert lowest_variance(flower.FedAdam()) < 0  # when Flower cures this, drop strategies/fedopt.py


def test_a_round_without_replies_changes_nothing():
    strategy = build("fedadam", {})
    assert strategy.aggregate_train(1, []) == (None, None)
    assert strategy.m_t is None
