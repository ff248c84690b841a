"""Set intersection over VOLE: exact beside Python's sets, starts over, refuses what the protocol does not allow.

A run with VOLE takes about a second of processor time. Tests of what comes after VOLE take its correlations from a
dealer, which both sides trust because it is the test.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import ProtocolError
from crypto.psi import okvs, okvs_shape, vole_psi, wide
from crypto.psi.okvs_shape import overflow_bound, shape_for
from crypto.psi.parameters import mask_bytes
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


def meet(left: Any, right: Any, *, reveal: str = "receiver") -> tuple[Any, Any]:
    """Both sides' results."""
    return both(
        lambda channel: vole_psi.receive(channel, left, reveal=reveal),
        lambda channel: vole_psi.send(channel, right, reveal=reveal),
    )


def meet_over(first: End, left: Any, second: End, right: Any, *, reveal: str = "receiver") -> tuple[Any, Any]:
    return run(
        lambda channel: vole_psi.receive(channel, left, reveal=reveal),
        first,
        lambda channel: vole_psi.send(channel, right, reveal=reveal),
        second,
    )


def told(role: Callable[[End], Any]) -> Callable[[End], Any]:
    """The role, with what it raises as its result: both sides' errors can then be looked at."""

    def go(end: End) -> Any:
        try:
            return role(end)
        except ProtocolError as error:
            return error

    return go


# ---- exact ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right", "common"),
    [
        (0, 0, 0), (0, 5, 0), (5, 0, 0), (1, 1, 1), (1, 1, 0), (2, 2, 1), (1, 4095, 1), (4095, 1, 0),
        (127, 129, 64), (128, 128, 128), (129, 127, 0), (4095, 4095, 2000),
    ],
)  # fmt: skip
def test_the_receiver_learns_what_python_says_and_the_sender_nothing(
    left: int, right: int, common: int
) -> None:
    mine, theirs = two_sets(left, right, common, seed=left + right)
    found, nothing = meet(mine, theirs)
    assert found.dtype == np.int64 and found.tolist() == expected(mine, theirs)
    assert len(found) == common and nothing is None


def test_a_hundred_thousand_and_one_items_are_matched_for_both_and_cost_what_is_said() -> None:
    count = 10**5 + 1
    mine, theirs = two_sets(count, count, 33_333, seed=1)
    left, right = ends()
    here, there = meet_over(left, mine, right, theirs, reveal="both")
    assert sorted(here.tolist()) == expected(mine, theirs) and sorted(there.tolist()) == expected(
        theirs, mine
    )
    assert np.array_equal(mine[here], theirs[there])
    taken: dict[str, int] = {}
    for step, length in left.sent + right.sent:
        taken[step] = taken.get(step, 0) + length
    assert taken["psi.store"] < 21.5 * count and taken["psi.tags"] < 10.5 * count
    assert taken["psi.matches"] < count / 4
    assert sum(length for step, length in taken.items() if step.startswith("vole.")) < 2 * 10**6


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_any_sizes_and_any_overlap_are_exact(data: st.DataObject) -> None:
    left, right = data.draw(st.integers(0, 300)), data.draw(st.integers(0, 300))
    common = data.draw(st.integers(0, min(left, right)))
    reveal = data.draw(st.sampled_from(["receiver", "both"]))
    mine, theirs = two_sets(left, right, common, data.draw(st.integers(0, 2**32)))
    dealer = Dealer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vole_psi, "Receiver", dealer.receiver)
        patch.setattr(vole_psi, "Sender", dealer.sender)
        here, there = meet(mine, theirs, reveal=reveal)
    assert sorted(here.tolist()) == expected(mine, theirs)
    if reveal == "both":
        assert np.array_equal(mine[here], theirs[there])
    else:
        assert there is None


@pytest.mark.parametrize(("left", "right"), [(700, 700), (1000, 3), (3, 1000), (65, 4000)])
def test_several_bins_and_messages_are_exact_for_both(
    left: int, right: int, dealer: Dealer, small_bins: None
) -> None:
    mine, theirs = two_sets(left, right, min(left, right) // 2, seed=7)
    here, there = meet(mine, theirs, reveal="both")
    assert sorted(here.tolist()) == expected(mine, theirs)
    assert np.array_equal(mine[here], theirs[there])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("left", "right"), [(2**16, 2**16), (49_152, 49_153), (300_000, 1_000), (1_000, 300_000), (10**6, 10**6)]
)
def test_large_and_unequal_sets_are_exact(left: int, right: int) -> None:
    common = min(left, right) // 3
    mine, theirs = two_sets(left, right, common, seed=3)
    first, second = ends()
    here, there = meet_over(first, mine, second, theirs, reveal="both")
    assert len(here) == common and np.array_equal(mine[here], theirs[there])
    if left == right == 10**6:
        assert sum(length for _, length in first.sent + second.sent) < 34 * 10**6


