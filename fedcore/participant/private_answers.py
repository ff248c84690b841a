"""Noise on what a site answers to a question, paid from its budget before it is drawn.

    1 charge     the question's part of the job's epsilon and delta, once, whatever its rounds
    2 compute    the noise on the sums
    3 store      the noisy arrays, on the disk
    4 release    their hash in the ledger; then they may leave

After a crash the same request goes on where it stopped, and pays nothing more: what was stored is sent again, bit for bit,
and new noise is drawn only where nothing was stored, so that nothing had left. The ledger keeps the hash of a question's
first round, so that a site that lost its stored answers does not draw noise a second time:

    <state>/answers/<run>/<question>-<round>.safetensors

A request for more rounds than the noise was sized for is refused, and so is one that asks something else under a name that
was answered.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedcore.analytics.question import Part
from fedcore.analytics.source import Source
from fedcore.errors import DataError, JobError, PolicyRefused
from fedcore.jobs.participant import Participant
from fedcore.jobs.request import AnalyticsRequest
from fedcore.participant.answer_costs import (
    charged,
    cost_of,
    fewest,
    lost,
    privacy_of,
    refuse_delta,
    relation_of,
)
from fedcore.participant.stored_answers import locked, write
from fedcore.privacy.answers import AnswerPlan, Entries, add_noise, plan_answers, statement
from fedcore.privacy.contribution import bounded_rows

STEP = "privacy"
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class PrivateAnswer:
    """What may leave for one round of a question.

    Args:
        sums: float64 arrays with their noise, by name, in the order of the question.
        number: Of the round, from 1.
        promise: As `fedcore.privacy.answers.statement` tells it.
        again: Whether it had been stored before this call.
    """

    sums: Arrays
    number: int
    promise: dict[str, Any]
    again: bool


def private_round(
    participant: Participant, request: AnalyticsRequest, make: Callable[[], Part], *, rounds: int, rows: int
) -> PrivateAnswer:
    """A round of a question with noise on it, paid for and stored.

    Where a person is to be hidden, the part must be over the rows of `counted` only.

    Args:
        participant: Whose rows.
        request: With the question's name, and the state of the round.
        make: Gives the site's part of the round; called only where nothing is stored for it.
        rounds: That the question takes at most (`Question.rounds_for_privacy`).
        rows: Of this site that the question is over.

    Raises:
        BudgetExhausted: The site's budget does not reach. Nothing was charged.
        PolicyRefused: Delta is too large for this site's rows, the promise is not the one that the budget is kept in, the
            name was used for another question, or all rounds were answered.
        JobError: An array has no bounds, or noise cannot be planned.
        DataError: A file was changed or cannot be written, or the rows do not serve.
    """
    asked = privacy_of(request)
    refuse_delta(asked, rows)
    with locked(participant, request) as folder:
        what = f"{request.job}: {request.name} ({request.question.get('kind', 'question')})"
        ledger = charged(participant, request, _identity(request), cost_of(request), what)
        found = _stored(folder, request)
        digest = _state(request)
        made = next((each for each in found if each.about["state"] == digest), None)
        if made is None:
            if len(found) >= rounds:
                raise PolicyRefused(
                    f"question {request.name}: a round beyond the {rounds} that its noise is sized for; allowed: those. "
                    "Cure: ask it in a new run, which is charged anew",
                    step=STEP,
                )
            made = _store(folder, request, len(found) + 1, digest, make(), rounds)
            found.append(made)
            again = False
        elif made.about["present"] != _shared_out(request):
            raise PolicyRefused(
                f"round {made.number} of question {request.name} was answered with noise shared out among others; allowed: "
                "the same participants. Cure: a new run, which is charged anew",
                step=STEP,
            )
        else:
            again = True
        if ledger is not None:
            ledger.release(_identity(request), found[0].raw)
        # Read back from what is stored, so that what is sent now and what is sent again are the same.
        return PrivateAnswer(made.sums, made.number, made.about["promise"], again)


def plan_of(request: AnalyticsRequest, arrays: dict[str, Entries], rounds: int) -> AnswerPlan:
    """The noise of the request's question; the coordinator comes to the same from the same arrays.

    Args:
        request: With the cohort.
        arrays: From `entries_of`.
        rounds: Of the question.

    Raises:
        JobError: Noise cannot be planned.
    """
    asked, cost = privacy_of(request), cost_of(request)
    return plan_answers(
        arrays,
        relation_of(asked),
        epsilon=cost.amount,
        delta=cost.delta,
        rounds=rounds,
        mode=asked.mode,
        participants=request.cohort,
        lost=lost(request),
        rows=asked.rows,
        groups=asked.groups,
    )


def entries_of(part: Part) -> dict[str, Entries]:
    """What the arrays of a part are made of.

    Raises:
        JobError: One has no bounds.
    """
    bare = sorted(set(part.sums) - set(part.bounds))
    if bare:
        raise JobError(
            f"arrays {', '.join(bare)} have no bounds for what a row adds; allowed under differential privacy: arrays that "
            "have. Cure: bounds for the columns, or another question",
            step=STEP,
        )
    return {
        name: Entries(
            np.shape(value),
            part.bounds[name].low,
            part.bounds[name].high,
            bool(np.issubdtype(np.asarray(value).dtype, np.integer)),
        )
        for name, value in part.sums.items()
    }


def counted(participant: Participant, request: AnalyticsRequest, source: Source) -> Source:
    """The rows that count: all where a row is hidden, and the first of each person where a person is.

    Args:
        participant: Whose catalogue.
        request: With its promise.
        source: All rows of the data set, in its order.

    Raises:
        PolicyRefused: A person is to be hidden, and the catalogue does not say which column names the person.
        DataError: That column misses values, or the rows are not those of the data set.
    """
    asked = privacy_of(request)
    if asked.neighbours == "row":
        return source
    data = participant.catalogue[request.data]
    if data.row_id is None:
        raise PolicyRefused(
            f"data set {request.data} does not say which column names the person of a row; allowed: neighbours: row. Cure: "
            "row_id in the site's catalogue",
            step=STEP,
        )
    from fedcore.participant.data import read_table

    ids = read_table(data, [data.row_id], memory=participant.resources.memory).column(data.row_id)
    if len(ids) != source.rows.num_rows:
        raise DataError(f"the rows of {request.data} changed while they were read; ask again", step=STEP)
    kept = bounded_rows(np.array(ids.to_pylist(), dtype=object), None, asked.rows, asked.groups)
    import pyarrow as pa

    return replace(source, rows=source.rows.filter(pa.array(kept)))


def _shared_out(request: AnalyticsRequest) -> list[int] | None:
    """Among whom the noise is shared out; None where each participant adds all of it."""
    if privacy_of(request).mode == "local":
        return None
    return [request.cohort, fewest(request), lost(request)]


def _identity(request: AnalyticsRequest) -> str:
    return f"{request.run}/{request.name}"


def _state(request: AnalyticsRequest) -> str:
    return hashlib.sha256(json.dumps(request.state, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class _Stored:
    """A round as it lies on the disk."""

    number: int
    raw: bytes
    sums: Arrays
    about: dict[str, Any]


def _store(
    folder: Path, request: AnalyticsRequest, number: int, state: str, part: Part, rounds: int
) -> _Stored:
    plan = plan_of(request, entries_of(part), rounds)
    sums = add_noise(part.sums, plan, rows=part.rows)
    about = {
        "request": request.digest,
        "present": _shared_out(request),
        "state": state,
        "names": list(sums),
        "promise": statement(plan),
    }
    arrays = {name: np.asarray(value, order="C") for name, value in sums.items()}
    raw = save(arrays, {"about": json.dumps(about)})
    file = folder / f"{request.name}-{number}.safetensors"
    write(file, raw)
    return _read(file, number)


def _stored(folder: Path, request: AnalyticsRequest) -> list[_Stored]:
    """The rounds of the question that were answered, in order."""
    of_name = re.compile(rf"{re.escape(request.name)}-(\d+)\.safetensors")
    files = {int(match[1]): file for file in folder.iterdir() if (match := of_name.fullmatch(file.name))}
    found = [_read(files[number], number) for number in sorted(files)]
    if [each.number for each in found] != list(range(1, len(found) + 1)):
        raise DataError(
            f"stored answers of question {request.name} are missing; nothing more is released for it. Cure: put them back",
            step=STEP,
        )
    if any(each.about["request"] != request.digest for each in found):
        raise PolicyRefused(
            f"question {request.name} of run {request.run} was answered before, and asked something else; allowed: one question "
            "to a name. Cure: a new run, which is charged anew",
            step=STEP,
        )
    return found


def _read(file: Path, number: int) -> _Stored:
    try:
        raw = file.read_bytes()
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        about = json.loads(header["__metadata__"]["about"])
        arrays = load(raw)
        return _Stored(number, raw, {name: arrays[name] for name in about["names"]}, about)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DataError(
            f"the stored answer {file.name} cannot be read; nothing more is released for it. Cure: put back a copy",
            step=STEP,
            detail=str(error),
        ) from error
