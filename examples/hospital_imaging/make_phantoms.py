"""Make small chest phantoms for the example: PNG exports at two hospitals, DICOM series and NIfTI volumes at two more.

Each phantom is an axial slice: a body, two lungs, a few vessels, and in half of them a nodule in a lung. The
hospitals differ as hospitals do: in how many studies they have, how often there is a finding, how large the
patients are and how noisy the scanner is. Values are Hounsfield units; the PNG files hold the lung window, the
DICOM series and NIfTI volumes the values themselves. Masks say which pixels are nodule, in the format of the images
(255 in a PNG file, 1 in a volume). The same seed makes the same studies. No patient was ever near them.

    python examples/hospital_imaging/make_phantoms.py [--out FOLDER] [--seed N] [--scale X]
"""

from __future__ import annotations

import argparse
import csv
import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

WINDOW = (-450.0, 1300.0)
"""Centre and width of the window, Hounsfield units; `site-south.yaml` and `site-west.yaml` apply the same."""

PIXELS = 64
SLICES = 5
CLASSES = ("normal", "nodule")

HU = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Site:
    """One hospital's studies.

    Args:
        name: Its folder below the output.
        studies: How many patients.
        findings: Share of them with a nodule.
        noise: Standard deviation, Hounsfield units.
        body: Radius of the body, as a share of half the image.
        kind: Of its files.
    """

    name: str
    studies: int
    findings: float
    noise: float
    body: float
    kind: Literal["png", "dicom", "nifti"] = "png"


SITES = (
    Site("north", studies=70, findings=0.6, noise=40, body=0.92),
    Site("east", studies=60, findings=0.3, noise=90, body=0.80),
    Site("south", studies=50, findings=0.5, noise=60, body=0.86, kind="dicom"),
    Site("west", studies=40, findings=0.4, noise=75, body=0.90, kind="nifti"),
    Site("central", studies=100, findings=0.5, noise=60, body=0.86),
)


@dataclass(frozen=True)
class Study:
    """One patient.

    Args:
        patient: A made-up name.
        finding: Whether there is a nodule; it is in every slice but the first and the last.
        slices: From feet to head, `SLICES` arrays `[pixels, pixels]`, Hounsfield units.
        masks: Of each slice, which pixels are nodule.
    """

    patient: str
    finding: bool
    slices: list[HU]
    masks: list[Mask]

    @property
    def label(self) -> str:
        """Its class."""
        return CLASSES[self.finding]


def phantom(
    random: np.random.Generator, site: Site, patient: str, finding: bool, pixels: int = PIXELS
) -> Study:
    """One study.

    Args:
        random: Source of everything that varies.
        site: Whose scanner and patients.
        patient: A made-up name.
        finding: Whether there is a nodule.
        pixels: Height and width.
    """
    y, x = np.mgrid[-1 : 1 : pixels * 1j, -1 : 1 : pixels * 1j]
    body = site.body * random.uniform(0.94, 1.06)
    lungs = [(side * 0.42 * body, random.uniform(-0.05, 0.05)) for side in (-1, 1)]
    vessels = [_inside(random, lungs, body) for _ in range(5)]
    nodule = _inside(random, lungs, body, reach=0.6)
    radius = random.uniform(0.10, 0.16)
    slices, masks = [], []
    for place in range(SLICES):
        size = 1 - 0.08 * abs(place - SLICES // 2)  # lungs are widest in the middle
        hu = np.where((x / body) ** 2 + (y / (0.82 * body)) ** 2 < 1, 40.0, -1000.0)
        for cx, cy in lungs:
            hu[((x - cx) / (0.34 * body * size)) ** 2 + ((y - cy) / (0.56 * body * size)) ** 2 < 1] = -820
        for cx, cy in vessels:
            hu += 500 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 0.03**2)
        inside = (x - nodule[0]) ** 2 + (y - nodule[1]) ** 2 < radius**2
        masks.append(inside if finding and 0 < place < SLICES - 1 else np.zeros_like(inside))
        hu = np.where(masks[-1], 60.0, hu)
        slices.append(hu + random.normal(0, site.noise, hu.shape))
    return Study(patient, finding, slices, masks)


def _inside(
    random: np.random.Generator, lungs: list[tuple[float, float]], body: float, reach: float = 0.8
) -> tuple[float, float]:
    """A point in one of the lungs."""
    cx, cy = lungs[random.integers(len(lungs))]
    angle, radius = random.uniform(0, 2 * np.pi), reach * np.sqrt(random.uniform())
    return cx + 0.30 * body * radius * np.cos(angle), cy + 0.50 * body * radius * np.sin(angle)


def windowed(hu: HU) -> npt.NDArray[np.uint8]:
    """Brightness of a screen that shows WINDOW."""
    centre, width = WINDOW
    brightness: npt.NDArray[np.uint8] = np.rint(np.clip((hu - centre) / width + 0.5, 0, 1) * 255).astype(
        np.uint8
    )
    return brightness


