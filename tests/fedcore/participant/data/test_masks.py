"""Masks beside pictures and DICOM slices: values kept, sizes checked, files that do not fit counted and not named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pydicom
import pytest
from PIL import Image
from pydantic import ValidationError

from fedcore.errors import DataError
from fedcore.jobs.datasets import DicomData, ImageFolderData
from fedcore.participant.data import read_schema, read_table
from fedcore.participant.data.masks import numbered, resized
from tests.fedcore.participant.data.dicom_files import write_slice


def save(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def folder(path: Path, **more: object) -> ImageFolderData:
    return ImageFolderData(connector="images", path=path / "x", masks=path / "y", **more)  # type: ignore[arg-type]


def masks(table: pa.Table) -> np.ndarray:
    return table.column("mask").combine_chunks().to_numpy_ndarray()


def checkered(height: int = 6, width: int = 8) -> np.ndarray:
    return (np.indices((height, width)).sum(axis=0) % 2).astype(np.uint8)


def test_masks_of_the_same_names_come_with_their_images(tmp_path: Path) -> None:
    for name in ("normal/a", "nodule/deep/b"):
        save(tmp_path / "x" / f"{name}.jpg", np.zeros((6, 8), np.uint8))
        save(tmp_path / "y" / f"{name}.png", 255 * checkered() * (name != "normal/a"))
    data = folder(tmp_path, size=(6, 8), mask_values=(0, 255))
    table = read_table(data)
    assert table.schema == read_schema(data)
    assert table.column_names == ["image", "label", "mask", "file"]
    assert table.column("label").to_pylist() == ["nodule", "normal"]
    np.testing.assert_array_equal(masks(table), [checkered(), 0 * checkered()])
    assert read_table(data, ["mask"]).column_names == ["mask"]


def test_with_masks_a_folder_needs_no_classes_and_has_no_label(tmp_path: Path) -> None:
    save(tmp_path / "x" / "a.png", np.zeros((6, 8), np.uint8))
    save(tmp_path / "y" / "a.png", 2 * checkered())
    table = read_table(folder(tmp_path, size=(6, 8)))
    assert table.column_names == ["image", "mask", "file"]
    np.testing.assert_array_equal(masks(table)[0], 2 * checkered())


def test_masks_are_resized_by_the_nearest_pixel() -> None:
    values = np.arange(24).reshape(4, 6)
    for size in ((2, 3), (4, 6), (8, 12), (3, 4)):
        made = resized(values, size)
        expected = np.asarray(
            Image.fromarray(values.astype(np.uint8)).resize(size[::-1], Image.Resampling.NEAREST)
        )
        np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (None, "0 masks"),
        (np.zeros((6, 7), np.uint8), "for an image of"),
        (np.zeros((6, 8, 3), np.uint8), "mode RGB"),
        (np.full((6, 8), 128, np.uint8), "does not name"),
    ],
)
def test_a_mask_that_does_not_fit_is_counted_and_not_named(
    tmp_path: Path, mask: np.ndarray | None, words: str
) -> None:
    for name in ("good", "smith_1950"):
        save(tmp_path / "x" / f"{name}.png", np.zeros((6, 8), np.uint8))
    save(tmp_path / "y" / "good.png", 255 * checkered())
    if mask is not None:
        save(tmp_path / "y" / "smith_1950.png", mask)
    with pytest.raises(DataError, match=r"1 of 2 image files .* or have no mask that fits") as caught:
        read_table(folder(tmp_path, size=(6, 8), mask_values=(0, 255)))
    assert "smith" not in str(caught.value)
    assert "smith_1950.png" in (caught.value.detail or "") and words in (caught.value.detail or "")


def test_numbers_that_are_no_class_of_a_mask_are_refused() -> None:
    np.testing.assert_array_equal(numbered(np.array([[0, 7], [9, 7]]), (0, 7, 9)), [[0, 1], [2, 1]])
    for wrong in ([[-1, 0]], [[0, 255]], [[0.5, 0]]):
        with pytest.raises(ValueError, match="values"):
            numbered(np.array(wrong), None)


def test_masks_of_dicom_slices_are_found_by_their_uids(tmp_path: Path) -> None:
    for place in range(4):
        file = tmp_path / "x" / f"{place}.dcm"
        write_slice(file, np.zeros((6, 8), np.int16), series="1.2.1", z=place)
        instance = pydicom.dcmread(file).SOPInstanceUID
        save(tmp_path / "y" / "1.2.1" / f"{instance}.png", checkered() * (place == 3))
    (tmp_path / "labels.csv").write_text("series,label\n1.2.1,nodule\n")
    data = DicomData(
        connector="dicom",
        path=tmp_path / "x",
        labels=tmp_path / "labels.csv",
        masks=tmp_path / "y",
        size=(6, 8),
        slices=2,
    )
    table = read_table(data)
    assert table.schema == read_schema(data)
    np.testing.assert_array_equal(masks(table), [0 * checkered(), checkered()])
    for file in (tmp_path / "y" / "1.2.1").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="a DICOM slice has no mask"):
        read_table(data)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"mask_values": (0, 1)}, "there are no masks"),
        ({"masks": "y", "mask_values": (0,)}, "two to 255"),
        ({"masks": "y", "mask_values": (0, 0)}, "each once"),
    ],
)
def test_mask_values_that_make_no_sense_are_refused(more: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ImageFolderData(connector="images", path="x", **more)  # type: ignore[arg-type]
