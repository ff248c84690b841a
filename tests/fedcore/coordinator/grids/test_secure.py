"""Secure aggregation as a grid: equal to the plain mean, whoever drops out, and nothing plain to be seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower

from crypto.secagg.graph import Assumptions
from fedcore.coordinator.grids.secure import SecureAggregationGrid
from fedcore.engines.embedded import FIRST_NODE
from fedcore.flower import array_record, ndarrays
from fedcore.participant.mods.secure import Own, secure_aggregation
from tests.fedcore.coordinator.grids.secure_apps import (
    CURIOUS,
    Seen,
    engine,
    evaluated,
    messages,
    model,
    one,
    plain_mean,
    trained,
)


def holds(reply: Message | None, indices: range | list[int], grid: SecureAggregationGrid) -> None:
    """The reply is the weighted mean over these participants."""
    assert reply is not None, grid.account
    arrays, loss = plain_mean(indices)
    found = ndarrays(reply.content["arrays"])  # type: ignore[arg-type]
    assert list(found) == list(arrays)
    bound = grid.account.error_bound
    assert 0 < bound < 1e-3
    for name, value in arrays.items():
        slack = bound + 1e-6 * np.abs(value).max()
        np.testing.assert_allclose(found[name], value, rtol=0, atol=slack)
    metrics = reply.content["metrics"]
    assert metrics["num-examples"] == sum(10 * (i + 1) for i in indices)
    assert metrics["loss"] == pytest.approx(loss, abs=1e-6)
    assert grid.account.summed == len(list(indices))


@pytest.mark.parametrize("serialize", [False, True])
@pytest.mark.parametrize("bits", [32, 64])
def test_the_reply_is_the_weighted_mean_of_arrays_and_metrics(serialize: bool, bits: int) -> None:
    grid = SecureAggregationGrid(engine(5, serialize=serialize, workers=2), bits=bits)
    holds(one(grid, messages()), range(5), grid)
    assert grid.account.dropped == {} and grid.account.clipped == 0
    assert list(grid.account.stages) == ["keys", "roster", "masked", "confirm", "reveal"]


def test_a_curious_coordinator_needs_no_confirmation() -> None:
    # The participants' own assumption is an active one, so that they refuse.
    grid = SecureAggregationGrid(engine(5), CURIOUS)
    assert one(grid, messages()) is None
    assert grid.account.stages["keys"]["answered"] == 0


def test_keys_are_agreed_on_once_and_shares_ride_with_the_replies() -> None:
    below = Seen(engine(5))
    grid = SecureAggregationGrid(below)
    for number in range(3):
        holds(one(grid, messages(number=number + 1)), range(5), grid)
        assert one(grid, messages("evaluate")) is not None
    assert below.stages[:2] == ["keys", "roster"]
    assert below.stages[2:] == ["masked", "confirm", "reveal"] * 6


def test_evaluation_metrics_are_averaged_where_they_are_defined() -> None:
    grid = SecureAggregationGrid(engine(5))
    reply = one(grid, messages("evaluate"))
    assert reply is not None and "arrays" not in reply.content
    weights = np.array([3 + i for i in range(5)])
    told = reply.content["metrics"]
    assert told["num-examples"] == weights.sum()
    assert told["loss"] == pytest.approx(np.average(0.25 * np.arange(5), weights=weights), abs=1e-7)
    there = [0, 2, 3, 4]
    auc = np.average([0.5 + i / 100 for i in there], weights=weights[there])
    assert told["auc"] == pytest.approx(auc, abs=1e-7)


def test_a_metric_that_one_participant_lacks_comes_from_the_second_round_on() -> None:
    def evaluate(message: Message, context: Context) -> RecordDict:
        told = evaluated(message, context)
        if context.node_id == FIRST_NODE:
            told["metrics"]["only"] = 4.0
        return told

    grid = SecureAggregationGrid(engine(5, evaluate=evaluate))
    first, second = (one(grid, messages("evaluate")) for _ in range(2))
    assert first is not None and "only" not in first.content["metrics"]
    assert second is not None and second.content["metrics"]["only"] == pytest.approx(4.0)
    assert second.content["metrics"]["loss"] == pytest.approx(
        0.25 * np.average(range(5), weights=range(3, 8))
    )


def test_every_other_message_passes_through() -> None:
    grid = SecureAggregationGrid(engine(3))
    asked = [Message(RecordDict(), FIRST_NODE + i, "query.ask") for i in range(3)]
    replies = list(grid.send_and_receive(asked))
    assert [reply.content["m"]["node"] for reply in replies] == [100, 101, 102]
    with pytest.raises(ValueError, match="send_and_receive"):
        grid.push_messages(messages())


# ---- strategies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda **s: flower.FedAvg(**s),
        lambda **s: flower.FedAvgM(server_momentum=0.9, **s),
        lambda **s: flower.FedAdam(**s),
        lambda **s: flower.FedYogi(**s),
        lambda **s: flower.FedAdagrad(**s),
        lambda **s: flower.FedProx(proximal_mu=0.1, **s),
    ],
    ids=["fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "fedprox"],
)
def test_a_strategy_of_flower_gives_its_unprotected_result(make: Any) -> None:
    start = {name: value for name, value in model().items() if value.dtype.kind == "f"}
    settings = {"min_available_nodes": 5, "min_train_nodes": 5, "min_evaluate_nodes": 5}
    found = []
    for protect in (False, True):
        below = engine(5, mods=() if not protect else (engine.__kwdefaults__["mods"]))
        grid = SecureAggregationGrid(below) if protect else below
        result = make(**settings).start(grid, array_record(start), num_rounds=2)
        found.append(
            (ndarrays(result.arrays), result.train_metrics_clientapp, result.evaluate_metrics_clientapp)
        )
    (plain, plain_train, plain_evaluate), (masked, train, evaluate) = found
    for name, value in plain.items():
        np.testing.assert_allclose(masked[name], value, rtol=1e-4, atol=2e-4)
    assert train[2]["loss"] == pytest.approx(plain_train[2]["loss"], abs=1e-6)
    assert evaluate[2]["loss"] == pytest.approx(plain_evaluate[2]["loss"], abs=1e-6)


# ---- who drops out -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "left"),
    [
        ("keys", [0, 1, 2, 3, 5, 6]),
        ("roster", [0, 1, 2, 3, 5, 6]),
        ("masked", [0, 1, 2, 3, 5, 6]),
        ("confirm", list(range(7))),
        ("reveal", list(range(7))),
    ],
)
def test_a_drop_out_at_any_stage_leaves_the_sum_of_the_others_exact(stage: str, left: list[int]) -> None:
    below = Seen(engine(7), [(stage, 1, FIRST_NODE + 4)])
    grid = SecureAggregationGrid(below)
    holds(one(grid, messages(nodes=7)), left, grid)
    assert grid.account.dropped == {str(FIRST_NODE + 4): stage}
    # It is back in the next round, whatever it missed.
    holds(one(grid, messages(nodes=7)), range(7), grid)


def test_drop_outs_at_several_stages_together() -> None:
    lost = [("roster", 1, FIRST_NODE), ("masked", 1, FIRST_NODE + 1), ("reveal", 1, FIRST_NODE + 2)]
    grid = SecureAggregationGrid(Seen(engine(9), lost))
    holds(one(grid, messages(nodes=9)), range(2, 9), grid)
    assert set(grid.account.dropped.values()) == {"roster", "masked", "reveal"}


@pytest.mark.parametrize("stage", ["keys", "roster", "masked", "confirm", "reveal"])
def test_below_the_threshold_there_is_no_reply_and_the_next_round_goes_on(stage: str) -> None:
    below = Seen(engine(5), [(stage, 1, FIRST_NODE + i) for i in range(3)])
    grid = SecureAggregationGrid(below)
    assert one(grid, messages()) is None
    assert "failed" in grid.account.failed and "needed" in grid.account.failed
    assert len(grid.account.dropped) == 3
    holds(one(grid, messages()), range(5), grid)


def test_when_all_drop_out_there_is_no_reply() -> None:
    below = Seen(engine(4), [("masked", 1, FIRST_NODE + i) for i in range(4)])
    grid = SecureAggregationGrid(below)
    assert one(grid, messages(nodes=4)) is None
    assert grid.account.summed == 0
    holds(one(grid, messages(nodes=4)), range(4), grid)


def test_a_participant_that_was_started_anew_meets_the_others_again() -> None:
    below = Seen(engine(7))
    grid = SecureAggregationGrid(below)
    holds(one(grid, messages(nodes=7)), range(7), grid)
    below.engine._contexts[FIRST_NODE + 2].state = RecordDict()
    holds(one(grid, messages(nodes=7)), [0, 1, 3, 4, 5, 6], grid)
    holds(one(grid, messages(nodes=7)), [0, 1, 3, 4, 5, 6], grid)  # asked for shares, it knows no session
    holds(one(grid, messages(nodes=7)), range(7), grid)
    assert below.stages.count("keys") == 2


def test_another_cohort_meets_anew_and_newcomers_come_in() -> None:
    below = Seen(engine(7))
    grid = SecureAggregationGrid(below)
    holds(one(grid, messages(nodes=4)), range(4), grid)
    holds(one(grid, messages(nodes=7)), range(7), grid)
    assert below.stages.count("keys") == 2


def test_a_cohort_of_two_is_refused_unless_both_sides_allow_it() -> None:
    grid = SecureAggregationGrid(engine(2))
    assert one(grid, messages(nodes=2)) is None
    assert "least_cohort" in grid.account.failed
    grid = SecureAggregationGrid(engine(2), Assumptions(least_cohort=2))
    assert one(grid, messages(nodes=2)) is None  # the participants' own assumption is three
    assert grid.account.stages["keys"]["answered"] == 0


# ---- bad participants --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_update_with_nan_is_refused_by_name_and_the_round_goes_on(value: float) -> None:
    def train(message: Message, context: Context) -> RecordDict:
        told = trained(message, context)
        if context.node_id == FIRST_NODE + 3:
            arrays = {name: array.numpy().copy() for name, array in told["arrays"].items()}
            arrays["w"][0, 0] = value
            told["arrays"] = array_record(arrays)
        return told

    below = Seen(engine(7, train=train))
    grid = SecureAggregationGrid(below)
    holds(one(grid, messages(nodes=7)), [0, 1, 2, 4, 5, 6], grid)
    assert grid.account.dropped == {str(FIRST_NODE + 3): "masked"}


def test_too_many_examples_and_none_are_refused() -> None:
    def train(message: Message, context: Context) -> RecordDict:
        told = trained(message, context)
        if context.node_id in (FIRST_NODE, FIRST_NODE + 1):
            told["metrics"]["num-examples"] = 2**20 if context.node_id == FIRST_NODE else 0
        return told

    grid = SecureAggregationGrid(engine(9, train=train))
    holds(one(grid, messages(nodes=9)), range(2, 9), grid)


def test_what_is_changed_on_the_way_counts_as_not_sent() -> None:
    refused: list[tuple[str, str]] = []
    below = Seen(engine(7))

    def shorten(stage: str, reply: Message) -> None:
        if stage == "masked" and reply.metadata.src_node_id == FIRST_NODE + 1:
            short = ndarrays(reply.content["masked"])["masked"][:-1].copy()  # type: ignore[arg-type]
            reply.content["masked"] = array_record({"masked": short})

    below.change = shorten
    grid = SecureAggregationGrid(below, refused=lambda name, why: refused.append((name, why)))
    holds(one(grid, messages(nodes=7)), [0, 2, 3, 4, 5, 6], grid)
    assert refused[0][0] == str(FIRST_NODE + 1) and "words, expected are" in refused[0][1]


def test_a_wrong_share_is_found_and_its_participant_named() -> None:
    below = Seen(engine(7))

    def spoil(stage: str, reply: Message) -> None:
        if stage == "reveal" and reply.metadata.src_node_id == FIRST_NODE + 1:
            body = bytearray(reply.content["secure"]["message"])
            body[-1] ^= 1
            reply.content["secure"] = ConfigRecord({"stage": "reveal", "message": bytes(body)})

    below.change = spoil
    grid = SecureAggregationGrid(below)
    holds(one(grid, messages(nodes=7)), range(7), grid)
    assert grid.account.blamed in ([str(FIRST_NODE + 1)], [])  # unless its share was not needed


def test_values_beyond_the_clip_are_cut_and_counted() -> None:
    grid = SecureAggregationGrid(engine(5), clip=0.5)
    reply = one(grid, messages())
    assert reply is not None
    assert grid.account.clipped > 0
    change = ndarrays(reply.content["arrays"])["w"] - model()["w"]  # type: ignore[arg-type]
    assert np.abs(change).max() <= 0.5 + 1e-6


def different(what: str) -> list[Message]:
    """Messages of which one has another model, or another setting."""
    asked = messages()
    other = {name: value + 1 for name, value in model().items()}
    for i, message in enumerate(asked):
        arrays = other if what == "model" and i == 2 else model()
        setting = 0.0 if what == "setting" and i == 2 else 0.1
        message.content = RecordDict(
            {"arrays": array_record(arrays), "config": ConfigRecord({"lr": setting})}
        )
    return asked


@pytest.mark.parametrize("what", ["model", "setting"])
def test_participants_that_are_sent_something_else_than_the_others_refuse(what: str) -> None:
    grid = SecureAggregationGrid(engine(5))
    assert one(grid, different(what)) is None
    assert grid.account.stages["masked"]["answered"] == 0


def test_participants_that_allow_it_are_averaged_as_they_stand_when_their_models_differ() -> None:
    personal = secure_aggregation(lambda message, context: Own(str(context.node_id), personal=True))
    grid = SecureAggregationGrid(engine(5, mods=[personal]), clip=64)
    reply = one(grid, different("model"))
    assert reply is not None
    plain, _ = plain_mean(range(5))
    np.testing.assert_allclose(
        ndarrays(reply.content["arrays"])["b"],  # type: ignore[arg-type]
        plain["b"] + 30 / 150,
        atol=2 * grid.account.error_bound,
    )


# ---- what the coordinator sees -----------------------------------------------------------------------------


def test_the_coordinators_view_holds_no_update_no_metric_and_no_number_of_examples() -> None:
    below = Seen(engine(5))
    grid = SecureAggregationGrid(below)
    assert one(grid, messages()) is not None
    assert one(grid, messages("evaluate")) is not None
    plain = [
        {name: array.numpy() for name, array in reply.content["arrays"].items()}
        for reply in engine(5, mods=()).stream(messages(), 20)
    ]
    before = model()
    seen = below.replies
    assert len(seen) == 2 * 5 + 2 * 3 * 5
    assert not [
        content for _, _, content in seen if any(isinstance(r, MetricRecord) for r in content.values())
    ]
    vectors = [
        array.numpy()
        for _, _, content in seen
        for record in content.values()
        if isinstance(record, ArrayRecord)
        for array in record.values()
    ]
    assert len(vectors) == 10 and {vector.dtype.kind for vector in vectors} == {"u"}
    # Bytes of a weight, of its change, and of both as they would be quantised, are nowhere in what came.
    bytes_seen = b"".join(
        value if isinstance(value, bytes) else str(value).encode()
        for _, _, content in seen
        for record in content.values()
        if isinstance(record, ConfigRecord)
        for value in record.values()
    ) + b"".join(vector.tobytes() for vector in vectors)
    for i, arrays in enumerate(plain):
        for value in (arrays["w"], arrays["w"] - before["w"]):
            for row in value:
                assert row[:2].astype(np.float32).tobytes() not in bytes_seen
                assert row[:1].astype(np.float64).tobytes() not in bytes_seen
        weight = 10 * (i + 1)
        assert weight not in [int(vector[-1]) for vector in vectors]
        words = {int(word) for vector in vectors for word in vector}
        scale = 2.0 ** np.arange(0, 30)
        near = np.rint(np.outer(arrays["w"].ravel() - before["w"].ravel(), scale) * weight)
        # A word that is a quantised weight by chance has probability 2^-32 each.
        assert not words & {int(n) % 2**32 for n in near[:, 20:].ravel() if abs(n) > 2**20}


def test_without_its_layer_a_participant_answers_nothing_plain() -> None:
    replies = list(engine(3).stream(messages(nodes=3), 20))
    assert all(reply.has_error() and "not protected" in reply.error.reason for reply in replies)


def test_one_masked_vector_is_statistically_uniform() -> None:
    below = Seen(engine(5))
    grid = SecureAggregationGrid(below)
    arrays = {"w": np.zeros((200, 200), np.float32)}
    assert one(grid, messages(arrays=arrays)) is not None
    for _, _, content in below.replies:
        if "masked" in content:
            words = ndarrays(content["masked"])["masked"]  # type: ignore[arg-type]
            counts = np.bincount(words.view(np.uint8), minlength=256)
            expected = len(words) * 4 / 256
            chi = float(((counts - expected) ** 2 / expected).sum())
            # 255 degrees of freedom: beyond 400 with probability below 1e-7.
            assert chi < 400
