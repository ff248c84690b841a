"""A run's `result.json` as typed records.

The file is read with tolerance: an interrupted run left parts of it out, a diverged one wrote NaN, a later
version adds keys. What is absent here is empty, never invented. Metrics that are `null` or not finite stay in
the record as NaN, so that a table can say "not a number" where a missing metric says nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from fedcore.errors import JobError
from fedcore.jobs.job import Stop

Metrics = dict[str, float]
"""Metric name to value; a value may be NaN."""

_LARGEST = 1e150
"""A metric beyond it has diverged; its square, or the width of an axis, would not be finite."""

_PREFERRED = ("accuracy", "auc", "roc_auc", "balanced_accuracy", "f1", "r2")


@dataclass(frozen=True)
class Site:
    """What one participant reported in one round: seconds per phase, bytes down and up, training rows."""

    train: Metrics
    evaluate: Metrics
    seconds: Metrics
    bytes: Metrics
    examples: int | None


@dataclass(frozen=True)
class Lost:
    """A participant whose reply to a step did not count, and why."""

    round: int
    party: str
    step: str
    reason: str


@dataclass(frozen=True)
class Round:
    """One round: metrics are the strategy's means over the sites, `central` is on the coordinator's data."""

    number: int
    seconds: Metrics
    bytes: Metrics
    train: Metrics
    evaluate: Metrics
    central: Metrics
    sites: dict[str, Site]
    lost: tuple[Lost, ...]

    @property
    def cohort(self) -> int:
        """How many participants were asked, as far as the record tells: those that replied or were lost."""
        return len(self.sites.keys() | {each.party for each in self.lost})

    @property
    def replied(self) -> dict[str, Site]:
        """The participants all of whose replies counted. A lost one stands in `sites` with its bytes."""
        without = {each.party for each in self.lost}
        return {name: site for name, site in self.sites.items() if name not in without}


@dataclass(frozen=True)
class Member:
    """A participant, its rows, and its receipt: which layers of its release gate were on."""

    name: str
    rows: int | None
    train_rows: int | None
    validation_rows: int | None
    layers: dict[str, str]


@dataclass(frozen=True)
class Baselines:
    """Each site alone, all rows pooled, and the federated model, on the same data."""

    measured_on: str
    metric: str
    local: dict[str, Metrics]
    pooled: Metrics
    federated: Metrics


@dataclass(frozen=True)
class Record:
    """A whole run; `raw` is the file as read."""

    raw: dict[str, Any]
    kind: str
    name: str
    run: str
    engine: str
    status: str
    reason: str | None
    started: str
    seconds: float | None
    job: dict[str, Any]
    protection: dict[str, Any]
    members: tuple[Member, ...]
    model: dict[str, Any]
    rounds: tuple[Round, ...]
    final_round: int | None
    final: Metrics
    final_central: Metrics
    final_sites: dict[str, Metrics]
    baselines: Baselines | None
    best: tuple[int, str, float] | None
    left_out: tuple[Lost, ...]
    warnings: tuple[str, ...]
    error: dict[str, Any]

    @property
    def planned_rounds(self) -> int | None:
        """How many rounds the job asked for."""
        return count(self.job.get("rounds"))

    @property
    def rows(self) -> int | None:
        """Rows over all participants; None when no participant's count is known."""
        known = [member.rows for member in self.members if member.rows is not None]
        return sum(known) if known else None

    @property
    def parameters(self) -> int | None:
        """How many numbers the model has."""
        return count(self.model.get("parameters"))

    @property
    def lost(self) -> tuple[Lost, ...]:
        """Every lost participant of every round, in order."""
        return tuple(each for one in self.rounds for each in one.lost)

    def total(self, what: Literal["bytes", "seconds"]) -> Metrics:
        """Bytes by direction or seconds by phase, summed over the rounds."""
        totals: Metrics = {}
        for each in self.rounds:
            for name, value in (each.bytes if what == "bytes" else each.seconds).items():
                totals[name] = totals.get(name, 0.0) + (value if math.isfinite(value) else 0.0)
        return totals

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """Every metric of the run: the primary one, then loss, then the others as they appear."""
        seen = dict(self._measured)
        for values in self.final_sites.values():
            seen.update(dict.fromkeys(values))
        first = [name for name in (self.primary, "loss") if name in seen]
        return tuple(dict.fromkeys([*first, *seen]))

    @cached_property
    def primary(self) -> str:
        """The metric a reader looks at first; empty when the run measured nothing."""
        wanted = [
            self.baselines.metric if self.baselines else "",
            str(_mapping(self.job.get("stop")).get("metric") or ""),
            self.best[1] if self.best else "",
            *_PREFERRED,
        ]
        seen = dict(self._measured)
        if self.baselines:
            seen.update(dict.fromkeys(self.baselines.federated))
        chosen = [name for name in wanted if name in seen] or [name for name in seen if name != "loss"]
        return (chosen or list(seen) or [""])[0]

    @cached_property
    def _measured(self) -> dict[str, None]:
        """Names of evaluation metrics in their order; of training metrics when nothing was evaluated."""
        seen: dict[str, None] = {}
        for each in self.rounds:
            seen.update(dict.fromkeys([*each.evaluate, *each.central]))
        seen.update(dict.fromkeys([*self.final, *self.final_central]))
        if not seen:
            for each in self.rounds:
                seen.update(dict.fromkeys(each.train))
        return seen

    def maximize(self, metric: str) -> bool:
        """Whether more of a metric is better, by the rule that `stop:` uses."""
        stop = _mapping(self.job.get("stop"))
        mode = stop.get("mode") if stop.get("metric") == metric else "auto"
        return mode == "max" if mode in ("min", "max") else Stop(metric=metric).maximize

    def ranked(self, metric: str) -> list[tuple[str, float]]:
        """Final (site, value) pairs of a metric, worst first; sites without a finite value are left out."""
        found = [(site, values[metric]) for site, values in self.final_sites.items() if metric in values]
        return sorted(
            ((site, value) for site, value in found if math.isfinite(value)),
            key=lambda pair: (pair[1] if self.maximize(metric) else -pair[1], pair[0]),
        )


