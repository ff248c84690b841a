"""A self-check that runs with every intersection: items both sides know must come back, all of them.

Both sides derive the same random items from a seed that they agreed on, and append them to their sets. A run that
loses rows, by a fault of the program, the processor or the network, loses some of these with the same probability,
and is refused. With 64 planted items a run that loses one match in 20 is let through with probability 0.04; the
check finds faults, it does not stop a side that means to cheat.

The items are of no secrecy between the two sides. They are 128 random bits each: one of them is among the real items
with probability n 2^-128.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from crypto.errors import ProtocolError
from crypto.kernels.aes import Generator

Blocks = npt.NDArray[np.uint64]


def planted(count: int, session_seed: bytes) -> Blocks:
    """The items both sides append to their sets.

    Args:
        count: How many; both sides take the same number.
        session_seed: Agreed in the handshake, different in every run; at least 16 bytes.

    Returns:
        (count, 2) uint64, distinct.

    Raises:
        ValueError: The seed is shorter.
    """
    if len(session_seed) < 16:
        raise ValueError(f"a session's seed has at least 16 bytes, this one {len(session_seed)}")
    key = hashlib.sha256(b"fedcore psi planted items" + session_seed).digest()[:16]
    return Generator(key).blocks(count)


def check_planted_count(cardinality: int, count: int, step: str) -> int:
    """The size of the intersection without the planted items.

    Args:
        cardinality: With them.
        count: Planted items.
        step: Of the protocol, for the error.

    Raises:
        ProtocolError: It is smaller than the number of planted items.
    """
    check_back(min(cardinality, count), count, step)
    return cardinality - count


def check_back(back: int, count: int, step: str) -> None:
    """Whether all planted items are in the result.

    Args:
        back: How many different ones are.
        count: How many were planted.
        step: Of the protocol, for the error.

    Raises:
        ProtocolError: One is not.
    """
    if back != count:
        raise ProtocolError(
            f"{back} of {count} planted items came back: the run lost matches and its result is void. Run it "
            "again; if it happens again, compare the versions of the two sides and report it",
            step=step,
        )
