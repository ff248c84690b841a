"""Costs of a set intersection that are measured within one process: a multiplication, and messages that wait."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sides.psi_ids import file_of, generate
from crypto.psi import ecdh_rounds, group
from fedcore.participant.data.batches import file_data
from fedcore.participant.intersection import Side, intersect
from fedcore.peer.memory import MemoryChannel

FEW = 1000
CONNECTING = 6
"""Messages, one after the other, before the first of ours: two each for TCP, TLS 1.3 and HTTP/2."""


def multiplication(count: int, threads: int) -> float:
    """CPU seconds of one multiplication of an element that came by a secret, all cores at it as in a run.

    Args:
        count: Multiplications that are measured.
        threads: That do them.
    """
    items = np.random.default_rng(0).integers(0, 2**64, (count, 2), dtype=np.uint64)
    points = group.mask_items(items, group.new_scalar(), threads=threads)
    secret = group.new_scalar()
    group.multiply(points[:1], secret, "floor", threads=1)  # compiles
    before = time.process_time()
    group.multiply(points, secret, "floor", threads=threads)
    return (time.process_time() - before) / count


class _Clocked(MemoryChannel):
    """Counts, along the longest chain, messages that could not be sent before another had come."""

    clock = 0
    stamps: deque[int]
    other: _Clocked

    def send(self, step: str, data: Any) -> None:
        self.other.stamps.append(self.clock + 1)
        super().send(step, data)

    def recv(self, step: str, **limits: Any) -> memoryview:
        message = super().recv(step, **limits)
        self.clock = max(self.clock, self.stamps.popleft())
        return message


def crossings(protocol: str, items: int) -> int:
    """Messages of a whole run, one after the other, each of which waits for the one before it to arrive.

    Measured on a run with few items. More items add none to `vole`, whose store and tags are streams that wait for
    nothing, and two to `ecdh` for each further batch.
    """
    first, second = _Clocked.pair()
    first.other, second.other = second, first
    first.stamps, second.stamps = deque(), deque()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(folder, FEW, csv=False)
        failed: list[BaseException] = []

        def party(role: Any, side: str, channel: _Clocked) -> None:
            try:
                data = file_data(file_of(folder, side, FEW, "parquet"))
                intersect(
                    lambda: channel, Side(role, data, ("id",), "count", protocol=protocol), folder / side
                )
            except BaseException as error:
                failed.append(error)
                channel.__exit__(type(error), error, None)

        other = threading.Thread(target=party, args=("sender", "right", second), daemon=True)
        other.start()
        party("receiver", "left", first)
        other.join()
        if failed:
            raise failed[0]
    batches = -(-items // ecdh_rounds.BATCH) if protocol == "ecdh" else 1
    return CONNECTING + max(first.clock, second.clock) + 2 * (batches - 1)
