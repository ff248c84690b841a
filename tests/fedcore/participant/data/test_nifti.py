"""NIfTI volumes against arrays the test wrote, in every orientation."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from fedcore.errors import DataError
from fedcore.jobs.datasets import NiftiData
from fedcore.participant.data import read_schema, read_table

nibabel = pytest.importorskip("nibabel", reason='connector nifti needs nibabel: pip install "fedcore[nifti]"')

RAS = np.arange(4 * 5 * 6).reshape(4, 5, 6).astype(np.int16)
"""A volume whose axes go to the right, to the front and to the head."""


def write(file: Path, values: np.ndarray, affine: np.ndarray | None = None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine), file)
    return file


def volumes(path: Path, **more: object) -> NiftiData:
    if "masks" not in more and "labels" not in more:
        (path / "labels.csv").write_text("file,label\na.nii.gz,nodule\n")
        more["labels"] = path / "labels.csv"
    return NiftiData(connector="nifti", path=path / "x", **more)  # type: ignore[arg-type]


def images(table: pa.Table, name: str = "image") -> np.ndarray:
    return table.column(name).combine_chunks().to_numpy_ndarray()


def shown(plane: np.ndarray) -> np.ndarray:
    """A plane of axes [across, up] as a picture, with the window from 0 to 119."""
    return np.rint(plane[::-1, ::-1].T / 119 * 255)


@pytest.mark.parametrize(
    ("axis", "size", "plane"),
    [
        ("axial", (5, 4), RAS[:, :, 3]),
        ("coronal", (6, 4), RAS[:, 2, :]),
        ("sagittal", (6, 5), RAS[2, :, :]),
    ],
)
def test_slices_lie_as_a_radiologist_looks_at_them(
    tmp_path: Path, axis: str, size: tuple[int, int], plane: np.ndarray
) -> None:
    write(tmp_path / "x" / "a.nii.gz", RAS)
    table = read_table(volumes(tmp_path, axis=axis, size=size, window=(59.5, 119)))
    np.testing.assert_array_equal(images(table)[0], shown(plane))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_volume_stored_in_another_way_gives_the_same_slices(
    tmp_path: Path, order: tuple[int, int, int]
) -> None:
    expected = None
    for signs in itertools.product((1, -1), repeat=3):
        affine = np.zeros((4, 4))
        affine[3, 3] = 1
        values = RAS
        for axis in range(3):
            values = values if signs[axis] > 0 else np.flip(values, axis)
        for place, axis in enumerate(order):
            affine[axis, place] = signs[axis]
        write(tmp_path / "x" / "a.nii.gz", np.ascontiguousarray(values.transpose(order)), affine)
        table = read_table(volumes(tmp_path, axis="coronal", size=(6, 4), slices=3, window=(59.5, 119)))
        expected = images(table) if expected is None else expected
        np.testing.assert_array_equal(images(table), expected)
    assert expected is not None
    np.testing.assert_array_equal(expected, [shown(RAS[:, place, :]) for place in (0, 2, 4)])


def test_volumes_are_scaled_by_their_header_and_masks_come_with_them(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(RAS, np.eye(4))
    image.header.set_slope_inter(2.0, -10.0)
    (tmp_path / "x").mkdir()
    stored = nibabel.Nifti1Image(2.0 * RAS - 10.0, np.eye(4), image.header)
    nibabel.save(stored, tmp_path / "x" / "a.nii")
    write(tmp_path / "y" / "a.nii", (RAS > 60).astype(np.uint8))
    data = volumes(tmp_path, masks=tmp_path / "y", size=(5, 4), slices=2, window=(109, 238))
    table = read_table(data)
    assert table.schema == read_schema(data)
    assert table.column_names == ["image", "mask", "file"]
    assert table.column("file").to_pylist() == ["a.nii", "a.nii"]
    np.testing.assert_allclose(images(table), [shown(RAS[:, :, place]) for place in (1, 4)], atol=1)
    np.testing.assert_array_equal(
        images(table, "mask"), [(RAS[:, :, place] > 60)[::-1, ::-1].T for place in (1, 4)]
    )


def test_labels_name_the_volumes_that_are_read(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path / "x" / "deep" / f"{name}.nii.gz", RAS)
    (tmp_path / "labels.csv").write_text("file,label\ndeep/c.nii.gz,nodule\ndeep/a.nii.gz,normal\n")
    table = read_table(volumes(tmp_path, labels=tmp_path / "labels.csv", slices=2))
    assert table.column("label").to_pylist() == ["nodule", "nodule", "normal", "normal"]
    assert read_table(volumes(tmp_path, labels=tmp_path / "labels.csv"), ["label"]).num_rows == 2


def test_volumes_that_cannot_be_read_are_counted_and_not_named(tmp_path: Path) -> None:
    names = ["good", "cut", "flat", "smith", "nan"]
    for name in names:
        write(tmp_path / "x" / f"{name}.nii", RAS)
    write(tmp_path / "x" / "flat.nii", RAS[:, :, :1])
    write(tmp_path / "x" / "nan.nii", np.full((4, 5, 6), np.nan, np.float32))
    cut = tmp_path / "x" / "cut.nii"
    cut.write_bytes(cut.read_bytes()[:400])
    (tmp_path / "x" / "smith.nii").write_bytes(b"no volume at all")
    (tmp_path / "labels.csv").write_text("file,label\n" + "".join(f"{name}.nii,a\n" for name in names))
    with pytest.raises(DataError, match=r"4 of 5 NIfTI volumes below .* cannot be read") as caught:
        read_table(volumes(tmp_path, labels=tmp_path / "labels.csv", slices=2))
    assert "smith" not in str(caught.value)
    assert all(f"{name}.nii" in (caught.value.detail or "") for name in names[1:])


def test_a_mask_of_another_shape_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "x" / "a.nii", RAS)
    write(tmp_path / "y" / "a.nii", np.zeros((4, 5, 5), np.uint8))
    with pytest.raises(DataError, match="have no mask that fits"):
        read_table(volumes(tmp_path, masks=tmp_path / "y"))


def test_nifti_mistakes_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="give labels, masks or both"):
        NiftiData(connector="nifti", path=tmp_path)
    write(tmp_path / "x" / "b.nii.gz", RAS)
    with pytest.raises(DataError, match="1 of 1 labelled volumes are not below"):
        read_table(volumes(tmp_path))
    (tmp_path / "labels.csv").write_text("name,label\n")
    with pytest.raises(DataError, match="no column 'file'"):
        read_table(volumes(tmp_path, labels=tmp_path / "labels.csv"))
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(DataError, match=r"fedcore\[nifti\]"):
        read_schema(volumes(tmp_path))
