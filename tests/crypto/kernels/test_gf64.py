"""GF(2^64) and the tower over it: fields at all, and the kernels compute what plain arithmetic does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.kernels import okvs64_kernels
from crypto.kernels.blocks import blocks_from, numbers_from
from crypto.kernels.compiled import PORTABLE
from crypto.kernels.gf64 import (
    BETA,
    MODULUS,
    add_word_times,
    gf64_inverse_reference,
    gf64_mul_reference,
    tower_mul_reference,
)
from crypto.psi.vole_field import GF128, TOWER, pack_choices

ROOT = Path(__file__).parents[3]
WORD = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2, 1 << 63, 2**64 - 1])
BLOCK = st.integers(0, 2**128 - 1) | st.sampled_from([0, 1, 1 << 64, 1 << 127, 2**128 - 1])


def times(a: int, b: int) -> int:
    """By shifting and reducing one bit after the other, unlike the module's reference."""
    total = 0
    for i in reversed(range(64)):
        total <<= 1
        if total >> 64:
            total ^= MODULUS
        if b >> i & 1:
            total ^= a
    return total


def remainder(a: int, b: int) -> int:
    while a.bit_length() >= b.bit_length():
        a ^= b << (a.bit_length() - b.bit_length())
    return a


# ---- that these are fields ----------------------------------------------------------------------------------------


def test_the_polynomial_of_the_words_is_irreducible() -> None:
    # Rabin's test: x^(2^64) = x, and x^(2^32) + x has no factor in common with it (2 is the only prime of 64).
    power = 2
    for n in range(1, 65):
        power = times(power, power)
        if n == 32:
            a, b = MODULUS, power ^ 2
            while b:
                a, b = b, remainder(a, b)
            assert a == 1
    assert power == 2


def test_the_polynomial_of_the_tower_has_no_root() -> None:
    # y -> y^2 + y is linear over GF(2) and what it reaches has trace 0; that of beta is 1.
    def trace(a: int) -> int:
        total = 0
        for _ in range(64):
            total ^= a
            a = times(a, a)
        return total

    assert trace(BETA) == 1
    assert all(trace(times(1 << i, 1 << i) ^ (1 << i)) == 0 for i in range(64))


@settings(deadline=None)
@given(BLOCK, BLOCK, BLOCK)
def test_the_tower_is_a_commutative_ring_without_divisors_of_zero(a: int, b: int, c: int) -> None:
    product = tower_mul_reference
    assert product(a, b) == product(b, a) and product(a, 1) == a
    assert product(product(a, b), c) == product(a, product(b, c))
    assert product(a, b ^ c) == product(a, b) ^ product(a, c)
    assert (product(a, b) == 0) == (a == 0 or b == 0)
    y = 1 << 64
    assert product(y, y) == y ^ BETA


@settings(deadline=None, max_examples=20)
@given(BLOCK)
def test_the_norm_inverts_every_block_but_zero(a: int) -> None:
    # (a0 + a1 Y)(a0 + a1 + a1 Y) = a0^2 + a0 a1 + beta a1^2 is a word, and its inverse gives that of the block.
    low, high = a & (2**64 - 1), a >> 64
    conjugate = low ^ high | high << 64
    norm = tower_mul_reference(a, conjugate)
    assert norm >> 64 == 0
    inverse = tower_mul_reference(conjugate, gf64_inverse_reference(norm))
    assert tower_mul_reference(a, inverse) == (1 if a else 0)


# ---- kernels beside references --------------------------------------------------------------------------------------


@given(WORD, WORD)
def test_the_reference_is_the_product_bit_by_bit(a: int, b: int) -> None:
    assert gf64_mul_reference(a, b) == times(a, b)


@settings(deadline=None)
@given(st.lists(st.tuples(BLOCK, WORD), max_size=6), BLOCK)
def test_a_word_times_a_block_is_their_product_in_the_tower(pairs: list[tuple[int, int]], by: int) -> None:
    total = blocks_from([block for block, _ in pairs])
    add_word_times(total, np.array([word for _, word in pairs], dtype=np.uint64), blocks_from([by]))
    assert numbers_from(total) == [block ^ tower_mul_reference(word, by) for block, word in pairs]


@settings(deadline=None, max_examples=30)
@given(WORD)
def test_the_inverse_of_a_word(a: int) -> None:
    got = int(okvs64_kernels.inverse(np.uint64(a)))
    assert got == gf64_inverse_reference(a) and times(a, got) == (1 if a else 0)


@pytest.mark.parametrize("field", [GF128, TOWER], ids=["gf128", "tower"])
def test_bits_are_packed_as_powers_of_x(field) -> None:
    bits = np.frombuffer(np.random.default_rng(3).bytes(16 * 3 * field.degree), np.uint64).reshape(-1, 2)
    packed, choices = np.empty((3, 2), np.uint64), np.empty((3, 2), np.uint64)
    field.pack(bits, packed)
    pack_choices(bits, field.degree, choices)
    for i in range(3):
        own = numbers_from(bits[field.degree * i : field.degree * (i + 1)])
        assert numbers_from(choices)[i] == sum((number & 1) << j for j, number in enumerate(own))
        if field is TOWER:
            total = 0
            for j, number in enumerate(own):
                total ^= tower_mul_reference(1 << j, number)
            assert numbers_from(packed)[i] == total


SAME = """
import hashlib, numpy as np
from crypto.kernels import masks64, okvs64_kernels
from crypto.kernels.aes import Generator
from crypto.kernels.compiled import native
from crypto.kernels.gf64 import add_word_times
from crypto.psi import lpn
state = hashlib.sha256()
def note(array): state.update(np.ascontiguousarray(array).tobytes())
x = Generator(b"portable or not!").blocks(200)
out = x.copy(); add_word_times(out, x[:, 0].copy(), x[:1].copy()); note(out)
keys = lpn.public_seed(b"a public seed...")
lpn.add_words(keys, np.uint64(5), x[:128].copy(), out); note(out)
lpn.add_words_pairs(keys, np.uint64(5), x[:128].reshape(64, 4).copy(), y := x.reshape(100, 4).copy()); note(y)
okvs64_kernels.read(x, np.array([0, 200]), x[:60].copy(), np.uint64(57), np.uint64(3), out); note(out)
masks64.sender_tags(x, x[:1].copy(), out); masks64.cut(out, 76); note(out)
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