def make_phantoms(out: Path, seed: int = 7, scale: float = 1.0) -> dict[str, int]:
    """Write every site's studies.

    Args:
        out: Folder; each site gets one of its name in it.
        seed: Of everything.
        scale: Times as many studies as `SITES` says.

    Returns:
        How many studies each site has.
    """
    made = {}
    for number, site in enumerate(SITES):
        random = np.random.default_rng([seed, number])
        studies = max(4, round(site.studies * scale))
        found = round(site.findings * studies)
        drawn = (phantom(random, site, f"{site.name}-{i:04d}", finding=i < found) for i in range(studies))
        write = {"png": write_pictures, "dicom": write_series, "nifti": write_volumes}[site.kind]
        write(out / site.name, out / "masks" / site.name, drawn)
        made[site.name] = studies
    return made


def write_pictures(folder: Path, masks: Path, studies: Iterator[Study]) -> None:
    """The middle slice of each study, in a folder for each class."""
    for study in studies:
        name = f"{study.label}/{study.patient}.png"
        _save(folder / name, windowed(study.slices[SLICES // 2]))
        _save(masks / name, study.masks[SLICES // 2].astype(np.uint8) * 255)


def write_series(folder: Path, masks: Path, studies: Iterator[Study]) -> None:
    """A CT series for each study, a file for each slice, and `labels.csv`."""
    from pydicom.uid import generate_uid

    labelled = []
    for study in studies:
        series = str(generate_uid(entropy_srcs=[study.patient, "series"]))
        for place, hu in enumerate(study.slices):
            uid = str(generate_uid(entropy_srcs=[study.patient, str(place)]))
            file = ct_slice(hu, patient=study.patient, series=series, uid=uid, place=place)
            home = folder / study.patient
            home.mkdir(parents=True, exist_ok=True)
            file.save_as(home / f"slice-{place}.dcm", enforce_file_format=True)
            _save(masks / series / f"{uid}.png", study.masks[place].astype(np.uint8) * 255)
        labelled.append({"series": series, "label": study.label})
    _write_labels(folder, labelled)


def write_volumes(folder: Path, masks: Path, studies: Iterator[Study]) -> None:
    """A NIfTI volume for each study, and `labels.csv`."""
    import nibabel

    spacing = 320 / PIXELS
    # A picture's columns run to the patient's left and its rows to the back: against the axes of NIfTI.
    affine = np.diag([-spacing, -spacing, 5.0, 1.0])
    labelled = []
    for study in studies:
        name = f"{study.patient}.nii.gz"
        hu = np.rint(np.stack(study.slices)).astype(np.int16)
        for home, values in ((folder, hu), (masks, np.stack(study.masks).astype(np.uint8))):
            home.mkdir(parents=True, exist_ok=True)
            image = nibabel.Nifti1Image(np.ascontiguousarray(values.transpose(2, 1, 0)), affine)
            # As nibabel packs it, but without the time of day.
            (home / name).write_bytes(gzip.compress(image.to_bytes(), mtime=0))
        labelled.append({"file": name, "label": study.label})
    _write_labels(folder, labelled)


def _save(file: Path, pixels: npt.NDArray[np.uint8]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def _write_labels(folder: Path, labelled: list[dict[str, str]]) -> None:
    with (folder / "labels.csv").open("w", newline="") as table:
        writer = csv.DictWriter(table, list(labelled[0]))
        writer.writeheader()
        writer.writerows(labelled)


def ct_slice(hu: HU, *, patient: str, series: str, uid: str, place: int) -> Any:
    """A CT image as pydicom holds it: 16 bits, slope 1, intercept -1024, 5 mm between slices."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = Dataset()
    image.file_meta = meta
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, uid
    image.StudyInstanceUID = str(generate_uid(entropy_srcs=[patient, "study"]))
    image.SeriesInstanceUID = series
    image.PatientID, image.PatientName = patient, "Phantom^" + patient
    image.Modality = "CT"
    image.InstanceNumber = place + 1
    image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    image.ImagePositionPatient = [0, 0, 5 * place]
    image.PixelSpacing = [320 / len(hu)] * 2
    image.SliceThickness = 5
    image.Rows, image.Columns = hu.shape
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit = 15
    image.PixelRepresentation = 0
    image.RescaleSlope, image.RescaleIntercept = 1, -1024
    image.PixelData = np.clip(np.rint(hu) + 1024, 0, 65535).astype("<u2").tobytes()
    return image


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Make small chest phantoms for the hospital_imaging example."
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "data")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--scale", type=float, default=1.0, help="times as many studies")
    asked = parser.parse_args()
    for name, studies in make_phantoms(asked.out, asked.seed, asked.scale).items():
        print(f"{asked.out / name}: {studies} studies")
