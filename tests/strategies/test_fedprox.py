"""FedProx against automatic differentiation of the loss with its term written out."""

import numpy as np
import pytest
import torch

from strategies.base import Strategy
from strategies.fedprox import FedProx, FedProxClient
from tests.strategies.toy_federation import Line, local_round, optimum, run, unlike_sites


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_local_steps_are_those_of_the_loss_with_the_term_written_out(momentum):
    site = unlike_sites(steps=(7, 7, 7))[1]
    start = np.array([0.3, -0.2, 0.5])
    half = FedProxClient({}, {}, {})
    sent = local_round(half, site, {"w": start}, lr=0.05, momentum=momentum, config={"proximal-mu": 0.7})

    line = Line(3)
    line.load_state_dict({"w": torch.tensor(start)})
    optimizer = torch.optim.SGD(line.parameters(), lr=0.05, momentum=momentum)
    for _ in range(7):
        optimizer.zero_grad()
        (line.loss(site) + 0.35 * ((line.w - torch.tensor(start)) ** 2).sum()).backward()
        optimizer.step()
    np.testing.assert_allclose(sent["w"], line.w.detach().numpy(), rtol=1e-12)


def test_mu_zero_is_plain_local_training():
    sites = unlike_sites(steps=(5, 5, 5))
    with_half = run(Strategy(), sites, 3, client=FedProxClient, config={"proximal-mu": 0.0})
    np.testing.assert_array_equal(with_half, run(Strategy(), sites, 3))


def test_a_larger_mu_holds_sites_that_train_long_nearer_to_the_common_optimum():
    sites = unlike_sites(steps=(30, 30, 30))
    gaps = []
    for mu in (0.0, 1.0, 10.0):
        end = run(Strategy(), sites, 60, client=FedProxClient, lr=0.1, config={"proximal-mu": mu})[-1]
        gaps.append(np.linalg.norm(end - optimum(sites)))
    assert gaps[0] > 1.4 * gaps[1] > 2 * gaps[2]


def test_the_server_half_is_flowers_and_declares_that_a_sum_is_enough():
    assert FedProx.summable
    assert FedProx.client is FedProxClient
    assert FedProx(proximal_mu=0.3).proximal_mu == 0.3
