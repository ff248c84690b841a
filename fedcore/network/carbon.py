"""Grams of CO2 per kWh where a node stands, and by its owner's contracts: two numbers that never replace each other.

*Location* is the mean of the grid that the machine hangs on. *Market* is what the owner bought: green power by
contract or certificate. A grid does not become cleaner through a contract, so work that is placed by carbon is
placed by the first, and the second is reported beside it.

The tables are codecarbon's, read as files: no network, and codecarbon itself is not imported. Chinese provinces
count CO2 alone (`gCO2/kWh`); countries, states of the USA and Nordic zones all gases as CO2 equivalents
(`gCO2e/kWh`).

Source: codecarbon's tables, which name theirs (MEE/NBS Announcement 2025 No. 47 for China; Our World in Data and
Ember for countries; EPA eGRID for the USA; ENTSO-E for Nordic zones). Location and market: GHG Protocol, Scope 2
Guidance. ISO/IEC 21031 (SCI) counts location only.
"""

from __future__ import annotations

import csv
import functools
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

from fedcore.errors import JobError, did_you_mean, nearest
from fedcore.network.quantity import Quantity, declared

_LB = 453.59237
"""Grams in a pound, by definition."""

_TITLES = re.compile(r"\s+(province|municipality|autonomous region|state)$")


def location_intensity(country: str, region: str | None = None) -> Quantity:
    """Carbon intensity of the grid at a place, mean of a year.

    Args:
        country: ISO 3166-1, two or three letters, or its English name.
        region: Province, state or zone, as `CN-GZ`, `Guizhou`, `Texas` or `SE3`. Without one, or where the tables
            have none for the country, it is the country's mean.

    Returns:
        Declared, in gCO2/kWh or gCO2e/kWh: the unit names the gas.

    Raises:
        JobError: No table has the place, or the tables are not installed.
    """
    code, name, row = _country(country)
    regions = _regions(code) if region is not None else {}
    if region is not None and regions:
        found = regions.get(_plain(region))
        if found is None:
            known = {each[0] for each in regions.values()}
            raise JobError(
                f"no carbon factor for {region!r} in {name}; {did_you_mean(region, known)}. Cure: leave the region out "
                f"for the country's mean ({row['carbon_intensity']:g} gCO2e/kWh)"
            )
        label, value, unit, how = found
        return declared(value, unit, f"{label}: {how}")
    return declared(
        float(row["carbon_intensity"]),
        "gCO2e/kWh",
        f"{name}, {row['year']}: all gases, mean of the country's generation (codecarbon's table)",
    )


def market_intensity(value: float, evidence: str, *, unit: str = "gCO2e/kWh") -> Quantity:
    """Carbon intensity by contract; reported, never taken for the grid's.

    Args:
        value: g/kWh.
        evidence: What shows it: a contract or certificate, by name and digest.
        unit: Which gases.

    Raises:
        JobError: There is no evidence.
    """
    if not evidence.strip():
        raise JobError(
            "carbon by contract needs evidence: name the contract or certificate and its SHA-256. Cure: give evidence, "
            "or leave the market factor out; the grid's is used then"
        )
    return declared(value, unit, f"by contract: {evidence.strip()}")


def thermal_design_power(model: str) -> tuple[str, float] | None:
    """Watts that a CPU is designed to get rid of, from codecarbon's table.

    Args:
        model: As the system names it, as `AMD EPYC 7763 64-Core Processor`.

    Returns:
        The name in the table and watts; None where no name matches, or the tables are not installed.
    """
    wanted = _cpu(model)
    table = _table_file("hardware", "cpu_power.csv", needed=False)
    return _powers(table).get(wanted) if table is not None and wanted else None


# ---- the tables --------------------------------------------------------------------------------------------------


