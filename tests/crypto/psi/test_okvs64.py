"""The key-value store of words: what goes in comes out, in both halves of a block; failure is seen."""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.kernels import okvs_reference as rows_reference
from crypto.kernels.blocks import numbers_from, random_blocks
from crypto.kernels.gf64 import gf64_inverse_reference, gf64_mul_reference
from crypto.psi import okvs, okvs64
from crypto.psi.okvs import EncodingFailed
from crypto.psi.okvs_shape import Shape, shape_for

SEED = b"sixteen bytes..."
MANY_BINS = Shape(items=3000, bins=7, capacity=560, sparse=840, dense=4, ssp=40)


def words(count: int) -> Any:
    return random_blocks(count)[:, 0].copy()


def encoded(parts: okvs.Partition, values: Any) -> Any:
    return okvs64.encode_bins(parts, 0, parts.shape.bins, values)


def decoded(parts: okvs.Partition, low: Any, high: Any) -> Any:
    store = np.ascontiguousarray(np.stack([low, high], axis=1))
    return okvs64.decode_bins(parts, 0, parts.shape.bins, store)


def coefficients(key: int, seed: bytes, shape: Shape) -> dict[int, int]:
    """The row of a key over the whole store, in plain Python."""
    chosen, columns, h = rows_reference.row(key, seed, shape.bins, shape.sparse)
    first = chosen * shape.width
    out = {first + column: 1 for column in columns}
    power = 1
    for j in range(shape.dense):
        power = gf64_mul_reference(power, h)
        out[first + shape.sparse + j] = power
    return out


def rank(rows: list[dict[int, int]]) -> int:
    """How many rows are linearly independent over GF(2^64)."""
    done: list[tuple[int, dict[int, int]]] = []
    for new in rows:
        left = dict(new)
        for pivot, old in done:
            by = left.get(pivot, 0)
            for place, each in old.items():
                left[place] = left.get(place, 0) ^ gf64_mul_reference(by, each)
        pivots = [place for place, each in left.items() if each]
        if pivots:
            by = gf64_inverse_reference(left[pivots[0]])
            done.append((pivots[0], {place: gf64_mul_reference(by, each) for place, each in left.items()}))
    return len(done)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 127, 128, 129, 4095, 10**5 + 1])
def test_every_value_comes_back_in_each_half_of_a_block(count: int) -> None:
    shape = shape_for(count)
    parts = okvs.partition(random_blocks(count), SEED, shape)
    low, high = words(count), words(count)
    first, second = encoded(parts, low), encoded(parts, high)
    assert first.shape == (shape.length,) and first.dtype == np.uint64
    assert np.array_equal(decoded(parts, first, second), np.stack([low, high], axis=1))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 500), st.integers(1, 5), st.integers(0, 6))
def test_every_value_comes_back_whatever_the_size_and_the_bins(count: int, bins: int, dense: int) -> None:
    shape = Shape(items=count, bins=bins, capacity=count, sparse=max(40, 3 * count), dense=dense, ssp=0)
    for attempt in range(20):
        parts = okvs.partition(random_blocks(count), bytes([attempt]) * 16, shape)
        values = words(count)
        try:
            store = encoded(parts, values)
        except EncodingFailed:
            continue
        assert np.array_equal(decoded(parts, store, store)[:, 0], values)
        return
    raise AssertionError("twenty sets had no store")


@pytest.mark.parametrize("count", [1, 50, 300])
def test_the_plain_reference_reads_the_same(count: int) -> None:
    shape = Shape(count, bins=3, capacity=count, sparse=2 * count + 3, dense=3, ssp=0)
    low, high = words(shape.length), words(shape.length)
    keys = random_blocks(20)
    parts = okvs.partition(keys, SEED, shape)
    got = decoded(parts, low, high)
    for place, key in zip(got, numbers_from(keys[parts.order]), strict=True):
        wanted = [0, 0]
        for at, by in coefficients(key, SEED, shape).items():
            wanted[0] ^= gf64_mul_reference(int(low[at]), by)
            wanted[1] ^= gf64_mul_reference(int(high[at]), by)
        assert place.tolist() == wanted


