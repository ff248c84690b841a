"""Steps: physical batches, noise once, empty batches, and what a training costs."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from scipy import stats
from torch.nn.functional import cross_entropy

from fedcore.errors import JobError
from fedcore.learning.models import mlp
from fedcore.learning.private import clipping
from fedcore.learning.private import step as module
from fedcore.learning.private.calibration import noise_multiplier, training_cost
from fedcore.learning.private.clipping import ClippedSums
from fedcore.learning.private.sampling import physical_batches, poisson_batch
from fedcore.learning.private.step import PrivateStep
from fedcore.learning.sgd import Sgd
from fedcore.privacy.accounting import Gaussian, epsilon

LOSS = partial(cross_entropy, reduction="none")


class Still:
    """Takes no step."""

    def step(self) -> None:
        pass


def gradients(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_physical_batches_make_the_same_step_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    deviations = []

    def without_noise(values: list[torch.Tensor], deviation: float, over: float) -> list[torch.Tensor]:
        deviations.append(deviation)
        return [each / over for each in values]

    monkeypatch.setattr(module, "released", without_noise)
    torch.manual_seed(0)
    model = mlp(6, 3, (5,))
    x, y = torch.randn(23, 6), torch.arange(23) % 3
    training = PrivateStep(model, LOSS, clip=0.5, noise=2.0, expected_batch=20)
    for rows in physical_batches(torch.arange(23), 5):
        training.accumulate(x[rows], y[rows])
    training.step(Still())

    whole = torch.cat([each.flatten() for each in ClippedSums(model, LOSS, 0.5)(x, y)])
    torch.testing.assert_close(gradients(model), whole / 20)
    assert deviations == [1.0]


def test_a_batch_that_fails_leaves_nothing_in_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "released", lambda values, deviation, over: [each.clone() for each in values])
    torch.manual_seed(0)
    model = mlp(6, 3, (5,))
    x, y = torch.randn(8, 6), torch.arange(8) % 3
    training = PrivateStep(model, LOSS, clip=0.5, noise=2.0, expected_batch=8)
    real, writes = clipping._write, []

    def failing(*given: Any) -> None:
        writes.append(given)
        if len(writes) == 7:
            raise RuntimeError("DefaultCPUAllocator: not enough memory")
        real(*given)

    training.accumulate(x[:4], y[:4])
    monkeypatch.setattr(clipping, "_write", failing)
    writes += [()] * 4
    with pytest.raises(RuntimeError, match="memory"):
        training.accumulate(x[4:], y[4:])
    training.accumulate(x[4:], y[4:])
    training.step(Still())

    whole = torch.cat([each.flatten() for each in ClippedSums(model, LOSS, 0.5)(x, y)])
    torch.testing.assert_close(gradients(model), whole)


def test_gradients_of_one_step_are_not_those_of_the_next() -> None:
    model = mlp(6, 3, (5,))
    training = PrivateStep(model, LOSS, clip=0.5, noise=2.0, expected_batch=8)
    x, y = torch.randn(8, 6), torch.arange(8) % 3
    training.accumulate(x, y)
    training.step(Still())
    held = [p.grad for p in model.parameters()]
    before = [each.clone() for each in held]
    for _ in range(3):
        training.accumulate(x, y)
        training.accumulate(x, y)
        training.step(Still())

    assert all(torch.equal(one, other) for one, other in zip(held, before, strict=True))


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_gradients_have_the_types_of_their_parameters(kind: torch.dtype) -> None:
    model = mlp(6, 3, (5,))
    training = PrivateStep(model, LOSS, clip=0.5, noise=2.0, expected_batch=8)
    model[2].to(kind)  # the same parameters, of another type
    training.step(Still())

    assert [p.grad.dtype for p in model.parameters()] == [torch.float32] * 2 + [kind] * 2
    assert all(p.grad.shape == p.shape for p in model.parameters())


def test_mixed_precision_sums_in_float32() -> None:
    torch.manual_seed(0)
    model = mlp(16, 3, (32,))
    training = PrivateStep(model, LOSS, clip=1.0, noise=1e-6, expected_batch=8)
    x, y = torch.randn(8, 16), torch.arange(8) % 3
    with torch.autocast("cpu", torch.bfloat16):
        training.accumulate(x, y)
    training.step(Still())
    half = gradients(model)
    training.accumulate(x, y)
    training.step(Still())

    assert training.route == "parts" and half.dtype == torch.float32
    assert float((half - gradients(model)).norm() / gradients(model).norm()) < 0.05


def test_an_empty_step_is_noise_alone_of_the_stated_size() -> None:
    model = mlp(300, 200)
    training = PrivateStep(model, LOSS, clip=0.5, noise=3.0, expected_batch=10)
    training.accumulate(torch.ones(0, 300), torch.zeros(0, dtype=torch.int64))
    training.step(Still())
    once = gradients(model)
    training.step(Still())

    assert training.steps == 2
    for found in (once, gradients(model)):
        squares = float((found.double() * 10 / 1.5).square().sum())
        assert stats.chi2.ppf(1e-9, len(found)) < squares < stats.chi2.isf(1e-9, len(found))
    assert not torch.equal(once, gradients(model))


def test_a_step_forgets_the_rows_of_the_one_before() -> None:
    model = mlp(6, 3)
    training = PrivateStep(model, LOSS, clip=1e4, noise=1e-9, expected_batch=1)
    training.accumulate(torch.ones(4, 6), torch.zeros(4, dtype=torch.int64))
    training.step(Still())
    first = gradients(model).norm()
    training.step(Still())

    assert float(first) > 0.1
    assert float(gradients(model).norm()) < 1e-3


def test_frozen_parameters_get_no_gradient() -> None:
    model = mlp(4, 3, (5,))
    model[0].requires_grad_(False)
    training = PrivateStep(model, LOSS, clip=1.0, noise=1.0, expected_batch=4)
    training.accumulate(torch.ones(4, 4), torch.zeros(4, dtype=torch.int64))
    training.step(Still())

    assert [p.grad is None for p in model.parameters()] == [True, True, False, False]


@pytest.mark.parametrize("kind", [Sgd, torch.optim.SGD])
def test_a_private_model_learns(kind: type) -> None:
    torch.manual_seed(0)
    x = torch.randn(600, 8)
    y = (x[:, :3].argmax(1)).long()
    model = mlp(8, 3, (16,))
    training = PrivateStep(model, LOSS, clip=1.0, noise=1.0, expected_batch=150)
    optimizer = kind(model.parameters(), lr=1.0)
    for _ in range(60):
        for rows in physical_batches(poisson_batch(600, 0.25), 100):
            training.accumulate(x[rows], y[rows])
        training.step(optimizer)

    # One in three without learning.
    assert float((model(x).argmax(1) == y).double().mean()) > 0.75


def test_nothing_of_single_rows_is_in_reach() -> None:
    model = mlp(4, 3)
    training = PrivateStep(model, LOSS, clip=1.0, noise=1.0, expected_batch=4)

    assert training.accumulate(torch.ones(4, 4), torch.zeros(4, dtype=torch.int64)) is None
    assert training.step(Still()) is None
    assert {name for name in dir(training) if not name.startswith("_")} == {
        "accumulate",
        "deviation",
        "expected_batch",
        "route",
        "step",
        "steps",
    }


@pytest.mark.parametrize("name", ["noise", "expected_batch"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_numbers_out_of_range_are_told(name: str, value: float) -> None:
    given = {"clip": 1.0, "noise": 1.0, "expected_batch": 4.0, name: value}
    with pytest.raises(JobError, match=name):
        PrivateStep(mlp(4, 3), LOSS, **given)


@pytest.mark.slow
def test_the_noise_for_an_epsilon_is_the_least_and_every_accountant_speaks() -> None:
    found = noise_multiplier(2.0, 1e-5, 0.05, 20, 1000)

    told = found.epsilons
    assert told.pld is not None and told.fourier is not None
    assert 1.99 < told.pld <= 2.0 < told.rdp
    assert told.fourier == pytest.approx(told.pld, rel=0.01)
    assert training_cost(found.noise * 0.99, 1e-5, 0.05, 20, 1000).value > 2.0


def test_what_a_training_costs_is_what_the_accountants_say() -> None:
    told = training_cost(1.0, 1e-3, 0.1, 10, 1000)

    assert told.pld is not None
    assert told.value == told.pld < told.rdp
    assert told == epsilon([Gaussian(1.0, 10, 0.1)], 1e-3, 1000)


def test_sampling_out_of_range_is_told() -> None:
    with pytest.raises(JobError, match="sampling"):
        noise_multiplier(1.0, 1e-5, 0.0, 10, 100)
