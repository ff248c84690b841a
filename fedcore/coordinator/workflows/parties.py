"""Parties of a job who talk with each other: whether they would, and whose failure it was when they could not.

The coordinator asks all of them and arranges where they meet; what they say to each other it does not see.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedcore.coordinator.grids.evidence import EvidenceGrid, Lost, Phase
from fedcore.coordinator.prepare import wait_for_nodes
from fedcore.coordinator.workflows.settings import GRACE, Settings
from fedcore.errors import FedcoreError, IdentityError, JobError, PeerLost, error_kind
from fedcore.jobs.request import PARTY, RECORD, Meeting
from fedcore.trust.identity import public_blob, same_key

OFFER: dict[str, type] = {**dict.fromkeys(("name", "fedcore", "how", "key", "address"), str), "layers": dict}
"""What a party says before it meets others, and of which type."""
_LONGER = 60.0


def recorded(grid: Grid, names: Mapping[int, str], settings: Settings) -> EvidenceGrid:
    """A grid that writes down what is asked and answered."""
    return EvidenceGrid(
        grid,
        lambda node: names.get(node, f"node {node}"),
        settings.folder / "evidence" / "coordinator.jsonl",
        settings.digest,
        settings.watcher,
    )


def nodes_of(parties: Iterable[str], deadline: float, grid: Grid, settings: Settings) -> list[int]:
    """Those of the parties; all where the engine cannot tell whose node is whose.

    Raises:
        PeerLost: One is not online.
    """
    named, patience = set(parties), min(deadline, GRACE)
    registered = settings.registered
    if registered is None:
        return wait_for_nodes(grid, settings.expected, len(named), patience)
    wanted = {number: name for number, name in registered.items() if name in named}
    nodes = wait_for_nodes(grid, len(named), 0, patience, wanted)
    missing = sorted(named - {wanted[node] for node in nodes})
    if missing:
        raise PeerLost(
            f"{' and '.join(missing)} did not come online within {patience:g} s; start its SuperNode, and run the "
            "job again",
            party=missing[0],
            step="prepare",
        )
    return nodes


def offers_of(
    parties: Iterable[str],
    text: str,
    deadline: float,
    grid: EvidenceGrid,
    nodes: list[int],
    names: dict[int, str],
    settings: Settings,
    form: Mapping[str, type] = OFFER,
) -> tuple[dict[str, dict[str, Any]], Phase]:
    """What each party offers.

    Args:
        parties: Their names.
        text: The request.
        deadline: Seconds.
        grid, nodes: Whom to ask.
        names: Takes which node is whose.
        settings: Of the run.
        form: What an offer has.

    Raises:
        FedcoreError: A party refuses, or does not answer. The others have read nothing by then.
    """
    phase = grid.begin("prepare", 0)
    wanted = list(parties)
    offers: dict[str, dict[str, Any]] = {}
    for reply in grid.stream(messages_for(text, nodes, "query.prepare", deadline), deadline):
        if reply.has_error():
            continue
        offer = about(reply, form)
        node = reply.metadata.src_node_id
        if offer is None:
            why = "its answer is no offer to meet; install the same version of fedcore at all"
            phase.lost.append(Lost(names.get(node, f"node {node}"), phase.step, "JobError", why))
            continue
        name = offer["name"]
        if settings.registered is not None and settings.registered.get(node) != name:
            whose = settings.registered.get(node) or f"node {node}"
            why = f"it has the key of {whose!r} and answers as {name!r}; its participant file needs the roster's name"
            phase.lost.append(Lost(whose, phase.step, "IdentityError", why))
            continue
        if name in offers:
            raise JobError(f"two nodes say they are participant {name!r}; each needs a name of its own")
        if name in wanted:
            names[node], offers[name] = name, offer
    for name in wanted:
        if name not in offers:
            lost = next((one for one in phase.lost if one.party == name), None)
            raise refusal(name, lost)
    return {name: offers[name] for name in wanted}, phase


def refusal(name: str, lost: Lost | None) -> FedcoreError:
    """The error of a party that would not, or did not answer."""
    if lost is None:
        return PeerLost(
            "no participant of this name answered; start it, or correct the job's parties. No data was read",
            party=name,
            step="prepare",
        )
    kind = PeerLost if lost.kind == "NoReply" else error_kind(lost.kind)
    return kind(f"{lost.reason.rstrip('.')}. No data was read", party=name, step="prepare")


def pinned_keys(offers: Mapping[str, Mapping[str, Any]], settings: Settings) -> dict[str, str]:
    """The parties' public key lines.

    Raises:
        IdentityError: A party's key is not the one that the federation pins.
    """
    keys = {}
    for name, offer in offers.items():
        pinned = settings.keys.get(name, offer["key"])
        if not same_key(public_blob(offer["key"]), public_blob(pinned)):
            raise IdentityError(
                "it answers with another key than the roster pins; its participant file needs the identity whose "
                "line stands in the roster",
                party=name,
                step="prepare",
            )
        keys[name] = pinned
    return keys


def meeting_of(offers: Mapping[str, Mapping[str, Any]], settings: Settings) -> Meeting:
    """Where two parties meet, in a session of its own.

    Args:
        offers: What the two said; the first that can be called is the one that waits.
        settings: Of the run.

    Raises:
        IdentityError: A party's key is not the one that the federation pins.
        JobError: Neither can be reached, and there is no relay.
    """
    session = f"{settings.run}-{secrets.token_hex(8)}"
    if all(offer["how"] == "memory" for offer in offers.values()):
        return Meeting(session=session, how="memory")
    keys = pinned_keys(offers, settings)
    listens = next((name for name in offers if offers[name]["address"]), None)
    if listens is not None:
        return Meeting(
            session=session, how="direct", keys=keys, listens=listens, address=offers[listens]["address"]
        )
    relay = settings.relay
    if relay is None:
        raise JobError(
            f"neither {' nor '.join(offers)} can be called by the other, and the federation has no relay; allowed: one "
            "with inbound in its participant file, or relay in the federation file",
            step="prepare",
        )
    return Meeting(session=session, how="relay", keys=keys, address=relay.address, relay_key=relay.public_key)


def cause(
    failures: Mapping[str, Mapping[str, Any]],
    receipts: Mapping[str, Any],
    at: str = "intersect",
    *,
    again: str = "run the job again",
) -> FedcoreError:
    """The one error of a run in which one party failed and the others were left alone.

    Args:
        failures: Of each party that failed: `type`, `message`, and `step` and `about` where they are known.
        receipts: Of those that did not.
        at: Which step it was, where no party says it.
        again: What is to be done about a party that stopped.
    """
    done = f". {' and '.join(receipts)} had finished; its result is not to be used" if receipts else ""
    own = [name for name, told in failures.items() if told["type"] not in ("PeerLost", "NoReply")]
    if own:
        told = failures[own[0]]
        message = f"{str(told['message']).rstrip('.')}{done}"
        return error_kind(str(told["type"]))(message, party=own[0], step=told.get("step") or at)
    silent = [name for name, told in failures.items() if told["type"] == "NoReply"]
    noticed = [(name, told) for name, told in failures.items() if told["type"] == "PeerLost"]
    by, last = noticed[0] if noticed else ("", {})
    # Where one is silent, it is the one; where both lost the other, whoever noticed first is believed.
    party = silent[0] if silent else str(last.get("about") or by)
    step = str(last.get("step") or at)
    if noticed:
        how = f"it stopped in the middle ({by} noticed: it {str(last['message']).rstrip('.')})"
        return PeerLost(f"{how}{done}; look at its own log, and {again}", party=party, step=step)
    why = str(failures[party]["message"]).rstrip(".")
    return PeerLost(
        f"it gave no answer ({why}){done}; look at its own log, or raise the job's deadline",
        party=party,
        step=step,
    )


def failure(reply: Message) -> dict[str, Any]:
    """An error reply: ours are JSON, Flower's are plain and mean that the participant said nothing."""
    reason = reply.error.reason or "no reason given"
    try:
        told = json.loads(reason)
        found = {key: str(told[key]) for key in ("type", "message", "step", "about") if told.get(key)}
    except (ValueError, TypeError, AttributeError):
        found = {}
    return found if {"type", "message"} <= found.keys() else {"type": "NoReply", "message": reason}


