"""The layer that measures: what it tells, when, and what it never tells."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedcore.errors import IdentityError
from fedcore.flower import array_record, digest_of, error_reply, payload_bytes
from fedcore.jobs.participant import Participant
from fedcore.jobs.request import SECURE, USAGE
from fedcore.network.descriptor import describe, sign_descriptor, write_descriptor
from fedcore.network.usage import Said, check_said, read_said
from fedcore.participant.mods.evidence import evidence, evidence_file
from fedcore.participant.mods.metering import _two_digits, metering
from fedcore.trust import evidence as log
from fedcore.trust.identity import Identity, new_identity
from tests.fedcore.network.nodes import found, node_file
from tests.messages import CONTEXT, a_request, message, reply_to

ARRAYS = {"w": np.arange(6, dtype=np.float32)}
PROTECTED = {"protection": {"secure_aggregation": "secagg+"}}


@pytest.fixture
def site(tmp_path: Path) -> Participant:
    return Participant(name="site-0", catalogue={}, state=tmp_path / "state")


def asked(plan: str = "", kind: str = "train", **job: Any) -> Message:
    sent = message(kind, request=a_request(**job), arrays=ARRAYS, server_round=3)
    sent.content[USAGE] = ConfigRecord({"plan": plan} if plan else {})
    return sent


def work(received: Message, context: Any) -> Message:
    assert USAGE not in received.content
    return reply_to(received, ARRAYS, 32, loss=0.5)


def masked(received: Message, context: Any) -> Message:
    """As the layer of secure aggregation lets a reply out."""
    content = RecordDict({"masked": array_record(ARRAYS), SECURE: ConfigRecord({"stage": "masked"})})
    return Message(content, reply_to=received)


def passed(site: Participant, sent: Message, task: Any = work, signed: bool = False) -> Message:
    return metering(lambda context: site, signed)(sent, CONTEXT, task)


def half(reply: Message) -> Said:
    return read_said(json.loads(str(reply.content[USAGE]["said"])))


def with_node(site: Participant, tmp_path: Path, **more: Any) -> tuple[Participant, Identity]:
    identity = new_identity(tmp_path / "site.key", "site-0")
    at = more.pop("at", datetime.now(UTC))
    owner = more.pop("owner", "site-0")
    signer = Identity(owner, identity.path, identity.private_key)
    made = sign_descriptor(describe(node_file(owner=owner, **more), found(), at=at), signer)
    write_descriptor(made, tmp_path / "n.json")
    changed = {"nodes": (tmp_path / "n.json",), "identity": tmp_path / "site.key"}
    return site.model_copy(update=changed), identity


def test_the_half_tells_what_the_work_took(site: Participant) -> None:
    sent = asked("version 4")
    down = payload_bytes(sent.content)
    reply = passed(site, sent)
    said = half(reply)
    assert (said.job, said.run, said.round, said.step, said.plan) == (
        "study-job",
        "run-1",
        3,
        "train",
        "version 4",
    )
    assert (said.owner, said.samples, said.device, said.precision) == ("site-0", 32, "cpu", "float32")
    assert said.bytes_down == down and 0 < said.seconds < 60 and said.cpu_seconds is not None
    del reply.content[USAGE]
    assert said.bytes_up == payload_bytes(reply.content) and said.result == digest_of(reply.content)
    assert (said.kwh, said.price, said.tflops_h, said.node) == (None, None, None, None)


def test_only_who_asks_is_told_and_an_error_has_no_half(site: Participant) -> None:
    plain = message(request=a_request(), arrays=ARRAYS)
    assert USAGE not in passed(site, plain).content
    other = asked(kind="query.prepare")
    assert USAGE not in passed(site, other, lambda m, c: reply_to(m)).content
    failed = passed(site, asked(), lambda m, c: error_reply(m, "no"))
    assert failed.has_error()


def test_under_secure_aggregation_nothing_tells_the_number_of_examples(site: Participant) -> None:
    said = half(passed(site, asked(**PROTECTED), masked))
    assert said.samples is None and said.cpu_seconds is None and said.cpu_of is None
    assert said.seconds == _two_digits(said.seconds) > 0


def test_a_task_that_tells_examples_under_secure_aggregation_is_not_quoted(site: Participant) -> None:
    assert half(passed(site, asked(**PROTECTED))).samples is None


@pytest.mark.parametrize(
    ("seconds", "rounded"),
    [(0.0, 0.0), (1.049, 1.0), (1.051, 1.1), (99.6, 100.0), (123.4, 120.0), (0.00234, 0.0023)],
)
def test_two_digits_are_at_most_five_percent_off(seconds: float, rounded: float) -> None:
    assert _two_digits(seconds) == pytest.approx(rounded)


def test_a_signed_half_is_the_participants_and_every_half_has_an_id_of_its_own(site: Participant) -> None:
    replies = [passed(site, asked(), signed=True) for _ in range(2)]
    line = (site.state / "identity.key.pub").read_text() if site.state else ""
    for reply in replies:
        check_said(half(reply), str(reply.content[USAGE]["signature"]), {"site-0": line})
    assert half(replies[0]).id != half(replies[1]).id
    with pytest.raises(IdentityError):
        check_said(half(replies[0]), str(replies[1].content[USAGE]["signature"]), {"site-0": line})


def test_where_keys_are_not_needed_none_is_made(site: Participant) -> None:
    assert passed(site, asked()).content[USAGE]["signature"] == ""
    assert site.state is not None and not (site.state / "identity.key").exists()


def test_a_described_node_gives_energy_carbon_and_price(site: Participant, tmp_path: Path) -> None:
    described, _ = with_node(site, tmp_path)
    said = half(passed(described, asked()))
    assert said.node == "n1" and said.currency == "CNY" and said.pue == 1.25 and said.gas_location == "CO2"
    assert said.tflops_h == pytest.approx(0.1 * said.seconds / 3600)
    assert said.kwh is not None and 50 <= said.kwh * 3.6e6 / said.seconds <= 150
    assert said.gco2_location == pytest.approx(said.kwh * 1.25 * 500)


@pytest.mark.parametrize(
    "more",
    [{"at": datetime.now(UTC) - timedelta(days=2)}, {"owner": "site-1"}],
    ids=["expired", "of another owner"],
)
def test_a_descriptor_that_does_not_hold_stops_no_work_and_tells_nothing(
    site: Participant, tmp_path: Path, more: dict[str, Any]
) -> None:
    described, _ = with_node(site, tmp_path, **more)
    said = half(passed(described, asked()))
    assert said.node is None and said.kwh is None and said.samples == 32


def test_a_descriptor_that_was_changed_or_is_gone_tells_nothing(site: Participant, tmp_path: Path) -> None:
    described, _ = with_node(site, tmp_path)
    file = tmp_path / "n.json"
    told = json.loads(file.read_text())
    told["quantities"]["price.compute"]["value"] = 999.0
    file.write_text(json.dumps(told))
    assert half(passed(described, asked())).price is None
    file.unlink()
    assert half(passed(described, asked())).price is None


def test_of_several_nodes_none_is_guessed(site: Participant, tmp_path: Path) -> None:
    described, _ = with_node(site, tmp_path)
    (tmp_path / "m.json").write_text((tmp_path / "n.json").read_text())
    two = described.model_copy(update={"nodes": (tmp_path / "n.json", tmp_path / "m.json")})
    assert half(passed(two, asked())).node is None


def test_work_at_the_same_time_in_one_process_is_counted_by_thread(site: Participant) -> None:
    both = threading.Barrier(2, timeout=20)
    kinds: list[str | None] = []

    def together(received: Message, context: Any) -> Message:
        both.wait()
        return work(received, context)

    def one() -> None:
        kinds.append(half(passed(site, asked(), together)).cpu_of)

    threads = [threading.Thread(target=one) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert kinds == ["thread", "thread"]
    assert half(passed(site, asked())).cpu_of == "process"


def test_the_sites_own_log_has_the_id_of_what_it_told(site: Participant) -> None:
    reply = evidence(lambda context: site)(
        asked(), CONTEXT, lambda m, c: metering(lambda context: site, False)(m, c, work)
    )
    (release,) = [each for each in log.read(evidence_file(site)) if each["event"] == "release"]
    assert release["usage"] == half(reply).id
    assert release["bytes"] == payload_bytes(reply.content)
    assert release["sha256"] == digest_of(reply.content)
