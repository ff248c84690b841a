"""A participant refuses what is tampered with, repeated, early or from elsewhere, and answers every step once."""

from __future__ import annotations

import numpy as np
import pytest

from crypto.errors import ProtocolError
from crypto.quantisation import FixedPoint, NotFinite, quantise
from crypto.secagg.graph import Assumptions
from crypto.secagg.messages import COORDINATOR, Kind, bitmap, pack
from crypto.secagg.participant import Participant
from crypto.secagg.round import Round
from tests.crypto.secagg.cohorts import (
    ANY,
    Run,
    meet,
    plain_sum,
    random_vectors,
    send_masked,
)

HEAD = 26


def flipped(raw: bytes, at: int) -> bytes:
    """With one bit changed."""
    changed = bytearray(raw)
    changed[at] ^= 1
    return bytes(changed)


@pytest.fixture
def run() -> Run:
    return meet(5, ANY)


def binding(run: Run) -> bytes:
    return run.coordinator.cohort.binding


def test_nothing_is_answered_before_the_roster() -> None:
    alone = Participant("ann", bytes(32), ANY)
    for ask in (
        lambda: alone.shares(1),
        lambda: alone.begin(b""),
        lambda: alone.mask(np.zeros(1, np.uint32)),
    ):
        with pytest.raises(ProtocolError, match="no roster has come yet"):
            ask()


@pytest.mark.parametrize("at", [0, 79, 80, 200, 319])
def test_tampered_shares_are_refused_by_whoever_they_are_for(run: Run, at: int) -> None:
    for name, each in run.participants.items():
        run.coordinator.take_shares(name, each.shares(1))
    starts = run.coordinator.start(1).starts()
    with pytest.raises(ProtocolError, match="were not made for this participant and round"):
        run.participants["p0"].begin(flipped(starts["p0"], HEAD + 1 + at))
    # Nothing was used up: the right message can still come.
    assert run.participants["p0"].begin(starts["p0"]) == 1


def test_shares_of_an_earlier_round_are_refused_in_a_later(run: Run) -> None:
    for number in (1, 2):
        for name, each in run.participants.items():
            run.coordinator.take_shares(name, each.shares(number))
    first = run.coordinator.start(1).starts()["p0"]
    replayed = pack(Kind.START, COORDINATOR, 2, binding(run), first[HEAD:])
    with pytest.raises(ProtocolError, match="or they are of another round"):
        run.participants["p0"].begin(replayed)


def test_shares_for_another_participant_are_refused(run: Run) -> None:
    for name, each in run.participants.items():
        run.coordinator.take_shares(name, each.shares(1))
    starts = run.coordinator.start(1).starts()
    with pytest.raises(ProtocolError, match="were not made for this participant"):
        run.participants["p0"].begin(starts["p1"])


def test_a_round_is_begun_once_and_rounds_only_go_up(run: Run) -> None:
    for number in (3, 4):
        for name, each in run.participants.items():
            run.coordinator.take_shares(name, each.shares(number))
    third = run.coordinator.start(3).starts()["p0"]
    fourth = run.coordinator.start(4).starts()["p0"]
    me = run.participants["p0"]
    me.begin(third)
    for again in (third, pack(Kind.START, COORDINATOR, 2, binding(run), third[HEAD:])):
        with pytest.raises(ProtocolError, match="rounds only go up"):
            me.begin(again)
    with pytest.raises(ProtocolError, match="rounds only go up"):
        me.shares(3)
    me.begin(fourth)
    for number in (0, 3, 2**32):
        with pytest.raises(ProtocolError, match="rounds only go up"):
            me.shares(number)


def test_a_second_vector_is_never_masked_in_a_round(run: Run) -> None:
    # Two vectors under one mask would show their difference.
    run.begin(1)
    me = run.participants["p0"]
    me.mask(np.zeros(10, np.uint32))
    with pytest.raises(ProtocolError, match="never done twice"):
        me.mask(np.ones(10, np.uint32))


