"""NIfTI volumes, each giving some of its slices as images, with labels or masks.

Source: NIfTI-1 data format, section on orientation (a voxel's place in the patient, by the affine): axes that go to the
right, to the front and to the head.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fedcore.errors import DataError
from fedcore.jobs.datasets import NiftiData
from fedcore.participant.data.arrays import tensor_column, tensor_type
from fedcore.participant.data.checks import chosen, existing, unreadable, within
from fedcore.participant.data.dicom import windowed
from fedcore.participant.data.masks import numbered, resized

SUFFIXES = (".nii", ".nii.gz")
_AXES = {"sagittal": 0, "coronal": 1, "axial": 2}

UInt8 = npt.NDArray[np.uint8]
Values = npt.NDArray[Any]


def nifti_schema(data: NiftiData) -> pa.Schema:
    """`image`, `label` and `mask` as far as the catalogue gives them, and `file`; opens no volume."""
    _nibabel()
    existing(data.path, folder=True)
    names = _columns(data)
    chosen(data, None, names)
    pixels = tensor_type(np.uint8, data.size)
    return pa.schema([pa.field(name, pixels if name in ("image", "mask") else pa.string()) for name in names])


def nifti_table(data: NiftiData, columns: Sequence[str] | None, memory: int | None) -> pa.Table:
    """Slices of the volumes, in the order of the labels file, else of their paths.

    Values are scaled as the file's header says, put through the window, which maps to 0 and 255, and resized
    (bilinear). Masks keep their values and are resized by the nearest pixel.

    Raises:
        DataError: The extra `nifti` is not installed; no folder or labels file; a labelled volume that is not there; a
            volume or mask that cannot be read, or that does not fit the other; too few slices; too large.
    """
    _nibabel()
    wanted = chosen(data, columns, _columns(data))
    files = _files(data)
    rows = len(files) * data.slices
    found: dict[str, pa.Array] = {
        "label": pa.array([label for _, label in files for _ in range(data.slices)], type=pa.string()),
        "file": pa.array([name for name, _ in files for _ in range(data.slices)], type=pa.string()),
    }
    tensors = [name for name in ("image", "mask") if name in wanted]
    within(len(tensors) * rows * math.prod(data.size), memory)
    if tensors:
        pixels = {name: np.empty((rows, *data.size), dtype=np.uint8) for name in tensors}
        failed = []
        for i, (name, _) in enumerate(files):
            at = slice(i * data.slices, (i + 1) * data.slices)
            try:
                _volume(name, data, {each: values[at] for each, values in pixels.items()})
            except (
                OSError,
                ValueError,
                EOFError,
                ArithmeticError,
                _nibabel().filebasedimages.ImageFileError,
            ) as error:
                failed.append(f"{name}: {type(error).__name__}: {error}")
        if failed:
            # A file's name may name a patient, so the names stay at the site.
            masks = ", or have no mask that fits" if "mask" in tensors else ""
            raise DataError(
                f"{len(failed)} of {len(files)} NIfTI volumes below {data.path} cannot be read, have no "
                f"{data.slices} slices{masks}; replace or remove them (the site's log names them)",
                detail="\n".join(failed),
            )
        found |= {name: tensor_column(values) for name, values in pixels.items()}
    return pa.table({name: found[name] for name in wanted})


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise DataError(
            'connector nifti needs the package nibabel; install it with: pip install "fedcore[nifti]"'
        ) from error
    return nibabel


def _columns(data: NiftiData) -> tuple[str, ...]:
    given = ["image"]
    if data.labels is not None:
        existing(data.labels, folder=False)
        given.append("label")
    if data.masks is not None:
        existing(data.masks, folder=True)
        given.append("mask")
    return (*given, "file")


def _files(data: NiftiData) -> list[tuple[str, str]]:
    """Paths below the folder, and labels."""
    folder = existing(data.path, folder=True)
    there = sorted(
        file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.name.endswith(SUFFIXES)
    )
    if data.labels is None:
        return [(name, "") for name in there]
    labels = _labels(data.labels)
    missing = sorted(set(labels) - set(there))
    if missing:
        raise DataError(
            f"{len(missing)} of {len(labels)} labelled volumes are not below {data.path}; correct path, or remove them "
            "from labels (the site's log names them)",
            detail=", ".join(missing),
        )
    return list(labels.items())


def _labels(path: Path) -> dict[str, str]:
    """File to label, in the order of the labels file."""
    found: dict[str, str] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = {"file", "label"} - set(reader.fieldnames or ())
            if missing:
                raise DataError(
                    f"{path} has no column {sorted(missing)[0]!r}; it needs the columns file, label"
                )
            for row in reader:
                name, label = (row["file"] or "").strip(), (row["label"] or "").strip()
                if not name or not label:
                    raise DataError(f"{path}, line {reader.line_num}: file or label is empty; fill both")
                if found.setdefault(name, label) != label:
                    raise DataError(f"{path}, line {reader.line_num}: a file stands twice with two labels")
    except (OSError, UnicodeError, csv.Error) as error:
        raise unreadable(path, error, "a CSV file in utf-8") from error
    if not found:
        raise DataError(f"{path} has 0 labelled volumes; at least 1 is needed")
    return found


def _volume(name: str, data: NiftiData, into: dict[str, UInt8]) -> None:
    """Fill the slices of one volume."""
    volume = _Oriented(data.path / name, data.axis)
    places = [int((i + 0.5) * volume.slices / data.slices) for i in range(data.slices)]
    if volume.slices < data.slices:
        raise ValueError(f"{volume.slices} slices")
    if "image" in into:
        for row, place in enumerate(places):
            into["image"][row] = _grey(volume.plane(place), data)
    if "mask" in into and data.masks is not None:
        mask = _Oriented(data.masks / name, data.axis)
        if mask.shape != volume.shape:
            raise ValueError(f"a mask of shape {mask.shape} for a volume of shape {volume.shape}")
        for row, place in enumerate(places):
            into["mask"][row] = numbered(resized(mask.plane(place), data.size), data.mask_values)


class _Oriented:
    """A volume whose axes go to the right, to the front and to the head, whatever way it is stored.

    Args:
        path: Of the file; slices are read when they are asked for.
        axis: Along which it is cut.
    """

    def __init__(self, path: Path, axis: str) -> None:
        nibabel = _nibabel()
        image = nibabel.load(path)
        stored = [side for place, side in enumerate(image.shape) if place < 3 or side != 1]
        if len(stored) != 3:
            raise ValueError(f"{len(image.shape)} axes of lengths {image.shape}; a volume has three")
        turned = nibabel.io_orientation(image.affine)
        if np.isnan(turned).any():
            raise ValueError("its affine gives an axis no direction")
        self._values = image.dataobj
        self._extra = (0,) * (len(image.shape) - 3)
        # Stored axis of each direction, and whether it runs the other way.
        self._stored = [int(np.flatnonzero(turned[:, 0] == each)[0]) for each in range(3)]
        self._back = [bool(turned[each, 1] < 0) for each in self._stored]
        self.shape = tuple(int(image.shape[each]) for each in self._stored)
        self._axis = _AXES[axis]
        self.slices = self.shape[self._axis]

    def plane(self, place: int) -> Values:
        """`[height, width]`, as a radiologist looks at it: the head or the front at the top, the patient's right at the left."""
        index: list[Any] = [slice(None)] * 3
        at = self.slices - 1 - place if self._back[self._axis] else place
        index[self._stored[self._axis]] = at
        values = np.asarray(self._values[(*index, *self._extra)])
        across, up = (each for each in range(3) if each != self._axis)
        if self._stored[across] > self._stored[up]:
            values = values.T
        # Pictures run the other way than the axes, but for those that are stored so.
        steps = [1 if self._back[each] else -1 for each in (across, up)]
        turned: Values = values[:: steps[0], :: steps[1]].T
        return turned


def _grey(values: Values, data: NiftiData) -> UInt8:
    from PIL import Image

    plane = np.asarray(values, dtype=np.float32)
    if not np.isfinite(plane).all():
        raise ValueError("NaN or infinite values")
    height, width = data.size
    shown = np.ascontiguousarray(windowed(plane, data.window))
    small = Image.fromarray(shown).resize((width, height), Image.Resampling.BILINEAR)
    grey: UInt8 = np.rint(np.asarray(small) * 255).astype(np.uint8)
    return grey
