"""Shamir's sharing: any t shares give the secret, fewer give nothing, what is malformed is refused."""

from __future__ import annotations

import secrets

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.kernels.blocks import gf_mul_reference
from crypto.secagg.shamir import combine, split

SECRET = st.binary(min_size=32, max_size=32)
HOLDERS = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=12, unique=True)


@settings(deadline=None)
@given(st.data(), st.lists(SECRET, min_size=1, max_size=3), HOLDERS)
def test_any_threshold_of_shares_gives_the_secret(
    data: st.DataObject, values: list[bytes], holders: list[int]
) -> None:
    threshold = data.draw(st.integers(1, len(holders)))
    shares = split(values, holders, threshold)
    for value, row in zip(values, shares, strict=True):
        chosen = data.draw(st.permutations(list(zip(holders, row, strict=True))))
        assert combine(dict(chosen[:threshold]), threshold) == value
        assert combine(dict(chosen), threshold) == value


def inverse(a: int) -> int:
    result, power = 1, a
    for _ in range(127):
        power = gf_mul_reference(power, power)
        result = gf_mul_reference(result, power)
    return result


def lagrange(points: list[int], values: list[int]) -> int:
    """The value at zero, term by term as it stands in books."""
    total = 0
    for i, x in enumerate(points):
        term = values[i]
        for j, other in enumerate(points):
            if j != i:
                term = gf_mul_reference(gf_mul_reference(term, other), inverse(x ^ other))
        total ^= term
    return total


def test_shares_are_values_of_a_polynomial_at_one_more_than_the_index() -> None:
    secret, holders = secrets.token_bytes(32), [0, 4, 9]
    (shares,) = split([secret], holders, 3)
    for half in (slice(0, 16), slice(16, 32)):
        values = [int.from_bytes(share[half], "little") for share in shares]
        assert lagrange([1, 5, 10], values) == int.from_bytes(secret[half], "little")


def test_every_secret_fits_to_fewer_shares_than_the_threshold() -> None:
    # With any t - 1 shares of one secret and any other secret there is a polynomial through all: what is missing decides.
    secret, other = secrets.token_bytes(32), secrets.token_bytes(32)
    (shares,) = split([secret], range(3), 3)
    seen = {0: shares[0], 1: shares[1]}
    for half in (slice(0, 16), slice(16, 32)):
        # The share of holder 2 that makes the other secret: solve Lagrange's formula for it.
        factors = [lagrange([1, 2, 3], [1 if i == j else 0 for j in range(3)]) for i in range(3)]
        rest = int.from_bytes(other[half], "little")
        for i in seen:
            rest ^= gf_mul_reference(factors[i], int.from_bytes(seen[i][half], "little"))
        third = gf_mul_reference(rest, inverse(factors[2])).to_bytes(16, "little")
        made = combine({**{i: share[half] * 2 for i, share in seen.items()}, 2: third * 2}, 3)
        assert made[:16] == other[half]


def test_fresh_shares_of_one_secret_differ_and_given_randomness_repeats_them() -> None:
    secret = bytes(32)
    assert split([secret], range(5), 2) != split([secret], range(5), 2)
    assert split([secret], range(5), 2, bytes(28)) == split([secret], range(5), 2, bytes(28))
    assert split([secret], range(5), 2, bytes(28)) != split([secret], range(5), 2, bytes([1] * 28))


def test_a_changed_share_gives_another_secret() -> None:
    (shares,) = split([bytes(32)], range(4), 3)
    changed = bytes([shares[1][0] ^ 1]) + shares[1][1:]
    assert combine({0: shares[0], 1: changed, 2: shares[2]}, 3) != bytes(32)


def test_fewer_shares_than_the_threshold_are_refused() -> None:
    (shares,) = split([bytes(32)], range(4), 3)
    with pytest.raises(ValueError, match="2 shares; 3 are needed"):
        combine({0: shares[0], 3: shares[3]}, 3)


@pytest.mark.parametrize("threshold", [0, 5])
def test_an_impossible_threshold_is_refused(threshold: int) -> None:
    with pytest.raises(ValueError, match="allowed are 1 to their number"):
        split([bytes(32)], range(4), threshold)


@pytest.mark.parametrize("holders", [[0, 0], [-1, 2], [1, 2**31]])
def test_holders_that_are_not_distinct_indices_are_refused(holders: list[int]) -> None:
    with pytest.raises(ValueError, match="distinct indices"):
        split([bytes(32)], holders, 1)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_secrets_and_shares_of_another_length_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"32 bytes, this one {size}"):
        split([bytes(size)], range(4), 2)
    with pytest.raises(ValueError, match=f"32 bytes, this one {size}"):
        combine({0: bytes(32), 1: bytes(size)}, 2)
