"""Membership inference with canaries: a lower bound on the epsilon of a training, from one training.

    1 canaries     m rows of a site, each given a wrong target; a fair coin for each says whether it is trained on
    2 training     once with those that the coin chose, once with none of them, to compare with
    3 score        by how much a canary's loss is lower than where none was trained on, large losses on a logarithmic scale
    4 guess        `in` for the highest scores, `out` for the lowest, none for those between
    5 bound        the smallest epsilon at which that many right guesses are not too unlikely

Under (epsilon, delta)-differential privacy each guess is right with probability e^epsilon / (1 + e^epsilon) at most, whatever
was guessed before, but for delta. So many right guesses speak for a larger epsilon:

    P(v of r right)  <=  P(B >= v) + 2 m delta max over i of P(v - i <= B < v) / i,     B binomial (r, e^epsilon / (1 + e^epsilon))

How many guesses are made is tried in a few ways, which share the chance of error. A bound far below the claim proves
nothing: another attack may see more. A bound above the claim disproves it, with that chance of error.

Source: Steinke, Nasr and Jagielski, "Privacy Auditing with One (1) Training Run", NeurIPS 2023, algorithm 1 and section 5.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from fedcore.errors import DataError, JobError
from fedcore.learning.examples import Examples
from fedcore.learning.seeds import own_randomness, seeded_model
from fedcore.learning.task import Task
from fedcore.learning.training import load_arrays

if TYPE_CHECKING:
    import pyarrow as pa

STEP = "audit"
CONFIDENCE = 0.95
SHARES = (0.1, 0.25, 0.5, 1.0)
"""Of the canaries, how many guesses are made; the best counts."""
LARGEST = 100.0
"""Of a bound; no audit of fewer than 10^40 canaries gets there."""

Floats = npt.NDArray[np.float64]
Coins = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Claim:
    """What a job promises about one row.

    Args:
        epsilon, delta: About one row, there or not.
        words: As the job says it.
    """

    epsilon: float
    delta: float
    words: str


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Args:
        canaries: m, over all trainings.
        guesses: r, of the way that gives the bound.
        right: Of them.
        epsilon: Lower bound; 0 where nothing was found.
        delta: At which.
        confidence: Of the bound.
        claim: Of the job; None when it promises nothing.
    """

    canaries: int
    guesses: int
    right: int
    epsilon: float
    delta: float
    confidence: float
    claim: Claim | None = None

    @property
    def holds(self) -> bool | None:
        """Whether the claim is not disproved; None where there is none."""
        return None if self.claim is None else self.epsilon <= self.claim.epsilon

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "holds": self.holds}


