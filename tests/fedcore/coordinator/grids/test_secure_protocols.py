"""The other protocols of secure aggregation under the same grid: the same mean, whoever drops out, nothing plain seen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import ProtocolError
from crypto.secagg.graph import Assumptions
from fedcore.coordinator.grids.protocols.threshold import ThresholdSession
from fedcore.coordinator.grids.secure import SecureAggregationGrid
from fedcore.engines.embedded import FIRST_NODE
from fedcore.flower import array_record, ndarrays
from fedcore.participant.mods.protocols import base
from fedcore.participant.protected import Form
from tests.fedcore.coordinator.grids.secure_apps import (
    CURIOUS,
    Seen,
    curious_mod,
    engine,
    evaluated,
    messages,
    model,
    one,
    plain_mean,
    sealed,
    trained,
)
from tests.fedcore.coordinator.grids.test_secure import holds

OTHERS = ("threshold", "ckks", "paillier")
STAGES = {
    "threshold": ("keys", "roster", "parts", "joint", "masked", "open"),
    "ckks": ("keys", "group", "masked", "open"),
    "paillier": ("keys", "group", "masked", "open"),
}
AFTER = ("open",)
"""Stages at which a participant's vector is in the sum already."""


def cohort(nodes: int, *lost: tuple[str, int, int], **options: Any) -> Seen:
    return Seen(engine(nodes, mods=(curious_mod,), **options), lost)


def name(index: int) -> str:
    return str(FIRST_NODE + index)


# ---- the mean ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", OTHERS)
def test_the_reply_is_the_weighted_mean_and_the_key_is_made_once(protocol: str) -> None:
    below = cohort(5, serialize=True)
    grid = sealed(below, protocol)
    for number in (1, 2):
        holds(one(grid, messages(number=number)), range(5), grid)
        account = grid.account
        assert account.protocol == protocol and account.dropped == {} and account.failed == ""
        assert account.error is not None and 0 < account.error <= account.error_bound < 1e-4 * grid.clip
        assert account.opened_by and set(account.opened_by) <= {name(i) for i in range(5)}
        assert one(grid, messages("evaluate", number=number)) is not None
    meeting = [stage for stage in STAGES[protocol] if stage not in ("masked", "open")]
    assert below.stages == [*meeting, *(["masked", "open"] * 4)]


def test_the_joint_key_holds_against_a_coordinator_that_says_anything() -> None:
    # As the participants assume by default: holders add the parts themselves.
    below = Seen(engine(5))
    grid = SecureAggregationGrid(below, protocol="threshold")
    holds(one(grid, messages()), range(5), grid)
    assert (grid.account.holders, grid.account.threshold, len(grid.account.opened_by)) == (5, 4, 4)
    asked = grid.account.stages["open"]
    assert asked["down"] > 4 * 5 * 54_000  # each holder gets every part


@pytest.mark.parametrize("protocol", ["threshold", "paillier"])
def test_words_of_64_bits_are_summed_too(protocol: str) -> None:
    grid = sealed(cohort(4), protocol, bits=64)
    holds(one(grid, messages(nodes=4)), range(4), grid)
    assert grid.account.error_bound < 1e-7


@pytest.mark.parametrize("protocol", OTHERS)
def test_evaluation_metrics_are_averaged_where_they_are_defined(protocol: str) -> None:
    reply = one(sealed(cohort(5), protocol), messages("evaluate"))
    assert reply is not None and "arrays" not in reply.content
    weights = np.array([3 + i for i in range(5)])
    told = reply.content["metrics"]
    assert told["num-examples"] == weights.sum()
    assert told["loss"] == pytest.approx(np.average(0.25 * np.arange(5), weights=weights), abs=1e-7)
    there = [0, 2, 3, 4]
    auc = np.average([0.5 + i / 100 for i in there], weights=weights[there])
    assert told["auc"] == pytest.approx(auc, abs=1e-7)


