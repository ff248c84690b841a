"""How well scores order and predict: AUC, KS, gain and lift, calibration, stability, swap set.

Everywhere labels are (n,), 1 is the event (bad) and 0 is not, and a higher score is riskier. Rows with one score are
never told apart: a threshold, a step of a curve and a bound of a group fall between distinct scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedcore.errors import DataError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Curve:
    """Cumulative counts from the riskiest score down.

    Args:
        score: (k + 1,) thresholds, falling; the first is infinite.
        rows, bad: (k + 1,) counts at or above each threshold, from 0.
    """

    score: Floats
    rows: npt.NDArray[np.int64]
    bad: npt.NDArray[np.int64]

    @property
    def share(self) -> Floats:
        """Share of all rows at or above each threshold."""
        made: Floats = self.rows / self.rows[-1]
        return made

    @property
    def bad_share(self) -> Floats:
        """Share of the bad rows: true positive rate, gain."""
        made: Floats = self.bad / self.bad[-1]
        return made

    @property
    def good_share(self) -> Floats:
        """Share of the good rows: false positive rate."""
        good = self.rows - self.bad
        made: Floats = good / good[-1]
        return made


@dataclass(frozen=True)
class Ks:
    """The largest distance of the two cumulative shares, and the threshold and the share of rows where it is."""

    value: float
    score: float
    share: float


@dataclass(frozen=True)
class Group:
    """One of about ten groups of rows by score.

    Args:
        low, high: Scores of the group, both inside.
        rows, bad: Counts.
        mean: Of the scores.
        rows_so_far, bad_so_far: Counts of this group and of all before it.
        rows_in_all, bad_in_all: Counts of the whole.
    """

    low: float
    high: float
    rows: int
    bad: int
    mean: float
    rows_so_far: int
    bad_so_far: int
    rows_in_all: int
    bad_in_all: int

    @property
    def bad_rate(self) -> float:
        """Share of bad rows of the group."""
        return self.bad / self.rows

    @property
    def lift(self) -> float:
        """Bad rate of the group over that of all rows."""
        return self.bad_rate * self.rows_in_all / self.bad_in_all

    @property
    def cumulative_lift(self) -> float:
        """Bad rate of the groups so far over that of all rows."""
        return self.bad_so_far / self.rows_so_far * self.rows_in_all / self.bad_in_all

    @property
    def gain(self) -> float:
        """Share of all bad rows in the groups so far."""
        return self.bad_so_far / self.bad_in_all

    @property
    def ks(self) -> float:
        """Distance of the cumulative shares of bad and of good rows after this group."""
        good, goods = self.rows_so_far - self.bad_so_far, self.rows_in_all - self.bad_in_all
        return abs(self.gain - good / goods)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the bad rate.

        Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.
        """
        z, n, p = 1.959964, self.rows, self.bad_rate
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        reach = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, middle - reach), min(1.0, middle + reach)


@dataclass(frozen=True)
class Confusion:
    """Rows at a cut-off: a row whose score is at or above it is called bad."""

    cutoff: float
    true_bad: int
    false_bad: int
    true_good: int
    false_good: int

    @property
    def precision(self) -> float:
        """Share of bad rows among those called bad; NaN when none is."""
        called = self.true_bad + self.false_bad
        return self.true_bad / called if called else math.nan

    @property
    def recall(self) -> float:
        """Share of the bad rows that were called bad."""
        return self.true_bad / (self.true_bad + self.false_good)

    @property
    def false_rate(self) -> float:
        """Share of the good rows that were called bad."""
        return self.false_bad / (self.false_bad + self.true_good)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.true_bad / (2 * self.true_bad + self.false_bad + self.false_good)

    @property
    def accuracy(self) -> float:
        """Share of rows called right."""
        rows = self.true_bad + self.false_bad + self.true_good + self.false_good
        return (self.true_bad + self.true_good) / rows


