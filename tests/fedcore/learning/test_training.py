"""Local training against a plain torch loop, and what can go wrong in it."""

from __future__ import annotations

import copy
import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fedcore.errors import DataError, JobError
from fedcore.learning import training
from fedcore.learning.examples import Examples
from fedcore.learning.models import SmallCNN, mlp
from fedcore.learning.seeds import generator, own_randomness
from fedcore.learning.task import Batch, Schema, Task
from fedcore.learning.training import (
    _evaluation_rows,
    evaluate,
    load_arrays,
    mean_loss,
    placed,
    resident_model,
    take_arrays,
    train,
)
from strategies.base import ClientHalf
from tests.messages import local

SEED = (7, "site-0", "train", 1)


class Classes(Task):
    """Cross-entropy over whatever model a test gives."""

    classification = True

    def __init__(self, make: Any = None) -> None:
        self.make = make or (lambda: mlp(4, 2, (6,)))
        self.schema = Schema(tuple("abcd"), (4,), (0, 1))

    def model(self) -> nn.Module:
        return self.make()

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return functional.cross_entropy(model(batch.x), batch.y)

    def metrics(self, model: nn.Module, batches: Any) -> dict[str, float]:
        batches = list(batches)
        assert not model.training and not torch.is_grad_enabled()
        return {"rows": sum(len(b) for b in batches), "batches": len(batches), "undefined": float("nan")}


def rows_of(count: int = 37, seed: int = 0) -> Examples:
    source = generator(seed, "rows")
    x = torch.randn(count, 4, generator=source)
    return Examples(x, (x.sum(1) > 0).long())


def fresh(make: Any = None, seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return own_randomness(Classes(make).model())


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


# ---- what training does -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "optimizer"),
    [
        ({"momentum": 0.9, "weight_decay": 0.01}, lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=0.01)),
        ({"optimizer": "adam"}, lambda p: torch.optim.Adam(p, 0.1)),
        (
            {"optimizer": "adamw", "weight_decay": 0.1},
            lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.1),
        ),
    ],
)
def test_training_is_the_plain_torch_loop_over_the_same_batches(settings, optimizer) -> None:
    rows, model = rows_of(), fresh()
    plain = copy.deepcopy(model)
    done = train(model, Classes(), rows, local(epochs=3, **settings), seed=SEED)
    order, total, steps = generator(*SEED, "order"), 0.0, 0
    stepper = optimizer(plain.parameters())
    for _ in range(3):
        for at in torch.randperm(37, generator=order).split(8):
            loss = functional.cross_entropy(plain(rows.x[at]), rows.y[at])
            stepper.zero_grad()
            loss.backward()
            stepper.step()
            total, steps = total + loss.item() * len(at), steps + 1
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)
    assert (done.steps, done.rows, done.epochs) == (steps, 37, 3)
    assert done.loss == pytest.approx(total / (3 * 37), rel=1e-5)


def test_the_seed_decides_the_order_of_the_batches() -> None:
    models = [fresh() for _ in range(3)]
    for model, seed in zip(models, [SEED, SEED, (8, *SEED[1:])], strict=True):
        train(model, Classes(), rows_of(), local(), seed=seed)
    assert same(models[0], models[1]) and not same(models[0], models[2])


def test_a_frozen_layer_stays() -> None:
    model = fresh()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    train(model, Classes(), rows_of(), local(weight_decay=0.1), seed=SEED)
    assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize("precision", ["bfloat16", "auto", "float32"])
def test_each_precision_of_a_cpu_learns_and_keeps_float32_weights(precision) -> None:
    rows, model = rows_of(200), fresh()
    before = mean_loss(model, Classes(), rows)
    train(model, Classes(), rows, local(epochs=5, precision=precision), seed=SEED)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert mean_loss(model, Classes(), rows) < before / 2


