"""Encrypted vectors: products open to what plain integers give, answers hold nothing else, and damage is noticed."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.bfv import encryption, keys, noise
from crypto.bfv.ring import LARGE, SMALL, Ring
from crypto.errors import ProtocolError
from tests.crypto.bfv.plain import phase, product, secret_of

SLOTS = 2305843009213317121  # a prime below 2^61, 1 modulo 16384
CASES = [
    (SMALL, 2**20),
    (SMALL, 2**33),
    (SMALL, 12345677),
    (LARGE, 2**64),
    (LARGE, SLOTS),
    (LARGE.fewer(3), 2**50),
]


@functools.cache
def key(ring: Ring) -> keys.SecretKey:
    return keys.new_keys(ring)


def sparse(ring: Ring, count: int, seed: int, largest: int = 1000) -> np.ndarray:
    generator = np.random.default_rng(seed)
    out = np.zeros((count, ring.size), dtype=np.int64)
    for row in out:
        row[generator.choice(ring.size, 3, replace=False)] = generator.integers(
            -largest, largest, 3, endpoint=True
        )
    return out


@pytest.mark.parametrize(("ring", "t"), CASES)
def test_a_sum_of_products_and_a_mask_opens_modulo_t(ring: Ring, t: int) -> None:
    secret = key(ring)
    numbers = encryption.uniform_numbers(t, (2, ring.size))
    numbers[0, :2] = 0, t - 1
    public = keys.read_public_key(secret.public.to_bytes(), ring)
    data = encryption.encrypt(secret, t, numbers).to_bytes()
    assert len(data) == encryption.vector_bytes(ring, 2)
    pairs = encryption.read_vector(data, public, t, 2).pairs
    answers, factors = encryption.zeros(public, 1), sparse(ring, 2, 5)
    for pair, factor in zip(pairs, factors, strict=True):
        ring.multiply_add(answers[0], pair, ring.factor(factor))
    masks = encryption.uniform_numbers(t, (ring.size,))
    encryption.add_numbers(ring, t, answers[0], masks)
    positions = np.array([0, 1, 17, ring.size // 2, ring.size - 1])
    answer = encryption.write_answers(public, t, answers, positions)
    assert len(answer) == encryption.answer_bytes(ring, t, 1, len(positions))
    parts = [product(ring, factor, row.tolist()) for factor, row in zip(factors, numbers, strict=True)]
    wanted = [(parts[0][at] + parts[1][at] + int(masks[at])) % t for at in positions]
    assert encryption.open_answers(secret, t, answer, 1, positions).tolist() == [wanted]


@settings(deadline=None, max_examples=15)
@given(limit=st.integers(1, 2**24), seed=st.integers(0, 2**30))
def test_signed_numbers_that_do_not_wrap_open_exactly(limit: int, seed: int) -> None:
    ring, t, secret = SMALL, 2**40, key(SMALL)
    numbers = np.random.default_rng(seed).integers(-limit, limit, (1, ring.size), endpoint=True)
    pair = encryption.encrypt(secret, t, numbers, wraps=False).pairs[0]
    factor = sparse(ring, 1, seed, 2000)[0]
    answers = encryption.zeros(secret.public, 1)
    ring.multiply_add(answers[0], pair, ring.factor(factor))
    positions = np.arange(0, ring.size, 97)
    answer = encryption.write_answers(secret.public, t, answers, positions)
    made = encryption.open_answers(secret, t, answer, 1, positions)[0]
    wanted = product(ring, factor, numbers[0].tolist())
    assert made.tolist() == [wanted[at] % t for at in positions]


def test_one_key_serves_many_vectors_and_none_is_like_another() -> None:
    secret, numbers = key(SMALL), np.zeros((1, SMALL.size), dtype=np.uint64)
    first, second = (encryption.encrypt(secret, 2**20, numbers) for _ in range(2))
    assert first.seed != second.seed
    assert (first.body != second.body).mean() > 0.99
    for vector in (first, second):
        errors = phase(secret, vector.pairs[0])
        assert 2.5 < np.std(errors) < 4.0


def test_what_an_answer_shows_of_c1_is_new_each_time() -> None:
    secret = key(SMALL)
    zeros = encryption.zeros(secret.public, 3)
    bare = [phase(secret, pair) for pair in zeros]
    for one in bare:  # p0 u + p1 u s = -e u: small, and without smudging it would tell u
        assert max(map(abs, one)) < noise.DEVIATIONS * noise.zero_spread(SMALL)
    assert (zeros[0, 1] != zeros[1, 1]).mean() > 0.99


def test_the_secret_is_ternary_and_in_no_repr() -> None:
    for ring in (SMALL, LARGE):
        counted = np.unique(secret_of(key(ring)), return_counts=True)
        assert counted[0].tolist() == [-1, 0, 1]
        assert min(counted[1]) > ring.size * 0.29
    assert "factor" not in repr(key(SMALL))
    assert "array" not in repr(key(SMALL))


def test_masks_are_below_t_and_spread() -> None:
    for t in (3, 2**20, SLOTS, 2**64):
        masks = encryption.uniform_numbers(t, (4, 1000))
        assert masks.shape == (4, 1000)
        assert int(masks.max()) < t
        mean = float(np.mean(masks.astype(np.float64))) / t
        assert abs(mean - (t - 1) / t / 2) < 6 * 0.2887 / np.sqrt(4000) + 1e-9
    raw = bytes(range(32))
    low, high = int.from_bytes(raw[:16], "little"), int.from_bytes(raw[16:], "little")
    assert encryption.uniform_numbers(SLOTS, (2,), lambda count: raw[:count]).tolist() == [
        low % SLOTS,
        high % SLOTS,
    ]


@pytest.mark.parametrize("t", [0, 2, 2**65, 2**61 + 1, 6, -5])
def test_a_modulus_that_kernels_cannot_take_is_refused(t: int) -> None:
    with pytest.raises(ValueError, match="modulus of messages"):
        encryption.encrypt(key(SMALL), t, np.zeros((1, SMALL.size), dtype=np.uint64))


@pytest.mark.parametrize(
    ("numbers", "wraps"),
    [
        (np.zeros(SMALL.size, dtype=np.uint64), True),
        (np.zeros((1, LARGE.size), dtype=np.uint64), True),
        (np.zeros((1, SMALL.size), dtype=np.int64), True),
        (np.zeros((1, SMALL.size), dtype=np.uint64), False),
        (np.zeros((1, SMALL.size)), True),
    ],
)
def test_coefficients_of_another_shape_or_type_are_refused(numbers: np.ndarray, wraps: bool) -> None:
    with pytest.raises(ValueError, match="is needed"):
        encryption.encrypt(key(SMALL), 2**20, numbers, wraps=wraps)


# ---- what is damaged, and what is under another key -----------------------------------------------------------------


@functools.cache
def answered() -> bytes:
    answers = encryption.zeros(key(SMALL).public, 2)
    return encryption.write_answers(key(SMALL).public, 2**20, answers, np.arange(64))


def test_an_answer_that_was_damaged_does_not_open() -> None:
    raw = bytearray(answered())
    raw[5000:5100] = bytes(
        0xA5 ^ each for each in raw[5000:5100]
    )  # residues of c1, which every coefficient takes
    with pytest.raises(ProtocolError, match=r"does not open|not below its prime"):
        encryption.open_answers(key(SMALL), 2**20, bytes(raw), 2, np.arange(64))


def test_an_answer_under_another_key_with_a_forged_head_does_not_open() -> None:
    other = keys.new_keys(SMALL)
    raw = bytearray(answered())
    with pytest.raises(ProtocolError, match="under another key"):
        encryption.open_answers(other, 2**20, bytes(raw), 2, np.arange(64))
    raw[8:24] = other.public.digest
    with pytest.raises(ProtocolError, match="does not open"):
        encryption.open_answers(other, 2**20, bytes(raw), 2, np.arange(64))


def test_a_vector_under_another_key_is_refused() -> None:
    other = keys.new_keys(SMALL)
    data = encryption.encrypt(other, 2**20, np.zeros((1, SMALL.size), dtype=np.uint64)).to_bytes()
    with pytest.raises(ProtocolError, match="under another key"):
        encryption.read_vector(data, key(SMALL).public, 2**20, 1)


def test_a_vector_of_another_modulus_or_count_is_refused() -> None:
    numbers = np.zeros((2, SMALL.size), dtype=np.uint64)
    data = encryption.encrypt(key(SMALL), 2**20, numbers).to_bytes()
    with pytest.raises(ProtocolError, match=r"2 polynomials modulo 1048576 came where 2 modulo 2097152"):
        encryption.read_vector(data, key(SMALL).public, 2**21, 2)
    with pytest.raises(ProtocolError, match="bytes came"):
        encryption.read_vector(data, key(SMALL).public, 2**20, 1)
