"""Image folders against Pillow, DICOM series against arrays the test wrote."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from fedcore.errors import DataError
from fedcore.jobs.datasets import DicomData, ImageFolderData
from fedcore.participant.data import read_schema, read_table
from tests.fedcore.participant.data.dicom_files import write_slice


def folder(path: Path, **more: object) -> ImageFolderData:
    return ImageFolderData(connector="images", path=path, **more)  # type: ignore[arg-type]


def save(file: Path, pixels: np.ndarray, **more: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, **more)
    return file


def images(table: pa.Table) -> np.ndarray:
    return table.column("image").combine_chunks().to_numpy_ndarray()


def test_images_are_labelled_by_folder_and_ordered_by_path(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pixels = {
        name: random.integers(0, 256, (6, 8), dtype=np.uint8)
        for name in ("cat/b.png", "cat/a.PNG", "dog/deep/x.bmp", "dog/y.tiff", ".cache/z.png")
    }
    for name, values in pixels.items():
        save(tmp_path / name, values)
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    data = folder(tmp_path, size=(6, 8))
    table = read_table(data)
    assert table.schema == read_schema(data)
    assert table.column("file").to_pylist() == ["cat/a.PNG", "cat/b.png", "dog/deep/x.bmp", "dog/y.tiff"]
    assert table.column("label").to_pylist() == ["cat", "cat", "dog", "dog"]
    np.testing.assert_array_equal(images(table), [pixels[name] for name in table.column("file").to_pylist()])


def test_images_are_resized_and_coloured_as_pillow_does(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    save(tmp_path / "a" / "x.png", values)
    colour = images(read_table(folder(tmp_path, size=(20, 10), channels=3)))
    grey = images(read_table(folder(tmp_path, size=(20, 10))))
    image = Image.fromarray(values)
    bilinear = Image.Resampling.BILINEAR
    np.testing.assert_array_equal(colour, [np.asarray(image.resize((10, 20), bilinear))])
    np.testing.assert_array_equal(grey, [np.asarray(image.convert("L").resize((10, 20), bilinear))])


def test_sixteen_bit_images_are_scaled_not_clipped(tmp_path: Path) -> None:
    save(tmp_path / "a" / "x.png", np.array([[0, 257], [32896, 65535]], dtype=np.uint16))
    np.testing.assert_array_equal(images(read_table(folder(tmp_path, size=(2, 2)))), [[[0, 1], [128, 255]]])


def test_photos_are_turned_as_their_exif_says(tmp_path: Path) -> None:
    values = np.zeros((4, 8), dtype=np.uint8)
    values[:, :4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn 90 degrees clockwise to show
    save(tmp_path / "a" / "x.png", values, exif=exif)
    shown = images(read_table(folder(tmp_path, size=(8, 4))))[0]
    assert shown[:4].min() == 255 and shown[4:].max() == 0


def test_images_are_not_opened_when_only_labels_are_asked(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"no image at all")
    assert read_table(folder(tmp_path), ["label"]).to_pylist() == [{"label": "a"}]


def test_broken_images_are_counted_and_not_named(tmp_path: Path) -> None:
    save(tmp_path / "a" / "good.png", np.zeros((4, 4), np.uint8))
    whole = save(
        tmp_path / "a" / "smith_john_1950.png", np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    )
    whole.write_bytes(whole.read_bytes()[:600])
    (tmp_path / "a" / "z.jpg").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"2 of 3 image files below .* cannot be decoded; replace or"
    ) as caught:
        read_table(folder(tmp_path))
    assert "smith" not in str(caught.value)
    assert "smith_john_1950.png" in (caught.value.detail or "")


def test_image_folder_mistakes_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no sub-folder; an image folder has one for each class"):
        read_table(folder(tmp_path))
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match=r"class folder .*a has no image; allowed: \.png"):
        read_table(folder(tmp_path))
    save(tmp_path / "a" / "x.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match="is a file; this connector reads a folder"):
        read_table(folder(tmp_path / "a" / "x.png"))
    with pytest.raises(DataError, match=r"needs 1\.0 MB of memory and this site gives a job 1\.0 kB"):
        read_table(folder(tmp_path, size=(1000, 1000)), memory=1000)
    with pytest.raises(DataError, match=r"no column .pixels. in the data set; allowed: file, image, label"):
        read_table(folder(tmp_path), ["pixels"])


# ---- DICOM


def study(path: Path, **more: object) -> DicomData:
    return DicomData(connector="dicom", path=path, labels=path / "labels.csv", **more)  # type: ignore[arg-type]


def label(path: Path, **labels: str) -> None:
    lines = ["series,label", *(f"1.2.{uid[1:]},{name}" for uid, name in labels.items())]
    (path / "labels.csv").write_text("\n".join(lines) + "\n")


def test_dicom_slices_are_rescaled_windowed_and_labelled(tmp_path: Path) -> None:
    hounsfield = np.array([[-1000, -100], [0, 100], [50, 2000]], dtype=np.int16)
    write_slice(tmp_path / "x.dcm", hounsfield, series="1.2.1", patient="P1", slope=2, intercept=-3000)
    label(tmp_path, s1="nodule")
    data = study(tmp_path, size=(3, 2), window=(0, 400))
    table = read_table(data)
    assert table.schema == read_schema(data)
    # LINEAR_EXACT: brightness is (value - centre) / width + 1/2, cut to [0, 1].
    expected = np.rint(np.clip(hounsfield / 400 + 0.5, 0, 1) * 255)
    np.testing.assert_array_equal(images(table)[0], expected)
    assert table.drop_columns("image").to_pylist() == [
        {"label": "nodule", "series": "1.2.1", "patient": "P1"}
    ]


def test_dicom_without_a_window_spans_the_slice(tmp_path: Path) -> None:
    write_slice(tmp_path / "x.dcm", np.array([[10, 30], [50, 110]], dtype=np.int16), series="1.2.1")
    write_slice(tmp_path / "y.dcm", np.full((2, 2), 7, dtype=np.int16), series="1.2.2")
    label(tmp_path, s1="a", s2="b")
    np.testing.assert_array_equal(
        images(read_table(study(tmp_path, size=(2, 2)))), [[[0, 51], [102, 255]], [[0, 0], [0, 0]]]
    )


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    values = np.array([[0, 100]], dtype=np.int16)
    write_slice(tmp_path / "x.dcm", values, series="1.2.1", photometric="MONOCHROME1")
    label(tmp_path, s1="a")
    np.testing.assert_array_equal(images(read_table(study(tmp_path, size=(1, 2)))), [[[255, 0]]])


@pytest.mark.parametrize("positions", [True, False])
def test_dicom_slices_are_ordered_in_space_and_spread_evenly(tmp_path: Path, positions: bool) -> None:
    for place in range(9):
        # File names run against the order of the slices; so does InstanceNumber where positions are given.
        write_slice(
            tmp_path / "deep" / f"{9 - place}.dcm",
            np.full((1, 1), place, dtype=np.int16),
            series="1.2.1",
            number=9 - place if positions else place,
            z=2.5 * place - 7 if positions else None,
        )
    label(tmp_path, s1="a")
    data = study(tmp_path, size=(1, 1), slices=3, window=(127.5, 255))
    assert images(read_table(data)).ravel().tolist() == [1, 4, 7]
    every = study(tmp_path, size=(1, 1), slices=9, window=(127.5, 255))
    assert images(read_table(every)).ravel().tolist() == list(range(9))


def test_frames_of_a_multi_frame_file_are_slices(tmp_path: Path) -> None:
    write_slice(tmp_path / "x.dcm", np.arange(4, dtype=np.int16).reshape(4, 1, 1), series="1.2.1")
    label(tmp_path, s1="a")
    data = study(tmp_path, size=(1, 1), slices=2, window=(127.5, 255))
    assert images(read_table(data)).ravel().tolist() == [1, 3]


def test_series_without_a_label_are_left_out_and_labels_without_series_refused(tmp_path: Path) -> None:
    for uid in ("1.2.1", "1.2.2"):
        write_slice(tmp_path / f"{uid}.dcm", np.zeros((2, 2), np.int16), series=uid)
    label(tmp_path, s2="a")
    assert read_table(study(tmp_path), ["series"]).to_pylist() == [{"series": "1.2.2"}]
    label(tmp_path, s2="a", s3="b")
    with pytest.raises(DataError, match="1 of 2 labelled series are not below") as caught:
        read_table(study(tmp_path))
    assert "1.2.3" not in str(caught.value) and caught.value.detail == "1.2.3"


def test_dicom_mistakes_are_told_apart(tmp_path: Path) -> None:
    file = write_slice(tmp_path / "x.dcm", np.zeros((8, 8), np.int16), series="1.2.1")
    with pytest.raises(DataError, match=r"no file .*labels\.csv"):
        read_table(study(tmp_path))
    (tmp_path / "labels.csv").write_text("uid,label\n1.2.1,a\n")
    with pytest.raises(DataError, match="has no column 'series'; it needs the columns series, label"):
        read_table(study(tmp_path))
    (tmp_path / "labels.csv").write_text("series,label\n1.2.1,a\n1.2.1,b\n")
    with pytest.raises(DataError, match=r"labels\.csv, line 3: a series stands twice with two labels"):
        read_table(study(tmp_path))
    (tmp_path / "labels.csv").write_text("series,label\n1.2.1,\n")
    with pytest.raises(DataError, match="line 2: series or label is empty"):
        read_table(study(tmp_path))
    (tmp_path / "labels.csv").write_text("series,label\n")
    with pytest.raises(DataError, match="has 0 labelled series"):
        read_table(study(tmp_path))
    label(tmp_path, s1="a")
    with pytest.raises(DataError, match="a series has 1 slices and slices: 2 are asked of each"):
        read_table(study(tmp_path, slices=2))
    with pytest.raises(DataError, match=r"needs 1\.0 MB of memory"):
        read_table(study(tmp_path, size=(1000, 1000)), memory=1000)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"pixels of a DICOM file below .* cannot be decoded") as caught:
        read_table(study(tmp_path))
    assert "x.dcm" in (caught.value.detail or "") and "x.dcm" not in str(caught.value)


def test_missing_pydicom_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    for read in (read_schema, read_table):
        with pytest.raises(DataError, match=r'pip install "fedcore\[dicom\]"'):
            read(study(tmp_path))
