"""The rows of one party, in the order that all parties have after matching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

TRAIN, TEST, OUT_OF_TIME = 0, 1, 2
PARTS = ("train", "test", "out of time")
"""Names of the parts by number."""


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of one party.

    Args:
        columns: By name, each (n,): float64 with NaN where a value is missing, or object with None (categories).
        part: Of each row: 0 train, 1 test, 2 out of time; (n,) int8, the same at all parties.
        label: (n,) float64 at the label holder, None elsewhere.
    """

    columns: dict[str, npt.NDArray[Any]]
    part: npt.NDArray[np.int8]
    label: npt.NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.part)

    def rows(self, part: int) -> npt.NDArray[np.intp]:
        """Numbers of the rows of a part, ascending."""
        return np.flatnonzero(self.part == part)
