"""The first message on a channel: what each side is about to do, so that the two find out at once when they differ.

Both send a hello and read the other's; one round, a few hundred bytes. It is JSON with exactly these keys:

    {"protocol": "vole", "version": 1, "table": "2026-1", "session": "...", "role": "receiver", "options": {...}}

Nothing in it is secret, and the other party reads all of it. A later version may add keys, so protocol and versions
are compared before anything else is looked at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

from crypto.channel import Channel
from crypto.errors import ProtocolError

STEP = "hello"
LIMIT = 16 * 1024
_KINDS = {"protocol": str, "version": int, "table": str, "session": str, "role": str, "options": dict}

Option = str | int | bool | None


@dataclass(frozen=True)
class Hello:
    """What one side says.

    Args:
        protocol: Its name.
        version: Of the protocol's messages.
        table: Version of the table of cryptographic parameters.
        session: Its name.
        role: Of the side that says it.
        options: Settings that both must have, each with the same value.
    """

    protocol: str
    version: int
    table: str
    session: str
    role: str
    options: Mapping[str, Option] = field(default_factory=dict)


def shake_hands(
    channel: Channel, mine: Hello, *, peer_role: str, cures: Mapping[str, str] | None = None
) -> Hello:
    """Tell the other side and hear it; returns only when both agree.

    Args:
        channel: Nothing was sent over it yet.
        mine: What this side says.
        peer_role: What the other must be.
        cures: For options by name: what to do where the sides differ.

    Returns:
        What the other side said.

    Raises:
        ProtocolError: The sides differ; both values are named. Or what came is no hello.
    """
    channel.send(STEP, encode(mine))
    theirs = decode(channel.recv(STEP, limit=LIMIT), mine)
    if theirs.session != mine.session:
        _differ("session", mine.session, theirs.session, "give both the same")
    if theirs.role != peer_role:
        _differ(
            "role",
            mine.role,
            theirs.role,
            f"beside {mine.role!r} the other must be {peer_role!r}: change one",
        )
    for name in sorted({*mine.options, *theirs.options}):
        here, there = mine.options.get(name, "not set"), theirs.options.get(name, "not set")
        if type(here) is not type(there) or here != there:
            _differ(f"option {name}", here, there, (cures or {}).get(name, "give both the same"))
    return theirs


def encode(hello: Hello) -> bytes:
    """A hello as it is sent.

    Raises:
        ValueError: It is longer than the other side would take.
    """
    told = {**asdict(hello), "options": dict(hello.options)}
    raw = json.dumps(told, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
    if len(raw) > LIMIT:
        raise ValueError(f"the hello has {len(raw)} bytes; allowed are {LIMIT}: fewer options")
    return raw


def decode(raw: bytes | memoryview, mine: Hello) -> Hello:
    """Read a hello.

    Args:
        raw: As it came.
        mine: What protocol and versions must be.

    Raises:
        ProtocolError: It is none, or of another protocol or version.
    """
    try:
        told = json.loads(
            bytes(raw).decode("ascii"), object_pairs_hook=_once, parse_constant=_refuse, parse_float=_refuse
        )
    except (ValueError, RecursionError):
        raise ProtocolError("what came is no hello: not the JSON that a party sends", step=STEP) from None
    if not isinstance(told, dict):
        raise ProtocolError("what came is no hello: not an object", step=STEP)
    versions = {"protocol": mine.protocol, "version": mine.version, "table": mine.table}
    cures = {"protocol": "choose the same at both", "version": "install the same version of fedcore at both"}
    for name, here in versions.items():
        there = _value(told, name)
        if there != here:
            _differ(
                {"version": f"{mine.protocol} version", "table": "parameter table"}.get(name, name),
                here,
                there,
                cures.get(name, cures["version"]),
            )
    if set(told) != set(_KINDS):
        raise ProtocolError(f"what came is no hello: its keys are not {', '.join(sorted(_KINDS))}", step=STEP)
    hello = Hello(**{name: _value(told, name) for name in _KINDS})
    if not all(isinstance(value, str | int | None) for value in hello.options.values()):
        raise ProtocolError(
            "what came is no hello: an option is neither text, whole number, true, false nor null", step=STEP
        )
    return hello


def _value(told: dict[str, Any], name: str) -> Any:
    value = told.get(name)
    # A bool is an int to Python and not to anybody else.
    if not isinstance(value, _KINDS[name]) or isinstance(value, bool):
        raise ProtocolError(f"what came is no hello: it has no proper {name!r}", step=STEP)
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _refuse(text: str) -> NoReturn:
    raise ValueError("no such number")


def _differ(what: str, here: object, there: object, cure: str) -> NoReturn:
    raise ProtocolError(
        f"the two sides differ in {what}: this side has {_shown(here)}, the other {_shown(there)}; {cure}",
        step=STEP,
    )


def _shown(value: object) -> str:
    # What the other side sent may be anything, and is shown to a person.
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."
