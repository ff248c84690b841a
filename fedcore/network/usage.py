"""Who used what for which piece of work: what the owner says, what the coordinator saw, signed by both.

The owner measures its own work and signs that, its half. The coordinator adds what it saw itself, of the same reply,
says where the two differ, and signs the whole, so that neither side can change anything afterwards. Bytes must agree
within 5 %. Of time the coordinator sees the whole exchange: how much of it was waiting for lines and for other work
it often cannot tell, and then the owner's time may be shorter, but never longer.

Who learns what: whoever has the file learns what each owner used in each round, and its prices. Under secure
aggregation the half has no number of examples, and what would tell it closely is coarse (`fedcore.participant.mods.
metering`).

Not covered: an owner that lies about its own processor, power or prices within what is possible. What it may charge is
agreed on before (`fedcore.network.offers`), and what its machine can do is challenged (`fedcore.network.challenge`).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from fedcore.errors import DataError, IdentityError
from fedcore.jobs.common import Name, Strict
from fedcore.network.quantity import LIMITS, moment
from fedcore.network.signed import check_signature, sign
from fedcore.trust.identity import Identity

SAID, RECORD = "usage of the owner", "usage record"
"""Kinds of what is signed."""
ALLOWED = 0.05
"""Share by which the two sides may differ without a dispute."""
GRAIN_SECONDS = 0.01
"""Times that differ by less are not told apart: two clocks of two processes."""

_MOST_TFLOPS = LIMITS["gemm.cuda.bf16"].most / 1e3
_MOST_WATTS = LIMITS["power.load"].most
_MOST_GRAMS = LIMITS["carbon.location"].most
_DIGITS = 40


def _time(value: str) -> str:
    moment(value)
    return value


def _money(value: str) -> str:
    try:
        amount = Decimal(value)
    except InvalidOperation:
        amount = Decimal("NaN")
    if len(value) > _DIGITS or not amount.is_finite() or amount < 0 or amount.adjusted() > 12:
        raise ValueError("a price is a decimal number of 0 or more, as text")
    return value


Count = Annotated[int, Field(ge=0, le=2**63, strict=True)]
Amount = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)]
Moment = Annotated[str, Field(max_length=40), AfterValidator(_time)]
Gas = Literal["CO2", "CO2e"]
"""Carbon dioxide alone, or all gases as its equivalent."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Said(Strict):
    """An owner's half of a usage record. What it does not know, or does not tell, is None.

    Args:
        version: Of the format.
        id: 16 random bytes, hex; a record of the same id is a replay.
        job, run, round, step: What the work was for; `step` is the kind of message that asked for it.
        plan: Of the placement that the work followed, by its digest or number.
        owner, node: Whose work, and on which of its nodes.
        start, end: UTC in ISO 8601, by the owner's clock.
        seconds: From the request's arrival to its reply.
        cpu_seconds: Of processors.
        cpu_of: Whose: the process's; or the thread's, where others worked in the process at the same time.
        device, precision: Of the work.
        tflops_h: The node's rate of large matrix products in that precision, TFLOP/s, times hours.
        samples, items: Rows of a train or evaluate step, items of an intersection.
        bytes_down, bytes_up: Of the request and of the reply, without this record.
        kwh: IT energy.
        kwh_source: How that is known.
        pue: Of the site; where None, energy and carbon are without it.
        gco2_location, gco2_market: Grams by the grid and by contract, PUE included.
        gas_location, gas_market: What is counted in them.
        price: What the owner asks for it: decimal text, in `currency`.
        epsilon_spent: Of the privacy budget.
        result: SHA-256 of the arrays that were sent.
    """

    version: Literal[1] = 1
    id: str = Field(pattern=r"^[0-9a-f]{32}$")
    job: Name
    run: Name
    round: Count
    step: Annotated[str, Field(min_length=1, max_length=40)]
    plan: Annotated[str, Field(max_length=80)] | None = None
    owner: Name
    node: Name | None = None
    start: Moment
    end: Moment
    seconds: Amount
    cpu_seconds: Amount | None = None
    cpu_of: Literal["process", "thread"] | None = None
    device: Annotated[str, Field(max_length=20)] | None = None
    precision: Annotated[str, Field(max_length=20)] | None = None
    tflops_h: Amount | None = None
    samples: Count | None = None
    items: Count | None = None
    bytes_down: Count
    bytes_up: Count
    kwh: Amount | None = None
    kwh_source: Annotated[str, Field(max_length=400)] | None = None
    pue: Annotated[float, Field(ge=LIMITS["pue"].least, le=LIMITS["pue"].most)] | None = None
    gco2_location: Amount | None = None
    gas_location: Gas | None = None
    gco2_market: Amount | None = None
    gas_market: Gas | None = None
    price: Annotated[str, AfterValidator(_money)] | None = None
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] | None = None
    epsilon_spent: Amount | None = None
    result: Sha256 | None = None

    @model_validator(mode="after")
    def _possible(self) -> Said:
        hours = self.seconds / 3600
        most_kwh = _MOST_WATTS * hours / 1e3
        limits = (
            ("tflops_h", self.tflops_h, _MOST_TFLOPS * hours),
            ("kwh", self.kwh, most_kwh),
            ("gco2_location", self.gco2_location, _MOST_GRAMS * (self.kwh or 0.0) * (self.pue or 1.0)),
            ("gco2_market", self.gco2_market, _MOST_GRAMS * (self.kwh or 0.0) * (self.pue or 1.0)),
            ("cpu_seconds", self.cpu_seconds, LIMITS["cores"].most * (self.seconds + 1)),
        )
        for name, value, most in limits:
            if value is not None and value > most * (1 + 1e-9):
                raise ValueError(f"{name} is {value:g} in {self.seconds:g} s; at most {most:g} is possible")
        if moment(self.end) < moment(self.start):
            raise ValueError(f"it ends at {self.end}, before it starts at {self.start}")
        for name, given, unit in (
            ("price", self.price, self.currency),
            ("gco2_location", self.gco2_location, self.gas_location),
            ("gco2_market", self.gco2_market, self.gas_market),
        ):
            if (given is None) != (unit is None):
                raise ValueError(f"{name} needs its unit, and a unit needs its {name}")
        return self

    @property
    def energy(self) -> float | None:
        """kWh with PUE."""
        return None if self.kwh is None else self.kwh * (self.pue or 1.0)

    def to_json(self) -> dict[str, Any]:
        """What is signed, as JSON values."""
        return self.model_dump(mode="json")


