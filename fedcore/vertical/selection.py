"""Which variables stay: the rules of a scorecard, one after the other, each with its reason.

    hello                        both ways          rows and settings, which must be the same at both
    select.stability  JSON       partner, holder    of each variable: population stability index per part
    select.left       JSON       holder, partner    numbers of the partner's variables that stay so far, and how
                                                    many of the holder's do
    correlation...               both ways          see `fedcore.vertical.correlation`
    select.kept       JSON       holder, partner    of each variable: kept, or by which rule it went and why
    select.sign       JSON       both ways          after a fit: numbers of the partner's variables whose sign is
                                                    wrong; whether any party had one, whether any is left

The rules are in `fedcore.vertical.selection_rules`.

Who learns what: The label holder one number of stability per anonymous variable and part, and correlations
(`fedcore.vertical.correlation`). The partner which of its variables went and by which rule, and so that one
of them correlates with some other variable, or is nearly a combination of others, beyond the limit of the
job; no figure of another party's column.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from crypto.channel import Channel
from crypto.errors import ProtocolError
from fedcore.jobs.vertical import Select
from fedcore.peer.handshake import Hello, shake_hands
from fedcore.vertical.correlation import correlate_label_holder, correlate_partner, correlations
from fedcore.vertical.evidence import Variable, WoeResult
from fedcore.vertical.selection_rules import (
    CORRELATION,
    RULES,
    SIGN,
    VIF,
    Removed,
    Selection,
    alone,
    by_sign,
    nothing_left,
    suspected,
    together,
    without,
    wrong_signs,
)
from fedcore.vertical.stability import stability
from fedcore.vertical.table import OUT_OF_TIME, PARTS, TEST, TRAIN, Table
from fedcore.vertical.woe import Watch, names_of
from fedcore.vertical.woe_messages import LIMIT, MOST_VARIABLES

__all__ = [
    "RULES",
    "Removed",
    "Selection",
    "by_sign",
    "select_label_holder",
    "select_partner",
    "sign_label_holder",
    "sign_partner",
]

VERSION = 1
_LARGEST_INDEX = 1e300
"""A whole number beyond it may be no float."""
_CURES = {
    **dict.fromkeys(
        ("train", "test", "out_of_time"), "both sides need the same rows in the same order: match them again"
    ),
    **dict.fromkeys(
        ("iv", "missing", "correlation", "vif", "stability"),
        "both sides take the rules from one job: start both from the same",
    ),
}


def select_label_holder(
    channels: Sequence[Channel],
    result: WoeResult,
    table: Table,
    settings: Select,
    watch: Watch = lambda phase, done, of: None,
    *,
    partners: Sequence[str] | None = None,
) -> Selection:
    """Which of everybody's variables stay; at the label holder.

    Args:
        channels: One to each partner, in the order in which they were for `woe_label_holder`.
        result: What that gave.
        table: Own columns.
        settings: Of the job.
        watch: Told the progress.
        partners: The partners' names; those that the channels know when None.

    Raises:
        DataError: No variable is left; the rules that removed most are named.
        ProtocolError: A partner disagrees on the settings, or sent what the protocol does not allow.
    """
    partners = names_of(channels, partners)
    rows = table.rows(TRAIN)
    theirs = {
        name: [each for each in result.variables if each.bins is None and each.owner == name]
        for name in partners
    }
    moved = stability(table, result)
    for channel, partner in zip(channels, partners, strict=True):
        _agree(channel, "label holder", table, settings)
        moved |= _read_stability(channel.recv("select.stability", limit=LIMIT), theirs[partner], table)
    removed = [each for each in (alone(v, moved[v.name], settings) for v in result.variables) if each]
    gone = {each.name for each in removed}
    left = [each for each in result.variables if each.name not in gone]
    own = [each for each in left if each.bins is not None]
    columns = result.transformed(table, [each.name for each in own])[rows]
    place = {each.name: number for number, each in enumerate(left)}
    found = np.full((len(left), len(left)), np.nan)
    ours = [place[each.name] for each in own]
    found[np.ix_(ours, ours)] = correlations(columns)
    for done, (channel, partner) in enumerate(zip(channels, partners, strict=True)):
        watch("correlations", done, len(partners))
        staying = [each for each in theirs[partner] if each.name not in gone]
        told = {"left": [each.number for each in staying], "own": len(own), "any": bool(left)}
        channel.send("select.left", json.dumps(told).encode())
        if not left:
            continue
        between, among = correlate_label_holder(channel, columns, len(staying))
        other = [place[each.name] for each in staying]
        found[np.ix_(ours, other)], found[np.ix_(other, ours)] = between, between.T
        found[np.ix_(other, other)] = among
    watch("correlations", len(partners), len(partners))
    if not left:
        raise nothing_left(removed)
    late, vif = together(left, found, settings)
    removed += late
    gone |= {each.name for each in late}
    selection = Selection(
        kept=tuple(each.name for each in result.variables if each.name not in gone),
        removed=tuple(removed),
        suspected=suspected(result, removed, settings),
        stability=moved,
        correlated=tuple(place),
        correlation=found,
        vif=vif,
    )
    why = {each.name: each for each in removed}
    for channel, partner in zip(channels, partners, strict=True):
        answer = [_told(why.get(each.name), settings) for each in theirs[partner]]
        channel.send("select.kept", json.dumps(answer).encode())
    return selection


def select_partner(
    channel: Channel,
    result: WoeResult,
    table: Table,
    settings: Select,
    watch: Watch = lambda phase, done, of: None,
) -> Selection:
    """Which of the own variables stay; at a partner.

    Args:
        channel: To the label holder.
        result: What `woe_partner` gave.
        table: Own columns.
        settings: Of the job.
        watch: Told the progress.

    Raises:
        DataError: No variable of any party is left.
        ProtocolError: The label holder disagrees on the settings, or sent what the protocol does not allow.
    """
    rows = table.rows(TRAIN)
    numbered = sorted(result.variables, key=lambda each: each.number or 0)
    moved = stability(table, result)
    _agree(channel, "partner", table, settings)
    # Rounded: the digits beyond would tell of single rows.
    told = [{part: round(value, 4) for part, value in moved[each.name].items()} for each in numbered]
    channel.send("select.stability", json.dumps(told).encode())
    left, others, some = _read_left(channel.recv("select.left", limit=LIMIT), len(numbered))
    if not some:
        early = [each for each in (alone(v, moved[v.name], settings) for v in numbered) if each]
        raise nothing_left(early)
    names = [numbered[each].name for each in left]
    watch("correlations", 0, 1)
    found = correlate_partner(channel, result.transformed(table, names)[rows], others)
    watch("correlations", 1, 1)
    removed = _read_kept(channel.recv("select.kept", limit=LIMIT), [each.name for each in numbered])
    gone = {each.name for each in removed}
    return Selection(
        kept=tuple(each.name for each in result.variables if each.name not in gone),
        removed=tuple(removed),
        suspected=suspected(result, removed, settings),
        stability=moved,
        correlated=tuple(names),
        correlation=found,
    )


def sign_label_holder(
    channels: Sequence[Channel],
    selection: Selection,
    coefficients: Mapping[str, float],
    result: WoeResult,
    *,
    partners: Sequence[str] | None = None,
) -> tuple[Selection, bool]:
    """`by_sign` at all parties; at the label holder, which learns the partners' variables that went.

    Args:
        channels, result, partners: As for `select_label_holder`.
        selection: Before the fit.
        coefficients: Own ones.

    Returns:
        What is left, and whether anything went at any party: then the model is fitted again.

    Raises:
        DataError: No variable of any party is left.
        ProtocolError: A partner sent what the protocol does not allow.
    """
    partners = names_of(channels, partners)
    removed = wrong_signs(selection, coefficients)
    step = "select.sign"
    for channel, partner in zip(channels, partners, strict=True):
        names = {
            each.number: each.name
            for each in result.variables
            if each.bins is None and each.owner == partner and each.name in selection.kept
        }
        went = _json(channel.recv(step, limit=LIMIT), step)
        if not isinstance(went, list) or not all(type(each) is int and each in names for each in went):
            raise ProtocolError(
                "a variable came that was not kept; the partner does not follow the protocol", step=step
            )
        removed += [
            Removed(names[each], SIGN, "its coefficient, which its owner holds, is negative") for each in went
        ]
    left = len(selection.kept) - len(removed)
    for channel in channels:
        channel.send(step, json.dumps([bool(removed), left > 0]).encode())
    return without(selection, removed), bool(removed)


def sign_partner(
    channel: Channel, selection: Selection, coefficients: Mapping[str, float], result: WoeResult
) -> tuple[Selection, bool]:
    """`by_sign` at all parties; at a partner, which learns only whether anything went elsewhere.

    Args:
        channel, result: As for `select_partner`.
        selection: Before the fit.
        coefficients: Own ones.

    Returns:
        What is left, and whether anything went at any party: then the model is fitted again.

    Raises:
        DataError: No variable of any party is left.
        ProtocolError: The label holder sent what the protocol does not allow.
    """
    step = "select.sign"
    removed = wrong_signs(selection, coefficients)
    channel.send(step, json.dumps([result[each.name].number for each in removed]).encode())
    told = _json(channel.recv(step, limit=LIMIT), step)
    if not isinstance(told, list) or [type(each) for each in told] != [bool, bool]:
        raise _unreadable(step)
    again, left = told
    if not left:
        raise nothing_left((*selection.removed, *removed))
    gone = {each.name for each in removed}
    kept = tuple(name for name in selection.kept if name not in gone)
    return replace(selection, kept=kept, removed=(*selection.removed, *removed)), again


def _agree(channel: Channel, role: str, table: Table, settings: Select) -> None:
    rows = {
        "train": len(table.rows(TRAIN)),
        "test": len(table.rows(TEST)),
        "out_of_time": len(table.rows(OUT_OF_TIME)),
    }
    told = {name: json.dumps(value) for name, value in settings.model_dump(exclude={"sign"}).items()}
    mine = Hello("selection", VERSION, "none", "select", role, {**told, **rows})
    other = "partner" if role == "label holder" else "label holder"
    shake_hands(channel, mine, peer_role=other, cures=_CURES)


def _told(removed: Removed | None, settings: Select) -> list[str] | None:
    """What a partner is told of its own variable: no figure of another party's column."""
    if removed is None:
        return None
    told = removed.reason
    if removed.rule == CORRELATION:
        told = (
            f"correlates beyond {settings.correlation:g} with a variable of this or another party, and has the lower "
            "information value"
        )
    if removed.rule == VIF:
        told = f"its variance inflation factor is above {settings.vif:g}"
    return [removed.rule, told]


