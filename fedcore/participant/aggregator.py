"""A participant that adds up the replies of its region, over a deployment's sessions.

    open         coordinator -> aggregator    who is in the region; it listens, and says where and under which names
    join         coordinator -> participant   where its aggregator is; it connects, beside its line to the coordinator
    aggregate    coordinator -> aggregator    the message of a round; it goes to each participant of the region, and the
                                              sum of their replies comes back (`fedcore.participant.region`)

Both sides must pin each other's key (`peers` in their files): the coordinator cannot put an aggregator of its own
between. A participant answers over an aggregator's line what is protected by secure aggregation only, unless its policy
says `aggregators: any`, since an aggregator reads plain updates.

An aggregator listens at its `inbound` address, or where it has none at a free port of loopback, which participants of
other machines cannot reach; they are then asked directly.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Mapping
from typing import Any

from flwr.app import ConfigRecord, Message, Metadata, RecordDict

from fedcore.errors import IdentityError, JobError, did_you_mean
from fedcore.flower import NODE_UNAVAILABLE, copy_content, error_reply, message_of
from fedcore.jobs.participant import Participant
from fedcore.jobs.request import REGION, SECURE, SESSION
from fedcore.participant import answering
from fedcore.participant.answering import Line
from fedcore.participant.meeting import identity_of
from fedcore.participant.region import RegionSum
from fedcore.participant.session import SETTINGS, connector
from fedcore.peer.listening import Hall
from fedcore.peer.messages import VERSION
from fedcore.peer.seat import Gone, Seat
from fedcore.peer.tls import Peer

log = logging.getLogger("fedcore.participant")

STEP = "region"


class _Region:
    """The hall of an aggregator, and a seat for each participant of its region but itself."""

    def __init__(self, participant: Participant, children: Mapping[int, str]) -> None:
        self.name = participant.name
        peers = {
            node: Peer(name, _pinned(participant, name))
            for node, name in children.items()
            if name != participant.name
        }
        bind = participant.inbound.bound if participant.inbound else "127.0.0.1:0"
        self._hall = Hall(
            bind,
            identity=identity_of(participant),
            peers=list(peers.values()),
            settings=SETTINGS,
            calls=2 * len(peers) + 8,
        )
        port = self._hall.address.rpartition(":")[2]
        host = participant.inbound.address.rpartition(":")[0] if participant.inbound else "127.0.0.1"
        self.address = f"{host}:{port}"
        self.own = [node for node, name in children.items() if name == participant.name]
        self.seats = {node: Seat(peer) for node, peer in peers.items()}
        for node, seat in self.seats.items():
            self._hall.expect(seat.session, peers[node], seat.arrived)

    def close(self) -> None:
        """Ask nobody any more."""
        for seat in self.seats.values():
            seat.end("the region was arranged anew", again=False)
        self._hall.close()


_regions: dict[str, _Region] = {}
_lock = threading.Lock()


def open_region(participant: Participant, message: Message) -> Message:
    """Listen for the participants of a region.

    Raises:
        JobError: This process answers no session, or the message is none.
        IdentityError: A participant's key is not pinned here.
    """
    _session()
    about = _about(message)
    children = {int(node): str(name) for node, name in about["children"].items()}
    region = _Region(participant, children)
    with _lock:
        old = _regions.pop(str(about["id"]), None)
        _regions[str(about["id"])] = region
    if old is not None:
        old.close()
    told = {
        "address": region.address,
        "key": identity_of(participant).public_line,
        "sessions": {str(node): seat.session for node, seat in region.seats.items()},
    }
    return Message(RecordDict({REGION: ConfigRecord({"about": json.dumps(told)})}), reply_to=message)


def join_region(participant: Participant, message: Message) -> Message:
    """Take messages from an aggregator too.

    Raises:
        JobError: This process answers no session, or the message is none.
        IdentityError: The aggregator's key is not the one that is pinned here.
        PeerLost: It cannot be reached.
    """
    session = _session()
    about = _about(message)
    name = str(about["aggregator"])
    invitation = ConfigRecord(
        {
            "address": str(about["address"]),
            # The key that is pinned here, whatever the coordinator says.
            "key": _pinned(participant, name),
            "session": str(about["session"]),
            "version": VERSION,
        }
    )
    plain = participant.policy.aggregators == "any"
    session.join(
        Line(connector(invitation, participant, name), lambda asked: None if plain else _refused(asked, name))
    )
    return Message(RecordDict({SESSION: ConfigRecord({"joined": True})}), reply_to=message)


def aggregate(participant: Participant, message: Message) -> Message:
    """Ask the participants of a region, and add their replies up.

    Raises:
        JobError: There is no such region here, or the message is none.
    """
    session = _session()
    about = _about(message)
    with _lock:
        region = _regions.get(str(about["id"]))
    if region is None:
        raise JobError(
            "this participant was not asked to add up such a region, or was started anew", step=STEP
        )
    within = None if about["timeout"] is None else float(about["timeout"])
    end = None if within is None else time.monotonic() + within
    total, adding = RegionSum(), threading.Lock()

    def ask(node: int, number: str) -> None:
        inner = _inner(message, about, node, number)
        try:
            if node in region.own:
                reply = session.ask(inner, within)
            else:
                told = region.seats[node].ask(inner, end)
                # The seat says whose reply it is, not the reply.
                reply = _of(told, inner)
        except (Gone, TimeoutError, KeyError) as error:
            reply = error_reply(inner, f"{STEP}: {error or 'no reply in time'}", NODE_UNAVAILABLE)
        with adding:
            total.add(reply)

    threads = [
        threading.Thread(target=ask, args=(int(node), str(number)), daemon=True, name="fedcore-region")
        for node, number in about["numbers"].items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Message(total.content(), reply_to=message)


def _of(reply: Message, asked: Message) -> Message:
    if reply.has_error():
        return error_reply(asked, reply.error.reason or "", reply.error.code)
    return Message(reply.content, reply_to=asked)


def _inner(message: Message, about: Mapping[str, Any], node: int, number: str) -> Message:
    """The message to one participant of the region: what all are sent, and what only it is."""
    content = RecordDict(
        {
            name: record
            for name, record in copy_content(message.content).items()
            if name != REGION and not name.startswith(f"{SECURE} ")
        }
    )
    own = message.content.get(f"{SECURE} {node}")
    if isinstance(own, ConfigRecord):
        content[SECURE] = ConfigRecord(dict(own))
    outer = message.metadata
    metadata = Metadata(
        run_id=outer.run_id,
        message_id=number,
        src_node_id=outer.src_node_id,
        dst_node_id=node,
        reply_to_message_id="",
        group_id=outer.group_id,
        created_at=outer.created_at,
        ttl=outer.ttl,
        message_type=str(about["type"]),
    )
    return message_of(metadata, content=content)


def _refused(asked: Message, name: str) -> str | None:
    record = asked.content.get(SECURE)
    if isinstance(record, ConfigRecord):
        return None
    told = {
        "type": "PolicyRefused",
        "message": f"{name} would read this update, which is not protected by secure aggregation; policy.aggregators: any "
        "allows it",
        "party": None,
    }
    return json.dumps(told)


def _pinned(participant: Participant, name: str) -> str:
    entry = participant.peers.get(name)
    if entry is None:
        raise IdentityError(
            f"no key of {name!r} is pinned here (peers); {did_you_mean(name, participant.peers)}. A region's participants "
            "and its aggregator pin each other's keys",
            step=STEP,
        )
    return entry.public_key


def _session() -> answering.Session:
    if answering.current is None:
        raise JobError("regions need sessions, and this message came without one", step=STEP)
    return answering.current


def _about(message: Message) -> dict[str, Any]:
    record = message.content.get(REGION)
    try:
        told = json.loads(str(record["about"])) if isinstance(record, ConfigRecord) else None
    except (ValueError, KeyError):
        told = None
    if not isinstance(told, dict):
        raise JobError("the coordinator's message about a region cannot be read", step=STEP)
    return told


def new_id() -> str:
    """A name for a region that no other has."""
    return secrets.token_hex(8)
