"""What an analytics job needs around its questions: what sites have in common, messages, and sums as questions take them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from flwr.app import ConfigRecord, Message, RecordDict

from fedcore.analytics.columns import Column, Kind
from fedcore.analytics.disclosure import checked_minimum
from fedcore.analytics.question import Agreed, Part, Total
from fedcore.analytics.source import Source
from fedcore.coordinator.grids.evidence import Lost, Phase
from fedcore.coordinator.grids.layer import Layer
from fedcore.errors import DataError, JobError, ProtocolFailed
from fedcore.flower import NDArray
from fedcore.jobs.analytics import AnalyticsJob
from fedcore.jobs.request import RECORD, Request

HIDDEN = "hidden:"
"""What the names of arrays begin with that mark entries which a site kept back."""
_TYPES: dict[Kind, pa.DataType] = {
    "number": pa.float64(),
    "text": pa.string(),
    "flag": pa.bool_(),
    "date": pa.date32(),
    "time": pa.timestamp("us"),
}


@dataclass(frozen=True)
class Meeting:
    """Who has the data set, and what they have in common.

    Args:
        members: Node id to participant name, by name.
        sites: Per participant what it said.
        agreed: By all.
        rows_per_parameter: Least of all sites.
        phase: The record of the exchange.
    """

    members: dict[int, str]
    sites: dict[str, dict[str, Any]]
    agreed: Agreed
    rows_per_parameter: float
    phase: Phase
    warnings: list[str] = field(default_factory=list)


def replies_of(
    grid: Layer, request: Request, nodes: Sequence[int], kind: str, deadline: float
) -> dict[int, dict[str, Any]]:
    """What participants say to a request, by node; those that do not are in the phase of the grid's evidence.

    Args:
        grid: Any.
        request: For all of them.
        nodes: Whom to ask.
        kind: Of the message.
        deadline: Seconds.
    """
    record = ConfigRecord({"request": request.to_json()})
    messages = [Message(RecordDict({RECORD: record}), node, kind) for node in nodes]
    for message in messages:
        message.metadata.ttl = max(deadline, 1.0)
    told: dict[int, dict[str, Any]] = {}
    for reply in grid.stream(messages, deadline):
        found = None if reply.has_error() else reply.content.get("site")
        try:
            about = json.loads(str(found["about"])) if isinstance(found, ConfigRecord) else None
        except (ValueError, KeyError):
            about = None
        if isinstance(about, dict):
            told[reply.metadata.src_node_id] = about
    return told


def agreed_by(
    job: AnalyticsJob, sites: dict[str, dict[str, Any]], members: dict[int, str], phase: Phase
) -> Meeting:
    """What all sites have in common. A column that differs is left out; a question that names it is refused with the reason.

    Args:
        job: What is asked.
        sites: Per participant what it said.
        members: Node id to participant name.
        phase: The record of the exchange.

    Raises:
        DataError: A participant's description is none, or there is no common column.
    """
    columns: dict[str, dict[str, Column]] = {}
    levels: dict[str, list[Any]] = {name: list(values) for name, values in job.levels.items()}
    minimum, ratio = 0, 0.0
    for name, about in sites.items():
        try:
            columns[name] = {str(c): Column(*each) for c, each in about["columns"].items()}
            minimum = max(minimum, checked_minimum(int(about["min_cell"])))
            ratio = max(ratio, float(about["rows_per_parameter"]))
            for column, values in about["levels"].items():
                if column not in job.levels:
                    known = levels.setdefault(str(column), [])
                    known += [value for value in values if value not in known]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                "its answer does not describe a data set; install the same version of fedcore at both",
                party=name,
                step="prepare",
            ) from error
    warnings = []
    common: dict[str, Column] = {}
    for column in sorted({each for own in columns.values() for each in own}):
        found = {name: own.get(column) for name, own in columns.items()}
        if len(set(found.values())) == 1:
            common[column] = next(iter(columns.values()))[column]
        else:
            warnings.append(f"column {column!r} cannot be asked: {_unlike(found)}")
    if not common:
        raise DataError(
            f"the participants have no column of {job.data!r} in common. {'; '.join(warnings[:5])}",
            step="prepare",
        )
    agreed = Agreed(
        job.data,
        common,
        {name: _in_order(values) for name, values in levels.items() if name in common},
        minimum,
        job.protection.on,
        job.protection.differential_privacy is not None,
    )
    return Meeting(members, sites, agreed, ratio, phase, warnings)


def explain_unlike(error: JobError, warnings: Sequence[str]) -> JobError:
    """Add to an error over an unknown column why the sites do not have it in common."""
    for warning in warnings:
        column = warning.split("'")[1]
        if column in error.message and "cannot be asked" not in error.message:
            error.message += f". {warning[0].upper()}{warning[1:]}"
    return error


def _unlike(found: Mapping[str, Column | None]) -> str:
    kinds: dict[str, list[str]] = {}
    for name, column in found.items():
        said = (
            "missing" if column is None else f"{column.kind} in {column.unit}" if column.unit else column.kind
        )
        kinds.setdefault(said, []).append(name)
    return "; ".join(
        f"{said} at {', '.join(names[:4])}{' and others' if len(names) > 4 else ''}"
        for said, names in kinds.items()
    )


def _in_order(values: Sequence[Any]) -> tuple[Any, ...]:
    """As declared, where one list has them all; sorted keys help nobody who wrote `low, middle, high`."""
    return tuple(values)


def empty_source(agreed: Agreed, columns: Sequence[str]) -> Source:
    """A data set of no rows, from which a question tells the names, types and shapes of its arrays."""
    fields = [(name, _TYPES[agreed.columns[name].kind]) for name in columns or list(agreed.columns)[:1]]
    units = {name: agreed.columns[name].unit for name, _ in fields if agreed.columns[name].unit}
    return Source(agreed.data, pa.schema(fields).empty_table(), units)


def dtypes_of(part: Part) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Type and shape of each array of a part."""
    return {name: (value.dtype, value.shape) for name, value in part.sums.items()}


def total_of(
    sums: Mapping[str, NDArray],
    sites: int,
    form: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]],
    variance: Mapping[str, float],
) -> Total:
    """Sums as a question takes them.

    Args:
        sums: float64, with the arrays that mark what was kept back.
        sites: In them.
        form: What the question's arrays are.
        variance: Of the noise in each array.

    Raises:
        ProtocolFailed: Other arrays came.
    """
    made, hidden = {}, {}
    for name, value in sums.items():
        if name.startswith(HIDDEN):
            hidden[name.removeprefix(HIDDEN)] = value > 0
            continue
        dtype, shape = form.get(name, (None, ()))
        if dtype is None or value.shape != shape:
            raise ProtocolFailed(
                f"the sites sent an array {name!r} that the question does not have", step="question"
            )
        # Counts are whole numbers, and stay so in a sum of doubles; those with noise too.
        made[name] = np.rint(value).astype(np.int64) if dtype.kind == "i" else value
    lacking = sorted(set(form) - set(made))
    if lacking:
        raise ProtocolFailed(f"the sites sent no array {', '.join(lacking)}", step="question")
    return Total(made, hidden, sites, dict(variance))


def told_of(lost: Sequence[Lost]) -> str:
    """Why they are lost: each reason once, with those that gave it."""
    reasons: dict[str, list[str]] = {}
    for one in lost:
        reasons.setdefault(one.reason, []).append(one.party)
    return "; ".join(
        f"{', '.join(names[:3])}{f' and {len(names) - 3} others' if len(names) > 3 else ''}: {reason}"
        for reason, names in reasons.items()
    )
