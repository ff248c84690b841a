"""Poisson sampling: which rows take part in a step, each by its own coin.

The accountants' figures for sampled rounds hold for this way only. A shuffled pass over the rows, or batches of a fixed size,
is something else, though most code that trains privately does that and accounts for this (Lebeda et al. 2024; Chua et al.
2024). A batch may have any size, zero too.

Source: Abadi et al., "Deep Learning with Differential Privacy", CCS 2016; Chua et al., "How Private are DP-SGD
Implementations?", ICML 2024; Lebeda, Regehr, Kamath and Steinke, "Avoiding Pitfalls for Privacy Accounting of Subsampled
Mechanisms under Composition", 2024.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fedcore.errors import JobError
from fedcore.learning.private.noise import random_words

_WORDS = 2**63


def poisson_batch(rows: int, rate: float) -> torch.Tensor:
    """The rows of one step.

    Args:
        rows: That there are, 0 or more.
        rate: Probability with which a row is in, above 0, at most 1; the coin's is lower by less than 2^-63.

    Returns:
        int64, `[n]`, ascending row numbers; n differs from call to call and may be 0.

    Raises:
        JobError: A number is out of range.
    """
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 0:
        raise JobError(f"a batch is drawn from {rows!r} rows; allowed: a whole number, 0 or more")
    if not 0 < rate <= 1:
        raise JobError(f"the sampling rate is {rate}; allowed: above 0, at most 1")
    if rate == 1:
        return torch.arange(rows)
    return torch.nonzero(random_words(rows) < int(rate * _WORDS)).flatten()


def physical_batches(chosen: torch.Tensor, most: int) -> Iterator[torch.Tensor]:
    """A step's rows in parts that fit into memory.

    Args:
        chosen: As from `poisson_batch`.
        most: Rows of a part, 1 or more.

    Raises:
        JobError: `most` is out of range.
    """
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise JobError(f"a physical batch has {most!r} rows at most; allowed: a whole number, 1 or more")
    for start in range(0, len(chosen), most):
        yield chosen[start : start + most]
