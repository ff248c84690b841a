"""What secure aggregation was in a run, as typed records of `result.json`, read with the tolerance of `record`.

An exchange is what the strategy asked of its cohort once, a train or an evaluate; its stages are the messages of the
protocol. Fields that a protocol adds to an exchange are kept as `more`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from fedcore.coordinator.record import count, finite
from fedcore.jobs.secure import SecureAggregation

COORDINATOR = "coordinator"
"""Named as lost where there was no sum at all."""
_FIELDS = frozenset(
    {
        "asked",
        "summed",
        "threshold",
        "neighbours",
        "stages",
        "dropped",
        "blamed",
        "clipped",
        "error_bound",
        "error",
        "opened_by",
        "holders",
        "protocol",
        "failed",
    }
)


@dataclass(frozen=True)
class Stage:
    """One stage, of one exchange or of several.

    Args:
        name: As in `result.json`.
        exchanges: That had it.
        seconds: From its first message to its last reply.
        down, up: Bytes to and from the participants.
        asked, answered: Messages and replies.
    """

    name: str
    exchanges: int
    seconds: float
    down: int
    up: int
    asked: int
    answered: int


@dataclass(frozen=True)
class Exchange:
    """One protected exchange.

    Args:
        round: Its number.
        phase: `train` or `evaluate`.
        asked: Participants that were asked.
        summed: That are in the sum; 0 when there is none.
        threshold: That have to help before a sum can be opened; None where the record says none.
        neighbours: With whom each shares its masks; None where the protocol has none.
        stages: In their order.
        dropped: Participant to the first stage at which it gave nothing usable.
        blamed: Participants that sent what they should not have.
        clipped: Values that were cut, of all participants.
        error_bound: Of each value of the mean; None where the record says none.
        error: The largest that was measured; None where none was.
        holders: Of shares of the key; None where it is not shared out.
        opened_by: Participants that decrypted the sum or had part in it.
        protocol: As the exchange names it; empty where it does not.
        failed: Why there is no sum; empty when there is one.
        more: What else the protocol recorded.
    """

    round: int
    phase: str
    asked: int
    summed: int
    threshold: int | None
    neighbours: int | None
    stages: tuple[Stage, ...]
    dropped: Mapping[str, str]
    blamed: tuple[str, ...]
    clipped: int
    error_bound: float | None
    error: float | None
    holders: int | None
    opened_by: tuple[str, ...]
    protocol: str
    failed: str
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Protected:
    """Secure aggregation over a whole run.

    Args:
        protocol: Its name.
        asked: What the job asked for, defaults filled in as far as they are known.
        exchanges: In their order.
    """

    protocol: str
    asked: Mapping[str, Any]
    exchanges: tuple[Exchange, ...]

    @property
    def sums(self) -> int:
        """Exchanges that gave one."""
        return sum(not each.failed for each in self.exchanges)

    @property
    def failed(self) -> tuple[Exchange, ...]:
        """Exchanges that gave none."""
        return tuple(each for each in self.exchanges if each.failed)

    @property
    def fewest(self) -> int | None:
        """Participants in the smallest sum; None without a sum."""
        return min((each.summed for each in self.exchanges if not each.failed), default=None)

    @property
    def clipped(self) -> int:
        """Values that were cut, in all exchanges."""
        return sum(each.clipped for each in self.exchanges)

    @property
    def error_bound(self) -> float | None:
        """The largest of all sums."""
        known = [each.error_bound for each in self.exchanges if not each.failed and each.error_bound]
        return max(known, default=None)

    @property
    def error(self) -> float | None:
        """The largest that was measured."""
        return max((each.error for each in self.exchanges if each.error is not None), default=None)

    @property
    def opened_by(self) -> tuple[str, ...]:
        """Participants that had part in opening a sum, in order of appearance."""
        return tuple(dict.fromkeys(name for each in self.exchanges for name in each.opened_by))

    @property
    def blamed(self) -> tuple[str, ...]:
        """Participants that sent what they should not have, in order of appearance."""
        return tuple(dict.fromkeys(name for each in self.exchanges for name in each.blamed))

    @cached_property
    def dropped(self) -> tuple[tuple[Exchange, str, str], ...]:
        """Exchange, participant and stage of all that dropped out."""
        return tuple((each, *pair) for each in self.exchanges for pair in each.dropped.items())

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """Each stage over all exchanges, in the order in which they first came."""
        return together(stage for each in self.exchanges for stage in each.stages)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what a run's receipt says."""
        fewest = {} if self.fewest is None else {"fewest_in_a_sum": self.fewest}
        bound = {} if self.error_bound is None else {"error_bound": self.error_bound}
        found = {} if self.error is None else {"error": self.error}
        opened = {"opened_by": list(self.opened_by)} if self.opened_by else {}
        return {
            "protocol": self.protocol,
            "assumptions": {name: self.asked[name] for name in _ASSUMED if name in self.asked},
            "exchanges": len(self.exchanges),
            "sums": self.sums,
            **fewest,
            "dropped": [
                {"round": each.round, "phase": each.phase, "party": party, "stage": stage}
                for each, party, stage in self.dropped
            ],
            "blamed": list(self.blamed),
            "failed": [
                {"round": each.round, "phase": each.phase, "why": each.failed} for each in self.failed
            ],
            "clipped": self.clipped,
            **bound,
            **found,
            **opened,
            "stages": {
                stage.name: {
                    "exchanges": stage.exchanges,
                    "seconds": stage.seconds,
                    "bytes": {"down": stage.down, "up": stage.up},
                    "asked": stage.asked,
                    "answered": stage.answered,
                }
                for stage in self.stages
            },
        }


