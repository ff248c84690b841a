"""What a participant does for a psi job: agree to meet, take part, keep the rows, tell the coordinator the sizes.

Rows, keys and the result stay here. What leaves for the coordinator is built in `_receipt`, one key at a time.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import ConfigRecord, Message, RecordDict

from fedcore.errors import JobError, PolicyRefused, ProtocolFailed
from fedcore.jobs.participant import Participant
from fedcore.jobs.request import PARTY, PsiRequest
from fedcore.participant.meeting import Meetings, met, state_folder
from fedcore.participant.mods.policy import check

if TYPE_CHECKING:
    from fedcore.participant.intersection import Side
    from fedcore.peer.channel import FramedChannel

Progress = Callable[[str, str, int, int], None]
"""Told a participant, a phase, how much of it is done, and how much there is (0 when that is not known)."""

SALT = "salt"
HANG_UP = 30.0
"""Seconds that a party which failed early waits for the other, to tell it so."""
_LAYERS = {"policy": "on"}


def prepare(participant: Participant, request: PsiRequest, message: Message, meetings: Meetings) -> Message:
    """Say that this party would take part, and what the coordinator needs to arrange the meeting."""
    from fedcore import __version__

    about = {
        "name": participant.name,
        "fedcore": __version__,
        "layers": {"evidence": participant.evidence, **_LAYERS},
        **meetings.offer(participant, request),
    }
    return _answer(message, about)


def take_part(
    participant: Participant,
    request: PsiRequest,
    message: Message,
    meetings: Meetings,
    progress: Progress,
) -> Message:
    """Meet the other party, run the protocol, keep the result; answer with the receipt.

    Raises:
        FedcoreError: As `fedcore.participant.intersection.intersect` and `Meetings.meet`; PolicyRefused where there
            are fewer rows than the site's policy asks for, before anything of them is sent.
    """
    from fedcore.participant.intersection import intersect

    least = check(participant, request).min_rows
    side = side_of(participant, request)
    read = 0
    with met(meetings, participant, request, HANG_UP) as rendezvous:
        handed_over = False

        def watch(phase: str, done: int, of: int) -> None:
            nonlocal read
            read = max(read, done) if phase == "read" else read
            progress(participant.name, phase, done, of)
            if not handed_over:
                rendezvous.check(phase)

        def meet() -> FramedChannel:
            nonlocal handed_over
            if read < least:
                raise PolicyRefused(
                    f"data set {side_data(participant, request)!r} has fewer rows than the {least} that the site's "
                    "policy asks for (policy.rules, min_rows)",
                    step="read",
                )
            channel = rendezvous.channel()
            handed_over = True
            return channel

        folder = new_folder(participant, request.run)
        try:
            result = intersect(meet, side, folder, watch)
        except ProtocolFailed as error:
            raise _without_counts(error, request) from error
        finally:
            # A run that failed leaves nothing, and no empty folder either.
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
    progress(participant.name, "done", result["rows"], result["rows"])
    return _answer(message, _receipt(request, folder, result))


def side_of(participant: Participant, request: PsiRequest) -> Side:
    """What the participant brings to the intersection that a request asks for."""
    from crypto.psi.items import ItemRules
    from fedcore.participant.intersection import MEMORY, Side

    party, reveal = request.parties[participant.name], request.reveal
    if request.meeting is None:
        raise JobError("the request names no meeting; the coordinator must prepare the run first")
    memory = min(request.memory_limit or MEMORY, participant.resources.memory)
    return Side(
        role="receiver" if participant.name == reveal.receiver else "sender",
        data=participant.catalogue[party.data],
        key=party.columns,
        session=request.meeting.session,
        rules=ItemRules(**request.items.model_dump()),
        protocol=request.protocol,
        reveal=reveal.what,
        both=reveal.both,
        memory=memory,
    )


def side_data(participant: Participant, request: PsiRequest) -> str:
    """The data set's name in this participant's catalogue."""
    return request.parties[participant.name].data


def new_folder(participant: Participant, run: str) -> Path:
    """A new folder for a run's result; one that is there, of an earlier attempt, is left as it is.

    Raises:
        JobError: It cannot be made.
    """
    home = participant.output or state_folder(participant) / "results"
    number = 1
    while True:
        folder = home / (run if number == 1 else f"{run}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
            continue
        except OSError as error:
            raise JobError(
                f"the folder for results (output) cannot be made: {error.strerror}; choose another place",
                detail=str(folder),
            ) from error
        return folder


def _without_counts(error: ProtocolFailed, request: PsiRequest) -> ProtocolFailed:
    """The error of a self-check quotes how many rows matched, which the coordinator may not be allowed to know."""
    if error.step != "psi.check" or request.reveal.coordinator == "count":
        return error
    return ProtocolFailed(
        "the self-check failed: what the two sides found does not agree, and it is not used. Run it again; the "
        "parties' own logs have the numbers",
        party=error.party,
        step=error.step,
        detail=error.message,
    )


def _receipt(request: PsiRequest, folder: Path, result: dict[str, Any]) -> dict[str, Any]:
    """What the coordinator is told: sizes, costs, and a commitment to the result that says nothing of it."""
    from fedcore import __version__

    told = {
        "fedcore": __version__,
        "folder": folder.name,
        "role": result["role"],
        "rows": result["rows"],
        "items": result["items"],
        "protocol": result["protocol"],
        "phases": result["phases"],
        "compile_seconds": result["compile_seconds"],
        "peak_memory_bytes": result["peak_memory_bytes"],
        "bytes": result["bytes"],
        "commitment": _commit(folder),
    }
    if request.reveal.coordinator == "count":
        told["intersection"] = result["intersection"]
    return told


def _commit(folder: Path) -> str:
    """SHA-256 over a salt, which stays here, and the result's files.

    Without the salt, whoever has the digest of a small table could try all results until one fits.
    """
    salt = secrets.token_bytes(32)
    (folder / SALT).write_bytes(salt)
    digest = hashlib.sha256(salt)
    for file in sorted(folder.iterdir()):
        if file.name != SALT:
            digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as content:
                while block := content.read(2**20):
                    digest.update(block)
    return digest.hexdigest()


def _answer(message: Message, about: dict[str, Any]) -> Message:
    return Message(RecordDict({PARTY: ConfigRecord({"about": json.dumps(about)})}), reply_to=message)
