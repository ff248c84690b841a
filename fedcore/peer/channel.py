"""Messages over a link's frames: the one implementation of `crypto.channel.Channel` for every transport.

What a channel promises, whatever carries it: messages arrive whole, once and in order; a message's length is
checked before memory for it is taken; the memory for frames on their way is bounded; a frame that does not fit is
refused with the step's name; when the other party is gone, `send` and `recv` raise `PeerLost`. After any of these
errors the channel is over.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import numpy as np

from crypto.channel import Data
from crypto.errors import ProtocolError
from fedcore.errors import PeerLost
from fedcore.peer.frames import Frame, check_step, parse, session_id, split
from fedcore.peer.link import Ended, Link, Refused, Settings


@dataclass(frozen=True)
class Traffic:
    """What went in one direction.

    Args:
        messages: Whole messages.
        bytes: Of the messages.
        frame_bytes: Of the frames that carried them, which is `bytes` and the frames' heads. What TLS adds is not
            counted.
        waited: Seconds: sending, for room; receiving, for frames to come.
    """

    messages: int
    bytes: int
    frame_bytes: int
    waited: float

    def plus(self, *, messages: int = 0, bytes_: int = 0, frame_bytes: int = 0) -> Traffic:
        """With more."""
        return Traffic(
            self.messages + messages, self.bytes + bytes_, self.frame_bytes + frame_bytes, self.waited
        )


@dataclass(frozen=True)
class Counters:
    """What went in both directions."""

    sent: Traffic
    received: Traffic


class FramedChannel:
    """A channel to one other party. One thread may send while another receives.

    Args:
        link: Carries the frames.
        session: Its name, the same at both parties.
        peer: The other party's name, for errors.
        settings: Sizes and times.
    """

    def __init__(self, link: Link, *, session: str, peer: str, settings: Settings) -> None:
        self.link = link
        self.peer = peer
        self.session = session
        self.settings = settings
        self._session = session_id(session)
        self._sending, self._receiving = threading.Lock(), threading.Lock()
        self._over: str | None = None
        self._sent, self._received = Traffic(0, 0, 0, 0.0), Traffic(0, 0, 0, 0.0)
        self._next_out = self._next_in = 0

    @property
    def counters(self) -> Counters:
        """What went so far, both ways."""
        return Counters(
            replace(self._sent, waited=self.link.outgoing.put_waited),
            replace(self._received, waited=self.link.incoming.get_waited),
        )

    @property
    def gone(self) -> str | None:
        """Why nothing more can come from the other party; None while it is there, as far as this side knows."""
        return self._over or self.link.incoming.ended

    def send(self, step: str, data: Data) -> None:
        """Send one message; returns when its last frame waits to be sent.

        Args:
            step: Where in the protocol this is, 1 to 64 ASCII characters without spaces.
            data: Any contiguous bytes, of any length. They are copied before this returns.

        Raises:
            PeerLost: The other party is gone, or took nothing for `settings.room` seconds.
        """
        self.send_pieces(step, [data])

    def send_pieces(self, step: str, pieces: Sequence[Data]) -> None:
        """Send one message that does not lie in one piece, without putting it together first.

        Args:
            step: As for `send`.
            pieces: Each as for `send`; they follow one another.

        Raises:
            PeerLost: As `send`.
        """
        check_step(step)
        message = [contents(piece) for piece in pieces]
        with self._sending:
            self._refuse_when_over(step)
            for head, part in split(self._session, step, self._next_out, message, self.settings.part):
                frame = b"".join((head, *part))
                self._put(frame, step)
                self._next_out += 1
                self._sent = self._sent.plus(frame_bytes=len(frame))
            self._sent = self._sent.plus(messages=1, bytes_=sum(piece.nbytes for piece in message))

    def recv(
        self, step: str, *, size: int | None = None, limit: int | None = None, deadline: float | None = None
    ) -> memoryview:
        """The next message, in memory of its own.

        Args:
            step: That it must be for.
            size: Bytes it must have.
            limit: Bytes it may have at most; exactly one of the two is given.
            deadline: Seconds within which all of it must have come; without one it takes as long as frames keep
                coming, with at most `settings.silence` seconds between two.

        Raises:
            ProtocolError: It is for another step, its length is not allowed, or a frame is not what must come next.
            PeerLost: The other party is gone, or was silent for too long.
        """
        check_step(step)
        if (size is None) == (limit is None):
            raise ValueError("recv needs exactly one of size and limit")
        until = None if deadline is None else time.monotonic() + deadline
        with self._receiving:
            self._refuse_when_over(step)
            try:
                return self._message(step, size, limit, until)
            except ProtocolError as error:
                self._finish(f"it was given up after a wrong frame ({error})")
                raise

    def close(self) -> None:
        """End in good order: returns when the other party has all that was sent, or has closed too.

        Raises:
            PeerLost: It is gone, or did not take it within `settings.linger` seconds.
        """
        if self._over is None:
            self._over = "it was closed here"
            try:
                self.link.close(self.settings.linger)
            except Ended as error:
                raise PeerLost(str(error), party=self.peer, step="close") from None

    def abort(self) -> None:
        """End at once; the other party gets `PeerLost`."""
        self._finish("it was stopped here")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After an error the other party must not take what came for all there is.
        if kind is None:
            self.close()
        else:
            self.abort()

    def _message(self, step: str, size: int | None, limit: int | None, until: float | None) -> memoryview:
        first = self._frame(step, until)
        total = first.total
        if size is not None and total != size:
            raise ProtocolError(
                f"a message of {total} bytes was announced where {size} are expected", step=step
            )
        if limit is not None and total > limit:
            raise ProtocolError(
                f"a message of {total} bytes was announced where at most {limit} are allowed", step=step
            )
        # Its own memory even when one frame holds it all: a view behind a head would not be aligned. Not
        # zeroed: every byte is written, or the message is not returned.
        whole = np.empty(total, dtype=np.uint8).data
        at, frame = 0, first
        while True:
            end = at + frame.part.nbytes
            if end > total or frame.last != (end == total):
                raise ProtocolError(
                    f"{end} bytes of a message of {total} came, and its last frame is "
                    f"{'there' if frame.last else 'to come'}",
                    step=step,
                )
            whole[at:end] = frame.part
            at = end
            if frame.last:
                break
            frame = self._frame(step, until)
            if frame.total != total:
                raise ProtocolError(
                    f"the message was announced with {total} bytes and then with {frame.total}", step=step
                )
        self._received = self._received.plus(messages=1, bytes_=total)
        return whole

    def _frame(self, step: str, until: float | None) -> Frame:
        """The next frame, which must be for this step, of this session and the next in number."""
        raw = self._get(step, until)
        frame = parse(raw, step)
        if frame.session != self._session:
            raise ProtocolError(
                f"a frame of another session came ({frame.session.hex()}; this is {self._session.hex()}); "
                "give both parties the same session",
                step=step,
            )
        if frame.number != self._next_in:
            raise ProtocolError(
                f"frame {frame.number} came where {self._next_in} is next: one was lost, repeated or overtaken",
                step=step,
            )
        if frame.step != step:
            raise ProtocolError(
                f"a message for {frame.step} came; the two sides are not at the same place of the protocol",
                step=step,
            )
        self._next_in += 1
        self._received = self._received.plus(frame_bytes=len(raw))
        return frame

    def _put(self, frame: bytes, step: str) -> None:
        try:
            self.link.put(frame, time.monotonic() + self.settings.room_within)
        except (Ended, Refused) as error:
            raise self._lost(str(error), step) from None
        except TimeoutError:
            raise self._lost(
                f"took nothing of what was sent for {self.settings.room_within:g} s; it may be sending too",
                step,
            ) from None

    def _get(self, step: str, until: float | None) -> bytes:
        latest = time.monotonic() + self.settings.silence
        try:
            return self.link.get(latest if until is None else min(latest, until))
        except Ended as error:
            raise self._lost(str(error), step) from None
        except Refused as error:
            raise ProtocolError(str(error), step=step) from None
        except TimeoutError:
            which = "before the deadline" if until is not None and until <= latest else "in time"
            raise self._lost(
                f"did not send what is needed next {which}; its own log may say what it does", step
            ) from None

    def _lost(self, why: str, step: str) -> PeerLost:
        if self._over is not None:
            # The other direction failed first, or this side ended it: that is the reason.
            why = f"the connection is over: {self._over}"
        self._finish(f"{self.peer} {why}")
        return PeerLost(why, party=self.peer, step=step)

    def _finish(self, why: str) -> None:
        if self._over is None:
            self._over = why
            self.link.abort()

    def _refuse_when_over(self, step: str) -> None:
        if self._over is not None:
            raise PeerLost(f"the connection is over: {self._over}", party=self.peer, step=step)


def contents(data: Data) -> memoryview:
    """The bytes of a message, without a copy.

    Raises:
        ValueError: An array is not contiguous.
    """
    if isinstance(data, np.ndarray):
        if not data.flags.c_contiguous:
            raise ValueError("an array that is sent must be C-contiguous; cure: numpy.ascontiguousarray")
        # Through numpy: a memoryview cannot cast empty, structured or byte-swapped arrays.
        return data.reshape(-1).view(np.uint8).data
    view = memoryview(data)
    if not view.c_contiguous:
        raise ValueError("a memoryview that is sent must be contiguous")
    return memoryview(b"") if view.nbytes == 0 else view.cast("B")
