"""Differences between protected sums: no two answers over many sites differ by a few rows.

Under a secure sum no site sees the answer, and a difference that is large at every site by itself may be small, or the other
way round. So the test is made on sizes that are summed over the sites like any other answer, before the question is
answered:

    site          earlier(...)            which questions it was told of; the coordinator unites the lists of all sites
    site          sizes(...)              how many rows each group has, and shares with each group of each earlier question
    on the way                            the sum over sites
    coordinator   refuse_isolating(...)   no group, and not all of them, may differ from groups of an earlier question
                                          that lie within or around it by fewer rows than the minimum, unless by none
    site          record(...)             before its part of the answer leaves

The groups of a question share no row. A site keeps which rows they held (never what the rows hold), per asker and data set,
in a file that is only ever added to and whose lines carry the hash of the one before. It refuses a list that leaves out a
question that it was told of. Of a question that it was not told of its rows are in no group, as they were in no answer.

Who learns what: the coordinator learns the sizes, summed over sites. A shared size can be small though no answer tells it;
it is for the test alone, and is not kept or shown.

The same question over other sites is taken for the same: the difference of its two answers is that of the sites that are in
one of them only, which none of the others can see.

What else this does not hold against: a coordinator that works with the asker (it decides, and sees sizes); askers who put their
answers together; sums and differences of three answers or more, which `fedcore.analytics.overlap` does test where a site's
answers are seen by themselves; totals over one of two keys, unless they are recorded as a question of their own; knowledge
from elsewhere; differences in which values are missing. Rows are told apart by their place, so a data set that changes
otherwise than by new rows at its end needs a new name.

Source: the tests are those of `fedcore.analytics.overlap`, on sizes in the place of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedcore.analytics.disclosure import SUPPRESSED, checked_minimum, suppressed_bins
from fedcore.analytics.overlap import packed, told
from fedcore.analytics.sums import Ints, Sums
from fedcore.errors import DataError, JobError, PolicyRefused
from fedcore.trust import evidence
from fedcore.trust.locked import locked

STEP = "overlap"
MOST_QUESTIONS = 200
"""Questions of one asker about one data set; further ones are refused until the site's data office says how to go on."""
MOST_SIZES = 1_000_000
"""Numbers in one test, 8 bytes each."""
GROUPS = "groups"
Bools = npt.NDArray[np.bool_]
Earlier = tuple[str, int]
"""Hash of an earlier question, and how many groups it has."""


# ---- at the site ----------------------------------------------------------------------------------------------------


def record(
    file: Path,
    asker: str,
    dataset: str,
    hash: str,  # noqa: A002 - what it is
    text: str,
    sets: Sequence[int],
    *,
    compared: Sequence[Earlier] | None = None,
) -> None:
    """Note a question whose answer this site is about to take part in; once more with the same rows is nothing new.

    Args:
        file: The site's record of protected sums, apart from that of `overlap.admit`; made on first use.
        asker, dataset: Who asks of what.
        hash: Of the answer: what is asked, and where askers could compare them, which sites take part.
        text: For a person to read.
        sets: Rows of its groups, as the set bits of whole numbers, in the order that all sites share; 0 for none.
        compared: The earlier questions that it was compared with; one that came in between, or was kept from the
            comparison, is then found.

    Raises:
        PolicyRefused: There are too many questions, or one that it was not compared with.
        DataError: The groups share rows, or the record was changed.
    """
    _apart(sets)
    with locked(file):
        before = _versions(file, asker, dataset)
        if compared is not None:
            _refuse_left_out([each for each in before if _base(each[0]) != hash], compared)
        same = [rows for name, rows in before if _base(name) == hash]
        if same and same[-1] == tuple(sets):
            return
        if same and len(same[-1]) != len(sets):
            raise DataError(
                f"question {hash[:12]} has {len(sets)} groups here and had {len(same[-1])}", step=STEP
            )
        if len(before) >= MOST_QUESTIONS:
            raise _too_many(len(before))
        evidence.append(
            file,
            {
                "asker": asker,
                "dataset": dataset,
                "query": hash,
                "text": text,
                "sets": [packed(rows) for rows in sets],
            },
        )


def earlier(file: Path, asker: str, dataset: str) -> list[Earlier]:
    """What the site was told of, in order: hashes, and numbers of groups.

    A question that was told again after the data set had changed stands there again, as `<hash>+1` and so on.

    Raises:
        DataError: The record was changed after it was written.
    """
    return [(name, len(sets)) for name, sets in _versions(file, asker, dataset)]


