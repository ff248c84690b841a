"""A gRPC stream as a link: one call whose messages, in both directions, are frames.

An empty gRPC message says that its sender has sent all and closes. The other side answers by ending its own
direction, so that whoever closes first knows that everything was taken. Without such a message the end of a stream
means that the other party died, or gave up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc  # type: ignore[import-untyped]

from crypto.errors import ProtocolError
from fedcore.errors import IdentityError, PeerLost
from fedcore.peer.frames import MAX_FRAME, VERSION
from fedcore.peer.link import Ended, FrameQueue, Refused, Settings

CONNECT = "connect"  # the step's name in errors before the first message
GOODBYE = b""
JOINED = "fedcore-joined"
_RETRY = 0.2  # seconds between two attempts to connect
_CLOSED = "closed the connection"
_STOPPED = "ended the connection in the middle; its own error says why"
_GONE = "vanished or ended the connection in the middle"
_TOO_LONG = f"a frame longer than {MAX_FRAME} bytes came; no party of this version sends one"


def options(settings: Settings) -> list[tuple[str, int]]:
    """gRPC's options at either side: liveness, and no message longer than any frame."""
    milliseconds = {
        "keepalive_time": settings.keepalive,
        "keepalive_timeout": settings.answer,
        # Pings that measure bandwidth take the place of one that asks for life, and have a minute by default.
        "http2.ping_timeout": settings.answer,
    }
    return [
        # A frame of any length above MAX_FRAME is refused; a little above it, by us and with the step's name.
        ("grpc.max_receive_message_length", MAX_FRAME + 2**16),
        ("grpc.max_send_message_length", -1),
        # One HTTP/2 frame for a frame of ours, in place of 256 of 16 KiB each: a tenth of the processor time.
        ("grpc.http2.max_frame_size", 2**22),
        *((f"grpc.{name}_ms", int(seconds * 1000)) for name, seconds in milliseconds.items()),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # A server of gRPC counts pings as abuse unless told otherwise.
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 100),
        # Two listeners on one port would share the callers between them.
        ("grpc.so_reuseport", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]


