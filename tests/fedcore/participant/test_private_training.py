"""A participant's update: what is clipped, what is drawn, what is counted and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict

from fedcore.errors import BudgetExhausted, DataError, JobError, PolicyRefused
from fedcore.flower import array_record, arrays_in, enter_process, ndarrays
from fedcore.jobs.job import TrainJob
from fedcore.jobs.participant import Participant
from fedcore.jobs.privacy import NoisePlan
from fedcore.jobs.request import PRIVATE, RECORD, TrainRequest, request_for
from fedcore.participant import private_training
from fedcore.participant.budgets import foresee, required, site_ledger, training_cost
from fedcore.participant.mods.privacy import privacy
from fedcore.participant.private_training import BIT, check_plan, clipped_steps, private_update
from fedcore.privacy.ledger import Ledger
from fedcore.privacy.sensitivity import RELATIONS, neighbours

SIZE = 40
"""Weights of the model in these tests."""
ROUNDS = 10


def noise_plan(**other: Any) -> NoisePlan:
    """Noise of variance 9 per share and step, more than epsilon 8 asks for by far."""
    asked: dict[str, Any] = {
        "change": "replace",
        "participants": 10,
        "lost": 2,
        "present": 9,
        "releases": ROUNDS,
        "sampling": 1.0,
        "clip_steps": 64,
        "bit_steps": 0,
        # 8 shares of 1024: standard deviation 90, less than the sensitivity of 128.
        "variance": 8 * 1024 * 40,
        "local": False,
        **other,
    }
    return NoisePlan(**asked)


def asked(plan: NoisePlan | None = None, *, run: str = "run-1", **privacy: Any) -> TrainRequest:
    """The request of a job with this promise."""
    promise = {"level": "client", "epsilon": 8.0, "delta": 1e-5, "classes": [0, 1], **privacy}
    job = TrainJob.model_validate(
        {
            "kind": "train",
            "name": "a",
            "data": "study",
            "task": {"use": "tabular-classifier", "target": "y", "standardize": "none"},
            "evaluation": {"federated": False},
            "protection": {
                "secure_aggregation": "none" if privacy.get("mode") == "local" else "secagg+",
                "differential_privacy": promise,
            },
        }
    )
    return request_for(job, run, 10, {}, plan)


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


def message(**settings: float) -> Message:
    """The model, all weights 1."""
    enter_process()
    model = {"a": np.ones((4, 5), np.float32), "b": np.ones(SIZE - 20, np.float32)}
    content = RecordDict(
        {
            "arrays": array_record(model),
            PRIVATE: ConfigRecord({"clip": 0.5}),
            "config": ConfigRecord(dict(settings)),
        }
    )
    return Message(content, 7, "train")


def trained(to: Message, change: float = 1.0, **more: Any) -> Message:
    """What training would send: every weight moved by `change`."""
    arrays = {name: value + np.float32(change) for name, value in ndarrays(arrays_in(to.content)[0]).items()}
    arrays.update(more)
    told = MetricRecord({"loss": 0.1, "num-examples": 123})
    return Message(RecordDict({"arrays": array_record(arrays), "metrics": told}), reply_to=to)


def update(participant: Participant, request: TrainRequest, change: float = 1.0) -> RecordDict:
    """One update."""
    sent = message()
    return private_update(participant, request, sent, lambda: trained(sent, change)).content


def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no noise, to see what it is added to."""
    monkeypatch.setattr(private_training, "draw_share", lambda shares, count: np.zeros(count, np.int64))


@pytest.mark.parametrize("steps", [1, 7, 1024, 2**20])
def test_no_vector_is_longer_than_the_clip_and_none_is_cut_without_need(steps: int) -> None:
    rng = np.random.default_rng(steps)
    for scale in (1e-300, 1e-9, 0.1, 1.0, 3.0, 1e9, 1e300):
        for size in (1, 2, 50, 5000):
            change = rng.normal(size=size) * scale
            found, below = clipped_steps(change, 1.0, steps)
            assert sum(int(each) ** 2 for each in found) <= steps**2
            norm = math.hypot(*change) if size <= 50 else float(np.linalg.norm(change / scale)) * scale
            assert below is (norm <= 1.0)
            exact = change / max(norm, 1.0) * steps
            assert np.abs(found - exact).max() <= 1 + 1e-9 * steps


def test_a_vector_of_no_length_and_one_at_the_clip() -> None:
    np.testing.assert_array_equal(clipped_steps(np.zeros(3), 1.0, 8)[0], np.zeros(3))
    found, below = clipped_steps(np.array([0.0, -1.0]), 1.0, 8)
    assert found.tolist() == [0, -8] and below


