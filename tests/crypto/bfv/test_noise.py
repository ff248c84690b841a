"""Bounds of noise hold with room that is not absurd, smudging is as wide as it is told, and q is inside the tables."""

from __future__ import annotations

import math

import numpy as np
import pytest

from crypto.bfv import encryption, keys, noise, parameters
from crypto.bfv.ring import LARGE, RINGS, SMALL, Ring
from crypto.kernels import bfv_kernels
from crypto.kernels.aes import expand_key
from tests.crypto.bfv.plain import lifted, phase, product


@pytest.mark.parametrize("ring", RINGS)
def test_the_modulus_is_inside_every_table_of_128_bits(ring: Ring) -> None:
    assert ring.q.bit_length() <= min(parameters.LARGEST_LOG_Q[ring.size].values())
    for p in ring.primes:
        assert p % (2 * ring.size) == 1
        assert p.bit_length() == parameters.PRIME_BITS
        assert pow(3, p - 1, p) == 1
    assert len(set(ring.primes)) == len(ring.primes)
    assert 8 / math.sqrt(2 * math.pi) <= parameters.SIGMA


@pytest.mark.parametrize("ring", [SMALL, LARGE])
@pytest.mark.parametrize("wraps", [True, False])
def test_noise_of_products_stays_below_its_bound_and_comes_near(ring: Ring, wraps: bool) -> None:
    secret, t = keys.new_keys(ring), 2**30
    generator = np.random.default_rng(3)
    numbers = generator.integers(0, 100, (4, ring.size)).astype(np.uint64 if wraps else np.int64)
    pairs = encryption.encrypt(secret, t, numbers, wraps=wraps).pairs
    factors = np.zeros((4, ring.size), dtype=np.int64)
    for row in factors:
        row[generator.choice(ring.size, 30, replace=False)] = generator.integers(1, 50, 30)
    total, message = ring.zeros(2), [0] * ring.size
    for pair, factor, row in zip(pairs, factors, numbers, strict=True):
        ring.multiply_add(total, pair, ring.factor(factor))
        message = [a + b for a, b in zip(message, product(ring, factor, row.tolist()), strict=True)]
    unit = ring.q // t
    errors = [
        (whole - (round_to(ring.q * m, t) if wraps else unit * m) + ring.q // 2) % ring.q - ring.q // 2
        for whole, m in zip(phase(secret, total), message, strict=True)
    ]
    squares, absolute = float((factors**2).sum()), float(np.abs(factors).sum())
    bound = noise.product_bound(squares, absolute, wraps=wraps)
    largest = max(map(abs, errors))
    assert bound / 12 < largest <= bound
    spread = noise.product_spread(squares, absolute, wraps=wraps)
    assert np.mean(np.abs(errors)) < spread < bound
    assert 0.9 < np.std(errors) / (parameters.SIGMA * math.sqrt(squares)) < 1.1


def round_to(number: int, t: int) -> int:
    return (number + t // 2) // t


@pytest.mark.parametrize("ring", [SMALL, LARGE])
def test_noise_of_a_fresh_zero_is_spread_as_told(ring: Ring) -> None:
    secret = keys.new_keys(ring)
    seen: list[int] = []
    for pair in encryption.zeros(secret.public, 4):
        error = ring.transformed(ring.gaussian(encryption.system))
        shown = pair.copy()
        ring.add(shown[None, 1], error[None])
        seen += phase(secret, shown)
    assert 0.85 < math.sqrt(np.mean(np.square(seen, dtype=float))) / noise.zero_spread(ring) < 1.15
    assert np.mean(np.abs(seen)) < noise.zero_spread(ring)


@pytest.mark.parametrize(("ring", "t"), [(SMALL, 2**20), (SMALL, 2**42), (LARGE, 2**64), (LARGE, 2**60 + 33)])
def test_smudging_is_uniform_as_wide_as_it_is_told_and_leaves_room(ring: Ring, t: int) -> None:
    bits = noise.flood_bits(ring, t)
    assert 4 * t * 2**bits <= ring.q < 8 * t * 2**bits
    out = np.zeros((len(ring.primes), 2000), dtype=np.uint64)
    words = np.empty(4, dtype=np.uint64)
    bfv_kernels.flood(
        expand_key(bytes(16)),
        np.uint64(0),
        np.uint64(bits),
        ring.residues(1 << bits),
        ring.moduli,
        words,
        out,
    )
    made = np.array([value / 2.0**bits for value in lifted(ring, out)])
    assert made.min() >= -1
    assert made.max() < 1
    assert abs(made.mean()) < 6 / math.sqrt(3 * 2000)
    assert abs(made.std() - 1 / math.sqrt(3)) < 0.04
    assert [((made > -1 + i / 4) & (made <= -0.75 + i / 4)).mean() > 0.08 for i in range(8)] == [True] * 8
    low = [value % 64 for value in lifted(ring, out)]
    assert len(set(low)) == 64


@pytest.mark.parametrize("bits", [0, 1, 62, 63, 64, 126, 127, 128, 190, 191])
def test_smudging_of_any_width_is_in_its_range(bits: int) -> None:
    out = np.zeros((4, 300), dtype=np.uint64)
    words = np.empty(4, dtype=np.uint64)
    key, half = expand_key(bytes(range(16))), LARGE.residues(1 << bits)
    bfv_kernels.flood(key, np.uint64(0), np.uint64(bits), half, LARGE.moduli, words, out)
    made = lifted(LARGE, out)
    assert -(2**bits) <= min(made) < -(2**bits) * 0.9 or bits < 4
    assert max(made) < 2**bits
    later = np.zeros((4, 100), dtype=np.uint64)
    bfv_kernels.flood(key, np.uint64(200), np.uint64(bits), half, LARGE.moduli, words, later)
    assert np.array_equal(later, out[:, 200:])


def test_an_answer_is_as_far_from_an_integer_as_smudging_and_rounding_say() -> None:
    for ring, t in ((SMALL, 2**20), (SMALL, 2**33), (SMALL, 2**42), (LARGE, 2**64), (LARGE, 2**33)):
        kept = ring.fewer(noise.kept_primes(ring, t))
        rounding = noise.rounding_bound(ring) * (1 + 2 ** noise.dropped_bits(ring, t))
        together = 2.0 ** noise.flood_bits(ring, t) * t / ring.q + rounding * t / kept.q
        assert together + 2.0**-20 < noise.LARGEST_FRACTION
        if len(kept.primes) > 1:
            assert noise.rounding_bound(ring) * t / kept.fewer(len(kept.primes) - 1).q > 1 / 8


def test_rounding_to_fewer_primes_stays_below_its_bound() -> None:
    secret = keys.new_keys(SMALL)
    answers = encryption.zeros(secret.public, 6)
    smaller = SMALL.fewer(1)
    before = np.array([phase(secret, pair) for pair in answers], dtype=object)
    flat = answers.reshape(-1, 2, SMALL.size)
    SMALL.inverse(flat)
    inverses = np.array(
        [pow(SMALL.primes[1], -1, SMALL.primes[0]) * 2**64 % SMALL.primes[0]], dtype=np.uint64
    )
    bfv_kernels.drop_prime(flat, SMALL.moduli, inverses)
    kept = np.ascontiguousarray(answers[:, :, :1])
    smaller.forward(kept.reshape(-1, 1, SMALL.size))
    few = keys.SecretKey(keys.PublicKey(smaller, b"", secret.public.value[:1]), secret.factor[:1])
    after = np.array([phase(few, pair) for pair in kept], dtype=object)
    apart = np.array(after - before / SMALL.primes[1], dtype=float)
    assert noise.rounding_bound(SMALL) / 4 < np.abs(apart).max() < noise.rounding_bound(SMALL)


def test_products_whose_noise_would_show_are_refused() -> None:
    t = 2**42
    most = 2.0 ** (noise.flood_bits(SMALL, t) + 1 - parameters.LAMBDA) / 16 - noise.zero_spread(SMALL) - 1
    noise.check(SMALL, t, most * 0.999, 16)
    with pytest.raises(ValueError, match="shows through the smudging"):
        noise.check(SMALL, t, most * 1.001, 16)
    with pytest.raises(ValueError, match="2\\^-40 is allowed"):
        noise.check(SMALL, t, most * 0.999)
    assert noise.distance(SMALL, t, most, 16) == pytest.approx(2.0**-40)


def test_a_modulus_without_room_for_rounding_is_refused() -> None:
    with pytest.raises(ValueError, match="no room for noise"):
        noise.kept_primes(SMALL.fewer(1), 2**50)
