"""What a participant does for a vertical job: say which steps it has, do one step with the others, keep the result.

Each step is one message of the coordinator to all parties. They meet, compare what they are about to do, do it
(`fedcore.vertical.pipeline`), and keep what it gave each of them. A step has its result at all parties or the job
repeats it. Rows, keys, labels, models and scores stay here; what leaves for the coordinator is built in `_receipt`.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import ConfigRecord, Message, RecordDict

from fedcore.errors import JobError, ProtocolFailed
from fedcore.jobs.participant import Participant, Rule
from fedcore.jobs.psi import COORDINATOR
from fedcore.jobs.request import PARTY, Appointment, VerticalRequest
from fedcore.participant.gathering import appointments_of, gathered
from fedcore.participant.meeting import Meetings, identity_of, state_folder
from fedcore.participant.mods.policy import check
from fedcore.vertical.state import State, open_state, read_json, write_json
from fedcore.vertical.steps import ALIGN, pairs_of, steps_of

if TYPE_CHECKING:
    from fedcore.peer.channel import FramedChannel
    from fedcore.vertical.table import Table

Progress = Callable[[str, str, int, int], None]
"""Told a participant, a phase, how much of it is done, and how much there is (0 when that is not known)."""

VERSION = 1
"""Of what the parties say to each other between steps."""
COST = "cost.json"
_LAYERS = {"policy": "on"}
_CURES = {
    "job": "the parties were asked for different jobs; begin a new run",
    "step": "the parties were asked for different steps; go on with `fedcore resume`",
    "rows": "the parties have other rows or another order; begin a new run",
    "steps before": "the parties finished the steps before in different attempts; begin a new run",
}


def prepare(
    participant: Participant, request: VerticalRequest, message: Message, meetings: Meetings
) -> Message:
    """Say that this party would take part, what the coordinator needs to arrange meetings, and which steps are done."""
    from fedcore import __version__

    # Nothing is written for a job that another party may yet refuse.
    state = _state(participant, request, begin=False)
    offers = [
        meetings.offer(participant, Appointment(None, peer, request.plan.deadline))
        for peer in _peers(participant.name, request)
    ]
    about = {
        "name": participant.name,
        "fedcore": __version__,
        "layers": {"evidence": participant.evidence, **_LAYERS},
        "finished": state.finished(),
        **offers[0],
    }
    return _answer(message, about)


def take_part(
    participant: Participant,
    request: VerticalRequest,
    message: Message,
    meetings: Meetings,
    progress: Progress,
) -> Message:
    """Do one step with the other parties, keep what it gave; answer with the receipt.

    Raises:
        FedcoreError: The step cannot be done here or with the others; nothing of it is kept then.
    """
    from crypto.errors import ProtocolError

    rule = check(participant, request)
    step, name = request.step, participant.name
    state = _state(participant, request)
    if step not in state.steps:
        raise JobError(f"the job has no step {step!r}; allowed: {', '.join(state.steps)}")
    began = time.monotonic()

    def watch(phase: str, done: int, of: int) -> None:
        progress(name, f"{step}: {phase}", done, of)

    watch("meeting the others", 0, 0)
    appointments = appointments_of(name, request.meetings, request.plan.deadline)
    lacking = set(_peers(name, request)) - {each.peer for each in appointments}
    if lacking:
        raise JobError(
            f"the request names no meeting with {' and '.join(sorted(lacking))}; the coordinator must prepare the run first"
        )
    with gathered(meetings, participant, appointments) as channels, state.writing(step) as folder:
        # What follows may fail here alone, and is told to the others by the end of the channels.
        try:
            state.need(step)
            token = _agree(name, request, channels, state)
            # All are here: what is repeated, and what was made of it, is of no use any more.
            state.forget_from(step)
            folder.mkdir(exist_ok=True)
            told = _done(participant, request, channels, state, rule, folder, watch)
            cost = _cost(step, began, channels)
            write_json(folder / COST, cost)
            _all_done(name, request, channels)
        except ProtocolError as error:
            raise ProtocolFailed(error.message, step=error.step) from error
        commitment = state.finish(step, token)
    progress(name, f"{step}: done", 1, 1)
    return _answer(message, {**_receipt(told, participant, request, rule), **cost, "commitment": commitment})


def _done(
    participant: Participant,
    request: VerticalRequest,
    channels: Mapping[str, FramedChannel],
    state: State,
    rule: Rule,
    folder: Path,
    watch: Callable[[str, int, int], None],
) -> dict[str, Any]:
    """Do the step; what of it may be told beside its costs."""
    # Imported here, because it imports what models are made of.
    from fedcore.participant import vertical_align as rows

    if request.step == ALIGN:
        found = rows.align_rows(participant, request, channels, folder, rule, watch)
        return {"rows": found.rows, "items": found.items, "matched": found.matched}
    table: Table = rows.aligned_table(participant, request, state.of(ALIGN))
    from fedcore.vertical.pipeline import Party, do

    known = rows.read_aligned(state.of(ALIGN))
    do(
        request.step,
        Party(
            name=participant.name,
            job=request.plan,
            run=request.run,
            channels=channels,
            table=table,
            state=state,
            folder=folder,
            watch=watch,
            match=rows.match_report(known),
            hashes={"data": known.data, "job": request.digest, "order of rows": known.order},
            identity=identity_of(participant) if participant.identity is not None else None,
        ),
    )
    return {"rows": known.rows, "items": known.items, "matched": known.matched}


# ---- with the others ------------------------------------------------------------------------------------------------


def _agree(name: str, request: VerticalRequest, channels: Mapping[str, FramedChannel], state: State) -> bytes:
    """Compare what each is about to do; the token of this attempt, which the label holder draws.

    Raises:
        ProtocolError: They differ; what, both values and the cure are named.
    """
    from fedcore.peer.handshake import Hello, shake_hands
    from fedcore.vertical.state import TOKEN

    holder = request.plan.label.party
    order = "none yet" if request.step == ALIGN else str(read_json(state.of(ALIGN) / "align.json")["order"])
    for peer, channel in channels.items():
        hello = Hello(
            protocol="vertical",
            version=VERSION,
            table="1",
            session=channel.session,
            role=name,
            options={
                "job": request.digest,
                "step": request.step,
                # A digest under a key that parties alone know; the channel is theirs alone too.
                "rows": hashlib.sha256(order.encode()).hexdigest(),
                "steps before": state.past(request.step),
            },
        )
        shake_hands(channel, hello, peer_role=peer, cures=_CURES)
    if name != holder:
        return bytes(channels[holder].recv("step.token", size=TOKEN))
    token = secrets.token_bytes(TOKEN)
    for peer in request.plan.partners:
        channels[peer].send("step.token", token)
    return token


def _all_done(name: str, request: VerticalRequest, channels: Mapping[str, FramedChannel]) -> None:
    """Return when all have what they keep, so that a step is finished at all or, but for a crash, at none."""
    holder = request.plan.label.party
    if name != holder:
        channels[holder].send("step.done", b"")
        channels[holder].recv("step.over", size=0)
        return
    for peer in request.plan.partners:
        channels[peer].recv("step.done", size=0)
    for peer in request.plan.partners:
        channels[peer].send("step.over", b"")


def _peers(name: str, request: VerticalRequest) -> list[str]:
    """Whom this party meets in the steps of the job."""
    return [other for pair in pairs_of(request.plan) if name in pair for other in pair if other != name]


# ---- what stays, what leaves ----------------------------------------------------------------------------------------


def _state(participant: Participant, request: VerticalRequest, *, begin: bool = True) -> State:
    folder = folder_of(participant, request.run)
    return open_state(folder, request.digest, steps_of(request.plan), begin=begin)


def folder_of(participant: Participant, run: str) -> Path:
    """Where a participant keeps the results of a run's steps."""
    return (participant.output or state_folder(participant) / "results") / run


