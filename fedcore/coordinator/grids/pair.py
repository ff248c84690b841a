"""The grid below two parties that work with each other: when one has failed, the other is not waited for long."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from flwr.app import Message
from flwr.serverapp import Grid

from fedcore.coordinator.grids.layer import Layer, polled

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
        return polled(self.below, messages, timeout, after_error=self.last_words)