def test_an_update_is_whole_steps_of_the_clip_counts_once_and_tells_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent(monkeypatch)
    content = update(site(tmp_path), asked(noise_plan()))
    arrays = ndarrays(arrays_in(content)[0])
    assert {name: (value.shape, value.dtype) for name, value in arrays.items()} == {
        "a": ((4, 5), np.int64),
        "b": ((20,), np.int64),
    }
    # Norm 1 * sqrt(40) is cut to 0.5, which is 64 steps, evenly over 40 weights.
    assert {int(value) for each in arrays.values() for value in each.ravel()} == {round(64 / math.sqrt(40))}
    assert dict(content["metrics"]) == {"num-examples": 1}
    assert set(content) == {"arrays", "metrics", PRIVATE}


def test_the_noise_of_updates_has_the_variance_of_a_share(tmp_path: Path) -> None:
    plan = noise_plan(releases=100, variance=8 * 1024 * 400)
    who, request = site(tmp_path), asked(plan)
    drawn = np.concatenate(
        [
            np.concatenate(
                [each.ravel() for each in ndarrays(arrays_in(update(who, request, 0.0))[0]).values()]
            )
            for _ in range(100)
        ]
    )
    ratio = float(np.square(drawn.astype(float)).sum()) / (plan.variance / 8)
    # Chi-square with 4000 degrees of freedom: beyond six standard deviations once in 10^8.
    assert abs(ratio - 4000) < 6 * math.sqrt(2 * 4000)


def test_adaptive_clipping_adds_one_number_that_tells_the_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent(monkeypatch)
    request = asked(noise_plan(bit_steps=7), clipping="adaptive")
    for change, bit in ((1.0, -7), (0.001, 7)):
        arrays = ndarrays(arrays_in(update(site(tmp_path), request, change))[0])
        assert arrays[BIT].tolist() == [bit]


def test_who_loses_its_coin_or_cannot_train_sends_noise_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent(monkeypatch)
    request = asked(noise_plan(change="add-remove", sampling=0.5, releases=ROUNDS))
    monkeypatch.setattr(private_training.secrets, "randbelow", lambda bound: bound - 1)
    arrays = ndarrays(arrays_in(update(site(tmp_path), request))[0])
    assert not any(value.any() for value in arrays.values())
    monkeypatch.setattr(private_training.secrets, "randbelow", lambda bound: 0)
    arrays = ndarrays(arrays_in(update(site(tmp_path), request))[0])
    assert all(value.all() for value in arrays.values())
    sent = message()

    def fails() -> Message:
        raise DataError("the training loss is not finite")

    reply = private_update(site(tmp_path), request, sent, fails)
    assert not any(value.any() for value in ndarrays(arrays_in(reply.content)[0]).values())


def test_coins_fall_as_often_as_they_should() -> None:
    # 4000 coins of 0.3: beyond six standard deviations once in 10^8.
    won = sum(private_training._takes_part(0.3) for _ in range(4000))
    assert abs(won - 1200) < 6 * math.sqrt(4000 * 0.3 * 0.7)


@pytest.mark.parametrize(
    ("plan", "privacy"),
    [
        (noise_plan(variance=8 * 1024 * 4), {}),
        (noise_plan(), {"epsilon": 0.1}),
        (noise_plan(change="add-remove"), {}),
        (noise_plan(bit_steps=3), {}),
        (noise_plan(), {"clipping": "adaptive"}),
        (noise_plan(local=True), {}),
        (noise_plan(lost=1), {}),
        (noise_plan(), {"mode": "local"}),
        (None, {}),
    ],
)
def test_a_plan_that_does_not_keep_the_promise_is_refused(
    tmp_path: Path, plan: NoisePlan | None, privacy: dict[str, Any]
) -> None:
    request = asked(plan, **privacy)
    with pytest.raises(JobError):
        check_plan(request)
    with pytest.raises(JobError):
        update(site(tmp_path), request)
    # What is refused in front of the first update is not charged.
    assert not list((tmp_path / "state").rglob("study*.jsonl"))


