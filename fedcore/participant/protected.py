"""Arrays and metrics of a participant as one vector of integers, whose sums stand for weighted means.

The vector of a participant of weight w (its number of examples), in words of 32 or 64 bits:

    narrow   one word a value: the change of a weight since the model that came, clipped (`crypto.quantisation`)
    checks   as narrow values, but known to all: what comes out of the sum shows the error of the round
    weight   w
    clipped  how many narrow values were clipped
    wide     three words a value, not clipped: integers, running statistics, short extra arrays
    metrics  four words each: the value in three, and w where it is defined

A wide value x is floor(y) with y = w S x in its first word, floor(z) with z = 2^K (y - floor(y)) in the second, and
floor(2^K (z - floor(z))) in the third: each carries what the one before cuts off, so that numbers up to `LARGEST`
keep the digits of a double in words of 32 bits, whatever the weights.

Read as signed numbers, words are at most `Form.limit` in size, and no sum of a cohort's passes the word: so it is the
same whether words are added modulo 2^bits under masks or as whole numbers under encryption.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.quantisation import FixedPoint, NotFinite, quantise, weighted_mean
from fedcore.errors import DataError, JobError
from strategies.base import EXTRA, is_statistic

NDArray = npt.NDArray[Any]

MASKED = "masked"
"""Name of the ArrayRecord with the masked vector, and of its one array."""
EXAMPLES = "num-examples"
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

    @property
    def limit(self) -> int:
        """The largest word of one participant in size, read as a signed number."""
        room = (1 << (self.bits - 1)) - 1
        return max(min(room // self.cohort, _EXACT), self.largest_weight)

    @property
    def narrow(self) -> FixedPoint:
        """Of the narrow values."""
        return FixedPoint(self.clip, self.cohort, self.largest_weight, self.bits)

    @property
    def scale(self) -> float:
        """S of the wide values, a power of two."""
        exponent = math.floor(math.log2(2.0**_ROOM / (LARGEST * self.cohort * self.largest_weight)))
        return float(2.0**exponent)

    @property
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
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Layout:
        """As it came.

        Raises:
            ValueError: It is none.
        """
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


@dataclass(frozen=True)
class Mean:
    """What a sum stands for: weighted means, the sum of the weights, and how many values were clipped.

    `error` is the largest that was found in the known values; None where the form has none.
    """

    arrays: dict[str, NDArray]
    metrics: dict[str, float]
    weight: int
    clipped: int
    error: float | None = None


def pack(
    arrays: Mapping[str, NDArray], before: Mapping[str, NDArray], metrics: Mapping[str, Any], form: Form
) -> tuple[NDArray, Layout]:
    """The vector of one participant, still in clear.

    Args:
        arrays: What it would have sent, by name.
        before: What came, by name.
        metrics: With `num-examples`, its weight. NaN says not defined here; lists are left out.
        form: Of the round.

    Returns:
        Words of `form.bits` bits, contiguous, and what stands where.

    Raises:
        DataError: A value is NaN, infinite or too large to be summed.
        JobError: There is no whole number of examples, or more than the form allows.
    """
    weight = _weight(metrics, form)
    told = sorted(name for name, value in metrics.items() if name != EXAMPLES and not isinstance(value, list))
    new = [name for name in told if name not in form.metrics][: form.spare]
    layout = Layout(
        tuple(
            Kind(name, value.dtype.str, value.shape, _is_wide(name, value)) for name, value in arrays.items()
        ),
        (*form.metrics, *new),
    )
    vector = np.zeros(layout.words(form), dtype=form.narrow.dtype)
    count = layout.narrow() + form.checks
    try:
        _, clipped = quantise(
            _narrow(arrays, before, layout, form), form.narrow, weight=weight, out=vector[: count + 1]
        )
    except NotFinite as error:
        raise DataError(f"the update has NaN or infinite values ({error.count} of {error.length})") from error
    vector[count + 1] = min(clipped, (2**31 - 1) // form.cohort)
    wide = [np.asarray(arrays[each.name], np.float64).ravel() for each in layout.arrays if each.wide]
    at = _put(vector, count + 2, np.concatenate(wide), weight, form, "the update") if wide else count + 2
    for name in layout.metrics:
        value = float(metrics.get(name, math.nan))
        if not math.isnan(value):
            _put(vector, at, np.array([value]), weight, form, f"metric {name!r}")
            vector[at + WIDE] = weight
        at += WIDE + 1
    return vector, layout


def unpack(total: NDArray, layout: Layout, before: Mapping[str, NDArray], form: Form) -> Mean:
    """What a sum of such vectors stands for.

    Args:
        total: The sum modulo 2^bits.
        layout: Of all its vectors; its metrics are those that are wanted.
        before: What was sent to the participants.
        form: Of the round.

    Raises:
        ValueError: It is no sum of vectors of this form.
    """
    count = layout.narrow() + form.checks
    # In double precision until the change is added to what was sent.
    values, weight = weighted_mean(total[: count + 1], form.narrow, dtype=np.float64)
    known = np.abs(values[layout.narrow() :] - _checks(layout, form))
    arrays: dict[str, NDArray] = {}
    all_wide = sum(each.size for each in layout.arrays if each.wide)
    wide = _take(total, count + 2, all_wide, form) / weight
    at, at_wide, place = 0, 0, count + 2 + WIDE * all_wide
    for each in layout.arrays:
        if each.wide:
            mean = wide[at_wide : at_wide + each.size]
            at_wide += each.size
        else:
            mean = values[at : at + each.size]
            at += each.size
            if form.changes and each.name in before:
                mean = mean + np.asarray(before[each.name], np.float64).ravel()
        dtype = np.dtype(each.dtype)
        arrays[each.name] = mean.astype(dtype if dtype.kind == "f" else np.float64).reshape(each.shape)
    metrics = {}
    for name in layout.metrics:
        defined = int(total[place + WIDE])
        metrics[name] = float(_take(total, place, 1, form)[0]) / defined if defined else math.nan
        place += WIDE + 1
    error = float(known.max()) if form.checks else None
    return Mean(arrays, metrics, weight, int(total[count + 1]), error)


def same_metrics(told: Iterable[Sequence[str]], form: Form) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The metrics that can be read from a sum, and those to give a place next time.

    Args:
        told: Of each participant in the sum, its metrics by place.
        form: Of the round.
    """
    lists = [tuple(each) for each in told]
    known = lists[0] if all(each == lists[0] for each in lists) else form.metrics
    return known, tuple(sorted({name for each in lists for name in each}))


