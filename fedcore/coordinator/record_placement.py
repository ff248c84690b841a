"""What a result says of placement, read tolerantly: who took part by which plan, and what was predicted and measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedcore.coordinator.record import finite


@dataclass(frozen=True)
class PlacedRound:
    """A round under a plan.

    Args:
        version: Of the plan.
        cause: Why there was this plan.
        participants: By name.
        aggregators: Site to the participants whose updates it added up.
        predicted_s, actual_s: Seconds of training, with what travels; none where they are not known.
        grams, kwh, cost: Predicted, of the round.
    """

    number: int
    version: int
    cause: str
    participants: tuple[str, ...]
    aggregators: Mapping[str, tuple[str, ...]]
    predicted_s: float | None
    actual_s: float | None
    grams: float | None
    kwh: float | None
    cost: float | None


@dataclass(frozen=True)
class Event:
    """Something that happened to the placement.

    Args:
        what: `plan`, `refused` or `lost`, as the coordinator wrote it.
        who: An owner; empty where it is of nobody.
        said: A sentence.
    """

    round: int
    what: str
    who: str
    said: str


@dataclass(frozen=True)
class Placements:
    """The placement of a run.

    Args:
        rounds: Those under a plan.
        events: In order, each once.
        left_out: Offers that could not be planned with: owner, name and reason.
    """

    rounds: tuple[PlacedRound, ...]
    events: tuple[Event, ...]
    left_out: tuple[tuple[str, str, str], ...]

    @property
    def last(self) -> PlacedRound:
        """The last round under a plan."""
        return self.rounds[-1]

    @property
    def everybody(self) -> tuple[str, ...]:
        """All who took part in a round."""
        return tuple(dict.fromkeys(name for each in self.rounds for name in each.participants))

    def mean(self, what: str) -> float | None:
        """Of a figure over the rounds in which prediction and measurement are both known."""
        known = [each for each in self.rounds if each.predicted_s is not None and each.actual_s is not None]
        values = [value for each in known if (value := getattr(each, what)) is not None]
        return math.fsum(values) / len(values) if values else None

    @property
    def error(self) -> float | None:
        """Mean of |predicted - actual| / actual over the rounds; none without any."""
        shares = [
            abs(each.predicted_s - each.actual_s) / each.actual_s
            for each in self.rounds
            if each.predicted_s is not None and each.actual_s
        ]
        return math.fsum(shares) / len(shares) if shares else None


def placements(result: Mapping[str, Any]) -> Placements | None:
    """What a result says of its placement; None where no round was placed."""
    rounds, events, left_out = [], [], dict[tuple[str, str, str], None]()
    for place, record in enumerate(_listed(result.get("rounds"))):
        told = record.get("placement")
        if not isinstance(told, Mapping):
            continue
        number = _whole(record.get("round"), place + 1)
        rounds.append(_round(record, told, number))
        events += [_event(each, number) for each in _listed(told.get("events"))]
        for each in _listed(told.get("left_out")):
            left_out[str(each.get("owner", "")), str(each.get("name", "")), str(each.get("reason", ""))] = (
                None
            )
    if not rounds:
        return None
    return Placements(tuple(rounds), tuple(events), tuple(left_out))


def _round(record: Mapping[str, Any], told: Mapping[str, Any], number: int) -> PlacedRound:
    predicted = _mapping(told.get("predicted"))
    return PlacedRound(
        number,
        _whole(told.get("version"), 0),
        str(told.get("cause") or ""),
        _names(told.get("participants")),
        {str(site): _names(names) for site, names in _mapping(told.get("aggregators")).items()},
        finite(predicted.get("round_s")),
        finite(_mapping(record.get("seconds")).get("train")),
        finite(predicted.get("gco2_location")),
        finite(predicted.get("kwh")),
        finite(predicted.get("cost")),
    )


def _event(told: Mapping[str, Any], number: int) -> Event:
    what = str(told.get("event") or "")
    said = str(told.get("reason") or told.get("cause") or told.get("what") or "")
    if what == "plan":
        said = f"plan {told.get('version', '')}: {said}"
    if what == "refused" and told.get("offer"):
        said = f"{told['offer']}: {said}"
    return Event(_whole(told.get("round"), number), what, str(told.get("owner") or ""), said)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _listed(value: Any) -> list[Mapping[str, Any]]:
    return (
        [each for each in value if isinstance(each, Mapping)]
        if isinstance(value, Sequence) and not isinstance(value, str)
        else []
    )


def _names(value: Any) -> tuple[str, ...]:
    return tuple(str(each) for each in value) if isinstance(value, list | tuple) else ()


def _whole(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise
