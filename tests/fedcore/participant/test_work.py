"""What a participant sends back: compared with training by hand, for each kind of message."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import fedcore
from fedcore.errors import DataError, JobError
from fedcore.flower import array_record, ndarrays
from fedcore.jobs.participant import Participant
from fedcore.learning import device
from fedcore.learning.builtin import build_task
from fedcore.learning.seeds import own_randomness
from fedcore.learning.task import Schema
from fedcore.learning.training import load_arrays, take_arrays, train
from fedcore.participant import site as kept
from fedcore.participant import work
from fedcore.participant.site import open_site, ready_site
from fedcore.participant.store import load_state
from fedcore.participant.work import evaluate_round, prepare, train_round
from tests.messages import a_request, a_site, message

HERE = "tests.fedcore.participant.test_work"
ALLOWS_TESTS = "  code: [fedcore, strategies, tests]\n"
SCHEMA = Schema(("f0", "f1", "f2", "f3"), (4,), (0, 1))
NORMED = {"use": f"{HERE}:Normed", "target": "y"}


class Normed(fedcore.Task):
    """With batch normalisation."""

    classification = True
    wrong = 0.0

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))

    def loss(self, model: nn.Module, batch: fedcore.Batch) -> torch.Tensor:
        return functional.cross_entropy(model(batch.x), batch.y)

    def metrics(self, model: nn.Module, batches: Any) -> dict[str, float]:
        found = [(float(self.loss(model, batch)), len(batch)) for batch in batches]
        return {"loss": sum(loss * n for loss, n in found) / sum(n for _, n in found)}


class Boasting(Normed):
    """Reports a metric by the name of the site's weight."""

    def metrics(self, model: nn.Module, batches: Any) -> dict[str, float]:
        return {"num-examples": 1e9, "loss": 0.5}


class Overflowing(Normed):
    """The weights leave the range of float32 while the loss stays finite."""

    def loss(self, model: nn.Module, batch: fedcore.Batch) -> torch.Tensor:
        return functional.cross_entropy(model(batch.x), batch.y) + 1e30 * model[2].bias.sum()


@pytest.fixture(autouse=True)
def _nothing_kept():
    kept._cache.clear()


@pytest.fixture
def site(tmp_path) -> Participant:
    return a_site(tmp_path, extra=ALLOWS_TESTS)


def asked(**changes: Any) -> Any:
    return a_request(schema=SCHEMA.as_dict(), **changes)


def weights(request: Any, seed: int = 0) -> dict[str, np.ndarray]:
    torch.manual_seed(seed)
    return take_arrays(build_task(request.task, SCHEMA).model())


def trained(site: Participant, request: Any, arrays: Any, **config: Any) -> tuple[dict, dict]:
    reply = train_round(site, request, message(arrays=arrays, **config))
    return ndarrays(reply.content["arrays"]), dict(reply.content["metrics"])


def evaluated(site: Participant, request: Any, arrays: Any, **config: Any) -> dict[str, float]:
    return dict(
        evaluate_round(site, request, message("evaluate", arrays=arrays, **config)).content["metrics"]
    )


# ---- prepare ------------------------------------------------------------------------------------------------


def test_prepare_tells_names_counts_and_layers_and_no_sums_unless_asked(site) -> None:
    reply = prepare(site, a_request(), message("query.prepare"))
    told = json.loads(reply.content["site"]["about"])
    assert told["name"] == "site-0" and told["rows"] == 40 and told["classes"] == [0, 1]
    assert told["layers"]["evidence"] == "digest" and told["layers"]["policy"] == "on"
    assert set(reply.content) == {"site"}


def test_prepare_for_federated_scaling_releases_sums_over_the_training_rows(site) -> None:
    request = a_request(task={"use": "tabular-classifier", "target": "y", "standardize": "federated"})
    moments = prepare(site, request, message("query.prepare")).content["moments"]
    opened = open_site(site, request)
    x = opened.rows.x[opened.train].astype(np.float64)
    assert moments["rows"] == 32
    np.testing.assert_allclose(moments["sums"], x.sum(0), rtol=1e-13)
    np.testing.assert_allclose(moments["squares"], (x * x).sum(0), rtol=1e-13)


# ---- train --------------------------------------------------------------------------------------------------


