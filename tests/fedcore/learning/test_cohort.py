"""Training together against training alone, participant by participant."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedcore.errors import DataError, JobError
from fedcore.learning.cohort import NotTogetherError, stacked, train_cohort, why_not
from fedcore.learning.cohort_model import row_wise
from fedcore.learning.examples import Examples
from fedcore.learning.models import SmallCNN, mlp
from fedcore.learning.seeds import derive_seed, generator, own_randomness, seeded_model
from fedcore.learning.task import Batch, Schema, Task
from fedcore.learning.training import load_arrays, take_arrays, train
from strategies.fedprox import FedProxClient
from tests.messages import local

RAGGED = (17, 8, 3, 40, 1)


class Loss(Task):
    """Cross-entropy of a batch, and no word about its rows."""

    def __init__(self, make: Any) -> None:
        self.make = make
        self.schema = Schema(tuple("abcd"), (4,), (0, 1, 2))

    def model(self) -> nn.Module:
        return self.make()

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return functional.cross_entropy(model(batch.x), batch.y)

    def metrics(self, model: nn.Module, batches: Any) -> dict[str, float]:
        return {}


class RowWise(Loss):
    """The same with the loss of each row."""

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return self.losses(model(batch.x), batch.y).mean()

    def losses(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(outputs, y, reduction="none")


def small() -> nn.Module:
    return mlp(4, 3, (6,))


def rows_of(
    lengths: Any = RAGGED, shape: tuple[int, ...] = (4,), dtype: Any = torch.float32
) -> list[Examples]:
    source = generator("rows")
    made = []
    for length in lengths:
        x = torch.randn(length, *shape, generator=source, dtype=torch.float64).to(dtype)
        made.append(Examples(x, torch.randint(0, 3, (length,), generator=source)))
    return made


def seed_of(number: int) -> tuple[str | int, ...]:
    return (7, f"site-{number}", "train", 1)


def model_of(task: Task) -> nn.Module:
    return own_randomness(seeded_model(task.model, 1))


def both(task: Task, rows: list[Examples], half: Any = None, pull: float = 0.0, **settings: Any) -> Any:
    """What training together and training alone give: arrays, losses, steps; each starts from weights of its own."""
    options = {**settings}
    how = options.pop("convolutions", "grouped")
    wanted, model = local(**{"epochs": 2, **options}), model_of(task)
    starts = [take_arrays(own_randomness(seeded_model(task.model, i))) for i in range(len(rows))]
    state = stacked(model, starts, "cpu")
    done = train_cohort(
        model,
        task,
        state,
        rows,
        wanted,
        seeds=[seed_of(i) for i in range(len(rows))],
        pull=pull,
        convolutions=how,
    )
    alone = []
    for i, each in enumerate(rows):
        load_arrays(model, starts[i])
        one = train(
            model,
            task,
            each,
            wanted,
            seed=seed_of(i),
            half=half() if half else None,
            config={"proximal-mu": pull},
        )
        alone.append(({name: value.clone() for name, value in model.state_dict().items()}, one))
    return state, done, alone


def assert_same(found: Any, atol: float = 1e-6) -> None:
    state, done, alone = found
    for i, (arrays, one) in enumerate(alone):
        for name, value in arrays.items():
            torch.testing.assert_close(state[name][i], value, rtol=0, atol=atol)
        assert done.losses[i] == pytest.approx(one.loss, rel=1e-5)
        assert done.steps[i] == one.steps


# ---- the same as alone -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"momentum": 0.9, "weight_decay": 0.01},
        {"optimizer": "adam", "lr": 0.01, "weight_decay": 0.1},
        {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1},
        {"batch_size": 100, "epochs": 1},
        {"batch_size": 1},
    ],
)
def test_each_of_a_cohort_is_trained_as_it_is_alone(settings: dict[str, Any]) -> None:
    assert_same(both(RowWise(small), rows_of(), **settings))


@pytest.mark.parametrize("convolutions", ["grouped", "patches"])
def test_a_cnn_with_dropout_gets_the_same_masks_as_alone(convolutions: str) -> None:
    # In double precision: a value that is nearly 0 may fall on the other side of a ReLU otherwise.
    task = RowWise(lambda: SmallCNN((1, 8, 8), 3).double())
    assert_same(
        both(task, rows_of((9, 4, 1), (1, 8, 8), torch.float64), convolutions=convolutions), atol=1e-12
    )


@pytest.mark.parametrize(
    "convolution",
    [
        lambda: nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 0)),
        lambda: nn.Conv2d(2, 4, 3, padding="same", bias=False),
        lambda: nn.Conv2d(2, 4, 3, dilation=2),
        lambda: nn.Conv2d(2, 4, 3, groups=2),
    ],
)
def test_unfolded_patches_give_the_convolution(convolution: Any) -> None:
    def make() -> nn.Module:
        return nn.Sequential(convolution(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).double()

    rows = rows_of((5, 3), (2, 6, 7), torch.float64)
    assert_same(both(RowWise(make), rows, convolutions="patches"), atol=1e-12)


class Shared(nn.Module):
    """A layer at two places, a dropout at two places, a frozen layer and normalisation by row."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.frozen, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.again, self.norm, self.drop = self.first, nn.LayerNorm(4), nn.Dropout(0.5)
        self.register_buffer("scale", torch.tensor(2.0))
        self.idle = nn.Parameter(torch.ones(2))
        self.frozen.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.drop(self.norm(self.first(x)) * self.scale)
        found: torch.Tensor = self.last(self.drop(self.frozen(self.again(x))))
        return found


