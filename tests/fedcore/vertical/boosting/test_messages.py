"""What goes over the wire while trees grow: one message of each kind for a level, and nothing that says too much."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedcore.vertical.boosting.encrypted import Asker
from fedcore.vertical.boosting.label_holder import grow_label_holder
from fedcore.vertical.boosting.partner import grow_partner
from tests.fedcore.vertical.boosting.forest import Columns, Counted, labels, settings, table, widths
from tests.fedcore.vertical.two_parties import meet, ok

COLUMNS, SCORE = table(rows=2000)


def traffic(own: Columns, partners: list[Columns], y: Any, **changed: Any) -> list[Counted]:
    kept: dict[int, Counted] = {}
    chosen = settings(**changed)

    def role(number: int) -> Any:
        def run(channel: Any) -> Any:
            kept[number] = Counted(channel)
            return grow_partner(kept[number], partners[number], widths(partners[number]), chosen)

        return run

    holder, others = meet(
        lambda channels: grow_label_holder(channels, own, widths(own), y, chosen, 0),
        {f"partner {number}": role(number) for number in range(len(partners))},
    )
    ok(holder)
    for each in others.values():
        ok(each)
    return [kept[number] for number in range(len(partners))]


def count(messages: list[tuple[str, int]], step: str) -> int:
    return sum(name == step for name, _ in messages)


def test_all_nodes_and_classes_of_a_level_share_one_message_of_each_kind() -> None:
    y = labels("multiclass", SCORE)
    (seen,) = traffic(COLUMNS[:2], [COLUMNS[2:]], y, loss="multiclass", trees=2, depth=3)
    levels = 2 * 3
    for step in ("boost.counts", "boost.places"):
        assert count(seen.sent, step) == levels
    assert count(seen.heard, "boost.choice") == levels
    assert count(seen.sent, "boost.split") <= levels
    assert count(seen.heard, "boost.told") <= levels


def test_a_partner_hears_nothing_of_the_label_holders_own_rounds() -> None:
    y = labels("binary", SCORE)
    (seen,) = traffic(COLUMNS[:2], [COLUMNS[2:]], y, trees=3, own_first=3)
    assert [step for step, _ in seen.heard] == ["hello", "boost.classes", "boost.key"]
    assert [step for step, _ in seen.sent] == ["hello"]


def test_what_a_partner_hears_is_ciphertexts_places_and_sides_of_others() -> None:
    y = labels("binary", SCORE)
    first, second = traffic(COLUMNS[:2], [COLUMNS[2:4], COLUMNS[4:]], y, depth=4)
    for seen in (first, second):
        assert {step for step, _ in seen.heard} <= {
            "hello", "boost.classes", "boost.key", "boost.sums.values", "boost.choice", "boost.told", "boost.relay",
        }  # fmt: skip
        told = [size for step, size in seen.heard if step == "boost.choice"]
        assert max(told) <= 4 * 2**3
        sides = [size for step, size in seen.heard if step in ("boost.told", "boost.relay")]
        assert max(sides) <= len(y) // 8 + 2**3
    assert count(first.heard, "boost.relay") + count(second.heard, "boost.relay") > 0


def test_only_the_smaller_of_siblings_is_encrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    # One split in three tenths and seven: the second level encrypts the three.
    rows = 4000
    own = [(np.arange(rows) % 10 < 3).astype(np.uint8)]
    other = [(np.arange(rows) // 7 % 7).astype(np.uint8)]
    y = own[0] * 10.0 + other[0] * 0.1
    sent: list[int] = []

    ask = Asker.ask

    def watched(self: Asker, nodes: Any, values: Any, counts: Any) -> Any:
        sent.append(sum(len(node.chosen) for node in nodes))
        return ask(self, nodes, values, counts)

    monkeypatch.setattr(Asker, "ask", watched)
    traffic(own, [other], y, loss="regression", trees=1, depth=2)
    assert sent == [4000, 1200]
