"""A channel between two parties in one process: frames pass through two bounded queues, nothing is encrypted."""

from __future__ import annotations

from typing import Self

from fedcore.peer.channel import FramedChannel
from fedcore.peer.link import Ended, FrameQueue, Settings


class MemoryLink:
    """One end of two queues."""

    def __init__(self, outgoing: FrameQueue, incoming: FrameQueue) -> None:
        self.outgoing, self.incoming = outgoing, incoming

    def put(self, frame: bytes, until: float | None) -> None:
        """As `FrameQueue.put`."""
        self.outgoing.put(frame, until)

    def get(self, until: float | None) -> bytes:
        """As `FrameQueue.get`."""
        return self.incoming.get(until)

    def close(self, linger: float) -> None:
        """What waits can still be taken; nothing has to be waited for, the queue outlives this end."""
        self.outgoing.end(Ended("closed the connection"))
        self.incoming.end(Ended("closed the connection"), drop=True)

    def abort(self) -> None:
        """End both queues and drop what waits."""
        for queue in (self.outgoing, self.incoming):
            queue.end(Ended("stopped in the middle; its own error says why"), drop=True)


class MemoryChannel(FramedChannel):
    """One end of a channel within this process; `pair` makes both."""

    @classmethod
    def pair(
        cls,
        session: str = "memory",
        *,
        names: tuple[str, str] = ("first", "second"),
        settings: Settings | None = None,
    ) -> tuple[Self, Self]:
        """Two connected ends, for two threads.

        Args:
            session: Its name.
            names: Of the party at the first and at the second end.
            settings: Sizes and times.
        """
        chosen = settings or Settings()
        there, back = FrameQueue(chosen.window), FrameQueue(chosen.window)
        first = cls(MemoryLink(there, back), session=session, peer=names[1], settings=chosen)
        second = cls(MemoryLink(back, there), session=session, peer=names[0], settings=chosen)
        return first, second
