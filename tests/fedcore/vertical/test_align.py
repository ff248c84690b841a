"""Agreeing on rows, order and parts, between a label holder and its partners in threads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from crypto.errors import ProtocolError
from fedcore.errors import PeerLost
from fedcore.peer.memory import MemoryChannel
from fedcore.vertical import align
from fedcore.vertical.table import OUT_OF_TIME, TEST, TRAIN

KEY = bytes(range(32))


def items(rows: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).integers(0, 2**63, (rows, 2), dtype=np.uint64)


def together(
    holder: Callable[[Sequence[MemoryChannel]], Any], *partners: Callable[[MemoryChannel], Any]
) -> list[Any]:
    """What each role returns, or raised; the label holder's first."""
    pairs = [MemoryChannel.pair("s", names=("bank-a", f"partner {n}")) for n in range(len(partners))]

    def one(work: Callable[..., Any], *ends: MemoryChannel) -> Any:
        try:
            return work(list(ends)) if work is holder else work(*ends)
        except (ProtocolError, PeerLost) as error:
            for end in ends:
                end.abort()
            return error

    with ThreadPoolExecutor(len(partners) + 1) as pool:
        waiting = [pool.submit(one, holder, *(pair[0] for pair in pairs))]
        waiting += [pool.submit(one, work, pair[1]) for work, pair in zip(partners, pairs, strict=True)]
        return [each.result(20) for each in waiting]


# ---- which rows -----------------------------------------------------------------------------------------------------


def test_one_partner_needs_no_message_to_know_the_common_rows() -> None:
    rows = np.array([5, 2, 9])
    told = together(
        lambda channels: align.tell_common(channels, [rows]),
        lambda channel: align.hear_common(channel, np.array([1, 8, 3]), 1),
    )
    assert told[0].tolist() == [2, 5, 9] and told[1].tolist() == [1, 3, 8]


def test_with_two_partners_each_keeps_the_rows_that_all_three_have() -> None:
    # Own rows of the label holder by match with each partner, and the partners' rows of the same matches.
    first, second = np.array([4, 1, 7, 9]), np.array([9, 3, 4])
    told = together(
        lambda channels: align.tell_common(channels, [first, second]),
        lambda channel: align.hear_common(channel, np.array([40, 10, 70, 90]), 2),
        lambda channel: align.hear_common(channel, np.array([900, 300, 400]), 2),
    )
    assert [each.tolist() for each in told] == [[4, 9], [40, 90], [400, 900]]


def test_bits_of_another_number_of_rows_are_refused() -> None:
    told = together(
        lambda channels: align.tell_late(channels, np.ones(30, dtype=bool)),
        lambda channel: align.hear_late(channel, 100),
    )
    assert isinstance(told[1], ProtocolError) and told[1].step == "align.late"


# ---- a key that nobody chose ----------------------------------------------------------------------------------------


def test_all_parties_get_the_same_key_and_another_one_each_time() -> None:
    keys = [
        together(
            align.key_of_holder,
            lambda channel: align.key_of_partner(channel, 0, 2),
            lambda channel: align.key_of_partner(channel, 1, 2),
        )
        for _ in range(2)
    ]
    assert all(len(set(each)) == 1 and len(each[0]) == 32 for each in keys)
    assert keys[0][0] != keys[1][0]


def test_a_label_holder_that_opens_something_else_than_it_was_bound_to_is_noticed() -> None:
    def cheat(channels: Sequence[MemoryChannel]) -> None:
        (channel,) = channels
        bound = bytes(channel.recv("align.bind", size=32))
        channel.send("align.bound", hashlib.sha256(b"fedcore align" + bytes(32)).digest() + bound)
        theirs = bytes(channel.recv("align.open", size=32))
        channel.send("align.opened", b"\1" * 32 + theirs)

    told = together(cheat, lambda channel: align.key_of_partner(channel, 0, 1))
    assert isinstance(
        told[1], ProtocolError
    ) and "the label holder opened is not what it was bound to" in str(told[1])


