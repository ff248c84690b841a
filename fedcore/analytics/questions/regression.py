"""Linear, logistic and Poisson regression: a round for the means, then one for each Newton step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

from fedcore.analytics import codec, glm, local, newton
from fedcore.analytics.condition import Both, Compare, Condition
from fedcore.analytics.disclosure import Key, Suppressed
from fedcore.analytics.query import Query
from fedcore.analytics.question import STEP, Agreed, Answer, Part, State, Total
from fedcore.analytics.questions.asked import LEFT_OUT, Withheld
from fedcore.analytics.questions.concentration import POWERS, powers
from fedcore.analytics.questions.models import Fit, texts
from fedcore.analytics.source import Source
from fedcore.analytics.sums import Sums, number
from fedcore.errors import DataError, JobError
from fedcore.jobs import asks

START, NEWTON = "start", "newton"
Model = TypeVar("Model", bound=asks.Linear)


@dataclass(frozen=True)
class _Kept:
    state: newton.State
    left_out: int | Suppressed | None
    sums: Sums | None = None


class Regression(Fit[Model]):
    """A generalized linear model.

    Attributes:
        fit: As `fedcore.analytics.glm` takes it.
    """

    family: ClassVar[glm.Family]
    fit: glm.Regression

    def check(self) -> None:
        """Numeric columns and categories with levels, each once."""
        asked = self.asked
        beside = [each for each in (asked.offset, asked.weights) if each is not None]
        self.numeric(asked.response, *beside)
        self.once(asked.response, *asked.columns)
        self.once(*(each for each in (asked.response, asked.weights) if each is not None))
        self.expand(asked.columns)
        if self.has_intercept and "intercept" in self.names:
            raise JobError(
                'a column is called "intercept". Cure: rename it, or ask without intercept', step=STEP
            )
        try:
            self.fit = glm.Regression(
                self.family,
                asked.response,
                self.names,
                asked.intercept,
                asked.offset,
                asked.weights,
                asked.missing,
            )
        except DataError as error:
            raise JobError(error.message, step=STEP) from error

    @classmethod
    def keys_of(cls, asked: asks.Question, agreed: Agreed) -> tuple[str, ...]:
        """Columns of text, which become indicators."""
        return texts(asked.asked.columns, agreed)

    @property
    def has_intercept(self) -> bool:
        """As asked."""
        return self.asked.intercept

    @property
    def read(self) -> tuple[str, ...]:
        """All columns of the model."""
        asked = self.asked
        names = (asked.response, *asked.columns, asked.offset, asked.weights)
        return tuple(dict.fromkeys(name for name in names if name is not None))

    def lacks_for_privacy(self) -> str | None:
        """Sums without bounds."""
        return (
            f"{self.kind} regression cannot be asked under differential privacy, because its sums have no bounds. Cure: "
            "train the model with client-level privacy, or ask contingency tables and histograms"
        )

    def groups_of(self, source: Source) -> tuple[Query, dict[Key, int]]:
        """Which rows of a site it is over: of those that meet the condition, the ones whose weight is above 0."""
        if self.asked.weights is None:
            return super().groups_of(source)
        query = Query(self.agreed.data, self._weighted(self.asked.weights)).count()
        return query, {(): local.row_sets(query, source, minimum=None).get((), 0)}

    def begin(self) -> State:
        """Before the means are known."""
        return State({"round": START})

    def partial(self, source: Source, state: State) -> Part:
        """Sums of the columns, or value, gradient and information."""
        word = self.round(state, START, NEWTON)
        before = self.read_state(state.told.get("state")) if word == NEWTON else None
        columns = self.expanded(self.taken(source, self.categories))
        if before is None:
            sums = glm.partial_start(columns, self.fit)
        else:
            sums = glm.partial_step(columns, self.fit, before)
            if not before.rounds:
                matrix, weight = glm.design(columns, self.fit)
                sums[POWERS] = powers(before.design(matrix), weight)
        return Part(sums, number(sums["rows"]), self.size, {LEFT_OUT: ()})

    def combine(self, total: Total, state: State) -> State:
        """The next coefficients."""
        left_out, sums = self.left_out(total), total.sums
        if self.round(state, START, NEWTON) == START:
            if why := self.thin(sums, self.size) or self._rare(sums):
                return State({}, Withheld(why, left_out), done=True)
            return self._ask(_Kept(glm.combine_start(sums, self.fit), left_out))
        kept: _Kept = state.kept
        if self.too_few(number(sums["rows"])):
            return State({}, Withheld(self.few_rows, left_out), done=True)
        if POWERS in sums and (why := self.few_carry(sums.pop(POWERS))):
            return State({}, Withheld(why, left_out), done=True)
        after = glm.combine_step(sums, self.fit, kept.state)
        return self._ask(_Kept(after, left_out, sums))

    def answer(self, state: State) -> Answer:
        """A row a coefficient."""
        if isinstance(state.kept, Withheld):
            return self.nothing(state.kept.why, state.kept.left_out)
        kept: _Kept = state.kept
        found = glm.result(kept.sums or {}, self.fit, kept.state, confidence=self.asked.confidence)
        table = replace(found, left_out=0).table()
        return self.shows((table,), kept.left_out, plots=self.plots(found.coefficients))

    def _weighted(self, name: str) -> Condition:
        flag = self.agreed.columns[name].kind == "flag"
        counts = Compare(name, "=", (True,)) if flag else Compare(name, ">", (0,))
        return counts if self.condition is None else Both("and", (self.condition, counts))

    @property
    def size(self) -> int:
        """Coefficients."""
        return len(self.names) + self.asked.intercept

    def _ask(self, kept: _Kept) -> State:
        if kept.state.done:
            return State({}, kept, done=True)
        return State({"round": NEWTON, "state": codec.pack(self.view(kept.state))}, kept)

    def _rare(self, sums: Sums) -> str:
        """Why a logistic model may not be told: few rows have the outcome, or few have not."""
        if self.family != "logistic" or self.asked.weights:
            return ""
        ones = round(float(sums["response"]))
        rare = self.too_few(ones) or self.too_few(number(sums["rows"]) - ones)
        least = self.agreed.minimum
        return f"suppressed: fewer than {least} rows have the outcome, or have it not" if rare else ""


class Linear(Regression[asks.Linear]):
    """Linear regression."""

    kind: ClassVar[str] = "linear"
    family = "linear"
    model = asks.Linear


class Logistic(Regression[asks.Logistic]):
    """Logistic regression."""

    kind: ClassVar[str] = "logistic"
    family = "logistic"
    model = asks.Logistic


class Poisson(Regression[asks.Poisson]):
    """Poisson regression."""

    kind: ClassVar[str] = "poisson"
    family = "poisson"
    model = asks.Poisson
