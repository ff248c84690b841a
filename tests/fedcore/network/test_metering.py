"""From seconds on a described node to TFLOP/s.h, energy, carbon and money."""

from __future__ import annotations

from decimal import Decimal

import pytest

from fedcore.network.metering import Figures, figures
from fedcore.network.node import Carbon
from tests.fedcore.network.nodes import described, found


def test_without_a_descriptor_nothing_is_made_up() -> None:
    assert figures(None, seconds=10, device="cpu", precision="float32", bytes_up=5) == Figures()


def test_an_hour_of_a_described_node() -> None:
    # 100 GFLOP/s, 50 to 150 W on 8 cores, PUE 1.25, 500 g/kWh, 2 CNY and 0.5 CNY/GB.
    got = figures(
        described(),
        seconds=3600,
        device="cpu",
        precision="float32",
        bytes_up=2 * 10**9,
        cpu_seconds=3600 * 4,
    )
    assert got.tflops_h == pytest.approx(0.1)
    assert got.kwh == pytest.approx(0.1) and "50% of full load" in (got.kwh_source or "")
    assert got.gco2_location == pytest.approx(0.1 * 1.25 * 500) and got.gas_location == "CO2"
    assert Decimal(got.price or "") == Decimal("1.2") and got.currency == "CNY"
    assert got.gco2_market is None and got.gas_market is None


def test_the_contracts_carbon_stands_beside_the_grids() -> None:
    market = Carbon(value=20, unit="gCO2e/kWh", evidence="certificate 7")
    got = figures(
        described(carbon_market=market), seconds=3600, device="cpu", precision="float32", bytes_up=0
    )
    assert got.gco2_location == pytest.approx(0.15 * 1.25 * 500)
    assert (got.gco2_market, got.gas_market) == (pytest.approx(0.15 * 1.25 * 20), "CO2e")


def test_where_the_load_is_not_known_the_node_counts_as_fully_loaded() -> None:
    for device, cpu in (("cpu", None), ("cuda", 10.0)):
        got = figures(
            described(), seconds=3600, device=device, precision="float32", bytes_up=0, cpu_seconds=cpu
        )
        assert got.kwh == pytest.approx(0.15)


def test_more_processor_seconds_than_there_are_is_full_load() -> None:
    got = figures(described(), seconds=1, device="cpu", precision="float32", bytes_up=0, cpu_seconds=100.0)
    assert got.kwh == pytest.approx(150 / 3.6e6)


def test_a_rate_that_was_not_measured_leaves_computing_and_its_price_out() -> None:
    got = figures(described(), seconds=3600, device="cuda", precision="bfloat16", bytes_up=10**9)
    assert got.tflops_h is None and got.price is None and got.currency is None
    assert got.kwh is not None


def test_a_descriptor_that_shows_scores_only_tells_nothing_but_its_node() -> None:
    got = figures(described(exposure="L1"), seconds=3600, device="cpu", precision="float32", bytes_up=10**9)
    assert got == Figures(node="n1")


def test_twice_the_seconds_are_twice_of_everything() -> None:
    one, two = (
        figures(
            described(quantities=found()),
            seconds=seconds,
            device="cpu",
            precision="float32",
            bytes_up=0,
        )
        for seconds in (8.0, 16.0)
    )
    for name in ("tflops_h", "kwh", "gco2_location"):
        assert getattr(two, name) == pytest.approx(2 * getattr(one, name))
    assert Decimal(two.price or "") == pytest.approx(2 * Decimal(one.price or ""), abs=Decimal("2e-12"))
