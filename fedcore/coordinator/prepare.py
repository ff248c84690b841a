"""Before round 1: who is there, what their rows look like, whether that fits together."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedcore.coordinator.grids.evidence import EvidenceGrid, Lost, Phase
from fedcore.errors import (
    BudgetExhausted,
    DataError,
    FedcoreError,
    JobError,
    PeerLost,
    PolicyRefused,
    TaskFailed,
)
from fedcore.flower import through_outage
from fedcore.jobs.job import TrainJob
from fedcore.jobs.request import RECORD, request_for
from fedcore.learning.task import Schema

CHECK = 0.5
_DESCRIPTION: dict[str, type] = {
    **dict.fromkeys(("name", "dtype"), str),
    **dict.fromkeys(("features", "shape", "classes"), list),
    "layers": dict,
}
COUNTS = ("rows", "train_rows", "validation_rows")
LEAVES_QUIETLY = ("PolicyRefused", "NoReply", "IdentityError")
"""A site that refuses, does not answer or is not who it says is left out, and shown; one whose data is wrong
stops the run."""


@dataclass
class Agreement:
    """What was agreed before round 1.

    Args:
        members: Node id to participant name.
        sites: Per participant what it told: classes, layers, and rows unless they are hidden.
        schema: Of the rows.
        left_out: Who does not take part, and why.
        warnings: For a person.
        phase: The record of the exchange.
        totals: Numbers of rows over all participants, where each one's is hidden and a protected sum told them.
    """

    members: dict[int, str]
    sites: dict[str, dict[str, Any]]
    schema: Schema
    left_out: list[Lost]
    phase: Phase
    warnings: list[str] = field(default_factory=list)
    totals: dict[str, int] = field(default_factory=dict)

    @property
    def most_examples(self) -> int:
        """That one participant can have: the most that one told, or all of them where none told."""
        told = [site["rows"] for site in self.sites.values() if "rows" in site]
        most: int = max(1, *told, self.totals.get("rows", 1))
        return most


def wait_for_nodes(
    grid: Grid, expected: int, minimum: int, patience: float, wanted: Collection[int] | None = None
) -> list[int]:
    """Ids of the nodes online: all expected, or after `patience` seconds at least the minimum.

    Args:
        grid: The engine's.
        expected, minimum, patience: As above.
        wanted: Look at these nodes only.

    Raises:
        PeerLost: Fewer than the minimum came.
    """
    end = time.monotonic() + patience
    while True:
        online = through_outage(grid.get_node_ids)
        nodes = [node for node in online if wanted is None or node in wanted]
        if len(nodes) >= expected:
            return nodes
        if time.monotonic() >= end:
            if len(nodes) >= minimum:
                return nodes
            raise PeerLost(
                f"{len(nodes)} participants are online after {patience:g} s, at least {minimum} are needed; "
                "start the others or lower participants.min",
                party="coordinator",
                step="prepare",
            )
        time.sleep(CHECK)


def prepare(
    grid: EvidenceGrid,
    job: TrainJob,
    run: str,
    nodes: Sequence[int],
    remember: Callable[[int, str], None],
    schema: Schema | None = None,
    *,
    registered: Mapping[int, str] | None = None,
) -> Agreement:
    """Ask every node to describe its rows, and agree on a schema.

    Args:
        grid: Records the exchange.
        job: What is to be done.
        run: The run's id.
        nodes: To ask.
        remember: Told each node's participant name as it answers.
        schema: Of the run that is resumed; it is kept.
        registered: Whose key each node has. A node that answers under another name is left out.

    Raises:
        DataError: A participant's rows cannot serve the job, or do not fit those of the others.
        PolicyRefused, PeerLost: Too few participants are left.
    """
    phase = grid.begin("prepare", 0)
    names = job.participants.names
    request = request_for(job, run, min(len(nodes), len(names or nodes)), None)
    record = ConfigRecord({"request": request.to_json()})
    messages = [Message(RecordDict({RECORD: record}), node, "query.prepare") for node in sorted(nodes)]
    for message in messages:
        message.metadata.ttl = max(job.deadline, 1.0)
    hidden = request.counts_hidden
    scaled = getattr(job.task, "standardize", "none") == "federated" and not hidden
    sites: dict[str, dict[str, Any]] = {}
    moments: dict[str, MetricRecord] = {}
    members: dict[int, str] = {}
    for reply in grid.stream(messages, job.deadline):
        if reply.has_error():
            continue
        about = _description(reply, scaled, hidden)
        if about is None:
            node = f"node {reply.metadata.src_node_id}"
            why = "its answer does not describe rows; install the same version of fedcore at both"
            phase.lost.append(Lost(node, phase.step, "JobError", why))
            continue
        name = about["name"]
        owner = name if registered is None else registered.get(reply.metadata.src_node_id)
        if owner != name:
            whose = f"the key of {owner!r}" if owner else "a key that is not in the roster"
            why = f"it has {whose} and answers as {name!r}; its participant file needs the roster's name"
            phase.lost.append(
                Lost(owner or f"node {reply.metadata.src_node_id}", phase.step, "IdentityError", why)
            )
            continue
        if name in sites:
            raise JobError(f"two nodes say they are participant {name!r}; each needs a name of its own")
        if names is not None and name not in names:
            continue
        members[reply.metadata.src_node_id] = name
        sites[name] = about
        remember(reply.metadata.src_node_id, name)
        if scaled:
            moments[name] = reply.content["moments"]  # type: ignore[assignment]
    # Of those who were not asked for by name, nobody needs to know what they lack.
    lost = [one for one in phase.lost if names is None or one.party in names or one.kind == "NoReply"]
    _enough(job, sites, lost)
    _refuse_unlike(sites)
    if schema is None:
        schema = _agree(sites, _summed(moments), job.task.target)
    else:
        _refuse_changed(sites, schema)
    # Nodes come in any order; whatever is averaged or sampled later goes by name.
    members = dict(sorted(members.items(), key=lambda item: item[1]))
    sites = {name: sites[name] for name in sorted(sites)}
    return Agreement(members, sites, schema, lost, phase, _warnings(sites, schema))


def _enough(job: TrainJob, sites: dict[str, Any], lost: list[Lost]) -> None:
    wrong = [one for one in lost if one.kind not in LEAVES_QUIETLY]
    if wrong:
        known: tuple[type[FedcoreError], ...] = (DataError, JobError, TaskFailed, BudgetExhausted)
        kinds = {kind.__name__: kind for kind in known}
        kind = kinds.get(wrong[0].kind, DataError)
        told = "; ".join(f"{one.party}: {one.reason}" for one in wrong)
        raise kind(
            f"the job cannot start. {told}. Nothing was trained; cure it, or name the others in participants.names",
            party=wrong[0].party,
            step="prepare",
        )
    names = job.participants.names
    missing = [] if names is None else [name for name in names if name not in sites]
    if missing or len(sites) < job.participants.min:
        told = "; ".join(f"{one.party}: {one.reason}" for one in lost) or "nobody else answered"
        why = (
            f"participants.names asks for {', '.join(missing)}"
            if missing
            else f"{len(sites)} of at least {job.participants.min} participants take part"
        )
        refused = any(one.kind == "PolicyRefused" for one in lost)
        raise (PolicyRefused if refused else PeerLost)(
            f"the job cannot start: {why}. {told}. Nothing was trained", party="coordinator", step="prepare"
        )


def _description(reply: Message, scaled: bool, hidden: bool) -> dict[str, Any] | None:
    """What a participant told of its rows, with their moments when `scaled`; None when it is not that."""
    record = reply.content.get("site")
    try:
        about = json.loads(str(record["about"])) if isinstance(record, ConfigRecord) else None
    except (ValueError, KeyError):
        return None
    kinds = {**_DESCRIPTION, **({} if hidden else dict.fromkeys(COUNTS, int))}
    if not isinstance(about, dict) or any(
        not isinstance(about.get(key), kind) for key, kind in kinds.items()
    ):
        return None
    if not scaled:
        return about
    moments = reply.content.get("moments")
    if not isinstance(moments, MetricRecord) or not isinstance(moments.get("rows"), int):
        return None
    columns = [moments.get("sums"), moments.get("squares")]
    fits = all(
        isinstance(c, list) and len(c) == len(about["features"]) and all(map(math.isfinite, c))
        for c in columns
    )
    return about if fits and moments["rows"] == about["train_rows"] else None


def _refuse_unlike(sites: dict[str, dict[str, Any]]) -> None:
    first_name, first = next(iter(sorted(sites.items())))
    for name, site in sorted(sites.items()):
        for what in ("features", "shape", "dtype"):
            if site[what] != first[what]:
                raise DataError(
                    _difference(what, first_name, first[what], name, site[what]), party=name, step="prepare"
                )


def _refuse_changed(sites: dict[str, dict[str, Any]], schema: Schema) -> None:
    for name, site in sorted(sites.items()):
        if tuple(site["features"]) != schema.features or tuple(site["shape"]) != schema.shape:
            raise DataError(
                "the rows have other columns or another shape than when the run began; put the data back as it "
                "was, or start a new run",
                party=name,
                step="prepare",
            )


@dataclass(frozen=True)
class Moments:
    """Of each feature over the training rows of all participants.

    Args:
        rows: How many.
        sums, squares: Of the values and of their squares.
    """

    rows: float
    sums: Sequence[float]
    squares: Sequence[float]

    def scaling(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each; 1 in the place of a deviation that is nothing but rounding."""
        mean = [total / self.rows for total in self.sums]
        variance = [
            max(square / self.rows - m * m, 0.0) for square, m in zip(self.squares, mean, strict=True)
        ]
        scale = [
            math.sqrt(v) if v > 1e-12 * max(m * m, 1e-12) else 1.0
            for v, m in zip(variance, mean, strict=True)
        ]
        return tuple(mean), tuple(scale)