def test_a_partner_that_opens_something_else_is_noticed_and_named() -> None:
    def cheat(channel: MemoryChannel) -> None:
        channel.send("align.bind", bytes(32))
        channel.recv("align.bound", size=64)
        channel.send("align.open", b"\1" * 32)

    told = together(align.key_of_holder, cheat)
    assert isinstance(told[0], ProtocolError) and "partner 1 opened is not what it was bound to" in str(
        told[0]
    )


def test_a_label_holder_that_leaves_out_a_partners_part_is_noticed() -> None:
    def cheat(channels: Sequence[MemoryChannel]) -> None:
        (channel,) = channels
        channel.recv("align.bind", size=32)
        channel.send("align.bound", bytes(64))

    told = together(cheat, lambda channel: align.key_of_partner(channel, 0, 1))
    assert isinstance(told[1], ProtocolError) and "own commitment is not among those" in str(told[1])


# ---- order and parts ------------------------------------------------------------------------------------------------


def test_order_and_parts_do_not_depend_on_the_order_in_which_rows_came() -> None:
    found = items(500)
    mixed = np.random.default_rng(2).permutation(500)
    one, other = align.order_of(found, KEY, 0.3), align.order_of(found[mixed], KEY, 0.3)
    assert (found[one.rows] == found[mixed][other.rows]).all()
    assert (one.part == other.part).all()
    assert align.digest_of(one, one.part, KEY) == align.digest_of(other, other.part, KEY)


def test_order_and_parts_are_those_of_blake2b_in_plain_python() -> None:
    found = items(40)
    order = align.order_of(found, KEY, 0.4)

    def hashed(row: int, person: bytes, size: int) -> bytes:
        return hashlib.blake2b(found[row].tobytes(), key=KEY, person=person, digest_size=size).digest()

    expected = sorted(range(40), key=lambda row: hashed(row, b"order", 16))
    assert order.rows.tolist() == expected
    draws = [int.from_bytes(hashed(row, b"split", 8), "little") for row in expected]
    assert order.part.tolist() == [TEST if draw < 0.4 * 2**64 else TRAIN for draw in draws]


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_the_share_of_test_rows_is_about_what_the_job_names(share: float) -> None:
    part = align.order_of(items(4000), KEY, share).part
    # Six standard deviations of a binomial.
    assert abs((part == TEST).mean() - share) < 6 * (share * (1 - share) / 4000) ** 0.5


def test_another_key_gives_another_split() -> None:
    found = items(300)
    one, other = align.order_of(found, KEY, 0.5), align.order_of(found, bytes(32), 0.5)
    by_row = [np.empty(300), np.empty(300)]
    for each, into in zip((one, other), by_row, strict=True):
        into[each.rows] = each.part
    assert 60 < (by_row[0] != by_row[1]).sum() < 240


def test_no_rows_have_an_order_too() -> None:
    order = align.order_of(np.empty((0, 2), dtype=np.uint64), KEY, 0.2)
    assert len(order.rows) == len(order.part) == 0


def test_late_rows_are_neither_training_nor_test_rows() -> None:
    part = np.array([TRAIN, TEST, TRAIN], dtype=np.int8)
    assert align.parted(part, np.array([True, True, False])).tolist() == [OUT_OF_TIME, OUT_OF_TIME, TRAIN]
    assert align.parted(part, None) is part


def test_parties_with_another_order_or_other_parts_notice_it() -> None:
    order = align.order_of(items(20), KEY, 0.5)
    swapped = align.Order(order.rows, order.part, order.marks[::-1].copy())
    late = align.parted(order.part, np.arange(20) == 3)
    digests = [
        align.digest_of(order, order.part, KEY),
        align.digest_of(swapped, order.part, KEY),
        align.digest_of(order, late, KEY),
        align.digest_of(order, order.part, bytes(32)),
    ]
    assert len(set(digests)) == 4
    told = together(
        lambda channels: align.compare({"telecom-b": channels[0]}, digests[0]),
        lambda channel: align.compare({"bank-a": channel}, digests[1]),
    )
    # Whoever is first hangs up, and the other may hear no more than that.
    found = [each for each in told if isinstance(each, ProtocolError)]
    assert found and all(isinstance(each, ProtocolError | PeerLost) for each in told)
    assert all("has other rows or another order than this party" in str(each) for each in found)
