"""A channel over gRPC (HTTP/2, TLS 1.3): one party listens, the other connects.

Both sides check in the TLS handshake that the other holds the key that is pinned (`fedcore.peer.tls`). A vanished
machine is noticed by HTTP/2 pings within `Settings.keepalive + Settings.answer` seconds, a dead process at once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import grpc  # type: ignore[import-untyped]

from fedcore.errors import IdentityError, JobError, PeerLost
from fedcore.peer.channel import FramedChannel
from fedcore.peer.frames import VERSION, session_id
from fedcore.peer.link import Ended, Settings
from fedcore.peer.stream import CONNECT, JOINED, DaemonThreads, StreamLink, join, options
from fedcore.peer.tls import Peer, channel_credentials, check_apart, server_credentials, server_name, signer
from fedcore.trust.identity import Identity

_SERVICE, _METHOD = "fedcore.peer.Direct", "Talk"


class GrpcChannel(FramedChannel):
    """A channel to a party that listens, or that connected to this one's `Listener`."""

    @classmethod
    def connect(
        cls,
        address: str,
        *,
        identity: Identity,
        peer: Peer,
        session: str,
        deadline: float,
        settings: Settings | None = None,
    ) -> Self:
        """Connect to a party that listens, and try again until it does.

        Args:
            address: `host:port` of its `Listener`.
            identity: This party's key.
            peer: The other party and its pinned key.
            session: Its name, the same at both parties.
            deadline: Seconds.
            settings: Sizes and times.

        Raises:
            PeerLost: Nobody answered in time.
            IdentityError: Another key than the pinned one answered.
            ProtocolError: The other side is of another version or waits for another session.
            JobError: The address is none.
        """
        chosen = settings or Settings()
        check_address(address)
        check_apart(identity, peer)
        link = join(
            lambda: open_channel(address, identity, peer, chosen),
            f"/{_SERVICE}/{_METHOD}",
            (("fedcore-session", session_id(session).hex()),),
            peer=peer.name,
            settings=chosen,
            deadline=deadline,
        )
        return cls(link, session=session, peer=peer.name, settings=chosen)


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
        check_apart(identity, peer)
        self._peer, self._session = peer, session
        self._settings = settings or Settings()
        self._expected = session_id(session).hex()
        self._lock = threading.Lock()
        self._arrived = threading.Event()
        self._link: StreamLink | None = None
        self._refused = ""
        handler = grpc.stream_stream_rpc_method_handler(self._talk)
        self._server, self.address = start_server(
            address,
            server_credentials(identity, [peer]),
            _SERVICE,
            {_METHOD: handler},
            self._settings,
            calls=8,
        )

    def accept(self, deadline: float) -> GrpcChannel:
        """The channel to the other party, once it has connected.

        Args:
            deadline: Seconds.

        Raises:
            PeerLost: It did not come in time. Who comes with a wrong key is turned away in the handshake.
        """
        if not self._arrived.wait(deadline) or self._link is None:
            self.close()
            refused = f"; the last caller was refused: {self._refused}" if self._refused else ""
            raise PeerLost(
                f"did not connect to {self.address} with its pinned key within {deadline:g} s{refused}. Cure: start "
                f"the other side, check address, port and firewall, and compare the keys' fingerprints",
                party=self._peer.name,
                step=CONNECT,
            )
        return GrpcChannel(self._link, session=self._session, peer=self._peer.name, settings=self._settings)

    def close(self) -> None:
        """Stop listening; a channel that was accepted is ended too."""
        self._server.stop(0)

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
            caller(context, [self._peer])
        except IdentityError as error:
            self._refuse(context, grpc.StatusCode.PERMISSION_DENIED, str(error))
        check_version(told, context, self._refuse)
        if told.get("fedcore-session") != self._expected:
            self._refuse(
                context,
                grpc.StatusCode.FAILED_PRECONDITION,
                f"the two sides have different sessions ({told.get('fedcore-session')} called "
                f"{self._expected}); give both the same",
            )
        link = StreamLink(self._settings, cancel=context.cancel, shut=self._shut, last=True)
        with self._lock:
            taken = self._link is not None
            if not taken:
                self._link = link
        if taken:
            self._refuse(
                context, grpc.StatusCode.ALREADY_EXISTS, "a connection of this session is there already"
            )
        context.add_callback(lambda: link.outgoing.end(Ended("vanished or ended the connection"), drop=True))
        context.send_initial_metadata(((JOINED, "1"),))
        link.read_in_thread(requests)
        self._arrived.set()
        return link.frames()

    def _refuse(self, context: Any, code: grpc.StatusCode, why: str) -> None:
        self._refused = why
        context.abort(code, why)

    def _shut(self) -> None:
        # Lets the call's last words out; it has none when it was cancelled.
        self._server.stop(self._settings.linger).wait()


def open_channel(address: str, identity: Identity, peer: Peer, settings: Settings) -> grpc.Channel:
    """A gRPC channel on which only the pinned key is accepted."""
    named = ("grpc.ssl_target_name_override", server_name(peer.public_line))
    return grpc.secure_channel(
        address, channel_credentials(identity, peer), options=[*options(settings), named]
    )


def start_server(
    address: str,
    credentials: grpc.ServerCredentials,
    service: str,
    handlers: dict[str, Any],
    settings: Settings,
    *,
    calls: int,
) -> tuple[grpc.Server, str]:
    """A server that listens.

    Returns:
        It, and its address with the port that was taken.

    Raises:
        JobError: The address is none, or cannot be listened at.
    """
    host = check_address(address)
    server = grpc.server(DaemonThreads(), options=options(settings), maximum_concurrent_rpcs=calls)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    try:
        port = server.add_secure_port(address, credentials)
    except RuntimeError as exc:
        raise JobError(
            f"cannot listen at {address}; allowed: an address of this machine with a free port. Cure: another port, "
            f"or end what holds it"
        ) from exc
    server.start()
    return server, f"{host}:{port}"


def check_address(address: str) -> str:
    """The host of `host:port`.

    Raises:
        JobError: It is no such address.
    """
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and int(port) < 2**16):
        raise JobError(f"{address!r} is no address; allowed: host:port, as in clinic-b.example:7400")
    return host


def caller(context: Any, peers: list[Peer]) -> Peer:
    """Who calls, by the certificate that TLS has checked.

    Raises:
        IdentityError: None of these parties.
    """
    shown = context.auth_context().get("x509_pem_cert") or [b""]
    return signer(shown[0], peers)


def check_version(told: dict[str, str], context: Any, refuse: Any) -> None:
    """Refuse a caller whose frames are of another version."""
    if told.get("fedcore-frames") != str(VERSION):
        refuse(
            context,
            grpc.StatusCode.FAILED_PRECONDITION,
            f"the caller's frames have version {told.get('fedcore-frames')}, this side's version {VERSION}; install "
            f"the same version of fedcore at both parties",
        )
