"""A `Grid` that wraps another, and one way to receive replies as they come."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedcore.flower import NODE_UNAVAILABLE, Run, error_reply, through_outage

FIRST_POLL, LAST_POLL = 0.02, 0.25  # seconds between pulls; Flower's own loop sleeps 3 s in a deployment


class Layer(Grid):
    """Passes everything on; a layer overrides `stream`, and what else it must.

    Args:
        grid: The grid below.
    """

    def __init__(self, grid: Grid) -> None:
        self.below = grid

    def set_run(self, run: Run) -> None:
        """Of the grid below."""
        self.below.set_run(run)

    @property
    def run(self) -> Run:
        """Of the grid below."""
        return self.below.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Of the grid below."""
        return self.below.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Of the grid below."""
        return self.below.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Of the grid below."""
        return self.below.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Of the grid below."""
        return self.below.pull_messages(message_ids)

    def stream(self, messages: Iterable[Message], timeout: float | None) -> Iterator[Message]:
        """Replies as they come; a message without one by the timeout gets an error reply."""
        return stream(self.below, messages, timeout)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """All replies."""
        return list(self.stream(messages, timeout))


def stream(grid: Grid, messages: Iterable[Message], timeout: float | None) -> Iterator[Message]:
    """Send messages and yield each reply when it is there, in the way of the grid's own where it has one.

    Args:
        grid: Any Flower grid; one with a `stream` of its own is asked for it.
        messages: To send, one per node.
        timeout: Seconds for all of them; for ever when None.

    Yields:
        One reply per message. One that did not come in time is an error reply that says so.
    """
    own = getattr(grid, "stream", None)
    if own is not None:
        yield from own(messages, timeout)
        return
    yield from polled(grid, messages, timeout)


def polled(
    grid: Grid, messages: Iterable[Message], timeout: float | None, *, after_error: float | None = None
) -> Iterator[Message]:
    """Send messages at once and ask for the replies until all are there.

    Args:
        grid: Any Flower grid.
        messages, timeout: As in `stream`.
        after_error: Seconds to wait for the other replies once one is an error; `timeout` when None.

    Yields:
        As `stream`.
    """
    sent = list(messages)
    end = None if timeout is None else time.monotonic() + timeout
    pause = FIRST_POLL
    failed = False
    waiting: dict[str, Message] = {}
    # Flower gives no ids at all when the whole is too large, and an empty one for a message it does not take.
    for number, message in itertools.zip_longest(
        list(through_outage(lambda: grid.push_messages(sent))), sent
    ):
        if number:
            waiting[number] = message
        else:
            failed = after_error is not None
            yield error_reply(message, "the SuperLink did not take the message; its log says why")
    while waiting:
        for reply in through_outage(lambda: grid.pull_messages(list(waiting))):
            asked = waiting.pop(reply.metadata.reply_to_message_id, None)
            if asked is not None:
                found = _from_the_node(asked, reply)
                if found.has_error() and after_error is not None and not failed:
                    failed = True
                    soon = time.monotonic() + after_error
                    end = soon if end is None else min(end, soon)
                yield found
        if end is not None and time.monotonic() >= end:
            break
        if waiting:
            time.sleep(pause)
            pause = min(pause * 1.5, LAST_POLL)
    for message in waiting.values():
        within = f"{after_error:g} s of the other's failure" if failed else f"{timeout:g} s"
        yield error_reply(message, f"no reply within {within}", NODE_UNAVAILABLE)


def _from_the_node(asked: Message, reply: Message) -> Message:
    """The reply, or an error reply in the node's name where the SuperLink answered in its stead."""
    if reply.metadata.src_node_id == asked.metadata.dst_node_id:
        return reply
    if reply.has_error():
        return error_reply(asked, reply.error.reason or "the node is unavailable", reply.error.code)
    return error_reply(asked, "the reply came from another node than the one that was asked")
