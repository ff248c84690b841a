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
    choose_device,
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


# ---- devices ------------------------------------------------------------------------------------------------


def test_a_device_is_chosen_by_wish_by_what_is_there_and_by_what_the_site_gives(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto", True) == torch.device("cuda")
    assert choose_device("auto", False) == torch.device("cpu")
    assert choose_device("cpu", True) == torch.device("cpu")
    assert choose_device("cuda:1", True) == torch.device("cuda:1")
    with pytest.raises(JobError, match=r"'cuda:2' but the site has 2 CUDA devices"):
        choose_device("cuda:2", True)
    with pytest.raises(JobError, match=r"'cuda' but the site gives none \(resources.gpus: none\)"):
        choose_device("cuda", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto", True) == torch.device("cpu")
    with pytest.raises(JobError, match=r"'cuda:0' but there is none here; use device: auto or cpu"):
        choose_device("cuda:0", True)


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
