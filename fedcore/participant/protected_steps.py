"""What travels where whole numbers with noise are summed: each is one word, so that the sum is exactly theirs.

The vector of a participant, in words of 32 or 64 bits: first the word 1, which counts the participants in a sum, then
its numbers modulo 2^bits. Nothing is scaled, clipped or rounded any more: the noise in the sum is the noise that was
drawn. Names and shapes travel in clear.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedcore.errors import JobError
from fedcore.participant.sums import SumForm, SumLayout

NDArray = npt.NDArray[Any]

_BITS = (32, 64)


@dataclass(frozen=True)
class StepForm:
    """How the vectors of one such sum are made; the same at all participants.

    Args:
        cohort: Participants that a sum can have, at most.
        bits: Of a word, 32 or 64.
    """

    cohort: int
    bits: int = 32

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the words."""
        return np.dtype(f"uint{self.bits}")

    def to_json(self) -> str:
        """As it travels."""
        return json.dumps({"steps": asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> StepForm | None:
        """As it came; None when something else is asked for.

        Raises:
            JobError: It is none that can be used.
        """
        try:
            told = json.loads(text)
            if not isinstance(told, dict) or "steps" not in told:
                return None
            form = cls(**{name: int(value) for name, value in told["steps"].items()})
            if form.bits not in _BITS or form.cohort < 1:
                raise ValueError("bits, cohort")
        except (ValueError, TypeError, AttributeError) as error:
            raise JobError(f"the coordinator's form of sums in steps cannot be used: {error}") from error
        return form


@dataclass(frozen=True)
class StepLayout(SumLayout):
    """What stands where in a vector."""

    def words(self, form: SumForm | StepForm) -> int:
        """Length of a vector."""
        return 1 + self.values

    def fits(self, first: SumLayout, form: SumForm | StepForm) -> bool:
        """Whether a vector of this layout can be added to one of the first."""
        return self == first


def pack_steps(arrays: Mapping[str, NDArray], form: StepForm) -> tuple[NDArray, StepLayout]:
    """The vector of one participant, still in clear.

    Args:
        arrays: int64, any shape, by name.
        form: Of the sum.

    Raises:
        JobError: An array is of another type.
    """
    other = [name for name, value in arrays.items() if value.dtype != np.int64]
    if other:
        raise JobError(f"the update's {other[0]!r} has no whole numbers; sums in steps take int64 only")
    layout = StepLayout(tuple((name, value.shape) for name, value in arrays.items()))
    vector = np.ones(layout.words(form), form.dtype)
    # Modulo 2^bits, which a cast to fewer bits is.
    vector[1:] = np.concatenate([value.ravel() for value in arrays.values()]).astype(form.dtype)
    return vector, layout


def unpack_steps(total: NDArray, layout: SumLayout, form: StepForm) -> tuple[dict[str, NDArray], int]:
    """What a sum of such vectors stands for.

    Args:
        total: The sum modulo 2^bits.
        layout: Of all its vectors.
        form: Of the sum.

    Returns:
        The sums by name, int64, and the number of participants in them.

    Raises:
        ValueError: It is no sum of vectors of this form.
    """
    count = int(total[0]) if len(total) == 1 + layout.values else 0
    if not 1 <= count <= form.cohort:
        raise ValueError("what came out is no sum of vectors of this form")
    signed = np.ascontiguousarray(total[1:]).view(np.dtype(f"int{form.bits}")).astype(np.int64)
    sums, at = {}, 0
    for name, shape in layout.arrays:
        size = math.prod(shape)
        sums[name] = signed[at : at + size].reshape(shape)
        at += size
    return sums, count