def audit(
    scores: Floats,
    included: Coins,
    *,
    delta: float = 0.0,
    confidence: float = CONFIDENCE,
    claim: Claim | None = None,
) -> Audit:
    """The lower bound that scores give.

    Args:
        scores: (m,), higher where a canary looks as if it had been trained on; made without a look at the coins.
        included: (m,), the coins.
        delta: Of the promise that is tested; 0 for none.
        confidence: With which the bound holds, above 0.5, below 1.
        claim: Told with the result.

    Raises:
        JobError: A number is out of range, or the arrays do not go together.
    """
    many = len(scores)
    if scores.shape != included.shape or scores.ndim != 1 or many < 2:
        raise JobError(f"{many} scores and {len(included)} coins; allowed: as many, 2 or more", step=STEP)
    if not np.isfinite(scores).all():
        raise DataError("a canary's loss is not finite; lower local.lr", step=STEP)
    if not 0.5 < confidence < 1:
        raise JobError(f"confidence is {confidence}; allowed: above 0.5, below 1", step=STEP)
    order = np.argsort(scores, kind="stable")
    tried = sorted({max(1, round(share * many / 2)) for share in SHARES})
    best: Audit | None = None
    for half in tried:
        half = min(half, many // 2)
        right = int((~included[order[:half]]).sum() + included[order[-half:]].sum())
        found = lower_bound(many, 2 * half, right, delta, 1 - (1 - confidence) / len(tried))
        # Of equal bounds, that of the most guesses.
        if best is None or found >= best.epsilon:
            best = Audit(many, 2 * half, right, found, delta, confidence, claim)
    if best is None:
        raise JobError("no guess was made", step=STEP)
    return best


def lower_bound(
    canaries: int, guesses: int, right: int, delta: float = 0.0, confidence: float = CONFIDENCE
) -> float:
    """The smallest epsilon that so many right guesses are compatible with.

    Args:
        canaries: m.
        guesses: r, 0 to m.
        right: v, 0 to r.
        delta: From 0 to below 1.
        confidence: Of the bound.

    Raises:
        JobError: A number is out of range.
    """
    if not 0 <= right <= guesses <= canaries or not 0 <= delta < 1:
        raise JobError(
            f"{right} right of {guesses} guesses of {canaries} canaries at delta {delta}; allowed: not more than the next, "
            "delta below 1",
            step=STEP,
        )
    unlikely = 1 - confidence
    if chance(canaries, guesses, right, 0.0, delta) >= unlikely:
        return 0.0
    low, high = 0.0, 1.0
    while high < LARGEST and chance(canaries, guesses, right, high, delta) < unlikely:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        enough = chance(canaries, guesses, right, middle, delta) < unlikely
        low, high = (middle, high) if enough else (low, middle)
    return low


def chance(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """The probability of so many right guesses, at most, where the promise is kept.

    Source: Steinke, Nasr and Jagielski, section 5.
    """
    count = np.arange(guesses + 1)
    log_right, log_wrong = -math.log1p(math.exp(-epsilon)), -math.log1p(math.exp(epsilon))
    factorial = np.array([math.lgamma(each + 1) for each in range(guesses + 1)])
    logs = factorial[-1] - factorial - factorial[::-1] + count * log_right + (guesses - count) * log_wrong
    likely = np.exp(logs)
    more = float(likely[right:].sum())
    if not delta or not right:
        return min(1.0, more)
    below = np.cumsum(likely[:right][::-1]) / np.arange(1, right + 1)
    return min(1.0, more + 2 * canaries * delta * float(below.max()))


@dataclass(frozen=True, eq=False)
class Planted:
    """A site's rows, some of which were made canaries.

    Args:
        others: The rows that were not.
        table: These, and the canaries that the coins chose.
        canaries: All of them, chosen or not.
        included: (m,), the coins.
    """

    others: pa.Table
    table: pa.Table
    canaries: pa.Table
    included: Coins


def plant(table: pa.Table, target: str, count: int, row_id: str | None, chance: random.Random) -> Planted:
    """Make canaries of some rows, and put those that a fair coin chooses behind the others.

    Args:
        table: Of a site.
        target: Column that is given a wrong value: another one of those in the table.
        count: Canaries; at most half of the rows become some.
        row_id: Column that names the object of a row; each canary is one of its own.
        chance: Chooses rows, targets and coins.

    Raises:
        DataError: The target is not there, or has one value only.
    """
    import pyarrow as pa

    if target not in table.column_names:
        raise DataError(f"there is no column {target!r} to make canaries with", step=STEP)
    values = list(dict.fromkeys(table.column(target).to_pylist()))
    if len(values) < 2:
        raise DataError(
            f"the target {target!r} has one value at this site; canaries need another. Cure: another participant",
            step=STEP,
        )
    rows = chance.sample(range(table.num_rows), min(count, table.num_rows // 2))
    chosen = table.take(pa.array(rows, pa.int64()))
    wrong = [
        chance.choice([value for value in values if value != true])
        for true in chosen.column(target).to_pylist()
    ]
    chosen = _with_column(chosen, target, wrong)
    if row_id is not None:
        chosen = _with_column(chosen, row_id, _fresh(table.column(row_id), len(rows)))
    included = np.array([chance.random() < 0.5 for _ in rows], bool)
    left = np.ones(table.num_rows, bool)
    left[rows] = False
    others = table.filter(pa.array(left))
    return Planted(others, pa.concat_tables([others, chosen.filter(pa.array(included))]), chosen, included)


def _with_column(table: pa.Table, name: str, values: Sequence[Any]) -> pa.Table:
    import pyarrow as pa

    at = table.column_names.index(name)
    return table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))


def _fresh(column: pa.ChunkedArray, count: int) -> list[Any]:
    import pyarrow as pa

    if pa.types.is_integer(column.type):
        top = max((value for value in column.to_pylist() if value is not None), default=0)
        return [top + 1 + at for at in range(count)]
    return [f"canary-{at}" for at in range(count)]


def scores(without: Floats, with_some: Floats) -> Floats:
    """How much each canary looks as if it had been trained on.

    Args:
        without: (m,), losses where none was trained on.
        with_some: (m,), losses where some were.

    Returns:
        (m,), higher for those that more likely were. What is wrong by much is wrong by any amount, and so the inverse
        hyperbolic sine is compared.
    """
    return np.arcsinh(without) - np.arcsinh(with_some)


def losses(task: Task, arrays: Mapping[str, Any], rows: Examples) -> Floats:
    """The loss of each row by itself.

    Args:
        task: Over the agreed schema.
        arrays: Of the trained model, by name.
        rows: Encoded.

    Returns:
        (n,) float64.
    """
    # Seeded, so that weights that are overwritten at once disturb no other run.
    model = own_randomness(seeded_model(task.model, 0))
    load_arrays(model, dict(arrays))
    model.eval()
    with torch.no_grad():
        return np.array([float(task.loss(model, batch)) for batch in rows.batches(1)], np.float64)
