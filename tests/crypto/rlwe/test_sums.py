"""Sums under a joint key: exact for any cohort, refused where something does not belong, closed to look at."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import ProtocolError
from crypto.kernels import rlwe_kernels
from crypto.kernels.aes import expand_key
from crypto.rlwe import decryption, encryption, keys, layout, ring
from crypto.rlwe.parameters import KEY_WIDTH, PRIMES, SIGMA, SIZE, WIDE_SIGMA
from tests.crypto.rlwe.joint import Stream, joint, opened, vectors
from tests.crypto.rlwe.plain import kronecker, lifted

KEY, SHARES = joint(3, 2, 40)
WIDE, WIDE_SHARES = joint(2, 2, 60)


def context_of(
    count: int = 100, limit: int = 1000, *, signed: bool = True, label: bytes = b"1"
) -> encryption.Context:
    return encryption.Context(KEY, layout.layout(count, limit, 40, signed=signed), label)


@settings(deadline=None, max_examples=25)
@given(
    count=st.integers(1, 3000) | st.sampled_from([1, SIZE, SIZE + 1, 3 * SIZE, 5 * SIZE + 7]),
    bits=st.integers(1, 57),
    signed=st.booleans(),
    cohort=st.integers(1, 6),
    label=st.binary(max_size=20),
    seed=st.integers(0, 2**32),
)
def test_the_sum_is_exact(count: int, bits: int, signed: bool, cohort: int, label: bytes, seed: int) -> None:
    context = context_of(count, 2**bits - 1, signed=signed, label=label)
    given_ = vectors(context.plan, cohort, seed)
    total = encryption.add(context, (encryption.encrypt(context, vector) for vector in given_))
    assert total.contributors == cohort
    made = opened(context, total, SHARES, (1, 3))
    assert made.dtype == (np.int64 if signed else np.uint64)
    assert made.tolist() == [sum(column) for column in zip(*(each.tolist() for each in given_), strict=True)]


@pytest.mark.parametrize(("limit", "signed"), [(2**24, True), (3, True), (2**57, True), (2**58, False)])
def test_the_largest_numbers_of_the_largest_cohort_do_not_overflow(limit: int, signed: bool) -> None:
    plan = layout.layout(50, limit, 60, signed=signed)
    context = encryption.Context(WIDE, plan, b"ends")
    vector = np.full(50, limit, dtype=np.int64)
    vector[::2] = -limit if signed else 0
    total = encryption.add(context, (encryption.encrypt(context, vector) for _ in range(60)))
    assert opened(context, total, WIDE_SHARES, (1, 2)).tolist() == [60 * each for each in vector.tolist()]


def test_sums_of_sums_are_sums() -> None:
    context = context_of()
    given_ = vectors(context.plan, 4)
    made = [encryption.encrypt(context, vector) for vector in given_]
    halves = [encryption.add(context, made[:2]), encryption.add(context, made[2:])]
    total = encryption.add(context, halves)
    assert total.contributors == 4
    assert np.array_equal(opened(context, total, SHARES, (2, 3)), sum(given_))


def test_any_integer_type_is_taken() -> None:
    context = context_of(3)
    for kind in (np.int8, np.int16, np.int32, np.uint8, np.uint64):
        vector = np.array([1, 0, 100], dtype=kind)
        total = encryption.add(context, [encryption.encrypt(context, vector)])
        assert opened(context, total, SHARES, (1, 2)).tolist() == [1, 0, 100]


def test_a_vector_left_out_does_not_change_the_sum() -> None:
    context = context_of()
    given_ = vectors(context.plan, 3)
    made = [encryption.encrypt(context, vector) for vector in given_]
    total = encryption.add(context, made[:2])
    assert np.array_equal(opened(context, total, SHARES, (1, 2)), given_[0] + given_[1])


# ---- what a vector looks like -------------------------------------------------------------------------------------


def test_a_payload_is_what_plain_arithmetic_makes_of_its_seeds() -> None:
    context = context_of(2 * SIZE * 6, 1000)
    assert context.plan.fields == 5 and context.plan.polynomials == 3
    vector, stream = vectors(context.plan, 1)[0], Stream("payload")
    made = encryption.encrypt(context, vector, stream)
    secret = ring.gaussian(WIDE_SIGMA, stream.given[0], SIZE).tolist()
    errors = ring.gaussian(WIDE_SIGMA, stream.given[1], 3 * SIZE).tolist()
    public = ring.uniform(ring.hashed("rlwe payload", context.digest), 3)
    number, fields, width = vector.tolist(), context.plan.fields, context.plan.width
    for i in range(3):
        a, shown = ring.coefficients(public[i]), ring.coefficients(made.payload[i])
        message = [
            sum(v << (width * at) for at, v in enumerate(number[j * fields : (j + 1) * fields]))
            + context.plan.factor * errors[j]
            for j in range(i * SIZE, (i + 1) * SIZE)
        ]
        for k, p in enumerate(PRIMES):
            masked = kronecker(a[k].tolist(), [s % p for s in secret], p)
            assert shown[k].tolist() == [(x + y) % p for x, y in zip(masked, message, strict=True)]


def test_a_key_part_is_what_plain_arithmetic_makes_of_its_seeds() -> None:
    context, stream = context_of(), Stream("key part")
    made = encryption.encrypt(context, vectors(context.plan, 1)[0], stream)
    once = np.empty(SIZE, dtype=np.int64)
    rlwe_kernels.ternary(expand_key(stream.given[2]), once)
    message = ring.gaussian(WIDE_SIGMA, stream.given[0], SIZE).tolist()
    for half, multiplier in enumerate((KEY.value, ring.common_polynomial(KEY.setup.seed))):
        shown, by = ring.coefficients(made.key[half]), ring.coefficients(multiplier)
        masks = [kronecker(by[k].tolist(), [u % p for u in once.tolist()], p) for k, p in enumerate(PRIMES)]
        left = [
            [(x - y) % p for x, y in zip(shown[k].tolist(), masks[k], strict=True)]
            for k, p in enumerate(PRIMES)
        ]
        numbers = lifted(np.array(left, dtype=np.uint64))
        errors = ring.gaussian(SIGMA, stream.given[3 + half], SIZE).tolist()
        held = message if half == 0 else [0] * SIZE
        assert numbers == [m + (e << KEY_WIDTH) for m, e in zip(held, errors, strict=True)]


def cells(residues: npt.NDArray[np.uint64], p: int) -> float:
    """The statistic of a chi-square test of uniformity, 64 cells."""
    seen = np.bincount((residues >> np.uint64(47)).astype(np.int64), minlength=64)
    wanted = [len(residues) * (min(p, (i + 1) << 47) - (i << 47)) / p for i in range(64)]
    return float(sum((s - w) ** 2 / w for s, w in zip(seen.tolist(), wanted, strict=True)))


def test_a_single_vector_looks_uniform_whatever_it_holds() -> None:
    context = context_of(SIZE * 30, 2**20)
    for vector in (np.zeros(SIZE * 30, dtype=np.int64), np.full(SIZE * 30, 2**20)):
        made = encryption.encrypt(context, vector)
        for polynomials in (made.payload, made.key):
            for k, p in enumerate(PRIMES):
                assert cells(polynomials[:, k].ravel(), p) < 64 + 5 * math.sqrt(128)
                row = ring.coefficients(polynomials[0])[k]
                assert cells(row, p) < 64 + 6 * math.sqrt(128)


def test_the_same_vector_never_looks_the_same_twice() -> None:
    context = context_of()
    vector = vectors(context.plan, 1)[0]
    first, second = (encryption.encrypt(context, vector) for _ in range(2))
    assert (first.payload == second.payload).mean() < 0.001
    assert (first.key == second.key).mean() < 0.001


def test_no_seed_is_used_twice_in_a_vector() -> None:
    context, stream = context_of(), Stream("seeds")
    for _ in range(3):
        encryption.encrypt(context, vectors(context.plan, 1)[0], stream)
    assert len(stream.given) == 3 * 5  # secret, errors of the payload, and three polynomials of the key part
    assert len(set(stream.given)) == len(stream.given)


def test_every_round_has_public_elements_of_its_own() -> None:
    digests = {
        context_of().digest,
        context_of(label=b"2").digest,
        context_of(count=101).digest,
        context_of(limit=1001).digest,
        context_of(signed=False).digest,
        encryption.Context(WIDE, context_of().plan, b"1").digest,
    }
    assert len(digests) == 6


# ---- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vector", "told"),
    [
        (np.zeros(99, dtype=np.int64), r"shape \(99,\)"),
        (np.zeros((10, 10), dtype=np.int64), r"shape \(10, 10\)"),
        (np.zeros(100), "float64 came"),
        (np.full(100, np.nan), "float64 came"),
        (np.zeros(100, dtype=bool), "bool came"),
        (np.full(100, 1001), "clip before"),
        (np.full(100, -1001), "clip before"),
        (np.full(100, 2**64 - 1, dtype=np.uint64), "clip before"),
        (np.full(100, -(2**63)), "clip before"),
    ],
)
def test_a_vector_that_is_not_as_agreed_is_refused_and_not_shown(
    vector: npt.NDArray[np.int64], told: str
) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        encryption.encrypt(context_of(), vector)
    assert "1001" not in str(caught.value)


def test_a_negative_number_where_none_is_agreed_is_refused() -> None:
    with pytest.raises(ValueError, match="outside 0 to 1000"):
        encryption.encrypt(context_of(signed=False), np.full(100, -1))


def test_a_vector_of_another_round_layout_or_key_is_not_added() -> None:
    context = context_of()
    vector = vectors(context.plan, 1)[0]
    others = [
        context_of(label=b"2"),
        context_of(limit=1001),
        encryption.Context(joint(3, 2, 40)[0], context.plan, b"1"),
    ]
    for other in others:
        with pytest.raises(ProtocolError, match="another key, layout or round"):
            encryption.add(context, [encryption.encrypt(other, vector)])


def test_the_same_vector_twice_is_refused() -> None:
    context = context_of()
    made = encryption.encrypt(context, vectors(context.plan, 1)[0])
    with pytest.raises(ProtocolError, match="came twice"):
        encryption.add(context, [made, made])


def test_a_vector_made_of_the_same_seeds_is_refused() -> None:
    context = context_of()
    first, second = vectors(context.plan, 2)
    made = [encryption.encrypt(context, vector, Stream("again")) for vector in (first, second)]
    with pytest.raises(ProtocolError, match="came twice"):
        encryption.add(context, made)


def test_more_vectors_than_there_is_room_for_and_none_at_all_are_refused() -> None:
    plan = layout.layout(100, 1000, 2)
    context = encryption.Context(KEY, plan, b"1")
    made = [encryption.encrypt(context, vector) for vector in vectors(plan, 3)]
    with pytest.raises(ProtocolError, match="3 vectors came where the layout has room for 2"):
        encryption.add(context, made)
    with pytest.raises(ProtocolError, match="no vector came"):
        encryption.add(context, [])


def test_a_layout_for_more_participants_than_the_key_is_refused() -> None:
    with pytest.raises(ValueError, match="for 41 participants, the key for 40"):
        encryption.Context(KEY, layout.layout(100, 1000, 41), b"1")


@pytest.mark.parametrize("part", ["payload", "key"])
@pytest.mark.parametrize("place", [(0, 0, 0), (0, 1, 4095), (1, 0, 77)])
def test_an_altered_vector_is_noticed(part: str, place: tuple[int, int, int]) -> None:
    context = context_of(SIZE * 6)
    made = [encryption.encrypt(context, vector) for vector in vectors(context.plan, 2)]
    array = getattr(made[1], part)
    array[place] = (int(array[place]) + 1) % PRIMES[place[1]]
    with pytest.raises(ProtocolError, match="no sum of vectors" if part == "payload" else "do not open"):
        opened(context, encryption.add(context, made), SHARES, (1, 2))


def test_a_payload_with_the_key_part_of_another_vector_is_noticed() -> None:
    context = context_of()
    first, second = (encryption.encrypt(context, vector) for vector in vectors(context.plan, 2))
    mixed = encryption.Ciphertext(context.digest, 1, second.key, first.payload)
    with pytest.raises(ProtocolError, match="no sum of vectors"):
        opened(context, encryption.add(context, [mixed]), SHARES, (1, 2))


def test_a_public_key_of_somebody_else_gives_no_sum() -> None:
    other = keys.PublicKey(KEY.setup, joint(3, 2, 40)[0].value)
    context = encryption.Context(other, context_of().plan, b"1")
    total = encryption.add(context, [encryption.encrypt(context, vectors(context.plan, 1)[0])])
    with pytest.raises(ProtocolError, match="do not open"):
        opened(context, total, SHARES, (1, 2))


def test_one_field_more_than_the_vector_has_is_noticed() -> None:
    # A participant that fills the room behind the end of its vector.
    longer, shorter = context_of(101), context_of(100)
    made = encryption.encrypt(longer, np.ones(101, dtype=np.int64))
    asked = encryption.Ciphertext(shorter.digest, 1, made.key, made.payload)
    with pytest.raises(ProtocolError, match="no sum of vectors"):
        opened(shorter, encryption.add(shorter, [asked]), SHARES, (1, 2))
    assert decryption.key_part(made).contributors == 1
