"""How rows and cells of grouped sums lie in polynomials: the layout with the fewest bytes under the noise."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crypto.bfv.encryption import answer_bytes, vector_bytes
from crypto.bfv.noise import distance, kept_primes, product_spread
from crypto.bfv.parameters import LAMBDA
from crypto.bfv.ring import SMALL

AT_ONCE = 32
"""Blocks in one message."""
_SIZE = SMALL.size
_WIDE = 64
"""Cells in one plaintext, more than a plan has but for very many rows."""


@dataclass(frozen=True)
class Plan:
    """How rows and cells lie in polynomials, the same at both parties.

    Args:
        sizes: Rows of each group.
        cells: Of each group.
        columns: Numbers of each row, k.
        width: Bits of a sum, with its sign.
        fields: Columns in one plaintext.
        across: Cells in one plaintext.
    """

    sizes: tuple[int, ...]
    cells: int
    columns: int
    width: int
    fields: int
    across: int

    @functools.cached_property
    def rows(self) -> int:
        """Of all groups."""
        return sum(self.sizes)

    @property
    def block(self) -> int:
        """Rows in one plaintext, R."""
        return _SIZE // self.across

    @property
    def blocks(self) -> int:
        """Plaintexts for one piece of the values."""
        return -(-self.rows // self.block)

    @property
    def pieces(self) -> int:
        """Plaintexts for the columns of a block."""
        return -(-self.columns // self.fields)

    @property
    def chunks(self) -> int:
        """Plaintexts for the cells of a group."""
        return -(-self.cells // self.across)

    @property
    def t(self) -> int:
        """Modulus of messages."""
        return 1 << (self.width * self.fields)

    @property
    def positions(self) -> npt.NDArray[np.int64]:
        """Coefficients that hold sums, (across,)."""
        return np.arange(1, self.across + 1, dtype=np.int64) * self.block - 1

    @property
    def spread(self) -> float:
        """Of the noise of an answer before smudging."""
        ones = max(self.sizes, default=0) * self.across
        return product_spread(ones, ones, wraps=False)

    @property
    def sent(self) -> int:
        """Coefficients of all answers of a group."""
        return self.chunks * self.pieces * self.across

    @property
    def fits(self) -> bool:
        """Whether smudging hides the noise, and answers of one prime have room for it."""
        hidden = distance(SMALL, self.t, self.spread, self.sent) <= 2.0**-LAMBDA
        return hidden and kept_primes(SMALL, self.t) == 1

    @property
    def groups(self) -> list[tuple[int, int, int]]:
        """Number, first row and end of each group that has rows."""
        ends = np.cumsum(self.sizes).tolist()
        return [
            (number, end - size, end)
            for number, (size, end) in enumerate(zip(self.sizes, ends, strict=True))
            if size
        ]

    @property
    def messages(self) -> Iterator[tuple[int, int]]:
        """First block and number of blocks of each message of values."""
        for start in range(0, self.blocks, AT_ONCE):
            yield start, min(AT_ONCE, self.blocks - start)

    @functools.cached_property
    def bytes(self) -> tuple[int, int]:
        """Up and down."""
        messages, rest = divmod(self.blocks, AT_ONCE)
        up = messages * vector_bytes(SMALL, AT_ONCE * self.pieces)
        up += vector_bytes(SMALL, rest * self.pieces) if rest else 0
        answers = answer_bytes(SMALL, self.t, self.chunks * self.pieces, self.across)
        return up, sum(size > 0 for size in self.sizes) * answers


def plan(sizes: Sequence[int], cells: int, columns: int, limit: int) -> Plan:
    """The cheapest layout in bytes.

    Args:
        sizes: Rows of each group, from 0.
        cells: Of each group, from 1.
        columns: Numbers of each row, from 1.
        limit: No sum passes it in size, from 1.

    Raises:
        ValueError: A number is out of range, or sums so large do not fit.
    """
    if cells < 1 or columns < 1 or limit < 1 or min(sizes, default=0) < 0:
        raise ValueError(
            f"sums of {cells} cells, {columns} columns and limit {limit} over groups of {list(sizes)[:8]} rows; cells, "
            "columns and limit are from 1, sizes from 0"
        )
    width, whole = limit.bit_length() + 1, tuple(int(size) for size in sizes)
    found: tuple[int, Plan] | None = None
    # Of all numbers of cells with as many answers, the least has the longest blocks.
    for across in sorted({-(-cells // answers) for answers in range(1, cells + 1)}):
        if across > _SIZE:
            break
        for fields in range(min(columns, 60 // width), 0, -1):
            made = Plan(whole, cells, columns, width, fields, across)
            if made.fits:
                cost = sum(made.bytes)
                if found is None or cost < found[0]:
                    found = cost, made
                break
    if found is None:
        raise ValueError(
            f"sums of up to {limit} over groups of {max(whole)} rows need {width} bits and do not fit under the noise; "
            "take fewer fractional bits"
        )
    return found[1]


def packed_limit(rows: int, columns: int, cells: int = 512) -> int:
    """The largest limit with which all columns share one plaintext, which halves the bytes of two columns.

    Args:
        rows: Of the largest group.
        columns: Numbers of each row, from 1.
        cells: Of a group.
    """
    width = 60 // columns
    while width > 1 and not Plan((rows,), cells, columns, width, columns, min(cells, _WIDE)).fits:
        width -= 1
    return max(1, (1 << (width - 1)) - 1)
