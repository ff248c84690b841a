"""How a participant meets several others at once, for a step of a job in which each pair talks.

Whom it trusts, where it waits and whom it calls is decided for each pair as for two parties alone
(`fedcore.participant.meeting`). A participant that is called by several waits for all of them at its one address.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from fedcore.errors import FedcoreError, PeerLost
from fedcore.jobs.participant import Participant
from fedcore.jobs.request import Appointment, PairMeeting
from fedcore.participant.meeting import PATIENCE, STEP, Meetings, OverNetwork, identity_of

if TYPE_CHECKING:
    from fedcore.peer.channel import FramedChannel
    from fedcore.peer.tls import Peer

LAST_WORDS = 10.0
"""Seconds, at most, in which the ends of connections that were closed in good order reach the others."""


@contextlib.contextmanager
def gathered(
    meetings: Meetings, participant: Participant, appointments: Sequence[Appointment]
) -> Iterator[dict[str, FramedChannel]]:
    """Channels to all others, by name; closed where the block ends well, else ended at once.

    The address at which they called is free again when the block has ended, for the next step.

    Args:
        meetings: The engine's.
        participant: Who meets.
        appointments: One per other party.

    Raises:
        PeerLost: One did not come in time.
        IdentityError: A key is not the pinned one.
        JobError: A meeting cannot take place here.
    """
    with contextlib.ExitStack() as stack:
        called = [each for each in appointments if _waits(meetings, participant, each)]
        channels = (
            stack.enter_context(_hall(meetings, participant, called))
            if called and isinstance(meetings, OverNetwork)
            else None
        )
        others = [each for each in appointments if each not in called]
        found: dict[str, FramedChannel] = {}
        try:
            with ThreadPoolExecutor(max(1, len(others)), thread_name_prefix="fedcore-meet") as pool:
                calls = [(each.peer, pool.submit(meetings.meet, participant, each)) for each in others]
                failed: BaseException | None = None
                for peer, call in calls:
                    try:
                        found[peer] = call.result()
                    except FedcoreError as error:
                        failed = failed or error
                if failed is not None:
                    raise failed
            if channels is not None:
                found |= channels.all(min(each.deadline for each in called))
            yield {each.peer: found[each.peer] for each in appointments}
        except BaseException:
            for channel in found.values():
                channel.abort()
            raise
        for channel in found.values():
            channel.close()


def _waits(meetings: Meetings, participant: Participant, appointment: Appointment) -> bool:
    meeting = appointment.meeting
    return (
        isinstance(meetings, OverNetwork)
        and meeting is not None
        and meeting.how == "direct"
        and meeting.listens == participant.name
    )


class _Arrivals:
    """Channels that came, and who is still awaited."""

    def __init__(self, awaited: Sequence[str]) -> None:
        self._awaited = set(awaited)
        self._seen: set[str] = set()
        self._channels: dict[str, FramedChannel] = {}
        self._changed = threading.Condition()

    def welcome(self, peer: str) -> bool:
        """Whether it is the first of this party."""
        with self._changed:
            first = peer not in self._seen
            self._seen.add(peer)
            return first

    def take(self, peer: str, channel: FramedChannel) -> bool:
        """A channel is there."""
        with self._changed:
            self._channels[peer] = channel
            self._changed.notify_all()
        return True

    def all(self, deadline: float) -> dict[str, FramedChannel]:
        """All, once they are there.

        Raises:
            PeerLost: One did not come in time.
        """
        patience = min(deadline, PATIENCE)
        with self._changed:
            if not self._changed.wait_for(lambda: self._awaited <= self._channels.keys(), patience):
                lacking = sorted(self._awaited - self._channels.keys())
                raise PeerLost(
                    f"did not connect with its pinned key within {patience:g} s", party=lacking[0], step=STEP
                )
            return dict(self._channels)

    def abort(self) -> None:
        """End those that are there."""
        with self._changed:
            for channel in self._channels.values():
                channel.abort()


@contextlib.contextmanager
def _hall(
    meetings: OverNetwork, participant: Participant, called: Sequence[Appointment]
) -> Iterator[_Arrivals]:
    """An open address at which the others are awaited."""
    from fedcore.peer.listening import Hall

    peers: list[Peer] = []
    where = ""
    for each in called:
        meeting = each.meeting
        if meeting is not None:
            peers.append(meetings.peer_of(participant, each, meeting))
            where = meetings.own_address(participant, meeting)
    arrivals = _Arrivals([each.peer for each in called])
    hall = Hall(where, identity=identity_of(participant), peers=peers)
    linger = 0.0
    try:
        for each, peer in zip(called, peers, strict=True):
            hall.expect(
                each.meeting.session if each.meeting else "",
                peer,
                lambda channel, name=each.peer: arrivals.take(name, channel),  # type: ignore[misc]
                welcome=lambda name=each.peer: arrivals.welcome(name),  # type: ignore[misc]
            )
        yield arrivals
        linger = LAST_WORDS
    except BaseException:
        arrivals.abort()
        raise
    finally:
        # Only when nothing listens here any more may the step end: the next one listens at the same address.
        hall.close(linger)


def appointments_of(participant: str, meetings: Sequence[PairMeeting], deadline: float) -> list[Appointment]:
    """The meetings of a step that are this participant's.

    Args:
        participant: Its name.
        meetings: Of the step.
        deadline: Longest wait, seconds.
    """
    return [
        Appointment(meeting, next(name for name in meeting.between if name != participant), deadline)
        for meeting in meetings
        if participant in meeting.between
    ]
