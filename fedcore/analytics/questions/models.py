"""What the models share: indicators in the place of categories, the state that the sites are told, and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from fedcore.analytics import codec, newton
from fedcore.analytics.question import STEP, Agreed
from fedcore.analytics.questions.asked import Asked
from fedcore.analytics.questions.concentration import carrying
from fedcore.analytics.questions.pictures import forest
from fedcore.analytics.result import Coefficient
from fedcore.analytics.rows import Levels, indicators
from fedcore.analytics.sums import Floats, Sums, number
from fedcore.errors import DataError, JobError
from fedcore.jobs import asks

Model = TypeVar("Model", bound=asks.Ask)


class Fit(Asked[Model]):
    """A model with coefficients of columns.

    Attributes:
        categories: Columns that become indicators, with their levels; the first is what the others are compared with.
        names: (k,) of the columns that have coefficients.
    """

    categories: dict[str, Levels]
    names: tuple[str, ...]

    def expand(self, columns: Sequence[str]) -> None:
        """Find the categories among columns; a JobError where their levels are not known."""
        self.categories, made = {}, []
        for name in columns:
            if is_category(name, self.agreed):
                self.categories[name] = self.levels(name)
                if len(self.categories[name]) < 2:
                    raise JobError(
                        f"{name} has one level, which explains nothing. Cure: leave it out", step=STEP
                    )
                made += [f"{name}={level}" for level in self.categories[name][1:]]
                continue
            self.numeric(name)
            made.append(name)
        self.names = tuple(made)
        self.once(*self.names)
        self.fits(len(self.names) ** 2)

    def expanded(self, columns: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """With indicators beside the categories."""
        for name, levels in self.categories.items():
            columns.update(indicators(name, columns[name], levels))
        return columns

    def thin(self, sums: Sums, coefficients: int) -> str:
        """Why a model may not be told, from the sums before its first round; empty when it may.

        Rows beyond the coefficients must be as many as a cell, since a model with none left gives the rows back; and so
        must the rows of each category, and of each value of a column of 0 and 1, since a coefficient is that of its rows.

        Raises:
            DataError: No row has one of the categories.
        """
        rows, least = number(sums["rows"]), self.agreed.minimum
        if 0 < rows < coefficients + least:
            return f"suppressed: fewer than {least} rows beyond its {coefficients} coefficients"
        counts = dict(zip(self.names, sums["sum"].tolist(), strict=True))
        cells = {
            name: [counts[f"{name}={level}"] for level in levels[1:]]
            for name, levels in self.categories.items()
        }
        for name, levels in self.categories.items():
            every = [rows - sum(cells[name]), *cells[name]]
            nobody = [str(level) for level, each in zip(levels, every, strict=True) if round(each) == 0]
            if nobody and rows:
                raise DataError(
                    f"no row has {name} {' or '.join(nobody)[:200]}, so that it has no coefficient. Cure: declare the levels "
                    f"of {name} without it, or leave {name} out",
                    step=STEP,
                )
        # Only of 0 and 1 is the sum that of the squares, but for rounding.
        flags = np.isclose(sums["sum"], sums["square"], rtol=1e-9, atol=1e-6)
        made = {f"{name}={level}" for name, levels in self.categories.items() for level in levels}
        cells |= {
            name: [counts[name]]
            for name, flag in zip(self.names, flags, strict=True)
            if flag and name not in made
        }
        for name, each in cells.items():
            if any(map(self.too_few, map(round, (*each, rows - sum(each))))):
                return f"suppressed: a value of {name} has fewer than {least} rows. Cure: merge rare values, or leave {name} out"
        return ""

    def few_carry(self, total: Floats) -> str:
        """Why a model may not be told, from the sums of powers of its first step; empty when it may.

        A row that stands out in a column has a fitted value near its own response, whatever the codes of the column are.

        Args:
            total: (2, 5, p) of `concentration.powers`, over the columns as the state of the first step centres and divides
                them.
        """
        names = ("the intercept", *self.names) if self.has_intercept else self.names
        bad = carrying(total) < self.agreed.minimum
        return self.said_few([name for name, each in zip(names, bad.tolist(), strict=True) if each])

    def view(self, state: newton.State) -> newton.State:
        """What the sites need of a state: coefficients and scales; what they gave in sum is not for them."""
        return replace(state, value=None, null=0.0, gain=np.inf, information=None, halved=0, steady=0)

    def read_state(self, told: Any) -> newton.State:
        """A state that a coordinator told; a JobError where it is none of this model."""
        return self.checked_state(codec.unpack(newton.State, told))

    def checked_state(self, state: newton.State) -> newton.State:
        """The same, where its form is that of this model."""
        names = (*(("intercept",) if state.intercept else ()), *self.names)
        arrays = (state.centre, state.scale, state.beta, state.step)
        right = state.names == names and state.intercept == self.has_intercept
        if not right or any(each.shape != (len(names),) for each in arrays):
            raise JobError(
                f"the coefficients told are {', '.join(state.names)[:200]}; allowed: those of this model",
                step=STEP,
            )
        if not all(np.isfinite(each).all() for each in arrays) or (state.scale <= 0).any():
            raise JobError("the coefficients told are not finite; allowed: finite numbers", step=STEP)
        return state

    @property
    def has_intercept(self) -> bool:
        """Whether the model has one."""
        return False

    def plots(self, found: Sequence[Coefficient]) -> Mapping[str, str]:
        """Coefficients and their intervals."""
        picture = forest(self.text, found)
        return {} if picture is None else {"coefficients": picture}


def is_category(name: str, agreed: Agreed) -> bool:
    """Whether a column becomes indicators: text does, and a flag with declared levels."""
    kind = agreed.columns[name].kind if name in agreed.columns else ""
    return kind == "text" or (kind == "flag" and name in agreed.levels)


def texts(names: Sequence[str], agreed: Agreed) -> tuple[str, ...]:
    """Those columns that hold text."""
    return tuple(name for name in names if name in agreed.columns and agreed.columns[name].kind == "text")