class Seen(Strict):
    """The coordinator's half: the same reply, from its side.

    Args:
        phase: The step as the run's record names it.
        start, end: UTC in ISO 8601, by the coordinator's clock: from the exchange's first message to this reply.
        seconds: Between them.
        waiting: How many of them the reply waited for lines or for other work; None where nobody knows.
        bytes_down, bytes_up: Of the request and of the reply, without the owner's half; None for a reply that an aggregator
            took in.
        other_down, other_up: Of the rest of the exchange: a protocol's own messages, and the half itself.
        result: SHA-256 of the arrays that came, where that was taken.
    """

    phase: Annotated[str, Field(min_length=1, max_length=80)]
    start: Moment
    end: Moment
    seconds: Amount
    waiting: Amount | None = 0.0
    bytes_down: Count | None
    bytes_up: Count | None
    other_down: Count = 0
    other_up: Count = 0
    result: Sha256 | None = None


@dataclass(frozen=True)
class UsageRecord:
    """One piece of work of one owner, from both sides.

    Args:
        said, seen: The two halves.
        disputes: Where they differ, each as a sentence; empty where they do not.
        coordinator: Who signs as such.
        owner_signature: Over `said`, base64; empty where owners have no keys (engines on one machine).
        coordinator_signature: Over everything else.
    """

    said: Said
    seen: Seen
    disputes: tuple[str, ...]
    coordinator: str
    owner_signature: str = ""
    coordinator_signature: str = ""

    @property
    def id(self) -> str:
        """Of the record."""
        return self.said.id

    def payload(self) -> dict[str, Any]:
        """What the coordinator signs."""
        return {
            "said": self.said.to_json(),
            "seen": self.seen.model_dump(mode="json"),
            "disputes": list(self.disputes),
            "coordinator": self.coordinator,
            "owner_signature": self.owner_signature,
        }

    def to_json(self) -> dict[str, Any]:
        """All of it, as JSON values."""
        return {**self.payload(), "coordinator_signature": self.coordinator_signature}


def new_id() -> str:
    """An id that no other record has."""
    return secrets.token_hex(16)


def sign_said(said: Said, identity: Identity) -> str:
    """The owner's signature under its half.

    Raises:
        IdentityError: The key is another party's than the owner's.
    """
    if identity.name != said.owner:
        raise IdentityError(
            f"the usage is {said.owner}'s and the key is {identity.name}'s; allowed: the owner's key",
            party=identity.name,
            step="usage",
        )
    return sign(identity, SAID, said.to_json())


