"""The grid below two parties that work with each other: when one has failed, the other is not waited for long."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator

from flwr.app import Message
from flwr.serverapp import Grid

from fedcore.coordinator.grids.layer import Layer, polled
from fedcore.flower import NODE_UNAVAILABLE, error_reply

LAST_WORDS = 15.0
"""Seconds that a party has to notice that the other failed, which it does within ten, and to say so."""


class PairGrid(Layer):
    """Asks both parties at the same time, and gives up a silent one soon after the other has failed.

    Args:
        grid: The grid below. It must work on both messages at a time.
        last_words: Seconds.
    """

    def __init__(self, grid: Grid, last_words: float = LAST_WORDS) -> None:
        super().__init__(grid)
        self.last_words = last_words

    def stream(self, messages: Iterable[Message], timeout: float | None) -> Iterator[Message]:
        """Replies as they come."""
        if isinstance(self.below, Layer):
            return _heard(self.below, list(messages), timeout, self.last_words)
        return polled(self.below, messages, timeout, after_error=self.last_words)


def _heard(
    grid: Layer, messages: list[Message], timeout: float | None, last_words: float
) -> Iterator[Message]:
    """Replies of a grid that sends in a way of its own, such as over sessions.

    They are heard in a thread, which goes on when nobody waits any more: the run is over by then.
    """
    waiting = {message.metadata.dst_node_id: message for message in messages}
    heard: queue.SimpleQueue[Message | BaseException] = queue.SimpleQueue()

    def hear() -> None:
        try:
            for reply in grid.stream(messages, timeout):
                heard.put(reply)
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            heard.put(error)

    threading.Thread(target=hear, daemon=True, name="fedcore-pair").start()
    end = None if timeout is None else time.monotonic() + timeout
    failed = False
    while waiting:
        try:
            told = heard.get(timeout=None if end is None else max(0.0, end - time.monotonic()))
        except queue.Empty:
            break
        if isinstance(told, BaseException):
            raise told
        waiting.pop(told.metadata.src_node_id, None)
        if told.has_error() and not failed:
            failed, soon = True, time.monotonic() + last_words
            end = soon if end is None else min(end, soon)
        yield told
    for message in waiting.values():
        within = f"{last_words:g} s of the other's failure" if failed else f"{timeout:g} s"
        yield error_reply(message, f"no reply within {within}", NODE_UNAVAILABLE)
