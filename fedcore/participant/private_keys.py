"""Keys of groups that nobody declared, told by a site where noisy counts say that enough rows have them.

They are paid for as sums are: charged, stored, and then told; asked again, the same are told again. Each site selects by
itself, with all of the noise, since keys do not add up.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from fedcore.errors import DataError, JobError
from fedcore.jobs.participant import Participant
from fedcore.jobs.request import AnalyticsRequest
from fedcore.participant.answer_costs import charged, keys_cost, privacy_of, refuse_delta, relation_of
from fedcore.participant.stored_answers import locked, write
from fedcore.privacy import partitions
from fedcore.privacy.sensitivity import Contribution

STEP = "privacy"


def told_keys(
    participant: Participant, request: AnalyticsRequest, column: str, rows: Mapping[Any, int]
) -> list[Any]:
    """Values of a column that may be told.

    Args:
        participant: Whose rows.
        request: Its state names all columns whose keys the question needs (`keys`).
        column: One of them.
        rows: Per value, how many rows have it.

    Returns:
        Sorted.

    Raises:
        BudgetExhausted: The site's budget does not reach. Nothing was charged.
        PolicyRefused: As for sums.
        JobError: They are not asked for, a person is to be hidden, or values cannot be written as JSON.
        DataError: A file was changed or cannot be written.
    """
    asked, columns = privacy_of(request), request.state.get("keys")
    if not asked.private_keys or not isinstance(columns, list) or column not in columns:
        raise JobError(f"keys of column {column!r} are not asked for", step=STEP)
    if asked.neighbours != "row":
        raise JobError(
            "keys are found by counts of rows, which hide a row and no person. Cure: neighbours: row, or declared levels",
            step=STEP,
        )
    refuse_delta(asked, sum(rows.values()))
    cost, relation = keys_cost(request, len(set(columns))), relation_of(asked)
    selection = partitions.plan(cost.amount, cost.delta, Contribution(), relation)
    mark = hashlib.sha256(f"{column}\0{sorted(set(columns))}\0{request.digest}".encode()).hexdigest()[:16]
    identity = f"{request.run}/{request.name}/keys-{mark}"
    with locked(participant, request) as folder:
        ledger = charged(participant, request, identity, cost, f"{request.job}: keys of {column}")
        file = folder / f"{request.name}.keys-{mark}.json"
        if not file.exists():
            try:
                text = json.dumps(partitions.select(dict(rows), selection))
            except TypeError as error:
                raise JobError(
                    f"values of column {column!r} are no numbers and no text; allowed: those. Cure: declare them (levels)",
                    step=STEP,
                ) from error
            write(file, text.encode())
        raw = file.read_bytes()
        if ledger is not None:
            ledger.release(identity, raw)
    try:
        found: list[Any] = json.loads(raw)
    except ValueError as error:
        raise DataError(
            f"the stored keys {file.name} cannot be read; nothing more is released for them", step=STEP
        ) from error
    return found
