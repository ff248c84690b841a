"""What the coordinator writes down, and which replies it does not use."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

from fedcore.coordinator.grids.evidence import EvidenceGrid, Phase, explain
from fedcore.coordinator.grids.layer import Layer
from fedcore.coordinator.grids.mean import MeanGrid
from fedcore.flower import digest_of, error_reply, ndarrays, payload_bytes
from fedcore.trust import evidence as log
from tests.messages import message, reply_to

MODEL = {"w": np.zeros((2, 3), np.float32), "n": np.array(0)}
GOOD = {"w": np.ones((2, 3), np.float32), "n": np.array(4)}


class Told:
    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def phase_started(self, number: int, phase: str, cohort: int) -> None:
        self.events.append(("started", number, phase, cohort))

    def reply(self, party: str, phase: str, seconds: float) -> None:
        self.events.append(("reply", party, phase))

    def lost(self, party: str, phase: str, reason: str) -> None:
        self.events.append(("lost", party, phase, reason))


class Answers(Layer):
    """Answers each message with what a test gives for its node."""

    def __init__(self, replies: dict[int, Any]) -> None:
        self.replies = replies

    def stream(self, messages: Any, timeout: float | None) -> Any:
        for one in messages:
            yield self.replies[one.metadata.dst_node_id](one)


@pytest.fixture
def made(tmp_path):
    """A grid over given answers; nodes 1, 2, ... are participants a, b, ..."""

    def make(*answers: Any, **more: Any) -> EvidenceGrid:
        below = Answers(dict(enumerate(answers, start=1)))
        names = more.pop("names", {i: chr(96 + i) for i in range(1, 10)})
        grid = EvidenceGrid(
            below,
            lambda node: names.get(node, f"node {node}"),
            tmp_path / "evidence" / "coordinator.jsonl",
            more.pop("digest", True),
            Told(),
        )
        grid.rows = dict.fromkeys(names.values(), 50)
        return grid

    return make


def good(arrays: Any = GOOD, examples: float | None = 20, **metrics: Any) -> Any:
    return lambda asked: reply_to(asked, arrays, examples, **metrics)


def run(grid: EvidenceGrid, name: str = "train", number: int = 1, model: Any = MODEL) -> tuple[Phase, list]:
    phase = grid.begin(name, number)
    nodes = sorted(grid.below.replies)
    kind = "query.prepare" if name == "prepare" else name
    asked = [message(kind, node=node, arrays=model, server_round=number) for node in nodes]
    return phase, list(grid.send_and_receive(asked, timeout=5))


# ---- what is written down -----------------------------------------------------------------------------------


def test_a_phase_has_bytes_metrics_and_digests_of_every_site(made) -> None:
    grid = made(good(loss=0.5), good({**GOOD, "n": np.array(9)}, 30, loss=0.25))
    phase, replies = run(grid, number=4)
    assert phase.step == "train round 4" and phase.lost == [] and list(phase.sites) == ["a", "b"]
    for name, reply in zip("ab", replies, strict=True):
        site = phase.sites[name]
        assert site["bytes"] == {
            "down": payload_bytes(message(arrays=MODEL, server_round=4).content),
            "up": payload_bytes(reply.content),
        }
        assert site["sha256"] == digest_of(reply.content)
    assert phase.sites["b"]["metrics"] == {"num-examples": 30, "loss": 0.25}
    assert phase.total("up") == sum(payload_bytes(reply.content) for reply in replies)
    assert grid.watcher.events == [
        ("started", 4, "train", 2),
        ("reply", "a", "train"),
        ("reply", "b", "train"),
    ]
    assert phase.sites["a"]["sha256"] != phase.sites["b"]["sha256"]


def test_the_coordinator_s_log_tells_the_same(made) -> None:
    grid = made(good(), lambda asked: error_reply(asked, "no reply within 5 s"))
    phase, _ = run(grid)
    first, second = log.read(grid.log)
    assert (first["event"], first["party"], first["step"]) == ("reply", "a", "train round 1")
    assert first["sha256"] == phase.sites["a"]["sha256"] and first["bytes"] == phase.sites["a"]["bytes"]
    assert (second["event"], second["party"], second["why"]) == ("lost", "b", "no reply within 5 s")
    assert "sha256" not in second


def test_without_digests_none_is_made_and_the_log_still_has_every_reply(made) -> None:
    grid = made(good(), lambda asked: error_reply(asked, "no reply within 5 s"), digest=False)
    phase, _ = run(grid)
    assert "sha256" not in phase.sites["a"]
    assert [(entry["event"], entry["party"]) for entry in log.read(grid.log)] == [
        ("reply", "a"),
        ("lost", "b"),
    ]


def test_lists_are_no_metrics(made) -> None:
    phase, _ = run(made(good(sums=[1.0, 2.0], loss=1.0)))
    assert phase.sites["a"]["metrics"] == {"num-examples": 20, "loss": 1.0}


# ---- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ('{"type": "DataError", "message": "gaps", "party": "a"}', ("DataError", "gaps", "a")),
        ('{"type": "JobError", "message": "no file", "party": null}', ("JobError", "no file", None)),
        ("node unavailable", ("NoReply", "node unavailable", None)),
        ("[1]", ("NoReply", "[1]", None)),
        ('{"type": "DataError"}', ("NoReply", '{"type": "DataError"}', None)),
        ("", ("NoReply", "no reason given", None)),
        (None, ("NoReply", "no reason given", None)),
    ],
)
def test_ours_and_flower_s_errors_are_told_apart(reason, expected) -> None:
    assert explain(reason) == expected


def failing(kind: str, party: str | None) -> Any:
    text = json.dumps({"type": kind, "message": "it did not work", "party": party})
    return lambda asked: error_reply(asked, text)


def test_an_error_names_who_where_and_why(made) -> None:
    grid = made(good(), failing("TaskFailed", "b"))
    phase, replies = run(grid, "evaluate", 7)
    (lost,) = phase.lost
    assert vars(lost) == {
        "party": "b",
        "step": "evaluate round 7",
        "kind": "TaskFailed",
        "reason": "it did not work",
    }
    assert grid.watcher.events[-1] == ("lost", "b", "evaluate round 7", "it did not work")
    assert [reply.has_error() for reply in replies] == [False, True]


def test_a_participant_names_itself_in_prepare_and_cannot_speak_in_another_s_name_later(made) -> None:
    phase, _ = run(made(failing("DataError", "hospital-9"), names={}), "prepare", 0)
    assert phase.lost[0].party == "hospital-9" and phase.lost[0].step == "prepare"
    phase, _ = run(made(failing("DataError", "hospital-9")))
    assert phase.lost[0].party == "a"


# ---- replies that cannot be used ------------------------------------------------------------------------------


def unreadable(asked: Message) -> Message:
    record = ArrayRecord(
        {"w": Array("float32", (2, 3), "numpy.ndarray", b"no array"), "n": Array(np.array(4))}
    )
    return Message(RecordDict({"a": record, "m": MetricRecord({"num-examples": 3})}), reply_to=asked)


def lying_shape(asked: Message) -> Message:
    array = Array(np.ones((4, 3), np.float32))
    told = Array(array.dtype, (2, 3), array.stype, array.data)
    record = ArrayRecord({"w": told, "n": Array(np.array(4))})
    return Message(RecordDict({"a": record, "m": MetricRecord({"num-examples": 3})}), reply_to=asked)


def no_metrics(asked: Message) -> Message:
    reply = good()(asked)
    del reply.content["metrics"]
    return reply


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (good({**GOOD, "v": np.zeros(1)}), "an array 'v' that the model does not have"),
        (good({**GOOD, "w": np.zeros((3, 2), np.float32)}), r"'w' has shape (3, 2), the model's (2, 3)"),
        (good({**GOOD, "w": np.full((2, 3), np.nan, np.float32)}), "NaN or infinite values in 'w'"),
        (good({**GOOD, "extra/c": np.array([np.inf])}), "NaN or infinite values in 'extra/c'"),
        (good({**GOOD, "w": np.ones((2, 3), np.complex64)}), "'w' has values of type complex64"),
        (unreadable, "'w' cannot be read"),
        (lying_shape, r"'w' has shape (4, 3), the model's (2, 3)"),
        (good({"n": GOOD["n"]}), "other arrays than the first one that came: w"),
        (good({**GOOD, "extra/c": np.zeros(2)}), "other arrays than the first one that came: extra/c"),
        (good(None), "other arrays than the first one that came: n, w"),
        (good(examples=51), "claims 51 examples, the participant declared 50"),
        (good(examples=0), "num-examples is not a positive number"),
        (good(examples=-3), "num-examples is not a positive number"),
        (good(examples=float("nan")), "num-examples is not a positive number"),
        (good(examples=None), "num-examples is not a positive number"),
        (good(examples=[3, 4]), "num-examples is not a positive number"),
        (no_metrics, "0 records of metrics, one is expected"),
    ],
)
def test_a_reply_that_cannot_be_used_is_refused_and_the_others_are_kept(made, answer, words) -> None:
    grid = made(good(), answer, good())
    phase = grid.begin("train", 1)
    asked = [message(node=node, arrays=MODEL) for node in (1, 2, 3)]
    (mean,) = MeanGrid(grid).send_and_receive(asked, timeout=5)
    (lost,) = phase.lost
    assert lost.party == "b" and lost.kind == "DataError" and words in lost.reason
    np.testing.assert_array_equal(ndarrays(mean.content["arrays"])["w"], GOOD["w"])
    assert mean.content["metrics"]["num-examples"] == 40


def test_extra_arrays_and_arrays_that_all_sites_keep_are_no_fault(made) -> None:
    sent = {"w": GOOD["w"], "extra/steps": np.array([3.0])}
    phase, replies = run(made(good(sent), good(sent)))
    assert phase.lost == [] and not any(reply.has_error() for reply in replies)


def test_an_extra_array_whose_record_lies_about_its_shape_is_refused(made) -> None:
    def lying(asked: Message) -> Message:
        reply = good({**GOOD, "extra/c": np.zeros(3)})(asked)
        array = reply.content["arrays"]["extra/c"]
        told = Array(array.dtype, (2,), array.stype, array.data)
        reply.content["arrays"] = ArrayRecord({**reply.content["arrays"], "extra/c": told})
        return reply

    phase, _ = run(made(good({**GOOD, "extra/c": np.zeros(2)}), lying))
    assert [lost.party for lost in phase.lost] == ["b"] and "extra/c" in phase.lost[0].reason


def test_extra_arrays_of_another_shape_are_refused(made) -> None:
    one, other = ({**GOOD, "extra/c": np.zeros(n)} for n in (3, 4))
    phase, _ = run(made(good(one), good(other)))
    assert [lost.party for lost in phase.lost] == ["b"]


def test_each_phase_judges_by_its_own_first_reply(made) -> None:
    grid = made(good())
    run(grid)
    grid.below.replies = {1: good({"w": GOOD["w"]})}
    assert run(grid, number=2)[0].lost == []


def test_an_evaluation_may_claim_more_rows_than_were_declared_for_training(made) -> None:
    assert run(made(good(None, 80)), "evaluate")[0].lost == []


def test_prepare_needs_no_number_of_examples(made) -> None:
    def about(asked: Message) -> Message:
        return Message(RecordDict({"moments": MetricRecord({"sums": [1.0]})}), reply_to=asked)

    phase, replies = run(made(about), "prepare", 0, None)
    assert phase.lost == [] and phase.step == "prepare" and "sha256" not in phase.sites["a"]
    assert not replies[0].has_error()


def test_the_error_reply_that_stands_for_a_refused_one_answers_the_same_message(made) -> None:
    grid = made(good({**GOOD, "v": np.zeros(1)}))
    grid.begin("train", 1)
    asked = message(node=1, arrays=MODEL)
    (reply,) = grid.send_and_receive([asked], timeout=5)
    assert reply.has_error() and reply.metadata.src_node_id == 1
    assert reply.metadata.reply_to_message_id == asked.metadata.message_id