def _weight(metrics: Mapping[str, Any], form: Form) -> int:
    told = metrics.get(EXAMPLES)
    if told is None or isinstance(told, list) or not math.isfinite(told) or told != int(told) or told < 1:
        raise JobError(
            f"the reply's {EXAMPLES} is no whole number of 1 or more, which a protected mean is weighted by"
        )
    if told > form.largest_weight:
        raise JobError(
            f"this participant has more examples than the {form.largest_weight} that fit into the protected sum; "
            "raise largest_weight at the coordinator"
        )
    return int(told)


def _is_wide(name: str, value: NDArray) -> bool:
    short = name.startswith(EXTRA) and value.size <= SHORT
    return value.dtype.kind != "f" or is_statistic(name) or short


def _narrow(
    arrays: Mapping[str, NDArray], before: Mapping[str, NDArray], layout: Layout, form: Form
) -> NDArray:
    """The narrow values one after the other, as changes where something came of that name, and the known ones."""
    kinds = [each for each in layout.arrays if not each.wide]
    values = np.empty(layout.narrow() + form.checks, dtype=layout.dtype)
    values[layout.narrow() :] = _checks(layout, form)
    at = 0
    for each in kinds:
        into = values[at : at + each.size]
        into[:] = arrays[each.name].ravel()
        if form.changes and each.name in before:
            if before[each.name].shape != each.shape:
                raise JobError(f"the update's {each.name!r} has another shape than the array that came")
            np.subtract(into, before[each.name].ravel(), out=into)
        at += each.size
    return values


def _checks(layout: Layout, form: Form) -> NDArray:
    """The known values: spread over the clip, but off its ends, so that none is cut."""
    return np.linspace(-0.9 * form.clip, 0.9 * form.clip, form.checks).astype(layout.dtype)


def _put(vector: NDArray, at: int, values: NDArray, weight: int, form: Form, what: str) -> int:
    """Write wide values, all first words, then all second ones, and so on; the place behind them."""
    if not (np.abs(values) <= LARGEST).all():
        raise DataError(
            f"{what} has a value that is NaN, infinite or above {LARGEST:g}, which a protected sum cannot take"
        )
    rest, count = values * (weight * form.scale), len(values)
    for _ in range(WIDE):
        whole = np.floor(rest)
        vector[at : at + count] = whole.astype(np.int64).astype(vector.dtype)
        rest = (rest - whole) * form.rest
        at += count
    return at


def _take(total: NDArray, at: int, count: int, form: Form) -> NDArray:
    """Sums of wide values times their weights, float64."""
    words = total[at : at + WIDE * count].view(np.int32 if form.bits == 32 else np.int64)
    sums = np.zeros(count)
    for part in reversed(words.reshape(WIDE, count).astype(np.float64)):
        sums = sums / form.rest + part
    scaled: NDArray = sums / form.scale
    return scaled
