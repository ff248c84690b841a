"""What a protocol raises."""

from __future__ import annotations


class ProtocolError(Exception):
    """The other side sent something the protocol does not allow, or the two sides do not agree.

    Args:
        message: What is wrong, what is allowed, and the cure. Holds no secret and no item.
        step: Of the protocol, as in its messages.
    """

    def __init__(self, message: str, *, step: str) -> None:
        super().__init__(message)
        self.message = message
        self.step = step

    def __str__(self) -> str:
        return f"{self.step}: {self.message}"
