"""Tags: the kernels beside plain Python, and which tags two sides share."""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.kernels import masks
from crypto.kernels.aes import FIXED_KEY
from crypto.kernels.blocks import blocks_from, gf_mul_reference, numbers_from
from crypto.psi import wide
from crypto.psi.okvs_shape import shape_for
from crypto.psi.sizes import Sizes
from crypto.psi.tags import cut, match

NUMBER = st.integers(0, 2**128 - 1)
TAG = 0x7465_6B73_616D


def permuted(value: int) -> int:
    cipher = Cipher(algorithms.AES(FIXED_KEY), modes.ECB()).encryptor()
    return int.from_bytes(cipher.update(value.to_bytes(16, "little")), "little")


def value_of(row: int) -> int:
    return permuted(row) ^ row


def tag_of(decoded: int) -> int:
    inner = permuted(decoded)
    return permuted(inner ^ TAG) ^ inner


@settings(deadline=None)
@given(st.lists(NUMBER, max_size=20))
def test_values_are_the_permutation_and_the_row(rows: list[int]) -> None:
    out = np.empty((len(rows), 2), dtype=np.uint64)
    masks.values(blocks_from(rows), out)
    assert numbers_from(out) == [value_of(row) for row in rows]


@settings(deadline=None)
@given(st.lists(NUMBER, max_size=20))
def test_tags_of_the_receiver_are_the_hash_that_is_said(decoded: list[int]) -> None:
    out = blocks_from(decoded)
    masks.receiver_tags(out)
    assert numbers_from(out) == [tag_of(one) for one in decoded]


@settings(deadline=None)
@given(st.lists(st.tuples(NUMBER, NUMBER), max_size=20), NUMBER)
def test_tags_of_the_sender_are_the_hash_less_the_value_times_delta(
    pairs: list[tuple[int, int]], delta: int
) -> None:
    rows, decoded = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    out = blocks_from(decoded)
    masks.sender_tags(blocks_from(rows), blocks_from([delta]), out)
    assert numbers_from(out) == [tag_of(one ^ gf_mul_reference(value_of(row), delta)) for row, one in pairs]


@settings(deadline=None)
@given(st.lists(NUMBER, max_size=20), st.integers(1, 16))
def test_packing_takes_the_first_bytes_and_unpacking_puts_zeros_behind(tags: list[int], size: int) -> None:
    packed = np.empty((len(tags), size), dtype=np.uint8)
    masks.pack(blocks_from(tags), size, packed)
    assert packed.tobytes() == b"".join(tag.to_bytes(16, "little")[:size] for tag in tags)
    back = np.full((len(tags), 2), 2**64 - 1, dtype=np.uint64)
    masks.unpack(packed, size, back)
    short = [tag % 2 ** (8 * size) for tag in tags]
    assert numbers_from(back) == short
    own = blocks_from(tags)
    cut(own, size)
    assert numbers_from(own) == short


@settings(deadline=None)
@given(
    # Few different low halves, so that tags meet in the table and differ in their high halves only.
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), unique=True, min_size=1, max_size=24),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=24),
)
def test_a_match_is_found_where_python_finds_it(
    theirs: list[tuple[int, int]], mine: list[tuple[int, int]]
) -> None:
    rows, places = match(np.array(mine, dtype=np.uint64).reshape(-1, 2), np.array(theirs, dtype=np.uint64))
    assert list(zip(rows.tolist(), places.tolist(), strict=True)) == [
        (row, theirs.index(tag)) for row, tag in enumerate(mine) if tag in theirs
    ]


def test_tags_that_were_chosen_alike_are_found_without_long_searches() -> None:
    theirs = np.ones((50_000, 2), dtype=np.uint64)
    theirs[:, 1] = np.arange(50_000)
    rows, places = match(theirs[::-1].copy(), theirs)
    assert rows.tolist() == list(range(50_000)) and places.tolist() == list(range(49_999, -1, -1))


def test_equal_tags_are_found_at_the_first() -> None:
    theirs = np.ones((50_000, 2), dtype=np.uint64)
    assert [found.tolist() for found in match(theirs[:3], theirs)] == [[0, 1, 2], [0, 0, 0]]


@settings(deadline=None)
@given(st.lists(NUMBER, unique=True, max_size=20), st.integers(0, 20))
def test_a_shuffled_bin_holds_every_tag_at_the_place_that_is_told(tags: list[int], spare: int) -> None:
    room = len(tags) + spare
    sizes = Sizes(room, room, shape_for(room), room, 128, 16 * room)
    code, order = wide.pack_bin(blocks_from(tags), sizes)
    out = wide.unpack_bin(code, sizes)
    assert out is not None and sorted(order.tolist()) == list(range(room))
    told = numbers_from(out)
    assert all(told[place] == tags[row] for place, row in enumerate(order.tolist()) if row < len(tags))
