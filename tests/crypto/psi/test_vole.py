"""VOLE and what it is made of: base transfers, trees, the code; relations hold, bad messages are refused."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import ProtocolError
from crypto.kernels.blocks import add_scaled, blocks_from, gf_mul_reference, numbers_from, random_blocks
from crypto.kernels.gf64 import add_word_times, gf64_mul_reference, tower_mul_reference
from crypto.psi import ggm, lpn, vole, vole_rounds
from crypto.psi.base_ot import receive_keys, send_keys
from crypto.psi.parameters import LPN, Lpn, mask_bytes
from crypto.psi.vole import Receiver, Sender, _bit_shapes, _field_shapes
from crypto.psi.vole_field import GF128, TOWER, Field
from crypto.psi.vole_rounds import ReceiverRound, SenderRound
from tests.crypto.memory_channel import both, ends, run

# ---- base transfers -----------------------------------------------------------------------------------------------


def test_the_receiver_gets_the_key_it_chose_and_not_the_other() -> None:
    choices = [0, 1, 1, 0, 1]
    pairs, chosen = both(
        lambda channel: send_keys(channel, "ot", len(choices)),
        lambda channel: receive_keys(channel, "ot", choices),
    )
    assert [pair[choice] for pair, choice in zip(pairs, choices, strict=True)] == chosen
    assert not set(chosen) & {pair[1 - choice] for pair, choice in zip(pairs, choices, strict=True)}
    assert len({key for pair in pairs for key in pair}) == 10 and {len(key) for key in chosen} == {16}


def test_what_the_receiver_sends_does_not_tell_its_choice() -> None:
    # Both points are points of the group whatever the choice: the sender could not tell them apart by form.
    left, right = ends()
    seen: list[bytes] = []
    right.spoil = lambda step, data: seen.append(data) or data
    run(lambda c: send_keys(c, "ot", 2), left, lambda c: receive_keys(c, "ot", [0, 1]), right)
    assert len(seen[0]) == 2 * 64


@pytest.mark.parametrize("point", [b"\xff" * 32, b"\x01" + bytes(31)])
def test_a_point_that_is_not_of_the_group_is_refused(point: bytes) -> None:
    left, right = ends()
    right.spoil = lambda step, data: data[:32] + point + data[64:]
    with pytest.raises(ProtocolError, match="ot"):
        run(lambda c: send_keys(c, "ot", 2), left, lambda c: receive_keys(c, "ot", [0, 1]), right)


def test_a_short_message_is_refused_with_the_step() -> None:
    left, right = ends()
    right.spoil = lambda step, data: data[:-1]
    with pytest.raises(ProtocolError, match=r"vole\.base: 127 bytes came where 128 are expected"):
        run(
            lambda c: send_keys(c, "vole.base", 2),
            left,
            lambda c: receive_keys(c, "vole.base", [0, 1]),
            right,
        )


# ---- trees --------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 6), st.booleans(), st.data())
def test_a_punctured_tree_is_the_whole_one_but_for_one_leaf(
    depth: int, hashed: bool, data: st.DataObject
) -> None:
    trees = 3
    places = [data.draw(st.integers(0, 2**depth - 1)) for _ in range(trees)]
    delta = random_blocks(1)
    leaves = np.empty((trees << depth, 2), dtype=np.uint64)
    sums = np.empty((trees, depth + 1, 2), dtype=np.uint64)
    ggm.whole(random_blocks(trees), delta, depth, hashed, leaves, sums)
    sides = np.array(
        [[1 - (place >> (depth - 1 - i) & 1) for i in range(depth)] for place in places], np.uint8
    )
    known = np.empty((trees, depth, 2), dtype=np.uint64)
    for tree in range(trees):
        for level in range(depth):
            left = sums[tree, level]
            other = sums[tree, depth] if hashed and level == depth - 1 else left ^ delta[0]
            known[tree, level] = other if sides[tree, level] else left
    got = np.empty_like(leaves)
    found = np.empty(trees, dtype=np.int64)
    ggm.punctured(known, sides, depth, hashed, got, found)
    assert found.tolist() == places
    for tree, place in enumerate(places):
        at = tree << depth
        assert not got[at + place].any()
        rest = [at + i for i in range(2**depth) if i != place]
        assert np.array_equal(got[rest], leaves[rest])
    if not hashed:
        totals = np.empty((trees, 2), dtype=np.uint64)
        ggm.sum_of_trees(leaves, 2**depth, totals)
        assert np.array_equal(totals, np.repeat(delta, trees, axis=0))


# ---- the code -----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(st.binary(min_size=16, max_size=16), st.integers(0, 2**40), st.sampled_from([16, 1024, 2**19]))
def test_the_code_takes_ten_places_and_powers_of_x(seed: bytes, first: int, k: int) -> None:
    secret = np.zeros((k, 2), dtype=np.uint64)
    rows = [lpn.places_reference(seed, first + i, k) for i in range(4)]
    for place in {place for row in rows for place in row}:
        secret[place] = random_blocks(1)[0]
    start = random_blocks(4)
    bits, field = start.copy(), start.copy()
    pairs, words = np.hstack([start, start]), start.copy()
    word_pairs = pairs.copy()
    keys = lpn.public_seed(seed)
    lpn.add_bits(keys, np.uint64(first), secret, bits)
    lpn.add_field(keys, np.uint64(first), secret, field)
    lpn.add_field_pairs(keys, np.uint64(first), np.hstack([secret, secret]), pairs)
    lpn.add_words(keys, np.uint64(first), secret, words)
    lpn.add_words_pairs(keys, np.uint64(first), np.hstack([secret, secret]), word_pairs)
    for i, row in enumerate(rows):
        plain = powers = numbers_from(start[i : i + 1])[0]
        halves = [int(word) for word in start[i]]
        for j, place in enumerate(row):
            value = numbers_from(secret[place : place + 1])[0]
            plain ^= value
            powers ^= gf_mul_reference(value, 1 << j)
            halves = [at ^ gf64_mul_reference(int(secret[place, h]), 1 << j) for h, at in enumerate(halves)]
        assert numbers_from(bits[i : i + 1]) == [plain]
        assert numbers_from(field[i : i + 1]) == [powers]
        assert words[i].tolist() == halves
    assert np.array_equal(pairs, np.hstack([field, field]))
    assert np.array_equal(word_pairs, np.hstack([words, words]))


def test_the_places_are_spread_over_the_whole_secret() -> None:
    k = 16
    counts = np.zeros(k, dtype=int)
    for row in range(2000):
        for place in lpn.places_reference(b"0123456789abcdef", row, k):
            counts[place] += 1
    expected = counts.sum() / k
    chi = ((counts - expected) ** 2 / expected).sum()
    assert chi < 45  # 15 degrees of freedom; 1 in 10,000 honest seeds is above, and this one is fixed


# ---- rounds, on small parameters ------------------------------------------------------------------------------------

TOY = Lpn("toy", trees=6, k=64, depth=4)


def bit_correlations(delta: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """K and M = K + r D, dealt by hand."""
    keys = random_blocks(count)
    keys[:, 0] &= ~np.uint64(1)
    chosen = random_blocks(count)[:, 0] & np.uint64(1)
    return keys, keys ^ delta * chosen[:, None]


def odd_delta() -> np.ndarray:
    delta = random_blocks(1)
    delta[0, 0] |= np.uint64(1)
    return delta


def test_a_round_over_bits_keeps_the_relation_and_its_bits_look_random() -> None:
    delta = odd_delta()
    keys, got = bit_correlations(delta, TOY.bit_base)
    sent, received = both(
        lambda c: np.concatenate(list(SenderRound(c, TOY, delta, keys, None, 1).pieces(keys))),
        lambda c: np.concatenate(list(ReceiverRound(c, TOY, got, None, 1).pieces(got))),
    )
    chosen = received[:, 0] & np.uint64(1)
    assert len(sent) == TOY.rows and not (sent[:, 0] & np.uint64(1)).any()
    assert np.array_equal(sent ^ delta * chosen[:, None], received)
    assert 20 < int(chosen.sum()) < 76  # of 96


def test_a_round_over_the_field_keeps_the_relation() -> None:
    delta = odd_delta()
    keys, got = bit_correlations(delta, TOY.trees * TOY.depth)
    b, a = random_blocks(TOY.base), random_blocks(TOY.base)
    c = b.copy()
    add_scaled(c, a, delta)
    ac = np.hstack([a, c])
    sent, received = both(
        lambda ch: np.concatenate(list(SenderRound(ch, TOY, delta, keys, b, 3).pieces(b))),
        lambda ch: np.concatenate(list(ReceiverRound(ch, TOY, got, ac, 3).pieces(ac))),
    )
    made = sent.copy()
    add_scaled(made, np.ascontiguousarray(received[:, :2]), delta)
    assert np.array_equal(made, received[:, 2:])
    assert len(np.unique(received[:, 0])) == TOY.rows


# ---- the whole ------------------------------------------------------------------------------------------------------


def test_c_is_b_plus_delta_a_and_portions_do_not_matter() -> None:
    portions = [1, 127, 5000, 0, 3]

    def send(channel):
        sender = Sender(channel, sum(portions))
        return sender.delta, np.concatenate([sender.take(n) for n in portions]), repr(sender)

    def receive(channel):
        receiver = Receiver(channel, sum(portions))
        taken = [receiver.take(n) for n in portions]
        return np.concatenate([a for a, _ in taken]), np.concatenate([c for _, c in taken])

    (delta, b, told), (a, c) = both(send, receive)
    made = b.copy()
    add_scaled(made, np.ascontiguousarray(a), delta)
    assert np.array_equal(made, c)
    for i in (0, 1, 5130):
        parts = [numbers_from(x[i : i + 1])[0] for x in (a, b, c)]
        assert parts[2] == parts[1] ^ gf_mul_reference(parts[0], numbers_from(delta)[0])
    assert numbers_from(delta)[0] & 1
    assert all(str(int(word)) not in told for word in delta[0])
    assert abs(np.bitwise_count(a).mean() - 32) < 0.5 and abs(np.bitwise_count(b).mean() - 32) < 0.5


def test_rounds_are_chosen_that_serve_the_length_and_no_more() -> None:
    small, large, bits = LPN["b10"], LPN["b12"], LPN["b11"]
    assert [shape.rows for shape in _field_shapes(1)] == [1 << small.depth]
    assert _field_shapes(small.rows) == [small]
    assert _field_shapes(small.rows + 1) == [small, small.first(small.base + 1)]
    assert _field_shapes(2 * small.rows - small.base) == [small, small]
    assert _field_shapes(2 * small.rows - small.base + 1)[1] == large.first(
        small.rows - small.base + 1 + large.base
    )
    assert small.rows >= large.base, "a round of the small set must be able to start the large one"
    assert large.rows > 2 * large.base, "a round of the large set must pay for the next and give much more"
    assert small.rows >= bits.bit_base and bits.rows > 2 * bits.bit_base


@pytest.mark.parametrize("length", [1, 10**5, 870_400, 870_401, 1_800_000, 10**7, 10**8, 10**9])
def test_rounds_over_the_field_make_the_length_and_less_than_a_tree_beyond_it(length: int) -> None:
    shapes = _field_shapes(length)
    made = sum(shape.rows for shape in shapes) - sum(shape.base for shape in shapes[1:])
    # The last round is cut after its base was reckoned, whose blocks are then fewer.
    assert length <= made < length + (1 << shapes[-1].depth) + LPN["b12"].trees
    assert all(shape in (LPN["b10"], LPN["b12"]) for shape in shapes[:-1])


SMALL = {
    "b10": Lpn("b10", trees=100, k=64, depth=4),
    "b12": Lpn("b12", trees=30, k=128, depth=5),
    "b11": Lpn("b11", trees=100, k=256, depth=8),
}


@pytest.fixture
def small_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets so small that a few thousand correlations take several rounds, over the field and over bits."""
    monkeypatch.setattr(vole, "LPN", SMALL)
    monkeypatch.setattr(vole_rounds, "SLICE", 128)