def test_bins_are_encoded_and_decoded_a_few_at_a_time() -> None:
    keys, values = random_blocks(3000), words(3000)
    parts = okvs.partition(keys, SEED, MANY_BINS)
    for low, high in ((0, 3), (3, 3), (3, 7)):
        some = values[parts.start[low] : parts.start[high]]
        store = okvs64.encode_bins(parts, low, high, some)
        assert store.shape == ((high - low) * MANY_BINS.width,)
        both = np.ascontiguousarray(np.stack([store, store], axis=1))
        assert np.array_equal(okvs64.decode_bins(parts, low, high, both)[:, 1], some)


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 12), st.integers(0, 2), st.integers(0, 4))
def test_encoding_fails_exactly_where_the_rows_are_dependent(count: int, dense: int, spare: int) -> None:
    shape = Shape(count, bins=1, capacity=count, sparse=max(3, count - dense + spare), dense=dense, ssp=0)
    for seed in (bytes([i]) * 16 for i in range(5)):
        keys, values = random_blocks(count), words(count)
        parts = okvs.partition(keys, seed, shape)
        if rank([coefficients(key, seed, shape) for key in numbers_from(keys)]) < count:
            with pytest.raises(EncodingFailed, match="take another seed"):
                encoded(parts, values)
        else:
            store = encoded(parts, values)
            assert np.array_equal(decoded(parts, store, store)[:, 0], values)


def test_a_core_of_hundreds_of_rows_is_solved_and_a_larger_one_refused() -> None:
    shape = Shape(400, bins=1, capacity=400, sparse=460, dense=6, ssp=0)
    parts, values = okvs.partition(random_blocks(400), SEED, shape), words(400)
    store = encoded(parts, values)
    assert np.array_equal(decoded(parts, store, store)[:, 0], values)
    shape = Shape(2000, bins=1, capacity=2000, sparse=2000, dense=2, ssp=0)
    with pytest.raises(EncodingFailed, match="peeling left"):
        encoded(okvs.partition(random_blocks(2000), SEED, shape), words(2000))


def test_a_bin_that_overflows_is_refused_and_a_key_that_stands_twice_is_not_retried() -> None:
    shape = Shape(3000, bins=7, capacity=400, sparse=900, dense=4, ssp=0)
    with pytest.raises(EncodingFailed, match="at most 400 are allowed"):
        encoded(okvs.partition(random_blocks(3000), SEED, shape), words(3000))
    for count in (2, 100, 3000):
        keys = random_blocks(count)
        keys[-1] = keys[0]
        with pytest.raises(ValueError, match="a key stands twice"):
            encoded(okvs.partition(keys, SEED, shape_for(count)), words(count))
    keys[:] = keys[0]
    with pytest.raises(ValueError, match="a key stands twice"):
        encoded(okvs.partition(keys, SEED, MANY_BINS), words(3000))


def test_free_places_are_fresh_in_every_store() -> None:
    keys, values = random_blocks(500), words(500)
    parts = okvs.partition(keys, SEED, shape_for(500))
    first, second = encoded(parts, values), encoded(parts, values)
    assert not (first == second).any()
    raw = np.concatenate([first, second])
    assert abs(np.bitwise_count(raw).mean() - 32) < 0.6 and len(np.unique(raw)) == len(raw)


def test_bins_of_one_store_do_not_share_randomness() -> None:
    # With an odd width the last block of a bin is cut; the next bin must not begin with what was cut.
    shape = Shape(4, bins=4, capacity=4, sparse=41, dense=2, ssp=0)
    assert shape.width % 2 == 1
    store = encoded(okvs.partition(random_blocks(0), SEED, shape), words(0))
    assert len(np.unique(store)) == shape.length


def test_arrays_of_another_form_are_refused() -> None:
    parts = okvs.partition(random_blocks(10), SEED, shape_for(10))
    length = parts.shape.length
    with pytest.raises(ValueError, match="values: a contiguous"):
        encoded(parts, words(9))
    with pytest.raises(ValueError, match="values: a contiguous"):
        encoded(parts, random_blocks(10)[:, 0])
    with pytest.raises(ValueError, match="store: a contiguous"):
        okvs64.decode_bins(parts, 0, 1, random_blocks(length - 1))
    with pytest.raises(ValueError, match="bins 0 to 2 of a partition of 1"):
        okvs64.decode_bins(parts, 0, 2, random_blocks(2 * length))


def test_no_value_shows_in_the_store() -> None:
    # A store of the same value everywhere is as random as any.
    count = 4000
    parts = okvs.partition(random_blocks(count), secrets.token_bytes(16), shape_for(count))
    store = encoded(parts, np.zeros(count, dtype=np.uint64))
    counts = np.bincount(store.view(np.uint8), minlength=256)
    statistic = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    assert 100 < statistic < 450  # mean 255, standard deviation 22.6
