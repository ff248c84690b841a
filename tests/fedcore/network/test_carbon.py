"""Carbon factors: the published value of the place, its gas named, and no network."""

from __future__ import annotations

import socket

import pytest

from fedcore.errors import JobError
from fedcore.network import carbon
from fedcore.network.carbon import location_intensity, market_intensity, thermal_design_power


@pytest.mark.parametrize(
    ("country", "region", "value", "unit"),
    [
        # MEE/NBS announcement 2025 No. 47, table 3, kg CO2/kWh: Guizhou 0.5683, Yunnan 0.1333, Inner Mongolia 0.6479.
        ("CN", "Guizhou", 568.3, "gCO2/kWh"),
        ("CHN", "CN-YN", 133.3, "gCO2/kWh"),
        ("China", "Inner Mongolia Autonomous Region", 647.9, "gCO2/kWh"),
        # eGRID2023 in lb/MWh; a pound is 453.59237 g.
        ("US", "Alabama", 713.976 * 0.45359237, "gCO2e/kWh"),
    ],
)
def test_a_region_has_its_published_factor_and_names_the_gas(
    country: str, region: str, value: float, unit: str
) -> None:
    found = location_intensity(country, region)
    assert found.value == pytest.approx(value) and found.unit == unit and found.source == "declared"


def test_a_country_has_its_mean_of_all_gases() -> None:
    assert location_intensity("CN") == location_intensity("China")
    assert location_intensity("CN").unit == "gCO2e/kWh"
    assert location_intensity("FR", "Paris").value == location_intensity("FRA").value


def test_the_west_is_not_cleaner_by_its_grid_alone() -> None:
    grids = {
        name: location_intensity("CN", name).value for name in ("Ningxia", "Inner Mongolia", "Guangdong")
    }
    assert grids["Guangdong"] < grids["Ningxia"] < grids["Inner Mongolia"]


@pytest.mark.parametrize(("country", "said"), [("Chna", "China"), ("ZZ", "ISO 3166-1"), ("", "ISO 3166-1")])
def test_an_unknown_country_is_refused(country: str, said: str) -> None:
    with pytest.raises(JobError, match=said):
        location_intensity(country)


def test_green_power_needs_evidence() -> None:
    assert "contract 17" in market_intensity(0, "contract 17").method
    with pytest.raises(JobError, match="needs evidence"):
        market_intensity(0, " ")


def test_no_network_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*told: object, **more: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    carbon._read.cache_clear()
    carbon._regions.cache_clear()
    assert location_intensity("CN", "Yunnan").value == 133.3


def test_without_the_tables_the_cure_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carbon.importlib.util, "find_spec", lambda name: None)
    carbon._read.cache_clear()
    try:
        with pytest.raises(JobError, match=r"fedcore\[network\]"):
            location_intensity("CN")
        assert thermal_design_power("AMD EPYC 7763 64-Core Processor") is None
    finally:
        carbon._read.cache_clear()


@pytest.mark.parametrize(
    ("model", "watts"),
    [
        ("AMD EPYC 7763 64-Core Processor", 280.0),
        ("Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz", 300.0),
        ("Intel(R) Core(TM) i7-8700 CPU @ 3.20GHz", 65.0),
        ("Intel(R) Xeon(R) Processor", None),
        ("", None),
    ],
)
def test_a_processor_has_its_own_design_power_or_none(model: str, watts: float | None) -> None:
    found = thermal_design_power(model)
    assert (found[1] if found else None) == watts
