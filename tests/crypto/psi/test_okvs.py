"""The oblivious key-value store: what goes in comes out, failure is seen, free places are random, sizes are right."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from fractions import Fraction
from math import comb, log2, sqrt
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.kernels import okvs_kernels as kernels
from crypto.kernels import okvs_reference as reference
from crypto.kernels.aes import Generator
from crypto.kernels.blocks import numbers_from, random_blocks
from crypto.kernels.compiled import PORTABLE
from crypto.psi import okvs, okvs_shape
from crypto.psi.okvs import EncodingFailed, Shape, shape_for
from crypto.psi.parameters import LAMBDA

ROOT = Path(__file__).parents[3]
SEED = b"sixteen bytes..."
SIZES = [0, 1, 2, 3, 127, 128, 129, 4095]
MANY_BINS = Shape(items=3000, bins=7, capacity=560, sparse=840, dense=4, ssp=40)
Blocks = npt.NDArray[np.uint64]


def pairs(count: int) -> tuple[Blocks, Blocks]:
    return random_blocks(count), random_blocks(count)


def stored(keys: Blocks, values: Blocks, shape: Shape) -> tuple[bytes, Blocks]:
    return okvs.encode_with_fresh_seed(keys, lambda _: values, shape)


# ---- encode and decode ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [*SIZES, 10**5 + 1])
def test_every_value_comes_back(count: int) -> None:
    keys, values = pairs(count)
    shape = shape_for(count)
    seed, store = stored(keys, values, shape)
    assert len(seed) == 16 and store.shape == (shape.length, 2)
    assert np.array_equal(okvs.decode(keys, store, seed, shape), values)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 700), st.integers(1, 5))
def test_every_value_comes_back_whatever_the_size_and_the_bins(count: int, bins: int) -> None:
    shape = Shape(items=count, bins=bins, capacity=count, sparse=max(40, 2 * count // bins), dense=6, ssp=0)
    keys, values = pairs(count)
    seed, store = stored(keys, values, shape)
    assert np.array_equal(okvs.decode(keys, store, seed, shape), values)


def test_a_store_may_hold_fewer_pairs_than_it_is_made_for() -> None:
    keys, values = pairs(50)
    seed, store = stored(keys, values, shape_for(200))
    assert np.array_equal(okvs.decode(keys, store, seed, shape_for(200)), values)


@pytest.mark.parametrize("count", [1, 2, 40])
def test_the_plain_reference_reads_the_same(count: int) -> None:
    keys, values = pairs(count)
    shape = Shape(items=count, bins=2, capacity=count, sparse=3 * count + 9, dense=3, ssp=0)
    seed, store = stored(keys, values, shape)
    places = numbers_from(store)
    for key, value in zip(numbers_from(keys), numbers_from(values), strict=True):
        assert reference.decode(key, places, seed, 2, shape.sparse, shape.dense) == value
    others = random_blocks(5)
    assert numbers_from(okvs.decode(others, store, seed, shape)) == [
        reference.decode(key, places, seed, 2, shape.sparse, shape.dense) for key in numbers_from(others)
    ]


def test_decoding_is_linear_in_the_store() -> None:
    keys = random_blocks(500)
    one, two = random_blocks(MANY_BINS.length), random_blocks(MANY_BINS.length)
    both = okvs.decode(keys, one ^ two, SEED, MANY_BINS)
    assert np.array_equal(
        both, okvs.decode(keys, one, SEED, MANY_BINS) ^ okvs.decode(keys, two, SEED, MANY_BINS)
    )


def test_another_seed_and_other_keys_give_what_looks_random() -> None:
    keys, values = pairs(3000)
    seed, store = stored(keys, values, MANY_BINS)
    for wrong in (
        okvs.decode(keys, store, secrets.token_bytes(16), MANY_BINS),
        okvs.decode(random_blocks(3000), store, seed, MANY_BINS),
    ):
        assert not (wrong == values).all(axis=1).any()
        assert_random(wrong)


def test_one_changed_bit_of_a_key_changes_its_value() -> None:
    keys, values = pairs(300)
    shape = shape_for(300)
    seed, store = stored(keys, values, shape)
    for word, bit in ((0, 0), (0, 63), (1, 0), (1, 63)):
        near = keys.copy()
        near[:, word] ^= np.uint64(1 << bit)
        assert not (okvs.decode(near, store, seed, shape) == values).any()


def test_threads_and_a_given_output_change_nothing() -> None:
    keys, values = pairs(3000)
    seed, store = okvs.encode_with_fresh_seed(keys, lambda _: values, MANY_BINS, threads=3)
    out = np.empty_like(values)
    assert okvs.decode(keys, store, seed, MANY_BINS, out, threads=2) is out
    assert np.array_equal(out, values)


def test_a_store_that_may_not_be_written_to_is_read() -> None:
    keys, values = pairs(100)
    seed, store = stored(keys, values, shape_for(100))
    view = np.frombuffer(store.tobytes(), dtype=np.uint64).reshape(-1, 2)
    assert not view.flags.writeable
    assert np.array_equal(okvs.decode(keys, view, seed, shape_for(100)), values)


# ---- bins -----------------------------------------------------------------------------------------------------------


def test_a_partition_is_the_keys_sorted_by_the_bin_of_the_reference() -> None:
    keys = random_blocks(300)
    parts = okvs.partition(keys, SEED, MANY_BINS)
    bins = [reference.row(key, SEED, 7, MANY_BINS.sparse)[0] for key in numbers_from(keys)]
    assert parts.order.tolist() == sorted(range(300), key=lambda i: bins[i])
    assert np.diff(parts.start).tolist() == [bins.count(b) for b in range(7)]


def test_bins_are_encoded_and_decoded_a_few_at_a_time() -> None:
    keys, values = pairs(3000)
    others = np.concatenate([keys[:100], random_blocks(400)])
    for _ in range(5):
        seed = secrets.token_bytes(16)
        mine, theirs = (okvs.partition(each, seed, MANY_BINS) for each in (keys, others))
        got = np.empty((500, 2), dtype=np.uint64)
        for first, last in ((0, 1), (1, 4), (4, 7), (7, 7)):
            part = okvs.encode_bins(
                mine, first, last, values[mine.order[mine.start[first] : mine.start[last]]]
            )
            assert part.shape == ((last - first) * MANY_BINS.width, 2)
            these = theirs.order[theirs.start[first] : theirs.start[last]]
            got[these] = okvs.decode_bins(theirs, first, last, part)
        assert np.array_equal(got[:100], values[:100])
        assert not (got[100:] == 0).any()


@pytest.mark.parametrize(("first", "last"), [(-1, 2), (3, 2), (5, 8)])
def test_bins_that_are_not_there_are_refused(first: int, last: int) -> None:
    parts = okvs.partition(random_blocks(30), SEED, MANY_BINS)
    with pytest.raises(ValueError, match="of a store of 7"):
        okvs.encode_bins(parts, first, last, random_blocks(0))
    with pytest.raises(ValueError, match="of a store of 7"):
        okvs.decode_bins(parts, first, last, random_blocks(0))


def test_what_a_partition_shows_of_itself_has_no_rows() -> None:
    assert "rows" not in repr(okvs.partition(random_blocks(3), SEED, MANY_BINS))


# ---- failure --------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 12), st.integers(0, 2), st.integers(0, 4))
def test_encoding_fails_exactly_where_the_rows_are_dependent(count: int, dense: int, spare: int) -> None:
    # Sparse columns so scarce that peeling seldom gets through: the elimination of what is left is what is tested.
    shape = Shape(count, bins=1, capacity=count, sparse=max(3, count - dense + spare), dense=dense, ssp=0)
    for seed in (bytes([i]) * 16 for i in range(5)):
        keys, values = pairs(count)
        rows = [reference.coefficients(key, seed, 1, shape.sparse, shape.dense) for key in numbers_from(keys)]
        if reference.rank(rows) < count:
            with pytest.raises(EncodingFailed, match="take another seed"):
                okvs.encode(keys, values, seed, shape)
        else:
            store = okvs.encode(keys, values, seed, shape)
            assert np.array_equal(okvs.decode(keys, store, seed, shape), values)


def test_a_core_of_hundreds_of_rows_is_solved() -> None:
    # Above the threshold of peeling (0.82 rows a column) and below that of full rank (0.92).
    shape = Shape(400, bins=1, capacity=400, sparse=460, dense=6, ssp=0)
    keys, values = pairs(400)
    seed, store = stored(keys, values, shape)
    assert np.array_equal(okvs.decode(keys, store, seed, shape), values)


def test_a_large_core_is_refused() -> None:
    keys, values = pairs(2000)
    with pytest.raises(EncodingFailed, match="peeling left"):
        okvs.encode(keys, values, SEED, Shape(2000, bins=1, capacity=2000, sparse=2000, dense=2, ssp=0))


def test_an_overflowing_bin_is_refused_and_not_cut() -> None:
    keys, values = pairs(3000)
    with pytest.raises(EncodingFailed, match="at most 400 are allowed"):
        okvs.encode(keys, values, SEED, Shape(3000, bins=7, capacity=400, sparse=900, dense=4, ssp=0))


def test_a_failed_seed_is_replaced_and_its_values_with_it() -> None:
    # Three rows over four columns and no dense ones: dependent for one seed in ten or so.
    shape = Shape(3, bins=1, capacity=3, sparse=4, dense=0, ssp=0)
    most = 0
    for _ in range(200):
        keys = random_blocks(3)
        tried: list[bytes] = []

        def values_of(seed: bytes, tried: list[bytes] = tried) -> Blocks:
            tried.append(seed)
            return Generator(seed).blocks(3)

        seed, store = okvs.encode_with_fresh_seed(keys, values_of, shape, attempts=60)
        assert seed == tried[-1] and len(set(tried)) == len(tried)
        assert np.array_equal(okvs.decode(keys, store, seed, shape), Generator(seed).blocks(3))
        most = max(most, len(tried))
    assert most > 1


def test_when_no_seed_works_that_is_said() -> None:
    keys, values = pairs(4)
    with pytest.raises(EncodingFailed, match="3 seeds were tried"):
        okvs.encode_with_fresh_seed(keys, lambda _: values, Shape(4, 1, 4, 3, 0, 0), attempts=3)


@pytest.mark.parametrize("count", [2, 100, 3000])
def test_a_key_that_stands_twice_is_refused_and_not_retried(count: int) -> None:
    keys, values = pairs(count)
    keys[-1] = keys[0]
    asked = []
    with pytest.raises(ValueError, match="a key stands twice"):
        okvs.encode_with_fresh_seed(keys, lambda seed: asked.append(seed) or values, shape_for(count))
    assert len(asked) == 1


def test_many_equal_keys_are_refused_as_duplicates_and_not_as_overflow() -> None:
    keys, values = pairs(2000)
    keys[:] = keys[0]
    with pytest.raises(ValueError, match="a key stands twice"):
        okvs.encode(keys, values, SEED, MANY_BINS)
    with pytest.raises(ValueError, match="a key stands twice"):
        okvs.encode(keys, values, SEED, shape_for(2000))


def test_arrays_of_another_form_are_refused() -> None:
    keys, values = pairs(10)
    shape = shape_for(10)
    store = random_blocks(shape.length)
    with pytest.raises(ValueError, match="values: 10 blocks"):
        okvs.encode(keys, values[:9], SEED, shape)
    with pytest.raises(ValueError, match="11 pairs, the store is made for 10"):
        okvs.encode(*pairs(11), SEED, shape)
    with pytest.raises(ValueError, match="store: 47 blocks are needed, not 46"):
        okvs.decode(keys, store[:-1], SEED, shape)
    with pytest.raises(ValueError, match="keys: a contiguous"):
        okvs.decode(keys.astype(np.int64), store, SEED, shape)
    with pytest.raises(ValueError, match="keys: a contiguous"):
        okvs.decode(keys[::2], store, SEED, shape)
    with pytest.raises(ValueError, match="16 bytes"):
        okvs.decode(keys, store, SEED[:-1], shape)
    with pytest.raises(ValueError, match="out: 10 blocks"):
        okvs.decode(keys, store, SEED, shape, out=values[:9])


# ---- randomness -----------------------------------------------------------------------------------------------------


def assert_random(blocks: Blocks) -> None:
    """Each of the 128 bits is set in about half of the blocks."""
    bits = np.unpackbits(np.ascontiguousarray(blocks).view(np.uint8).reshape(len(blocks), 16), axis=1)
    assert (abs(bits.mean(axis=0) - 0.5) < 3.5 / sqrt(len(blocks))).all()


def test_every_place_is_random_although_pairs_and_seed_stay_the_same() -> None:
    keys, values = pairs(30)
    values[:] = 0
    shape = Shape(30, bins=1, capacity=30, sparse=60, dense=2, ssp=0)
    seed, _ = stored(keys, values, shape)
    stores = np.stack([okvs.encode(keys, values, seed, shape) for _ in range(600)])
    assert stores.any(axis=2).all()
    for place in range(shape.length):
        assert_random(np.ascontiguousarray(stores[:, place]))
        assert len(np.unique(stores[:, place], axis=0)) == 600


def test_places_of_one_store_that_no_row_touches_differ_from_all_others() -> None:
    keys, values = pairs(5)
    shape = shape_for(4000)
    _, store = stored(keys, values, shape)
    assert len(np.unique(store, axis=0)) == shape.length
    assert_random(store)


def test_a_solved_core_leaves_the_free_places_random() -> None:
    # Two rows over the same three columns: peeling takes neither.
    shape = Shape(2, bins=1, capacity=2, sparse=3, dense=4, ssp=0)
    keys, values = pairs(2)
    stores = np.stack([okvs.encode(keys, values, SEED, shape) for _ in range(600)])
    for place in range(shape.length):
        assert_random(np.ascontiguousarray(stores[:, place]))
    # Seven places less two equations leave five dimensions: no fewer.
    assert len(np.unique(stores.reshape(600, -1), axis=0)) == 600


def test_columns_are_distinct_and_each_choice_is_as_likely() -> None:
    sparse, count = 5, 60_000
    places = np.empty((count, 3), dtype=np.int64)
    kernels.expand(random_blocks(count), np.uint64(sparse), places, np.empty((count, 0, 2), dtype=np.uint64))
    choices, seen = np.unique(places, axis=0, return_counts=True)
    assert all(len(set(choice)) == 3 for choice in choices.tolist())
    assert len(choices) == 60
    assert (abs(seen - count / 60) < 5 * sqrt(count / 60)).all()


# ---- sizes ----------------------------------------------------------------------------------------------------------


def test_sizes_are_those_of_the_table() -> None:
    said = okvs_shape.__doc__ or ""
    table = [line.replace(",", "").split() for line in said.splitlines() if line.startswith("    ")]
    table = [row for row in table if row[0].isdigit()]
    assert len(table) == 10
    for pairs_, *rest in table:
        shape = shape_for(int(pairs_))
        told = [shape.bins, shape.capacity, shape.sparse, shape.dense, shape.ssp]
        assert [*map(str, told), f"{shape.length / int(pairs_):.4f}"] == rest


def test_one_bin_has_the_published_expansion() -> None:
    assert okvs_shape._columns(2**14, LAMBDA) == (20770, 2)  # e = 1.2676
    assert okvs_shape._columns(2**20, LAMBDA)[0] == pytest.approx(1.2274 * 2**20, rel=1e-4)


def test_the_whole_store_stays_within_the_bound() -> None:
    for items in (*range(49_152, 400_000, 17_001), 10**6, 10**7, 10**8, 10**9):
        shape = shape_for(items)
        assert shape.ssp >= LAMBDA + 1 + log2(shape.bins)
        assert shape.capacity * shape.bins >= items
        assert okvs_shape._log2_overflow(items, shape.bins, shape.capacity) <= -shape.ssp
        assert okvs_shape._log2_overflow(items, shape.bins, shape.capacity - 1) > -shape.ssp
    assert all(shape_for(n).length / n <= 1.32 for n in (10**6, 2**20, 10**7, 10**8))


@pytest.mark.parametrize(("items", "bins"), [(300, 3), (1000, 7), (700, 30)])
def test_the_bound_on_a_bin_is_the_binomial_tail(items: int, bins: int) -> None:
    share = Fraction(1, bins)
    for ssp in (5, 20, 45):
        capacity = okvs_shape._capacity(items, bins, ssp)

        def tail(above: int) -> Fraction:
            terms = (
                comb(items, k) * share**k * (1 - share) ** (items - k) for k in range(above + 1, items + 1)
            )
            return sum(terms, Fraction(0))

        exact, said = log2(tail(capacity)), float(okvs_shape._log2_overflow(items, bins, capacity))
        assert exact <= said <= exact + 0.3
        assert said <= -ssp
        assert log2(tail(capacity - 1)) > -ssp - 0.3


def test_sizes_do_not_hang_on_the_callers_decimal_context() -> None:
    from decimal import ROUND_UP, localcontext

    before = shape_for(10**6 + 3)
    shape_for.cache_clear()
    with localcontext() as context:
        context.prec, context.rounding = 5, ROUND_UP
        assert shape_for(10**6 + 3) == before


@pytest.mark.parametrize("items", [-1, 2**32])
def test_a_number_of_pairs_out_of_range_is_refused(items: int) -> None:
    with pytest.raises(ValueError, match="a store holds 0 to"):
        shape_for(items)


def test_a_shape_that_cannot_be_is_refused() -> None:
    for change in ({"bins": 0}, {"sparse": 2}, {"sparse": 2**21 + 1}, {"dense": -1}):
        with pytest.raises(ValueError, match=r"a store has|sizes of a store"):
            Shape(**{"items": 1, "bins": 1, "capacity": 1, "sparse": 9, "dense": 1, "ssp": 40, **change})


def large_cores(items: int, ssp: int, times: int) -> int:
    """How often peeling leaves more of so many random rows than the dense columns are for."""
    sparse, _ = okvs_shape._columns(items, ssp)
    room = okvs._Room(items, sparse)
    generator = Generator(secrets.token_bytes(16))
    large = 0
    for _ in range(times):
        gone = kernels.peel(
            generator.blocks(items), np.uint64(sparse), room.packed, room.column, room.order, room.pivots
        )
        large += items - int(gone) > 64
    return large


@pytest.mark.slow
@pytest.mark.parametrize(("ssp", "times"), [(11, 300_000), (13, 800_000)])
def test_systems_fail_as_often_as_the_table_says(ssp: int, times: int) -> None:
    expected = times * 2.0**-ssp
    assert abs(large_cores(1024, ssp, times) - expected) < 5 * sqrt(expected)


def test_systems_do_not_fail_more_often_than_the_table_says() -> None:
    expected = 10_000 * 2.0**-8
    assert large_cores(1024, 8, 10_000) < expected + 5 * sqrt(expected)


@pytest.mark.slow
def test_small_cores_are_solved_by_the_dense_columns() -> None:
    # Rows that peeling leaves in some hundred of these stores are no failure: the elimination finishes them.
    shape = shape_for(129)
    core = 0
    for _ in range(20_000):
        keys, values = pairs(129)
        seed = secrets.token_bytes(16)
        parts = okvs.partition(keys, seed, shape)
        room = okvs._Room(129, shape.sparse)
        gone = kernels.peel(
            parts.rows, np.uint64(shape.sparse), room.packed, room.column, room.order, room.pivots
        )
        if gone < 129:
            core += 1
            store = okvs.encode(keys, values, seed, shape)
            assert np.array_equal(okvs.decode(keys, store, seed, shape), values)
    assert core > 20


# ---- other processors -----------------------------------------------------------------------------------------------

SAME = """
import hashlib, secrets
import numpy as np
secrets.token_bytes = bytes
from crypto.kernels.aes import Generator
from crypto.kernels.compiled import native
from crypto.psi import okvs
state = hashlib.sha256()
numbers = Generator(b"portable or not!")
for shape in (okvs.shape_for(129), okvs.Shape(300, 3, 200, 300, 3, 0), okvs.Shape(4, 1, 4, 3, 3, 0)):
    keys, values = numbers.blocks(shape.items), numbers.blocks(shape.items)
    for number in range(20):
        try:
            store = okvs.encode(keys, values, bytes([number]) * 16, shape)
        except okvs.EncodingFailed as failed:
            state.update(str(failed).encode())
            continue
        state.update(store)
        state.update(okvs.decode(numbers.blocks(50), store, bytes(16), shape))
print(native(), state.hexdigest())
"""


@pytest.mark.slow
def test_the_portable_path_gives_the_same_bytes() -> None:
    told = []
    for portable in ("0", "1"):
        environment = {**os.environ, PORTABLE: portable, "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(
            [sys.executable, "-c", SAME], env=environment, capture_output=True, text=True, check=True
        )
        told.append(ended.stdout.split())
    assert told[1][0] == "False"
    assert told[0][1] == told[1][1]
