"""Keys and single ciphertexts beside phe."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import phe
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import ProtocolError
from crypto.paillier import keys
from crypto.paillier.keys import Owner, PrivateKey, PublicKey, integers, new_owner, owner_from, public_from
from crypto.paillier.noise import Encryptor

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "sums.json").read_text())
P, Q = int(VECTORS["p"], 16), int(VECTORS["q"], 16)
OWNER = Owner(PublicKey(P * Q, 2048), PrivateKey(P, Q))
THEIRS = phe.PaillierPublicKey(P * Q)
THEIR_KEY = phe.PaillierPrivateKey(THEIRS, P, Q)
ENCRYPTOR = Encryptor(OWNER.public)
BY = {"owner": OWNER.encrypt, "stranger": OWNER.public.encrypt, "table": ENCRYPTOR.encrypt}


@settings(deadline=None, max_examples=10)
@given(st.integers(0, P * Q - 1), st.sampled_from(sorted(BY)))
def test_phe_reads_these_ciphertexts_and_these_keys_read_those_of_phe(number: int, by: str) -> None:
    assert THEIR_KEY.raw_decrypt(BY[by](number)) == number
    assert OWNER.decrypt(THEIRS.raw_encrypt(number)) == number


@pytest.mark.parametrize("by", sorted(BY))
def test_two_ciphertexts_of_a_number_differ_and_add_up(by: str) -> None:
    one, other = BY[by](5), BY[by](5)
    assert one != other
    assert OWNER.decrypt(OWNER.public.add(one, other)) == 10
    assert OWNER.decrypt(OWNER.public.add(one, BY[by](P * Q - 7))) == P * Q - 2


@pytest.mark.parametrize("by", sorted(BY))
def test_the_noise_of_a_ciphertext_is_an_nth_power(by: str) -> None:
    n = OWNER.public.n
    noise = BY[by](0)
    assert pow(noise, (P - 1) * (Q - 1) // 2, n * n) == 1 and math.gcd(noise, n) == 1


def test_the_noise_of_the_table_has_jacobi_symbol_one_and_is_no_square_half_of_the_time() -> None:
    """Its base is minus a square, and modulo such primes -1 is none."""
    seen = {
        tuple(int(integers().legendre(noise, prime)) for prime in (P, Q))
        for noise in (ENCRYPTOR.encrypt(0) for _ in range(48))
    }
    assert seen == {(1, 1), (-1, -1)}


def test_the_table_gives_the_power_that_its_exponent_says(monkeypatch: pytest.MonkeyPatch) -> None:
    gmpy2 = integers()
    base = ENCRYPTOR._rows[0][1]
    for exponent in (0, 1, 63, 64, (1 << 1024) - 1, 0x123456789ABCDEF):
        monkeypatch.setattr("crypto.paillier.noise.secrets.randbits", lambda bits, e=exponent: e)
        assert ENCRYPTOR.noise() == gmpy2.powmod(base, exponent, OWNER.public.n**2)
    asked = []
    monkeypatch.setattr("crypto.paillier.noise.secrets.randbits", lambda bits: (asked.append(bits), 1)[1])
    ENCRYPTOR.noise()
    assert asked == [1024]


def test_secrets_show_in_no_repr() -> None:
    shown = repr(OWNER) + repr(OWNER.private) + repr(ENCRYPTOR)
    assert str(P) not in shown and str(Q) not in shown
    assert "hidden" in repr(ENCRYPTOR)


@pytest.mark.parametrize("bits", [1024, 2040, 2047, 2056, 0])
def test_keys_that_are_too_short_or_uneven_are_refused(bits: int) -> None:
    for refused in (
        lambda: new_owner(bits),
        lambda: owner_from(b"", bits, "x"),
        lambda: public_from(b"", bits, "x"),
    ):
        with pytest.raises(ValueError, match="at least 2048"):
            refused()


def test_the_default_length_is_that_of_128_bits() -> None:
    assert keys.BITS == 3072


def test_a_fresh_key_has_the_form_that_the_table_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "LEAST_BITS", 64)
    for _ in range(20):
        owner = new_owner(256)
        p, q = owner.private.p, owner.private.q
        assert p % 4 == q % 4 == 3 and math.gcd(p - 1, q - 1) == 2 and p != q
        assert (p * q).bit_length() == 256 and owner.public.n == p * q
        assert owner_from(owner.to_bytes(), 256, "x") == owner


def test_a_key_of_its_own_bytes_is_the_same() -> None:
    owner = owner_from(bytes.fromhex(VECTORS["owner"]), 2048, "x")
    assert owner == OWNER and owner.to_bytes().hex() == VECTORS["owner"]
    assert public_from(bytes.fromhex(VECTORS["public"]), 2048, "x") == OWNER.public


@pytest.mark.parametrize("vector", VECTORS["bad"]["owner"], ids=lambda vector: vector["why"])
def test_vectors_of_what_is_no_private_key(vector: dict[str, Any]) -> None:
    good = bytes.fromhex(VECTORS["owner"])
    if "cut" in vector:
        made = good[: -vector["cut"]]
    elif "add" in vector:
        made = good + bytes.fromhex(vector["add"])
    else:
        put = bytes.fromhex(vector["put"])
        made = good[: vector["at"]] + put + good[vector["at"] + len(put) :]
    assert made != good
    with pytest.raises(ProtocolError, match="step 7"):
        owner_from(made, 2048, "step 7")


def test_a_missing_gmpy2_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gmpy2", None)
    integers.cache_clear()
    try:
        with pytest.raises(ModuleNotFoundError, match=r"fedcore\[paillier\]"):
            new_owner()
    finally:
        integers.cache_clear()
