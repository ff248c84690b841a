"""What a site works out, counts and refuses where each of its rows is promised privacy."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict

from fedcore.errors import BudgetExhausted, DataError, JobError, PolicyRefused
from fedcore.flower import array_record, arrays_in, enter_process, metrics_in, ndarrays
from fedcore.jobs.job import TrainJob
from fedcore.jobs.participant import Participant
from fedcore.jobs.privacy import NoisePlan, StepPlan
from fedcore.jobs.request import RECORD, TOTALS, TrainRequest, request_for
from fedcore.participant import private_records
from fedcore.participant.budgets import site_ledger, training_cost
from fedcore.participant.mods.privacy import privacy
from fedcore.participant.private_records import private_round, promise, promise_of
from fedcore.privacy.accounting import Gaussian, epsilon
from fedcore.privacy.sensitivity import RELATIONS

ROUNDS = 3


def asked(run: str = "run-1", spare: int = 0, **local: Any) -> TrainRequest:
    """The request of a job with this promise."""
    job = TrainJob.model_validate(
        {
            "kind": "train",
            "name": "a",
            "data": "study",
            "rounds": ROUNDS,
            "task": {"use": "tabular-classifier", "target": "y", "standardize": "none"},
            "local": {"validation": 0, "batch_size": 10, **local},
            "evaluation": {"federated": False},
            "protection": {
                "differential_privacy": {
                    "level": "record",
                    "epsilon": 1.0,
                    "delta": 1e-3,
                    "spare": spare,
                    "classes": [0, 1],
                }
            },
        }
    )
    return request_for(job, run, 10, {})


def site(folder: Path, **budget: Any) -> Participant:
    """A site, with a budget where one is given."""
    return Participant.model_validate(
        {
            "name": "clinic",
            "catalogue": {"study": {"connector": "csv", "path": "x.csv"}},
            "policy": {"privacy": {"study": budget} if budget else {}},
            "state": str(folder / "state"),
        }
    )


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """How many rows the site has; changed by tests."""
    held = SimpleNamespace(count=100)
    opened = lambda participant, request: SimpleNamespace(held=held.count)  # noqa: E731
    monkeypatch.setattr(private_records, "open_site", opened)
    return held


def message(kind: str = "train", **settings: float) -> Message:
    """A model of one array."""
    enter_process()
    content = RecordDict(
        {"arrays": array_record({"a": np.ones(4, np.float32)}), "config": ConfigRecord(dict(settings))}
    )
    return Message(content, 7, kind)


def trained(to: Message, rows: int = 100, **more: Any) -> Message:
    """What training would send, with more than may leave."""
    arrays = {"a": np.zeros(4, np.float32), **more}
    told = MetricRecord({"loss": 0.25, "num-examples": rows})
    content = RecordDict({"arrays": array_record(arrays), "metrics": told, "note": ConfigRecord({"x": 1})})
    return Message(content, reply_to=to)


def test_the_noise_of_a_site_costs_what_was_promised_over_all_rounds_that_are_paid() -> None:
    found = promise(asked(spare=1), 100, releases=ROUNDS + 1)
    made = found.calibrated
    assert (made.sampling, made.steps, found.rows, found.clip) == (0.1, 40, 100, 1.0)
    spent = epsilon([Gaussian(made.noise, 40, 0.1)], 1e-3, 100).value
    assert 0.99 < spent <= 1.0
    assert made.noise > promise(asked(), 1000, releases=4).calibrated.noise, "fewer rows take more noise"


def test_the_rounds_that_are_paid_are_those_of_the_job_and_the_spare_ones() -> None:
    assert asked(spare=2).noise == StepPlan(releases=ROUNDS + 2)


@pytest.mark.parametrize("local", [{"validation": 0.2}, {"patience": 1}, {"precision": "float16"}])
def test_a_request_for_what_depends_on_the_rows_is_refused_at_the_site(local: dict[str, Any]) -> None:
    request = asked()
    request = request.model_copy(update={"local": request.local.model_copy(update=local)})
    with pytest.raises(JobError, match="the promise is to each row"):
        promise(request, 100, 1)


def test_a_delta_that_would_show_a_row_is_refused() -> None:
    with pytest.raises(JobError, match=r"at most one over this site's number of rows \(2000\), 0\.0005"):
        promise(asked(), 2000, 1)


@pytest.mark.usefixtures("rows")
def test_nothing_leaves_but_the_weights_and_the_number_of_rows(tmp_path: Path) -> None:
    sent = message()
    reply = private_round(site(tmp_path), asked(), sent, lambda: trained(sent)).content
    assert set(reply) == {"arrays", "metrics"}
    assert dict(metrics_in(reply)[0]) == {"num-examples": 100}
    assert list(ndarrays(arrays_in(reply)[0])) == ["a"]


@pytest.mark.usefixtures("rows")
def test_a_counter_does_not_leave(tmp_path: Path) -> None:
    sent = message()
    with pytest.raises(JobError, match="'seen' that is no weight"):
        private_round(site(tmp_path), asked(), sent, lambda: trained(sent, seen=np.array([4])))


@pytest.mark.usefixtures("rows")
def test_no_more_rounds_are_trained_than_were_paid_for_whatever_became_of_them(tmp_path: Path) -> None:
    place = site(tmp_path, epsilon=1.5, delta=1e-2, per="ever", neighbours="add-remove-row")

    def lost() -> Message:
        raise DataError("the disk is gone")

    with pytest.raises(DataError, match="disk"):
        private_round(place, asked(), message(), lost)
    for _ in range(ROUNDS - 1):
        sent = message()
        private_round(place, asked(), sent, lambda: trained(sent))  # noqa: B023 - called at once
    with pytest.raises(BudgetExhausted, match=f"the {ROUNDS} updates that were paid for"):
        private_round(place, asked(), message(), lost)
    ledger = site_ledger(place, "study")
    assert ledger is not None and len(ledger.account().charges) == 1
    with pytest.raises(BudgetExhausted):
        private_round(place, asked("run-2"), message(), lost)


def test_rows_that_came_or_went_during_a_run_end_it_at_the_site(
    tmp_path: Path, rows: SimpleNamespace
) -> None:
    place, sent = site(tmp_path), message()
    private_round(place, asked(), sent, lambda: trained(sent))
    rows.count = 101
    with pytest.raises(PolicyRefused, match="other rows"):
        private_round(place, asked(), sent, lambda: trained(sent, 101))
    rows.count = 100
    with pytest.raises(DataError, match="changed while the site trained"):
        private_round(place, asked(), sent, lambda: trained(sent, 99))


@pytest.mark.usefixtures("rows")
def test_a_plan_of_another_promise_and_a_model_of_this_site_alone_are_refused(tmp_path: Path) -> None:
    request, place = asked(), site(tmp_path)
    with pytest.raises(JobError, match="how many rounds are paid for"):
        promise_of(place, request.model_copy(update={"noise": None}))
    plan = NoisePlan(
        change="replace",
        participants=3,
        lost=1,
        present=3,
        releases=1,
        sampling=1.0,
        clip_steps=1,
        bit_steps=0,
        variance=1,
        local=False,
    )
    with pytest.raises(JobError, match="how many rounds are paid for"):
        promise_of(place, request.model_copy(update={"noise": plan}))
    sent = message(**{"solo-rounds": 3})
    with pytest.raises(PolicyRefused, match="this site alone"):
        private_round(place, request, sent, lambda: trained(sent))


@pytest.mark.parametrize("relation", sorted(RELATIONS))
def test_a_promise_to_a_row_is_paid_from_a_ledger_of_rows_only(relation: str) -> None:
    if relation == "add-remove-row":
        cost = training_cost(asked(), RELATIONS[relation])
        assert (float(cost.amount), float(cost.delta)) == (1.0, 1e-3)
    else:
        with pytest.raises(PolicyRefused, match="level: client"):
            training_cost(asked(), RELATIONS[relation])


@pytest.mark.usefixtures("rows")
def test_numbers_of_rows_are_told_and_evaluations_are_not(tmp_path: Path) -> None:
    gate = privacy(lambda context: site(tmp_path))
    context = Context(1, 1, {}, RecordDict(), {})

    def reply(kind: str) -> Any:
        sent = message(kind)
        sent.content[RECORD] = ConfigRecord({"request": asked().to_json()})
        return gate(sent, context, lambda message, context: "answered")  # type: ignore[arg-type, return-value]

    assert reply(TOTALS) == "answered"
    with pytest.raises(PolicyRefused, match="without noise"):
        reply("evaluate")
