"""The table of rings beside SEAL and the standard, and which one is chosen."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.ckks import vectors
from crypto.ckks.keys import new_key
from crypto.ckks.parameters import GUIDELINES, MARGIN, RINGS, STANDARD, Parameters
from crypto.ckks.seal import Scratch, engine, library


@pytest.mark.parametrize("degree", sorted(STANDARD))
def test_the_standard_is_that_of_seal(degree: int) -> None:
    seal = library()
    assert STANDARD[degree] == seal.CoeffModulus.MaxBitCount(degree, seal.SEC_LEVEL_TYPE.TC128)


@pytest.mark.parametrize("ring", RINGS)
def test_every_ring_is_within_the_standard_and_seal_takes_it(ring) -> None:
    assert sum(ring.chain) <= GUIDELINES[ring.degree] <= STANDARD[ring.degree]
    made = engine(ring, 1)
    q = math.prod(int(prime) for prime in made.primes)
    assert ring.modulus - 0.01 < math.log2(q) < ring.modulus
    assert len(made.primes) == len(ring.primes)


@settings(deadline=None)
@given(st.integers(1, 10_000), st.integers(1, 100), st.integers(1, 30))
def test_the_chosen_ring_is_the_first_that_holds_the_sum(cohort: int, weight: int, precision: int) -> None:
    try:
        parameters = Parameters(cohort, weight, precision)
    except ValueError:
        chosen = len(RINGS)
    else:
        chosen = RINGS.index(parameters.ring)
    number = cohort * weight * 2**precision
    for place, ring in enumerate(RINGS):
        noise = MARGIN * math.sqrt(10.75 * ring.degree / 2 * cohort * weight**2)
        holds = (
            number <= 2**39
            and math.log2(math.sqrt(2) * (number + 1) * math.ceil(4 * noise)) < ring.modulus - 0.01 - 1
        )
        assert holds == (place == chosen) or place > chosen
    if chosen < len(RINGS):
        assert parameters.scale >= 4 * MARGIN * weight * math.sqrt(
            10.75 * parameters.ring.degree / 2 * cohort
        )


def test_usual_cohorts_take_the_rings_that_the_table_is_made_for() -> None:
    chosen = [
        RINGS.index(Parameters(cohort, weight).ring)
        for cohort, weight in ((10, 1), (100, 1), (1000, 1), (100, 1000))
    ]
    assert chosen == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("cohort", "weight", "precision"),
    [(0, 1, 20), (2, 0, 20), (2, 1, 0), (2, 1, 31), (2**32, 1, 1), (2**20, 2**10, 20)],
)
def test_parameters_that_cannot_be_are_refused(cohort: int, weight: int, precision: int) -> None:
    with pytest.raises(ValueError, match=r"between|no ring"):
        Parameters(cohort, weight, precision)


@pytest.mark.parametrize("ring", [RINGS[0], RINGS[-1]])
def test_the_noise_of_a_number_has_the_variance_that_is_said(ring) -> None:
    key, made = new_key(ring), engine(ring, 1 << 20)
    secret, seal = key.loaded(made), library()
    encryptor, decryptor = seal.Encryptor(made.context, secret), seal.Decryptor(made.context, secret)
    rng, seen = np.random.default_rng(1), []
    for _ in range(40):
        meant = rng.integers(-1000, 1000, ring.degree).astype(np.float64)
        ciphertext, plain = seal.Ciphertext(), seal.Plaintext()
        encryptor.encrypt_symmetric(made.encode(meant.view(np.complex128).tolist()), ciphertext)
        decryptor.decrypt(ciphertext, plain)
        seen.append((np.array(made.encoder.decode_complex(plain)).view(np.float64) - meant) * (1 << 20))
    noise = np.concatenate(seen)
    # Rounding has variance 1/12 in the mean, the proxy 1/4 is its bound.
    assert np.var(noise) == pytest.approx((10.5 + 1 / 12) * ring.degree / 2, rel=0.05)
    assert np.abs(noise).max() < MARGIN * math.sqrt(10.75 * ring.degree / 2)


def test_the_error_bound_is_half_a_unit() -> None:
    parameters = Parameters(3, precision=10)
    values = np.random.default_rng(2).uniform(-3, 3, 1000)
    whole = vectors.whole_numbers(values, 3.0, parameters)
    assert np.abs(whole * 3.0 / 1024 - values).max() <= vectors.error_bound(3.0, parameters) == 3 / 2048


def test_without_anonymous_memory_a_file_is_used_and_removed(monkeypatch, tmp_path) -> None:
    monkeypatch.delattr("os.memfd_create")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    parameters = Parameters(2, precision=8)
    key = new_key(parameters.ring)
    total = vectors.Sum(key.public, parameters, 3)
    total.add(vectors.encrypt(key, np.array([1, -2, 3]), parameters), "x")
    opened = vectors.decrypt(key, parameters, total.to_bytes(), 3, least=1, step="x")
    assert opened.units.tolist() == [1, -2, 3]
    with Scratch():
        assert len(list(tmp_path.iterdir())) == 1
    assert not list(tmp_path.iterdir())


def test_a_missing_tenseal_is_named_with_its_cure(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tenseal.sealapi", None)
    library.cache_clear()
    try:
        with pytest.raises(ModuleNotFoundError, match=r"fedcore\[ckks\]"):
            library()
    finally:
        library.cache_clear()
