"""The first step of a vertical job at a party: which rows all have, their order, their parts, the match-rate report.

The label holder meets each partner in an intersection of two (`fedcore.participant.intersection`, protocol `vole`, both
learn the rows); what follows, and who learns what, stands in `fedcore.vertical.align`. A key that stands in several rows
is refused where it matches: which of its rows is meant would otherwise depend on the order of a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from crypto.psi.items import ItemRules
from fedcore.errors import DataError, PolicyRefused
from fedcore.jobs.participant import Participant, Rule
from fedcore.jobs.request import VerticalRequest
from fedcore.jobs.reveals import is_binary
from fedcore.participant.intersection import MEMORY, ROWS, Side, intersect
from fedcore.participant.vertical_data import (
    data_of,
    features_of,
    groups_of,
    items_of,
    late_rows,
    load_table,
)
from fedcore.peer.channel import FramedChannel
from fedcore.vertical import align
from fedcore.vertical.results import MatchGroup, MatchReport
from fedcore.vertical.state import read_json, write_json
from fedcore.vertical.table import Table

ALIGNED = "align.json"
ORDER = "rows.npy"
PARTS = "parts.npy"

Int64 = npt.NDArray[np.int64]
Channels = Mapping[str, FramedChannel]


@dataclass(frozen=True)
class Aligned:
    """What a party keeps of the alignment, beside the rows.

    Args:
        rows, nulls, items: Of this party: rows, those without a key, distinct keys.
        matched: Rows that all parties have.
        pairs: Of the label holder: matches with each partner; of a partner: with the label holder.
        groups: Match rate by month: name, own rows, matched ones.
        group_column: Which tells the month.
        key: Of order and split, hex; known to the parties only.
        order: Digest of order and parts, the same at all parties.
        data: SHA-256 of this party's values.
        phases: Seconds by phase of the intersections.
    """

    rows: int
    nulls: int
    items: int
    matched: int
    pairs: dict[str, int]
    groups: list[tuple[str, int, int]]
    group_column: str
    key: str
    order: str
    data: str
    phases: dict[str, float]


def align_rows(
    participant: Participant,
    request: VerticalRequest,
    channels: Channels,
    folder: Path,
    rule: Rule,
    watch: Any,
) -> Aligned:
    """Take part, and write what was agreed to the step's folder.

    Args:
        participant: Who.
        request: What is asked.
        channels: To the other parties, by name.
        folder: Of the step.
        rule: Of the site's policy that allows it.
        watch: Told the progress.

    Raises:
        DataError: The data cannot serve: a column is missing, a key stands twice, too few rows match, the label has one
            class.
        PolicyRefused: This site has fewer rows than its policy asks for; nothing of them was sent.
        ProtocolFailed: The parties do not agree on what a key is, or a message was wrong.
        PeerLost: Another party went away.
    """
    job, name = request.plan, participant.name
    features_of(participant, job)  # What cannot serve is told before anything is sent.
    holder, partners = job.label.party, job.partners
    matched: dict[str, Int64] = {}
    told: dict[str, Any] = {}
    phases: dict[str, float] = {}
    for peer in partners if name == holder else (holder,):
        told, matched[peer] = _match(participant, request, peer, channels[peer], folder, rule, watch)
        for phase, taken in told["phases"].items():
            phases[phase] = phases.get(phase, 0.0) + taken["seconds"]
    pairs = {peer: len(rows) for peer, rows in matched.items()}
    watch("agreeing on rows and parts", 0, 0)
    talks = {peer: channels[peer] for peer in matched}
    if name == holder:
        to_partners = [channels[peer] for peer in partners]
        rows = align.tell_common(to_partners, list(matched.values()))
        key = align.key_of_holder(to_partners)
    else:
        rows = align.hear_common(channels[holder], matched[holder], len(partners))
        key = align.key_of_partner(channels[holder], partners.index(name), len(partners))
    _check_enough(request, rule, len(rows))
    agreed = align.order_of(
        items_of(data_of(participant, job), job.parties[name].keys, _rules(request), rows),
        key,
        job.split.test,
    )
    rows = rows[agreed.rows]
    late = None
    if job.split.out_of_time is not None:
        if name == holder:
            late = late_rows(participant, job, rows)
            align.tell_late([channels[peer] for peer in partners], late)
        else:
            late = align.hear_late(channels[holder], len(rows))
    part = align.parted(agreed.part, late)
    digest = align.digest_of(agreed, part, key)
    align.compare(talks, digest)
    _, values = load_table(participant, job, rows, part)
    np.save(folder / ORDER, rows)
    np.save(folder / PARTS, part)
    found = Aligned(
        rows=told["rows"],
        nulls=told["nulls"],
        items=told["items"],
        matched=len(rows),
        pairs=pairs,
        groups=groups_of(participant, job, rows),
        group_column=job.split.out_of_time.column if job.split.out_of_time and name == holder else "",
        key=key.hex(),
        order=digest,
        data=values,
        phases=phases,
    )
    write_json(folder / ALIGNED, asdict(found))
    return found


def read_aligned(folder: Path) -> Aligned:
    """What `align_rows` wrote.

    Raises:
        DataError: It cannot be read.
    """
    return Aligned(**read_json(folder / ALIGNED))


def aligned_table(participant: Participant, request: VerticalRequest, folder: Path) -> Table:
    """This party's table in the agreed order, read again and checked against what was agreed.

    Args:
        participant: Whose.
        request: What is asked.
        folder: Of the step `align`.

    Raises:
        DataError: Rows, their order or their values are not those that were agreed on.
    """
    job, known = request.plan, read_aligned(folder)
    rows, part = np.load(folder / ORDER), np.load(folder / PARTS)
    data, key = data_of(participant, job), job.parties[participant.name].keys
    agreed = align.order_of(
        items_of(data, key, _rules(request), rows), bytes.fromhex(known.key), job.split.test
    )
    in_order = bool((agreed.rows == np.arange(len(rows))).all())
    if not in_order or align.digest_of(agreed, part, bytes.fromhex(known.key)) != known.order:
        raise DataError(
            f"the rows of data set {job.parties[participant.name].data!r} are not those that the parties agreed on: their "
            "order or their keys changed since step align. Put the data back, or begin a new run",
            step="read",
        )
    table, values = load_table(participant, job, rows, part)
    if values != known.data:
        raise DataError(
            f"values of data set {job.parties[participant.name].data!r} changed since step align. Put the data back, or "
            "begin a new run",
            step="read",
        )
    return table


def match_report(known: Aligned) -> MatchReport:
    """The alignment as the party's report shows it."""
    return MatchReport(
        rows=known.rows,
        matched=known.matched,
        left_out={"no key": known.nulls} if known.nulls else {},
        groups=tuple(MatchGroup(*each) for each in known.groups),
        group_column=known.group_column,
    )


