"""The site's desk: requests that no rule allows, and what a person at the site said to each.

A request waits under the hash of all that it asks: what, by whom, for what, under which protection. Who grants it grants
that and nothing else: a request that differs in one word has another hash and waits by itself.

The desk is a file in the site's state folder. It is only ever added to, each line carries the hash of the one before it and
is on the disk before anything is done; what holds for a request follows from its lines, in order:

    asked     a request came that waits; with what it asks, for the person to read
    granted   by whom, until when, for how many uses
    denied    by whom and why; also what was granted before
    used      a run made use of a grant: all messages of one run that ask the same are one use

What this does not hold against: somebody who can write the folder. The coordinator says which run a message is of, so that
uses bound honest coordinators; an end date bounds all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, Literal

from fedcore.errors import DataError, JobError, PolicyRefused, did_you_mean
from fedcore.trust import evidence
from fedcore.trust.locked import locked

STEP = "approval"
FILE = "approvals.jsonl"
"""Name of the file in the state folder."""
MOST_WAITING = 1000
"""Requests that wait at a time; more are refused unread, so that nobody fills the disk or buries what is serious."""
SHOWN = 16
"""Hex digits of a hash that are shown; a grant takes any prefix that names one request."""
Status = Literal["waiting", "granted", "denied", "ended", "used up"]


@dataclass(frozen=True)
class Asked:
    """What a request asks, for a person to read.

    Args:
        asker, purpose, data: Who asks, why, of which data set.
        text: The question.
        columns: That are read.
        statistics: What is computed from them.
        protection: On its way, and noise.
        lacking: Why no rule allows it.
        run, job: In which it came first.
    """

    asker: str
    purpose: str
    data: str
    text: str
    columns: tuple[str, ...]
    statistics: tuple[str, ...]
    protection: str
    lacking: str
    run: str
    job: str


@dataclass(frozen=True)
class Request:
    """A request at the desk, and where it is.

    Args:
        hash: SHA-256 of the request, hex.
        time: When it came first, ISO 8601.
        asked: What it asks.
        status: Where it is now.
        by: Who granted or denied it; None while it waits.
        decided: When, ISO 8601.
        reason: What that person wrote.
        until: When the grant ends, ISO 8601; None for never.
        uses: Runs that may use the grant; None for any number.
        runs: That used it.
    """

    hash: str
    time: str
    asked: Asked
    status: Status = "waiting"
    by: str | None = None
    decided: str | None = None
    reason: str = ""
    until: str | None = None
    uses: int | None = None
    runs: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """JSON values, what is asked beside the rest."""
        own = {name: value for name, value in vars(self).items() if name != "asked"}
        return {**own, **vars(self.asked)}


def listed(file: Path, *, now: datetime | None = None) -> list[Request]:
    """All requests, the first first.

    Args:
        file: The desk; there need be none yet.
        now: For grants that ended; the clock when absent.

    Raises:
        DataError: The file was changed after it was written.
    """
    found: dict[str, dict[str, Any]] = {}
    for line in evidence.read(file) if file.exists() else ():
        try:
            _take(found, line)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{file.name} holds a line that is none of a desk; compare it with a copy"
            ) from error
    clock = now or datetime.now(UTC)
    return [_judged(Request(**each), clock) for each in found.values()]


def _take(found: dict[str, dict[str, Any]], line: Mapping[str, Any]) -> None:
    """Apply a line to what is known of its request."""
    event, hash_ = line["event"], str(line["request"])
    if event == "asked":
        told = {name: line[name] for name in Asked.__dataclass_fields__}
        asked = Asked(**{**told, "columns": tuple(told["columns"]), "statistics": tuple(told["statistics"])})
        found.setdefault(hash_, {"hash": hash_, "time": str(line["time"]), "asked": asked})
        return
    known = found[hash_]
    if event == "used":
        known["runs"] = (*known.get("runs", ()), str(line["run"]))
        return
    if event not in ("granted", "denied"):
        raise ValueError(event)
    if line["until"] is not None:
        datetime.fromisoformat(line["until"])
    known |= {name: line[name] for name in ("by", "reason", "until", "uses")}
    known |= {"status": event, "decided": str(line["time"]), "runs": ()}


def _judged(request: Request, now: datetime) -> Request:
    """With what time and use made of a grant."""
    status: Status = request.status
    if status == "granted" and request.until is not None and now >= datetime.fromisoformat(request.until):
        status = "ended"
    elif status == "granted" and request.uses is not None and len(request.runs) >= request.uses:
        status = "used up"
    return Request(**{**vars(request), "status": status})


def state_of(file: Path, hash_: str, *, now: datetime | None = None) -> Request | None:
    """A request of that whole hash; None when it never came."""
    return next((each for each in listed(file, now=now) if each.hash == hash_), None)


def found_by(file: Path, prefix: str) -> Request:
    """The request whose hash begins so.

    Raises:
        JobError: None does, or more than one.
    """
    every = listed(file)
    matching = [each for each in every if prefix and each.hash.startswith(prefix.lower())]
    if len(matching) == 1:
        return matching[0]
    if matching:
        named = ", ".join(each.hash[:SHOWN] for each in matching)
        raise JobError(
            f'"{prefix}" begins {len(matching)} hashes: {named}. Cure: write more digits', step=STEP
        )
    known = [each.hash[: max(len(prefix), SHOWN)] for each in every]
    raise JobError(f'no request with hash "{prefix}"; {did_you_mean(prefix, known)}', step=STEP)


def use(file: Path, hash_: str, asked: Asked, *, now: datetime | None = None) -> Request:
    """Let a request pass if it was granted, and count its run; else have it wait.

    Args:
        file: The desk.
        hash_: Of the request.
        asked: What it asks; its run is the one that uses a grant.
        now: The clock when absent.

    Returns:
        Where the request is: `granted` when it may pass.

    Raises:
        PolicyRefused: Too many wait already.
        DataError: The file was changed after it was written.
    """
    with locked(file):
        every = listed(file, now=now)
        known = next((each for each in every if each.hash == hash_), None)
        if known is None:
            if sum(each.status == "waiting" for each in every) >= MOST_WAITING:
                raise PolicyRefused(
                    f"{MOST_WAITING} requests wait for approval already; no more are taken. Cure: ask the site's data office",
                    step=STEP,
                )
            told = {name: _plain(value) for name, value in vars(asked).items()}
            evidence.append(file, {"event": "asked", "request": hash_, **told})
            return next(each for each in listed(file, now=now) if each.hash == hash_)
        if known.status in ("granted", "used up") and asked.run in known.runs:
            return Request(**{**vars(known), "status": "granted"})
        if known.status == "granted":
            evidence.append(file, {"event": "used", "request": hash_, "run": asked.run})
        return known


def _plain(value: str | tuple[str, ...]) -> str | list[str]:
    return list(value) if isinstance(value, tuple) else value


def grant(
    file: Path,
    hash_: str,
    by: str,
    *,
    until: date | datetime | None = None,
    uses: int | None = None,
    reason: str = "",
    now: datetime | None = None,
) -> Request:
    """Allow a request; uses of an earlier grant no longer count.

    Args:
        file: The desk.
        hash_: Of the request, or a prefix that names one.
        by: Who grants it.
        until: The last day (UTC), or the moment, at which it holds; for ever when None.
        uses: Runs that may use it, 1 or more; any number when None.
        reason: For the record.
        now: The clock when absent.

    Raises:
        JobError: There is no such request, the end is past, or there are no uses.
    """
    end = _end(until)
    if end is not None and end <= (now or datetime.now(UTC)):
        raise JobError(f"the grant would end at {end.isoformat()}, which is past; allowed: later", step=STEP)
    if uses is not None and uses < 1:
        raise JobError(f"{uses} uses; allowed: 1 or more. Cure: to allow none, deny it", step=STEP)
    return _decide(
        file, hash_, "granted", by, reason, {"until": end.isoformat() if end else None, "uses": uses}
    )


def deny(file: Path, hash_: str, by: str, *, reason: str = "") -> Request:
    """Refuse a request, also one that was granted before.

    Args:
        file: The desk.
        hash_: Of the request, or a prefix that names one.
        by: Who denies it.
        reason: Told to the asker.

    Raises:
        JobError: There is no such request.
    """
    return _decide(file, hash_, "denied", by, reason, {"until": None, "uses": None})


def _decide(file: Path, hash_: str, event: str, by: str, reason: str, limits: Mapping[str, Any]) -> Request:
    if not by.strip():
        raise JobError("a decision names who made it; give --by NAME", step=STEP)
    with locked(file):
        known = found_by(file, hash_)
        evidence.append(file, {"event": event, "request": known.hash, "by": by, "reason": reason, **limits})
        return found_by(file, known.hash)


def _end(until: date | datetime | None) -> datetime | None:
    """The moment from which a grant no longer holds."""
    if isinstance(until, datetime):
        return until if until.tzinfo else until.replace(tzinfo=UTC)
    return None if until is None else datetime.combine(until + timedelta(days=1), time(), UTC)
