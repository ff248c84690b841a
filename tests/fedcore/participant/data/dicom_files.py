"""Small DICOM files for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def write_slice(
    file: Path,
    values: np.ndarray[Any, np.dtype[np.int16]],
    *,
    series: str,
    patient: str = "P",
    number: int = 1,
    z: float | None = None,
    slope: float = 1,
    intercept: float = 0,
    photometric: str = "MONOCHROME2",
) -> Path:
    """Write one file.

    Args:
        values: `[height, width]` or `[frames, height, width]`, in the modality's units.
        z: Position along the axis of the scanner, mm; not given when None.
        slope, intercept: Values are stored as (value - intercept) / slope.
    """
    stored = np.round((values.astype(np.float64) - intercept) / slope).astype("<i2")
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(file)])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = Dataset()
    image.file_meta = meta
    image.SOPClassUID = meta.MediaStorageSOPClassUID
    image.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    image.SeriesInstanceUID = series
    image.PatientID = patient
    image.Modality = "CT"
    image.InstanceNumber = number
    if z is not None:
        image.ImagePositionPatient = [0, 0, z]
        image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    image.RescaleSlope, image.RescaleIntercept = slope, intercept
    image.Rows, image.Columns = stored.shape[-2:]
    if stored.ndim == 3:
        image.NumberOfFrames = stored.shape[0]
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = photometric
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit = 15
    image.PixelRepresentation = 1
    image.PixelData = stored.tobytes()
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(file, enforce_file_format=True)
    return file
