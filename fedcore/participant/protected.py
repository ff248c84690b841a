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

import math
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.quantisation import NotFinite, quantise, weighted_mean
from crypto.streams import KEY_BYTES, StreamCipher
from fedcore.errors import DataError, JobError
from fedcore.participant.protected_form import LARGEST, SHORT, WIDE, Form, Kind, Layout
from strategies.base import EXTRA, is_statistic

__all__ = [
    "EXAMPLES",
    "LARGEST",
    "MASKED",
    "SHORT",
    "WIDE",
    "Form",
    "Kind",
    "Layout",
    "Mean",
    "Prepared",
    "pack",
    "prepared",
    "same_metrics",
    "unpack",
]

NDArray = npt.NDArray[Any]

MASKED = "masked"
"""Name of the ArrayRecord with the masked vector, and of its one array."""
EXAMPLES = "num-examples"
PIECE = 2**18
"""Narrow values that are quantised at a time."""


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


@dataclass(frozen=True, repr=False)
class Prepared:
    """The vector of one participant without its narrow values, which are still to be rounded.

    Args:
        vector: Words, with zeros in the place of narrow values and of how many were clipped.
        layout: What stands where in it.
        form: Of the round.
        weight: Of the participant.
        sources: Narrow values in their order, and what they are changes from, if from anything.
    """

    vector: NDArray
    layout: Layout
    form: Form
    weight: int
    sources: tuple[tuple[NDArray, NDArray | None], ...]

    @property
    def count(self) -> int:
        """Narrow values, the known ones among them."""
        return self.layout.narrow() + self.form.checks

    def pieces(self, most: int) -> Iterator[tuple[int, NDArray]]:
        """Narrow values some at a time, so that no second vector of them is made.

        Args:
            most: Values in a piece, a multiple of 16.

        Returns:
            Where each begins, and the piece, of `layout.dtype`; overwritten by the next.
        """
        piece = np.empty(min(self.count, most), self.layout.dtype)
        filled = at = 0
        for values, base in self.sources:
            start = 0
            while start < len(values):
                taken = min(len(values) - start, len(piece) - filled)
                into = piece[filled : filled + taken]
                into[:] = values[start : start + taken]
                if base is not None:
                    np.subtract(into, base[start : start + taken], out=into)
                start, filled = start + taken, filled + taken
                if filled == len(piece):
                    yield at, piece
                    at, filled = at + filled, 0
        if filled:
            yield at, piece[:filled]

    def round(self, cipher: StreamCipher = "aes", seed: bytes | None = None) -> None:
        """Put the narrow values into the vector.

        Args:
            cipher: That rounding is drawn from.
            seed: Key and nonce of it, never used before; from the operating system if not given.

        Raises:
            DataError: Some are NaN or infinite.
        """
        key = secrets.token_bytes(KEY_BYTES[cipher]) if seed is None else seed
        clipped = strange = 0
        for at, piece in self.pieces(PIECE):
            out = self.vector[at : at + len(piece) + 1]
            try:
                # Its last word is the weight, which the next piece writes over.
                clipped += quantise(
                    piece, self.form.narrow, weight=self.weight, out=out, seed=key, cipher=cipher, first=at
                )[1]
            except NotFinite as error:
                strange += error.count
        self.told(clipped, strange)

    def told(self, clipped: int, strange: int) -> None:
        """Note how many narrow values were clipped.

        Args:
            clipped: So many.
            strange: How many are NaN or infinite.

        Raises:
            DataError: Some are.
        """
        if strange:
            raise DataError(f"the update has NaN or infinite values ({strange} of {self.count})")
        self.vector[self.count + 1] = min(clipped, (2**31 - 1) // self.form.cohort)


def pack(
    arrays: Mapping[str, NDArray],
    before: Mapping[str, NDArray],
    metrics: Mapping[str, Any],
    form: Form,
    cipher: StreamCipher = "aes",
) -> tuple[NDArray, Layout]:
    """The vector of one participant, still in clear.

    Args:
        arrays: What it would have sent, by name.
        before: What came, by name.
        metrics: With `num-examples`, its weight. NaN says not defined here; lists are left out.
        form: Of the round.
        cipher: That rounding is drawn from.

    Returns:
        Words of `form.bits` bits, contiguous, and what stands where.

    Raises:
        DataError: A value is NaN, infinite or too large to be summed.
        JobError: There is no whole number of examples, or more than the form allows.
    """
    made = prepared(arrays, before, metrics, form)
    made.round(cipher)
    return made.vector, made.layout


def prepared(
    arrays: Mapping[str, NDArray], before: Mapping[str, NDArray], metrics: Mapping[str, Any], form: Form
) -> Prepared:
    """As `pack`, but for the narrow values."""
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
    sources = tuple(_sources(arrays, before, layout, form))
    vector[count] = weight
    wide = [np.asarray(arrays[each.name], np.float64).ravel() for each in layout.arrays if each.wide]
    at = _put(vector, count + 2, np.concatenate(wide), weight, form) if wide else count + 2
    _put_metrics(vector, at, layout.metrics, metrics, weight, form)
    return Prepared(vector, layout, form, weight, sources)


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


def _sources(
    arrays: Mapping[str, NDArray], before: Mapping[str, NDArray], layout: Layout, form: Form
) -> Iterator[tuple[NDArray, NDArray | None]]:
    """Narrow values, each with what it is a change from where something came of that name; then the known ones."""
    for each in layout.arrays:
        if each.wide:
            continue
        base = before.get(each.name) if form.changes else None
        if base is not None and base.shape != each.shape:
            raise JobError(f"the update's {each.name!r} has another shape than the array that came")
        yield arrays[each.name].ravel(), None if base is None else base.ravel()
    yield _checks(layout, form), None


def _checks(layout: Layout, form: Form) -> NDArray:
    """The known values: spread over the clip, but off its ends, so that none is cut."""
    return np.linspace(-0.9 * form.clip, 0.9 * form.clip, form.checks).astype(layout.dtype)


def _put(vector: NDArray, at: int, values: NDArray, weight: int, form: Form) -> int:
    """Write wide values, all first words, then all second ones, and so on; the place behind them."""
    if not (np.abs(values) <= LARGEST).all():
        raise DataError(
            f"the update has a value that is NaN, infinite or above {LARGEST:g}, which a protected sum cannot take"
        )
    end = at + WIDE * len(values)
    vector[at:end] = _words(values, weight, form).ravel().astype(vector.dtype)
    return end


def _put_metrics(
    vector: NDArray, at: int, names: Sequence[str], metrics: Mapping[str, Any], weight: int, form: Form
) -> None:
    """Write metrics, the three words of each and the weight; what is not defined here stays nothing."""
    values = np.array([float(metrics.get(name, math.nan)) for name in names])
    defined = ~np.isnan(values)
    large = np.flatnonzero(defined & ~(np.abs(values) <= LARGEST))
    if len(large):
        raise DataError(
            f"metric {names[int(large[0])]!r} has a value that is infinite or above {LARGEST:g}, which a protected sum "
            "cannot take"
        )
    block = vector[at : at + (WIDE + 1) * len(names)].reshape(len(names), WIDE + 1)
    block[:, :WIDE] = _words(np.where(defined, values, 0.0), weight, form).T.astype(vector.dtype)
    block[:, WIDE] = np.where(defined, weight, 0).astype(vector.dtype)


def _words(values: NDArray, weight: int, form: Form) -> NDArray:
    """The words of wide values, int64, shape (WIDE, n)."""
    rest = values * (weight * form.scale)
    words = np.empty((WIDE, len(values)), np.int64)
    for number in range(WIDE):
        whole = np.floor(rest)
        words[number] = whole.astype(np.int64)
        rest = (rest - whole) * form.rest
    return words


def _take(total: NDArray, at: int, count: int, form: Form) -> NDArray:
    """Sums of wide values times their weights, float64."""
    words = total[at : at + WIDE * count].view(np.int32 if form.bits == 32 else np.int64)
    sums = np.zeros(count)
    for part in reversed(words.reshape(WIDE, count).astype(np.float64)):
        sums = sums / form.rest + part
    scaled: NDArray = sums / form.scale
    return scaled
