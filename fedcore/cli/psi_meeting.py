"""How a party of `fedcore psi party` meets the other: it waits, it calls, or both call a relay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fedcore.errors import JobError

if TYPE_CHECKING:
    from fedcore.peer.channel import FramedChannel
    from fedcore.trust.identity import Identity


class Way(NamedTuple):
    """One of three; addresses are host:port.

    Args:
        listen: Where to wait.
        connect: Where the other party waits.
        relay: Where both call.
        relay_line: The relay's public key line.
    """

    listen: str | None
    connect: str | None
    relay: str | None
    relay_line: str | None


def check_way(listen: str | None, connect: str | None, relay: str | None, relay_key: str | None) -> None:
    """Refuse all but one way to meet.

    Raises:
        JobError: None or several are given, or a relay without its key.
    """
    if sum(each is not None for each in (listen, connect, relay)) != 1:
        raise JobError(
            "give one of --listen HOST:PORT and --connect HOST:PORT: one party waits, the other calls; or, at both, "
            "--relay HOST:PORT"
        )
    if (relay is None) != (relay_key is None):
        raise JobError(
            "--relay HOST:PORT and --relay-key go together: the relay's .pub file says that it is the one"
        )


def meeting(
    own: Identity, peer_line: str, session: str, way: Way, wait: float
) -> Callable[[], FramedChannel]:
    """What opens the channel to the other party.

    Args:
        own: This party's key.
        peer_line: The other party's public key line.
        session: Name of the meeting.
        way: How.
        wait: Seconds to wait for the other party.
    """

    def meet() -> FramedChannel:
        from fedcore.peer.grpc_channel import GrpcChannel
        from fedcore.peer.listening import Listener
        from fedcore.peer.tls import Peer

        peer = Peer("the other party", peer_line)
        if way.relay is not None:
            from fedcore.peer.relay import RelayedChannel

            return RelayedChannel.connect(
                way.relay,
                relay=Peer("the relay", str(way.relay_line)),
                identity=own,
                peer=peer,
                session=session,
                deadline=wait,
            )
        if way.connect is not None:
            return GrpcChannel.connect(way.connect, identity=own, peer=peer, session=session, deadline=wait)
        return Listener(str(way.listen), identity=own, peer=peer, session=session).accept(wait)

    return meet


def public_line(given: str, option: str) -> str:
    """The public key line that an option gives, or that stands in the file it names.

    Raises:
        JobError: It is neither.
    """
    file = Path(given)
    if given.startswith("ecdsa-"):
        return given
    if not file.is_file():
        raise JobError(
            f"{option}: {given!r} is neither a file nor a public key line (ecdsa-sha2-nistp384 ...)"
        )
    return file.read_text().strip()
