"""A participant's machines on the compute network: what it offers for a round, and what it has promised.

    offers    the coordinator's request -> at most eight signed offers, and the descriptors they rest on
    lease     requests for leases of nodes -> a lease each, or why not
    bind      leases that all others have granted too -> what holds now
    release   leases that are not needed

A message that asks for the work of a placed round names the version of its plan; the work is done only under a lease
of that version that was bound (`check_work`). What was promised and refused stands in `leases.jsonl` in the
participant's state folder, and holds whichever of its processes answers.
"""

from __future__ import annotations

import fcntl
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict

from fedcore.errors import DataError, FedcoreError, JobError, PolicyRefused
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
_KEPT = 64

_lock = threading.Lock()
# Log and the coordinator's key to the size of the log and what it says: a log that only this process writes is not read
# for every message.
_books: OrderedDict[tuple[Path, str], tuple[int, LeaseBook]] = OrderedDict()


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
    except (ValueError, LookupError, TypeError, AttributeError) as error:
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


def check_work(participant: Participant, plan: str, version: int) -> None:
    """Refuse the work of a plan that is not leased here.

    Args:
        plan: Its name, which is the run's.
        version: Of the plan by which the work is asked for.

    Raises:
        PolicyRefused: No lease of it holds, or it is older than the plan that does.
    """
    with _book(participant) as book:
        held = [each for each in book.held if each.plan == plan]
        if not held:
            raise PolicyRefused(
                f"no lease of plan {plan} holds here: none was granted, or it has ended or was given back. Cure: plan "
                "again",
                party=participant.name,
                step=STEP,
            )
        # One that is not yet bound says nothing of the work that goes on meanwhile.
        same = [each for each in held if each.version == version]
        book.check(max(same or held, key=lambda each: (each.version, each.expires)).id, version)


def working_node(participant: Participant, plan: str, version: int) -> str | None:
    """The node that is leased for the work of a plan's version; None where that cannot be told."""
    with _book(participant) as book:
        found = {each.node for each in book.held if (each.plan, each.version) == (plan, version)}
    return found.pop() if len(found) == 1 else None


def _lease(participant: Participant, body: Any, key: str) -> list[dict[str, Any]]:
    asked = [LeaseRequest(**each) for each in body]
    slots = {node.node: SLOTS for node in nodes_of(participant)}
    with _book(participant, asked[0].coordinator, key, slots) as book:
        told = [book.ask(each) for each in asked]
    return [{"granted": isinstance(each, Lease), **asdict(each)} for each in told]


def _bind(participant: Participant, body: Any, key: str) -> dict[str, dict[str, Any]]:
    told: dict[str, dict[str, Any]] = {}
    with _book(participant) as book:
        for lease in body:
            try:
                book.bind(str(lease))
                told[str(lease)] = {"bound": True}
            except FedcoreError as error:
                told[str(lease)] = {"bound": False, "reason": error.message}
    return told


def _release(participant: Participant, body: Any, key: str) -> dict[str, bool]:
    with _book(participant) as book:
        return {str(lease): book.release(str(lease)) for lease in body}


_ANSWERS = {"offers": _offers, "lease": _lease, "bind": _bind, "release": _release}


@contextmanager
def _book(
    participant: Participant, coordinator: str = "", key: str = "", slots: dict[str, int] | None = None
) -> Iterator[LeaseBook]:
    """What was promised so far; nobody else promises anything meanwhile.

    Args:
        coordinator, key: Who asks for a lease, and its key. It comes with the coordinator's message, as that of a
            session does, from the SuperLink that this site has pinned.
        slots: Of each node, where a lease is asked for.
    """
    folder = state_folder(participant)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / LOG
    # Threads of this process do not keep each other out of a file that the process has locked.
    with _lock, (folder / f"{LOG}.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        pins = {coordinator: key} if coordinator else {}
        about = f"{coordinator} {key} {sorted(slots.items()) if slots else ''}"
        size, book = _books.pop((log, about), (-1, None))
        if book is None or size != _size(log):
            book = LeaseBook(identity_of(participant), slots or {}, pins, log=log)
        try:
            yield book
        finally:
            _books[log, about] = _size(log), book
            while len(_books) > _KEPT:
                _books.popitem(last=False)


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0
