"""Waiting for other parties to connect: a hall for many, each in a session of its own, and a listener for one.

Only parties whose keys are pinned get past the TLS handshake (`fedcore.peer.tls`), and only one that is expected in
the session that it names gets a channel.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc  # type: ignore[import-untyped]

from fedcore.errors import IdentityError, PeerLost
from fedcore.peer.frames import session_id
from fedcore.peer.grpc_channel import METHOD, SERVICE, GrpcChannel, caller, check_version, start_server
from fedcore.peer.link import Ended, Settings
from fedcore.peer.stream import CONNECT, JOINED, StreamLink
from fedcore.peer.tls import Peer, check_apart, server_credentials
from fedcore.trust.identity import Identity, public_blob, same_key


@dataclass(frozen=True)
class _Expected:
    session: str
    peer: Peer
    arrived: Callable[[GrpcChannel], bool]
    welcome: Callable[[], bool]
    shut: Callable[[], None]


class Hall:
    """Waits at an address for many parties.

    Args:
        address: `host:port`; port 0 takes a free one.
        identity: This party's key.
        peers: The others with their pinned keys; no one else gets past the handshake.
        settings: Sizes and times.
        calls: Connections at once, at most.

    Attributes:
        address: With the port that was taken.
        refused: Why the last caller who came past the handshake was turned away; empty when none was.

    Raises:
        JobError: The address cannot be listened at.
        IdentityError: A peer has this party's own key.
    """

    def __init__(
        self,
        address: str,
        *,
        identity: Identity,
        peers: Sequence[Peer],
        settings: Settings | None = None,
        calls: int = 8,
    ) -> None:
        for peer in peers:
            check_apart(identity, peer)
        self._peers = list(peers)
        self._settings = settings or Settings()
        self._expected: dict[str, _Expected] = {}
        self.refused = ""
        handler = grpc.stream_stream_rpc_method_handler(self._talk)
        self._server, self.address = start_server(
            address,
            server_credentials(identity, self._peers),
            SERVICE,
            {METHOD: handler},
            self._settings,
            calls=calls,
        )

    def expect(
        self,
        session: str,
        peer: Peer,
        arrived: Callable[[GrpcChannel], bool],
        *,
        welcome: Callable[[], bool] = lambda: True,
        shut: Callable[[], None] = lambda: None,
    ) -> None:
        """Let a party in, as often as it comes.

        Args:
            session: Its name, which nobody else is told.
            peer: Who may come, with the key that is pinned.
            arrived: Told each channel to it, in a thread of its own; False ends it.
            welcome: Asked before that, and before the other side hears that it is in; False turns it away.
            shut: Called when a channel has ended.
        """
        self._expected[session_id(session).hex()] = _Expected(session, peer, arrived, welcome, shut)

    def forget(self, session: str) -> None:
        """Let nobody into a session any more; a channel that is there stays."""
        self._expected.pop(session_id(session).hex(), None)

    def close(self, linger: float = 0.0) -> None:
        """Stop listening.

        Args:
            linger: Seconds that channels that are there may still take; then they are ended.
        """
        self._server.stop(linger).wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _talk(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """One call, in a thread of its own."""
        told = dict(context.invocation_metadata())
        try:
            who = caller(context, self._peers)
        except IdentityError as error:
            self._refuse(context, grpc.StatusCode.PERMISSION_DENIED, str(error))
        check_version(told, context, self._refuse)
        name = told.get("fedcore-session", "")
        expected = self._expected.get(name)
        if expected is None:
            self._refuse(
                context,
                grpc.StatusCode.FAILED_PRECONDITION,
                f"the caller's session {name} is not one that is expected here: the two sides have different "
                "sessions, or it has ended; give both the same",
            )
            raise RuntimeError("gRPC went on after it was told to refuse a call")
        if not same_key(public_blob(expected.peer.public_line), public_blob(who.public_line)):
            self._refuse(context, grpc.StatusCode.PERMISSION_DENIED, "this session is another party's")
        link = StreamLink(self._settings, cancel=context.cancel, shut=expected.shut, last=True)
        channel = GrpcChannel(
            link, session=expected.session, peer=expected.peer.name, settings=self._settings
        )
        if not expected.welcome():
            self._refuse(
                context, grpc.StatusCode.ALREADY_EXISTS, "a connection of this session is there already"
            )
        context.add_callback(lambda: link.outgoing.end(Ended("vanished or ended the connection"), drop=True))
        context.send_initial_metadata(((JOINED, "1"),))
        link.read_in_thread(requests)
        # Last: whoever is told may end the channel at once, and the other side must have heard that it was there.
        if not expected.arrived(channel):
            link.abort()
        return link.frames()

    def _refuse(self, context: Any, code: grpc.StatusCode, why: str) -> None:
        self.refused = why
        context.abort(code, why)


class Listener:
    """Waits at an address for the one other party.

    Args:
        address: `host:port`; port 0 takes a free one.
        identity: This party's key.
        peer: The other party and its pinned key; no one else gets past the handshake.
        session: Its name, the same at both parties.
        settings: Sizes and times.

    Attributes:
        address: With the port that was taken.

    Raises:
        JobError: The address cannot be listened at.
    """

    def __init__(
        self, address: str, *, identity: Identity, peer: Peer, session: str, settings: Settings | None = None
    ) -> None:
        self._peer = peer
        self._linger = (settings or Settings()).linger
        self._lock = threading.Lock()
        self._arrived = threading.Event()
        self._taken = False
        self._channel: GrpcChannel | None = None
        self._hall = Hall(address, identity=identity, peers=[peer], settings=settings)
        self.address = self._hall.address
        # Lets the call's last words out; it has none when it was cancelled.
        self._hall.expect(
            session,
            peer,
            self._take,
            welcome=self._first,
            shut=lambda: self._hall.close(self._linger),
        )

    def _first(self) -> bool:
        with self._lock:
            first, self._taken = not self._taken, True
            return first

    def _take(self, channel: GrpcChannel) -> bool:
        self._channel = channel
        self._arrived.set()
        return True

    def accept(self, deadline: float) -> GrpcChannel:
        """The channel to the other party, once it has connected.

        Args:
            deadline: Seconds.

        Raises:
            PeerLost: It did not come in time. Who comes with a wrong key is turned away in the handshake.
        """
        if not self._arrived.wait(deadline) or self._channel is None:
            self.close()
            refused = f"; the last caller was refused: {self._hall.refused}" if self._hall.refused else ""
            raise PeerLost(
                f"did not connect to {self.address} with its pinned key within {deadline:g} s{refused}. Cure: start "
                f"the other side, check address, port and firewall, and compare the keys' fingerprints",
                party=self._peer.name,
                step=CONNECT,
            )
        return self._channel

    def close(self) -> None:
        """Stop listening; a channel that was accepted is ended too."""
        self._hall.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
