"""What a two-party protocol needs of whatever carries its messages.

A protocol is one function per role over a `Channel`. It names the step of each message, so that both sides notice
at once when they are not at the same place, and it says how long a message may be before its memory is taken.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from crypto.errors import ProtocolError

NDArray = npt.NDArray[Any]
Data = bytes | bytearray | memoryview | NDArray
"""What a message may be given as; an array must be contiguous."""


class Channel(Protocol):
    """An ordered, authenticated and confidential connection to the one other party."""

    def send(self, step: str, data: Data) -> None:
        """Send one message.

        Args:
            step: Where in the protocol this is, short ASCII.
            data: Any contiguous bytes, of any length.
        """

    def recv(self, step: str, *, size: int | None = None, limit: int | None = None) -> memoryview:
        """The next message.

        Args:
            step: That it must be for.
            size: Bytes it must have.
            limit: Bytes it may have at most; one of the two is given.

        Raises:
            ProtocolError: It is for another step, or its length is not allowed.
        """


def recv_array(channel: Channel, step: str, dtype: npt.DTypeLike, *shape: int) -> NDArray:
    """The next message as an array of known shape, read-only, without a copy.

    Raises:
        ProtocolError: As `Channel.recv`.
    """
    kind = np.dtype(dtype)
    size = kind.itemsize
    for axis in shape:
        size *= axis
    return array_from(channel.recv(step, size=size), step, kind, *shape)


def array_from(data: bytes | memoryview, step: str, dtype: npt.DTypeLike, *shape: int) -> NDArray:
    """Bytes as an array of known shape, read-only.

    Raises:
        ProtocolError: Their length is not that of the array.
    """
    kind = np.dtype(dtype)
    view = memoryview(data).cast("B")
    wanted = kind.itemsize
    for axis in shape:
        wanted *= axis
    if view.nbytes != wanted:
        raise ProtocolError(f"{view.nbytes} bytes came where {wanted} are expected", step=step)
    array = np.frombuffer(view, dtype=kind).reshape(shape)
    array.flags.writeable = False
    return array
