"""Sums under CKKS beside numpy and beside TenSEAL's own vectors."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tenseal
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.ckks import vectors
from crypto.ckks.keys import SecretKey, new_key, public_from, secret_from
from crypto.ckks.parameters import RINGS, Parameters, Ring
from crypto.ckks.vectors import Opened, Sum, decrypt, encrypt
from crypto.errors import ProtocolError

STEP = "ckks.test"


@functools.cache
def key_of(ring: Ring) -> SecretKey:
    return new_key(ring)


def run(tables, parameters, factors=None, scale=1, least=1) -> Opened:
    """All participants' vectors through coordinator and back."""
    key = key_of(parameters.ring)
    total = Sum(key.public, parameters, len(tables[0]))
    for numbers, factor in zip(tables, factors or [1] * len(tables), strict=True):
        total.add(encrypt(key, numbers, parameters), STEP, factor=factor)
    if scale > 1:
        total.scale(scale)
    return decrypt(key, parameters, total.to_bytes(), len(tables[0]), least=least, step=STEP)


@settings(deadline=None, max_examples=25)
@given(
    count=st.sampled_from([1, 2, 1000, 2046, 2047, 2048, 4095, 4096, 9000]),
    cohort=st.integers(1, 6),
    weight=st.sampled_from([1, 1, 7, 300]),
    precision=st.integers(1, 24),
    seed=st.integers(0, 2**32),
)
def test_the_sum_is_exactly_that_of_numpy(count, cohort, weight, precision, seed) -> None:
    parameters = Parameters(cohort, weight, precision)
    rng = np.random.default_rng(seed)
    scale = int(rng.integers(1, weight + 1))
    factors = rng.integers(1, weight // scale + 1, cohort).tolist()
    tables = rng.integers(-parameters.limit, parameters.limit, (cohort, count), endpoint=True)
    opened = run(tables, parameters, factors, scale)
    wanted = scale * (np.array(factors)[:, None] * tables).sum(axis=0)
    assert np.array_equal(opened.units, wanted)
    assert (opened.terms, opened.weight) == (cohort, scale * sum(factors))
    assert opened.noise <= 0.25


@pytest.mark.parametrize("place", range(len(RINGS)))
@pytest.mark.parametrize("shape", ["all", "alternating", "random"])
def test_sums_at_the_bounds_of_each_ring_are_exact(place, shape) -> None:
    made = {}
    for precision in range(1, 31):
        for weight in (1, 40, 1000):
            try:
                parameters = Parameters(3, weight, precision)
            except ValueError:
                continue
            if parameters.ring == RINGS[place]:
                made[parameters.capacity * parameters.limit * parameters.scale] = parameters
    parameters = made[max(made)]
    one = np.full(2 * parameters.ring.degree, parameters.limit)
    if shape == "alternating":
        one[::2] *= -1
    if shape == "random":
        one *= np.random.default_rng(3).choice([-1, 1], one.size)
    opened = run([one] * 3, parameters, [parameters.weight] * 3)
    assert np.array_equal(opened.units, one * parameters.capacity)


def test_a_weighted_mean_is_within_the_bound_and_that_of_tenseal() -> None:
    rng, clip = np.random.default_rng(4), 2.0
    parameters = Parameters(3, weight=20)
    values, factors = rng.uniform(-clip, clip, (3, 4096)).astype(np.float32), [20, 3, 7]
    opened = run(
        [vectors.whole_numbers(row, clip, parameters) for row in values], parameters, factors, least=3
    )
    found = vectors.means(opened, clip, parameters)
    assert (
        np.abs(found - np.average(values.astype(np.float64), axis=0, weights=factors)).max()
        <= vectors.error_bound(clip, parameters) + 1e-12
    )
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 8192, -1, [60, 40, 40, 60], n_threads=1)
    context.global_scale = 2**40
    theirs = sum(
        tenseal.ckks_vector(context, row.tolist()) * (factor / 30)
        for row, factor in zip(values, factors, strict=True)
    )
    assert np.abs(found - np.array(theirs.decrypt())).max() < 1e-5


def test_values_beyond_the_clip_count_as_the_clip() -> None:
    parameters = Parameters(2, precision=4)
    assert vectors.whole_numbers([9.0, -9.0, 1.0, 0.5, -0.03], 1.0, parameters).tolist() == [
        16,
        -16,
        16,
        8,
        0,
    ]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_with_its_place(value) -> None:
    with pytest.raises(ValueError, match="value 2 is not finite"):
        vectors.whole_numbers([0.0, 1.0, value], 1.0, Parameters(2))
    with pytest.raises(ValueError, match="clip is above 0"):
        vectors.whole_numbers([0.0], value, Parameters(2))


