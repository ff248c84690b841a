"""The data beside the ready federation: what the script makes, uneven, non-identical, each row in one place."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[3]
DATA = ROOT / "configs" / "federations" / "data"
PLACES = ["central", *(f"hospital-{number}" for number in range(1, 6))]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the script makes now."""
    spec = importlib.util.spec_from_file_location("make_demo_data", ROOT / "examples" / "make_demo_data.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    folder = tmp_path_factory.mktemp("data")
    script.make(folder)
    return folder


def labels(name: str, target: str) -> dict[str, np.ndarray]:
    return {place: pq.read_table(DATA / name / f"{place}.parquet")[target].to_numpy() for place in PLACES}


@pytest.mark.parametrize("name", ["breast-cancer", "digits"])
@pytest.mark.parametrize("place", PLACES)
def test_committed_file_is_what_the_script_makes(name: str, place: str, made: Path) -> None:
    file = Path(name) / f"{place}.parquet"
    assert pq.read_table(DATA / file).equals(pq.read_table(made / file))


@pytest.mark.parametrize("who", ["bank-a", "telecom-b"])
def test_committed_customers_are_what_the_script_makes(who: str, made: Path) -> None:
    file = Path("customers") / f"{who}.csv"
    assert (DATA / file).read_bytes() == (made / file).read_bytes()


def test_bank_and_telecom_have_some_customers_in_common() -> None:
    people = {}
    for who in ("bank-a", "telecom-b"):
        lines = (DATA / "customers" / f"{who}.csv").read_text().splitlines()[1:]
        people[who] = {tuple(line.split(",")[:2]) for line in lines}
        assert len(people[who]) == len(lines)
    assert (len(people["bank-a"]), len(people["telecom-b"])) == (200, 210)
    assert len(people["bank-a"] & people["telecom-b"]) == 80


def test_data_is_small() -> None:
    assert sum(file.stat().st_size for file in DATA.rglob("*.parquet")) < 500_000


def test_every_patient_is_in_one_place_with_the_diagnosis_of_the_source() -> None:
    from sklearn.datasets import load_breast_cancer

    source = load_breast_cancer()
    table = pa.concat_tables([pq.read_table(DATA / "breast-cancer" / f"{place}.parquet") for place in PLACES])
    patients = [int(patient.removeprefix("patient-")) for patient in table["patient"].to_pylist()]
    assert sorted(patients) == list(range(569))
    diagnosis = [str(source.target_names[source.target[patient]]) for patient in patients]
    assert [word == "malignant" for word in diagnosis] == [
        value == 1 for value in table["malignant"].to_pylist()
    ]
    np.testing.assert_array_equal(table["worst_area"].to_numpy(), source.data[patients, 23])


def test_images_are_eight_by_eight_bytes_over_the_whole_range() -> None:
    tables = [pq.read_table(DATA / "digits" / f"{place}.parquet") for place in PLACES]
    assert sum(table.num_rows for table in tables) == 1797
    pixels = np.concatenate([chunk.to_numpy_ndarray() for table in tables for chunk in table["image"].chunks])
    assert (pixels.shape, pixels.dtype) == ((1797, 8, 8), np.uint8)
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_hospitals_are_uneven_and_differ_but_none_has_one_diagnosis_only() -> None:
    found = labels("breast-cancer", "malignant")
    central = found.pop("central")
    sizes = [len(values) for values in found.values()]
    shares = [values.mean() for values in found.values()]
    assert max(sizes) > 3 * min(sizes) and min(sizes) >= 50
    assert max(shares) > 3 * min(shares) and min(shares) > 0.1 and max(shares) < 0.9
    assert central.mean() == pytest.approx(212 / 569, abs=0.01), "central data has every class in proportion"


def test_digits_are_spread_unevenly() -> None:
    found = labels("digits", "label")
    assert np.bincount(found.pop("central"), minlength=10).min() >= 30
    counts = np.array([np.bincount(values, minlength=10) for values in found.values()])
    shares = counts / counts.sum(axis=0)
    assert shares.max(axis=0).min() > 0.3, "of each digit some hospital has far more than its fifth"
    assert counts.sum(axis=1).min() >= 100
