"""Leases: an owner promises a node to a plan for a while, and either every owner does or none.

    coordinator -> owner    request: id, plan, version, node, offer, seconds; signed
    owner -> coordinator    lease, signed, or a refusal with its reason

A refusal is an event and no error: the plan is made again without that offer. What was granted meanwhile is given
back. A request is used once: a second one of the same id is refused whatever became of the first. A lease ends by
itself. The version of the plan is its fencing token: once an owner is bound to a version it takes no request, and no
work, of an older one.

    coordinator -> owner    bind, when everybody has granted: now the version counts, and older leases are over

Until then the leases of the plan that runs stay as they are, so that an attempt which fails breaks nothing.

Source: leases: Gray and Cheriton, "Leases: an efficient fault-tolerant mechanism for distributed file cache
consistency", 1989. Fencing tokens: Kleppmann, "Designing Data-Intensive Applications", chapter 8.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fedcore.errors import FedcoreError, PolicyRefused
from fedcore.network.quantity import iso, moment
from fedcore.network.signed import check_signature, check_time, sign, unsigned
from fedcore.trust import evidence
from fedcore.trust.identity import Identity

REQUEST, LEASE = "lease request", "lease"
ANSWER_SECONDS = 60
"""Within which a request must have come."""
MOST_SECONDS = 86400
"""Of a lease; a longer one is asked for again."""


@dataclass(frozen=True)
class LeaseRequest:
    """What is asked.

    Args:
        id: 32 hex digits, never used before.
        coordinator: Who asks and signs.
        plan: Name of the plan; a job has one.
        version: Of the plan, from 1 on; the fencing token.
        owner, node, offer: Of whom, which, and by which offer.
        seconds: That the lease is to hold, 1 to 86400.
        issued, expires: Of the request, UTC in ISO 8601.
        signature: The coordinator's, base64.
    """

    id: str
    coordinator: str
    plan: str
    version: int
    owner: str
    node: str
    offer: str
    seconds: int
    issued: str
    expires: str
    signature: str = ""

    def payload(self) -> dict[str, Any]:
        """What is signed."""
        return unsigned(self)


@dataclass(frozen=True)
class Lease:
    """What was promised.

    Args:
        id: Of the request.
        coordinator: To whom.
        plan, version, owner, node, offer: As of the request.
        expires: UTC in ISO 8601.
        signature: The owner's, base64.
    """

    id: str
    coordinator: str
    plan: str
    version: int
    owner: str
    node: str
    offer: str
    expires: str
    signature: str = ""

    def payload(self) -> dict[str, Any]:
        """What is signed."""
        return unsigned(self)


@dataclass(frozen=True)
class Refusal:
    """Why an owner does not promise a node.

    Args:
        id, owner, node, offer: As of the request.
        reason: A sentence.
    """

    id: str
    owner: str
    node: str
    offer: str
    reason: str


def new_request(
    identity: Identity,
    *,
    plan: str,
    version: int,
    owner: str,
    node: str,
    offer: str,
    seconds: int,
    at: datetime | None = None,
) -> LeaseRequest:
    """A signed request with an id of its own; arguments as of `LeaseRequest`.

    Raises:
        ValueError: The version is below 1, or the time not allowed.
    """
    if version < 1:
        raise ValueError(f"version is {version}; plans are counted from 1")
    if not 1 <= seconds <= MOST_SECONDS:
        raise ValueError(f"a lease of {seconds} s; allowed: 1 to {MOST_SECONDS}")
    now = at or datetime.now(UTC)
    ends = iso(now + timedelta(seconds=ANSWER_SECONDS))
    bare = LeaseRequest(
        secrets.token_hex(16), identity.name, plan, version, owner, node, offer, seconds, iso(now), ends
    )
    return replace(bare, signature=sign(identity, REQUEST, bare.payload()))


class LeaseBook:
    """What an owner has promised of its nodes.

    Args:
        identity: The owner's key.
        slots: How many leases each node bears at a time, by its name.
        pins: Name to public key line of coordinators that may ask.
        log: File of the events, from which a book that is opened again knows what it promised; None keeps them in
            memory.
        clock: The moment, with its time zone.

    Attributes:
        events: What happened since the book was opened, oldest first, each a mapping with `event`.
    """

    def __init__(
        self,
        identity: Identity,
        slots: Mapping[str, int],
        pins: Mapping[str, str],
        *,
        log: Path | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._identity, self._slots, self._pins = identity, dict(slots), dict(pins)
        self._log, self._clock = log, clock
        self._lock = threading.Lock()
        self._seen: dict[str, str] = {}
        self._leases: dict[str, Lease] = {}
        self._bound: set[str] = set()
        self._fenced: dict[str, Lease] = {}
        self._newest: dict[tuple[str, str], int] = {}
        self.events: list[dict[str, Any]] = []
        if log is not None and log.exists():
            for entry in evidence.read(log):
                self._apply(entry)

    def ask(self, request: LeaseRequest) -> Lease | Refusal:
        """Promise a node, or say why not."""
        with self._lock:
            now = self._clock()
            try:
                self._check(request, now)
            except FedcoreError as error:
                return self._refuse(request, error.message)
            key = (request.coordinator, request.plan)
            newest = self._newest.get(key, 0)
            self._note({"event": "seen", "id": request.id, "until": request.expires})
            if request.version < newest:
                return self._refuse(
                    request,
                    f"plan {request.plan} is at version {newest}; version {request.version} is fenced off",
                )
            self._expire(now)
            # The plan's own older lease will be over when the new one is bound.
            plans = {
                (each.coordinator, each.plan) for each in self._leases.values() if each.node == request.node
            }
            if len(plans - {key}) >= self._slots[request.node]:
                return self._refuse(
                    request, f"{request.node} bears {self._slots[request.node]} leases and has none free"
                )
            bare = Lease(
                request.id,
                request.coordinator,
                request.plan,
                request.version,
                request.owner,
                request.node,
                request.offer,
                iso(now + timedelta(seconds=request.seconds)),
            )
            lease = replace(bare, signature=sign(self._identity, LEASE, bare.payload()))
            self._note({"event": "granted", "lease": asdict(lease)})
            return lease

    def bind(self, lease: str) -> Lease:
        """Begin to work under a lease: its version counts from now on, and older leases of the plan are over.

        Raises:
            PolicyRefused: There is no such lease, it has ended, or a newer version is bound.
        """
        with self._lock:
            found = self._held(lease, self._clock())
            if lease not in self._bound:
                self._note({"event": "bound", "id": lease})
            return found

    def release(self, lease: str) -> bool:
        """Give a node back before its lease ends; whether there was such a lease."""
        with self._lock:
            if lease not in self._leases:
                return False
            self._note({"event": "released", "id": lease})
            return True

    def check(self, lease: str, version: int) -> Lease:
        """Let work of a plan begin or end only under a lease that holds.

        Args:
            lease: Its id.
            version: Of the plan by which the work is asked for or handed in.

        Raises:
            PolicyRefused: There is no such lease, it has ended or was not bound, it is of another version, or a
                newer one is bound.
        """
        with self._lock:
            found = self._held(lease, self._clock())
            if version != found.version:
                raise self._refused(
                    f"the work is of version {version} of plan {found.plan}, the lease {lease} of version {found.version}"
                )
            if lease not in self._bound:
                raise self._refused(f"the lease {lease} of {found.node} was not bound")
            return found

    @property
    def held(self) -> tuple[Lease, ...]:
        """Leases that hold now."""
        with self._lock:
            self._expire(self._clock())
            return tuple(self._leases.values())

    def _check(self, request: LeaseRequest, now: datetime) -> None:
        check_signature(REQUEST, request.payload(), request.signature, request.coordinator, self._pins)
        check_time(REQUEST, request.issued, request.expires, request.coordinator, now)
        if request.id in self._seen:
            raise self._refused(f"a request {request.id} came before; each is used once")
        if request.owner != self._identity.name:
            raise self._refused(f"it asks for a node of {request.owner}; this is {self._identity.name}")
        if request.node not in self._slots:
            raise self._refused(f"there is no node {request.node} here to lease")
        if not 1 <= request.seconds <= MOST_SECONDS or request.version < 1:
            raise self._refused(
                f"{request.seconds} s of version {request.version}; allowed: 1 to {MOST_SECONDS} s, from version 1"
            )

    def _held(self, lease: str, now: datetime) -> Lease:
        self._expire(now)
        found = self._leases.get(lease)
        if found is not None:
            return found
        old = self._fenced.get(lease)
        if old is not None:
            newest = self._newest[old.coordinator, old.plan]
            raise self._refused(
                f"the lease {lease} is of version {old.version} of plan {old.plan}, which is at version {newest} here; an "
                "older plan is fenced off"
            )
        raise self._refused(
            f"there is no lease {lease} here: it was never granted, has ended, or was given back"
        )

    def _expire(self, now: datetime) -> None:
        for lease in [each for each in self._leases.values() if now >= moment(each.expires)]:
            self._note({"event": "expired", "id": lease.id})
        for lease in [each for each in self._fenced.values() if now >= moment(each.expires)]:
            del self._fenced[lease.id]
        # A request that came too late is refused by its time; its id need not be kept for ever.
        forgotten = [id_ for id_, until in self._seen.items() if now - moment(until) > timedelta(days=1)]
        for id_ in forgotten:
            del self._seen[id_]

    def _refuse(self, request: LeaseRequest, reason: str) -> Refusal:
        self._note({"event": "refused", "id": request.id, "node": request.node, "reason": reason})
        return Refusal(request.id, request.owner, request.node, request.offer, reason)

    def _refused(self, why: str) -> PolicyRefused:
        return PolicyRefused(f"{why}. Cure: plan again", party=self._identity.name, step="lease")

    def _note(self, event: dict[str, Any]) -> None:
        """Write an event down before it counts."""
        if self._log is not None:
            evidence.append(self._log, event)
        self.events.append(event)
        self._apply(event)

    def _apply(self, event: Mapping[str, Any]) -> None:
        kind = event.get("event")
        if kind == "seen":
            self._seen[event["id"]] = event["until"]
        elif kind == "bound":
            new = self._leases[event["id"]]
            key = (new.coordinator, new.plan)
            self._newest[key] = new.version
            self._bound.add(new.id)
            for old in [each for each in self._leases.values() if (each.coordinator, each.plan) == key]:
                if old.version < new.version:
                    self._fenced[old.id] = self._leases.pop(old.id)
                    self._bound.discard(old.id)
        elif kind == "granted":
            self._leases[event["lease"]["id"]] = Lease(**event["lease"])
        elif kind in ("released", "expired"):
            self._leases.pop(event["id"], None)
            self._bound.discard(event["id"])