def taken(length: int, portion: int, field: Field) -> tuple[Any, Any, Any, Any]:
    """D, b, a and c of a whole run."""
    portions = [min(portion, length - at) for at in range(0, length, portion)]

    def send(channel: Any) -> Any:
        sender = Sender(channel, length, field)
        return sender.delta, np.concatenate([sender.take(n) for n in portions])

    def receive(channel: Any) -> Any:
        receiver = Receiver(channel, length, field)
        some = [receiver.take(n) for n in portions]
        return np.concatenate([a for a, _ in some]), np.concatenate([c for _, c in some])

    (delta, b), (a, c) = both(send, receive)
    return delta, b, a, c


@pytest.mark.parametrize("portion", [20_000, 997])
def test_rows_of_many_rounds_keep_the_relation_in_any_portions(portion: int, small_sets: None) -> None:
    length = 20_000
    assert len(_field_shapes(length)) > 20
    delta, b, a, c = taken(length, portion, GF128)
    made = b.copy()
    add_scaled(made, np.ascontiguousarray(a), delta)
    assert len(b) == length and np.array_equal(made, c)
    # No row stands twice: none that starts a round is also given out.
    assert len(np.unique(a, axis=0)) == len(np.unique(b, axis=0)) == length


def test_the_tower_keeps_the_relation_with_a_in_the_subfield(small_sets: None) -> None:
    length = 5_000
    delta, b, a, c = taken(length, 997, TOWER)
    assert not a[:, 1].any() and len(np.unique(a[:, 0])) == length
    made = b.copy()
    add_word_times(made, np.ascontiguousarray(a[:, 0]), delta)
    assert np.array_equal(made, c)
    assert abs(np.bitwise_count(a[:, 0]).mean() - 32) < 0.5 and abs(np.bitwise_count(b).mean() - 32) < 0.5
    for i in (0, 1, 4_999):
        one = [numbers_from(x[i : i + 1])[0] for x in (a, b, c)]
        assert one[2] == one[1] ^ tower_mul_reference(one[0], numbers_from(delta)[0])