def united(lists: Iterable[Iterable[Earlier]]) -> list[Earlier]:
    """The lists of all sites as one, in which each earlier question stands once; for the coordinator.

    Raises:
        JobError: Two sites say of one question that it has other numbers of groups.
    """
    made: dict[str, int] = {}
    for each in lists:
        for name, count in each:
            if made.setdefault(name, count) != count:
                raise JobError(
                    f"earlier question {name[:12]}: one site counts {made[name]} groups, another {count}; install the same "
                    "version of fedcore at all",
                    step=STEP,
                )
    return sorted(made.items())


def sizes(file: Path, asker: str, dataset: str, sets: Sequence[int], earlier: Sequence[Earlier]) -> Sums:
    """What this site adds to the test of a new question.

    Args:
        file, asker, dataset: As for `record`.
        sets: Rows of the groups of the new question, as for `record`.
        earlier: From `united`: form and order of what comes back follow from it.

    Returns:
        int64: `groups` (n,) sizes of the groups; per earlier question of m groups `earlier <i>` (m,) sizes of its groups and
        `shared <i>` (n, m) sizes of what they have in common.

    Raises:
        PolicyRefused: The list leaves out a question that this site was told of; or the test would be too large.
        JobError: The list is none.
        DataError: The groups share rows, or the record was changed.
    """
    _apart(sets)
    names = [name for name, _ in earlier]
    if len(set(names)) < len(names) or any(count < 0 for _, count in earlier):
        raise JobError("the list of earlier questions names one twice, or has a count below 0", step=STEP)
    if len(earlier) > MOST_QUESTIONS:
        raise _too_many(len(earlier))
    needed = len(sets) + (len(sets) + 1) * sum(count for _, count in earlier)
    if needed > MOST_SIZES:
        raise PolicyRefused(
            f"{len(sets)} groups and those of {len(earlier)} earlier questions make {needed} pairs; allowed: {MOST_SIZES}, "
            "which can be checked together. Cure: ask fewer groups, or the sites' data offices",
            step=STEP,
        )
    with locked(file):
        before = _versions(file, asker, dataset)
    _refuse_left_out(before, earlier)
    held = dict(before)
    made: Sums = {GROUPS: _counted(sets)}
    for at, (name, count) in enumerate(earlier):
        old = _rows_of(name, count, held)
        made[f"earlier {at}"] = _counted(old)
        pairs = [(rows & other).bit_count() for rows in sets for other in old]
        made[f"shared {at}"] = np.array(pairs, np.int64).reshape(len(sets), count)
    return made


def _versions(file: Path, asker: str, dataset: str) -> list[tuple[str, tuple[int, ...]]]:
    """Names and rows of what was recorded, in order."""
    seen: dict[str, int] = {}
    made = []
    for each in told(file, asker, dataset):
        again = seen.get(each.query, -1) + 1
        seen[each.query] = again
        made.append((f"{each.query}+{again}" if again else each.query, each.sets))
    return made


def _base(name: str) -> str:
    return name.partition("+")[0]