@pytest.mark.parametrize(
    "numbers",
    [
        np.array([257]),
        np.array([-257]),
        np.array([1.0]),
        np.array([], dtype=np.int64),
        np.zeros((2, 2), dtype=np.int64),
    ],
)
def test_numbers_that_do_not_fit_are_refused_before_encrypting(numbers) -> None:
    parameters = Parameters(2, precision=8)
    with pytest.raises(ValueError, match="number"):
        encrypt(key_of(parameters.ring), numbers, parameters)


def test_a_message_looks_random_and_never_the_same_twice() -> None:
    parameters = Parameters(2)
    key = key_of(parameters.ring)
    numbers = np.zeros(40_000, dtype=np.int64)
    one, other = encrypt(key, numbers, parameters), encrypt(key, numbers, parameters)
    assert len(one) == vectors.size(40_000, parameters, total=False)
    rows = np.frombuffer(one[40:], dtype=np.uint8).reshape(vectors.ciphertexts(40_000, parameters), -1)
    again = np.frombuffer(other[40:], dtype=np.uint8).reshape(rows.shape)
    seeds = {row[:64].tobytes() for row in (*rows, *again)}
    assert len(seeds) == 2 * len(rows)
    seen = np.bincount(np.concatenate([rows.ravel(), again.ravel()]), minlength=256)
    wanted = seen.sum() / 256
    # Chi-square of 255 degrees of freedom: 450 is passed with probability below 10^-12.
    assert ((seen - wanted) ** 2 / wanted).sum() < 450


def test_threads_do_not_disturb_each_other() -> None:
    parameters = Parameters(8)
    tables = np.random.default_rng(5).integers(-1000, 1000, (8, 5000))
    key = key_of(parameters.ring)
    with ThreadPoolExecutor(4) as pool:
        messages = list(pool.map(lambda row: encrypt(key, row, parameters), tables))
    total = Sum(key.public, parameters, 5000)
    for message in messages:
        total.add(message, STEP)
    sent = total.to_bytes()
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda _: decrypt(key, parameters, sent, 5000, least=8, step=STEP), range(4)))
    assert all(np.array_equal(each.units, tables.sum(axis=0)) for each in opened)


# ---- refused ---------------------------------------------------------------------------------------------------


def test_a_sum_over_too_few_is_not_decrypted() -> None:
    parameters = Parameters(3)
    tables = [np.array([1, 2])] * 2
    assert run(tables, parameters, least=2).terms == 2
    with pytest.raises(ProtocolError, match="over 2 participants, at least 3"):
        run(tables, parameters, least=3)


def test_one_participants_message_is_not_decrypted() -> None:
    parameters = Parameters(3)
    key = key_of(parameters.ring)
    message = encrypt(key, np.array([1, 2]), parameters)
    with pytest.raises(ProtocolError, match="bytes came"):
        decrypt(key, parameters, message, 2, least=1, step=STEP)


def test_another_key_and_other_parameters_are_refused() -> None:
    parameters = Parameters(3)
    key, other = key_of(parameters.ring), new_key(parameters.ring)
    total = Sum(key.public, parameters, 2)
    for maker, made in ((other, parameters), (key, Parameters(4)), (key, Parameters(3, precision=19))):
        with pytest.raises(ProtocolError, match="another key or other parameters"):
            total.add(encrypt(maker, np.array([1, 2]), made), STEP)
    assert total.terms == 0
    total.add(encrypt(key, np.array([1, 2]), parameters), STEP)
    sent = bytearray(total.to_bytes())
    with pytest.raises(ProtocolError, match="another key or other parameters"):
        decrypt(other, parameters, sent, 2, least=1, step=STEP)
    sent[4:20] = vectors.fingerprint(other.public, parameters)
    with pytest.raises(ProtocolError, match="no sum of 1 participants"):
        decrypt(other, parameters, sent, 2, least=1, step=STEP)