def test_bfloat16_is_really_used() -> None:
    seen = set()

    class Spy(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = super().forward(x)
            seen.add(out.dtype)
            return out

    train(fresh(lambda: Spy(4, 2)), Classes(), rows_of(), local(precision="bfloat16"), seed=SEED)
    assert seen == {torch.bfloat16}


def test_float16_on_a_cpu_is_refused_with_the_alternatives() -> None:
    with pytest.raises(JobError, match="float16 needs CUDA; use bfloat16, float32 or auto"):
        train(fresh(), Classes(), rows_of(), local(precision="float16"), seed=SEED)


# ---- early stopping -----------------------------------------------------------------------------------------


def test_patience_stops_early_and_keeps_the_best_epoch() -> None:
    # A rate this large overshoots soon; the validation rows tell.
    rows, held_out = rows_of(40, 1), rows_of(40, 2)
    settings = {"lr": 2.0, "epochs": 12}
    path = []
    for epochs in range(1, 13):
        model = fresh()
        train(model, Classes(), rows, local(**{**settings, "epochs": epochs}), seed=SEED)
        path.append((mean_loss(model, Classes(), held_out), model))
    losses = [loss for loss, _ in path]
    expected = stop = 0
    for epoch, loss in enumerate(losses):
        if loss < losses[expected] or epoch == 0:
            expected = epoch
        stop = epoch
        if epoch - expected == 2:
            break
    assert stop < 11, "the example does not overshoot"
    model = fresh()
    done = train(model, Classes(), rows, local(**settings, patience=2), seed=SEED, validation=held_out)
    assert done.epochs == stop + 1
    assert same(model, path[expected][1])


def test_patience_without_validation_rows_trains_all_epochs() -> None:
    done = train(fresh(), Classes(), rows_of(), local(epochs=4, patience=1), seed=SEED, validation=rows_of(0))
    assert done.epochs == 4


# ---- what can go wrong --------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_the_rate() -> None:
    rows = rows_of()
    rows.x[5] = 1e30
    with pytest.raises(DataError, match=r"not finite after \d+ steps; lower local.lr \(now 0.1\)"):
        train(fresh(), Classes(), rows, local(), seed=SEED)


def poisoned(at: int = 5, value: float = float("nan"), count: int = 37) -> Examples:
    rows = rows_of(count)
    rows.x[at] = value
    return rows


def without_the_batch_of(row: int, model: nn.Module, rows: Examples, epochs: int, make_step: Any) -> float:
    """The plain torch loop that leaves out each batch with this row; its mean loss."""
    order, total, seen = generator(*SEED, "order"), 0.0, 0
    stepper = make_step(model.parameters())
    for _ in range(epochs):
        for at in torch.randperm(len(rows), generator=order).split(8):
            if row in at.tolist():
                continue
            loss = functional.cross_entropy(model(rows.x[at]), rows.y[at])
            stepper.zero_grad()
            loss.backward()
            stepper.step()
            total, seen = total + loss.item() * len(at), seen + len(at)
    return total / seen


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("settings", "optimizer"),
    [
        ({"momentum": 0.9}, lambda p: torch.optim.SGD(p, 0.1, 0.9)),
        ({"optimizer": "adam", "lr": 0.01}, lambda p: torch.optim.Adam(p, 0.01)),
    ],
)
def test_a_step_whose_loss_is_not_finite_is_skipped_counted_and_leaves_no_trace(
    value, settings, optimizer, caplog
) -> None:
    rows, model = poisoned(value=value), fresh()
    plain = copy.deepcopy(model)
    with caplog.at_level("WARNING", "fedcore.learning"):
        done = train(model, Classes(), rows, local(epochs=3, **settings), seed=SEED)
    expected = without_the_batch_of(5, plain, rows, 3, optimizer)
    assert (done.steps, done.skipped, done.rows, done.epochs) == (12, 3, 37, 3)
    assert done.loss == pytest.approx(expected, rel=1e-5)
    assert caplog.messages == ["3 of 15 steps skipped: loss or gradient not finite"]
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


class _BadGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, bad: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(bad)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *above: torch.Tensor) -> tuple[torch.Tensor, None]:
        (bad,) = ctx.saved_tensors
        return torch.where(bad, torch.nan, above[0]), None