def test_equal_low_halves_are_no_match(dealer: Dealer) -> None:
    mine = np.array([[5, 1], [5, 2], [6, 1]], dtype=np.uint64)
    theirs = np.array([[5, 3], [6, 1], [1, 5]], dtype=np.uint64)
    assert meet(mine, theirs)[0].tolist() == [2]


def test_progress_comes_to_all_bins_at_both_sides(dealer: Dealer, small_bins: None) -> None:
    items = random_items(500)
    seen: dict[str, list[tuple[str, int, int]]] = {"left": [], "right": []}
    both(
        lambda channel: vole_psi.receive(channel, items, progress=lambda *what: seen["left"].append(what)),
        lambda channel: vole_psi.send(channel, items, progress=lambda *what: seen["right"].append(what)),
    )
    bins = shape_for(500).bins
    for side in seen.values():
        assert side[0][0] == "vole" and side[-1] == ("exchange", bins, bins)
        assert [done for _, done, _ in side[1:]] == sorted({done for _, done, _ in side[1:]})


# ---- what an argument may be ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [100, 500])
def test_an_item_that_stands_twice_at_the_receiver_is_refused(
    count: int, dealer: Dealer, small_bins: None
) -> None:
    items = random_items(count).copy()
    items[70] = items[3]
    with pytest.raises(ValueError, match="twice"):
        meet(items, items)


def test_an_item_that_stands_twice_at_the_sender_is_found_once(dealer: Dealer, small_bins: None) -> None:
    items = random_items(500).copy()
    doubled = np.concatenate([items, items[3:4]])
    here, there = meet(items, doubled, reveal="both")
    assert sorted(here.tolist()) == list(range(500)) and np.array_equal(items[here], doubled[there])


@pytest.mark.parametrize("role", [vole_psi.receive, vole_psi.send])
@pytest.mark.parametrize(
    "items", [np.zeros(4, np.uint64), np.zeros((4, 3), np.uint64), np.zeros((4, 2), np.int64)]
)
def test_an_array_of_another_form_is_refused_before_anything_is_sent(role: Any, items: Any) -> None:
    end, _ = ends()
    with pytest.raises(ValueError, match=r"\(n, 2\) uint64"):
        role(end, items)
    assert end.sent == []


@pytest.mark.parametrize("role", [vole_psi.receive, vole_psi.send])
def test_more_items_than_can_be_numbered_are_refused_at_both_sides(
    role: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vole_psi, "MOST_ITEMS", 10)
    end, _ = ends()
    with pytest.raises(ValueError, match="11 items; at most 10"):
        role(end, random_items(11))
    end, other = ends()
    other.send("psi.sizes", np.array([11], dtype="<u8"))
    with pytest.raises(ProtocolError, match=r"psi\.sizes: the other side says 11 items, at most 10"):
        role(end, random_items(10))


# ---- starting over --------------------------------------------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, calls: set[int]) -> None:
    """Let these calls of `encode_bins` fail, numbered from 0."""
    real, count = okvs.encode_bins, iter(range(10**6))

    def encode_bins(*arguments: Any) -> Any:
        if next(count) in calls:
            raise okvs.EncodingFailed("a test wants it")
        return real(*arguments)

    monkeypatch.setattr(okvs, "encode_bins", encode_bins)


def steps(end: End, step: str) -> int:
    return sum(name == step for name, _ in end.sent)


@pytest.mark.parametrize(
    "calls", [{0}, {2}, {0, 1}, {1, 3}, {3}], ids=["first", "later", "twice", "later-twice", "last"]
)
def test_a_store_that_fails_starts_over_with_a_new_seed_and_new_correlations(
    calls: set[int], monkeypatch: pytest.MonkeyPatch, dealer: Dealer, small_bins: None
) -> None:
    mine, theirs = two_sets(500, 450, 200, seed=9)
    assert shape_for(500).bins == 8  # four messages
    failing(monkeypatch, calls)
    left, right = ends()
    seeds: list[bytes] = []
    left.spoil = lambda step, data: seeds.append(data) or data if step == "psi.seed" else data
    here, there = meet_over(left, mine, right, theirs, reveal="both")
    assert sorted(here.tolist()) == expected(mine, theirs) and np.array_equal(mine[here], theirs[there])
    assert len(set(seeds)) == len(seeds) == len(dealer.deals) == len(calls) + 1
    assert steps(left, "psi.store") == steps(right, "psi.tags") == steps(left, "psi.state") - len(calls)


def test_starting_over_makes_vole_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, theirs = two_sets(100, 100, 50, seed=5)
    failing(monkeypatch, {0})
    left, right = ends()
    deltas = []
    real = vole_psi.Sender
    monkeypatch.setattr(vole_psi, "Sender", lambda *given: deltas.append(made := real(*given)) or made)
    here, _ = meet_over(left, mine, right, theirs)
    assert here.tolist() == expected(mine, theirs)
    assert steps(right, "vole.base") == 2 and not np.array_equal(deltas[0].delta, deltas[1].delta)