@pytest.mark.parametrize("protocol", OTHERS)
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_the_protected_result_is_the_plain_weighted_mean(protocol: str, data: st.DataObject) -> None:
    participants = data.draw(st.integers(3, 6))
    shapes = data.draw(st.lists(st.lists(st.integers(0, 5), max_size=3), min_size=1, max_size=3))
    dtypes = data.draw(st.lists(st.sampled_from(["<f4", "<f8", "<f2", "<i8"]), min_size=3, max_size=3))
    weights = data.draw(st.lists(st.integers(1, 5000), min_size=participants, max_size=participants))
    clip = data.draw(st.sampled_from([0.5, 8.0]))
    lost = data.draw(st.none() | st.integers(0, participants - 1)) if participants > 4 else None
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    before = {
        f"a{i}": rng.normal(scale=9, size=s).astype(d)
        for i, (s, d) in enumerate(zip(shapes, dtypes, strict=False))
    }
    updates = [
        {n: np.asarray(b + rng.uniform(-0.4, 0.4, b.shape)).astype(b.dtype) for n, b in before.items()}
        for _ in weights
    ]

    def train(message: Message, context: Context) -> RecordDict:
        i = int(context.node_config["partition-id"])
        metrics = MetricRecord({"loss": float(i), "num-examples": weights[i]})
        return RecordDict({"arrays": array_record(updates[i]), "metrics": metrics})

    below = cohort(participants, *([] if lost is None else [("masked", 1, FIRST_NODE + lost)]), train=train)
    grid = sealed(below, protocol, clip=clip, largest_weight=5000)
    reply = one(grid, messages(nodes=participants, arrays=before))
    assert reply is not None, grid.account.failed
    left = [i for i in range(participants) if i != lost]
    kept = [weights[i] for i in left]
    assert reply.content["metrics"]["num-examples"] == sum(kept)
    assert reply.content["metrics"]["loss"] == pytest.approx(np.average(left, weights=kept), abs=1e-6)
    found = ndarrays(reply.content["arrays"])  # type: ignore[arg-type]
    for array, old in before.items():
        wanted = np.average([np.asarray(updates[i][array], np.float64) for i in left], axis=0, weights=kept)
        # In half precision a change itself is rounded: what it is then may pass the clip by that.
        eps = float(np.finfo(old.dtype).eps) if old.dtype.kind == "f" else 1e-9
        slack = grid.account.error_bound + 80 * eps
        np.testing.assert_allclose(found[array], wanted, rtol=4 * eps, atol=slack)
        assert found[array].shape == old.shape


@pytest.mark.parametrize("protocol", OTHERS)
@pytest.mark.parametrize(
    "make",
    [
        lambda **s: flower.FedAvg(**s),
        lambda **s: flower.FedAdam(**s),
        lambda **s: flower.FedProx(proximal_mu=0.1, **s),
    ],
    ids=["fedavg", "fedadam", "fedprox"],
)
def test_a_strategy_of_flower_gives_its_unprotected_result(protocol: str, make: Any) -> None:
    start = {name: value for name, value in model().items() if value.dtype.kind == "f"}
    few = {"min_available_nodes": 4, "min_train_nodes": 4, "min_evaluate_nodes": 4}
    plain = make(**few).start(engine(4, mods=()), array_record(start), num_rounds=2)
    hidden = make(**few).start(sealed(cohort(4), protocol), array_record(start), num_rounds=2)
    other = ndarrays(hidden.arrays)
    for array, value in ndarrays(plain.arrays).items():
        np.testing.assert_allclose(other[array], value, rtol=1e-4, atol=3e-4)
    for told, wanted in (
        (hidden.train_metrics_clientapp, plain.train_metrics_clientapp),
        (hidden.evaluate_metrics_clientapp, plain.evaluate_metrics_clientapp),
    ):
        assert told[2]["loss"] == pytest.approx(wanted[2]["loss"], abs=1e-6)


# ---- who drops out -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("protocol", "stage"), [(p, s) for p in OTHERS for s in STAGES[p]])
def test_a_drop_out_at_any_stage_leaves_the_sum_of_the_others_exact(protocol: str, stage: str) -> None:
    below = cohort(7, (stage, 1, 0))
    grid = sealed(below, protocol)
    reply = one(grid, messages(nodes=7))
    assert list(grid.account.dropped.values()) == [stage]
    gone = int(next(iter(grid.account.dropped))) - FIRST_NODE
    left = [i for i in range(7) if i != gone or stage in AFTER]
    holds(reply, left, grid)
    # It is back in the next round, whatever it missed.
    holds(one(grid, messages(nodes=7)), range(7), grid)


