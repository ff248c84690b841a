"""The grid that makes a model of sums with noise: what was sent, plus the sum over a number that was fixed beforehand.

Under secure aggregation one reply comes up with the sums; without, each participant's, which are added here. They are
whole numbers of steps, and a step is worth clip / clip_steps. The sum is divided by how many participants were expected,
not by how many came, so that nobody's coming or going changes what the others weigh.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict

from fedcore.coordinator.grids.layer import Layer
from fedcore.coordinator.grids.mean import EXAMPLES, metric_record
from fedcore.coordinator.grids.secure import SecureAggregationGrid
from fedcore.flower import NDArray, array_record, arrays_in, metrics_in, ndarrays
from fedcore.jobs.request import PRIVATE
from fedcore.participant.private_training import BIT
from fedcore.privacy.clients import ClientNoise


class PrivateGrid(Layer):
    """Train replies become one: the model that the noisy sum leads to. Other messages pass.

    Args:
        grid: The grid below; one of secure aggregation sums in steps.
        noise: Of the run.
        clip: Of the next round.

    Attributes:
        clip: Set before each round.
        bits: Sum of the numbers that tell who was below the clip, of the last round; None where there was none.
        summed: Participants in the last sum.
    """

    def __init__(self, grid: Layer, noise: ClientNoise, clip: float) -> None:
        super().__init__(grid)
        self.noise, self.clip = noise, clip
        self.bits: int | None = None
        self.summed = 0

    @property
    def secure(self) -> SecureAggregationGrid | None:
        """The grid below, if it sums under protection."""
        return self.below if isinstance(self.below, SecureAggregationGrid) else None

    def stream(self, messages: Iterable[Message], timeout: float | None) -> Iterator[Message]:
        """At most one reply to a train exchange, with the next model; all replies to any other."""
        asked = list(messages)
        if not asked or asked[0].metadata.message_type.split(".")[0] != "train":
            yield from super().stream(asked, timeout)
            return
        self.bits, self.summed = None, 0
        for message in asked:
            # One content may serve all messages of a strategy, so it is not added to.
            message.content = RecordDict(
                {**message.content, PRIVATE: ConfigRecord({"clip": float(self.clip)})}
            )
        before = ndarrays(arrays_in(asked[0].content)[0])
        sums: dict[str, NDArray] = {}
        first: Message | None = None
        for reply in super().stream(asked, timeout):
            if reply.has_error():
                continue
            for name, value in ndarrays(arrays_in(reply.content)[0]).items():
                sums[name] = sums[name] + value if name in sums else value.astype(np.int64)
            self.summed += int(metrics_in(reply.content)[0][EXAMPLES])  # type: ignore[arg-type]
            first = first or reply
        if first is None:
            return
        if BIT in sums:
            self.bits = int(sums.pop(BIT)[0])
        first.content = RecordDict(
            {
                "arrays": array_record(self._model(before, sums)),
                "metrics": metric_record({EXAMPLES: self.summed}),
            }
        )
        yield first

    def _model(self, before: Mapping[str, NDArray], sums: Mapping[str, NDArray]) -> dict[str, NDArray]:
        step = self.clip / (self.noise.clip_steps * self.noise.participants * self.noise.sampling)
        return {name: value.astype(np.float64) + sums[name] * step for name, value in before.items()}
