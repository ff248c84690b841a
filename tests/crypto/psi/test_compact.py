"""Set intersection in few bytes: exact beside Python's sets, within its bound on bytes and on error, bad messages.

Where what comes after VOLE is tested, its correlations come from a dealer, which both sides trust because it is the
test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import ProtocolError
from crypto.kernels import elias_fano, masks64
from crypto.kernels.blocks import random_blocks
from crypto.psi import compact, okvs, okvs64, okvs_shape, vole_psi
from crypto.psi.okvs_shape import shape_for
from crypto.psi.sizes import Sizes
from tests.crypto.memory_channel import End, both, ends, run
from tests.crypto.psi.dealer import Dealer
from tests.crypto.psi.sets import expected, random_items, two_sets


@pytest.fixture
def dealer(monkeypatch: pytest.MonkeyPatch) -> Dealer:
    """In the place of VOLE."""
    made = Dealer()
    monkeypatch.setattr(vole_psi, "Receiver", made.receiver)
    monkeypatch.setattr(vole_psi, "Sender", made.sender)
    return made


@pytest.fixture
def small_bins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Bins of 64 items and messages of two, so that a small set needs several messages."""
    monkeypatch.setattr(okvs_shape, "BIN_ITEMS", 64)
    monkeypatch.setattr(vole_psi, "CHUNK", 2)
    shape_for.cache_clear()
    yield
    shape_for.cache_clear()


def receive(channel: Any, items: Any) -> Any:
    return vole_psi.receive(channel, items, steps=compact)


def send(channel: Any, items: Any) -> Any:
    return vole_psi.send(channel, items, steps=compact)


def meet(left: Any, right: Any) -> Any:
    """What the receiver learns."""
    found, nothing = both(lambda channel: receive(channel, left), lambda channel: send(channel, right))
    assert nothing is None
    return found


def meet_over(first: End, left: Any, second: End, right: Any) -> Any:
    return run(
        lambda channel: receive(channel, left),
        first,
        lambda channel: send(channel, right),
        second,
    )[0]


def told(role: Callable[[End], Any]) -> Callable[[End], Any]:
    """The role, with what it raises as its result."""

    def go(end: End) -> Any:
        try:
            return role(end)
        except (ProtocolError, ValueError) as error:
            return error

    return go


def sent(*sides: End) -> dict[str, int]:
    """Bytes by step."""
    total: dict[str, int] = {}
    for side in sides:
        for step, length in side.sent:
            total[step] = total.get(step, 0) + length
    return total


# ---- exact ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right", "common"),
    [
        (0, 0, 0), (0, 5, 0), (5, 0, 0), (1, 1, 1), (1, 1, 0), (2, 2, 1), (1, 4095, 1), (4095, 1, 0),
        (127, 129, 64), (128, 128, 128), (129, 127, 0), (4095, 4095, 2000),
    ],
)  # fmt: skip
def test_the_receiver_learns_what_python_says(left: int, right: int, common: int, dealer: Dealer) -> None:
    mine, theirs = two_sets(left, right, common, seed=left + right)
    found = meet(mine, theirs)
    assert found.dtype == np.int64 and found.tolist() == expected(mine, theirs) and len(found) == common


@pytest.mark.parametrize(("left", "right"), [(1, 2), (129, 4095)])
def test_with_vole_too(left: int, right: int) -> None:
    mine, theirs = two_sets(left, right, left, seed=2)
    assert meet(mine, theirs).tolist() == expected(mine, theirs)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_any_sizes_and_any_overlap_are_exact(data: st.DataObject) -> None:
    size = st.integers(0, 300) | st.sampled_from([0, 1, 2, 127, 128, 129, 4095])
    left, right = data.draw(size), data.draw(size)
    common = data.draw(st.integers(0, min(left, right)))
    mine, theirs = two_sets(left, right, common, data.draw(st.integers(0, 2**32)))
    dealer = Dealer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vole_psi, "Receiver", dealer.receiver)
        patch.setattr(vole_psi, "Sender", dealer.sender)
        assert meet(mine, theirs).tolist() == expected(mine, theirs)