def test_a_round_is_local_training_from_the_received_arrays(site) -> None:
    request = asked()
    arrays = weights(request)
    found, metrics = trained(site, request, arrays, server_round=4)
    ready = ready_site(site, request, torch.device("cpu"))
    model = own_randomness(build_task(request.task, SCHEMA).model())
    load_arrays(model, arrays)
    done = train(model, ready.task, ready.train, request.local, seed=(3, "site-0", "train", 4))
    for name, value in take_arrays(model).items():
        np.testing.assert_array_equal(found[name], value)
    assert metrics == {"num-examples": 32, "loss": done.loss}


def test_a_round_forgets_the_one_before(site) -> None:
    request = asked()
    arrays = weights(request)
    first, _ = trained(site, request, arrays, server_round=1)
    trained(site, request, weights(request, 5), server_round=2)
    again, _ = trained(site, request, arrays, server_round=1)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    other, _ = trained(site, request, arrays, server_round=2)
    assert not all(np.array_equal(first[name], other[name]) for name in first)


def test_the_received_arrays_are_not_changed_by_training(site) -> None:
    request = asked()
    arrays = weights(request)
    before = {name: value.copy() for name, value in arrays.items()}
    trained(site, request, arrays)
    assert all(np.array_equal(arrays[name], before[name]) for name in before)


def test_what_fedbn_keeps_stays_at_the_site_and_comes_back_in_the_next_round(site) -> None:
    request = asked(task=NORMED, strategy={"use": "fedbn"})
    arrays = weights(request)
    first, _ = trained(site, request, arrays, server_round=1)
    assert set(first) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    stored = load_state(site, "run-1", 2)
    assert stored["kept/1.num_batches_tracked"] == 4 and np.any(stored["kept/1.running_mean"])
    # Evaluation after round 1 uses the site's own statistics, not the server's untrained ones.
    own = evaluated(site, request, arrays, server_round=1)["loss"]
    plain = evaluated(site, asked(task=NORMED, run="run-2"), arrays, server_round=1)["loss"]
    assert own != plain
    trained(site, request, arrays, server_round=2)
    assert load_state(site, "run-1", 3)["kept/1.num_batches_tracked"] == 8


def test_extra_arrays_go_to_the_client_half_and_back_under_their_prefix(site) -> None:
    request = asked(strategy={"use": "scaffold"})
    arrays = {**weights(request), "extra/share": np.array([1.0])}
    found, _ = trained(site, request, arrays, server_round=1)
    assert {"extra/control/0.weight", "extra/control/0.bias"} < set(found)
    stored = load_state(site, "run-1", 2)
    np.testing.assert_array_equal(stored["control/0.weight"], found["extra/control/0.weight"])


def test_scaffold_s_control_variate_is_the_mean_gradient_also_when_the_site_stops_early(site) -> None:
    settings = {"epochs": 8, "lr": 4.0, "batch_size": 8, "patience": 1}
    request = asked(strategy={"use": "scaffold"}, local=settings)
    arrays = {**weights(request), "extra/share": np.array([1.0])}
    found, _ = trained(site, request, arrays, server_round=1)
    ready = ready_site(site, request, torch.device("cpu"))

    def by_hand(**changes: Any) -> tuple[Any, dict[str, np.ndarray]]:
        model = own_randomness(build_task(request.task, SCHEMA).model())
        load_arrays(model, weights(request))
        local = request.local.model_copy(update=changes)
        seed, held_out = (3, "site-0", "train", 1), ready.validation
        done = train(model, ready.task, ready.train, local, seed=seed, validation=held_out)
        return done, take_arrays(model)

    done, kept_model = by_hand()
    assert done.epochs < 8, "the example does not overshoot"
    _, last_model = by_hand(epochs=done.epochs, patience=None)
    assert not np.array_equal(kept_model["0.weight"], last_model["0.weight"])
    np.testing.assert_array_equal(found["0.weight"], kept_model["0.weight"])
    # For plain SGD the way that was gone is the learning rate times the sum of the gradients.
    mean_gradient = (arrays["0.weight"] - last_model["0.weight"]) / (4.0 * done.steps)
    np.testing.assert_allclose(found["extra/control/0.weight"], mean_gradient, rtol=1e-4, atol=1e-6)


def test_an_update_with_infinite_values_is_not_sent(site) -> None:
    request = asked(task={**NORMED, "use": f"{HERE}:Overflowing"}, local={"lr": 1e10, "device": "cpu"})
    with pytest.raises(DataError, match=r"(update has NaN|loss is not finite).*lower local.lr"):
        trained(site, request, weights(request))


@pytest.mark.parametrize("records", [0, 2])
def test_a_message_carries_exactly_one_record_of_arrays(site, records) -> None:
    sent = message()
    for i in range(records):
        sent.content[f"a{i}"] = array_record(weights(asked()))
    with pytest.raises(JobError, match=f"one record of arrays, this one {records}"):
        train_round(site, asked(), sent)


