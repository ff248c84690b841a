"""What is agreed before round 1, and each reason why nothing is begun."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from fedcore.coordinator import prepare as module
from fedcore.coordinator.grids.evidence import EvidenceGrid
from fedcore.coordinator.grids.layer import Layer
from fedcore.coordinator.prepare import Agreement, prepare, wait_for_nodes
from fedcore.coordinator.watch import Silent
from fedcore.errors import DataError, FedcoreError, JobError, PeerLost, PolicyRefused, TaskFailed
from fedcore.flower import enter_process, error_reply
from fedcore.learning.task import Schema
from tests.messages import a_job

SCALED = {"use": "tabular-classifier", "target": "y", "standardize": "federated"}


class Answers(Layer):
    """Nodes 1, 2, ... answer with what a test gives for them, in the order of `order`."""

    def __init__(self, answers: dict[int, Any], order: list[int] | None = None) -> None:
        self.answers, self.order = answers, order
        self.requests: list[dict[str, Any]] = []
        self.looks: list[list[int]] = []

    def get_node_ids(self) -> list[int]:
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def stream(self, messages: Any, timeout: float | None) -> Any:
        asked = {one.metadata.dst_node_id: one for one in messages}
        self.requests += [json.loads(one.content["fedcore"]["request"]) for one in asked.values()]
        for node in self.order or list(asked):
            yield self.answers[node](asked[node])


def describes(name: str, moments: Any = None, **changes: Any) -> Any:
    """A participant that describes ten rows of two features and classes 0 and 1."""
    about = {
        "name": name,
        "features": ["a", "b"],
        "shape": [2],
        "dtype": "float32",
        "classes": [0, 1],
        "rows": 10,
        "train_rows": 8,
        "validation_rows": 2,
        "layers": {"policy": "on"},
        **changes,
    }

    def answer(asked: Message) -> Message:
        content: dict[str, Any] = {"site": ConfigRecord({"about": json.dumps(about)})}
        if moments is not None:
            content["moments"] = MetricRecord(moments)
        return Message(RecordDict(content), reply_to=asked)

    return answer


def refuses(kind: str, name: str, text: str = "because") -> Any:
    return lambda asked: error_reply(asked, json.dumps({"type": kind, "message": text, "party": name}))


def silent(asked: Message) -> Message:
    return error_reply(asked, "no reply within 20 s")


@pytest.fixture
def agree(tmp_path):
    """Runs prepare over given answers."""

    def run(
        *answers: Any, schema: Schema | None = None, order: Any = None, registered: Any = None, **job: Any
    ) -> Agreement:
        grid = Answers(dict(enumerate(answers, start=1)), order)
        known: dict[int, str] = {}
        evidence = EvidenceGrid(
            grid, lambda n: known.get(n, f"node {n}"), tmp_path / "e.jsonl", True, Silent()
        )
        run.requests = grid.requests
        nodes = list(range(len(answers), 0, -1))
        return prepare(
            evidence, a_job(**job), "run-1", nodes, known.__setitem__, schema, registered=registered
        )

    return run


def refused(agree: Any, kind: type[FedcoreError], words: str, *answers: Any, **job: Any) -> FedcoreError:
    with pytest.raises(kind, match=words) as caught:
        agree(*answers, **job)
    assert type(caught.value) is kind
    return caught.value


# ---- who is there -------------------------------------------------------------------------------------------


def waiting(*looks: list[int]) -> Answers:
    grid = Answers({})
    grid.looks = list(looks)
    return grid


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    enter_process()
    monkeypatch.setattr(module, "CHECK", 0.001)


def test_it_waits_until_all_expected_are_there() -> None:
    grid = waiting([], [1], [1, 2], [1, 2, 3])
    assert wait_for_nodes(grid, 3, 2, 60.0) == [1, 2, 3]


def test_it_goes_on_with_the_minimum_when_its_patience_ends() -> None:
    assert wait_for_nodes(waiting([1, 2]), 3, 2, 0.01) == [1, 2]


def test_below_the_minimum_it_says_how_many_are_there() -> None:
    with pytest.raises(PeerLost, match=r"1 participants are online after 0.01 s, at least 2 are needed"):
        wait_for_nodes(waiting([1]), 3, 2, 0.01)


def test_others_than_those_wanted_do_not_count() -> None:
    assert wait_for_nodes(waiting([1, 2, 3]), 2, 2, 60.0, wanted={1, 3}) == [1, 3]
    with pytest.raises(PeerLost, match="1 participants are online"):
        wait_for_nodes(waiting([1, 2]), 2, 2, 0.01, wanted={1, 3})


# ---- what is agreed -----------------------------------------------------------------------------------------


def test_members_and_sites_are_in_the_order_of_names_whoever_answers_first(agree) -> None:
    found = agree(describes("c"), describes("a"), describes("b"), order=[3, 1, 2])
    assert list(found.members.items()) == [(2, "a"), (3, "b"), (1, "c")]
    assert list(found.sites) == ["a", "b", "c"] and found.left_out == [] and found.warnings == []
    assert found.schema == Schema(("a", "b"), (2,), (0, 1))
    assert found.phase.step == "prepare" and found.phase.total("up") > 0


def test_classes_are_those_of_all_sites_sorted(agree) -> None:
    found = agree(describes("a", classes=["well"]), describes("b", classes=["ill", "unknown"]))
    assert found.schema.classes == ("ill", "unknown", "well")
    assert agree(describes("a", classes=[1, 0]), describes("b", classes=[1.0, 2.0])).schema.classes == (
        0,
        1,
        2,
    )


def test_scaling_is_that_of_all_training_rows(agree) -> None:
    rng = np.random.default_rng(0)
    tables = [rng.normal([100.0, -3.0], [5.0, 0.1], size=(n, 2)) for n in (8, 30, 11)]
    answers = [
        describes(
            f"s{i}",
            {"rows": len(x), "sums": x.sum(0).tolist(), "squares": (x * x).sum(0).tolist()},
            train_rows=len(x),
        )
        for i, x in enumerate(tables)
    ]
    schema = agree(*answers, task=SCALED).schema
    rows = np.concatenate(tables)
    np.testing.assert_allclose(schema.mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(schema.scale, rows.std(0), rtol=1e-7)


@pytest.mark.parametrize("value", [0.0, 1e-3, 5.0, -1e6, 0.3, 125730.221])
def test_a_constant_column_keeps_its_scale(agree, value) -> None:
    # Rounding errors of the sums must not pass for a deviation.
    sites = [np.full(n, value) for n in (7, 11, 30)]
    answers = [
        describes(
            f"s{i}",
            {"rows": len(x), "sums": [float(x.sum()), 1.0], "squares": [float((x * x).sum()), 1.0]},
            train_rows=len(x),
        )
        for i, x in enumerate(sites)
    ]
    schema = agree(*answers, task=SCALED).schema
    assert schema.scale[0] == 1.0 and schema.mean[0] == pytest.approx(value)


def test_a_resumed_run_keeps_its_schema(agree) -> None:
    schema = Schema(("a", "b"), (2,), (0, 1, 2), (5.0, 5.0), (2.0, 2.0))
    assert agree(describes("a"), describes("b"), schema=schema).schema is schema


def test_the_request_says_how_many_take_part_as_far_as_that_is_known(agree) -> None:
    agree(describes("a"), describes("b"), describes("c"))
    assert {r["cohort"] for r in agree.requests} == {3}
    agree(describes("a"), describes("b"), describes("c"), participants={"names": ["a", "c"]})
    assert {r["cohort"] for r in agree.requests} == {2}, "a policy's min_cohort counts those who take part"
    assert agree.requests[0]["schema_"] is None


def test_one_class_or_no_validation_rows_at_a_site_is_a_warning(agree) -> None:
    told = agree(describes("a", classes=[1]), describes("b"), describes("c", validation_rows=0)).warnings
    assert len(told) == 2 and "a has rows of one class only" in told[0]
    assert "c has no validation rows" in told[1]


# ---- who is left out ------------------------------------------------------------------------------------------


def test_who_refuses_or_does_not_answer_is_left_out_and_shown(agree) -> None:
    found = agree(describes("a"), refuses("PolicyRefused", "b", "not for research"), describes("c"), silent)
    assert list(found.sites) == ["a", "c"]
    told = {one.party: (one.kind, one.reason) for one in found.left_out}
    assert told == {
        "b": ("PolicyRefused", "not for research"),
        "node 4": ("NoReply", "no reply within 20 s"),
    }


def test_a_node_that_answers_under_anothers_name_is_left_out_and_shown(agree) -> None:
    registered = {1: "a", 2: "b", 3: "c"}
    found = agree(describes("a"), describes("c"), describes("c"), describes("d"), registered=registered)
    assert list(found.sites) == ["a", "c"] and found.members == {1: "a", 3: "c"}
    told = {one.party: (one.kind, one.reason) for one in found.left_out}
    assert set(told) == {"b", "node 4"} and {kind for kind, _ in told.values()} == {"IdentityError"}
    assert "the key of 'b' and answers as 'c'" in told["b"][1]
    assert "not in the roster" in told["node 4"][1]


def test_only_the_named_take_part(agree) -> None:
    found = agree(describes("a"), describes("b"), describes("c"), participants={"names": ["c", "a"]})
    assert list(found.sites) == ["a", "c"] and found.left_out == []


@pytest.mark.parametrize("kind", ["DataError", "JobError", "TaskFailed", "PolicyRefused"])
def test_what_is_wrong_at_one_that_was_not_asked_for_does_not_matter(agree, kind) -> None:
    found = agree(
        describes("a"), refuses(kind, "b"), describes("c"), participants={"names": ["a", "c"], "min": 2}
    )
    assert list(found.sites) == ["a", "c"] and found.left_out == []


# ---- why nothing is begun -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [DataError, JobError, TaskFailed])
def test_wrong_data_at_one_site_stops_the_run_with_all_sites_reasons(agree, kind) -> None:
    error = refused(
        agree,
        kind,
        r"the job cannot start\..*Nothing was trained; cure it, or name the others in participants.names",
        describes("a"),
        refuses(kind.__name__, "b", "no column age"),
        describes("c"),
        refuses(kind.__name__, "d", "no column sex"),
    )
    assert "b: no column age" in str(error) and "d: no column sex" in str(error)
    assert error.step == "prepare" and error.party in ("b", "d")


def test_too_few_because_of_policies_or_of_silence(agree) -> None:
    words = r"1 of at least 2 participants take part. .*b: because.*Nothing was trained"
    refused(agree, PolicyRefused, words, describes("a"), refuses("PolicyRefused", "b"))
    refused(agree, PeerLost, "1 of at least 2 .*no reply within 20 s", describes("a"), silent)


def test_a_named_participant_that_is_not_there_is_missed(agree) -> None:
    words = r"participants.names asks for c\. nobody else answered"
    names = {"names": ["a", "b", "c"]}
    refused(agree, PeerLost, words, describes("a"), describes("b"), participants=names)


def test_two_nodes_of_one_name_are_refused(agree) -> None:
    refused(agree, JobError, "two nodes say they are participant 'a'", describes("a"), describes("a"))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"features": ["a", "c"]}, "features of the rows differ .* s lacks b and has c; make them alike"),
        ({"features": ["b", "a"]}, "the same columns stand in another order"),
        ({"shape": [3]}, r"the shape of the rows differ .*\[3\] at s, \[2\] at first"),
        ({"dtype": "uint8"}, "the dtype of the rows differ .*uint8 at s, float32 at first"),
    ],
)
def test_rows_that_differ_are_refused_with_the_difference(agree, other, words) -> None:
    error = refused(agree, DataError, words, describes("first"), describes("s", **other))
    assert error.party == "s"


@pytest.mark.parametrize("changes", [{"features": ["a", "b", "c"], "shape": [3]}, {"shape": [4]}])
def test_rows_that_changed_since_the_run_began_are_refused(agree, changes) -> None:
    schema = Schema(("a", "b"), (2,), (0, 1))
    words = "other columns or another shape than when the run began"
    refused(agree, DataError, words, describes("a", **changes), describes("b", **changes), schema=schema)


def test_text_at_one_site_and_numbers_at_another_are_no_common_classes(agree) -> None:
    words = "target 'y' holds text at some sites and numbers at others"
    refused(agree, DataError, words, describes("a", classes=["0", "1"]), describes("b"))


def test_one_class_over_all_sites_is_no_classification(agree) -> None:
    words = "target 'y' has one class over all sites"
    refused(agree, DataError, words, describes("a", classes=[1]), describes("b", classes=[1]))


GOOD = {"rows": 8, "sums": [1.0, 2.0], "squares": [1.0, 2.0]}


@pytest.mark.parametrize(
    "strange",
    [
        lambda asked: Message(RecordDict(), reply_to=asked),
        lambda asked: Message(RecordDict({"site": ConfigRecord({"about": "{"})}), reply_to=asked),
        lambda asked: Message(RecordDict({"site": ConfigRecord({"about": "[]"})}), reply_to=asked),
        lambda asked: Message(RecordDict({"site": MetricRecord({"about": 1})}), reply_to=asked),
        describes("b", GOOD, features="a"),
        describes("b", GOOD, rows="many"),
        describes(None, GOOD),
        describes("b"),
        describes("b", {**GOOD, "sums": [1.0]}),
        describes("b", {**GOOD, "squares": [1.0, float("nan")]}),
        describes("b", {"sums": [1.0, 2.0], "squares": [1.0, 2.0]}),
        describes("b", {**GOOD, "rows": 8000}),
    ],
)
def test_an_answer_that_describes_no_rows_names_the_node_and_the_cure(agree, strange) -> None:
    words = "node 2: its answer does not describe rows; install the same version"
    refused(agree, JobError, words, describes("a", GOOD), strange, describes("c", GOOD), task=SCALED)
