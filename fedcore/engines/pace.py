"""How many workers should serve a kind of message at a time: all of them, or one alone.

Python runs one thread at a time. Where a participant's work is many small operations, as with a small model on
small batches, several workers spend their time handing the interpreter to one another, and one alone is done
sooner; where the operations are large, they run beside each other. Which it is depends on the model, the batch
and the machine, so it is measured, once for each kind of message.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

BLOCKS = 3  # of each, taken in turns; medians, for a machine may be busy with other things for a moment
ENOUGH_SECONDS = 0.1
GAIN = 1.05  # one alone must be this much faster


@dataclass
class _Kind:
    """What is known of a kind of message: seconds of each block with all workers, and with one alone."""

    warm: int = 0
    replies: int = 0
    seconds: float = 0.0
    together: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    settled: int | None = None

    @property
    def trying_alone(self) -> bool:
        return len(self.alone) < len(self.together)


class Pace:
    """Tries all workers and one alone over the first replies of each kind, and keeps the faster.

    Args:
        workers: All there are.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._block = 2 * workers
        self._kinds: dict[str, _Kind] = {}

    def limit(self, kind: str) -> int:
        """Workers that should serve this kind of message now."""
        known = self._kinds.setdefault(kind, _Kind())
        if known.settled is not None:
            return known.settled
        return 1 if known.trying_alone else self._workers

    def replied(self, kind: str, seconds: float) -> None:
        """Note a reply.

        Args:
            kind: Of message.
            seconds: Since the reply before it, or since the exchange began.
        """
        known = self._kinds.setdefault(kind, _Kind())
        if self._workers == 1 or known.settled is not None:
            return
        if known.warm < self._block:
            known.warm += 1  # the first ones import, read their rows and build their model
            return
        known.replies += 1
        known.seconds += seconds
        if known.replies == self._block:
            (known.alone if known.trying_alone else known.together).append(known.seconds)
            known.replies, known.seconds = 0, 0.0
            self._settle(known)

    def _settle(self, known: _Kind) -> None:
        if len(known.alone) < max(BLOCKS, len(known.together)) or sum(known.alone) < ENOUGH_SECONDS:
            return
        faster = median(known.alone) * GAIN < median(known.together)
        known.settled = 1 if faster else self._workers
