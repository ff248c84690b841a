"""Blocks of 128 bits: the field, AES, and that the portable path gives the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.kernels.aes import FIXED_KEY, Generator, expand_key, expand_key_reference, fill, hash_blocks
from crypto.kernels.blocks import (
    add_scaled,
    blocks_from,
    gf_mul_reference,
    numbers_from,
    random_blocks,
    scale,
)
from crypto.kernels.compiled import PORTABLE

ELEMENT = st.integers(0, 2**128 - 1)
ROOT = Path(__file__).parents[3]


def aes(key: bytes, block: bytes) -> bytes:
    cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return cipher.update(block)


# ---- the field --------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(ELEMENT, ELEMENT)
def test_products_are_those_of_shift_and_add(a: int, b: int) -> None:
    out = np.empty((1, 2), dtype=np.uint64)
    scale(blocks_from([a]), blocks_from([b]), out)
    assert numbers_from(out) == [gf_mul_reference(a, b)]


@settings(deadline=None)
@given(ELEMENT, ELEMENT, ELEMENT)
def test_the_reference_is_a_field(a: int, b: int, c: int) -> None:
    assert gf_mul_reference(a, b) == gf_mul_reference(b, a)
    assert gf_mul_reference(a, b ^ c) == gf_mul_reference(a, b) ^ gf_mul_reference(a, c)
    assert gf_mul_reference(gf_mul_reference(a, b), c) == gf_mul_reference(a, gf_mul_reference(b, c))
    assert gf_mul_reference(a, 1) == a


def test_the_modulus_is_the_one_that_is_said() -> None:
    assert gf_mul_reference(1 << 127, 2) == 0x87


def test_every_element_but_zero_has_an_inverse() -> None:
    a = numbers_from(random_blocks(1))[0] or 1
    power, result = a, 1
    for _ in range(127):  # a^(2^128 - 2)
        power = gf_mul_reference(power, power)
        result = gf_mul_reference(result, power)
    assert gf_mul_reference(a, result) == 1


@settings(deadline=None)
@given(st.lists(st.tuples(ELEMENT, ELEMENT), max_size=9), ELEMENT)
def test_a_scaled_vector_is_added_in_place(rows: list[tuple[int, int]], by: int) -> None:
    total = blocks_from([a for a, _ in rows]).reshape(-1, 2)
    add_scaled(total, blocks_from([b for _, b in rows]).reshape(-1, 2), blocks_from([by]))
    assert numbers_from(total) == [a ^ gf_mul_reference(b, by) for a, b in rows]


# ---- AES --------------------------------------------------------------------------------------------------------


def test_the_key_schedule_is_that_of_the_standard() -> None:
    # FIPS 197, appendix A.1: the last round key.
    keys = expand_key(bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c"))
    assert keys[10].tobytes().hex() == "d014f9a8c9ee2589e13f0cc8b6630ca6"


@settings(deadline=None)
@given(st.binary(min_size=16, max_size=16))
def test_round_keys_are_those_of_the_reference(key: bytes) -> None:
    assert np.array_equal(expand_key(key), expand_key_reference(key))


@pytest.mark.parametrize("length", [0, 15, 17, 32])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        expand_key(bytes(length))


@settings(deadline=None)
@given(st.binary(min_size=16, max_size=16), st.integers(0, 2**64 - 10), st.integers(0, 9))
def test_counter_mode_is_the_librarys(key: bytes, first: int, count: int) -> None:
    out = np.empty((count, 2), dtype=np.uint64)
    fill(expand_key(key), np.uint64(first), out)
    expected = b"".join(aes(key, (first + i).to_bytes(8, "little") + bytes(8)) for i in range(count))
    assert out.tobytes() == expected


@settings(deadline=None)
@given(st.lists(ELEMENT, max_size=5), st.integers(0, 2**64 - 10))
def test_the_hash_is_the_published_construction(values: list[int], tweak: int) -> None:
    blocks = blocks_from(values).reshape(-1, 2)
    out = np.empty_like(blocks)
    hash_blocks(np.uint64(tweak), blocks, out)
    for number, (value, hashed) in enumerate(zip(values, numbers_from(out), strict=True)):
        inner = int.from_bytes(aes(FIXED_KEY, value.to_bytes(16, "little")), "little")
        outer = aes(FIXED_KEY, (inner ^ (tweak + number)).to_bytes(16, "little"))
        assert hashed == int.from_bytes(outer, "little") ^ inner


def test_a_generator_goes_on_where_it_was_and_hides_its_seed() -> None:
    seed = bytes(range(16))
    one, other = Generator(seed), Generator(seed)
    both = np.concatenate([one.blocks(3), one.blocks(4)])
    assert np.array_equal(both, other.blocks(7))
    assert seed.hex() not in repr(one) and "hidden" in repr(one)


# ---- other processors ---------------------------------------------------------------------------------------------

SAME = """
import hashlib, numpy as np
from crypto.kernels.aes import FIXED_KEY, Generator, hash_blocks
from crypto.kernels.blocks import scale
from crypto.kernels.compiled import native
from crypto.psi import ggm, lpn
state = hashlib.sha256()
def note(array): state.update(np.ascontiguousarray(array).tobytes())
x = Generator(b"portable or not!").blocks(200); note(x)
out = np.empty_like(x); scale(x, x[:1].copy(), out); note(out)
hash_blocks(np.uint64(7), x, out); note(out)
for hashed in (False, True):
    leaves = np.empty((3 << 4, 2), np.uint64); sums = np.empty((3, 5, 2), np.uint64)
    ggm.whole(x[:3].copy(), x[3:4].copy(), 4, hashed, leaves, sums); note(leaves); note(sums)
keys = lpn.public_seed(b"a public seed...")
lpn.add_bits(keys, np.uint64(5), x[:128].copy(), out); note(out)
lpn.add_field(keys, np.uint64(5), x[:128].copy(), out); note(out)
print(native(), state.hexdigest())
"""


def test_the_portable_path_gives_the_same_bytes(tmp_path: Path) -> None:
    told = []
    for portable in ("0", "1"):
        environment = {**os.environ, PORTABLE: portable, "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(
            [sys.executable, "-c", SAME], env=environment, capture_output=True, text=True, check=True
        )
        told.append(ended.stdout.split())
    assert told[1][0] == "False"
    assert told[0][1] == told[1][1]