def test_drop_outs_at_several_stages_together() -> None:
    lost = [
        ("keys", 1, FIRST_NODE),
        ("roster", 1, FIRST_NODE + 1),
        ("masked", 1, FIRST_NODE + 2),
        ("open", 1, 0),
    ]
    grid = sealed(cohort(9, *lost), "threshold")
    holds(one(grid, messages(nodes=9)), range(3, 9), grid)
    assert sorted(grid.account.dropped.values()) == ["keys", "masked", "open", "roster"]


def test_the_key_is_made_by_the_next_member_when_the_first_two_drop_out() -> None:
    grid = sealed(cohort(5, ("group", 1, 0), ("group", 2, 0)), "ckks")
    holds(one(grid, messages()), [2, 3, 4], grid)
    assert grid.account.dropped == {name(0): "group", name(1): "group"}


def test_any_member_opens_the_sum_when_the_others_drop_out() -> None:
    grid = sealed(cohort(4, *(("open", n, 0) for n in (1, 2, 3))), "ckks")
    holds(one(grid, messages(nodes=4)), range(4), grid)
    assert len(grid.account.dropped) == 3 and len(grid.account.opened_by) == 1
    assert not set(grid.account.opened_by) & set(grid.account.dropped)


@pytest.mark.parametrize(("protocol", "stage"), [(p, s) for p in OTHERS for s in STAGES[p] if s != "open"])
def test_with_too_few_left_there_is_no_reply_and_the_next_round_goes_on(protocol: str, stage: str) -> None:
    below = cohort(5, *((stage, n, FIRST_NODE + i) for i in range(3) for n in (1, 2, 3)))
    grid = sealed(below, protocol)
    assert one(grid, messages()) is None
    assert "needed" in grid.account.failed and grid.account.summed == 0
    below.lost = set()
    holds(one(grid, messages()), range(5), grid)


@pytest.mark.parametrize("protocol", OTHERS)
def test_when_nobody_opens_the_sum_there_is_no_reply_and_the_next_round_goes_on(protocol: str) -> None:
    below = cohort(4, *(("open", n, FIRST_NODE + i) for i in range(4) for n in range(1, 5)))
    grid = sealed(below, protocol)
    assert one(grid, messages(nodes=4)) is None
    assert "needed" in grid.account.failed and grid.account.opened_by == []
    below.lost = set()
    holds(one(grid, messages(nodes=4)), range(4), grid)


@pytest.mark.parametrize("protocol", OTHERS)
def test_a_participant_that_was_started_anew_meets_the_others_again(protocol: str) -> None:
    below = cohort(7)
    grid = sealed(below, protocol)
    holds(one(grid, messages(nodes=7)), range(7), grid)
    below.engine._contexts[FIRST_NODE + 2].state = RecordDict()
    holds(one(grid, messages(nodes=7)), [0, 1, 3, 4, 5, 6], grid)
    holds(one(grid, messages(nodes=7)), [0, 1, 3, 4, 5, 6], grid)  # asked, it knows no session
    assert grid.account.stages["again"] | {"seconds": 0, "down": 0} == {
        "seconds": 0, "down": 0, "up": 0, "asked": 1, "answered": 0,
    }  # fmt: skip
    holds(one(grid, messages(nodes=7)), range(7), grid)
    assert below.stages.count("keys") == 2


@pytest.mark.parametrize("protocol", OTHERS)
def test_a_cohort_of_two_is_refused_unless_both_sides_allow_it(protocol: str) -> None:
    grid = sealed(cohort(2), protocol)
    assert one(grid, messages(nodes=2)) is None
    assert "least_cohort" in grid.account.failed
    two = Assumptions(adversary="curious", least_cohort=2)
    grid = sealed(cohort(2), protocol, assumptions=two)
    assert one(grid, messages(nodes=2)) is None  # the participants' own assumption is three
    assert grid.account.stages["keys"]["answered"] == 0


