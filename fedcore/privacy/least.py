"""The least noise at which something costs no more than it may, in few looks at the cost."""

from __future__ import annotations

import math
from collections.abc import Callable

_PATIENCE = 3
"""Looks after which what is left is to be half of what it was; the middle is next where it is not."""


def least(
    cost: Callable[[float], float], target: float, high: float, *, lowest: float, tolerance: float
) -> float:
    """The least noise that costs no more than a target.

    Down by half at most until a noise costs too much, then by secants of the logarithms of the last two, inside what is known
    to be too little and enough, and by halves where these do not get on.

    Args:
        cost: Falls with the noise; may be 0 or infinite. It is never asked for less than half of a noise that was enough, for
            it takes the longer the less noise there is.
        target: Above 0.
        high: Noise that is enough.
        lowest: Noise that is looked at, at least.
        tolerance: Relative, by which the result may be too large; it is never too small.

    Returns:
        A noise whose cost was looked at, or `high`.
    """
    low, slope = 0.0, -1.0
    last, found = high, cost(high)
    margin, side = tolerance / 3, 0
    widths = [math.inf] * _PATIENCE
    while high - low > tolerance * high and high > lowest:
        aim = math.nan
        if 0 < found < math.inf:
            further = (math.log(found) - math.log(target)) / -slope
            aim = last * math.exp(max(-50.0, min(further, 50.0)))
            # A little to the side that is still open, and more each time that the same side is met.
            aim *= 1 + margin if high - aim > tolerance * aim else 1 - 2 * margin
        floor = max(high / 2, lowest)
        widths.append(math.log(high / low) if low else math.inf)
        if not low < aim < high or widths[-1] > widths[-1 - _PATIENCE] / 2:
            aim = math.sqrt(low * high) if low else floor
        aim = max(aim, floor)
        before, last = (last, found), aim
        found = cost(aim)
        if 0 < found < math.inf and 0 < before[1] < math.inf and last != before[0]:
            # A cost that hardly falls says nothing of where the target is.
            slope = min((math.log(found) - math.log(before[1])) / math.log(last / before[0]), -0.1)
        now = 1 if found <= target else -1
        low, high = (low, aim) if now > 0 else (aim, high)
        margin, side = (2 * margin if now == side else tolerance / 3), now
    return high
