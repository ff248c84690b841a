"""Challenges: a product is right or wrong, and a boast shows."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import ProtocolError
from fedcore.network import challenge as module
from fedcore.network.challenge import (
    PRIME,
    Challenge,
    answer,
    ask,
    is_product,
    judge,
    matrices,
    new_challenge,
    out_of_line,
    product,
    product_digest,
)
from fedcore.network.quantity import measured
from fedcore.peer.memory import MemoryChannel

CLAIM = measured([99, 100, 101], "GFLOP/s", "timed")
ONE = Challenge(bytes(32), 64)


def in_seconds(gflop_s: float) -> float:
    return ONE.operations / gflop_s / 1e9


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
@pytest.mark.parametrize("n", [16, 100, 513])
def test_the_float_product_is_exactly_the_product_of_whole_numbers(n: int, precision: str) -> None:
    asked = Challenge(bytes(range(32)), n, precision)
    left, right = matrices(asked)
    exact = (
        left.astype(object) @ right.astype(object)
        if n <= 100
        else left.astype(np.int64) @ right.astype(np.int64)
    )
    assert np.array_equal(product(asked), exact)
    assert is_product(left, right, product(asked))


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
@pytest.mark.parametrize("n", [16, 2048, 8192])
def test_no_sum_can_leave_what_is_exact(n: int, precision: str) -> None:
    largest = Challenge(bytes(32), n, precision).largest
    assert largest >= 32 and n * largest**2 < 2 ** {"fp32": 24, "fp64": 53}[precision]
    assert n * largest**2 < PRIME


@given(st.integers(2, 12), st.integers(0, 2**32), st.data())
@settings(deadline=None)
def test_one_wrong_entry_is_caught(n: int, seed: int, data: st.DataObject) -> None:
    generator = np.random.default_rng(seed)
    left, right = (generator.integers(0, 1000, (n, n)) for _ in range(2))
    found = left @ right
    assert is_product(left, right, found)
    at = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n - 1))
    found[at] += data.draw(st.integers(1, 1000))
    assert not is_product(left, right, found)


def test_errors_that_cancel_in_every_row_and_column_are_caught() -> None:
    left, right = matrices(ONE)
    wrong = product(ONE).astype(np.int64)
    wrong[0, 0] += 7
    wrong[0, 1] -= 7
    wrong[1, 0] -= 7
    wrong[1, 1] += 7
    assert not is_product(left, right, wrong)


def test_a_difference_that_is_a_multiple_of_the_prime_cannot_be_written_down() -> None:
    left, right = matrices(ONE)
    hidden = product(ONE).astype(np.int64)
    hidden[0, 0] += PRIME
    with pytest.raises(ValueError, match="entries must be from 0"):
        is_product(left, right, hidden)


def test_the_check_takes_other_vectors_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    below = module.secrets.randbelow
    monkeypatch.setattr(module.secrets, "randbelow", lambda most: drawn.append(below(most)) or drawn[-1])
    is_product(*matrices(ONE), product(ONE))
    assert len(drawn) == 2 * ONE.n and len(set(drawn)) > ONE.n and max(drawn) < PRIME


def test_largest_numbers_do_not_overflow() -> None:
    full = np.full((300, 300), PRIME - 1)
    exact = np.array(
        [[int(each) % PRIME for each in row] for row in full.astype(object) @ full.astype(object)]
    )
    # A product modulo the prime is one to the check; what counts here is that no sum overflows.
    assert is_product(full, full, exact.astype(np.int64))


@pytest.mark.parametrize(
    ("left", "right", "found", "said"),
    [
        (np.ones((2, 3), int), np.ones((2, 3), int), np.ones((2, 3), int), "cannot be multiplied"),
        (np.ones((2, 2), int), np.ones((2, 2), int), np.ones((2, 3), int), "a product of"),
        (np.ones((2, 2)), np.ones((2, 2), int), np.ones((2, 2), int), "whole numbers"),
        (np.ones((2, 2), int), np.ones((2, 2), int), -np.ones((2, 2), int), "entries must be"),
    ],
)
def test_what_is_no_product_of_whole_numbers_is_refused(left, right, found, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        is_product(left, right, found)


def test_two_challenges_have_nothing_in_common() -> None:
    one, other = new_challenge(64), new_challenge(64)
    assert one.seed != other.seed and not np.array_equal(matrices(one)[0], matrices(other)[0])
    assert not np.array_equal(*matrices(one))


@pytest.mark.parametrize(
    ("seed", "n", "precision"), [(b"", 64, "fp32"), (bytes(32), 8, "fp32"), (bytes(32), 64, "bf16")]
)
def test_what_cannot_be_asked_is_refused(seed: bytes, n: int, precision: str) -> None:
    with pytest.raises(ValueError, match=r"allowed|has 32 bytes"):
        Challenge(seed, n, precision)  # type: ignore[arg-type]


# ---- verdicts ----------------------------------------------------------------------------------------------------


def test_who_is_as_fast_as_claimed_is_believed() -> None:
    verdict = judge(ONE, product(ONE), in_seconds(95), CLAIM)
    assert verdict.right and not verdict.probe_again and verdict.seen == pytest.approx(95)
    assert verdict.residual == pytest.approx(math.log(100 / 95)) and verdict.error < 1e-18


def test_a_boast_asks_for_a_new_probe_however_often_it_was_made_before() -> None:
    slow = in_seconds(10)
    assert judge(ONE, product(ONE), slow, CLAIM).probe_again
    always = judge(ONE, product(ONE), slow, CLAIM, history=[math.log(10)] * 20)
    assert always.probe_again and "10 GFLOP/s were seen where 100 are claimed" in always.why


def test_a_wrong_product_is_no_work_at_all() -> None:
    wrong = product(ONE)
    wrong[3, 5] ^= 1
    verdict = judge(ONE, wrong, in_seconds(100), CLAIM)
    assert (verdict.right, verdict.seen, verdict.probe_again) == (False, 0.0, True)
    stale = judge(ONE, product(Challenge(bytes([1]) * 32, 64)), in_seconds(100), CLAIM)
    assert not stale.right


def test_nothing_is_out_of_line_before_there_is_a_line() -> None:
    assert out_of_line(5.0, [0.0] * 4) == (False, "")
    assert out_of_line(math.inf, [])[0]


@given(st.lists(st.floats(-0.3, 0.3), min_size=5, max_size=40), st.floats(-3, 3))
def test_out_of_line_is_three_median_absolute_deviations(history: list[float], residual: float) -> None:
    middle = float(np.median(history))
    deviation = max(1.4826 * float(np.median(np.abs(np.array(history) - middle))), 0.02)
    away = abs(residual - middle) / deviation
    if abs(away - 3) > 1e-6:
        assert out_of_line(residual, history)[0] == (away > 3)


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_an_answer_takes_time(seconds: float) -> None:
    with pytest.raises(ValueError, match="must take some time"):
        judge(ONE, product(ONE), seconds, CLAIM)


# ---- over a channel ------------------------------------------------------------------------------------------------


def both(first, second):
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(first), pool.submit(second)
        return [each.result(60) for each in running]


def test_a_node_answers_over_a_channel_and_is_judged() -> None:
    coordinator, node = MemoryChannel.pair()
    verdict, _ = both(
        lambda: ask(coordinator, new_challenge(64), CLAIM, round_trip=0.0), lambda: answer(node)
    )
    assert verdict.right and verdict.seen > 0


def test_who_sends_a_digest_first_and_computes_later_is_refused() -> None:
    coordinator, node = MemoryChannel.pair()

    def cheat() -> None:
        seed, n, _ = module._ASK.unpack(node.recv(module.STEP_ASK, size=module._ASK.size))
        node.send(module.STEP_DIGEST, bytes(32))
        node.send(module.STEP_PRODUCT, product(Challenge(seed, n)).astype("<u4"))

    with pytest.raises(ProtocolError, match="after the clock stopped"):
        both(lambda: ask(coordinator, new_challenge(64), CLAIM, round_trip=0.0), cheat)


def test_who_makes_a_product_up_is_found_out() -> None:
    coordinator, node = MemoryChannel.pair()

    def cheat() -> None:
        node.recv(module.STEP_ASK, size=module._ASK.size)
        made_up = np.zeros((64, 64), dtype="<u4")
        node.send(module.STEP_DIGEST, product_digest(made_up))
        node.send(module.STEP_PRODUCT, made_up)

    verdict, _ = both(lambda: ask(coordinator, new_challenge(64), CLAIM, round_trip=0.0), cheat)
    assert not verdict.right and verdict.probe_again


def test_a_node_does_not_multiply_whatever_it_is_asked() -> None:
    coordinator, node = MemoryChannel.pair()
    coordinator.send(module.STEP_ASK, module._ASK.pack(bytes(32), 8192, 24))
    with pytest.raises(ProtocolError, match="at most 4096"):
        answer(node)
    other, node = MemoryChannel.pair()
    other.send(module.STEP_ASK, module._ASK.pack(bytes(32), 1, 24))
    with pytest.raises(ProtocolError, match="allowed: 16"):
        answer(node)
