"""A folder of images, one sub-folder per class, or with a mask for each."""

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
from fedcore.participant.data.masks import mask_beside, numbered, picture_mask

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")

UInt8 = npt.NDArray[np.uint8]


def folder_schema(data: ImageFolderData) -> pa.Schema:
    """`image`, `label`, `mask` and `file`, as far as the folder has them; opens no image."""
    names = _columns(data)
    chosen(data, None, names)
    kinds = {
        "image": tensor_type(np.uint8, _shape(data)),
        "mask": tensor_type(np.uint8, data.size),
    }
    return pa.schema([pa.field(name, kinds.get(name, pa.string())) for name in names])


def folder_table(data: ImageFolderData, columns: Sequence[str] | None, memory: int | None) -> pa.Table:
    """The images below a folder, ordered by class and path.

    Images are turned as their EXIF data says, made grey or RGB, and resized (bilinear) without keeping their
    proportions. 16-bit grey images are scaled to 8 bits. Of a file with several pages, the first is taken. Masks keep
    their values and are resized by the nearest pixel.

    Raises:
        DataError: No folder, no class, a class without images, images that cannot be decoded, an image without its
            mask, a mask that does not fit, too large.
    """
    wanted = chosen(data, columns, _columns(data))
    files = _files(data)
    found: dict[str, pa.Array] = {
        "label": pa.array([label for label, _ in files], type=pa.string()),
        "file": pa.array([file.relative_to(data.path).as_posix() for _, file in files], type=pa.string()),
    }
    shapes = {"image": _shape(data), "mask": data.size}
    tensors = {name: shapes[name] for name in shapes if name in wanted}
    within(len(files) * sum(map(math.prod, tensors.values())), memory)
    if tensors:
        pixels = {name: np.empty((len(files), *shape), dtype=np.uint8) for name, shape in tensors.items()}
        _decode([file for _, file in files], data, pixels)
        found |= {name: tensor_column(values) for name, values in pixels.items()}
    return pa.table({name: found[name] for name in wanted})


def _shape(data: ImageFolderData) -> tuple[int, ...]:
    return data.size if data.channels == 1 else (*data.size, 3)


def _columns(data: ImageFolderData) -> tuple[str, ...]:
    classes = _classes(data.path)
    if data.masks is None:
        return ("image", "label", "file")
    existing(data.masks, folder=True)
    return ("image", "label", "mask", "file") if classes else ("image", "mask", "file")


def _classes(folder: Path) -> list[Path]:
    found = sorted(each for each in existing(folder, folder=True).iterdir() if each.is_dir())
    return [each for each in found if not each.name.startswith(".")]


def _images(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)


def _files(data: ImageFolderData) -> list[tuple[str, Path]]:
    folder = data.path
    classes = _classes(folder)
    if not classes and data.masks is not None:
        if alone := _images(folder):
            return [("", file) for file in alone]
        raise DataError(f"{folder} has no image; allowed: {', '.join(SUFFIXES)}")
    if not classes:
        raise DataError(f"{folder} has no sub-folder; an image folder has one for each class, named by it")
    files: list[tuple[str, Path]] = []
    for each in classes:
        mine = _images(each)
        if not mine:
            raise DataError(
                f"class folder {each} has no image; allowed: {', '.join(SUFFIXES)}; fill it or remove it"
            )
        files += [(each.name, file) for file in mine]
    return files


def _decode(files: list[Path], data: ImageFolderData, pixels: dict[str, UInt8]) -> None:
    """Fill `image`, `mask` or both, row by row."""

    def decode(index: int) -> str | None:
        file = files[index]
        try:
            _row(file, data, {name: values[index] for name, values in pixels.items()})
        except (OSError, ValueError, SyntaxError, ArithmeticError) as error:  # what Pillow's decoders raise
            return f"{file}: {type(error).__name__}: {error}"
        return None

    # Pillow decodes and resizes without Python's lock.
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        failed = [line for line in pool.map(decode, range(len(files))) if line is not None]
    if failed:
        # A file's name may name a patient, so the names stay at the site.
        masks = " or have no mask that fits" if "mask" in pixels else ""
        raise DataError(
            f"{len(failed)} of {len(files)} image files below {data.path} cannot be decoded{masks}; replace or "
            "remove them (the site's log names them)",
            detail="\n".join(failed),
        )


def _row(file: Path, data: ImageFolderData, into: dict[str, UInt8]) -> None:
    from PIL import Image, ImageOps

    if "image" in into:
        into["image"][:] = _image(file, data)
    if "mask" in into and data.masks is not None:
        with Image.open(file) as opened:
            original = ImageOps.exif_transpose(opened).size  # as its painter saw it
        mask = picture_mask(mask_beside(data.masks, file.relative_to(data.path)), original, data.size)
        into["mask"][:] = numbered(mask, data.mask_values)


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
