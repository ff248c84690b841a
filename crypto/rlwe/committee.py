"""Who holds the key of sums, and how many of them open one: all of a small cohort, a random committee of a large one.

For t of H holders, c of which may work together with the coordinator but with probability 2^-41:

    curious    t > c             they cannot open a sum without an honest holder
    active     2 t > H + c       any two sets of holders that open have an honest one in common, who opens for one set
                                 of participants in a round only (`fedcore` keeps that)
    drop-outs  H less those that drop out leave t, but with probability 2^-40

A cohort of up to 32 holds the key itself. Of a larger one a committee does, the smallest that these rules allow: it is
drawn by a hash of all advertised keys, which the coordinator sees before it closes the roster, so that with colluding
participants it can try several (as in `crypto.secagg.protocol`).

Source: the bounds are those of Bell et al., CCS 2020 (`crypto.secagg.graph`), for one set in place of n.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from crypto.secagg.graph import MOST_COMPLETE, Assumptions, NoParameters, most_corrupt, sparse

_SMALL = 1e-14


@dataclass(frozen=True)
class Committee:
    """What follows from the assumptions for one cohort.

    Args:
        holders: Of shares of the key.
        threshold: Holders that open a sum, from 2.
        least: Participants that a sum has at least.
    """

    holders: int
    threshold: int
    least: int


@functools.lru_cache(maxsize=256)
def committee(cohort: int, assumptions: Assumptions) -> Committee:
    """The smallest committee that holds the assumptions.

    Args:
        cohort: Participants.
        assumptions: About them.

    Raises:
        NoParameters: The cohort is too small, or not even all of it hold them.
    """
    corrupt = most_corrupt(cohort, assumptions)
    active = assumptions.adversary == "active"
    found = None
    if cohort > MOST_COMPLETE:
        found = sparse(
            cohort,
            corrupt,
            math.ceil((assumptions.dropout - _SMALL) * cohort),
            _active if active else _curious,
            connected=False,
            security=assumptions.security,
            correctness=assumptions.correctness,
        )
    holders, threshold = found or _all(cohort, corrupt, assumptions)
    return Committee(holders, threshold, max(assumptions.least_cohort, cohort // 2 + 1))


def drawn(names: Sequence[str], holders: int, seed: bytes) -> tuple[str, ...]:
    """The members of a committee, in the order in which holders are numbered.

    Args:
        names: Of the cohort.
        holders: How many.
        seed: That follows from all advertised keys.
    """
    order = sorted(
        names, key=lambda name: hashlib.sha256(b"fedcore committee 1" + seed + name.encode()).digest()
    )
    return tuple(order[:holders])


def _curious(holders: int, colluding: int) -> int:
    return max(2, colluding + 1)


def _active(holders: int, colluding: int) -> int:
    return max(2, (holders + colluding) // 2 + 1)


def _all(cohort: int, corrupt: int, assumptions: Assumptions) -> tuple[int, int]:
    if cohort == 2:
        # One that colludes learns the other's vector from the sum: only none can be assumed.
        corrupt = 0
    dropped = math.floor((assumptions.dropout + _SMALL) * cohort)
    threshold = (_active if assumptions.adversary == "active" else _curious)(cohort, corrupt)
    if threshold > cohort - dropped:
        raise NoParameters(
            f"of {cohort} holders of the key {corrupt} colluding ones ask for a threshold of {threshold}, and {dropped} "
            f"that drop out leave {cohort - dropped}: lower corrupt or dropout, or take a larger cohort"
        )
    return cohort, threshold
