"""What an answer with noise costs a site, and the ledger that pays for it.

A job's epsilon and delta are split evenly over its questions. With `private_keys`, half of a question's part is for finding
the keys of its groups, and is charged only where they are asked for.
"""

from __future__ import annotations

import math
from fractions import Fraction

from fedcore.errors import JobError, PolicyRefused
from fedcore.jobs.analytics import AnswerPrivacy
from fedcore.jobs.participant import Participant
from fedcore.jobs.request import AnalyticsRequest
from fedcore.participant.budgets import site_ledger
from fedcore.privacy.budget import Cost
from fedcore.privacy.exact import exact
from fedcore.privacy.ledger import Ledger
from fedcore.privacy.sensitivity import Neighbours

STEP = "privacy"

_SMALL = 1e-12
"""Keeps a product such as 0.1 * 30 on the side of the whole number that is meant."""


def privacy_of(request: AnalyticsRequest) -> AnswerPrivacy:
    """The job's promise.

    Raises:
        JobError: It makes none.
    """
    if request.differential_privacy is None:
        raise JobError("the job asks for no differential privacy", step=STEP)
    return request.differential_privacy


def relation_of(asked: AnswerPrivacy) -> Neighbours:
    """Whose presence the job hides."""
    return Neighbours(asked.neighbours, asked.change)


def cost_of(request: AnalyticsRequest) -> Cost:
    """What the sums of one question cost."""
    asked = privacy_of(request)
    shares = request.shares * (2 if asked.private_keys else 1)
    return Cost("epsilon", exact(asked.epsilon, "epsilon") / shares, exact(asked.delta, "delta") / shares)


def keys_cost(request: AnalyticsRequest, columns: int) -> Cost:
    """What finding the keys of one column costs.

    Args:
        request: With its promise.
        columns: Of which the question needs keys.
    """
    half = cost_of(request)
    return Cost("epsilon", half.amount / columns, half.delta / columns)


def fewest(request: AnalyticsRequest) -> int:
    """Participants that a sum must have, or it has less noise than was promised.

    With mode central the secure sum itself must refuse fewer (its `least_cohort`): a coordinator may say of anybody that
    he dropped out.
    """
    if privacy_of(request).mode == "local":
        return 1
    return request.cohort - math.floor(request.secure_aggregation.dropout * request.cohort + _SMALL)


def lost(request: AnalyticsRequest) -> int:
    """Participants that may drop out of a sum, or tell their share of the noise."""
    if privacy_of(request).mode == "local":
        return 0
    corrupt = math.ceil(request.secure_aggregation.corrupt * request.cohort - _SMALL)
    return request.cohort - fewest(request) + corrupt


def refuse_delta(asked: AnswerPrivacy, rows: int) -> None:
    """Refuse a delta above one over the rows.

    At this site alone: the number of rows over all sites is told to nobody.

    Raises:
        PolicyRefused: It is.
    """
    if exact(asked.delta, "delta") > Fraction(1, max(rows, 1)):
        raise PolicyRefused(
            f"delta is {asked.delta:g}, above one over the number of rows at this site; allowed: less, for a larger one would "
            "allow to publish somebody's row. Cure: a smaller delta",
            step=STEP,
        )


def charged(
    participant: Participant, request: AnalyticsRequest, identity: str, cost: Cost, what: str
) -> Ledger | None:
    """The ledger, with a release paid; None where the site keeps none for the data set.

    Args:
        participant: Whose.
        request: For what.
        identity: Of what is paid; it pays once.
        cost: Of it.
        what: For people.

    Raises:
        BudgetExhausted: The budget does not reach. Nothing was charged.
        PolicyRefused: The promise is not the one that the budget is kept in, or the identity was used for another request.
        DataError: The ledger was changed, or an older copy was put back.
    """
    ledger = site_ledger(participant, request.data)
    if ledger is None:
        return None
    promised, kept = relation_of(privacy_of(request)), ledger.account().neighbours
    if promised != kept:
        raise PolicyRefused(
            f"the job's promise is about {promised}, and the site's budget about {kept}; allowed: the same. Cure: "
            f"neighbours: {kept.unit} and change: {kept.change} in the job's protection.differential_privacy",
            step=STEP,
        )
    ledger.charge(identity, cost, what, digest=request.digest)
    return ledger
