"""Sizes of an oblivious key-value store, by the number of its pairs alone.

A store is bins of equal width. The number of pairs in a bin is binomial; `capacity` is what it exceeds with
probability at most 2^-ssp. A system of that many rows gets `sparse` = e * capacity columns and `dense` further ones:

    log2 s = 0.555 log2 n + 0.093 w^3 - 1.01 w^2 + 2.925 w - 0.133, w = log2 3        (n = capacity)
    e = 1.223 + (ssp + 9.2) / s,    dense = floor(ssp / log2 sparse)

e is the published fit to how often peeling of random rows leaves a large core, extended to rates that no experiment
reaches; it is no theorem. `dense` is for the small cores: two rows with the same three columns, and the like.

            pairs   bins  capacity  sparse  dense  ssp  places/pair
                1      1         1      11     11   40      22.0000
              128      1       128     241      5   40       1.9219
            1,000      1      1000    1434      3   40       1.4370
           10,000      1     10000   12818      2   40       1.2820
          100,000      3     34429   43187      2   43       1.2957
        1,000,000     31     33611   42237      2   46       1.3094
        1,048,576     32     34132   42881      2   46       1.3087
       10,000,000    305     34236   43093      3   50       1.3144
      100,000,000   3052     34262   43187      3   53       1.3182
    1,000,000,000  30518     34310   43308      3   56       1.3218

Source: Raghuraman and Rindal, "Blazing Fast PSI", CCS 2022 (eprint 2022/320), section 3; the numbers as in the
authors' code (volepsi, `PaxosParam::init`, weight 3). Over the whole store failure stays below 2^-LAMBDA, whatever
the number of bins: ssp = LAMBDA + 1 + log2 bins, rounded up, half for overflow and half for the systems.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from functools import lru_cache
from math import factorial

from crypto.kernels.okvs_kernels import PLACE_BITS
from crypto.psi.parameters import LAMBDA

BIN_ITEMS = 2**15
"""Pairs in a bin on average. A bin's working set stays in a second-level cache of 1 MiB; 2^14 costs 3 % more
places, 2^16 saves 2 % of them and makes the encoder a fifth slower."""
_EXACT = Context(prec=40, rounding=ROUND_HALF_EVEN)
"""Decimal arithmetic is the same on every machine; floating-point logarithms are not."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a store; both sides compute them from the number of pairs.

    Args:
        items: Most pairs it is made for.
        bins: 1 to 2^32 - 1.
        capacity: Most pairs in a bin.
        sparse: Sparse columns of a bin, 3 to 2^21.
        dense: Dense columns of a bin.
        ssp: Statistical security of one bin, bits.
    """

    items: int
    bins: int
    capacity: int
    sparse: int
    dense: int
    ssp: int

    def __post_init__(self) -> None:
        if not 1 <= self.bins < 2**32 or not 3 <= self.sparse <= 1 << PLACE_BITS:
            raise ValueError(
                f"a store has 1 to {2**32 - 1} bins of 3 to {1 << PLACE_BITS} sparse columns, "
                f"not {self.bins} of {self.sparse}"
            )
        if min(self.items, self.capacity, self.dense) < 0:
            raise ValueError(f"sizes of a store are not negative: {self}")

    @property
    def width(self) -> int:
        """Places of one bin, of 16 bytes."""
        return self.sparse + self.dense

    @property
    def length(self) -> int:
        """Places of the store, of 16 bytes."""
        return self.bins * self.width


@lru_cache(maxsize=64)
def shape_for(items: int) -> Shape:
    """The shape of a store for so many pairs. In decimal arithmetic, so that every machine computes the same.

    Args:
        items: Pairs, from 0 to 2^32 - 1. The shape for none is that for one: the store is then all random.

    Raises:
        ValueError: Another number.
    """
    if not 0 <= items < 2**32:
        raise ValueError(f"a store holds 0 to {2**32 - 1} pairs, not {items}: split the set")
    bins = max(1, (items + BIN_ITEMS // 2) // BIN_ITEMS)
    if bins == 1:
        capacity, ssp = max(1, items), LAMBDA
    else:
        ssp = LAMBDA + 1 + (bins - 1).bit_length()
        capacity = _capacity(items, bins, ssp)
    sparse, dense = _columns(capacity, ssp)
    return Shape(items, bins, capacity, sparse, dense, ssp)


@lru_cache(maxsize=64)
def overflow_bound(items: int, bins: int) -> int:
    """The number of items that no bin exceeds when `items` fall into `bins`, but with probability 2^-LAMBDA in all.

    For the side whose set the store is not made for: it pads each of its bins to this.
    """
    if bins == 1:
        return items
    return _capacity(items, bins, LAMBDA + (bins - 1).bit_length())


def _columns(items: int, ssp: int) -> tuple[int, int]:
    """Sparse and dense columns of a system of so many rows that is unsolvable with probability 2^-ssp."""
    with localcontext(_EXACT):
        two, three = Decimal(2).ln(), Decimal(3).ln()
        weight = three / two  # log2 of the three hashes
        slope_log = (
            Decimal("0.555") * (Decimal(items).ln() / two)
            + Decimal("0.093") * weight**3
            - Decimal("1.01") * weight**2
            + Decimal("2.925") * weight
            - Decimal("0.133")
        )
        slope = (slope_log * two).exp()
        expansion = Decimal("1.223") + (ssp + Decimal("9.2")) / slope
        sparse = int((expansion * items).to_integral_value(rounding="ROUND_CEILING"))
        dense = int(ssp * two / Decimal(sparse).ln())
    return sparse, dense


def _log_factorial(n: int) -> Decimal:
    """ln n!, by Stirling's series from 64 on: the error is below 1e-13."""
    if n < 64:
        return Decimal(factorial(n)).ln()
    z = Decimal(n)
    pi = Decimal("3.14159265358979323846264338327950288")
    return z * z.ln() - z + (2 * pi * z).ln() / 2 + 1 / (12 * z) - 1 / (360 * z**3) + 1 / (1260 * z**5)


def _log2_overflow(items: int, bins: int, capacity: int) -> Decimal:
    """log2 of a tight upper bound on the probability that a given bin gets more than `capacity` of the items.

    The binomial probability of the first term of the tail, times the geometric series that the later ones stay below.
    """
    k = capacity + 1
    if k > items:
        return Decimal("-Infinity")
    share = Decimal(1) / bins
    rest = 1 - share
    ratio = Decimal(items - k) / (k + 1) * share / rest
    if ratio >= 1:
        return Decimal(0)
    term = _log_factorial(items) - _log_factorial(k) - _log_factorial(items - k)
    term += k * share.ln() + (items - k) * rest.ln()
    return (term - (1 - ratio).ln()) / Decimal(2).ln()


def _capacity(items: int, bins: int, ssp: int) -> int:
    """The least capacity that a given bin exceeds with probability at most 2^-ssp."""
    with localcontext(_EXACT):
        low, high = items // bins, items
        while low < high:
            middle = (low + high) // 2
            if _log2_overflow(items, bins, middle) <= -ssp:
                high = middle
            else:
                low = middle + 1
    return low
