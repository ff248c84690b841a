"""The layer that measures what a piece of work took at the site and lets that out beside the reply, signed.

Only a coordinator that asks for it gets it: the message carries a record of the name `usage`, which is taken out
before anything else sees it, and the reply has one of the same name, with the owner's half of a usage record
(`fedcore.network.usage`) as JSON and its signature. The site's own evidence has the half's id.

What leaves: when the work was done and for how long, processor seconds, bytes, number of examples, a digest of the arrays,
and, where the participant's file names the node's descriptor (`nodes`), what they stand for in TFLOP/s.h, energy, carbon and money.

Under secure aggregation the number of examples must not be told, so it is left out, and so are processor seconds; seconds
are rounded to two digits, and everything else is computed from these. How long a site takes the coordinator's own clock
tells as well, and more exactly.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable, Mod

from fedcore.errors import DataError, FedcoreError
from fedcore.flower import arrays_in, configs_in, digest_of, metrics_in, payload_bytes
from fedcore.jobs.participant import Participant
from fedcore.jobs.request import NODES, USAGE, TrainRequest
from fedcore.network.descriptor import Descriptor, check_descriptor, load_descriptor
from fedcore.network.metering import figures
from fedcore.network.quantity import check_quantities, moment
from fedcore.network.usage import Said, new_id, sign_said
from fedcore.participant.meeting import identity_of, state_folder
from fedcore.participant.mods.policy import request_of
from fedcore.trust.identity import Identity, load_identity

METERED = ("train", "evaluate")
_EXAMPLES = "num-examples"

log = logging.getLogger("fedcore.participant")


def metering(resolve: Callable[[Context], Participant], signed: bool) -> Mod:
    """The mod.

    Args:
        resolve: Gives the participant whose turn it is.
        signed: Whether halves must be signed with the participant's identity. On one machine nobody needs one, and who
            has one signs.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        asked = message.content.get(USAGE)
        if kind_of(message) not in METERED or not isinstance(asked, ConfigRecord):
            return call_next(message, context)
        participant = resolve(context)
        down, number = payload_bytes(message.content), round_of(message.content)
        del message.content[USAGE]
        plan, placed = asked.get("plan"), message.content.get(NODES)
        with _Clock() as clock:
            reply = call_next(message, context)
        if not reply.has_content():
            return reply
        request, node = request_of(message), None
        if len(participant.nodes) > 1 and isinstance(placed, ConfigRecord):
            from fedcore.participant.nodes import working_node

            node = working_node(participant, request.run, int(placed["version"]))  # type: ignore[arg-type]
        protected = isinstance(request, TrainRequest) and (request.protected or request.private)
        seconds = _two_digits(clock.seconds) if protected else clock.seconds
        cpu = None if protected else clock.cpu_seconds
        device, precision = _where(participant, request)
        up = payload_bytes(reply.content)
        identity = _identity(participant, signed)
        stands_for = figures(
            _descriptor(participant, node, identity),
            seconds=seconds,
            device=device,
            precision=precision,
            bytes_up=up,
            cpu_seconds=cpu if clock.of == "process" else None,
        )
        said = Said(
            id=new_id(),
            job=request.job,
            run=request.run,
            round=number,
            step=kind_of(message),
            plan=plan if isinstance(plan, str) and plan else None,
            owner=participant.name,
            start=clock.began.isoformat(),
            end=(clock.began + timedelta(seconds=seconds)).isoformat(),
            seconds=seconds,
            cpu_seconds=cpu,
            cpu_of=None if protected else clock.of,
            device=device,
            precision=precision,
            samples=None if protected else _samples(reply.content),
            bytes_down=down,
            bytes_up=up,
            # A study over virtual participants takes no digests.
            result=digest_of(reply.content)
            if participant.evidence == "digest" and arrays_in(reply.content)
            else None,
            **stands_for.as_dict(),
        )
        signature = sign_said(said, identity) if identity else ""
        # What is None need not travel.
        told = said.model_dump_json(exclude_none=True)
        reply.content[USAGE] = ConfigRecord({"said": told, "signature": signature})
        return reply

    return mod


def kind_of(message: Message) -> str:
    """`train` of a message of type `train` or `train.more`."""
    return message.metadata.message_type.split(".")[0]


def round_of(content: RecordDict) -> int:
    """The round that a strategy's message is of; 0 where it does not say."""
    told = [record["server-round"] for record in configs_in(content) if "server-round" in record]
    return max(0, told[0]) if told and isinstance(told[0], int) else 0


