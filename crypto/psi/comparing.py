"""The receiver's second thread: it takes the tags of each message and looks for its own, while the store is sent on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from crypto.channel import Channel, recv_array
from crypto.errors import ProtocolError
from crypto.psi.okvs import Partition
from crypto.psi.sizes import Sizes
from crypto.psi.tags import match

Blocks = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.uint32]
Unpack = Callable[[npt.NDArray[np.uint8], Sizes], Blocks | None]


@dataclass(frozen=True)
class Matched:
    """What matches in the bins of one message.

    Args:
        part: The bins.
        rows: For each bin the rows that match, (k,) int64 ascending.
        places: And where their tags stand among the sender's.
    """

    part: Partition
    rows: list[Positions]
    places: list[Positions]

    def names(self, *, shared: bool) -> Numbers:
        """Names of the items; with `shared` in the order of the sender's tags."""
        found = [np.empty(0, dtype=np.uint32)]
        for b, (rows, places) in enumerate(zip(self.rows, self.places, strict=True)):
            some = rows[np.argsort(places, kind="stable")] if shared else rows
            found.append(self.part.order[self.part.start[b] + some])
        return np.concatenate(found)

    def marks(self, room: int) -> npt.NDArray[np.uint8]:
        """A bit for each of the sender's tags, (bins, room / 8 rounded up): whether it matched."""
        marks = np.zeros((len(self.places), -(-room // 8)), dtype=np.uint8)
        for b, places in enumerate(self.places):
            bits = np.zeros(room, dtype=bool)
            bits[places] = True
            marks[b] = np.packbits(bits, bitorder="little")
        return marks


class Comparing:
    """Compares, in a thread of its own, between `with` and the end of it.

    Args:
        channel: Its receiving direction is this thread's alone meanwhile.
        sizes: Of the run.
        unpack: From the bytes of a bin to its tags, (room, 2) uint64, or None where they are none.
        lag: Messages that may wait to be compared.
    """

    def __init__(self, channel: Channel, sizes: Sizes, unpack: Unpack, lag: int) -> None:
        self._channel, self._sizes, self._unpack, self._lag = channel, sizes, unpack, lag
        self._given: queue.Queue[tuple[Blocks, Partition] | None] = queue.Queue()
        self._done: queue.Queue[Matched | BaseException] = queue.Queue()
        self._open = 0
        self._thread = threading.Thread(target=self._work, name="psi-compare", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is None:
            self._given.put(None)
            self._thread.join()
            return
        # Tags of what was sent are still on their way, and nobody else may receive until they are here.
        self.drain()
        while not self._done.empty():
            cause = self._done.get()
            if isinstance(cause, BaseException) and cause is not error:
                # A channel whose receiver has failed is over for its sender too; the cause is what came first.
                raise cause from None

    def give(self, own: Blocks, part: Partition) -> Iterator[Matched]:
        """Compare the own tags of a message's bins; what was compared before and has waited long enough."""
        self._given.put((own, part))
        self._open += 1
        while self._open > self._lag:
            yield self._next()

    def rest(self) -> Iterator[Matched]:
        """What was not given back yet."""
        while self._open:
            yield self._next()

    def drain(self) -> None:
        """Wait until the tags of all that was sent are here."""
        self._given.put(None)
        self._thread.join()

    def _next(self) -> Matched:
        self._open -= 1
        found = self._done.get()
        if isinstance(found, BaseException):
            raise found
        return found

    def _work(self) -> None:
        try:
            while (given := self._given.get()) is not None:
                self._done.put(self._compare(*given))
        except BaseException as error:  # noqa: BLE001 - it is raised in the caller's thread
            self._done.put(error)

    def _compare(self, own: Blocks, part: Partition) -> Matched:
        bins = len(part.start) - 1
        packed = recv_array(self._channel, "psi.tags", np.uint8, bins, self._sizes.code)
        rows, places = [], []
        for b in range(bins):
            theirs = self._unpack(packed[b], self._sizes)
            if theirs is None:
                raise ProtocolError(
                    "tags came that are not in order; the other side does not follow the protocol",
                    step="psi.tags",
                )
            mine, there = match(own[part.start[b] : part.start[b + 1]], theirs)
            rows.append(mine)
            places.append(there)
        return Matched(part, rows, places)
