"""The grid that lets a strategy see the participants of a plan, in its order, and no one else.

Before each round of training it asks for the plan of that round, and when a planned participant is not online, for one
without it. A strategy needs to know nothing of it: whatever samples from `get_node_ids` is placed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from flwr.serverapp import Grid

from fedcore.coordinator.grids.layer import Layer


class Planner(Protocol):
    """Who takes part, by the plan of a round."""

    def chosen(self, number: int, online: Collection[int]) -> Sequence[int]:
        """Nodes that take part in a round, in the plan's order, all of them online.

        Args:
            number: Of the round, from 1.
            online: Nodes that could.

        Raises:
            FedcoreError: No plan keeps every hard constraint.
        """


class PlacementGrid(Layer):
    """Shows the nodes of the current plan.

    Args:
        grid: The grid below.
        number: Of the round that goes on, as the coordinator counts it.

    Attributes:
        planner: Makes plans; everybody is shown while there is none.
    """

    def __init__(self, grid: Grid, number: Callable[[], int], planner: Planner | None = None) -> None:
        super().__init__(grid)
        self._number, self.planner = number, planner

    def get_node_ids(self) -> list[int]:
        """Of the plan of this round."""
        online = list(self.below.get_node_ids())
        return online if self.planner is None else list(self.planner.chosen(self._number(), set(online)))
