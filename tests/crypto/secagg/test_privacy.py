"""What the coordinator sees: masked vectors that look random, no plain vector anywhere, no secret in what is printed."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from crypto.errors import ProtocolError
from crypto.kernels.keystream import Streams
from crypto.secagg import keys
from crypto.secagg.graph import Assumptions
from crypto.secagg.messages import COORDINATOR, Kind, bitmap, pack
from crypto.secagg.protocol import RoundFailed
from crypto.secagg.shamir import combine
from tests.crypto.secagg.cohorts import ANY, Run, meet, plain_sum, random_vectors, send_masked


def chi_square(values: Any) -> float:
    """Of the bytes, against uniform; 255 degrees of freedom."""
    counts = np.bincount(values.view(np.uint8), minlength=256)
    expected = values.nbytes / 256
    return float(np.sum((counts - expected) ** 2 / expected))


@pytest.mark.parametrize("dtype", ["uint32", "uint64"])
def test_one_masked_vector_is_uniform_whatever_is_masked(dtype: str) -> None:
    run = meet(3, ANY)
    round_ = run.begin(1)
    plain = np.zeros(200_000, dtype=dtype)
    masked = send_masked(run, round_, "p0", plain)
    # Six standard deviations of a chi-square statistic.
    assert abs(chi_square(masked) - 255) < 6 * (2 * 255) ** 0.5
    top = masked >> np.array(8 * masked.itemsize - 4, dtype=dtype)
    assert np.all(
        np.abs(np.bincount(top.astype(np.int64), minlength=16) - len(top) / 16) < 6 * (len(top) / 16) ** 0.5
    )
    assert len(np.unique(masked)) > 0.99 * len(masked)


def test_masks_of_two_rounds_and_of_two_participants_have_nothing_in_common() -> None:
    run = meet(3, ANY)
    plain = np.zeros(100_000, dtype=np.uint32)
    seen = []
    for number in (1, 2):
        round_ = run.begin(number)
        seen += [send_masked(run, round_, name, plain) for name in ("p0", "p1")]
    for i, one in enumerate(seen):
        for other in seen[:i]:
            for together in (one - other, one + other):
                assert abs(chi_square(together) - 255) < 6 * (2 * 255) ** 0.5


def test_whoever_lacks_one_survivors_self_mask_still_sees_noise() -> None:
    # All pairwise seeds but no self mask: what would be left if shares of a survivor's box were given away.
    run = meet(4, ANY)
    round_ = run.begin(1)
    plain = np.zeros(100_000, dtype=np.uint32)
    masked = send_masked(run, round_, "p0", plain)
    me = run.participants["p0"]
    place = me._met()
    seeds = [keys.pair_seed(pair, 1, place.index, other) for other, pair in place.pairs.items()]
    signs = np.array([other > place.index for other in place.pairs])
    left = masked.copy()
    Streams([keys.stream_key(seed) for seed in seeds]).add(left, signs)
    assert abs(chi_square(left) - 255) < 6 * (2 * 255) ** 0.5
    Streams([keys.stream_key(me._secret(b"self mask", 1))]).add(left, np.array([True]))
    assert not left.any()


def test_no_message_of_a_run_holds_a_plain_vector_or_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    run = meet(5, ANY, signed=True)
    told: list[bytes] = []
    for each in run.participants.values():
        for step in ("shares", "confirm", "reveal"):
            made = getattr(each, step)

            def recorded(*arguments: Any, made: Any = made) -> bytes:
                told.append(made(*arguments))
                return told[-1]

            monkeypatch.setattr(each, step, recorded)
        mask = each.mask

        def masked(vector: Any, mask: Any = mask) -> bytes:
            told.append(mask(vector))
            told.append(vector.tobytes())
            return told[-2]

        monkeypatch.setattr(each, "mask", masked)
    vectors = {name: np.full(64, 1000 + i, dtype=np.uint32) for i, name in enumerate(run.participants)}
    total = run.round(1, vectors, {"p2": "mask", "p4": "reveal"})
    assert np.array_equal(total, plain_sum(vectors, ["p0", "p1", "p3", "p4"]))
    everything = b"|".join(told)
    assert len(told) > 15
    for name, each in run.participants.items():
        assert vectors[name][:4].tobytes() not in everything
        hidden = [each._root, each._key.private.private_bytes_raw(), *each._met().pairs.values()]
        hidden += [each._secret(label, 1) for label in (b"self mask", b"box", b"polynomials")]
        assert all(secret not in everything for secret in hidden)


def test_what_a_dropped_participant_reveals_of_one_round_opens_no_other() -> None:
    run = meet(4, ANY)
    plain = {name: np.zeros(50_000, dtype=np.uint32) for name in run.participants}
    round_ = run.begin(1)
    first = send_masked(run, round_, "p0", plain["p0"])
    # In round 2 p0 drops out, and the coordinator learns its seeds of that round.
    run.round(2, plain, {"p0": "mask"})
    place = run.participants["p0"]._met()
    learnt = [keys.pair_seed(pair, 2, place.index, other) for other, pair in place.pairs.items()]
    left = first.copy()
    Streams([keys.stream_key(seed) for seed in learnt]).add(
        left, np.array([other > place.index for other in place.pairs])
    )
    assert abs(chi_square(left) - 255) < 6 * (2 * 255) ** 0.5


def test_fewer_than_the_threshold_of_colluding_neighbours_cannot_put_a_secret_together() -> None:
    run = meet(9, Assumptions(0.3, 0.0))
    cohort = run.coordinator.cohort
    run.begin(1)
    threshold, target = cohort.parameters.threshold, 0
    held = {
        index: run.participant(index)._round.shares[target]  # type: ignore[union-attr]
        for index in range(1, threshold)
    }
    assert len(held) == threshold - 1 >= 3
    secret = run.participant(target)._secret(b"self mask", 1)
    with pytest.raises(ValueError, match=f"{threshold - 1} shares; {threshold} are needed"):
        combine({holder: b for holder, (b, _) in held.items()}, threshold)
    assert combine({holder: b for holder, (b, _) in held.items()}, threshold - 1) != secret


def test_secrets_show_in_no_repr_no_error_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    run = meet(3, ANY, signed=True)
    round_ = run.begin(1)
    shown = [repr(round_), repr(run.coordinator.cohort)]
    for index in range(3):
        each = run.participant(index)
        shown += [repr(each), repr(each._place), repr(each._round), repr(each._key)]
        with pytest.raises(ProtocolError) as raised:
            each.reveal(pack(Kind.REQUEST, COORDINATOR, 1, run.coordinator.cohort.binding, bytes(4)))
        shown.append(str(raised.value))
    everything = " ".join([*shown, caplog.text])
    for each in run.participants.values():
        held = each._round.shares.values()  # type: ignore[union-attr]
        hidden = [each._root, each._key.private.private_bytes_raw(), *each._met().pairs.values()]
        for secret in [*hidden, *(share for both in held for share in both)]:
            assert secret.hex() not in everything and repr(secret) not in everything


def confirmations(run: Run, told: dict[int, frozenset[int]]) -> dict[int, dict[int, bytes]]:
    """What participants confirm, to whom, that a coordinator tells different survivors."""
    cohort = run.coordinator.cohort
    round_ = run.masked(1, random_vectors(run, 8))
    made = {}
    for index, survivors in told.items():
        partners = round_._partners(index, survivors)
        body = bitmap(survivors, cohort.size) + b"".join(round_._masked[other][index] for other in partners)
        message = pack(Kind.SURVIVORS, COORDINATOR, 1, cohort.binding, body)
        raw = run.participant(index).confirm(message)[26:]
        made[index] = {other: raw[16 * i : 16 * i + 16] for i, other in enumerate(partners)}
    return made


def request(run: Run, index: int, by: list[int], made: dict[int, dict[int, bytes]]) -> str:
    """What a participant says to a request with the confirmations of some: why it refuses, or nothing."""
    body = len(by).to_bytes(4, "little")
    body += b"".join(other.to_bytes(4, "little") + made[other][index] for other in by)
    try:
        run.participant(index).reveal(
            pack(Kind.REQUEST, COORDINATOR, 1, run.coordinator.cohort.binding, body)
        )
    except ProtocolError as error:
        return str(error)
    return ""


def test_two_stories_about_one_participant_are_noticed() -> None:
    # To five of them participant 0 is alive, to three it dropped out: both kinds of its shares would be revealed.
    run = meet(8, ANY)
    every = frozenset(range(8))
    told = {index: every if index < 5 else every - {0} for index in every}
    made = confirmations(run, told)
    for index in range(1, 8):
        by = [other for other in told[index] if other != index]
        assert "did not confirm the survivors that this one was told of" in request(run, index, by, made)


def test_who_hears_one_story_only_reveals_if_most_heard_it() -> None:
    run = meet(9, ANY)
    threshold = run.coordinator.cohort.parameters.threshold
    every = frozenset(range(9))
    sides = [range(5), range(5, 9)]
    made = confirmations(run, {index: every if index < 5 else every - {0} for index in every})
    answers = {
        index: request(run, index, [other for other in side if other != index], made)
        for side in sides
        for index in side
    }
    assert threshold == 4
    assert all(not answers[index] for index in sides[0])
    assert all(
        f"3 of 8 neighbours confirmed the survivors; {threshold} are needed" in answers[i] for i in sides[1]
    )


def test_a_participant_that_hears_that_it_dropped_out_refuses() -> None:
    run = meet(5, ANY)
    with pytest.raises(ProtocolError, match="not among those that take part"):
        confirmations(run, {2: frozenset({0, 1, 3, 4})})


def test_a_coordinator_cannot_isolate_one_by_leaving_out_shares() -> None:
    # p's neighbours are told that all take part; it alone is told of fewer, so its vector would carry fewer masks.
    run = meet(8, ANY)
    cohort = run.coordinator.cohort
    for name, each in run.participants.items():
        run.coordinator.take_shares(name, each.shares(1))
    round_ = run.coordinator.start(1)
    starts = round_.starts()
    few = frozenset(range(6))
    shares = starts[run.coordinator.names[0]][26 + 1 :]
    alone = bitmap(few, 8) + shares[: 80 * 5]
    run.participant(0).begin(pack(Kind.START, COORDINATOR, 1, cohort.binding, alone))
    for index in range(1, 8):
        run.participant(index).begin(starts[run.coordinator.names[index]])
    vectors = random_vectors(run, 8)
    tags: dict[int, dict[int, bytes]] = {}
    for index in range(8):
        raw = run.participant(index).mask(vectors[run.coordinator.names[index]].copy())
        partners = [other for other in (few if index == 0 else range(8)) if other != index]
        tags[index] = {other: raw[26 + 9 + 16 * i : 26 + 25 + 16 * i] for i, other in enumerate(partners)}
    for index in range(1, 6):
        partners = [other for other in range(8) if other != index]
        body = bitmap(range(8), 8) + b"".join(tags[other][index] for other in partners)
        with pytest.raises(ProtocolError, match="participant 0 did not mask with the participants"):
            run.participant(index).confirm(pack(Kind.SURVIVORS, COORDINATOR, 1, cohort.binding, body))


def test_a_failed_round_reveals_nothing_afterwards() -> None:
    run = meet(5, ANY)
    vectors = random_vectors(run, 8)
    with pytest.raises(RoundFailed):
        run.round(1, vectors, dict.fromkeys(list(vectors)[:4], "reveal"))
    run.round(2, vectors)
    for each in run.participants.values():
        with pytest.raises(ProtocolError, match="never done twice"):
            each.reveal(pack(Kind.REQUEST, COORDINATOR, 1, run.coordinator.cohort.binding, bytes(4)))