def check_said(said: Said, signature: str, pins: Mapping[str, str], *, signed: bool = True) -> None:
    """Refuse a half that its owner has not signed.

    Args:
        said: As it came.
        signature: The owner's.
        pins: Name to public key line of everybody enrolled.
        signed: Whether everybody must sign: not on an engine without keys, where it is asked only of who has a pin.

    Raises:
        IdentityError: It is not the owner's.
    """
    if signed or said.owner in pins:
        check_signature(SAID, said.to_json(), signature, said.owner, pins)


def record_of(
    said: Said,
    owner_signature: str,
    seen: Seen,
    *,
    coordinator: str = "coordinator",
    identity: Identity | None = None,
) -> UsageRecord:
    """The two halves as one record, signed by the coordinator.

    Args:
        said, owner_signature: The owner's half, checked before.
        seen: The coordinator's.
        coordinator: Its name, where it has no key.
        identity: Its key.
    """
    name = identity.name if identity else coordinator
    made = UsageRecord(said, seen, differences(said, seen), name, owner_signature)
    if identity is None:
        return made
    return UsageRecord(
        said, seen, made.disputes, name, owner_signature, sign(identity, RECORD, made.payload())
    )


def differences(said: Said, seen: Seen, allowed: float = ALLOWED) -> tuple[str, ...]:
    """Where the two sides differ by more than is allowed, each as a sentence.

    Args:
        said, seen: The halves.
        allowed: Share of the coordinator's figure.
    """
    found = []
    for what, one, other in (
        ("bytes_down", said.bytes_down, seen.bytes_down),
        ("bytes_up", said.bytes_up, seen.bytes_up),
    ):
        if other is not None and abs(one - other) > allowed * other:
            found.append(f"{what}: the owner says {one}, the coordinator counted {other}")
    over = said.seconds - seen.seconds
    if over > max(allowed * seen.seconds, GRAIN_SECONDS):
        found.append(
            f"seconds: the owner says {said.seconds:.3f}, the whole exchange took {seen.seconds:.3f} at the coordinator"
        )
    elif seen.waiting is not None:
        worked = max(0.0, seen.seconds - seen.waiting)
        if worked - said.seconds > max(allowed * worked, GRAIN_SECONDS):
            found.append(
                f"seconds: the owner says {said.seconds:.3f}, the coordinator measured {worked:.3f} of work"
            )
    if said.result is not None and seen.result is not None and said.result != seen.result:
        found.append("result: what came is not what the owner says it sent")
    return tuple(found)


def check_record(record: UsageRecord, pins: Mapping[str, str], *, signed: bool = True) -> None:
    """Refuse a record that was changed after it was signed, or that hides a dispute.

    Args:
        record: As it was read.
        pins: Name to public key line of owners and coordinator.
        signed: Whether signatures are asked for: not of a run of an engine without keys.

    Raises:
        IdentityError: One of the two has not signed it.
        DataError: It says of itself what its halves do not say.
    """
    if signed:
        check_signature(SAID, record.said.to_json(), record.owner_signature, record.said.owner, pins)
        check_signature(RECORD, record.payload(), record.coordinator_signature, record.coordinator, pins)
    if record.disputes != differences(record.said, record.seen):
        raise DataError(
            f"usage record {record.id} tells other disputes than its halves have; it was not made by this rule",
            party=record.coordinator,
            step="usage",
        )


def read_said(told: Any) -> Said:
    """An owner's half from JSON values that another party sent.

    Raises:
        DataError: It is none, or says what cannot be.
    """
    found: Said = _read(Said, told)
    return found


def read_record(told: Mapping[str, Any]) -> UsageRecord:
    """A record from JSON values; `check_record` says whether it may be believed.

    Raises:
        DataError: It is none, or says what cannot be.
    """
    disputes = told.get("disputes")
    names = [told.get(key) for key in ("coordinator", "owner_signature", "coordinator_signature")]
    if not all(isinstance(each, str) for each in names) or not isinstance(disputes, list | tuple):
        raise DataError("this is no usage record: names, signatures or disputes are missing", step="usage")
    coordinator, owner_signature, coordinator_signature = map(str, names)
    return UsageRecord(
        _read(Said, told.get("said")),
        _read(Seen, told.get("seen")),
        tuple(map(str, disputes)),
        coordinator,
        owner_signature,
        coordinator_signature,
    )


def _read(kind: type[Strict], told: Any) -> Any:
    try:
        return kind.model_validate(told)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise DataError(f"this is no usage record: {where}: {first['msg']}", step="usage") from error
