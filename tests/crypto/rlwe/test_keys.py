"""The joint key: shares, public parts, commitments, t of n."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from crypto.errors import ProtocolError
from crypto.rlwe import keys, ring
from crypto.rlwe.parameters import KEY_WIDTH, PRIMES, SIGMA
from tests.crypto.rlwe.joint import SEED, Stream, joint
from tests.crypto.rlwe.plain import kronecker, lifted

SETUP = keys.Setup(SEED, 3, 3, 5)


def test_a_public_part_is_the_common_polynomial_times_the_share_and_a_small_error() -> None:
    share, part = keys.new_share(SETUP, 1)
    common, secret, shown = (
        ring.coefficients(element).tolist()
        for element in (ring.common_polynomial(SEED), share.value, part.value)
    )
    left = [
        [(x + y) % p for x, y in zip(shown[k], kronecker(common[k], secret[k], p), strict=True)]
        for k, p in enumerate(PRIMES)
    ]
    errors = lifted(np.array(left, dtype=np.uint64))
    assert all(error % 2**KEY_WIDTH == 0 for error in errors)
    small = np.array([error >> KEY_WIDTH for error in errors])
    assert 0.9 < small.std() / SIGMA < 1.1 and abs(small).max() < 10 * SIGMA
    assert set(lifted(ring.coefficients(share.value))) == {-1, 0, 1}


def test_the_joint_key_belongs_to_the_sum_of_all_shares() -> None:
    key, shares = joint(4, 4, 5)
    secret = ring.total(*(share.value for share in shares))
    left = ring.total(key.value, ring.product(ring.common_polynomial(SEED), secret))
    errors = lifted(ring.coefficients(left))
    assert all(error % 2**KEY_WIDTH == 0 and abs(error) >> KEY_WIDTH < 100 for error in errors)


def test_the_common_polynomial_is_that_of_its_seed_alone() -> None:
    assert np.array_equal(ring.common_polynomial(SEED), ring.common_polynomial(SEED))
    other = ring.common_polynomial(SEED + b"!")
    assert not (ring.common_polynomial(SEED) == other).any(axis=1).all()
    with pytest.raises(ValueError, match="at least 16 bytes"):
        ring.common_polynomial(b"short")


def test_two_shares_of_one_holder_have_nothing_in_common() -> None:
    first, second = (keys.new_share(SETUP, 1)[0] for _ in range(2))
    assert not np.array_equal(first.value, second.value)


def test_no_seed_is_used_twice() -> None:
    stream = Stream("seeds")
    joint(3, 2, 5, entropy=stream)
    assert len(stream.given) == 3 * (2 + 1)  # share and error, and the dealing
    assert len(set(stream.given)) == len(stream.given)


def test_nothing_secret_is_shown() -> None:
    share, _ = keys.new_share(SETUP, 1)
    dealt = keys.deal(keys.new_share(keys.Setup(SEED, 3, 2, 5), 1)[0])[0]
    assert "value" not in repr(share) + repr(dealt)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"seed": b"short"}, "at least 16 bytes"),
        ({"holders": 1}, "1 holders"),
        ({"holders": 10_001}, "10001 holders"),
        ({"threshold": 1}, "threshold of 1"),
        ({"threshold": 4}, "threshold of 4"),
        ({"contributors": 1}, "1 participants"),
        ({"contributors": 10_001}, "10001 participants"),
    ],
)
def test_a_setup_that_protects_nobody_is_refused(fields: dict[str, int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        dataclasses.replace(SETUP, **fields)


def test_a_holder_beyond_the_setup_is_refused() -> None:
    for index in (0, 4):
        with pytest.raises(ValueError, match=f"holder {index}"):
            keys.new_share(SETUP, index)


# ---- the public key -----------------------------------------------------------------------------------------------


def parts_of(setup: keys.Setup) -> tuple[list[keys.PublicPart], dict[int, bytes]]:
    parts = [keys.new_share(setup, index)[1] for index in range(1, setup.holders + 1)]
    return parts, {part.index: keys.commitment(part) for part in parts}


def test_a_part_chosen_after_the_others_is_refused() -> None:
    parts, commitments = parts_of(SETUP)
    # The last holder takes the others' parts away, so that the joint key is its own.
    rogue = ring.total(parts[2].value, ring.negated(ring.total(parts[0].value, parts[1].value)))
    parts[2] = keys.PublicPart(SETUP, 3, rogue)
    with pytest.raises(ProtocolError, match="holder 3 is not the one it committed to"):
        keys.public_key(SETUP, parts, commitments)


def test_a_part_without_a_commitment_is_refused() -> None:
    parts, commitments = parts_of(SETUP)
    del commitments[2]
    with pytest.raises(ProtocolError, match="holder 2"):
        keys.public_key(SETUP, parts, commitments)


def test_a_missing_a_double_and_a_foreign_part_are_refused() -> None:
    parts, commitments = parts_of(SETUP)
    with pytest.raises(ProtocolError, match="missing"):
        keys.public_key(SETUP, parts[:2], commitments)
    with pytest.raises(ProtocolError, match="each once"):
        keys.public_key(SETUP, [*parts, parts[0]], commitments)
    other = keys.Setup(SEED, 3, 2, 5)
    foreign = keys.new_share(other, 3)[1]
    with pytest.raises(ProtocolError, match="another key"):
        keys.public_key(SETUP, [*parts[:2], foreign], {**commitments, 3: keys.commitment(foreign)})


def test_the_digest_of_a_key_is_of_all_of_it() -> None:
    key, _ = joint(3, 3, 5)
    altered = key.value.copy()
    altered[1, 4095] ^= np.uint64(1)
    digests = {
        key.digest,
        keys.PublicKey(key.setup, altered).digest,
        keys.PublicKey(dataclasses.replace(key.setup, contributors=6), key.value).digest,
    }
    assert len(digests) == 3


# ---- t of n -------------------------------------------------------------------------------------------------------


def test_any_threshold_of_holders_have_the_sum_of_all_shares_and_fewer_do_not() -> None:
    setup = keys.Setup(SEED, 5, 3, 5)
    shares = [keys.new_share(setup, index)[0] for index in range(1, 6)]
    secret = ring.total(*(share.value for share in shares))
    dealt = [keys.deal(share) for share in shares]
    kept = [keys.combine(setup, j + 1, [each[j] for each in dealt]) for j in range(5)]
    for count in range(1, 6):
        for active in itertools.combinations(range(1, 6), count):
            made = ring.total(*(keys.opening_share(kept[i - 1], active) for i in active))
            assert np.array_equal(made, secret) == (count >= 3)


def test_shares_below_the_threshold_are_uniform() -> None:
    setup = keys.Setup(SEED, 3, 2, 5)
    dealt = keys.deal(keys.new_share(setup, 1)[0])
    numbers = ring.coefficients(dealt[2].value)
    for row, p in zip(numbers.tolist(), PRIMES, strict=True):
        seen = np.bincount([16 * number // p for number in row], minlength=16)
        assert float(((seen - 256) ** 2 / 256).sum()) < 60


def test_a_share_is_dealt_once_and_only_where_fewer_than_all_open() -> None:
    with pytest.raises(ValueError, match="only where fewer"):
        keys.deal(keys.new_share(SETUP, 1)[0])
    _, shares = joint(3, 2, 5)
    with pytest.raises(ValueError, match="only a share fresh"):
        keys.deal(shares[0])


def test_a_dealt_share_of_another_holder_or_key_is_refused() -> None:
    setup = keys.Setup(SEED, 3, 2, 5)
    dealt = [keys.deal(keys.new_share(setup, index)[0]) for index in (1, 2, 3)]
    with pytest.raises(ProtocolError, match="for holder 2 came to holder 1"):
        keys.combine(setup, 1, [dealt[0][0], dealt[1][1], dealt[2][0]])
    with pytest.raises(ProtocolError, match="missing"):
        keys.combine(setup, 1, [dealt[0][0], dealt[1][0]])
    with pytest.raises(ProtocolError, match="each once"):
        keys.combine(setup, 1, [dealt[0][0], dealt[0][0], dealt[1][0]])
    with pytest.raises(ProtocolError, match="another key"):
        keys.combine(dataclasses.replace(setup, contributors=6), 1, [each[0] for each in dealt])