def read_result(run_dir: Path) -> dict[str, Any]:
    """Read a run folder's `result.json`.

    Args:
        run_dir: The run folder.

    Returns:
        The file's object.

    Raises:
        JobError: The file is absent or is not a JSON object.
    """
    path = run_dir / "result.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise JobError(
            f"{path} does not exist; give a run folder, as `fedcore run` prints it (runs/<job>-<time>)"
        ) from error
    except (OSError, ValueError) as error:
        raise JobError(
            f"{path} cannot be read as JSON ({error}); it may be half-written or damaged"
        ) from error
    if not isinstance(found, dict):
        raise JobError(f"{path} holds a {type(found).__name__}, not an object; it is no result of fedcore")
    return found


def parse(result: Mapping[str, Any]) -> Record:
    """The typed record of a `result.json` object; parts that are absent or of a wrong type are empty.

    Args:
        result: The object, as `read_result` gives it or as the coordinator is about to write it.
    """
    final = _mapping(result.get("final"))
    rounds = tuple(_round(_mapping(each), place) for place, each in enumerate(_list(result.get("rounds")), 1))
    job = _mapping(result.get("job"))
    last = next((each for each in reversed(rounds) if each.evaluate or each.central), None)
    return Record(
        raw=dict(result),
        kind=str(result.get("kind") or "train"),
        name=str(result.get("name") or job.get("name") or "unnamed"),
        run=str(result.get("run") or ""),
        engine=str(result.get("engine") or "unknown"),
        status=str(result.get("status") or "unknown"),
        reason=_text(result.get("reason")),
        started=str(result.get("started") or ""),
        seconds=finite(result.get("seconds")),
        job=job,
        protection=_mapping(result.get("protection")) or _mapping(job.get("protection")),
        members=_members(_list(result.get("participants")), rounds),
        model=_mapping(result.get("model")),
        rounds=rounds,
        final_round=count(final.get("round")) if final else (last.number if last else None),
        final=metrics(final.get("evaluate")) if final else (last.evaluate if last else {}),
        final_central=metrics(final.get("central")) if final else (last.central if last else {}),
        final_sites=(
            {name: metrics(each) for name, each in _mapping(final.get("sites")).items()}
            if final
            else {name: site.evaluate for name, site in last.sites.items()}
            if last
            else {}
        ),
        baselines=_baselines(_mapping(result.get("baselines"))),
        best=_best(_mapping(result.get("best"))),
        left_out=tuple(_lost(_mapping(each), 0) for each in _list(result.get("left_out"))),
        warnings=tuple(map(str, _list(result.get("warnings")))),
        error=_mapping(result.get("error")),
    )


