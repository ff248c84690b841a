"""Opening a sum: any t of n can, fewer cannot, once each; what answers tell."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

from crypto.errors import ProtocolError
from crypto.rlwe import decryption, encryption, keys, layout, messages, noise, ring
from crypto.rlwe.parameters import KEY_WIDTH, PRIMES, Q
from tests.crypto.rlwe.joint import SEED, Stream, joint, opened, vectors
from tests.crypto.rlwe.plain import lifted

KEY, SHARES = joint(5, 3, 20)
PLAN = layout.layout(50, 1000, 20)
CONTEXT = encryption.Context(KEY, PLAN, b"round 1")
VECTORS = vectors(PLAN, 3)
PARTS = [encryption.encrypt(CONTEXT, vector) for vector in VECTORS]
TOTAL = encryption.add(CONTEXT, PARTS)
ASKED = decryption.request(CONTEXT, decryption.key_part(TOTAL), (1, 2, 4))


def answer(index: int, asked: decryption.Request = ASKED, **more: Any) -> decryption.Partial:
    return decryption.partial_decryption(SHARES[index - 1], CONTEXT, asked, decryption.Answers(), **more)


def test_any_threshold_of_holders_open_the_sum() -> None:
    for count in (3, 4, 5):
        for active in itertools.combinations(range(1, 6), count):
            assert np.array_equal(opened(CONTEXT, TOTAL, SHARES, active), sum(VECTORS))


def test_all_holders_open_the_sum_where_all_are_needed() -> None:
    key, shares = joint(4, 4, 20)
    context = encryption.Context(key, PLAN, b"all")
    total = encryption.add(context, [encryption.encrypt(context, vector) for vector in VECTORS])
    assert np.array_equal(opened(context, total, shares, (1, 2, 3, 4)), sum(VECTORS))
    with pytest.raises(ProtocolError, match="3 holders were asked, 4 of 4 are needed"):
        opened(context, total, shares, (1, 2, 3))


@pytest.mark.slow
def test_two_thirds_of_thirty_holders_open_the_sum_of_a_hundred_vectors() -> None:
    key, shares = joint(30, 20, 100)
    plan = layout.layout(30_000, 2**23, 100)
    context = encryption.Context(key, plan, b"thirty")
    given = vectors(plan, 100)
    total = encryption.add(context, (encryption.encrypt(context, vector) for vector in given))
    assert np.array_equal(opened(context, total, shares, range(11, 31)), sum(given))


def test_fewer_than_the_threshold_are_not_answered() -> None:
    with pytest.raises(ProtocolError, match="2 holders were asked, 3 of 5 are needed"):
        decryption.request(CONTEXT, decryption.key_part(TOTAL), (1, 2))
    forged = dataclasses.replace(ASKED, active=(1, 2))
    with pytest.raises(ProtocolError, match="3 of 5 are needed"):
        answer(1, forged)
    with pytest.raises(ProtocolError, match="3 of 5 are needed"):
        decryption.decrypt(CONTEXT, TOTAL, forged, [])


@pytest.mark.parametrize("active", [(1, 2), (2,), (3, 5), (1, 2, 4)])
def test_what_fewer_than_the_threshold_could_compute_fills_the_modulus(active: tuple[int, ...]) -> None:
    shares = [keys.opening_share(SHARES[i - 1], active) for i in active]
    told = ring.total(TOTAL.key[0], *(ring.product(share, TOTAL.key[1]) for share in shares))
    largest = max(map(abs, lifted(ring.coefficients(told))))
    if len(active) < 3:
        assert largest > 0.99 * (Q // 2)
    else:
        assert largest < (noise.key_noise(20, 5) + 1) << KEY_WIDTH


def test_a_missing_a_double_and_a_foreign_answer_are_refused() -> None:
    answers = [answer(i) for i in (1, 2, 4)]
    with pytest.raises(ProtocolError, match="2 answers came where 3"):
        decryption.decrypt(CONTEXT, TOTAL, ASKED, answers[:2])
    with pytest.raises(ProtocolError, match="each once"):
        decryption.decrypt(CONTEXT, TOTAL, ASKED, [answers[0], answers[0], answers[1]])
    other = decryption.request(CONTEXT, decryption.key_part(TOTAL), (2, 4, 5))
    with pytest.raises(ProtocolError, match="holder 2 is for another request"):
        decryption.decrypt(CONTEXT, TOTAL, ASKED, [answers[0], answer(2, other), answers[2]])


def test_an_altered_answer_is_noticed() -> None:
    answers = [answer(i) for i in (1, 2, 4)]
    value = answers[1].value.copy()
    value[1, 5] = (int(value[1, 5]) + 1) % PRIMES[1]
    answers[1] = dataclasses.replace(answers[1], value=value)
    with pytest.raises(ProtocolError, match="answers do not open the sum"):
        decryption.decrypt(CONTEXT, TOTAL, ASKED, answers)


def test_an_answer_with_a_wrong_share_is_noticed() -> None:
    wrong = dataclasses.replace(SHARES[1], value=SHARES[2].value)
    answers = [answer(1), answer(4)]
    answers.append(decryption.partial_decryption(wrong, CONTEXT, ASKED, decryption.Answers()))
    with pytest.raises(ProtocolError, match="answers do not open the sum"):
        decryption.decrypt(CONTEXT, TOTAL, ASKED, answers)


def test_a_holder_answers_a_round_once() -> None:
    answers = decryption.Answers()
    decryption.partial_decryption(SHARES[0], CONTEXT, ASKED, answers)
    other = decryption.request(CONTEXT, decryption.key_part(TOTAL), (1, 3, 5))
    for asked in (ASKED, other):
        with pytest.raises(ProtocolError, match="opened before"):
            decryption.partial_decryption(SHARES[0], CONTEXT, asked, answers)
    again = decryption.Answers(answers.seen)  # after the holder's process was started anew
    with pytest.raises(ProtocolError, match="opened before"):
        decryption.partial_decryption(SHARES[0], CONTEXT, ASKED, again)


def test_a_refused_request_does_not_use_up_the_round() -> None:
    answers = decryption.Answers()
    with pytest.raises(ProtocolError, match="at least 4 are needed"):
        decryption.partial_decryption(SHARES[0], CONTEXT, ASKED, answers, least=4)
    decryption.partial_decryption(SHARES[0], CONTEXT, ASKED, answers)


def test_a_key_opens_no_more_sums_than_smudging_was_made_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "releases", lambda *_: 2)
    answers = decryption.Answers([b"a", b"b"])
    with pytest.raises(ProtocolError, match="opened 2 sums, as many as it may"):
        decryption.partial_decryption(SHARES[0], CONTEXT, ASKED, answers)


def test_a_holder_that_was_not_asked_does_not_answer() -> None:
    with pytest.raises(ProtocolError, match="holder 3 is not among those asked"):
        answer(3)


def test_a_sum_of_one_is_not_opened() -> None:
    single = encryption.add(CONTEXT, PARTS[:1])
    asked = decryption.request(CONTEXT, decryption.key_part(single), (1, 2, 4))
    with pytest.raises(ProtocolError, match="holds 1 vectors, at least 2"):
        answer(1, asked)


def test_a_request_of_another_round_is_not_answered() -> None:
    later = encryption.Context(KEY, PLAN, b"round 2")
    with pytest.raises(ProtocolError, match="another key, layout or round"):
        decryption.partial_decryption(SHARES[0], later, ASKED, decryption.Answers())
    with pytest.raises(ProtocolError, match="another key, layout or round"):
        decryption.request(later, decryption.key_part(TOTAL), (1, 2, 4))


def test_a_share_of_another_key_or_before_dealing_does_not_answer() -> None:
    fresh = keys.new_share(KEY.setup, 1)[0]
    foreign = joint(3, 2, 20)[1][0]
    for share in (fresh, foreign):
        with pytest.raises(ValueError, match="not the one this key is opened with"):
            decryption.partial_decryption(share, CONTEXT, ASKED, decryption.Answers())


@pytest.mark.parametrize("active", [(0, 1, 2), (1, 2, 6), (1, 1, 2), ()])
def test_holders_that_are_none_are_refused(active: tuple[int, ...]) -> None:
    with pytest.raises(ProtocolError, match="not some of 1 to 5"):
        decryption.request(CONTEXT, decryption.key_part(TOTAL), active)


@pytest.mark.parametrize("contributors", [0, 21])
def test_a_sum_of_too_many_or_no_vectors_is_refused(contributors: int) -> None:
    part = dataclasses.replace(decryption.key_part(TOTAL), contributors=contributors)
    with pytest.raises(ProtocolError, match="from 1 to 20 are allowed"):
        decryption.request(CONTEXT, part, (1, 2, 4))


def test_the_request_must_be_for_the_sum_that_is_opened() -> None:
    other = encryption.add(CONTEXT, PARTS[:2])
    answers = [answer(i) for i in (1, 2, 4)]
    with pytest.raises(ProtocolError, match="for another sum"):
        decryption.decrypt(CONTEXT, other, ASKED, answers)


# ---- a holder that adds the parts itself --------------------------------------------------------------------------


def test_a_holder_gets_the_same_request_from_the_parts_of_all_vectors() -> None:
    made = decryption.request_of_parts(CONTEXT, [decryption.key_part(part) for part in PARTS], (4, 2, 1))
    assert made.digest == ASKED.digest


def test_a_holder_that_adds_does_not_take_sums_doubles_or_nothing_for_parts() -> None:
    parts = [decryption.key_part(part) for part in PARTS]
    with pytest.raises(ProtocolError, match="single vectors"):
        decryption.request_of_parts(CONTEXT, [decryption.key_part(TOTAL)], (1, 2, 4))
    with pytest.raises(ProtocolError, match="came twice"):
        decryption.request_of_parts(CONTEXT, [*parts, parts[0]], (1, 2, 4))
    with pytest.raises(ProtocolError, match="single vectors"):
        decryption.request_of_parts(CONTEXT, [], (1, 2, 4))


# ---- what answers tell --------------------------------------------------------------------------------------------


def test_an_answer_is_the_share_times_the_sum_under_smudging_of_the_derived_size() -> None:
    bits = noise.smudging_bits(20, 5, 3)
    smudging: list[int] = []
    for number in range(8):
        stream = Stream(f"smudging {number}")
        told = ring.product(keys.opening_share(SHARES[0], ASKED.active), ASKED.value)
        left = ring.total(answer(1, entropy=stream).value, ring.negated(told))
        smudging += lifted(ring.coefficients(left))
        assert len(stream.given) == 1
    assert all(number % 2**KEY_WIDTH == 0 for number in smudging)
    numbers = [number >> KEY_WIDTH for number in smudging]
    assert -(2**bits) <= min(numbers) and max(numbers) < 2**bits
    cells = np.bincount([(number + 2**bits) >> (bits - 4) for number in numbers], minlength=32)
    wanted = len(numbers) / 32
    assert float(((cells - wanted) ** 2 / wanted).sum()) < 75


def test_two_answers_to_one_request_are_smudged_afresh() -> None:
    first, second = answer(1), answer(1)
    assert not np.array_equal(first.value, second.value)
    assert "value" not in repr(first)


def test_noise_of_an_opened_sum_stays_below_its_bound() -> None:
    answers = [answer(i) for i in (1, 2, 4)]
    numbers = lifted(ring.coefficients(ring.total(TOTAL.key[0], *(each.value for each in answers))))
    worst = max(map(abs, numbers)) >> KEY_WIDTH
    bound = noise.opened_noise(20, 5, 3)
    assert bound / 8 < worst <= bound


def test_two_sets_of_holders_for_one_sum_would_be_equations_with_one_unknown() -> None:
    # Why a holder answers once: the multiples of its share cancel, and what is left is smudging alone.
    other = decryption.request(CONTEXT, decryption.key_part(TOTAL), (1, 3, 5))
    factors = [keys.lagrange(asked.active, 1) for asked in (ASKED, other)]
    streams = [Stream("a"), Stream("b")]
    first, second = answer(1, ASKED, entropy=streams[0]), answer(1, other, entropy=streams[1])
    bits = noise.smudging_bits(20, 5, 3)
    noises = [ring.smudging(bits, lambda _, s=stream: s.given[0]) for stream in streams]
    left = ring.total(
        ring.scaled(first.value, factors[1]), ring.negated(ring.scaled(second.value, factors[0]))
    )
    alone = ring.total(ring.scaled(noises[0], factors[1]), ring.negated(ring.scaled(noises[1], factors[0])))
    assert np.array_equal(left, alone)


def test_setup_seeds_are_not_shared_between_keys() -> None:
    # The same holders under another seed: nothing of the first key opens the second one's sums.
    key, _ = joint(5, 3, 20, seed=SEED + b" 2")
    context = encryption.Context(key, PLAN, b"round 1")
    with pytest.raises(ValueError, match="not the one this key"):
        decryption.partial_decryption(SHARES[0], context, ASKED, decryption.Answers())


# ---- several openings --------------------------------------------------------------------------------------


def test_a_sum_is_opened_by_others_when_a_holder_does_not_answer() -> None:
    key, shares = joint(5, 3, 4)
    context = encryption.Context(key, layout.layout(20, 1000, 4), b"round", openings=3)
    values = vectors(context.plan, 4)
    total = encryption.add(context, [encryption.encrypt(context, each) for each in values])
    wanted = sum(values)
    answers = [decryption.Answers() for _ in shares]
    for opening, active in enumerate([(1, 2, 3), (1, 2, 4), (2, 4, 5)]):
        asked = decryption.request(context, decryption.key_part(total, opening), active)
        told = [decryption.partial_decryption(shares[i - 1], context, asked, answers[i - 1]) for i in active]
        np.testing.assert_array_equal(decryption.decrypt(context, total, asked, told), wanted)
        # Once for each opening.
        with pytest.raises(ProtocolError, match="opened before"):
            decryption.partial_decryption(shares[active[0] - 1], context, asked, answers[active[0] - 1])
    assert len(answers[1].seen) == 3


def test_answers_for_one_opening_do_not_open_another() -> None:
    key, shares = joint(3, 2, 3)
    context = encryption.Context(key, layout.layout(20, 1000, 3), b"round", openings=2)
    total = encryption.add(context, [encryption.encrypt(context, each) for each in vectors(context.plan, 3)])
    first, second = (decryption.request(context, decryption.key_part(total, n), (1, 2)) for n in (0, 1))
    assert first.context == context.digest != second.context == context.opening(1)
    told = [decryption.partial_decryption(shares[i], context, first, decryption.Answers()) for i in (0, 1)]
    with pytest.raises(ProtocolError, match="another request"):
        decryption.decrypt(context, total, second, told)
    mixed = dataclasses.replace(first, context=second.context)
    with pytest.raises(ProtocolError, match="another sum"):
        decryption.decrypt(context, total, mixed, told)


def test_messages_of_several_openings_are_longer_and_told_apart() -> None:
    key, _ = joint(3, 2, 3)
    plan = layout.layout(20, 1000, 3)
    one, two = (encryption.Context(key, plan, b"round", openings=n) for n in (1, 2))
    made = encryption.encrypt(two, vectors(plan, 1)[0])
    raw = messages.write_ciphertext(made)
    assert len(raw) == messages.ciphertext_bytes(two) == messages.ciphertext_bytes(one) + 2 * messages.ELEMENT
    assert messages.write_ciphertext(messages.read_ciphertext(raw, two)) == raw
    with pytest.raises(ProtocolError, match="bytes came"):
        messages.read_ciphertext(raw, one)
    with pytest.raises(ProtocolError, match="another key, layout or round"):
        encryption.add(one, [made])
    part = messages.write_key_part(decryption.key_part(made, 1))
    assert messages.read_key_part(part, two, 1).context == two.opening(1)
    with pytest.raises(ProtocolError, match="opening"):
        messages.read_key_part(part, two, 0)
    for number in (-1, 2):
        with pytest.raises(ValueError, match="counted from 0"):
            two.opening(number)
    with pytest.raises(ValueError, match="from 1 to 8"):
        encryption.Context(key, plan, b"round", openings=9)