def _rows_of(name: str, count: int, held: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Rows of an earlier question here. Where it was told again elsewhere only, they had not changed here."""
    base, _, again = name.partition("+")
    if again and not again.isdecimal():
        raise JobError(f"the list of earlier questions has an unknown name {name[:80]!r}", step=STEP)
    versions = (f"{base}+{at}" if at else base for at in range(min(int(again or 0), MOST_QUESTIONS), -1, -1))
    found = next((held[each] for each in versions if each in held), (0,) * count)
    if len(found) != count:
        raise JobError(
            f"earlier question {name[:12]} has {len(found)} groups here, the coordinator says {count}; install the same "
            "version of fedcore at all",
            step=STEP,
        )
    return found


def _refuse_left_out(before: Sequence[tuple[str, tuple[int, ...]]], listed: Sequence[Earlier]) -> None:
    known = {name for name, _ in listed}
    for name, _ in before:
        if name not in known:
            raise PolicyRefused(
                f"the asker was told of question {name[:12]} here, with which the coordinator does not compare the new one; "
                "allowed: a list of all that any site was told of. Cure: ask again",
                step=STEP,
            )


def _apart(sets: Sequence[int]) -> None:
    """Refuse groups that share rows: their sizes could not be added."""
    every = 0
    for rows in sets:
        if rows < 0 or every & rows:
            raise DataError("groups of the question share rows; allowed: groups that share none", step=STEP)
        every |= rows


def _counted(sets: Sequence[int]) -> Ints:
    return np.array([rows.bit_count() for rows in sets], np.int64)


def _too_many(count: int) -> PolicyRefused:
    return PolicyRefused(
        f"this asker was answered {count} questions about the data set; allowed: {MOST_QUESTIONS}, which can be checked "
        "together. Cure: ask the sites' data offices",
        step=STEP,
    )


# ---- at the coordinator ---------------------------------------------------------------------------------------------


def refuse_isolating(total: Sums, earlier: Sequence[Earlier], minimum: int, block: int = 0) -> None:
    """Refuse a question that would tell of a few rows by its difference to an earlier one.

    Args:
        total: What the sites' `sizes` add up to.
        earlier: The list that the sites had.
        minimum: Fewest rows, the largest of all sites' least cells.
        block: How many groups of the new question in a row are bins of one histogram and its missing values; 0: none. An
            earlier question says it at the end of its hash.

    Raises:
        PolicyRefused: It would; the earlier question is named.
        JobError: The sizes are not those of that list.
    """
    checked_minimum(minimum)
    for at, (name, count) in enumerate(earlier):
        try:
            groups, old = _rounded(total[GROUPS]), _rounded(total[f"earlier {at}"])
            shared = _rounded(total[f"shared {at}"])
        except KeyError as error:
            raise JobError(
                f"the sites' sizes lack those of earlier question {name[:12]}", step=STEP
            ) from error
        if old.shape != (count,) or shared.shape != (*groups.shape, count):
            raise JobError(f"the sites' sizes are not those of earlier question {name[:12]}", step=STEP)
        new, known = _shown(groups, block, minimum), _shown(old, _block(name), minimum)
        if _isolates(groups, old, shared, new, known, minimum) or _isolates(
            old, groups, shared.T, known, new, minimum
        ):
            raise PolicyRefused(
                f"with the earlier question {name[:12]} this one would tell of fewer than {minimum} rows; allowed: "
                f"differences of {minimum} rows or more, or none. Cure: ask the same groups again, or coarser ones",
                step=STEP,
            )


def _rounded(values: np.ndarray) -> Ints:
    """Counts as whole numbers, in whichever type the sum gave them."""
    made: Ints = np.rint(np.asarray(values)).astype(np.int64)
    return made


def _block(name: str) -> int:
    """What stands behind the hash of a question."""
    word = _base(name).partition("-")[2]
    return int(word) if word.isdecimal() and len(word) < 6 else 0


def _shown(sizes: Ints, block: int, minimum: int) -> Bools:
    """Which groups are told: not small ones, and no bins from which and the sum of all a small one would follow."""
    made: Bools = sizes >= minimum
    for start in range(0, len(sizes) - block + 1, block) if block else ():
        bins = suppressed_bins(sizes[start : start + block - 1].tolist(), minimum)
        made[start : start + block - 1] &= [each is not SUPPRESSED for each in bins]
    return made


def _isolates(one: Ints, other: Ints, shared: Ints, shown: Bools, known: Bools, minimum: int) -> bool:
    """Whether a group of the one question, or all its groups, and groups of the other differ by a few rows.

    Groups that are suppressed in the answers count in the whole only.

    Args:
        one: (n,) sizes of the one's groups, none of which share rows.
        other: (m,) of the other's.
        shared: (n, m) of what they share.
        shown, known: (n,) and (m,), which are told.
        minimum: Fewest rows.
    """
    rows = np.concatenate([one[shown], [one[shown].sum(), one.sum()]])
    common = np.vstack([shared[shown], shared[shown].sum(axis=0), shared.sum(axis=0)])
    told = rows >= minimum
    rows, everything, common = rows[told], common[told].sum(axis=1), common[told][:, known]
    parts, whole = other[known], other.sum()
    inside = common == parts
    within = np.where(inside, parts, 0).sum(axis=1)
    around = np.where(common > 0, parts, 0).sum(axis=1)
    # A single group within or around is one of these: beside it there is no room for another that is told.
    apart = np.concatenate(
        [
            np.where(inside.any(axis=1), rows - within, 0),
            np.where(common.sum(axis=1) == rows, around - rows, 0),
            # All of the other, its suppressed groups too.
            np.where(everything == rows, whole - rows, 0),
        ]
    )
    # A bin that is hidden for a small one's sake, and that the other tells.
    for_others = ~shown & (one >= minimum)
    left = one[~shown].sum() - shared[~shown][:, known].sum()
    undone = shared[for_others][:, known].any() and 0 < left < minimum
    return bool(((apart > 0) & (apart < minimum)).any() or undone)