@dataclass(frozen=True)
class SwapSet:
    """Rows by the decisions of two scores that approve the same number.

    Args:
        approve: Share of rows approved.
        both, swapped_in, swapped_out, neither: Rows and bad rows that both approve, that only the new score
            approves, only the old one, none.
    """

    approve: float
    both: tuple[int, int]
    swapped_in: tuple[int, int]
    swapped_out: tuple[int, int]
    neither: tuple[int, int]

    @property
    def approved(self) -> int:
        """Rows that each score approves."""
        return self.both[0] + self.swapped_in[0]

    @property
    def new_bad(self) -> int:
        """Bad rows among those that the new score approves."""
        return self.both[1] + self.swapped_in[1]

    @property
    def old_bad(self) -> int:
        """Bad rows among those that the old score approves."""
        return self.both[1] + self.swapped_out[1]


@dataclass(frozen=True)
class Difference:
    """Of two AUCs on the same rows, with its standard error."""

    value: float
    standard_error: float

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval."""
        return self.value - 1.959964 * self.standard_error, self.value + 1.959964 * self.standard_error


def both_classes(labels: Floats) -> bool:
    """Whether there are good rows and bad ones."""
    return bool(len(labels)) and bool(labels.min() < labels.max())


def curve(labels: Floats, scores: Floats) -> Curve:
    """Cumulative counts, one step per distinct score.

    Raises:
        DataError: If lengths differ, a label is not 0 or 1, a score is not finite, or there is one class.
    """
    _check(labels, scores)
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    bad = np.cumsum(labels[order])[ends].astype(np.int64)
    first = np.zeros(1, np.int64)
    return Curve(np.concatenate([[np.inf], ordered[ends]]), np.append(first, ends + 1), np.append(first, bad))


def auc(labels: Floats, scores: Floats) -> float:
    """Probability that a bad row scores above a good one; equal scores count half."""
    found = curve(labels, scores)
    good = found.rows - found.bad
    # Twice the pairs, in whole numbers: exact below 3e9 rows.
    twice = int(np.sum(np.diff(good) * (found.bad[1:] + found.bad[:-1])))
    return twice / (2 * int(found.bad[-1]) * int(good[-1]))


def gini(labels: Floats, scores: Floats) -> float:
    """2 AUC - 1."""
    return 2 * auc(labels, scores) - 1


def ks(labels: Floats, scores: Floats) -> Ks:
    """Kolmogorov-Smirnov distance of the scores of bad and of good rows."""
    found = curve(labels, scores)
    distance = np.abs(found.bad_share - found.good_share)
    place = int(distance[1:].argmax()) + 1
    return Ks(float(distance[place]), float(found.score[place]), float(found.share[place]))


def groups(labels: Floats, scores: Floats, count: int = 10) -> tuple[Group, ...]:
    """Rows in about `count` groups of equal size, riskiest first; fewer where many rows share a score."""
    found = curve(labels, scores)
    rows, bads = int(found.rows[-1]), int(found.bad[-1])
    wanted = [math.ceil(rows * place / count) for place in range(1, count + 1)]
    ends = sorted({int(np.searchsorted(found.rows, each)) for each in wanted} - {0})
    descending = np.sort(scores)[::-1]
    result, before = [], 0
    for end in ends:
        first, last = int(found.rows[before]), int(found.rows[end])
        inside = descending[first:last]
        result.append(
            Group(
                low=float(inside[-1]),
                high=float(inside[0]),
                rows=last - first,
                bad=int(found.bad[end] - found.bad[before]),
                mean=float(inside.mean()),
                rows_so_far=last,
                bad_so_far=int(found.bad[end]),
                rows_in_all=rows,
                bad_in_all=bads,
            )
        )
        before = end
    return tuple(result)


def confusion(labels: Floats, scores: Floats, cutoff: float) -> Confusion:
    """Rows called bad and good at a cut-off."""
    _check(labels, scores)
    called, bad = scores >= cutoff, labels == 1
    return Confusion(
        cutoff,
        true_bad=int(np.sum(called & bad)),
        false_bad=int(np.sum(called & ~bad)),
        true_good=int(np.sum(~called & ~bad)),
        false_good=int(np.sum(~called & bad)),
    )


def swap_set(labels: Floats, new: Floats, old: Floats, approve: float) -> SwapSet:
    """What changes when the `new` score decides instead of the `old` one.

    Both approve the same number of rows, those of least risk. Where the last of them share a score with rows that
    are not, the order of the rows decides.

    Args:
        labels, new, old: (n,).
        approve: Share of rows, in (0, 1).
    """
    _check(labels, new)
    _check(labels, old)
    number = round(approve * len(labels))
    chosen = []
    for scores in (new, old):
        mask = np.zeros(len(labels), bool)
        mask[np.argsort(scores, kind="stable")[:number]] = True
        chosen.append(mask)
    ours, theirs = chosen

    def count(mask: npt.NDArray[np.bool_]) -> tuple[int, int]:
        return int(mask.sum()), int(labels[mask].sum())

    return SwapSet(
        approve, count(ours & theirs), count(ours & ~theirs), count(theirs & ~ours), count(~ours & ~theirs)
    )


def auc_difference(labels: Floats, new: Floats, old: Floats) -> Difference:
    """AUC of `new` less that of `old`, with the standard error of two scores on the same rows.

    Source: DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating
    characteristic curves", Biometrics 1988; ranks as Sun and Xu, IEEE Signal Processing Letters 2014.
    """
    _check(labels, new)
    _check(labels, old)
    bad = labels == 1
    events, others = int(bad.sum()), int((~bad).sum())
    above = [(_midranks(s)[bad] - _midranks(s[bad])) / others for s in (new, old)]
    below = [(_midranks(s)[~bad] - _midranks(s[~bad])) / events for s in (new, old)]
    apart = above[0] - above[1], below[0] - below[1]
    variance = sum(float(np.var(each, ddof=1)) / len(each) for each in apart if len(each) > 1)
    return Difference(float(apart[0].mean()), math.sqrt(variance))


def brier(labels: Floats, scores: Floats) -> float:
    """Mean squared difference of probability and label."""
    return float(np.mean((scores - labels) ** 2))


def log_loss(labels: Floats, scores: Floats) -> float:
    """Mean negative log-likelihood of probabilities, clipped at the least number above 0."""
    tiny = float(np.finfo(np.float64).eps)
    p = np.clip(scores, tiny, 1 - tiny)
    return float(-np.mean(labels * np.log(p) + (1 - labels) * np.log1p(-p)))


def stability(expected: npt.ArrayLike, found: npt.ArrayLike) -> float:
    """Population stability index of two distributions over the same bins: sum of (f - e) ln(f / e) of shares.

    An empty bin counts as half a row, so that the index stays finite.

    Args:
        expected, found: Rows per bin.

    Raises:
        DataError: If one of them has no rows.
    """
    shares = []
    for counts in (expected, found):
        rows = np.asarray(counts, np.float64)
        if rows.sum() <= 0:
            raise DataError("stability: a part has no rows; compare parts that have some")
        shares.append(np.where(rows == 0, 0.5, rows) / rows.sum())
    e, f = shares
    used = (np.asarray(expected) > 0) | (np.asarray(found) > 0)
    return float(np.sum((f - e)[used] * np.log(f / e)[used]))


def score_stability(expected: Floats, found: Floats, count: int = 10) -> float:
    """Population stability index of scores over about `count` groups that are equal among the `expected` ones."""
    bounds = np.unique(np.quantile(expected, np.arange(1, count) / count, method="inverted_cdf"))
    counts = [
        np.bincount(np.searchsorted(bounds, each), minlength=len(bounds) + 1) for each in (expected, found)
    ]
    return stability(*counts)


def _midranks(values: Floats) -> Floats:
    """Ranks from 1, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Floats = (last - (counts - 1) / 2)[inverse]
    return ranks


def _check(labels: Floats, scores: Floats) -> None:
    if len(labels) != len(scores):
        raise DataError(f"metrics: {len(scores)} scores of {len(labels)} rows; give one score per row")
    if not np.isin(labels, (0, 1)).all():
        raise DataError("metrics: a label is not 0 or 1; these figures are for good and bad rows")
    if not np.isfinite(scores).all():
        raise DataError("metrics: a score is not a finite number; look at the model's inputs")
    if not both_classes(labels):
        raise DataError("metrics: the rows are all good or all bad; nothing tells the scores' worth")
