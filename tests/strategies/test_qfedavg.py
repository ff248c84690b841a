"""q-FedAvg against Algorithm 2 in numpy, on arrays that Flower's own cannot take."""

import numpy as np

from strategies.registry import build
from tests.strategies.toy_messages import one_round

START = {"w": np.array([1.0, -2.0]), "n": np.array(3)}
SITES = ((5, np.array([0.5, -1.0]), 0.7), (9, np.array([2.0, 0.0]), 2.5), (4, np.array([1.5, -2.5]), 0.2))


def test_the_step_follows_algorithm_2_whatever_the_integers_do():
    q, lr = 0.4, 0.2
    deltas, hs = 0.0, 0.0
    for _, w, loss in SITES:
        update = (START["w"] - w) / lr
        deltas = deltas + (loss + 1e-10) ** q * update
        hs += q * (loss + 1e-10) ** (q - 1) * (update @ update) + (loss + 1e-10) ** q / lr
    strategy = build("qfedavg", {"q": q}, client_learning_rate=lr, train_loss_key="loss")
    replies = [(rows, {"w": w, "n": np.array(100 * rows)}, loss) for rows, w, loss in SITES]
    found = one_round(strategy, START, replies)
    np.testing.assert_allclose(found["w"], START["w"] - deltas / hs, rtol=1e-12)
    assert found["n"] == 3


def test_the_sites_own_arrays_are_not_written_to():
    strategy = build("qfedavg", {}, client_learning_rate=0.1, train_loss_key="loss")
    sent = [{"w": w.copy(), "n": np.array(1)} for _, w, _ in SITES]
    one_round(strategy, START, [(5, arrays, 1.0) for arrays in sent])
    for arrays, (_, w, _) in zip(sent, SITES, strict=True):
        np.testing.assert_array_equal(arrays["w"], w)
