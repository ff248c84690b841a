"""How large noise grows, how large smudging is, and how small an answer may be made.

A fresh ciphertext has phase c0 + c1 s = message + e. An evaluator's answer sum_j p_j ct_j + (p0 u + w, p1 u + f) has
phase

    message' + v + w,    v = sum_j p_j (e_j + r_j) - e u + s f

e_j errors of fresh ciphertexts, r_j at most 1/2 where messages are round(q m / t) (0 where they are multiples of
floor(q / t)), e the key's error, u ternary, f an error. v depends on the evaluator's p_j and the holder of s sees
v + w, so w must hide it: w uniform in [-B, B) hides a shift v up to a statistical distance of |v| / 2B, which is taken
over what v is made of: E|v| / 2B for one coefficient, m E|v| / 2B where m are sent. Given that, c1 = sum_j p_j a_j +
p1 u + f is uniform by RLWE under u, and what is sent of c0 follows from c1, s and the phase: answers tell the holder of
s their results and nothing else.

B is the largest power of two with 4 t B <= q, whatever is added up, and `check` refuses products for which the distance
is above 2^-LAMBDA; `distance` says what it is.

Distances add up over all that a party ever answers, with one key or with many. As `distance` has it: a fit of 30
passes over 24,000 rows and 18 standardised columns 2^-48; 50 trees of depth 4 over 24,000 rows and 558 candidates
2^-34, 10,000 trees of depth 10 2^-21. It is a bound, and what sums tell by themselves is far more.

Primes and low bits that are dropped afterwards are a function of the answer and tell nothing more; they add

    r0 + r1 s,   r0, r1 uniform between -1/2 and 1/2 (times 2^dropped)

which is at most 1/8 of what is left of q over t. So t times the phase over q is within 3/8 of an integer; above 7/16
an answer is refused as damaged.

Errors are sub-Gaussian with their variance as proxy, so with factors of a sum of squares S they pass z sigma sqrt(S)
with at most 2^-TAIL, and are sigma sqrt(S) in the mean square.

Source: Fan and Vercauteren, eprint 2012/144, lemmas 1 and 2; smudging, lemma 1 of Asharov et al., EUROCRYPT 2012,
eprint 2011/613; answers without what their noise tells, Huang, Lu, Hong and Ding, USENIX Security 2022, section 3.
"""

from __future__ import annotations

import functools
import math

from crypto.bfv.parameters import LAMBDA, SIGMA, TAIL
from crypto.bfv.ring import Ring

DEVIATIONS = math.sqrt(2 * math.log(2) * (TAIL + 1))
"""z: a sub-Gaussian number passes z times the root of its proxy with at most 2^-TAIL, on either side."""
_TERNARY = 2 / 3
LARGEST_FRACTION = 7 / 16
"""Of t times the phase over q, from an integer: more is no honest answer."""
_ROUNDING = 1 / 8


@functools.cache
def flood_bits(ring: Ring, t: int) -> int:
    """The logarithm of B."""
    return (ring.q // (4 * t)).bit_length() - 1


def zero_spread(ring: Ring) -> float:
    """At least the mean size of a coefficient of -e u + s f: the root of its mean square."""
    return math.sqrt(2 * _TERNARY * SIGMA**2 * ring.size)


def product_spread(squares: float, absolute: float, *, wraps: bool) -> float:
    """At least the mean size of a coefficient of sum_j p_j (e_j + r_j).

    Args:
        squares: The largest sum of squares of what one coefficient of the answer takes: all coefficients of all p_j.
        absolute: The same of absolute values.
        wraps: Whether messages are round(q m / t).
    """
    return SIGMA * math.sqrt(squares) + (absolute / 2 if wraps else 0.0)


def product_bound(squares: float, absolute: float, *, wraps: bool) -> float:
    """The largest coefficient of sum_j p_j (e_j + r_j), but for 2^-TAIL; arguments as of `product_spread`."""
    return DEVIATIONS * SIGMA * math.sqrt(squares) + (absolute / 2 if wraps else 0.0)


def distance(ring: Ring, t: int, spread: float, positions: int | None = None) -> float:
    """What answers may tell beside their results, as a statistical distance.

    Args:
        ring: Of the key.
        t: Modulus of messages.
        spread: Of sum_j p_j (e_j + r_j), from `product_spread`; `product_bound` is more than enough.
        positions: Coefficients that are sent of all these answers; those of one answer where none is said.
    """
    sent = ring.size if positions is None else positions
    return float(sent * (spread + zero_spread(ring) + 1) / 2.0 ** (flood_bits(ring, t) + 1))


def check(ring: Ring, t: int, spread: float, positions: int | None = None) -> None:
    """Refuse products whose noise would show through the smudging.

    Args:
        ring, t, spread, positions: As in `distance`.

    Raises:
        ValueError: The distance is above 2^-LAMBDA.
    """
    told = distance(ring, t, spread, positions)
    if told > 2.0**-LAMBDA:
        raise ValueError(
            f"the noise of these products shows through the smudging with 2^{math.log2(told):.1f} at a modulus of "
            f"{(t - 1).bit_length()} bits; 2^-{LAMBDA} is allowed: take smaller factors or a smaller modulus"
        )


def rounding_bound(ring: Ring) -> float:
    """The largest coefficient of r0 + r1 s."""
    return DEVIATIONS * math.sqrt((1 + ring.size * _TERNARY) / 12) + 0.5


@functools.cache
def kept_primes(ring: Ring, t: int) -> int:
    """Primes that an answer keeps: the fewest that leave room for rounding."""
    for count in range(1, len(ring.primes) + 1):
        if rounding_bound(ring) * t <= _ROUNDING * math.prod(ring.primes[:count]):
            return count
    raise ValueError(f"a modulus of {t.bit_length() - 1} bits leaves no room for noise")


@functools.cache
def dropped_bits(ring: Ring, t: int) -> int:
    """Low bits that an answer of one prime goes without."""
    if kept_primes(ring, t) > 1:
        return 0
    room = _ROUNDING * ring.primes[0] / t / rounding_bound(ring) - 1
    return max(0, math.floor(math.log2(room))) if room > 1 else 0
