"""A folder of images, one sub-folder per class."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fedcore.errors import DataError
from fedcore.jobs.datasets import ImageFolderData
from fedcore.participant.data.arrays import tensor_column, tensor_type
from fedcore.participant.data.checks import chosen, existing, within

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")

_COLUMNS = ("image", "label", "file")

UInt8 = npt.NDArray[np.uint8]


def folder_schema(data: ImageFolderData) -> pa.Schema:
    """`image`, `label` and `file`; opens no image."""
    existing(data.path, folder=True)
    chosen(data, None, _COLUMNS)
    return pa.schema(
        [
            pa.field("image", tensor_type(np.uint8, _shape(data))),
            pa.field("label", pa.string()),
            pa.field("file", pa.string()),
        ]
    )


def folder_table(data: ImageFolderData, columns: Sequence[str] | None, memory: int | None) -> pa.Table:
    """The images below a folder, ordered by class and path.

    Images are turned as their EXIF data says, made grey or RGB, and resized (bilinear) without keeping their
    proportions. 16-bit grey images are scaled to 8 bits. Of a file with several pages, the first is taken.

    Raises:
        DataError: No folder, no class, a class without images, images that cannot be decoded, too large.
    """
    wanted = chosen(data, columns, _COLUMNS)
    files = _files(data.path)
    found: dict[str, pa.Array] = {
        "label": pa.array([label for label, _ in files], type=pa.string()),
        "file": pa.array([file.relative_to(data.path).as_posix() for _, file in files], type=pa.string()),
    }
    if "image" in wanted:
        within(len(files) * math.prod(_shape(data)), memory)
        found["image"] = tensor_column(_decoded([file for _, file in files], data))
    return pa.table({name: found[name] for name in wanted})


def _shape(data: ImageFolderData) -> tuple[int, ...]:
    return data.size if data.channels == 1 else (*data.size, 3)


def _files(folder: Path) -> list[tuple[str, Path]]:
    classes = sorted(each for each in existing(folder, folder=True).iterdir() if each.is_dir())
    classes = [each for each in classes if not each.name.startswith(".")]
    if not classes:
        raise DataError(f"{folder} has no sub-folder; an image folder has one for each class, named by it")
    files: list[tuple[str, Path]] = []
    for each in classes:
        mine = sorted(file for file in each.rglob("*") if file.suffix.lower() in SUFFIXES)
        if not mine:
            raise DataError(
                f"class folder {each} has no image; allowed: {', '.join(SUFFIXES)}; fill it or remove it"
            )
        files += [(each.name, file) for file in mine]
    return files


def _decoded(files: list[Path], data: ImageFolderData) -> UInt8:
    pixels: UInt8 = np.empty((len(files), *_shape(data)), dtype=np.uint8)

    def decode(index: int) -> str | None:
        try:
            pixels[index] = _image(files[index], data)
        except (OSError, ValueError, SyntaxError, ArithmeticError) as error:  # what Pillow's decoders raise
            return f"{files[index]}: {type(error).__name__}: {error}"
        return None

    # Pillow decodes and resizes without Python's lock.
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        failed = [line for line in pool.map(decode, range(len(files))) if line is not None]
    if failed:
        # A file's name may name a patient, so the names stay at the site.
        raise DataError(
            f"{len(failed)} of {len(files)} image files below {data.path} cannot be decoded; replace or "
            "remove them (the site's log names them)",
            detail="\n".join(failed),
        )
    return pixels


def _image(path: Path, data: ImageFolderData) -> npt.NDArray[Any]:
    from PIL import Image, ImageOps

    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I"):
            # Pillow would clip 16 bits to 255 instead of scaling them.
            grey = np.asarray(image, dtype=np.float32)
            if grey.min() < 0 or grey.max() > 65535:
                raise ValueError("grey values outside 0 to 65535")
            image = Image.fromarray((grey / 257).round().astype(np.uint8))
        elif image.mode == "F":
            raise ValueError("floating point pixels have no known range; save 8 or 16 bits")
        mode = "L" if data.channels == 1 else "RGB"
        height, width = data.size
        return np.asarray(image.convert(mode).resize((width, height), Image.Resampling.BILINEAR))