# ---- bad participants --------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", OTHERS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_update_with_nan_is_refused_by_name_and_the_round_goes_on(protocol: str, value: float) -> None:
    def train(message: Message, context: Context) -> RecordDict:
        told = trained(message, context)
        if context.node_id == FIRST_NODE + 3:
            arrays = {name: array.numpy().copy() for name, array in told["arrays"].items()}
            arrays["w"][0, 0] = value
            told["arrays"] = array_record(arrays)
        return told

    grid = sealed(cohort(5, train=train), protocol)
    holds(one(grid, messages()), [0, 1, 2, 4], grid)
    assert grid.account.dropped == {name(3): "masked"}


@pytest.mark.parametrize("protocol", OTHERS)
def test_values_beyond_the_clip_are_cut_and_counted(protocol: str) -> None:
    grid = sealed(cohort(5), protocol, clip=0.5)
    reply = one(grid, messages())
    assert reply is not None and grid.account.clipped > 0
    change = ndarrays(reply.content["arrays"])["w"] - model()["w"]  # type: ignore[arg-type]
    assert np.abs(change).max() <= 0.5 + 1e-5


def changed(
    protocol: str, change: Callable[[RecordDict], None], stage: str = "masked"
) -> tuple[Any, list[Any]]:
    """A cohort of seven in which what the second one sends in a stage is changed on the way."""
    refused: list[tuple[str, str]] = []
    below = cohort(7)

    def spoil(at: str, reply: Message) -> None:
        if at == stage and reply.metadata.src_node_id == FIRST_NODE + 1:
            change(reply.content)

    below.change = spoil
    grid = sealed(below, protocol, refused=lambda who, why: refused.append((who, why)))
    return grid, refused


