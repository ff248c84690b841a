"""FedNova against its equations in numpy, and against FedAvg where they must agree and where not."""

import doctest

import numpy as np
import pytest
import torch
from torch import nn

import strategies.fednova
from strategies.base import EXTRA, Strategy
from strategies.fednova import FedNova, FedNovaClient, effective_steps
from tests.strategies.toy_federation import optimum, run, unlike_sites, weights


def reference(sites, rounds, lr, momentum=0.0, server_lr=1.0):
    """Equations (5) to (8): the coefficient vector a_i summed up, its norm, the two means."""
    p, w = weights(sites), np.zeros(3)
    path = []
    for _ in range(rounds):
        normalised, norms = [], []
        for site in sites:
            end, velocity, a = w, np.zeros(3), np.zeros(site.steps)
            for k in range(site.steps):
                velocity = momentum * velocity + site.gradient(end)
                end = end - lr * velocity
                a[: k + 1] += momentum ** np.arange(k, -1, -1)
            norms.append(a.sum())
            normalised.append((end - w) / a.sum())
        w = w + server_lr * (p @ np.array(norms)) * (p @ np.array(normalised))
        path.append(w)
    return np.array(path)


@pytest.mark.parametrize("momentum", [0.0, 0.6])
@pytest.mark.parametrize("server_lr", [1.0, 0.5])
def test_every_round_follows_the_equations(momentum, server_lr):
    sites = unlike_sites(steps=(2, 9, 17))
    found = run(FedNova(server_lr=server_lr), sites, 6, lr=0.03, momentum=momentum)
    np.testing.assert_allclose(found, reference(sites, 6, 0.03, momentum, server_lr), rtol=1e-11, atol=1e-13)


def test_equal_steps_give_fedavg():
    sites = unlike_sites(steps=(6, 6, 6))
    np.testing.assert_allclose(run(FedNova(), sites, 20), run(Strategy(), sites, 20), rtol=0, atol=1e-12)


def test_unequal_steps_bias_fedavg_and_not_fednova():
    sites = unlike_sites(steps=(1, 4, 16))
    truth = optimum(sites)
    nova = np.linalg.norm(run(FedNova(), sites, 300, lr=0.006)[-1] - truth)
    avg = np.linalg.norm(run(Strategy(), sites, 300, lr=0.006)[-1] - truth)
    assert avg > 0.5
    assert nova < avg / 10


def test_a_site_that_took_no_step_changes_neither_direction_nor_sense():
    sites = unlike_sites(steps=(0, 4, 4))
    p = weights(sites)
    w = np.zeros(3)
    ends = []
    for site in sites[1:]:
        end = w
        for _ in range(4):
            end = end - 0.1 * site.gradient(end)
        ends.append(end / 4)
    expected = (p[1:].sum() * 4) * (p[1:] @ np.array(ends))
    np.testing.assert_allclose(run(FedNova(), sites, 1)[0], expected, rtol=1e-12)


def test_buffers_are_averaged_and_never_scaled_by_steps():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    half = FedNovaClient({}, {"steps": np.array([1.0])}, {})
    half.begin(model, {})
    half.steps = 4
    with torch.no_grad():
        model[0].weight += 1.0
        model[1].running_var += 3.0
    start = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    start["0.weight"] -= 1.0
    start["1.running_var"] -= 3.0
    extra = {EXTRA + name: array for name, array in half.finish(model).items()}
    mean = {**{name: tensor.numpy() for name, tensor in model.state_dict().items()}, **extra}
    server = FedNova()
    sent = server.outgoing(start)
    new = server.incoming(sent, mean)
    np.testing.assert_allclose(new["1.running_var"], start["1.running_var"] + 3.0)
    np.testing.assert_allclose(new["0.weight"], start["0.weight"] + 1.0, rtol=1e-6)


def test_tied_weights_are_scaled_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(2, 2, bias=False)
            self.b = nn.Linear(2, 2, bias=False)
            self.b.weight = self.a.weight

    model = Tied()
    start = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    half = FedNovaClient({}, {"steps": np.array([1.0])}, {})
    half.begin(model, {})
    half.steps = 5
    with torch.no_grad():
        model.a.weight += 1.0
    extra = {EXTRA + name: array for name, array in half.finish(model).items()}
    server = FedNova()
    sent = server.outgoing(start)
    new = server.incoming(sent, {**{k: v.numpy() for k, v in model.state_dict().items()}, **extra})
    np.testing.assert_allclose(new["a.weight"], start["a.weight"] + 1.0, rtol=1e-6)
    np.testing.assert_array_equal(new["b.weight"], new["a.weight"])


def test_effective_steps_without_momentum_are_the_steps():
    assert doctest.testmod(strategies.fednova).failed == 0
    assert effective_steps(0, 0.9) == 0
    assert effective_steps(12, 0.0) == 12
