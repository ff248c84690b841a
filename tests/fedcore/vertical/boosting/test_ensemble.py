"""The halves of an ensemble keep what is theirs, come back from JSON, and predict in one message."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from fedcore.errors import DataError
from fedcore.vertical.boosting.ensemble import Ensemble, PartnerSplits, fingerprint
from fedcore.vertical.boosting.histograms import binned
from fedcore.vertical.boosting.predict import _sides, predict_label_holder, predict_partner
from tests.fedcore.vertical.boosting.forest import Counted, grown, labels, predicted, settings, table
from tests.fedcore.vertical.two_parties import meet, ok

COLUMNS, SCORE = table(seed=9)
OWN, FIRST, SECOND = COLUMNS[4:], COLUMNS[:2], COLUMNS[2:4]
Y = labels("binary", SCORE)


@pytest.fixture(scope="module")
def trained() -> tuple[Ensemble, list[PartnerSplits]]:
    return grown(OWN, [FIRST, SECOND], Y, settings(depth=4, trees=4))


def test_both_halves_come_back_from_json(trained: Any) -> None:
    ensemble, halves = trained
    back = Ensemble.from_dict(json.loads(json.dumps(ensemble.as_dict())))
    others = [PartnerSplits.from_dict(json.loads(json.dumps(half.as_dict()))) for half in halves]
    assert back == ensemble
    assert others == halves
    first, second = (predicted(e, h, OWN, [FIRST, SECOND]) for e, h in ((ensemble, halves), (back, others)))
    assert (first == second).all()


def test_a_half_that_lacks_a_field_is_refused(trained: Any) -> None:
    told = trained[0].as_dict()
    del told["base"]
    with pytest.raises(DataError, match="base"):
        Ensemble.from_dict(told)


def test_the_label_holder_keeps_no_column_and_no_bin_of_a_partner(trained: Any) -> None:
    ensemble, halves = trained
    foreign = 0
    for trees in ensemble.rounds:
        for tree in trees:
            for owner, column, code in zip(tree.owner, tree.column, tree.code, strict=True):
                if owner > 0:
                    foreign += 1
                    assert (column, code) == (-1, -1)
    assert foreign == sum(len(half.splits) for half in halves) > 4


def test_a_partner_keeps_no_weight_and_prints_no_split(trained: Any) -> None:
    half = trained[1][0]
    assert set(half.splits[0].as_dict()) == {"name", "column", "code", "under", "left"}
    assert repr(half.splits[0]) == "PartnerSplit()"


def test_importance_counts_splits_and_adds_gains(trained: Any) -> None:
    ensemble, halves = trained
    own, partners = ensemble.importance()
    assert {number: splits for number, (splits, _) in partners.items()} == {
        1: len(halves[0].splits),
        2: len(halves[1].splits),
    }
    assert sum(halves[0].importance().values()) == len(halves[0].splits)
    gains = sum(sum(tree.gain) for trees in ensemble.rounds for tree in trees)
    assert sum(gain for _, gain in [*own.values(), *partners.values()]) == pytest.approx(gains)


def test_names_of_splits_are_random_and_different(trained: Any) -> None:
    names = [split.name for half in trained[1] for split in half.splits]
    again = [
        s.name for half in grown(OWN, [FIRST, SECOND], Y, settings(depth=4, trees=4))[1] for s in half.splits
    ]
    assert len({*names, *again}) == 2 * len(names)
    assert fingerprint(names) == fingerprint(reversed(names)) != fingerprint(again)


def test_a_partner_predicts_with_one_message_and_hears_none(trained: Any) -> None:
    ensemble, halves = trained
    kept: list[Counted] = []

    def partner(half: Any, columns: Any) -> Any:
        def role(channel: Any) -> None:
            kept.append(Counted(channel))
            predict_partner(kept[-1], half, columns)

        return role

    margins, _ = meet(
        lambda channels: predict_label_holder(channels, ensemble, OWN),
        {"first": partner(halves[0], FIRST), "second": partner(halves[1], SECOND)},
    )
    assert len(ok(margins)) == len(Y)
    sizes = sorted(16 + len(half.splits) * 88 for half in halves)
    assert sorted(each.sent for each in kept) == [[("boost.sides", size)] for size in sizes]
    assert all(each.heard == [] for each in kept)


def test_bits_tell_nothing_of_splits_that_a_row_cannot_come_to(trained: Any) -> None:
    half = trained[1][0]
    columns = binned(FIRST, half.bins)
    sides = _sides(half, columns, 0, columns.rows)
    under = [(at, split) for at, split in enumerate(half.splits) if split.under >= 0]
    assert under
    for at, split in under:
        above = half.splits[split.under]
        left = columns.codes[above.column] <= above.code
        assert not sides[at][left != split.left].any()


def test_rows_are_predicted_alike_in_any_blocks(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedcore.vertical.boosting import predict

    ensemble, halves = trained
    whole = predicted(ensemble, halves, OWN, [FIRST, SECOND])
    monkeypatch.setattr(predict, "_BLOCK", 64)
    assert (predicted(ensemble, halves, OWN, [FIRST, SECOND]) == whole).all()
    one = predicted(ensemble, halves, [c[:1] for c in OWN], [[c[:1] for c in FIRST], [c[:1] for c in SECOND]])
    assert one == pytest.approx(whole[:1])
    none = predicted(
        ensemble, halves, [c[:0] for c in OWN], [[c[:0] for c in FIRST], [c[:0] for c in SECOND]]
    )
    assert np.shape(none) == (0,)
