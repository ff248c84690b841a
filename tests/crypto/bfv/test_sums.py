"""Grouped sums: what plain Python adds up, for any layout; refused where it would not be right or would tell more."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.bfv import encryption, keys, noise, packing, sums
from crypto.bfv.parameters import LAMBDA
from crypto.bfv.ring import LARGE, SMALL
from crypto.errors import ProtocolError
from tests.crypto.memory_channel import End, both, ends, run


@functools.cache
def key() -> keys.SecretKey:
    return keys.new_keys(SMALL)


class Case:
    """Rows of two parties; what both know, and the sums as plain Python makes them."""

    def __init__(
        self, sizes: list[int], bins: list[int], columns: int, largest: int, seed: int = 0, empty: float = 0.1
    ) -> None:
        generator = np.random.default_rng(seed)
        n = sum(sizes)
        self.sizes = sizes
        self.values = generator.integers(-largest, largest, (n, columns), endpoint=True)
        self.codes = [generator.integers(0, count, n).astype(np.uint16) for count in bins]
        places = [(f, b) for f, count in enumerate(bins) for b in range(count)]
        self.cells = len(places)
        self.places = np.array([generator.permutation(places) for _ in sizes], dtype=np.int32).reshape(
            -1, self.cells, 2
        )
        self.places[generator.random(self.places.shape[:2]) < empty] = -1
        self.limit = max(1, max(sizes, default=1) * largest)

    def wanted(self, *, cumulative: bool = False) -> list[Any]:
        out, first = [], 0
        for size, places in zip(self.sizes, self.places.tolist(), strict=True):
            rows = range(first, first + size)
            first += size
            cells = []
            for feature, code in places:
                inside = [
                    row
                    for row in rows
                    if feature >= 0
                    and (self.codes[feature][row] == code or (cumulative and self.codes[feature][row] < code))
                ]
                cells.append(
                    [sum(int(self.values[row, c]) for row in inside) for c in range(self.values.shape[1])]
                )
            out.append(cells)
        return out

    def receive(self, end: End, **changes: Any) -> Any:
        given_ = {
            "values": self.values,
            "sizes": self.sizes,
            "cells": self.cells,
            "limit": self.limit,
        } | changes
        return sums.sums_receive(
            end, changes.pop("secret", key()), **{k: v for k, v in given_.items() if k != "secret"}
        )

    def send(self, end: End, **changes: Any) -> None:
        given_ = {
            "public": key().public,
            "codes": self.codes,
            "sizes": self.sizes,
            "places": self.places,
            "k": self.values.shape[1],
            "limit": self.limit,
        }
        sums.sums_send(end, **(given_ | changes))


@settings(deadline=None, max_examples=12)
@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=5),
    bins=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    columns=st.integers(1, 4),
    largest=st.sampled_from([0, 1, 7, 2**10, 2**24]),
    cumulative=st.booleans(),
    seed=st.integers(0, 2**30),
)
def test_sums_of_every_group_and_cell_are_exact(
    sizes: list[int], bins: list[int], columns: int, largest: int, cumulative: bool, seed: int
) -> None:
    case = Case(sizes, bins, columns, largest, seed)
    made, _ = both(case.receive, functools.partial(case.send, cumulative=cumulative))
    assert made.dtype == np.int64
    assert made.tolist() == case.wanted(cumulative=cumulative)


@pytest.mark.parametrize(
    ("sizes", "bins", "columns", "largest"),
    [
        ([3000], [3, 2], 1, 1),  # long blocks, several of them
        (
            [700, 0, 1500, 40],
            [30] * 12,
            2,
            100,
        ),  # groups that begin and end inside blocks; two columns in one
        ([700, 1500], [8] * 12, 2, 2**20),  # two columns that do not fit into one
        ([9000], [200] * 4, 1, 2**10),  # more than one message of values
    ],
)
def test_sums_over_many_blocks_are_exact(
    sizes: list[int], bins: list[int], columns: int, largest: int
) -> None:
    case = Case(sizes, bins, columns, largest)
    made, _ = both(case.receive, case.send)
    first = 0
    for g, size in enumerate(sizes):
        for c, (feature, code) in enumerate(case.places[g].tolist()):
            chosen = (
                case.codes[feature][first : first + size] == code if feature >= 0 else np.zeros(size, bool)
            )
            assert made[g, c].tolist() == case.values[first : first + size][chosen].sum(axis=0).tolist()
        first += size


def test_the_largest_sums_do_not_overflow() -> None:
    for sign in (1, -1):
        case = Case([50, 50], [1, 1], 2, 1, empty=0)
        case.limit = sums.packed_limit(50, 2)
        case.values = np.zeros((100, 2), dtype=np.int64)
        case.values[0], case.values[50], case.values[51] = sign * case.limit, -sign * (case.limit - 1), -sign
        made, _ = both(case.receive, case.send)
        assert sums.plan(case.sizes, case.cells, 2, case.limit).pieces == 1
        assert made.tolist() == [[[sign * case.limit] * 2] * 2, [[-sign * case.limit] * 2] * 2]


def test_a_key_pair_serves_again_and_nothing_of_the_first_time_comes_twice() -> None:
    case = Case([40], [5], 1, 10)
    left, right = ends()
    sent: list[bytes] = []
    left.spoil = right.spoil = lambda step, data: sent.append(data) or data
    for _ in range(2):
        made, _ = run(case.receive, left, case.send, right)
        assert made.tolist() == case.wanted()
    assert len({bytes(each[100:]) for each in sent}) == len(sent) == 4


def test_messages_are_as_long_as_the_plan_says_and_no_longer() -> None:
    case = Case([700, 0, 1500, 40], [30] * 12, 2, 100)
    left, right = ends()
    run(case.receive, left, case.send, right)
    made = sums.plan(case.sizes, case.cells, 2, case.limit)
    assert made.pieces == 1
    assert (sum(size for _, size in left.sent), sum(size for _, size in right.sent)) == made.bytes
    assert len(right.sent) == 3
    assert {step for step, _ in left.sent + right.sent} == {"sums.values", "sums.answers"}


def test_no_layout_with_other_blocks_needs_fewer_bytes() -> None:
    made = sums.plan([1875] * 16, 448, 2, 2**20 - 1)
    for across in range(1, 200):
        other = sums.Plan(made.sizes, 448, 2, made.width, made.fields, across)
        assert not other.fits or sum(other.bytes) >= sum(made.bytes)


def test_smudging_hides_the_noise_of_every_plan() -> None:
    for rows in (1, 1000, 30_000, 10**6):
        for cells in (1, 50, 450, 5000):
            for columns in (1, 2):
                limit = sums.packed_limit(rows, columns, cells)
                made = sums.plan([rows], cells, columns, limit)
                assert made.fields == columns or rows == 1
                assert noise.distance(SMALL, made.t, made.spread, made.sent) <= 2.0**-LAMBDA
                assert made.t > 2 * limit


def test_answers_show_smudging_and_not_the_noise_of_the_rows() -> None:
    """What the label holder sees beside the sums is spread over the whole width, whichever rows made them."""
    case = Case([300], [40], 1, 1, empty=0)
    case.values[:] = 0
    made = sums.plan(case.sizes, case.cells, 1, case.limit)
    held: list[bytes] = []
    left, right = ends()
    right.spoil = lambda step, data: held.append(data) or data
    run(case.receive, left, case.send, right)
    raw = held[0]
    kept, dropped = SMALL.fewer(1), noise.dropped_bits(SMALL, made.t)
    body = memoryview(raw)[len(raw) - _body(made) :]
    width, count = 53 - dropped, made.chunks
    second = packing.unpacked(body, count * SMALL.size, width).reshape(count, 1, -1) << np.uint64(dropped)
    first = packing.unpacked(
        body[packing.packed_bytes(count * SMALL.size, width) :], count * made.across, width
    )
    kept.forward(second)
    opened = np.zeros_like(second)
    kept.multiply_add(opened, second, np.ascontiguousarray(key().factor[:1]))
    kept.inverse(opened)
    chosen = opened[:, 0, made.positions].reshape(-1) + (first << np.uint64(dropped))
    fractions = [
        ((int(value) + kept.q // 2) % kept.q - kept.q // 2) * 4 * made.t / kept.q for value in chosen
    ]
    assert 0.2 < np.std(fractions) < 1.0  # uniform within a factor of two of the width: 0.29 to 0.58
    assert len({round(each, 6) for each in fractions}) > len(fractions) / 2


def _body(made: sums.Plan) -> int:
    whole = encryption.answer_bytes(SMALL, made.t, made.chunks * made.pieces, made.across)
    return whole - 36


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_values_beyond_the_limit_are_refused_before_anything_is_sent() -> None:
    case = Case([50], [3], 1, 10)
    left, _ = ends()
    with pytest.raises(
        ValueError, match=r"group 0 has values that add up to \d+ in size, beyond the limit of 20"
    ):
        case.receive(left, limit=20)
    with pytest.raises(ValueError, match=r"group 0 has a value of 10, beyond the limit of 9"):
        case.receive(left, limit=9)
    assert left.sent == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"values": np.zeros((49, 1), dtype=np.int64)}, "for 50 rows"),
        ({"values": np.zeros((50, 1))}, "int64"),
        ({"values": np.zeros(50, dtype=np.int64)}, "int64"),
        ({"cells": 0}, "are from 1"),
        ({"limit": 0}, "are from 1"),
        ({"sizes": [60, -10]}, "sizes from 0"),
        ({"limit": 2**50}, "take fewer fractional bits"),
    ],
)
def test_what_does_not_fit_together_is_refused_at_the_label_holder(
    changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        Case([50], [3], 1, 10).receive(ends()[0], **changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"codes": [np.zeros(49, dtype=np.uint16)]}, "one for each row"),
        ({"codes": [np.zeros(50, dtype=np.int64)]}, "uint16"),
        ({"places": np.zeros((1, 3, 2), dtype=np.int64)}, "int32"),
        ({"places": np.zeros((2, 3, 2), dtype=np.int32)}, "is needed"),
        ({"places": np.full((1, 3, 2), 1, dtype=np.int32)}, "not among the 1"),
        ({"places": np.full((1, 3, 2), -2, dtype=np.int32)}, "not among the 1"),
        ({"limit": 2**50}, "take fewer fractional bits"),
    ],
)
def test_what_does_not_fit_together_is_refused_at_the_partner(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Case([50], [3], 1, 10).send(ends()[1], **changes)


def test_a_key_of_the_large_ring_is_refused() -> None:
    large = keys.new_keys(LARGE)
    case = Case([50], [3], 1, 10)
    with pytest.raises(ValueError, match="small ring"):
        case.receive(ends()[0], secret=large)
    with pytest.raises(ValueError, match="small ring"):
        case.send(ends()[1], public=large.public)


def spoilt(change: Any, *, answers: bool, limit: int = 2**32, **changes: Any) -> None:
    case = Case([200], [30] * 5, 1, 10)
    case.limit = limit
    left, right = ends()
    (right if answers else left).spoil = lambda step, data: change(data)
    run(case.receive, left, functools.partial(case.send, **changes), right)


@pytest.mark.parametrize("answers", [False, True])
def test_a_message_that_is_too_short_or_too_long_is_refused(answers: bool) -> None:
    for change in (lambda data: data[:-1], lambda data: data + b"\0", lambda data: b""):
        with pytest.raises(ProtocolError, match="bytes came"):
            spoilt(change, answers=answers)


@pytest.mark.parametrize("answers", [False, True])
def test_a_residue_that_is_not_below_its_prime_is_refused(answers: bool) -> None:
    with pytest.raises(ProtocolError, match="not below its prime"):
        spoilt(lambda data: data[:60] + b"\xff" * 100 + data[160:], answers=answers)


@pytest.mark.parametrize("answers", [False, True])
def test_a_message_under_another_key_is_refused(answers: bool) -> None:
    with pytest.raises(ProtocolError, match="under another key"):
        spoilt(lambda data: data[:8] + bytes(16) + data[24:], answers=answers)


def test_a_damaged_answer_is_refused() -> None:
    with pytest.raises(ProtocolError, match="does not open"):
        spoilt(
            lambda data: data[:2000] + bytes(0x5A ^ each for each in data[2000:2100]) + data[2100:],
            answers=True,
        )


def test_parties_that_do_not_agree_on_the_limit_notice() -> None:
    case = Case([200], [30] * 5, 1, 10)
    with pytest.raises(ProtocolError, match=r"polynomials modulo|bytes came"):
        both(case.receive, functools.partial(case.send, limit=2**30))


def test_parties_that_do_not_agree_on_the_columns_notice() -> None:
    with pytest.raises(ProtocolError, match=r"polynomials modulo|bytes came"):
        spoilt(lambda data: data, answers=False, k=2)