def test_what_no_clip_bounds_does_not_leave(tmp_path: Path) -> None:
    sent = message()
    more = {"extra/c": np.zeros(2, np.float32)}
    with pytest.raises(JobError, match="extra/c"):
        private_update(site(tmp_path), asked(noise_plan()), sent, lambda: trained(sent, **more))
    solo = message(**{"solo-rounds": 3})
    with pytest.raises(PolicyRefused, match="without noise"):
        private_update(site(tmp_path), asked(noise_plan()), solo, lambda: trained(solo))
    counted = message()
    counted.content["arrays"] = array_record({"n": np.array(3)})
    with pytest.raises(JobError, match="no weight"):
        private_update(site(tmp_path), asked(noise_plan()), counted, lambda: trained(counted))
    bare = message()
    del bare.content[PRIVATE]
    with pytest.raises(JobError, match="no clip"):
        private_update(site(tmp_path), asked(noise_plan()), bare, lambda: trained(bare))


def test_a_run_is_charged_once_and_lets_no_more_updates_out_than_were_paid(tmp_path: Path) -> None:
    who = site(tmp_path, epsilon=10, delta=1e-4)
    ledger = _ledger(who)
    for _ in range(ROUNDS):
        # As after a crash: nothing is kept in memory, and rounds may be done again.
        update(who, asked(noise_plan()))
    account = ledger.account()
    assert [(each.request, float(each.cost.amount)) for each in account.charges] == [("run-1", 8.0)]
    assert account.charges[0].source == "training"
    with pytest.raises(BudgetExhausted, match=f"{ROUNDS} updates that were paid for"):
        update(who, asked(noise_plan()))
    with pytest.raises(PolicyRefused, match="begun with another training"):
        update(who, asked(noise_plan(clip_steps=32)))
    assert len(ledger.account().charges) == 1


def test_a_crash_between_the_charge_and_the_count_does_not_charge_twice(tmp_path: Path) -> None:
    who, request = site(tmp_path, epsilon=10, delta=1e-4), asked(noise_plan())
    update(who, request)
    count = tmp_path / "state" / "privacy" / "runs" / "run-1.jsonl"
    # What was agreed is written first, then the ledger, then that it was charged.
    count.write_text(count.read_text().splitlines(keepends=True)[0])
    update(who, request)
    assert len(_ledger(who).account().charges) == 1 and len(count.read_text().splitlines()) == 3
    count.write_text("")
    with pytest.raises(DataError, match="the count of its updates is gone"):
        update(who, request)
    count.write_text("half a li")
    with pytest.raises(DataError, match="cannot be read"):
        update(who, request)


@pytest.mark.parametrize("kind", ["evaluate", "query.totals"])
def test_what_has_no_noise_is_not_answered_under_a_promise(tmp_path: Path, kind: str) -> None:
    enter_process()
    told = {"request": asked(noise_plan()).to_json()}
    sent = Message(RecordDict({RECORD: ConfigRecord(told)}), 7, kind)
    mod = privacy(lambda context: site(tmp_path))
    with pytest.raises(PolicyRefused, match="without noise"):
        mod(sent, cast(Context, None), lambda message, context: trained(message))


def test_a_budget_that_does_not_reach_is_refused_with_the_numbers_and_nothing_leaves(tmp_path: Path) -> None:
    who = site(tmp_path, epsilon=10, delta=1e-4)
    update(who, asked(noise_plan()))
    other = asked(noise_plan(), run="run-2")
    numbers = (
        r"requested epsilon 8, delta 0\.00001, remaining epsilon 2, delta 0\.00009, difference epsilon 6"
    )
    with pytest.raises(BudgetExhausted, match=numbers):
        foresee(who, other)
    with pytest.raises(BudgetExhausted, match="requested epsilon 8"):
        update(who, other)
    # One that was begun may go on.
    foresee(who, asked(noise_plan()))
    assert len(_ledger(who).account().charges) == 1


def test_a_promise_covers_what_is_within_one_client() -> None:
    replaced, alone = asked(noise_plan()), asked(noise_plan(change="add-remove"), neighbours="add-remove")
    for relation in RELATIONS.values():
        assert float(training_cost(replaced, relation).amount) == 8
        if relation == neighbours("add-remove-client"):
            assert float(training_cost(alone, relation).amount) == 8
        else:
            with pytest.raises(PolicyRefused, match="neighbours: replace"):
                training_cost(alone, relation)


def test_a_site_without_a_budget_keeps_no_ledger_and_one_may_require_privacy(tmp_path: Path) -> None:
    assert site_ledger(site(tmp_path), "study") is None
    assert not required(site(tmp_path), "study", "train")
    strict = site(tmp_path, epsilon=1, required_for=["train"])
    assert required(strict, "study", "train") and not required(strict, "study", "psi")


def _ledger(who: Participant) -> Ledger:
    found = site_ledger(who, "study")
    assert found is not None
    return found
