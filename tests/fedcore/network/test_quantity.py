"""Quantities: what cannot be true is refused with its reason, and a doubt once there stays."""

from __future__ import annotations

import math
import statistics
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.errors import DataError
from fedcore.network.quantity import (
    LIMITS,
    Quantity,
    check_quantities,
    contradictions,
    counted,
    declared,
    derived,
    doubted,
    implausible,
    iso,
    measured,
    moment,
)

positive = st.floats(0.1, 1e6)


@given(st.lists(positive, min_size=3, max_size=20))
def test_a_measured_value_is_the_median_with_the_coefficient_of_variation(samples: list[float]) -> None:
    made = measured(samples, "GFLOP/s", "timed")
    assert made.value == statistics.median(samples) and made.samples == len(samples)
    assert made.spread == pytest.approx(statistics.stdev(samples) / statistics.fmean(samples))
    assert made.reliable == (made.spread <= 0.10)


@pytest.mark.parametrize("samples", [[1.0], [1.0, 1.0]])
def test_one_or_two_samples_are_never_reliable(samples: list[float]) -> None:
    made = measured(samples, "GFLOP/s", "timed")
    assert made.spread is None and "fewer than 3" in made.doubt


def test_a_wide_spread_is_reported_and_never_cleared() -> None:
    wide = measured([50.0, 100.0, 150.0], "GFLOP/s", "timed")
    assert "spread 0.50 is above 0.10" in wide.doubt
    again = Quantity(
        wide.value, wide.unit, wide.source, wide.method, wide.spread, wide.at, wide.samples, doubt=""
    )
    assert again.doubt == wide.doubt


@given(st.lists(st.lists(positive, min_size=1, max_size=5), min_size=1, max_size=4))
def test_what_is_made_from_something_unreliable_is_unreliable(groups: list[list[float]]) -> None:
    origins = [measured(samples, "GFLOP/s", "timed") for samples in groups]
    made = derived(1.0, "samples/s", "computed", *origins)
    assert made.reliable or not all(each.reliable for each in origins) or made.spread > 0.25
    if not all(each.reliable for each in origins):
        assert not made.reliable
    assert made.samples == min(len(samples) for samples in groups)


def test_a_derived_value_is_as_old_as_the_oldest_it_comes_from() -> None:
    old, new = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)
    made = derived(1, "W", "sum", declared(1, "W", "a", at=new), declared(1, "W", "b", at=old))
    assert made.at == iso(old) and made.age(new) == 31 * 86400


def test_doubts_add_up() -> None:
    assert doubted(doubted(counted(1, "cores", "x"), "one"), "two").doubt == "one; two"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "2"])
def test_a_value_that_is_no_finite_number_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="no finite number"):
        Quantity(value, "W", "measured", "x", 0.0)  # type: ignore[arg-type]


def test_spread_samples_source_and_time_are_checked() -> None:
    for changed, said in (
        ({"spread": -0.1}, "spread is -0.1"),
        ({"samples": 0}, "0 samples"),
        ({"source": "guessed"}, "allowed: measured, attested, declared, derived"),
        ({"at": "yesterday"}, "no moment"),
        ({"at": "2026-01-01T00:00:00"}, "no time zone"),
    ):
        with pytest.raises(ValueError, match=said):
            Quantity(
                **({"value": 1.0, "unit": "W", "source": "measured", "method": "x", "spread": 0.0} | changed)
            )
    with pytest.raises(ValueError, match="no sample"):
        measured([], "W", "x")


# ---- what cannot be true -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "unit", "said"),
    [
        ("pue", 0.8, "ratio", r"pue is 0.8 ratio; allowed: 1 to 3 \(a site cannot draw less"),
        ("pue", 3.5, "ratio", "worse than any"),
        ("gemm.cpu.fp32", 1e9, "GFLOP/s", "512 cores of 4 GHz"),
        ("gemm.cuda.bf16", 1e9, "GFLOP/s", "no accelerator reaches"),
        ("gemm.cpu.fp32", -5, "GFLOP/s", "rate of zero or less"),
        ("power.load", -1, "W", "a machine that works draws power"),
        ("carbon.location", -1, "gCO2/kWh", "never below zero"),
        ("carbon.location", 5000, "gCO2/kWh", "dirtier than lignite"),
        ("price.compute", -0.01, "per TFLOP/s.h", "nobody pays to be used"),
        ("security.level", 6, "level", "levels end at 5"),
        ("security.level", 2.5, "level", "a whole number"),
        ("availability", 1.2, "probability", "a probability"),
        ("rtt.p50", -0.1, "ms", "nothing is answered before it is asked"),
        ("link.up", 0, "Mbit/s", "rate of zero or less"),
        ("work.digits", 0, "samples/s", "rate of zero or less"),
        ("pue", 1.2, "percent", "unit 'percent'; allowed: ratio"),
        ("gemm.tpu.fp32", 5, "GFLOP/s", "no quantity that is known"),
        ("pony", 5, "GFLOP/s", "no quantity that is known"),
    ],
)
def test_absurd_values_are_refused_by_name_and_reason(name: str, value: float, unit: str, said: str) -> None:
    with pytest.raises(DataError, match=said) as raised:
        check_quantities({name: declared(value, unit, "said")}, party="anna")
    assert name in raised.value.message and raised.value.party == "anna"


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_both_ends_of_every_limit_are_allowed_and_what_lies_beyond_is_not(name: str) -> None:
    limit = LIMITS[name]
    for unit in limit.units:
        for edge in (limit.least, limit.most):
            assert implausible(name, declared(edge, unit, "x")) is None
        assert implausible(name, declared(limit.most * 1.01, unit, "x"))
        assert implausible(name, declared(limit.least - abs(limit.least) * 0.01 - 1e-9, unit, "x"))


def test_more_than_the_cores_can_do_is_refused_though_each_value_is_possible() -> None:
    two, fast = counted(2, "cores", "x"), declared(5000, "GFLOP/s", "x")
    assert implausible("cores", two) is None and implausible("gemm.cpu.fp32", fast) is None
    assert (
        "on 2 cores; allowed: at most 384 for each"
        in contradictions({"cores": two, "gemm.cpu.fp32": fast})[0]
    )
    assert not contradictions({"cores": counted(64, "cores", "x"), "gemm.cpu.fp32": fast})


def test_a_machine_that_draws_less_at_work_is_refused() -> None:
    wrong = contradictions({"power.idle": declared(200, "W", "x"), "power.load": declared(100, "W", "x")})
    assert "draws more when it works" in wrong[0]


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(DataError) as raised:
        check_quantities({"pue": declared(0.8, "ratio", "x"), "power.load": declared(-1, "W", "x")})
    assert "pue" in raised.value.message and "power.load" in raised.value.message


def test_moments_of_any_zone_are_the_same_moment() -> None:
    assert moment("2026-03-01T20:00:00+08:00") == datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert iso(moment("2026-03-01T20:00:00+08:00")) == "2026-03-01T12:00:00+00:00"