def _summed(moments: dict[str, MetricRecord]) -> Moments | None:
    """The moments over all sites, of those that each told."""
    if not moments:
        return None
    ordered: list[dict[str, Any]] = [dict(moments[name]) for name in sorted(moments)]
    return Moments(
        math.fsum(float(m["rows"]) for m in ordered),
        [math.fsum(column) for column in zip(*(m["sums"] for m in ordered), strict=True)],
        [math.fsum(column) for column in zip(*(m["squares"] for m in ordered), strict=True)],
    )


def _agree(sites: dict[str, dict[str, Any]], moments: Moments | None, target: str | None) -> Schema:
    first = next(iter(sites.values()))
    kinds = {type(label).__name__ for site in sites.values() for label in site["classes"]}
    if "str" in kinds and len(kinds) > 1:
        raise DataError(
            f"the target {target!r} holds text at some sites and numbers at others; use one of them everywhere",
            step="prepare",
        )
    classes = sorted({label for site in sites.values() for label in site["classes"]})
    if classes and len(classes) < 2:
        raise DataError(
            f"the target {target!r} has one class over all sites; a classification needs two or more",
            step="prepare",
        )
    mean, scale = moments.scaling() if moments else ((), ())
    return Schema(tuple(first["features"]), tuple(first["shape"]), tuple(classes), mean, scale)


def _difference(what: str, first_name: str, first: Any, name: str, other: Any) -> str:
    if what == "features":
        lacks = [c for c in first if c not in other]
        more = [c for c in other if c not in first]
        how = f"{name} lacks {', '.join(lacks) or 'none'} and has {', '.join(more) or 'no others'}"
        if not lacks and not more:
            how = "the same columns stand in another order"
    else:
        how = f"{other} at {name}, {first} at {first_name}"
    return (
        f"the {what} of the rows differ between {first_name} and {name}: {how}; "
        "make them alike, or name the common columns in task.features"
    )


def _warnings(sites: dict[str, dict[str, Any]], schema: Schema) -> list[str]:
    told = []
    for name, site in sites.items():
        if schema.classes and len(site["classes"]) == 1:
            told.append(
                f"{name} has rows of one class only; an AUC is not defined there and its update leans one way"
            )
        if site.get("validation_rows") == 0:
            told.append(f"{name} has no validation rows; it is evaluated on its training rows")
    return told
