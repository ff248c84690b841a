"""A partner's split candidates: which ones the label holder may have sums of, and in what order.

A place is a number that stands for a candidate (column, bin). Places of a pair of siblings are shuffled with the
operating system's randomness, afresh for each pair. What is put into no place, the label holder cannot ask for:

- between two candidates of a column that follow one another, and outside the first and last, a node has no row or at
  least `min_bin` rows, and so has its sibling, whose sums are a difference; a candidate that would break this is left
  out, and so are all that the parent had no place for;
- a candidate can be chosen in a node only when both sides have at least `min_leaf` rows there; the
  partner tells for each place in which of the two siblings that is so.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedcore.vertical.boosting.histograms import Ints

IN_SMALL, IN_LARGE = 1, 2
"""Bits of `Candidates.usable`."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """Places of a pair.

    Args:
        places: Column and bin, (count, 2) int32; secret.
        origin: Place of the same candidate at the parent, (count,) int32; -1 at a root.
        usable: In which of the siblings it can be chosen, (count,) uint8 of IN_SMALL and IN_LARGE.
        small, large: Rows with each code, (columns, width).
    """

    places: npt.NDArray[np.int32]
    origin: npt.NDArray[np.int32]
    usable: npt.NDArray[np.uint8]
    small: Ints
    large: Ints

    def __len__(self) -> int:
        return len(self.places)

    def __repr__(self) -> str:
        return f"Candidates({len(self)} places)"


def candidates(
    small: Ints, large: Ints, parent: npt.NDArray[np.int32], min_bin: int, min_leaf: int, shuffle: bool = True
) -> Candidates:
    """Places of a pair of siblings, shuffled.

    Args:
        small: Rows of the smaller with each code, (columns, width).
        large: The same of the larger; zeros beside a root.
        parent: Place of each candidate at the parent, (columns, width) int32; -1 where it has none. At a root, 0
            where there is a candidate.
        min_bin: Least rows between candidates.
        min_leaf: Least rows of a leaf.
        shuffle: Only a test says no.
    """
    columns, width = small.shape
    kept = np.zeros((columns, width), dtype=bool)
    usable = np.zeros((columns, width), dtype=np.uint8)
    both = np.stack([small, large])
    lefts = both.cumsum(axis=2)
    rights = lefts[:, :, -1:] - lefts
    since = np.zeros((2, columns), dtype=np.int64)
    for code in range(width - 1):
        since += both[:, :, code]
        left, right = lefts[:, :, code], rights[:, :, code]
        enough = ((since == 0) | (since >= min_bin)) & ((right == 0) | (right >= min_bin))
        keep = (parent[:, code] >= 0) & enough.all(axis=0) & (since > 0).any(axis=0) & (right > 0).any(axis=0)
        # Where no row lies between, a node has the same split already.
        choice = (since > 0) & (left >= min_leaf) & (right >= min_leaf) & keep
        usable[:, code] = choice[0] * IN_SMALL + choice[1] * IN_LARGE
        kept[:, code] = keep
        since[:, keep] = 0
    places = np.argwhere(kept).astype(np.int32)
    if shuffle:
        places = places[_permutation(len(places))]
    at = places[:, 0], places[:, 1]
    return Candidates(places, parent[at], usable[at], small, large)


def _permutation(count: int) -> npt.NDArray[np.intp]:
    # Two equal keys of 64 bits, which would keep their order, are too rare to matter.
    return np.argsort(np.frombuffer(secrets.token_bytes(8 * count), dtype=np.uint64))


def places_by_candidate(found: Candidates) -> npt.NDArray[np.int32]:
    """`parent` of the children: (columns, width), -1 where there is no place."""
    table = np.full(found.small.shape, -1, dtype=np.int32)
    table[found.places[:, 0], found.places[:, 1]] = np.arange(len(found), dtype=np.int32)
    return table
