"""The file of a run's usage records: append-only, each line chained to the one before, no record twice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from fedcore.errors import DataError
from fedcore.network.usage import UsageRecord, check_record, read_record
from fedcore.trust import evidence

FILE = "usage.jsonl"
"""In a run's `evidence` folder."""
_EVENT = "usage"


class UsageLog:
    """The file, open for more records.

    Args:
        file: Made at the first record.

    Raises:
        DataError: The file was changed after it was written.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._ids = {record.id for record in read_log(file)}

    def __contains__(self, number: object) -> bool:
        return number in self._ids

    def add(self, *records: UsageRecord, durable: bool = True) -> None:
        """Append records, all or none.

        Args:
            records: None of which is in the file, or twice among them.
            durable: Wait until they are on the disk.

        Raises:
            DataError: One is a replay.
        """
        new: set[str] = set()
        for record in records:
            if record.id in self._ids or record.id in new:
                raise DataError(
                    f"usage record {record.id} of {record.said.owner} is in the log already; a record counts once",
                    party=record.said.owner,
                    step="usage",
                )
            new.add(record.id)
        if records:
            lines = [{"event": _EVENT, "record": record.to_json()} for record in records]
            evidence.append(self.file, *lines, durable=durable)
        self._ids |= new


def read_log(file: Path) -> list[UsageRecord]:
    """All records of a file, in order; none where there is no file.

    Raises:
        DataError: A line was changed, removed, inserted or stands there twice.
    """
    if not file.exists():
        return []
    found: dict[str, UsageRecord] = {}
    for entry in evidence.read(file):
        if entry.get("event") != _EVENT or not isinstance(entry.get("record"), dict):
            continue
        record = read_record(entry["record"])
        if record.id in found:
            raise DataError(
                f"{file.name} has usage record {record.id} of {record.said.owner} twice; a record counts once",
                party=record.said.owner,
                step="usage",
            )
        found[record.id] = record
    return list(found.values())


def check_log(records: Iterable[UsageRecord], pins: Mapping[str, str], *, signed: bool) -> None:
    """Refuse a log with a record that is not signed by both sides, or was changed since.

    Args:
        records: Of one run.
        pins: Name to public key line, of owners and coordinator.
        signed: Whether the run was one with keys.

    Raises:
        IdentityError, DataError: As `check_record`.
    """
    for record in records:
        check_record(record, pins, signed=signed)


@dataclass
class Totals:
    """What an owner used, or all of them.

    What some records do not tell is the sum over the others; None where none tells. `prices` is by currency, exact;
    grams are by the gas that is counted in them.

    Args:
        records, disputed: How many, and in how many of them the two sides differ.
        signed: How many bear both signatures.
        seconds, cpu_seconds: Of work.
        tflops_h: TFLOP/s.h.
        samples, items, bytes_down, bytes_up: Counts; bytes include the protocol's own messages.
        kwh, energy: IT energy in kWh, and with PUE.
        gco2_location, gco2_market: Grams, by gas.
        prices: By currency.
        epsilon_spent: Of privacy budgets.
    """

    records: int = 0
    disputed: int = 0
    signed: int = 0
    seconds: float = 0.0
    cpu_seconds: float | None = None
    tflops_h: float | None = None
    samples: int | None = None
    items: int | None = None
    bytes_down: int = 0
    bytes_up: int = 0
    kwh: float | None = None
    energy: float | None = None
    gco2_location: dict[str, float] = field(default_factory=dict)
    gco2_market: dict[str, float] = field(default_factory=dict)
    prices: dict[str, Decimal] = field(default_factory=dict)
    epsilon_spent: float | None = None

    def add(self, record: UsageRecord) -> None:
        """Count a record in."""
        said, seen = record.said, record.seen
        self.records += 1
        self.disputed += bool(record.disputes)
        self.signed += bool(record.owner_signature and record.coordinator_signature)
        self.seconds += said.seconds
        # What went through an aggregator the coordinator did not see.
        self.bytes_down += (said.bytes_down if seen.bytes_down is None else seen.bytes_down) + seen.other_down
        self.bytes_up += (said.bytes_up if seen.bytes_up is None else seen.bytes_up) + seen.other_up
        for name in ("cpu_seconds", "tflops_h", "samples", "items", "kwh", "energy", "epsilon_spent"):
            value = getattr(said, name)
            if value is not None:
                setattr(self, name, (getattr(self, name) or 0) + value)
        for grams, gas, value in (
            (self.gco2_location, said.gas_location, said.gco2_location),
            (self.gco2_market, said.gas_market, said.gco2_market),
        ):
            if gas is not None and value is not None:
                grams[gas] = grams.get(gas, 0.0) + value
        if said.price is not None and said.currency is not None:
            self.prices[said.currency] = self.prices.get(said.currency, Decimal(0)) + Decimal(said.price)

    def to_json(self) -> dict[str, Any]:
        """JSON values; prices as decimal text."""
        return {
            **asdict(self),
            "prices": {name: format(value, "f") for name, value in sorted(self.prices.items())},
        }


def totals(records: Iterable[UsageRecord]) -> tuple[dict[str, Totals], Totals]:
    """What each owner used, by name, and what all of them did."""
    owners: dict[str, Totals] = {}
    everyone = Totals()
    for record in records:
        owners.setdefault(record.said.owner, Totals()).add(record)
        everyone.add(record)
    return dict(sorted(owners.items())), everyone


def summary(records: Iterable[UsageRecord]) -> dict[str, Any]:
    """The same for a run's result: per owner, as JSON values."""
    owners, _ = totals(records)
    return {name: each.to_json() for name, each in owners.items()}
