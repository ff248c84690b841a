"""What was asked of the site and what left it, each on one line of the site's own log."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable, Mod

from fedcore.errors import FedcoreError
from fedcore.flower import digest_of, payload_bytes
from fedcore.jobs.participant import Participant
from fedcore.jobs.request import PARTY, SECURE, AnalyticsRequest, PsiRequest, Request, VerticalRequest
from fedcore.jobs.reveals import asked_columns, learned_by
from fedcore.participant.mods.metering import half_in
from fedcore.participant.mods.policy import request_of
from fedcore.trust import evidence as log

FILE = "evidence.jsonl"
_LONGEST = 500
"""Characters of a question's text in a line; the whole of what waits for approval stands at the site's desk."""


def evidence(resolve: Callable[[Context], Participant]) -> Mod:
    """The mod.

    Args:
        resolve: Gives the participant whose turn it is.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        participant = resolve(context)
        file = evidence_file(participant)
        digest = participant.evidence == "digest"
        about = {"step": message.metadata.message_type, **_about(message, participant.name)}
        entries = [{"event": "request", **about, "bytes": payload_bytes(message.content)}]
        if digest:
            # On the disk before the work begins: a site that is killed in it can show what it was asked.
            log.append(file, entries.pop())
        try:
            reply = call_next(message, context)
            if reply.has_content():
                entries.append({"event": "release", **about, **_contents(reply.content, digest)})
        except Exception as error:
            event = "refused" if isinstance(error, FedcoreError) else "failed"
            entries.append({"event": event, **about, "why": type(error).__name__})
            raise
        finally:
            if entries:
                log.append(file, *entries, durable=digest)
        return reply

    return mod


def evidence_file(participant: Participant) -> Path:
    """Where the site keeps its log."""
    return (participant.state or Path(".fedcore") / participant.name) / FILE


def _about(message: Message, participant: str) -> dict[str, Any]:
    try:
        request = request_of(message)
    except FedcoreError:
        return {"run": None}
    config = message.content.get("config")
    secure = message.content.get(SECURE)
    stage = {"stage": secure.get("stage")} if isinstance(secure, ConfigRecord) else {}
    return {
        "run": request.run,
        "job": request.job,
        "kind": request.kind,
        "purpose": request.purpose,
        "data": request.data_of(participant),
        "round": config.get("server-round") if config is not None else None,
        **stage,
        **_asked_of_a_pair(request, participant),
        **_asked_of_several(request, participant),
        **_asked_of_rows(request),
    }


def _asked_of_rows(request: Request) -> dict[str, Any]:
    """Who asked what of which columns, under which hash; an approval is bound to it."""
    if not isinstance(request, AnalyticsRequest):
        return {}
    told: dict[str, Any] = {"asker": request.asker}
    if not request.question:
        return told
    told |= {"question": request.name, "request": request.digest}
    from fedcore.analytics import questions

    try:
        question = questions.read(request.question)
    except (FedcoreError, AttributeError, ImportError, LookupError, TypeError, ValueError):
        # What cannot be read is refused by the next layer; that it came is recorded all the same.
        return told
    text = question.text
    return {
        **told,
        "text": text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...",
        "columns": list(question.columns),
    }


def _asked_of_several(request: Request, participant: str) -> dict[str, Any]:
    """Which step of a vertical job, with whom, over which columns, and what the whole job reveals to whom."""
    if not isinstance(request, VerticalRequest) or participant not in request.plan.parties:
        return {}
    own = {each.session: each.between for each in request.meetings if participant in each.between}
    return {
        "job_step": request.step or None,
        "peers": [name for name in request.plan.parties if name != participant],
        "key": list(request.plan.parties[participant].keys),
        "columns": asked_columns(request.plan, participant),
        "reveal": [f"{what} to {who}" for what, who in learned_by(request.plan, participant)],
        "sessions": list(own),
    }


def _asked_of_a_pair(request: Request, participant: str) -> dict[str, Any]:
    """With whom, over which columns and what is revealed to whom."""
    if not isinstance(request, PsiRequest) or participant not in request.parties:
        return {}
    return {
        "peer": request.other(participant),
        "key": list(request.parties[participant].columns),
        "protocol": request.protocol,
        "reveal": request.reveal.model_dump(mode="json"),
        "session": request.meeting.session if request.meeting else None,
    }


def _contents(content: RecordDict, digest: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"bytes": payload_bytes(content)}
    arrays = {}
    for record in content.values():
        if isinstance(record, ArrayRecord):
            arrays.update({name: list(array.shape) for name, array in record.items()})
        elif isinstance(record, MetricRecord):
            found["metrics"] = sorted(record)
    found |= _between_parties(content)
    usage = half_in(content)
    if usage is not None:
        found["usage"] = usage["id"]
    if arrays:
        found["arrays"] = len(arrays)
        found["values"] = sum(_size(shape) for shape in arrays.values())
        if digest:
            # The half of a usage record has it already.
            found["sha256"] = (usage or {}).get("result") or digest_of(content)
    return found


def _between_parties(content: RecordDict) -> dict[str, Any]:
    """What went to and came from the other party, and what the site can prove of its result."""
    record = content.get(PARTY)
    about = json.loads(str(record["about"])) if isinstance(record, ConfigRecord) else {}
    told = {"peer_bytes": about.get("bytes"), "commitment": about.get("commitment")}
    return {name: value for name, value in told.items() if value is not None}


def _size(shape: list[int]) -> int:
    size = 1
    for axis in shape:
        size *= axis
    return size