class _Lent:
    """A channel for a protocol that would close it at its end: left open where that went well.

    Args:
        channel: It.
    """

    def __init__(self, channel: FramedChannel) -> None:
        self._channel = channel

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._channel.abort()


def _match(
    participant: Participant,
    request: VerticalRequest,
    peer: str,
    channel: FramedChannel,
    folder: Path,
    rule: Rule,
    watch: Any,
) -> tuple[dict[str, Any], Int64]:
    """The intersection with one party: what it told, and the own row of each match."""
    job = request.plan
    party = job.parties[participant.name]
    read = 0

    def told(phase: str, done: int, of: int) -> None:
        nonlocal read
        read = max(read, done) if phase == "read" else read
        watch(phase, done, of)

    def meet() -> FramedChannel:
        if read < rule.min_rows:
            raise PolicyRefused(
                f"data set {party.data!r} has fewer rows than the {rule.min_rows} that the site's policy asks for "
                "(policy.rules, min_rows)",
                step="read",
            )
        return cast(FramedChannel, _Lent(channel))

    side = Side(
        role="receiver" if participant.name == job.label.party else "sender",
        data=data_of(participant, job),
        key=party.keys,
        session=channel.session,
        rules=_rules(request),
        both=True,
        memory=min(job.memory_limit or MEMORY, participant.resources.memory),
    )
    place = folder / f"match {peer}"
    result = intersect(meet, side, place, told)
    table = pq.read_table(place / ROWS).sort_by("match")
    rows, matches = (np.asarray(table.column(name)) for name in ("row", "match"))
    for file in place.iterdir():
        file.unlink()
    place.rmdir()
    if len(np.unique(matches)) < len(matches):
        raise DataError(
            f"a key that matches stands in more than one row of data set {party.data!r} (key {', '.join(party.keys)}); "
            "make one row of each key, or add the column that tells them apart to the key",
            step="read",
            detail=f"{len(matches) - len(np.unique(matches))} rows too many",
        )
    return result, rows


def _rules(request: VerticalRequest) -> ItemRules:
    return ItemRules(**request.plan.items.model_dump())


def _check_enough(request: VerticalRequest, rule: Rule, rows: int) -> None:
    """How many match is not told: the message goes to the coordinator."""
    if not rows:
        raise DataError(
            "the parties have no rows in common; compare what stands in the key columns, and what counts as the same "
            "(items: trim, fold_case, numbers_as_text, dates_as_text)",
            step="match",
        )
    need = 2 * request.plan.bin.min_rows if is_binary(request.plan) else 1
    if rows < rule.min_rows:
        raise PolicyRefused(
            f"the parties have fewer rows in common than the {rule.min_rows} that the site's policy asks for "
            "(policy.rules, min_rows)",
            step="match",
        )
    if rows < need:
        raise DataError(
            f"the parties have fewer rows in common than the {need} that two bins take (bin.min_rows in the job)",
            step="match",
        )
