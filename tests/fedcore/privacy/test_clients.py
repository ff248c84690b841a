"""Noise of client-level training: what it costs by other reckonings, and how it is divided."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as losses

from fedcore.errors import JobError
from fedcore.participant.private_training import clipped_steps
from fedcore.privacy.clients import BIT, SMOOTH, ClientNoise, below_clip, check_noise, plan_noise
from fedcore.privacy.distributed import draw_share


def plan(**other: Any) -> ClientNoise:
    """For 100 clients and 10 rounds."""
    asked: dict[str, Any] = {
        "change": "replace",
        "participants": 100,
        "lost": 15,
        "present": 90,
        "releases": 10,
        "dimension": 50,
        **other,
    }
    return plan_noise(other.pop("epsilon", 4.0), 1e-5, **{k: v for k, v in asked.items() if k != "epsilon"})


@pytest.mark.parametrize("change", ["replace", "add-remove"])
@pytest.mark.parametrize("adaptive", [False, True])
def test_the_noise_costs_what_is_promised_by_the_library_itself(change: str, adaptive: bool) -> None:
    noise = plan(change=change, adaptive=adaptive)
    twice = 2 if change == "replace" else 1
    sensitivity = twice * math.hypot(noise.clip_steps, noise.bit_steps)
    sigma = math.sqrt(noise.variance) / sensitivity
    distribution = losses.from_gaussian_mechanism(sigma, value_discretization_interval=1e-4)
    epsilon = distribution.self_compose(10).get_epsilon_for_delta(1e-5)
    assert 0.97 * 4 < epsilon <= 4
    told = check_noise(noise, 4.0, 1e-5)
    assert told.value == pytest.approx(epsilon, rel=2e-3) and told.value <= 4
    assert told.apart is not None and told.apart < 0.01
    accountant = dp_accounting.rdp.RdpAccountant()
    accountant.compose(dp_accounting.GaussianDpEvent(sigma), 10)
    assert told.rdp == pytest.approx(accountant.get_epsilon(1e-5), rel=2e-3)


def test_sampling_by_coins_is_accounted_as_the_library_does() -> None:
    noise = plan(change="add-remove", sampling=0.25)
    sigma = math.sqrt(noise.variance) / noise.clip_steps
    one = losses.from_gaussian_mechanism(sigma, sampling_prob=0.25, value_discretization_interval=1e-4)
    epsilon = one.self_compose(10).get_epsilon_for_delta(1e-5)
    assert 0.96 * 4 < epsilon <= 4 * (1 + 1e-6)
    assert noise.multiplier < plan(change="add-remove").multiplier / 2


def test_less_noise_than_the_promise_is_refused() -> None:
    noise = plan()
    for worse in (
        replace(noise, variance=noise.variance * 9 // 10),
        replace(noise, releases=noise.releases + 1),
        replace(noise, bit_steps=noise.clip_steps),
        replace(noise, clip_steps=noise.clip_steps + noise.clip_steps // 10),
    ):
        with pytest.raises(JobError, match="epsilon 4 is promised"):
            check_noise(worse, 4.0, 1e-5)
    with pytest.raises(JobError, match="lost"):
        check_noise(replace(noise, present=80), 4.0, 1e-5)
    with pytest.raises(JobError, match="allowed: 9 or more"):
        check_noise(replace(noise, variance=SMOOTH * 85 - 1, clip_steps=1), 4.0, 1e-5)


@pytest.mark.parametrize("change", ["replace", "add-remove"])
def test_sensitivity_is_the_largest_that_brute_force_finds(change: Any) -> None:
    steps, bit = 3, 2
    noise = ClientNoise(change, 3, 0, 3, 1, 1.0, steps, bit, 10**6, False)
    vectors = [
        np.array([x, y, sign * bit])
        for x, y in itertools.product(range(-steps, steps + 1), repeat=2)
        if x * x + y * y <= steps * steps
        for sign in (-1, 1)
    ]
    nothing = np.zeros(3, np.int64)
    pairs = itertools.product(vectors, vectors if change == "replace" else [nothing])
    assert max(int(np.square(a - b).sum()) for a, b in pairs) == noise.squared
    found = [clipped_steps(np.array(v[:2], float), 1.0, steps)[0] for v in vectors]
    assert all(int(np.square(each).sum()) <= steps**2 for each in found)


def test_shares_add_up_to_the_noise_that_is_accounted_when_as_many_are_lost_as_may_be() -> None:
    noise = plan()
    drawn = np.sum([draw_share(noise.shares, 3000) for _ in range(85)], axis=0).astype(float)
    # Chi-square with 3000 degrees of freedom: beyond six standard deviations once in 10^8.
    ratio = float(np.square(drawn).sum()) / noise.variance
    assert abs(ratio - 3000) < 6 * math.sqrt(2 * 3000)
    assert noise.shares.share * 85 == noise.variance


def test_words_without_room_are_refused() -> None:
    with pytest.raises(JobError, match="bits: 64"):
        plan(dimension=10**14)
    assert plan(dimension=10**14, bits=64).clip_steps >= 16 * 10**7


def test_bits_take_their_share_and_tell_the_fraction_below_the_clip() -> None:
    noise = plan(adaptive=True)
    share = noise.bit_steps**2 / (noise.bit_steps**2 + noise.clip_steps**2)
    assert float(BIT) <= share < 1.1 * float(BIT)
    assert below_clip(100 * noise.bit_steps, noise) == 1
    assert below_clip(0, noise) == 0.5
    assert below_clip(-50 * noise.bit_steps, noise) == 0.25
    assert below_clip(10**9, noise) == 1 and below_clip(-(10**9), noise) == 0


@pytest.mark.parametrize("delta", [0.0, 0.02, 1.0])
def test_a_delta_above_one_over_the_clients_is_refused(delta: float) -> None:
    with pytest.raises(JobError, match="delta"):
        plan_noise(
            4.0,
            delta,
            change="replace",
            participants=100,
            lost=1,
            present=99,
            releases=1,
            dimension=1,
        )


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.inf, math.nan])
def test_an_epsilon_that_promises_nothing_is_refused(epsilon: float) -> None:
    with pytest.raises(JobError, match="epsilon"):
        plan_noise(
            epsilon,
            1e-5,
            change="replace",
            participants=10,
            lost=1,
            present=9,
            releases=1,
            dimension=1,
        )
