"""What the label holder tells the partners to do next, and what a partner agrees to.

An order is 35 bytes: kind, block of rows, period of the mean function, momentum, gain and rate of the step. A partner
does no more passes than its job allows, and nothing that its job does not ask for.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from crypto.channel import Channel
from fedcore.errors import ProtocolFailed
from fedcore.jobs.vertical import Logistic
from fedcore.vertical.links import LARGEST_PERIOD, PERIOD

PASS, FAR, CHANGE, LOSS, SIGNS, INFORMATION, DONE = range(7)
"""A step over a block of rows; rows out of range; the largest change of a weight; the loss on test rows; signs of the
weights; the information matrix; the end."""
NAMES = ("pass", "far", "change", "loss", "signs", "information", "done")
MOST_FITS = 12
"""Fits with different weights held at zero."""
_FORM = struct.Struct("<BHdddd")
_STEP = "glm.order"


@dataclass(frozen=True)
class Order:
    """The next thing.

    Args:
        kind: One of those above.
        block: Of rows, in a pass.
        period: Of the mean function.
        momentum: Of the optimiser, from 0 to 1.
        gain: What a gradient is multiplied with, its rate included.
        rate: Of a step.
    """

    kind: int
    block: int = 0
    period: float = PERIOD
    momentum: float = 0.0
    gain: float = 1.0
    rate: float = 1.0


def give(channels: Sequence[Channel], order: Order) -> None:
    """Tell the partners."""
    raw = _FORM.pack(order.kind, order.block, order.period, order.momentum, order.gain, order.rate)
    for channel in channels:
        channel.send(_STEP, raw)


@dataclass
class Orders:
    """A partner's reading of orders.

    Args:
        channel: To the label holder.
        settings: Of the job.
        blocks: Of rows.
    """

    channel: Channel
    settings: Logistic
    blocks: int
    steps: int = 0

    def take(self) -> Order:
        """The next order.

        Raises:
            ProtocolFailed: The job does not ask for it.
        """
        order = Order(*_FORM.unpack(self.channel.recv(_STEP, size=_FORM.size)))
        settings = self.settings
        fits = MOST_FITS if settings.sign else 1
        self.steps += order.kind == PASS
        asked = {
            CHANGE: settings.tolerance is not None,
            LOSS: settings.early_stop,
            SIGNS: settings.sign,
            INFORMATION: settings.p_values,
        }
        if order.kind >= len(NAMES) or not asked.get(order.kind, True):
            name = NAMES[order.kind] if order.kind < len(NAMES) else str(order.kind)
            raise ProtocolFailed(
                f"the label holder orders {name!r}, which this job does not ask for", step=_STEP
            )
        if self.steps > settings.iterations * self.blocks * fits:
            raise ProtocolFailed(
                f"the label holder orders more than the {settings.iterations} passes of the job", step=_STEP
            )
        numbers = (order.momentum, order.gain, order.rate)
        doublings = math.log2(order.period / PERIOD) if 0 < order.period <= LARGEST_PERIOD else -1.0
        if (
            order.block >= self.blocks
            or doublings < 0
            or doublings % 1
            or not all(0 <= each < 2**20 for each in numbers)
        ):
            raise ProtocolFailed("the label holder's order is out of range", step=_STEP)
        return order
