"""Ask a federation one question from Python: SQL, or a `fedcore.analytics.Query`.

    fedcore.ask("SELECT sex, count(*) FROM lung GROUP BY sex", "federation.yaml").table()
    Query("lung").where("age > 60").group_by("sex").mean("time").on("federation.yaml").table()

Each is an analytics job of one question, with a run folder, a report and an entry in every log, as `fedcore run` has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from fedcore.analytics.query import Query
from fedcore.analytics.sql import parse
from fedcore.errors import JobError, did_you_mean
from fedcore.jobs.analytics import AnalyticsJob
from fedcore.jobs.load import LoadedFederation, load_federation

if TYPE_CHECKING:
    from fedcore.coordinator.record_analytics import Answered, AnswerTable
    from fedcore.engines.run import Run

STEP = "ask"


@dataclass(frozen=True, eq=False)
class Asking:
    """A question to a federation; it is asked once, when its answer is wanted.

    Args:
        job: Of one question.
        federation: Its file.
        options: Of `fedcore.run`: `engine`, `folder`, `watcher`.
    """

    job: AnalyticsJob
    federation: Path
    options: Mapping[str, Any]

    @cached_property
    def run(self) -> Run:
        """The run that asked it.

        Raises:
            FedcoreError: It was refused, or has no answer.
        """
        from fedcore.engines.run import run

        return run(self.job, self.federation, **self.options)

    @property
    def answer(self) -> Answered:
        """What became of it: tables, who took part, what was suppressed, what it cost."""
        return next(iter(self.run.answers.values()))

    def table(self, place: int = 0) -> AnswerTable:
        """The answer's table; a notebook shows it as one."""
        return self.answer.table(place)

    def value(self, name: str, *key: Any) -> Any:
        """One cell: the column's head, then the keys of its row; `SUPPRESSED` stays what it is."""
        return self.table().value(name, *key)

    def _repr_html_(self) -> str:
        return self.answer._repr_html_()


def ask(question: Query | str, federation: str | Path, **settings: Any) -> Asking:
    """A question to a federation, which is asked when its answer is wanted.

    Args:
        question: SQL, or a query.
        federation: Federation file.
        settings: Of `job_of`; and of `fedcore.run`: `engine`, `folder`, `watcher`.

    Raises:
        JobError: It cannot be asked, as far as that can be told without asking anybody.
    """
    options: dict[str, Any] = {
        name: settings.pop(name) for name in ("engine", "folder", "watcher") if name in settings
    }
    loaded = load_federation(federation)
    return Asking(job_of(question, loaded, **settings), Path(federation), options)


def job_of(
    question: Query | str,
    federation: LoadedFederation | None = None,
    *,
    name: str = "ask",
    totals: bool = False,
    epsilon: float | None = None,
    delta: float | None = None,
    secure_sum: bool = True,
    purpose: str = "research",
    asker: str = "coordinator",
    least: int = 3,
    participants: Sequence[str] | None = None,
    **more: Any,
) -> AnalyticsJob:
    """The analytics job that asks one question.

    Args:
        question: SQL, or a query.
        federation: Whose participants' data sets are known; their names are checked then.
        name: Of the job and of its question.
        totals: Whether totals over the keys are asked too.
        epsilon, delta: Differential privacy; none when `epsilon` is None.
        secure_sum: Whether the coordinator sees sums over the participants only.
        purpose, asker: As in a job file.
        least, participants: Fewest that must answer, and whom to ask; all that have the data set when None.
        more: Other keys of `differential_privacy`: `mode`, `neighbours`, `change`, `rows`, `groups`, `private_keys`.

    Raises:
        JobError: It cannot be asked so.
    """
    query = parse(question) if isinstance(question, str) else question
    if not isinstance(query, Query):
        raise JobError(f"the question is a {type(question).__name__}; allowed: SQL, or a Query", step=STEP)
    if totals:
        query = query.totals()
    if delta is not None and epsilon is None:
        raise JobError("delta goes with epsilon; give both, or neither", step=STEP)
    if more and epsilon is None:
        raise JobError(f"{', '.join(more)}: of differential privacy, which needs epsilon", step=STEP)
    noise = None
    if epsilon is not None:
        noise = {"epsilon": epsilon, **({} if delta is None else {"delta": delta}), **more}
    if noise and not secure_sum:
        noise.setdefault("mode", "local")
    data = _known(query.dataset, federation)
    # Names that nobody checked yet travel as they were written, and each site reads them against its own columns.
    asked: dict[str, Any] = (
        {"sql": question, "totals": totals} if isinstance(question, str) else {"query": query.to_json()}
    )
    if data != query.dataset and isinstance(question, str):
        asked = {"query": {**query.to_json(), "dataset": data}}
    written = {
        "kind": "analytics",
        "name": name,
        "data": data,
        "purpose": purpose,
        "asker": asker,
        "participants": {"min": least, "names": None if participants is None else tuple(participants)},
        "ask": {name: asked},
        "protection": {
            "secure_aggregation": "secagg+" if secure_sum else "none",
            "differential_privacy": noise,
        },
    }
    try:
        return AnalyticsJob.model_validate(written)
    except ValidationError as error:
        told = "; ".join(_problem(each) for each in error.errors())
        raise JobError(told, step=STEP) from None


def _known(data: str, federation: LoadedFederation | None) -> str:
    """The data set's name as the catalogues have it; as it was written where they are not on this machine."""
    if federation is None or not federation.participants:
        return data
    names = sorted({name for each in federation.participants for name in each.catalogue})
    if data in names:
        return data
    folded = [name for name in names if name.casefold() == data.casefold()]
    if len(folded) == 1:
        return folded[0]
    if federation.spec.engine == "deployment":
        return data
    raise JobError(f'nobody has a data set "{data}"; {did_you_mean(data, names)}', step=STEP)


def _problem(error: Any) -> str:
    where = ".".join(str(each) for each in error["loc"])
    said = str(error["msg"]).removeprefix("Value error, ")
    return f"{where}: {said}" if where else said
