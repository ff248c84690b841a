"""What a participant does for a train job: prepare, train, evaluate."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import nn

from fedcore.errors import DataError, JobError
from fedcore.flower import array_record, arrays_in, base_array, configs_in
from fedcore.jobs.job import LocalTraining
from fedcore.jobs.participant import Participant
from fedcore.jobs.request import TrainRequest
from fedcore.learning.device import on_device_or_cpu
from fedcore.learning.rendezvous import trained_together
from fedcore.learning.training import (
    Trained,
    evaluate,
    load_arrays,
    resident_model,
    take_arrays,
    train,
)
from fedcore.participant.site import Ready, Site, open_site, ready_site
from fedcore.participant.store import load_state, save_state
from strategies.base import EXTRA, ClientHalf, split
from strategies.registry import resolve

LAYERS = {"policy": "on", "disclosure": "off"}
"""Layers of the release gate in this version, for the run's receipt."""


def prepare(participant: Participant, request: TrainRequest, message: Message) -> Message:
    """Describe the rows; with `standardize: federated`, release each feature's sum and sum of squares.

    Where counts are hidden, neither they nor the sums are told here: `totals` gives them to a protected sum.
    """
    site = open_site(participant, request)
    promised = request.differential_privacy
    kept = _kept(participant, request)
    about = {
        **site.describe(),
        **({} if request.counts_hidden else {**site.counts(), **kept}),
        **_agreed_classes(site, request),
        "name": participant.name,
        "layers": {
            "evidence": participant.evidence,
            **LAYERS,
            "privacy": promised.word if promised else "off",
            **_budget(participant, request),
            "protection": request.secure_aggregation.protocol if request.protected else "off",
        },
    }
    content = RecordDict({"site": ConfigRecord({"about": json.dumps(about)})})
    if (moments := _moments(site, request)) and not request.counts_hidden:
        sums, squares = moments
        content["moments"] = MetricRecord({"rows": len(site.train), "sums": sums, "squares": squares})
    return Message(content, reply_to=message)


def _budget(participant: Participant, request: TrainRequest) -> dict[str, str]:
    """Whether a promise is paid from a budget of the site's."""
    if not request.private:
        return {}
    return {"budget": "charged" if request.data in participant.policy.privacy else "none stated"}


def _kept(participant: Participant, request: TrainRequest) -> dict[str, Any]:
    """How the site keeps a promise to each row; what cannot be kept is refused before any work."""
    if request.of_record is None:
        return {}
    from fedcore.participant.private_records import promise_of

    kept = promise_of(participant, request).calibrated
    return {"private": {"noise": kept.noise, "sampling": kept.sampling, "steps": kept.steps}}


def _agreed_classes(site: Site, request: TrainRequest) -> dict[str, list[int | float | str]]:
    """Under differential privacy the classes that the job names; which of them the site has is not told.

    Raises:
        JobError: It names none.
        DataError: The site has others.
    """
    promised = request.differential_privacy
    if promised is None or not site.classes:
        return {}
    if promised.classes is None:
        raise JobError(
            "the task is a classification; protection.differential_privacy.classes must name its classes"
        )
    if request.of_record is None and set(site.classes) - set(promised.classes):
        raise DataError(
            f"the target {request.task.target!r} has values that protection.differential_privacy.classes does not name; "
            "name all values it can have"
        )
    return {"classes": list(promised.classes)}


def totals(participant: Participant, request: TrainRequest, message: Message) -> Message:
    """What goes into the protected sum in front of round 1: counts, and moments with `standardize: federated`."""
    site = open_site(participant, request)
    arrays = {name: np.array(count, np.float64) for name, count in site.counts().items()}
    if moments := _moments(site, request):
        arrays["sums"], arrays["squares"] = map(np.array, moments)
    return Message(RecordDict({"arrays": array_record(arrays)}), reply_to=message)


def _moments(site: Site, request: TrainRequest) -> tuple[list[float], list[float]] | None:
    # Sums without noise say more of a row than it was promised.
    if request.private or getattr(request.task, "standardize", "none") != "federated":
        return None
    if site.rows.x.ndim != 2:
        raise DataError("standardize: federated is for numeric columns; images need standardize: none")
    return site.moments()


def train_round(participant: Participant, request: TrainRequest, message: Message) -> Message:
    """Train the received model on the site's rows and send it back.

    Where the device is lost on the way, all of it is done again on the CPU.
    """
    return _somewhere(participant, request, partial(_train_round, participant, request, message))


def _somewhere(
    participant: Participant, request: TrainRequest, work: Callable[[torch.device], Message]
) -> Message:
    return on_device_or_cpu(request.local.device, participant.resources.gpus == "auto", work)


