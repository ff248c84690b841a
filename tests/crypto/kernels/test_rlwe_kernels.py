"""Sampling, integers in coefficients, residues as bytes: beside plain Python, and whether distributions are right."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.kernels import rlwe_kernels
from crypto.kernels.aes import expand_key
from crypto.kernels.compiled import PORTABLE
from crypto.rlwe import decryption, ring
from crypto.rlwe.parameters import PRIMES, SIGMA, SIZE, WIDE_SIGMA, gaussian_table
from crypto.rlwe.parameters import ring as tables
from tests.crypto.rlwe.plain import lifted, residues_of

ROOT = Path(__file__).parents[3]
SEED = bytes(range(16))
u64 = np.uint64


def blocks(seed: bytes, count: int, high: int = 0) -> list[tuple[int, int]]:
    """Blocks of the counter mode: (low, high) words."""
    cipher = Cipher(algorithms.AES(seed), modes.ECB()).encryptor()
    made = cipher.update(b"".join(i.to_bytes(8, "little") + high.to_bytes(8, "little") for i in range(count)))
    words = np.frombuffer(made, dtype="<u8").reshape(-1, 2).tolist()
    return [(low, top) for low, top in words]


# ---- sampling -----------------------------------------------------------------------------------------------------


def test_uniform_residues_are_those_below_the_prime_of_the_stream() -> None:
    made = ring.uniform(SEED, 3)
    for i in range(3):
        for k, p in enumerate(PRIMES):
            stream = [word >> 11 for block in blocks(SEED, 2100, 2 * i + k) for word in block]
            assert made[i, k].tolist() == [word for word in stream if word < p][:SIZE]


def test_a_number_of_the_stream_that_is_not_below_the_prime_is_passed_over() -> None:
    row, small = np.empty(500, dtype=np.uint64), 2**52 + 1  # almost half of all numbers of 53 bits
    rlwe_kernels.uniform_row(expand_key(SEED), u64(7), u64(small), u64(53), row)
    stream = [word >> 11 for block in blocks(SEED, 1000, 7) for word in block]
    assert row.tolist() == [word for word in stream if word < small][:500]


@pytest.mark.parametrize("sigma", [SIGMA, WIDE_SIGMA])
def test_gaussian_numbers_are_read_from_the_table_as_a_person_would(sigma: float) -> None:
    table = [high << 63 | low for high, low in gaussian_table(sigma).T.tolist()]
    wanted = []
    for low, high in blocks(SEED, 600):
        number = (high >> 1) << 63 | low >> 1
        size = sum(number >= entry for entry in table)
        wanted.append(-size if low & 1 else size)
    assert ring.gaussian(sigma, SEED, 600).tolist() == wanted


@pytest.mark.parametrize("sigma", [SIGMA, WIDE_SIGMA])
def test_gaussian_numbers_have_the_distribution(sigma: float) -> None:
    count = 400_000
    made = ring.gaussian(sigma, SEED, count)
    reach = int(4 * sigma)
    weights = {x: math.exp(-(x**2) / (2 * sigma**2)) for x in range(-100, 101)}
    whole = sum(weights.values())
    wanted = [count * weights[x] / whole for x in range(-reach, reach + 1)]
    seen = [int((made == x).sum()) for x in range(-reach, reach + 1)]
    chi = sum((s - w) ** 2 / w for s, w in zip(seen, wanted, strict=True))
    degrees = len(wanted)
    assert chi < degrees + 5 * math.sqrt(2 * degrees)
    assert abs(made.std() / sigma - 1) < 0.01


def test_the_low_half_decides_where_the_high_half_is_that_of_an_entry() -> None:
    table = gaussian_table(WIDE_SIGMA)
    place = 5
    high, low = (int(word) for word in table[:, place])
    upper = np.full(3, high, dtype=np.int64)
    lower = np.array([(low - 1) << 1, low << 1, (low + 1) << 1], dtype=np.uint64).view(np.int64)
    out = np.zeros(3, dtype=np.int64)
    rlwe_kernels.count_below(table, upper, lower, out)
    assert out.tolist() == [place, place + 1, place + 1]


def test_the_largest_number_of_the_stream_is_behind_the_whole_table() -> None:
    table = gaussian_table(WIDE_SIGMA)
    out, top = np.zeros(1, dtype=np.int64), np.full(1, 2**63 - 1, dtype=np.int64)
    rlwe_kernels.count_below(table, top, np.full(1, -1, dtype=np.int64), out)
    assert out.tolist() == [table.shape[1]]


def test_ternary_numbers_are_uniform() -> None:
    out = np.empty(300_001, dtype=np.int64)
    rlwe_kernels.ternary(expand_key(SEED), out)
    seen = [int((out == x).sum()) for x in (-1, 0, 1)]
    assert sum(seen) == len(out)
    assert sum((s - len(out) / 3) ** 2 / (len(out) / 3) for s in seen) < 20
    assert out[:4].tolist() == [(3 * word >> 64) - 1 for block in blocks(SEED, 2) for word in block]


@pytest.mark.parametrize("bits", [64, 81, 90, 104])
def test_smudging_is_the_stream_cut_to_its_bits(bits: int) -> None:
    out = np.empty((2, SIZE), dtype=np.uint64)
    rlwe_kernels.wide_noise(expand_key(SEED), u64(bits), ring.factors(1), tables().moduli, out)
    stream = [(high << 64 | low) % 2 ** (bits + 1) - 2**bits for low, high in blocks(SEED, SIZE)]
    assert lifted(out) == stream


def test_smudging_is_uniform() -> None:
    bits, cells = 85, 64
    seen = np.zeros(cells, dtype=np.int64)
    for i in range(20):
        out = np.empty((2, SIZE), dtype=np.uint64)
        rlwe_kernels.wide_noise(expand_key(bytes([i] * 16)), u64(bits), ring.factors(1), tables().moduli, out)
        numbers = lifted(out)
        assert -(2**bits) <= min(numbers) and max(numbers) < 2**bits
        seen += np.bincount([(number + 2**bits) * cells >> (bits + 1) for number in numbers], minlength=cells)
    wanted = 20 * SIZE / cells
    assert float(((seen - wanted) ** 2 / wanted).sum()) < cells + 5 * math.sqrt(2 * cells)


# ---- integers in coefficients -------------------------------------------------------------------------------------


@st.composite
def packed(draw: st.DrawFn) -> tuple[int, int, bool, list[int], list[int]]:
    """Width, fields, signed, numbers of the first coefficients, noise on each coefficient."""
    width = draw(st.integers(2, 64))
    fields = draw(st.integers(1, 96 // width))
    signed = draw(st.booleans())
    least, most = (-(2 ** (width - 1)) + 1, 2 ** (width - 1) - 1) if signed else (0, 2**width - 1)
    number = st.integers(least, most) | st.sampled_from([least, 0, most])
    values = draw(st.lists(number, min_size=1, max_size=3 * fields + 1))
    noise = draw(st.lists(st.integers(-200, 200), min_size=8, max_size=8))
    return width, fields, signed, values, noise


def decoded(
    element: npt.NDArray[np.uint64], width: int, fields: int, signed: bool, limit: int, count: int
) -> tuple[bool, list[int]]:
    values = np.empty(count, dtype=np.int64)
    words = np.array([limit % 2**64, limit >> 64], dtype=np.uint64)
    good = rlwe_kernels.decode(element, u64(width), fields, signed, decryption._lift(), words, values)
    return bool(good), (values if signed else values.view(np.uint64)).tolist()


@settings(deadline=None, max_examples=150)
@given(packed())
def test_numbers_come_back_from_under_the_noise(case: tuple[int, int, bool, list[int], list[int]]) -> None:
    width, fields, signed, values, noise = case
    out = residues_of([each << (width * fields) for each in noise])
    words = np.array(values, dtype=np.int64 if signed else np.uint64).view(np.int64)
    rlwe_kernels.encode(words, u64(width), fields, signed, tables().moduli, out)
    rows = [values[i : i + fields] for i in range(0, len(values), fields)]
    sums = [sum(v << (width * at) for at, v in enumerate(row)) for row in rows] + [0] * 8
    assert lifted(out) == [sums[j] + (noise[j] << (width * fields)) for j in range(8)]
    if len(rows) <= 8:
        assert decoded(out, width, fields, signed, 200, len(values)) == (True, values)
    largest = max(map(abs, noise))
    if largest:
        assert not decoded(out, width, fields, signed, largest - 1, len(values))[0]


def test_a_number_behind_the_end_of_the_vector_is_noticed() -> None:
    element = residues_of([5 + (7 << 20), 9])
    assert decoded(element, 20, 2, True, 0, 3) == (True, [5, 7, 9])
    assert not decoded(element, 20, 2, True, 0, 2)[0]


def test_noise_of_more_than_a_word_is_compared_as_a_whole() -> None:
    for noise in (2**80, -(2**80)):
        element = residues_of([(noise << 14) + 3])
        assert decoded(element, 14, 1, True, 2**80, 1) == (True, [3])
        assert not decoded(element, 14, 1, True, 2**80 - 1, 1)[0]


# ---- residues as bytes --------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 63), st.randoms(use_true_random=False))
def test_bits_stand_one_behind_the_other(width: int, generator: object) -> None:
    numbers = [generator.getrandbits(width) for _ in range(128)]  # type: ignore[attr-defined]
    out = np.empty(128 * width // 64, dtype=np.uint64)
    rlwe_kernels.pack(np.array(numbers, dtype=np.uint64), u64(width), out)
    whole = sum(number << (width * i) for i, number in enumerate(numbers))
    assert out.astype("<u8").tobytes() == whole.to_bytes(128 * width // 8, "little")
    back = np.empty(128, dtype=np.uint64)
    rlwe_kernels.unpack(out, u64(width), back)
    assert back.tolist() == numbers


def test_a_residue_that_is_not_below_its_prime_is_seen() -> None:
    element = np.zeros((1, 2, SIZE), dtype=np.uint64)
    element[0, 1, SIZE - 1] = PRIMES[1] - 1
    assert rlwe_kernels.below(element, tables().moduli)
    element[0, 1, SIZE - 1] = PRIMES[1]
    assert not rlwe_kernels.below(element, tables().moduli)


@pytest.mark.slow
def test_the_portable_path_samples_the_same() -> None:
    code = (
        "import hashlib; from crypto.rlwe import ring; s = bytes(range(16));"
        "print(hashlib.sha256(ring.uniform(s, 1).tobytes() + ring.gaussian(6.4, s, 4096).tobytes()).hexdigest())"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, PORTABLE: path},
            cwd=ROOT,
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for path in ("0", "1")
    }
    assert len(told) == 1
