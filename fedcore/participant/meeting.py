"""How a participant meets another one for a protocol between the two: whom it trusts, where it waits or calls.

The coordinator proposes: a session, who waits, at which address, and whose key is whose. What the participant's own
file says goes before that. A key that stands in its `peers` is the only one that is accepted, an address there is
the one that is called, and it never listens anywhere but at its own `inbound` address. On engine `deployment` a
party without a pinned key is not met at all.

The engines that run all parties on one machine (a trial, not a separation) meet in memory, or over loopback between
processes, where a key that no file pins is taken from the coordinator.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fedcore.errors import IdentityError, JobError, PeerLost, did_you_mean
from fedcore.jobs.participant import Participant
from fedcore.jobs.request import Appointment, Meeting, PsiRequest

if TYPE_CHECKING:
    from fedcore.peer.channel import FramedChannel
    from fedcore.peer.tls import Peer
    from fedcore.trust.identity import Identity

Asked = PsiRequest | Appointment
"""What says whom a participant meets, and where."""
STEP = "meet"
PATIENCE = 120.0
"""Seconds, at most, that a party waits for the other: both are asked in the same moment, and meet before they read."""


class Meetings(Protocol):
    """An engine's way for two parties to meet."""

    def offer(self, participant: Participant, request: Asked) -> dict[str, Any]:
        """What the coordinator needs to arrange the meeting: `how`, `key` and `address`, all for the public.

        Raises:
            IdentityError: The participant would not meet the other party, or has no key of its own.
        """

    def meet(self, participant: Participant, request: Asked) -> FramedChannel:
        """The channel to the other party, once it is there.

        Raises:
            PeerLost: It did not come in time.
            IdentityError: Its key is not the pinned one.
            JobError: The request names no meeting that can take place here.
        """


# ---- in one process -------------------------------------------------------------------------------------------------


