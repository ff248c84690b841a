"""The estimate of epsilon: against closed forms and against privacy loss distributions, from rare rows to all of them."""

from __future__ import annotations

import math

import pytest
from dp_accounting.pld import privacy_loss_distribution

from fedcore.privacy.fourier import Loss, estimate


def bound(noise: float, rate: float, times: int, delta: float, step: float) -> float:
    """An upper bound that is above the truth by less than a thousandth where `step` is fine."""
    one = privacy_loss_distribution.from_gaussian_mechanism(
        noise, sampling_prob=rate, value_discretization_interval=step
    )
    return float(one.self_compose(times).get_epsilon_for_delta(delta))


@pytest.mark.parametrize(
    ("rows", "batch", "steps", "noise", "delta", "step"),
    [
        (60_000, 64, 938, 0.6458886918708228, 1e-5, 1e-4),
        (60_000, 64, 2_814, 0.75, 1e-5, 1e-4),
        (1_000_000, 256, 4_000, 1.0, 1e-7, 2e-5),
        (200_000, 50, 1, 0.6, 1e-6, 1e-3),
        (40_000, 64, 1_875, 0.5, 1e-9, 1e-4),
        (1_000, 32, 300, 0.9, 1e-4, 1e-3),
        (300, 100, 30, 2.0, 1e-3, 1e-3),
        (500, 250, 2_000, 4.0, 1e-5, 1e-3),
        (10_000, 64, 100_000, 3.0, 1e-6, 1e-4),
    ],
)
def test_the_estimate_is_within_a_percent_of_the_bound(
    rows: int, batch: int, steps: int, noise: float, delta: float, step: float
) -> None:
    found = estimate([Loss("gaussian", noise, batch / rows, steps)], delta)
    wanted = bound(noise, batch / rows, steps, delta, step)
    assert 0.99 * wanted < found < 1.001 * wanted


def test_a_rare_release_and_many_small_ones_are_summed() -> None:
    both = [Loss("gaussian", 0.6, 1e-3, 50), Loss("gaussian", 40.0, 1.0, 200)]
    wanted = (
        privacy_loss_distribution.from_gaussian_mechanism(
            0.6, sampling_prob=1e-3, value_discretization_interval=1e-3
        )
        .self_compose(50)
        .compose(
            privacy_loss_distribution.from_gaussian_mechanism(
                40 / math.sqrt(200), value_discretization_interval=1e-3
            )
        )
    )
    assert estimate(both, 1e-6) == pytest.approx(wanted.get_epsilon_for_delta(1e-6), rel=0.01)


def test_a_laplace_release_costs_its_epsilon_and_what_is_hardly_drawn_costs_nothing() -> None:
    assert estimate([Loss("laplace", 2.0)], 1e-12) == pytest.approx(0.5, rel=1e-4)
    assert estimate([Loss("gaussian", 1.0, 1e-7, 10)], 1e-5) == 0
    assert estimate([Loss("gaussian", 1e6, 1e-300)], 1e-5) == 0


def test_times_add_up_as_noise_that_is_less() -> None:
    # Many releases of Gaussian noise are one of noise less by the root of their number, whatever the number.
    once = estimate([Loss("gaussian", 0.5)], 1e-6)
    for times in (100, 10**6):
        found = estimate([Loss("gaussian", 0.5 * math.sqrt(times), 1.0, times)], 1e-6)
        assert found == pytest.approx(once, rel=1e-4)
