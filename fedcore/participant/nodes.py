"""A participant's machines on the compute network: what it offers for a round, and what it has promised.

    offers    the coordinator's request -> at most eight signed offers, and the descriptors they rest on
    lease     requests for leases of nodes -> a lease each, or why not
    bind      leases that all others have granted too -> what holds now
    release   leases that are not needed

What is offered, promised and refused stands in `leases.jsonl` in the participant's state folder. Of its machines leave
as much as each descriptor's `exposure` says.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict

from fedcore.errors import DataError, FedcoreError, JobError
from fedcore.jobs.participant import Participant
from fedcore.jobs.request import NODES
from fedcore.network.descriptor import Descriptor, load_descriptor, sign_descriptor
from fedcore.network.lease import Lease, LeaseBook, LeaseRequest
from fedcore.network.offers import make_offers
from fedcore.network.work import Request
from fedcore.participant.meeting import identity_of, state_folder

STEP = "placement"
LOG = "leases.jsonl"
SLOTS = 4
"""Runs that share a node at a time, at most."""


def answer(participant: Participant, message: Message) -> Message:
    """The answer to a message about nodes.

    Raises:
        JobError: It is none.
        DataError: This participant has no node.
    """
    record = message.content.get(NODES)
    try:
        asked = json.loads(str(record["about"])) if isinstance(record, ConfigRecord) else None
        what, body, key = asked["what"], asked["body"], str(asked["key"])  # type: ignore[index]
        told = _ANSWERS[what](participant, body, key)
    except (ValueError, KeyError, TypeError) as error:
        raise JobError("the coordinator's message about nodes cannot be read", step=STEP) from error
    return Message(RecordDict({NODES: ConfigRecord({"about": json.dumps(told)})}), reply_to=message)


def nodes_of(participant: Participant) -> list[Descriptor]:
    """The descriptors that the participant's file names.

    Raises:
        DataError: It names none.
        JobError: One is of another owner, or cannot be read.
    """
    if not participant.nodes:
        raise DataError(
            "this participant's file names no node, so that nothing of it can be placed. Cure: `fedcore network probe "
            "NODE.yaml`, and the descriptor it writes under nodes in the participant file",
            step=STEP,
        )
    found = [load_descriptor(path) for path in participant.nodes]
    for path, node in zip(participant.nodes, found, strict=True):
        if node.owner != participant.name:
            raise JobError(
                f"{Path(path).name} describes a node of {node.owner}, not of {participant.name}", step=STEP
            )
    return found


def _offers(participant: Participant, body: Any, key: str) -> dict[str, Any]:
    identity = identity_of(participant)
    nodes = nodes_of(participant)
    made = make_offers(Request(**body), nodes, identity)
    shown = [node if node.signature else sign_descriptor(node, identity) for node in nodes]
    return {
        "offers": [each.to_json() for each in made.offers],
        "descriptors": [each.model_dump(mode="json") for each in shown],
        "left_out": made.left_out,
        "key": identity.public_line,
    }


def _lease(participant: Participant, body: Any, key: str) -> list[dict[str, Any]]:
    book = _book(participant, body[0]["coordinator"], key)
    answers = []
    for each in body:
        told = book.ask(LeaseRequest(**each))
        answers.append({"granted": isinstance(told, Lease), **asdict(told)})
    return answers


def _bind(participant: Participant, body: Any, key: str) -> dict[str, str]:
    book = _book(participant, "coordinator", key)
    told = {}
    for lease in body:
        try:
            told[str(lease)] = book.bind(str(lease)).expires
        except FedcoreError as error:
            told[str(lease)] = f"refused: {error.message}"
    return told


def _release(participant: Participant, body: Any, key: str) -> dict[str, bool]:
    book = _book(participant, "coordinator", key)
    return {str(lease): book.release(str(lease)) for lease in body}


_ANSWERS = {"offers": _offers, "lease": _lease, "bind": _bind, "release": _release}


def _book(participant: Participant, coordinator: str, key: str) -> LeaseBook:
    """What was promised so far, from its log."""
    slots = {node.node: SLOTS for node in nodes_of(participant)}
    folder = state_folder(participant)
    folder.mkdir(parents=True, exist_ok=True)
    return LeaseBook(identity_of(participant), slots, {coordinator: key}, log=folder / LOG)