def half_in(content: RecordDict) -> dict[str, Any] | None:
    """Id, arrays' digest and the rest of the half in a reply; None where there is none."""
    record = content.get(USAGE)
    if not isinstance(record, ConfigRecord) or "said" not in record:
        return None
    found: dict[str, Any] = json.loads(str(record["said"]))
    return found


class _Clock:
    """Seconds, and seconds of processors: the process's, unless another piece of work ran in it at the time."""

    _lock = threading.Lock()
    _inside = 0
    _entered = 0

    def __enter__(self) -> _Clock:
        kind = type(self)
        with kind._lock:
            kind._inside += 1
            kind._entered += 1
            self._alone, self._at = kind._inside == 1, kind._entered
        self.began = datetime.now(UTC)
        self._clocks = time.perf_counter(), time.process_time(), time.thread_time()
        return self

    def __exit__(self, *error: object) -> None:
        wall, process, thread = self._clocks
        self.seconds = time.perf_counter() - wall
        spent = time.process_time() - process, time.thread_time() - thread
        kind = type(self)
        with kind._lock:
            kind._inside -= 1
            alone = self._alone and kind._entered == self._at
        self.of: Literal["process", "thread"] = "process" if alone else "thread"
        self.cpu_seconds = spent[0] if alone else spent[1]


def _two_digits(seconds: float) -> float:
    """Rounded to two significant digits: at most 5 % off."""
    if seconds <= 0:
        return 0.0
    return round(seconds, 1 - math.floor(math.log10(seconds)))


def _samples(content: RecordDict) -> int | None:
    told = [record.get(_EXAMPLES) for record in metrics_in(content)]
    if len(told) != 1 or not isinstance(told[0], int | float) or not 0 <= told[0] < 2**53:
        return None
    return int(told[0])


def _where(participant: Participant, request: object) -> tuple[str, str]:
    """Device and precision of the work, as `train` chooses them."""
    from fedcore.learning.device import choose_device

    if not isinstance(request, TrainRequest):
        return "cpu", "float32"
    device = choose_device(request.local.device, participant.resources.gpus == "auto").type
    precision: str = request.local.precision
    if precision == "auto":
        precision = "bfloat16" if device == "cuda" else "float32"
    return device, precision


def _identity(participant: Participant, needed: bool) -> Identity | None:
    """The participant's key; where it is not needed, only one that is there."""
    path = participant.identity or state_folder(participant) / "identity.key"
    if not path.exists():
        return identity_of(participant) if needed else None
    return _loaded(participant.name, path)


@lru_cache(maxsize=64)
def _loaded(name: str, path: Path) -> Identity:
    return load_identity(path, name)


@dataclass(frozen=True)
class _Known:
    """A descriptor's file as it was last looked at."""

    stamp: tuple[int, int]
    descriptor: Descriptor | None


_known: dict[Path, _Known] = {}


def _descriptor(participant: Participant, node: str | None, identity: Identity | None) -> Descriptor | None:
    """Of the node that does the work: the one that was named, else the only one; None where it cannot be told.

    Accounting stops no work: what is wrong with a descriptor stands in the site's log.
    """
    found = [each for each in (_held(path, participant, identity) for path in participant.nodes) if each]
    named = [each for each in found if node in (None, each.node)]
    return named[0] if len(named) == 1 else None


def _held(path: Path, participant: Participant, identity: Identity | None) -> Descriptor | None:
    """The descriptor of a file while it holds; read again when the file has changed."""
    try:
        status = path.stat()
        stamp = status.st_mtime_ns, status.st_size
        known = _known.get(path)
        if known is None or known.stamp != stamp:
            _known[path] = known = _Known(stamp, None)
            found = load_descriptor(path)
            if found.owner != participant.name:
                raise DataError(f"it is of {found.owner}, and this is {participant.name}")
            if found.signature and identity is not None:
                check_descriptor(found, {participant.name: identity.public_line})
            else:
                check_quantities(found.quantities)
            _known[path] = known = _Known(stamp, found)
    except (FedcoreError, OSError) as error:
        log.warning("usage is told without the descriptor %s: %s", path, error)
        return None
    if known.descriptor is not None and moment(known.descriptor.expires) <= datetime.now(UTC):
        log.warning(
            "usage is told without the descriptor %s: it expired at %s", path, known.descriptor.expires
        )
        return None
    return known.descriptor