class BadGradients(Classes):
    """A finite loss with a NaN gradient for rows that begin with a 7."""

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        outputs = _BadGradient.apply(model(batch.x.clamp(-5, 5)), batch.x[:, :1] == 7)
        return functional.cross_entropy(outputs, batch.y)


@pytest.mark.parametrize("row", range(0, 37, 4))
def test_a_gradient_that_is_not_finite_is_skipped_in_whichever_step_it_comes(row) -> None:
    done = train(model := fresh(), BadGradients(), poisoned(row, 7.0), local(), seed=SEED)
    assert (done.steps, done.skipped) == (4, 1)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_a_half_sees_no_gradient_of_a_skipped_step_and_starts_anew_where_the_round_does() -> None:
    seen: list[str] = []

    class Half(ClientHalf):
        def begin(self, model: nn.Module, config: Any) -> None:
            seen.clear()
            seen.append(f"begin {self.steps}")
            self.before = [p.detach().clone() for p in model.parameters()]

        def adjust_gradients(self, model: nn.Module) -> None:
            finite = all(torch.isfinite(p.grad).all() for p in model.parameters())
            seen.append(f"step {self.steps} {finite}")

    model = fresh()
    received, half = [p.detach().clone() for p in model.parameters()], Half({}, {}, {})
    train(model, BadGradients(), poisoned(value=7.0), local(), seed=SEED, half=half)
    assert seen == ["begin 0", *(f"step {number} True" for number in range(4))] and half.steps == 4
    assert all(torch.equal(a, b) for a, b in zip(half.before, received, strict=True))


def test_a_skipped_step_leaves_the_statistics_of_batch_normalisation() -> None:
    model = fresh(normed)
    done = train(model, Classes(), poisoned(), local(epochs=2), seed=SEED)
    assert done.skipped == 2
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert model[1].num_batches_tracked == done.steps


def test_rows_that_all_give_no_finite_loss_are_refused_and_name_the_rate() -> None:
    rows = rows_of(16)
    rows.x[:] = float("nan")
    with pytest.raises(DataError, match=r"not finite after 2 steps; lower local.lr \(now 0.1\)"):
        train(fresh(), Classes(), rows, local(), seed=SEED)


def test_a_rate_at_which_the_weights_diverge_is_refused_although_its_first_steps_were_finite() -> None:
    class Square(Classes):
        def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
            return model(batch.x).square().mean()

    with pytest.raises(DataError, match=r"not finite after \d+ steps; lower local.lr \(now 1000.0\)"):
        train(fresh(), Square(), rows_of(), local(lr=1e3, epochs=20), seed=SEED)


