"""Keys in bounded memory: the same as Python's dictionary says, in memory and in a file."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.psi.bins import KeySet, Layout, of_array
from crypto.psi.key_store import MOST_ROWS, KeyStore
from crypto.psi.okvs import partition
from crypto.psi.okvs_shape import Shape
from crypto.psi.shelf import Shelf
from tests.crypto.psi.sets import random_items, two_sets

SEED = b"sixteen bytes ok"


def numbers(blocks: Any) -> list[int]:
    return [int(low) | int(high) << 64 for low, high in blocks.tolist()]


def gathered(blocks: Any, memory: int, batch: int = 1000) -> KeyStore:
    store = KeyStore(memory)
    for at in range(0, len(blocks), batch):
        some = blocks[at : at + batch]
        store.add(some, np.arange(at, at + len(some)))
    store.collapse()
    return store


def by_key(store: KeyStore) -> dict[int, list[int]]:
    """Rows of each key, as the store tells them."""
    keys = numbers(store.whole())
    rows, places = store.rows_of(np.arange(len(store)))
    found: dict[int, list[int]] = {}
    for row, place in zip(rows.tolist(), places.tolist(), strict=True):
        found.setdefault(keys[place], []).append(row)
    return found


def said(blocks: Any) -> dict[int, list[int]]:
    """Rows of each key, as Python has them."""
    found: dict[int, list[int]] = {}
    for row, key in enumerate(numbers(blocks)):
        found.setdefault(key, []).append(row)
    return found


@pytest.mark.parametrize("memory", [2**30, 0], ids=["memory", "file"])
@pytest.mark.parametrize("count", [0, 1, 2, 4096, 4097, 30_000])
def test_each_key_is_there_once_with_its_rows(count: int, memory: int) -> None:
    blocks = random_items(count)
    store = gathered(blocks, memory)
    assert len(store) == count and store.duplicates == 0 and by_key(store) == said(blocks)
    assert (store.spilled > 0) == (count > 0 and memory == 0)


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_rows_that_share_keys_are_told_in_their_order(data: st.DataObject) -> None:
    pool = random_items(data.draw(st.integers(1, 40)))
    drawn = data.draw(st.lists(st.integers(0, len(pool) - 1), max_size=300))
    blocks = pool[drawn].reshape(-1, 2)
    store = gathered(blocks, data.draw(st.sampled_from([0, 2**30])), batch=data.draw(st.integers(1, 400)))
    assert by_key(store) == said(blocks)
    assert len(store) + store.duplicates == store.rows == len(drawn)


@pytest.mark.parametrize("memory", [2**30, 0], ids=["memory", "file"])
def test_planted_items_are_there_and_belong_to_no_row(memory: int) -> None:
    blocks = np.concatenate([pool := random_items(3000), pool[:700]])
    store = gathered(blocks, memory)
    before = len(store)
    extra = random_items(64)
    store.plant(extra)
    assert len(store) == before + 64 and store.duplicates == 700
    found = by_key(store)
    assert [found.pop(key) for key in numbers(extra)] == [[MOST_ROWS + i] for i in range(64)]
    assert found == said(blocks)


def test_some_items_are_told_in_the_order_asked() -> None:
    blocks = np.concatenate([pool := random_items(2000), pool[:500], pool[:9]])
    store = gathered(blocks, 0)
    asked = np.random.default_rng(1).permutation(len(store))[:777]
    keys, rows_by_key = numbers(store.whole()), said(blocks)
    rows, places = store.rows_of(asked)
    wanted = [(row, i) for i, item in enumerate(asked.tolist()) for row in rows_by_key[keys[item]]]
    assert list(zip(rows.tolist(), places.tolist(), strict=True)) == wanted


@pytest.mark.parametrize("item", [-1, 10])
def test_an_item_that_is_not_there_is_refused(item: int) -> None:
    with pytest.raises(IndexError, match="0 to 9"):
        gathered(random_items(10), 0).rows_of(np.array([3, item]))


def test_a_row_beyond_what_can_be_numbered_is_refused() -> None:
    with pytest.raises(ValueError, match=f"at most {MOST_ROWS} rows"):
        KeyStore(0).add(random_items(1), np.array([MOST_ROWS]))


def test_a_full_disk_is_told_and_the_file_has_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = KeyStore(0, tmp_path)
    store.add(random_items(5000), np.arange(5000))
    assert store.spilled > 0 and list(tmp_path.iterdir()) == []

    def full(*given: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        store.add(random_items(5000), np.arange(5000, 10_000))
    store.close()


def test_a_file_that_was_cut_off_is_noticed() -> None:
    shelf = Shelf(0)
    kept = shelf.put(np.arange(1000))
    assert shelf._file is not None
    os.ftruncate(shelf._file.fileno(), 100)
    with pytest.raises(OSError, match="ends before"):
        kept.whole()


# ---- bins -----------------------------------------------------------------------------------------------------------


def layout_of(keys: KeySet, shape: Shape, portions: list[int]) -> list[tuple[set[int], list[int]]]:
    """Names and counts of rows by portion of bins."""
    layout = Layout(keys, SEED, shape)
    out = []
    for count in portions:
        part = layout.take(count)
        out.append((set(part.order.tolist()), np.diff(part.start).tolist()))
    return out


@pytest.mark.parametrize("bins", [1, 7, 256, 300, 1000])
@pytest.mark.parametrize("where", ["array", "store", "file", "mixed"])
def test_bins_taken_in_portions_are_those_of_the_whole(
    bins: int, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crypto.psi.bins.AT_ONCE", 500)
    keys = random_items(5000)
    source: KeySet = {
        "array": lambda: of_array(keys),
        "store": lambda: gathered(keys, 2**30),
        "file": lambda: gathered(keys, 0),
        "mixed": lambda: gathered(keys, 0).mixed(SEED),
    }[where]()
    whole, names = [], []
    for piece in range(256):
        some, called = source.pieces(piece, piece + 1)
        whole.append(some)
        names.append(called)
    order = np.concatenate(names)
    shape = Shape(5000, bins=bins, capacity=5000, sparse=6000, dense=1, ssp=40)
    parts = partition(np.concatenate(whole), SEED, shape)
    portions = [min(3, bins - first) for first in range(0, bins, 3)]
    low = 0
    for portion, (found, counts) in zip(portions, layout_of(source, shape, portions), strict=True):
        here = slice(int(parts.start[low]), int(parts.start[low + portion]))
        assert found == set(order[parts.order[here]].tolist())
        assert counts == np.diff(parts.start[low : low + portion + 1]).tolist()
        low += portion


def test_rows_of_a_layout_are_those_of_their_keys() -> None:
    keys = random_items(3000)
    shape = Shape(3000, bins=40, capacity=3000, sparse=4000, dense=1, ssp=40)
    parts = partition(keys, SEED, shape)
    row_of = dict(zip(parts.order.tolist(), parts.rows.tolist(), strict=True))
    part = Layout(of_array(keys), SEED, shape).take(40)
    assert [row_of[name] for name in part.order.tolist()] == part.rows.tolist()


def test_mixing_keeps_names_and_keys_apart() -> None:
    left, right = two_sets(500, 400, 100, 1)
    mixed = [of_array(each).mixed(SEED) for each in (left, right)]
    named: list[dict[int, int]] = []
    for each in mixed:
        pieces = [each.pieces(number, number + 4) for number in range(0, 256, 4)]
        named.append(
            {
                name: key
                for keys, names in pieces
                for key, name in zip(numbers(keys), names.tolist(), strict=True)
            }
        )
    assert [sorted(each) for each in named] == [list(range(500)), list(range(400))]
    assert len(set(named[0].values()) & set(named[1].values())) == 100


def test_more_bins_than_there_are_cannot_be_taken() -> None:
    layout = Layout(
        of_array(random_items(10)), SEED, Shape(10, bins=4, capacity=10, sparse=20, dense=1, ssp=0)
    )
    layout.take(3)
    with pytest.raises(ValueError, match="bins 3 to 5 of a store of 4"):
        layout.take(2)
