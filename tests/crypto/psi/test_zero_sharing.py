"""Shares of zero: they XOR to zero over all parties and look random over fewer; keys that were changed are refused."""

from __future__ import annotations

import json
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import ProtocolError
from crypto.psi.zero_sharing import OwnKey, Shares, new_key, signed_bytes
from crypto.signatures import MOST_SIGNATURE, Authenticator
from tests.crypto.psi.sets import blocks, random_items
from tests.crypto.psi.star_parties import byte_statistic

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "star.json").read_text())
RUN = bytes(range(32))


def shares_of(keys: dict[frozenset[str], bytes], name: str) -> Shares:
    return Shares({str(pair): key for pair, key in keys.items() if name in pair})


def pair_keys(names: list[str]) -> dict[frozenset[str], bytes]:
    own = {name: new_key(name, RUN) for name in names}
    return {
        frozenset((one, other)): own[one].shared(other, own[other].message())
        for one in names
        for other in names
        if one < other
    }


def share(keys: dict[frozenset[str], bytes], name: str, items: Any) -> Any:
    total = np.zeros_like(items)
    shares_of(keys, name).add(items, total)
    return total


# ---- shares ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_shares_of_all_parties_make_zero_and_of_fewer_look_random(count: int) -> None:
    names = [f"party {number}" for number in range(count)]
    keys = pair_keys(names)
    items = np.stack([np.arange(2000), np.zeros(2000)], axis=1).astype(np.uint64)
    shares = [share(keys, name, items) for name in names]
    assert not np.bitwise_xor.reduce(shares).any()
    for missing in range(count if count > 1 else 0):
        rest = np.bitwise_xor.reduce(shares[:missing] + shares[missing + 1 :])
        assert 100 < byte_statistic(rest) < 450 and len(np.unique(rest, axis=0)) == 2000


def test_who_lacks_one_key_between_two_parties_cannot_take_their_shares_apart() -> None:
    # The leader with cy's keys: what is left of ann's share is what ann and bob alone know.
    keys = pair_keys(["ann", "bob", "cy"])
    items = random_items(2000)
    ann, bob = share(keys, "ann", items), share(keys, "bob", items)
    known = {pair: key for pair, key in keys.items() if "cy" in pair}
    left = ann ^ share(known, "ann", items)
    assert 100 < byte_statistic(left) < 450
    assert not (left ^ bob ^ share(known, "bob", items)).any()


@settings(deadline=None)
@given(
    st.lists(st.binary(min_size=16, max_size=16), max_size=5), st.lists(st.binary(min_size=16, max_size=16))
)
def test_a_share_is_the_sum_of_aes_under_all_keys_on_top_of_what_was_there(
    keys: list[bytes], items: list[bytes]
) -> None:
    rows = np.frombuffer(b"".join(items), dtype="<u8").reshape(-1, 2)
    before = random_items(len(items)).copy()
    total = before.copy()
    Shares({str(number): key for number, key in enumerate(keys)}).add(rows, total)

    def aes(key: bytes, item: bytes) -> int:
        return int.from_bytes(Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(item), "little")

    for item, old, new in zip(items, before, total, strict=True):
        expected = reduce(
            lambda sum_, key: sum_ ^ aes(key, item), keys, int.from_bytes(old.tobytes(), "little")
        )
        assert int.from_bytes(new.tobytes(), "little") == expected


# ---- keys -----------------------------------------------------------------------------------------------------------


def test_the_vectors_come_out() -> None:
    vector = VECTORS["zero_sharing"]
    run, items = bytes.fromhex(vector["run"]), blocks(*vector["items"])
    own = {
        each["name"]: OwnKey(
            each["name"], run, X25519PrivateKey.from_private_bytes(bytes.fromhex(each["private"]))
        )
        for each in vector["parties"]
    }
    for each in vector["keys"]:
        one, other = each["parties"]
        assert own[one].shared(other, own[other].message()).hex() == each["key"]
        assert own[other].shared(one, own[one].message()).hex() == each["key"]
    for each in vector["parties"]:
        name = each["name"]
        assert own[name].public.hex() == own[name].message().hex() == each["public"]
        assert signed_bytes(run, name, own[name].public).hex() == each["signed"]
        keys = {other: own[name].shared(other, own[other].message()) for other in own if other != name}
        total = np.zeros_like(items)
        Shares(keys).add(items, total)
        assert [row.tobytes().hex() for row in total] == each["shares"]


