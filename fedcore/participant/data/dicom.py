"""DICOM series, each giving some of its slices as images.

Source: DICOM PS3.3 C.11.2.1.3.2 (the window function LINEAR_EXACT), C.7.6.2.1.1 (position and orientation).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fedcore.errors import DataError
from fedcore.jobs.datasets import DicomData
from fedcore.participant.data.arrays import tensor_column, tensor_type
from fedcore.participant.data.checks import chosen, existing, unreadable, within
from fedcore.participant.data.masks import numbered, picture_mask

_TAGS = [
    "SeriesInstanceUID",
    "PatientID",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "NumberOfFrames",
]

UInt8 = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Instance:
    """One DICOM file: where it stands in its series and how many slices it holds."""

    file: Path
    patient: str
    position: float
    frames: int


def dicom_schema(data: DicomData) -> pa.Schema:
    """`image`, `label`, `series` and `patient`, and `mask` where there are masks; opens no series."""
    _pydicom()
    existing(data.path, folder=True)
    existing(data.labels, folder=False)
    names = _columns(data)
    chosen(data, None, names)
    pixels = tensor_type(np.uint8, data.size)
    return pa.schema([pa.field(name, pixels if name in ("image", "mask") else pa.string()) for name in names])


def _columns(data: DicomData) -> tuple[str, ...]:
    if data.masks is None:
        return ("image", "label", "series", "patient")
    existing(data.masks, folder=True)
    return ("image", "label", "mask", "series", "patient")


def dicom_table(data: DicomData, columns: Sequence[str] | None, memory: int | None) -> pa.Table:
    """Slices of the labelled series, in the order of the labels file.

    Stored values are put through the modality's rescale, then the window, which maps to 0 and 255;
    MONOCHROME1 (bright is low) is inverted. Slices are ordered by position along the normal of the image
    plane, else by InstanceNumber, and resized (bilinear).

    Raises:
        DataError: The extra `dicom` is not installed; no folder or labels file; a labelled series that is not
            there or has too few slices; pixels that cannot be decoded; a slice without its mask, or with one that
            does not fit; too large.
    """
    _pydicom()
    wanted = chosen(data, columns, _columns(data))
    labels = _labels(data)
    series = _series(data, set(labels))
    rows = len(labels) * data.slices
    found: dict[str, pa.Array] = {
        "label": pa.array([label for label in labels.values() for _ in range(data.slices)], type=pa.string()),
        "series": pa.array([uid for uid in labels for _ in range(data.slices)], type=pa.string()),
        "patient": pa.array(
            [series[uid][0].patient for uid in labels for _ in range(data.slices)], type=pa.string()
        ),
    }
    tensors = [name for name in ("image", "mask") if name in wanted]
    within(len(tensors) * rows * math.prod(data.size), memory)
    if tensors:
        pixels: UInt8 = np.empty((len(tensors), rows, *data.size), dtype=np.uint8)
        for i, uid in enumerate(labels):
            for j, (file, frame) in enumerate(_places(series[uid], data), start=i * data.slices):
                for place, name in enumerate(tensors):
                    pixels[place, j] = (_slice if name == "image" else _mask)(file, frame, data)
        found |= {name: tensor_column(pixels[place]) for place, name in enumerate(tensors)}
    return pa.table({name: found[name] for name in wanted})


def _pydicom() -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise DataError(
            'connector dicom needs the package pydicom; install it with: pip install "fedcore[dicom]"'
        ) from error
    return pydicom


def _labels(data: DicomData) -> dict[str, str]:
    """Series to label, in the order of the file."""
    path = existing(data.labels, folder=False)
    found: dict[str, str] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = {"series", "label"} - set(reader.fieldnames or ())
            if missing:
                raise DataError(
                    f"{path} has no column {sorted(missing)[0]!r}; it needs the columns series, label"
                )
            for row in reader:
                uid, label = (row["series"] or "").strip(), (row["label"] or "").strip()
                if not uid or not label:
                    raise DataError(f"{path}, line {reader.line_num}: series or label is empty; fill both")
                if found.setdefault(uid, label) != label:
                    raise DataError(f"{path}, line {reader.line_num}: a series stands twice with two labels")
    except (OSError, UnicodeError, csv.Error) as error:
        raise unreadable(path, error, "a CSV file in utf-8") from error
    if not found:
        raise DataError(f"{path} has 0 labelled series; at least 1 is needed")
    return found


def _series(data: DicomData, wanted: set[str]) -> dict[str, list[_Instance]]:
    """The files of each wanted series in the order of their slices."""
    pydicom = _pydicom()
    found: dict[str, list[_Instance]] = {}
    skipped = 0
    for file in sorted(file for file in existing(data.path, folder=True).rglob("*") if file.is_file()):
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_TAGS)
            uid = str(header.get("SeriesInstanceUID", ""))
            if uid in wanted:
                found.setdefault(uid, []).append(_instance(file, header))
        except pydicom.errors.InvalidDicomError:
            skipped += 1  # a labels file, a DICOMDIR viewer, a thumbnail
        except (OSError, ValueError, TypeError, EOFError) as error:
            raise unreadable(data.path, error, "DICOM files") from error
    missing = wanted - set(found)
    if missing:
        # A series' UID leads to a patient, so it stays at the site.
        raise DataError(
            f"{len(missing)} of {len(wanted)} labelled series are not below {data.path} (which has "
            f"{skipped} files that are not DICOM); correct path, or remove them from labels (the site's log "
            "names them)",
            detail=", ".join(sorted(missing)),
        )
    return {uid: sorted(files, key=lambda each: (each.position, each.file)) for uid, files in found.items()}


def _instance(file: Path, header: Any) -> _Instance:
    position = float(header.get("InstanceNumber") or 0)
    place, plane = header.get("ImagePositionPatient"), header.get("ImageOrientationPatient")
    if place is not None and plane is not None and len(place) == 3 and len(plane) == 6:
        axes = np.asarray(plane, dtype=np.float64)
        normal = np.cross(axes[:3], axes[3:])
        position = float(normal @ np.asarray(place, dtype=np.float64))
    return _Instance(
        file, str(header.get("PatientID") or ""), position, max(int(header.get("NumberOfFrames") or 1), 1)
    )


def _places(instances: list[_Instance], data: DicomData) -> list[tuple[Path, int]]:
    """Files and frames of the slices to take: the middles of equal stretches of the series."""
    places = [(each.file, frame) for each in instances for frame in range(each.frames)]
    if len(places) < data.slices:
        raise DataError(
            f"a series has {len(places)} slices and slices: {data.slices} are asked of each; ask for fewer, "
            "or remove it from labels (the site's log names its folder)",
            detail=str(instances[0].file.parent),
        )
    return [places[int((i + 0.5) * len(places) / data.slices)] for i in range(data.slices)]


def _mask(file: Path, frame: int, data: DicomData) -> UInt8:
    pydicom = _pydicom()
    try:
        tags = ["SeriesInstanceUID", "SOPInstanceUID", "Rows", "Columns", "NumberOfFrames"]
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=tags)
        if int(header.get("NumberOfFrames") or 1) > 1:
            raise ValueError(f"frame {frame} of several; masks are for files of one slice")
        uid = f"{header.SeriesInstanceUID}/{header.SOPInstanceUID}.png"
        mask = picture_mask(Path(str(data.masks)) / uid, (int(header.Columns), int(header.Rows)), data.size)
        return numbered(mask, data.mask_values)
    except (AttributeError, OSError, ValueError, SyntaxError) as error:
        raise DataError(
            "a DICOM slice has no mask <SeriesInstanceUID>/<SOPInstanceUID>.png that fits it; give it one of its size "
            "with values that mask_values names, or remove its series from labels (the site's log names the file)",
            detail=f"{file}: {type(error).__name__}: {error}",
        ) from error


def _slice(file: Path, frame: int, data: DicomData) -> UInt8:
    from PIL import Image

    pydicom = _pydicom()
    try:
        dataset = pydicom.dcmread(file)
        stored = dataset.pixel_array
        if int(dataset.get("SamplesPerPixel", 1)) != 1:
            raise ValueError("colour pixels")
        if stored.ndim == 3:
            stored = stored[frame]
        values: Floats = np.asarray(pydicom.pixels.apply_modality_lut(stored, dataset), dtype=np.float32)
        inverted = dataset.get("PhotometricInterpretation") == "MONOCHROME1"
    except (
        AttributeError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        OSError,
        EOFError,
        KeyError,
    ) as error:
        raise DataError(
            f"pixels of a DICOM file below {data.path} cannot be decoded as one grey plane; compressed "
            "pixels need a decoder (pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg), colour is "
            "for connector images (the site's log names the file)",
            detail=f"{file}: {type(error).__name__}: {error}",
        ) from error
    shown = windowed(values, data.window)
    if inverted:
        shown = 1 - shown
    height, width = data.size
    resized = Image.fromarray(shown).resize((width, height), Image.Resampling.BILINEAR)
    eight_bits: UInt8 = np.rint(np.asarray(resized) * 255).astype(np.uint8)
    return eight_bits


def windowed(values: Floats, window: tuple[float, float] | None) -> Floats:
    """Values as brightness in [0, 1].

    Args:
        values: `[height, width]`, in the modality's units.
        window: Centre and width; lowest and highest value when None.

    Source: PS3.3 C.11.2.1.3.2, LINEAR_EXACT.
    """
    if window is None:
        low, high = float(values.min()), float(values.max())
        if low == high:
            return np.zeros_like(values)
        window = ((low + high) / 2, high - low)
    centre, width = window
    shown: Floats = np.clip((values - centre) / width + 0.5, 0, 1).astype(np.float32)
    return shown
