"""What a coordinator that lies is answered: nothing is opened over vectors that were made of different things."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedcore.coordinator.grids.layer import Layer
from fedcore.coordinator.grids.secure import SecureAggregationGrid
from fedcore.engines.embedded import FIRST_NODE, EmbeddedGrid, Node
from fedcore.flower import array_record
from fedcore.jobs.request import SECURE, TOTALS
from fedcore.participant.mods.secure import secure_aggregation_mod
from tests.fedcore.coordinator.grids.secure_apps import Seen, engine, messages, model, one

VICTIM = FIRST_NODE + 2


class Lying(Layer):
    """Sends all but one participant something else than the grid above it said."""

    def __init__(self, grid: EmbeddedGrid, what: str) -> None:
        super().__init__(grid)
        self.what = what

    def stream(self, messages: Iterable[Message], timeout: float | None) -> Iterator[Message]:
        told = list(messages)
        for message in told:
            record = message.content.get(SECURE)
            others = message.metadata.dst_node_id != VICTIM
            if others and isinstance(record, ConfigRecord) and record["stage"] == "masked":
                self._lie(message, dict(record))
        yield from super().stream(told, timeout)

    def _lie(self, message: Message, record: dict[str, Any]) -> None:
        if self.what == "form":
            # With a huge clip everything that is added rounds to nothing.
            record["about"] = json.dumps({**json.loads(record["about"]), "clip": 1e6})
            message.content[SECURE] = ConfigRecord(record)
        elif self.what == "model":
            message.content["arrays"] = array_record({name: value * 0 for name, value in model().items()})
        else:
            message.content["config"] = ConfigRecord({"server-round": 1, "lr": 0.0})


@pytest.mark.parametrize("what", ["form", "model", "setting"])
@pytest.mark.parametrize("protocol", ["secagg+", "threshold"])
def test_one_whose_model_form_or_settings_differ_from_all_others_is_not_singled_out(
    what: str, protocol: str
) -> None:
    grid = SecureAggregationGrid(Lying(engine(5), what), protocol=protocol)  # type: ignore[arg-type]
    reply = one(grid, messages())
    if protocol == "secagg+":
        assert reply is None and grid.account.failed
    else:
        # An honest coordinator's half, above the lie, leaves out whose digest is another.
        assert grid.account.summed != 5
        assert "masked" in grid.account.dropped.values() or reply is None


# ---- exact sums --------------------------------------------------------------------------------------------------


def counting(nodes: int, mods: Iterable[Any] = (secure_aggregation_mod,)) -> EmbeddedGrid:
    app = ClientApp(mods=list(mods))

    @app.query(TOTALS.removeprefix("query."))
    def totals(message: Message, context: Context) -> Message:
        index = int(context.node_config["partition-id"])
        arrays = {"rows": np.array(10.0 ** (index + 3)), "x": np.array([0.1 * index, -(2.0**-50) * index])}
        return Message(RecordDict({"arrays": array_record(arrays)}), reply_to=message)

    return EmbeddedGrid(app, [Node({"partition-id": i}, {}) for i in range(nodes)])


def asked(nodes: int) -> list[Message]:
    return [Message(RecordDict({}), FIRST_NODE + i, TOTALS) for i in range(nodes)]


def test_exact_sums_are_those_of_plain_numbers() -> None:
    below = Seen(counting(5))
    grid = SecureAggregationGrid(below)
    sums = grid.sums(asked(5), 20)
    assert sums is not None
    assert sums["rows"] == 11_111_000.0
    assert sums["x"].tolist()[1] == -(2.0**-50) * 10
    assert sums["x"][0] == pytest.approx(1.0, abs=2**-60)
    assert grid.account.summed == 5
    for _, _, content in below.replies:
        assert not [name for name in content if name not in (SECURE, "masked")]


def test_who_drops_out_is_not_in_an_exact_sum() -> None:
    grid = SecureAggregationGrid(Seen(counting(5), [("masked", 1, FIRST_NODE + 4)]))
    sums = grid.sums(asked(5), 20)
    assert sums is not None and sums["rows"] == 1111000.0


def test_a_message_for_an_exact_sum_that_is_not_protected_is_refused() -> None:
    (reply,) = counting(1).send_and_receive(asked(1))
    assert reply.has_error() and "not protected" in reply.error.reason


def test_exact_sums_under_another_protocol_are_refused_before_anybody_is_asked() -> None:
    below = Seen(counting(5))
    grid = SecureAggregationGrid(below, protocol="threshold")
    with pytest.raises(ValueError, match=r"under secagg\+, not threshold"):
        grid.sums(asked(5), 20)
    assert below.stages == []