@pytest.mark.parametrize(
    ("other", "number"),
    [
        (Parameters(3, precision=21), 2**20 + 1),
        (Parameters(3, precision=21), -(2**20) - 1),
        (Parameters(4), 2),
    ],
    ids=["too large", "too small", "between whole numbers"],
)
def test_numbers_that_no_participant_may_send_show_in_the_sum(other, number) -> None:
    """Made with other parameters, and told to be of these."""
    parameters = Parameters(3)
    key = key_of(parameters.ring)
    assert other.ring == parameters.ring
    message = bytearray(encrypt(key, np.array([0, number]), other))
    message[4:20] = vectors.fingerprint(key.public, parameters)
    total = Sum(key.public, parameters, 2)
    total.add(message, STEP)
    with pytest.raises(ProtocolError, match="no sum of 1 participants"):
        decrypt(key, parameters, total.to_bytes(), 2, least=1, step=STEP)


def test_a_key_of_another_ring_is_refused() -> None:
    with pytest.raises(ValueError, match="the key is of"):
        encrypt(key_of(RINGS[1]), np.array([1]), Parameters(2))


def test_ciphertexts_that_were_not_all_added_are_refused() -> None:
    parameters, count = Parameters(3), 5000
    key = key_of(parameters.ring)
    total, partial = Sum(key.public, parameters, count), Sum(key.public, parameters, count)
    messages = [encrypt(key, np.arange(count), parameters) for _ in range(2)]
    for message in messages:
        total.add(message, STEP)
    partial.add(messages[0], STEP)
    both, one = bytearray(total.to_bytes()), partial.to_bytes()
    length = (len(one) - 40) // vectors.ciphertexts(count, parameters)
    both[40 + length : 40 + 2 * length] = one[40 + length : 40 + 2 * length]
    with pytest.raises(ProtocolError, match="ciphertext 1 is no sum of 2"):
        decrypt(key, parameters, both, count, least=2, step=STEP)


def test_a_refused_message_leaves_the_sum_as_it_was() -> None:
    parameters, count = Parameters(3), 5000
    key = key_of(parameters.ring)
    total = Sum(key.public, parameters, count)
    message = encrypt(key, np.arange(count), parameters)
    total.add(message, STEP)
    before = total.to_bytes()
    with pytest.raises(ProtocolError, match="not below its prime"):
        total.add(message[:-5] + b"\xff" * 5, STEP)
    with pytest.raises(ProtocolError, match="bytes came"):
        total.add(message[:-1], STEP)
    with pytest.raises(ValueError, match="a factor is at most 1"):
        total.add(message, STEP, factor=2)
    assert total.to_bytes() == before and total.terms == 1


def test_more_than_the_parameters_hold_is_refused_before_adding() -> None:
    parameters = Parameters(2, weight=6)
    key = key_of(parameters.ring)
    total = Sum(key.public, parameters, 1)
    with pytest.raises(ValueError, match="nothing was added"):
        total.to_bytes()
    with pytest.raises(ValueError, match="0 participants"):
        total.scale(2)
    message = encrypt(key, np.array([1]), parameters)
    total.add(message, STEP, factor=3)
    with pytest.raises(ValueError, match="at most 6"):
        total.scale(3)
    total.scale(2)
    total.add(message, STEP, factor=6)
    with pytest.raises(ValueError, match="participants are at most 2"):
        total.add(message, STEP)
    opened = decrypt(key, parameters, total.to_bytes(), 1, least=2, step=STEP)
    assert (opened.units.tolist(), opened.weight) == ([12], 12)


# ---- keys ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ring", RINGS)
def test_keys_and_contexts_survive_their_bytes(ring) -> None:
    key = key_of(ring)
    assert secret_from(key.to_bytes(), STEP) == key
    assert public_from(key.public.to_bytes(), STEP) == key.public
    assert new_key(ring).identifier != key.identifier


def test_the_coordinators_context_has_no_room_for_a_key() -> None:
    key = key_of(RINGS[0])
    sent = key.public.to_bytes()
    assert len(sent) == 27
    with pytest.raises(ProtocolError, match="the coordinator must not have"):
        public_from(key.to_bytes(), STEP)
    with pytest.raises(ProtocolError, match="27 bytes, not"):
        public_from(sent + key.coefficients, STEP)


def test_a_context_of_tenseal_is_refused_with_and_without_its_key() -> None:
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 4096, -1, [40, 29, 40])
    for with_key in (False, True):
        with pytest.raises(ProtocolError, match="not a public context"):
            public_from(context.serialize(save_secret_key=with_key), STEP)


def test_the_secret_key_shows_in_no_repr() -> None:
    key = key_of(RINGS[0])
    assert repr(key.coefficients)[2:20] not in repr(key)
    assert len(repr(key)) < 200
