"""The table of parameters is inside what it cites, and the bounds on noise hold."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, norm

from crypto.kernels import rlwe_kernels
from crypto.rlwe import encryption, layout, noise, ring
from crypto.rlwe import parameters as table
from tests.crypto.rlwe.joint import joint
from tests.crypto.rlwe.plain import lifted

COHORT = st.integers(2, 10_000)


def test_the_modulus_is_inside_every_table() -> None:
    assert table.SIZE == 4096
    assert table.Q.bit_length() <= min(table.LARGEST_LOG_Q.values())
    assert all(p.bit_length() == table.PRIME_BITS and p % (2 * table.SIZE) == 1 for p in table.PRIMES)
    for p in table.PRIMES:  # Fermat's test with several bases
        assert all(pow(base, p - 1, p) == 1 for base in (2, 3, 5, 7, 11, 13))


def test_what_a_sum_leaves_of_a_payload_secret_is_what_the_tables_assume() -> None:
    assert table.hinted(table.WIDE_SIGMA) >= table.SIGMA >= 8 / math.sqrt(2 * math.pi)
    assert table.hinted(table.WIDE_SIGMA) >= table.smoothing(128)


@pytest.mark.parametrize("sigma", [table.SIGMA, table.WIDE_SIGMA])
def test_the_table_of_a_gaussian_is_its_cumulative_distribution(sigma: float) -> None:
    weights = [math.exp(-(x**2) / (2 * sigma**2)) * (2 if x else 1) for x in range(200)]
    whole, total = sum(weights), 0.0
    entries = [high << 63 | low for high, low in table.gaussian_table(sigma).T.tolist()]
    for entry, weight in zip(entries, weights, strict=False):
        total += weight
        assert entry / 2**126 == pytest.approx(total / whole, rel=1e-12)
    assert entries == sorted(set(entries))
    assert 2**126 - entries[-1] < 16  # what is cut off


@settings(deadline=None, max_examples=50)
@given(COHORT, COHORT, st.data())
def test_an_opened_sum_never_leaves_the_modulus(contributors: int, holders: int, data: st.DataObject) -> None:
    active = data.draw(st.integers(1, holders))
    largest = 2 ** (table.KEY_WIDTH - 1) + 2**table.KEY_WIDTH * noise.opened_noise(
        contributors, holders, active
    )
    assert largest <= table.Q // 2
    assert noise.wide_sum(contributors) < 2 ** (table.KEY_WIDTH - 1)
    bits = noise.smudging_bits(contributors, holders, active)
    assert 64 <= bits <= 126
    doubled = noise.key_noise(contributors, holders) + math.ceil(
        noise._together(active) * (2 ** (bits + 1) + 1)
    )
    assert 2 ** (table.KEY_WIDTH - 1) + 2**table.KEY_WIDTH * (doubled + active) > table.Q // 2


@settings(deadline=None, max_examples=50)
@given(COHORT, COHORT, st.data())
def test_all_sums_that_a_key_may_open_tell_less_than_2_to_the_minus_40(
    contributors: int, holders: int, data: st.DataObject
) -> None:
    active = data.draw(st.integers(1, holders))
    count = noise.releases(contributors, holders, active)
    assert count >= 1
    shift = noise.key_noise(contributors, holders)
    width = 2 * 2 ** noise.smudging_bits(contributors, holders, active)
    assert count * table.SIZE * Fraction(shift, width) <= Fraction(1, 2**40)
    assert (count + 1) * noise.distance(contributors, holders, active) > Fraction(1, 2**40)


def test_the_largest_cohort_still_opens_some_sums_and_a_committee_many() -> None:
    assert noise.releases(10_000, 10_000, 10_000) >= 30
    assert noise.releases(10_000, 20, 14) >= 10_000
    assert noise.releases(10, 10, 10) >= 1_000_000


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 2**30), st.integers(1, 2**40), st.integers(1, 10_000), st.booleans())
def test_no_sum_overflows_its_field_and_no_polynomial_the_modulus(
    count: int, limit: int, contributors: int, signed: bool
) -> None:
    plan = layout.layout(count, limit, contributors, signed=signed)
    room = 2 ** (plan.width - 1) if signed else 2**plan.width
    assert contributors * limit < room <= 4 * contributors * limit
    assert plan.factor * (noise.wide_sum(contributors) + 1) <= table.Q // 2
    assert 2**plan.width * plan.factor * (noise.wide_sum(contributors) + 1) > table.Q // 2
    assert plan.polynomials * plan.fields * table.SIZE >= count
    assert noise.wide_sum(contributors) * 2 ** (plan.width * plan.fields + 1) < 2**127


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((0, 1, 2), "vector of 0"),
        ((2**30 + 1, 1, 2), "split it"),
        ((5, 0, 2), "at least 1"),
        ((5, 1, 0), "0 participants"),
        ((5, 1, 10_001), "10001 participants"),
        ((5, 2**62, 10), "quantise more coarsely"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(arguments: tuple[int, int, int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        layout.layout(*arguments)


def test_the_norm_of_a_secret_passes_its_bound_with_at_most_2_to_the_minus_80() -> None:
    # A Gaussian vector is the worst that is sub-Gaussian, and its squared norm is known.
    passed = float(chi2.sf(noise._norm_squared(), table.SIZE))
    assert 2.0**-100 < passed <= 2.0**-table.TAIL
    assert float(2 * norm.sf(noise._DEVIATIONS)) <= 2.0**-table.TAIL


# ---- what really happens stays below the bounds and not far below ---------------------------------------------------


@pytest.mark.parametrize(("holders", "contributors"), [(2, 2), (5, 30)])
def test_noise_of_the_key_layer_stays_below_its_bound(holders: int, contributors: int) -> None:
    key, shares = joint(holders, holders, contributors)
    context = encryption.Context(key, layout.layout(4, 1, contributors), b"noise")
    vector = np.zeros(4, dtype=np.int64)
    total = encryption.add(context, (encryption.encrypt(context, vector) for _ in range(contributors)))
    secret = ring.total(*(share.value for share in shares))
    numbers = lifted(ring.coefficients(ring.total(total.key[0], ring.product(secret, total.key[1]))))
    half = 2 ** (table.KEY_WIDTH - 1)
    sums = [(number + half) % (2 * half) - half for number in numbers]
    worst = max(abs(number - s) >> table.KEY_WIDTH for number, s in zip(numbers, sums, strict=True))
    bound = noise.key_noise(contributors, holders)
    assert bound / 16 < worst <= bound
    spread = np.std([(number - s) >> table.KEY_WIDTH for number, s in zip(numbers, sums, strict=True)])
    products = 2 * contributors * holders * table.SIZE * 2 / 3
    assert float(spread) == pytest.approx(table.SIGMA * math.sqrt(contributors + products), rel=0.1)
    assert 10 * float(spread) < bound < 13 * float(spread)
    largest = max(map(abs, sums))
    assert noise.wide_sum(contributors) / 5 < largest <= noise.wide_sum(contributors)


def test_noise_of_the_payload_stays_below_its_bound() -> None:
    key, _ = joint(2, 2, 50)
    plan = layout.layout(4096, 1, 50)
    context = encryption.Context(key, plan, b"noise")
    zeros = np.zeros(4096, dtype=np.int64)
    secrets, payload = np.zeros(4096, dtype=np.int64), []
    for _ in range(50):
        seeds: list[bytes] = []

        def kept(count: int, seeds: list[bytes] = seeds) -> bytes:
            seeds.append(ring.system(count))
            return seeds[-1]

        payload.append(encryption.encrypt(context, zeros, kept).payload[0])
        secrets += ring.gaussian(table.WIDE_SIGMA, seeds[0], 4096)
    public = np.empty((1, 2, 4096), dtype=np.uint64)
    width = np.uint64(table.PRIME_BITS)
    moduli = table.ring().moduli
    rlwe_kernels.uniform(encryption.payload_keys(context), np.uint64(0), moduli, width, public)
    masked = ring.negated(ring.product(public[0], ring.transformed(secrets)))
    numbers = lifted(ring.coefficients(ring.total(*payload, masked)))
    assert all(number % plan.factor == 0 for number in numbers)
    worst = max(map(abs, numbers)) // plan.factor
    assert noise.wide_sum(50) / 5 < worst <= noise.wide_sum(50)