@pytest.mark.slow
@pytest.mark.parametrize("field", [GF128, TOWER], ids=["gf128", "tower"])
def test_rows_of_rounds_of_full_size_keep_the_relation(field: Field) -> None:
    length = 8_000_000
    assert [shape.name for shape in _field_shapes(length)] == ["b10", "b12", "b12"]
    delta, b, a, c = taken(length, 350_000, field)
    if field is GF128:
        add_scaled(b, np.ascontiguousarray(a), delta)
    else:
        add_word_times(b, np.ascontiguousarray(a[:, 0]), delta)
    assert np.array_equal(b, c)


@pytest.mark.parametrize("length", [5_000, 20_000])
def test_two_secrets_are_in_memory_whatever_the_length(
    length: int, small_sets: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    bases: list[weakref.ref[Any]] = []

    class Watched(SenderRound):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            if given[4] is not None:
                bases.append(weakref.ref(given[4]))

        def pieces(self, base: Any) -> Iterator[Any]:
            if self._field is not None:
                bases.append(weakref.ref(base))
            return super().pieces(base)

    def alive() -> int:
        return len({id(base) for each in bases if (base := each()) is not None})

    monkeypatch.setattr(vole, "SenderRound", Watched)
    counted: list[int] = []

    def send(channel: Any) -> None:
        sender = Sender(channel, length)
        counted.append(alive())
        for _ in range(0, length, 500):
            sender.take(500)
            counted.append(alive())

    def receive(channel: Any) -> None:
        Receiver(channel, length)

    both(send, receive)
    rounds = len(_field_shapes(length))
    assert rounds > 1 and len(bases) >= 2 * rounds
    # After the start that of the first round alone waits; later that of the round at work, and perhaps the next.
    assert counted[0] == 1 and max(counted) <= 2


def test_a_round_that_was_made_holds_no_secret() -> None:
    delta = odd_delta()
    shape = Lpn("wide", trees=2, k=2**14, depth=4)
    keys, got = bit_correlations(delta, shape.trees * shape.depth)
    b = random_blocks(shape.base)
    sent, received = both(
        lambda ch: SenderRound(ch, shape, delta, keys, b, 3),
        lambda ch: ReceiverRound(ch, shape, got, np.hstack([b, b]), 3),
    )
    for made in (sent, received):
        arrays = [each for each in vars(made).values() if isinstance(each, np.ndarray)]
        whole = [each if each.base is None else each.base for each in arrays]
        assert arrays and sum(each.nbytes for each in whole if isinstance(each, np.ndarray)) < 4096


def test_there_are_bits_enough_for_any_length() -> None:
    for degree in (64, 128):
        for length in (1, 10**6, 10**8, 10**9, 6 * 10**9):
            fields = _field_shapes(length)
            wanted = degree * fields[0].base + sum(shape.trees * shape.depth for shape in fields)
            shapes = _bit_shapes(wanted)
            made = sum(shape.rows for shape in shapes) - sum(shape.bit_base for shape in shapes[1:])
            assert wanted <= made < wanted + (1 << shapes[-1].depth) + LPN["b11"].trees * LPN["b11"].depth


def test_the_first_trees_of_a_set_have_its_secret_and_its_blocks() -> None:
    whole = LPN["b11"]
    few = whole.first(5000)
    assert (few.trees, few.k, few.depth, few.weight) == (3, whole.k, whole.depth, whole.weight)
    assert whole.first(10**9) == whole and whole.first(0).trees == 1


@pytest.mark.parametrize(
    ("step", "spoil"),
    [
        ("vole.extend", lambda data: data[:-8]),
        ("vole.code", lambda data: data + b"x"),
        ("vole.trees", lambda data: data[16:]),
    ],
)
def test_a_message_of_another_length_is_refused_with_its_step(step, spoil) -> None:
    left, right = ends()
    for end in (left, right):
        end.spoil = lambda name, data: spoil(data) if name == step else data
    with pytest.raises(ProtocolError, match=step):
        run(lambda c: Sender(c, 10), left, lambda c: Receiver(c, 10), right)


def test_masks_are_long_enough_for_all_pairs() -> None:
    assert [mask_bytes(n, n) for n in (0, 1, 2**20, 10**7, 10**8)] == [5, 5, 10, 11, 12]
    assert mask_bytes(10**8, 1) == 9


def test_blocks_are_numbers_and_back() -> None:
    numbers = [0, 1, 2**127, 2**128 - 1]
    assert numbers_from(blocks_from(numbers)) == numbers