def altered(content: RecordDict, change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> None:
    vector = ndarrays(content["masked"])["masked"].copy()  # type: ignore[arg-type]
    content["masked"] = array_record({"masked": change(vector)})


@pytest.mark.parametrize("protocol", OTHERS)
@pytest.mark.parametrize("how", ["short", "long", "words", "empty", "gone", "message"])
def test_a_vector_of_another_form_counts_as_not_sent(protocol: str, how: str) -> None:
    def change(content: RecordDict) -> None:
        if how == "gone":
            del content["masked"]
        elif how == "message":
            content["secure"] = ConfigRecord({**content["secure"], "message": b"another"})  # type: ignore[dict-item]
        else:
            altered(content, {
                "short": lambda v: v[:-1].copy(),
                "long": lambda v: np.append(v, np.uint8(0)),
                "words": lambda v: v.astype(np.uint32),
                "empty": lambda v: v[:0].copy(),
            }[how])  # fmt: skip

    grid, refused = changed(protocol, change)
    holds(one(grid, messages(nodes=7)), [0, 2, 3, 4, 5, 6], grid)
    assert [who for who, _ in refused] == [name(1)]
    assert grid.account.dropped == {name(1): "masked"}


@pytest.mark.parametrize("protocol", OTHERS)
def test_a_vector_of_another_round_and_that_of_another_participant_count_as_not_sent(protocol: str) -> None:
    kept: list[RecordDict] = []
    below = cohort(7)

    def replay(stage: str, reply: Message) -> None:
        node = reply.metadata.src_node_id
        if stage == "masked" and node == FIRST_NODE + 1:
            if kept:
                reply.content["masked"], reply.content["secure"] = kept[0]["masked"], kept[0]["secure"]
            kept.append(RecordDict(dict(reply.content)))

    below.change = replay
    refused: list[tuple[str, str]] = []
    grid = sealed(below, protocol, refused=lambda who, why: refused.append((who, why)))
    holds(one(grid, messages(nodes=7)), range(7), grid)
    holds(one(grid, messages(nodes=7)), [0, 2, 3, 4, 5, 6], grid)
    assert [who for who, _ in refused] == [name(1)] and "round" in refused[0][1]

    first: list[RecordDict] = []

    def copied(stage: str, reply: Message) -> None:
        if stage == "masked" and reply.metadata.src_node_id in (FIRST_NODE + 1, FIRST_NODE + 2):
            if first:
                reply.content["masked"], reply.content["secure"] = first[0]["masked"], first[0]["secure"]
            first.append(RecordDict(dict(reply.content)))

    below.change = copied
    assert one(grid, messages(nodes=7)) is not None
    assert grid.account.summed == 6 and "another participant" in refused[-1][1]


@pytest.mark.parametrize("protocol", OTHERS)
@pytest.mark.parametrize("stage", ["keys", "group", "parts", "joint"])
def test_a_meeting_message_that_is_changed_drops_its_participant_and_the_others_go_on(
    protocol: str, stage: str
) -> None:
    if stage not in STAGES[protocol]:
        pytest.skip("no such stage")
    below = cohort(7)
    who = FIRST_NODE if stage == "group" else FIRST_NODE + 1

    def shorten(at: str, reply: Message) -> None:
        if at == stage and reply.metadata.src_node_id == who:
            record = reply.content["secure"]
            reply.content["secure"] = ConfigRecord({**record, "message": record["message"][:-1]})  # type: ignore[dict-item,index]

    below.change = shorten
    refused: list[str] = []
    grid = sealed(below, protocol, refused=lambda name, why: refused.append(name))
    left = [i for i in range(7) if FIRST_NODE + i != who]
    holds(one(grid, messages(nodes=7)), left, grid)
    assert refused == [str(who)]


def test_a_public_part_that_is_not_the_committed_one_drops_its_holder() -> None:
    def change(content: RecordDict) -> None:
        body = bytearray(content["secure"]["message"])  # type: ignore[index,arg-type]
        body[40] ^= 1
        content["secure"] = ConfigRecord({"stage": "parts", "message": bytes(body)})

    grid, refused = changed("threshold", change, "parts")
    holds(one(grid, messages(nodes=7)), [0, 2, 3, 4, 5, 6], grid)
    assert "committed" in refused[0][1]


def test_a_dealt_share_that_was_changed_is_found_by_its_receiver_and_the_key_is_made_anew() -> None:
    def change(content: RecordDict) -> None:
        body = bytearray(content["secure"]["message"])  # type: ignore[index,arg-type]
        body[-1] ^= 1
        content["secure"] = ConfigRecord({"stage": "parts", "message": bytes(body)})

    grid, _ = changed("threshold", change, "parts")
    reply = one(grid, messages(nodes=7))
    # One of the others could not open what came for it.
    gone = [int(who) - FIRST_NODE for who in grid.account.dropped]
    assert len(gone) == 1 and set(grid.account.dropped.values()) == {"joint"}
    holds(reply, [i for i in range(7) if i not in gone], grid)


def test_a_commitment_that_the_coordinator_changes_is_refused_by_every_other_holder() -> None:
    def change(content: RecordDict) -> None:
        body = bytearray(content["secure"]["message"])  # type: ignore[index,arg-type]
        body[0] ^= 1
        content["secure"] = ConfigRecord({"stage": "roster", "message": bytes(body)})

    grid, _ = changed("threshold", change, "roster")
    assert one(grid, messages(nodes=7)) is None
    assert set(grid.account.dropped) == {name(i) for i in range(7)}


def test_a_wrong_partial_decryption_opens_nothing_and_the_next_round_goes_on() -> None:
    below = cohort(5)
    seen: list[int] = []

    def spoil(stage: str, reply: Message) -> None:
        if stage == "open" and not seen:
            seen.append(1)
            body = bytearray(reply.content["secure"]["message"])
            body[100] ^= 1
            reply.content["secure"] = ConfigRecord({"stage": "open", "message": bytes(body)})

    below.change = spoil
    grid = sealed(below, "threshold")
    assert one(grid, messages()) is None
    assert "do not open the sum" in grid.account.failed
    holds(one(grid, messages()), range(5), grid)


def test_a_participant_that_is_no_member_of_its_words_spoils_the_known_values_and_is_noticed() -> None:
    # Who lies about its numbers spoils the sum, which nobody can attribute; here it is at least seen.
    from fedcore.participant.mods.protocols import vectors

    before = vectors.pack

    def lying(*args: Any) -> Any:
        vector, layout = before(*args)
        if "lie" in args[2]:
            vector[layout.narrow() + 3] ^= 2**20
        return vector, layout

    def train(message: Message, context: Context) -> RecordDict:
        told = trained(message, context)
        if context.node_id == FIRST_NODE:
            told["metrics"]["lie"] = 1.0
        return told

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors, "pack", lying)
        grid = sealed(cohort(5, train=train), "ckks")
        assert one(grid, messages()) is None
    assert "known to all" in grid.account.failed


