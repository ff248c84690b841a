"""A relay for parties that can only connect outwards, and the channel through it.

Both parties call the relay, which knows the keys of all parties it serves and shows its own, and name the session and
the key of the party they want. Two calls that name each other are joined, and frames pass between them as they are.

Who learns what: the relay learns who talks to whom, in which session (16 bytes of a digest of its name), and the
number, sizes and times of frames. Frames are encrypted between the parties (`fedcore.peer.sealed`), under keys that
the relay takes no part in, on top of TLS to the relay. A dishonest relay can cut a connection and nothing else: a
party that it makes up does not hold the pinned key, and a frame that it touches does not decrypt.

Memory: `2 * Settings.window` frames for each pair of parties. Each side's queue is bounded, so that a party that
takes nothing holds up the other and not the relay.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import grpc  # type: ignore[import-untyped]

from crypto.errors import ProtocolError
from fedcore.errors import FedcoreError, IdentityError, PeerLost
from fedcore.peer.channel import FramedChannel
from fedcore.peer.frames import session_id
from fedcore.peer.grpc_channel import caller, check_address, check_version, open_channel, start_server
from fedcore.peer.link import Ended, FrameQueue, Settings
from fedcore.peer.sealed import STEP, agree
from fedcore.peer.stream import GOODBYE, JOINED, join
from fedcore.peer.tls import Peer, check_apart, server_credentials
from fedcore.trust.identity import Identity, fingerprint

_SERVICE, _METHOD = "fedcore.peer.Relay", "Join"


class RelayedChannel(FramedChannel):
    """A channel to another party through a relay, encrypted end to end."""

    @classmethod
    def connect(
        cls,
        address: str,
        *,
        relay: Peer,
        identity: Identity,
        peer: Peer,
        session: str,
        deadline: float,
        settings: Settings | None = None,
    ) -> Self:
        """Meet the other party at the relay.

        Args:
            address: `host:port` of the relay.
            relay: The relay and its pinned key.
            identity: This party's key.
            peer: The other party and its pinned key.
            session: Its name, the same at both parties.
            deadline: Seconds, for the relay to answer and the other party to come.
            settings: Sizes and times.

        Raises:
            PeerLost: The relay or the other party did not come in time.
            IdentityError: Relay or party does not hold its pinned key, or the relay does not serve this party.
            ProtocolError: Versions differ, or what came is not the other party's.
            JobError: The address is none.
        """
        chosen = settings or Settings()
        check_address(address)
        check_apart(identity, peer)
        until = time.monotonic() + deadline
        link = join(
            lambda: open_channel(address, identity, relay, chosen),
            f"/{_SERVICE}/{_METHOD}",
            (
                ("fedcore-session", session_id(session).hex()),
                ("fedcore-peer", fingerprint(peer.public_line)),
            ),
            peer=f"{peer.name} through {relay.name}",
            settings=chosen,
            deadline=deadline,
        )
        try:
            sealed = agree(link, identity=identity, peer=peer, session=session_id(session), until=until)
        except (FedcoreError, ProtocolError):
            link.abort()
            raise
        except (Ended, TimeoutError) as error:
            link.abort()
            raise PeerLost(str(error) or "did not answer in time", party=peer.name, step=STEP) from None
        return cls(sealed, session=session, peer=peer.name, settings=chosen)


class _Meeting:
    """Two calls that name each other; frames in two queues between them."""

    def __init__(self, window: int) -> None:
        self.ways = (FrameQueue(window), FrameQueue(window))
        self.there = [False, False]
        self.complete = threading.Event()

    def end(self, reason: str) -> None:
        for way in self.ways:
            way.end(Ended(reason))
        self.complete.set()


class Relay:
    """Joins parties that call it.

    Args:
        address: `host:port`; port 0 takes a free one.
        identity: The relay's key, which parties pin.
        parties: Those it serves, with their keys.
        sessions: Pairs of parties at once, at most; a call above that is turned away.
        settings: Sizes and times.

    Attributes:
        address: With the port that was taken.
        frames, bytes: What was passed on so far.

    Raises:
        JobError: The address cannot be listened at.
    """

    def __init__(
        self,
        address: str,
        *,
        identity: Identity,
        parties: Sequence[Peer],
        sessions: int = 16,
        settings: Settings | None = None,
    ) -> None:
        self._parties = list(parties)
        self._settings = settings or Settings()
        self._meetings: dict[tuple[str, frozenset[str]], _Meeting] = {}
        self._lock = threading.Lock()
        self.frames = self.bytes = 0
        handler = grpc.stream_stream_rpc_method_handler(self._join)
        self._server, self.address = start_server(
            address,
            server_credentials(identity, self._parties),
            _SERVICE,
            {_METHOD: handler},
            self._settings,
            calls=2 * sessions,
        )

    def wait(self) -> None:
        """Serve until `close` is called."""
        self._server.wait_for_termination()

    def close(self) -> None:
        """Stop; connections through this relay end."""
        self._server.stop(0).wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _join(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """One party's call, in a thread of its own."""
        told = dict(context.invocation_metadata())
        try:
            own = fingerprint(caller(context, self._parties).public_line)
        except IdentityError as error:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        check_version(told, context, context.abort)
        other, session = told.get("fedcore-peer", ""), told.get("fedcore-session", "")
        if other == own or other not in {fingerprint(party.public_line) for party in self._parties}:
            context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                f"the relay does not serve the key {other}; let its keeper add the party",
            )
        key, side = (session, frozenset((own, other))), int(own > other)
        meeting = self._arrive(key, side)
        if meeting is None:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, "this party is in this session already")
        else:
            if not context.add_callback(lambda: self._leave(key, meeting)):
                self._leave(key, meeting)
            meeting.complete.wait()
            if not context.is_active():
                return
            context.send_initial_metadata(((JOINED, "1"),))
            reader = threading.Thread(
                target=self._pass_on, args=(requests, meeting.ways[side]), daemon=True, name="fedcore-relay"
            )
            reader.start()
            yield from self._frames(meeting.ways[1 - side], reader)

    def _arrive(self, key: tuple[str, frozenset[str]], side: int) -> _Meeting | None:
        with self._lock:
            meeting = self._meetings.setdefault(key, _Meeting(self._settings.window))
            if meeting.there[side]:
                return None
            meeting.there[side] = True
            if all(meeting.there):
                # Both are there: who comes next under this key starts another meeting.
                del self._meetings[key]
                meeting.complete.set()
            return meeting

    def _leave(self, key: tuple[str, frozenset[str]], meeting: _Meeting) -> None:
        with self._lock:
            if self._meetings.get(key) is meeting:
                del self._meetings[key]
        meeting.end("the other party left")

    def _pass_on(self, requests: Iterator[bytes], way: FrameQueue) -> None:
        """From this party to the other. A party's goodbye passes like any other frame."""
        try:
            for frame in requests:
                way.put(frame, None)
                self._count(frame)
        except (grpc.RpcError, Ended):
            pass
        finally:
            way.end(Ended("the other party's frames ended"))

    def _count(self, frame: bytes) -> None:
        with self._lock:
            self.frames += 1
            self.bytes += len(frame)

    def _frames(self, way: FrameQueue, reader: threading.Thread) -> Iterator[bytes]:
        """To this party, from the other."""
        frame = b"none"
        try:
            while True:
                frame = way.get(None)
                yield frame
        except Ended:
            if frame == GOODBYE:
                # This party answers with its own goodbye, which must still pass.
                reader.join(self._settings.linger)
