"""Messages as bytes: vectors, good ones and bad ones, and that any bytes at all are read or refused."""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crypto.errors import ProtocolError
from crypto.kernels.keystream import keystream_reference
from crypto.secagg import keys, messages
from crypto.secagg.graph import Assumptions, Graph
from crypto.secagg.keys import Advert, OwnKey
from crypto.secagg.messages import COORDINATOR, Kind, Reader, Roster, Shares, bitmap, pack, unpack
from crypto.secagg.participant import Participant
from crypto.secagg.protocol import cohort_of
from crypto.secagg.shamir import split

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "secagg.json").read_text())
RUN = bytes.fromhex(VECTORS["run"])
ASSUMPTIONS = Assumptions(**VECTORS["assumptions"])
CASES = VECTORS["round"]


def restored(name: str) -> Participant:
    return Participant.restore(json.dumps(VECTORS["states"][name]).encode(), ASSUMPTIONS)


# ---- vectors of what is derived -------------------------------------------------------------------------------------


def test_vectors_of_the_agreed_secret_and_what_comes_from_it() -> None:
    told = VECTORS["pair"]
    own = [
        OwnKey(each["name"], X25519PrivateKey.from_private_bytes(bytes.fromhex(each["private"])))
        for each in told["participants"]
    ]
    bound = bytes.fromhex(told["binding"])
    secrets = [one.agree(Advert(other.name, other.public, b""), bound) for one, other in (own, reversed(own))]
    assert [each.hex() for each in secrets] == [told["secret"]] * 2
    seed = keys.pair_seed(secrets[0], told["round"], 4, 9)
    assert seed.hex() == told["seed"] == keys.pair_seed(secrets[0], told["round"], 9, 4).hex()
    assert keystream_reference(keys.stream_key(seed), 32).hex() == told["mask"]
    tag = keys.tag(secrets[0], b"confirm", told["round"], 4, 9, bytes(32))
    assert tag.hex() == told["tag"] and tag != keys.tag(
        secrets[0], b"confirm", told["round"], 9, 4, bytes(32)
    )


def test_vectors_of_the_cohort() -> None:
    told = VECTORS["cohort"]
    cohort = cohort_of(
        RUN, [bytes.fromhex(leaf) for leaf in told["leaves"]], Assumptions(**told["assumptions"])
    )
    assert (cohort.parameters.degree, cohort.parameters.threshold) == (told["degree"], told["threshold"])
    assert cohort.binding.hex() == told["binding"]
    assert [list(cohort.graph.neighbours(index)) for index in (0, 1)] == told["neighbours"]


def test_vectors_of_rings() -> None:
    for told in VECTORS["rings"]:
        graph = Graph(told["cohort"], told["degree"], bytes.fromhex(told["seed"]))
        assert [list(graph.neighbours(index)) for index in range(told["cohort"])] == told["neighbours"]


def test_vectors_of_shares() -> None:
    told = VECTORS["shamir"]
    (shares,) = split(
        [bytes.fromhex(told["secret"])], told["holders"], told["threshold"], bytes.fromhex(told["randomness"])
    )
    assert [share.hex() for share in shares] == told["shares"]


# ---- vectors of a round ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VECTORS["states"])
def test_vectors_of_a_round(name: str) -> None:
    # Three participants, whose states are given, of which the third drops out before it has masked.
    me, told = restored(name), CASES[name]
    assert me.advert().hex() == told["advert"]
    me.meet(bytes.fromhex(told["roster"]))
    assert me.shares(7).hex() == told["shares"]
    assert me.begin(bytes.fromhex(told["start"])) == 7
    if "masked" not in told:
        return
    vector = np.array(told["plain"], dtype=np.uint32)
    assert me.mask(vector).hex() == told["masked"]
    assert vector.tolist() == told["vector"]
    assert me.confirm(bytes.fromhex(told["survivors"])).hex() == told["confirm"]
    assert me.reveal(bytes.fromhex(told["request"])).hex() == told["reveal"]


@pytest.mark.parametrize("bad", VECTORS["bad"], ids=lambda bad: bad["why"])
def test_vectors_of_what_is_refused(bad: dict[str, str]) -> None:
    me, told = restored(bad["to"]), CASES[bad["to"]]
    steps = ["roster", "start", "mask", "survivors", "request"]
    calls: dict[str, Any] = {
        "roster": lambda: me.meet(bytes.fromhex(told["roster"])),
        "start": lambda: me.begin(bytes.fromhex(told["start"])),
        "mask": lambda: me.mask(np.array(told["plain"], dtype=np.uint32)),
        "survivors": lambda: me.confirm(bytes.fromhex(told["survivors"])),
    }
    for step in steps[: steps.index(bad["step"])]:
        calls[step]()
    take = {"roster": me.meet, "start": me.begin, "survivors": me.confirm, "request": me.reveal}[bad["step"]]
    with pytest.raises(ProtocolError, match=bad["error"]):
        take(bytes.fromhex(bad["message"]))


