"""The participant's half: what it refuses, what leaves it, and where its secrets stay."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict

from crypto.secagg.coordinator import Coordinator
from crypto.secagg.graph import Assumptions
from fedcore.errors import FedcoreError, IdentityError, JobError, PolicyRefused, ProtocolFailed
from fedcore.flower import array_record, enter_process, ndarrays, stamp
from fedcore.jobs.request import SECURE
from fedcore.participant.mods import secure
from fedcore.participant.mods.protocols.base import PROTOCOLS
from fedcore.participant.mods.secure import KEPT, STATE, Own, own_of, secure_aggregation, weaker
from fedcore.participant.protected import MASKED, Form
from fedcore.trust.identity import new_identity
from tests.messages import a_site

RUN = bytes(31) + b"1"
NODES = (1, 2, 3, 4)


def task(message: Message, context: Context) -> Message:
    assert SECURE not in message.content
    return Message(
        RecordDict(
            {
                "arrays": array_record({"w": np.full(4, 0.5)}),
                "metrics": MetricRecord({"loss": 0.25, "num-examples": 5}),
                "more": ConfigRecord({"told": "besides"}),
            }
        ),
        reply_to=message,
    )


def never(message: Message, context: Context) -> Message:
    raise AssertionError("the task was asked")


class Cohort:
    """A coordinator and the mod at four nodes."""

    def __init__(self, assumptions: Assumptions | None = None) -> None:
        enter_process()
        self.assumptions = assumptions or Assumptions()
        self.coordinator = Coordinator(RUN, self.assumptions)
        self.contexts = {node: Context(1, node, {}, RecordDict(), {}) for node in NODES}
        self.mod = secure_aggregation(lambda message, context: Own(str(context.node_id)))

    def ask(
        self,
        node: int,
        stage: str,
        body: bytes = b"",
        *,
        number: int = 1,
        kind: str = "query.secure",
        about: str = "",
        run: bytes = RUN,
        call: Callable[[Message, Context], Message] = never,
    ) -> RecordDict:
        record = {"stage": stage, "session": run, "number": number, "message": body, "about": about}
        content = RecordDict({SECURE: ConfigRecord(record)})
        if stage == "masked":
            content["arrays"] = array_record({"w": np.zeros(4)})
        message = Message(content, node, kind)
        stamp(message)
        # As in a deployment, where another process answers the next message.
        secure._live.clear()
        context = self.contexts[node] = pickle.loads(pickle.dumps(self.contexts[node]))
        return self.mod(message, context, call).content

    def enter(self, run: bytes = RUN) -> None:
        about = json.dumps(asdict(self.assumptions))
        for node in NODES:
            told = self.ask(node, "keys", about=about, run=run)
            if run == RUN:
                self.coordinator.take_advert(str(node), told[SECURE]["message"])

    def meet(self) -> dict[str, bytes]:
        self.enter()
        for name, roster in self.coordinator.rosters().items():
            told = self.ask(int(name), "roster", roster)
            self.coordinator.take_shares(name, told[SECURE]["shares"])
        return self.coordinator.start(1).starts()

    def masked(self, node: int, start: bytes, call: Any = task, about: str | None = None) -> RecordDict:
        form = Form(1.0, 4, 100).to_json() if about is None else about
        return self.ask(node, "masked", start, kind="train", about=form, call=call)


def test_of_a_task_s_reply_nothing_leaves_but_the_masked_vector_and_what_is_public() -> None:
    them = Cohort()
    starts = them.meet()
    told = them.masked(1, starts["1"])
    assert set(told) == {MASKED, SECURE}
    vector = ndarrays(told[MASKED])[MASKED]
    assert vector.dtype == np.uint32 and int(vector[4]) != 5
    public = json.loads(told[SECURE]["about"])
    assert public["arrays"] == [{"name": "w", "dtype": "<f8", "shape": [4], "wide": False}]
    assert "0.25" not in told[SECURE]["about"]


def test_a_second_vector_in_a_round_is_refused() -> None:
    them = Cohort()
    starts = them.meet()
    them.masked(1, starts["1"])
    with pytest.raises(ProtocolFailed, match="only go up"):
        them.masked(1, starts["1"])


def test_a_reply_that_comes_after_the_next_round_began_is_not_masked() -> None:
    # A message that was given up is still worked on: the state must not go back.
    them = Cohort()
    starts = them.meet()

    def slow(message: Message, context: Context) -> Message:
        them.masked(1, starts["1"])
        context.state = them.contexts[1].state
        return task(message, context)

    with pytest.raises(ProtocolFailed, match="only go up"):
        them.masked(1, starts["1"], slow)


@pytest.mark.parametrize("stage", ["roster", "shares", "confirm", "reveal"])
def test_a_stage_of_a_session_that_nobody_entered_is_refused(stage: str) -> None:
    with pytest.raises(ProtocolFailed, match="no such session"):
        Cohort().ask(1, stage)


def test_the_task_is_not_asked_for_a_session_that_nobody_entered() -> None:
    with pytest.raises(ProtocolFailed, match="no such session"):
        Cohort().masked(1, b"", never)


def test_a_step_out_of_order_is_refused() -> None:
    them = Cohort()
    them.meet()
    for stage in ("confirm", "reveal", "roster"):
        with pytest.raises(ProtocolFailed):
            them.ask(1, stage)


def test_a_session_is_entered_once_and_the_oldest_is_forgotten() -> None:
    them = Cohort()
    them.enter()
    with pytest.raises(ProtocolFailed, match="entered before"):
        them.enter()
    for i in range(KEPT):
        them.enter(bytes([i + 5]) * 32)
    with pytest.raises(ProtocolFailed, match="no such session"):
        them.ask(1, "shares")
    assert len(them.contexts[1].state[STATE]) == 2 * KEPT


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        (Assumptions(least_cohort=2), "least_cohort"),
        (Assumptions(corrupt=0.0), "corrupt"),
        (Assumptions(security=20), "security"),
        (Assumptions(adversary="curious"), "adversary"),
    ],
)
def test_a_coordinator_that_assumes_less_is_refused(asked: Assumptions, word: str) -> None:
    assert weaker(asked, Assumptions()) is not None and weaker(Assumptions(), Assumptions()) is None
    with pytest.raises(PolicyRefused, match=word):
        Cohort(asked).enter()


@pytest.mark.parametrize("kind", ["train", "evaluate", "train.more"])
def test_a_message_that_is_not_protected_does_not_reach_the_task(kind: str) -> None:
    them = Cohort()
    message = Message(RecordDict(), 1, kind)
    with pytest.raises(PolicyRefused, match="not protected"):
        them.mod(message, them.contexts[1], never)


def test_only_train_and_evaluate_messages_are_masked() -> None:
    them = Cohort()
    starts = them.meet()
    with pytest.raises(JobError, match=r"query\.secure"):
        them.ask(1, "masked", starts["1"], about=Form(1.0, 4, 100).to_json())


@pytest.mark.parametrize("about", ["", "{}", "[1]", '{"adversary": "kind"}', '{"corrupt": 2}'])
def test_assumptions_that_are_none_are_refused(about: str) -> None:
    # An empty mapping means the defaults.
    if about == "{}":
        assert SECURE in Cohort().ask(1, "keys", about=about)
        return
    with pytest.raises(FedcoreError, match="assumptions"):
        Cohort().ask(1, "keys", about=about)


@pytest.mark.parametrize(
    ("about", "kind", "word"),
    [
        ({"protocol": "threshold"}, PolicyRefused, "allowed are secagg"),
        (
            {"protocol": "ckks", "adversary": "curious"},
            PolicyRefused,
            "adversary is curious, active is required",
        ),
        ({"protocol": "ckks", "adversary": "active"}, PolicyRefused, "follows it only"),
        ({"protocol": "plain"}, JobError, "'plain'; this participant has secagg"),
        ({"protocol": ["ckks"]}, JobError, "this participant has"),
        ({"key_bits": 1024}, JobError, "1024 bits; from 2048"),
        ({"key_bits": 10**6}, JobError, "from 2048"),
        ({"key_bits": "3072"}, JobError, "from 2048"),
        ({"cipher": "rc4"}, JobError, "masks of 'rc4' under secagg.; this participant has aes, chacha20"),
        ({"cipher": ["aes"]}, JobError, "this participant has aes, chacha20"),
        ({"cipher": "chacha20", "protocol": "threshold"}, JobError, "others than aes under secagg. only"),
    ],
)
def test_a_protocol_that_is_not_allowed_or_unknown_is_refused(
    about: dict[str, Any], kind: type[FedcoreError], word: str
) -> None:
    them = Cohort()
    allowed = ("secagg+",) if about == {"protocol": "threshold"} else PROTOCOLS
    them.mod = secure_aggregation(lambda message, context: Own(str(context.node_id), protocols=allowed))
    with pytest.raises(kind, match=word):
        them.ask(1, "keys", about=json.dumps(asdict(Assumptions()) | about))
    assert STATE not in them.contexts[1].state


def test_a_missing_package_is_told_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secure, "needs", lambda protocol: f"{protocol} needs a package; pip install it")
    with pytest.raises(JobError, match="pip install it"):
        Cohort().ask(1, "keys", about=json.dumps(asdict(Assumptions())))


def test_an_unknown_stage_and_a_record_that_is_none_are_refused() -> None:
    them = Cohort()
    them.meet()
    with pytest.raises(JobError, match="no stage 'unmask'"):
        them.ask(1, "unmask")
    message = Message(RecordDict({SECURE: ConfigRecord({"stage": "keys"})}), 1, "query.secure")
    with pytest.raises(JobError, match="none of secure aggregation"):
        them.mod(message, them.contexts[1], never)


def test_the_deployment_engine_needs_pinned_keys(tmp_path: Path) -> None:
    site = a_site(tmp_path)
    assert own_of(site, signed=False).authenticator is None
    with pytest.raises(IdentityError, match="peers"):
        own_of(site, signed=True)
    other = new_identity(tmp_path / "other.key", "site-1")
    pinned = a_site(
        tmp_path,
        extra=f'peers: {{site-1: {{public_key: "{other.public_line}"}}}}\nstate: state\n',
    )
    own = own_of(pinned, signed=True)
    assert own.assumptions.enrolled == 2 and own.authenticator is not None
    assert own.authenticator.verify("site-0", b"text", own.authenticator.sign(b"text"))
