"""A site's round of private steps: how many, on which rows, with what of the strategy and the task."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedcore.errors import DataError, JobError
from fedcore.jobs.job import LocalTraining, TabularTask
from fedcore.learning.builtin import TabularClassifier
from fedcore.learning.examples import Examples
from fedcore.learning.private import loop, sampling, step
from fedcore.learning.private.loop import sampling_rate, steps_of_round, train_privately
from fedcore.learning.task import Batch, Schema, Task
from strategies.base import ClientHalf


def task(kind: type[TabularClassifier] = TabularClassifier) -> TabularClassifier:
    """Two classes over three features."""
    made = kind(TabularTask(use="tabular-classifier", target="y", model="mlp", hidden=(5,)))
    made.schema = Schema(("a", "b", "c"), (3,), (0, 1))
    return made


def rows(count: int = 40) -> Examples:
    source = torch.Generator().manual_seed(3)
    x = torch.rand(count, 3, generator=source)
    return Examples(x, (x[:, 0] > 0.5).long())


def model(of: TabularClassifier) -> nn.Module:
    torch.manual_seed(1)
    return of.model()


def local(**settings: Any) -> LocalTraining:
    return LocalTraining(**{"batch_size": 10, "lr": 0.1, "validation": 0, **settings})


def trained(of: TabularClassifier, data: Examples, settings: LocalTraining, **more: Any) -> nn.Module:
    made = model(of)
    train_privately(made, of, data, settings, **{"clip": 1.0, "noise": 1.0, **more})
    return made


def same(one: nn.Module, other: nn.Module, atol: float = 1e-6) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.allclose(a, b, atol=atol) for a, b in pairs)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps without their noise."""
    monkeypatch.setattr(step, "released", lambda values, deviation, over=1.0: [v / over for v in values])


def test_steps_follow_from_the_number_of_rows_and_nothing_else() -> None:
    assert sampling_rate(40, 10) == 0.25 and sampling_rate(4, 10) == 1.0
    assert steps_of_round(41, local(epochs=3)) == 15 and steps_of_round(4, local()) == 1
    of = task()
    done = train_privately(model(of), of, rows(), local(epochs=2), clip=1.0, noise=1.0)
    assert (done.steps, done.rows, done.epochs) == (8, 40, 2)
    assert math.isnan(done.loss), "the loss tells of rows"


@pytest.mark.usefixtures("quiet")
def test_steps_without_noise_on_all_rows_are_gradient_descent() -> None:
    of, data = task(), rows()
    found = trained(of, data, local(batch_size=64, epochs=3), clip=1e6)
    expected = model(of)
    for _ in range(3):
        loss = functional.cross_entropy(expected(data.x), data.y)
        for parameter, gradient in zip(
            expected.parameters(), torch.autograd.grad(loss, list(expected.parameters())), strict=True
        ):
            parameter.data -= 0.1 * gradient
    assert same(found, expected)


@pytest.mark.usefixtures("quiet")
def test_memory_for_few_rows_gives_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    of, data = task(), rows()
    monkeypatch.setattr(loop, "poisson_batch", lambda count, rate: torch.arange(count))
    whole = trained(of, data, local())
    expected = trained(of, data, local(), clip=0.01)
    real = step.PrivateStep.accumulate
    sizes: list[int] = []

    def narrow(self: Any, x: torch.Tensor, y: torch.Tensor) -> None:
        if len(x) > 7:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(x))
        real(self, x, y)

    monkeypatch.setattr(step.PrivateStep, "accumulate", narrow)
    assert same(trained(of, data, local(), clip=0.01), expected)
    assert max(sizes) <= 7 and sum(sizes) == 4 * 40
    assert not same(whole, expected)


def test_an_empty_batch_is_a_step_of_noise_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    of = task()
    monkeypatch.setattr(loop, "poisson_batch", lambda count, rate: torch.arange(0))
    found = trained(of, rows(), local())
    assert not same(found, model(of), atol=1e-4)


def test_rows_are_drawn_each_time_by_their_own_coin(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, float]] = []

    def watched(count: int, rate: float) -> torch.Tensor:
        asked.append((count, rate))
        return sampling.poisson_batch(count, rate)

    monkeypatch.setattr(loop, "poisson_batch", watched)
    trained(task(), rows(), local())
    assert asked == [(40, 0.25)] * 4


class Watching(ClientHalf):
    """Counts what it is shown."""

    def __init__(self) -> None:
        super().__init__({}, {}, {})
        self.norms: list[float] = []

    def adjust_gradients(self, model: nn.Module) -> None:
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        self.norms.append(float(torch.cat([g.flatten() for g in grads]).norm()))


def test_a_strategys_half_sees_gradients_with_their_noise_only() -> None:
    half = Watching()
    trained(task(), rows(), local(), half=half, clip=1e-3, noise=1e4)
    # Noise of deviation 10 on 32 weights over 10 rows is some 5.7 long; the clipped mean is below 0.004.
    assert len(half.norms) == 4 and min(half.norms) > 1 and half.steps == 4


class Flipping(TabularClassifier):
    """Augments."""

    seen: int = 0

    def augmented(self, batch: Batch, source: torch.Generator) -> Batch:
        self.seen += len(batch)
        return Batch(batch.x.flip(1), batch.y)


def test_the_tasks_augmentation_is_applied_to_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    of = task(Flipping)
    monkeypatch.setattr(loop, "poisson_batch", lambda count, rate: torch.arange(count))
    trained(of, rows(), local())
    assert of.seen == 4 * 40


class Silent(TabularClassifier):
    """Says no loss of rows."""

    losses = Task.losses


def test_what_cannot_be_trained_so_is_refused() -> None:
    of = task()
    with pytest.raises(DataError, match="no rows"):
        trained(of, Examples(torch.empty(0, 3), torch.empty(0, dtype=torch.int64)), local())
    with pytest.raises(JobError, match="no loss for each row"):
        trained(task(Silent), rows(), local())