def test_a_masked_vector_is_what_the_documentation_says() -> None:
    # Written again from the documentation, with nothing of the package.
    name, told, state = "Aster", CASES["Aster"], VECTORS["states"]
    leaves = [bytes.fromhex(told["roster"])[30 + 32 * i : 62 + 32 * i] for i in range(3)]
    limits = struct.pack("<IIII?", 3, 2, 1, 2, True)
    binding = hashlib.sha256(b"fedcore secagg cohort 1" + RUN + limits + b"".join(leaves)).digest()
    private = {each: X25519PrivateKey.from_private_bytes(bytes.fromhex(state[each]["key"])) for each in state}
    public = {each: private[each].public_key().public_bytes_raw() for each in state}
    named = {each: struct.pack("<H", len(each)) + each.encode() + public[each] for each in state}
    hashed = {
        each: [
            hashlib.sha256(text).digest()[:16]
            for text in (b"fedcore secagg person 1" + each.encode(), b"fedcore secagg leaf 2" + named[each])
        ]
        for each in state
    }
    place = {each: leaves.index(b"".join(both)) for each, both in hashed.items()}

    def derived(secret: bytes, label: bytes, number: int, sender: int = 0, receiver: int = 0) -> bytes:
        info = b"fedcore secagg " + label + b" 1" + struct.pack("<III", number, sender, receiver)
        return hmac.new(secret, info, hashlib.sha256).digest()

    def stream(seed: bytes) -> Any:
        key = derived(seed, b"stream", 0)
        counter = modes.CTR(key[16:28] + bytes(4))
        return np.frombuffer(
            Cipher(algorithms.AES(key[:16]), counter).encryptor().update(bytes(20)), dtype="<u4"
        )

    own = hmac.new(bytes.fromhex(state[name]["root"]), binding, hashlib.sha256).digest()
    vector = np.array(told["plain"], dtype=np.uint32) + stream(derived(own, b"self mask", 7))
    for other in ("Birch", "Cedar"):
        shared = private[name].exchange(X25519PublicKey.from_public_bytes(public[other]))
        info = b"fedcore secagg pair 1" + b"".join(sorted([named[name], named[other]]))
        secret = HKDF(hashes.SHA256(), 32, binding, info).derive(shared)
        mask = stream(derived(secret, b"pair mask", 7, *sorted([place[name], place[other]])))
        vector = vector + mask if place[name] < place[other] else vector - mask
    assert vector.tolist() == told["vector"]


# ---- any bytes ------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from(list(Kind)))
@example(b"fcsa", Kind.ADVERT)
@example(b"", Kind.ROSTER)
def test_any_bytes_are_refused_with_the_step(raw: bytes, kind: Kind) -> None:
    with pytest.raises(ProtocolError, match=f"^{kind.step}: "):
        unpack(raw, kind, sender=1, number=1, binding=bytes(32))


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_body_of_an_advert_or_roster_is_read_or_refused(body: bytes) -> None:
    for kind, sender, read in (
        (Kind.ADVERT, 0, messages.unpack_advert),
        (Kind.ROSTER, COORDINATOR, Roster.decode),
    ):
        raw = pack(kind, sender, 0, b"", body)
        try:
            again = read(raw)
        except ProtocolError as error:
            assert error.step.startswith("secagg.")  # noqa: PT017
        else:
            made = messages.pack_advert(again) if isinstance(again, Advert) else again.encode()
            assert made == raw


NAME = st.text(st.characters(codec="utf-8", categories=("L", "N")), min_size=1, max_size=16)
ADVERT = st.builds(Advert, NAME, st.binary(min_size=32, max_size=32), st.binary(max_size=80))


@settings(deadline=None)
@given(ADVERT)
def test_adverts_come_back(advert: Advert) -> None:
    assert messages.unpack_advert(messages.pack_advert(advert)) == advert


@settings(deadline=None)
@given(st.lists(st.binary(min_size=32, max_size=32), max_size=6), st.data())
def test_rosters_come_back(leaves: list[bytes], data: st.DataObject) -> None:
    indices = st.integers(0, messages.MOST_COHORT)
    neighbours = data.draw(st.dictionaries(indices, ADVERT, max_size=len(leaves)))
    roster = Roster(tuple(leaves), neighbours)
    assert Roster.decode(roster.encode()) == roster


@settings(deadline=None)
@given(st.integers(1, 70), st.data())
def test_sets_come_back_and_bits_behind_the_cohort_are_refused(cohort: int, data: st.DataObject) -> None:
    members = data.draw(st.frozensets(st.integers(0, cohort - 1)))
    raw = bitmap(members, cohort)
    assert Reader(raw, "step", 1).members(cohort) == members
    if cohort % 8:
        beyond = raw[:-1] + bytes([raw[-1] | 1 << cohort % 8])
        with pytest.raises(ProtocolError, match="behind the last"):
            Reader(beyond, "step", 1).members(cohort)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_shares_of_another_length_are_refused(count: int) -> None:
    shares = Shares(
        (bytes(16), bytes(16)), [bytes(80)] * count, [(bytes(16), bytes(16))] * count, bytes(32 * count + 16)
    )
    body = shares.body()
    assert len(body) == 144 * count + 48
    assert Shares.read(Reader(body, "step", 1), count).body() == body
    for wrong in (body[:-1], body + b"\0", b""):
        with pytest.raises(ProtocolError, match=r"bytes too (early|long)"):
            Shares.read(Reader(wrong, "step", 1), count)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ((Kind.SHARES, 3, 5, bytes(32)), "kind 3 came where kind 9 is expected"),
        ((Kind.REVEAL, 4, 5, bytes(32)), "participant 4 came where participant 3"),
        ((Kind.REVEAL, 3, 6, bytes(32)), "round 6 came where round 5"),
        ((Kind.REVEAL, 3, 5, bytes([1] * 32)), "another run or cohort"),
    ],
)
def test_a_head_of_something_else_is_refused(changed: tuple[Kind, int, int, bytes], why: str) -> None:
    raw = pack(*changed, b"body")
    with pytest.raises(ProtocolError, match=why):
        unpack(raw, Kind.REVEAL, sender=3, number=5, binding=bytes(32))


def test_another_version_is_refused_with_the_cure() -> None:
    raw = bytearray(pack(Kind.REVEAL, 3, 5, bytes(32), b""))
    raw[4] = 2
    with pytest.raises(ProtocolError, match="version 2 came; this side has 1: install the same version"):
        unpack(bytes(raw), Kind.REVEAL, sender=3, number=5, binding=bytes(32))
