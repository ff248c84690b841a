"""What every protocol of secure aggregation is at the coordinator: a session of participants that have met."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import RecordDict

from crypto.secagg.protocol import RUN, RoundFailed
from crypto.signatures import Authenticator
from fedcore.coordinator.grids.secure_stages import Stages
from fedcore.participant.mods.protocols.base import Agreed
from fedcore.participant.protected import Form

Words = npt.NDArray[Any]


class Session(ABC):
    """Participants that meet once and have their vectors summed round after round.

    Args:
        agreed: Between all.
        authenticator: Checks keys with the pinned identities; None where they are not signed.

    Attributes:
        run: Its name, 32 bytes.
        nodes: Name to node id of all that met.
        number: Of the last round.
        least: Participants that a sum has at least.
        threshold, neighbours, holders: As in `Account`.
        stale: Somebody has lost its state, or the keys are used up: the next exchange begins with new keys.
    """

    def __init__(self, agreed: Agreed, authenticator: Authenticator | None) -> None:
        self.agreed, self.authenticator = agreed, authenticator
        self.run = secrets.token_bytes(RUN)
        self.nodes: dict[str, int] = {}
        self.number = 0
        self.least = agreed.assumptions.least_cohort
        self.threshold = self.neighbours = self.holders = 0
        self.stale = False

    @property
    def size(self) -> int:
        """Participants that have met."""
        return len(self.nodes)

    @abstractmethod
    def meet(self, stages: Stages, nodes: Mapping[str, int]) -> None:
        """Agree on keys; who drops out meanwhile is not among `nodes` afterwards.

        Raises:
            RoundFailed: Too few are left.
        """

    @abstractmethod
    def begin(self, stages: Stages, there: Mapping[str, int]) -> dict[str, bytes]:
        """Begin the next round, which `number` then tells.

        Args:
            stages: To reach participants by.
            there: Who is asked.

        Returns:
            What goes with the work, by name.

        Raises:
            RoundFailed: Too few are left.
        """

    @abstractmethod
    def take(self, name: str, message: bytes, vector: Words, words: int, form: Form) -> None:
        """Add what came in place of a vector.

        Args:
            name: Who sent it.
            message: That came beside it.
            vector: That came.
            words: Of the vector that it stands for.
            form: Of the round.

        Raises:
            ProtocolError: It is not what it should be; the sum is as before.
        """

    def ride(self, stages: Stages, name: str, content: RecordDict) -> None:  # noqa: B027
        """Take what came with a reply for later, whether its vector was taken or not."""

    @abstractmethod
    def open(self, stages: Stages) -> Words:
        """The sum of what was taken, in words of `Form.bits` bits.

        Raises:
            RoundFailed: Too few helped.
        """

    def failed(self, step: str, left: int, needed: int, reason: str = "") -> RoundFailed:
        """The error that ends a round."""
        return RoundFailed(
            step=step, number=self.number, left=left, needed=needed, cohort=self.size, reason=reason
        )


def as_words(units: npt.NDArray[np.int64], form: Form) -> Words:
    """Whole numbers as words of `Form.bits` bits."""
    words: Words = units.astype(form.narrow.dtype)
    return words
