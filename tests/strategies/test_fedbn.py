"""FedBN: what stays, what is shared, and that staying helps when features are shifted."""

import numpy as np
import pytest
import torch
from torch import nn

from strategies.base import ClientHalf, StrategyError, split
from strategies.fedbn import FedBN, FedBNClient

BATCH_NORM = {
    f"1.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))


def arrays(model):
    return {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}


def load(model, values, skip):
    own = model.state_dict()
    for name, value in values.items():
        if name not in skip:
            own[name].copy_(torch.tensor(value))


def train(model, half, shift, seed, steps=15):
    x = torch.tensor(np.random.default_rng(seed).normal(size=(32, 3)), dtype=torch.float32)
    y = x.sum(1, keepdim=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    half.begin(model, {"server-round": 1})
    for _ in range(steps):
        optimizer.zero_grad()
        ((model(x * 3 + shift) - y) ** 2).mean().backward()
        half.adjust_gradients(model)
        optimizer.step()
        half.steps += 1


def test_every_array_of_a_batch_norm_layer_stays_and_nothing_else():
    assert FedBNClient({}, {}, {}).keeps(network()) == BATCH_NORM


def test_a_batch_norm_that_is_the_whole_model_is_named_without_a_dot():
    assert "weight" in FedBNClient({}, {}, {}).keeps(nn.BatchNorm1d(2))


def test_a_model_without_batch_norm_is_refused_with_the_cure():
    with pytest.raises(StrategyError, match="fedavg"):
        FedBNClient({}, {}, {}).begin(nn.Linear(2, 2), {})
    with pytest.raises(StrategyError, match="layers: all"):
        FedBNClient({}, {}, {}).begin(nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4)), {})
    with pytest.raises(StrategyError, match="keeps normalisation at the site, but Linear has none"):
        FedBNClient({}, {}, {"layers": "all"}).begin(nn.Linear(2, 2), {})


def test_all_layers_are_those_of_every_kind_of_normalisation():
    kinds = [nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.InstanceNorm2d(4, affine=True)]
    model = nn.Sequential(*kinds, nn.BatchNorm2d(4))
    batch = {name for name in model.state_dict() if name.startswith("4.")}
    assert FedBNClient({}, {}, {}).keeps(model) == batch
    assert FedBNClient({}, {}, {"layers": "all"}).keeps(model) == set(model.state_dict()) - {
        "0.weight",
        "0.bias",
    }


def test_layers_that_are_no_word_are_refused():
    with pytest.raises(StrategyError, match="allowed: batch, all"):
        FedBN(layers="group")


def test_shared_layers_become_the_mean_and_normalisation_stays_at_its_site():
    server, states = FedBN(), [{}, {}]
    model = arrays(network())
    first = {name: array.copy() for name, array in model.items()}
    for _ in range(2):
        sent, _ = split(server.outgoing(model))
        replies, before = [], [dict(state) for state in states]
        for index in (0, 1):
            half = FedBNClient(states[index], {}, {})
            site = network()
            load(site, sent, half.keeps(site))
            half.restore(site)
            for name, array in before[index].items():
                np.testing.assert_array_equal(arrays(site)[name.removeprefix("kept/")], array)
            train(site, half, shift=100.0 * index, seed=index)
            assert half.finish(site) == {}
            replies.append({k: v for k, v in arrays(site).items() if k not in half.keeps(site)})
            states[index] = half.remember(site)
        mean = {name: (replies[0][name] + replies[1][name]) / 2 for name in replies[0]}
        model = server.incoming(server.outgoing(model), mean)
        for name in model:
            np.testing.assert_array_equal(model[name], first[name] if name in BATCH_NORM else mean[name])
    assert set(states[0]) == {"kept/" + name for name in BATCH_NORM}
    shift = states[1]["kept/1.running_mean"] - states[0]["kept/1.running_mean"]
    assert np.abs(shift).max() > 10  # each site has normalised its own features


def test_a_half_that_keeps_nothing_remembers_its_own_state_only():
    half = ClientHalf({"mine": np.ones(2)}, {}, {})
    assert list(half.remember(network())) == ["mine"]
