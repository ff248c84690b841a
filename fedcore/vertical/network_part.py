"""One party's half of a split network with the names of its columns, which is what new rows are scored with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from crypto.channel import Channel
from fedcore.errors import DataError
from fedcore.vertical.split_part import SplitPart
from fedcore.vertical.table import Table

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Network:
    """A half and its columns.

    Args:
        half: The label holder's or a partner's.
        columns: Names of the columns, in the order of the half.
    """

    half: SplitPart
    columns: tuple[str, ...]

    def prepared(self, table: Table) -> Floats:
        """The columns as numbers, missing values at the mean of the training; float64 [n, columns].

        Raises:
            DataError: A column is not there, or is not of finite or missing numbers.
        """
        out = np.empty((len(table), len(self.columns)))
        for place, name in enumerate(self.columns):
            values = table.columns.get(name)
            if values is None or values.dtype == object or np.isinf(values).any():
                why = "is not there" if values is None else "is not of finite or missing numbers"
                raise DataError(f"column {name!r}, which the model needs, {why}")
            out[:, place] = np.where(np.isnan(values), self.half.mean[place], values)
        return out

    def joint(self, channels: Sequence[Channel], rows: Floats) -> dict[str, npt.NDArray[Any]]:
        """Probabilities of the event, with the partners; at the label holder.

        Args:
            channels: To the partners, in the order of training.
            rows: As `prepared` gives them.
        """
        from fedcore.vertical.split_network import predict_label_holder

        return {"expected": predict_label_holder(channels, self.half, rows)}

    def answer(self, channel: Channel, rows: Floats) -> None:
        """A partner's part: its activations."""
        from fedcore.vertical.split_network import predict_partner

        predict_partner(channel, self.half, rows)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `half.arrays` go beside it."""
        return {"half": self.half.as_dict(), "columns": list(self.columns)}

    @classmethod
    def from_parts(cls, found: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """What `as_dict` and `half.arrays` gave.

        Raises:
            DataError: It is something else.
        """
        try:
            half, columns = SplitPart.from_parts(found["half"], arrays), tuple(map(str, found["columns"]))
        except (KeyError, TypeError) as error:
            raise DataError("this is no half of a split network; write it again from its run") from error
        if len(columns) != len(half.mean):
            raise DataError("the half of the network and its columns differ in number; write it again")
        return cls(half, columns)