def test_a_model_of_another_shape_is_refused(site) -> None:
    with pytest.raises(JobError, match="use the same versions of fedcore"):
        trained(site, asked(), {"0.weight": np.zeros((2, 9)), "0.bias": np.zeros(2)})


# ---- alone, and evaluation ----------------------------------------------------------------------------------


def test_alone_a_site_trains_as_many_epochs_as_all_rounds_without_the_strategy(site) -> None:
    request = asked(strategy={"use": "scaffold"}, local={"epochs": 2, "lr": 0.1, "batch_size": 8})
    arrays = weights(request)
    found, metrics = trained(site, request, arrays, server_round=1, solo_rounds=3)
    ready = ready_site(site, request, torch.device("cpu"))
    model = own_randomness(build_task(request.task, SCHEMA).model())
    load_arrays(model, arrays)
    long = request.local.model_copy(update={"epochs": 6})
    train(model, ready.task, ready.train, long, seed=(3, "site-0", "solo", 1))
    assert set(found) == {"0.weight", "0.bias"}
    np.testing.assert_array_equal(found["0.weight"], take_arrays(model)["0.weight"])
    assert {"loss", "accuracy", "auc", "num-examples"} == set(metrics)
    assert load_state(site, "run-1", 9) == {}


def test_evaluation_is_on_the_validation_rows(site) -> None:
    request = asked()
    arrays = weights(request)
    found = evaluated(site, request, arrays)
    opened = open_site(site, request)
    x, y = (torch.from_numpy(v[opened.validation]) for v in (opened.rows.x, opened.rows.target))
    logits = x @ torch.from_numpy(arrays["0.weight"]).T + torch.from_numpy(arrays["0.bias"])
    assert found["num-examples"] == 8
    assert found["loss"] == pytest.approx(functional.cross_entropy(logits, y).item(), rel=1e-5)
    assert found["accuracy"] == pytest.approx((logits.argmax(1) == y).float().mean().item())


def test_without_validation_rows_evaluation_is_on_the_training_rows(site) -> None:
    request = asked(local={"validation": 0})
    assert evaluated(site, request, weights(request))["num-examples"] == 40


def test_a_metric_cannot_change_the_site_s_weight(site) -> None:
    request = asked(task={**NORMED, "use": f"{HERE}:Boasting"})
    assert evaluated(site, request, weights(request)) == {"num-examples": 8, "loss": 0.5}
    _, alone = trained(site, request, weights(request), solo_rounds=1)
    assert alone == {"num-examples": 32, "loss": 0.5}


def test_evaluation_changes_nothing_at_the_site(site) -> None:
    request = asked(task=NORMED, strategy={"use": "fedbn"})
    evaluated(site, request, weights(request), server_round=1)
    assert load_state(site, "run-1", 9) == {}


# ---- a device that is lost -------------------------------------------------------------------------------------


@pytest.fixture
def failing_gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A GPU that fails in the middle of the first training; what was done where."""
    done: list[str] = []
    rows_of, model_of, train_on = work.ready_site, work.resident_model, work.train

    def broken(*given: Any, **settings: Any) -> Any:
        done.append("train")
        found = train_on(*given, **settings)
        if len(done) == 1:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        return found

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(device, "_lost", [])
    cpu = torch.device("cpu")
    monkeypatch.setattr(work, "ready_site", lambda site, request, device: rows_of(site, request, cpu))
    monkeypatch.setattr(work, "resident_model", lambda task, device: model_of(task, cpu))
    monkeypatch.setattr(work, "train", broken)
    return done


def test_a_round_whose_gpu_is_lost_ends_as_on_the_cpu(site, failing_gpu) -> None:
    request = asked(task=NORMED)
    start = weights(request)
    found, told = trained(site, request, start)
    assert failing_gpu == ["train", "train"]
    again, _ = trained(site, request, start)
    assert failing_gpu == ["train"] * 3 and told["num-examples"] == 32
    assert all(np.array_equal(found[name], again[name]) for name in found)


def test_a_site_whose_gpu_was_asked_for_by_name_and_is_lost_says_so(site, failing_gpu) -> None:
    request = asked(task=NORMED, local={"device": "cuda", "batch_size": 8})
    with pytest.raises(DataError, match=r"local\.device is 'cuda' and that device failed"):
        trained(site, request, weights(request))
    assert failing_gpu == ["train"]
