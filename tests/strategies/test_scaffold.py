"""SCAFFOLD against Algorithm 1 (option II) in numpy, and what it is for: no drift."""

import numpy as np
import torch

from strategies.base import EXTRA, Strategy, split
from strategies.scaffold import Scaffold, ScaffoldClient
from tests.strategies.toy_federation import Line, local_round, optimum, run, unlike_sites, weights
from tests.strategies.toy_messages import ask


def reference(sites, rounds, lr, cohorts, server_lr=1.0):
    """Algorithm 1, option II, as printed, with means weighted by rows; `cohorts` says who takes part."""
    w, c = np.zeros(3), np.zeros(3)
    own = [np.zeros(3) for _ in sites]
    path = []
    for number in range(rounds):
        cohort = cohorts[number]
        p = weights([sites[i] for i in cohort])
        moves, changes = [], []
        for i in cohort:
            y = w
            for _ in range(sites[i].steps):
                y = y - lr * (sites[i].gradient(y) - own[i] + c)
            new = own[i] - c + (w - y) / (sites[i].steps * lr)
            moves.append(y - w)
            changes.append(new - own[i])
            own[i] = new
        w = w + server_lr * p @ np.array(moves)
        c = c + len(cohort) / len(sites) * (p @ np.array(changes))
        path.append(w)
    return np.array(path)


def test_full_participation_follows_algorithm_1():
    sites = unlike_sites(steps=(3, 8, 5))
    everyone = [(0, 1, 2)] * 12
    for server_lr in (1.0, 0.6):
        found = run(Scaffold(server_lr=server_lr), sites, 12)
        np.testing.assert_allclose(
            found, reference(sites, 12, 0.1, everyone, server_lr), rtol=1e-10, atol=1e-12
        )


def test_sampled_participation_follows_algorithm_1():
    sites = unlike_sites(steps=(3, 8, 5))
    cohorts = [(0, 1), (1, 2), (0, 2), (0, 1), (1, 2), (1, 2), (0, 1), (0, 2)]
    server, model, states = Scaffold(), {"w": np.zeros(3)}, [{} for _ in sites]
    for number, (cohort, expected) in enumerate(
        zip(cohorts, reference(sites, 8, 0.1, cohorts), strict=True), start=1
    ):
        server.state[EXTRA + "share"] = np.array([2 / 3])  # what configure_train finds on a grid of three
        sent = server.outgoing(model)
        arrays, extra = split(sent)
        replies = []
        for i in cohort:
            half = ScaffoldClient(states[i], extra, {})
            replies.append(
                local_round(half, sites[i], arrays, lr=0.1, momentum=0.0, config={"server-round": number})
            )
            states[i] = half.state
        p = weights([sites[i] for i in cohort])
        mean = {name: sum(q * r[name] for q, r in zip(p, replies, strict=True)) for name in replies[0]}
        model = server.incoming(sent, mean)
        np.testing.assert_allclose(model["w"], expected, rtol=1e-10, atol=1e-12)


def test_drift_that_biases_fedavg_is_gone():
    sites = unlike_sites(steps=(20, 20, 20))
    truth = optimum(sites)
    assert np.linalg.norm(run(Strategy(), sites, 120, lr=0.05)[-1] - truth) > 0.05
    assert np.linalg.norm(run(Scaffold(), sites, 120, lr=0.05)[-1] - truth) < 1e-8


def test_local_momentum_does_not_spoil_the_control_variates():
    sites = unlike_sites(steps=(20, 20, 20))
    end = run(Scaffold(), sites, 150, lr=0.01, momentum=0.8)[-1]
    assert np.linalg.norm(end - optimum(sites)) < 1e-8


def test_a_lost_reply_leaves_no_lasting_error_when_everyone_takes_part():
    sites = unlike_sites(steps=(20, 20, 20))
    end = run(Scaffold(), sites, 120, lr=0.05, lost={3: 1, 7: 2})[-1]
    assert np.linalg.norm(end - optimum(sites)) < 1e-8


def test_what_float16_overflow_made_infinite_keeps_its_old_control_variate():
    line = Line(2)
    half = ScaffoldClient({"control/w": np.array([5.0, 6.0])}, {"share": np.array([1.0])}, {})
    half.begin(line, {})
    line.w.grad = torch.tensor([float("inf"), 2.0], dtype=torch.float64)
    half.adjust_gradients(line)
    half.steps = 1
    np.testing.assert_array_equal(half.finish(line)["control/w"], [5.0, 2.0])


def test_a_site_without_a_step_keeps_its_control_variate():
    line = Line(2)
    half = ScaffoldClient({"control/w": np.array([5.0, 6.0])}, {"share": np.array([0.5])}, {})
    half.begin(line, {})
    sent = half.finish(line)
    np.testing.assert_array_equal(sent["control/w"], [0.0, 0.0])
    np.testing.assert_array_equal(half.state["control/w"], [5.0, 6.0])


def test_the_share_of_sampled_sites_travels_with_the_model():
    for fraction, least, expected in ((0.5, 2, 0.5), (1.0, 2, 1.0), (0.1, 3, 0.3)):
        server = Scaffold(fraction_train=fraction, min_train_nodes=least)
        messages = ask(server, {"w": np.zeros(3)}, count=10)
        assert len(messages) == 10 * expected
        for message in messages:
            assert message.content["arrays"][EXTRA + "share"].numpy() == expected
