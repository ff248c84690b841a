"""What a channel needs of whatever carries its frames: two bounded queues and an end.

A link keeps at most `Settings.window` frames in each direction, so that the memory of a connection does not depend
on the size of a message. A full queue makes the sender wait until the other party has taken a frame.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from fedcore.peer.frames import MAX_FRAME, MAX_HEADER

# A sealed frame is longer than what it holds by the tag of AES-GCM.
MAX_PART = MAX_FRAME - MAX_HEADER - 16


@dataclass(frozen=True)
class Settings:
    """Sizes and times of a connection. The two parties' may differ.

    Args:
        part: Bytes of a message in one frame, at most `MAX_PART`.
        window: Frames that wait in one direction at this party, at least 1. Two parties that both send before they
            receive never wait for each other as long as their messages have at most `part * window` bytes.
        silence: Seconds without a frame after which the other party counts as lost although its machine answers.
        linger: Seconds that `close` waits for the other party, which may be computing, to take what was sent.
        room: Seconds that what is sent waits for room before the other party counts as lost; `silence` when None.
        keepalive: Seconds without traffic after which the other machine is asked whether it is there.
        answer: Seconds it has to answer. A party that vanished is noticed after `keepalive + answer`.
    """

    part: int = 2**20
    window: int = 4
    silence: float = 3600.0
    linger: float = 600.0
    keepalive: float = 3.0
    answer: float = 4.0
    room: float | None = None

    @property
    def room_within(self) -> float:
        """Seconds that what is sent waits for room."""
        return self.silence if self.room is None else self.room

    def __post_init__(self) -> None:
        if not 1 <= self.part <= MAX_PART:
            raise ValueError(f"part is {self.part} bytes; allowed: 1 to {MAX_PART}")
        if self.window < 1:
            raise ValueError(f"window is {self.window} frames; allowed: at least 1")
        for name in ("silence", "linger", "keepalive", "answer", "room"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)} s; allowed: more than 0")


class Ended(Exception):
    """No frame can come or go any more; the text says why."""


class Refused(Exception):
    """What came cannot be a frame of the other party; the text says why."""


class FrameQueue:
    """Frames on their way from one thread to another, at most `room` of them.

    Attributes:
        highest: Most frames that ever waited here.
        put_waited, get_waited: Seconds that `put` and `get` waited in all.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._frames: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._end: tuple[type[Exception], str] | None = None
        self.highest = 0
        self.put_waited = self.get_waited = 0.0

    def put(self, frame: bytes, until: float | None) -> None:
        """Add a frame, as soon as there is room.

        Args:
            frame: Any bytes.
            until: `time.monotonic()` at which to give up; never when None.

        Raises:
            Ended, Refused: The queue was ended.
            TimeoutError: There was no room in time.
        """
        with self._changed:
            if self._end is None and len(self._frames) >= self._room:
                began = time.monotonic()
                try:
                    while self._end is None and len(self._frames) >= self._room:
                        self._wait(until)
                finally:
                    self.put_waited += time.monotonic() - began
            if self._end is not None:
                self._raise_end()
            self._frames.append(frame)
            self.highest = max(self.highest, len(self._frames))
            self._changed.notify_all()

    def get(self, until: float | None) -> bytes:
        """The oldest frame, as soon as there is one.

        Args:
            until: `time.monotonic()` at which to give up; never when None.

        Raises:
            Ended, Refused: The queue was ended and all its frames were taken.
            TimeoutError: None came in time.
        """
        with self._changed:
            if self._end is None and not self._frames:
                began = time.monotonic()
                try:
                    while self._end is None and not self._frames:
                        self._wait(until)
                finally:
                    self.get_waited += time.monotonic() - began
            if not self._frames:
                self._raise_end()
            frame = self._frames.popleft()
            self._changed.notify_all()
            return frame

    def end(self, reason: Exception, *, drop: bool = False) -> None:
        """Take no more frames. The first end counts.

        Args:
            reason: `Ended` or `Refused`; raised at whoever puts, and at whoever gets after the last frame.
            drop: Forget the frames that wait.
        """
        with self._changed:
            if self._end is None:
                self._end = (type(reason), str(reason))
            if drop:
                self._frames.clear()
            self._changed.notify_all()

    @property
    def ended(self) -> str | None:
        """Why no frame can come any more; None while frames can."""
        return self._end[1] if self._end is not None else None

    def _wait(self, until: float | None) -> None:
        left = None if until is None else until - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError
        self._changed.wait(left)

    def _raise_end(self) -> None:
        # A fresh exception for each caller: two threads must not share one traceback.
        kind, text = self._end or (Ended, "the connection has ended")
        raise kind(text)


class Link(Protocol):
    """Carries frames to and from the one other party, in order.

    Attributes:
        outgoing: Frames that wait to be sent.
        incoming: Frames that came and were not yet taken.
    """

    outgoing: FrameQueue
    incoming: FrameQueue

    def put(self, frame: bytes, until: float | None) -> None:
        """As `FrameQueue.put`."""

    def get(self, until: float | None) -> bytes:
        """As `FrameQueue.get`."""

    def close(self, linger: float) -> None:
        """Send what waits, tell the other party that this is the end, and free everything.

        Args:
            linger: Seconds to wait at most until the other party has taken it.

        Raises:
            Ended: The other party did not take it.
        """

    def abort(self) -> None:
        """End at once; what waits is dropped, and the other party is told if it can be."""