def test_patience_keeps_the_best_model_of_a_training_that_diverges_later() -> None:
    class Later(Classes):
        """A loss that drives the weights to infinity once it is small."""

        def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
            loss = functional.cross_entropy(model(batch.x), batch.y)
            return loss * (1e38 if model.training and loss < 0.4 else 1.0)

    model = fresh()
    done = train(model, Later(), rows_of(), local(epochs=30, patience=3), seed=SEED, validation=rows_of(9))
    assert done.skipped > 0 and done.epochs < 30
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.fixture
def half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient scaler of float16, around a forward pass in float32: a CPU has no other."""
    from contextlib import nullcontext

    monkeypatch.setattr(training, "autocast_of", lambda local, device: (nullcontext, True))


def test_the_gradient_scaler_changes_nothing_where_nothing_overflows(half_precision) -> None:
    scaled, plain = fresh(), fresh()
    done = train(scaled, Classes(), rows_of(), local(precision="float16", momentum=0.9), seed=SEED)
    without_the_batch_of(-1, plain, rows_of(), 1, lambda p: torch.optim.SGD(p, 0.1, 0.9))
    assert done.skipped == 0
    for ours, theirs in zip(scaled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_gradients_that_overflow_under_the_scaler_are_skipped_until_its_scale_fits(half_precision) -> None:
    class Steep(Classes):
        """A gradient that 2^16 times is too large for float32, and 2^13 times is not."""

        def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
            return model(batch.x).sum() * 2.0**110

    model = fresh(lambda: nn.Linear(4, 1, bias=False))
    rows = rows_of(40)
    rows.x[:] = 1.0
    # 8 rows x 2^110 x 2^16 = 2^129 is above the largest float32, 2^126 is not.
    done = train(model, Steep(), rows, local(precision="float16", lr=1e-38), seed=SEED)
    assert (done.steps, done.skipped) == (3, 2)


def test_a_batch_that_memory_does_not_hold_trains_as_the_whole_one() -> None:
    class Small(nn.Linear):
        room = 3

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training and len(x) > self.room:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(x)

    small, plain = fresh(lambda: Small(4, 2)), fresh(lambda: nn.Linear(4, 2))
    done = train(small, Classes(), rows_of(), local(epochs=2, momentum=0.9), seed=SEED)
    expected = train(plain, Classes(), rows_of(), local(epochs=2, momentum=0.9), seed=SEED)
    assert (done.steps, done.skipped) == (expected.steps, 0)
    assert done.loss == pytest.approx(expected.loss, rel=1e-5)
    for ours, theirs in zip(small.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_memory_that_the_optimizer_lacks_is_named_with_the_cure(monkeypatch) -> None:
    def step(self: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(training.Sgd, "step", step)
    with pytest.raises(
        DataError, match="memory of the device does not hold the model, its optimizer and a batch"
    ):
        train(fresh(), Classes(), rows_of(), local(), seed=SEED)


def test_an_evaluation_that_memory_does_not_hold_takes_fewer_rows_at_once() -> None:
    class Small(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > 10:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(x)

    class Sees(Classes):
        def metrics(self, model: nn.Module, batches: Any) -> dict[str, float]:
            sizes = [len(model(batch.x)) for batch in batches]
            return {"rows": sum(sizes), "most": max(sizes)}

    model, rows = fresh(lambda: Small(4, 2)), rows_of(25)
    assert evaluate(model, Sees(), rows) == {"rows": 25.0, "most": 8.0}
    with torch.no_grad():
        expected = functional.cross_entropy(nn.Linear.forward(model, rows.x), rows.y).item()
    assert mean_loss(model, Classes(), rows) == pytest.approx(expected, rel=1e-6)


def test_no_rows_are_refused() -> None:
    with pytest.raises(DataError, match="no rows to train on"):
        train(fresh(), Classes(), rows_of(0), local(), seed=SEED)


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def test_a_last_batch_of_one_row_does_not_stop_batch_normalisation() -> None:
    done = train(fresh(normed), Classes(), rows_of(17), local(batch_size=8), seed=SEED)
    assert done.steps == 2


@pytest.mark.parametrize(("rows", "size"), [(1, 8), (5, 1)])
def test_batch_normalisation_that_can_only_get_one_row_is_refused_with_the_cure(rows, size) -> None:
    with pytest.raises(DataError, match=r"needs two rows in a batch.*raise local.batch_size"):
        train(fresh(normed), Classes(), rows_of(rows), local(batch_size=size), seed=SEED)


def test_one_row_is_enough_without_batch_normalisation() -> None:
    assert train(fresh(), Classes(), rows_of(1), local(), seed=SEED).steps == 1


def test_a_value_error_of_the_task_itself_is_not_taken_for_batch_normalisation() -> None:
    class Broken(Classes):
        def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        train(fresh(normed), Broken(), rows_of(5), local(), seed=SEED)


# ---- augmentation -------------------------------------------------------------------------------------------


class Jittered(Classes):
    """Adds noise to each row, and remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[int] = []
        self.drawn: list[torch.Tensor] = []

    def augmented(self, batch: Batch, source: torch.Generator) -> Batch:
        noise = torch.randn(batch.x.shape, generator=source)
        self.given.append(len(batch))
        self.drawn.append(noise)
        return Batch(batch.x + noise, batch.y)


