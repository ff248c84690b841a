"""Sums under pairwise masks at the coordinator (`crypto.secagg`).

Stages: keys, roster; each round: shares where they have not come before, masked, confirm (`active` only), reveal.
Shares for the next round ride with the masked vectors.
"""

from __future__ import annotations

from collections.abc import Mapping

from flwr.app import RecordDict

from crypto.errors import ProtocolError
from crypto.secagg.coordinator import Coordinator
from crypto.secagg.round import Round
from crypto.signatures import Authenticator
from crypto.streams import AddStreams
from fedcore.coordinator.grids.protocols.base import Session, Words
from fedcore.coordinator.grids.secure_stages import Stages, told_bytes
from fedcore.participant.mods.protocols.base import Agreed
from fedcore.participant.protected import Form


class MaskSession(Session):
    """Participants with masks in common."""

    def __init__(self, agreed: Agreed, authenticator: Authenticator | None) -> None:
        super().__init__(agreed, authenticator)
        self._coordinator = Coordinator(self.run, agreed.assumptions, authenticator, agreed.cipher)
        self._shared: dict[int, set[str]] = {}
        self._round: Round | None = None

    @property
    def size(self) -> int:
        """Participants that stand in the roster."""
        return self._coordinator.cohort.size

    def meet(self, stages: Stages, nodes: Mapping[str, int]) -> None:
        """Advertise keys, hand out the roster and take the first shares."""
        them = self._coordinator
        replies = stages.exchange(
            "keys", self.run, 0, dict.fromkeys(nodes, b""), nodes, self.agreed.to_json()
        )
        for name, told in replies.items():
            with stages.using(name, "keys"):
                them.take_advert(name, told_bytes(told, "message"))
        rosters = them.rosters()
        limits = them.cohort.parameters
        self.nodes = {name: nodes[name] for name in rosters}
        self.least, self.threshold, self.neighbours = limits.least, limits.threshold, limits.degree
        for name, told in stages.exchange("roster", self.run, 1, rosters, self.nodes).items():
            self._take_shares(stages, name, told, "roster")

    def begin(self, stages: Stages, there: Mapping[str, int]) -> dict[str, bytes]:
        """Take the shares that have not come yet, and start the round."""
        number = self.number + 1
        lacking = {name: b"" for name in there if name not in self._shared.get(number, ())}
        if lacking:
            told = stages.exchange("shares", self.run, number, lacking, there)
            self.stale = set(told) != set(lacking)
            for name, each in told.items():
                self._take_shares(stages, name, each, "shares")
        self.number = number
        self._shared = {later: names for later, names in self._shared.items() if later > number}
        self._round = self._coordinator.start(number)
        return self._round.starts()

    def take(self, name: str, message: bytes, vector: Words, words: int, form: Form) -> None:
        """Add a masked vector."""
        if len(vector) != words:
            raise ProtocolError(f"{name} sent {len(vector)} words, expected are {words}", step="masked")
        self._began.take_masked(name, message, vector)

    def ride(self, stages: Stages, name: str, content: RecordDict) -> None:
        """Take the shares for the next round."""
        self._take_shares(stages, name, content, "masked")

    def open(self, stages: Stages) -> Words:
        """Let survivors confirm each other and reveal shares, and take the masks away."""
        began = self._began
        asked = began.survivors()
        if self.agreed.assumptions.adversary == "active":
            for name, told in stages.exchange("confirm", self.run, self.number, asked, self.nodes).items():
                with stages.using(name, "confirm"):
                    began.take_confirmation(name, told_bytes(told, "message"))
            asked = began.requests()
        for name, told in stages.exchange("reveal", self.run, self.number, asked, self.nodes).items():
            with stages.using(name, "reveal"):
                began.take_revealed(name, told_bytes(told, "message"))
        total = began.finish(add=self._on_device())
        stages.account.blamed = sorted(began.blamed)
        return total

    def _on_device(self) -> AddStreams | None:
        """What takes masks away on the coordinator's GPU; None where the CPU does."""
        if self.agreed.cipher != "chacha20":
            return None
        from fedcore.participant.protected_device import DeviceMasks, masking_device

        device = masking_device("auto")
        return DeviceMasks(device) if device is not None else None

    @property
    def _began(self) -> Round:
        if self._round is None:
            raise ProtocolError("no round has begun", step="masked")
        return self._round

    def _take_shares(self, stages: Stages, name: str, told: RecordDict, stage: str) -> None:
        with stages.using(name, stage):
            number = self._coordinator.take_shares(name, told_bytes(told, "shares"))
            self._shared.setdefault(number, set()).add(name)
