"""Who has which rows: lung cancer by hospital, smoking by city, breast cancer by region; and their files.

Each site gets a folder's worth of its own: a CSV file with its rows and no other's, and a participant file that says what
it has and what it allows.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from fedcore.trust.identity import load_identity, new_identity

HERE = Path(__file__).resolve().parent
CONFIGS = HERE.parents[1] / "configs"

Row = dict[str, str]
Sites = dict[str, list[Row]]
"""Rows by the name of who has them, as text; empty where a value is missing."""
Columns = dict[str, npt.NDArray[np.float64]]

TSS_REGIONS = {
    "northeast": ("3C", "AO", "BH", "E2", "LD", "OK", "PE", "S3", "UL"),
    "south": ("5T", "A7", "AQ", "B6", "EW", "GM", "LL", "UU", "V7", "W8"),
    "west": ("4H", "A1", "A2", "AC", "AN", "Z7"),
    "midwest": ("AR", "E9", "GI", "LQ", "MS", "OL", "WT", "XX"),
    "europe": ("A8", "D8"),
    "canada": ("C8", "HN"),
}
"""Tissue source sites of TCGA-BRCA by region, as FLamby groups them (Ogier du Terrail et al., NeurIPS 2022)."""

BREAST = {
    "age": "age_at_index",
    "stage_iiia": "tumor_stage_stage iiia",
    "stage_iiic": "tumor_stage_stage iiic",
    "treated": "treatment_or_therapy_yes",
    "event": "E",
    "time": "T",
}
"""Columns of the TCGA table that the example keeps, under shorter names."""


def lung() -> Sites:
    """227 patients with advanced lung cancer at 18 institutions; `hospital-33` has 2 of them, `hospital-01` 36.

    North Central Cancer Treatment Group: Loprinzi et al., Journal of Clinical Oncology 12, 1994. As in lifelines, without
    the one patient whose institution is not known; `status` is 1 for a death.
    """
    made: Sites = {}
    for row in _read(CONFIGS / "federations" / "data" / "lung.csv"):
        made.setdefault(f"hospital-{int(row['inst']):02d}", []).append(row)
    return dict(sorted(made.items()))


def cities() -> Sites:
    """8,419 people with lung cancer and controls in 8 cities of China, `smokes` and `cancer` 0 or 1.

    Liu, International Journal of Epidemiology 21, 1992; counts as in statsmodels' china_smoking.
    """
    made: Sites = {}
    for row in _read(HERE / "cities.csv"):
        rows: list[Row] = []
        for smokes, cancer, column in (
            ("1", "1", "smokers_with_cancer"),
            ("1", "0", "smokers_without"),
            ("0", "1", "others_with_cancer"),
            ("0", "0", "others_without"),
        ):
            rows += [{"smokes": smokes, "cancer": cancer}] * int(row[column])
        made[row["city"].lower()] = rows
    return made


def breast(path: Path) -> Sites:
    """Patients with breast cancer in six regions; those elsewhere are left out.

    Args:
        path: TCGA-BRCA's clinical table as FLamby has it: a patient's barcode in `pid`, its second part the institution.
    """
    region = {code: name for name, codes in TSS_REGIONS.items() for code in codes}
    made: Sites = {name: [] for name in TSS_REGIONS}
    for row in _read(path):
        here = region.get(row["pid"].split("-")[1])
        if here is not None:
            made[here].append({short: row[name] for short, name in BREAST.items()})
    return made


def pooled(sites: Sites, without: Sequence[str] = ()) -> tuple[Columns, npt.NDArray[np.int64]]:
    """All rows in one place, which is what nobody has, and the number of each one's site.

    Args:
        sites: Whose.
        without: Sites that are left out.
    """
    rows = [
        (row, place)
        for place, (name, held) in enumerate(sites.items())
        if name not in without
        for row in held
    ]
    columns = {name: np.array([float(row[name] or "nan") for row, _ in rows]) for name in rows[0][0]}
    return columns, np.array([place for _, place in rows], np.int64)


def write(
    folder: Path,
    data: str,
    sites: Sites,
    *,
    rule: Mapping[str, Any],
    catalogue: Mapping[str, Any],
    policy: Mapping[str, Any] | None = None,
    rules: Mapping[str, Mapping[str, Any]] | None = None,
    keys: bool = False,
) -> Path:
    """Write each site's rows and participant file, and the federation.

    Args:
        folder: Where to.
        data: Name of the data set.
        sites: Who has which rows.
        rule: What every site allows.
        catalogue: What every site says of its data set besides the file.
        policy: What else stands in every site's policy.
        rules: Of some sites, what they allow in another way.
        keys: Whether sites have keys and know each other's, as processes of their own need it.

    Returns:
        The federation's file.
    """
    (folder / "data").mkdir(parents=True, exist_ok=True)
    lines = _keys(folder / "keys", list(sites)) if keys else {}
    for name, rows in sites.items():
        with (folder / "data" / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        own = {"jobs": ["analytics"], "data": data, **rule, **(rules or {}).get(name, {})}
        participant: dict[str, Any] = {
            "name": name,
            "catalogue": {data: {"connector": "csv", "path": f"data/{name}.csv", **catalogue}},
            "policy": {"default": "deny", "rules": [own], **(policy or {})},
        }
        if keys:
            others = {other: {"public_key": line} for other, line in lines.items() if other != name}
            participant |= {"identity": f"keys/{name}.key", "peers": others}
        _dump(folder / f"{name}.yaml", participant)
    federation = {
        "name": f"{data}-sites",
        "engine": "embedded",
        "coordinator": {"address": "localhost:8443"},
        "participants": [f"{name}.yaml" for name in sites],
    }
    _dump(folder / "federation.yaml", federation)
    return folder / "federation.yaml"


def _keys(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Public key lines by name; private keys in the folder, made where there are none."""
    folder.mkdir(exist_ok=True)
    made = {}
    for name in names:
        path = folder / f"{name}.key"
        made[name] = (load_identity(path) if path.exists() else new_identity(path, name)).public_line
    return made


def _dump(path: Path, told: Mapping[str, Any]) -> None:
    path.write_text(yaml.safe_dump(dict(told), sort_keys=False), encoding="utf-8")


def _read(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
