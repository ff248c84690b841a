"""A channel over gRPC (HTTP/2, TLS 1.3): one party listens, the other connects.

Both sides check in the TLS handshake that the other holds the key that is pinned (`fedcore.peer.tls`). A vanished
machine is noticed by HTTP/2 pings within `Settings.keepalive + Settings.answer` seconds, a dead process at once.
"""

from __future__ import annotations

from typing import Any, Self

import grpc  # type: ignore[import-untyped]

from fedcore.errors import JobError
from fedcore.peer.channel import FramedChannel
from fedcore.peer.frames import VERSION, session_id
from fedcore.peer.link import Settings
from fedcore.peer.stream import DaemonThreads, join, options
from fedcore.peer.tls import Peer, channel_credentials, check_apart, server_name, signer
from fedcore.trust.identity import Identity

SERVICE, METHOD = "fedcore.peer.Direct", "Talk"


class GrpcChannel(FramedChannel):
    """A channel to a party that listens, or that connected to this one (`fedcore.peer.listening`)."""

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
            f"/{SERVICE}/{METHOD}",
            (("fedcore-session", session_id(session).hex()),),
            peer=peer.name,
            settings=chosen,
            deadline=deadline,
        )
        return cls(link, session=session, peer=peer.name, settings=chosen)


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
