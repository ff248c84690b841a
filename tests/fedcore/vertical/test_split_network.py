"""A split network learns what neither side could alone, keeps its halves apart, and refuses what does not fit."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neural_network import MLPClassifier

from crypto.errors import ProtocolError
from fedcore.errors import DataError, PeerLost
from fedcore.vertical import split_messages
from fedcore.vertical.split_network import (
    SplitPart,
    fit_label_holder,
    fit_partner,
    predict_label_holder,
    predict_partner,
)
from tests.fedcore.vertical.splitting import (
    BANK,
    LABEL,
    ROWS,
    SHOP,
    TELECOM,
    TRAIN,
    settings,
    together,
    trained,
)


def auc_of(parts: list[Any], *others: Any, bank: Any = BANK) -> float:
    test = slice(TRAIN, None)
    found = together(
        lambda channels: predict_label_holder(channels, parts[0], bank[test]),
        *(
            lambda channel, part=part, x=x: predict_partner(channel, part, x[test])
            for part, x in zip(parts[1:], others, strict=True)
        ),
    )
    return float(roc_auc_score(LABEL[test], found[0]))


def sklearn_auc(model: Any, *columns: Any) -> float:
    x = np.hstack(columns)
    x = (x - x.mean(0)) / x.std(0)
    model.fit(x[:TRAIN], LABEL[:TRAIN])
    return float(roc_auc_score(LABEL[TRAIN:], model.predict_proba(x[TRAIN:])[:, 1]))


def test_it_learns_what_is_in_both_parties_columns_together_as_well_as_a_pooled_network() -> None:
    parts = trained(TELECOM)
    joint = auc_of(parts, TELECOM)
    pooled = sklearn_auc(
        MLPClassifier((32, 16), max_iter=15, random_state=0, learning_rate_init=0.01), BANK, TELECOM
    )
    assert joint > pooled - 0.03
    # The product of a column of each is the larger half of the signal: a pooled linear model misses it.
    assert joint > sklearn_auc(LogisticRegression(), BANK, TELECOM) + 0.02
    assert joint > sklearn_auc(MLPClassifier((32, 16), max_iter=15, random_state=0), BANK) + 0.05


@pytest.mark.parametrize("protect", ["max-norm", "noise"])
def test_it_still_learns_under_protection(protect: str) -> None:
    assert auc_of(trained(TELECOM, protect=protect), TELECOM) > sklearn_auc(LogisticRegression(), BANK) + 0.05


def test_a_second_partner_adds_its_signal() -> None:
    two, one = (trained(*others, epochs=16) for others in ((TELECOM, SHOP), (TELECOM,)))
    assert two[0].partners == 2
    assert auc_of(two, TELECOM, SHOP) > auc_of(one, TELECOM) + 0.03
    assert {(leak.attack, leak.partner) for leak in two[0].leaks} == {
        (attack, partner) for attack in ("norm", "direction") for partner in (-1, 0, 1)
    }


def test_a_label_holder_without_columns_of_its_own_can_train() -> None:
    none = np.zeros((ROWS, 0))
    assert auc_of(trained(TELECOM, bank=none), TELECOM, bank=none) > 0.55


def test_halves_are_the_same_after_they_were_kept(tmp_path: Any) -> None:
    parts = trained(TELECOM, epochs=1)
    for number, part in enumerate(parts):
        part.save(tmp_path / str(number))
    kept = [SplitPart.load(tmp_path / str(number)) for number in range(2)]
    assert auc_of(kept, TELECOM) == auc_of(parts, TELECOM)
    assert kept[0].leaks == parts[0].leaks
    assert kept[0].losses == parts[0].losses
    # A partner's half holds nothing of the label holder's.
    assert not kept[1].losses
    assert not any(name.startswith("top") for name in kept[1].weights)


def test_a_kept_half_that_was_changed_is_refused(tmp_path: Any) -> None:
    part = trained(TELECOM, epochs=1)[1]
    part.save(tmp_path)
    told = json.loads((tmp_path / "split.json").read_text())
    for changed in ({**told, "version": 2}, {**told, "role": "coordinator"}, {**told, "settings": {}}, []):
        (tmp_path / "split.json").write_text(json.dumps(changed))
        with pytest.raises(DataError, match="load the folder"):
            SplitPart.load(tmp_path)
    (tmp_path / "split.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(DataError, match="cannot be read"):
        SplitPart.load(tmp_path)


def test_halves_of_different_trainings_do_not_predict() -> None:
    one, two = trained(TELECOM, epochs=1), trained(TELECOM, epochs=1)
    found = together(
        lambda channels: predict_label_holder(channels, one[0], BANK),
        lambda channel: predict_partner(channel, two[1], TELECOM),
    )
    assert any(isinstance(each, ProtocolError) and "not trained together" in str(each) for each in found)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_at_the_party_that_has_them(wrong: float) -> None:
    bad = TELECOM.copy()
    bad[7, 1] = wrong
    holder, partner = trained(bad)
    assert isinstance(partner, DataError)
    assert "column 2 of 3" in str(partner)
    assert isinstance(holder, PeerLost)
    holder, partner = trained(TELECOM, bank=np.where(np.arange(ROWS)[:, None] == 7, wrong, BANK))
    assert isinstance(holder, DataError)
    assert isinstance(partner, PeerLost)


@pytest.mark.parametrize(
    ("label", "said"),
    [(np.zeros(ROWS), "every label is 0"), (LABEL + 1, "0 or 1"), (LABEL[:-1], "labels of shape")],
)
def test_labels_that_cannot_serve_are_refused(label: Any, said: str) -> None:
    found = together(
        lambda channels: fit_label_holder(channels, BANK, label, settings(), 1),
        lambda channel: fit_partner(channel, TELECOM, settings(), 1),
    )
    assert isinstance(found[0], DataError)
    assert said in str(found[0])


@pytest.mark.parametrize(
    ("changed", "said"), [({"bottom": (32, 4)}, "option bottom"), ({"protect": "noise"}, "option protect")]
)
def test_other_settings_at_the_partner_are_refused_in_the_handshake(changed: Any, said: str) -> None:
    found = together(
        lambda channels: fit_label_holder(channels, BANK, LABEL, settings(), 1),
        lambda channel: fit_partner(channel, TELECOM, settings(**changed), 1),
    )
    assert any(isinstance(each, ProtocolError) and said in str(each) for each in found)


def test_another_number_of_rows_at_the_partner_is_refused_in_the_handshake() -> None:
    found = together(
        lambda channels: fit_label_holder(channels, BANK, LABEL, settings(), 1),
        lambda channel: fit_partner(channel, TELECOM[:-1], settings(), 1),
    )
    assert any(isinstance(each, ProtocolError) and "option rows" in str(each) for each in found)


def test_a_partner_killed_within_an_epoch_is_a_lost_peer() -> None:
    chosen = settings()

    def dies(channel: Any) -> None:
        split_messages.agree(channel, "partner", chosen, ROWS)
        order = split_messages.order_seed_partner(channel)
        rows = split_messages.batches(order, 0, ROWS, chosen.batch)[0]
        split_messages.send_floats(channel, "split.forward", np.zeros((len(rows), 8), np.float32))
        channel.recv("split.backward", size=len(rows) * 8 * 4)
        channel.abort()

    holder, _ = together(lambda channels: fit_label_holder(channels, BANK, LABEL, chosen, 1), dies)
    assert isinstance(holder, PeerLost)


@pytest.mark.parametrize("width", [7, 9])
def test_activations_of_another_width_are_refused(width: int) -> None:
    chosen = settings()

    def lies(channel: Any) -> None:
        split_messages.agree(channel, "partner", chosen, ROWS)
        rows = split_messages.batches(split_messages.order_seed_partner(channel), 0, ROWS, chosen.batch)[0]
        split_messages.send_floats(channel, "split.forward", np.zeros((len(rows), width), np.float32))

    holder, _ = together(lambda channels: fit_label_holder(channels, BANK, LABEL, chosen, 1), lies)
    assert isinstance(holder, ProtocolError)
    assert "bytes" in str(holder)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_activations_that_are_not_finite_are_refused(wrong: float) -> None:
    chosen = settings()

    def lies(channel: Any) -> None:
        split_messages.agree(channel, "partner", chosen, ROWS)
        rows = split_messages.batches(split_messages.order_seed_partner(channel), 0, ROWS, chosen.batch)[0]
        split_messages.send_floats(channel, "split.forward", np.full((len(rows), 8), wrong, np.float32))

    holder, _ = together(lambda channels: fit_label_holder(channels, BANK, LABEL, chosen, 1), lies)
    assert isinstance(holder, ProtocolError)
    assert "not finite" in str(holder)


def test_a_label_holder_that_opens_another_contribution_to_the_order_is_refused() -> None:
    def lies(channels: list[Any]) -> None:
        channels[0].send("split.commit", b"c" * 32)
        theirs = bytes(channels[0].recv("split.nonce", size=32))
        channels[0].send("split.open", b"o" * 32 + theirs)

    _, partner = together(lies, split_messages.order_seed_partner)
    assert isinstance(partner, ProtocolError)
    assert "committed" in str(partner)


def test_an_order_that_leaves_out_the_partners_contribution_is_refused() -> None:
    def lies(channels: list[Any]) -> None:
        import hashlib

        own = b"o" * 32
        channels[0].send("split.commit", hashlib.sha256(own).digest())
        channels[0].recv("split.nonce", size=32)
        channels[0].send("split.open", own + b"x" * 32)

    _, partner = together(lies, split_messages.order_seed_partner)
    assert isinstance(partner, ProtocolError)
    assert "leaves out" in str(partner)


def test_all_parties_have_the_same_order_and_every_row_once_an_epoch() -> None:
    seeds = together(
        split_messages.order_seed_holder,
        split_messages.order_seed_partner,
        split_messages.order_seed_partner,
    )
    assert seeds[0] == seeds[1] == seeds[2]
    of_epoch = split_messages.batches(seeds[0], 0, 1001, 100)
    assert sorted(np.concatenate(of_epoch)) == list(range(1001))
    assert {len(each) for each in of_epoch} == {91}
    assert not np.array_equal(of_epoch[0], split_messages.batches(seeds[0], 1, 1001, 100)[0])