def _cost(step: str, began: float, channels: Mapping[str, FramedChannel]) -> dict[str, Any]:
    counters = [channel.counters for channel in channels.values()]
    return {
        "step": step,
        "seconds": time.monotonic() - began,
        "bytes": {
            "sent": sum(each.sent.bytes for each in counters),
            "received": sum(each.received.bytes for each in counters),
        },
    }


def _receipt(
    told: dict[str, Any], participant: Participant, request: VerticalRequest, rule: Rule
) -> dict[str, Any]:
    """What the coordinator is told beside costs and commitment: own sizes; how many match, where the policy says so."""
    from fedcore import __version__
    from fedcore.participant.intersection.costs import peak_memory

    holds = participant.name == request.plan.label.party
    receipt = {
        "fedcore": __version__,
        "role": "label holder" if holds else "partner",
        "folder": request.run,
        "rows": told["rows"],
        "items": told["items"],
        "peak_memory_bytes": peak_memory(),
    }
    # Whom `any` means are parties; the coordinator must be written out.
    counted = rule.reveal.cardinality
    if holds and counted != "any" and COORDINATOR in counted:
        receipt["matched"] = told["matched"]
    return receipt


def _answer(message: Message, about: dict[str, Any]) -> Message:
    return Message(RecordDict({PARTY: ConfigRecord({"about": json.dumps(about)})}), reply_to=message)
