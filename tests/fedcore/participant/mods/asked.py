"""Requests of an analytics job, as the coordinator would make them."""

from __future__ import annotations

from typing import Any

from fedcore.analytics import questions
from fedcore.analytics.columns import Column
from fedcore.analytics.question import Agreed
from fedcore.jobs import asks
from fedcore.jobs.analytics import AnalyticsJob
from fedcore.jobs.request import AnalyticsRequest, analytics_request_for

COLUMNS = {
    "age": Column("number", "years"),
    "sex": Column("number"),
    "patient": Column("number"),
    "status": Column("number"),
}
MEAN = {"t_test": {"value": "age", "by": "sex"}}
BINS = {"histogram": {"column": "age", "edges": [0.0, 50.0, 100.0]}}
"""What can be asked under noise."""
PRIVATE = {"differential_privacy": {"epsilon": 1.0}}


def a_question(
    asked: dict[str, Any] | None = None, *, cohort: int = 3, run: str = "run-1", **changes: Any
) -> AnalyticsRequest:
    """What a job asks of a site; with `asked` None while preparing."""
    minimum, agreed = changes.pop("minimum", 5), changes.pop("agreed", {})
    job = AnalyticsJob.model_validate(
        {
            "kind": "analytics",
            "name": "lung-job",
            "data": "lung",
            "asker": "anna",
            "ask": {"q": MEAN},
            **changes,
        }
    )
    made = analytics_request_for(job, run, cohort)
    if asked is None:
        return made
    beside = {
        "protected": made.protected,
        "private": made.differential_privacy is not None,
        "minimum": minimum,
        **agreed,
    }
    known = Agreed(**{"data": "lung", "columns": COLUMNS, "levels": {"sex": (1, 2)}, **beside})
    question = questions.build(asks.Question.model_validate(asked), known)
    return made.model_copy(update={"name": "q", "question": questions.to_json(question)})
