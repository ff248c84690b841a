"""The most frequent texts of a column over sites, found from the first byte on with sums only.

Values are taken as bytes of UTF-8 with an end mark. A round holds prefixes that enough rows begin with, and counts, for each
prefix and each next byte (or the end), the rows that go on so. Prefixes that fewer rows than `least` have are dropped, and no
more than `most` are held. A value that has ended with `least` rows or more is found, with its exact count. A prefix has no
fewer rows than any value that begins with it: as long as no prefix was dropped for want of room (`crowded`), every value of
at most `longest` bytes that `least` rows have is found, or the `most` frequent of them.

What leaves a site: per round, for k prefixes, k * 257 counts and two more; a row adds one to at most one of the k * 257,
which is what noise on them would be scaled by. There are as many rounds as the longest value found has bytes, and one more.

Who learns what: who opens the sums learns how many rows of all sites begin with each prefix held and each of its next
bytes, small counts among them; with noise on the sums, only what the noise leaves. The sites learn the prefixes held, which
`least` rows have. The result shows nothing that fewer rows have.

Source: the tree over prefixes is that of Bassily, Nissim, Stemmer and Thakurta, "Practical Locally Private Heavy Hitters"
(TreeHist), NIPS 2017, and of Zhu, Kairouz, McMahan, Sun and Li, "Federated Heavy Hitters Discovery with Differential
Privacy" (TrieHH), AISTATS 2020. There noise or sampling hides a row; here it is the sum over sites.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fedcore.analytics.disclosure import MINIMUM, checked_minimum
from fedcore.analytics.moments import left_out_note
from fedcore.analytics.result import Table
from fedcore.analytics.rows import RULES, Columns, Missing
from fedcore.analytics.sums import Sums, number
from fedcore.errors import DataError, did_you_mean

STEP = "heavy hitters"
END = 256
"""The place of the end mark among next bytes."""
MOST = 100
LONGEST = 100

Prefix = tuple[bytes, int]
"""Bytes, and the rows that begin with them."""


@dataclass(frozen=True)
class HeavyHitters:
    """What is known after some rounds.

    Args:
        name: Of the column.
        least: Rows over all sites that a value must have.
        most: Values that are found, and prefixes that are held, at most.
        longest: Bytes of a value, at most.
        held: Prefixes that the next round extends, all of one length.
        found: Values, most frequent first.
        rows: Found in the last round.
        left_out: Rows that missed the value.
        rounds: So far.
        crowded: Prefixes that were dropped because there were more than `most`.
        longer: Rows of prefixes that `least` rows have and that go on beyond `longest` bytes.
    """

    name: str
    least: int
    most: int
    longest: int
    held: tuple[bytes, ...] = (b"",)
    found: tuple[tuple[str, int], ...] = ()
    rows: int = 0
    left_out: int = 0
    rounds: int = 0
    crowded: int = 0
    longer: int = 0

    @property
    def done(self) -> bool:
        """Whether another round would find nothing."""
        return not self.held

    def table(self) -> Table:
        """A row a value, most frequent first."""
        notes = [f"{self.rows} rows; values of fewer than {self.least} rows are not shown"]
        if len(self.found) == self.most:
            notes.append(f"the {self.most} most frequent; there may be more")
        if self.crowded:
            notes.append(
                f"{self.crowded} prefixes found no room: a value may be missing. Ask for more at once"
            )
        if self.longer:
            notes.append(f"{self.longer} rows begin alike and are longer than {self.longest} bytes")
        return Table(
            f"Frequent values of {self.name}",
            ("value", "count"),
            self.found,
            (*notes, *left_out_note(self.left_out)),
        )


def search(name: str, least: int = MINIMUM, most: int = MOST, longest: int = LONGEST) -> HeavyHitters:
    """What the first round asks.

    Args:
        name: A column of texts.
        least: Rows over all sites that a value must have, not below what anybody may set as the minimum cell.
        most: Values at most, 1 or more: more of them make larger sums.
        longest: Bytes of a value, 1 or more: a round for each.

    Raises:
        DataError: `most` or `longest` is no whole number of 1 or more.
        JobError: `least` is too small.
    """
    checked_minimum(least)
    for what, value in (("most", most), ("longest", longest)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise DataError(f"{what} is {value!r}; allowed: a whole number, 1 or more", step=STEP)
    return HeavyHitters(name, least, most, longest)


def partial_prefixes(columns: Columns, state: HeavyHitters, *, missing: Missing = "refuse") -> Sums:
    """A round at a site.

    What leaves: `rows` and `left_out`, two counts; `counts` (k, 257), for each prefix held the rows that go on with each byte,
    and last those that end. Each row counts once at most.

    Args:
        columns: Of the site, (n,) each; of texts, None or NaN where missing.
        state: Of the search, the same at all sites.
        missing: The rule for missing values.

    Raises:
        DataError: There is no such column, it is not of texts, or it misses values under `refuse`.
    """
    texts, left_out = _texts(columns, state.name, missing)
    counts = np.zeros((len(state.held), END + 1), np.int64)
    places = {prefix: place for place, prefix in enumerate(state.held)}
    length = len(state.held[0]) if state.held else 0
    for text, count in texts.items():
        value = _bytes(text)
        place = places.get(value[:length])
        if place is not None:
            counts[place, value[length] if len(value) > length else END] += count
    rows = texts.total()
    return {"rows": _count(rows), "left_out": _count(left_out), "counts": counts}


def combine_prefixes(total: Sums, state: HeavyHitters) -> HeavyHitters:
    """What is known after a round; ask again until it is `done`.

    Raises:
        DataError: The sums are of another round.
    """
    counts = total["counts"]
    if counts.shape != (len(state.held), END + 1):
        raise DataError(
            f"sums have the shape {counts.shape}; allowed: {(len(state.held), END + 1)}, of this round",
            step=STEP,
        )
    ended = [
        (_text(prefix), int(count))
        for prefix, count in zip(state.held, counts[:, END].tolist(), strict=True)
        if count >= state.least
    ]
    found = sorted([*state.found, *ended], key=lambda each: (-each[1], each[0]))[: state.most]
    # A value can still come among the most frequent only from a prefix with more rows than the last of them.
    least = state.least if len(found) < state.most else found[-1][1]
    places = np.argwhere(counts[:, :END] >= least).tolist()
    grown: list[Prefix] = [(state.held[at] + bytes([byte]), int(counts[at, byte])) for at, byte in places]
    longer = 0
    if state.held and len(state.held[0]) == state.longest:
        longer, grown = sum(count for _, count in grown), []
    grown.sort(key=lambda each: (-each[1], each[0]))
    return replace(
        state,
        held=tuple(sorted(prefix for prefix, _ in grown[: state.most])),
        found=tuple(found),
        rows=number(total["rows"]),
        left_out=number(total["left_out"]),
        rounds=state.rounds + 1,
        crowded=state.crowded + max(0, len(grown) - state.most),
        longer=longer,
    )


def _texts(columns: Columns, name: str, missing: Missing) -> tuple[Counter[str], int]:
    """How often each text stands there, and how many are missing."""
    if missing not in RULES:
        raise DataError(f"missing is {missing!r}; {did_you_mean(str(missing), RULES)}", step=STEP)
    if name not in columns:
        raise DataError(f'there is no column "{name}"; {did_you_mean(name, columns)}', step=STEP)
    given = columns[name]
    held = np.asarray(given)
    if held.ndim != 1 or (held.dtype.kind not in "OU" and held.size):
        raise DataError(
            f'column "{name}" is {held.dtype} of {held.ndim} dimensions; allowed: one dimension of texts. '
            "Cure: convert it at the site",
            step=STEP,
        )
    values = held.tolist()
    if isinstance(given, np.ma.MaskedArray):
        absent = np.ma.getmaskarray(given).tolist()
        values = [None if gone else value for value, gone in zip(values, absent, strict=True)]
    try:
        counted = Counter(values)
        # NaN differs from itself: there may be several of it.
        none = [value for value in counted if value is None or value != value]
    except TypeError:
        counted, none = Counter([0]), []
    left_out = sum(counted.pop(value) for value in none)
    if not all(isinstance(value, str) for value in counted):
        raise DataError(
            f'column "{name}" has a value that is no text. Cure: convert it at the site', step=STEP
        )
    if left_out and missing == "refuse":
        raise DataError(
            f'column "{name}" misses values and the rule is "refuse". Cure: fill them, or ask with '
            'missing "leave out", which leaves out the rows and counts them',
            step=STEP,
            detail=f"{left_out} of {len(values)} rows",
        )
    return counted, left_out


def _bytes(text: str) -> bytes:
    # Half of a pair of surrogates has no UTF-8; it is a text all the same, and comes back as it was.
    return text.encode("utf-8", "surrogatepass")


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        # No site has such a text: it comes from noise, or from a site that did not keep to the question.
        return value.decode("utf-8", "backslashreplace")


def _count(value: int) -> npt.NDArray[np.int64]:
    return np.array(value, np.int64)