def test_each_training_batch_is_augmented_once_and_no_validation_batch_is() -> None:
    task, rows, model = Jittered(), rows_of(), fresh()
    train(model, task, rows, local(epochs=2, patience=2), seed=SEED, validation=rows_of(9))
    assert task.given == [8, 8, 8, 8, 5] * 2
    evaluate(model, task, rows)
    assert len(task.given) == 10 and torch.equal(rows.x, rows_of().x)


def test_augmentation_is_repeated_by_the_seed_and_leaves_the_order_of_batches() -> None:
    first, again, other = Jittered(), Jittered(), Jittered()
    for task, seed in ((first, SEED), (again, SEED), (other, (8, *SEED[1:]))):
        train(fresh(), task, rows_of(), local(epochs=2), seed=seed)
    assert all(torch.equal(a, b) for a, b in zip(first.drawn, again.drawn, strict=True))
    assert not torch.equal(first.drawn[0], other.drawn[0])
    assert len({tuple(noise.flatten().tolist()) for noise in first.drawn}) == 10, "each batch has its own"
    model, plain = fresh(), fresh()
    train(model, first, rows_of(), local(), seed=SEED)
    order = generator(*SEED, "order")
    noise = first.drawn[10:]
    for at, each in zip(torch.randperm(37, generator=order).split(8), noise, strict=True):
        loss = functional.cross_entropy(plain(rows_of().x[at] + each), rows_of().y[at])
        plain.zero_grad()
        loss.backward()
        with torch.no_grad():
            for p in plain.parameters():
                p -= 0.1 * p.grad
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


# ---- the client half ----------------------------------------------------------------------------------------


def test_the_client_half_sees_rate_momentum_steps_and_changes_gradients() -> None:
    seen: list[tuple[Any, ...]] = []

    class Half(ClientHalf):
        def begin(self, model: nn.Module, config: Any) -> None:
            seen.append((self.lr, self.momentum, dict(config)))

        def adjust_gradients(self, model: nn.Module) -> None:
            seen.append((self.steps,))
            for p in model.parameters():
                p.grad.zero_()

    model = fresh()
    before = copy.deepcopy(model)
    half = Half({}, {}, {})
    train(model, Classes(), rows_of(16), local(momentum=0.5), seed=SEED, half=half, config={"mu": 1})
    assert seen == [(0.1, 0.5, {"mu": 1}), (0,), (1,)] and half.steps == 2
    assert same(model, before)
    half = Half({}, {}, {})
    train(model, Classes(), rows_of(8), local(momentum=0.5, optimizer="adam"), seed=SEED, half=half)
    assert seen[3] == (0.1, 0.0, {}), "momentum is that of SGD"


# ---- threads ------------------------------------------------------------------------------------------------


