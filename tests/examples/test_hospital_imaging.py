"""The imaging example, with fewer and smaller studies than a person would make."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pydicom
import pytest
from PIL import Image

import fedcore
from examples.hospital_imaging.make_phantoms import SITES, WINDOW, make_phantoms, phantom, windowed
from fedcore.jobs.load import load_federation, load_job
from fedcore.participant.data import read_table

pytest.importorskip("nibabel", reason='the fourth site needs nibabel: pip install "fedcore[nifti]"')

SITE_NAMES = ("north", "east", "south", "west")

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "hospital_imaging"


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's folder with its phantoms made, a fifth as many as usual."""
    folder = tmp_path_factory.mktemp("imaging")
    for file in EXAMPLE.glob("*.yaml"):
        shutil.copy(file, folder)
    assert make_phantoms(folder / "data", scale=0.2) == {
        "north": 14,
        "east": 12,
        "south": 10,
        "west": 8,
        "central": 20,
    }
    return folder


def site(example: Path, name: str, data: str = "chest-masks") -> pa.Table:
    participants = load_federation(example / "federation.yaml").participants
    return read_table(next(each for each in participants if each.name == name).catalogue[data])


def pixels(table: pa.Table, name: str = "image") -> np.ndarray:
    return table.column(name).combine_chunks().to_numpy_ndarray()


