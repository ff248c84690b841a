"""The grid of a plan: a strategy sees the plan's participants, and asks nobody else."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp.strategy import FedAvg

from fedcore.coordinator.grids.layer import Layer
from fedcore.coordinator.grids.placement import PlacementGrid
from fedcore.jobs.request import NODES
from tests.messages import message

NODES_ONLINE = [11, 12, 13, 14, 15]


class Below(Layer):
    """Answers whatever it is asked, and keeps it."""

    def __init__(self) -> None:
        self.sent: list[Message] = []

    def get_node_ids(self) -> Iterable[int]:
        return list(NODES_ONLINE)

    def stream(self, messages: Iterable[Message], timeout: float | None) -> Iterator[Message]:
        for one in messages:
            self.sent.append(one)
            yield Message(RecordDict(), reply_to=one)


class Plans:
    """Names these nodes, and takes down what it is told."""

    def __init__(self, nodes: Sequence[int], version: int | None = 3) -> None:
        self.nodes, self.version = nodes, version
        self.rounds: list[tuple[int, set[int]]] = []
        self.told: list[tuple[str, list[int]]] = []

    def chosen(self, number: int, online: Collection[int]) -> Sequence[int]:
        self.rounds.append((number, set(online)))
        return self.nodes

    def asked(self, kind: str, nodes: Sequence[int]) -> int | None:
        self.told.append((kind, list(nodes)))
        return self.version


def grid_of(plans: Plans | None, number: int = 2) -> tuple[PlacementGrid, Below]:
    below = Below()
    return PlacementGrid(below, lambda: number, plans), below


def ask(grid: PlacementGrid, nodes: Iterable[int], kind: str = "train") -> list[Message]:
    messages = [message(kind, node=node, server_round=2) for node in nodes]
    return list(grid.stream(messages, 5))


def test_everybody_is_seen_where_there_is_no_plan() -> None:
    grid, below = grid_of(None)
    assert grid.get_node_ids() == NODES_ONLINE
    assert len(ask(grid, NODES_ONLINE)) == 5
    assert all(NODES not in one.content for one in below.sent)


def test_the_plan_of_the_round_is_seen_in_its_order() -> None:
    plans = Plans([14, 11, 12])
    grid, _ = grid_of(plans, number=7)
    assert grid.get_node_ids() == [14, 11, 12]
    assert plans.rounds == [(7, set(NODES_ONLINE))]


def test_a_strategy_samples_from_the_plan_only() -> None:
    grid, _ = grid_of(Plans([11, 13, 15]))
    strategy = FedAvg(min_train_nodes=3, min_available_nodes=3, min_evaluate_nodes=3)
    for configure in (strategy.configure_train, strategy.configure_evaluate):
        asked = configure(1, ArrayRecord(), ConfigRecord(), grid)
        assert sorted(one.metadata.dst_node_id for one in asked) == [11, 13, 15]


def test_train_and_evaluate_messages_carry_the_plans_version_the_same_to_all() -> None:
    for kind in ("train", "evaluate", "train.more"):
        plans = Plans([11, 12])
        grid, below = grid_of(plans)
        grid.get_node_ids()
        assert len(ask(grid, [11, 12], kind)) == 2
        assert [dict(one.content[NODES]) for one in below.sent] == [{"version": 3}] * 2  # type: ignore[arg-type]
        assert plans.told == [(kind.split(".")[0], [11, 12])]


def test_who_is_not_in_the_plan_is_not_asked_whatever_a_strategy_remembers() -> None:
    plans = Plans([11, 12])
    grid, below = grid_of(plans)
    grid.get_node_ids()
    replies = ask(grid, [11, 13, 12])
    assert [one.metadata.dst_node_id for one in below.sent] == [11, 12]
    (refused,) = [reply for reply in replies if reply.has_error()]
    assert refused.metadata.src_node_id == 13 and "does not name" in str(refused.error.reason)
    assert plans.told == [("train", [11, 12])]


def test_other_messages_pass_as_they_are() -> None:
    plans = Plans([11])
    grid, below = grid_of(plans)
    assert len(ask(grid, [11, 13], "query.prepare")) == 2 and ask(grid, [], "train") == []
    assert all(NODES not in one.content for one in below.sent) and plans.told == []