class DaemonThreads(futures.Executor):
    """A thread per call that does not keep the program alive, as a pool's threads would."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **named: Any) -> futures.Future[Any]:
        """Run the work in a thread of its own."""
        future: futures.Future[Any] = futures.Future()

        def run() -> None:
            try:
                future.set_result(work(*args, **named))
            except BaseException as error:  # noqa: BLE001 - whoever asks the future gets it
                future.set_exception(error)

        threading.Thread(target=run, daemon=True, name="fedcore-call").start()
        return future


class StreamLink:
    """Carries frames over one gRPC call.

    Args:
        settings: Sizes and times.
        cancel: Ends the call at once.
        shut: Frees the channel or server around the call.
        last: Whether this side ends the call, as a server does; it then waits for the other's end first.
    """

    def __init__(
        self, settings: Settings, *, cancel: Callable[[], Any], shut: Callable[[], Any], last: bool
    ) -> None:
        self.incoming, self.outgoing = FrameQueue(settings.window), FrameQueue(settings.window)
        self._cancel, self._shut = cancel, shut
        self._last, self._linger = last, settings.linger
        self._over, self._orderly = threading.Event(), False

    def put(self, frame: bytes, until: float | None) -> None:
        """As `FrameQueue.put`."""
        self.outgoing.put(frame, until)

    def get(self, until: float | None) -> bytes:
        """As `FrameQueue.get`."""
        return self.incoming.get(until)

    def close(self, linger: float) -> None:
        """As `Link.close`."""
        self.outgoing.end(Ended(_CLOSED))
        # What still comes is not wanted; the reader goes on to the end of the stream without it.
        self.incoming.end(Ended(_CLOSED), drop=True)
        taken = self._over.wait(linger)
        if not taken:
            self._cancel()
        self._shut()
        if not taken:
            raise Ended(f"did not take all that was sent within {linger:g} s")
        if not self._orderly:
            raise Ended("vanished before it confirmed that it has all that was sent")

    def abort(self) -> None:
        """As `Link.abort`."""
        self.lost(Ended(_STOPPED))
        self._cancel()
        self._shut()

    def lost(self, reason: Exception) -> None:
        """The call is over, or not to be used any more: nobody waits for it any longer."""
        self.outgoing.end(reason, drop=True)
        self.incoming.end(reason)

    def frames(self) -> Iterator[bytes]:
        """What gRPC sends: it asks for the next frame when the last one went out."""
        try:
            while True:
                yield self.outgoing.get(None)
        except (Ended, Refused):
            pass
        yield GOODBYE
        if self._last:
            self._over.wait(self._linger)

    def read(self, stream: Iterator[bytes]) -> None:
        """Take what comes, to the end of the stream; run in a thread of its own."""
        reason: Exception = Ended("vanished: its process or the network ended without a word")
        wanted = True
        try:
            for frame in stream:
                if frame == GOODBYE:
                    reason, self._orderly = Ended(_CLOSED), True
                    self.lost(reason)
                elif wanted:
                    try:
                        self.incoming.put(frame, None)
                    except (Ended, Refused):
                        wanted = False
        except grpc.RpcError as error:
            reason = _reason(error)
        finally:
            self.lost(reason)
            self._over.set()

    def read_in_thread(self, stream: Iterator[bytes]) -> None:
        """Start `read`."""
        threading.Thread(target=self.read, args=(stream,), daemon=True, name="fedcore-frames").start()


def join(
    open_channel: Callable[[], grpc.Channel],
    method: str,
    metadata: tuple[tuple[str, str], ...],
    *,
    peer: str,
    settings: Settings,
    deadline: float,
) -> StreamLink:
    """Call the other side until it answers.

    Args:
        open_channel: Makes a channel to it.
        method: The full name of the call.
        metadata: What the other side checks before it answers.
        peer: For errors.
        settings: Sizes and times.
        deadline: Seconds from now on.

    Raises:
        PeerLost: It did not answer in time.
        IdentityError: Another key than the pinned one answered, or this side's key was refused.
        ProtocolError: The two sides do not agree on version or session.
    """
    until = time.monotonic() + deadline
    metadata = (("fedcore-frames", str(VERSION)), *metadata)
    # The last reason that was given: the deadline may cut a later try off before it hears one.
    told = "it was silent"
    while True:
        link, error = _attempt(open_channel, method, metadata, settings, until)
        if link is not None:
            return link
        if error is not None:
            told = error.details() or ""
            _raise_if_final(error.code(), told, peer)
        if time.monotonic() + _RETRY >= until:
            raise PeerLost(
                f"could not be reached within {deadline:g} s, or its side refused this one's key; what it last "
                f"said: {told}. Cure: start the other side, check address, port and firewall, and compare the keys' "
                f"fingerprints",
                party=peer,
                step=CONNECT,
            )
        time.sleep(_RETRY)


def _attempt(
    open_channel: Callable[[], grpc.Channel],
    method: str,
    metadata: tuple[tuple[str, str], ...],
    settings: Settings,
    until: float,
) -> tuple[StreamLink | None, grpc.RpcError | None]:
    channel = open_channel()
    holder: list[Any] = []
    link = StreamLink(settings, cancel=lambda: holder[0].cancel(), shut=channel.close, last=False)
    call = channel.stream_stream(method)(link.frames(), metadata=metadata)
    holder.append(call)
    # The call's end may be known before the reader comes to it: it may be waiting for room.
    call.add_callback(lambda: link.outgoing.end(Ended(_GONE), drop=True))
    answered = threading.Event()
    joined = False

    def read() -> None:
        nonlocal joined
        joined = any(key == JOINED for key, _ in call.initial_metadata() or ())
        if not joined:
            # Why is known a little later than that.
            call.code()
        answered.set()
        if joined:
            link.read(call)

    threading.Thread(target=read, daemon=True, name="fedcore-frames").start()
    answered.wait(max(0.0, until - time.monotonic()))
    if joined:
        return link, None
    link.lost(Ended(_STOPPED))
    call.cancel()
    error = call if answered.is_set() else None
    channel.close()
    return None, error


def _raise_if_final(code: grpc.StatusCode | None, told: str, peer: str) -> None:
    """Errors that no further attempt can cure."""
    if code == grpc.StatusCode.FAILED_PRECONDITION:
        raise ProtocolError(told, step=CONNECT)
    if code == grpc.StatusCode.UNIMPLEMENTED:
        raise ProtocolError(f"what answers for {peer} is no party of this kind ({told})", step=CONNECT)
    if code == grpc.StatusCode.PERMISSION_DENIED:
        raise IdentityError(told, party=peer, step=CONNECT)
    if "CERTIFICATE_VERIFY_FAILED" in told:
        raise IdentityError(
            f"what answers does not have the key that is pinned to {peer}. Cure: check the address, and compare "
            f"the fingerprint of the peer's key with {peer} over another channel",
            party=peer,
            step=CONNECT,
        )


def _reason(error: grpc.RpcError) -> Exception:
    """What the end of a call means; a server's reader gets errors without a code."""
    code = error.code() if hasattr(error, "code") else None
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Refused(_TOO_LONG)
    if code == grpc.StatusCode.CANCELLED:
        return Ended(_STOPPED)
    if code is None:
        return Ended(_GONE)
    told = (error.details() or "").partition("\n")[0][:200]
    return Ended(f"vanished ({code.name.lower()}: {told})")