def test_a_start_with_too_few_or_without_oneself_is_refused(run: Run) -> None:
    shares = {name: each.shares(1) for name, each in run.participants.items()}
    for name in ("p0", "p1", "p2", "p3", "p4"):
        run.coordinator.take_shares(name, shares[name])
    start = run.coordinator.start(1).starts()["p0"]
    me = run.participants["p0"]
    own = me._met().index
    others = [index for index in range(5) if index != own]
    few = bitmap([own, others[0]], 5) + start[HEAD + 1 : HEAD + 81]
    with pytest.raises(
        ProtocolError, match="2 of 5 participants and 1 of 4 neighbours take part; 3 and 2 are needed"
    ):
        me.begin(pack(Kind.START, COORDINATOR, 1, binding(run), few))
    with pytest.raises(ProtocolError, match="not among those that take part"):
        me.begin(pack(Kind.START, COORDINATOR, 1, binding(run), bitmap(others, 5) + start[HEAD + 1 :]))


def masked_round(run: Run, number: int = 1) -> Round:
    return run.masked(number, random_vectors(run, 6))


def test_survivors_below_the_threshold_or_from_outside_are_refused(run: Run) -> None:
    round_ = run.masked(1, random_vectors(run, 6), absent=["p4"])
    survivors = round_.survivors()["p0"]
    me = run.participants["p0"]
    own = me._met().index
    late = run.participants["p4"]._met().index
    partners = [index for index in sorted(round_.begun) if index != own]
    tags = survivors[HEAD + 1 :]
    few = bitmap([own, partners[0]], 5) + tags[:16]
    with pytest.raises(ProtocolError, match="2 of 5 participants and 1 of 4 neighbours take part"):
        me.confirm(pack(Kind.SURVIVORS, COORDINATOR, 1, binding(run), few))
    grown = bitmap([own, *partners, late], 5) + tags + bytes(16)
    with pytest.raises(ProtocolError, match="came in after the round had begun"):
        me.confirm(pack(Kind.SURVIVORS, COORDINATOR, 1, binding(run), grown))
    me.confirm(survivors)


