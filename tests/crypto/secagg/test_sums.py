"""The protected sum is the plain sum of those whose vectors came, whoever drops out when; too few end a round, not a run."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.quantisation import FixedPoint, quantise, weighted_mean
from crypto.secagg.graph import Assumptions
from crypto.secagg.participant import Participant
from crypto.secagg.protocol import RoundFailed
from tests.crypto.secagg.cohorts import ANY, STAGES, Run, meet, plain_sum, random_vectors

CURIOUS = Assumptions(corrupt=0.0, dropout=0.0, adversary="curious", least_cohort=2)


@pytest.fixture(scope="module")
def ring() -> Run:
    """Forty participants on a ring, each with fewer neighbours than all others."""
    run = meet(40, Assumptions(0.0, 0.1), signed=True)
    assert run.coordinator.cohort.parameters.degree < 39
    return run


def numbers_of(run: Run) -> Any:
    """Rounds that this run has not had."""
    last = getattr(run, "last", 0)
    run.last = last + 1  # type: ignore[attr-defined]
    return last + 1


def took_part(dropped: dict[str, str], names: Any) -> list[str]:
    return [name for name in names if dropped.get(name) not in ("shares", "mask")]


@pytest.mark.parametrize("dtype", ["uint32", "uint64"])
@pytest.mark.parametrize("cohort", [2, 3, 4, 7])
@pytest.mark.parametrize("adversary", ["active", "curious"])
def test_with_nobody_dropped_the_sum_is_that_of_all(cohort: int, dtype: str, adversary: str) -> None:
    run = meet(cohort, Assumptions(0.0, 0.0, adversary, least_cohort=2), signed=True)  # type: ignore[arg-type]
    vectors = random_vectors(run, 1001, dtype)
    assert np.array_equal(run.round(1, vectors), plain_sum(vectors, vectors))


def sum_or_failure(run: Run, number: int, vectors: Any, dropped: dict[str, str]) -> Any:
    try:
        return run.round(number, vectors, dropped)
    except RoundFailed as failed:
        return failed


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_the_sum_is_exact_whoever_drops_out_when_or_the_round_fails_with_numbers(data: st.DataObject) -> None:
    cohort = data.draw(st.integers(3, 9))
    adversary = data.draw(st.sampled_from(["active", "curious"]))
    run = meet(cohort, Assumptions(0.0, 0.0, adversary, least_cohort=2))  # type: ignore[arg-type]
    limits = run.coordinator.cohort.parameters
    length = data.draw(st.integers(1, 40))
    for number in (1, 2, 5):
        vectors = random_vectors(run, length, data.draw(st.sampled_from(["uint32", "uint64"])), number)
        dropped = data.draw(st.dictionaries(st.sampled_from(sorted(vectors)), st.sampled_from(STAGES)))
        if adversary == "curious":
            # There is nothing to confirm: who drops out then has not revealed anything either.
            dropped = {name: "reveal" if stage == "confirm" else stage for name, stage in dropped.items()}
        left = {
            stage: cohort - sum(STAGES.index(each) <= STAGES.index(stage) for each in dropped.values())
            for stage in STAGES
        }
        # All are neighbours. Each needs t others that reveal, and one of those who reveal has one other fewer.
        enough = left["mask"] >= max(limits.least, limits.threshold + 1) and left["reveal"] > limits.threshold
        outcome = sum_or_failure(run, number, vectors, dropped)
        if enough:
            assert np.array_equal(outcome, plain_sum(vectors, took_part(dropped, vectors)))
        else:
            assert isinstance(outcome, RoundFailed)
            assert (outcome.number, outcome.cohort) == (number, cohort)
            assert outcome.left in left.values() and outcome.left < outcome.needed <= cohort


@pytest.mark.parametrize("stages", list(product([None, *STAGES], repeat=2)), ids=str)
def test_dropouts_at_every_stage_alone_and_together_leave_the_sum_exact(
    ring: Run, stages: tuple[str | None, ...]
) -> None:
    vectors = random_vectors(ring, 77)
    dropped = {f"p{number}": stage for number, stage in enumerate(stages) if stage}
    total = ring.round(numbers_of(ring), vectors, dropped)
    assert np.array_equal(total, plain_sum(vectors, took_part(dropped, vectors)))


@pytest.mark.parametrize("stage", STAGES)
def test_below_the_threshold_a_round_fails_with_numbers_and_the_next_goes_on(stage: str) -> None:
    run = meet(8, ANY)
    limits = run.coordinator.cohort.parameters
    vectors = random_vectors(run, 50)
    # More than can drop out before the vectors are there; afterwards only shares are missing.
    many = 8 - limits.least + 1 if stage in ("shares", "mask") else 8 - limits.threshold
    with pytest.raises(RoundFailed) as raised:
        run.round(1, vectors, {f"p{number}": stage for number in range(many)})
    failed = raised.value
    assert (failed.number, failed.cohort, failed.left) == (1, 8, 8 - many)
    assert failed.left < failed.needed
    assert f"round 1 failed: {8 - many} of 8 participants are left and {failed.needed} are needed" in str(
        failed
    )
    one_less = {f"p{number}": stage for number in range(many - 1)}
    assert np.array_equal(run.round(2, vectors, one_less), plain_sum(vectors, took_part(one_less, vectors)))


def test_a_round_that_everybody_drops_out_of_fails_and_the_next_goes_on() -> None:
    run = meet(5, ANY)
    vectors = random_vectors(run, 9)
    for number, stage in enumerate(STAGES, start=1):
        with pytest.raises(RoundFailed, match="0 of 5 participants are left"):
            run.round(number, vectors, dict.fromkeys(vectors, stage))
    assert np.array_equal(run.round(9, vectors), plain_sum(vectors, vectors))


def test_who_missed_rounds_takes_part_again() -> None:
    run = meet(6, ANY)
    vectors = random_vectors(run, 9)
    run.round(1, vectors, {"p3": "shares"})
    run.round(2, vectors, {"p3": "mask"})
    assert np.array_equal(run.round(3, vectors), plain_sum(vectors, vectors))


def test_shares_of_later_rounds_can_come_early_and_rounds_can_be_skipped() -> None:
    run = meet(5, ANY)
    vectors = random_vectors(run, 9)
    early = {name: each.shares(7) for name, each in run.participants.items()}
    run.round(1, vectors)
    for name, each in run.participants.items():
        # The same bytes however often they are asked for: a lost message can be made again.
        assert each.shares(7) == early[name]
        run.coordinator.take_shares(name, early[name])
    round_ = run.coordinator.start(7)
    assert len(round_.begun) == 5
    for name, start in round_.starts().items():
        assert run.participants[name].begin(start) == 7


def test_masks_cancel_over_several_pieces_and_threads() -> None:
    run = meet(4, ANY)
    vectors = random_vectors(run, 100_003)
    round_ = run.masked(1, vectors)
    for name, survivors in round_.survivors().items():
        round_.take_confirmation(name, run.participants[name].confirm(survivors))
    for name, request in round_.requests().items():
        round_.take_revealed(name, run.participants[name].reveal(request))
    assert np.array_equal(round_.finish(threads=3), plain_sum(vectors, vectors))


@settings(deadline=None, max_examples=15)
@given(st.data(), st.sampled_from([32, 64]))
def test_the_protected_mean_is_the_plain_weighted_mean_to_the_stated_error(
    data: st.DataObject, bits: int
) -> None:
    cohort = data.draw(st.integers(2, 7))
    run = meet(cohort, CURIOUS)
    form = FixedPoint(data.draw(st.floats(0.1, 10)), cohort, data.draw(st.integers(1, 2000)), bits)
    length = data.draw(st.integers(1, 30))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    values = {name: generator.normal(size=length).astype(np.float32) for name in run.participants}
    weights = {name: data.draw(st.integers(1, form.largest_weight)) for name in values}
    vectors = {name: quantise(values[name], form, weight=weights[name])[0] for name in values}
    dropped = {"p0": data.draw(st.sampled_from(STAGES))} if cohort > 4 else {}
    there = took_part(dropped, values)
    mean, weight = weighted_mean(run.round(1, vectors, dropped), form, dtype=np.float64)
    clipped = np.clip(np.array([values[name] for name in there], dtype="f8"), -form.clip, form.clip)
    exact = np.average(clipped, axis=0, weights=[weights[name] for name in there])
    assert weight == sum(weights[name] for name in there)
    assert np.all(np.abs(mean - exact) < form.error_bound(weight, len(there)) + 1e-11)


def test_a_participant_goes_on_from_its_saved_state_at_every_step() -> None:
    run = meet(4, ANY, signed=True)
    vectors = random_vectors(run, 9)

    def restarted() -> None:
        for name, each in run.participants.items():
            run.participants[name] = Participant.restore(each.save(), ANY, each._authenticator)

    restarted()
    round_ = run.begin(1)
    restarted()
    for name, vector in vectors.items():
        masked = vector.copy()
        round_.take_masked(name, run.participants[name].mask(masked), masked)
    restarted()
    for name, survivors in round_.survivors().items():
        if name != "p1":
            round_.take_confirmation(name, run.participants[name].confirm(survivors))
    restarted()
    for name, request in round_.requests().items():
        round_.take_revealed(name, run.participants[name].reveal(request))
    assert np.array_equal(round_.finish(), plain_sum(vectors, vectors))
    restarted()
    assert np.array_equal(run.round(2, vectors), plain_sum(vectors, vectors))


@pytest.mark.parametrize("saved", [b"", b"{}", b"[]", b'{"version": 2}', b"\xff"])
def test_what_is_no_saved_state_is_refused(saved: bytes) -> None:
    with pytest.raises(ValueError, match="no saved state"):
        Participant.restore(saved, ANY)


def test_a_saved_state_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version 9"):
        Participant.restore(b'{"version": 9}', ANY)
