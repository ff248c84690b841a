"""How the vectors of a protected round are made, and what stands where in one; both travel in clear."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from crypto.quantisation import FixedPoint
from fedcore.errors import JobError

LARGEST = 2.0**24
"""Of a wide value and of a metric, in absolute value."""
SHORT = 1024
"""Values of an extra array that is wide."""
WIDE = 3
"""Words of a wide value."""
_ROOM = 30
"""Bits of a sum of wide words, without the sign."""
_EXACT = 2**44 + 1
"""Largest narrow word, whatever the bits (`crypto.quantisation`)."""


@dataclass(frozen=True)
class Form:
    """How the vectors of one round are made; the same at all participants.

    Args:
        clip: Largest change of a weight in a round.
        cohort: Participants that a sum can have, at most.
        largest_weight: Examples that one of them can have.
        bits: Of a word, 32 or 64.
        metrics: That have a place, in this order.
        spare: Places for metrics that are not known yet.
        changes: Narrow values are changes since the model that came; else they stand as they are.
        checks: Known values from which the error of a mean is measured.
    """

    clip: float
    cohort: int
    largest_weight: int
    bits: int = 32
    metrics: tuple[str, ...] = ()
    spare: int = 16
    changes: bool = True
    checks: int = 0

    @cached_property
    def limit(self) -> int:
        """The largest word of one participant in size, read as a signed number."""
        room = (1 << (self.bits - 1)) - 1
        return max(min(room // self.cohort, _EXACT), self.largest_weight)

    @cached_property
    def narrow(self) -> FixedPoint:
        """Of the narrow values."""
        return FixedPoint(self.clip, self.cohort, self.largest_weight, self.bits)

    @cached_property
    def scale(self) -> float:
        """S of the wide values, a power of two."""
        exponent = math.floor(math.log2(2.0**_ROOM / (LARGEST * self.cohort * self.largest_weight)))
        return float(2.0**exponent)

    @cached_property
    def rest(self) -> float:
        """2^K, what each further word of a wide value is scaled by."""
        return float(2.0 ** (_ROOM - math.ceil(math.log2(self.cohort))))

    def to_json(self) -> str:
        """As it travels."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Form:
        """As it came.

        Raises:
            JobError: It is none.
        """
        try:
            told = json.loads(text)
            form = cls(**{**told, "metrics": tuple(map(str, told["metrics"]))})
            form.narrow  # noqa: B018  (refuses what leaves no room)
            if not 0 <= form.spare <= SHORT or not 0 <= form.checks <= SHORT:
                raise ValueError("spare, checks")
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise JobError(f"the coordinator's form of protected vectors cannot be used: {error}") from error
        return form


@dataclass(frozen=True)
class Kind:
    """One array of a layout."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    wide: bool

    @property
    def size(self) -> int:
        """Values."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """What stands where in a vector. It travels in clear: names and shapes, no value.

    Args:
        arrays: In their order.
        metrics: By place, those of the form first.
    """

    arrays: tuple[Kind, ...]
    metrics: tuple[str, ...]

    def narrow(self) -> int:
        """Narrow values."""
        return sum(each.size for each in self.arrays if not each.wide)

    def words(self, form: Form) -> int:
        """Length of a vector."""
        wide = sum(each.size for each in self.arrays if each.wide)
        return self.narrow() + form.checks + 2 + WIDE * wide + (WIDE + 1) * (len(form.metrics) + form.spare)

    @property
    def dtype(self) -> np.dtype[Any]:
        """That narrow values are made in."""
        double = any(np.dtype(each.dtype).itemsize > 4 for each in self.arrays if not each.wide)
        return np.dtype(np.float64 if double else np.float32)

    def fits(self, first: Layout, form: Form) -> bool:
        """Whether a vector of this layout can be added to one of the first."""
        return self.arrays == first.arrays and self.metrics[: len(form.metrics)] == form.metrics

    def to_json(self) -> str:
        """As it travels."""
        # Not `asdict`, which copies deep: this is made for every vector.
        return json.dumps({"arrays": [vars(each) for each in self.arrays], "metrics": self.metrics})

    @classmethod
    def from_json(cls, text: str) -> Layout:
        """As it came.

        Raises:
            ValueError: It is none.
        """
        return _layout(text)

    @classmethod
    def _parsed(cls, text: str) -> Layout:
        try:
            told = json.loads(text)
            arrays = tuple(
                Kind(
                    str(each["name"]),
                    np.dtype(each["dtype"]).str,
                    tuple(map(int, each["shape"])),
                    bool(each["wide"]),
                )
                for each in told["arrays"]
            )
            metrics = tuple(str(name) for name in told["metrics"])
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError("what came with a masked vector is no layout") from error
        if any(size < 0 for each in arrays for size in each.shape):
            raise ValueError("an array of a masked vector has a negative size")
        return cls(arrays, metrics)


@lru_cache(maxsize=64)
def _layout(text: str) -> Layout:
    """All participants of a round send the same text."""
    return Layout._parsed(text)
