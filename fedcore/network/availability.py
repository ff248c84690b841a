"""How likely a node is up for a whole round, from the heartbeats that came and those that did not.

Each expected heartbeat is a trial. A Beta posterior over them says how often the node is up, and how little a few
heartbeats say. How long it stays up is exponential, its mean estimated from the outages that were seen.

Source: Beta-Bernoulli and Gamma-exponential conjugate posteriors, as in Gelman et al., "Bayesian Data Analysis",
sections 2.4 and 2.6.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from fedcore.network.quantity import Quantity, iso

HEARTBEAT_SECONDS = 30.0
"""Between two heartbeats, as Flower's SuperNode sends them."""
PATIENCE = 2
"""Heartbeats that may be missing before a node counts as down."""


@dataclass(frozen=True)
class Availability:
    """What heartbeats tell of a node.

    Args:
        came, missed: Heartbeats.
        outages: Gaps of `PATIENCE` heartbeats and more.
        up_s, down_s: Seconds that it was up and down.
    """

    came: int
    missed: int
    outages: int
    up_s: float
    down_s: float

    @property
    def alpha(self) -> float:
        """First parameter of the posterior; the prior is flat, Beta(1, 1)."""
        return 1.0 + self.came

    @property
    def beta(self) -> float:
        """Second parameter."""
        return 1.0 + self.missed

    @property
    def up(self) -> float:
        """Mean of the posterior: the probability that the node is up at a moment."""
        return self.alpha / (self.alpha + self.beta)

    @property
    def spread(self) -> float:
        """Coefficient of variation of the posterior."""
        total = self.alpha + self.beta
        return math.sqrt(self.alpha * self.beta / (total**2 * (total + 1))) / self.up

    @property
    def mtbf_s(self) -> float:
        """Mean seconds between two outages. One outage more than was seen is assumed, for none says nothing."""
        return max(self.up_s, 1e-3) / (self.outages + 1)

    @property
    def mttr_s(self) -> float | None:
        """Mean seconds of an outage; None where none was seen."""
        return self.down_s / self.outages if self.outages else None

    def for_a_round(self, seconds: float) -> float:
        """Probability to be up at its beginning and to stay up.

        Args:
            seconds: Of the round, 0 or more.
        """
        return self.up * math.exp(-seconds / self.mtbf_s)

    def quantities(self, *, at: datetime | None = None) -> dict[str, Quantity]:
        """As quantities of a descriptor: `availability`, `mtbf` and, after an outage, `mttr`."""
        how = f"{self.came} of {self.came + self.missed} heartbeats came"
        when, count = iso(at), max(self.came + self.missed, 1)
        found = {
            "availability": Quantity(self.up, "probability", "measured", how, self.spread, when, count),
            "mtbf": Quantity(
                self.mtbf_s, "s", "derived", f"{self.outages} outages in {self.up_s:.0f} s", None, when
            ),
        }
        if self.mttr_s is not None:
            found["mttr"] = Quantity(
                self.mttr_s, "s", "derived", f"mean of {self.outages} outages", None, when
            )
        return found


def from_heartbeats(
    moments: Sequence[float],
    *,
    begin: float,
    end: float,
    interval: float = HEARTBEAT_SECONDS,
    patience: int = PATIENCE,
) -> Availability:
    """What heartbeats of a node tell.

    Args:
        moments: When each came, in seconds of one clock; in any order.
        begin, end: Of the time that was watched, by the same clock.
        interval: Seconds between two.
        patience: Missing ones before the node counts as down.

    Raises:
        ValueError: The time or the interval is not positive.
    """
    if end <= begin or interval <= 0 or patience < 1:
        raise ValueError(
            f"from {begin:g} to {end:g} s, every {interval:g} s, patience {patience}: no time to watch"
        )
    inside = sorted(moment for moment in moments if begin <= moment <= end)
    edges = [begin, *inside, end]
    missed = outages = 0
    down = 0.0
    for earlier, later in itertools.pairwise(edges):
        gap = later - earlier
        # Less than half an interval of delay is no loss.
        absent = max(0, math.floor(gap / interval - 0.5))
        missed += absent
        if absent >= patience:
            outages += 1
            down += gap - interval
    return Availability(len(inside), missed, outages, end - begin - down, down)