def test_the_same_seed_makes_the_same_studies(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_phantoms(tmp_path / name, seed=seed, scale=0.07)
    files = {name: sorted(f for f in (tmp_path / name).rglob("*") if f.is_file()) for name in "abc"}
    contents = {name: [file.read_bytes() for file in files[name]] for name in "abc"}
    assert [f.relative_to(tmp_path / "a") for f in files["a"]] == [
        f.relative_to(tmp_path / "b") for f in files["b"]
    ]
    assert contents["a"] == contents["b"] != contents["c"]


def test_image_sites_read_as_the_files_pillow_reads(example: Path) -> None:
    table = site(example, "north")
    files = [example / "data" / "north" / file for file in table.column("file").to_pylist()]
    assert len(files) == 14
    assert table.column("label").to_pylist() == [file.parent.name for file in files]
    np.testing.assert_array_equal(pixels(table), [np.asarray(Image.open(file)) for file in files])


def test_dicom_site_reads_two_windowed_slices_of_each_labelled_series(example: Path) -> None:
    table = site(example, "south")
    with (example / "data" / "south" / "labels.csv").open() as file:
        labels = {row["series"]: row["label"] for row in csv.DictReader(file)}
    assert len(labels) == 10
    assert table.column("series").to_pylist() == [series for series in labels for _ in range(2)]
    assert table.column("label").to_pylist() == [label for label in labels.values() for _ in range(2)]
    expected = []
    for patient in table.column("patient").to_pylist()[::2]:
        for place in (1, 3):
            file = pydicom.dcmread(example / "data" / "south" / patient / f"slice-{place}.dcm")
            expected.append(windowed(file.pixel_array.astype(np.float64) - 1024))
    # The connector works in float32 and rounds a half either way.
    assert np.abs(pixels(table).astype(int) - np.array(expected).astype(int)).max() <= 1


def test_nifti_site_reads_two_windowed_slices_of_each_labelled_volume(example: Path) -> None:
    table = site(example, "west")
    assert table.column("file").to_pylist() == [f"west-{i:04d}.nii.gz" for i in range(8) for _ in range(2)]
    drawn = np.random.default_rng([7, 3])
    for i in range(8):
        study = phantom(drawn, next(each for each in SITES if each.name == "west"), "", finding=i < 3)
        for row, place in ((2 * i, 1), (2 * i + 1, 3)):
            # As it was drawn: neither mirrored nor turned.
            expected = windowed(np.rint(study.slices[place])).astype(int)
            assert np.abs(pixels(table)[row].astype(int) - expected).max() <= 1
            np.testing.assert_array_equal(pixels(table, "mask")[row], study.masks[place])


@pytest.mark.parametrize("name", SITE_NAMES)
def test_masks_cover_what_is_bright_inside_a_lung(example: Path, name: str) -> None:
    table = site(example, name)
    masks, shown = pixels(table, "mask"), pixels(table)
    has = masks.any(axis=(1, 2))
    assert [label == "nodule" for label in table.column("label").to_pylist()] == has.tolist()
    assert set(np.unique(masks)) == {0, 1} and shown[masks == 1].mean() > 190


def test_all_sites_show_the_same_window_and_classes(example: Path) -> None:
    federation = load_federation(example / "federation.yaml")
    for each in federation.participants[2:]:
        assert each.catalogue["chest"].window == WINDOW  # type: ignore[union-attr]
    tables = [site(example, name, "chest") for name in SITE_NAMES]
    assert {table.schema.field("image").type for table in tables} == {
        pa.fixed_shape_tensor(pa.uint8(), [32, 32])
    }
    for table in tables:
        assert set(table.column("label").to_pylist()) == {"normal", "nodule"}
        # Air around the body is dark and the body is bright, whatever the file format.
        shown = pixels(table)
        assert shown[:, 0, 0].mean() < 30 and shown[:, 16, 16].mean() > 180


def run(example: Path, tmp_path: Path, job: str, federation: str) -> dict[str, Any]:
    file = example / f"short-{job}"
    text = re.sub(r"rounds: \d+", "rounds: 2", (example / job).read_text())
    file.write_text(re.sub(r"baselines: .*\n", "", re.sub(r"epochs: \d", "epochs: 1", text)))
    load_job(file)
    home = fedcore.run(file, example / federation, folder=tmp_path / "run").folder
    return dict(json.loads((home / "result.json").read_text()))


@pytest.fixture(scope="module")
def small(example: Path) -> Path:
    """The same with policies that the few rows of these tests meet."""
    for name in SITE_NAMES:
        file = example / f"site-{name}.yaml"
        file.write_text(file.read_text().replace("min_rows: 20", "min_rows: 5"))
    return example


def test_job_trains_over_image_dicom_and_nifti_sites_together(small: Path, tmp_path: Path) -> None:
    result = run(small, tmp_path, "job.yaml", "federation.yaml")
    assert result["status"] == "finished"
    rows = {p["name"]: p["rows"] for p in result["participants"]}
    assert rows == {"north": 14, "east": 12, "south": 20, "west": 16}
    assert len(result["rounds"]) == 2
    central = result["final"]["central"]
    assert 0 <= central["accuracy"] <= 1
    assert result["predictions"]["curves"][0]["auc"] == pytest.approx(central["auc"], nan_ok=True)
    assert (tmp_path / "run" / "model.safetensors").stat().st_size > 1000
    assert "On the coordinator" in (tmp_path / "run" / "report.html").read_text()


def test_segmentation_trains_over_all_kinds_of_sites(small: Path, tmp_path: Path) -> None:
    result = run(small, tmp_path, "segmentation.yaml", "federation.yaml")
    assert result["status"] == "finished" and len(result["rounds"]) == 2
    losses = [each["central"]["loss"] for each in result["rounds"]]
    assert losses[1] < losses[0]
    assert result["predictions"]["kind"] == "masks" and result["predictions"]["rows"] == 20
    assert "the model’s outline" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_private_job_promises_each_image_and_hides_each_update(small: Path, tmp_path: Path) -> None:
    text = (small / "private.yaml").read_text()
    # The promise needs a delta below one over the rows, of which there are fewer here.
    (small / "private.yaml").write_text(text.replace("batch_size: 64", "batch_size: 8"))
    result = run(small, tmp_path, "private.yaml", "federation.yaml")
    assert result["status"] == "finished" and len(result["rounds"]) == 2
    assert result["protection"]["differential_privacy"]["level"] == "record"
    assert result["secure_aggregation"]["protocol"] == "secagg+"
    assert result["predictions"]["kind"] == "classes"
    assert not any(site.get("evaluate") for each in result["rounds"] for site in each["sites"].values())


@pytest.mark.slow
def test_resnet_job_keeps_normalisation_at_each_site(small: Path, tmp_path: Path) -> None:
    result = run(small, tmp_path, "resnet.yaml", "federation.yaml")
    assert result["status"] == "finished" and len(result["rounds"]) == 2
    assert 0 <= result["final"]["evaluate"]["balanced_accuracy"] <= 1


def test_medmnist_lines_of_the_readme_run(tmp_path: Path) -> None:
    blocks = re.findall(
        r"```yaml\n# (medmnist\S*\.yaml)\n(.*?)```", (EXAMPLE / "README.md").read_text(), re.DOTALL
    )
    assert [name for name, _ in blocks] == ["medmnist.yaml", "medmnist-job.yaml"]
    for name, text in blocks:
        (tmp_path / name).write_text(text)
    random = np.random.default_rng(0)
    arrays = {}
    for subset, rows in (("train", 300), ("test", 40)):
        labels = random.integers(0, 2, (rows, 1), dtype=np.uint8)
        noise = random.integers(0, 100, (rows, 28, 28), dtype=np.uint8)
        arrays[f"{subset}_images"] = noise + 100 * labels[:, :, None]
        arrays[f"{subset}_labels"] = labels
    np.savez(tmp_path / "pneumoniamnist.npz", **arrays)
    result = run(tmp_path, tmp_path, "medmnist-job.yaml", "medmnist.yaml")
    assert result["status"] == "finished"
    assert sum(p["rows"] for p in result["participants"]) == 300
