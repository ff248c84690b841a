"""What a participant does for an analytics job: says what columns it has, admits questions, and makes its part of sums.

    query.prepare   columns with kinds and units, declared levels, least cell         nothing of the rows
    query.admit     whether it takes part in a question; values of keys, where its policy lets it tell them
    query.totals    its part of a round, or of the check for differences with earlier questions

What leaves for a round is what the gate made of the part (`fedcore.participant.mods.disclosure`, then
`fedcore.participant.private_answers`), masked by `fedcore.participant.mods.secure` where the job asks for a protected sum.

Who learns what: the coordinator, under `secagg+`, sums over all participants and nothing of one; without, each one's part
with its small cells kept back. Participants learn what the coordinator sends for the next round: centres, edges,
coefficients.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict

from fedcore.analytics import overlap, overlap_sums, questions
from fedcore.analytics.question import Part, Question, State
from fedcore.analytics.source import MEMORY, Source
from fedcore.analytics.sums import Sums
from fedcore.errors import DataError, JobError, PolicyRefused, did_you_mean
from fedcore.flower import array_record
from fedcore.jobs.datasets import DataSet
from fedcore.jobs.participant import Participant, Rule
from fedcore.jobs.request import PRIVATE, AnalyticsRequest
from fedcore.participant.answer_costs import fewest
from fedcore.participant.data import read_schema, read_table
from fedcore.participant.mods.disclosure import disclose
from fedcore.participant.mods.evidence import evidence_file
from fedcore.participant.mods.policy import check
from fedcore.participant.private_answers import counted, private_round
from fedcore.participant.private_keys import told_keys

STEP = "question"
EARLIER = "earlier"
"""Key of a state that asks for the check with earlier questions, in place of a round."""
KEYS = "keys"
"""Key of a state that asks for values of group columns."""
ROUND = "number of round"
"""Key of a state: number of the round, from 1."""
_KEPT = 4
_MOST_LEVELS = 1000


def prepare(participant: Participant, request: AnalyticsRequest, message: Message) -> Message:
    """Say what columns the data set has; no row is read."""
    rule = check(participant, request)
    data = participant.catalogue[request.data]
    empty = Source(request.data, read_schema(data).empty_table(), data.units)
    columns = {
        name: [each.kind, each.unit] for name, each in empty.columns.items() if _may_read(name, rule, data)
    }
    # Without a rule for the data set, a person may allow it under a rule's defaults.
    rules = [each for each in participant.policy.rules if _speaks(each, request)] or [rule]
    about = {
        "name": participant.name,
        "columns": columns,
        "levels": {name: list(values) for name, values in data.levels.items() if name in columns},
        "min_cell": max(each.min_cell for each in rules),
        "rows_per_parameter": max(each.rows_per_parameter for each in rules),
        "layers": _layers(participant, request),
    }
    return _reply(message, about)


def admit(participant: Participant, request: AnalyticsRequest, message: Message) -> Message:
    """Whether it takes part in the question; or the values of keys. The policy was asked before this is called."""
    if KEYS in request.state:
        return _reply(message, {"levels": _tell_keys(participant, request)})
    question = questions.read(request.question)
    rule = check(participant, request)
    _refuse_lower(question, rule)
    source = _source(participant, request, question.columns)
    _refuse_unlike(question, source)
    if request.differential_privacy is not None:
        # Noise hides each row whatever is asked besides; the ledger counts what that costs.
        return _reply(message, {"admitted": True, EARLIER: []})
    if request.protected:
        before = overlap_sums.earlier(_told(participant), request.asker, request.data)
        return _reply(message, {"admitted": True, EARLIER: [list(each) for each in before]})
    _note_alone(participant, request, question, source, rule)
    return _reply(message, {"admitted": True, EARLIER: []})


def answer(participant: Participant, request: AnalyticsRequest, message: Message) -> Message:
    """Its part of a round, as it may leave."""
    question = questions.read(request.question)
    rule = check(participant, request)
    _refuse_lower(question, rule)
    source = _source(participant, request, question.columns)
    if EARLIER in request.state:
        if not request.protected or request.differential_privacy is not None:
            raise PolicyRefused(
                "sizes of groups are told for the check with earlier questions into a protected sum of answers without "
                "noise only",
                step=STEP,
            )
        return _arrays(message, _differences(participant, request, question, source))
    _check_round(request.state)
    state = State(told={name: value for name, value in request.state.items() if name != ROUND})
    if request.differential_privacy is not None:
        return _noisy(participant, request, message, question, rule, source, state)
    part = question.partial(source, state)
    sums = disclose(part, rule, protected=request.protected, private=False)
    # In every round: a coordinator may begin where it likes. What was noted before is not noted twice.
    if request.protected:
        _note_summed(participant, request, question, source, rule)
    else:
        _note_alone(participant, request, question, source, rule)
    return _arrays(message, sums)


def _note_alone(
    participant: Participant, request: AnalyticsRequest, question: Question, source: Source, rule: Rule
) -> None:
    """Compare a question with those that this site answered by itself, and note it."""
    query, groups = question.groups_of(source)
    overlap.admit(_told(participant, "alone"), request.asker, query, groups, minimum=rule.min_cell)


def _note_summed(
    participant: Participant, request: AnalyticsRequest, question: Question, source: Source, rule: Rule
) -> None:
    """Note a question that goes into a protected sum, if it was compared with all that this site was told of."""
    file = _compared(participant, request, question)
    compared = json.loads(file.read_text()) if file.exists() else []
    overlap_sums.record(
        _told(participant),
        request.asker,
        request.data,
        question.hash,
        question.text,
        _sets(question, source, rule),
        compared=[(name, count) for name, count in compared],
    )


def _compared(participant: Participant, request: AnalyticsRequest, question: Question) -> Path:
    """Where the site keeps with what a question of a run was compared."""
    return evidence_file(participant).parent / "compared" / request.run / f"{question.hash}.json"


def _noisy(
    participant: Participant,
    request: AnalyticsRequest,
    message: Message,
    question: Question,
    rule: Rule,
    source: Source,
    state: State,
) -> Message:
    """A part with noise on it, and in how large a sum that is enough."""

    def make() -> Part:
        part = question.partial(counted(participant, request, source), state)
        return replace(part, sums=disclose(part, rule, protected=request.protected, private=True))

    rows, rounds = source.rows.num_rows, question.rounds_for_privacy()
    told = private_round(participant, request, make, rounds=rounds, rows=rows)
    reply = _arrays(message, told.sums)
    reply.content[PRIVATE] = ConfigRecord({"present": fewest(request)})
    return reply


def _differences(
    participant: Participant, request: AnalyticsRequest, question: Question, source: Source
) -> Sums:
    """Sizes of what the question has in common with those that were answered before."""
    asked = request.state[EARLIER]
    try:
        earlier = [(str(name), int(count)) for name, count in asked]
    except (TypeError, ValueError) as error:
        raise JobError("the coordinator's list of earlier questions cannot be read", step=STEP) from error
    rule = check(participant, request)
    file = _compared(participant, request, question)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(earlier))
    sets = _sets(question, source, rule)
    return overlap_sums.sizes(_told(participant), request.asker, request.data, sets, earlier)


def _sets(question: Question, source: Source, rule: Rule) -> list[int]:
    """Which rows the groups of a question hold, as bits; in an order that all sites share."""
    _, groups = question.groups_of(source)
    return list(groups.values())


def _tell_keys(participant: Participant, request: AnalyticsRequest) -> dict[str, list[Any]]:
    """Values that columns have here: those of many rows, where the policy lets them be told; or by noisy counts."""
    asked = request.state[KEYS]
    rule = check(participant, request)
    data = participant.catalogue[request.data]
    found: dict[str, list[Any]] = {}
    if not isinstance(asked, list) or len(asked) > 8:
        raise JobError("the coordinator asks for keys of no list of columns", step=STEP)
    for name in map(str, asked):
        if not _may_read(name, rule, data):
            raise PolicyRefused(
                f"values of column {name!r} may not be told (policy.rules, columns)", step=STEP
            )
        source = _source(participant, request, (name,))
        if name not in source.columns:
            raise DataError(f"there is no column {name!r}; {did_you_mean(name, source.columns)}", step=STEP)
        counts = source.rows.column(name).value_counts().to_pylist()
        rows = {each["values"]: int(each["counts"]) for each in counts if each["values"] is not None}
        wanted = request.differential_privacy
        if wanted is not None and wanted.private_keys:
            found[name] = told_keys(participant, request, name, rows)
        elif rule.keys == "told" and wanted is None:
            found[name] = sorted(value for value, count in rows.items() if count >= rule.min_cell)
        else:
            raise PolicyRefused(
                f"values of column {name!r} are not told here (policy.rules, keys: declared). Cure: the site declares "
                f"them in its catalogue (levels), or the job does (levels)",
                step=STEP,
            )
        if len(found[name]) > _MOST_LEVELS:
            raise JobError(f"column {name!r} has too many values to group by; take coarser ones", step=STEP)
    return found


# ---- the data set ---------------------------------------------------------------------------------------------------

_sources: OrderedDict[tuple[str, str, str, tuple[str, ...]], Source] = OrderedDict()
_lock = threading.Lock()


def _source(participant: Participant, request: AnalyticsRequest, columns: tuple[str, ...]) -> Source:
    """The columns of the data set, read once a question and run."""
    key = (participant.name, request.run, request.data, tuple(sorted(columns)))
    with _lock:
        if key in _sources:
            _sources.move_to_end(key)
            return _sources[key]
    data = participant.catalogue[request.data]
    there = read_schema(data).names
    for name in columns:
        if name not in there:
            raise DataError(
                f"data set {request.data!r} has no column {name!r} here; {did_you_mean(name, there)}",
                step=STEP,
            )
    # A question that counts rows reads no column: any one tells how many there are.
    table = read_table(data, list(columns) or there[:1], memory=participant.resources.memory)
    made = Source(request.data, table, data.units, memory=max(participant.resources.memory, MEMORY))
    with _lock:
        _sources[key] = made
        while len(_sources) > _KEPT:
            _sources.popitem(last=False)
    return made


def _refuse_unlike(question: Question, source: Source) -> None:
    """Columns must be what the sites agreed on: a file may have changed since."""
    for name in question.columns:
        here, agreed = source.columns[name], question.agreed.columns.get(name)
        if agreed is None or (here.kind, here.unit) != (agreed.kind, agreed.unit):
            raise DataError(
                f"column {name!r} is {_shown(here)} here and {_shown(agreed) if agreed else 'not agreed on'} at the "
                "others; make them alike (connector, units in the catalogue)",
                step=STEP,
            )


def _shown(column: Any) -> str:
    return f"{column.kind} in {column.unit}" if column.unit else str(column.kind)


def _refuse_lower(question: Question, rule: Rule) -> None:
    if question.agreed.minimum < rule.min_cell:
        raise PolicyRefused(
            f"cells of {question.agreed.minimum} rows would be shown, at least {rule.min_cell} are required here "
            "(policy.rules, min_cell)",
            step=STEP,
        )


def _may_read(name: str, rule: Rule, data: DataSet) -> bool:
    return name != data.row_id and (rule.columns == "all" or name in rule.columns)


def _speaks(rule: Rule, request: AnalyticsRequest) -> bool:
    return "analytics" in rule.jobs and rule.data in (request.data, "any")


def _layers(participant: Participant, request: AnalyticsRequest) -> dict[str, str]:
    noise = request.differential_privacy
    return {
        "evidence": participant.evidence,
        "policy": "on",
        "disclosure": "on",
        "privacy": f"epsilon {noise.epsilon:g}, delta {noise.delta:g}, {noise.mode}" if noise else "off",
        "protection": request.secure_aggregation.protocol if request.protected else "off",
    }


def _check_round(state: Mapping[str, Any]) -> None:
    number = state.get(ROUND)
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= 1000:
        raise JobError("the coordinator's message does not say which round it is", step=STEP)


def _told(participant: Participant, how: str = "sums") -> Path:
    """The site's record of what it was asked, one file for sums and one for answers of its own."""
    return evidence_file(participant).with_name(f"told-{how}.jsonl")


def _reply(message: Message, about: Mapping[str, Any]) -> Message:
    return Message(RecordDict({"site": ConfigRecord({"about": json.dumps(about)})}), reply_to=message)


def _arrays(message: Message, sums: Sums) -> Message:
    return Message(RecordDict({"arrays": array_record(sums)}), reply_to=message)
