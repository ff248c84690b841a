"""What travels where exact sums are asked for in place of weighted means: counts, moments, statistics.

The vector of a participant, in words of 64 bits: first the word 1, which counts the participants in a sum, then the
words of all values (`crypto.exact_sums`), lowest digits first. Names and shapes travel in clear, no value does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.exact_sums import DTYPE, Digits, TooLarge, join, split
from crypto.quantisation import NotFinite
from fedcore.errors import DataError, JobError

NDArray = npt.NDArray[Any]

MOST_VALUES = 2**24


@dataclass(frozen=True)
class SumForm:
    """How the vectors of one exact sum are made; the same at all participants.

    Args:
        cohort: Participants that a sum can have, at most.
        low, high: Exponents of the smallest step and of the largest magnitude, as in `crypto.exact_sums.Digits`.
    """

    cohort: int
    low: int = Digits.low
    high: int = Digits.high

    @property
    def digits(self) -> Digits:
        """Of the values."""
        return Digits(self.cohort, self.low, self.high)

    def to_json(self) -> str:
        """As it travels."""
        return json.dumps({"sums": asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> SumForm | None:
        """As it came; None when something else than exact sums is asked for.

        Raises:
            JobError: It is none that can be used.
        """
        try:
            told = json.loads(text)
            if not isinstance(told, dict) or "sums" not in told:
                return None
            form = cls(**{name: int(value) for name, value in told["sums"].items()})
            form.digits  # noqa: B018  (refuses what leaves no room)
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise JobError(f"the coordinator's form of exact sums cannot be used: {error}") from error
        return form


@dataclass(frozen=True)
class SumLayout:
    """What stands where in a vector.

    Args:
        arrays: Name and shape, in their order.
    """

    arrays: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def values(self) -> int:
        """How many there are."""
        return sum(math.prod(shape) for _, shape in self.arrays)

    def words(self, form: SumForm) -> int:
        """Length of a vector."""
        return 1 + form.digits.count * self.values

    def fits(self, first: SumLayout, form: SumForm) -> bool:
        """Whether a vector of this layout can be added to one of the first."""
        return self == first

    def to_json(self) -> str:
        """As it travels."""
        return json.dumps(self.arrays)

    @classmethod
    def from_json(cls, text: str) -> SumLayout:
        """As it came.

        Raises:
            ValueError: It is none, or of more values than are summed at once.
        """
        try:
            arrays = tuple(
                (str(name), tuple(int(size) for size in shape)) for name, shape in json.loads(text)
            )
        except (TypeError, ValueError) as error:
            raise ValueError("what came with a protected vector is no layout of sums") from error
        made = cls(arrays)
        if any(size < 0 for _, shape in arrays for size in shape) or made.values > MOST_VALUES:
            raise ValueError(
                f"sums of {made.values} values; allowed are up to {MOST_VALUES}, in no negative shape"
            )
        return made


def pack_sums(arrays: Mapping[str, NDArray], form: SumForm) -> tuple[NDArray, SumLayout]:
    """The vector of one participant, still in clear.

    Args:
        arrays: What is to be summed, by name; real, any shape.
        form: Of the sum.

    Raises:
        DataError: A value is NaN, infinite or too large.
    """
    layout = SumLayout(tuple((name, np.shape(value)) for name, value in arrays.items()))
    flat = [np.asarray(value, np.float64).ravel() for value in arrays.values()]
    try:
        words = split(np.concatenate(flat) if flat else np.zeros(0), form.digits)
    except NotFinite as error:
        raise DataError(f"{error.count} of {error.length} values to be summed are NaN or infinite") from error
    except TooLarge as error:
        raise DataError(
            f"{error.count} values to be summed are {error.limit:g} or more in magnitude; rescale the column"
        ) from error
    return np.concatenate([np.ones(1, DTYPE), words.ravel()]), layout


def unpack_sums(total: NDArray, layout: SumLayout, form: SumForm) -> tuple[dict[str, NDArray], int]:
    """What a sum of such vectors stands for.

    Args:
        total: The sum modulo 2^64.
        layout: Of all its vectors.
        form: Of the sum.

    Returns:
        The sums by name, float64, and the number of participants in them.

    Raises:
        ValueError: It is no sum of vectors of this form.
    """
    count = int(total[0]) if len(total) == layout.words(form) else 0
    if not 1 <= count <= form.cohort:
        raise ValueError("what came out is no sum of vectors of this form")
    values = join(total[1:].reshape(form.digits.count, layout.values), form.digits)
    sums, at = {}, 0
    for name, shape in layout.arrays:
        size = math.prod(shape)
        sums[name] = values[at : at + size].reshape(shape)
        at += size
    return sums, count