def receipts_of(
    grid: EvidenceGrid,
    messages: list[Message],
    deadline: float,
    names: Mapping[int, str],
    read: Callable[[Message], dict[str, Any] | None],
    what: str,
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """What the parties answer when they have met: receipts, and failures, by party.

    Args:
        grid: Sends the messages.
        messages, deadline: To send, and seconds to wait.
        names: Of the nodes.
        read: A receipt out of a reply; None when it is none.
        what: That a receipt is of, for people.
    """
    receipts: dict[str, dict[str, Any]] = {}
    failures: dict[str, dict[str, Any]] = {}
    for reply in grid.stream(messages, deadline):
        name = names[reply.metadata.src_node_id]
        if reply.has_error():
            failures[name] = failure(reply)
        elif (receipt := read(reply)) is not None:
            receipts[name] = receipt
        else:
            why = f"its answer is no receipt of {what}; install the same version of fedcore at all parties"
            failures[name] = {"type": "ProtocolFailed", "message": why}
    return receipts, failures


def messages_for(text: str, nodes: list[int], kind: str, deadline: float) -> list[Message]:
    """The same request for each of the nodes."""
    record = ConfigRecord({"request": text})
    messages = [Message(RecordDict({RECORD: record}), node, kind) for node in sorted(nodes)]
    for message in messages:
        # The wait ends before the message does, so that its end says what was waited for.
        message.metadata.ttl = deadline + _LONGER
    return messages


def about(reply: Message, form: Mapping[str, type], more: Iterable[str] = ()) -> dict[str, Any] | None:
    """What a party says, its known keys only; None when one is missing or of another type."""
    record = reply.content.get(PARTY)
    try:
        told = json.loads(str(record["about"])) if isinstance(record, ConfigRecord) else None
    except (ValueError, KeyError):
        return None
    if not isinstance(told, dict) or any(not isinstance(told.get(key), kind) for key, kind in form.items()):
        return None
    return {key: told[key] for key in (*form, *more) if key in told}


def number(value: Any) -> float:
    """A number that a party told; 0 where it is none."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if fits else 0.0
