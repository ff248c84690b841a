"""What the tests of connections share: keys, connected ends, and two roles beside each other."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fedcore.errors import PeerLost
from fedcore.peer.frames import header
from fedcore.peer.grpc_channel import GrpcChannel
from fedcore.peer.link import Settings
from fedcore.peer.listening import Listener
from fedcore.peer.relay import Relay, RelayedChannel
from fedcore.peer.tls import Peer
from fedcore.trust.identity import Identity

SESSION = "a session of tests"
VECTORS = Path(__file__).parent / "vectors"
SMALL = Settings(part=1000, window=2, silence=60)


def vectors(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text())


def new_party(name: str) -> Identity:
    return Identity(name, Path("/nowhere"), ec.generate_private_key(ec.SECP384R1()))


def as_peer(identity: Identity) -> Peer:
    return Peer(identity.name, identity.public_line)


ANNA, BERT, CARL, STATION = (new_party(name) for name in ("anna", "bert", "carl", "station"))


def both(first: Callable[[], Any], second: Callable[[], Any]) -> tuple[Any, Any]:
    """Run two roles beside each other; an error of either is raised."""
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(first), pool.submit(second)
        return running[0].result(), running[1].result()


def direct(settings: Settings = SMALL) -> tuple[GrpcChannel, GrpcChannel]:
    """Anna listens, Bert connects."""
    listener = Listener("127.0.0.1:0", identity=ANNA, peer=as_peer(BERT), session=SESSION, settings=settings)
    return both(
        lambda: listener.accept(30),
        lambda: GrpcChannel.connect(
            listener.address,
            identity=BERT,
            peer=as_peer(ANNA),
            session=SESSION,
            deadline=30,
            settings=settings,
        ),
    )


def meet(at: Relay, own: Identity, other: Identity, **changed: Any) -> RelayedChannel:
    """One party at the relay."""
    told = {"session": SESSION, "deadline": 30.0, "settings": SMALL, "relay": as_peer(STATION), **changed}
    return RelayedChannel.connect(at.address, identity=own, peer=as_peer(other), **told)


def relayed(relay: Relay) -> tuple[RelayedChannel, RelayedChannel]:
    """Anna and Bert through a relay."""
    return both(lambda: meet(relay, ANNA, BERT), lambda: meet(relay, BERT, ANNA))


def raw(channel: Any, frame: bytes) -> None:
    """Put bytes on the wire that the channel itself would not."""
    channel.link.put(frame, None)


def frame_of(channel: Any, step: str, part: bytes, **changed: Any) -> bytes:
    """The one frame of a message, or one with something changed."""
    told = {
        "session": channel._session,
        "step": step,
        "number": channel._next_out,
        "total": len(part),
        "last": True,
    }
    told |= changed
    return header(part=len(part), **told) + part


def is_told(work: Callable[[], Any]) -> Callable[[], None]:
    """Work that must end with the loss of the other party."""

    def run() -> None:
        with pytest.raises(PeerLost):
            work()

    return run


def in_thread(work: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread
