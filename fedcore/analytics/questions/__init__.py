"""The kinds of questions: one file for kinds that share their sums."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from fedcore.analytics.question import STEP, Agreed, Question
from fedcore.errors import JobError, did_you_mean
from fedcore.jobs import asks

_HERE: dict[str, str] = {
    "sql": "select:Select",
    "describe": "moments:Describe",
    "covariance": "moments:Covariance",
    "correlation": "moments:Correlation",
    "components": "moments:Components",
    "t_test": "groups:TTest",
    "anova": "groups:Anova",
    "contingency": "tables:Contingency",
    "odds": "tables:Odds",
    "histogram": "counts:Histogram",
    "quantiles": "narrowing:Quantiles",
    "heavy_hitters": "counts:HeavyHitters",
    "linear": "regression:Linear",
    "logistic": "regression:Logistic",
    "poisson": "regression:Poisson",
    "kaplan_meier": "survival:KaplanMeier",
    "cox": "survival:Cox",
}
"""Kinds of `fedcore.jobs.asks.KINDS`, and the module and class here; what a kind imports is imported when it is asked."""


def kind_of(word: str) -> type[Question]:
    """The class of a kind.

    Raises:
        JobError: There is no such kind.
    """
    if word not in _HERE:
        raise JobError(f'question of kind "{word}": {did_you_mean(word, _HERE)}', step=STEP)
    module, name = _HERE[word].split(":")
    found: type[Question] = getattr(import_module(f"{__name__}.{module}"), name)
    return found


def build(asked: asks.Question, agreed: Agreed) -> Question:
    """The question that a job asks, checked against what the sites have.

    Args:
        asked: As the job writes it.
        agreed: By all sites.

    Raises:
        JobError: It names what they do not have, or cannot be asked so; the nearest that can is named.
    """
    return kind_of(asked.kind).build(asked, agreed)


def keys_wanted(asked: asks.Question, agreed: Agreed) -> tuple[str, ...]:
    """Columns of groups whose values nobody declared, and which a question needs to know; flags are false and true.

    Args:
        asked: As the job writes it.
        agreed: By all sites.

    Raises:
        JobError: As `build`.
    """
    return tuple(
        name
        for name in kind_of(asked.kind).keys_of(asked, agreed)
        if name not in agreed.levels and not (name in agreed.columns and agreed.columns[name].kind == "flag")
    )


def to_json(question: Question) -> dict[str, Any]:
    """JSON values of a question and of what the sites agreed on; `read` takes them back."""
    return {"kind": question.kind, "agreed": question.agreed.to_json(), "asked": question.to_json()}


def read(told: Mapping[str, Any]) -> Question:
    """The question in a request.

    Raises:
        JobError: It is none.
    """
    try:
        return kind_of(str(told["kind"])).from_json(told["asked"], Agreed.from_json(told["agreed"]))
    except (KeyError, TypeError) as error:
        raise JobError("the request holds no question that is known here", step=STEP) from error