@pytest.mark.parametrize(("left", "right"), [(700, 700), (1000, 3), (3, 1000), (65, 4000)])
def test_several_bins_and_messages_are_exact(left: int, right: int, dealer: Dealer, small_bins: None) -> None:
    mine, theirs = two_sets(left, right, min(left, right) // 2, seed=7)
    assert meet(mine, theirs).tolist() == expected(mine, theirs)


@pytest.mark.slow
def test_a_million_items_a_side_are_exact_and_cost_at_most_22_bytes_each() -> None:
    count = 2**20
    mine, theirs = two_sets(count, count, count // 2, seed=3)
    left, right = ends()
    found = meet_over(left, np.ascontiguousarray(mine), right, np.ascontiguousarray(theirs))
    assert found.tolist() == expected(mine, theirs) and len(found) == count // 2
    assert sum(sent(left, right).values()) < 21 * count


def test_what_is_sent_is_what_the_sizes_say_whatever_the_sets(dealer: Dealer, small_bins: None) -> None:
    seen = []
    for common in (0, 250, 500):
        mine, theirs = two_sets(500, 500, common, seed=common)
        left, right = ends()
        meet_over(left, mine, right, theirs)
        seen.append((left.sent, right.sent))
    assert seen[0] == seen[1] == seen[2]
    sizes = compact.check_sizes(500, 500)
    total = sent(left, right)
    assert total["psi.store"] == 8 * sizes.shape.length
    assert total["psi.tags"] == sizes.shape.bins * sizes.code and sizes.shape.bins == 8


def test_an_item_that_stands_twice_is_refused_at_the_receiver_and_found_once_at_the_sender(
    dealer: Dealer, small_bins: None
) -> None:
    items = random_items(500).copy()
    doubled = np.concatenate([items, items[3:4]])
    assert meet(items, doubled).tolist() == list(range(500))
    with pytest.raises(ValueError, match="twice"):
        meet(doubled, items)


@pytest.mark.parametrize(("left", "right"), [(700, 700), (1000, 3), (3, 1000)])
def test_both_sides_learn_the_same_rows_in_one_order(
    left: int, right: int, dealer: Dealer, small_bins: None
) -> None:
    mine, theirs = two_sets(left, right, min(left, right) // 2, seed=11)
    here, there = both(
        lambda channel: vole_psi.receive(channel, mine, reveal="both", steps=compact),
        lambda channel: vole_psi.send(channel, theirs, reveal="both", steps=compact),
    )
    assert sorted(here.tolist()) == expected(mine, theirs) and np.array_equal(mine[here], theirs[there])


def test_equal_low_halves_are_no_match(dealer: Dealer) -> None:
    mine = np.array([[5, 1], [5, 2], [6, 1]], dtype=np.uint64)
    theirs = np.array([[5, 3], [6, 1], [1, 5]], dtype=np.uint64)
    assert meet(mine, theirs).tolist() == [2]


# ---- sizes and their bound --------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 2**32 - 1), st.integers(1, compact.MOST_SENDER_ITEMS), st.integers(1, 2**24))
def test_a_run_errs_with_2_to_the_minus_40_at_most_and_one_bit_less_would_not_do(
    receiver: int, sender: int, compared: int
) -> None:
    bits = compact.tag_bits(receiver, sender, compared)
    exposed = Fraction(sender, 2**64)
    assert exposed + Fraction(receiver * compared, 2**bits) <= Fraction(1, 2**40)
    assert exposed + Fraction(receiver * compared, 2 ** (bits - 1)) > Fraction(1, 2**40)


def test_more_items_of_the_sender_than_64_bits_hide_are_refused_with_the_cure_at_both_sides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert 10**7 < compact.MOST_SENDER_ITEMS < 2**24
    compact.check_sizes(2**32 - 1, compact.MOST_SENDER_ITEMS)
    with pytest.raises(ValueError, match=r"15728641 items.*at most 15728640.*take the protocol vole"):
        compact.check_sizes(1, compact.MOST_SENDER_ITEMS + 1)
    monkeypatch.setattr(compact, "MOST_SENDER_ITEMS", 10)
    items = random_items(11)
    errors = both(
        told(lambda channel: receive(channel, items)),
        told(lambda channel: send(channel, items)),
    )
    assert all(isinstance(error, ValueError) and "take the protocol vole" in str(error) for error in errors)
    # It is the sender's number that is limited.
    dealer = Dealer()
    monkeypatch.setattr(vole_psi, "Receiver", dealer.receiver)
    monkeypatch.setattr(vole_psi, "Sender", dealer.sender)
    assert meet(items, items[:10]).tolist() == list(range(10))


@pytest.mark.parametrize("role", [receive, send])
@pytest.mark.parametrize(
    "items", [np.zeros(4, np.uint64), np.zeros((4, 3), np.uint64), np.zeros((4, 2), np.int64)]
)
def test_an_array_of_another_form_is_refused_before_anything_is_sent(role: Any, items: Any) -> None:
    end, _ = ends()
    with pytest.raises(ValueError, match=r"\(n, 2\) uint64"):
        role(end, items)
    assert end.sent == []


# ---- starting over --------------------------------------------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, calls: set[int]) -> None:
    """Let these calls of `encode_bins` fail, numbered from 0."""
    real, count = okvs64.encode_bins, iter(range(10**6))

    def encode_bins(*arguments: Any) -> Any:
        if next(count) in calls:
            raise okvs.EncodingFailed("a test wants it")
        return real(*arguments)

    monkeypatch.setattr(okvs64, "encode_bins", encode_bins)


@pytest.mark.parametrize("calls", [{0}, {2}, {0, 1}, {3}], ids=["first", "later", "twice", "last"])
def test_a_store_that_fails_starts_over_with_a_new_seed_and_new_correlations(
    calls: set[int], monkeypatch: pytest.MonkeyPatch, dealer: Dealer, small_bins: None
) -> None:
    mine, theirs = two_sets(500, 450, 200, seed=9)
    failing(monkeypatch, calls)
    left, right = ends()
    seeds: list[bytes] = []
    left.spoil = lambda step, data: seeds.append(data) or data if step == "psi.seed" else data
    assert meet_over(left, mine, right, theirs).tolist() == expected(mine, theirs)
    assert len(set(seeds)) == len(seeds) == len(dealer.deals) == len(calls) + 1


def test_a_store_that_always_fails_is_given_up_at_both_sides(
    monkeypatch: pytest.MonkeyPatch, dealer: Dealer
) -> None:
    failing(monkeypatch, {0, 1, 2})
    items = random_items(50)
    for error in both(
        told(lambda channel: receive(channel, items)),
        told(lambda channel: send(channel, items)),
    ):
        assert isinstance(error, ProtocolError) and error.step == "psi.store"
        assert "run it again" in str(error)


# ---- bad messages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["short", "empty", "long"])
@pytest.mark.parametrize(
    ("side", "step"),
    [
        (0, "psi.sizes"), (0, "psi.seed"), (0, "psi.state"), (0, "psi.store"),
        (1, "psi.sizes"), (1, "psi.tags"),
    ],
)  # fmt: skip
def test_a_message_of_another_length_is_refused_with_its_step(
    side: int, step: str, change: str, dealer: Dealer, small_bins: None
) -> None:
    items = random_items(300)
    pair = ends()
    spoilt: dict[str, Callable[[bytes], bytes]] = {
        "short": lambda data: data[:-1],
        "empty": lambda data: b"",
        "long": lambda data: data + b"\0",
    }
    pair[side].spoil = lambda name, data: spoilt[change](data) if name == step else data
    with pytest.raises(ProtocolError) as caught:
        meet_over(pair[0], items, pair[1], items)
    assert caught.value.step == step and "bytes came where" in str(caught.value)


@pytest.mark.parametrize("spoilt", [bytes, lambda size: b"\xff" * size])
def test_tags_that_are_no_sorted_list_are_refused(spoilt: Callable[[int], bytes], dealer: Dealer) -> None:
    items = random_items(50)
    left, right = ends()
    right.spoil = lambda step, data: spoilt(len(data)) if step == "psi.tags" else data
    with pytest.raises(ProtocolError, match=r"psi\.tags: tags came that are not in order"):
        meet_over(left, items, right, items)


def test_a_state_that_nobody_knows_and_a_size_that_nobody_has_are_refused(dealer: Dealer) -> None:
    left, right = ends()
    left.spoil = lambda step, data: b"\7" if step == "psi.state" else data
    with pytest.raises(ProtocolError, match=r"psi\.state: an unknown state came"):
        meet_over(left, random_items(5), right, random_items(5))
    left, right = ends()
    left.spoil = lambda step, data: (2**32).to_bytes(8, "little") if step == "psi.sizes" else data
    with pytest.raises(ProtocolError, match=r"psi\.sizes: the other side says 4294967296 items"):
        meet_over(left, random_items(5), right, random_items(5))


# ---- what the receiver sees -------------------------------------------------------------------------------------------


def tags_of(items: Any, others: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tags that the receiver unpacks in a run."""
    seen: list[Any] = []
    real = compact.unpack_bin

    def unpack_bin(*arguments: Any) -> Any:
        seen.append(real(*arguments))
        return seen[-1]

    monkeypatch.setattr(compact, "unpack_bin", unpack_bin)
    meet(items, others)
    monkeypatch.setattr(compact, "unpack_bin", real)
    return np.concatenate(seen)


def test_tags_of_items_that_the_receiver_does_not_have_are_uniform(
    dealer: Dealer, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 4000
    # Items with a pattern, so that a tag that showed anything of them would stand out.
    mine = np.stack([np.arange(count), np.zeros(count)], axis=1).astype(np.uint64)
    theirs = np.stack([np.arange(count), np.ones(count)], axis=1).astype(np.uint64)
    tags = tags_of(mine, theirs, monkeypatch)
    bits = compact.check_sizes(count, count).bits
    assert len(tags) == len(np.unique(tags, axis=0)) == count and 64 <= bits < 72
    whole = tags.view(np.uint8).reshape(count, 16)[:, : bits // 8]
    counts = np.bincount(whole.reshape(-1), minlength=256)
    statistic = float(((counts - counts.mean()) ** 2 / counts.mean()).sum())
    assert 100 < statistic < 450  # mean 255, standard deviation 22.6
    top = (tags[:, 0] >> np.uint64(bits - 4 if bits <= 64 else 60)) & np.uint64(15)
    counts = np.bincount(top.astype(np.int64), minlength=16)
    assert ((counts - count / 16) ** 2 / (count / 16)).sum() < 65  # 15 degrees of freedom: once in 10^7


def test_padding_looks_as_tags_do(dealer: Dealer, monkeypatch: pytest.MonkeyPatch) -> None:
    # A bin with no item is all padding: its tags fill the same buckets as those of a full one.
    sizes = Sizes(4000, 4000, shape_for(4000), 4000, 68, elias_fano.code_bytes(4000, 68))
    empty, _ = compact.pack_bin(np.empty((0, 2), dtype=np.uint64), sizes)
    tags = compact.unpack_bin(empty, sizes)
    assert tags is not None and len(np.unique(tags, axis=0)) == 4000
    counts = np.bincount((tags[:, 1]).astype(np.int64), minlength=16)
    assert len(counts) == 16 and ((counts - 250) ** 2 / 250).sum() < 65


def test_the_same_sets_have_other_tags_in_every_run(dealer: Dealer, monkeypatch: pytest.MonkeyPatch) -> None:
    items = random_items(50)
    first, second = ({tuple(tag) for tag in tags_of(items, items, monkeypatch).tolist()} for _ in range(2))
    assert len(first) == len(second) == 50 and not first & second


def test_the_order_that_is_packed_says_which_tag_stands_where() -> None:
    sizes = Sizes(300, 300, shape_for(300), 300, 60, elias_fano.code_bytes(300, 60))
    tags = random_blocks(200)
    masks64.cut(tags, 60)
    code, order = compact.pack_bin(tags, sizes)
    ascending = compact.unpack_bin(code, sizes)
    assert ascending is not None and sorted(order.tolist()) == list(range(300))
    items = order < 200
    assert np.array_equal(ascending[items], tags[order[items]])