@pytest.mark.parametrize("at", [0, 15, 16, 63])
def test_a_tampered_tag_is_refused(run: Run, at: int) -> None:
    round_ = masked_round(run)
    survivors = round_.survivors()
    me = run.participants["p0"]
    with pytest.raises(ProtocolError, match="did not mask with the participants"):
        me.confirm(flipped(survivors["p0"], HEAD + 1 + at))
    for name, each in run.participants.items():
        round_.take_confirmation(name, each.confirm(survivors[name]))
    request = round_.requests()["p0"]
    with pytest.raises(ProtocolError, match="did not confirm the survivors"):
        me.reveal(flipped(request, HEAD + 4 + 20 * (at // 16) + 4 + at % 16))
    me.reveal(request)


def test_a_request_with_too_few_repeated_or_own_confirmations_is_refused(run: Run) -> None:
    round_ = masked_round(run)
    survivors = round_.survivors()
    for name, each in run.participants.items():
        round_.take_confirmation(name, each.confirm(survivors[name]))
    request = round_.requests()["p0"]
    me = run.participants["p0"]
    rows = [request[HEAD + 4 + 20 * i : HEAD + 24 + 20 * i] for i in range(4)]
    own = me._met().index.to_bytes(4, "little") + bytes(16)

    def ask(*chosen: bytes) -> bytes:
        body = len(chosen).to_bytes(4, "little") + b"".join(chosen)
        return me.reveal(pack(Kind.REQUEST, COORDINATOR, 1, binding(run), body))

    with pytest.raises(ProtocolError, match="1 of 4 neighbours confirmed the survivors; 2 are needed"):
        ask(rows[0])
    with pytest.raises(ProtocolError, match="cannot confirm this, or did so before"):
        ask(rows[0], rows[0])
    with pytest.raises(ProtocolError, match="cannot confirm this, or did so before"):
        ask(rows[0], own)
    assert ask(rows[0], rows[1])


def test_shares_are_revealed_once_of_one_kind_for_each_neighbour(run: Run) -> None:
    # The coordinator that asks again, with who dropped out and who did not changed over, gets nothing.
    round_ = run.masked(1, {name: each for name, each in random_vectors(run, 6).items() if name != "p4"})
    survivors = round_.survivors()
    for name, told in survivors.items():
        round_.take_confirmation(name, run.participants[name].confirm(told))
    requests = round_.requests()
    me = run.participants["p0"]
    held = dict(me._round.shares)  # type: ignore[union-attr]
    revealed = me.reveal(requests["p0"])
    dropped = run.participants["p4"]._met().index
    expected = b"".join(u if index == dropped else b for index, (b, u) in sorted(held.items()))
    assert revealed[HEAD:] == expected
    other_half = [b if index == dropped else u for index, (b, u) in held.items()]
    assert all(share not in revealed for share in other_half)
    for ask, message in ((me.reveal, requests["p0"]), (me.confirm, survivors["p0"])):
        with pytest.raises(ProtocolError, match="never done twice"):
            ask(message)
    assert not me._round.shares  # type: ignore[union-attr]


def test_a_step_that_comes_too_early_is_refused(run: Run) -> None:
    run.begin(1)
    me = run.participants["p0"]
    for ask in (me.confirm, me.reveal):
        with pytest.raises(ProtocolError, match="round 1 is begun; this comes once"):
            ask(b"")
    me.mask(np.zeros(3, np.uint32))
    with pytest.raises(ProtocolError, match="round 1 is masked; this comes once"):
        me.reveal(b"")


def test_confirming_under_a_curious_coordinator_is_refused() -> None:
    run = meet(4, Assumptions(0.0, 0.0, "curious"))
    survivors = masked_round(run).survivors()["p0"]
    with pytest.raises(ProtocolError, match="nothing is confirmed"):
        run.participants["p0"].confirm(survivors)
    run.participants["p0"].reveal(survivors)


def test_messages_of_another_round_or_cohort_are_refused(run: Run) -> None:
    other = meet(5, ANY)
    round_, elsewhere = masked_round(run), masked_round(other)
    survivors = round_.survivors()["p0"]
    me = run.participants["p0"]
    with pytest.raises(ProtocolError, match="another run or cohort"):
        me.confirm(elsewhere.survivors()["p0"])
    with pytest.raises(ProtocolError, match="round 2 came where round 1 is expected"):
        me.confirm(pack(Kind.SURVIVORS, COORDINATOR, 2, binding(run), survivors[HEAD:]))


def test_a_vector_that_is_not_finite_never_reaches_the_masks_and_the_round_goes_on(run: Run) -> None:
    form = FixedPoint(1.0, 5)
    values = {name: np.full(4, 0.25, dtype=np.float32) for name in run.participants}
    values["p2"][1] = np.nan
    round_ = run.begin(1)
    for name, each in values.items():
        if name == "p2":
            with pytest.raises(NotFinite):
                quantise(each, form)
        else:
            send_masked(run, round_, name, quantise(each, form)[0])
    assert set(round_.survivors()) == {"p0", "p1", "p3", "p4"}


@pytest.mark.parametrize("through", ["memory", "saved"])
def test_nothing_is_revealed_to_a_sum_in_which_a_neighbour_was_told_something_else(
    run: Run, through: str
) -> None:
    round_ = run.begin(1)
    told = dict.fromkeys(run.participants, b"the model") | {"p3": b"a model of zeros"}
    for name, vector in random_vectors(run, 6).items():
        round_.take_masked(name, run.participants[name].mask(vector, told[name]), vector)
    survivors = round_.survivors()
    for name in ("p0", "p3"):
        me = run.participants[name]
        if through == "saved":
            me = Participant.restore(me.save(), ANY)
        with pytest.raises(ProtocolError, match="or was sent another model, task or form"):
            me.confirm(survivors[name])
        with pytest.raises(ProtocolError, match="round 1 is masked"):
            me.reveal(survivors[name])


def test_all_that_were_told_the_same_give_their_sum(run: Run) -> None:
    round_ = run.begin(1)
    plain = random_vectors(run, 6)
    for name, vector in plain.items():
        masked = vector.copy()
        round_.take_masked(name, run.participants[name].mask(masked, b"the model"), masked)
    for name, message in round_.survivors().items():
        round_.take_confirmation(name, run.participants[name].confirm(message))
    for name, message in round_.requests().items():
        round_.take_revealed(name, run.participants[name].reveal(message))
    np.testing.assert_array_equal(round_.finish(), plain_sum(plain, plain))