_ASSUMED = ("adversary", "corrupt", "dropout", "least_cohort", "clip", "bits", "key_bits")


def protected(result: Mapping[str, Any]) -> Protected | None:
    """Secure aggregation in a `result.json` object; None where it was off or is not spoken of.

    Args:
        result: The object; parts of it may be absent.
    """
    asked = _asked(result)
    protocol = str(asked.get("protocol") or "none")
    exchanges = exchanges_of(result)
    if protocol == "none" and not exchanges:
        return None
    if protocol == "none":
        protocol = next((each.protocol for each in exchanges if each.protocol), "unknown")
    return Protected(protocol, asked, exchanges)


def exchanges_of(result: Mapping[str, Any]) -> tuple[Exchange, ...]:
    """The protected exchanges of all rounds of a `result.json` object."""
    rounds = result.get("rounds")
    found = []
    for place, each in enumerate(rounds if isinstance(rounds, list | tuple) else [], 1):
        told = _mapping(each)
        number = count(told.get("round"))
        for phase, account in _mapping(told.get("protection")).items():
            if isinstance(account, Mapping):
                found.append(_exchange(place if number is None else number, str(phase), account))
    return tuple(found)


def together(stages: Iterable[Stage]) -> tuple[Stage, ...]:
    """Stages of the same name added up."""
    found: dict[str, Stage] = {}
    for each in stages:
        before = found.get(each.name, Stage(each.name, 0, 0.0, 0, 0, 0, 0))
        found[each.name] = Stage(
            each.name,
            before.exchanges + each.exchanges,
            before.seconds + each.seconds,
            before.down + each.down,
            before.up + each.up,
            before.asked + each.asked,
            before.answered + each.answered,
        )
    return tuple(found.values())


def _asked(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the job asked for; a word is written out where this version knows it."""
    job = _mapping(result.get("job"))
    told = _mapping(result.get("protection")) or _mapping(job.get("protection"))
    written = told.get("secure_aggregation")
    try:
        return SecureAggregation.model_validate(written or "none").__dict__.copy()
    except ValidationError:
        # Of a later version, or by hand.
        return dict(_mapping(written)) or {"protocol": str(written)}


def _exchange(number: int, phase: str, account: Mapping[str, Any]) -> Exchange:
    stages = [_stage(str(name), _mapping(told)) for name, told in _mapping(account.get("stages")).items()]
    dropped = _mapping(account.get("dropped"))
    return Exchange(
        round=number,
        phase=phase,
        asked=count(account.get("asked")) or 0,
        summed=count(account.get("summed")) or 0,
        threshold=count(account.get("threshold")) or None,
        neighbours=count(account.get("neighbours")) or None,
        stages=tuple(stages),
        dropped={str(name): str(stage) for name, stage in dropped.items()},
        blamed=_names(account.get("blamed")),
        clipped=count(account.get("clipped")) or 0,
        error_bound=finite(account.get("error_bound")),
        error=finite(account.get("error")),
        holders=count(account.get("holders")) or None,
        opened_by=_names(account.get("opened_by")),
        protocol=str(account.get("protocol") or ""),
        failed=str(account.get("failed") or ""),
        more={str(name): value for name, value in account.items() if name not in _FIELDS},
    )


def _stage(name: str, told: Mapping[str, Any]) -> Stage:
    def whole(key: str) -> int:
        return max(0, count(told.get(key)) or 0)

    seconds = finite(told.get("seconds"))
    return Stage(
        name,
        1,
        seconds if seconds is not None and math.isfinite(seconds) and seconds > 0 else 0.0,
        whole("down"),
        whole("up"),
        whole("asked"),
        whole("answered"),
    )


def _names(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list | tuple) else ()


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
