"""How large noise grows, how large smudging must be, and how many sums one key may open.

All secrets and errors are sub-Gaussian with their variance as proxy (uniform ternary 2/3, discrete Gaussian
sigma^2, uniform smudging (B + 1)^2 / 3), so a sum of n of them passes z sqrt(n variance) with at most
2^-TAIL. The inner product of two random vectors is bounded given the norm of one of them, and that norm by
the bound for squares of sub-Gaussian vectors.

With C participants' vectors in a sum, H key shares s_i with errors e_i, randomness u_j and errors f_j, g_j,
opening the key layer's ciphertext gives

    S + T (v + w),    v = sum f_j - (sum e_i) (sum u_j) + (sum s_i) (sum g_j),    w = all smudging added

v depends on the shares and must not be told. A uniform number in [-B, B) hides a shift v of at most b up to a
statistical distance of b / 2B, so N b / 2B for a ring element. Only one honest smudging is counted on. B is
the largest power of two with which opening is still exact; it is far more than 2^40 b N, and the rest is how
many sums a key may open.

Source: the smudging lemma is lemma 1 of Asharov et al., EUROCRYPT 2012, eprint 2011/613; smudging of partial
decryptions is Mouchet et al., PETS 2021, eprint 2020/304, section 4; squares are Hsu, Kakade and Zhang,
Electronic Communications in Probability 17, 2012, theorem 2.1.
"""

from __future__ import annotations

import math
from fractions import Fraction

from crypto.rlwe.parameters import KEY_WIDTH, LAMBDA, SIGMA, SIZE, TAIL, WIDE_SIGMA, Q

_DEVIATIONS = math.sqrt(2 * math.log(2) * (TAIL + 1))
"""z: a sub-Gaussian number passes z times the root of its proxy with at most 2^-TAIL, on either side."""
_TERNARY = 2 / 3


def _norm_squared() -> float:
    """A bound on the squared norm of N sub-Gaussian numbers of proxy 1, passed with at most 2^-TAIL."""
    t = TAIL * math.log(2)
    return SIZE + 2 * math.sqrt(SIZE * t) + 2 * t


def wide_sum(contributors: int) -> int:
    """The largest coefficient of a sum of so many payload secrets, or errors."""
    return math.ceil(_DEVIATIONS * WIDE_SIGMA * math.sqrt(contributors))


def key_noise(contributors: int, holders: int) -> int:
    """b: the largest coefficient of v."""
    direct = contributors * SIGMA**2
    products = 2 * contributors * holders * _TERNARY * SIGMA**2 * _norm_squared()
    return math.ceil(_DEVIATIONS * math.sqrt(direct + products))


def smudging_bits(contributors: int, holders: int, active: int) -> int:
    """The logarithm of B.

    Args:
        contributors: Participants whose vectors a sum may hold, C.
        holders: Of key shares, H.
        active: Holders that open the sum.
    """
    room = Q // 2 // 2**KEY_WIDTH - 1 - key_noise(contributors, holders) - active
    bits = int(room / _together(active)).bit_length() - 1
    while _opened(contributors, holders, active, bits) * 2**KEY_WIDTH + 2 ** (KEY_WIDTH - 1) > Q // 2:
        bits -= 1
    return bits


def opened_noise(contributors: int, holders: int, active: int) -> int:
    """The largest coefficient of v + w."""
    return _opened(contributors, holders, active, smudging_bits(contributors, holders, active))


def _opened(contributors: int, holders: int, active: int, bits: int) -> int:
    return key_noise(contributors, holders) + math.ceil(_together(active) * ((1 << bits) + 1)) + active


def _together(active: int) -> float:
    """The largest sum of so many smudging numbers, in units of B."""
    return min(float(active), _DEVIATIONS * math.sqrt(active / 3))


def distance(contributors: int, holders: int, active: int) -> Fraction:
    """What opening one sum may tell of the key shares at most, as a statistical distance."""
    bits = smudging_bits(contributors, holders, active)
    told = Fraction(key_noise(contributors, holders), 2 ** (bits + 1))
    return SIZE * (told + Fraction(4, 2**TAIL))


def releases(contributors: int, holders: int, active: int) -> int:
    """Sums that one key may open with a distance of 2^-LAMBDA for all of them together."""
    return int(Fraction(1, 2**LAMBDA) / distance(contributors, holders, active))