@pytest.mark.parametrize("first", [0, 1], ids=["first", "later"])
def test_a_store_that_always_fails_is_given_up_at_both_sides(
    first: int, monkeypatch: pytest.MonkeyPatch, dealer: Dealer, small_bins: None
) -> None:
    # A later message fails in each try; a try that fails at its first has one call, at its second two.
    failing(monkeypatch, {0, 1, 2} if first == 0 else {1, 3, 5})
    items = random_items(500)
    left, right = both(
        told(lambda channel: vole_psi.receive(channel, items)),
        told(lambda channel: vole_psi.send(channel, items)),
    )
    assert len(dealer.deals) == vole_psi.TRIES == 3
    for error in (left, right):
        assert isinstance(error, ProtocolError) and error.step == "psi.store" and "run it again" in str(error)


def test_bins_above_the_sender_s_bound_start_over_and_are_given_up(
    monkeypatch: pytest.MonkeyPatch, dealer: Dealer, small_bins: None
) -> None:
    monkeypatch.setattr(wide, "overflow_bound", lambda items, bins: items // bins)
    items = random_items(500)
    left, right = both(
        told(lambda channel: vole_psi.receive(channel, items)),
        told(lambda channel: vole_psi.send(channel, items)),
    )
    for error in (left, right):
        assert isinstance(error, ProtocolError) and error.step == "psi.store" and "run it again" in str(error)
    assert not dealer.deals  # nothing was exchanged under any of the seeds


@pytest.mark.parametrize("chosen", ["receiver", "sender"])
def test_keys_that_were_chosen_to_fall_into_one_bin_start_over_with_mixed_keys(
    chosen: str, dealer: Dealer, small_bins: None
) -> None:
    crowd, mine = random_items(300).copy(), random_items(500).copy()
    crowd[:, 1] >>= np.uint64(8)
    mine[:300] = crowd
    other = random_items(500).copy()
    other[:100], other[100:200] = mine[400:], mine[:100]
    sets = (mine, other) if chosen == "receiver" else (other, mine)
    left, right = ends()
    here, there = meet_over(left, sets[0], right, sets[1], reveal="both")
    assert sorted(here.tolist()) == expected(*sets) and np.array_equal(sets[0][here], sets[1][there])
    assert steps(left, "psi.seed") == 2


# ---- bad messages ---------------------------------------------------------------------------------------------------

RECEIVER_SENDS = ("psi.sizes", "psi.seed", "psi.fits", "psi.state", "psi.store", "psi.matches")
SENDER_SENDS = ("psi.sizes", "psi.fits", "psi.tags")


@pytest.mark.parametrize("change", ["short", "empty", "long", "other step"])
@pytest.mark.parametrize(
    ("side", "step"), [*((0, step) for step in RECEIVER_SENDS), *((1, step) for step in SENDER_SENDS)]
)
def test_a_message_of_another_length_or_step_is_refused_with_its_step(
    side: int, step: str, change: str, dealer: Dealer, small_bins: None
) -> None:
    items = random_items(300)
    pair = ends()
    end = pair[side]
    if change == "other step":
        real = end.send
        end.send = lambda name, data: real("psi.else" if name == step else name, data)  # type: ignore[method-assign]
    else:
        spoilt: dict[str, Callable[[bytes], bytes]] = {
            "short": lambda data: data[:-1],
            "empty": lambda data: b"",
            "long": lambda data: data + b"\0",
        }
        end.spoil = lambda name, data: spoilt[change](data) if name == step else data
    with pytest.raises(ProtocolError) as caught:
        meet_over(pair[0], items, pair[1], items, reveal="both")
    assert caught.value.step == step
    assert "psi.else" in str(caught.value) or "bytes came where" in str(caught.value)


def test_a_later_message_that_is_wrong_is_refused_too(dealer: Dealer, small_bins: None) -> None:
    items = random_items(500)
    left, right = ends()
    right.spoil = lambda step, data: data[:-1] if steps(right, "psi.tags") == 3 else data
    with pytest.raises(ProtocolError) as caught:
        meet_over(left, items, right, items)
    assert caught.value.step == "psi.tags"


def test_a_state_that_nobody_knows_is_refused(dealer: Dealer) -> None:
    left, right = ends()
    left.spoil = lambda step, data: b"\7" if step == "psi.state" else data
    with pytest.raises(ProtocolError, match=r"psi\.state: an unknown state came"):
        meet_over(left, random_items(5), right, random_items(5))


def test_sides_with_different_reveal_do_not_pass_for_agreed(dealer: Dealer) -> None:
    items = random_items(5)
    with pytest.raises(ProtocolError):
        run(
            lambda channel: (vole_psi.receive(channel, items, reveal="both"), channel.send("end", b"")),
            (pair := ends())[0],
            lambda channel: (vole_psi.send(channel, items), channel.recv("end", size=0)),
            pair[1],
        )


def test_padding_that_is_said_to_match_is_refused(dealer: Dealer, small_bins: None) -> None:
    mine, theirs = random_items(300), random_items(300)
    left, right = ends()
    left.spoil = lambda step, data: b"\xff" * len(data) if step == "psi.matches" else data
    with pytest.raises(ProtocolError, match=r"psi\.matches: padding is said to match"):
        meet_over(left, mine, right, theirs, reveal="both")


class Lost(Exception):
    """The connection ended."""


def test_the_error_of_the_comparing_thread_is_told_and_not_that_sending_ended_after_it(
    dealer: Dealer, small_bins: None
) -> None:
    # A real channel is over for its sender too once its receiver refused a message.
    items = random_items(500)
    left, right = ends()
    over = threading.Event()
    real_recv, real_send = left.recv, left.send

    def recv(step: str, **size: Any) -> Any:
        try:
            return real_recv(step, **size)
        except ProtocolError:
            over.set()
            raise

    def send(step: str, data: Any) -> None:
        if steps(left, "psi.store") >= 1:
            over.wait(60)
        if over.is_set():
            raise Lost(f"{step}: the connection is over")
        real_send(step, data)

    left.recv, left.send = recv, send  # type: ignore[method-assign]
    right.spoil = lambda step, data: data[:-1] if step == "psi.tags" else data
    with pytest.raises(ProtocolError) as caught:
        meet_over(left, items, right, items)
    assert caught.value.step == "psi.tags"


# ---- what the receiver sees -----------------------------------------------------------------------------------------


def tags_of(right: End) -> list[bytes]:
    """Collects the messages with tags that a sender sends."""
    seen: list[bytes] = []
    right.spoil = lambda step, data: seen.append(data) or data if step == "psi.tags" else data
    return seen


def byte_statistic(raw: bytes) -> float:
    """Chi squared of the bytes' frequencies: mean 255 and standard deviation 22.6 where they are uniform."""
    counts = np.bincount(np.frombuffer(raw, dtype=np.uint8), minlength=256)
    return float(((counts - len(raw) / 256) ** 2).sum() / (len(raw) / 256))


def test_tags_of_items_that_the_receiver_does_not_have_look_uniform(dealer: Dealer) -> None:
    count = 4000
    # Items with a pattern, so that a tag that showed anything of them would stand out.
    mine = np.stack([np.arange(count), np.zeros(count)], axis=1).astype(np.uint64)
    theirs = np.stack([np.arange(count), np.ones(count)], axis=1).astype(np.uint64)
    left, right = ends()
    seen = tags_of(right)
    found, _ = meet_over(left, mine, right, theirs)
    raw = b"".join(seen)
    assert not len(found) and len(raw) == count * mask_bytes(count, count)
    assert 100 < byte_statistic(raw) < 450
    tags = np.frombuffer(raw, dtype=np.uint8).reshape(count, -1)
    assert len(np.unique(tags, axis=0)) == count


def test_the_same_sets_have_other_tags_in_every_run(dealer: Dealer) -> None:
    items = random_items(50)
    runs = []
    for _ in range(2):
        left, right = ends()
        seen = tags_of(right)
        meet_over(left, items, right, items)
        size = mask_bytes(50, 50)
        runs.append({seen[0][at : at + size] for at in range(0, len(seen[0]), size)})
    assert len(runs[0]) == len(runs[1]) == 50 and not runs[0] & runs[1]


def test_how_much_is_sent_depends_on_the_sizes_alone(dealer: Dealer, small_bins: None) -> None:
    sizes = []
    for common in (0, 250, 500):
        mine, theirs = two_sets(500, 500, common, seed=common)
        left, right = ends()
        meet_over(left, mine, right, theirs, reveal="both")
        sizes.append((left.sent, right.sent))
    assert sizes[0] == sizes[1] == sizes[2]
    bins = shape_for(500).bins
    room = overflow_bound(500, bins)
    told_bytes = sum(length for step, length in sizes[0][1] if step == "psi.tags")
    assert told_bytes == bins * room * mask_bytes(500, room) and bins * room > 500


def test_where_a_match_stands_among_the_tags_changes_from_run_to_run(dealer: Dealer) -> None:
    items = random_items(64)
    places = set()
    for _ in range(8):
        left, right = ends()
        here, _ = meet_over(left, items, right, items[:32], reveal="both")
        places.add(tuple(here.tolist()))
        assert sorted(here.tolist()) == list(range(32))
    assert len(places) == 8