@pytest.mark.parametrize("protocol", OTHERS)
def test_a_vector_that_comes_twice_late_or_from_one_that_was_not_asked_is_refused(protocol: str) -> None:
    grid = sealed(cohort(4, ("masked", 1, FIRST_NODE)), protocol)
    assert one(grid, messages(nodes=4)) is not None
    session = grid._sessions[-1]
    form = Form(grid.clip, 4, grid.largest_weight)
    nothing = np.zeros(1, np.uint8)
    with pytest.raises(ProtocolError, match="came twice"):
        session.take(name(1), b"", nothing, 1, form)
    with pytest.raises(ProtocolError, match="not among those"):
        session.take("a stranger", b"", nothing, 1, form)
    # Whose vector had not come when the sum was opened: it is one of that round for ever.
    with pytest.raises(ProtocolError):
        session.take(name(0), b"", nothing, 1, form)
    holds(one(grid, messages(nodes=4)), range(4), grid)


def test_a_key_that_has_opened_as_many_sums_as_it_may_is_made_anew() -> None:
    below = cohort(4)
    grid = sealed(below, "threshold")
    holds(one(grid, messages(nodes=4)), range(4), grid)
    session = grid._sessions[-1]
    assert isinstance(session, ThresholdSession) and session._openings > 10_000
    session._openings = 2
    for number in (2, 3):
        holds(one(grid, messages(nodes=4, number=number)), range(4), grid)
    assert below.stages.count("keys") == 2


# ---- what the coordinator sees -----------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", OTHERS)
def test_the_coordinators_view_holds_no_update_no_metric_and_no_number_of_examples(protocol: str) -> None:
    below = cohort(5)
    grid = sealed(below, protocol)
    assert one(grid, messages()) is not None
    assert one(grid, messages("evaluate")) is not None
    contents = [content for _, _, content in below.replies]
    assert not [c for c in contents if any(isinstance(r, MetricRecord) for r in c.values())]
    vectors = [
        array.numpy()
        for content in contents
        for record in content.values()
        if isinstance(record, ArrayRecord)
        for array in record.values()
    ]
    assert len(vectors) == 10 and {vector.dtype.str for vector in vectors} == {"|u1"}
    seen = b"".join(
        value if isinstance(value, bytes) else str(value).encode()
        for content in contents
        for record in content.values()
        if isinstance(record, ConfigRecord)
        for value in record.values()
    ) + b"".join(vector.tobytes() for vector in vectors)
    before = model()
    for reply in engine(5, mods=()).stream(messages(), 20):
        arrays = {array: value.numpy() for array, value in reply.content["arrays"].items()}
        for value in (arrays["w"], arrays["w"] - before["w"]):
            for row in value:
                assert row[:2].astype(np.float32).tobytes() not in seen
                assert row[:1].astype(np.float64).tobytes() not in seen
        weight = int(reply.content["metrics"]["num-examples"])
        # As a participant would have packed it, before it was encrypted.
        change = ((arrays["w"] - before["w"]).ravel()[:2] * weight * 2.0**9).astype(np.int32)
        assert change.tobytes() not in seen
        for each in vectors:
            # Ciphertexts look random: as many ones as zeros.
            ones = float(np.unpackbits(each[200:]).mean())
            assert abs(ones - 0.5) < 6 * 0.5 / np.sqrt(8 * (len(each) - 200)), (protocol, ones)


@pytest.mark.parametrize("protocol", OTHERS)
def test_the_same_update_is_sent_as_another_text_every_time(protocol: str) -> None:
    def train(message: Message, context: Context) -> RecordDict:
        metrics = MetricRecord({"loss": 0.5, "num-examples": 7})
        return RecordDict({"arrays": array_record({"w": np.ones(8, np.float32)}), "metrics": metrics})

    below = cohort(4, train=train)
    grid = sealed(below, protocol)
    for _ in range(2):
        assert one(grid, messages(nodes=4, arrays={"w": np.zeros(8, np.float32)})) is not None
    digests = {
        hashlib.sha256(ndarrays(content["masked"])["masked"].tobytes()).digest()  # type: ignore[arg-type]
        for stage, _, content in below.replies
        if stage == "masked"
    }
    assert len(digests) == 8