def test_names_and_run_are_part_of_a_key() -> None:
    private, other = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    message = other.public_key().public_bytes_raw()
    made = {
        OwnKey(name, run, private).shared(peer, message)
        for name, run, peer in [("a", RUN, "b"), ("a", bytes(32), "b"), ("c", RUN, "b"), ("a", RUN, "c")]
    }
    assert len(made) == 4 and {len(key) for key in made} == {16}


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31)])
def test_a_point_of_low_order_is_refused(point: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"star\.keys: the key that came for bob is no proper public key"):
        new_key("ann", RUN).shared("bob", point)


@pytest.mark.parametrize("length", [0, 31, 33 + MOST_SIGNATURE])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ProtocolError, match=f"a key of {length} bytes came for bob; allowed are 32 to"):
        new_key("ann", RUN).shared("bob", b"\x09" * length)


class Signers:
    """Identities of parties, each pinned at all others."""

    def __init__(self, *names: str) -> None:
        self.keys = {name: Ed25519PrivateKey.generate() for name in names}

    def of(self, name: str) -> Authenticator:
        def verify(who: str, message: bytes, signature: bytes) -> bool:
            try:
                self.keys[who].public_key().verify(signature, message)
            except InvalidSignature:
                return False
            return True

        return Authenticator(self.keys[name].sign, verify)


def test_signed_keys_are_taken() -> None:
    signers = Signers("ann", "bob")
    ann, bob = (new_key(name, RUN, signers.of(name)) for name in ("ann", "bob"))
    assert len(ann.message()) == 32 + 64
    assert ann.shared("bob", bob.message()) == bob.shared("ann", ann.message())


def test_a_key_that_somebody_in_between_put_in_its_place_is_refused() -> None:
    signers = Signers("ann", "bob", "cy")
    ann, bob = (new_key(name, RUN, signers.of(name)) for name in ("ann", "bob"))
    forged = new_key("bob", RUN, signers.of("cy")).message()
    swapped = X25519PrivateKey.generate().public_key().public_bytes_raw() + bob.message()[32:]
    of_another_run = new_key("bob", bytes(32), signers.of("bob")).message()
    of_another_party = new_key("cy", RUN, signers.of("cy")).message()
    own = ann.message()
    for message in (forged, swapped, of_another_run, of_another_party, own, bob.message()[:-1]):
        with pytest.raises(ProtocolError, match="was not signed for this run by the identity pinned to it"):
            ann.shared("bob", message)


def test_signed_and_not_signed_do_not_go_together() -> None:
    signers = Signers("ann", "bob")
    with pytest.raises(ProtocolError, match="bob is not signed, and this side checks signatures"):
        new_key("ann", RUN, signers.of("ann")).shared("bob", new_key("bob", RUN).message())
    with pytest.raises(ProtocolError, match="bob is signed, and this side does not check"):
        new_key("ann", RUN).shared("bob", new_key("bob", RUN, signers.of("bob")).message())


@pytest.mark.parametrize("length", [0, MOST_SIGNATURE + 1])
def test_a_signature_that_could_not_be_sent_is_refused_at_home(length: int) -> None:
    own = new_key("ann", RUN, Authenticator(lambda message: bytes(length), lambda *given: True))
    with pytest.raises(ValueError, match=f"1 to {MOST_SIGNATURE} bytes, this one {length}"):
        own.message()


def test_no_secret_shows_in_a_repr() -> None:
    own = new_key("ann", RUN, Signers("ann").of("ann"))
    assert "private" not in repr(own) and "Authenticator" not in repr(own)
    assert repr(Shares({"bob": b"0123456789abcdef"})) == "Shares(1 other parties, keys=<hidden>)"