def _train_round(
    participant: Participant, request: TrainRequest, message: Message, device: torch.device
) -> Message:
    config = _config(message)
    local, solo = request.local, int(config.get("solo-rounds", 0))
    if solo:
        local = local.model_copy(update={"epochs": local.epochs * solo, "patience": None})
    ready = ready_site(participant, request, device)
    arrays, extra = _received(message)
    number = int(config.get("server-round", 1))
    half = None if solo else _half(participant, request, number, extra)
    seed = (request.seed, participant.name, "solo" if solo else "train", number)
    if not solo and not request.of_record:
        met = trained_together(ready.task, ready.train, local, arrays, seed=seed, half=half, config=config)
        if met is not None:
            _refuse_not_finite(met.arrays, local.lr)
            return _reply(message, met.arrays, {"loss": met.done.loss, "num-examples": met.done.rows})
    model = resident_model(ready.task, device)
    load_arrays(model, arrays)
    if half:
        half.restore(model)
    done = _trained(participant, request, ready, model, local, seed, half, config)
    sent_extra = half.finish(model) if half else {}
    sent = take_arrays(model, half.keeps(model) if half else set())
    sent.update({EXTRA + name: np.asarray(value) for name, value in sent_extra.items()})
    _refuse_not_finite(sent, local.lr)
    if half and (remembered := half.remember(model)):
        save_state(participant, request.run, number, remembered)
    metrics: dict[str, Any] = {} if request.of_record else {"loss": done.loss}
    if solo and len(ready.validation):
        metrics.update(evaluate(model, ready.task, ready.validation))
    metrics["num-examples"] = done.rows
    return _reply(message, sent, metrics)


def _reply(message: Message, sent: Mapping[str, Any], metrics: dict[str, Any]) -> Message:
    return Message(
        RecordDict({"arrays": array_record(sent), "metrics": MetricRecord(metrics)}), reply_to=message
    )


def _trained(
    participant: Participant,
    request: TrainRequest,
    ready: Ready,
    model: nn.Module,
    local: LocalTraining,
    seed: tuple[str | int, ...],
    half: ClientHalf | None,
    config: dict[str, Any],
) -> Trained:
    """Train in place: plainly, or with clipped gradients and noise where each row is promised privacy."""
    if request.of_record is None:
        return train(
            model,
            ready.task,
            ready.train,
            local,
            seed=seed,
            half=half,
            config=config,
            validation=ready.validation,
        )
    from fedcore.learning.private.loop import train_privately
    from fedcore.participant.private_records import promise_of

    kept = promise_of(participant, request)
    return train_privately(
        model,
        ready.task,
        ready.train,
        local,
        clip=kept.clip,
        noise=kept.calibrated.noise,
        held=kept.rows,
        half=half,
        config=config,
    )


def evaluate_round(participant: Participant, request: TrainRequest, message: Message) -> Message:
    """Evaluate the received model on the site's validation rows (its training rows when it has none)."""
    return _somewhere(participant, request, partial(_evaluate_round, participant, request, message))


def _evaluate_round(
    participant: Participant, request: TrainRequest, message: Message, device: torch.device
) -> Message:
    ready = ready_site(participant, request, device)
    model = resident_model(ready.task, device)
    arrays, extra = _received(message)
    number = int(_config(message).get("server-round", 0))
    half = _half(participant, request, number + 1, extra)
    load_arrays(model, arrays)
    if half:
        half.restore(model)
    rows = ready.validation if len(ready.validation) else ready.train
    # Last, so that a metric of this name cannot change the site's weight.
    metrics: dict[str, Any] = {**evaluate(model, ready.task, rows), "num-examples": len(rows)}
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message)


def _config(message: Message) -> dict[str, Any]:
    """What the strategy sent beside the arrays."""
    return {name: value for record in configs_in(message.content) for name, value in record.items()}


def _received(message: Message) -> tuple[dict[str, Any], dict[str, Any]]:
    records = arrays_in(message.content)
    if len(records) != 1:
        raise JobError(f"a train or evaluate message carries one record of arrays, this one {len(records)}")
    record: ArrayRecord = records[0]
    return split({name: base_array(array) for name, array in record.items()})


def _half(
    participant: Participant, request: TrainRequest, number: int, extra: Mapping[str, Any]
) -> ClientHalf | None:
    kind = resolve(request.strategy.use).client
    if kind is None:
        return None
    state = load_state(participant, request.run, number)
    return kind(state, dict(extra), request.strategy.parameters)


def _refuse_not_finite(arrays: Mapping[str, Any], lr: float) -> None:
    for name, value in arrays.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise DataError(
                f"the update has NaN or infinite values (in {name!r}); lower local.lr (now {lr}) or look for "
                "outliers in the features"
            )
