"""Two ends of a channel in one process, for tests of protocols: no transport, the same checks."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from crypto.channel import Data
from crypto.errors import ProtocolError


class End:
    """One end.

    Attributes:
        sent: Step and length of every message that went out, in order.
        spoil: Changes (or drops, with None) a message on its way, for tests of bad input.
    """

    def __init__(self, out: queue.Queue[tuple[str, bytes]], incoming: queue.Queue[tuple[str, bytes]]) -> None:
        self._out, self._in = out, incoming
        self.sent: list[tuple[str, int]] = []
        self.spoil: Callable[[str, bytes], bytes | None] = lambda step, data: data

    def send(self, step: str, data: Data) -> None:
        raw = memoryview(data).cast("B").tobytes()
        self.sent.append((step, len(raw)))
        spoilt = self.spoil(step, raw)
        if spoilt is not None:
            self._out.put((step, spoilt))

    def recv(self, step: str, *, size: int | None = None, limit: int | None = None) -> memoryview:
        try:
            told, data = self._in.get(timeout=60)
        except queue.Empty:
            raise ProtocolError("nothing came within 60 s", step=step) from None
        if told != step:
            raise ProtocolError(f"a message for {told!r} came", step=step)
        if size is not None and len(data) != size:
            raise ProtocolError(f"{len(data)} bytes came where {size} are expected", step=step)
        if limit is not None and len(data) > limit:
            raise ProtocolError(f"{len(data)} bytes came where at most {limit} are allowed", step=step)
        return memoryview(data)


def ends() -> tuple[End, End]:
    """Two ends that are connected."""
    one: queue.Queue[tuple[str, bytes]] = queue.Queue()
    other: queue.Queue[tuple[str, bytes]] = queue.Queue()
    return End(one, other), End(other, one)


def both(first: Callable[[End], Any], second: Callable[[End], Any]) -> tuple[Any, Any]:
    """Run the two roles beside each other; their results. What one raises is raised here."""
    left, right = ends()
    return run(first, left, second, right)


def run(first: Callable[[End], Any], left: End, second: Callable[[End], Any], right: End) -> tuple[Any, Any]:
    """`both` over ends that were made, and perhaps spoilt, before."""
    found: dict[int, Any] = {}
    raised: list[BaseException] = []

    def go(number: int, role: Callable[[End], Any], end: End) -> None:
        try:
            found[number] = role(end)
        except BaseException as error:  # noqa: BLE001 - it is raised in the test's own thread
            raised.append(error)

    threads = [
        threading.Thread(target=go, args=(0, first, left), daemon=True),
        threading.Thread(target=go, args=(1, second, right), daemon=True),
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) and not raised:
        for thread in threads:
            thread.join(0.02)
    if raised:
        raise raised[0]
    return found[0], found[1]
