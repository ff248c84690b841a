"""The privacy budgets of a site: one ledger for each data set that has a budget, and what a training takes from it.

A training is charged once, in front of the first update that leaves; the run's id is the request's. How many updates
left is counted beside the ledger, so that a round that is done again takes one of those that were paid:

    <state>/privacy/<data>.jsonl                 the ledger; <data>-<year>.jsonl of a budget by the year
    <state>/privacy-<data>.anchor                its newest hash, beside the evidence
    <state>/privacy/runs/<run>.jsonl             what was agreed, whether it was charged, and one line for each update
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

from fedcore.errors import BudgetExhausted, DataError, JobError, PolicyRefused
from fedcore.jobs.participant import Participant
from fedcore.jobs.privacy import NoisePlan, RecordPrivacy
from fedcore.jobs.request import TrainRequest
from fedcore.participant.mods.evidence import evidence_file
from fedcore.privacy.budget import Cost, epsilon_cost
from fedcore.privacy.ledger import Ledger, open_ledger
from fedcore.privacy.sensitivity import Neighbours, neighbours


def site_ledger(participant: Participant, data: str) -> Ledger | None:
    """The ledger of a data set, made on first use; None where the site states no budget for it.

    Raises:
        JobError: The budget is not the one that the ledger was opened with.
        DataError: The ledger was removed, changed or replaced.
    """
    budget = participant.policy.privacy.get(data)
    if budget is None:
        return None
    name = f"{data}-{datetime.now(UTC).year}" if budget.per == "year" else data
    return open_ledger(
        _folder(participant) / f"{name}.jsonl",
        data,
        epsilon_cost(budget.epsilon, budget.delta),
        neighbours(budget.neighbours),
        anchor=evidence_file(participant).with_name(f"privacy-{name}.anchor"),
    )


def required(participant: Participant, data: str, kind: str) -> bool:
    """Whether the site lets jobs of a kind have this data set under differential privacy only."""
    budget = participant.policy.privacy.get(data)
    return budget is not None and kind in budget.required_for


def training_cost(request: TrainRequest, relation: Neighbours) -> Cost:
    """What a training costs a ledger: all that the job promises, at once.

    A promise to each row covers a ledger of rows that are there or not. A promise to a client whose data are replaced covers whatever change of some of its rows, or of all of them, a ledger
    protects: the data of the site stay those of one client. One to a client that is there or not covers that only: with
    one row more, two vectors lie between the two sites' data, and not one.

    Args:
        request: Of the training.
        relation: Of the ledger.

    Raises:
        PolicyRefused: The promise does not cover what the ledger protects.
    """
    asked, noise = request.differential_privacy, request.noise
    if asked is None:
        raise ValueError("the training promises nothing")
    if isinstance(asked, RecordPrivacy):
        if relation != Neighbours("row", "add-remove"):
            raise PolicyRefused(
                f"the job's promise is to {Neighbours('row', 'add-remove')}, and the site's budget protects against {relation}; "
                "use level: client in the job's protection.differential_privacy, whose neighbours: replace covers it"
            )
        return epsilon_cost(asked.epsilon, asked.delta)
    change = noise.change if isinstance(noise, NoisePlan) else asked.neighbours
    if change == "add-remove" and relation != Neighbours("client", "add-remove"):
        raise PolicyRefused(
            f"the job's promise is to {Neighbours('client', 'add-remove')}, and the site's budget protects against "
            f"{relation}; set neighbours: replace in the job's protection.differential_privacy, which covers it"
        )
    return epsilon_cost(asked.epsilon, asked.delta)


def foresee(participant: Participant, request: TrainRequest) -> None:
    """Refuse, before anything is done, a training for which the budget does not reach.

    Raises:
        BudgetExhausted: With the numbers. Nothing is charged.
        PolicyRefused: As `training_cost`.
    """
    ledger = site_ledger(participant, request.data)
    if ledger is None or _counts(participant, request.run).exists():
        return
    account = ledger.account()
    asked, left = training_cost(request, account.neighbours), account.remaining
    if account.charge_of(request.run) is not None or asked.in_measure(left.measure).within(left):
        return
    asked = asked.in_measure(left.measure)
    zero = Fraction(0)
    short = Cost(left.measure, max(asked.amount - left.amount, zero), max(asked.delta - left.delta, zero))
    raise BudgetExhausted(
        f"data set {request.data}: requested {asked.told()}, remaining {left.told(up=False)}"
        f"{'' if left.delta else ', delta 0'}, difference {short.told()} (budget {account.budget.told(up=False)}, spent in "
        f"{len(account.charges)} charges). Cure: a smaller epsilon in protection.differential_privacy"
    )


def take_release(
    participant: Participant, request: TrainRequest, check: Callable[[], object], *, rows: int | None = None
) -> None:
    """Count one more update of a run; with the first one, charge the run.

    Args:
        participant: Whose.
        request: Of the training, with its plan of noise.
        check: Called before the run is charged; raises where the plan does not keep the promise.
        rows: That the noise was worked out for; None where it does not depend on them.

    Raises:
        BudgetExhausted: The budget does not reach, or all updates that were paid have left.
        PolicyRefused: The run was charged for another training.
        DataError: A file was changed or cannot be written.
    """
    noise = request.noise
    if noise is None:
        raise JobError("the request carries no plan of noise; the coordinator must prepare the run first")
    file, digest = _counts(participant, request.run), _digest(request, rows)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a+", encoding="utf-8") as log:
            fcntl.flock(log, fcntl.LOCK_EX)
            log.seek(0)
            lines = log.read().splitlines()
            if not lines:
                _refuse_lost(participant, request)
                check()
                # In front of the charge, so that a charge without a count is a count that was lost.
                lines = [json.dumps({"digest": digest, "paid": noise.releases})]
                log.write(f"{lines[0]}\n")
                log.flush()
                if participant.evidence == "digest":
                    os.fsync(log.fileno())
            _same(lines[0], digest, request.run)
            if len(lines) == 1:
                lines.append(json.dumps({"charged": _charge(participant, request, digest)}))
                log.write(f"{lines[1]}\n")
            begun = len(lines) - 2
            if begun >= noise.releases:
                raise BudgetExhausted(
                    f"run {request.run}: the {noise.releases} updates that were paid for have left this site; allowed: no "
                    "more, whatever became of them. Cure: a new run, or spare in protection.differential_privacy"
                )
            # On the disk before the work begins: what was begun may have left.
            log.write(json.dumps({"update": begun + 1}) + "\n")
            log.flush()
            if participant.evidence == "digest":
                os.fsync(log.fileno())
    except OSError as error:
        raise DataError(
            f"the updates of run {request.run} cannot be counted: {error.strerror or error}"
        ) from error


def _refuse_lost(participant: Participant, request: TrainRequest) -> None:
    ledger = site_ledger(participant, request.data)
    if ledger is not None and ledger.account().charge_of(request.run) is not None:
        raise DataError(
            f"run {request.run} was charged here, and the count of its updates is gone, so that nobody can tell how many have "
            "left; allowed: none more. Cure: a new run, which is charged anew"
        )


def _charge(participant: Participant, request: TrainRequest, digest: str) -> bool:
    ledger = site_ledger(participant, request.data)
    if ledger is None:
        return False
    cost = training_cost(request, ledger.account().neighbours)
    promised = request.differential_privacy
    what = f"train {request.job}: {promised.word if promised else ''}"
    ledger.charge(request.run, cost, what, source="training", digest=digest)
    return True


def _same(line: str, digest: str, run: str) -> None:
    try:
        told = json.loads(line)["digest"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"the count of updates of run {run} cannot be read; nothing more leaves in it"
        ) from error
    if told != digest:
        raise PolicyRefused(
            f"run {run} was begun with another training, other noise or other rows; allowed: the same. Cure: a new run, which is "
            "charged anew"
        )


def _digest(request: TrainRequest, rows: int | None) -> str:
    told = request.model_dump_json(by_alias=True, exclude={"cohort", "schema_"})
    if rows is not None:
        # The noise follows from them: with others the run would be another one.
        told += f" rows {rows}"
    return hashlib.sha256(told.encode()).hexdigest()


def _folder(participant: Participant) -> Path:
    return evidence_file(participant).parent / "privacy"


def _counts(participant: Participant, run: str) -> Path:
    return _folder(participant) / "runs" / f"{run}.jsonl"