def _table_file(*parts: str, needed: bool = True) -> Path | None:
    found = importlib.util.find_spec("codecarbon")
    file = Path(found.origin).with_name("data").joinpath(*parts) if found and found.origin else None
    if file is not None and file.is_file():
        return file
    if needed:
        raise JobError(
            "carbon factors come from the tables of codecarbon, which are not installed. Cure: pip install "
            "'fedcore[network]', or give the factor itself (carbon: {value: 420, method: ...})"
        )
    return None


@functools.cache
def _read(*parts: str) -> dict[str, Any]:
    file = _table_file(*parts)
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file else {}
    return found


@functools.cache
def _powers(file: Path) -> dict[str, tuple[str, float]]:
    with file.open(newline="", encoding="utf-8-sig") as rows:
        found: dict[str, tuple[str, float]] = {}
        for row in csv.DictReader(rows):
            try:
                watts = float(row["TDP"])
            except ValueError:
                continue  # a few rows of the table are garbled
            found.setdefault(_cpu(row["Name"]), (row["Name"], watts))
        return found


def _cpu(model: str) -> str:
    """A CPU's name without marks, clock and what kind of thing it is."""
    text = re.sub(r"\((r|tm|c)\)|®|™", " ", model.lower())
    text = re.sub(r"@.*$|\b\d+-core\b|\b\d+th gen\b|\b(cpu|processor|with radeon.*)\b", " ", text)
    return " ".join(text.split())


def _country(asked: str) -> tuple[str, str, dict[str, Any]]:
    """Three-letter code, name and row of a country."""
    table = _read("private_infra", "global_energy_mix.json")
    names = {_plain(str(row["country_name"])): code for code, row in table.items()}
    word = asked.strip()
    code = word.upper() if len(word) == 3 else names.get(_plain(word), "")
    if len(word) == 2:
        code = _three_letters(word.upper())
    if code not in table or table[code].get("carbon_intensity") is None:
        near = nearest(word, (str(row["country_name"]) for row in table.values())) if len(word) > 3 else None
        raise JobError(
            f"no carbon factor for the country {asked!r}; {f'did you mean {near}? ' if near else ''}allowed: a code of "
            "ISO 3166-1, as CN or CHN, or the country's English name"
        )
    return code, str(table[code]["country_name"]), table[code]


def _three_letters(two: str) -> str:
    import pycountry

    found = pycountry.countries.get(alpha_2=two)
    return str(found.alpha_3) if found is not None else ""


@functools.cache
def _regions(code: str) -> dict[str, tuple[str, float, str, str]]:
    """By plain name or code: label, g/kWh, unit and how it was obtained; empty where there is no table."""
    made: dict[str, tuple[str, float, str, str]] = {}
    if code == "CHN":
        for key, row in _read("private_infra", "2023", "china_provincial_emissions.json")["data"].items():
            how = f"{row['year']}, CO2 only, generation of the province (MEE/NBS 2025 No. 47, codecarbon's table)"
            entry = (str(row["description"]), float(row["emission_factor"]), "gCO2/kWh", how)
            made.update(
                dict.fromkeys((_plain(name) for name in (key, row["description"], *row["names"])), entry)
            )
    elif code == "USA":
        for name, row in _read("private_infra", "2023", "usa_emissions.json").items():
            if not name.startswith("_"):
                how = "2023, all gases, generation of the state (EPA eGRID2023, codecarbon's table)"
                # Pounds per MWh.
                entry = (name.title(), float(row["emissions"]) * _LB / 1000, "gCO2e/kWh", how)
                made.update(dict.fromkeys((_plain(name), f"us-{row['regionCode']}".lower()), entry))
    elif code in ("SWE", "NOR", "FIN"):
        for key, row in _read("private_infra", "nordic_emissions.json")["data"].items():
            if key.startswith({"SWE": "SE", "NOR": "NO", "FIN": "FI"}[code]):
                how = f"{row.get('year', 'year not stated')}, all gases, generation of the zone (codecarbon's table)"
                made[_plain(key)] = (key, float(row["emission_factor"]), "gCO2e/kWh", how)
    return made


def _plain(name: str) -> str:
    return _TITLES.sub("", " ".join(name.lower().replace("_", " ").split()))