@dataclass
class InMemory:
    """Meetings of threads of this process."""

    _waiting: dict[str, tuple[Any, threading.Event]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def offer(self, participant: Participant, request: Asked) -> dict[str, Any]:
        """Nothing but that it is in memory."""
        return {"how": "memory", "key": "", "address": ""}

    def meet(self, participant: Participant, request: Asked) -> FramedChannel:
        """The first to come makes both ends; the second takes the one that waits."""
        from fedcore.peer.memory import MemoryChannel

        meeting, peer = meeting_of(request, "memory"), request.other(participant.name)
        with self._lock:
            found = self._waiting.pop(meeting.session, None)
            if found is None:
                mine, theirs = MemoryChannel.pair(meeting.session, names=(participant.name, peer))
                arrived = threading.Event()
                self._waiting[meeting.session] = theirs, arrived
        if found is not None:
            found[1].set()
            other: FramedChannel = found[0]
            return other
        patience = min(request.deadline, PATIENCE)
        if not arrived.wait(patience):
            with self._lock:
                self._waiting.pop(meeting.session, None)
            raise PeerLost(f"did not come within {patience:g} s", party=peer, step=STEP)
        return mine


# ---- over a network -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OverNetwork:
    """Meetings over gRPC: directly, or through a relay where neither party can be called.

    Args:
        loopback: All parties are processes of this machine: one without an `inbound` address waits at a free
            port of loopback, and a key that its own file does not pin is taken from the coordinator.
    """

    loopback: bool = False

    def offer(self, participant: Participant, request: Asked) -> dict[str, Any]:
        """Public key and address."""
        peer = request.other(participant.name)
        if not self.loopback:
            _pinned(participant, peer)
        identity = identity_of(participant)
        inbound = participant.inbound
        address = inbound.address if inbound else f"127.0.0.1:{_free_port()}" if self.loopback else ""
        return {"how": "network", "key": identity.public_line, "address": address}

    def meet(self, participant: Participant, request: Asked) -> FramedChannel:
        """Wait, call, or go to the relay, as the meeting says."""
        from fedcore.peer.grpc_channel import GrpcChannel
        from fedcore.peer.listening import Listener
        from fedcore.peer.relay import RelayedChannel
        from fedcore.peer.tls import Peer

        meeting = meeting_of(request, "direct", "relay")
        identity, peer = identity_of(participant), self.peer_of(participant, request, meeting)
        session, deadline = meeting.session, min(request.deadline, PATIENCE)
        address = meeting.address
        if meeting.how == "relay":
            if address is None or meeting.relay_key is None:
                raise JobError("the meeting is at a relay that has no address or no key", step=STEP)
            return RelayedChannel.connect(
                address,
                relay=Peer("the relay", meeting.relay_key),
                identity=identity,
                peer=peer,
                session=session,
                deadline=deadline,
            )
        if meeting.listens == participant.name:
            where = self.own_address(participant, meeting)
            return Listener(where, identity=identity, peer=peer, session=session).accept(deadline)
        pinned = participant.peers.get(peer.name)
        address = pinned.address if pinned and pinned.address else address
        if address is None:
            raise JobError(f"nobody says where {peer.name} waits", step=STEP)
        return GrpcChannel.connect(address, identity=identity, peer=peer, session=session, deadline=deadline)

    def peer_of(self, participant: Participant, request: Asked, meeting: Meeting) -> Peer:
        """The other party with the key that counts."""
        from fedcore.peer.tls import Peer
        from fedcore.trust.identity import fingerprint, public_blob, same_key

        name = request.other(participant.name)
        told = meeting.keys.get(name)
        if self.loopback and name not in participant.peers and told is not None:
            return Peer(name, told)
        pinned = _pinned(participant, name)
        if told is not None and not same_key(public_blob(told), public_blob(pinned)):
            raise IdentityError(
                f"the coordinator says that the key of {name} is {fingerprint(told)}, this site's peers pin "
                f"{fingerprint(pinned)}; allowed is the pinned key only. Cure: ask {name} over another channel, and "
                "correct the roster or this site's peers",
                step=STEP,
            )
        return Peer(name, pinned)

    def own_address(self, participant: Participant, meeting: Meeting) -> str:
        """Where this site listens; the coordinator has no say in it but on loopback."""
        if participant.inbound is not None:
            return participant.inbound.bound
        if self.loopback and meeting.address is not None and meeting.address.startswith("127.0.0.1:"):
            return meeting.address
        raise JobError(
            f"{participant.name} is to wait for the other party and has no inbound address; give it one (inbound) or "
            "the federation a relay",
            step=STEP,
        )


def meeting_of(request: Asked, *allowed: str) -> Meeting:
    meeting = request.meeting
    if meeting is None or meeting.how not in allowed:
        asked = meeting.how if meeting else "none"
        raise JobError(
            f"a meeting of kind {asked!r} cannot take place on this engine; allowed: {', '.join(allowed)}",
            step=STEP,
        )
    return meeting


def _pinned(participant: Participant, peer: str) -> str:
    entry = participant.peers.get(peer)
    if entry is None:
        raise IdentityError(
            f"no key of {peer!r} is pinned here (peers); {did_you_mean(peer, participant.peers)}. Cure: the site adds "
            f"the line of {peer}'s .pub file, got over another channel than the coordinator: "
            f'peers: {{{peer}: {{public_key: "ecdsa-sha2-nistp384 ..."}}}}',
            step=STEP,
        )
    return entry.public_key


def identity_of(participant: Participant) -> Identity:
    """The participant's key; one in its state folder where its file names none, made at first use."""
    from fedcore.trust.identity import load_identity, new_identity

    path = participant.identity
    if path is None:
        path = state_folder(participant) / "identity.key"
        if not path.exists():
            with contextlib.suppress(IdentityError):
                # Another process of this site may make it at the same moment; its key is then read below.
                return new_identity(path, participant.name)
    return load_identity(path, participant.name)


def state_folder(participant: Participant) -> Path:
    """Where the participant keeps what outlives a message."""
    return participant.state or Path(".fedcore") / participant.name


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# ---- early, so that either party notices the other's end ------------------------------------------------------------


class Rendezvous:
    """Meets the other party in a thread while this one reads, so that each notices at once when the other fails.

    A party that fails before it has met the other still meets it, to hang up: the other would otherwise wait for
    it until the deadline.

    Args:
        meetings: The engine's.
        participant, request: Who meets whom.
    """

    def __init__(self, meetings: Meetings, participant: Participant, request: Asked) -> None:
        self._channel: FramedChannel | None = None
        self._error: BaseException | None = None
        self._done, self._lock, self._unwanted = threading.Event(), threading.Lock(), False
        self.peer = request.other(participant.name)

        def work() -> None:
            try:
                channel = meetings.meet(participant, request)
                with self._lock:
                    self._channel = channel
                if self._unwanted:
                    channel.abort()
            except BaseException as error:  # noqa: BLE001 - whoever asks for the channel gets it
                self._error = error
            self._done.set()

        threading.Thread(target=work, daemon=True, name="fedcore-meet").start()

    def channel(self) -> FramedChannel:
        """The channel; waits for it.

        Raises:
            FedcoreError, ProtocolError: As `Meetings.meet`.
        """
        self._done.wait()
        if self._channel is None:
            raise self._error or PeerLost("did not come", party=self.peer, step=STEP)
        return self._channel

    def check(self, phase: str) -> None:
        """Raise when it is known already that there will be no other party.

        Raises:
            FedcoreError, ProtocolError: It could not be met, or it went away.
        """
        if not self._done.is_set():
            return
        channel = self.channel()
        if channel.gone is not None:
            raise PeerLost(channel.gone, party=self.peer, step=phase)

    def hang_up(self, within: float) -> None:
        """End the connection at once, also one that is still to come.

        Args:
            within: Seconds to wait for one that is still to come: this process may end after it.
        """
        with self._lock:
            self._unwanted = True
            channel = self._channel
        if channel is not None:
            channel.abort()
        else:
            self._done.wait(within)


@contextlib.contextmanager
def met(
    meetings: Meetings, participant: Participant, request: Asked, patience: float
) -> Iterator[Rendezvous]:
    """A rendezvous that is hung up when its block fails.

    Args:
        meetings, participant, request: As in `Rendezvous`.
        patience: Seconds to wait for the other party in order to hang up.
    """
    rendezvous = Rendezvous(meetings, participant, request)
    try:
        yield rendezvous
    except BaseException:
        rendezvous.hang_up(patience)
        raise
