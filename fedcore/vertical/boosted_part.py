"""One party's half of an ensemble with the bins of its columns, which is what new rows are scored with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from crypto.channel import Channel
from fedcore.errors import DataError, JobError
from fedcore.vertical.binning import Bins
from fedcore.vertical.boosting.ensemble import Ensemble, PartnerSplits
from fedcore.vertical.boosting.losses import expected
from fedcore.vertical.boosting.predict import predict_label_holder, predict_partner
from fedcore.vertical.table import Table

Codes = list[npt.NDArray[np.uint16]]


@dataclass(frozen=True, eq=False)
class Boosted:
    """A party's half of an ensemble and the bins of its columns.

    Args:
        half: The label holder's or a partner's.
        columns: Names of the columns, in the order of the half.
        bins: Of each.
    """

    half: Ensemble | PartnerSplits
    columns: tuple[str, ...]
    bins: tuple[Bins, ...]

    def codes(self, table: Table) -> Codes:
        """The bins of the rows, by column."""
        for name in self.columns:
            if name not in table.columns:
                raise DataError(f"no column {name!r}, which the model needs")
        return [
            bins.codes(table.columns[name], name=name)
            for name, bins in zip(self.columns, self.bins, strict=True)
        ]

    def prepared(self, table: Table) -> tuple[Codes, int]:
        """The bins of the rows, and how many rows there are."""
        return self.codes(table), len(table)

    def joint(self, channels: Sequence[Channel], prepared: tuple[Codes, int]) -> dict[str, npt.NDArray[Any]]:
        """Margins and what is expected of them, with the partners; at the label holder.

        Args:
            channels: To the partners, in the order of training.
            prepared: As `prepared` gives it.
        """
        if not isinstance(self.half, Ensemble):
            raise JobError("a label holder scores with its own half of the ensemble, and this is a partner's")
        margins = predict_label_holder(channels, self.half, *prepared)
        return {"margin": margins, "expected": expected(self.half.loss, margins)}

    def answer(self, channel: Channel, prepared: tuple[Codes, int]) -> None:
        """A partner's part: one bit for each of its splits and row."""
        if not isinstance(self.half, PartnerSplits):
            raise JobError("a partner serves its own half of the ensemble, and this is the label holder's")
        predict_partner(channel, self.half, prepared[0])

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "half": self.half.as_dict(),
            "columns": list(self.columns),
            "bins": [each.as_dict() for each in self.bins],
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any], *, holder: bool) -> Self:
        """What `as_dict` gave.

        Args:
            found: That.
            holder: Whether it is the label holder's.

        Raises:
            DataError: It is something else.
        """
        try:
            half = (Ensemble if holder else PartnerSplits).from_dict(found["half"])
            bins = tuple(Bins.from_dict(each) for each in found["bins"])
            columns = tuple(map(str, found["columns"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError("this is no half of an ensemble; write it again from its run") from error
        if len(columns) != len(bins) or len(columns) != len(half.bins):
            raise DataError("the half of the ensemble and its bins are of different columns; write it again")
        return cls(half, columns, bins)