# ---- refused before anything is sent -----------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["ckks", "paillier"])
def test_a_shared_key_is_refused_against_an_active_coordinator_and_alternatives_are_named(
    protocol: str,
) -> None:
    with pytest.raises(ValueError, match=r"adversary: curious.*secagg\+ or threshold"):
        SecureAggregationGrid(engine(3), protocol=protocol)  # type: ignore[arg-type]


def test_an_unknown_protocol_and_words_that_ckks_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"secagg\+, threshold, ckks, paillier"):
        SecureAggregationGrid(engine(3), protocol="secagg")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="32 bits"):
        SecureAggregationGrid(engine(3), CURIOUS, protocol="ckks", bits=64)


@pytest.mark.parametrize(("protocol", "extra"), [("ckks", "ckks"), ("paillier", "paillier")])
def test_a_missing_package_is_told_with_how_to_get_it(
    protocol: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking() -> Any:
        raise ModuleNotFoundError(f"not installed; pip install 'fedcore[{extra}]'")

    from crypto.ckks import seal
    from crypto.paillier import keys

    monkeypatch.setattr(seal, "library", lacking)
    monkeypatch.setattr(keys, "integers", lacking)
    told = base.needs(protocol)
    assert told is not None and f"pip install 'fedcore[{extra}]'" in told
    assert base.needs("secagg+") is None and base.needs("threshold") is None
    with pytest.raises(ModuleNotFoundError, match="pip install"):
        SecureAggregationGrid(engine(3), CURIOUS, protocol=protocol)  # type: ignore[arg-type]


def test_what_all_agree_on_travels_as_the_same_text() -> None:
    agreed = base.Agreed(CURIOUS, "paillier", 4096)
    text = agreed.to_json()
    assert base.Agreed.from_json(text) == agreed and base.Agreed.from_json(text).to_json() == text
    assert json.loads(text)["protocol"] == "paillier"


def test_evaluated_apps_answer_as_before() -> None:
    # The helper's own evaluate is what the tests above compare with.
    reply = next(iter(engine(1, mods=(), evaluate=evaluated).stream(messages("evaluate", nodes=1), 20)))
    assert reply.content["metrics"]["num-examples"] == 3


def test_the_plain_mean_is_of_who_is_named() -> None:
    assert plain_mean([1, 2])[1] == pytest.approx((20 * 1.5 + 30 * 2.5) / 50)


# ---- a committee -------------------------------------------------------------------------------------------


def test_a_committee_of_a_large_cohort_holds_the_key_and_the_others_take_it_as_confirmed() -> None:
    below = cohort(34)
    grid = sealed(below, "threshold")
    holds(one(grid, messages(nodes=34)), range(34), grid)
    account = grid.account
    assert 2 <= account.threshold < account.holders < 12
    assert account.stages["roster"]["asked"] == 34
    assert account.stages["parts"]["asked"] == account.stages["joint"]["asked"] == account.holders
    # Those that hold no share get the key with the work, once.
    once = account.stages["masked"]["down"]
    holds(one(grid, messages(nodes=34)), range(34), grid)
    assert once - grid.account.stages["masked"]["down"] > (34 - account.holders) * 54_000
    assert len(grid.account.opened_by) == account.threshold
    # One that holds no share, and one that does, drop out: nobody meets anew within the round.
    holders = {who for stage, who, _ in below.replies if stage == "parts"}
    outside = next(FIRST_NODE + i for i in range(34) if FIRST_NODE + i not in holders)
    below.lost = {("masked", 3, outside), ("masked", 3, min(holders))}
    left = [i for i in range(34) if FIRST_NODE + i not in (outside, min(holders))]
    holds(one(grid, messages(nodes=34)), left, grid)
    holds(one(grid, messages(nodes=34)), range(34), grid)
    assert below.stages.count("keys") == 1
