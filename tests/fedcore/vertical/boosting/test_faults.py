"""What does not fit, is damaged or goes away ends the run with an error that says so, at either side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from crypto.errors import ProtocolError
from fedcore.errors import DataError, PeerLost
from fedcore.vertical.boosting.candidates import IN_LARGE, IN_SMALL
from fedcore.vertical.boosting.histograms import binned
from fedcore.vertical.boosting.label_holder import grow_label_holder
from fedcore.vertical.boosting.messages import LEAF, TOLD
from fedcore.vertical.boosting.partner import grow_partner
from fedcore.vertical.boosting.predict import STEP
from tests.fedcore.vertical.boosting.forest import (
    BINS,
    grow,
    grown,
    labels,
    predicted,
    settings,
    table,
    widths,
)
from tests.fedcore.vertical.two_parties import meet

COLUMNS, SCORE = table(rows=300)
Y = labels("binary", SCORE)
OWN, PARTNER = COLUMNS[4:], COLUMNS[:4]
"""The partner wins the first split, so that its first message has all 300 rows."""


class Between:
    """A channel on which messages of a step are changed on their way out or in."""

    def __init__(
        self, channel: Any, step: str, change: Callable[[bytearray], Any], *, incoming: bool = False
    ) -> None:
        self._channel, self._step, self._change, self._incoming = channel, step, change, incoming
        self.changed = 0

    def _changed(self, step: str, data: Any, wanted: bool) -> Any:
        if step != self._step or not wanted:
            return data
        self.changed += 1
        held = bytearray(memoryview(data).cast("B"))
        found = self._change(held)
        return held if found is None else found

    def send(self, step: str, data: Any) -> None:
        self._channel.send(step, self._changed(step, data, not self._incoming))

    def recv(self, step: str, **allowed: Any) -> Any:
        data = self._channel.recv(step, **allowed)
        return memoryview(self._changed(step, data, self._incoming))


def flipped(at: int, bit: int = 0x80) -> Callable[[bytearray], None]:
    def flip(data: bytearray) -> None:
        data[at] ^= bit

    return flip


def faulty(step: str, change: Callable[[bytearray], Any], **options: Any) -> tuple[Any, Any]:
    held: list[Between] = []

    def wrap(channel: Any) -> Between:
        held.append(Between(channel, step, change, **options))
        return held[0]

    holder, (partner,) = grow(OWN, [PARTNER], Y, settings(), wrap=wrap)
    assert held[0].changed, "the message that the test is about was never sent"
    return holder, partner


@pytest.mark.parametrize("y", [np.ones(300), np.full(300, np.nan), Y * 2])
def test_labels_that_cannot_serve_are_refused_before_a_partner_hears_of_it(y: Any) -> None:
    class Silent:
        def send(self, step: str, data: Any) -> None:
            raise AssertionError(step)

    with pytest.raises(DataError, match="label"):
        grow_label_holder([Silent()], OWN, widths(OWN), y, settings(), 0)  # type: ignore[list-item]


def test_a_min_leaf_that_leaves_no_split_is_refused_at_both_sides() -> None:
    holder, (partner,) = grow(OWN, [PARTNER], Y, settings(min_leaf=151))
    for error in (holder, partner):
        assert isinstance(error, DataError)
        assert "min_leaf is 151, and a tree sees 300 rows" in error.message
        assert "At most 150" in error.message
    holder, _ = grow(OWN, [PARTNER], Y, settings(min_leaf=40, goss=(0.1, 0.1)))
    assert "a tree sees 60 rows" in holder.message


@pytest.mark.parametrize(
    ("columns", "bins", "told"),
    [
        ([np.array([0, 1, 7])], [7], "codes from 0 to 7 where 7 bins were told"),
        ([np.array([0, -1, 2])], [7], "codes from -1 to 2"),
        ([np.array([0.0, 1.0])], [7], "whole numbers"),
        ([np.array([0, 1]), np.array([0, 1, 1])], [7, 7], "column 1 has shape"),
        ([np.array([0, 1])], [7, 7], "bins of 2"),
        ([np.array([0, 1])], [0], "0 bins"),
        ([np.array([0, 1])], [1 << 17], "131072 bins"),
        ([], [], "at least one"),
    ],
)
def test_codes_that_are_not_those_of_the_bins_are_refused(columns: Any, bins: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        binned(columns, bins)


def test_a_partner_with_more_bins_than_told_sends_nothing() -> None:
    with pytest.raises(DataError, match="3 bins were told"):
        grow_partner(None, PARTNER, [3] * len(PARTNER), settings())  # type: ignore[arg-type]


def test_settings_or_rows_that_differ_are_named_at_both_sides() -> None:
    def sides(columns: Any, **changed: Any) -> list[Any]:
        holder, others = meet(
            lambda channels: grow_label_holder(channels, OWN, widths(OWN), Y, settings(), 0),
            {"telecom": lambda channel: grow_partner(channel, columns, widths(columns), settings(**changed))},
        )
        return [holder, others["telecom"]]

    for error in sides(PARTNER, min_bin=7):
        assert isinstance(error, ProtocolError)
        assert "min_bin" in error.message and "7" in error.message and "5" in error.message
    for error in sides([each[:299] for each in PARTNER]):
        assert isinstance(error, ProtocolError)
        assert "rows" in error.message and "299" in error.message and "match them again" in error.message


@pytest.mark.parametrize("step", ["boost.counts", "boost.split", "boost.places"])
def test_a_partner_that_is_killed_inside_a_tree_is_lost_at_the_label_holder(step: str) -> None:
    class Killed(Exception):
        pass

    def kill(data: bytearray) -> None:
        raise Killed

    holder, partner = faulty(step, kill)
    assert isinstance(holder, PeerLost)
    assert isinstance(partner, Killed)


def test_a_label_holder_that_is_killed_is_lost_at_the_partner() -> None:
    class Killed(Exception):
        pass

    def stop(phase: str, done: int, of: int) -> None:
        raise Killed

    holder, others = meet(
        lambda channels: grow_label_holder(channels, OWN, widths(OWN), Y, settings(), 0, stop),
        {"telecom": lambda channel: grow_partner(channel, PARTNER, widths(PARTNER), settings())},
    )
    assert isinstance(holder, Killed)
    assert isinstance(others["telecom"], PeerLost)


def test_one_of_two_partners_that_is_killed_ends_the_run_for_all() -> None:
    class Killed(Exception):
        pass

    def kill(data: bytearray) -> None:
        raise Killed

    holder, (first, second) = grow(
        OWN,
        [PARTNER[:2], PARTNER[2:]],
        Y,
        settings(),
        wrap=lambda channel: Between(channel, "boost.places", kill),
    )
    assert isinstance(second, Killed)
    assert isinstance(holder, PeerLost)
    assert isinstance(first, PeerLost)


# The first 8 bytes are a name, which may be anything. 300 rows leave the last 4 bits of their 38 bytes.
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (flipped(8), "do not have the sums of the split"),
        (flipped(20, 0x04), "do not have the sums of the split"),
        (flipped(8 + 37, 0x01), "beyond the last row"),
        (lambda data: bytes(data[:-1]), "boost.split"),
        (lambda data: bytes(data) + b"\0", "boost.split"),
    ],
)
def test_tampered_sides_are_refused(change: Any, told: str) -> None:
    holder, partner = faulty("boost.split", change)
    assert isinstance(holder, ProtocolError)
    assert told in str(holder)
    assert isinstance(partner, PeerLost)


@pytest.mark.parametrize("column", [0, 1])
def test_sides_of_another_split_than_the_one_asked_for_are_refused(
    column: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedcore.vertical.boosting import messages

    send = messages.send_splits

    def lie(channel: Any, names: Any, sides: Any) -> None:
        send(channel, names, [PARTNER[column] <= 1])

    monkeypatch.setattr(messages, "send_splits", lie)
    y = labels("regression", PARTNER[3] * 1.0)
    holder, _ = grow(OWN, [PARTNER], y, settings(loss="regression", depth=1, trees=1))
    assert isinstance(holder, ProtocolError)
    assert "sums of the split" in holder.message


@pytest.mark.parametrize(
    ("step", "change", "told"),
    [
        ("boost.counts", lambda data: b"\xff\xff\xff\x7f", "places came for a node"),
        ("boost.counts", lambda data: bytes(data) + b"\0", "boost.counts"),
        ("boost.places", lambda data: bytes(data[:-1]) + b"\x02", "none but 1"),
        ("boost.places", lambda data: bytes(data[:-1]), "boost.places"),
    ],
)
def test_damaged_places_are_refused(step: str, change: Any, told: str) -> None:
    holder, _ = faulty(step, change)
    assert isinstance(holder, ProtocolError)
    assert told in str(holder)


def test_places_of_a_pair_must_be_different_places_of_the_parent() -> None:
    def same_twice(data: bytearray) -> None:
        if data[0:4] != b"\0\0\0\0" or data[4:8] != b"\0\0\0\0":
            data[4:8] = data[0:4]

    def beyond(data: bytearray) -> None:
        if data[0:4] != b"\0\0\0\0" or data[4:8] != b"\0\0\0\0":
            data[0:4] = b"\xff\xff\0\0"

    for change, told in ((same_twice, "the same one"), (beyond, "did not have")):
        holder, _ = faulty("boost.places", change)
        assert isinstance(holder, ProtocolError)
        assert told in holder.message


def test_a_damaged_ciphertext_or_answer_is_refused() -> None:
    holder, partner = faulty(
        "boost.sums.values", lambda data: data.__setitem__(slice(-8, None), b"\xff" * 8), incoming=True
    )
    assert isinstance(partner, ProtocolError)
    assert isinstance(holder, PeerLost)
    holder, partner = faulty(
        "boost.sums.answers", lambda data: data.__setitem__(slice(-400, None), b"\x5a" * 400)
    )
    assert isinstance(holder, ProtocolError)


def chosen(place: int) -> Callable[[bytearray], bytes]:
    return lambda data: place.to_bytes(4, "little", signed=True) + bytes(data[4:])


@pytest.mark.parametrize("place", [1 << 20, -4])
def test_a_partner_refuses_a_place_that_is_none(place: int) -> None:
    _, partner = faulty("boost.choice", chosen(place), incoming=True)
    assert isinstance(partner, ProtocolError)
    assert f"place {place}" in partner.message


def test_a_partner_refuses_a_split_that_leaves_too_few_rows() -> None:
    from fedcore.vertical.boosting.messages import recv_choice

    class Asks:
        def recv(self, step: str, **allowed: Any) -> memoryview:
            return memoryview(np.array([1, LEAF], dtype="<i4").tobytes())

    usable = [np.array([True, False]), np.array([True, True])]
    nodes: Any = [None, None]
    with pytest.raises(ProtocolError, match="place 1 is asked for, which has too few rows"):
        recv_choice(Asks(), nodes, usable)  # type: ignore[arg-type]
    assert recv_choice(Asks(), nodes, usable[::-1]).tolist() == [1, LEAF]  # type: ignore[arg-type]
    assert (IN_SMALL | IN_LARGE, TOLD) == (3, -2)


def test_a_partner_refuses_sides_of_others_that_leave_fewer_rows_than_min_leaf() -> None:
    step = "boost.told"
    y = labels("regression", OWN[0] * 1.0)
    held: list[Between] = []

    def wrap(channel: Any) -> Between:
        def few(data: bytearray) -> bytes:
            return bytes([0xF0, *[0] * (len(data) - 1)])

        held.append(Between(channel, step, few, incoming=True))
        return held[0]

    _, (partner,) = grow(OWN, [PARTNER], y, settings(loss="regression"), wrap=wrap)
    assert held[0].changed
    assert isinstance(partner, ProtocolError)
    assert "leaves 4 rows on one side" in partner.message


def test_rows_of_goss_that_are_not_as_many_as_the_job_says_are_refused() -> None:
    held: list[Between] = []

    def wrap(channel: Any) -> Between:
        held.append(Between(channel, "boost.chosen", flipped(3, 0x08), incoming=True))
        return held[0]

    _, (partner,) = grow(OWN, [PARTNER], Y, settings(goss=(0.2, 0.3)), wrap=wrap)
    assert isinstance(partner, ProtocolError)
    assert "where the job's goss gives 150" in partner.message


def test_halves_of_different_trainings_predict_nothing() -> None:
    first, second = grown(OWN, [PARTNER], Y, settings()), grown(OWN, [PARTNER], Y, settings())
    assert not isinstance(predicted(first[0], first[1], OWN, [PARTNER]), Exception)
    error = predicted(first[0], second[1], OWN, [PARTNER])
    assert isinstance(error, ProtocolError)
    assert "are not those that this ensemble was grown with" in error.message


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (flipped(-1, 0x01), "beyond the last row"),
        (flipped(0), "not those that this ensemble"),
        (lambda data: bytes(data[:-1]), STEP),
    ],
)
def test_tampered_predictions_are_refused(change: Any, told: str) -> None:
    from fedcore.vertical.boosting.predict import predict_label_holder, predict_partner

    ensemble, (half,) = grown(OWN, [PARTNER], Y, settings())
    holder, _ = meet(
        lambda channels: predict_label_holder(channels, ensemble, OWN),
        {"telecom": lambda channel: predict_partner(Between(channel, STEP, change), half, PARTNER)},
    )
    assert isinstance(holder, ProtocolError)
    assert told in str(holder)


def test_rows_that_are_not_the_same_number_and_columns_that_are_not_the_ensembles_are_refused() -> None:
    ensemble, halves = grown(OWN, [PARTNER], Y, settings())
    error = predicted(ensemble, halves, [each[:200] for each in OWN], [PARTNER])
    assert isinstance(error, ProtocolError | DataError)
    error = predicted(ensemble, halves, OWN[:1], [PARTNER])
    assert isinstance(error, DataError)
    assert "partners" in predicted(ensemble, [], OWN, []).message
    assert BINS == 7
