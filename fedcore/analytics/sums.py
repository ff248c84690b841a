"""What sites add: arrays by name, so that any secure sum can stand between a site's part and the result.

A statistic is a pair of pure functions. `partial_*` runs at a site over its own rows and gives `Sums`; `combine_*` takes
the sums added over sites and gives the result. Nothing else passes between them, and nothing in `Sums` is anything but a
sum over rows (or over strata that lie within one site), so what the coordinator learns is the total.

Counts are int64 and everything else is float64. All parts of a statistic have the same names, types and shapes, which
follow from the question and not from the rows: what a site leaves out, or that it is empty, does not show in them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from fedcore.errors import DataError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Sums = dict[str, npt.NDArray[Any]]
"""Arrays by name: int64 counts and float64 sums, of any shape."""


def add(parts: Iterable[Sums]) -> Sums:
    """The sums of all sites, in the clear: for tests, and for one site that holds everything.

    Args:
        parts: One or more, of the same names, types and shapes.

    Raises:
        DataError: There is no part, two of them differ in form, or a total is not finite.
    """
    total: Sums = {}
    for place, part in enumerate(parts):
        if place == 0:
            total = {name: np.array(value) for name, value in part.items()}
            continue
        if form(part) != form(total):
            raise DataError(
                f"part {place + 1} has the form {form(part)}, the first {form(total)}; allowed: one form. "
                "Cure: ask all sites the same question",
                step="sum",
            )
        for name, value in part.items():
            with np.errstate(over="ignore", invalid="ignore"):
                total[name] = total[name] + value
    if not total:
        raise DataError("there is no site to add; allowed: at least one", step="sum")
    for name, value in total.items():
        if not np.isfinite(value).all():
            raise DataError(
                f'the total of "{name}" is not finite; allowed: numbers whose sums fit a double. Cure: use a '
                "larger unit for the column",
                step="sum",
            )
    return total


def form(part: Sums) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of each array."""
    return {name: (str(value.dtype), value.shape) for name, value in sorted(part.items())}


def size(part: Sums) -> int:
    """How many numbers a site sends."""
    return sum(value.size for value in part.values())


def number(value: object) -> int:
    """A count as a Python integer, from an array of shape ()."""
    return int(np.asarray(value).item())
