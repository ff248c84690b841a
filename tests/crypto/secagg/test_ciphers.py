"""Masks of either cipher: the same sums, test vectors of ChaCha20, and nobody takes part with another cipher than the rest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from crypto.errors import ProtocolError
from crypto.kernels.chacha import keystream_reference
from crypto.secagg import keys
from crypto.secagg.coordinator import Coordinator
from crypto.secagg.graph import Assumptions
from crypto.secagg.participant import Participant
from crypto.secagg.protocol import cohort_of
from crypto.streams import CIPHERS, StreamCipher, streams
from tests.crypto.secagg.cohorts import ANY, Run, plain_sum, random_vectors

FOLDER = Path(__file__).parent / "vectors"
STATES: dict[str, Any] = json.loads((FOLDER / "secagg.json").read_text())
VECTORS: dict[str, Any] = json.loads((FOLDER / "secagg_chacha20.json").read_text())
ASSUMPTIONS = Assumptions(**STATES["assumptions"])
CHACHA: StreamCipher = "chacha20"
RUN = bytes(range(32))


def meet(cipher: StreamCipher, size: int = 5) -> Run:
    coordinator = Coordinator(RUN, ANY, cipher=cipher)
    participants = {f"p{i}": Participant(f"p{i}", RUN, ANY, cipher=cipher) for i in range(size)}
    for name, each in participants.items():
        coordinator.take_advert(name, each.advert())
    for name, roster in coordinator.rosters().items():
        participants[name].meet(roster)
    return Run(coordinator, participants)


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("dtype", ["uint32", "uint64"])
def test_a_sum_comes_out_whoever_drops_out(cipher: StreamCipher, dtype: str) -> None:
    run = meet(cipher)
    vectors = random_vectors(run, 1001, dtype)
    total = run.round(1, vectors, {"p1": "mask", "p3": "reveal"})
    assert np.array_equal(total, plain_sum(vectors, ["p0", "p2", "p3", "p4"]))


def test_vectors_of_a_stream() -> None:
    told = VECTORS["stream"]
    key = keys.stream_key(bytes.fromhex(told["seed"]), CHACHA)
    assert key.hex() == told["key"]
    assert keystream_reference(key, 32).hex() == told["mask"]
    assert not key.startswith(keys.stream_key(bytes.fromhex(told["seed"]))[:16])


@pytest.mark.parametrize("name", VECTORS["round"])
def test_vectors_of_a_round(name: str) -> None:
    # The participants of the vectors of AES, with masks of ChaCha20; the third drops out before it has masked.
    told = VECTORS["round"][name]
    state = json.dumps({**STATES["states"][name], "cipher": CHACHA}).encode()
    me = Participant.restore(state, ASSUMPTIONS, cipher=CHACHA)
    cohort = me.meet(bytes.fromhex(STATES["round"][name]["roster"]))
    assert cohort.binding.hex() == VECTORS["binding"] and cohort.cipher == CHACHA
    assert me.shares(7).hex() == told["shares"]
    assert me.begin(bytes.fromhex(told["start"])) == 7
    if "masked" not in told:
        return
    vector = np.array(STATES["round"][name]["plain"], dtype=np.uint32)
    assert me.mask(vector).hex() == told["masked"]
    assert vector.tolist() == told["vector"]
    assert me.confirm(bytes.fromhex(told["survivors"])).hex() == told["confirm"]
    assert me.reveal(bytes.fromhex(told["request"])).hex() == told["reveal"]


def test_the_binding_of_a_cohort_tells_ciphers_apart() -> None:
    leaves = [bytes([i] * 32) for i in range(5)]
    found = {cohort_of(RUN, leaves, ANY, cipher).binding for cipher in CIPHERS}
    assert len(found) == len(CIPHERS)
    assert cohort_of(RUN, leaves, ANY).binding == cohort_of(RUN, leaves, ANY, "aes").binding


@pytest.mark.parametrize(("cipher", "other"), [("aes", "chacha20"), ("chacha20", "aes")])
def test_a_participant_with_another_cipher_and_the_rest_refuse_each_other(
    cipher: StreamCipher, other: StreamCipher
) -> None:
    coordinator = Coordinator(RUN, ANY, cipher=cipher)
    participants = {f"p{i}": Participant(f"p{i}", RUN, ANY, cipher=cipher if i else other) for i in range(5)}
    for name, each in participants.items():
        coordinator.take_advert(name, each.advert())
    for name, roster in coordinator.rosters().items():
        participants[name].meet(roster)
    with pytest.raises(ProtocolError, match="another run or cohort"):
        coordinator.take_shares("p0", participants["p0"].shares(1))
    for name in list(participants)[1:]:
        coordinator.take_shares(name, participants[name].shares(1))
    start = coordinator.start(1).starts()["p1"]
    with pytest.raises(ProtocolError, match="another run or cohort"):
        participants["p0"].begin(start)


def test_another_device_adds_the_masks_and_takes_them_away() -> None:
    run, seen = meet(CHACHA), []

    def add(found: Sequence[bytes], minus: npt.NDArray[np.bool_], vector: Any) -> None:
        assert all(len(key) == 44 for key in found) and len(found) == len(minus)
        seen.append(len(found))
        streams(CHACHA, found).add(vector, minus)

    vectors, round_ = random_vectors(run, 77), run.begin(1)
    for name, each in run.participants.items():
        masked = vectors[name].copy()
        round_.take_masked(name, each.mask(masked, add=add), masked)
    for name, told in round_.survivors().items():
        round_.take_confirmation(name, run.participants[name].confirm(told))
    for name, told in round_.requests().items():
        round_.take_revealed(name, run.participants[name].reveal(told))
    assert np.array_equal(round_.finish(add=add), plain_sum(vectors, vectors))
    assert seen == [5] * 6


def test_masks_that_another_device_fails_to_add_are_used_up() -> None:
    run = meet(CHACHA)
    run.begin(1)

    def add(*_: object) -> None:
        raise RuntimeError("lost")

    me, vector = run.participants["p0"], np.zeros(5, np.uint32)
    with pytest.raises(RuntimeError, match="lost"):
        me.mask(vector, add=add)
    with pytest.raises(ProtocolError, match="is masked"):
        me.mask(vector)


def test_a_participant_goes_on_in_another_process_with_its_cipher() -> None:
    run = meet(CHACHA)
    restored = {
        name: Participant.restore(each.save(), ANY, cipher=CHACHA) for name, each in run.participants.items()
    }
    vectors = random_vectors(run, 33)
    assert np.array_equal(Run(run.coordinator, restored).round(1, vectors), plain_sum(vectors, vectors))


def test_an_unknown_cipher_is_refused() -> None:
    with pytest.raises(ValueError, match="'rc4'; allowed: aes, chacha20"):
        cohort_of(RUN, [bytes([i] * 32) for i in range(5)], ANY, "rc4")  # type: ignore[arg-type]


def test_a_state_that_names_no_cipher_is_of_aes() -> None:
    me = Participant("p0", RUN, ANY)
    old = json.loads(me.save())
    assert old.pop("cipher") == "aes"
    assert Participant.restore(json.dumps(old).encode(), ANY).name == "p0"
    with pytest.raises(
        ValueError, match="the cipher is chacha20; this state is of a run whose masks are of aes"
    ):
        Participant.restore(json.dumps(old).encode(), ANY, cipher=CHACHA)
    with pytest.raises(ValueError, match="'rc4'; allowed: aes, chacha20"):
        Participant.restore(json.dumps({**old, "cipher": "rc4"}).encode(), ANY)