def test_two_models_with_dropout_in_two_threads_train_as_they_do_alone() -> None:
    def cnn() -> nn.Module:
        return SmallCNN((1, 6, 6), 2)

    def go(name: str) -> nn.Module:
        images = torch.rand(24, 1, 6, 6, generator=generator(name))
        task = Classes(cnn)
        model = fresh_cnns[name]
        train(model, task, Examples(images, torch.arange(24) % 2), local(epochs=4), seed=(1, name))
        return model

    fresh_cnns = {name: fresh(cnn) for name in "ab"}
    alone = {name: copy.deepcopy(go(name)) for name in "ab"}
    fresh_cnns = {name: fresh(cnn) for name in "ab"}
    threads = [threading.Thread(target=go, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same(fresh_cnns["a"], alone["a"]) and same(fresh_cnns["b"], alone["b"])
    assert not same(alone["a"], alone["b"])


def test_a_thread_keeps_one_model_and_another_thread_another() -> None:
    task, device = Classes(), torch.device("cpu")
    first = resident_model(task, device)
    assert resident_model(task, device) is first
    found: list[nn.Module] = []
    thread = threading.Thread(target=lambda: found.append(resident_model(task, device)))
    thread.start()
    thread.join()
    assert found[0] is not first
    assert resident_model(Classes(), device) is not first, "of another run"


def test_making_a_resident_model_draws_nothing_from_the_global_generator() -> None:
    # Another run may be drawing its initial weights from it in another thread.
    before = torch.random.get_rng_state()
    resident_model(Classes(), torch.device("cpu"))
    assert torch.equal(before, torch.random.get_rng_state())


# ---- arrays -------------------------------------------------------------------------------------------------


def test_arrays_go_into_a_model_and_come_out_unchanged() -> None:
    source, target = fresh(normed, 1), fresh(normed, 2)
    train(source, Classes(), rows_of(), local(), seed=SEED)
    arrays = take_arrays(source)
    load_arrays(target, arrays)
    assert same(source, target)
    assert arrays["1.num_batches_tracked"].shape == () and arrays["1.num_batches_tracked"].dtype == np.int64
    arrays["0.weight"][:] = 0
    assert same(source, target), "what was taken is a copy"


def test_arrays_of_another_dtype_are_rounded_not_cut() -> None:
    model = fresh(normed)
    arrays = {name: value.astype(np.float64) for name, value in take_arrays(model).items()}
    arrays["1.num_batches_tracked"] = np.array(2.9999999999)
    load_arrays(model, arrays)
    assert model[1].num_batches_tracked.item() == 3
    assert model[0].weight.dtype == torch.float32


def test_arrays_may_be_left_out_for_those_that_stay_at_the_site() -> None:
    assert set(take_arrays(fresh(), {"0.weight"})) == {"0.bias", "2.weight", "2.bias"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.pop("0.bias"), r"missing \['0.bias'\], unknown none"),
        (lambda a: a.update(more=np.zeros(1)), r"missing none, unknown \['more'\]"),
        (
            lambda a: a.update({"0.bias": np.zeros(5)}),
            r"'0.bias' has shape \(5,\), the model here wants \(6,\)",
        ),
    ],
)
def test_arrays_of_another_model_are_refused(change, words) -> None:
    model = fresh()
    arrays = take_arrays(model)
    change(arrays)
    with pytest.raises(JobError, match=words):
        load_arrays(model, arrays)


# ---- evaluation ---------------------------------------------------------------------------------------------


def test_evaluation_is_without_gradients_in_evaluation_mode_and_keeps_nan(monkeypatch) -> None:
    monkeypatch.setattr(training, "EVALUATION_BATCH", 10)
    found = evaluate(fresh(normed).train(), Classes(), rows_of(25))
    assert found["rows"] == 25.0 and found["batches"] == 3.0 and np.isnan(found["undefined"])


def test_the_mean_loss_is_that_of_all_rows_and_leaves_the_model_training(monkeypatch) -> None:
    monkeypatch.setattr(training, "EVALUATION_BATCH", 10)
    model, rows = fresh(), rows_of(25)
    with torch.no_grad():
        expected = functional.cross_entropy(model(rows.x), rows.y).item()
    assert mean_loss(model, Classes(), rows) == pytest.approx(expected, rel=1e-6)
    assert model.training


def test_a_model_on_a_cpu_keeps_names_shapes_and_values_in_its_faster_layout() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv3d(1, 2, 3), nn.Linear(2, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    after = placed(model, torch.device("cpu")).state_dict()

    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert after["0.weight"].is_contiguous(memory_format=torch.channels_last)
    assert all(value.flags.c_contiguous for value in take_arrays(model).values())


def test_a_batch_of_an_evaluation_shrinks_with_the_size_of_its_rows() -> None:
    def rows(*shape: int) -> Examples:
        return Examples(torch.zeros(2, *shape, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))

    sizes = [_evaluation_rows(rows(*shape)) for shape in ((20,), (3, 32, 32), (3, 512, 512))]

    assert sizes == [1024, 85, 8]


def test_weights_in_bfloat16_travel_as_float32_and_come_back_the_same() -> None:
    model = nn.Linear(3, 2).to(torch.bfloat16)
    before = copy.deepcopy(model.state_dict())
    arrays = take_arrays(model)
    assert {value.dtype for value in arrays.values()} == {np.dtype(np.float32)}
    nn.init.zeros_(model.weight)
    load_arrays(model, arrays)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