def _read_stability(
    data: memoryview, variables: Sequence[Variable], table: Table
) -> dict[str, dict[str, float]]:
    """A partner's stability, by variable and part.

    Raises:
        ProtocolError: It does not fit the variables or the parts.
    """
    step = "select.stability"
    found = _json(data, step)
    parts = [PARTS[part] for part in (TEST, OUT_OF_TIME) if len(table.rows(part))]
    if not isinstance(found, list) or len(found) != len(variables):
        raise _unreadable(step)
    for each in found:
        if not isinstance(each, dict) or list(each) != parts:
            raise _unreadable(step)
        if not all(isinstance(index, float | int) and 0 <= index < _LARGEST_INDEX for index in each.values()):
            raise _unreadable(step)
    return {each.name: told for each, told in zip(variables, found, strict=True)}


def _read_left(data: memoryview, variables: int) -> tuple[list[int], int, bool]:
    """Numbers of own variables that stay so far, how many of the label holder's do, whether any is left.

    Raises:
        ProtocolError: It is not that.
    """
    step = "select.left"
    found = _json(data, step)
    if not isinstance(found, dict) or set(found) != {"left", "own", "any"}:
        raise _unreadable(step)
    left, own, some = found["left"], found["own"], found["any"]
    fits = isinstance(left, list) and all(type(each) is int and 0 <= each < variables for each in left)
    if not fits or len(set(left)) != len(left) or type(own) is not int or not 0 <= own <= MOST_VARIABLES:
        raise _unreadable(step)
    return left, own, bool(some)


def _read_kept(data: memoryview, names: Sequence[str]) -> list[Removed]:
    """Own variables that went.

    Args:
        names: By number.

    Raises:
        ProtocolError: It does not fit them.
    """
    step = "select.kept"
    found = _json(data, step)
    if not isinstance(found, list) or len(found) != len(names):
        raise _unreadable(step)
    removed = []
    for name, each in zip(names, found, strict=True):
        if each is None:
            continue
        if (
            not isinstance(each, list)
            or len(each) != 2
            or each[0] not in RULES
            or not isinstance(each[1], str)
        ):
            raise _unreadable(step)
        removed.append(Removed(name, *each))
    return removed


def _json(data: memoryview, step: str) -> Any:
    try:
        return json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        raise _unreadable(step) from error


def _unreadable(step: str) -> ProtocolError:
    return ProtocolError(
        "what came does not fit the variables; run the same version of fedcore at both, on the same job",
        step=step,
    )