def metrics(value: Any) -> Metrics:
    """The numbers of a mapping; null and the words NaN and Infinity become NaN, anything else is dropped."""
    found: Metrics = {}
    for name, each in _mapping(value).items():
        if each is None or (
            isinstance(each, str) and each.lower().lstrip("+-") in ("nan", "inf", "infinity")
        ):
            found[name] = math.nan
        elif isinstance(each, int | float) and not isinstance(each, bool):
            found[name] = float(each) if -_LARGEST <= each <= _LARGEST else math.nan
    return found


def finite(value: Any) -> float | None:
    """The number, or None when it is none or not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_LARGEST <= value <= _LARGEST:
        return None
    return float(value)


def count(value: Any) -> int | None:
    """The whole number, or None when it is none."""
    number = finite(value)
    return None if number is None else int(number)


def mean(values: Iterable[float]) -> float | None:
    """The mean of the finite values, or None when there are none."""
    known = [value for value in values if math.isfinite(value)]
    return math.fsum(known) / len(known) if known else None


def _round(value: dict[str, Any], place: int) -> Round:
    number = count(value.get("round"))
    number = place if number is None else number
    lost = map(_mapping, _list(value.get("lost")))
    return Round(
        number=number,
        seconds=_phases(metrics(value.get("seconds"))),
        bytes=metrics(value.get("bytes")),
        train=metrics(value.get("train")),
        evaluate=metrics(value.get("evaluate")),
        central=metrics(value.get("central")),
        sites={name: _site(_mapping(each)) for name, each in _mapping(value.get("sites")).items()},
        # An exchange without a sum is no participant's; `record_protection` has it.
        lost=tuple(_lost(each, number) for each in lost if each.get("kind") != "RoundFailed"),
    )


def _phases(seconds: Metrics) -> Metrics:
    """Seconds by phase; of a `total`, what no phase explains is the coordinator's own."""
    total = seconds.pop("total", None)
    if total is not None:
        seconds["coordinator"] = max(0.0, total - math.fsum(filter(math.isfinite, seconds.values())))
    return seconds


def _site(value: dict[str, Any]) -> Site:
    return Site(
        train=metrics(value.get("train")),
        evaluate=metrics(value.get("evaluate")),
        seconds=metrics(value.get("seconds")),
        bytes=metrics(value.get("bytes")),
        examples=count(value.get("examples")),
    )


def _lost(value: dict[str, Any], number: int) -> Lost:
    return Lost(
        round=number,
        party=str(value.get("party") or "unknown"),
        step=str(value.get("step") or ""),
        reason=str(value.get("reason") or "no reason recorded"),
    )


def _members(listed: list[Any], rounds: tuple[Round, ...]) -> tuple[Member, ...]:
    """Those listed; a run that stopped listed none, so those that stand in its rounds."""
    if listed:
        return tuple(_member(_mapping(each)) for each in listed)
    seen = {name: site.examples for each in rounds for name, site in each.sites.items()}
    return tuple(Member(name, None, examples, None, {}) for name, examples in sorted(seen.items()))


def _member(value: dict[str, Any]) -> Member:
    return Member(
        name=str(value.get("name") or "unnamed"),
        rows=count(value.get("rows")),
        train_rows=count(value.get("train_rows")),
        validation_rows=count(value.get("validation_rows")),
        layers={name: str(each) for name, each in _mapping(value.get("layers")).items()},
    )


def _baselines(value: dict[str, Any]) -> Baselines | None:
    if not value:
        return None
    return Baselines(
        measured_on=str(value.get("measured_on") or "data that the record does not name"),
        metric=str(value.get("metric") or ""),
        local={name: metrics(each) for name, each in _mapping(value.get("local")).items()},
        pooled=metrics(value.get("pooled")),
        federated=metrics(value.get("federated")),
    )


def _best(value: dict[str, Any]) -> tuple[int, str, float] | None:
    number, reached = count(value.get("round")), finite(value.get("value"))
    if number is None or reached is None:
        return None
    return number, str(value.get("metric") or ""), reached


def _mapping(value: Any) -> dict[str, Any]:
    return {str(key): each for key, each in value.items()} if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _text(value: Any) -> str | None:
    return None if value in (None, "") else str(value)