def test_shared_frozen_and_unused_parameters_are_served() -> None:
    found = both(RowWise(Shared), rows_of(), weight_decay=0.1, momentum=0.5)
    assert_same(found)
    assert torch.equal(found[0]["again.weight"], found[0]["first.weight"])


class Attending(nn.Module):
    """Embeddings and attention over four whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)
        self.last = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x.round().clamp(0, 4).long())
        found: torch.Tensor = self.last(self.attend(x, x, x, need_weights=False)[0].mean(dim=1))
        return found


def test_embeddings_and_attention_are_served() -> None:
    assert_same(both(RowWise(Attending), rows_of()))


def test_images_of_bytes_become_numbers_in_0_to_1() -> None:
    source = generator("bytes")
    rows = [
        Examples(
            torch.randint(0, 256, (n, 2, 2), generator=source, dtype=torch.uint8),
            torch.randint(0, 3, (n,), generator=source),
        )
        for n in (9, 12)
    ]
    assert_same(both(RowWise(lambda: nn.Sequential(nn.Flatten(), small())), rows))


class Reconstruct(RowWise):
    """No target."""

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return model(batch.x).square().mean()

    def losses(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return outputs.square().mean(dim=1)


def test_a_task_without_target_is_served() -> None:
    rows = [Examples(each.x, torch.empty(0)) for each in rows_of()]
    assert_same(both(Reconstruct(small), rows))


def test_the_pull_is_that_of_fedprox() -> None:
    def half() -> FedProxClient:
        return FedProxClient({}, {}, {})

    assert_same(both(RowWise(small), rows_of(), half=half, pull=0.5, momentum=0.9))


def test_half_precision_stays_near() -> None:
    found = both(RowWise(small), rows_of(), precision="bfloat16")
    state, _, alone = found
    for i, (arrays, _) in enumerate(alone):
        for name, value in arrays.items():
            assert state[name][i].dtype == torch.float32
            torch.testing.assert_close(state[name][i], value, rtol=0, atol=0.02)


class Jittered(RowWise):
    """Rows that are changed at random."""

    def augmented(self, batch: Batch, source: torch.Generator) -> Batch:
        return Batch(batch.x + torch.randn(batch.x.shape, generator=source), batch.y)


def test_rows_are_changed_by_each_participants_own_random_numbers() -> None:
    task, rows, wanted = Jittered(small), rows_of((9, 4)), local(epochs=2)
    model = model_of(task)
    start = dict(model.state_dict())
    state = stacked(model, [start, start], "cpu")
    train_cohort(model, task, state, rows, wanted, seeds=[seed_of(0), seed_of(1)])
    for i, each in enumerate(rows):
        plain = model_of(task)
        order, noise = generator(*seed_of(i), "order"), torch.Generator()
        noise.manual_seed(derive_seed(*seed_of(i), "augment"))
        for _ in range(2):
            for at in torch.randperm(len(each), generator=order).split(8):
                loss = task.loss(plain, task.augmented(Batch(each.x[at], each.y[at]), noise))
                gradients = torch.autograd.grad(loss, list(plain.parameters()))
                with torch.no_grad():
                    for parameter, gradient in zip(plain.parameters(), gradients, strict=True):
                        parameter -= 0.1 * gradient
        for name, value in plain.state_dict().items():
            torch.testing.assert_close(state[name][i], value, rtol=0, atol=1e-6)


class JitteredWithout(Jittered, Reconstruct):
    """No target, and rows that are changed."""


def test_rows_without_target_are_changed_too() -> None:
    rows = [Examples(each.x, torch.empty(0)) for each in rows_of((9, 4, 1))]
    assert_same(both(JitteredWithout(small), rows))


# ---- one's trouble is its own ----------------------------------------------------------------------------------


def test_a_participant_that_diverges_does_not_touch_the_others() -> None:
    rows = rows_of()
    rows[1].x[2, 0] = torch.inf
    state, done, alone = both_but(RowWise(small), rows, spoilt=1)
    assert done.finite == [True, False, True, True, True]
    for i, arrays in alone.items():
        for name, value in arrays.items():
            torch.testing.assert_close(state[name][i], value, rtol=0, atol=1e-6)


def both_but(task: Task, rows: list[Examples], spoilt: int) -> Any:
    model, wanted = model_of(task), local(epochs=2)
    start = take_arrays(model)
    state = stacked(model, [start] * len(rows), "cpu")
    done = train_cohort(model, task, state, rows, wanted, seeds=[seed_of(i) for i in range(len(rows))])
    alone = {}
    for i, each in enumerate(rows):
        if i != spoilt:
            load_arrays(model, start)
            train(model, task, each, wanted, seed=seed_of(i))
            alone[i] = {name: value.clone() for name, value in model.state_dict().items()}
    return state, done, alone


def test_the_model_that_is_given_is_left_as_it_is() -> None:
    task = RowWise(Shared)
    model = model_of(task)
    before = take_arrays(model)
    state = stacked(model, [before] * 2, "cpu")
    train_cohort(model, task, state, rows_of((5, 9)), local(), seeds=[seed_of(0), seed_of(1)])
    assert all((before[name] == value.numpy()).all() for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


# ---- what cannot be done together ------------------------------------------------------------------------------


def test_a_task_without_losses_of_rows_wants_participants_of_one_size() -> None:
    assert_same(both(Loss(small), rows_of((11, 11, 11))))
    with pytest.raises(JobError, match="different numbers of rows"):
        both(Loss(small), rows_of((11, 12)))


def test_a_loss_stated_below_losses_does_not_go_with_them() -> None:
    class Smoothed(RowWise):
        def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
            return functional.cross_entropy(model(batch.x), batch.y, label_smoothing=0.1)

    assert row_wise(RowWise(small)) and not row_wise(Loss(small)) and not row_wise(Smoothed(small))
    assert_same(both(Smoothed(small), rows_of((8, 8))))


def test_a_penalty_on_weights_that_begin_at_zero_is_seen_beside_rows_that_are_no_numbers() -> None:
    class Ridge(RowWise):
        def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
            penalty = torch.stack([each.square().sum() for each in model.parameters()]).sum()
            return super().loss(model, batch) + 0.01 * penalty

        def losses(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return super().losses(outputs, y)

    def zero() -> nn.Module:
        model = nn.Linear(4, 3)
        for each in model.parameters():
            nn.init.zeros_(each)
        return model

    rows = rows_of((9, 4))
    rows[0].x[:] = torch.nan
    with pytest.raises(NotTogetherError, match="is not the mean of"):
        both(Ridge(zero), rows)
    rows[1].x[:] = torch.nan  # nobody can tell
    model = model_of(Ridge(zero))
    state = stacked(model, [take_arrays(model)] * 2, "cpu")
    done = train_cohort(model, Ridge(zero), state, rows, local(), seeds=[seed_of(0), seed_of(1)])
    assert done.finite == [False, False]


@pytest.mark.parametrize(
    ("make", "settings", "why"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), {}, "'1' normalises over the rows"),
        (lambda: nn.LSTM(4, 3), {}, "recurrent"),
        (lambda: small().requires_grad_(False), {}, "no parameter"),
        (small, {"patience": 2}, "patience"),
        (small, {"precision": "float16"}, "float16"),
    ],
)
def test_what_cannot_be_trained_together_is_refused_with_its_reason(
    make: Any, settings: dict[str, Any], why: str
) -> None:
    task = RowWise(make)
    model, wanted = task.model(), local(**settings)
    assert why in str(why_not(model, task, wanted))
    with pytest.raises(JobError, match="cannot be trained together"):
        train_cohort(model, task, {}, rows_of((4,)), wanted, seeds=[seed_of(0)])
    assert why_not(model_of(RowWise(small)), task, local()) is None


def test_nobody_is_trained_at_once() -> None:
    assert train_cohort(small(), RowWise(small), {}, [], local(), seeds=[]).losses == []


def test_rows_of_another_kind_and_no_rows_are_refused() -> None:
    task = RowWise(small)
    state = stacked(model_of(task), [take_arrays(model_of(task))] * 2, "cpu")
    seeds = [seed_of(0), seed_of(1)]
    other = [*rows_of((4,)), *rows_of((4,), (5,))]
    with pytest.raises(DataError, match="participant 1 of the cohort has rows of"):
        train_cohort(model_of(task), task, state, other, local(), seeds=seeds)
    with pytest.raises(DataError, match="participant 1 of the cohort has no rows"):
        train_cohort(model_of(task), task, state, rows_of((4, 0)), local(), seeds=seeds)


# ---- stacks ----------------------------------------------------------------------------------------------------


def test_counters_are_rounded_and_what_is_shared_is_not_shared_any_more() -> None:
    model = nn.BatchNorm1d(2)
    arrays = {**take_arrays(model), "num_batches_tracked": torch.tensor(2.9999998).numpy()}
    state = stacked(model, [arrays, arrays], "cpu")
    assert state["num_batches_tracked"].tolist() == [3, 3]
    state["weight"][0] += 1
    assert state["weight"].tolist() == [[2, 2], [1, 1]] and arrays["weight"].tolist() == [1, 1]


def test_arrays_of_another_model_are_refused_by_name() -> None:
    model = small()
    good, short = take_arrays(model), take_arrays(model)
    short.pop("0.bias")
    with pytest.raises(JobError, match=r"'0\.bias' is missing"):
        stacked(model, [good, short], "cpu")
    with pytest.raises(JobError, match=r"'0\.bias' has shape \(7,\), the model here wants \(6,\)"):
        stacked(model, [good, {**good, "0.bias": torch.zeros(7)}], "cpu")
