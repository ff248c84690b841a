"""The coordinator counts nothing that is wrong, late or repeated, names who sent it, and goes on without."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crypto.errors import ProtocolError
from crypto.secagg.coordinator import Coordinator
from crypto.secagg.participant import Participant
from crypto.secagg.protocol import RoundFailed
from crypto.secagg.round import Round
from tests.crypto.secagg.cohorts import (
    ANY,
    Run,
    meet,
    plain_sum,
    random_vectors,
    send_masked,
    started,
)

HEAD = 26
NAMES = ["ann", "bob", "cy", "dan"]


def flipped(raw: bytes, at: int) -> bytes:
    """With one bit changed."""
    changed = bytearray(raw)
    changed[at] ^= 1
    return bytes(changed)


@pytest.fixture
def run() -> Run:
    return meet(5, ANY)


def masked_round(run: Run, number: int = 1) -> Round:
    return run.masked(number, random_vectors(run, 6))


def vectors_and_messages(
    run: Run, round_: Round, name: str, dtype: str = "uint32", length: int = 6
) -> tuple[Any, bytes]:
    vector = np.zeros(length, dtype=dtype)
    return vector, run.participants[name].mask(vector)


def test_a_vector_of_another_length_or_type_is_refused_and_the_others_go_on(run: Run) -> None:
    round_ = run.begin(1)
    plain = random_vectors(run, 6)
    for name in ("p0", "p1", "p2"):
        send_masked(run, round_, name, plain[name])
    vector, message = vectors_and_messages(run, round_, "p3", length=7)
    with pytest.raises(
        ProtocolError, match="p3 sent 7 words of uint32 and says 7 of 32 bits; expected are 6"
    ):
        round_.take_masked("p3", message, vector)
    with pytest.raises(ProtocolError, match="p3 sent 6 words"):
        round_.take_masked("p3", message, vector[:6])
    vector, message = vectors_and_messages(run, round_, "p4", dtype="uint64")
    with pytest.raises(ProtocolError, match="6 words of uint64"):
        round_.take_masked("p4", message, vector)
    with pytest.raises(ProtocolError, match="is no vector"):
        round_.take_masked("p4", message, vector.reshape(2, 3))
    finish_with(run, round_, plain, ["p0", "p1", "p2"])


def finish_with(run: Run, round_: Round, plain: dict[str, Any], names: list[str]) -> None:
    """The rest of a round, which has to give the sum of some."""
    survivors = round_.survivors()
    assert sorted(survivors) == sorted(names)
    for name in names:
        round_.take_confirmation(name, run.participants[name].confirm(survivors[name]))
    requests = round_.requests()
    for name in names:
        round_.take_revealed(name, run.participants[name].reveal(requests[name]))
    assert np.array_equal(round_.finish(), plain_sum(plain, names))


def test_vectors_that_come_twice_late_or_for_another_round_are_not_counted(run: Run) -> None:
    plain = random_vectors(run, 6)
    old = run.begin(1)
    stale = plain["p3"].copy()
    stale_message = run.participants["p3"].mask(stale)
    round_ = run.begin(2)
    assert old.number == 1
    kept = {}
    for name in ("p0", "p1", "p2"):
        vector = plain[name].copy()
        kept[name] = run.participants[name].mask(vector), vector
        round_.take_masked(name, *kept[name])
    with pytest.raises(ProtocolError, match="the vector of p0 came twice"):
        round_.take_masked("p0", *kept["p0"])
    with pytest.raises(ProtocolError, match="round 1 came where round 2 is expected"):
        round_.take_masked("p3", stale_message, stale)
    with pytest.raises(ProtocolError, match="participant"):
        round_.take_masked("p4", *kept["p0"])
    late = plain["p3"].copy()
    late_message = run.participants["p3"].mask(late)
    survivors = round_.survivors()
    with pytest.raises(ProtocolError, match="after the round went on without it"):
        round_.take_masked("p3", late_message, late)
    with pytest.raises(ProtocolError, match="eve is not among those"):
        round_.take_masked("eve", late_message, late)
    for name in survivors:
        round_.take_confirmation(name, run.participants[name].confirm(survivors[name]))
    requests = round_.requests()
    for name in requests:
        round_.take_revealed(name, run.participants[name].reveal(requests[name]))
    assert np.array_equal(round_.finish(), plain_sum(plain, ["p0", "p1", "p2"]))


def test_shares_that_come_twice_late_or_from_strangers_are_refused(run: Run) -> None:
    shares = {name: each.shares(1) for name, each in run.participants.items()}
    for name, each in shares.items():
        run.coordinator.take_shares(name, each)
    with pytest.raises(ProtocolError, match="shares of p0 for round 1 came twice"):
        run.coordinator.take_shares("p0", shares["p0"])
    with pytest.raises(ProtocolError, match="participant"):
        run.coordinator.take_shares("p1", shares["p0"])
    with pytest.raises(ProtocolError, match="eve is not in the roster"):
        run.coordinator.take_shares("eve", shares["p0"])
    run.coordinator.start(1)
    with pytest.raises(ProtocolError, match="after it had started"):
        run.coordinator.take_shares("p0", shares["p0"])
    with pytest.raises(ValueError, match="rounds only go up"):
        run.coordinator.start(1)


def test_confirmations_and_shares_that_come_twice_or_at_the_wrong_time_are_refused(run: Run) -> None:
    round_ = masked_round(run)
    with pytest.raises(ProtocolError, match="no confirmation of p0 is awaited"):
        round_.take_confirmation("p0", b"")
    with pytest.raises(ProtocolError, match="nothing to request"):
        round_.requests()
    survivors = round_.survivors()
    confirmed = {name: each.confirm(survivors[name]) for name, each in run.participants.items()}
    for name, each in confirmed.items():
        round_.take_confirmation(name, each)
    with pytest.raises(ProtocolError, match="p0 confirmed twice"):
        round_.take_confirmation("p0", confirmed["p0"])
    with pytest.raises(ProtocolError, match="not at its end"):
        round_.finish()
    requests = round_.requests()
    revealed = {name: each.reveal(requests[name]) for name, each in run.participants.items()}
    for name, each in revealed.items():
        round_.take_revealed(name, each)
    with pytest.raises(ProtocolError, match="p0 revealed twice"):
        round_.take_revealed("p0", revealed["p0"])
    round_.finish()
    for again in (round_.finish, lambda: round_.take_revealed("p0", revealed["p0"])):
        with pytest.raises(ProtocolError):
            again()


def revealed_round(run: Run, gone: set[str]) -> tuple[Round, dict[str, Any], dict[str, bytes]]:
    """A round of which all shares are made and none is taken."""
    plain = random_vectors(run, 6)
    round_ = run.masked(1, {name: each for name, each in plain.items() if name not in gone})
    survivors = round_.survivors()
    for name, told in survivors.items():
        round_.take_confirmation(name, run.participants[name].confirm(told))
    requests = round_.requests()
    return round_, plain, {name: run.participants[name].reveal(each) for name, each in requests.items()}


def changed(revealed: bytes) -> bytes:
    return revealed[:HEAD] + bytes(each ^ 0x55 for each in revealed[HEAD:])


@pytest.mark.parametrize("absent", [0, 1], ids=["self masks", "box"])
def test_a_changed_share_is_noticed_named_and_left_out(absent: int) -> None:
    run = meet(7, ANY)
    # The first shares are taken where there are more than are needed.
    wrong, gone = run.coordinator.names[0], set(run.coordinator.names[7 - absent :])
    round_, plain, revealed = revealed_round(run, gone)
    for name, each in revealed.items():
        round_.take_revealed(name, changed(each) if name == wrong else each)
    assert np.array_equal(round_.finish(), plain_sum(plain, set(plain) - gone))
    assert round_.blamed == {wrong}


def test_too_many_changed_shares_fail_the_round_and_name_who_sent_them() -> None:
    run = meet(5, ANY)
    wrong = {"p0", "p1", "p2"}
    round_, plain, revealed = revealed_round(run, set())
    for name, each in revealed.items():
        round_.take_revealed(name, changed(each) if name in wrong else each)
    with pytest.raises(RoundFailed, match="not those that were made") as raised:
        round_.finish()
    assert set(raised.value.blamed) == wrong
    assert (raised.value.left, raised.value.needed) == (1, 2)
    assert np.array_equal(run.round(2, plain), plain_sum(plain, plain))


def test_who_commits_to_another_secret_than_it_shared_is_named() -> None:
    run = meet(5, ANY)
    round_ = None
    for name, each in run.participants.items():
        shares = each.shares(1)
        run.coordinator.take_shares(name, flipped(shares, HEAD) if name == "p3" else shares)
    round_ = started(run, run.coordinator.start(1))
    plain = random_vectors(run, 6)
    for name in plain:
        send_masked(run, round_, name, plain[name])
    survivors = round_.survivors()
    for name, told in survivors.items():
        round_.take_confirmation(name, run.participants[name].confirm(told))
    for name, request in round_.requests().items():
        round_.take_revealed(name, run.participants[name].reveal(request))
    with pytest.raises(RoundFailed) as raised:
        round_.finish()
    assert raised.value.blamed == ("p3",)
    assert np.array_equal(run.round(2, plain), plain_sum(plain, plain))


def test_a_box_that_was_changed_fails_the_round_and_names_its_owner() -> None:
    run = meet(5, ANY)
    for name, each in run.participants.items():
        shares = each.shares(1)
        run.coordinator.take_shares(name, flipped(shares, len(shares) - 1) if name == "p3" else shares)
    round_ = started(run, run.coordinator.start(1))
    plain = {name: each for name, each in random_vectors(run, 6).items() if name != "p3"}
    for name in plain:
        send_masked(run, round_, name, plain[name])
    survivors = round_.survivors()
    for name, told in survivors.items():
        round_.take_confirmation(name, run.participants[name].confirm(told))
    for name, request in round_.requests().items():
        round_.take_revealed(name, run.participants[name].reveal(request))
    with pytest.raises(RoundFailed, match="not sealed as said") as raised:
        round_.finish()
    assert raised.value.blamed == ("p3",)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_run_is_named_by_32_bytes(length: int) -> None:
    coordinator = Coordinator(bytes(length), ANY)
    for name in NAMES:
        coordinator.take_advert(name, Participant(name, bytes(length), ANY).advert())
    with pytest.raises(ValueError, match="named by 32 bytes"):
        coordinator.rosters()
