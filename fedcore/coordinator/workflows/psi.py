"""The psi job: ask both parties whether they would, arrange their meeting, wait, collect sizes and receipts.

The coordinator sees what `fedcore.participant.psi` answers and nothing else: the parties talk to each other directly,
or through a relay that sees ciphertext.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedcore.coordinator.grids.evidence import EvidenceGrid, Lost, Phase
from fedcore.coordinator.grids.pair import PairGrid
from fedcore.coordinator.prepare import wait_for_nodes
from fedcore.coordinator.workflows.settings import GRACE, Settings
from fedcore.errors import FedcoreError, IdentityError, JobError, PeerLost, ProtocolFailed, error_kind
from fedcore.jobs.psi import PsiJob
from fedcore.jobs.request import PARTY, RECORD, Meeting, psi_request_for
from fedcore.trust.identity import public_blob, same_key

_OFFER: dict[str, type] = {**dict.fromkeys(("name", "fedcore", "how", "key", "address"), str), "layers": dict}
_SIZES = ("rows", "items")
_MOST_PHASES = 32
_LONGER = 60.0


@dataclass
class PsiOutcome:
    """How an intersection ended.

    Args:
        meeting: Where the parties met.
        offers: Per party what it said before: version, layers.
        receipts: Per party what it said at the end: sizes, costs, a commitment to its result.
        phases: The two exchanges with the coordinator.
    """

    meeting: Meeting
    offers: dict[str, dict[str, Any]]
    receipts: dict[str, dict[str, Any]]
    phases: tuple[Phase, Phase]


def run_psi(job: PsiJob, grid: Grid, settings: Settings) -> PsiOutcome:
    """Run a psi job on a grid.

    Args:
        job: What to do.
        grid: Any engine's; it works on the messages to both parties at a time.
        settings: Where and for whom.

    Raises:
        FedcoreError: A party refuses or is not there (step `prepare`; nothing was read), or the intersection failed;
            party and step are named.
    """
    names: dict[int, str] = dict(settings.registered or {})
    asking = _recorded(grid, names, settings)
    nodes = _nodes(job, grid, settings)
    offers, first = _prepare(job, asking, nodes, names, settings)
    meeting = _arrange(job, offers, settings)
    receipts, second = _intersect(job, _recorded(PairGrid(grid), names, settings), names, meeting, settings)
    return PsiOutcome(meeting, offers, receipts, (first, second))


def _recorded(grid: Grid, names: Mapping[int, str], settings: Settings) -> EvidenceGrid:
    return EvidenceGrid(
        grid,
        lambda node: names.get(node, f"node {node}"),
        settings.folder / "evidence" / "coordinator.jsonl",
        settings.digest,
        settings.watcher,
    )


def _nodes(job: PsiJob, grid: Grid, settings: Settings) -> list[int]:
    """Those of the two parties; all where the engine cannot tell whose node is whose."""
    patience = min(job.deadline, GRACE)
    registered = settings.registered
    if registered is None:
        return wait_for_nodes(grid, settings.expected, len(job.parties), patience)
    wanted = {number: name for number, name in registered.items() if name in job.parties}
    nodes = wait_for_nodes(grid, len(job.parties), 0, patience, wanted)
    missing = sorted(set(job.parties) - {wanted[node] for node in nodes})
    if missing:
        raise PeerLost(
            f"{' and '.join(missing)} did not come online within {patience:g} s; start its SuperNode, and run the "
            "job again",
            party=missing[0],
            step="prepare",
        )
    return nodes


# ---- before the meeting ---------------------------------------------------------------------------------------------


def _prepare(
    job: PsiJob, grid: EvidenceGrid, nodes: list[int], names: dict[int, str], settings: Settings
) -> tuple[dict[str, dict[str, Any]], Phase]:
    """What each party offers.

    Raises:
        FedcoreError: A party refuses, or does not answer. The other has read nothing by then.
    """
    phase = grid.begin("prepare", 0)
    text = psi_request_for(job, settings.run, None).to_json()
    offers: dict[str, dict[str, Any]] = {}
    for reply in grid.stream(_messages(text, nodes, "query.prepare", job.deadline), job.deadline):
        if reply.has_error():
            continue
        offer = _about(reply, _OFFER)
        node = reply.metadata.src_node_id
        if offer is None:
            why = "its answer is no offer to meet; install the same version of fedcore at both"
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
        if name in job.parties:
            names[node], offers[name] = name, offer
    for name in job.parties:
        if name not in offers:
            lost = next((one for one in phase.lost if one.party == name), None)
            raise _refusal(name, lost)
    return {name: offers[name] for name in job.parties}, phase


def _refusal(name: str, lost: Lost | None) -> FedcoreError:
    if lost is None:
        return PeerLost(
            "no participant of this name answered; start it, or correct the job's parties. No data was read",
            party=name,
            step="prepare",
        )
    kind = PeerLost if lost.kind == "NoReply" else error_kind(lost.kind)
    return kind(f"{lost.reason.rstrip('.')}. No data was read", party=name, step="prepare")


def _arrange(job: PsiJob, offers: Mapping[str, Mapping[str, Any]], settings: Settings) -> Meeting:
    """Where the parties meet.

    Raises:
        IdentityError: A party's key is not the one that the federation pins.
        JobError: Neither can be reached, and there is no relay.
    """
    session = f"{settings.run}-{secrets.token_hex(8)}"
    if all(offer["how"] == "memory" for offer in offers.values()):
        return Meeting(session=session, how="memory")
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
    # The receiver first, so that the same job meets in the same way each time.
    order = sorted(offers, key=lambda name: name != job.reveal.receiver)
    listens = next((name for name in order if offers[name]["address"]), None)
    if listens is not None:
        return Meeting(
            session=session, how="direct", keys=keys, listens=listens, address=offers[listens]["address"]
        )
    relay = settings.relay
    if relay is None:
        raise JobError(
            f"neither {' nor '.join(order)} can be called by the other, and the federation has no relay; allowed: one "
            "with inbound in its participant file, or relay in the federation file",
            step="prepare",
        )
    return Meeting(session=session, how="relay", keys=keys, address=relay.address, relay_key=relay.public_key)


# ---- the meeting ----------------------------------------------------------------------------------------------------


def _intersect(
    job: PsiJob, grid: EvidenceGrid, names: Mapping[int, str], meeting: Meeting, settings: Settings
) -> tuple[dict[str, dict[str, Any]], Phase]:
    """The parties' receipts.

    Raises:
        FedcoreError: As the party that failed told it; PeerLost for one that vanished.
    """
    phase = grid.begin("intersect", 0)
    text = psi_request_for(job, settings.run, meeting).to_json()
    nodes = [node for node, name in names.items() if name in job.parties]
    receipts: dict[str, dict[str, Any]] = {}
    failures: dict[str, dict[str, Any]] = {}
    for reply in grid.stream(_messages(text, nodes, "query.intersect", job.deadline), job.deadline):
        name = names[reply.metadata.src_node_id]
        if reply.has_error():
            failures[name] = _failure(reply)
            continue
        receipt = _receipt(reply, job)
        if receipt is None:
            failures[name] = {
                "type": "ProtocolFailed",
                "message": "its answer is no receipt of an intersection; install the same version of fedcore at both",
            }
            continue
        receipts[name] = receipt
        settings.watcher.progress(name, "done", receipt["rows"], receipt["rows"])
    if failures:
        raise _cause(failures, receipts)
    counts = {name: receipt.get("intersection") for name, receipt in receipts.items()}
    if len({count for count in counts.values() if count is not None}) > 1:
        raise ProtocolFailed("the parties tell different counts; the result is not used", step="psi.check")
    return {name: receipts[name] for name in job.parties}, phase


def _cause(failures: Mapping[str, Mapping[str, Any]], receipts: Mapping[str, Any]) -> FedcoreError:
    """The one error of a run in which one party failed and the other was left alone."""
    done = f". {' and '.join(receipts)} had finished; its result is not to be used" if receipts else ""
    own = [name for name, told in failures.items() if told["type"] not in ("PeerLost", "NoReply")]
    if own:
        told = failures[own[0]]
        message = f"{str(told['message']).rstrip('.')}{done}"
        return error_kind(str(told["type"]))(message, party=own[0], step=told.get("step") or "intersect")
    silent = [name for name, told in failures.items() if told["type"] == "NoReply"]
    noticed = [(name, told) for name, told in failures.items() if told["type"] == "PeerLost"]
    by, last = noticed[0] if noticed else ("", {})
    # Where one is silent, it is the one; where both lost the other, whoever noticed first is believed.
    party = silent[0] if silent else str(last.get("about") or by)
    step = str(last.get("step") or "intersect")
    if noticed:
        how = f"it stopped in the middle ({by} noticed: it {str(last['message']).rstrip('.')})"
        return PeerLost(f"{how}{done}; look at its own log, and run the job again", party=party, step=step)
    why = str(failures[party]["message"]).rstrip(".")
    return PeerLost(
        f"it gave no answer ({why}){done}; look at its own log, or raise the job's deadline",
        party=party,
        step=step,
    )


def _failure(reply: Message) -> dict[str, Any]:
    """An error reply: ours are JSON, Flower's are plain and mean that the participant said nothing."""
    reason = reply.error.reason or "no reason given"
    try:
        told = json.loads(reason)
        found = {key: str(told[key]) for key in ("type", "message", "step", "about") if told.get(key)}
    except (ValueError, TypeError, AttributeError):
        found = {}
    return found if {"type", "message"} <= found.keys() else {"type": "NoReply", "message": reason}


