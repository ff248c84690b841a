"""What a protected exchange was: who was in the sum, what it cost, who dropped out, how exact it is, who opened it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Account:
    """What one protected exchange was.

    Args:
        asked: Participants that the strategy asked.
        protocol: That protected it.
        summed: That are in the sum; 0 when there is none.
        threshold: Shares that give a secret, or holders of the key that open a sum together; 0 where one can.
        neighbours: Of each participant, with whom it has masks in common; 0 where there are none.
        holders: Of shares of the key; 0 where it is not shared out.
        stages: By name: seconds, bytes down and up, asked, answered.
        dropped: Participant to the first stage at which it gave nothing usable.
        blamed: Participants that revealed a wrong share.
        clipped: Values that were clipped, of all participants.
        error_bound: Of each clipped value of the mean.
        error: Largest that was found in values known to all; None when there is no sum.
        opened_by: Participants that decrypted the sum, or had part in it; empty under masks.
        failed: Why there is no sum; empty when there is one.
    """

    asked: int
    protocol: str = "secagg+"
    summed: int = 0
    threshold: int = 0
    neighbours: int = 0
    holders: int = 0
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    blamed: list[str] = field(default_factory=list)
    clipped: int = 0
    error_bound: float = 0.0
    error: float | None = None
    opened_by: list[str] = field(default_factory=list)
    failed: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