def _messages(text: str, nodes: list[int], kind: str, deadline: float) -> list[Message]:
    record = ConfigRecord({"request": text})
    messages = [Message(RecordDict({RECORD: record}), node, kind) for node in sorted(nodes)]
    for message in messages:
        # The wait ends before the message does, so that its end says what was waited for.
        message.metadata.ttl = deadline + _LONGER
    return messages


def _about(reply: Message, form: Mapping[str, type]) -> dict[str, Any] | None:
    """What a party says, its known keys only; None when one is missing or of another type."""
    record = reply.content.get(PARTY)
    try:
        about = json.loads(str(record["about"])) if isinstance(record, ConfigRecord) else None
    except (ValueError, KeyError):
        return None
    if not isinstance(about, dict) or any(not isinstance(about.get(key), kind) for key, kind in form.items()):
        return None
    return {key: about[key] for key in (*form, "intersection") if key in about}


_RECEIPT: dict[str, type] = {
    **dict.fromkeys(("fedcore", "folder", "role", "commitment"), str),
    **dict.fromkeys((*_SIZES, "peak_memory_bytes"), int),
    **dict.fromkeys(("protocol", "phases", "bytes"), dict),
    "compile_seconds": float,
}


def _receipt(reply: Message, job: PsiJob) -> dict[str, Any] | None:
    """A party's receipt; None when it is none. Nothing is kept that is not looked at here."""
    told = _about(reply, _RECEIPT)
    if told is None or any(told[size] < 0 for size in _SIZES):
        return None
    phases = told["phases"]
    if len(phases) > _MOST_PHASES or not all(isinstance(each, dict) for each in phases.values()):
        return None
    told["phases"] = {
        str(name): {key: _number(each.get(key)) for key in ("seconds", "cpu_seconds")}
        for name, each in phases.items()
    }
    told["bytes"] = {way: int(_number(told["bytes"].get(way))) for way in ("sent", "received")}
    allowed = ("name", "version", "parameters", "assumption")
    told["protocol"] = {key: str(told["protocol"].get(key, "")) for key in allowed}
    count = told.pop("intersection", None)
    if job.reveal.coordinator == "count" and isinstance(count, int) and not isinstance(count, bool):
        told["intersection"] = count
    return told


def _number(value: Any) -> float:
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if fits else 0.0
